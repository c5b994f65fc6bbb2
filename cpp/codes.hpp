// Numbers of 16 and 8 bits, to what rules compute in and back: a block of contiguous elements at a time.
//
// What is rounded at random goes by bits of a hash of whose they are: the same for any thread and any ISA.
// schuss/formats.py computes the same bits. Only kernels.cpp includes this; why nothing here has external linkage is
// said in rules.hpp.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <type_traits>

#ifdef __F16C__
#include <immintrin.h>
#endif

#include "kernels.hpp"

namespace {

inline float number(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
inline uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

constexpr uint32_t sign_bit = 0x80000000, infinite = 0x7f800000;

// Any NaN becomes the one that no sum carries over.
inline uint32_t with_plain_nan(uint32_t bits) { return number(bits) != number(bits) ? infinite | 0x400000 : bits; }

// bfloat16 is the upper half of a float32.
struct BFloat16 {
  static float decode(uint16_t code) { return number(static_cast<uint32_t>(code) << 16); }
  static uint16_t nearest(uint32_t given) {  // ties to even
    const uint32_t bits = with_plain_nan(given);
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
  static uint16_t random(uint32_t bits, uint32_t u) {  // up with the probability of what is cut off, by 16 bits
    return static_cast<uint16_t>((with_plain_nan(bits) + u) >> 16);
  }
};

// float16: 5 bits of exponent, 10 of mantissa. Below 2^-14 they count multiples of 2^-24.
struct Float16 {
  static constexpr uint32_t rebias = (127 - 15) << 23, least_normal = 0x38800000, too_large = 0x47800000;  // 2^16
  static float decode(uint16_t code) {
    const uint32_t size = code & 0x7fff, sign = static_cast<uint32_t>(code & 0x8000) << 16;
    const uint32_t small = bits_of(static_cast<float>(static_cast<int32_t>(size)) * 0x1p-24f);
    const uint32_t normal = (size << 13) + (size < 0x7c00 ? rebias : 2 * rebias);
    return number(sign | (size < 0x400 ? small : normal));
  }
  static uint16_t with_sign(uint32_t bits, uint32_t small, uint32_t normal) {
    const uint32_t size = bits & ~sign_bit;
    const uint32_t large = size > infinite ? 0x7e00 : 0x7c00;
    const uint32_t found = size >= too_large ? large : size < least_normal ? small : normal;
    return static_cast<uint16_t>(found | (bits & sign_bit) >> 16);
  }
  static uint16_t nearest(uint32_t bits) {
    const uint32_t size = bits & ~sign_bit;
    const uint32_t small = bits_of(number(size) + 0.5f) - bits_of(0.5f);  // a sum is rounded to multiples of 2^-24
    return with_sign(bits, small, (size - rebias + 0xfff + (size >> 13 & 1)) >> 13);
  }
  static uint16_t random(uint32_t bits, uint32_t u) {
    const uint32_t size = bits & ~sign_bit;
    const float multiple = size < least_normal ? number(size) * 0x1p24f : 0;
    const int32_t below = static_cast<int32_t>(multiple);
    const float over = (multiple - static_cast<float>(below)) * 0x1p16f;
    const uint32_t small = static_cast<uint32_t>(below) + (static_cast<float>(static_cast<int32_t>(u)) < over);
    return with_sign(bits, small, (size - rebias + (u >> 3)) >> 13);
  }
};

// Bits of a random number: its upper ones, or its lower ones.
template <bool upper>
uint32_t some_of(uint32_t random, int bits) {
  return upper ? random >> (32 - bits) : random & ((uint32_t{1} << bits) - 1);
}

// Runs of elements, as processors have instructions for.

template <class Type>
void decode_run(size_t n, const uint16_t* __restrict code, float* __restrict x) {
#pragma omp simd
  for (size_t i = 0; i < n; ++i) x[i] = Type::decode(code[i]);
}
template <class Type>
void nearest_run(size_t n, const float* __restrict x, uint16_t* __restrict code) {
#pragma omp simd
  for (size_t i = 0; i < n; ++i) code[i] = Type::nearest(bits_of(x[i]));
}

#ifdef __F16C__
template <>
inline void decode_run<Float16>(size_t n, const uint16_t* __restrict code, float* __restrict x) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm256_storeu_ps(x + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(code + i))));
  for (; i < n; ++i) x[i] = Float16::decode(code[i]);
}
template <>
inline void nearest_run<Float16>(size_t n, const float* __restrict x, uint16_t* __restrict code) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(code + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT));
  for (; i < n; ++i) code[i] = Float16::nearest(bits_of(x[i]));
}
#endif

