// The limit that the benchmark measures against: the same memory traffic with next to no arithmetic.
#pragma once
#include <cstddef>

namespace stream {

constexpr size_t most_slots = 4;

// p += g and, for each slot, s += g, over n floats or doubles, in place, on the given number of threads; so often.
template <class T>
void run(size_t n, T* p, const T* g, T* const* slots, int slot_count, int threads, int repeats);

}  // namespace stream
