// The passes between matrix products.
#include "layers.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace layers {

template <class T>
void bias_relu(size_t rows, size_t columns, T* y, const T* b) {
  for (size_t i = 0; i < rows; ++i, y += columns)
#pragma omp simd
    for (size_t j = 0; j < columns; ++j) {
      const T z = y[j] + b[j];
      y[j] = z < 0 ? T(0) : z;
    }
}

template <class T>
void relu_backward(size_t rows, size_t columns, T* d, const T* y, T* db) {
  std::fill(db, db + columns, T(0));
  for (size_t i = 0; i < rows; ++i, d += columns, y += columns)
#pragma omp simd
    for (size_t j = 0; j < columns; ++j) {
      d[j] = y[j] > 0 ? d[j] : T(0);
      db[j] += d[j];
    }
}

template <class T>
double softmax_loss(size_t rows, size_t columns, const T* x, const T* t, const int64_t* labels, const T* w, T* d) {
  const double total = w ? std::accumulate(w, w + rows, 0.0) : static_cast<double>(rows);
  double loss = 0;
  for (size_t i = 0; i < rows; ++i, x += columns, d += columns) {
    const T highest = *std::max_element(x, x + columns);
    T sum = 0, score = 0;
    for (size_t j = 0; j < columns; ++j) sum += d[j] = std::exp(x[j] - highest);
    if (labels)
      score = x[labels[i]] - highest;
    else
      for (size_t j = 0; j < columns; ++j) score += t[i * columns + j] * (x[j] - highest);
    const double weight = w ? static_cast<double>(w[i]) : 1;
    const T share = w ? static_cast<T>(weight / total) : T(1) / static_cast<T>(rows);
    loss += weight * static_cast<double>(std::log(sum) - score);
    for (size_t j = 0; j < columns; ++j) {
      const T target = labels ? T(static_cast<size_t>(labels[i]) == j) : t[i * columns + j];
      d[j] = (d[j] / sum - target) * share;
    }
  }
  return loss / total;
}

template <class T>
void add_scaled(size_t n, T* __restrict d, const T* __restrict x, T factor) {
#pragma omp simd
  for (size_t i = 0; i < n; ++i) d[i] += factor * x[i];
}

template void bias_relu(size_t, size_t, float*, const float*);
template void bias_relu(size_t, size_t, double*, const double*);
template void relu_backward(size_t, size_t, float*, const float*, float*);
template void relu_backward(size_t, size_t, double*, const double*, double*);
template double softmax_loss(size_t, size_t, const float*, const float*, const int64_t*, const float*, float*);
template double softmax_loss(size_t, size_t, const double*, const double*, const int64_t*, const double*, double*);
template void add_scaled(size_t, float*, const float*, float);
template void add_scaled(size_t, double*, const double*, double);

}  // namespace layers
