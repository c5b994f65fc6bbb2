// The plan of an update: every array checked against the others, then all tensors as one row of work.
#pragma once
#include <array>
#include <memory>

#include "array.hpp"
#include "kernels.hpp"
#include "stage.hpp"

namespace schuss {

// A parameter as update() received it. A gradient of None makes no entry.
struct Entry {
  py::object key, p, g;
  View p_view, g_view;
};

class Plan {
 public:
  explicit Plan(const Kernel& kernel) : kernel_(kernel) {}

  // Whether the plan serves these entries too: same names, same memory, same layouts. Gradients may have moved,
  // as they do where each step makes new ones; the plan then follows them.
  bool follow(const std::vector<Entry>& entries);

  // Checks shapes, dtypes and overlaps, and plans anew. states[i] holds the state arrays of entries[i].
  // Throws before it changes anything.
  void make(const std::vector<Entry>& entries, const std::vector<std::vector<py::object>>& states);

  // Python floats have no address: they are worked on in cells of the plan's own.
  void load_floats(const std::vector<Entry>& entries);
  double float_result(size_t i) const;

  size_t traffic() const;  // bytes read and written by one run
  void run(const double* scalars, int threads);

 private:
  static constexpr size_t max_operands = 2 + max_slots;  // p, g, state

  struct Tensor {
    size_t size;
    bool is_double;
    std::array<char*, max_operands> base;  // the first element of the walk
    std::unique_ptr<Axes> axes;            // nullptr: all operands are contiguous along one walk
    std::array<bool, max_operands> staged;
    size_t itemsize() const { return is_double ? sizeof(double) : sizeof(float); }
  };

  // What an operand looked like when it was checked.
  struct Seen {
    char* data;
    bool is_double;
    Kind kind;
    std::vector<py::ssize_t> layout;  // shape, then strides
    explicit Seen(const View& view);
    bool same_layout(const View& view) const;
  };

  struct Row {
    py::object key;
    Seen p, g;
    std::vector<py::object> state;  // keeps the state arrays alive
    std::array<double, 2> cell;     // p and g where they are floats
  };

  size_t operands() const { return 2 + static_cast<size_t>(kernel_.slots); }
  Tensor flatten(const Entry& entry, const std::vector<View>& state, Row& row) const;
  void share(const double* scalars, int rank, int size) const;
  void step(const Tensor& tensor, const double* scalars, size_t from, size_t to) const;

  const Kernel& kernel_;
  std::vector<std::unique_ptr<Row>> rows_;  // unique_ptr: cells keep their address
  std::vector<Tensor> tensors_;
  std::vector<size_t> ends_;     // running sum of the parameters' bytes
  std::vector<Extent> written_;  // parameters and state, sorted
};

}  // namespace schuss
