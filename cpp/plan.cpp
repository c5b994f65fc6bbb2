// The merging of axes, the division of the work, and the passes over it.
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

// The sum of n numbers, by pairs of neighbours: the same however many threads have computed them.
double tree_sum(double* x, size_t n) {
  if (n == 0) return 0;
  for (; n > 1; n = (n + 1) / 2) {
    for (size_t i = 0; i < n / 2; ++i) x[i] = x[2 * i] + x[2 * i + 1];
    if (n % 2) x[n / 2] = x[n - 1];
  }
  return x[0];
}

static_assert(all_lie_as_computed(), "kernels, scratch and cells are given what lies in the arrays");

size_t blocks_of(size_t elements) { return (elements + block_elements - 1) / block_elements; }

}  // namespace

// As a dict would find it, and of the same type: groups go by a name's text. A comparison that fails finds nothing.
bool Plan::has_name(const Row& row, py::handle key) const {
  if (row.key.is(key)) return true;
  if (Py_TYPE(row.key.ptr()) != Py_TYPE(key.ptr()) || row.hash != py::hash(key)) return false;
  const int equal = PyObject_RichCompareBool(row.key.ptr(), key.ptr(), Py_EQ);
  if (equal >= 0) return equal;
  if (!PyErr_ExceptionMatches(PyExc_Exception)) throw py::error_already_set();  // Ctrl-C
  PyErr_Clear();
  return false;
}

// What the kernel writes is held by its memory's owner, and must still be open to writing; other state is looked at in
// full, as it may own its memory.
bool Plan::has_state(size_t i) const {
  for (size_t slot = 0; slot < slots_; ++slot)
    if (!is_writeable(watched_[i * slots_ + slot])) return false;
  const std::vector<Kept>& state = rows_[i]->state;
  for (size_t other = slots_; other < state.size(); ++other) {
    const auto& [array, memory, view] = state[other];
    if (!is_writeable(array) || data_of(array) != view.data || !view.is_like(array)) return false;
  }
  return true;
}

// Whether a gradient that lies elsewhere than before is free of everything written.
bool Plan::is_free(const View& view) const {
  const Extent g = extent_of(view);
  const auto after = std::upper_bound(written_.begin(), written_.end(), g.low,
                                      [](const char* low, const Extent& e) { return low < e.high; });
  return after == written_.end() || after->low >= g.high;
}

bool Plan::knows(size_t i, Entry& entry) const {
  if (i >= rows_.size()) return false;
  const Row& row = *rows_[i];
  if (!has_name(row, entry.key)) return false;
  if (!row.p.is_like(entry.p) || data_of(entry.p) != row.p.data || !is_writeable(entry.p)) return false;
  if (!row.g.is_like(entry.g)) return false;
  entry.g_view.data = data_of(entry.g);
  if (entry.g_view.data != row.g.data) {
    View moved = row.g;
    moved.data = entry.g_view.data;
    if (!is_free(moved)) return false;
  }
  return has_state(i);
}

bool Plan::serves(const std::vector<Entry>& entries) const {
  if (entries.size() != rows_.size()) return false;
  for (size_t i = 0; i < entries.size(); ++i) {
    const Entry& entry = entries[i];
    const Row& row = *rows_[i];
    if (!has_name(row, entry.key)) return false;
    if (entry.p_view.data != row.p.data || !row.p.same_layout(entry.p_view)) return false;
    if (!row.g.same_layout(entry.g_view)) return false;
    if (!has_state(i)) return false;
    if (entry.g_view.data != row.g.data && !is_free(entry.g_view)) return false;
  }
  return true;
}

void Plan::follow(const std::vector<Entry>& entries) {
  for (size_t i = 0; i < entries.size(); ++i) {
    View& g = rows_[i]->g;
    if (g.data == nullptr || g.data == entries[i].g_view.data) continue;
    if (!tensors_[i].in_cells) tensors_[i].base[1] += entries[i].g_view.data - g.data;
    g.data = entries[i].g_view.data;
  }
}

