// What is done with a block beside the rule: the gradient on its way in, norms, the running average.
//
// Scalars are rounded once to the type of the elements; every operation rounds once. Only kernels.cpp includes this;
// why nothing here has external linkage is said in rules.hpp.
#pragma once
#include <stddef.h>

#include "kernels.hpp"

namespace {

template <class T>
void multiply(size_t n, T* x, double a) {
  const T factor = static_cast<T>(a);
#pragma omp simd
  for (size_t i = 0; i < n; ++i) x[i] *= factor;
}

template <class T>
void clip(size_t n, T* x, double limit) {
  const T high = static_cast<T>(limit), low = -high;
#pragma omp simd
  for (size_t i = 0; i < n; ++i) x[i] = x[i] < low ? low : x[i] > high ? high : x[i];
}

template <class T>
void add_multiple(size_t n, T* __restrict x, const T* __restrict p, double a) {
  const T factor = static_cast<T>(a);
#pragma omp simd
  for (size_t i = 0; i < n; ++i) x[i] += factor * p[i];
}

template <class T>
void average(size_t n, T* __restrict mean, const T* __restrict p, double decay, double remainder) {
  const T left = static_cast<T>(decay), added = static_cast<T>(remainder);
#pragma omp simd
  for (size_t i = 0; i < n; ++i) mean[i] = left * mean[i] + added * p[i];
}

// A tree that is the same for every ISA: element i goes to lane i mod 16, lanes are added in halves; all in double.
template <class T>
double squares(size_t n, const T* x) {
  constexpr size_t lanes = 16;
  double sums[lanes] = {};
  size_t i = 0;
  for (; i + lanes <= n; i += lanes)
#pragma omp simd
    for (size_t lane = 0; lane < lanes; ++lane)
      sums[lane] += static_cast<double>(x[i + lane]) * static_cast<double>(x[i + lane]);
  for (size_t lane = 0; i + lane < n; ++lane)
    sums[lane] += static_cast<double>(x[i + lane]) * static_cast<double>(x[i + lane]);
  for (size_t half = lanes / 2; half > 0; half /= 2)
    for (size_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  return sums[0];
}

// x - x is zero, or NaN where x is not finite.
template <class T>
bool finite(size_t n, const T* x) {
  T differences = 0;
#pragma omp simd reduction(+ : differences)
  for (size_t i = 0; i < n; ++i) differences += x[i] - x[i];
  return differences == 0;
}

template <class T>
constexpr Passes<T> passes = {multiply<T>, clip<T>, add_multiple<T>, average<T>, squares<T>, finite<T>};

}  // namespace
