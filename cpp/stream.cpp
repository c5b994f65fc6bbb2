// The stream loop. It shares nothing with the kernels: no plan, no blocks, no choice of ISA.
#include "stream.hpp"

namespace stream {
namespace {

template <class T, class... Slot>
void loop(std::ptrdiff_t n, T* p, const T* g, int threads, Slot*... s) {
  static_cast<void>(threads);
#pragma omp parallel for simd num_threads(threads) schedule(static)
  for (std::ptrdiff_t i = 0; i < n; ++i) {
    p[i] += g[i];
    ((s[i] += g[i]), ...);
  }
}

}  // namespace

template <class T>
void run(size_t n, T* p, const T* g, T* const* slots, int slot_count, int threads) {
  const auto size = static_cast<std::ptrdiff_t>(n);
  if (slot_count == 0) loop(size, p, g, threads);
  if (slot_count == 1) loop(size, p, g, threads, slots[0]);
  if (slot_count == 2) loop(size, p, g, threads, slots[0], slots[1]);
  if (slot_count == 3) loop(size, p, g, threads, slots[0], slots[1], slots[2]);
  if (slot_count == 4) loop(size, p, g, threads, slots[0], slots[1], slots[2], slots[3]);
}

template void run(size_t, float*, const float*, float* const*, int, int);
template void run(size_t, double*, const double*, double* const*, int, int);

}  // namespace stream
