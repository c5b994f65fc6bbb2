// The plan of an update: all tensors as one row of work, how it lies, and whether it still serves.
//
// A contiguous array is one walk over its memory; of a strided one the axes are merged as far as its operands allow.
// Floats are a part of their own, which is stepped before the arrays: until their new values have found a place in the
// caller's mapping nothing else has moved.
#pragma once
#include <array>
#include <functional>
#include <memory>

#include "checks.hpp"
#include "kernels.hpp"
#include "stage.hpp"

namespace schuss {

// An array that an update keeps beside a parameter, and its name. Where a matrix has none there is no object.
struct Slot {
  const char* name;
  py::object array;
};

// The state of a parameter: first what the kernel takes, in its order, then what is not of the parameter's shape.
struct State {
  std::vector<Slot> operands, others;
};

constexpr size_t max_operands = 2 + max_slots + 1;  // p, g, state, average

// Which of the parameters. Python floats have no address: they, and their state, are worked on in cells of the plan's.
enum class Part : char { floats, arrays };

// A parameter whose gradient comes by rows, and its state: where the rows lie.
struct Table {
  Format format;
  const Kernel* kernel;
  size_t rows, width;  // elements of a row
  size_t operands;
  std::array<char*, max_operands> base;
  std::array<std::ptrdiff_t, max_operands> stride;  // in bytes, from row to row

  size_t step_bytes() const { return width * about(format).itemsize * (2 * operands - 1); }  // moved by a row's step
};

// Where a parameter's elements stand among all random numbers: its own number, and the place of its first element where
// it is a share of a whole. And whether it was to have a master.
struct Place {
  uint32_t number = 0;
  uint64_t first = 0;
  bool mastered = true;
};

// Which operands of a tensor do not lie as they are computed, and what is beside them.
struct Coded {
  std::array<Code, max_operands> code{};
  std::array<char*, max_operands> beside{};
  std::array<size_t, max_operands> itemsize{};
  Place place;
  bool numbered = false;  // whether an element's place in the array counts
  Fused fused = Fused::none;

  char* at(size_t operand, size_t first) const;  // what is beside the elements from `first` on
};

// What is kept of each row, or column, of all the matrices of a parameter.
struct Factor {
  char* base;
  std::unique_ptr<Axes> axes;  // nullptr: they lie one after the other
};

// A parameter of two axes or more, whose slot is not there but as a row and a column for each matrix. They are walked
// over in C order.
struct Factored {
  size_t matrices, rows, columns;
  Factor row, column;
};

// A parameter and what is worked on with it, as memory to walk over.
struct Tensor {
  size_t size;
  Format format;  // that it is computed in
  Part part;
  const Kernel* kernel;
  Course course;
  size_t operands;
  size_t group, first_block;
  std::array<char*, max_operands> base;  // the first element of the walk
  std::unique_ptr<Axes> axes;            // nullptr: all operands are contiguous along one walk
  std::array<bool, max_operands> staged;
  std::unique_ptr<Coded> coded;  // nullptr: all operands lie as they are computed
  std::unique_ptr<Factored> factored;
  bool filled = false;         // whether the gradient comes by rows, to be filled in block by block
  std::optional<Table> table;  // where the gradient comes by rows otherwise: nothing is walked over then

  Code code(size_t operand) const { return coded ? coded->code[operand] : Code::none; }
  size_t itemsize() const { return about(format).itemsize; }
  size_t itemsize(size_t operand) const { return coded ? coded->itemsize[operand] : itemsize(); }
  size_t bytes() const { return table ? 0 : size * itemsize(); }  // to be walked over, of each operand
  size_t blocks() const { return (size + block_elements - 1) / block_elements; }
};

class Plan {
 public:
  // Checks shapes, dtypes and overlaps, and lays out the work. averaged: after the rule's slots the state has one more,
  // for the running average of the parameter. states[i] is the state of entries[i], groups[i] the number of its group,
  // and kernels those of the groups' rules. place_of(i) is asked where something of an entry is coded.
  using PlaceOf = std::function<Place(size_t)>;
  Plan(const std::vector<const Kernel*>& kernels, bool averaged, const std::vector<Entry>& entries,
       const std::vector<State>& states, const std::vector<size_t>& groups, const PlaceOf& place_of);

