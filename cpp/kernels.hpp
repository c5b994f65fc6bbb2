// What a compiled set of kernels offers to the rest: plain data, the same for every ISA.
#pragma once
#include <stddef.h>
#include <stdint.h>

// What stands around a rule, the same for each: what the gradient goes through before it, in this order, and the
// running average of the parameter after it.
struct Around {
  double scale = 1;       // g = scale g
  double shrink = 1;      // g = shrink g
  double clip_value = 0;  // g = min(max(g, -clip_value), clip_value); infinity where there is none
  double sign = 1;        // g = sign g
  double l2 = 0;          // g = g + l2 p, if it is not 0
  double average = -1;    // mean = average mean + (1 - average) p, if it is not negative
};

// One step over n contiguous elements of parameter p with gradient g; nothing overlaps. `around` is nullptr where
// nothing stands around the rule. The mean, if there is one, is the slot after the rule's own.
using Sweep = void (*)(const double* scalars, const Around* around, size_t n, void* p, const void* g,
                       void* const* slots);

// The first half of a step that has two; u receives the direction whose norm is wanted.
using Measure = void (*)(const double* scalars, const Around* around, size_t n, const void* p, const void* g,
                         void* const* slots, void* u);

// The same without the direction: the sums of squares of p and of u. That takes less time where memory is waited for.
struct Sums {
  double p, u;
};
using MeasureSums = Sums (*)(const double* scalars, const Around* around, size_t n, const void* p, const void* g,
                             void* const* slots);

constexpr size_t max_slots = 4, max_scalars = 9;
constexpr size_t lanes = 16;  // by which a block is summed

// What there is once for each type that rules compute in.
template <class F32, class F64>
struct ByType {
  F32 f32;
  F64 f64;

  template <class T>
  constexpr const auto& of() const {
    if constexpr (sizeof(T) == sizeof(float))
      return f32;
    else
      return f64;
  }
};

struct Loops {
  Sweep step;
  Measure measure;  // nullptr where a step has no halves, as what follows
  MeasureSums sums = nullptr;
  // The second half by the direction that the first has returned, in the gradient's place, where that is cheaper than
  // to make it again; nullptr elsewhere. It has no slots but the mean.
  Sweep follow = nullptr;
  Sweep stream = nullptr;  // as `step`, for arrays that no cache holds; of the plain way alone
};

// The ways to the same bits: as the processor goes, and around what it is slow on. The careful way's loops are nullptr
// where an ISA has none.
struct Ways {
  Loops plain, careful;
  const Loops& of(bool carefully) const { return carefully ? careful : plain; }
};

// How an operand lies where it is not how it is computed: in fewer bits, with something beside them. Each but the first
// has a line in kernels.cpp.
enum class Code : unsigned char {
  none,
  float16,  // rounded at random, as are those that follow up to the masters
  bfloat16,
  signed8,           // blocks of 128 with a scale each beside them
  unsigned8,         // the same of numbers that are never negative
  float16_mastered,  // a parameter with its float32 master beside it
  bfloat16_mastered,
  split,  // bfloat16 with the other half of a float32 beside it
};
constexpr size_t scaled_block = 128;

// Whose random numbers: of a parameter, by its number, at step t. Two operands share 32 bits.
struct Whose {
  uint32_t number, pair;
  uint64_t t;
};

// An operand from some element on: its numbers, and what is beside them.
struct Lying {
  void *code, *beside;
};

// One step of a rule over n elements of operands that have fewer bits; no average is kept. All places have the same
// upper 32 bits.
using FusedStep = void (*)(const double* scalars, const Around* around, size_t n, const Lying* at, const Whose* whose,
                           uint64_t place);

// Which formats have a loop of their own: all state in bfloat16; or a split parameter with a gradient of bfloat16; or
// both; or all state in 8 bits, of whole blocks, with and without such a parameter.
enum class Fused : unsigned char { none, brain_state, split, split_brain_state, scaled, split_scaled };

// A piece of a matrix: n elements, from the `first` on.
template <class T>
struct Piece {
  size_t n, first, columns;
  const T *row_parts, *column_parts;  // of all the matrix
  double mean;                        // of its rows' averages
};

