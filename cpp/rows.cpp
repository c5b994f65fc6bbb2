// Sorting of rows, bookkeeping of what they lack, and the loops over them.
#include "rows.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <string>
#include <type_traits>

#include "subnormals.hpp"
#include "team.hpp"

namespace schuss {

namespace {

// The positions of keys below `limit` in ascending order of them, equal ones as they stand: digit by digit.
std::vector<size_t> sorted_positions(const std::vector<size_t>& keys, size_t limit) {
  constexpr size_t bits = 11, buckets = size_t{1} << bits;
  std::vector<size_t> order(keys.size()), before(keys.size());
  std::iota(order.begin(), order.end(), size_t{0});
  if (keys.size() < buckets / 8) {
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return keys[a] < keys[b]; });
    return order;
  }
  for (size_t shift = 0; limit >> shift; shift += bits) {
    std::array<size_t, buckets + 1> starts{};
    const auto digit = [&](size_t position) { return keys[position] >> shift & (buckets - 1); };
    for (const size_t position : order) ++starts[digit(position) + 1];
    std::partial_sum(starts.begin(), starts.end(), starts.begin());
    before.swap(order);
    for (const size_t position : before) order[starts[digit(position)]++] = position;
  }
  return order;
}

}  // namespace

Named name_rows(py::handle indices, size_t k, size_t n, const Name& gradient) {
  const auto refuse = [&](const std::string& what) {
    throw py::value_error(gradient.text() + ": its indices " + what);
  };
  if (!py::isinstance<py::array_t<int64_t>>(indices))
    throw py::type_error(gradient.text() + ": its indices must be a numpy.ndarray of int64");
  const py::array_t<int64_t> array = py::reinterpret_borrow<py::array_t<int64_t>>(indices);
  if (array.ndim() != 1 || static_cast<size_t>(array.shape(0)) != k)
    refuse("must have shape (" + std::to_string(k) + ",), one for each row of values");
  // They are read once, and then are ours: another thread may write into the array.
  std::vector<size_t> keys(k);
  for (size_t i = 0; i < k; ++i) {
    int64_t index;
    std::memcpy(&index, array.data(static_cast<py::ssize_t>(i)), sizeof index);
    if (index < 0 || static_cast<uint64_t>(index) >= n)
      refuse(
          (n ? "must be rows from 0 to " + std::to_string(n - 1) : std::string("name rows of an array that has none")) +
          ", got " + std::to_string(index) + " at " + std::to_string(i));
    keys[i] = static_cast<size_t>(index);
  }
  Named named;
  named.order = sorted_positions(keys, n);
  for (size_t i = 0; i < k; ++i) {
    const size_t row = keys[named.order[i]];
    if (named.rows.empty() || named.rows.back() != row) {
      if (i > 0) named.ends.push_back(i);
      named.rows.push_back(row);
    }
  }
  named.ends.push_back(k);
  return named;
}

bool Lag::is_of(const Table& other) const {
  return table_.rows == other.rows && table_.width == other.width && table_.operands == other.operands &&
         table_.base == other.base && table_.stride == other.stride;
}

bool Lag::lies_in(const View& parameter) const {
  return parameter.data == table_.base[0] && parameter.format == table_.format && parameter.layout.ndim() > 0 &&
         parameter.layout.shape()[0] == static_cast<py::ssize_t>(table_.rows) && has_whole_rows(parameter) &&
         row_bytes(parameter) == static_cast<py::ssize_t>(table_.width * parameter.itemsize()) &&
         (table_.rows < 2 || parameter.layout.strides()[0] == table_.stride[0]);
}

bool Lag::any_behind() const {
  return !none_behind() && std::any_of(made_.begin(), made_.end(), [&](uint64_t made) { return made < count_; });
}

bool Lag::intact() const {
  for (size_t o = 0; o < table_.operands; ++o) {
    if (o == 1) continue;
    const py::object& array = held_[o == 0 ? 0 : 2 * (o - 1)];
    const View now = look(array, {Role::gradient, {}, "rows"}, true);  // by which being read-only is no error
    const bool same = now.data == table_.base[o] && now.format == table_.format && now.layout.ndim() > 0 &&
                      now.layout.shape()[0] == static_cast<py::ssize_t>(table_.rows) &&
                      row_bytes(now) == static_cast<py::ssize_t>(table_.width * now.itemsize());
    if (!same || !(now.kind == Kind::tensor || is_writeable(array))) return false;
  }
  return true;
}

