// Matrices whose second moment is a row and a column: how they are cut, and what is done with each piece.
#include <algorithm>
#include <cstdint>

#include "blocks.hpp"

namespace schuss {
namespace {

// How the matrices of a tensor are cut for the sums of their squares: into strips of rows, each of whose columns is
// summed from row to row, and these into tiles. The sums depend on the strips, and on nothing else.
struct Tiles {
  static constexpr size_t least_rows = 32, most_strips = 32;

  size_t height, strips, chunks, across;

  explicit Tiles(const Factored& f)
      : height(std::max(least_rows, (f.rows + most_strips - 1) / most_strips)),
        strips((f.rows + height - 1) / height),
        chunks((f.columns + block_elements - 1) / block_elements),
        across((f.columns + tile_columns - 1) / tile_columns) {}

  size_t count(const Factored& f) const { return f.matrices * strips * across; }
};

}  // namespace

// The place of each tensor's sums and parts, from the start on in each turn. What is summed in one piece needs no sums.
void Passes::lay_factors(int threads) {
  if (laid_for_ == threads) return;
  laid_.resize(plan_.tensors().size());
  size_t sums = 0, parts = 0;
  for (size_t first = 0, last; first < laid_.size(); first = last) {
    last = end_of_turn(first, threads);
    size_t sum = 0, part = 0;
    const auto take = [](size_t& end, size_t n) { return std::exchange(end, end + n); };
    for (size_t i = first; i < last; ++i) {
      if (!plan_.tensors()[i].factored) continue;
      const Factored& f = *plan_.tensors()[i].factored;
      const Tiles tiles(f);
      laid_[i] = {take(sum, tiles.chunks > 1 ? f.matrices * f.rows * tiles.chunks : 0),
                  take(sum, tiles.strips > 1 ? f.matrices * f.columns * tiles.strips : 0),
                  take(part, f.matrices * f.rows), take(part, f.matrices * f.columns)};
    }
    sums = std::max(sums, sum), parts = std::max(parts, part);
  }
  sums_.resize(sums);
  parts_.resize(parts * sizeof(double) / sizeof(Line) + 1);
  laid_for_ = threads;
}

// Of a share of the tiles. What is complete in one of them is averaged at once: rows that are no longer than a block,
// columns of a single strip.
template <class T>
void Passes::sum_squares(const Tensor& tensor, const Share& share, const Orders& orders) {
  const Factors<T>& factors = tensor.kernel->factors->of<T>();
  const Factored& f = *tensor.factored;
  const Tiles tiles(f);
  const Laid& laid = laid_[share.i];
  T *const row_parts = parts_at<T>(laid.row_parts), *const column_parts = parts_at<T>(laid.column_parts);
  const Group& group = orders.groups[tensor.group];
  const Around surroundings = orders.around(group), *const around = orders.plain(group) ? nullptr : &surroundings;
  const bool plain = !tensor.axes && tensor.code(1) == Code::none;
  each_block<T>(tensor, share, parameter, nothing, orders.t, [&](const Block<T>& block) {
    p_sums_[block.index] = kernels_.queries.of<T>().squares(block.n, block.at[0], 1);
  });
  const size_t begin = share.from * tiles.count(f) / tensor.size, end = share.to * tiles.count(f) / tensor.size;
  for (size_t tile = begin; tile < end; ++tile) {
    const size_t strip = tile / tiles.across, matrix = strip / tiles.strips;
    const size_t left = tile % tiles.across * tile_columns, width = std::min(tile_columns, f.columns - left);
    const size_t top = strip % tiles.strips * tiles.height, bottom = std::min(f.rows, top + tiles.height);
    double* const columns =
        tiles.strips == 1 ? share.scratch->column_sums : &sums_[laid.column_sums + strip * f.columns + left];
    std::fill_n(columns, width, 0.0);
    for (size_t row = top, n; row < bottom; row += n) {
      n = plain ? std::min(Factors<T>::most_rows, bottom - row) : 1;
      const size_t first = matrix * f.rows + row, done = (row - top) % block_elements;
      double* const rows =
          tiles.chunks == 1 ? share.scratch->row_sums + done : &sums_[laid.row_sums + first * tiles.chunks];
      for (size_t j = left; j < left + width; j += block_elements) {
        const size_t length = std::min(block_elements, left + width - j);
        const T* const g = bring<T>(tensor, share, 1, first * f.columns + j, length);
        factors.squares(around, n, length, f.columns, g, rows + j / block_elements, tiles.chunks, columns + (j - left));
      }
      if (tiles.chunks == 1 && (done + n == block_elements || row + n == bottom))
        average(tensor, share, orders, f.row, first - done, done + n, share.scratch->row_sums, f.columns,
                row_parts + first - done);
    }
    if (tiles.strips == 1) {
      const size_t first = matrix * f.columns + left;
      average(tensor, share, orders, f.column, first, width, share.scratch->column_sums, f.rows, column_parts + first);
    }
  }
}

// Of a share of the rows, and one of the columns.
template <class T>
void Passes::average_pieces(const Tensor& tensor, const Share& share, const Orders& orders) {
  const Factored& f = *tensor.factored;
  const Tiles tiles(f);
  const Laid& laid = laid_[share.i];
  T *const row_parts = parts_at<T>(laid.row_parts), *const column_parts = parts_at<T>(laid.column_parts);
  double* const sums = share.scratch->row_sums;
  const auto each_of = [&](size_t count, auto work) {
    const size_t end = share.to * count / tensor.size;
    for (size_t first = share.from * count / tensor.size, n; first < end; first += n)
      n = work(first, std::min(block_elements, end - first));
  };
  if (tiles.chunks > 1)
    each_of(f.matrices * f.rows, [&](size_t first, size_t n) {
      for (size_t i = 0; i < n; ++i)
        sums[i] = tree_sum(&sums_[laid.row_sums + (first + i) * tiles.chunks], tiles.chunks);
      average(tensor, share, orders, f.row, first, n, sums, f.columns, row_parts + first);
      return n;
    });
  if (tiles.strips > 1)
    each_of(f.matrices * f.columns, [&](size_t first, size_t n) {
      const size_t matrix = first / f.columns, column = first % f.columns;
      n = std::min(n, f.columns - column);
      double* const strips = &sums_[laid.column_sums + matrix * tiles.strips * f.columns + column];
      // As tree_sum() has it, of many at once.
      for (size_t left = tiles.strips; left > 1; left = (left + 1) / 2) {
        for (size_t strip = 0; strip + 1 < left; strip += 2) {
          double* const to = strips + strip / 2 * f.columns;
          const double *const a = strips + strip * f.columns, *const b = a + f.columns;
          for (size_t i = 0; i < n; ++i) to[i] = a[i] + b[i];
        }
        if (left % 2) std::copy_n(strips + (left - 1) * f.columns, n, strips + left / 2 * f.columns);
      }
      average(tensor, share, orders, f.column, first, n, strips, f.rows, column_parts + first);
      return n;
    });
}

// The averages [first, first + n) of a factor, and their parts, from sums over so many squares.
template <class T>
void Passes::average(const Tensor& tensor, const Share& share, const Orders& orders, const Factor& of, size_t first,
                     size_t n, const double* sums, size_t count, T* parts) const {
  const double* const scalars = orders.groups[tensor.group].scalars.data();
  const auto of_block = tensor.kernel->factors->of<T>().average;
  if (!of.axes)
    return of_block(scalars, n, sums, static_cast<double>(count), reinterpret_cast<T*>(of.base) + first, parts);
  T* const staged = share.scratch->of<T>(0);
  for (size_t done = 0, some; done < n; done += some) {
    some = std::min(block_elements, n - done);
    stage_in(*of.axes, 0, of.base, sizeof(T), first + done, some, staged);
    of_block(scalars, some, sums + done, static_cast<double>(count), staged, parts + done);
    stage_out(*of.axes, 0, of.base, sizeof(T), first + done, some, staged);
  }
}

template <class T>
double Passes::mean_of_rows(const Tensor& tensor, const Share& share, size_t matrix) const {
  const Factored& f = *tensor.factored;
  const auto sum_of_block = kernels_.queries.of<T>().sum;
  const size_t first = matrix * f.rows, blocks = (f.rows + block_elements - 1) / block_elements;
  const double sum = tree_sum_of(blocks, [&](size_t block) {
    const size_t from = first + block * block_elements, n = std::min(block_elements, first + f.rows - from);
    if (!f.row.axes) return sum_of_block(n, reinterpret_cast<const T*>(f.row.base) + from);
    T* const staged = share.scratch->of<T>(max_operands);
    stage_in(*f.row.axes, 0, f.row.base, sizeof(T), from, n, staged);
    return sum_of_block(n, staged);
  });
  return sum / static_cast<double>(f.rows);
}

// work(piece, first) for the pieces of a block that are each of one matrix, the first of whose elements is so far in
// it.
template <class T, class Work>
void Passes::each_matrix(const Tensor& tensor, const Share& share, const Block<T>& block, Mean& mean, Work work) {
  const Factored& f = *tensor.factored;
  const Laid& laid = laid_[share.i];
  const T *const row_parts = parts_at<T>(laid.row_parts), *const column_parts = parts_at<T>(laid.column_parts);
  const size_t size = f.rows * f.columns, from = (block.index - tensor.first_block) * block_elements;
  for (size_t done = 0, n; done < block.n; done += n) {
    const size_t matrix = (from + done) / size, first = (from + done) % size;
    n = std::min(block.n - done, size - first);
    if (mean.matrix != matrix) mean = {matrix, mean_of_rows<T>(tensor, share, matrix)};
    work(Piece<T>{n, first, f.columns, row_parts + matrix * f.rows, column_parts + matrix * f.columns, mean.value},
         done);
  }
}

template <class T>
void Passes::measure_factored(const Tensor& tensor, const Share& share, const Orders& orders, Mean& mean) {
  const Factors<T>& factors = tensor.kernel->factors->of<T>();
  const Group& group = orders.groups[tensor.group];
  const Around surroundings = orders.around(group), *const around = orders.plain(group) ? nullptr : &surroundings;
  T* const u = share.scratch->of<T>(max_operands);
  each_block<T>(tensor, share, gradient, nothing, orders.t, [&](const Block<T>& block) {
    Met& met = measures_[block.index];
    const bool carefully = share.guide->carefully(met);
    double sums[lanes] = {};
    each_matrix(tensor, share, block, mean, [&](const Piece<T>& piece, size_t first) {
      const T* const g = block.at[1] + first;
      if (carefully) return factors.direction_carefully(group.scalars.data(), around, piece, g, u + first);
      factors.measure(group.scalars.data(), around, piece, g, first % lanes, sums);
    });
    u_sums_[block.index] =
        carefully ? kernels_.queries.of<T>().squares(block.n, u, 1) : kernels_.queries.f64.sum(lanes, sums);
    share.guide->note(met);
  });
}

template <class T>
void Passes::step_factored(const Tensor& tensor, const Share& share, const Orders& orders) {
  const Factors<T>& factors = tensor.kernel->factors->of<T>();
  const std::array<double, max_scalars> scalars = scalars_of(tensor, share, orders);
  const Group& group = orders.groups[tensor.group];
  const Around before = orders.around(group), *const around = orders.plain(group) ? nullptr : &before;
  const Around after = orders.afterwards(), *const afterwards = orders.average < 0 ? nullptr : &after;
  const unsigned written = but_slot & (orders.clears ? all : all_but_gradient);
  T* const u = share.scratch->of<T>(max_operands);
  Mean mean;
  each_block<T>(tensor, share, but_slot, written, orders.t, [&](const Block<T>& block) {
    Met& met = steps_[block.index];
    const bool carefully = share.guide->carefully(met), at_once = !carefully && !afterwards;
    each_matrix(tensor, share, block, mean, [&](const Piece<T>& piece, size_t first) {
      const T* const g = block.at[1] + first;
      if (at_once) return factors.step(scalars.data(), around, piece, block.at[0] + first, g);
      (carefully ? factors.direction_carefully : factors.direction)(scalars.data(), around, piece, g, u + first);
    });
    if (!at_once) {
      std::array<void*, max_operands> at;
      std::copy(block.at.begin(), block.at.end(), at.begin());
      tensor.kernel->ways.of<T>().of(carefully).follow(scalars.data(), afterwards, block.n, at[0], u, &at[3]);
    }
    if (orders.clears) std::fill_n(block.at[1], block.n, T(0));
    share.guide->note(met);
  });
}

template void Passes::sum_squares<float>(const Tensor&, const Share&, const Orders&);
template void Passes::sum_squares<double>(const Tensor&, const Share&, const Orders&);
template void Passes::average_pieces<float>(const Tensor&, const Share&, const Orders&);
template void Passes::average_pieces<double>(const Tensor&, const Share&, const Orders&);
template void Passes::measure_factored<float>(const Tensor&, const Share&, const Orders&, Mean&);
template void Passes::measure_factored<double>(const Tensor&, const Share&, const Orders&, Mean&);
template void Passes::step_factored<float>(const Tensor&, const Share&, const Orders&);
template void Passes::step_factored<double>(const Tensor&, const Share&, const Orders&);

}  // namespace schuss
