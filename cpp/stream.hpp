// The limit that the benchmark measures against: a loop that hardly computes, over arrays that it goes over again.
#pragma once
#include "kernels.hpp"

namespace stream {

// On the given number of threads, so often. Each thread stays with its own share and waits for nobody: no step of
// several threads can be faster.
template <class T>
void run(Traffic traffic, size_t n, T* p, const T* g, T* const* slots, int count, int threads, int repeats);

}  // namespace stream
