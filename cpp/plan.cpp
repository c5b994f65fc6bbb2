// Checks between arrays, the merging of axes, and the division of the work.
#include "plan.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#include "flush.hpp"
#include "team.hpp"

namespace schuss {
namespace {

// A piece of memory that an update reads or writes, and whose it is.
struct Claim {
  Extent extent;
  Role role;
  py::handle key, array;
  bool written() const { return role != Role::gradient; }
};

// Exact, and with a bound on the effort: what cannot be shown to be apart counts as overlapping.
bool share_memory(py::handle a, py::handle b) {
  try {
    return py::module_::import("numpy").attr("shares_memory")(a, b, 1000000).cast<bool>();
  } catch (py::error_already_set& error) {
    if (error.matches(py::module_::import("numpy.exceptions").attr("TooHardError"))) return true;
    throw;
  }
}

// Nothing that is written may overlap anything else. Two gradients may: they are only read.
void refuse_overlaps(std::vector<Claim>& claims) {
  std::sort(claims.begin(), claims.end(), [](const Claim& a, const Claim& b) { return a.extent.low < b.extent.low; });
  for (size_t i = 0; i < claims.size(); ++i)
    for (size_t j = i + 1; j < claims.size() && claims[j].extent.low < claims[i].extent.high; ++j) {
      const Claim &a = claims[i], &b = claims[j];
      if ((a.written() || b.written()) && share_memory(a.array, b.array))
        throw py::value_error(name_of(a.role, a.key) + " and " + name_of(b.role, b.key) +
                              " overlap in memory; each must have memory of its own: use a copy of one");
    }
}

void refuse_mismatch(const Entry& entry) {
  const View &p = entry.p_view, &g = entry.g_view;
  const auto shape_differs = [&] { return p.ndim != g.ndim || !std::equal(p.shape, p.shape + p.ndim, g.shape); };
  if (p.is_double != g.is_double)
    throw py::type_error(name_of(Role::gradient, entry.key) + " is " + dtype_text(g) + ", its parameter is " +
                         dtype_text(p) + "; convert the gradient with .astype(numpy." + dtype_text(p) + ")");
  if (shape_differs())
    throw py::value_error(name_of(Role::gradient, entry.key) + " has shape " + shape_text(g) +
                          ", its parameter has shape " + shape_text(p) + "; they must be equal");
}

void refuse_change(const Entry& entry, const View& state) {
  const View& p = entry.p_view;
  if (p.is_double != state.is_double || p.ndim != state.ndim || !std::equal(p.shape, p.shape + p.ndim, state.shape))
    throw py::value_error(name_of(Role::parameter, entry.key) + " is " + dtype_text(p) + " of shape " + shape_text(p) +
                          ", but its state was made for " + dtype_text(state) + " of shape " + shape_text(state) +
                          "; a changed parameter needs a new optimizer");
}

// The sum of n numbers, by pairs of neighbours: the same however many threads have computed them.
double tree_sum(double* x, size_t n) {
  if (n == 0) return 0;
  for (; n > 1; n = (n + 1) / 2) {
    for (size_t i = 0; i < n / 2; ++i) x[i] = x[2 * i] + x[2 * i + 1];
    if (n % 2) x[n / 2] = x[n - 1];
  }
  return x[0];
}

size_t blocks_of(size_t elements) { return (elements + block_elements - 1) / block_elements; }

}  // namespace

Plan::Seen::Seen(const View& view) : data(view.data), is_double(view.is_double), kind(view.kind) {
  layout.assign(view.shape, view.shape + view.ndim);
  layout.insert(layout.end(), view.strides, view.strides + view.ndim);
}

bool Plan::Seen::same_layout(const View& view) const {
  const size_t n = static_cast<size_t>(view.ndim);
  return view.is_double == is_double && view.kind == kind && layout.size() == 2 * n &&
         std::equal(view.shape, view.shape + n, layout.begin()) &&
         std::equal(view.strides, view.strides + n, layout.begin() + view.ndim);
}

bool Plan::follow(const std::vector<Entry>& entries) {
  if (entries.size() != rows_.size()) return false;
  for (size_t i = 0; i < entries.size(); ++i) {
    const Entry& entry = entries[i];
    const Row& row = *rows_[i];
    if (!row.key.is(entry.key) && !row.key.equal(entry.key)) return false;
    if (entry.p_view.data != row.p.data || !row.p.same_layout(entry.p_view)) return false;
    if (!row.g.same_layout(entry.g_view)) return false;
    if (entry.g_view.data == row.g.data) continue;
    // A gradient elsewhere than before: free of everything written?
    const Extent g = extent_of(entry.g_view);
    const auto after = std::upper_bound(written_.begin(), written_.end(), g.low,
                                        [](const char* low, const Extent& e) { return low < e.high; });
    if (after != written_.end() && after->low < g.high) return false;
  }
  for (size_t i = 0; i < entries.size(); ++i) {
    Seen& g = rows_[i]->g;
    if (g.data == nullptr || g.data == entries[i].g_view.data) continue;
    tensors_[i].base[1] += entries[i].g_view.data - g.data;
    g.data = entries[i].g_view.data;
  }
  return true;
}

void Plan::make(const std::vector<Entry>& entries, const std::vector<std::vector<py::object>>& states,
                const std::vector<size_t>& groups) {
  std::vector<std::unique_ptr<Row>> rows;
  std::vector<Tensor> tensors;
  std::vector<size_t> ends;
  std::vector<Claim> claims;
  const auto claim = [&claims](const View& view, Role role, py::handle key, py::handle array) {
    const Extent extent = extent_of(view);
    if (view.data && extent.low != extent.high) claims.push_back({extent, role, key, array});
  };
  size_t bytes = 0, blocks = 0;
  for (size_t i = 0; i < entries.size(); ++i) {
    const Entry& entry = entries[i];
    refuse_mismatch(entry);
    claim(entry.p_view, Role::parameter, entry.key, entry.p);
    claim(entry.g_view, Role::gradient, entry.key, entry.g);
    std::vector<View> state_views;
    for (const py::object& state : states[i]) {
      state_views.push_back(look(state, Role::state, entry.key));
      refuse_change(entry, state_views.back());
      claim(state_views.back(), Role::state, entry.key, state);
    }
    rows.push_back(std::unique_ptr<Row>(new Row{entry.key, Seen(entry.p_view), Seen(entry.g_view), states[i], {}}));
    tensors.push_back(flatten(entry, state_views, *rows.back()));
    tensors.back().group = groups.empty() ? 0 : groups[i];
    tensors.back().first_block = blocks;
    blocks += blocks_of(tensors.back().size);
    ends.push_back(bytes += tensors.back().size * tensors.back().itemsize());
  }
  refuse_overlaps(claims);
  // follow() searches these by bisection. Extents may interleave though no elements do (two columns of one matrix):
  // those are joined, so that a gradient that moves near them is looked at in full.
  std::vector<Extent> written;
  for (const Claim& c : claims) {
    if (!c.written()) continue;
    if (!written.empty() && c.extent.low < written.back().high)
      written.back().high = std::max(written.back().high, c.extent.high);
    else
      written.push_back(c.extent);
  }
  rows_ = std::move(rows);
  tensors_ = std::move(tensors);
  ends_ = std::move(ends);
  written_ = std::move(written);
  blocks_ = blocks;
}

void Plan::forget() {
  rows_.clear();
  tensors_.clear();
  ends_.clear();
  written_.clear();
  blocks_ = 0;
}

// Orders the axes by the parameter's strides, turns those that run backwards, and merges what is contiguous.
Plan::Tensor Plan::flatten(const Entry& entry, const std::vector<View>& state, Row& row) const {
  std::vector<const View*> views{&entry.p_view, &entry.g_view};
  for (const View& view : state) views.push_back(&view);

  const View& p = entry.p_view;
  Tensor tensor{p.size(), p.is_double, 0, 0, {}, nullptr, {}};
  for (size_t o = 0; o < views.size(); ++o)
    tensor.base[o] = views[o]->data ? views[o]->data : reinterpret_cast<char*>(&row.cell[o]);
  if (tensor.size == 0) return tensor;

  std::vector<int> order;
  for (int axis = 0; axis < p.ndim; ++axis)
    if (p.shape[axis] > 1) order.push_back(axis);
  std::stable_sort(order.begin(), order.end(),
                   [&p](int a, int b) { return std::abs(p.strides[a]) > std::abs(p.strides[b]); });

  auto axes = std::make_unique<Axes>();
  axes->strides.resize(views.size());
  for (int axis : order) {
    const size_t length = static_cast<size_t>(p.shape[axis]);
    const bool backwards = p.strides[axis] < 0;
    std::vector<std::ptrdiff_t> stride(views.size());
    for (size_t o = 0; o < views.size(); ++o) {
      stride[o] = views[o]->strides[axis];
      if (!backwards) continue;
      tensor.base[o] += (p.shape[axis] - 1) * stride[o];
      stride[o] = -stride[o];
    }
    bool merges = !axes->shape.empty();
    for (size_t o = 0; o < views.size() && merges; ++o) merges = axes->strides[o].back() == stride[o] * p.shape[axis];
    if (merges)
      axes->shape.back() *= length;
    else
      axes->shape.push_back(length);
    for (size_t o = 0; o < views.size(); ++o) {
      if (merges) axes->strides[o].pop_back();
      axes->strides[o].push_back(stride[o]);
    }
  }
  bool staged = false;
  for (size_t o = 0; o < views.size(); ++o) staged |= tensor.staged[o] = !axes->unit(o, tensor.itemsize());
  if (staged) tensor.axes = std::move(axes);
  return tensor;
}

void Plan::load_floats(const std::vector<Entry>& entries) {
  const auto load = [](const View& view, py::handle value, double& cell) {
    if (view.data) return;
    const double number = float_value(value);
    const float single = static_cast<float>(number);
    view.is_double ? std::memcpy(&cell, &number, sizeof number) : std::memcpy(&cell, &single, sizeof single);
  };
  for (size_t i = 0; i < entries.size(); ++i) {
    load(entries[i].p_view, entries[i].p, rows_[i]->cell[0]);
    load(entries[i].g_view, entries[i].g, rows_[i]->cell[1]);
  }
}

double Plan::float_result(size_t i) const {
  const double& cell = rows_[i]->cell[0];
  if (rows_[i]->p.is_double) return cell;
  float single;
  std::memcpy(&single, &cell, sizeof single);
  return static_cast<double>(single);
}

size_t Plan::traffic() const {
  const size_t streams = 3 + 2 * slots_;  // p and each slot both ways, g in
  return ends_.empty() ? 0 : ends_.back() * streams;
}

// work(tensor, from, to) for each thread's part of the row of all tensors: equal bytes to each, cut between blocks.
template <class Work>
void Plan::each_share(int threads, bool flush, Work work) const {
  const auto share = [&](int rank, int size) {
    const Flush mode(flush);
    if (ends_.empty()) return;
    const size_t total = ends_.back();
    const size_t low = total / static_cast<size_t>(size) * static_cast<size_t>(rank);
    const size_t high = rank + 1 == size ? total : total / static_cast<size_t>(size) * static_cast<size_t>(rank + 1);
    size_t i = static_cast<size_t>(std::upper_bound(ends_.begin(), ends_.end(), low) - ends_.begin());
    for (; i < tensors_.size(); ++i) {
      const Tensor& tensor = tensors_[i];
      const size_t start = ends_[i] - tensor.size * tensor.itemsize();
      if (start >= high) break;
      const auto cut = [&](size_t position) {
        if (position <= start) return size_t{0};
        if (position >= ends_[i]) return tensor.size;
        return (position - start) / tensor.itemsize() / block_elements * block_elements;
      };
      work(tensor, cut(low), cut(high));
    }
  };
  using Share = decltype(share);
  team::run(
      threads, [](void* given, int rank, int size) { (*static_cast<const Share*>(given))(rank, size); },
      const_cast<void*>(static_cast<const void*>(&share)));
}

template <class T>
struct Plan::Block {
  size_t index, n;  // which of its tensor's blocks, of how many elements
  std::array<T*, max_operands> at;
};

// Operands, as bits.
constexpr unsigned gradient = 2, all = ~0u, all_but_gradient = ~2u, state_alone = ~3u, nothing = 0;

// For each block: stages in the operands that are read, calls work(block), stages out those that are written.
template <class T, class Work>
void Plan::each_block(const Tensor& tensor, unsigned read, unsigned written, size_t from, size_t to, Work work) const {
  alignas(64) T scratch[max_operands][block_elements];
  for (size_t first = from; first < to; first += block_elements) {
    Block<T> block{first / block_elements, std::min(block_elements, to - first), {}};
    for (size_t o = 0; o < operands(); ++o) {
      if (!(read >> o & 1)) continue;
      block.at[o] = tensor.staged[o] ? scratch[o] : reinterpret_cast<T*>(tensor.base[o]) + first;
      if (tensor.staged[o]) stage_in(*tensor.axes, o, tensor.base[o], sizeof(T), first, block.n, scratch[o]);
    }
    work(block);
    for (size_t o = 0; o < operands(); ++o)
      if (tensor.staged[o] && (read & written) >> o & 1)
        stage_out(*tensor.axes, o, tensor.base[o], sizeof(T), first, block.n, block.at[o]);
  }
}

std::array<double, max_scalars> Plan::scalars_of(const Tensor& tensor, const Orders& orders) const {
  std::array<double, max_scalars> scalars = orders.groups[tensor.group].scalars;
  if (kernel_.measure_f32) scalars[static_cast<size_t>(kernel_.scalars) - 1] = tensor.ratio;
  return scalars;
}

void Plan::run(const Orders& orders, int threads) {
  each_share(threads, orders.flush, [&](const Tensor& tensor, size_t from, size_t to) {
    tensor.is_double ? step<double>(tensor, orders, from, to) : step<float>(tensor, orders, from, to);
  });
}

template <class T>
void Plan::step(const Tensor& tensor, const Orders& orders, size_t from, size_t to) const {
  const Sweep sweep = tensor.is_double ? kernel_.f64 : kernel_.f32;
  const std::array<double, max_scalars> scalars = scalars_of(tensor, orders);
  const Group& group = orders.groups[tensor.group];
  const Around surroundings = orders.around(group), *const around = orders.plain(group) ? nullptr : &surroundings;
  std::array<void*, max_operands> at;
  if (!tensor.axes) {
    // A vector that straddles two cache lines costs twice. NumPy aligns to 16 bytes only, so a long run goes up to
    // the parameter's next line by itself; the state lies as the parameter does.
    constexpr size_t line = 64, long_run = 4096;
    const size_t past_line = (reinterpret_cast<uintptr_t>(tensor.base[0]) + from * sizeof(T)) % line;
    const size_t head = past_line && to - from > long_run ? (line - past_line) / sizeof(T) : 0;
    for (const auto& [first, last] : {std::pair(from, from + head), std::pair(from + head, to)}) {
      if (first == last) continue;
      for (size_t o = 0; o < operands(); ++o) at[o] = tensor.base[o] + first * sizeof(T);
      sweep(scalars.data(), around, last - first, at[0], at[1], &at[2]);
    }
    return;
  }
  each_block<T>(tensor, all, all_but_gradient, from, to, [&](const Block<T>& block) {
    std::copy(block.at.begin(), block.at.end(), at.begin());
    sweep(scalars.data(), around, block.n, at[0], at[1], &at[2]);
  });
}

std::vector<Plan::Norms> Plan::measure(const Orders& orders, int threads) {
  p_sums_.resize(blocks_);
  u_sums_.resize(blocks_);
  each_share(threads, orders.flush, [&](const Tensor& tensor, size_t from, size_t to) {
    tensor.is_double ? measure<double>(tensor, orders, from, to) : measure<float>(tensor, orders, from, to);
  });
  std::vector<Norms> norms;
  for (const Tensor& tensor : tensors_) {
    const size_t n = blocks_of(tensor.size);
    norms.push_back({std::sqrt(tree_sum(p_sums_.data() + tensor.first_block, n)),
                     std::sqrt(tree_sum(u_sums_.data() + tensor.first_block, n))});
  }
  return norms;
}

template <class T>
void Plan::measure(const Tensor& tensor, const Orders& orders, size_t from, size_t to) {
  const Queries<T>& queries = kernels_.queries<T>();
  const Measure half = tensor.is_double ? kernel_.measure_f64 : kernel_.measure_f32;
  const std::array<double, max_scalars> scalars = scalars_of(tensor, orders);
  const Around around = orders.around(orders.groups[tensor.group]);
  each_block<T>(tensor, all, state_alone, from, to, [&](const Block<T>& block) {
    alignas(64) T u[block_elements];
    std::array<void*, max_operands> at;
    std::copy(block.at.begin(), block.at.end(), at.begin());
    half(scalars.data(), &around, block.n, at[0], at[1], &at[2], u);
    p_sums_[tensor.first_block + block.index] = queries.squares(block.n, block.at[0], 1);
    u_sums_[tensor.first_block + block.index] = queries.squares(block.n, u, 1);
  });
}

Plan::Survey Plan::survey(const Orders& orders, int threads) {
  u_sums_.resize(blocks_);
  finite_.resize(blocks_);
  each_share(threads, orders.flush, [&](const Tensor& tensor, size_t from, size_t to) {
    tensor.is_double ? survey<double>(tensor, orders.scale, from, to) : survey<float>(tensor, orders.scale, from, to);
  });
  Survey found{0, none};
  std::vector<double> sums;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const size_t first = tensors_[i].first_block, n = blocks_of(tensors_[i].size);
    const char* const finite = finite_.data() + first;
    if (found.first_not_finite == none && std::find(finite, finite + n, 0) != finite + n) found.first_not_finite = i;
    sums.push_back(tree_sum(u_sums_.data() + first, n));
  }
  found.norm = std::sqrt(tree_sum(sums.data(), sums.size()));
  return found;
}

template <class T>
void Plan::survey(const Tensor& tensor, double scale, size_t from, size_t to) {
  const Queries<T>& queries = kernels_.queries<T>();
  each_block<T>(tensor, gradient, nothing, from, to, [&](const Block<T>& block) {
    // Squares of finite numbers may overflow; only then are the numbers themselves looked at.
    const double sum = queries.squares(block.n, block.at[1], scale);
    u_sums_[tensor.first_block + block.index] = sum;
    finite_[tensor.first_block + block.index] = std::isfinite(sum) || queries.finite(block.n, block.at[1], scale);
  });
}

}  // namespace schuss
