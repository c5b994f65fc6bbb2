// The loops with formats in them: where decoding and encoding a block beside the rule costs more than the memory saves,
// that is done within it, while it waits for its roots and quotients. By how much is in docs/speed.md.
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

// The same where state has 8 bits, of whole blocks: each is stepped, then its scales are found, then it is encoded.

template <class Code_>
struct EightBits {
  using Code = Code_;
  typename Code::Int* code;
  float* scale;
  Factor factor;
  EightBits(const Lying& lying, size_t at, Factor factor_ = {})
      : code(static_cast<typename Code::Int*>(lying.code) + at),
        scale(static_cast<float*>(lying.beside) + at / scaled_block),
        factor(factor_) {}
};

using Kept = float[scaled_block + 16];  // and no multiple of 4,096 bytes: see passes.hpp

template <class Rule, class Prepared, class P, class G, size_t... slot, class... S>
void step_block(const Rule rule, const Prepared prepare, const P p, const G g, size_t at, Kept* __restrict kept,
                std::index_sequence<slot...>, const S... s) {
  [&](const auto... scale) {
#pragma GCC ivdep
    for (size_t i = 0; i < scaled_block; ++i) {
      float x = p.load(at + i);
      const float gradient = prepare(g.load(at + i), x);
      [&](auto... v) {
        rule(x, gradient, v...);
        ((kept[slot][i] = v), ...);
      }(S::Code::decode(s.code[i], scale)...);
      p.template store<false>(at + i, x, 0);
    }
  }(*s.scale...);
}

template <class Draws, size_t... slot, class... S>
void encode_together(const Draws draw, size_t at, const Kept* __restrict kept, std::index_sequence<slot...>,
                     const S... s) {
#pragma GCC ivdep
  for (size_t i = 0; i < scaled_block; ++i)
    ((s.code[i] = S::Code::template encode<slot % 2 != 0>(kept[slot][i], s.factor.by, draw(slot, at + i))), ...);
}

template <size_t slot, class Draws, class S>
void encode_alone(const Draws draw, size_t at, const float* __restrict x, const S s) {
  uint32_t random[scaled_block];
  for (size_t i = 0; i < scaled_block; ++i) random[i] = draw(slot, at + i);
  Blocks<typename S::Code>::template encode_block<slot % 2 != 0>(whole_block, s.factor, s.code, x, random);
}

template <class Draws, size_t... slot, class... S>
void encode_block(const Draws draw, size_t at, const Kept* kept, std::index_sequence<slot...> slots, const S... s) {
  if ((s.factor.plain() && ...))
    encode_together(draw, at, kept, slots, s...);
  else
    (encode_alone<slot>(draw, at, kept[slot], s), ...);
}

// Slots that are never negative have a bit in `squares`.
template <unsigned squares, size_t slot>
using Slot = EightBits<std::conditional_t<(squares >> slot & 1) != 0, Unsigned8, Signed8>>;

// A block is encoded when the next one has been stepped: until then its quotients are there.
template <class Rule, unsigned squares, class P, class G, size_t... slot>
void scaled_step(std::index_sequence<slot...> slots, const double* scalars, const Around* around, size_t n,
                 const Lying* at, const Whose* whose, uint64_t place) {
  const auto run = [&](const auto prepare) {
    const auto rule = round_scalars<Rule, float>(scalars);
    const Draw<sizeof...(slot)> draw(*whose, place);
    const P p(at[0].code, at[0].beside);
    const G g(at[1].code, at[1].beside);
    alignas(64) Kept kept[2][sizeof...(slot)];
    Factor factor[2][sizeof...(slot)];
    const auto encode = [&](size_t first, size_t turn) {
      encode_block(draw, first, kept[turn], slots, Slot<squares, slot>(at[2 + slot], first, factor[turn][slot])...);
    };
    size_t turn = 0;
    for (size_t first = 0; first < n; first += scaled_block, turn = 1 - turn) {
      step_block(rule, prepare, p, g, first, kept[turn], slots, Slot<squares, slot>(at[2 + slot], first)...);
      ((factor[turn][slot] =
            find_scale(whole_block, kept[turn][slot], *Slot<squares, slot>(at[2 + slot], first).scale)),
       ...);
      if (first) encode(first - scaled_block, 1 - turn);
    }
    encode(n - scaled_block, 1 - turn);
  };
  if (around)
    run(Prepare<float>(*around));
  else
    run(AsItComes());
}

template <class Rule, unsigned squares, class P, class G>
void scaled(const double* scalars, const Around* around, size_t n, const Lying* at, const Whose* whose,
            uint64_t place) {
  constexpr std::make_index_sequence<static_cast<size_t>(Rule::slots)> slots;
  scaled_step<Rule, squares, P, G>(slots, scalars, around, n, at, whose, place);
}

using Brain = Alone<BFloat16>;

template <class Rule, int squares, class P, class G>
constexpr FusedStep scaled_of() {
#ifdef __AVX512F__
  constexpr bool pays = true;
#else
  constexpr bool pays = false;  // 1.06 times as fast with AVX2, 1.2 to 1.4 times with AVX-512
#endif
  if constexpr (!pays || squares < 0 || Rule::slots == 0)
    return nullptr;
  else
    return scaled<Rule, static_cast<unsigned>(squares), P, G>;
}

// By Fused.
template <class Rule, int squares>
constexpr FusedStep fused_steps[] = {
    nullptr,
    fused<Rule, Floats, Floats, Brain>,
    fused<Rule, Split, Brain, Floats>,
    fused<Rule, Split, Brain, Brain>,
    scaled_of<Rule, squares, Floats, Floats>(),
    scaled_of<Rule, squares, Split, Brain>(),
};

}  // namespace
