// What a compiled set of kernels offers to the rest: plain data, the same for every ISA.
#pragma once
#include <stddef.h>

// One step over n contiguous elements of parameter p with gradient g; nothing overlaps.
using Sweep = void (*)(const double* scalars, size_t n, void* p, const void* g, void* const* slots);

// The first half of a step that has two; u receives the direction whose norm is wanted.
using Measure = void (*)(const double* scalars, size_t n, const void* p, const void* g, void* const* slots, void* u);

constexpr size_t max_slots = 4, max_scalars = 9;

struct Kernel {
  const char* rule;  // nullptr ends the table
  int scalars;       // how many the rule takes, max_scalars at most
  int slots;         // how many state arrays the rule keeps, max_slots at most
  Sweep f32, f64;
  Measure measure_f32, measure_f64;  // nullptr where a step has no halves
  // The last scalar of a rule with halves, from the others and the norms of p and u; nullptr where Python gives it.
  double (*ratio)(const double* scalars, double p_norm, double u_norm);
};

// What else is done with a block of n contiguous elements, for each rule alike.
template <class T>
struct Passes {
  void (*multiply)(size_t n, T* x, double a);                                      // x = a x
  void (*clip)(size_t n, T* x, double limit);                                      // x = min(max(x, -limit), limit)
  void (*add_multiple)(size_t n, T* x, const T* p, double a);                      // x = x + a p
  void (*average)(size_t n, T* mean, const T* p, double decay, double remainder);  // mean = decay mean + remainder p
  double (*squares)(size_t n, const T* x);                                         // sum of x x
  bool (*finite)(size_t n, const T* x);                                            // no NaN, no infinity
};

struct Kernels {
  const Kernel* rules;
  Passes<float> f32;
  Passes<double> f64;

  template <class T>
  const Passes<T>& passes() const {
    if constexpr (sizeof(T) == sizeof(float))
      return f32;
    else
      return f64;
  }
};

// Each is kernels.cpp, compiled for that ISA. Which of them exist is decided in CMakeLists.txt.
extern "C" {
const Kernels* schuss_kernels_baseline();
const Kernels* schuss_kernels_avx2();
const Kernels* schuss_kernels_avx512();
}
