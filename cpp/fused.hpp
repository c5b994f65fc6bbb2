// The loops with formats in them: where decoding and encoding a block beside the rule costs more than the memory saves,
// that is done within it, while it waits for its roots and quotients.
//
// Only kernels.cpp includes this; why nothing here has external linkage is said in rules.hpp.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <utility>

#include "codes.hpp"
#include "kernels.hpp"
#include "sweep.hpp"

namespace {

// The random numbers of slots, two by two.
template <size_t slots>
struct Draw {
  static constexpr size_t pairs = (slots + 1) / 2;
  uint32_t key[pairs + 1], first;
  Draw(const Whose& whose, uint64_t place) : first(static_cast<uint32_t>(place)) {
    for (size_t pair = 0; pair < pairs; ++pair)
      key[pair] = key_of({whose.number, static_cast<uint32_t>(pair) + 1, whose.t}, place);
  }
  uint32_t operator()(size_t slot, size_t i) const { return drawn(first + static_cast<uint32_t>(i), key[slot / 2]); }
};

// Where nothing stands around a rule.
struct AsItComes {
  float operator()(float g, float) const { return g; }
};

// No `omp simd`: what stands within the body would become an array of the loop's. Nothing overlaps here either.
template <class Rule, class Prepared, size_t... slot, class P, class G, class... S>
void fused_loop(const Rule rule, const Prepared prepare, const Draw<sizeof...(slot)> draw, std::index_sequence<slot...>,
                size_t n, const P p, const G g, const S... s) {
#pragma GCC ivdep
  for (size_t i = 0; i < n; ++i) {
    float x = p.load(i);
    const float gradient = prepare(g.load(i), x);
    [&](auto... v) {
      rule(x, gradient, v...);
      (s.template store<slot % 2 != 0>(i, v, draw(slot, i)), ...);
    }(s.load(i)...);
    p.template store<false>(i, x, 0);
  }
}

template <class Rule, class P, class G, class State, size_t... slot>
void fused_step(std::index_sequence<slot...> slots, const double* scalars, const Around* around, size_t n,
                const Lying* at, const Whose* whose, uint64_t place) {
  const auto run = [&](const auto prepare) {
    fused_loop(round_scalars<Rule, float>(scalars), prepare, Draw<sizeof...(slot)>(*whose, place), slots, n,
               P(at[0].code, at[0].beside), G(at[1].code, at[1].beside),
               State(at[2 + slot].code, at[2 + slot].beside)...);
  };
  if (around)
    run(Prepare<float>(*around));
  else
    run(AsItComes());
}

template <class Rule, class P, class G, class State>
void fused(const double* scalars, const Around* around, size_t n, const Lying* at, const Whose* whose, uint64_t place) {
  constexpr std::make_index_sequence<static_cast<size_t>(Rule::slots)> slots;
  fused_step<Rule, P, G, State>(slots, scalars, around, n, at, whose, place);
}

using Brain = Alone<BFloat16>;

// By Fused.
template <class Rule>
constexpr FusedStep fused_steps[] = {
    nullptr,
    fused<Rule, Floats, Floats, Brain>,
    fused<Rule, Split, Brain, Floats>,
    fused<Rule, Split, Brain, Brain>,
};

}  // namespace
