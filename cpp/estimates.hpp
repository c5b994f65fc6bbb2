// Roots of doubles by products: an estimate, Newton's steps, and a last one that rounds as the processor's root does.
//
// A root of eight doubles keeps the processor's divider busy for some 20 cycles, in which the quotient that follows has
// to wait, and nothing multiplies. Where every second vector has its root by products both go on at once.
//
// Only kernels.cpp includes this; why nothing here has external linkage is said in rules.hpp.
#pragma once
#if defined(__AVX512F__) && defined(__GNUC__)
#define SCHUSS_ESTIMATES
#include "gradual.hpp"

namespace {

// Whether any root is made so; of the processors that have these vectors not all are faster by it.
bool roots_by_products = false;

template <bool by_products>
struct Eight {
  using Vector = Lanes<double>::Vector;
  Vector x;
  Eight() = default;
  Eight(Vector v) : x(v) {}
  Eight(double each) : x(Tiny<double>::all(each)) {}
};

// From y = 1 / sqrt(x) to 14 bits, r = sqrt(x) and h = 1 / (2 sqrt(x)) to 28 and 56. Then x - r r is exact, and the
// last step correctly rounded: Markstein, IA-64 and elementary functions, 2000, chapter 9. Zeros are their own roots;
// what is subnormal, near to the largest number, negative, infinite or NaN is left to the processor.
inline __m512d root_by_products(__m512d x) {
  using L = Lanes<double>;
  using Of = Tiny<double>;
  constexpr auto least = Of::bits_of(-900), most = Of::bits_of(1000);
  const L::Mask safe = L::below((L::Bits)x - least, Of::all(most - least)), zero = L::equal(x, L::Vector{});
  if (static_cast<L::Mask>(safe | zero) != L::all) return L::root(x);
  const L::Vector s = L::choose(zero, Of::power(0), x), y = _mm512_maskz_rsqrt14_pd(L::all, s), half = Of::power(-1);
  L::Vector r = s * y, h = half * y;
  for (int step = 0; step < 2; ++step) {
    const L::Vector rest = L::fused(-r, h, half);
    r = L::fused(r, rest, r);
    h = L::fused(h, rest, h);
  }
  return L::choose(zero, x, L::fused(L::fused(-r, r, s), h, r));
}

template <bool by>
Eight<by> operator*(Eight<by> a, Eight<by> b) {
  return a.x * b.x;
}
template <bool by>
Eight<by> operator/(Eight<by> a, Eight<by> b) {
  return a.x / b.x;
}
template <bool by>
Eight<by> root(Eight<by> a) {
  return by ? root_by_products(a.x) : Lanes<double>::root(a.x);
}
template <bool by>
Eight<by> larger(Eight<by> a, Eight<by> b) {
  return ((a.x >= b.x) | (a.x != a.x)) ? a.x : b.x;
}
template <bool by>
Eight<by> within(Eight<by> a, Eight<by> limit) {
  return a.x < -limit.x ? -limit.x : a.x > limit.x ? limit.x : a.x;
}
// Asked of a step's scalars alone.
template <bool by>
bool operator>(Eight<by> a, int b) {
  return a.x[0] > b;
}

}  // namespace
#endif
