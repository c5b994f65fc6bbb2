"""The optimizers of this package in plain NumPy: a lesson to read, and the oracle of the tests.

Every class here has a fused twin of the same name in :mod:`schuss`. The two agree bit for bit (Muon, which leans on
BLAS, to rounding). The symbols are those of the papers: ``p`` a parameter, ``g`` its gradient, ``lr`` the learning rate
of this step; a state array (``v``, ``h``, ``m``) has the shape of its parameter and starts at zero.

Only the mathematics stands here. Nothing is checked; :mod:`schuss` does that.

>>> import numpy as np
>>> from schuss import reference
>>> params = {"W": np.array([1.0, 2.0])}
>>> opt = reference.Momentum(lr=0.1)
>>> opt.update(params, {"W": np.array([1.0, -1.0])})
>>> params["W"]
array([0.9, 2.1])
"""

from __future__ import annotations

from copy import copy
from fnmatch import fnmatchcase
from math import prod, sqrt
from typing import Any

import numpy as np

from . import formats
from .dtypes import is_16_bits


class Optimizer:
    """What all rules share: the step count ``t``, the state, and the walk over the parameters."""

    slots: tuple[str, ...] = ()  # the names of the state arrays that step() receives
    copies: tuple[str, ...] = ()  # those that start as a copy of the parameter; the others start at zero
    never_negative: tuple[str, ...] = ()  # those that are sums of squares, or magnitudes
    decoupled: bool = False  # whether weight decay is the rule's own and not a part of the gradient
    step: Any  # step(p, g, lr, **state) changes p and the state; each rule defines it
    lr: Any
    weight_decay: float
    maximize: bool
    clip_value: float | None
    clip_norm: float | None
    ema: float | None
    on_nonfinite: str
    state_dtype: str
    master: str | None
    groups: dict[str, dict[str, Any]]
    t: int
    skipped: int
    pasts: dict[Any, list[tuple[float, float]]]  # what some rules remember of past steps, by group
    past: list[tuple[float, float]]

    def __init__(
        self,
        lr: Any,
        *,
        weight_decay: float = 0.0,
        maximize: bool = False,
        clip_value: float | None = None,
        clip_norm: float | None = None,
        ema: float | None = None,
        on_nonfinite: str = "propagate",
        flush_subnormals: bool = False,
        state_dtype: str = "float32",
        master: str | None = "split",
        groups: Any = None,
    ) -> None:
        self.lr, self.weight_decay, self.maximize = lr, weight_decay, maximize
        self.clip_value, self.clip_norm, self.ema, self.on_nonfinite = (
            clip_value,
            clip_norm,
            ema,
            on_nonfinite,
        )
        self.state_dtype, self.master = state_dtype, master
        self.groups = groups or {}
        if flush_subnormals:
            raise ValueError("NumPy has no mode in which subnormal numbers count as zero")
        self.t = self.skipped = 0
        self.pasts = {}
        self.past = self.pasts.setdefault(None, [])
        self.state: dict[Any, dict[str, Any]] = {}

    def update(self, params: Any, grads: Any, *, grad_scale: float = 1.0) -> None:
        names = [
            name for name in (params if hasattr(params, "keys") else range(len(params))) if grads[name] is not None
        ]
        scaled = {name: wide(grads[name]) if grad_scale == 1 else wide(grads[name]) * grad_scale for name in names}
        if self.on_nonfinite != "propagate" and not all(np.isfinite(g).all() for g in scaled.values()):
            if self.on_nonfinite == "raise":
                raise FloatingPointError("a gradient has an element that is NaN or infinite")
            self.skipped += 1
            return
        shrink = 1.0 if self.clip_norm is None else self.clip_norm / (norm(*scaled.values()) + 1e-6)
        if shrink > 1:  # NaN stays, and makes every gradient NaN
            shrink = 1.0
        self.t += 1
        for name in names:
            given, g, group = params[name], scaled[name], self.group_of(name)
            p = given if isinstance(given, np.ndarray) else np.array(given)
            if name not in self.state:
                self.state[name] = group.kept_state(p)
            kept = self.state[name]
            wide_p, slots = (
                formats.parameter(p, kept),
                formats.slots(kept),
            )  # p and the state, if they are no fewer bits
            group.step(wide_p, prepared(group, wide_p, g, shrink), group.rate(self.t), **slots)
            if self.ema is not None:
                follow(kept["ema"], wide_p, self.ema)
            formats.keep(p, kept, wide_p, slots, formats.number_of(name), self.t)
            if p is not given:
                params[name] = type(given)(p)  # a Python float cannot change in place: its entry is rebound

    def rate(self, t: int) -> float:
        """The learning rate of step t."""
        return float(self.lr(t)) if callable(self.lr) else self.lr

    def group_of(self, name: Any) -> Any:
        """Return this optimizer with the arguments of the first group whose pattern the name matches."""
        for pattern, arguments in self.groups.items():
            if fnmatchcase(str(name), pattern):
                same = arguments.get("rule", type(self).__name__) == type(self).__name__
                group = copy(self) if same else self.by_rule(**arguments)
                vars(group).update(arguments, past=self.pasts.setdefault(pattern, []))
                return group
        return self

    def by_rule(self, rule: str, **arguments: Any) -> Any:
        """Return an optimizer of another rule: with that one's arguments, and what all rules take from this one."""
        shared = {name: getattr(self, name) for name in ("maximize", "clip_value", "state_dtype", "master")}
        group = globals()[rule](**{**shared, **arguments})
        group.t, group.ema = self.t, self.ema
        return group

    def new_state(self, p: Any) -> dict[str, Any]:
        """The state of a parameter before its first step."""
        state = {slot: np.copy(p) if slot in self.copies else np.zeros_like(p) for slot in self.slots}
        return state if self.ema is None else {**state, "ema": np.copy(p)}

    def kept_state(self, p: Any) -> dict[str, Any]:
        """The same in as many bits as are wanted; and what a parameter of 16 bits has beside it."""
        state = self.new_state(wide(p))
        if self.state_dtype != "float32":
            state = formats.coded(state, self.slots, self.never_negative, self.state_dtype)
        return {**state, **formats.beside(p, self.master)}


