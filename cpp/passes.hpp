// What is done over a plan's row of work: survey, measure and step.
//
// Each thread takes a share of equal bytes. On a contiguous array the kernel runs over long stretches of it; what is
// strided is staged in and out, block by block. The norms are summed by blocks, too. A block that met subnormal numbers
// goes by the careful way the next time, until it meets none.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "kernels.hpp"
#include "plan.hpp"
#include "rows.hpp"
#include "subnormals.hpp"

namespace schuss {

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
  bool clears = false;  // whether the gradients are zeros after it
  int64_t t = 0;        // which step it is, for what is rounded at random

  Around around(const Group& group) const { return {scale, shrink, group.clip_value, group.sign, group.l2, average}; }
  // What stands around a second half, which has the direction.
  Around afterwards() const { return {1, 1, std::numeric_limits<double>::infinity(), 1, 0, average}; }
  bool plain(const Group& group) const {
    return scale == 1 && shrink == 1 && group.clip_value == std::numeric_limits<double>::infinity() &&
           group.sign == 1 && group.l2 == 0 && average < 0;
  }
};

// Columns of a tile, of which the sums of squares are one piece of work.
constexpr size_t tile_columns = 4 * block_elements;

class Passes {
 public:
  Passes(const Kernels& kernels, const Plan& plan) : kernels_(kernels), plan_(plan) {}

  // All memory that so many threads need beside the arrays, so that a step that has begun cannot fail for want of it.
  // sums: whether some of blocks are wanted, whatever the tensors' courses are.
  void provide(int threads, bool sums);

  // The gradients' norm over all tensors, and the first whose gradient has an element that is not finite.
  struct Survey {
    double norm;
    std::optional<size_t> first_not_finite;
  };
  void survey(const Orders& orders, int threads);
  // The gradient by rows of the i-th tensor, where it is filled in; held until the step is made.
  void fill_from(size_t i, const Named& named, size_t width, const char* values);
  // The sums of squares of the i-th tensor's blocks, and whether they are finite: all zeros, for a gradient by rows.
  std::pair<double*, char*> blank_survey(size_t i);
  Survey surveyed() const;

  // What follows is done to the tensors of a part whose steps go one of these courses.
  // The first half of rules that have two.
  void measure(Part part, unsigned courses, const Orders& orders, int threads);
  void set_ratio(size_t i, double ratio) { ratios_[i] = ratio; }
  // Both halves of rules with ratios of their own, some tensors after the other: as many as stay in the cache between.
  void halves(Part part, unsigned courses, const Orders& orders, int threads);

  // Of the i-th tensor's blocks: the sums of squares that were surveyed or measured, and whether they are finite.
  const double* p_sums(size_t i) const { return p_sums_.data() + plan_.tensors()[i].first_block; }
  const double* u_sums(size_t i) const { return u_sums_.data() + plan_.tensors()[i].first_block; }
  bool all_finite(size_t i) const;

  // The step, or the second half of it: on the bytes [low, high) of the row, which begin and end where a block does.
  void step(Part part, unsigned courses, const Orders& orders, int threads, size_t low, size_t high);

  // How many blocks met subnormal numbers in the last step.
  size_t met_subnormals() const { return static_cast<size_t>(std::count(steps_.begin(), steps_.end(), Met::some)); }

 private:
  // A thread's memory for blocks of strided arrays, and for the direction of a rule in two halves. It is not on the
  // stack, which may be small.
  struct Scratch {
    // Operands that lie a multiple of 4,096 bytes apart stand in each other's way: in cache int8 took 0.93 ns an
    // element or 1.5, as it happened (AMD EPYC, Zen 4).
    static constexpr size_t apart = 40;
    alignas(64) double block[max_operands + 1][block_elements + apart];
    alignas(64) uint16_t raw[2][block_elements];  // p and g of 16 bits that are strided, before they are decoded
    alignas(64) uint32_t random[block_elements];
    alignas(64) double row_sums[block_elements], column_sums[tile_columns];  // of squares, on their way to averages
    template <class T>
    T* of(size_t operand) {
      return reinterpret_cast<T*>(block[operand]);
    }
  };

  // A thread on its way through a region.
  struct Worker {
    int rank, size;
    Guide* guide;
    Scratch* scratch;
    char* kept;  // its memory for directions, which stay there from one half to the other; or nullptr
  };

  // What one thread does of the i-th tensor: the elements [from, to).
  struct Share {
    size_t i;
    Scratch* scratch;
    Guide* guide;
    size_t from, to;
    double ratio;
    char* kept;  // the direction of the first of them, where it is kept
  };