bool Lag::meets(const Extent& extent) const {
  const char* const low = table_.base[0];
  const char* const high = low + static_cast<std::ptrdiff_t>(table_.rows) * table_.stride[0];
  return extent.low < high && low < extent.high;
}

std::vector<size_t> Lag::all_behind() const {
  std::vector<size_t> rows;
  if (none_behind()) return rows;
  for (size_t row = 0; row < made_.size(); ++row)
    if (behind(row)) rows.push_back(row);
  return rows;
}

void Lag::add(const Step& step) {
  steps_[count_++ % most] = step;
  if (step.moves_zero) moved_ = count_;
}

void Lag::has_made_all(const std::vector<size_t>& rows) {
  for (const size_t row : rows) made_[row] = count_;
}

std::vector<size_t> Lag::next_in_turn() const {
  std::vector<size_t> rows((made_.size() + most - 1) / most);
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = (turn_ + i) % made_.size();
  return rows;
}

int Lag::visit_all(visitproc visit, void* arg) const {
  for (const py::object& each : held_) Py_VISIT(each.ptr());
  return 0;
}

// Another thread may have allowed more of them meanwhile.
int RowPasses::provided(int threads) const { return std::min(threads, static_cast<int>(scratch_.size())); }

void RowPasses::provide(int threads) {
  if (scratch_.size() < static_cast<size_t>(threads)) scratch_.resize(static_cast<size_t>(threads));
}

// work(first, count, column, n): of so many rows of a list, from its first on, n elements from a column on. A block is
// some whole rows, or a part of one.
template <class T, class Work>
void RowPasses::each_block(const Table& table, size_t from, size_t to, Work work) const {
  if (table.width == 0) return;
  const size_t n = std::min(table.width, block_elements), rows = block_elements / n;
  for (size_t first = from; first < to; first += rows)
    for (size_t column = 0; column < table.width; column += n)
      work(first, std::min(rows, to - first), column, std::min(n, table.width - column));
}

namespace {

template <class T>
T* at(const Table& table, size_t operand, size_t row, size_t column) {
  return reinterpret_cast<T*>(table.base[operand] + static_cast<std::ptrdiff_t>(row) * table.stride[operand]) + column;
}

// n elements of a row from a column on, of all operands but the gradient, to their i-th place in a block, and back.
template <class T>
void gather(const Table& table, size_t row, size_t column, size_t n, const std::array<void*, max_operands>& block,
            size_t i) {
  for (size_t o = 0; o < table.operands; ++o)
    if (o != 1) copy(static_cast<T*>(block[o]) + i * n, at<T>(table, o, row, column), n * sizeof(T));
}

template <class T>
void scatter(const Table& table, size_t row, size_t column, size_t n, const std::array<void*, max_operands>& block,
             size_t i) {
  for (size_t o = 0; o < table.operands; ++o)
    if (o != 1) copy(at<T>(table, o, row, column), static_cast<T*>(block[o]) + i * n, n * sizeof(T));
}

// Which part of [0, n) is a thread's.
size_t cut(size_t n, int rank, int size) {
  return n / static_cast<size_t>(size) * static_cast<size_t>(rank) +
         n % static_cast<size_t>(size) * static_cast<size_t>(rank) / static_cast<size_t>(size);
}

// Whether the state of a row is zero, and no parameter is -0, which a sum with zero would turn.
template <class T>
bool state_is_zero(const Table& table, size_t row) {
  using Bits = std::conditional_t<sizeof(T) == sizeof(uint32_t), uint32_t, uint64_t>;
  constexpr Bits minus_zero = Bits{1} << (sizeof(Bits) * 8 - 1);
  for (size_t o = 0; o < table.operands; ++o) {
    const Bits* const bits = reinterpret_cast<const Bits*>(at<T>(table, o, row, 0));
    bool found = false;
    for (size_t i = 0; i < table.width && o != 1; ++i) found |= o == 0 ? bits[i] == minus_zero : bits[i] != 0;
    if (found) return false;
  }
  return true;
}

}  // namespace

