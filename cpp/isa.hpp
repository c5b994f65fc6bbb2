// Which instruction sets this CPU has, and which set of kernels is used.
#pragma once
#include <string>
#include <vector>

#include "kernels.hpp"

namespace isa {

struct Choice {
  std::string name;  // "baseline", "avx2" or "avx512"
  const Kernels* kernels;
};

// Those compiled in that this CPU and its operating system can run, slowest first.
std::vector<Choice> available();

// The best available, or the one that SCHUSS_ISA asks for; std::invalid_argument if it cannot be had.
Choice choose();

// Its kernels, chosen once.
const Kernels& kernels();

}  // namespace isa
