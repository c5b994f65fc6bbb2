// A step of Adam with the processor's roots and with those by products, by turns.
#include "roots.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <stdexcept>

#include "isa.hpp"

namespace schuss {
namespace {

bool& flag() { return *isa::kernels().roots_by_products; }

// The shorter of the times counts: some 20 us in all. A gain of less than a fifth is none.
bool faster_by_products() {
  using Clock = std::chrono::steady_clock;
  constexpr size_t n = 512;
  constexpr int turns = 24;
  constexpr double scalars[] = {0.001, 0.1, 0.001, 1e-8};
  const Kernel* adam = isa::kernels().rules;
  while (std::strcmp(adam->rule, "Adam") != 0) ++adam;
  alignas(64) std::array<double, n> p{}, g{}, m{}, v{};
  for (size_t i = 0; i < n; ++i) g[i] = v[i] = static_cast<double>(i + 1) / n;
  void* const slots[] = {m.data(), v.data()};
  std::array<int64_t, 2> shortest{INT64_MAX, INT64_MAX};
  for (int turn = 0; turn < turns; ++turn) {
    flag() = turn % 2;
    const Clock::time_point start = Clock::now();
    adam->ways.f64.plain.step(scalars, nullptr, n, p.data(), g.data(), slots);
    int64_t& of = shortest[turn % 2];
    of = std::min(of, int64_t{std::chrono::nanoseconds(Clock::now() - start).count()});
  }
  return 6 * shortest[1] < 5 * shortest[0];
}

}  // namespace

bool can_make_roots_by_products() { return isa::kernels().roots_by_products; }

bool roots_by_products() { return can_make_roots_by_products() && flag(); }

void set_roots_by_products(std::optional<bool> wanted) {
  if (!can_make_roots_by_products()) {
    if (wanted.value_or(false)) throw std::invalid_argument("these kernels have no roots by products");
    return;
  }
  static const bool measured = faster_by_products();
  flag() = wanted.value_or(measured);
}

}  // namespace schuss