// How an operand lies: where, and how its i-th element is taken from there and put back.

struct Floats {
  float* at;
  explicit Floats(void* code, void* = nullptr) : at(static_cast<float*>(code)) {}
  float load(size_t i) const { return at[i]; }
  template <bool upper>
  void store(size_t i, float x, uint32_t) const {
    at[i] = x;
  }
};

// State, a gradient, or a parameter that is its own master: rounded at random.
template <class Type>
struct Alone {
  uint16_t* code;
  explicit Alone(void* code_, void* = nullptr) : code(static_cast<uint16_t*>(code_)) {}
  float load(size_t i) const { return Type::decode(code[i]); }
  template <bool upper>
  void store(size_t i, float x, uint32_t random) const {
    code[i] = Type::random(bits_of(x), some_of<upper>(random, 16));
  }
};

// bfloat16 and the other half of its float32 master, as a signed number: the parameter is the master rounded to the
// nearest, half a unit away from zero. A remainder with which the sum has another sign, or is NaN, is of a parameter
// that the caller has replaced, and does not count.
struct Split {
  uint16_t* code;
  int16_t* rest;
  Split(void* code_, void* rest_) : code(static_cast<uint16_t*>(code_)), rest(static_cast<int16_t*>(rest_)) {}
  float load(size_t i) const {
    const uint32_t upper = static_cast<uint32_t>(code[i]) << 16;
    const uint32_t sum = upper + static_cast<uint32_t>(static_cast<int32_t>(rest[i]));
    const bool counts = static_cast<int32_t>(sum ^ upper) >= 0 && number(sum) == number(sum);
    return number(counts ? sum : upper);
  }
  template <bool upper>
  void store(size_t i, float x, uint32_t) const {
    const uint32_t bits = with_plain_nan(bits_of(x));
    code[i] = static_cast<uint16_t>((bits + 0x8000) >> 16);
    rest[i] = static_cast<int16_t>(bits);
  }
};

// 8 bits of a number y = |x| / scale, which is at most 1: those of the float y + least, counted from least's own, that
// are above its 19 last ones. So there are 16 steps to a factor of 2 down to y = least, and equal ones from there to
// zero. The scale is the largest |x| of a block; NaN where there is one that is not finite, and then all are. A number
// that is never negative is not rounded to zero, as it is divided by, but where the whole block is.
template <class Integer, int octaves>
struct Scaled {
  using Int = Integer;
  static constexpr uint32_t least = static_cast<uint32_t>(127 - octaves) << 23;  // its bits
  static constexpr int cut = 19;
  static constexpr bool has_sign = static_cast<Int>(-1) < 0;

