// Names, memory and layouts: laid out once, and compared at each update.
#include "plan.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace schuss {

namespace {

Code code_of_state(Format format) {
  if (format == Format::bfloat16) return Code::bfloat16;
  if (format == Format::int8) return Code::signed8;
  return format == Format::uint8 ? Code::unsigned8 : Code::none;
}

// What lies beside the elements from `first` on.
std::ptrdiff_t beside_at(Code code, size_t first) {
  if (code == Code::signed8 || code == Code::unsigned8)
    return static_cast<std::ptrdiff_t>(first / scaled_block * sizeof(float));
  return static_cast<std::ptrdiff_t>(first * (code == Code::split ? sizeof(int16_t) : sizeof(float)));
}

// The loop of a rule that has these formats in it, if there is one.
Fused fused_of(const Kernel& kernel, size_t slots, const Coded& coded) {
  const auto state = [&](Code code) {
    for (size_t slot = 0; slot < slots; ++slot)
      if (coded.code[2 + slot] != code) return false;
    return true;
  };
  const bool plain = coded.code[0] == Code::none && coded.code[1] == Code::none;
  const bool split = coded.code[0] == Code::split && coded.code[1] == Code::bfloat16;
  if (!kernel.fused || static_cast<size_t>(kernel.slots) != slots || !(plain || split)) return Fused::none;
  const auto there = [&](Fused found) { return kernel.fused[static_cast<size_t>(found)] ? found : Fused::none; };
  if (state(Code::none)) return split ? there(Fused::split) : Fused::none;
  if (state(Code::bfloat16)) return there(split ? Fused::split_brain_state : Fused::brain_state);
  for (size_t slot = 0; slot < slots; ++slot) {
    const bool square = kernel.squares >> slot & 1;
    if (coded.code[2 + slot] != (square ? Code::unsigned8 : Code::signed8)) return Fused::none;
  }
  return there(split ? Fused::split_scaled : Fused::scaled);
}

// Bytes: all but the gradient both ways.
size_t traffic_of(const Tensor& tensor) {
  size_t bytes = 0;
  for (size_t o = 0; o < tensor.operands && !tensor.table; ++o) {
    if (o == 2 && tensor.factored) continue;
    bytes += (o == 1 ? 1 : 2) * tensor.size * tensor.itemsize(o);
    if (tensor.code(o) != Code::none && tensor.coded->beside[o])
      bytes += 2 * static_cast<size_t>(beside_at(tensor.code(o), tensor.size));
  }
  return bytes;
}

}  // namespace

Plan::Plan(const std::vector<const Kernel*>& kernels, bool averaged, const std::vector<Entry>& entries,
           const std::vector<State>& states, const std::vector<size_t>& groups, const PlaceOf& place_of) {
  std::vector<Claim> claims;
  size_t bytes = 0;
  for (size_t i = 0; i < entries.size(); ++i) {
    const Entry& entry = entries[i];
    refuse_mismatch(entry);
    claims.push_back({entry.p_name(), &entry.p_view, entry.p});
    claims.push_back({entry.g_name(), &entry.g_view, entry.g});
    rows_.push_back(std::make_unique<Row>());
    Row& row = *rows_.back();
    row.key = entry.key, row.hash = entry.key ? py::hash(entry.key) : 0, row.p = entry.p_view, row.g = entry.g_view;
    row.by_rows = entry.by_rows();
    row.kernel = kernels[groups[i]], row.slots = static_cast<size_t>(row.kernel->slots) + averaged;
    row.state.reserve(states[i].operands.size() + states[i].others.size());  // claims point into it
    for (const auto* slots : {&states[i].operands, &states[i].others})
      for (const Slot& slot : *slots) {
        const Name name{Role::state, entry.key, slot.name};
        if (!slot.array) {  // it lies nowhere, as the parameter does
          row.state.push_back({{}, {}, {nullptr, computed(entry.p_view.format), Kind::array, entry.p_view.layout}});
          continue;
        }
        row.state.push_back({slot.array, owner_of(slot.array), look(slot.array, name)});
        if (slots == &states[i].operands) refuse_change(entry, name, row.state.back().view);
        claims.push_back({name, &row.state.back().view, slot.array});
      }
    for (size_t slot = 0; slot < row.slots; ++slot) watched_.push_back(row.state[slot].array);
    watched_ends_.push_back(watched_.size());
    tensors_.push_back(flatten(entry, row, coded_of(entry, row, states[i], [&] { return place_of(i); }),
                               factored_of(entry, row, states[i])));
    Tensor& tensor = tensors_.back();
    tensor.group = groups[i];
    courses_ |= tensor.course;
    tensor.first_block = blocks_;
    (tensor.part == Part::floats ? floats_ : arrays_) = true;
    cells_ |= tensor.part == Part::floats || !entry.g_view.data;
    tables_ |= row.by_rows;
    staged_ |= tensor.axes || tensor.coded;
    blocks_ += tensor.blocks();
    ends_.push_back(bytes += tensor.bytes());
    traffic_ += traffic_of(tensor);
  }
  // is_free() searches these by bisection; where extents interleave, a gradient that moves near them is looked at in
  // full.
  written_ = refuse_overlaps(claims);
}

