// Checks between arrays, the merging of axes, and the division of the work.
#include "plan.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

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

void Plan::make(const std::vector<Entry>& entries, const std::vector<std::vector<py::object>>& states) {
  std::vector<std::unique_ptr<Row>> rows;
  std::vector<Tensor> tensors;
  std::vector<size_t> ends;
  std::vector<Claim> claims;
  const auto claim = [&claims](const View& view, Role role, py::handle key, py::handle array) {
    const Extent extent = extent_of(view);
    if (view.data && extent.low != extent.high) claims.push_back({extent, role, key, array});
  };
  size_t bytes = 0;
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
}

// Orders the axes by the parameter's strides, turns those that run backwards, and merges what is contiguous.
Plan::Tensor Plan::flatten(const Entry& entry, const std::vector<View>& state, Row& row) const {
  std::vector<const View*> views{&entry.p_view, &entry.g_view};
  for (const View& view : state) views.push_back(&view);

  const View& p = entry.p_view;
  Tensor tensor{p.size(), p.is_double, {}, nullptr, {}};
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
  const size_t streams = 3 + 2 * static_cast<size_t>(kernel_.slots);  // p and each slot both ways, g in
  return ends_.empty() ? 0 : ends_.back() * streams;
}

void Plan::run(const double* scalars, int threads) {
  struct Work {
    const Plan& plan;
    const double* scalars;
  } work{*this, scalars};
  const team::Body body = [](void* context, int rank, int size) {
    const Work& mine = *static_cast<Work*>(context);
    mine.plan.share(mine.scalars, rank, size);
  };
  team::run(threads, body, &work);
}

// Rank's part of the row of all tensors: equal bytes to each, cut between blocks.
void Plan::share(const double* scalars, int rank, int size) const {
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
    step(tensor, scalars, cut(low), cut(high));
  }
}

void Plan::step(const Tensor& tensor, const double* scalars, size_t from, size_t to) const {
  const Sweep sweep = tensor.is_double ? kernel_.f64 : kernel_.f32;
  const size_t itemsize = tensor.itemsize();
  std::array<void*, max_operands> at;
  if (!tensor.axes) {
    // A vector that straddles two cache lines costs twice. NumPy aligns to 16 bytes only, so a long run goes up to
    // the parameter's next line by itself; the state lies as the parameter does.
    constexpr size_t line = 64, long_run = 4096;
    const size_t past_line = (reinterpret_cast<uintptr_t>(tensor.base[0]) + from * itemsize) % line;
    const size_t head = past_line && to - from > long_run ? (line - past_line) / itemsize : 0;
    for (const auto& [first, last] : {std::pair(from, from + head), std::pair(from + head, to)}) {
      if (first == last) continue;
      for (size_t o = 0; o < operands(); ++o) at[o] = tensor.base[o] + first * itemsize;
      sweep(scalars, last - first, at[0], at[1], &at[2]);
    }
    return;
  }
  alignas(64) char scratch[max_operands][block_elements * sizeof(double)];
  for (size_t first = from; first < to; first += block_elements) {
    const size_t n = std::min(block_elements, to - first);
    for (size_t o = 0; o < operands(); ++o) {
      at[o] = tensor.staged[o] ? scratch[o] : tensor.base[o] + first * itemsize;
      if (tensor.staged[o]) stage_in(*tensor.axes, o, tensor.base[o], itemsize, first, n, at[o]);
    }
    sweep(scalars, n, at[0], at[1], &at[2]);
    for (size_t o = 0; o < operands(); ++o)
      if (tensor.staged[o] && o != 1)  // the gradient is the caller's: read only
        stage_out(*tensor.axes, o, tensor.base[o], itemsize, first, n, at[o]);
  }
}

}  // namespace schuss
