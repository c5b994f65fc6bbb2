// What a compiled set of kernels offers to the rest: plain data, the same for every ISA.
#pragma once
#include <stddef.h>

// One step over n contiguous elements of parameter p with gradient g; nothing overlaps.
using Sweep = void (*)(const double* scalars, size_t n, void* p, const void* g, void* const* slots);

constexpr size_t max_slots = 4, max_scalars = 8;

struct Kernel {
  const char* rule;  // nullptr ends the table
  int scalars;       // how many the rule takes, max_scalars at most
  int slots;         // how many state arrays the rule keeps, max_slots at most
  Sweep f32, f64;
};

// Each is kernels.cpp, compiled for that ISA. Which of them exist is decided in CMakeLists.txt.
extern "C" {
const Kernel* schuss_kernels_baseline();
const Kernel* schuss_kernels_avx2();
const Kernel* schuss_kernels_avx512();
}