char* Coded::at(size_t operand, size_t first) const {
  return beside[operand] ? beside[operand] + beside_at(code[operand], first) : nullptr;
}

// What of an entry has fewer bits than it is computed in, with what belongs to that among its state.
std::unique_ptr<Coded> Plan::coded_of(const Entry& entry, const Row& row, const State& state,
                                      const std::function<Place()>& place) const {
  const View& p = entry.p_view;
  bool plain = lies_plainly(p.format) && lies_plainly(entry.g_view.format) && state.others.empty();
  for (size_t slot = 0; slot < row.slots; ++slot) plain &= lies_plainly(row.state[slot].view.format);
  if (plain) return nullptr;
  auto coded = std::make_unique<Coded>();
  const auto refuse = [&](const char* slot, const std::string& what) {
    throw py::value_error(Name{Role::state, entry.key, slot}.text() + " " + what +
                          "; a changed parameter needs a new optimizer");
  };
  // The view of a state array that the rule does not know, which must be of this format and shape, if it is there.
  const auto beside = [&](const std::string& slot, Format format, bool by_blocks) -> char* {
    for (size_t k = 0; k < state.others.size(); ++k) {
      if (slot != state.others[k].name) continue;
      const View& view = row.state[state.operands.size() + k].view;
      const auto blocks = static_cast<py::ssize_t>((p.size() + scaled_block - 1) / scaled_block);
      const bool fits =
          by_blocks ? view.layout.ndim() == 1 && view.layout.shape()[0] == blocks : view.layout.same_shape(p.layout);
      if (view.format != format || !fits || !is_contiguous(view))
        refuse(state.others[k].name, std::string("is ") + view.dtype() + " of shape " + shape_text(view) +
                                         ", which does not go with a parameter of shape " + shape_text(p));
      return view.data;
    }
    return nullptr;
  };
  coded->itemsize.fill(about(computed(p.format)).itemsize);
  bool any = false, numbered = false;
  for (size_t slot = 0; slot < row.slots; ++slot) {
    const View& view = row.state[slot].view;
    const Code code = code_of_state(view.format);
    coded->code[2 + slot] = code, coded->itemsize[2 + slot] = view.itemsize();
    if (code == Code::none) continue;
    numbered = true;
    const char* const name = state.operands[slot].name;
    if (!is_contiguous(view)) refuse(name, "is of fewer bits, and must be C-contiguous");
    if (code == Code::bfloat16) continue;
    coded->beside[2 + slot] = beside(std::string(name) + "_scale", Format::float32, true);
    if (!coded->beside[2 + slot]) refuse(name, std::string("is ") + view.dtype() + ", but its scales are missing");
  }
  const Format gradient = entry.g_view.format;
  if (entry.g_view.data && !lies_plainly(gradient)) {
    coded->code[1] = gradient == Format::float16 ? Code::float16 : Code::bfloat16;
    coded->itemsize[1] = about(gradient).itemsize;
    any = true;
  }
  char* const rest = beside("remainder", Format::int16, false);
  char* const master = beside("master", Format::float32, false);
  if (lies_plainly(p.format) ? rest || master : rest && p.format != Format::bfloat16)
    refuse(rest ? "remainder" : "master", std::string("was made for another dtype, now it is ") + p.dtype());
  if (!any && !numbered && lies_plainly(p.format)) return nullptr;
  coded->place = place();
  if (!lies_plainly(p.format)) {
    const bool half = p.format == Format::float16;
    coded->itemsize[0] = p.itemsize();
    coded->beside[0] = rest ? rest : master;
    if (rest)
      coded->code[0] = Code::split;
    else if (master)
      coded->code[0] = half ? Code::float16_mastered : Code::bfloat16_mastered;
    else
      coded->code[0] = half ? Code::float16 : Code::bfloat16;
    if (!coded->beside[0] && coded->place.mastered)
      throw py::value_error(entry.p_name().text() + " is " + p.dtype() +
                            ", but its state was made for another dtype, and has no master of it; a changed parameter "
                            "needs a new optimizer, and load_torch_state() its params");
  }
  coded->numbered = numbered || coded->code[0] != Code::none;
  coded->fused = fused_of(*row.kernel, row.slots, *coded);
  return coded;
}

