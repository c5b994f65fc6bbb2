// Gradients by rows: which rows a step names, which steps the other rows still lack, and the loops over them.
//
// A step goes over the rows that its gradient names, and leaves the others behind. What such a step would have done to
// them, with a gradient of zero, is kept; when a row is wanted the steps that it lacks are made one after another,
// within the cache.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "array.hpp"
#include "kernels.hpp"
#include "plan.hpp"

namespace schuss {

// What a step does to a parameter.
struct Step {
  std::array<double, max_scalars> scalars{};
  Around around;
  bool plain = true;  // nothing but the rule
  bool flush = false;
  bool moves_zero = true;  // whether it changes numbers whose state is zero, with a gradient of zero
};

// The rows that a gradient names: each once, in ascending order, and where their values lie, in the order given.
struct Named {
  std::vector<size_t> rows, ends, order;  // the values of rows[i] are order[ends[i - 1]] up to order[ends[i]]
};

// Of an int64 array of shape (k,) whose elements are rows of a table of n; throws where they are not.
Named name_rows(py::handle indices, size_t k, size_t n, const Name& gradient);

// The elements [begin, end) of the gradient as it would be dense, of rows of this width: what np.add.at would make of
// zeros. `i` is the first of the named rows that has one of them, or that comes after; returned is that for what
// follows.
template <class T>
size_t fill_block(const Named& named, size_t width, const char* values, size_t begin, size_t end, size_t i, T* to);

// Which steps each row of a table has had, of those that change it without a gradient.
class Lag {
 public:
  // No row is further behind than so many steps: with each the next few rows are brought up to date, all in so many.
  static constexpr size_t most = 1024;

  Lag(const Table& table, std::vector<py::object> held)
      : table_(table), held_(std::move(held)), made_(table.rows, 0), steps_(most) {}

  const Table& table() const { return table_; }
  bool is_of(const Table& other) const;
  bool lies_in(const View& parameter) const;
  bool none_behind() const { return count_ == 0; }  // without a look at each
  bool behind(size_t row) const { return made_[row] < count_; }
  bool intact() const;                     // whether the arrays still lie where they did, and can be written
  bool meets(const Extent& extent) const;  // whether the parameter may share memory with that
  bool any_behind() const;
  std::vector<size_t> all_behind() const;
  void add(const Step& step);  // all rows lack it then
  void has_made_all(const std::vector<size_t>& rows);
  std::vector<size_t> next_in_turn() const;
  void end_turn(size_t rows) { turn_ = made_.empty() ? 0 : (turn_ + rows) % made_.size(); }
  int visit_all(visitproc visit, void* arg) const;

 private:
  friend class RowPasses;
  friend class Arrears;
  const Step& step(uint64_t number) const { return steps_[static_cast<size_t>(number % most)]; }

  Table table_;
  std::vector<py::object> held_;    // the parameter and its state, whose memory this is
  std::vector<uint64_t> made_;      // of each row
  std::vector<Step> steps_;         // the last ones, each where its number leads to
  uint64_t count_ = 0, moved_ = 0;  // how many there were, in all and up to the last that moves zero
  size_t turn_ = 0;
};

// Rows that are to make the steps that they lack.
class Arrears {
 public:
  Arrears(Lag& lag, std::vector<size_t> rows) : lag_(&lag), rows_(std::move(rows)), before_(rows_.size() + 1) {}
  size_t size() const { return rows_.size(); }
  // Counts those steps; returns what all of them would move if each went through memory.
  size_t traffic();

 private:
  friend class RowPasses;
  Lag* lag_;
  std::vector<size_t> rows_;
  std::vector<uint64_t> before_;  // steps to be made before each row
};

// The loops. The memory that the threads need is taken beforehand: a step that has begun cannot fail for want of it.
class RowPasses {
 public:
  explicit RowPasses(const Kernels& kernels) : kernels_(kernels) {}
  void provide(int threads);

  // The step on the rows named, with their values.
  void step(const Table& table, const Named& named, const char* values, const Step& step, int threads);
  void catch_up(const Arrears& arrears, int threads);  // whose steps have been counted
  // Whether a step moves numbers of a table whose state is zero.
  static bool moves_zero(const Step& step, const Table& table);
  // For each block of the gradient as it would be dense, the sum of its squares, and whether all of it is finite; the
  // blocks without a named row are zero and finite already.
  void survey(const Table& table, const Named& named, const char* values, double scale, bool flush, double* sums,
              char* finite);

 private:
  struct Scratch {
    alignas(64) double block[max_operands][block_elements];
    std::array<size_t, 4096> rows;
    template <class T>
    T* of(size_t operand) {
      return reinterpret_cast<T*>(block[operand]);
    }
  };
  template <class T, class Work>
  void each_block(const Table& table, size_t from, size_t to, Work work) const;
  template <class T>
  void catch_up_sorted(const Lag& lag, size_t n_rows, Scratch& scratch) const;
  int provided(int threads) const;

  const Kernels& kernels_;
  std::vector<Scratch> scratch_;  // by thread
};

}  // namespace schuss
