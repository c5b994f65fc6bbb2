// What stands between two matrix products of a network: bias, rectifier, softmax, each in one pass.
//
// All arrays are contiguous, of `rows` examples and `columns` neurons or classes. Sums go from the first row to the
// last, so that a network gives the same numbers every time.
#pragma once
#include <cstddef>
#include <cstdint>

namespace layers {

// y = max(y + b, 0). NaN stays NaN.
template <class T>
void bias_relu(size_t rows, size_t columns, T* y, const T* b);

// Where y is not above zero, d = 0; then db = sum of the rows of d.
template <class T>
void relu_backward(size_t rows, size_t columns, T* d, const T* y, T* db);

// d = (softmax(x) - t) / rows, and the mean over the rows of log(sum(exp(x))) - t x, where t is a row of weights that
// sum to 1. Instead of t a label may be given for each row: t is then one at the label, and zero elsewhere. With
// weights w of the rows, each row counts w / sum(w) instead of 1 / rows.
template <class T>
double softmax_loss(size_t rows, size_t columns, const T* x, const T* t, const int64_t* labels, const T* w, T* d);

// d += factor x, over n elements.
template <class T>
void add_scaled(size_t n, T* d, const T* x, T factor);

}  // namespace layers
