// The shares and the rounds of the stream loop. It has no plan, no blocks, and no end of a region between its rounds.
#include "stream.hpp"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace stream {
namespace {

// Where a thread's share begins: 64 elements apart, so that no cache line is written by two threads.
size_t edge(size_t n, int thread, int threads) {
  constexpr size_t apart = 64;
  return thread == threads ? n : n / apart * static_cast<size_t>(thread) / static_cast<size_t>(threads) * apart;
}

}  // namespace

template <class T>
void run(Traffic traffic, size_t n, T* p, const T* g, T* const* slots, int count, int threads, int repeats) {
  static_cast<void>(threads);
#pragma omp parallel num_threads(threads)
  {
#ifdef _OPENMP
    const int thread = omp_get_thread_num(), all = omp_get_num_threads();
#else
    const int thread = 0, all = 1;
#endif
    const size_t first = edge(n, thread, all), size = edge(n, thread + 1, all) - first;
    void* mine[max_slots];
    for (int i = 0; i < count; ++i) mine[i] = slots[i] + first;
    for (int repeat = 0; repeat < repeats; ++repeat) traffic(size, p + first, g + first, mine, count);
  }
}

template void run(Traffic, size_t, float*, const float*, float* const*, int, int, int);
template void run(Traffic, size_t, double*, const double*, double* const*, int, int, int);

}  // namespace stream
