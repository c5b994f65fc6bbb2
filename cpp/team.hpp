// The threads of an update: how many, and the one OpenMP region they run in.
#pragma once
#include <cstddef>
#include <string>

namespace team {

// The most threads an update may use, and the fewest bytes of memory traffic worth one thread.
void set_threads(int threads);
int threads();
void set_grain(size_t bytes);
size_t grain();

// The OpenMP runtime's name, or "none" where the build has none: everything then runs serial.
std::string openmp();

// How many threads an update that moves `bytes` should ask for.
int size_for(size_t bytes);

// body(rank, size) on `size` threads at most: the caller's thread alone where size is 1.
using Body = void (*)(void* context, int rank, int size);
void run(int size, Body body, void* context);

}  // namespace team