// With state and gradient zero, and no L2 term, a parameter stands in a rule by itself and times the decay, and is
// changed by what does not depend on it. So 0 and 1 tell for all but -0.
bool RowPasses::moves_zero(const Step& step, const Table& table) {
  if (step.flush || step.around.l2 != 0) return true;
  return with_type_of(table.format, [&](auto type) {
    using T = decltype(type);
    constexpr size_t n = 2;
    T p[n] = {0, 1}, zeros[max_operands][n] = {};
    std::array<void*, max_slots + 1> slots;
    for (size_t slot = 0; slot < slots.size(); ++slot) slots[slot] = zeros[slot];
    table.kernel->ways.of<T>().plain.step(step.scalars.data(), step.plain ? nullptr : &step.around, n, p,
                                          zeros[max_operands - 1], slots.data());
    T nothing[max_operands][n] = {};
    return p[0] != 0 || std::signbit(p[0]) || p[1] != 1 || std::memcmp(zeros, nothing, sizeof zeros) != 0;
  });
}

namespace {

// n elements of a row of the gradient from a column on: what np.add.at would have added to zeros.
template <class T>
void fill(const Named& named, size_t width, const char* values, size_t row, size_t column, size_t n, T* to) {
  const size_t first = row == 0 ? 0 : named.ends[row - 1];
  for (size_t i = first; i < named.ends[row]; ++i) {
    const T* const value = reinterpret_cast<const T*>(values) + named.order[i] * width + column;
    for (size_t k = 0; k < n; ++k) to[k] = (i == first ? T(0) : to[k]) + value[k];
  }
}

}  // namespace

template <class T>
size_t fill_block(const Named& named, size_t width, const char* values, size_t begin, size_t end, size_t i, T* to) {
  std::fill_n(to, end - begin, T(0));
  for (; i < named.rows.size() && named.rows[i] * width < end; ++i) {
    const size_t row = named.rows[i] * width, low = std::max(row, begin), high = std::min(row + width, end);
    fill(named, width, values, i, low - row, high - low, to + (low - begin));
    if (row + width > end) break;  // it goes on in the next block
  }
  return i;
}
template size_t fill_block(const Named&, size_t, const char*, size_t, size_t, size_t, float*);
template size_t fill_block(const Named&, size_t, const char*, size_t, size_t, size_t, double*);

void RowPasses::step(const Table& table, const Named& named, const char* values, const Step& step, int threads) {
  team::each_rank(provided(threads), [&](int rank, int size) {
    Guide guide(step.flush || !table.kernel->ways.f32.careful.step ? Care::never : care());
    Scratch& scratch = scratch_[static_cast<size_t>(rank)];
    Met met = Met::none;  // as the block before
    with_type_of(table.format, [&](auto type) {
      using T = decltype(type);
      std::array<void*, max_operands> operands;
      for (size_t o = 0; o < table.operands; ++o) operands[o] = scratch.of<T>(o);
      const size_t from = cut(named.rows.size(), rank, size), to = cut(named.rows.size(), rank + 1, size);
      each_block<T>(table, from, to, [&](size_t first, size_t count, size_t column, size_t n) {
        for (size_t i = 0; i < count; ++i) {
          fill(named, table.width, values, first + i, column, n, scratch.of<T>(1) + i * n);
          gather<T>(table, named.rows[first + i], column, n, operands, i);
        }
        {
          const Flush mode(step.flush);  // from here on: repeated rows were added as NumPy adds
          table.kernel->ways.of<T>()
              .of(guide.carefully(met))
              .step(step.scalars.data(), step.plain ? nullptr : &step.around, count * n, operands[0], operands[1],
                    &operands[2]);
        }
        met = guide.met();
        for (size_t i = 0; i < count; ++i) scatter<T>(table, named.rows[first + i], column, n, operands, i);
      });
    });
  });
}

