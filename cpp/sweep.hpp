// The loop: load, rule, store, over one contiguous block, for any rule and any number of state slots.
//
// Only kernels.cpp includes this; why nothing here has external linkage is said in rules.hpp.
#pragma once
#include <stddef.h>
#include <string.h>

#include <utility>

#include "estimates.hpp"
#include "gradual.hpp"
#include "kernels.hpp"
#include "queries.hpp"

namespace {

template <class T>
T within(T x, T limit) {
  // One after the other: that is an instruction each, which lets a NaN through.
  const T above = x < -limit ? -limit : x;
  return above > limit ? limit : above;
}

// What the gradient goes through before the rule. A factor of 1 and a limit of infinity change no bit.
template <class T, class N = T>
struct Prepare {
  N scale, shrink, high, sign, l2;
  bool decays;  // also by an l2 that the type rounds to zero: zero times infinity is NaN
  explicit Prepare(const Around& around)
      : scale(static_cast<T>(around.scale)),
        shrink(static_cast<T>(around.shrink)),
        high(static_cast<T>(around.clip_value)),
        sign(static_cast<T>(around.sign)),
        l2(static_cast<T>(around.l2)),
        decays(around.l2 != 0) {}
  N operator()(N g, N p) const {
    g = scale * g;
    g = shrink * g;
    g = within(g, high);
    g = sign * g;
    return decays ? g + l2 * p : g;
  }
};

// Whether a second half can be made by the direction alone; by itself it has no use of the gradient.
template <class Rule, class = void>
constexpr bool follows = false;
template <class Rule>
constexpr bool follows<Rule, decltype(void(&Rule::follow))> = true;

// checks.cpp has proven that no two of the arrays overlap: __restrict and `omp simd` only pass that on.
template <class Rule, class T, class... Slot>
void step_loop(const Rule rule, size_t n, T* __restrict p, const T* __restrict g, Slot* __restrict... s) {
#pragma omp simd
  for (size_t i = 0; i < n; ++i) rule(p[i], g[i], s[i]...);
}

template <class Rule, class T, class... Slot>
void stream_loop(const Rule rule, size_t n, T* __restrict p, const T* __restrict g, Slot* __restrict... s) {
  size_t done = 0;
  for (; done + lanes <= n; done += lanes) {
    look_ahead(p + done), (look_ahead(s + done), ...);
    if (!follows<Rule>) look_ahead(g + done);
#pragma omp simd
    for (size_t i = done; i < done + lanes; ++i) rule(p[i], g[i], s[i]...);
  }
#pragma omp simd
  for (size_t i = done; i < n; ++i) rule(p[i], g[i], s[i]...);
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

template <class Rule, class T, class... Slot>
Sums sums_loop(const Rule rule, const Prepare<T> prepare, size_t n, const T* __restrict p, const T* __restrict g,
               Slot* __restrict... s) {
  const size_t head = before_line(p, n);
  Squares of_p, of_u;
  const auto some = [&](size_t from, size_t to, size_t lane) {
    T some_p[lanes] = {}, some_u[lanes] = {};
    for (size_t i = from; i < to; ++i, ++lane) {
      some_u[lane] = rule.measure(p[i], prepare(g[i], p[i]), s[i]...);
      some_p[lane] = p[i];
    }
    of_p.add_all(some_p), of_u.add_all(some_u);
  };
  some(0, head, lanes - head);
  size_t i = head;
  const bool ahead = looks_ahead;
  for (; i + lanes <= n; i += lanes) {
    if (ahead) look_ahead(p + i), look_ahead(g + i), (look_ahead(s + i), ...);
#pragma omp simd
    for (size_t lane = 0; lane < lanes; ++lane) {
      of_u.add(lane, rule.measure(p[i + lane], prepare(g[i + lane], p[i + lane]), s[i + lane]...));
      of_p.add(lane, p[i + lane]);
    }
  }
  some(i, n, 0);
  return {of_p.total(head), of_u.total(head)};
}

// Turns the array of slots into arguments of call(s...), one by one, until the rule has all of its own.
template <class Rule, class T, class Call, class... Slot>
auto unpack(void* const* slots, Call call, Slot*... s) {
  constexpr int have = sizeof...(Slot);
  if constexpr (have < Rule::slots)
    return unpack<Rule, T>(slots, call, s..., static_cast<T*>(slots[have]));
  else
    return call(s...);
}

// The scalars of a step, rounded once from double to the parameter's type. N is the rule's number.
template <class Rule, class T, class N = T>
Rule round_scalars(const double* scalars) {
  N rounded[sizeof(Rule) / sizeof(N)];
  for (size_t i = 0; i < sizeof(Rule) / sizeof(N); ++i) rounded[i] = N(static_cast<T>(scalars[i]));
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

// The same where the memory is waited for.
template <class Rule, class T>
void stream(const double* scalars, const Around* around, size_t n, void* p, const void* g, void* const* slots) {
  if (around || !looks_ahead) return sweep<Rule, T>(scalars, around, n, p, g, slots);
  const Rule rule = round_scalars<Rule, T>(scalars);
  unpack<Rule, T>(slots, [=](auto*... s) { stream_loop(rule, n, static_cast<T*>(p), static_cast<const T*>(g), s...); });
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

template <class Rule, class T>
Sums measured_sums(const double* scalars, const Around* around, size_t n, const void* p, const void* g,
                   void* const* slots) {
  const Rule rule = round_scalars<Rule, T>(scalars);
  return unpack<Rule, T>(slots, [=](auto*... s) {
    return sums_loop(rule, Prepare<T>(*around), n, static_cast<const T*>(p), static_cast<const T*>(g), s...);
  });
}

// A rule in two halves, by the direction that its first half has returned.
template <class Rule>
struct Follow : Rule {
  static constexpr int slots = 0;
  template <class T>
  void operator()(T& p, T u) const {
    Rule::follow(p, u);
  }
};

template <template <class> class Rule>
struct Following {
  template <class N>
  using By = Follow<Rule<N>>;
};

#ifdef SCHUSS_GRADUAL

// All that is called within is to be inlined, so that what concerns a step's scalars leaves the loop. Where a sanitizer
// stands beside each operation no compiler comes to an end with that.
#ifdef __SANITIZE_ADDRESS__
#define SCHUSS_FLATTEN
#else
#define SCHUSS_FLATTEN [[gnu::flatten]]
#endif

// The same by vectors of other numbers, to the same bits: some of each kind by turns.
template <template <class> class Rule, class T, class Slots, class... Numbers>
struct ByVectors;

template <template <class> class Rule, class T, size_t... slot, class... Numbers>
struct ByVectors<Rule, T, std::index_sequence<slot...>, Numbers...> {
  static constexpr size_t slots = sizeof...(slot);
  static constexpr unsigned all_but_gradient = ~2u, all_but_p_and_gradient = ~3u;

  // What is done to a vector of each operand.
  template <class N>
  struct Alone {
    Rule<N> rule;
    explicit Alone(const double* scalars) : rule(round_scalars<Rule<N>, T, N>(scalars)) {}
    void operator()(N* v) const { rule(v[0], v[1], v[2 + slot]...); }
  };
  template <class N>
  struct Prepared : Alone<N> {
    Prepare<T, N> prepare;
    Prepared(const double* scalars, const Around& around) : Alone<N>(scalars), prepare(around) {}
    void operator()(N* v) const { this->rule(v[0], prepare(v[1], v[0]), v[2 + slot]...); }
  };
  template <class N>
  struct Averaged : Prepared<N> {
    N left, added;
    Averaged(const double* scalars, const Around& around)
        : Prepared<N>(scalars, around),
          left(static_cast<T>(around.average)),
          added(static_cast<T>(1 - around.average)) {}
    void operator()(N* v) const {
      Prepared<N>::operator()(v);
      v[2 + slots] = left * v[2 + slots] + added * v[0];
    }
  };
  template <class N>
  struct Measured : Prepared<N> {
    using Prepared<N>::Prepared;
    void operator()(N* v) const { v[2 + slots] = this->rule.measure(v[0], this->prepare(v[1], v[0]), v[2 + slot]...); }
  };

  SCHUSS_FLATTEN static void sweep(const double* scalars, const Around* around, size_t n, void* p, const void* g,
                                   void* const* s) {
    T* const at[] = {static_cast<T*>(p), static_cast<T*>(const_cast<void*>(g)), static_cast<T*>(s[slot])...};
    constexpr std::make_index_sequence<2 + slots> operands;
    if (!around) return each_vector<all_but_gradient>(operands, n, at, Alone<Numbers>(scalars)...);
    if (around->average < 0)
      return each_vector<all_but_gradient>(operands, n, at, Prepared<Numbers>(scalars, *around)...);
    T* const with_mean[] = {at[0], at[1], at[2 + slot]..., static_cast<T*>(s[slots])};
    constexpr std::make_index_sequence<3 + slots> and_mean;
    each_vector<all_but_gradient>(and_mean, n, with_mean, Averaged<Numbers>(scalars, *around)...);
  }

  SCHUSS_FLATTEN static void measure(const double* scalars, const Around* around, size_t n, const void* p,
                                     const void* g, void* const* s, void* u) {
    T* const at[] = {static_cast<T*>(const_cast<void*>(p)), static_cast<T*>(const_cast<void*>(g)),
                     static_cast<T*>(s[slot])..., static_cast<T*>(u)};
    constexpr std::make_index_sequence<3 + slots> operands;
    each_vector<all_but_p_and_gradient>(operands, n, at, Measured<Numbers>(scalars, *around)...);
  }
};

template <template <class> class Rule, class T>
using Careful = ByVectors<Rule, T, std::make_index_sequence<static_cast<size_t>(Rule<T>::slots)>, Gradual<T>>;

#ifdef SCHUSS_ESTIMATES
// A rule of roots of doubles: every second vector's by products, where that is faster.
template <template <class> class Rule>
void sweep_by_turns(const double* scalars, const Around* around, size_t n, void* p, const void* g, void* const* s) {
  using Slots = std::make_index_sequence<static_cast<size_t>(Rule<double>::slots)>;
  if (!roots_by_products) return sweep<Rule<double>, double>(scalars, around, n, p, g, s);
  ByVectors<Rule, double, Slots, Eight<false>, Eight<true>>::sweep(scalars, around, n, p, g, s);
}
#endif

#endif

}  // namespace