void Plan::make(const std::vector<Entry>& entries, const std::vector<State>& states,
                const std::vector<size_t>& groups) {
  std::vector<std::unique_ptr<Row>> rows;
  std::vector<Tensor> tensors;
  std::vector<size_t> ends;
  std::vector<Claim> claims;
  std::vector<py::handle> watched;
  size_t bytes = 0, blocks = 0;
  bool floats = false, arrays = false, cells = false, staged = false;
  for (size_t i = 0; i < entries.size(); ++i) {
    const Entry& entry = entries[i];
    refuse_mismatch(entry);
    claims.push_back({entry.p_name(), &entry.p_view, entry.p});
    claims.push_back({entry.g_name(), &entry.g_view, entry.g});
    rows.push_back(std::make_unique<Row>());
    Row& row = *rows.back();
    row.key = entry.key, row.hash = entry.key ? py::hash(entry.key) : 0, row.p = entry.p_view, row.g = entry.g_view;
    row.state.reserve(states[i].operands.size() + states[i].others.size());  // claims point into it
    for (const auto* slots : {&states[i].operands, &states[i].others})
      for (const Slot& slot : *slots) {
        const Name name{Role::state, entry.key, slot.name};
        row.state.push_back({slot.array, owner_of(slot.array), look(slot.array, name)});
        if (slots == &states[i].operands) refuse_change(entry, name, row.state.back().view);
        claims.push_back({name, &row.state.back().view, slot.array});
      }
    for (size_t slot = 0; slot < slots_; ++slot) watched.push_back(row.state[slot].array);
    tensors.push_back(flatten(entry, row));
    Tensor& tensor = tensors.back();
    tensor.group = groups.empty() ? 0 : groups[i];
    tensor.first_block = blocks;
    (tensor.in_cells ? floats : arrays) = true;
    cells |= tensor.in_cells || !entry.g_view.data;
    staged |= tensor.axes != nullptr;
    blocks += blocks_of(tensor.size);
    ends.push_back(bytes += tensor.size * tensor.itemsize());
  }
  // is_free() searches these by bisection; where extents interleave, a gradient that moves near them is looked at in
  // full.
  std::vector<Extent> written = refuse_overlaps(claims);
  rows_ = std::move(rows);
  tensors_ = std::move(tensors);
  watched_ = std::move(watched);
  ends_ = std::move(ends);
  written_ = std::move(written);
  blocks_ = blocks;
  floats_ = floats;
  arrays_ = arrays;
  cells_ = cells;
  staged_ = staged;
}

int Plan::visit_all(visitproc visit, void* arg) const {
  for (const auto& row : rows_) {
    Py_VISIT(row->key.ptr());
    for (const Kept& kept : row->state) {
      Py_VISIT(kept.array.ptr());
      Py_VISIT(kept.memory.ptr());
    }
  }
  return 0;
}

void Plan::provide(int threads, bool surveyed) {
  if ((staged_ || kernel_.halves()) && scratch_.size() < static_cast<size_t>(threads))
    scratch_.resize(static_cast<size_t>(threads));
  if (!surveyed && !kernel_.halves()) return;
  p_sums_.resize(blocks_);
  u_sums_.resize(blocks_);
  finite_.resize(blocks_);
}

// p, g and the state; but not what a rule in two halves hands to Python between them.
bool Plan::has_cell(size_t operand) const {
  return !kernel_.workspace || operand != 1 + static_cast<size_t>(kernel_.slots);
}

