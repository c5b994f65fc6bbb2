// What is asked of a block of gradients before a step: its norm, and whether it is finite.
//
// Only kernels.cpp includes this; why nothing here has external linkage is said in rules.hpp.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "kernels.hpp"

namespace {

// Sums by a tree that is the same for every ISA: element i goes to lane i mod 16, lanes are added in halves;
// all in double.

inline double in_halves(double (&sums)[lanes], size_t used = lanes) {  // the others count as zero
  for (size_t half = lanes / 2; half > 0; half /= 2)
    for (size_t lane = 0; lane < half && lane + half < used; ++lane) sums[lane] += sums[lane + half];
  return sums[0];
}

// A loop begins where a line does: before it, `head` elements have gone to the last lanes, and what is lane 0 to the
// loop is lane `head` to the tree.
struct Squares {
  double sums[lanes] = {};
  template <class T>
  void add(size_t lane, T x) {
    sums[lane] += static_cast<double>(x) * static_cast<double>(x);
  }
  template <class T>
  void add_all(const T (&x)[lanes]) {  // zeros add nothing
    for (size_t lane = 0; lane < lanes; ++lane) add(lane, x[lane]);
  }
  double total(size_t head) const {
    double in_order[lanes];
    for (size_t lane = 0; lane < lanes; ++lane) in_order[(lane + head) % lanes] = sums[lane];
    return in_halves(in_order);
  }
};

// How many of n elements lie before the first that begins a line.
template <class T>
size_t before_line(const T* x, size_t n) {
  constexpr size_t line = 64;
  const size_t head = (line - reinterpret_cast<uintptr_t>(x) % line) % line / sizeof(T);
  return head < n ? head : n;
}

// Whether memory is to be fetched before a loop comes to it: said once, when the kernels are chosen.
bool looks_ahead = false;

// Has that done, some bytes further on, for 16 elements that are about to be read.
constexpr size_t page = 4096;
template <class T>
void look_ahead(const T* x, size_t bytes = page) {
#ifdef __GNUC__
  constexpr size_t line = 64;
  const char* const there = reinterpret_cast<const char*>(reinterpret_cast<uintptr_t>(x) + bytes);
  for (size_t byte = 0; byte < lanes * sizeof(T); byte += line) __builtin_prefetch(there + byte);
#endif
}

template <class T>
double squares(size_t n, const T* x, double scale) {
  const T factor = static_cast<T>(scale);
  const size_t head = before_line(x, n);
  Squares found;
  T first[lanes] = {}, last[lanes] = {};
  for (size_t i = 0; i < head; ++i) first[lanes - head + i] = factor * x[i];
  found.add_all(first);
  size_t i = head;
  const bool ahead = looks_ahead;
  for (; i + lanes <= n; i += lanes) {
    if (ahead) look_ahead(x + i);
#pragma omp simd
    for (size_t lane = 0; lane < lanes; ++lane) found.add(lane, factor * x[i + lane]);
  }
  for (size_t lane = 0; i < n; ++i, ++lane) last[lane] = factor * x[i];
  found.add_all(last);
  return found.total(head);
}

template <class T>
double sum(size_t n, const T* x) {
  double sums[lanes] = {};
  if (n < lanes) {
    for (size_t i = 0; i < n; ++i) sums[i] = static_cast<double>(x[i]);
    return in_halves(sums, n);
  }
  size_t i = 0;
  for (; i + lanes <= n; i += lanes)
#pragma omp simd
    for (size_t lane = 0; lane < lanes; ++lane) sums[lane] += static_cast<double>(x[i + lane]);
  for (size_t lane = 0; i < n; ++i, ++lane) sums[lane] += static_cast<double>(x[i]);
  return in_halves(sums);
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
constexpr Queries<T> queries = {squares<T>, sum<T>, finite<T>};

}  // namespace