  // Whether the plan serves an entry, its i-th, as it served the last one: same name, same memory, same layouts, state
  // that still can be written. Its gradient may have moved, as it does where each step makes a new one. knows() is for
  // arrays, that need not be looked at before; serves() for those that were looked at. If all are served, follow() goes
  // after the gradients.
  bool knows(size_t i, Entry& entry) const;
  bool serves(const std::vector<Entry>& entries) const;
  void follow(const std::vector<Entry>& entries);

  // The row of work.
  const std::vector<Tensor>& tensors() const { return tensors_; }
  const std::vector<size_t>& ends() const { return ends_; }  // running sum of the tensors' bytes
  size_t bytes() const { return ends_.empty() ? 0 : ends_.back(); }
  bool takes(unsigned courses) const { return courses_ & courses; }  // whether any tensor goes one of these
  size_t blocks() const { return blocks_; }
  bool staged() const { return staged_; }      // whether any tensor has axes, or operands to be decoded
  size_t traffic() const { return traffic_; }  // bytes read and written by one step

  bool has_floats() const { return floats_; }  // among the parameters
  bool has_arrays() const { return arrays_; }
  bool has_cells() const { return cells_; }    // also where a gradient alone is a float
  bool has_tables() const { return tables_; }  // gradients by rows
  // The parameter of a table, and its state: what holds its memory.
  std::vector<py::object> held_with(size_t i, const py::object& p) const;
  void load_floats(const std::vector<Entry>& entries);
  double float_result(size_t i) const;
  void store_float_state() const;

  // What the first half of a rule hands to Python.
  py::handle workspace(size_t i) const { return rows_[i]->state[workspace_of(*tensors_[i].kernel) - 2].array; }

  // For the garbage collector: each object that is held.
  int visit_all(visitproc visit, void* arg) const;

 private:
  struct Kept {
    py::object array, memory;  // which outlives what the caller may make of the array
    View view;
  };

  struct Row {
    py::object key;
    py::ssize_t hash;
    View p, g;
    bool by_rows;
    const Kernel* kernel;
    size_t slots;                           // of the state, that are operands
    std::vector<Kept> state;                // operands, then others
    std::array<double, max_operands> cell;  // where p is a float
  };

  bool has_name(const Row& row, py::handle key) const;
  bool has_state(size_t i) const;
  bool is_free(const View& g) const;
  // Which operand it is; max_operands where there is none.
  static size_t workspace_of(const Kernel& kernel) {
    return kernel.workspace ? 1 + static_cast<size_t>(kernel.slots) : max_operands;
  }
  Tensor flatten(const Entry& entry, Row& row, std::unique_ptr<Coded> coded, std::unique_ptr<Factored> factored) const;
  std::unique_ptr<Factored> factored_of(const Entry& entry, const Row& row, const State& state) const;
  std::unique_ptr<Coded> coded_of(const Entry& entry, const Row& row, const State& state,
                                  const std::function<Place()>& place) const;
  Table lay_rows(const Entry& entry, const Row& row) const;

  std::vector<std::unique_ptr<Row>> rows_;  // unique_ptr: cells keep their address
  std::vector<Tensor> tensors_;
  std::vector<py::handle> watched_;   // the state that the kernels write, of all rows
  std::vector<size_t> watched_ends_;  // by row
  std::vector<size_t> ends_;
  std::vector<Extent> written_;  // parameters and state, sorted
  size_t blocks_ = 0, traffic_ = 0;
  unsigned courses_ = 0;
  bool floats_ = false, arrays_ = false, cells_ = false, staged_ = false, tables_ = false;
};

}  // namespace schuss