// Orders the axes by the parameter's strides, turns those that run backwards, and merges what is contiguous.
Plan::Tensor Plan::flatten(const Entry& entry, Row& row) const {
  std::vector<const View*> views{&entry.p_view, &entry.g_view};
  for (size_t slot = 0; slot < slots_; ++slot) views.push_back(&row.state[slot].view);

  const View& p = entry.p_view;
  Tensor tensor{p.size(), p.format, p.kind != Kind::array, 0, 0, {}, nullptr, {}};
  for (size_t o = 0; o < views.size(); ++o) {
    const bool in_cell = !views[o]->data || (tensor.in_cells && has_cell(o));
    tensor.base[o] = in_cell ? reinterpret_cast<char*>(&row.cell[o]) : views[o]->data;
  }
  if (tensor.size == 0 || tensor.in_cells) return tensor;

  std::vector<int> order;
  const py::ssize_t *const shape = p.layout.shape(), *const strides = p.layout.strides();
  for (int axis = 0; axis < p.layout.ndim(); ++axis)
    if (shape[axis] > 1) order.push_back(axis);
  std::stable_sort(order.begin(), order.end(),
                   [strides](int a, int b) { return std::abs(strides[a]) > std::abs(strides[b]); });

  auto axes = std::make_unique<Axes>();
  axes->strides.resize(views.size());
  for (int axis : order) {
    const size_t length = static_cast<size_t>(shape[axis]);
    const bool backwards = strides[axis] < 0;
    std::vector<std::ptrdiff_t> stride(views.size());
    for (size_t o = 0; o < views.size(); ++o) {
      stride[o] = views[o]->layout.strides()[axis];
      if (!backwards) continue;
      tensor.base[o] += (shape[axis] - 1) * stride[o];
      stride[o] = -stride[o];
    }
    bool merges = !axes->shape.empty();
    for (size_t o = 0; o < views.size() && merges; ++o) merges = axes->strides[o].back() == stride[o] * shape[axis];
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
    if (view.data) {
      std::memcpy(&cell, view.data, view.itemsize());
      return;
    }
    with_type_of(view.format, [&](auto number) {
      number = static_cast<decltype(number)>(PyFloat_AsDouble(value.ptr()));
      std::memcpy(&cell, &number, sizeof number);
    });
  };
  for (size_t i = 0; i < entries.size(); ++i) {
    Row& row = *rows_[i];
    if (!entries[i].g_view.data || tensors_[i].in_cells) load(entries[i].g_view, entries[i].g, row.cell[1]);
    if (!tensors_[i].in_cells) continue;
    load(entries[i].p_view, entries[i].p, row.cell[0]);
    for (size_t slot = 0; slot < slots_; ++slot) load(row.state[slot].view, row.state[slot].array, row.cell[2 + slot]);
  }
}

double Plan::float_result(size_t i) const {
  return with_type_of(rows_[i]->p.format, [&](auto number) {
    std::memcpy(&number, &rows_[i]->cell[0], sizeof number);
    return static_cast<double>(number);
  });
}

void Plan::store_float_state() const {
  for (size_t i = 0; i < rows_.size(); ++i)
    for (size_t o = 2; o < operands() && tensors_[i].in_cells; ++o) {
      const View& view = rows_[i]->state[o - 2].view;
      if (has_cell(o)) std::memcpy(view.data, &rows_[i]->cell[o], view.itemsize());
    }
}

size_t Plan::traffic() const {
  const size_t streams = 3 + 2 * slots_;  // p and each slot both ways, g in
  return ends_.empty() ? 0 : ends_.back() * streams;
}

