// The maths: one struct per optimizer, under its equation and its paper. No loop, no memory.
//
// p parameter, g gradient, lr learning rate of this step. A rule's members are the step's scalars, in the order
// in which its Python class hands them over; `slots` is the number of its state arrays. Every operation
// rounds once, in the order written: schuss/reference.py computes the same bits.
//
// The namespace has no name because kernels.cpp is compiled once per ISA: a function shared by two of its
// objects could carry an instruction that the CPU lacks into the baseline.
#pragma once
#include <math.h>

namespace {

inline float root(float x) { return sqrtf(x); }
inline double root(double x) { return sqrt(x); }

// p -= lr g
// Robbins & Monro, A stochastic approximation method, 1951.
template <class T>
struct SGD {
  static constexpr int slots = 0;
  T lr;
  void operator()(T& p, T g) const { p -= lr * g; }
};

// v = mu v - lr g;  p += v      (lr already holds the factor 1 - dampening)
// Polyak, Some methods of speeding up the convergence of iteration methods, 1964.
template <class T>
struct Momentum {
  static constexpr int slots = 1;
  T lr, mu;
  void operator()(T& p, T g, T& v) const {
    v = mu * v - lr * g;
    p += v;
  }
};

// v = mu v - lr g;  p += mu v - lr g
// Nesterov, 1983; in the variables of Bengio et al., 2012, arXiv:1212.0901, section 3.5.
template <class T>
struct Nesterov {
  static constexpr int slots = 1;
  T lr, mu;
  void operator()(T& p, T g, T& v) const {
    v = mu * v - lr * g;
    p += mu * v - lr * g;
  }
};

// h += g g;  p -= lr g / (sqrt(h) + eps)
// Duchi, Hazan & Singer, Adaptive subgradient methods, JMLR 12, 2011.
template <class T>
struct AdaGrad {
  static constexpr int slots = 1;
  T lr, eps;
  void operator()(T& p, T g, T& h) const {
    h += g * g;
    p -= lr * g / (root(h) + eps);
  }
};

// h = rho h + (1 - rho) g g;  p -= lr g / (sqrt(h) + eps)
// Tieleman & Hinton, Neural networks for machine learning, lecture 6.5, 2012.
template <class T>
struct RMSprop {
  static constexpr int slots = 1;
  T lr, rho, one_minus_rho, eps;
  void operator()(T& p, T g, T& h) const {
    h = rho * h + one_minus_rho * g * g;
    p -= lr * g / (root(h) + eps);
  }
};

// m += (1 - beta1)(g - m);  v += (1 - beta2)(g g - v);  p -= lr_t m / (sqrt(v) + eps_hat)
// lr_t = lr sqrt(1 - beta2^t) / (1 - beta1^t)
// Kingma & Ba, Adam, 2015, arXiv:1412.6980, section 2 (the order that is cheaper, same result).
template <class T>
struct Adam {
  static constexpr int slots = 2;
  T lr_t, one_minus_beta1, one_minus_beta2, eps_hat;
  void operator()(T& p, T g, T& m, T& v) const {
    m += one_minus_beta1 * (g - m);
    v += one_minus_beta2 * (g * g - v);
    p -= lr_t * m / (root(v) + eps_hat);
  }
};

}  // namespace
