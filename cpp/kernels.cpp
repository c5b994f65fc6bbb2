// The table of rules x {float, double}. This file is compiled once per ISA.
#include "kernels.hpp"

#include "rules.hpp"
#include "sweep.hpp"

namespace {

template <template <class> class Rule>
constexpr Kernel kernel(const char* name) {
  static_assert(Rule<float>::slots <= max_slots && sizeof(Rule<float>) / sizeof(float) <= max_scalars);
  return {name, sizeof(Rule<float>) / sizeof(float), Rule<float>::slots, sweep<Rule<float>, float>,
          sweep<Rule<double>, double>};
}

constexpr Kernel table[] = {
    kernel<SGD>("SGD"),
    kernel<Momentum>("Momentum"),
    kernel<Nesterov>("Nesterov"),
    kernel<AdaGrad>("AdaGrad"),
    kernel<RMSprop>("RMSprop"),
    kernel<Adam>("Adam"),
    {nullptr, 0, 0, nullptr, nullptr},
};

}  // namespace

// SCHUSS_ENTRY is schuss_kernels_<isa>; CMakeLists.txt sets it with the ISA's flags.
extern "C" const Kernel* SCHUSS_ENTRY() { return table; }