  static float decode(Int code, float scale) {
    const uint32_t q = static_cast<uint32_t>(static_cast<int32_t>(code));
    if (!has_sign) return (number(least + (q << cut)) - number(least)) * scale;
    const uint32_t negative = static_cast<uint32_t>(static_cast<int32_t>(q) >> 31);
    const float found = (number(least + (((q ^ negative) - negative) << cut)) - number(least)) * scale;
    return number(bits_of(found) ^ negative << 31);
  }
  template <bool upper>
  static Int encode(float x, float factor, uint32_t random) {
    const uint32_t bits = bits_of(x);
    const float y = number(bits & ~sign_bit) * factor;
    const uint32_t q = (bits_of(y + number(least)) - least + some_of<upper>(random, cut)) >> cut;
    if (!has_sign) return static_cast<Int>(q < 1 ? 1 : q);
    const uint32_t negative = static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31);
    return static_cast<Int>((q ^ negative) - negative);
  }
};
using Signed8 = Scaled<int8_t, 7>;
using Unsigned8 = Scaled<uint8_t, 15>;

// Decode and encode, of a block of a tensor at a time.

template <class Lies>
void decode_all(size_t n, const Lies lies, float* __restrict x) {
#pragma omp simd
  for (size_t i = 0; i < n; ++i) x[i] = lies.load(i);
}
template <class Type>
void decode_all(size_t n, const Alone<Type> lies, float* __restrict x) {
  decode_run<Type>(n, lies.code, x);
}

template <class Lies>
struct Elements {
  static void decode(size_t n, const void* code, const void* beside, float* x) {
    decode_all(n, Lies(const_cast<void*>(code), const_cast<void*>(beside)), x);
  }
  template <bool upper>
  static void encode_by(size_t n, const Lies lies, const float* __restrict x, const uint32_t* __restrict random) {
#pragma omp simd
    for (size_t i = 0; i < n; ++i) lies.template store<upper>(i, x[i], random[i]);
  }
  static void encode(size_t n, void* code, void* beside, const float* x, const uint32_t* random, bool upper) {
    (upper ? encode_by<true> : encode_by<false>)(n, Lies(code, beside), x, random);
  }
};

// A parameter with a float32 master beside it, which is rounded to the nearest. Where they disagree the caller has
// written into the parameter, and that counts.
template <class Type>
struct Mastered {
  static void decode(size_t n, const void* code_, const void* master_, float* __restrict x) {
    constexpr size_t run = 128;
    const uint16_t* __restrict code = static_cast<const uint16_t*>(code_);
    const float* __restrict master = static_cast<const float*>(master_);
    for (size_t first = 0; first < n; first += run) {
      uint16_t rounded[run];
      const size_t last = first + run < n ? first + run : n;
      nearest_run<Type>(last - first, master + first, rounded);
      decode_run<Type>(last - first, code + first, x + first);
#pragma omp simd
      for (size_t i = first; i < last; ++i) x[i] = rounded[i - first] == code[i] ? master[i] : x[i];
    }
  }
  static void encode(size_t n, void* code, void* master, const float* x, const uint32_t*, bool) {
    nearest_run<Type>(n, x, static_cast<uint16_t*>(code));
    memcpy(master, x, n * sizeof *x);
  }
};

// work(k, at, count) for each block: its number, its first element, and how many it has, which a compiler knows of all
// but the last.
constexpr std::integral_constant<size_t, scaled_block> whole_block;
template <class Work>
void each_scaled(size_t n, Work work) {
  size_t k = 0;
  for (; (k + 1) * scaled_block <= n; ++k) work(k, k * scaled_block, whole_block);
  if (k * scaled_block < n) work(k, k * scaled_block, n - k * scaled_block);
}

// What a block's numbers are multiplied by to be at most 1; 0 where all codes are zero. First by `reduced`, so that no
// quotient is subnormal, which may count as zero.
struct Factor {
  float by, reduced;
  bool plain() const { return by != 0 && reduced == 1; }
};

// The bits of the largest magnitude: those of positive numbers are in their order.
template <class Count>
int32_t largest_of(Count count, const float* __restrict x) {
  int32_t largest = 0;
#pragma omp simd reduction(max : largest)
  for (size_t i = 0; i < count; ++i) {
    const int32_t size = static_cast<int32_t>(bits_of(x[i]) & ~sign_bit);
    largest = largest < size ? size : largest;
  }
  return largest;
}

