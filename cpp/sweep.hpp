// The loop: load, rule, store, over one contiguous block, for any rule and any number of state slots.
//
// Only kernels.cpp includes this; why nothing here has external linkage is said in rules.hpp.
#pragma once
#include <stddef.h>
#include <string.h>

#include "kernels.hpp"

namespace {

// What the gradient goes through before the rule. A factor of 1 and a limit of infinity change no bit.
template <class T>
struct Prepare {
  T scale, shrink, high, sign, l2;
  bool decays;  // also by an l2 that the type rounds to zero: zero times infinity is NaN
  explicit Prepare(const Around& around)
      : scale(static_cast<T>(around.scale)),
        shrink(static_cast<T>(around.shrink)),
        high(static_cast<T>(around.clip_value)),
        sign(static_cast<T>(around.sign)),
        l2(static_cast<T>(around.l2)),
        decays(around.l2 != 0) {}
  T operator()(T g, T p) const {
    g *= scale;
    g *= shrink;
    g = g < -high ? -high : g > high ? high : g;
    g *= sign;
    return decays ? g + l2 * p : g;
  }
};

// checks.cpp has proven that no two of the arrays overlap: __restrict and `omp simd` only pass that on.
template <class Rule, class T, class... Slot>
void step_loop(const Rule rule, size_t n, T* __restrict p, const T* __restrict g, Slot* __restrict... s) {
#pragma omp simd
  for (size_t i = 0; i < n; ++i) rule(p[i], g[i], s[i]...);
}

template <class Rule, class T, class... Slot>
void prepared_loop(const Rule rule, const Prepare<T> prepare, size_t n, T* __restrict p, const T* __restrict g,
                   Slot* __restrict... s) {
#pragma omp simd
  for (size_t i = 0; i < n; ++i) rule(p[i], prepare(g[i], p[i]), s[i]...);
}

template <class Rule, class T, class... Slot>
void averaged_loop(const Rule rule, const Prepare<T> prepare, T left, T added, size_t n, T* __restrict p,
                   const T* __restrict g, T* __restrict mean, Slot* __restrict... s) {
#pragma omp simd
  for (size_t i = 0; i < n; ++i) {
    rule(p[i], prepare(g[i], p[i]), s[i]...);
    mean[i] = left * mean[i] + added * p[i];
  }
}

template <class Rule, class T, class... Slot>
void measure_loop(const Rule rule, const Prepare<T> prepare, size_t n, const T* __restrict p, const T* __restrict g,
                  T* __restrict u, Slot* __restrict... s) {
#pragma omp simd
  for (size_t i = 0; i < n; ++i) u[i] = rule.measure(p[i], prepare(g[i], p[i]), s[i]...);
}

// Turns the array of slots into arguments of call(s...), one by one, until the rule has all of its own.
template <class Rule, class T, class Call, class... Slot>
void unpack(void* const* slots, Call call, Slot*... s) {
  constexpr int have = sizeof...(Slot);
  if constexpr (have < Rule::slots)
    unpack<Rule, T>(slots, call, s..., static_cast<T*>(slots[have]));
  else
    call(s...);
}

// The scalars of a step, rounded once from double to the parameter's type.
template <class Rule, class T>
Rule round_scalars(const double* scalars) {
  T rounded[sizeof(Rule) / sizeof(T)];
  for (size_t i = 0; i < sizeof(Rule) / sizeof(T); ++i) rounded[i] = static_cast<T>(scalars[i]);
  Rule rule;
  memcpy(&rule, rounded, sizeof rule);
  return rule;
}

template <class Rule, class T>
void sweep(const double* scalars, const Around* around, size_t n, void* p_, const void* g_, void* const* slots) {
  const Rule rule = round_scalars<Rule, T>(scalars);
  T* const p = static_cast<T*>(p_);
  const T* const g = static_cast<const T*>(g_);
  unpack<Rule, T>(slots, [=](auto*... s) {
    if (!around) return step_loop(rule, n, p, g, s...);
    if (around->average < 0) return prepared_loop(rule, Prepare<T>(*around), n, p, g, s...);
    const T left = static_cast<T>(around->average), added = static_cast<T>(1 - around->average);
    averaged_loop(rule, Prepare<T>(*around), left, added, n, p, g, static_cast<T*>(slots[Rule::slots]), s...);
  });
}

template <class Rule, class T>
void measure(const double* scalars, const Around* around, size_t n, const void* p, const void* g, void* const* slots,
             void* u) {
  const Rule rule = round_scalars<Rule, T>(scalars);
  unpack<Rule, T>(slots, [=](auto*... s) {
    measure_loop(rule, Prepare<T>(*around), n, static_cast<const T*>(p), static_cast<const T*>(g), static_cast<T*>(u),
                 s...);
  });
}

}  // namespace
