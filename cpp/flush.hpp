// The processor's mode in which subnormal numbers count as zero, for as long as a Flush lives, on its own thread.
#pragma once
#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#endif

namespace schuss {

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

}  // namespace schuss
