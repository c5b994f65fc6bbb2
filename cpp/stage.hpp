// Stage in, stage out: a block of a strided array to contiguous scratch and back.
#pragma once
#include <cstddef>
#include <vector>

namespace schuss {

// Elements of scratch per operand: with four float32 operands a block is 16 KiB, half of a small L1 cache.
constexpr size_t block_elements = 1024;

// The walk over a tensor's elements: axes from the longest stride to the shortest, merged where all operands allow.
struct Axes {
  std::vector<size_t> shape;
  std::vector<std::vector<std::ptrdiff_t>> strides;  // of each operand, in bytes

  bool unit(size_t operand, size_t itemsize) const;  // this operand is contiguous along the walk
};

// Contiguous bytes. Not inlined: of a length that it knows to be short a compiler makes one instruction, which is slow.
void copy(void* to, const void* from, size_t bytes);

// n elements from linear position `first` on, to and from contiguous memory.
void stage_in(const Axes& axes, size_t operand, const char* base, size_t itemsize, size_t first, size_t n, void* to);
void stage_out(const Axes& axes, size_t operand, char* base, size_t itemsize, size_t first, size_t n, const void* from);

}  // namespace schuss
