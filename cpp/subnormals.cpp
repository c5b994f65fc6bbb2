// Whether the processor is slow on subnormal numbers: measured.
#include "subnormals.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <string>

namespace schuss {
namespace {

// The shortest time that so many products, one after the other, took.
int64_t time_of_products(float factor) {
  using Clock = std::chrono::steady_clock;
  constexpr int repeats = 5, products = 256;
  int64_t shortest = INT64_MAX;
  for (int repeat = 0; repeat < repeats; ++repeat) {
    volatile float x = factor;
    const Clock::time_point start = Clock::now();
    for (int i = 0; i < products; ++i) x = factor * x + factor;
    shortest = std::min(shortest, int64_t{std::chrono::nanoseconds(Clock::now() - start).count()});
  }
  return shortest;
}

// Microcode takes some 30 times as long as the product alone; processors without it are level.
bool slow() { return time_of_products(1e-40f) > 4 * time_of_products(0.5f); }

constexpr int unset = -1;
std::atomic<int> wanted{unset};

}  // namespace

Care care() {
  static const Care measured = slow() ? Care::where_met : Care::never;
  const int care = wanted.load(std::memory_order_relaxed);
  return care == unset ? measured : static_cast<Care>(care);
}

void set_care(std::optional<int> care) {
  if (care && (*care < 0 || *care > 2))
    throw std::invalid_argument("care must be None, 0 (never), 1 (where met) or 2 (always), got " +
                                std::to_string(*care));
  wanted = care.value_or(unset);
}

}  // namespace schuss
