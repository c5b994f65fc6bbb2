// The loop that hardly computes: what the benchmark's limit is made of.
//
// Only kernels.cpp includes this; why nothing here has external linkage is said in rules.hpp.
#pragma once
#include <stddef.h>

#include "kernels.hpp"

namespace {

template <class T, class... Slot>
void add_to_all(size_t n, T* p, const T* g, Slot*... s) {
#pragma omp simd
  for (size_t i = 0; i < n; ++i) {
    p[i] += g[i];
    ((s[i] += g[i]), ...);
  }
}

template <class T>
void traffic(size_t n, void* p, const void* g, void* const* slots, int count) {
  T* const to = static_cast<T*>(p);
  const T* const from = static_cast<const T*>(g);
  const auto s = [slots](int i) { return static_cast<T*>(slots[i]); };
  static_assert(max_slots == 4);
  if (count == 0) add_to_all(n, to, from);
  if (count == 1) add_to_all(n, to, from, s(0));
  if (count == 2) add_to_all(n, to, from, s(0), s(1));
  if (count == 3) add_to_all(n, to, from, s(0), s(1), s(2));
  if (count == 4) add_to_all(n, to, from, s(0), s(1), s(2), s(3));
}

}  // namespace
