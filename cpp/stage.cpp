// The copies between strided arrays and scratch blocks.
#include "stage.hpp"

#include <cstdint>
#include <cstring>

namespace schuss {
namespace {

// Calls copy(address, stride, count) for each run along the innermost axis of positions [first, first + n).
template <class Copy>
void walk(const Axes& axes, size_t operand, char* base, size_t first, size_t n, Copy copy) {
  const std::vector<std::ptrdiff_t>& strides = axes.strides[operand];
  const size_t inner = axes.shape.size() - 1;
  while (n > 0) {
    size_t rest = first;
    char* at = base;
    size_t in_row = 0;
    for (size_t axis = axes.shape.size(); axis-- > 0;) {
      const size_t index = rest % axes.shape[axis];
      rest /= axes.shape[axis];
      at += static_cast<std::ptrdiff_t>(index) * strides[axis];
      if (axis == inner) in_row = index;
    }
    const size_t left_in_row = axes.shape[inner] - in_row;
    const size_t count = n < left_in_row ? n : left_in_row;
    copy(at, strides[inner], count);
    first += count;
    n -= count;
  }
}

template <class Word>
void gather(const Axes& axes, size_t operand, const char* base, size_t first, size_t n, char* to) {
  walk(axes, operand, const_cast<char*>(base), first, n, [&to](const char* at, std::ptrdiff_t stride, size_t count) {
    for (size_t i = 0; i < count; ++i, at += stride, to += sizeof(Word)) std::memcpy(to, at, sizeof(Word));
  });
}

template <class Word>
void scatter(const Axes& axes, size_t operand, char* base, size_t first, size_t n, const char* from) {
  walk(axes, operand, base, first, n, [&from](char* at, std::ptrdiff_t stride, size_t count) {
    for (size_t i = 0; i < count; ++i, at += stride, from += sizeof(Word)) std::memcpy(at, from, sizeof(Word));
  });
}

}  // namespace

void copy(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }

bool Axes::unit(size_t operand, size_t itemsize) const {
  size_t expected = itemsize;
  for (size_t axis = shape.size(); axis-- > 0;) {
    if (strides[operand][axis] != static_cast<std::ptrdiff_t>(expected)) return false;
    expected *= shape[axis];
  }
  return true;
}

void stage_in(const Axes& axes, size_t operand, const char* base, size_t itemsize, size_t first, size_t n, void* to) {
  const auto by = itemsize == sizeof(uint32_t)   ? gather<uint32_t>
                  : itemsize == sizeof(uint64_t) ? gather<uint64_t>
                                                 : gather<uint16_t>;
  by(axes, operand, base, first, n, static_cast<char*>(to));
}

void stage_out(const Axes& axes, size_t operand, char* base, size_t itemsize, size_t first, size_t n,
               const void* from) {
  const auto by = itemsize == sizeof(uint32_t)   ? scatter<uint32_t>
                  : itemsize == sizeof(uint64_t) ? scatter<uint64_t>
                                                 : scatter<uint16_t>;
  by(axes, operand, base, first, n, static_cast<const char*>(from));
}

}  // namespace schuss