// The row and the column of a parameter that is to have them.
std::unique_ptr<Factored> Plan::factored_of(const Entry& entry, const Row& row, const State& state) const {
  const View& p = entry.p_view;
  if (!row.kernel->factors) return nullptr;
  const int ndim = p.layout.ndim();
  const bool whole = static_cast<bool>(state.operands[0].array);
  const auto refuse = [&](const std::string& what) {
    throw py::value_error(entry.p_name().text() + " is " + p.dtype() + " of shape " + shape_text(p) + ", but " + what +
                          (entry.key ? "; a changed parameter needs a new optimizer" : ""));
  };
  if (whole && ndim < 2) return nullptr;
  if (whole) refuse("its state was made for one of fewer axes");
  // The factor over one axis: there it has one element, and elsewhere it is as the parameter is.
  const auto factor = [&](const char* slot, int over) -> Factor {
    for (size_t k = 0; k < state.others.size(); ++k) {
      if (std::strcmp(slot, state.others[k].name) != 0) continue;
      const View& view = row.state[state.operands.size() + k].view;
      bool fits = view.layout.ndim() == ndim && view.format == computed(p.format);
      for (int axis = 0; axis < ndim && fits; ++axis)
        fits = view.layout.shape()[axis] == (axis == over ? 1 : p.layout.shape()[axis]);
      if (!fits) refuse("the state '" + std::string(slot) + "' is " + view.dtype() + " of shape " + shape_text(view));
      if (is_contiguous(view)) return {view.data, nullptr};
      auto axes = std::make_unique<Axes>();
      axes->shape.assign(view.layout.shape(), view.layout.shape() + ndim);
      axes->strides.emplace_back(view.layout.strides(), view.layout.strides() + ndim);
      return {view.data, std::move(axes)};
    }
    refuse("its state has no '" + std::string(slot) + "'");
    return {};
  };
  if (ndim < 2) refuse("its state has no 'v'");
  const auto length = [&](int axis) { return static_cast<size_t>(p.layout.shape()[axis]); };
  const size_t rows = length(ndim - 2), columns = length(ndim - 1), size = rows * columns;
  return std::make_unique<Factored>(
      Factored{size ? p.size() / size : 0, rows, columns, factor("row", ndim - 1), factor("column", ndim - 2)});
}

