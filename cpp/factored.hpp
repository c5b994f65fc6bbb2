// The loops over matrices whose second moment is a row and a column: sums of squares, averages, directions.
//
// Only kernels.cpp includes this; why nothing here has external linkage is said in rules.hpp.
#pragma once
#include <math.h>
#include <stddef.h>

#include "kernels.hpp"
#include "queries.hpp"
#include "sweep.hpp"

namespace {

// work(prepare) with what a gradient goes through: nothing, where nothing stands around the rule.
template <class T, class Work>
auto prepared(const Around* around, Work work) {
  if (!around) return work([](T g) { return g; });
  const Prepare<T> prepare(*around);
  return work([prepare](T g) { return prepare(g, T(0)); });  // decay is decoupled: p has no part in it
}

// Rows are summed as a block is, by lanes; columns from row to row.
template <size_t rows, class T, class Prepared>
void add_squares(Prepared prepare, size_t n, size_t columns, const T* __restrict g, double* __restrict sum,
                 size_t apart, double* __restrict column_sums) {
  if (n < lanes) {
    for (size_t i = 0; i < rows; ++i) {
      double few[lanes];
      for (size_t j = 0; j < n; ++j) {
        const double x = static_cast<double>(prepare(g[i * columns + j]));
        column_sums[j] += few[j] = x * x;
      }
      sum[i * apart] = in_halves(few, n);
    }
    return;
  }
  double sums[rows][lanes] = {};
  const auto add = [&](size_t i, const T* __restrict x, double* __restrict to) {
#pragma omp simd
    for (size_t lane = 0; lane < lanes; ++lane) {
      const double wide = static_cast<double>(prepare(x[lane])), square = wide * wide;
      sums[i][lane] += square;
      to[lane] += square;
    }
  };
  const size_t group = rows * columns * sizeof(T), further = group < 4 * page ? group : page;
  const bool ahead = looks_ahead;
  size_t j = 0;
  for (; j + lanes <= n; j += lanes)
    for (size_t i = 0; i < rows; ++i) {
      if (ahead) look_ahead(g + i * columns + j, further);
      add(i, g + i * columns + j, column_sums + j);
    }
  if (j < n) {  // zeros add nothing
    double last[lanes] = {};
    for (size_t k = j; k < n; ++k) last[k - j] = column_sums[k];
    for (size_t i = 0; i < rows; ++i) {
      T x[lanes] = {};
      for (size_t k = j; k < n; ++k) x[k - j] = g[i * columns + k];
      add(i, x, last);
    }
    for (size_t k = j; k < n; ++k) column_sums[k] = last[k - j];
  }
  for (size_t i = 0; i < rows; ++i) sum[i * apart] = in_halves(sums[i], lanes);
}

template <class T>
void squares_of_rows(const Around* around, size_t rows, size_t n, size_t columns, const T* g, double* sum, size_t apart,
                     double* column_sums) {
  constexpr size_t most = Factors<T>::most_rows;
  prepared<T>(around, [=](auto prepare) {
    if (rows == most) return add_squares<most>(prepare, n, columns, g, sum, apart, column_sums);
    for (size_t i = 0; i < rows; ++i)
      add_squares<1>(prepare, n, columns, g + i * columns, sum + i * apart, apart, column_sums);
  });
}

template <template <class> class Rule, class T>
void average(const double* scalars, size_t n, const double* __restrict sums, double count, T* __restrict averages,
             T* __restrict parts) {
  const auto rule = round_scalars<Rule<T>, T>(scalars);
#pragma omp simd
  for (size_t i = 0; i < n; ++i) {
    rule.average(static_cast<T>(sums[i] / count), averages[i]);
    parts[i] = rule.part(averages[i]);
  }
}

// work(k, n, row, column) for each row of a piece: of the n elements from the k-th on.
template <class T, class Work>
void each_row(const Piece<T>& of, T scale, Work work) {
  size_t row = of.first / of.columns, column = of.first % of.columns;
  for (size_t k = 0, n; k < of.n; k += n, ++row, column = 0) {
    n = of.columns - column < of.n - k ? of.columns - column : of.n - k;
    work(k, n, scale * of.row_parts[row], of.column_parts + column);
  }
}

// loop(rule, prepare, most, k, n, row, column) for each, with what a direction is made of.
template <template <class> class Rule, class T, class Loop>
void each_row_prepared(const double* scalars, const Around* around, const Piece<T>& of, Loop loop) {
  const auto rule = round_scalars<Rule<T>, T>(scalars);
  const T most = rule.most();
  prepared<T>(around, [=](auto prepare) {
    each_row(of, rule.scale(static_cast<T>(of.mean)),
             [=](size_t k, size_t n, T row, const T* column) { loop(rule, prepare, most, k, n, row, column); });
  });
}

template <class T, class Rule, class Prepared>
void direction_loop(const Rule rule, Prepared prepare, size_t n, T row, const T* __restrict column, T most,
                    const T* __restrict g, T* __restrict u) {
#pragma omp simd
  for (size_t i = 0; i < n; ++i) u[i] = rule.direction(prepare(g[i]), row, column[i], most);
}

template <template <class> class Rule, class T>
void direction(const double* scalars, const Around* around, const Piece<T>& of, const T* g, T* u) {
  each_row_prepared<Rule>(scalars, around, of,
                          [=](auto rule, auto prepare, T most, size_t k, size_t n, T row, const T* column) {
                            direction_loop(rule, prepare, n, row, column, most, g + k, u + k);
                          });
}

template <class T, class Rule, class Prepared>
void factored_step_loop(const Rule rule, Prepared prepare, size_t n, T row, const T* __restrict column, T most,
                        T* __restrict p, const T* __restrict g) {
  const bool ahead = looks_ahead;
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    if (ahead) look_ahead(p + i), look_ahead(g + i);
#pragma omp simd
    for (size_t k = i; k < i + lanes; ++k) rule.follow(p[k], rule.direction(prepare(g[k]), row, column[k], most));
  }
  for (; i < n; ++i) rule.follow(p[i], rule.direction(prepare(g[i]), row, column[i], most));
}

