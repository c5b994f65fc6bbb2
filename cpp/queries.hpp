// What is asked of a block of gradients before a step: its norm, and whether it is finite.
//
// Only kernels.cpp includes this; why nothing here has external linkage is said in rules.hpp.
#pragma once
#include <stddef.h>

#include "kernels.hpp"

namespace {

// A tree that is the same for every ISA: element i goes to lane i mod 16, lanes are added in halves; all in double.
template <class T>
double squares(size_t n, const T* x, double scale) {
  constexpr size_t lanes = 16;
  const T factor = static_cast<T>(scale);
  const auto square = [factor](T element) {
    const double scaled = static_cast<double>(factor * element);
    return scaled * scaled;
  };
  double sums[lanes] = {};
  size_t i = 0;
  for (; i + lanes <= n; i += lanes)
#pragma omp simd
    for (size_t lane = 0; lane < lanes; ++lane) sums[lane] += square(x[i + lane]);
  for (size_t lane = 0; i + lane < n; ++lane) sums[lane] += square(x[i + lane]);
  for (size_t half = lanes / 2; half > 0; half /= 2)
    for (size_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  return sums[0];
}

// x - x is zero, or NaN where x is not finite.
template <class T>
bool finite(size_t n, const T* x, double scale) {
  const T factor = static_cast<T>(scale);
  T differences = 0;
#pragma omp simd reduction(+ : differences)
  for (size_t i = 0; i < n; ++i) differences += factor * x[i] - factor * x[i];
  return differences == 0;
}

template <class T>
constexpr Queries<T> queries = {squares<T>, finite<T>};

}  // namespace