  // A block of a tensor: contiguous memory for each operand, the array's own or scratch.
  template <class T>
  struct Block {
    size_t index, n;  // which of all the plan's blocks, of how many elements
    std::array<T*, max_operands> at;
  };

  std::array<double, max_scalars> scalars_of(const Tensor& tensor, const Share& share, const Orders& orders) const;

  template <class Work>
  void each_worker(int threads, bool flush, Work work);
  template <class Work>
  void share_out(const Worker& worker, size_t low, size_t high, Work work);
  template <class Work>
  void each_share(int threads, bool flush, size_t low, size_t high, Work work);
  static size_t past_line(const Tensor& tensor, const Share& share);
  size_t end_of_turn(size_t first, int threads) const;
  double ratio_of(size_t i, const Orders& orders) const;
  // Of a tensor with factors, in this order and with all threads between: the squares' sums; the averages of what has
  // been summed in pieces; the directions' norm; the step. They are in matrices.cpp.
  template <class T>
  void sum_squares(const Tensor& tensor, const Share& share, const Orders& orders);
  template <class T>
  void average_pieces(const Tensor& tensor, const Share& share, const Orders& orders);
  // Of one matrix after the other: the mean of its rows' averages, which is that of the last one asked for.
  struct Mean {
    size_t matrix = std::numeric_limits<size_t>::max();
    double value = 0;
  };
  template <class T>
  void measure_factored(const Tensor& tensor, const Share& share, const Orders& orders, Mean& mean);
  template <class T>
  void step_factored(const Tensor& tensor, const Share& share, const Orders& orders);
  void lay_factors(int threads);
  template <class T>
  void average(const Tensor& tensor, const Share& share, const Orders& orders, const Factor& of, size_t first, size_t n,
               const double* sums, size_t count, T* parts) const;
  template <class T>
  double mean_of_rows(const Tensor& tensor, const Share& share, size_t matrix) const;
  template <class T, class Work>
  void each_matrix(const Tensor& tensor, const Share& share, const Block<T>& block, Mean& mean, Work work);
  template <class T, class Work>
  void each_block(const Tensor& tensor, const Share& share, unsigned read, unsigned written, int64_t t,
                  Work work) const;
  template <class T>
  T* bring(const Tensor& tensor, const Share& share, size_t operand, size_t first, size_t n) const;
  template <class T>
  void put_back(const Tensor& tensor, const Share& share, size_t operand, size_t first, size_t n, T* from,
                Whose& whose) const;
  template <class T>
  void step(const Tensor& tensor, const Share& share, const Orders& orders);
  template <class ByBlocks, class Run>
  void in_stretches_of_blocks(const Tensor& tensor, const Share& share, ByBlocks by_blocks, Run run);
  template <class Work>
  static void each_piece_backwards(const Share& share, Work work);
  template <class Run>
  void in_stretches(const Tensor& tensor, const Share& share, Run run);
  template <class T>
  void measure(const Tensor& tensor, const Share& share, const Orders& orders);
  template <class T>
  void survey(const Tensor& tensor, const Share& share, const Orders& orders);

  const Kernels& kernels_;
  const Plan& plan_;
  struct ByRows {
    const Named* named = nullptr;
    size_t width = 0;  // elements of a row
    const char* values = nullptr;
  };

  std::vector<Scratch> scratch_;  // by thread
  struct alignas(64) Line {
    char bytes[64];
  };
  std::vector<std::vector<Line>> kept_;  // by thread: directions
  // Where the sums and the parts of a tensor with factors lie, which tensors of other turns have, too.
  struct Laid {
    size_t row_sums, column_sums, row_parts, column_parts;
  };
  template <class T>
  T* parts_at(size_t place) {  // each has the room of a double, whatever its type
    return reinterpret_cast<T*>(reinterpret_cast<double*>(parts_.data()) + place);
  }
  int laid_for_ = 0;          // threads
  std::vector<Laid> laid_;    // by tensor
  std::vector<double> sums_;  // of squares, of rows and columns in pieces
  std::vector<Line> parts_;
  std::vector<ByRows> by_rows_;          // by tensor, where any is filled in
  std::vector<double> p_sums_, u_sums_;  // of squares, by block
  std::vector<char> finite_;             // by block
  std::vector<Met> measures_, steps_;    // by block: the last time that the first half, or the step, was made
  std::vector<double> ratios_;           // by tensor
};

}  // namespace schuss