def wide(x: Any) -> Any:
    """What has 16 bits as float32, in which it is computed."""
    return x.astype(np.float32) if isinstance(x, np.ndarray) and is_16_bits(x.dtype) else x


def prepared(opt: Any, p: Any, g: Any, shrink: float) -> Any:
    """What the gradient goes through before the rule."""
    if shrink != 1:
        g = g * shrink
    if opt.clip_value is not None:
        g = np.clip(g, -opt.clip_value, opt.clip_value)
    if opt.maximize:
        g = -g
    return g + opt.weight_decay * p if opt.weight_decay and not opt.decoupled else g


def follow(average: Any, p: Any, ema: float) -> None:
    """Let the running average of a parameter go after it."""
    average *= ema
    average += (1 - ema) * p


def norm(*arrays: Any) -> float:
    """The norm of all elements together, in double, with a fixed order of the additions.

    In each array, blocks of 1,024 elements are summed in 16 lanes, every 16th element in the same one, and the lanes
    by halves; then the blocks by neighbouring pairs, and so the arrays.
    """
    return float(np.sqrt(_by_pairs(np.array([_total(_squares(np.ravel(x))) for x in arrays], np.float64))))


def _squares(x: Any) -> Any:
    x = np.asarray(x, np.float64)
    return x * x


def _by_pairs(sums: Any) -> Any:
    """Sum along the last axis: neighbouring pairs, then pairs of those; what is left over goes up as it is."""
    while sums.shape[-1] > 1:
        even = sums.shape[-1] // 2 * 2
        sums = np.concatenate([sums[..., :even:2] + sums[..., 1:even:2], sums[..., even:]], axis=-1)
    return sums.sum(axis=-1)


