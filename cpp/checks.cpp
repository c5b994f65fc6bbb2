// Two arrays at a time; and which pairs of many can be left out.
#include "checks.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <numeric>
#include <utility>

namespace schuss {
namespace {

// Exact, and with a bound on the effort: what cannot be shown to be apart counts as overlapping.
bool share_memory(py::handle a, py::handle b) {
  try {
    return py::module_::import("numpy").attr("shares_memory")(a, b, 1000000).cast<bool>();
  } catch (py::error_already_set& error) {
    if (error.matches(py::module_::import("numpy.exceptions").attr("TooHardError"))) return true;
    throw;
  }
}

// Of a tensor its bytes, as NumPy knows no tensors.
py::object as_array(const Claim& claim) {
  const View& view = *claim.view;
  if (view.kind == Kind::array) return py::reinterpret_borrow<py::object>(claim.array);
  const int ndim = view.layout.ndim();
  const std::vector<py::ssize_t> shape(view.layout.shape(), view.layout.shape() + ndim);
  const std::vector<py::ssize_t> strides(view.layout.strides(), view.layout.strides() + ndim);
  return py::array(py::dtype("u" + std::to_string(view.itemsize())), shape, strides, view.data, claim.array);
}

// A claim as runs of contiguous bytes, which begin at `extent.low` and at multiples of `step` from there; 0: one run.
struct Piece {
  const Claim* claim;
  Extent extent;
  size_t run, step, residue = 0;
};

Piece piece_of(const Claim& claim) {
  const Layout& layout = claim.view->layout;
  std::vector<std::pair<size_t, size_t>> axes;  // |stride|, length
  for (int i = 0; i < layout.ndim(); ++i)
    if (layout.shape()[i] > 1)
      axes.emplace_back(static_cast<size_t>(std::abs(layout.strides()[i])), static_cast<size_t>(layout.shape()[i]));
  std::sort(axes.begin(), axes.end());
  Piece piece{&claim, extent_of(*claim.view), claim.view->itemsize(), 0};
  for (const auto& [stride, length] : axes)
    if (piece.step == 0 && stride == piece.run)
      piece.run *= length;
    else
      piece.step = std::gcd(piece.step, stride);
  return piece;
}

void refuse_pair(const Piece& a, const Piece& b) {
  if (!a.claim->name.written() && !b.claim->name.written()) return;
  if (a.extent.low >= b.extent.high || b.extent.low >= a.extent.high) return;
  const bool a_first = a.extent.low < b.extent.low || (a.extent.low == b.extent.low && a.claim < b.claim);
  const Claim &first = a_first ? *a.claim : *b.claim, &second = a_first ? *b.claim : *a.claim;
  if (share_memory(as_array(first), as_array(second)))
    throw py::value_error(first.name.text() + " and " + second.name.text() +
                          " overlap in memory; each must have memory of its own: use a copy of one");
}

// Pieces whose extents interleave. All of their runs begin at a residue of their own modulo the common step, as the
// columns of one matrix do; only those whose residues meet need to be looked at two by two.
void refuse_within(Piece* first, Piece* last) {
  size_t step = 0;
  for (Piece* each = first; each != last; ++each) step = std::gcd(step, each->step);
  if (step == 0) step = SIZE_MAX;  // one run each: the residue is the address
  for (Piece* each = first; each != last; ++each)
    each->residue = static_cast<size_t>(reinterpret_cast<uintptr_t>(each->extent.low)) % step;
  std::sort(first, last, [](const Piece& a, const Piece& b) { return a.residue < b.residue; });
  for (Piece* a = first; a != last; ++a) {
    const size_t end = a->residue + a->run;
    for (Piece* b = a + 1; b != last && b->residue < end; ++b) refuse_pair(*a, *b);
    for (Piece* b = first; b != a && end > step && b->residue < end - step; ++b) refuse_pair(*a, *b);
  }
}

}  // namespace

namespace {

// Of a gradient by rows: that they are like the parameter's, and that each of both lies in one piece.
void refuse_other_rows(const Entry& entry) {
  const View &p = entry.p_view, &g = entry.g_view;
  const int axes = p.layout.ndim();
  if (!p.in_memory() || axes == 0) throw py::type_error(entry.g_name().text() + " is by rows, its parameter has none");
  if (axes != g.layout.ndim() || !std::equal(p.layout.shape() + 1, p.layout.shape() + axes, g.layout.shape() + 1))
    throw py::value_error(entry.g_name().text() + " has values of shape " + shape_text(g) +
                          ", its parameter has shape " + shape_text(p) + "; all axes but the first must be equal");
  if (!lies_plainly(g.format))
    throw py::type_error(entry.g_name().text() + " is by rows, whose values are " + g.dtype() +
                         "; convert them with .astype(numpy.float32)");
  if (!is_contiguous(g))
    throw py::value_error(entry.g_name().text() +
                          ": its values must be a C-contiguous array; pass numpy.ascontiguousarray(...) of them");
}

}  // namespace

py::ssize_t row_bytes(const View& view) {
  py::ssize_t bytes = static_cast<py::ssize_t>(view.itemsize());
  for (int axis = 1; axis < view.layout.ndim(); ++axis) bytes *= view.layout.shape()[axis];
  return bytes;
}

bool has_whole_rows(const View& view) {
  if (view.layout.empty()) return true;
  const py::ssize_t *const shape = view.layout.shape(), *const strides = view.layout.strides();
  py::ssize_t expected = static_cast<py::ssize_t>(view.itemsize());
  for (int axis = view.layout.ndim(); axis-- > 1; expected *= shape[axis])
    if (shape[axis] > 1 && strides[axis] != expected) return false;
  return shape[0] == 1 || strides[0] >= expected;
}

bool is_contiguous(const View& view) {
  if (view.layout.empty() || view.layout.ndim() == 0) return true;
  return has_whole_rows(view) && (view.layout.shape()[0] == 1 || view.layout.strides()[0] == row_bytes(view));
}

void refuse_mismatch(const Entry& entry) {
  const View &p = entry.p_view, &g = entry.g_view;
  const bool alike = p.format == g.format || (computed(p.format) == computed(g.format) && p.in_memory());
  if (!alike)
    throw py::type_error(entry.g_name().text() + " is " + g.dtype() + ", its parameter is " + p.dtype() +
                         "; convert the gradient with .astype(numpy." + about(computed(p.format)).name + ")");
  if (entry.by_rows()) return refuse_other_rows(entry);
  if (!p.layout.same_shape(g.layout))
    throw py::value_error(entry.g_name().text() + " has shape " + shape_text(g) + ", its parameter has shape " +
                          shape_text(p) + "; they must be equal");
}

void refuse_change(const Entry& entry, const Name& name, const View& state) {
  const View& p = entry.p_view;
  const bool fewer_bits = about(state.format).use != Use::plain && state.format != Format::float16 &&
                          state.format != Format::int16 && computed(p.format) == Format::float32 && p.in_memory();
  if ((state.format == computed(p.format) || fewer_bits) && p.layout.same_shape(state.layout)) return;
  const std::string made = entry.p_name().text() + " is " + p.dtype() + " of shape " + shape_text(p) + ", but ";
  if (!entry.key)
    throw py::value_error(made + name.text() + " is " + state.dtype() + " of shape " + shape_text(state) +
                          "; state has the dtype and the shape of its parameter");
  throw py::value_error(made + "its state was made for " + state.dtype() + " of shape " + shape_text(state) +
                        "; a changed parameter needs a new optimizer");
}

std::vector<Extent> refuse_overlaps(const std::vector<Claim>& claims) {
  std::vector<Piece> pieces;
  for (const Claim& claim : claims)
    if (claim.view->data && !claim.view->layout.empty()) pieces.push_back(piece_of(claim));
  std::sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) { return a.extent.low < b.extent.low; });
  std::vector<Extent> written;
  for (size_t i = 0; i < pieces.size();) {
    const size_t first = i;
    const char* high = pieces[i].extent.high;
    for (; i < pieces.size() && (i == first || pieces[i].extent.low < high); ++i) {
      const Extent& extent = pieces[i].extent;
      high = std::max(high, extent.high);
      if (!pieces[i].claim->name.written()) continue;
      if (!written.empty() && extent.low < written.back().high)
        written.back().high = std::max(written.back().high, extent.high);
      else
        written.push_back(extent);
    }
    if (i - first > 1) refuse_within(&pieces[first], pieces.data() + i);
  }
  return written;
}

}  // namespace schuss
