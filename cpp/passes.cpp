// The division of the work among threads and into blocks, and what is done with each.
#include "passes.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "blocks.hpp"
#include "team.hpp"

namespace schuss {
namespace {

// Bytes of the cache's; and more elements than which are worth a call of their own to come to where one begins. On a
// Zen 4, 4,000 float32 of Adam took 2.2 us, or 4.3 where they began 16 bytes after one.
constexpr size_t line = 64, long_run = 128;

constexpr size_t uncached = size_t{32} << 20;  // bytes of a step's traffic from which on the memory is waited for

constexpr size_t clearing = 8;  // blocks of a gradient that are stepped and then cleared

// Bytes of an operand for each thread: what tensors a turn has, so that four operands and their direction are within a
// second-level cache of a MiB; and up to which a single one's direction is kept, which is worth it in any cache.
constexpr size_t turn_bytes = size_t{128} << 10, kept_bytes = size_t{1} << 20;

constexpr size_t backwards = 64 * block_elements;  // the pieces of the second half of what is larger, from its end on

}  // namespace

void Passes::provide(int threads, bool sums) {
  steps_.resize(plan_.blocks());
  const bool halves = plan_.takes(~unsigned{at_once});
  if ((plan_.staged() || halves) && scratch_.size() < static_cast<size_t>(threads))
    scratch_.resize(static_cast<size_t>(threads));
  if (!sums && !halves) return;
  p_sums_.resize(plan_.blocks());
  u_sums_.resize(plan_.blocks());
  finite_.resize(plan_.blocks());
  measures_.resize(plan_.blocks());
  ratios_.resize(plan_.tensors().size(), 1);
  if (plan_.takes(with_factors)) lay_factors(threads);
  if (kept_.size() >= static_cast<size_t>(threads)) return;
  const bool follows = std::any_of(plan_.tensors().begin(), plan_.tensors().end(),
                                   [](const Tensor& tensor) { return tensor.kernel->ways.f32.plain.follow; });
  if (!follows) return;
  kept_.resize(static_cast<size_t>(threads));
  // Shares are cut between blocks, and their directions begin on lines.
  const size_t bytes =
      std::min(kept_bytes, plan_.bytes()) + 2 * block_elements * sizeof(double) + 2 * line * plan_.tensors().size();
  for (auto& kept : kept_) kept.resize(bytes / sizeof(Line));
}

// work(worker) on so many threads.
template <class Work>
void Passes::each_worker(int threads, bool flush, Work work) {
  team::each_rank(threads, [&](int rank, int size) {
    const Flush mode(flush);
    Guide guide(flush || !kernels_.rules->ways.f32.careful.step ? Care::never : care());
    const size_t mine = static_cast<size_t>(rank);
    work(Worker{rank, size, &guide, scratch_.empty() ? nullptr : &scratch_[mine],
                kept_.empty() ? nullptr : reinterpret_cast<char*>(kept_[mine].data())});
  });
}

// work(T(), tensor, share) for a thread's part of the bytes [from, to) of the row of all tensors: equal bytes to each
// thread, cut between blocks. T is the type that the tensor is computed in.
template <class Work>
void Passes::share_out(const Worker& worker, size_t from, size_t to, Work work) {
  const std::vector<Tensor>& tensors = plan_.tensors();
  const std::vector<size_t>& ends = plan_.ends();
  if (ends.empty()) return;
  const size_t each = (to - from) / static_cast<size_t>(worker.size);
  const size_t low = from + each * static_cast<size_t>(worker.rank);
  const size_t high = worker.rank + 1 == worker.size ? to : low + each;
  size_t i = static_cast<size_t>(std::upper_bound(ends.begin(), ends.end(), low) - ends.begin());
  for (; i < tensors.size(); ++i) {
    const Tensor& tensor = tensors[i];
    if (tensor.table) continue;
    const size_t start = ends[i] - tensor.bytes();
    if (start >= high) break;
    const auto cut = [&](size_t position) {
      if (position <= start) return size_t{0};
      if (position >= ends[i]) return tensor.size;
      return (position - start) / tensor.itemsize() / block_elements * block_elements;
    };
    Share share{i, worker.scratch, worker.guide, cut(low), cut(high), 1, nullptr};
    with_type_of(tensor.format, [&](auto type) { work(type, tensor, share); });
  }
}

template <class Work>
void Passes::each_share(int threads, bool flush, size_t from, size_t to, Work work) {
  each_worker(threads, flush, [&](const Worker& worker) { share_out(worker, from, to, work); });
}

void Passes::fill_from(size_t i, const Named& named, size_t width, const char* values) {
  by_rows_.resize(plan_.tensors().size());
  by_rows_[i] = {&named, width, values};
}

std::array<double, max_scalars> Passes::scalars_of(const Tensor& tensor, const Share& share,
                                                   const Orders& orders) const {
  std::array<double, max_scalars> scalars = orders.groups[tensor.group].scalars;
  if (tensor.course != at_once) scalars[static_cast<size_t>(tensor.kernel->scalars) - 1] = share.ratio;
  return scalars;
}

void Passes::step(Part part, unsigned courses, const Orders& orders, int threads, size_t low, size_t high) {
  each_share(threads, orders.flush, low, high, [&](auto type, const Tensor& tensor, Share& share) {
    if (tensor.part != part || !(tensor.course & courses)) return;
    if (tensor.course != at_once) share.ratio = ratios_[share.i];
    step<decltype(type)>(tensor, share, orders);
  });
}

template <class T>
void Passes::step(const Tensor& tensor, const Share& share, const Orders& orders) {
  const Ways& ways = tensor.kernel->ways.of<T>();
  const std::array<double, max_scalars> scalars = scalars_of(tensor, share, orders);
  const Group& group = orders.groups[tensor.group];
  const Around surroundings = orders.around(group), *const around = orders.plain(group) ? nullptr : &surroundings;
  const size_t operands_of_rule = 2 + static_cast<size_t>(tensor.kernel->slots);
  const bool streams = plan_.traffic() >= uncached;
  std::array<void*, max_operands> at;
  const auto run = [&](size_t first, size_t last, bool carefully) {
    // A gradient is cleared while it is still in the cache.
    const size_t piece = orders.clears ? clearing * block_elements : last - first;
    for (; first < last; first += piece) {
      const size_t n = std::min(piece, last - first);
      for (size_t o = 0; o < tensor.operands; ++o) at[o] = tensor.base[o] + first * sizeof(T);
      if (share.kept && !carefully) {
        const Around afterwards = orders.afterwards();
        ways.plain.follow(scalars.data(), orders.average < 0 ? nullptr : &afterwards, n, at[0],
                          share.kept + (first - share.from) * sizeof(T), &at[operands_of_rule]);
      } else {
        (streams && !carefully ? ways.plain.stream : ways.of(carefully).step)(scalars.data(), around, n, at[0], at[1],
                                                                              &at[2]);
      }
      if (orders.clears) std::fill_n(static_cast<T*>(at[1]), n, T(0));
    }
  };
  if (!tensor.axes && !tensor.coded) {
    const bool short_run = share.to - share.from <= long_run && !share.guide->watches();
    if (!short_run)
      in_stretches(tensor, share, run);
    else if (share.from != share.to)
      run(share.from, share.to, share.guide->carefully(Met::none));
    return;
  }
  const auto by_blocks = [&](const Share& part) {
    const unsigned written = orders.clears ? all : all_but_gradient;
    each_block<T>(tensor, part, all, written, orders.t, [&](const Block<T>& block) {
      std::copy(block.at.begin(), block.at.end(), at.begin());
      Met& met = steps_[block.index];
      ways.of(share.guide->carefully(met)).step(scalars.data(), around, block.n, at[0], at[1], &at[2]);
      if (orders.clears) std::fill_n(block.at[1], block.n, T(0));
      share.guide->note(met);
    });
  };
  const Fused with = tensor.axes || tensor.filled ? Fused::none : tensor.coded->fused;
  if (with == Fused::none) return by_blocks(share);
  const FusedStep fused = tensor.kernel->fused[static_cast<size_t>(with)];
  Share whole = share;
  if (with == Fused::scaled || with == Fused::split_scaled) {
    Share rest = share;
    whole.to = rest.from = share.to / block_elements * block_elements;
    by_blocks(rest);
  }
  in_stretches_of_blocks(tensor, whole, by_blocks, [&](size_t first, size_t last) {
    std::array<Lying, max_operands> lying;
    for (size_t o = 0; o < tensor.operands; ++o)
      lying[o] = {tensor.base[o] + first * tensor.itemsize(o), tensor.coded->at(o, first)};
    const Whose whose{tensor.coded->place.number, 0, static_cast<uint64_t>(orders.t)};
    fused(scalars.data(), around, last - first, lying.data(), &whose, tensor.coded->place.first + first);
    if (orders.clears) std::fill_n(static_cast<char*>(lying[1].code), (last - first) * tensor.itemsize(1), char{0});
  });
}

// The same where a run has formats in it, and no careful way: what went so before goes by blocks. A run ends where the
// upper half of a place changes.
template <class ByBlocks, class Run>
void Passes::in_stretches_of_blocks(const Tensor& tensor, const Share& share, ByBlocks by_blocks, Run run) {
  constexpr size_t stretch = 16;
  Met* const met = &steps_[tensor.first_block];
  Met before = Met::none;
  for (size_t first = share.from, last; first < share.to; first = last) {
    const size_t block = first / block_elements, end = (share.to + block_elements - 1) / block_elements;
    size_t next = block + 1;
    if (share.guide->carefully(met[block] == Met::untold ? before : met[block])) {
      last = std::min(share.to, next * block_elements);
      Share part = share;
      part.from = first, part.to = last;
      by_blocks(part);
      before = met[block];
      continue;
    }
    const uint64_t upper = (tensor.coded->place.first + first) >> 32;
    while (next < end && next < block + stretch && met[next] != Met::some &&
           (tensor.coded->place.first + next * block_elements) >> 32 == upper)
      ++next;
    last = std::min(share.to, next * block_elements);
    run(first, last);
    before = share.guide->met();
    std::fill(met + block, met + next, before);
  }
}

// How many bytes of the parameter's line lie before a share of a contiguous array.
size_t Passes::past_line(const Tensor& tensor, const Share& share) {
  return (reinterpret_cast<uintptr_t>(tensor.base[0]) + share.from * tensor.itemsize(0)) % line;
}

// run(first, last, carefully) over a share of a contiguous array: all of it at once, or where the thread watches over
// as many blocks as go the plain way. What was met in such a stretch counts for all its blocks, and they are told apart
// the next time. A block that was not worked on before goes as the one before it.
template <class Run>
void Passes::in_stretches(const Tensor& tensor, const Share& share, Run run) {
  if (share.from == share.to) return;
  // A vector that straddles two cache lines costs twice. NumPy aligns to 16 bytes only, so a long run goes up to the
  // parameter's next line by itself; the state lies as the parameter does.
  constexpr size_t stretch = 16;
  const size_t past = past_line(tensor, share);
  const size_t head = past && share.to - share.from > long_run ? (line - past) / tensor.itemsize(0) : 0;
  const size_t start = share.from + head;
  Met* const met = &steps_[tensor.first_block + share.from / block_elements];
  if (head) run(share.from, start, share.guide->carefully(met[0]));
  if (!share.guide->watches()) return run(start, share.to, share.guide->carefully(Met::none));
  const size_t blocks = (share.to - start + block_elements - 1) / block_elements;
  Met before = Met::none;
  for (size_t block = 0, end; block < blocks; block = end) {
    const bool carefully = share.guide->carefully(met[block] == Met::untold ? before : met[block]);
    for (end = block + 1; !carefully && end < blocks && end < block + stretch && met[end] != Met::some;) ++end;
    run(start + block * block_elements, std::min(share.to, start + end * block_elements), carefully);
    before = share.guide->met();
    std::fill(met + block, met + end, before);
  }
}

void Passes::measure(Part part, unsigned courses, const Orders& orders, int threads) {
  each_share(threads, orders.flush, 0, plan_.bytes(), [&](auto type, const Tensor& tensor, const Share& share) {
    if (tensor.part == part && tensor.course & courses) measure<decltype(type)>(tensor, share, orders);
  });
}

double Passes::ratio_of(size_t i, const Orders& orders) const {
  const Tensor& tensor = plan_.tensors()[i];
  const double p_norm = std::sqrt(tree_sum(p_sums(i), tensor.blocks()));
  const double u_norm = std::sqrt(tree_sum(u_sums(i), tensor.blocks()));
  return tensor.kernel->ratio(orders.groups[tensor.group].scalars.data(), p_norm, u_norm,
                              static_cast<double>(tensor.size));
}

// The tensors [first, end) that make a turn.
size_t Passes::end_of_turn(size_t first, int threads) const {
  const std::vector<size_t>& ends = plan_.ends();
  const size_t begin = first ? ends[first - 1] : 0, most = begin + turn_bytes * static_cast<size_t>(threads);
  const auto beyond = std::upper_bound(ends.begin() + static_cast<std::ptrdiff_t>(first), ends.end(), most);
  return std::max(first + 1, static_cast<size_t>(beyond - ends.begin()));
}

// work(part) for the pieces of a share from its end on: what has been worked on last may still be in a cache.
template <class Work>
void Passes::each_piece_backwards(const Share& share, Work work) {
  Share part = share;
  for (size_t end = share.to; end > share.from; end = part.from) {
    part.from = share.from + (end - share.from - 1) / backwards * backwards, part.to = end;
    work(part);
  }
}

// Each thread computes the ratios of the tensors that it has a share of: from the same sums, by the same tree.
void Passes::halves(Part part, unsigned courses, const Orders& orders, int threads) {
  const bool factors = plan_.takes(courses & with_factors);
  each_worker(threads, orders.flush, [&](const Worker& worker) {
    for (size_t first = 0, last; first < plan_.tensors().size(); first = last) {
      last = end_of_turn(first, threads);
      const size_t low = first ? plan_.ends()[first - 1] : 0, high = plan_.ends()[last - 1];
      const auto each = [&](auto work) {
        char* kept = high - low <= kept_bytes * static_cast<size_t>(worker.size) ? worker.kept : nullptr;
        share_out(worker, low, high, [&](auto type, const Tensor& tensor, Share& share) {
          if (tensor.part != part || !(tensor.course & courses) || tensor.size == 0) return;
          if (kept && !tensor.axes && !tensor.coded && !tensor.factored && tensor.kernel->ways.f32.plain.follow) {
            share.kept = kept + past_line(tensor, share);
            kept += ((share.to - share.from) * tensor.itemsize() / line + 2) * line;
          }
          work(type, tensor, share);
        });
      };
      const auto each_factored = [&](auto work) {
        each([&](auto type, const Tensor& tensor, const Share& share) {
          if (tensor.factored) work(type, tensor, share);
        });
      };
      each([&](auto type, const Tensor& tensor, const Share& share) {
        using T = decltype(type);
        tensor.factored ? sum_squares<T>(tensor, share, orders) : measure<T>(tensor, share, orders);
      });
      team::meet(worker.size);
      if (factors) {
        each_factored([&](auto type, const Tensor& tensor, const Share& share) {
          average_pieces<decltype(type)>(tensor, share, orders);
        });
        team::meet(worker.size);
        each_factored([&](auto type, const Tensor& tensor, const Share& share) {
          Mean mean;
          each_piece_backwards(
              share, [&](const Share& piece) { measure_factored<decltype(type)>(tensor, piece, orders, mean); });
        });
        team::meet(worker.size);
      }
      each([&](auto type, const Tensor& tensor, Share& share) {
        using T = decltype(type);
        share.ratio = ratio_of(share.i, orders);
        if (tensor.factored) return step_factored<T>(tensor, share, orders);
        if (share.kept) return step<T>(tensor, share, orders);
        each_piece_backwards(share, [&](const Share& piece) { step<T>(tensor, piece, orders); });
      });
      if (factors) team::meet(worker.size);  // the next turn's parts lie where this one's do
    }
  });
}

template <class T>
void Passes::measure(const Tensor& tensor, const Share& share, const Orders& orders) {
  const Queries<T>& queries = kernels_.queries.of<T>();
  const Ways& ways = tensor.kernel->ways.of<T>();
  const std::array<double, max_scalars> scalars = scalars_of(tensor, share, orders);
  const Around around = orders.around(orders.groups[tensor.group]);
  std::array<void*, max_operands> at;
  const auto measure = [&](const Block<T>& block, size_t from, size_t to, T* u) {
    Met& met = measures_[block.index];
    for (size_t o = 0; o < tensor.operands; ++o) at[o] = block.at[o] + from;
    ways.of(share.guide->carefully(met)).measure(scalars.data(), &around, to - from, at[0], at[1], &at[2], u + from);
    share.guide->note(met);
  };
  const auto sum = [&](const Block<T>& block, const T* u) {
    p_sums_[block.index] = queries.squares(block.n, block.at[0], 1);
    u_sums_[block.index] = queries.squares(block.n, u, 1);
  };
  // State of fewer bits belongs to rules whose first half does not change it.
  unsigned written = state_alone;
  for (size_t o = 0; o < tensor.operands; ++o)
    if (tensor.code(o) != Code::none) written &= ~(1u << o);
  if (!share.kept)
    return each_block<T>(tensor, share, all, written, orders.t, [&](const Block<T>& block) {
      Met& met = measures_[block.index];
      if (share.guide->carefully(met)) {
        T* const u = share.scratch->of<T>(max_operands);
        measure(block, 0, block.n, u);
        return sum(block, u);
      }
      std::copy(block.at.begin(), block.at.end(), at.begin());
      const Sums sums = ways.plain.sums(scalars.data(), &around, block.n, at[0], at[1], &at[2]);
      p_sums_[block.index] = sums.p, u_sums_[block.index] = sums.u;
      share.guide->note(met);
    });
  // The loop goes from line to line, as in in_stretches(), and so up to `ahead` elements further than the sums have
  // come. The direction lies as the parameter does.
  const size_t past = past_line(tensor, share), ahead = past ? (line - past) / sizeof(T) : 0;
  T* u = reinterpret_cast<T*>(share.kept);
  size_t measured = 0;
  each_block<T>(tensor, share, all, written, orders.t, [&](const Block<T>& block) {
    const size_t left = share.to - (block.index - tensor.first_block) * block_elements;
    const size_t head = std::min(ahead, left), end = std::min(block.n + ahead, left);
    if (measured < head) measure(block, 0, measured = head, u);
    if (measured < end) measure(block, measured, end, u);
    sum(block, u);
    measured = end - block.n;
    u += block.n;
  });
}

void Passes::survey(const Orders& orders, int threads) {
  each_share(threads, orders.flush, 0, plan_.bytes(), [&](auto type, const Tensor& tensor, const Share& share) {
    survey<decltype(type)>(tensor, share, orders);
  });
}

std::pair<double*, char*> Passes::blank_survey(size_t i) {
  const Tensor& tensor = plan_.tensors()[i];
  double* const sums = u_sums_.data() + tensor.first_block;
  char* const finite = finite_.data() + tensor.first_block;
  std::fill_n(sums, tensor.blocks(), 0.0);
  std::fill_n(finite, tensor.blocks(), char{1});
  return {sums, finite};
}

bool Passes::all_finite(size_t i) const {
  const char* const first = finite_.data() + plan_.tensors()[i].first_block;
  const char* const last = first + plan_.tensors()[i].blocks();
  return std::find(first, last, 0) == last;
}

Passes::Survey Passes::surveyed() const {
  Survey found{0, {}};
  std::vector<double> sums;
  for (size_t i = 0; i < plan_.tensors().size(); ++i) {
    const size_t first = plan_.tensors()[i].first_block, n = plan_.tensors()[i].blocks();
    if (!found.first_not_finite && !all_finite(i)) found.first_not_finite = i;
    sums.push_back(tree_sum(u_sums_.data() + first, n));
  }
  found.norm = std::sqrt(tree_sum(sums.data(), sums.size()));
  return found;
}

template <class T>
void Passes::survey(const Tensor& tensor, const Share& share, const Orders& orders) {
  const Queries<T>& queries = kernels_.queries.of<T>();
  each_block<T>(tensor, share, gradient, nothing, orders.t, [&](const Block<T>& block) {
    // Squares of finite numbers may overflow; only then are the numbers themselves looked at.
    const double sum = queries.squares(block.n, block.at[1], orders.scale);
    u_sums_[block.index] = sum;
    finite_[block.index] = std::isfinite(sum) || queries.finite(block.n, block.at[1], orders.scale);
  });
}

}  // namespace schuss
