// The CPU probe, and the environment's override.
#include "isa.hpp"

#include <cstdint>
#include <cstdlib>
#include <stdexcept>

#if defined(SCHUSS_X86) && defined(_MSC_VER)
#include <immintrin.h>
#include <intrin.h>
#elif defined(SCHUSS_X86)
#include <cpuid.h>
#endif

namespace isa {
namespace {

#ifdef SCHUSS_X86

struct Registers {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(uint32_t leaf) {  // zeros where the CPU does not know the leaf
  Registers r;
#ifdef _MSC_VER
  int out[4];
  __cpuid(out, static_cast<int>(leaf & 0x80000000u));
  if (static_cast<uint32_t>(out[0]) < leaf) return r;
  __cpuidex(out, static_cast<int>(leaf), 0);
  r = {static_cast<uint32_t>(out[0]), static_cast<uint32_t>(out[1]), static_cast<uint32_t>(out[2]),
       static_cast<uint32_t>(out[3])};
#else
  __get_cpuid_count(leaf, 0, &r.eax, &r.ebx, &r.ecx, &r.edx);
#endif
  return r;
}

// Which vector registers the operating system saves at a context switch (register XCR0).
uint64_t saved_by_os() {
#ifdef _MSC_VER
  return _xgetbv(0);
#else
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
#endif
}

bool has(uint32_t word, std::initializer_list<int> bits) {
  for (int bit : bits)
    if (!(word >> bit & 1)) return false;
  return true;
}

// The features behind the names x86-64-v3 and x86-64-v4 of the psABI.
struct Cpu {
  bool v3 = false, v4 = false;
  // Intel's processors begin anew at each page of what they read: a Xeon with AVX-512 summed squares twice as fast when
  // told a page before, and a step of Adam on 3e7 took 0.9 of the time. On AMD's Zen 4 that made LAMB slower.
  bool looks_ahead;
  Cpu() : looks_ahead(cpuid(0).ebx == 0x756e6547) {  // "Genu"
    const Registers one = cpuid(1), seven = cpuid(7), extended = cpuid(0x80000001u);
    // FMA, MOVBE, OSXSAVE, AVX, F16C
    if (!has(one.ecx, {12, 22, 27, 28, 29})) return;
    const uint64_t os = saved_by_os();
    v3 = (os & 0x6) == 0x6                         // XMM, YMM
         && has(seven.ebx, {3, 5, 8})              // BMI1, AVX2, BMI2
         && has(extended.ecx, {5});                // LZCNT
    v4 = v3 && (os & 0xe6) == 0xe6                 // opmask, upper ZMM, ZMM16-31
         && has(seven.ebx, {16, 17, 28, 30, 31});  // AVX512 F, DQ, CD, BW, VL
  }
};

#endif

}  // namespace

std::vector<Choice> available() {
#ifdef SCHUSS_X86
  static const Cpu cpu;
  std::vector<Choice> found{{"baseline", schuss_kernels_baseline(cpu.looks_ahead)}};
  if (cpu.v3) found.push_back({"avx2", schuss_kernels_avx2(cpu.looks_ahead)});
  if (cpu.v4) found.push_back({"avx512", schuss_kernels_avx512(cpu.looks_ahead)});
  return found;
#else
  return {{"baseline", schuss_kernels_baseline(false)}};
#endif
}

Choice choose() {
  const std::vector<Choice> found = available();
  const char* wanted = std::getenv("SCHUSS_ISA");
  if (!wanted || !*wanted) return found.back();
  std::string names;
  for (const Choice& choice : found) {
    if (choice.name == wanted) return choice;
    names += (names.empty() ? "" : ", ") + choice.name;
  }
  throw std::invalid_argument("SCHUSS_ISA=" + std::string(wanted) + ": this CPU can run " + names +
                              "; unset SCHUSS_ISA to use " + found.back().name);
}

const Kernels& kernels() {
  static const Choice choice = choose();
  return *choice.kernels;
}

}  // namespace isa
