// Roots of doubles by products: an estimate, Newton's steps, and a last one that rounds as the processor's root does.
//
// A root of eight doubles keeps the processor's divider busy for some 20 cycles, in which the quotient that follows has
// to wait, and nothing multiplies. Where every second vector has its root by products both go on at once.
//
// Only kernels.cpp includes this; why nothing here has external linkage is said in rules.hpp.
#pragma once
#if defined(__AVX512F__) && defined(__GNUC__)
#define SCHUSS_ESTIMATES
#include <immintrin.h>

namespace {

// Whether any root is made so; of the processors that have these vectors not all are faster by it.
bool roots_by_products = false;

template <bool by_products>
struct Eight {
  __m512d x;
  Eight() = default;
  Eight(__m512d v) : x(v) {}
  Eight(double each) : x(_mm512_set1_pd(each)) {}
};

// From y = 1 / sqrt(x) to 14 bits, r = sqrt(x) and h = 1 / (2 sqrt(x)) to 28 and 56. Then x - r r is exact, and the
// last step correctly rounded: Markstein, IA-64 and elementary functions, 2000, chapter 9. Zeros are their own roots;
// what is subnormal, near to the largest number, negative, infinite or NaN is left to the processor.
inline __m512d root_by_products(__m512d x) {
  constexpr __mmask8 all = 0xff;
  constexpr long long least = 123ll << 52, most = 2023ll << 52;
  const __m512d one = _mm512_set1_pd(1), half = _mm512_set1_pd(0.5);
  const __m512i above = _mm512_sub_epi64(_mm512_castpd_si512(x), _mm512_set1_epi64(least));
  const __mmask8 safe = _mm512_cmplt_epu64_mask(above, _mm512_set1_epi64(most - least));
  const __mmask8 zero = _mm512_cmp_pd_mask(x, _mm512_setzero_pd(), _CMP_EQ_OQ);
  if (static_cast<__mmask8>(safe | zero) != all) return _mm512_maskz_sqrt_pd(all, x);
  const __m512d s = _mm512_mask_blend_pd(zero, x, one), y = _mm512_maskz_rsqrt14_pd(all, s);
  __m512d r = s * y, h = half * y;
  for (int step = 0; step < 2; ++step) {
    const __m512d rest = _mm512_fnmadd_pd(r, h, half);
    r = _mm512_fmadd_pd(r, rest, r);
    h = _mm512_fmadd_pd(h, rest, h);
  }
  return _mm512_mask_blend_pd(zero, _mm512_fmadd_pd(_mm512_fnmadd_pd(r, r, s), h, r), x);
}

template <bool by>
Eight<by> operator+(Eight<by> a, Eight<by> b) {
  return a.x + b.x;
}
template <bool by>
Eight<by> operator-(Eight<by> a, Eight<by> b) {
  return a.x - b.x;
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
Eight<by>& operator+=(Eight<by>& a, Eight<by> b) {
  return a = a + b;
}
template <bool by>
Eight<by>& operator-=(Eight<by>& a, Eight<by> b) {
  return a = a - b;
}
template <bool by>
Eight<by> root(Eight<by> a) {
  return by ? root_by_products(a.x) : _mm512_maskz_sqrt_pd(0xff, a.x);
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