// Orders the axes by the parameter's strides, turns those that run backwards, and merges what is contiguous. Where an
// element's place in the array counts the walk goes by that instead.
Tensor Plan::flatten(const Entry& entry, Row& row, std::unique_ptr<Coded> coded,
                     std::unique_ptr<Factored> factored) const {
  const bool filled = row.by_rows && coded;
  std::vector<const View*> views{&entry.p_view, filled ? &entry.p_view : &entry.g_view};
  for (size_t slot = 0; slot < row.slots; ++slot) views.push_back(&row.state[slot].view);

  const View& p = entry.p_view;
  const Part part = p.in_memory() ? Part::arrays : Part::floats;
  Tensor tensor{p.size(),
                computed(p.format),
                part,
                row.kernel,
                row.kernel->course(),
                2 + row.slots,
                0,
                0,
                {},
                nullptr,
                {},
                std::move(coded),
                std::move(factored),
                filled,
                {}};
  for (size_t o = 0; o < views.size(); ++o) {
    const bool in_cell = !views[o]->data || (part == Part::floats && o != workspace_of(*row.kernel));
    tensor.base[o] = in_cell ? reinterpret_cast<char*>(&row.cell[o]) : views[o]->data;
  }
  if (row.by_rows && !filled) tensor.table = lay_rows(entry, row);
  if (tensor.size == 0 || part == Part::floats || tensor.table) return tensor;

  std::vector<int> order;
  const py::ssize_t *const shape = p.layout.shape(), *const strides = p.layout.strides();
  for (int axis = 0; axis < p.layout.ndim(); ++axis)
    if (shape[axis] > 1) order.push_back(axis);
  const bool by_place = row.kernel->factors || (tensor.coded && tensor.coded->numbered);
  if (!by_place)
    std::stable_sort(order.begin(), order.end(),
                     [strides](int a, int b) { return std::abs(strides[a]) > std::abs(strides[b]); });

  auto axes = std::make_unique<Axes>();
  axes->strides.resize(views.size());
  for (int axis : order) {
    const size_t length = static_cast<size_t>(shape[axis]);
    const bool backwards = strides[axis] < 0 && !by_place;
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
  for (size_t o = 0; o < views.size(); ++o) staged |= tensor.staged[o] = !axes->unit(o, tensor.itemsize(o));
  if (staged) tensor.axes = std::move(axes);
  return tensor;
}

Table Plan::lay_rows(const Entry& entry, const Row& row) const {
  const size_t bytes = static_cast<size_t>(row_bytes(row.p));
  Table table{
      row.p.format, row.kernel, static_cast<size_t>(row.p.layout.shape()[0]), bytes / row.p.itemsize(), 2 + row.slots,
      {},           {}};
  for (size_t o = 0; o < table.operands; ++o) {
    if (o == 1) continue;  // the gradient, whose rows have places of their own
    const View& view = o == 0 ? row.p : row.state[o - 2].view;
    if (!has_whole_rows(view))
      throw py::value_error(entry.p_name().text() + (o == 0 ? "" : ", or its state,") +
                            ": for a gradient by rows each row must lie in one piece of memory, and one after another; "
                            "use a C-contiguous "
                            "copy of the parameter, and a new optimizer");
    table.base[o] = view.data;
    table.stride[o] = view.layout.strides()[0];
  }
  return table;
}

std::vector<py::object> Plan::held_with(size_t i, const py::object& p) const {
  std::vector<py::object> held{p, owner_of(p)};
  for (const Kept& kept : rows_[i]->state) held.insert(held.end(), {kept.array, kept.memory});
  return held;
}

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
  for (size_t k = i ? watched_ends_[i - 1] : 0; k < watched_ends_[i]; ++k)
    if (watched_[k] && !is_writeable(watched_[k])) return false;
  const std::vector<Kept>& state = rows_[i]->state;
  for (size_t other = rows_[i]->slots; other < state.size(); ++other) {
    const auto& [array, memory, view] = state[other];
    if (!is_writeable(array) || view.place_of(array) != view.data) return false;
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
  const char* const place = row.p.place_of(entry.p);
  if (!place || place != row.p.data || !(row.p.kind == Kind::tensor || is_writeable(entry.p))) return false;
  if (row.by_rows) return false;
  entry.g_view.data = row.g.place_of(entry.g);
  if (!entry.g_view.data) return false;
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
    if (row.by_rows != entry.by_rows()) return false;
    if (row.by_rows)
      refuse_mismatch(entry);  // there may be more rows of it, or fewer
    else if (!row.g.same_layout(entry.g_view))
      return false;
    if (!has_state(i)) return false;
    if ((entry.g_view.data != row.g.data || row.by_rows) && !is_free(entry.g_view)) return false;
  }
  return true;
}

void Plan::follow(const std::vector<Entry>& entries) {
  for (size_t i = 0; i < entries.size(); ++i) {
    View& g = rows_[i]->g;
    if (rows_[i]->by_rows) g = entries[i].g_view;
    if (g.data == nullptr || g.data == entries[i].g_view.data) continue;
    if (tensors_[i].part == Part::arrays) tensors_[i].base[1] += entries[i].g_view.data - g.data;
    g.data = entries[i].g_view.data;
  }
}

// A float's gradient and state lie as it does: checks.cpp sees to it.
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
    if (!entries[i].g_view.data || tensors_[i].part == Part::floats) load(entries[i].g_view, entries[i].g, row.cell[1]);
    if (tensors_[i].part == Part::arrays) continue;
    load(entries[i].p_view, entries[i].p, row.cell[0]);
    for (size_t slot = 0; slot < row.slots; ++slot)
      load(row.state[slot].view, row.state[slot].array, row.cell[2 + slot]);
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
    for (size_t o = 2; o < tensors_[i].operands && tensors_[i].part == Part::floats; ++o) {
      const View& view = rows_[i]->state[o - 2].view;
      if (o != workspace_of(*rows_[i]->kernel)) std::memcpy(view.data, &rows_[i]->cell[o], view.itemsize());
    }
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

}  // namespace schuss