// The loops over matrices of which a row and a column are kept. A matrix has `columns` columns.
template <class T>
struct Factors {
  // Adds the squares of so many rows, n elements of each, to the sums of columns; sum[0], sum[apart], ... are those of
  // the rows. At most `most_rows`.
  void (*squares)(const Around* around, size_t rows, size_t n, size_t columns, const T* g, double* sum, size_t apart,
                  double* column_sums);
  // From n sums, of so many squares each, the averages; and what a direction takes of them.
  void (*average)(const double* scalars, size_t n, const double* sums, double count, T* averages, T* parts);
  // What follows is done to n elements of a matrix, from the `first` on: p, g, and what more there is, lie so.
  // Their directions.
  void (*direction)(const double* scalars, const Around* around, const Piece<T>& of, const T* g, T* u);
  void (*direction_carefully)(const double* scalars, const Around* around, const Piece<T>& of, const T* g, T* u);
  // The squares of them, added to 16 lanes, from so many elements after the first lane on.
  void (*measure)(const double* scalars, const Around* around, const Piece<T>& of, const T* g, size_t lane,
                  double* lane_sums);
  // The step.
  void (*step)(const double* scalars, const Around* around, const Piece<T>& of, T* p, const T* g);
  static constexpr size_t most_rows = 4;
};

// How the step of a rule goes: at once; or in two halves, with Python between them, or the norms of what the first has
// made, or means over rows and columns. Of several they are bits.
enum Course : unsigned { at_once = 1, with_python = 2, with_norms = 4, with_factors = 8 };

struct Kernel {
  const char* rule;  // nullptr ends the table
  int scalars;       // how many the rule takes, max_scalars at most
  int slots;         // how many state arrays the rule keeps, max_slots at most
  ByType<Ways, Ways> ways;
  bool workspace;  // the last of the slots is no state, but what the first half hands to Python
  // The last scalar of a rule with halves, from the others, the norms of p and u, and how many elements they have;
  // nullptr where Python gives it.
  double (*ratio)(const double* scalars, double p_norm, double u_norm, double n);
  // Whether a gradient of zero changes nothing, by these scalars rounded to float32; nullptr where it always may.
  bool (*rests)(const double* scalars);
  const FusedStep* fused;  // by Fused; nullptr where a step has halves
  int squares;             // the slots that are never negative, a bit each; -1 where no loop has state of 8 bits
  // Of a rule that keeps of a matrix's slot, its only one, a row and a column; nullptr elsewhere.
  const ByType<Factors<float>, Factors<double>>* factors = nullptr;

  // How many of the slots have names of their own, and are there for each parameter.
  int named() const { return factors ? 0 : slots - workspace; }
  bool halves() const { return ways.f32.plain.measure != nullptr; }
  Course course() const {
    if (!halves()) return at_once;
    return workspace ? with_python : factors ? with_factors : with_norms;
  }
};

// What is asked of a block of n contiguous elements, each times a scale, before a step.
template <class T>
struct Queries {
  double (*squares)(size_t n, const T* x, double scale);  // the sum of their squares
  double (*sum)(size_t n, const T* x);                    // of them as they are
  bool (*finite)(size_t n, const T* x, double scale);     // whether none is NaN or infinite
};

// p += g, and s += g for each of so many slots: the memory traffic of a step with next to no arithmetic.
using Traffic = void (*)(size_t n, void* p, const void* g, void* const* slots, int count);

// n elements, from where a block begins. What is rounded at random goes by the upper bits of random numbers, or by the
// lower ones.
struct Codec {
  void (*decode)(size_t n, const void* code, const void* beside, float* x);
  void (*encode)(size_t n, void* code, void* beside, const float* x, const uint32_t* random, bool upper);
};

struct Kernels {
  const Kernel* rules;
  const Codec* codecs;  // by Code
  void (*hash)(size_t n, const Whose* whose, uint64_t place, uint32_t* to);
  ByType<Queries<float>, Queries<double>> queries;
  ByType<Traffic, Traffic> traffic;
  bool* roots_by_products;  // whether every second root of doubles is made so (roots.hpp); nullptr where none can be
};

// Each is kernels.cpp, compiled for that ISA. Which of them exist is decided in CMakeLists.txt. Where they look ahead
// the loops that wait for memory have it fetched before they come to it.
extern "C" {
const Kernels* schuss_kernels_baseline(bool looks_ahead);
const Kernels* schuss_kernels_avx2(bool looks_ahead);
const Kernels* schuss_kernels_avx512(bool looks_ahead);
}
