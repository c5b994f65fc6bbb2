// The checks between arrays: their shapes, dtypes, and whether they overlap.
#pragma once
#include <utility>
#include <vector>

#include "array.hpp"

namespace schuss {

// A parameter as update() received it. A gradient of None makes no entry. It need not be looked at where it is as it
// was at the last call; where its gradient lies is known then, too. A gradient by rows has indices; `g` is their
// values.
struct Entry {
  Entry(py::object key_, py::object p_, py::object g_) : key(std::move(key_)), p(std::move(p_)), g(std::move(g_)) {}
  py::object key, p, g, indices;
  bool looked = false;
  View p_view, g_view;
  Name p_name() const { return {Role::parameter, key, "p"}; }
  Name g_name() const { return {Role::gradient, key, "g"}; }
  bool by_rows() const { return static_cast<bool>(indices); }
};

// Of an array with a first axis: what a row of it takes, and whether each lies in one piece, one after another.
py::ssize_t row_bytes(const View& view);
bool has_whole_rows(const View& view);
bool is_contiguous(const View& view);  // in C order

// A gradient must be like its parameter, and so must the state that the rule's loop runs over.
void refuse_mismatch(const Entry& entry);
void refuse_change(const Entry& entry, const Name& name, const View& state);

// A piece of memory that an update reads or writes, and whose it is.
struct Claim {
  Name name;
  const View* view;
  py::handle array;
};

// Nothing that is written may overlap anything else. Two gradients may: they are only read. Returns what is written,
// sorted; extents that interleave though no elements do (two columns of one matrix) are joined.
std::vector<Extent> refuse_overlaps(const std::vector<Claim>& claims);

}  // namespace schuss