template <template <class> class Rule, class T>
void factored_step(const double* scalars, const Around* around, const Piece<T>& of, T* p, const T* g) {
  each_row_prepared<Rule>(scalars, around, of,
                          [=](auto rule, auto prepare, T most, size_t k, size_t n, T row, const T* column) {
                            factored_step_loop(rule, prepare, n, row, column, most, p + k, g + k);
                          });
}

template <class T, class Rule, class Prepared>
void factored_measure_loop(const Rule rule, Prepared prepare, size_t n, T row, const T* __restrict column, T most,
                           const T* __restrict g, size_t lane, double* __restrict lane_sums) {
  if (n < lanes) {
    for (size_t i = 0; i < n; ++i, ++lane) {
      const double u = static_cast<double>(rule.direction(prepare(g[i]), row, column[i], most));
      lane_sums[lane % lanes] += u * u;
    }
    return;
  }
  Squares found;
  for (size_t i = 0; i < lanes; ++i) found.sums[i] = lane_sums[i];
  const auto some = [&](size_t from, size_t to, size_t first) {
    T u[lanes] = {};
    for (size_t i = from; i < to; ++i) u[first + i - from] = rule.direction(prepare(g[i]), row, column[i], most);
    found.add_all(u);
  };
  const bool ahead = looks_ahead;
  size_t i = 0;
  if (lane) {
    i = lanes - lane < n ? lanes - lane : n;
    some(0, i, lane);
  }
  for (; i + lanes <= n; i += lanes) {
    if (ahead) look_ahead(g + i);
#pragma omp simd
    for (size_t k = 0; k < lanes; ++k) found.add(k, rule.direction(prepare(g[i + k]), row, column[i + k], most));
  }
  if (i < n) some(i, n, 0);
  for (size_t k = 0; k < lanes; ++k) lane_sums[k] = found.sums[k];
}

template <template <class> class Rule, class T>
void factored_measure(const double* scalars, const Around* around, const Piece<T>& of, const T* g, size_t lane,
                      double* lane_sums) {
  each_row_prepared<Rule>(
      scalars, around, of, [=](auto rule, auto prepare, T most, size_t k, size_t n, T row, const T* column) {
        factored_measure_loop(rule, prepare, n, row, column, most, g + k, (lane + k) % lanes, lane_sums);
      });
}

#ifdef SCHUSS_GRADUAL

template <template <class> class Rule, class T>
SCHUSS_FLATTEN void direction_carefully(const double* scalars, const Around* around, const Piece<T>& of, const T* g,
                                        T* u) {
  using N = Gradual<T>;
  const auto rule = round_scalars<Rule<T>, T>(scalars);
  const N most = rule.most();
  const Prepare<T, N> prepare(around ? *around : Around{1, 1, HUGE_VAL});
  each_row(of, rule.scale(static_cast<T>(of.mean)), [&](size_t k, size_t n, T row, const T* column) {
    T* const at[] = {const_cast<T*>(g + k), const_cast<T*>(column), u + k};
    each_vector<0b100>(std::make_index_sequence<3>(), n, at,
                       [&](N* v) { v[2] = Rule<N>::direction(prepare(v[0], N(T(0))), N(row), v[1], most); });
  });
}

#endif

template <template <class> class Rule, class T>
constexpr Factors<T> factors_of() {
  Factors<T> found{squares_of_rows<T>, average<Rule, T>,          direction<Rule, T>,
                   direction<Rule, T>, factored_measure<Rule, T>, factored_step<Rule, T>};
#ifdef SCHUSS_GRADUAL
  found.direction_carefully = direction_carefully<Rule, T>;
#endif
  return found;
}

// Of a rule that has a form for matrices.
template <template <class> class Rule>
constexpr ByType<Factors<float>, Factors<double>> factors = {factors_of<Rule, float>(), factors_of<Rule, double>()};

}  // namespace
