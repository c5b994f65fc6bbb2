// The checks between arrays: their shapes, dtypes, and whether they overlap.
#pragma once
#include <vector>

#include "array.hpp"

namespace schuss {

// A parameter as update() received it. A gradient of None makes no entry.
struct Entry {
  py::object key, p, g;
  View p_view, g_view;
  Name p_name() const { return {Role::parameter, key, "p"}; }
  Name g_name() const { return {Role::gradient, key, "g"}; }
};

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
