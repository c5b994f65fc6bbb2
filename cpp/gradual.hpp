// Vectors of numbers that underflow gradually without the processor's help, for the rules as they stand.
//
// A product, quotient or root with a subnormal operand or result is finished by microcode on many processors, which
// takes some 150 cycles; sums are not. Here such lanes come to the same bits by normal numbers and integers. Where
// there are none a vector costs a comparison more. What no formula below claims is left to the processor: that is never
// wrong, only slow.
//
// Only kernels.cpp includes this; why nothing here has external linkage is said in rules.hpp.
#pragma once
#if defined(__AVX2__) && defined(__FMA__) && defined(__GNUC__)
#define SCHUSS_GRADUAL
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <utility>

namespace {

// The vector of a type and its bits, and what the compiler has no operator for. A mask tells some lanes from the
// others.
template <class T>
struct Lanes;

#ifdef __AVX512F__
// Where all lanes are meant a mask says so: GCC 12 takes the headers' own form for one that reads what was not set.
template <>
struct Lanes<float> {
  using Vector = __m512;
  using Bits = uint32_t __attribute__((vector_size(64)));
  using Mask = __mmask16;
  static constexpr Mask all = 0xffff;
  static Mask first(size_t n) { return static_cast<Mask>((1u << n) - 1); }
  static Vector load(const float* from, Mask some) { return _mm512_maskz_loadu_ps(some, from); }
  static void store(float* to, Mask some, Vector v) { _mm512_mask_storeu_ps(to, some, v); }
  static Vector fused(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
  static Vector root(Vector a) { return _mm512_maskz_sqrt_ps(all, a); }
  static Vector counted(Bits a) { return _mm512_maskz_cvtepi32_ps(all, (__m512i)a); }
  static bool any(Mask some) { return some != 0; }
  static Mask below(Bits a, Bits b) { return _mm512_cmplt_epu32_mask((__m512i)a, (__m512i)b); }
  static Mask less(Vector a, Vector b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  static Mask equal(Vector a, Vector b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
  static Vector choose(Mask some, Vector a, Vector b) { return _mm512_mask_blend_ps(some, b, a); }
};
template <>
struct Lanes<double> {
  using Vector = __m512d;
  using Bits = uint64_t __attribute__((vector_size(64)));
  using Mask = __mmask8;
  static constexpr Mask all = 0xff;
  static Mask first(size_t n) { return static_cast<Mask>((1u << n) - 1); }
  static Vector load(const double* from, Mask some) { return _mm512_maskz_loadu_pd(some, from); }
  static void store(double* to, Mask some, Vector v) { _mm512_mask_storeu_pd(to, some, v); }
  static Vector fused(Vector a, Vector b, Vector c) { return _mm512_fmadd_pd(a, b, c); }
  static Vector root(Vector a) { return _mm512_maskz_sqrt_pd(all, a); }
  static Vector counted(Bits a) { return _mm512_maskz_cvtepi64_pd(all, (__m512i)a); }
  static bool any(Mask some) { return some != 0; }
  static Mask below(Bits a, Bits b) { return _mm512_cmplt_epu64_mask((__m512i)a, (__m512i)b); }
  static Mask less(Vector a, Vector b) { return _mm512_cmp_pd_mask(a, b, _CMP_LT_OQ); }
  static Mask equal(Vector a, Vector b) { return _mm512_cmp_pd_mask(a, b, _CMP_EQ_OQ); }
  static Vector choose(Mask some, Vector a, Vector b) { return _mm512_mask_blend_pd(some, b, a); }
};
#else
template <>
struct Lanes<float> {
  using Vector = __m256;
  using Bits = uint32_t __attribute__((vector_size(32)));
  using Mask = int32_t __attribute__((vector_size(32)));
  static Mask first(size_t n) { return Mask{0, 1, 2, 3, 4, 5, 6, 7} < static_cast<int32_t>(n); }
  static Vector load(const float* from, Mask some) { return _mm256_maskload_ps(from, (__m256i)some); }
  static void store(float* to, Mask some, Vector v) { _mm256_maskstore_ps(to, (__m256i)some, v); }
  static Vector fused(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
  static Vector root(Vector a) { return _mm256_sqrt_ps(a); }
  static Vector counted(Bits a) { return _mm256_cvtepi32_ps((__m256i)a); }
  static bool any(Mask some) { return _mm256_movemask_ps((Vector)some) != 0; }
  // There is a comparison of signed integers alone.
  static Mask below(Bits a, Bits b) { return (Mask)(a + (1u << 31)) < (Mask)(b + (1u << 31)); }
  static Mask less(Vector a, Vector b) { return a < b; }
  static Mask equal(Vector a, Vector b) { return a == b; }
  static Vector choose(Mask some, Vector a, Vector b) { return _mm256_blendv_ps(b, a, (Vector)some); }
};
template <>
struct Lanes<double> {
  using Vector = __m256d;
  using Bits = uint64_t __attribute__((vector_size(32)));
  using Mask = int64_t __attribute__((vector_size(32)));
  static Mask first(size_t n) { return Mask{0, 1, 2, 3} < static_cast<int64_t>(n); }
  static Vector load(const double* from, Mask some) { return _mm256_maskload_pd(from, (__m256i)some); }
  static void store(double* to, Mask some, Vector v) { _mm256_maskstore_pd(to, (__m256i)some, v); }
  static Vector fused(Vector a, Vector b, Vector c) { return _mm256_fmadd_pd(a, b, c); }
  static Vector root(Vector a) { return _mm256_sqrt_pd(a); }
  // As the mantissa of 2^52, which is taken off again: the ISA has no conversion.
  static Vector counted(Bits a) { return (Vector)(a | uint64_t{0x433} << 52) - 0x1p52; }
  static bool any(Mask some) { return _mm256_movemask_pd((Vector)some) != 0; }
  static Mask below(Bits a, Bits b) { return (Mask)(a + (uint64_t{1} << 63)) < (Mask)(b + (uint64_t{1} << 63)); }
  static Mask less(Vector a, Vector b) { return a < b; }
  static Mask equal(Vector a, Vector b) { return a == b; }
  static Vector choose(Mask some, Vector a, Vector b) { return _mm256_blendv_pd(b, a, (Vector)some); }
};
#endif

// How a type is made, and the exponents of the windows in which the formulas hold.
template <class T>
struct Range;
template <>
struct Range<float> {
  using Bit = uint32_t;
  static constexpr int mantissa = 23, bias = 127;
  static constexpr int least = 149;                                     // the least number is 2^-149
  static constexpr int factor = -56;                                    // a b: |b| < 2^-56
  static constexpr int numerator = -112, divisor = -80, dividend = 14;  // a / b: |a| < 2^-112, 2^-80 <= |b| < 2^14
  static constexpr int raise = 100;                                     // and a is raised by that
};
template <>
struct Range<double> {
  using Bit = uint64_t;
  static constexpr int mantissa = 52, bias = 1023;
  static constexpr int least = 1074;
  static constexpr int factor = -490;
  static constexpr int numerator = -1000, divisor = -500, dividend = 22;
  static constexpr int raise = 700;
};

// The operations where a lane has a number that the processor should not see.
template <class T>
struct Tiny : Lanes<T>, Range<T> {
  using L = Lanes<T>;
  using R = Range<T>;
  using Bit = typename R::Bit;
  using Vector = typename L::Vector;
  using Bits = typename L::Bits;
  using Mask = typename L::Mask;

  static constexpr Bit least_normal = Bit{1} << R::mantissa, sign_bit = Bit{1} << (sizeof(T) * 8 - 1);
  static constexpr Bit bits_of(int exponent) { return static_cast<Bit>(exponent + R::bias) << R::mantissa; }
  static Vector power(int exponent) { return (Vector)all(bits_of(exponent)); }
  static Bits all(Bit each) { return each - Bits{}; }
  static Vector all(T each) { return each - Vector{}; }  // -0 stays -0
  static Bits magnitude(Vector v) { return (Bits)v & ~sign_bit; }
  static Mask both(Mask a, Mask b) { return static_cast<Mask>(a & b); }

  // Whether first <= a < first + window in any lane.
  static bool any_within(Bits a, Bits first, Bits window) { return L::any(L::below(a - first, window)); }

  // The same with zero of the same sign in some of the lanes.
  static Vector zeroed(Mask some, Vector v) { return L::choose(some, (Vector)((Bits)v & sign_bit), v); }

  // Sets the processor's flag, as it would have itself: so the caller learns that this was no ordinary block. A sum
  // does it, and costs next to nothing.
  static void tell() {
    constexpr float subnormal = 1e-40f;
    float sum;
    asm volatile("vaddss %1, %1, %0" : "=x"(sum) : "x"(subnormal));
  }

  // b is raised by 2^least. Then the sum of the product and 2^mantissa is rounded once, to the grid of the subnormal
  // numbers, and ends with the bits wanted.
  static Vector product(Vector a, Vector b) {
    tell();
    const Bits size = magnitude(b);
    const Vector raised =
        L::choose(L::below(size, all(least_normal)), L::counted(size), (Vector)(size + (Bit{R::least} << R::mantissa)));
    // Where a is subnormal, too, the product is zero, and so it is with the least normal number in its place.
    const Bits other = magnitude(a);
    const Vector factor = L::choose(L::below(other, all(least_normal)), power(1 - R::bias), (Vector)other);
    const Bits bits = (Bits)L::fused(raised, factor, power(R::mantissa)) - bits_of(R::mantissa);
    const Mask tiny = both(L::below(size, all(bits_of(R::factor))), L::below(bits, all(least_normal)));
    const Vector rest = a * zeroed(tiny, b);
    return L::choose(tiny, (Vector)((Bits)rest | bits), rest);
  }

  // a is raised by 2^raise. A quotient q that ends up subnormal is rounded twice then: only where q, as a multiple of
  // 2^-least, lies between two integers does that matter, and the remainder a - q b, which is exact, decides.
  static Vector quotient(Vector a, Vector b) {
    tell();
    const Bits size = magnitude(a), by = magnitude(b), one = all(Bit{1});
    const Mask claimed = both(L::below(size - one, all(bits_of(R::numerator) - 1)),
                              L::below(by - bits_of(R::divisor), all(bits_of(R::dividend) - bits_of(R::divisor))));
    const Vector raised = L::choose(L::below(size, all(least_normal)), L::counted(size) * power(R::raise - R::least),
                                    (Vector)(size + (Bit{R::raise} << R::mantissa)));
    const Vector numerator = L::choose(claimed, raised, a), divisor = L::choose(claimed, (Vector)by, b);
    const Vector q = numerator / divisor;
    const Vector multiple = q * power(R::least - R::raise), sum = multiple + power(R::mantissa);
    const Vector over = multiple - (sum - power(R::mantissa)), rest = L::fused(-q, divisor, numerator);
    const Mask up = both(L::equal(over, all(T(0.5))), L::less(Vector{}, rest));
    const Mask down = both(L::equal(over, all(T(-0.5))), L::less(rest, Vector{}));
    const Bits bits = (Bits)sum - bits_of(R::mantissa) + (Bits)L::choose(up, (Vector)one, Vector{}) -
                      (Bits)L::choose(down, (Vector)one, Vector{});
    const Mask tiny = both(claimed, L::less(multiple, power(R::mantissa)));
    const Vector normal = L::choose(tiny, power(0), q) * L::choose(claimed, power(-R::raise), power(0));
    const Bits sign = ((Bits)a ^ (Bits)b) & sign_bit;
    return L::choose(claimed, (Vector)((Bits)L::choose(tiny, (Vector)bits, normal) | sign), q);
  }

  // x is raised by an even power of 2; no root is subnormal.
  static Vector root(Vector x) {
    tell();
    constexpr int even = R::least + R::least % 2;
    const Mask claimed = L::below((Bits)x - 1, all(least_normal - 1));
    const Vector r = L::root(L::choose(claimed, L::counted((Bits)x) * power(even - R::least), x));
    return r * L::choose(claimed, power(-even / 2), power(0));
  }

  // Which bits, as integers, are of numbers that are tiny to a factor c, so that their product is not zero and may yet
  // be subnormal: so many from the first on. Below are the n with |c| n <= 1/2, and above the exponents have a sum that
  // is normal.
  struct Window {
    Bit first, size;
  };
  static Window window(T c) {
    const T size = c < 0 ? -c : c == 0 ? T(0) : c, quotient = T(0.5) / size;
    if (!(size - size == 0)) return {0, least_normal};  // infinite or NaN
    const Bit n = quotient < T(least_normal) ? static_cast<Bit>(quotient) : least_normal;
    const Bit first = n + !(L::fused(all(size), all(T(n)), all(T(-0.5)))[0] > 0);
    Bit bits;
    memcpy(&bits, &size, sizeof bits);
    constexpr Bit sum = bits_of(2);
    return {first, (bits < sum - least_normal ? sum - bits : least_normal) - first};
  }
};

template <class T>
struct Gradual {
  using Vector = typename Lanes<T>::Vector;
  using Bits = typename Lanes<T>::Bits;

  Vector x;
  bool scalar;         // of a step: the same in all lanes
  Bits first, window;  // of what is tiny to it as a factor: see above

  Gradual() = default;
  // To a variable all is tiny that may be so to its like: it is squares that matter.
  Gradual(Vector v) : Gradual(v, false, {1, Of::bits_of(Of::factor) - 1}) {}
  Gradual(T each) : Gradual(Of::all(each), true, Of::window(each)) {}

 private:
  using Of = Tiny<T>;
  Gradual(Vector v, bool each, typename Of::Window tiny)
      : x(v), scalar(each), first(Of::all(tiny.first)), window(Of::all(tiny.size)) {}
};

// Of each kind of numbers that is a vector.
template <class N, class = typename N::Vector>
N operator+(N a, N b) {
  return a.x + b.x;
}
template <class N, class = typename N::Vector>
N operator-(N a, N b) {
  return a.x - b.x;
}
template <class N, class = typename N::Vector>
N& operator+=(N& a, N b) {
  return a = a + b;
}
template <class N, class = typename N::Vector>
N& operator-=(N& a, N b) {
  return a = a - b;
}

template <class T>
Gradual<T> operator*(Gradual<T> a, Gradual<T> b) {
  using Of = Tiny<T>;
  const auto size = Of::magnitude(b.x);
  if (Of::any_within(size, a.first, a.window)) return Of::product(a.x, b.x);
  return a.x * (a.scalar ? Of::zeroed(Of::below(size, a.first), b.x) : b.x);
}
template <class T>
Gradual<T> operator/(Gradual<T> a, Gradual<T> b) {
  using Of = Tiny<T>;
  constexpr auto window = Of::bits_of(Of::numerator) - 1;
  if (Of::any_within(Of::magnitude(a.x), Of::all(decltype(window)(1)), Of::all(window))) return Of::quotient(a.x, b.x);
  return a.x / b.x;
}
template <class T>
Gradual<T> root(Gradual<T> a) {
  using Of = Tiny<T>;
  constexpr auto window = Of::least_normal - 1;
  if (Of::any_within((typename Of::Bits)a.x, Of::all(decltype(window)(1)), Of::all(window))) return Of::root(a.x);
  return Lanes<T>::root(a.x);
}

template <class T>
Gradual<T> magnitude(Gradual<T> a) {
  return (typename Gradual<T>::Vector)Tiny<T>::magnitude(a.x);
}
template <class T>
Gradual<T> larger(Gradual<T> a, Gradual<T> b) {
  return ((a.x >= b.x) | (a.x != a.x)) ? a.x : b.x;
}
template <class T>
Gradual<T> smaller(Gradual<T> a, Gradual<T> b) {
  return ((a.x <= b.x) | (a.x != a.x)) ? a.x : b.x;
}
template <class T>
Gradual<T> sign(Gradual<T> a) {
  const auto one = Tiny<T>::all(T(1)), zero = Tiny<T>::all(T(0));
  return a.x > zero ? one : a.x < zero ? -one : a.x == zero ? zero : a.x;
}
template <class T>
Gradual<T> if_positive(Gradual<T> x, Gradual<T> a, Gradual<T> b) {
  return x.x > Tiny<T>::all(T(0)) ? a.x : b.x;
}
template <class T>
Gradual<T> within(Gradual<T> a, Gradual<T> limit) {
  return a.x < -limit.x ? -limit.x : a.x > limit.x ? limit.x : a.x;
}

// Asked of a step's scalars alone.
template <class T>
Gradual<T> epsilon(Gradual<T>) {
  return Tiny<T>::power(-Range<T>::mantissa)[0];
}
template <class T>
bool operator>(Gradual<T> a, int b) {
  return a.x[0] > static_cast<T>(b);
}

// Of a work that takes N* its N, the kind of numbers.
template <class Work, class N>
N number_of(void (Work::*)(N*) const);
template <class Work>
using NumberOf = decltype(number_of(&Work::operator()));

// work(v) on the vectors that begin at i of some arrays; those with a bit in `written` are stored again.
template <unsigned written, class T, size_t... o, class Work>
void on_vectors(std::index_sequence<o...>, size_t i, T* const* at, const Work& work) {
  struct Unaligned {
    typename Lanes<T>::Vector v;
  } __attribute__((packed, may_alias));
  NumberOf<Work> v[sizeof...(o)];
  ((v[o] = reinterpret_cast<const Unaligned*>(at[o] + i)->v), ...);
  work(v);
  ((written >> o & 1 ? (void)(reinterpret_cast<Unaligned*>(at[o] + i)->v = v[o].x) : void()), ...);
}

// The same on those of less than a vector, up to the n-th, with zeros after them.
template <unsigned written, class T, size_t... o, class Work>
void on_rest(std::index_sequence<o...>, size_t i, size_t n, T* const* at, const Work& work) {
  using L = Lanes<T>;
  NumberOf<Work> v[sizeof...(o)];
  const auto some = L::first(n - i);
  ((v[o] = L::load(at[o] + i, some)), ...);
  work(v);
  ((written >> o & 1 ? L::store(at[o] + i, some, v[o].x) : void()), ...);
}

// One work after the other, each on the next vectors.
template <unsigned written, class T, class Operands, class Work, class... Others>
void each_vector(Operands operands, size_t n, T* const* at, const Work& work, const Others&... others) {
  constexpr size_t size = sizeof(typename Lanes<T>::Vector) / sizeof(T);
  size_t i = 0;
  for (; i + (1 + sizeof...(Others)) * size <= n; i += size) {
    on_vectors<written>(operands, i, at, work);
    (on_vectors<written>(operands, i += size, at, others), ...);
  }
  for (; i + size <= n; i += size) on_vectors<written>(operands, i, at, work);
  if (i < n) on_rest<written>(operands, i, n, at, work);
}

}  // namespace
#endif
