// The maths: one struct per optimizer, under its equation and its paper. No loop, no memory.
//
// p parameter, g gradient, lr learning rate of this step. A rule's members are the step's scalars, in the order
// in which its Python class hands them over; `slots` is the number of its state arrays. `rests` tells by them whether a
// gradient of zero changes nothing. Every operation rounds once, in the order written: schuss/reference.py computes the
// same bits.
//
// The namespace has no name because kernels.cpp is compiled once per ISA: a function shared by two of its
// objects could carry an instruction that the CPU lacks into the baseline.
#pragma once
#include <math.h>

namespace {

inline float root(float x) { return sqrtf(x); }
inline double root(double x) { return sqrt(x); }
inline float magnitude(float x) { return fabsf(x); }
inline double magnitude(double x) { return fabs(x); }

// As numpy.maximum and numpy.sign: a NaN goes through.
template <class T>
T larger(T a, T b) {
  return a >= b || a != a ? a : b;
}
template <class T>
T sign(T x) {
  return x > 0 ? T(1) : x < 0 ? T(-1) : x == 0 ? T(0) : x;
}
template <class T>
T if_positive(T x, T a, T b) {
  return x > 0 ? a : b;
}
// As numpy.minimum; and as Python's max, which a NaN does not go through.
template <class T>
T smaller(T a, T b) {
  return a <= b || a != a ? a : b;
}
inline double at_least(double least, double x) { return x > least ? x : least; }
// A type's own, from 1 to the next number.
inline float epsilon(float) { return 0x1p-23f; }
inline double epsilon(double) { return 0x1p-52; }

// p -= lr g
// Robbins & Monro, A stochastic approximation method, 1951.
template <class T>
struct SGD {
  static constexpr int slots = 0;
  T lr;
  static bool rests(const double*) { return true; }
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
  static bool rests(const double* s) { return static_cast<float>(s[1]) > 0; }
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

// p decay;  Adam's step        (decay = 1 - lr weight_decay)
// Loshchilov & Hutter, Decoupled weight decay regularization, 2019, arXiv:1711.05101.
template <class T>
struct AdamW {
  static constexpr int slots = 2;
  T lr_t, one_minus_beta1, one_minus_beta2, eps_hat, decay;
  void operator()(T& p, T g, T& m, T& v) const {
    m += one_minus_beta1 * (g - m);
    v += one_minus_beta2 * (g * g - v);
    p = decay * p - lr_t * m / (root(v) + eps_hat);
  }
};

// m, v as in Adam;  h = max(h, v);  p -= lr_t m / (sqrt(h) + eps_hat)
// Reddi, Kale & Kumar, On the convergence of Adam and beyond, 2018, arXiv:1904.09237, algorithm 2.
template <class T>
struct AMSGrad {
  static constexpr int slots = 3;
  T lr_t, one_minus_beta1, one_minus_beta2, eps_hat;
  void operator()(T& p, T g, T& m, T& v, T& h) const {
    m += one_minus_beta1 * (g - m);
    v += one_minus_beta2 * (g * g - v);
    h = larger(h, v);
    p -= lr_t * m / (root(h) + eps_hat);
  }
};

// m as in Adam;  u = max(beta2 u, |g| + eps);  p -= lr_t m / u
// Kingma & Ba, Adam, 2015, arXiv:1412.6980, section 7.1.
template <class T>
struct Adamax {
  static constexpr int slots = 2;
  T lr_t, one_minus_beta1, beta2, eps;
  void operator()(T& p, T g, T& m, T& u) const {
    m += one_minus_beta1 * (g - m);
    u = larger(beta2 * u, magnitude(g) + eps);
    p -= lr_t * m / u;
  }
};

// m, v as in Adam;  p -= (lr_g g + lr_m m) / (sqrt(v) + eps_hat)
// Dozat, Incorporating Nesterov momentum into Adam, 2016.
template <class T>
struct NAdam {
  static constexpr int slots = 2;
  T lr_g, lr_m, one_minus_beta1, one_minus_beta2, eps_hat;
  void operator()(T& p, T g, T& m, T& v) const {
    m += one_minus_beta1 * (g - m);
    v += one_minus_beta2 * (g * g - v);
    p -= (lr_g * g + lr_m * m) / (root(v) + eps_hat);
  }
};

// m, v as in Adam;  p -= lr_t m / (sqrt(v) + eps_hat) once v is known well enough, p -= lr_t m before
// Liu et al., On the variance of the adaptive learning rate and beyond, 2020, arXiv:1908.03265.
template <class T>
struct RAdam {
  static constexpr int slots = 2;
  T lr_t, one_minus_beta1, one_minus_beta2, eps_hat, adaptive;
  void operator()(T& p, T g, T& m, T& v) const {
    m += one_minus_beta1 * (g - m);
    v += one_minus_beta2 * (g * g - v);
    p -= lr_t * m / (adaptive > 0 ? root(v) + eps_hat : 1);
  }
};

// h = rho h + (1 - rho) g g;  u = sqrt(d + eps) / sqrt(h + eps) g;  d = rho d + (1 - rho) u u;  p -= lr u
// Zeiler, ADADELTA, 2012, arXiv:1212.5701.
template <class T>
struct AdaDelta {
  static constexpr int slots = 2;
  T lr, rho, one_minus_rho, eps;
  void operator()(T& p, T g, T& h, T& d) const {
    h = rho * h + one_minus_rho * g * g;
    const T u = root(d + eps) / root(h + eps) * g;
    d = rho * d + one_minus_rho * u * u;
    p -= lr * u;
  }
};

// RMSprop by the variance:  a = rho a + (1 - rho) g;  p -= lr g / (sqrt(h - a a) + eps)
// Graves, Generating sequences with recurrent neural networks, 2013, arXiv:1308.0850, equations 38 to 45.
template <class T>
struct RMSpropCentered {
  static constexpr int slots = 2;
  T lr, rho, one_minus_rho, eps;
  void operator()(T& p, T g, T& h, T& a) const {
    h = rho * h + one_minus_rho * g * g;
    a = rho * a + one_minus_rho * g;
    p -= lr * g / (root(h - a * a) + eps);
  }
};

// RMSprop with momentum:  v = mu v - lr g / (sqrt(h) + eps);  p += v
// As in Tieleman & Hinton, 2012, and Graves, 2013.
template <class T>
struct RMSpropMomentum {
  static constexpr int slots = 2;
  T lr, rho, one_minus_rho, eps, mu;
  void operator()(T& p, T g, T& h, T& v) const {
    h = rho * h + one_minus_rho * g * g;
    v = mu * v - lr * g / (root(h) + eps);
    p += v;
  }
};

// Both.
template <class T>
struct RMSpropCenteredMomentum {
  static constexpr int slots = 3;
  T lr, rho, one_minus_rho, eps, mu;
  void operator()(T& p, T g, T& h, T& a, T& v) const {
    h = rho * h + one_minus_rho * g * g;
    a = rho * a + one_minus_rho * g;
    v = mu * v - lr * g / (root(h - a * a) + eps);
    p += v;
  }
};

// p = decay p - lr sign(beta1 m + (1 - beta1) g);  m = beta2 m + (1 - beta2) g
// Chen et al., Symbolic discovery of optimization algorithms, 2023, arXiv:2302.06675.
template <class T>
struct Lion {
  static constexpr int slots = 1;
  T lr, beta1, one_minus_beta1, beta2, one_minus_beta2, decay;
  void operator()(T& p, T g, T& m) const {
    p = decay * p - lr * sign(beta1 * m + one_minus_beta1 * g);
    m = beta2 * m + one_minus_beta2 * g;
  }
};

// d = g - b;  m += (1 - beta1)(g - m);  v += (1 - beta2)(d - v);  n += (1 - beta3)((g + beta2 d)^2 - n);  b = g
// p = (p - (lr_m m + lr_v v) / (sqrt(n) + eps_hat)) shrink;  at the first step d = 0
// Xie et al., Adan, 2022, arXiv:2208.06677, algorithm 1, whose betas are ours from 1.
template <class T>
struct Adan {
  static constexpr int slots = 4;
  T lr_m, lr_v, one_minus_beta1, beta2, one_minus_beta2, one_minus_beta3, eps_hat, shrink, first;
  void operator()(T& p, T g, T& m, T& v, T& n, T& b) const {
    const T d = first > 0 ? T(0) : g - b, s = g + beta2 * d;
    m += one_minus_beta1 * (g - m);
    v += one_minus_beta2 * (d - v);
    n += one_minus_beta3 * (s * s - n);
    p = (p - (lr_m * m + lr_v * v) / (root(n) + eps_hat)) * shrink;
    b = g;
  }
};

// z -= lr (g + decay p);  x = x + c (z - x);  p = z + beta (x - z)
// Defazio et al., The road less scheduled, 2024, arXiv:2405.15682, equations 9 to 11.
template <class T>
struct ScheduleFreeSGD {
  static constexpr int slots = 2;
  T lr, beta, c, decay;
  void operator()(T& p, T g, T& z, T& x) const {
    z -= lr * (g + decay * p);
    x += c * (z - x);
    p = z + beta * (x - z);
  }
};

// v += (1 - beta2)(g g - v);  the same with g replaced by lr_t / lr g / (sqrt(v) + eps_hat)
// Defazio et al., 2024, arXiv:2405.15682, algorithm 1.
template <class T>
struct ScheduleFreeAdamW {
  static constexpr int slots = 3;
  T lr_t, lr_decay, beta1, one_minus_beta2, eps_hat, c;
  void operator()(T& p, T g, T& z, T& x, T& v) const {
    v += one_minus_beta2 * (g * g - v);
    z -= lr_t * g / (root(v) + eps_hat) + lr_decay * p;
    x += c * (z - x);
    p = z + beta1 * (x - z);
  }
};

// The rules that follow are PyTorch's forms of those above: schuss.torch has them.

// b = mu b + share g;  p -= lr b, or, where it looks ahead, p -= lr (g + mu b)
// Momentum and Nesterov with the rate outside of the velocity: torch.optim.SGD.
template <class T>
struct HeavyBall {
  static constexpr int slots = 1;
  T lr, mu, share, look;
  void operator()(T& p, T g, T& b) const {
    b = mu * b + share * g;
    p -= lr * (look > 0 ? g + mu * b : b);
  }
};

// RMSprop with momentum, the rate outside of it:  b = mu b + g / (sqrt(h) + eps);  p -= lr b
template <class T>
struct RMSpropHeavyBall {
  static constexpr int slots = 2;
  T lr, rho, one_minus_rho, eps, mu;
  void operator()(T& p, T g, T& h, T& b) const {
    h = rho * h + one_minus_rho * g * g;
    b = mu * b + g / (root(h) + eps);
    p -= lr * b;
  }
};

// The same by the variance.
template <class T>
struct RMSpropCenteredHeavyBall {
  static constexpr int slots = 3;
  T lr, rho, one_minus_rho, eps, mu;
  void operator()(T& p, T g, T& h, T& a, T& b) const {
    h = rho * h + one_minus_rho * g * g;
    a = rho * a + one_minus_rho * g;
    b = mu * b + g / (root(h - a * a) + eps);
    p -= lr * b;
  }
};

// p = decay p - eta g;  x += mu (p - x), the average of the parameters;  both are the step's: see schuss/torch/rules.py
// Polyak & Juditsky, Acceleration of stochastic approximation by averaging, 1992; torch.optim.ASGD.
template <class T>
struct ASGD {
  static constexpr int slots = 1;
  T eta, decay, mu, one_minus_mu;
  void operator()(T& p, T g, T& x) const {
    p = decay * p - eta * g;
    x = one_minus_mu > 0 ? x + mu * (p - x) : p;
  }
};

// s = s (rise where g and the last one have the same sign, fall where they have not), within [least, most]
// p -= s sign(g), where g counts as 0 if its sign has turned
// Riedmiller & Braun, A direct adaptive method for faster backpropagation learning: the RPROP algorithm, 1993.
template <class T>
struct Rprop {
  static constexpr int slots = 2;
  T fall, rise, least, most;
  void operator()(T& p, T g, T& last, T& s) const {
    const T same = g * last, turned = T(0) - same;
    const T next = s * if_positive(same, rise, if_positive(turned, fall, T(1) + sign(same)));
    const T high = if_positive(next - most, most, next);
    s = if_positive(least - high, least, high);
    last = if_positive(turned, T(0), g);
    p -= sign(last) * s;
  }
};

// p = decay p, then another rule's step: weight decay that is decoupled from the gradient, where PyTorch offers it.
template <template <class> class Rule>
struct Decoupled {
  template <class T>
  struct Of : Rule<T> {
    T decay;
    template <class... S>
    void operator()(T& p, T g, S&... s) const {
      p = decay * p;
      Rule<T>::operator()(p, g, s...);
    }
  };
};

// The rules that follow need a norm, or the whole matrix, between their two halves. `measure` is the first half. It
// returns the element of a direction u. From |p|, |u| and the scalars comes the last one, `ratio`, of each tensor.
// `follow` is the second half where u is still there. `ratio_of` also knows how many elements there are.

// m, v as in Adam;  u = m correction / (sqrt(v) + eps_hat) + weight_decay p;  p -= lr ratio u,  ratio = |p| / |u|
// You et al., Large batch optimization for deep learning, 2020, arXiv:1904.00962, algorithm 2.
template <class T>
struct LAMB {
  static constexpr int slots = 2;
  T lr, one_minus_beta1, one_minus_beta2, correction, eps_hat, weight_decay, ratio;
  static double ratio_of(const double*, double p, double u, double) { return p > 0 && u > 0 ? p / u : 1; }
  T direction(T p, T m, T v) const { return correction * m / (root(v) + eps_hat) + weight_decay * p; }
  T measure(T p, T g, T& m, T& v) const {
    m += one_minus_beta1 * (g - m);
    v += one_minus_beta2 * (g * g - v);
    return direction(p, m, v);
  }
  void follow(T& p, T u) const { p -= lr * ratio * u; }
  void operator()(T& p, T, T& m, T& v) const { follow(p, direction(p, m, v)); }
};

// v = mu v - lr ratio (g + weight_decay p);  p += v,  ratio = trust |p| / (|g| + weight_decay |p|)
// You, Gitman & Ginsburg, Large batch training of convolutional networks, 2017, arXiv:1708.03888.
template <class T>
struct LARS {
  static constexpr int slots = 1;
  T lr, mu, weight_decay, trust, ratio;
  static double ratio_of(const double* s, double p, double g, double) {
    return p > 0 && g > 0 ? s[3] * p / (g + s[2] * p) : 1;
  }
  T measure(T, T g, T) const { return g; }
  void operator()(T& p, T g, T& v) const {
    v = mu * v - lr * ratio * (g + weight_decay * p);
    p += v;
  }
};

// m += (1 - mu)(g - m);  u = g + look (m - g), made orthogonal;  p = decay p - lr ratio u
// Jordan et al., Muon, 2024. The first half writes u alone: what it is followed by may fail.
template <class T>
struct Muon {
  static constexpr int slots = 2;
  T lr, one_minus_mu, look, decay, steps, ratio;
  T next(T g, T m) const { return m + one_minus_mu * (g - m); }
  T measure(T, T g, T m, T& u) const { return u = g + look * (next(g, m) - g); }
  void operator()(T& p, T g, T& m, T u) const {
    m = next(g, m);
    p = decay * p - lr * ratio * u;
  }
};

// v += share (g g - v);  u = g / max(sqrt(v), eps);  p = decay p - ratio u
// ratio = rate max(eps2, rms(p)) / max(1, rms(u) / threshold)
// Shazeer & Stern, Adafactor, 2018, arXiv:1804.04235.
template <class T>
struct Adafactor {
  static constexpr int slots = 1;  // v, which a matrix does not have
  T decay, rate, share, eps, eps2, threshold, ratio;
  static double ratio_of(const double* s, double p, double u, double n) {
    return at_least(s[4], p / root(n)) * s[1] / at_least(1, u / root(n) / s[5]);
  }
  T least() const { return eps > -1 ? eps : epsilon(eps); }  // of the type, where none is given
  T direction(T g, T v) const { return g / larger(root(v), least()); }
  void average(T square, T& v) const { v += share * (square - v); }
  T measure(T, T g, T& v) const {
    average(g * g, v);
    return direction(g, v);
  }
  void follow(T& p, T u) const { p = decay * p - ratio * u; }
  void operator()(T& p, T g, T v) const { follow(p, direction(g, v)); }
};

// The same of a matrix, whose v is r c / mean(r): the averages of the mean squares of its rows, and of its columns.
// r += share (g g, the mean of a row - r), and c as well;  u = g min(scale part(r) part(c), 1 / eps)
// scale = sqrt(max(mean(r), eps)),  part(r) = 1 / sqrt(r)
template <class T>
struct AdafactorOfMatrix : Adafactor<T> {
  T scale(T mean) const { return root(larger(mean, this->least())); }
  static T part(T average) { return T(1) / root(average); }
  T most() const { return T(1) / this->least(); }
  static T direction(T g, T row, T column, T most) { return g * smaller(row * column, most); }
};

}  // namespace