def _total(x: Any) -> Any:
    """Sum along the last axis: blocks in 16 lanes, and these by pairs."""
    x = np.concatenate([x, np.zeros((*x.shape[:-1], -x.shape[-1] % 1024))], axis=-1)
    x = x.reshape(*x.shape[:-1], -1, 64, 16)
    sums = np.zeros_like(x[..., 0, :])
    for i in range(64):
        sums += x[..., i, :]
    for half in (8, 4, 2, 1):
        sums = sums[..., :half] + sums[..., half:]
    return _by_pairs(sums[..., 0])


def _total_of_columns(x: Any) -> Any:
    """Sum along the last axis but one: from row to row in at most 32 strips of 32 rows or more, and these by pairs."""
    rows = x.shape[-2]
    height = max(32, -(-rows // 32))
    x = np.concatenate([x, np.zeros((*x.shape[:-2], -rows % height, x.shape[-1]))], axis=-2)
    x = x.reshape(*x.shape[:-2], -1, height, x.shape[-1])
    sums = np.zeros_like(x[..., 0, :])
    for i in range(height):
        sums += x[..., i, :]
    return _by_pairs(np.moveaxis(sums, -2, -1))


def _rounded(scalar: float, p: Any) -> Any:
    """A scalar of the step in the precision of the parameter, for a product of two of them."""
    return np.asarray(p).dtype.type(scalar)


class SGD(Optimizer):
    """Stochastic gradient descent (Robbins and Monro, 1951)."""

    def __init__(self, lr: Any = 0.01, **options: Any) -> None:
        super().__init__(lr, **options)

    def step(self, p: Any, g: Any, lr: float) -> None:
        p -= lr * g


class Momentum(Optimizer):
    """The heavy ball (Polyak, 1964): ``v`` is a velocity, ``momentum`` what friction leaves of it."""

    slots: tuple[str, ...] = ("v",)
    momentum: float
    dampening: float

    def __init__(self, lr: Any = 0.01, momentum: float = 0.9, dampening: float = 0.0, **options: Any) -> None:
        super().__init__(lr, **options)
        self.momentum, self.dampening = momentum, dampening

    def step(self, p: Any, g: Any, lr: float, v: Any) -> None:
        v *= self.momentum
        v -= lr * (1 - self.dampening) * g
        p += v


class Nesterov(Optimizer):
    """Momentum with the gradient of the point that the velocity leads to (Nesterov, 1983).

    In the variables of Sutskever et al. (2013) and Bengio et al. (arXiv:1212.0901).
    """

    slots: tuple[str, ...] = ("v",)
    momentum: float

    def __init__(self, lr: Any = 0.01, momentum: float = 0.9, **options: Any) -> None:
        super().__init__(lr, **options)
        self.momentum = momentum

    def step(self, p: Any, g: Any, lr: float, v: Any) -> None:
        v *= self.momentum
        v -= lr * g
        p += self.momentum * v - lr * g


class AdaGrad(Optimizer):
    """A learning rate per element, shrinking with its summed squares (Duchi et al., 2011)."""

    slots: tuple[str, ...] = ("h",)
    never_negative: tuple[str, ...] = ("h",)
    eps: float
    initial_accumulator: float
    lr_decay: float

    def __init__(
        self,
        lr: Any = 0.01,
        *,
        eps: float = 1e-7,
        initial_accumulator: float = 0.0,
        lr_decay: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(lr, **options)
        self.eps, self.initial_accumulator, self.lr_decay = eps, initial_accumulator, lr_decay

    def new_state(self, p: Any) -> dict[str, Any]:
        state = super().new_state(p)
        state["h"] += self.initial_accumulator
        return state

    def step(self, p: Any, g: Any, lr: float, h: Any) -> None:
        h += g * g
        p -= lr / (1 + (self.t - 1) * self.lr_decay) * g / (np.sqrt(h) + self.eps)


class RMSprop(Optimizer):
    """AdaGrad that forgets: ``h`` is a running average (Tieleman and Hinton, 2012)."""

    never_negative: tuple[str, ...] = ("h",)
    decay_rate: float
    eps: float
    centered: bool
    momentum: float

    def __init__(
        self,
        lr: Any = 0.01,
        decay_rate: float = 0.99,
        *,
        eps: float = 1e-7,
        centered: bool = False,
        momentum: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(lr, **options)
        self.decay_rate, self.eps, self.momentum = decay_rate, eps, momentum
        self.centered = centered
        self.slots: tuple[str, ...] = ("h", *("a",) * centered, *("v",) * (momentum > 0))

    def step(self, p: Any, g: Any, lr: float, h: Any, a: Any = None, v: Any = None) -> None:
        h *= self.decay_rate
        h += (1 - self.decay_rate) * g * g
        variance = h
        if a is not None:
            a *= self.decay_rate
            a += (1 - self.decay_rate) * g
            variance = h - a * a
        if v is None:
            p -= lr * g / (np.sqrt(variance) + self.eps)
        else:
            v *= self.momentum
            v -= lr * g / (np.sqrt(variance) + self.eps)
            p += v


class Adam(Optimizer):
    """Running averages of ``g`` and ``g * g``, corrected for their start at zero (Kingma and Ba, 2015).

    ``eps_hat`` is added to ``sqrt(v)``; ``eps``, if given instead, to ``sqrt(v)`` after the correction.
    """

    slots: tuple[str, ...] = ("m", "v")
    never_negative: tuple[str, ...] = ("v",)
    beta1: float
    beta2: float
    eps_hat: float
    eps: float | None

    def __init__(
        self,
        lr: Any = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        *,
        eps_hat: float = 1e-7,
        eps: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(lr, **options)
        self.beta1, self.beta2, self.eps_hat, self.eps = beta1, beta2, eps_hat, eps

    def step(self, p: Any, g: Any, lr: float, m: Any, v: Any) -> None:
        correction = sqrt(1 - self.beta2**self.t)
        lr_t = lr * correction / (1 - self.beta1**self.t)
        eps_hat = self.eps_hat if self.eps is None else self.eps * correction
        m += (1 - self.beta1) * (g - m)
        v += (1 - self.beta2) * (g * g - v)
        p -= lr_t * m / (np.sqrt(v) + eps_hat)


class AdamW(Optimizer):
    """Adam with weight decay beside the gradient (Loshchilov and Hutter, 2019)."""

    slots: tuple[str, ...] = ("m", "v")
    never_negative: tuple[str, ...] = ("v",)
    decoupled: bool = True
    beta1: float
    beta2: float
    eps: float

    def __init__(
        self,
        lr: Any = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        *,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        **options: Any,
    ) -> None:
        super().__init__(lr, weight_decay=weight_decay, **options)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps

    def step(self, p: Any, g: Any, lr: float, m: Any, v: Any) -> None:
        correction = sqrt(1 - self.beta2**self.t)
        lr_t = lr * correction / (1 - self.beta1**self.t)
        m += (1 - self.beta1) * (g - m)
        v += (1 - self.beta2) * (g * g - v)
        p *= 1 - lr * self.weight_decay
        p -= lr_t * m / (np.sqrt(v) + self.eps * correction)


class AMSGrad(Optimizer):
    """Adam that divides by the largest average so far (Reddi, Kale and Kumar, 2018)."""

    slots: tuple[str, ...] = ("m", "v", "h")
    beta1: float
    beta2: float
    eps: float
    bias_correction: bool

    def __init__(
        self,
        lr: Any = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        *,
        eps: float = 1e-8,
        bias_correction: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(lr, **options)
        self.beta1, self.beta2, self.eps, self.bias_correction = beta1, beta2, eps, bias_correction

    def step(self, p: Any, g: Any, lr: float, m: Any, v: Any, h: Any) -> None:
        lr_t, eps = lr, self.eps
        if self.bias_correction:
            correction = sqrt(1 - self.beta2**self.t)
            lr_t, eps = lr * correction / (1 - self.beta1**self.t), self.eps * correction
        m += (1 - self.beta1) * (g - m)
        v += (1 - self.beta2) * (g * g - v)
        h[...] = np.maximum(h, v)
        p -= lr_t * m / (np.sqrt(h) + eps)


class Adamax(Optimizer):
    """Adam by the largest recent gradient (Kingma and Ba, 2015, section 7.1)."""

    slots: tuple[str, ...] = ("m", "u")
    never_negative: tuple[str, ...] = ("u",)
    beta1: float
    beta2: float
    eps: float

    def __init__(
        self, lr: Any = 0.002, beta1: float = 0.9, beta2: float = 0.999, *, eps: float = 1e-8, **options: Any
    ) -> None:
        super().__init__(lr, **options)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps

    def step(self, p: Any, g: Any, lr: float, m: Any, u: Any) -> None:
        m += (1 - self.beta1) * (g - m)
        u[...] = np.maximum(self.beta2 * u, np.abs(g) + self.eps)
        p -= lr / (1 - self.beta1**self.t) * m / u


class NAdam(Optimizer):
    """Adam with Nesterov's momentum (Dozat, 2016)."""

    slots: tuple[str, ...] = ("m", "v")
    never_negative: tuple[str, ...] = ("v",)
    beta1: float
    beta2: float
    eps: float
    momentum_decay: float

    def __init__(
        self,
        lr: Any = 0.002,
        beta1: float = 0.9,
        beta2: float = 0.999,
        *,
        eps: float = 1e-8,
        momentum_decay: float = 0.004,
        **options: Any,
    ) -> None:
        super().__init__(lr, **options)
        self.beta1, self.beta2, self.eps, self.momentum_decay = beta1, beta2, eps, momentum_decay

    def mu(self, t: int) -> float:
        return self.beta1 * (1 - 0.5 * float(0.96 ** (t * self.momentum_decay)))

    def step(self, p: Any, g: Any, lr: float, m: Any, v: Any) -> None:
        product = prod(self.mu(i) for i in range(1, self.t + 1))
        mu, mu_next = self.mu(self.t), self.mu(self.t + 1)
        correction = sqrt(1 - self.beta2**self.t)
        lr_g = lr * correction * (1 - mu) / (1 - product)
        lr_m = lr * correction * mu_next / (1 - product * mu_next)
        m += (1 - self.beta1) * (g - m)
        v += (1 - self.beta2) * (g * g - v)
        p -= (lr_g * g + lr_m * m) / (np.sqrt(v) + self.eps * correction)


class RAdam(Optimizer):
    """Adam that first steps by momentum alone (Liu et al., 2020)."""

    slots: tuple[str, ...] = ("m", "v")
    never_negative: tuple[str, ...] = ("v",)
    beta1: float
    beta2: float
    eps: float

    def __init__(
        self, lr: Any = 0.001, beta1: float = 0.9, beta2: float = 0.999, *, eps: float = 1e-8, **options: Any
    ) -> None:
        super().__init__(lr, **options)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps

    def step(self, p: Any, g: Any, lr: float, m: Any, v: Any) -> None:
        t, end = self.t, 2 / (1 - self.beta2) - 1
        rho = end - 2 * t * self.beta2**t / (1 - self.beta2**t)
        lr_t = lr / (1 - self.beta1**t)
        m += (1 - self.beta1) * (g - m)
        v += (1 - self.beta2) * (g * g - v)
        if rho > 5:
            r = sqrt((rho - 4) * (rho - 2) * end / ((end - 4) * (end - 2) * rho))
            p -= lr_t * r * sqrt(1 - self.beta2**t) * m / (np.sqrt(v) + self.eps)
        else:
            p -= lr_t * m


class AdaDelta(Optimizer):
    """Steps in the unit of the parameter (Zeiler, 2012)."""

    slots: tuple[str, ...] = ("h", "d")
    never_negative: tuple[str, ...] = ("h", "d")
    decay_rate: float
    eps: float

    def __init__(self, lr: Any = 1.0, decay_rate: float = 0.9, *, eps: float = 1e-6, **options: Any) -> None:
        super().__init__(lr, **options)
        self.decay_rate, self.eps = decay_rate, eps

    def step(self, p: Any, g: Any, lr: float, h: Any, d: Any) -> None:
        h *= self.decay_rate
        h += (1 - self.decay_rate) * g * g
        u = np.sqrt(d + self.eps) / np.sqrt(h + self.eps) * g
        d *= self.decay_rate
        d += (1 - self.decay_rate) * u * u
        p -= lr * u


class Lion(Optimizer):
    """Steps of one size, by the sign (Chen et al., 2023)."""

    slots: tuple[str, ...] = ("m",)
    decoupled: bool = True
    beta1: float
    beta2: float

    def __init__(
        self,
        lr: Any = 0.0001,
        beta1: float = 0.9,
        beta2: float = 0.99,
        *,
        weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(lr, weight_decay=weight_decay, **options)
        self.beta1, self.beta2 = beta1, beta2

    def step(self, p: Any, g: Any, lr: float, m: Any) -> None:
        p *= 1 - lr * self.weight_decay
        p -= lr * np.sign(self.beta1 * m + (1 - self.beta1) * g)
        m *= self.beta2
        m += (1 - self.beta2) * g


class LAMB(Optimizer):
    """Adam whose step is as long as the parameter (You et al., 2020)."""

    slots: tuple[str, ...] = ("m", "v")
    decoupled: bool = True
    beta1: float
    beta2: float
    eps: float

    def __init__(
        self,
        lr: Any = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        *,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(lr, weight_decay=weight_decay, **options)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps

    def step(self, p: Any, g: Any, lr: float, m: Any, v: Any) -> None:
        root = sqrt(1 - self.beta2**self.t)
        m += (1 - self.beta1) * (g - m)
        v += (1 - self.beta2) * (g * g - v)
        u = root / (1 - self.beta1**self.t) * m / (np.sqrt(v) + self.eps * root) + self.weight_decay * p
        p_norm, u_norm = norm(p), norm(u)
        p -= _rounded(lr, p) * _rounded(p_norm / u_norm if p_norm > 0 and u_norm > 0 else 1.0, p) * u


class LARS(Optimizer):
    """Momentum whose step is a share of the parameter's length (You, Gitman and Ginsburg, 2017)."""

    slots: tuple[str, ...] = ("v",)
    decoupled: bool = True
    momentum: float
    trust: float

    def __init__(
        self,
        lr: Any = 1.0,
        momentum: float = 0.9,
        *,
        trust: float = 0.001,
        weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(lr, weight_decay=weight_decay, **options)
        self.momentum, self.trust = momentum, trust

    def step(self, p: Any, g: Any, lr: float, v: Any) -> None:
        p_norm, g_norm = norm(p), norm(g)
        ratio = 1.0
        if p_norm > 0 and g_norm > 0:
            ratio = self.trust * p_norm / (g_norm + self.weight_decay * p_norm)
        v *= self.momentum
        v -= _rounded(lr, p) * _rounded(ratio, p) * (g + self.weight_decay * p)
        p += v


class Adan(Optimizer):
    """Adam that also averages how the gradient changes (Xie et al., 2022)."""

    slots: tuple[str, ...] = ("m", "v", "n", "b")
    never_negative: tuple[str, ...] = ("n",)
    decoupled: bool = True
    beta1: float
    beta2: float
    beta3: float
    eps: float

    def __init__(
        self,
        lr: Any = 0.001,
        beta1: float = 0.98,
        beta2: float = 0.92,
        beta3: float = 0.99,
        *,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(lr, weight_decay=weight_decay, **options)
        self.beta1, self.beta2, self.beta3, self.eps = beta1, beta2, beta3, eps

    def step(self, p: Any, g: Any, lr: float, m: Any, v: Any, n: Any, b: Any) -> None:
        t, root = self.t, sqrt(1 - self.beta3**self.t)
        d = np.zeros_like(g) if t == 1 else g - b
        s = g + self.beta2 * d
        m += (1 - self.beta1) * (g - m)
        v += (1 - self.beta2) * (d - v)
        n += (1 - self.beta3) * (s * s - n)
        lr_m, lr_v = lr * root / (1 - self.beta1**t), lr * root * self.beta2 / (1 - self.beta2**t)
        p -= (lr_m * m + lr_v * v) / (np.sqrt(n) + self.eps * root)
        p *= 1 / (1 + lr * self.weight_decay)
        b[...] = g


class ScheduleFreeSGD(Optimizer):
    """Gradient descent evaluated at the average ``x`` of its iterates ``z`` (Defazio et al., 2024)."""

    slots: tuple[str, ...] = ("z", "x")
    copies: tuple[str, ...] = ("z", "x")
    decoupled: bool = True
    momentum: float
    warmup: int

    def __init__(
        self,
        lr: Any = 1.0,
        momentum: float = 0.9,
        *,
        warmup: int = 0,
        weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(lr, weight_decay=weight_decay, **options)
        self.momentum, self.warmup = momentum, warmup

    def step(self, p: Any, g: Any, lr: float, z: Any, x: Any) -> None:
        lr, c = _rate_and_share(self)
        z -= lr * (g + self.weight_decay * p)
        x += c * (z - x)
        p[...] = z + self.momentum * (x - z)


class ScheduleFreeAdamW(Optimizer):
    """AdamW evaluated at the average ``x`` of its iterates ``z`` (Defazio et al., 2024)."""

    slots: tuple[str, ...] = ("z", "x", "v")
    copies: tuple[str, ...] = ("z", "x")
    decoupled: bool = True
    beta1: float
    beta2: float
    eps: float
    warmup: int

    def __init__(
        self,
        lr: Any = 0.0025,
        beta1: float = 0.9,
        beta2: float = 0.999,
        *,
        eps: float = 1e-8,
        warmup: int = 0,
        weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(lr, weight_decay=weight_decay, **options)
        self.beta1, self.beta2, self.eps, self.warmup = beta1, beta2, eps, warmup

    def step(self, p: Any, g: Any, lr: float, z: Any, x: Any, v: Any) -> None:
        lr, c = _rate_and_share(self)
        correction = sqrt(1 - self.beta2**self.t)
        v += (1 - self.beta2) * (g * g - v)
        z -= lr * correction * g / (np.sqrt(v) + self.eps * correction) + lr * self.weight_decay * p
        x += c * (z - x)
        p[...] = z + self.beta1 * (x - z)


def _rate_and_share(opt: Any) -> tuple[float, float]:
    """The rate of step t, warmed up, and its share of the average: weighted by the square of the largest so far."""

    def rate(t: int) -> float:
        return float(opt.rate(t) * (min(1.0, t / opt.warmup) if opt.warmup else 1.0))

    while len(opt.past) < opt.t:  # (largest rate, sum of weights) after each step
        largest, total = opt.past[-1] if opt.past else (0.0, 0.0)
        largest = max(largest, rate(len(opt.past) + 1))
        opt.past.append((largest, total + largest**2))
    largest, total = opt.past[opt.t - 1]
    return rate(opt.t), largest**2 / total if total > 0 else 1.0


class Muon(Optimizer):
    """Momentum whose step is made orthogonal (Jordan et al., 2024)."""

    slots: tuple[str, ...] = ("m",)
    decoupled: bool = True
    momentum: float
    nesterov: bool
    steps: int

    def __init__(
        self,
        lr: Any = 0.001,
        momentum: float = 0.95,
        *,
        nesterov: bool = True,
        steps: int = 5,
        weight_decay: float = 0.1,
        **options: Any,
    ) -> None:
        super().__init__(lr, weight_decay=weight_decay, **options)
        self.momentum, self.nesterov, self.steps = momentum, nesterov, steps

    def step(self, p: Any, g: Any, lr: float, m: Any) -> None:
        m += (1 - self.momentum) * (g - m)
        u = orthogonalized(g + self.momentum * (m - g) if self.nesterov else m, self.steps)
        p *= 1 - lr * self.weight_decay
        p -= lr * sqrt(max(1.0, p.shape[0] / p.shape[1])) * u


NEWTON_SCHULZ = (3.4445, -4.775, 2.0315)


def orthogonalized(matrix: Any, steps: int = 5) -> Any:
    """Bring the singular values of a matrix near 1, by Newton and Schulz's iteration (Jordan et al., 2024).

    >>> import numpy as np
    >>> np.linalg.svd(orthogonalized(np.diag([5.0, 0.1])), compute_uv=False).round(1)
    array([0.7, 0.7])
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / max(float(np.linalg.norm(x)), 1e-7)
    one, three, five = NEWTON_SCHULZ
    for _ in range(steps):
        a = x @ x.T
        x = one * x + (three * a + five * a @ a) @ x
    return x.T if tall else x


class Adafactor(Optimizer):
    """Adam's second moment as a row and a column (Shazeer and Stern, 2018)."""

    decoupled: bool = True
    beta2_decay: float
    eps: float | None
    eps2: float
    clip_threshold: float

    def __init__(
        self,
        lr: Any = 0.01,
        *,
        beta2_decay: float = -0.8,
        eps: float | None = None,
        eps2: float = 1e-3,
        clip_threshold: float = 1.0,
        weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(lr, weight_decay=weight_decay, **options)
        self.beta2_decay, self.eps, self.eps2, self.clip_threshold = beta2_decay, eps, eps2, clip_threshold

    def new_state(self, p: Any) -> dict[str, Any]:
        state = super().new_state(p)
        if np.ndim(p) < 2:
            return {**state, "v": np.zeros_like(p)}
        row, column = np.zeros((*p.shape[:-1], 1), p.dtype), np.zeros((*p.shape[:-2], 1, p.shape[-1]), p.dtype)
        return {**state, "row": row, "column": column}

    def step(self, p: Any, g: Any, lr: float, v: Any = None, row: Any = None, column: Any = None) -> None:
        if not p.size:
            return
        share = self.t**self.beta2_decay
        eps = p.dtype.type(np.finfo(p.dtype).eps if self.eps is None else self.eps)
        if v is None:
            squares = _squares(g)
            row_means = (_total(squares) / p.shape[-1]).astype(p.dtype)
            column_means = (_total_of_columns(squares) / p.shape[-2]).astype(p.dtype)
            row += share * (row_means[..., None] - row)
            column += share * (column_means[..., None, :] - column)
            # V is row column / mean(row), and u = g / max(sqrt(V), eps): without a quotient or a root of each element.
            mean = (_total(np.float64(row[..., 0])) / p.shape[-2]).astype(p.dtype)[..., None, None]
            scale = np.sqrt(np.maximum(mean, eps))
            with np.errstate(divide="ignore", over="ignore"):  # rows of zeros: there eps counts
                u = g * np.minimum(scale * (1 / np.sqrt(row)) * (1 / np.sqrt(column)), 1 / eps)
        else:
            v += share * (g * g - v)
            u = g / np.maximum(np.sqrt(v), eps)
        root = sqrt(p.size)
        length = (
            max(self.eps2, norm(p) / root) * min(lr, 1 / sqrt(self.t)) / max(1.0, norm(u) / root / self.clip_threshold)
        )
        p *= 1 - lr * self.weight_decay
        p -= length * u


OPTIMIZERS: dict[str, type[Any]] = {
    name: cls
    for name, cls in list(globals().items())
    if isinstance(cls, type) and issubclass(cls, Optimizer) and cls is not Optimizer
}
