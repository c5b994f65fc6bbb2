// The table of rules x {float, double}. This file is compiled once per ISA.
#include "kernels.hpp"

#include "codes.hpp"
#include "factored.hpp"
#include "fused.hpp"
#include "queries.hpp"
#include "rules.hpp"
#include "sweep.hpp"
#include "traffic.hpp"

namespace {

template <template <class> class Rule, class T, bool halves>
constexpr Ways ways() {
  Ways ways{{sweep<Rule<T>, T>, nullptr}, {nullptr, nullptr}};
  if constexpr (halves) ways.plain.measure = measure<Rule<T>, T>, ways.plain.sums = measured_sums<Rule<T>, T>;
  ways.plain.stream = stream<Rule<T>, T>;
  if constexpr (halves && follows<Rule<T>>) ways.plain.follow = sweep<Follow<Rule<T>>, T>;
#ifdef SCHUSS_GRADUAL
  ways.careful.step = Careful<Rule, T>::sweep;
  if constexpr (halves) ways.careful.measure = Careful<Rule, T>::measure;
  if constexpr (halves && follows<Rule<T>>) ways.careful.follow = Careful<Following<Rule>::template By, T>::sweep;
#endif
  return ways;
}

template <template <class> class Rule, int squares = -1, bool halves = false, bool fused = !halves>
constexpr Kernel kernel(const char* name) {
  constexpr int scalars = sizeof(Rule<float>) / sizeof(float);
  static_assert(Rule<float>::slots <= max_slots && scalars <= max_scalars);
  Kernel k{name,
           scalars,
           Rule<float>::slots,
           {ways<Rule, float, halves>(), ways<Rule, double, halves>()},
           false,
           nullptr,
           nullptr,
           nullptr,
           squares};
  if constexpr (fused) k.fused = fused_steps<Rule<float>, squares>;
  return k;
}

// A rule to which a gradient of zero may be none.
template <template <class> class Rule, int squares = -1>
constexpr Kernel resting(const char* name) {
  Kernel k = kernel<Rule, squares>(name);
  k.rests = Rule<float>::rests;
  return k;
}

// A rule of few arrays with a root for each element: what waits for memory does not wait for roots.
template <template <class> class Rule>
constexpr Kernel rooted(Kernel k) {
#ifdef SCHUSS_ESTIMATES
  k.ways.f64.plain.step = sweep_by_turns<Rule>;
#endif
  return k;
}

// A form of a rule that another framework has. Its formats of fewer bits go block by block.
template <template <class> class Rule>
constexpr Kernel form(const char* name) {
  return kernel<Rule, -1, false, false>(name);
}

// A rule in two halves, with its ratio.
template <template <class> class Rule>
constexpr Kernel halves(const char* name, double (*ratio)(const double*, double, double, double)) {
  Kernel k = kernel<Rule, -1, true>(name);
  k.ratio = ratio;
  return k;
}

// The same, where the optimizer's Python class gives the ratio, from what it does to a workspace.
template <template <class> class Rule>
constexpr Kernel halves(const char* name) {
  Kernel k = halves<Rule>(name, nullptr);
  k.workspace = true;
  return k;
}

// The same, with a form for matrices.
template <template <class> class Rule, template <class> class OfMatrix>
constexpr Kernel factored(const char* name) {
  Kernel k = halves<Rule>(name, Rule<double>::ratio_of);
  k.factors = &factors<OfMatrix>;
  return k;
}

// With the slots that are never negative, of those whose state may have 8 bits.
constexpr Kernel rules[] = {
    resting<SGD>("SGD"),
    kernel<Momentum, 0b0>("Momentum"),
    kernel<Nesterov, 0b0>("Nesterov"),
    rooted<AdaGrad>(resting<AdaGrad, 0b1>("AdaGrad")),
    rooted<RMSprop>(kernel<RMSprop, 0b1>("RMSprop")),
    rooted<RMSpropCentered>(kernel<RMSpropCentered>("RMSpropCentered")),
    rooted<RMSpropMomentum>(kernel<RMSpropMomentum, 0b01>("RMSpropMomentum")),
    rooted<RMSpropCenteredMomentum>(kernel<RMSpropCenteredMomentum>("RMSpropCenteredMomentum")),
    rooted<Adam>(kernel<Adam, 0b10>("Adam")),
    rooted<AdamW>(kernel<AdamW, 0b10>("AdamW")),
    rooted<AMSGrad>(kernel<AMSGrad>("AMSGrad")),
    kernel<Adamax, 0b10>("Adamax"),
    rooted<NAdam>(kernel<NAdam, 0b10>("NAdam")),
    rooted<RAdam>(kernel<RAdam, 0b10>("RAdam")),
    rooted<AdaDelta>(kernel<AdaDelta, 0b11>("AdaDelta")),
    kernel<Lion, 0b0>("Lion"),
    kernel<Adan, 0b0100>("Adan"),
    kernel<ScheduleFreeSGD>("ScheduleFreeSGD"),
    kernel<ScheduleFreeAdamW>("ScheduleFreeAdamW"),
    form<HeavyBall>("HeavyBall"),
    rooted<RMSpropHeavyBall>(form<RMSpropHeavyBall>("RMSpropHeavyBall")),
    rooted<RMSpropCenteredHeavyBall>(form<RMSpropCenteredHeavyBall>("RMSpropCenteredHeavyBall")),
    form<ASGD>("ASGD"),
    form<Rprop>("Rprop"),
    rooted<Decoupled<AMSGrad>::Of>(form<Decoupled<AMSGrad>::Of>("AMSGradW")),
    rooted<Decoupled<NAdam>::Of>(form<Decoupled<NAdam>::Of>("NAdamW")),
    rooted<Decoupled<RAdam>::Of>(form<Decoupled<RAdam>::Of>("RAdamW")),
    halves<LAMB>("LAMB", LAMB<double>::ratio_of),
    halves<LARS>("LARS", LARS<double>::ratio_of),
    halves<Muon>("Muon"),
    factored<Adafactor, AdafactorOfMatrix>("Adafactor"),
    {nullptr, 0, 0, {}, false, nullptr, nullptr, nullptr, -1},
};

// In the order of Code.
constexpr Codec codecs[] = {
    {nullptr, nullptr},       codec<Elements<Alone<Float16>>>, codec<Elements<Alone<BFloat16>>>, codec<Blocks<Signed8>>,
    codec<Blocks<Unsigned8>>, codec<Mastered<Float16>>,        codec<Mastered<BFloat16>>,        codec<Elements<Split>>,
};

constexpr Kernels kernels = {
    rules,
    codecs,
    hash,
    {queries<float>, queries<double>},
    {traffic<float>, traffic<double>},
#ifdef SCHUSS_ESTIMATES
    &roots_by_products,
#else
    nullptr,
#endif
};

}  // namespace

// SCHUSS_ENTRY is schuss_kernels_<isa>; CMakeLists.txt sets it with the ISA's flags.
extern "C" const Kernels* SCHUSS_ENTRY(bool ahead) {
  looks_ahead = ahead;
  return &kernels;
}
