// The plan of an update: every array checked against the others, then all tensors as one row of work.
//
// A thread's share of an array that is contiguous is one run of the kernel; what is strided is staged in and out, block
// by block. The norms are summed by blocks, too. Floats are stepped by themselves, before the arrays, in cells: until
// their new values have found a place in the caller's mapping nothing else has moved.
#pragma once
#include <array>
#include <limits>
#include <memory>

#include "checks.hpp"
#include "kernels.hpp"
#include "stage.hpp"

namespace schuss {

// An array that an update keeps beside a parameter, and its name.
struct Slot {
  const char* name;
  py::object array;
};

// The state of a parameter: first what the kernel takes, in its order, then what is not of the parameter's shape.
struct State {
  std::vector<Slot> operands, others;
};

// What the parameters of a group have in common at a step.
struct Group {
  std::array<double, max_scalars> scalars{};
  double sign = 1, clip_value = std::numeric_limits<double>::infinity(), l2 = 0;
};

// What a step is to do. A plain one has one group, with nothing but its scalars.
struct Orders {
  std::vector<Group> groups{1};
  double scale = 1;     // of the gradients, on their way in
  double shrink = 1;    // the factor that brings their norm down to what it may be
  double average = -1;  // what is left of the running average of the parameters; below 0 there is none
  bool flush = false;   // whether subnormal numbers count as zero

  Around around(const Group& group) const { return {scale, shrink, group.clip_value, group.sign, group.l2, average}; }
  bool plain(const Group& group) const {
    return scale == 1 && shrink == 1 && group.clip_value == std::numeric_limits<double>::infinity() &&
           group.sign == 1 && group.l2 == 0 && average < 0;
  }
};

class Plan {
 public:
  // averaged: after the rule's slots the state has one more, for the running average of the parameter.
  Plan(const Kernels& kernels, const Kernel& kernel, bool averaged)
      : kernels_(kernels), kernel_(kernel), slots_(static_cast<size_t>(kernel.slots) + averaged) {}

  // Whether the plan serves an entry, its i-th, as it served the last one: same name, same memory, same layouts, state
  // that still can be written. Its gradient may have moved, as it does where each step makes a new one. knows() is for
  // arrays, that need not be looked at before; serves() for those that were looked at. If all are served, follow() goes
  // after the gradients.
  bool knows(size_t i, Entry& entry) const;
  bool serves(const std::vector<Entry>& entries) const;
  void follow(const std::vector<Entry>& entries);
  size_t size() const { return rows_.size(); }

  // Checks shapes, dtypes and overlaps, and plans anew. states[i] is the state of entries[i], groups[i] the number of
  // its group; no numbers mean that there is one group. Throws before it changes anything.
  void make(const std::vector<Entry>& entries, const std::vector<State>& states, const std::vector<size_t>& groups);

  // All memory that so many threads need beside the arrays, so that a step that has begun cannot fail for want of it.
  void provide(int threads, bool surveyed);

  // Python floats have no address: they, and their state, are worked on in cells of the plan's own.
  bool has_floats() const { return floats_; }  // among the parameters
  bool has_arrays() const { return arrays_; }
  bool has_cells() const { return cells_; }  // also where a gradient alone is a float
  void load_floats(const std::vector<Entry>& entries);
  double float_result(size_t i) const;
  void store_float_state() const;

  size_t traffic() const;  // bytes read and written by one run

  // The gradients' norm over all tensors, and the first whose gradient has an element that is not finite.
  static constexpr size_t none = static_cast<size_t>(-1);
  struct Survey {
    double norm;
    size_t first_not_finite;
  };
  Survey survey(const Orders& orders, int threads);

  // Each of what follows is for the floats or for the arrays among the parameters.
  enum class Part : char { floats, arrays };
  bool is_in(Part part, size_t i) const { return tensors_[i].in_cells == (part == Part::floats); }

  // The first half of a rule that has two, and the norms of each tensor's parameter and direction.
  struct Norms {
    double p, u;
  };
  std::vector<Norms> measure(Part part, const Orders& orders, int threads);
  void set_ratio(size_t i, double ratio) { tensors_[i].ratio = ratio; }
  size_t group_of(size_t i) const { return tensors_[i].group; }
  py::handle workspace(size_t i) const { return rows_[i]->state[static_cast<size_t>(kernel_.slots) - 1].array; }

  // The step, or the second half of it.
  void run(Part part, const Orders& orders, int threads);

  // For the garbage collector: each object that is held.
  int visit_all(visitproc visit, void* arg) const;

 private:
  static constexpr size_t max_operands = 2 + max_slots + 1;  // p, g, state, average

  struct Tensor {
    size_t size;
    Format format;
    bool in_cells;
    size_t group, first_block;
    std::array<char*, max_operands> base;  // the first element of the walk
    std::unique_ptr<Axes> axes;            // nullptr: all operands are contiguous along one walk
    std::array<bool, max_operands> staged;
    double ratio = 1;
    size_t itemsize() const { return about(format).itemsize; }
  };

  struct Kept {
    py::object array, memory;  // which outlives what the caller may make of the array
    View view;
  };

  struct Row {
    py::object key;
    py::ssize_t hash;
    View p, g;
    std::vector<Kept> state;                // operands, then others
    std::array<double, max_operands> cell;  // where p is a float
  };

  // A block of a tensor: contiguous memory for each operand, the array's own or scratch.
  template <class T>
  struct Block;

  // A thread's memory for blocks of strided arrays, and for the direction of a rule in two halves. It is not on the
  // stack, which may be small.
  struct Scratch {
    alignas(64) double block[max_operands + 1][block_elements];
    template <class T>
    T* of(size_t operand) {
      return reinterpret_cast<T*>(block[operand]);
    }
  };

  size_t operands() const { return 2 + slots_; }
  bool has_name(const Row& row, py::handle key) const;
  bool has_state(size_t i) const;
  bool is_free(const View& g) const;
  bool has_cell(size_t operand) const;
  Tensor flatten(const Entry& entry, Row& row) const;
  std::array<double, max_scalars> scalars_of(const Tensor& tensor, const Orders& orders) const;

  template <class Work>
  void each_share(int threads, bool flush, Work work);
  template <class T, class Work>
  void each_block(const Tensor& tensor, Scratch* scratch, unsigned read, unsigned written, size_t from, size_t to,
                  Work work) const;
  template <class T>
  void step(const Tensor& tensor, Scratch* scratch, const Orders& orders, size_t from, size_t to) const;
  template <class T>
  void measure(const Tensor& tensor, Scratch* scratch, const Orders& orders, size_t from, size_t to);
  template <class T>
  void survey(const Tensor& tensor, Scratch* scratch, double scale, size_t from, size_t to);

  const Kernels& kernels_;
  const Kernel& kernel_;
  const size_t slots_;
  std::vector<std::unique_ptr<Row>> rows_;  // unique_ptr: cells keep their address
  std::vector<Tensor> tensors_;
  std::vector<py::handle> watched_;  // the state that the kernel writes, of all rows
  std::vector<size_t> ends_;         // running sum of the parameters' bytes
  std::vector<Extent> written_;      // parameters and state, sorted
  size_t blocks_ = 0;
  bool floats_ = false, arrays_ = false, cells_ = false, staged_ = false;
  std::vector<Scratch> scratch_;         // by thread
  std::vector<double> p_sums_, u_sums_;  // of squares, by block
  std::vector<char> finite_;             // by block
};

}  // namespace schuss