// The first n of the scratch's rows, those first that lack most: at each step those that lack it are the first so many.
template <class T>
void RowPasses::catch_up_sorted(const Lag& lag, size_t n_rows, Scratch& scratch) const {
  const Table& table = lag.table_;
  std::array<void*, max_operands> operands;
  for (size_t o = 0; o < table.operands; ++o) operands[o] = scratch.of<T>(o);
  Met met = Met::none;
  each_block<T>(table, 0, n_rows, [&](size_t first, size_t count, size_t column, size_t n) {
    const size_t* const rows = &scratch.rows[first];
    for (size_t i = 0; i < count; ++i) gather<T>(table, rows[i], column, n, operands, i);
    size_t active = 0;
    for (uint64_t made = lag.made_[rows[0]]; made < lag.count_;) {
      const bool flush = lag.step(made).flush;
      const Flush mode(flush);
      Guide guide(flush || !table.kernel->ways.f32.careful.step ? Care::never : care());
      for (; made < lag.count_ && lag.step(made).flush == flush; ++made) {
        while (active < count && lag.made_[rows[active]] <= made) ++active;
        const Step& step = lag.step(made);
        table.kernel->ways.of<T>()
            .of(guide.carefully(met))
            .step(step.scalars.data(), step.plain ? nullptr : &step.around, active * n, operands[0], operands[1],
                  &operands[2]);
        met = guide.met();
      }
    }
    for (size_t i = 0; i < count; ++i) scatter<T>(table, rows[i], column, n, operands, i);
  });
}

size_t Arrears::traffic() {
  for (size_t i = 0; i < rows_.size(); ++i) before_[i + 1] = before_[i] + (lag_->count_ - lag_->made_[rows_[i]]);
  return static_cast<size_t>(before_.back()) * lag_->table_.step_bytes();
}

void RowPasses::catch_up(const Arrears& arrears, int threads) {
  Lag& lag = *arrears.lag_;
  const Table& table = lag.table_;
  const std::vector<size_t>& rows = arrears.rows_;
  const std::vector<uint64_t>& before = arrears.before_;
  team::each_rank(provided(threads), [&](int rank, int size) {
    const auto share = [&](int r) {
      const uint64_t until = before.back() / static_cast<uint64_t>(size) * static_cast<uint64_t>(r);
      return r == size ? rows.size()
                       : static_cast<size_t>(std::lower_bound(before.begin(), before.end(), until) - before.begin());
    };
    Scratch& scratch = scratch_[static_cast<size_t>(rank)];
    with_type_of(table.format, [&](auto type) {
      using T = decltype(type);
      std::fill_n(scratch.of<T>(1), block_elements, T(0));
      const size_t to = share(rank + 1);
      for (size_t from = share(rank); from < to; from += scratch.rows.size()) {
        // Rows that lack about as many steps go together: those that lack most come first.
        size_t n = 0;
        for (size_t i = from; i < std::min(to, from + scratch.rows.size()); ++i)
          if (lag.made_[rows[i]] < lag.moved_ || !state_is_zero<T>(table, rows[i])) scratch.rows[n++] = rows[i];
        std::sort(scratch.rows.begin(), scratch.rows.begin() + static_cast<std::ptrdiff_t>(n),
                  [&](size_t a, size_t b) { return lag.made_[a] < lag.made_[b]; });
        catch_up_sorted<T>(lag, n, scratch);
      }
    });
  });
  lag.has_made_all(rows);
}

void RowPasses::survey(const Table& table, const Named& named, const char* values, double scale, bool flush,
                       double* sums, char* finite) {
  if (table.width == 0) return;
  Scratch& scratch = scratch_[0];
  with_type_of(table.format, [&](auto type) {
    using T = decltype(type);
    const Queries<T>& queries = kernels_.queries.of<T>();
    T* const dense = scratch.of<T>(1);
    const size_t elements = table.rows * table.width;
    for (size_t i = 0; i < named.rows.size();) {
      // The block with the first element that is left of row i; and all rows with elements in it.
      static_assert(block_elements > 0);
      for (size_t block = named.rows[i] * table.width / block_elements;; ++block) {
        const size_t begin = block * block_elements, end = std::min(elements, begin + block_elements);
        i = fill_block(named, table.width, values, begin, end, i, dense);
        const Flush mode(flush);
        sums[block] = queries.squares(end - begin, dense, scale);
        finite[block] = std::isfinite(sums[block]) || queries.finite(end - begin, dense, scale);
        if (i == named.rows.size() || named.rows[i] * table.width >= end) break;
      }
    }
  });
}

}  // namespace schuss