// work(tensor, scratch, from, to) for each thread's part of the row of all tensors: equal bytes to each, cut between
// blocks.
template <class Work>
void Plan::each_share(int threads, bool flush, Work work) {
  const auto share = [&](int rank, int size) {
    const Flush mode(flush);
    Scratch* const scratch = scratch_.empty() ? nullptr : &scratch_[static_cast<size_t>(rank)];
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
      work(tensor, scratch, cut(low), cut(high));
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
void Plan::each_block(const Tensor& tensor, Scratch* scratch, unsigned read, unsigned written, size_t from, size_t to,
                      Work work) const {
  for (size_t first = from; first < to; first += block_elements) {
    Block<T> block{first / block_elements, std::min(block_elements, to - first), {}};
    for (size_t o = 0; o < operands(); ++o) {
      if (!(read >> o & 1)) continue;
      block.at[o] = tensor.staged[o] ? scratch->of<T>(o) : reinterpret_cast<T*>(tensor.base[o]) + first;
      if (tensor.staged[o]) stage_in(*tensor.axes, o, tensor.base[o], sizeof(T), first, block.n, block.at[o]);
    }
    work(block);
    for (size_t o = 0; o < operands(); ++o)
      if (tensor.staged[o] && (read & written) >> o & 1)
        stage_out(*tensor.axes, o, tensor.base[o], sizeof(T), first, block.n, block.at[o]);
  }
}

std::array<double, max_scalars> Plan::scalars_of(const Tensor& tensor, const Orders& orders) const {
  std::array<double, max_scalars> scalars = orders.groups[tensor.group].scalars;
  if (kernel_.halves()) scalars[static_cast<size_t>(kernel_.scalars) - 1] = tensor.ratio;
  return scalars;
}

void Plan::run(Part part, const Orders& orders, int threads) {
  each_share(threads, orders.flush, [&](const Tensor& tensor, Scratch* scratch, size_t from, size_t to) {
    if (tensor.in_cells != (part == Part::floats)) return;
    with_type_of(tensor.format, [&](auto type) { step<decltype(type)>(tensor, scratch, orders, from, to); });
  });
}

template <class T>
void Plan::step(const Tensor& tensor, Scratch* scratch, const Orders& orders, size_t from, size_t to) const {
  const Sweep sweep = kernel_.loops.of<T>().step;
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
  each_block<T>(tensor, scratch, all, all_but_gradient, from, to, [&](const Block<T>& block) {
    std::copy(block.at.begin(), block.at.end(), at.begin());
    sweep(scalars.data(), around, block.n, at[0], at[1], &at[2]);
  });
}

std::vector<Plan::Norms> Plan::measure(Part part, const Orders& orders, int threads) {
  each_share(threads, orders.flush, [&](const Tensor& tensor, Scratch* scratch, size_t from, size_t to) {
    if (tensor.in_cells != (part == Part::floats)) return;
    with_type_of(tensor.format, [&](auto type) { measure<decltype(type)>(tensor, scratch, orders, from, to); });
  });
  std::vector<Norms> norms;
  for (const Tensor& tensor : tensors_) {
    if (tensor.in_cells != (part == Part::floats)) {
      norms.push_back({0, 0});
      continue;
    }
    const size_t n = blocks_of(tensor.size);
    norms.push_back({std::sqrt(tree_sum(p_sums_.data() + tensor.first_block, n)),
                     std::sqrt(tree_sum(u_sums_.data() + tensor.first_block, n))});
  }
  return norms;
}

template <class T>
void Plan::measure(const Tensor& tensor, Scratch* scratch, const Orders& orders, size_t from, size_t to) {
  const Queries<T>& queries = kernels_.queries.of<T>();
  const Measure half = kernel_.loops.of<T>().measure;
  const std::array<double, max_scalars> scalars = scalars_of(tensor, orders);
  const Around around = orders.around(orders.groups[tensor.group]);
  T* const u = scratch->of<T>(max_operands);
  each_block<T>(tensor, scratch, all, state_alone, from, to, [&](const Block<T>& block) {
    std::array<void*, max_operands> at;
    std::copy(block.at.begin(), block.at.end(), at.begin());
    half(scalars.data(), &around, block.n, at[0], at[1], &at[2], u);
    p_sums_[tensor.first_block + block.index] = queries.squares(block.n, block.at[0], 1);
    u_sums_[tensor.first_block + block.index] = queries.squares(block.n, u, 1);
  });
}

Plan::Survey Plan::survey(const Orders& orders, int threads) {
  each_share(threads, orders.flush, [&](const Tensor& tensor, Scratch* scratch, size_t from, size_t to) {
    with_type_of(tensor.format, [&](auto type) { survey<decltype(type)>(tensor, scratch, orders.scale, from, to); });
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
void Plan::survey(const Tensor& tensor, Scratch* scratch, double scale, size_t from, size_t to) {
  const Queries<T>& queries = kernels_.queries.of<T>();
  each_block<T>(tensor, scratch, gradient, nothing, from, to, [&](const Block<T>& block) {
    // Squares of finite numbers may overflow; only then are the numbers themselves looked at.
    const double sum = queries.squares(block.n, block.at[1], scale);
    u_sums_[tensor.first_block + block.index] = sum;
    finite_[tensor.first_block + block.index] = std::isfinite(sum) || queries.finite(block.n, block.at[1], scale);
  });
}

}  // namespace schuss
