// How numbers lie in memory: a line a format, and the one place where a format becomes a type.
#pragma once
#include <pybind11/numpy.h>

#include <cstddef>
#include <iterator>

namespace schuss {

enum class Format : char { float32, float64, float16, bfloat16, int16, int8, uint8 };

// The types that rules compute in.
enum class Arithmetic : char { f32, f64 };

// What an array of a format may be.
enum class Use : char { plain, coded, state };  // a parameter or a gradient, as it is computed or not; state alone

struct FormatLine {
  Format format;
  const char* name;  // NumPy's: of the dtype and of its scalars
  int numpy_type;    // known_later: of a type that NumPy does not have by itself
  size_t itemsize;
  Arithmetic arithmetic;
  Use use;
};

constexpr int known_later = -1;

constexpr FormatLine formats[] = {
    {Format::float32, "float32", pybind11::detail::npy_api::NPY_FLOAT_, 4, Arithmetic::f32, Use::plain},
    {Format::float64, "float64", pybind11::detail::npy_api::NPY_DOUBLE_, 8, Arithmetic::f64, Use::plain},
    {Format::float16, "float16", 23, 2, Arithmetic::f32, Use::coded},  // NPY_HALF
    {Format::bfloat16, "bfloat16", known_later, 2, Arithmetic::f32, Use::coded},
    {Format::int16, "int16", pybind11::detail::npy_api::NPY_SHORT_, 2, Arithmetic::f32, Use::state},
    {Format::int8, "int8", pybind11::detail::npy_api::NPY_BYTE_, 1, Arithmetic::f32, Use::state},
    {Format::uint8, "uint8", pybind11::detail::npy_api::NPY_UBYTE_, 1, Arithmetic::f32, Use::state},
};

static_assert(
    [] {
      for (size_t i = 0; i < std::size(formats); ++i)
        if (formats[i].format != static_cast<Format>(i)) return false;
      return true;
    }(),
    "the lines of the table stand in the order of the formats");

constexpr const FormatLine& about(Format format) { return formats[static_cast<size_t>(format)]; }

// Whether numbers of a format lie in memory as they are computed: elsewhere there is something to decode and encode.
constexpr bool lies_plainly(Format format) { return about(format).use == Use::plain; }

// call(T()) with the type that numbers of a format are computed in.
template <class Call>
constexpr auto with_type_of(Format format, Call call) {
  return about(format).arithmetic == Arithmetic::f64 ? call(double{}) : call(float{});
}

// That type's own format.
constexpr Format computed(Format format) {
  return about(format).arithmetic == Arithmetic::f64 ? Format::float64 : Format::float32;
}

}  // namespace schuss
