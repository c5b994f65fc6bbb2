// What the processor does with subnormal numbers: whether they count as zero, whether it met any, and whether it is
// slow on them.
#pragma once
#include <cstdint>
#include <optional>

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#endif

namespace schuss {

// The mode in which they count as zero, for as long as a Flush lives.
class Flush {
 public:
#if defined(__x86_64__) || defined(_M_X64)
  static constexpr bool available = true;

 private:
  using Mode = unsigned;
  static constexpr Mode to_zero = 0x8040;  // results (FTZ) and operands (DAZ)
  static Mode get() { return _mm_getcsr(); }
  static void set(Mode mode) { _mm_setcsr(mode); }
#elif defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))
  static constexpr bool available = true;

 private:
  using Mode = uint64_t;
  static constexpr Mode to_zero = Mode{1} << 24;  // FZ
  static Mode get() {
    Mode mode;
    asm volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
  }
  static void set(Mode mode) { asm volatile("msr fpcr, %0" : : "r"(mode)); }
#else
  static constexpr bool available = false;

 private:
  using Mode = unsigned;
  static constexpr Mode to_zero = 0;
  static Mode get() { return 0; }
  static void set(Mode) {}
#endif

 public:
  explicit Flush(bool wanted) : wanted_(wanted), before_(wanted ? get() : 0) {
    if (wanted_) set(before_ | to_zero);
  }
  ~Flush() {
    if (wanted_) set(before_);
  }
  Flush(const Flush&) = delete;
  Flush& operator=(const Flush&) = delete;

 private:
  const bool wanted_;
  const Mode before_;
};

// Whether the thread met any, by the processor's sticky flags. Reading them costs a few cycles, setting them some more:
// that is done only where they were set.
class Watch {
#if defined(__x86_64__) || defined(_M_X64)
 public:
  explicit Watch(bool wanted) : found_(wanted ? _mm_getcsr() & met : 0) { clear(found_); }
  ~Watch() {
    if (found_) _mm_setcsr(_mm_getcsr() | found_);  // whoever had set them before
  }
  bool met_any() {  // since the last time that this was asked
    const unsigned found = _mm_getcsr() & met;
    clear(found);
    return found != 0;
  }

 private:
  static constexpr unsigned met = 0x12;  // a subnormal operand (DE), a result below the normal range (UE)
  static void clear(unsigned found) {
    if (found) _mm_setcsr(_mm_getcsr() & ~met);
  }
  const unsigned found_;
#else
 public:
  explicit Watch(bool) {}
  bool met_any() { return false; }
#endif
 public:
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;
};

// Which blocks go by the careful way, around such numbers.
enum class Care : int { never, where_met, always };

// Whether a block met subnormal numbers; `untold` as long as it was not worked on.
enum class Met : char { untold, none, some };

// Where they are met if the processor is slow on them, which is measured once; or what set_care() asks for.
Care care();
void set_care(std::optional<int> care);

// By what a thread decides which way a block goes.
class Guide {
 public:
  explicit Guide(Care care) : care_(care), watch_(care == Care::where_met) {}
  bool watches() const { return care_ == Care::where_met; }
  bool carefully(Met met) const { return care_ == Care::always || (watches() && met == Met::some); }
  // Asked after the work on a block.
  Met met() { return watches() && watch_.met_any() ? Met::some : Met::none; }
  // The same, into what is known of the block: only where it is new, as its cache line is other threads', too.
  void note(Met& block) {
    if (const Met now = met(); block != now) block = now;
  }

 private:
  const Care care_;
  Watch watch_;
};

}  // namespace schuss
