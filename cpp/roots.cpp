// A step of Adam with the processor's roots and with those by products, by turns.
#include "roots.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "isa.hpp"

namespace schuss {
namespace {

bool& flag() { return *isa::kernels().roots_by_products; }

// The shortest time of each counts, after a first round that wakes the processor. One that is 1.4 times as fast by
// products was only 1.13 times as fast in one of three processes, for the time of this (Zen 4): so a gain of a twelfth
// is one. That there is none is believed after 0.4 ms.
bool faster_by_products() {
  using Clock = std::chrono::steady_clock;
  constexpr size_t n = 2048, apart = n + 40;  // not 4,096 bytes, at which arrays stand in each other's way
  constexpr int turns = 12, rounds = 10;
  constexpr double scalars[] = {0.001, 0.1, 0.001, 1e-8};
  const Kernel* adam = isa::kernels().rules;
  while (std::strcmp(adam->rule, "Adam") != 0) ++adam;
  std::vector<double> room(4 * apart, 0.25);
  double *const p = room.data(), *const g = p + apart;
  void* const slots[] = {g + apart, g + 2 * apart};
  std::array<int64_t, 2> shortest{INT64_MAX, INT64_MAX};
  for (int round = 0; round < rounds; ++round) {
    for (int turn = 0; turn < turns; ++turn) {
      flag() = turn % 2;
      const Clock::time_point start = Clock::now();
      adam->ways.f64.plain.step(scalars, nullptr, n, p, g, slots);
      const int64_t took = std::chrono::nanoseconds(Clock::now() - start).count();
      if (round > 0) shortest[turn % 2] = std::min(shortest[turn % 2], took);
    }
    if (round > 0 && 13 * shortest[1] < 12 * shortest[0]) return true;
  }
  return false;
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