template <class Count>
Factor find_scale(Count count, const float* x, float& scale) {
  constexpr float least_normal = 0x1p-126f;
  const int32_t largest = largest_of(count, x);
  const bool finite = largest < static_cast<int32_t>(infinite);
  const float found = number(static_cast<uint32_t>(largest));
  const float least = found < least_normal && largest > 0 ? least_normal : found;
  scale = finite ? least : number(infinite | 0x400000);
  const float reduced = least > 0x1p125f ? 0.25f : 1.0f;
  return {finite && largest > 0 ? 1 / (reduced * least) : 0, reduced};
}

template <class Code>
struct Blocks {
  using Int = typename Code::Int;
  static constexpr size_t most = 1024 / scaled_block;

  static void decode(size_t n, const void* code_, const void* scale_, float* __restrict x) {
    const Int* __restrict code = static_cast<const Int*>(code_);
    const float* const scale = static_cast<const float*>(scale_);
    each_scaled(n, [=](size_t k, size_t at, auto count) {
      const float s = scale[k];
#pragma omp simd
      for (size_t i = 0; i < count; ++i) x[at + i] = Code::decode(code[at + i], s);
    });
  }
  template <bool upper, class Count>
  static void encode_block(Count count, const Factor factor, Int* __restrict code, const float* __restrict x,
                           const uint32_t* __restrict random) {
    const auto each = [&](auto of) {
#pragma omp simd
      for (size_t i = 0; i < count; ++i) code[i] = Code::template encode<upper>(of(x[i]), factor.by, random[i]);
    };
    if (factor.by == 0)
      memset(code, 0, count);
    else if (factor.reduced == 1)
      each([](float number) { return number; });
    else
      each([](float number) { return 0.25f * number; });
  }
  template <bool upper>
  static void encode_by(size_t n, Int* code, float* scale, const float* x, const uint32_t* random) {
    Factor factor[most];  // all of them first, as a quotient takes long
    each_scaled(n, [&](size_t k, size_t at, auto count) { factor[k] = find_scale(count, x + at, scale[k]); });
    each_scaled(n, [&](size_t k, size_t at, auto count) {
      encode_block<upper>(count, factor[k], code + at, x + at, random + at);
    });
  }
  static void encode(size_t n, void* code, void* scale, const float* x, const uint32_t* random, bool upper) {
    (upper ? encode_by<true> : encode_by<false>)(n, static_cast<Int*>(code), static_cast<float*>(scale), x, random);
  }
};

// lowbias32 of Wellons' search for integer hashes of two rounds, 2018.
inline uint32_t mixed(uint32_t x) {
  x = (x ^ x >> 16) * 0x7feb352d;
  x = (x ^ x >> 15) * 0x846ca68b;
  return x ^ x >> 16;
}

// The random number of an element: of its place in the array, by 32 bits.
inline uint32_t drawn(uint32_t place, uint32_t key) { return mixed(place ^ key); }

// All that the random numbers of a step have in common.
inline uint32_t key_of(const Whose& whose, uint64_t place) {
  const auto in = [](uint64_t word) { return static_cast<uint32_t>(word); };
  const uint32_t words[] = {whose.number, in(whose.t), in(whose.t >> 32), in(place >> 32), whose.pair};
  uint32_t key = 0;
  for (const uint32_t word : words) key = mixed((key ^ word) + 0x9e3779b9);
  return key;
}

// A random number for each of n elements from a place on.
void hash(size_t n, const Whose* whose, uint64_t place, uint32_t* __restrict to) {
  const uint32_t key = key_of(*whose, place), first = static_cast<uint32_t>(place), count = static_cast<uint32_t>(n);
#pragma omp simd
  for (uint32_t i = 0; i < count; ++i) to[i] = drawn(first + i, key);
}

template <class C>
constexpr Codec codec = {C::decode, C::encode};

}  // namespace
