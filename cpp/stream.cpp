// The stream loop. It shares nothing with the kernels: no plan, no blocks, no choice of ISA.
#include "stream.hpp"

#include <atomic>
#ifdef _OPENMP
#include <omp.h>
#endif

namespace stream {
namespace {

// Where a thread's share begins: 64 elements apart, so that no cache line is written by two threads.
std::ptrdiff_t edge(size_t n, int thread, int threads) {
  constexpr size_t apart = 64;
  const size_t units = n / apart * static_cast<size_t>(thread) / static_cast<size_t>(threads);
  return static_cast<std::ptrdiff_t>(thread == threads ? n : units * apart);
}

// Each thread goes over its own share again and again, and waits for nobody: no step of several threads can be faster.
template <class T, class... Slot>
void loop(size_t n, T* p, const T* g, int threads, int repeats, Slot*... s) {
  static_cast<void>(threads);
#pragma omp parallel num_threads(threads)
  {
#ifdef _OPENMP
    const int thread = omp_get_thread_num(), all = omp_get_num_threads();
#else
    const int thread = 0, all = 1;
#endif
    const std::ptrdiff_t first = edge(n, thread, all), last = edge(n, thread + 1, all);
    for (int repeat = 0; repeat < repeats; ++repeat) {
#pragma omp simd
      for (std::ptrdiff_t i = first; i < last; ++i) {
        p[i] += g[i];
        ((s[i] += g[i]), ...);
      }
      std::atomic_signal_fence(std::memory_order_seq_cst);  // a compiler may not make one round of several
    }
  }
}

}  // namespace

template <class T>
void run(size_t n, T* p, const T* g, T* const* slots, int slot_count, int threads, int repeats) {
  if (slot_count == 0) loop(n, p, g, threads, repeats);
  if (slot_count == 1) loop(n, p, g, threads, repeats, slots[0]);
  if (slot_count == 2) loop(n, p, g, threads, repeats, slots[0], slots[1]);
  if (slot_count == 3) loop(n, p, g, threads, repeats, slots[0], slots[1], slots[2]);
  if (slot_count == 4) loop(n, p, g, threads, repeats, slots[0], slots[1], slots[2], slots[3]);
}

template void run(size_t, float*, const float*, float* const*, int, int, int);
template void run(size_t, double*, const double*, double* const*, int, int, int);

}  // namespace stream
