// Block by block: a tensor's operands brought in, worked on and put back, and the sums over blocks.
//
// Only what passes over blocks includes this: passes.cpp and matrices.cpp.
#pragma once
#include <algorithm>
#include <cstdint>
#include <limits>

#include "passes.hpp"

namespace schuss {

// The sum of n numbers, by pairs of neighbours, and so their sums: the same however many threads have computed them.
// What is left over at the end of a row goes up to the next one as it is.
template <class At>
double tree_sum_of(size_t n, At at) {
  double sums[std::numeric_limits<size_t>::digits];  // of 1, 2, 4, ... numbers, as the bits of i have them
  size_t depth = 0;
  for (size_t i = 0; i < n; ++i) {
    double sum = at(i);
    for (size_t full = i; full & 1; full >>= 1) sum = sums[--depth] + sum;
    sums[depth++] = sum;
  }
  if (depth == 0) return 0;
  double sum = sums[--depth];
  while (depth > 0) sum = sums[--depth] + sum;
  return sum;
}

inline double tree_sum(const double* x, size_t n) {
  return tree_sum_of(n, [x](size_t i) { return x[i]; });
}

// Operands, as bits.
constexpr unsigned parameter = 1, gradient = 2, all = ~0u, all_but_gradient = ~2u, state_alone = ~3u, nothing = 0;
constexpr unsigned but_slot = ~4u;  // what a tensor with factors does not have
constexpr uint32_t no_pair = ~0u;

// For each block: brings in the operands that are read, calls work(block), puts back those that are written.
template <class T, class Work>
void Passes::each_block(const Tensor& tensor, const Share& share, unsigned read, unsigned written, int64_t t,
                        Work work) const {
  for (size_t first = share.from; first < share.to; first += block_elements) {
    Block<T> block{tensor.first_block + first / block_elements, std::min(block_elements, share.to - first), {}};
    for (size_t o = 0; o < tensor.operands; ++o)
      if (read >> o & 1) block.at[o] = bring<T>(tensor, share, o, first, block.n);
    work(block);
    Whose whose{0, no_pair, static_cast<uint64_t>(t)};
    for (size_t o = 0; o < tensor.operands; ++o)
      if ((read & written) >> o & 1) put_back(tensor, share, o, first, block.n, block.at[o], whose);
  }
}

// A block of an operand as it is computed with: the array's own memory, or scratch.
template <class T>
T* Passes::bring(const Tensor& tensor, const Share& share, size_t o, size_t first, size_t n) const {
  Scratch* const scratch = share.scratch;
  if (o == 1 && tensor.filled) {
    const auto& [named, width, values] = by_rows_[share.i];
    const auto row = std::lower_bound(named->rows.begin(), named->rows.end(), first / width);
    fill_block(*named, width, values, first, first + n, static_cast<size_t>(row - named->rows.begin()),
               scratch->of<T>(o));
    return scratch->of<T>(o);
  }
  const Code code = tensor.code(o);
  const size_t itemsize = tensor.itemsize(o);
  char* at = tensor.base[o] + first * itemsize;
  if (tensor.staged[o]) {
    at = code == Code::none ? reinterpret_cast<char*>(scratch->of<T>(o)) : reinterpret_cast<char*>(scratch->raw[o]);
    stage_in(*tensor.axes, o, tensor.base[o], itemsize, first, n, at);
  }
  if (code == Code::none) return reinterpret_cast<T*>(at);
  kernels_.codecs[static_cast<size_t>(code)].decode(n, at, tensor.coded->at(o, first), scratch->of<float>(o));
  return scratch->of<T>(o);
}

// `whose` tells which random numbers the scratch holds.
template <class T>
void Passes::put_back(const Tensor& tensor, const Share& share, size_t o, size_t first, size_t n, T* from,
                      Whose& whose) const {
  Scratch* const scratch = share.scratch;
  const Code code = tensor.code(o);
  const size_t itemsize = tensor.itemsize(o);
  if (code != Code::none) {
    char* const at = tensor.staged[o] ? reinterpret_cast<char*>(scratch->raw[o]) : tensor.base[o] + first * itemsize;
    const Place& place = tensor.coded->place;
    const auto pair = static_cast<uint32_t>(o / 2);
    if (code < Code::float16_mastered && whose.pair != pair) {
      whose.number = place.number, whose.pair = pair;
      kernels_.hash(n, &whose, place.first + first, scratch->random);
    }
    kernels_.codecs[static_cast<size_t>(code)].encode(n, at, tensor.coded->at(o, first), scratch->of<float>(o),
                                                      scratch->random, o % 2 != 0);
    if (tensor.staged[o]) stage_out(*tensor.axes, o, tensor.base[o], itemsize, first, n, at);
  } else if (tensor.staged[o]) {
    stage_out(*tensor.axes, o, tensor.base[o], itemsize, first, n, from);
  }
}

}  // namespace schuss
