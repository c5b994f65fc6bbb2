// How numbers lie in memory: a line a format, and the one place where a format becomes a type.
#pragma once
#include <pybind11/numpy.h>

#include <cstddef>
#include <iterator>
#include <optional>

namespace schuss {

enum class Format : char { float32, float64 };

// The types that rules compute in.
enum class Arithmetic : char { f32, f64 };

struct FormatLine {
  Format format;
  const char* name;  // NumPy's: of the dtype and of its scalars
  int numpy_type;
  size_t itemsize;
  Arithmetic arithmetic;
};

constexpr FormatLine formats[] = {
    {Format::float32, "float32", pybind11::detail::npy_api::NPY_FLOAT_, sizeof(float), Arithmetic::f32},
    {Format::float64, "float64", pybind11::detail::npy_api::NPY_DOUBLE_, sizeof(double), Arithmetic::f64},
};

static_assert(
    [] {
      for (size_t i = 0; i < std::size(formats); ++i)
        if (formats[i].format != static_cast<Format>(i)) return false;
      return true;
    }(),
    "the lines of the table stand in the order of the formats");

constexpr const FormatLine& about(Format format) { return formats[static_cast<size_t>(format)]; }

// The format of a native array with this type number, if it is one of ours.
inline std::optional<Format> format_of(int numpy_type) {
  for (const FormatLine& line : formats)
    if (line.numpy_type == numpy_type) return line.format;
  return {};
}

// call(T()) with the type that numbers of a format are computed in.
template <class Call>
constexpr auto with_type_of(Format format, Call call) {
  return about(format).arithmetic == Arithmetic::f64 ? call(double{}) : call(float{});
}

// Whether all formats lie in memory as they are computed. What reads memory as such asserts it: where it is true no
// longer, there is something to decode and encode.
constexpr bool all_lie_as_computed() {
  for (const FormatLine& line : formats)
    if (line.itemsize != with_type_of(line.format, [](auto type) { return sizeof type; })) return false;
  return true;
}

}  // namespace schuss
