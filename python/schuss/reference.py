"""The optimizers of this package in plain NumPy: a lesson to read, and the oracle of the tests.

Every class here has a fused twin of the same name in :mod:`schuss`. The two agree bit for bit. The
symbols are those of the papers: ``p`` a parameter, ``g`` its gradient, ``lr`` the learning rate of this
step; a state array (``v``, ``h``, ``m``) has the shape of its parameter and starts at zero.

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

from math import sqrt
from typing import Any

import numpy as np

__all__ = ["SGD", "AdaGrad", "Adam", "Momentum", "Nesterov", "RMSprop"]


class Optimizer:
    """What all rules share: the step count ``t``, the state, and the walk over the parameters."""

    slots: tuple[str, ...] = ()  # the names of the state arrays that step() receives
    step: Any  # step(p, g, lr, **state) -> p, which each rule defines

    def __init__(self, lr: Any) -> None:
        self.lr = lr
        self.t = 0
        self.state: dict[Any, dict[str, Any]] = {}

    def update(self, params: Any, grads: Any) -> None:
        self.t += 1
        lr = float(self.lr(self.t)) if callable(self.lr) else self.lr
        for name in list(params) if hasattr(params, "keys") else range(len(params)):
            p, g = params[name], grads[name]
            if g is None:
                continue
            if name not in self.state:
                self.state[name] = {slot: np.zeros_like(p) for slot in self.slots}
            p = self.step(p, g, lr, **self.state[name])
            if not isinstance(params[name], np.ndarray):
                params[name] = p  # a Python float cannot change in place: its entry is rebound


class SGD(Optimizer):
    """Stochastic gradient descent (Robbins and Monro, 1951)."""

    def __init__(self, lr: Any = 0.01) -> None:
        super().__init__(lr)

    def step(self, p: Any, g: Any, lr: float) -> Any:
        p -= lr * g
        return p


class Momentum(Optimizer):
    """The heavy ball (Polyak, 1964): ``v`` is a velocity, ``momentum`` what friction leaves of it."""

    slots = ("v",)

    def __init__(self, lr: Any = 0.01, momentum: float = 0.9, dampening: float = 0.0) -> None:
        super().__init__(lr)
        self.momentum, self.dampening = momentum, dampening

    def step(self, p: Any, g: Any, lr: float, v: Any) -> Any:
        v *= self.momentum
        v -= lr * (1 - self.dampening) * g
        p += v
        return p


class Nesterov(Optimizer):
    """Momentum with the gradient of the point that the velocity leads to (Nesterov, 1983).

    In the variables of Sutskever et al. (2013) and Bengio et al. (arXiv:1212.0901).
    """

    slots = ("v",)

    def __init__(self, lr: Any = 0.01, momentum: float = 0.9) -> None:
        super().__init__(lr)
        self.momentum = momentum

    def step(self, p: Any, g: Any, lr: float, v: Any) -> Any:
        v *= self.momentum
        v -= lr * g
        p += self.momentum * v - lr * g
        return p


class AdaGrad(Optimizer):
    """A learning rate per element, shrinking with its summed squares (Duchi et al., 2011)."""

    slots = ("h",)

    def __init__(self, lr: Any = 0.01, *, eps: float = 1e-7) -> None:
        super().__init__(lr)
        self.eps = eps

    def step(self, p: Any, g: Any, lr: float, h: Any) -> Any:
        h += g * g
        p -= lr * g / (np.sqrt(h) + self.eps)
        return p


class RMSprop(Optimizer):
    """AdaGrad that forgets: ``h`` is a running average (Tieleman and Hinton, 2012)."""

    slots = ("h",)

    def __init__(self, lr: Any = 0.01, decay_rate: float = 0.99, *, eps: float = 1e-7) -> None:
        super().__init__(lr)
        self.decay_rate, self.eps = decay_rate, eps

    def step(self, p: Any, g: Any, lr: float, h: Any) -> Any:
        h *= self.decay_rate
        h += (1 - self.decay_rate) * g * g
        p -= lr * g / (np.sqrt(h) + self.eps)
        return p


class Adam(Optimizer):
    """Running averages of ``g`` and ``g * g``, corrected for their start at zero (Kingma and Ba, 2015).

    ``eps_hat`` is added to ``sqrt(v)``; ``eps``, if given instead, to ``sqrt(v)`` after the correction.
    """

    slots = ("m", "v")

    def __init__(
        self,
        lr: Any = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        *,
        eps_hat: float = 1e-7,
        eps: float | None = None,
    ) -> None:
        super().__init__(lr)
        self.beta1, self.beta2, self.eps_hat, self.eps = beta1, beta2, eps_hat, eps

    def step(self, p: Any, g: Any, lr: float, m: Any, v: Any) -> Any:
        correction = sqrt(1 - self.beta2**self.t)
        lr_t = lr * correction / (1 - self.beta1**self.t)
        eps_hat = self.eps_hat if self.eps is None else self.eps * correction
        m += (1 - self.beta1) * (g - m)
        v += (1 - self.beta2) * (g * g - v)
        p -= lr_t * m / (np.sqrt(v) + eps_hat)
        return p


OPTIMIZERS: dict[str, type[Any]] = {
    cls.__name__: cls for cls in (SGD, Momentum, Nesterov, AdaGrad, RMSprop, Adam)
}
