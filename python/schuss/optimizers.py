"""The rules: what each takes, which scalars a step of it needs, and what state it keeps.

The step itself is ``cpp/rules.hpp``; the same mathematics in NumPy is :mod:`schuss.reference`. What all take
beside their own arguments, from weight decay to groups, is said at :class:`schuss.Optimizer`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from glob import escape
from math import sqrt
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .arguments import LooksAt
from .base import Optimizer
from .checks import POSITIVE, SHARE, count, flag, number, shown
from .dtypes import computed
from .memory import zeros_like
from .options import L2Options, LearningRate, Options
from .orthogonal import orthogonalize
from .reference import NEWTON_SCHULZ
from .registry import OPTIMIZERS as OPTIMIZERS

if TYPE_CHECKING:
    from typing_extensions import Unpack

Scalars = tuple[float, ...]


class SGD(Optimizer):
    """Stochastic gradient descent: a step against the gradient.

    ::

        p -= lr g

    Parameters
    ----------
    lr : float or callable, default 0.01
        Learning rate, in units of parameter per gradient; or a function of the step.
    weight_decay, maximize, clip_value, clip_norm, ema, on_nonfinite, flush_subnormals, sparse, groups : optional
        What all rules take: weight decay, clipping, averages, groups and more; see :class:`schuss.Optimizer`.
    state_dtype, master : optional
        How state, and parameters of 16 bits, are kept; see :class:`schuss.Optimizer`.

    Raises
    ------
    ValueError
        If ``lr`` is negative or not finite.

    Notes
    -----
    The same as ``torch.optim.SGD(lr)``, ``keras.optimizers.SGD`` and ``optax.sgd`` without momentum.

    References
    ----------
    Robbins and Monro, "A stochastic approximation method", 1951; "Deep Learning from Scratch", 6.1.2.

    Examples
    --------
    >>> import numpy as np, schuss
    >>> params = {"W": np.array([1.0, 2.0])}
    >>> schuss.SGD(lr=0.1).update(params, {"W": np.array([1.0, -1.0])})
    >>> params["W"]
    array([0.9, 2.1])
    """

    def __init__(self, lr: LearningRate = 0.01, **options: Unpack[L2Options]) -> None:
        super().__init__(lr, **options)

    def _scalars(self, lr: float, t: int) -> Scalars:
        return (lr,)


class Momentum(Optimizer):
    """Gradient descent with momentum: the parameter rolls like a heavy ball.

    ::

        v = mu v - lr (1 - dampening) g        p += v

    Parameters
    ----------
    lr : float or callable, default 0.01
        Learning rate, or a function of the step.
    momentum : float in [0, 1), default 0.9
        ``mu``, the share of the velocity that is left after a step.
    dampening : float in [0, 1], default 0
        The share of the gradient that is left out. With ``dampening=momentum`` the velocity is a running average of
        the steps, as in Andrew Ng's course.
    weight_decay, maximize, clip_value, clip_norm, ema, on_nonfinite, flush_subnormals, sparse, groups : optional
        What all rules take: weight decay, clipping, averages, groups and more; see :class:`schuss.Optimizer`.
    state_dtype, master : optional
        How state, and parameters of 16 bits, are kept; see :class:`schuss.Optimizer`.

    Raises
    ------
    ValueError
        If an argument is outside of its range; the message has the value.

    Notes
    -----
    State: ``v``, the velocity, which holds the learning rate (as in Keras). PyTorch and Optax keep
    ``b = mu b + g`` and step by ``-lr b``: the same path while ``lr`` is constant.
    After a change of ``lr`` theirs applies at once to all of the velocity, ours to what is added from
    then on. PyTorch does not dampen its first step.

    References
    ----------
    Polyak, "Some methods of speeding up the convergence of iteration methods", 1964; "Deep Learning
    from Scratch", 6.1.4; "Dive into Deep Learning", "Momentum".

    Examples
    --------
    >>> import numpy as np, schuss
    >>> params = {"W": np.array([1.0])}
    >>> opt = schuss.Momentum(lr=0.1)
    >>> for _ in range(2):
    ...     opt.update(params, {"W": np.array([1.0])})
    >>> params["W"], opt.state["W"]["v"]
    (array([0.71]), array([-0.19]))
    """

    slots: ClassVar[tuple[str, ...]] = ("v",)
    _ranges: ClassVar = {"momentum": SHARE, "dampening": (0.0, 1.0, False)}

    momentum: float
    dampening: float

    def __init__(
        self,
        lr: LearningRate = 0.01,
        momentum: float = 0.9,
        dampening: float = 0.0,
        **options: Unpack[L2Options],
    ) -> None:
        super().__init__(lr, **options)
        self.momentum = momentum
        self.dampening = dampening

    def _scalars(self, lr: float, t: int) -> Scalars:
        return lr * (1 - self.dampening), self.momentum


class Nesterov(Optimizer):
    """Momentum that looks ahead: the gradient counts as if taken where the velocity leads.

    ::

        v = mu v - lr g        p += mu v - lr g

    In the second equation ``v`` is the new velocity.

    Parameters
    ----------
    lr : float or callable, default 0.01
        Learning rate, or a function of the step.
    momentum : float in [0, 1), default 0.9
        ``mu``, the share of the velocity that is left after a step.
    weight_decay, maximize, clip_value, clip_norm, ema, on_nonfinite, flush_subnormals, sparse, groups : optional
        What all rules take: weight decay, clipping, averages, groups and more; see :class:`schuss.Optimizer`.
    state_dtype, master : optional
        How state, and parameters of 16 bits, are kept; see :class:`schuss.Optimizer`.

    Raises
    ------
    ValueError
        If an argument is outside of its range; the message has the value.

    Notes
    -----
    State: ``v``, the velocity. The parameter that is kept is the point looked ahead to, as in Keras, in
    ``torch.optim.SGD(nesterov=True)`` and in ``optax.sgd(nesterov=True)``; on a change of ``lr`` see
    :class:`Momentum`.

    References
    ----------
    Nesterov, 1983; in this form Bengio et al., "Advances in optimizing recurrent networks",
    arXiv:1212.0901; "Deep Learning from Scratch", its ``common/optimizer.py``.

    Examples
    --------
    >>> import numpy as np, schuss
    >>> params = {"W": np.array([1.0])}
    >>> schuss.Nesterov(lr=0.1).update(params, {"W": np.array([1.0])})
    >>> params["W"]
    array([0.81])
    """

    slots: ClassVar[tuple[str, ...]] = ("v",)
    _ranges: ClassVar = {"momentum": SHARE}

    momentum: float

    def __init__(self, lr: LearningRate = 0.01, momentum: float = 0.9, **options: Unpack[L2Options]) -> None:
        super().__init__(lr, **options)
        self.momentum = momentum

    def _scalars(self, lr: float, t: int) -> Scalars:
        return lr, self.momentum


class AdaGrad(Optimizer):
    """A step per element that shrinks with the squared gradients it has seen.

    ::

        h += g g
        p -= lr_t g / (sqrt(h) + eps),    lr_t = lr / (1 + (t - 1) lr_decay)

    Parameters
    ----------
    lr : float or callable, default 0.01
        Learning rate, or a function of the step.
    eps : float, default 1e-7
        Added to the root, in units of the gradient, so that a first gradient of zero divides by no zero.
    initial_accumulator : float, default 0
        What the sum of squares starts at.
    lr_decay : float, default 0
        The learning rate of step t is ``lr / (1 + (t - 1) * lr_decay)``, as in PyTorch.
    weight_decay, maximize, clip_value, clip_norm, ema, on_nonfinite, flush_subnormals, sparse, groups : optional
        What all rules take: weight decay, clipping, averages, groups and more; see :class:`schuss.Optimizer`.
    state_dtype, master : optional
        How state, and parameters of 16 bits, are kept; see :class:`schuss.Optimizer`.

    Raises
    ------
    ValueError
        If an argument is negative or not finite.

    Notes
    -----
    State: ``h``, the sum of squares. PyTorch: ``eps=1e-10``. Keras and Optax start the sum at 0.1
    and put epsilon inside of the root; "Dive into Deep Learning" puts it there, too.

    References
    ----------
    Duchi, Hazan and Singer, "Adaptive subgradient methods for online learning and stochastic
    optimization", JMLR 12, 2011; "Deep Learning from Scratch", 6.1.5.

    Examples
    --------
    >>> import numpy as np, schuss
    >>> params = {"W": np.array([1.0, 1.0])}
    >>> schuss.AdaGrad(lr=0.1).update(params, {"W": np.array([2.0, 200.0])})
    >>> params["W"].round(6)
    array([0.9, 0.9])
    """

    slots: ClassVar[tuple[str, ...]] = ("h",)
    _never_negative: ClassVar[tuple[str, ...]] = ("h",)
    _ranges: ClassVar = {"eps": POSITIVE, "initial_accumulator": POSITIVE, "lr_decay": POSITIVE}

    eps: float
    initial_accumulator: float
    lr_decay: float

    def __init__(
        self,
        lr: LearningRate = 0.01,
        *,
        eps: float = 1e-7,
        initial_accumulator: float = 0.0,
        lr_decay: float = 0.0,
        **options: Unpack[L2Options],
    ) -> None:
        super().__init__(lr, **options)
        self.eps = eps
        self.initial_accumulator = initial_accumulator
        self.lr_decay = lr_decay

    def _scalars(self, lr: float, t: int) -> Scalars:
        return lr / (1 + (t - 1) * self.lr_decay), self.eps

    def _new_state(self, name: Any, p: Any) -> dict[str, NDArray[Any]]:
        state = super()._new_state(name, p)
        if self.initial_accumulator:
            state["h"][...] = self.initial_accumulator
        return state


class RMSprop(Optimizer):
    """AdaGrad that forgets: the squared gradients are averaged over the recent past.

    ::

        h = rho h + (1 - rho) g g
        p -= lr g / (sqrt(h) + eps)

    With ``centered``, and with ``momentum`` mu::

        a = rho a + (1 - rho) g,  and  sqrt(h - a a)  in place of  sqrt(h)
        v = mu v - lr g / (sqrt(h) + eps)        p += v

    Parameters
    ----------
    lr : float or callable, default 0.01
        Learning rate, or a function of the step.
    decay_rate : float in [0, 1), default 0.99
        ``rho``; the average reaches back over about ``1 / (1 - decay_rate)`` steps.
    eps : float, default 1e-7
        Added to the root, in units of the gradient.
    centered : bool, default False
        Divide by the root of the variance ``h - a a``, where ``a`` is the running average of the gradient.
    momentum : float in [0, 1), default 0
        ``mu``, the share of the velocity that is left after a step.
    weight_decay, maximize, clip_value, clip_norm, ema, on_nonfinite, flush_subnormals, sparse, groups : optional
        What all rules take: weight decay, clipping, averages, groups and more; see :class:`schuss.Optimizer`.
    state_dtype, master : optional
        How state, and parameters of 16 bits, are kept; see :class:`schuss.Optimizer`.

    Raises
    ------
    ValueError
        If an argument is outside of its range; the message has the value.

    Notes
    -----
    State: ``h``, the running average of squares, from zero; ``a`` if centered; ``v`` with momentum, which holds
    the learning rate (PyTorch's does not: see :class:`Momentum`). PyTorch calls ``decay_rate`` alpha (0.99,
    ``eps=1e-8``); Keras calls it rho (0.9) and Optax decay (0.9), and both put epsilon inside of the root.

    References
    ----------
    Tieleman and Hinton, "Neural networks for machine learning", lecture 6.5, 2012; "Deep Learning from
    Scratch", its ``common/optimizer.py``.

    Examples
    --------
    >>> import numpy as np, schuss
    >>> params = {"W": np.array([1.0])}
    >>> schuss.RMSprop(lr=0.01).update(params, {"W": np.array([2.0])})
    >>> params["W"].round(6)
    array([0.9])
    """

    slots: ClassVar[tuple[str, ...]] = ("h",)
    _never_negative: ClassVar[tuple[str, ...]] = ("h",)
    _ranges: ClassVar = {"decay_rate": SHARE, "eps": POSITIVE, "momentum": SHARE}
    _deciding: ClassVar[tuple[str, ...]] = ("ema", "centered", "momentum")

    decay_rate: float
    eps: float
    centered: bool = False
    momentum: float = 0.0

    def __init__(
        self,
        lr: LearningRate = 0.01,
        decay_rate: float = 0.99,
        *,
        eps: float = 1e-7,
        centered: bool = False,
        momentum: float = 0.0,
        **options: Unpack[L2Options],
    ) -> None:
        super().__init__(lr, **options)
        self.decay_rate = decay_rate
        self.eps = eps
        self.centered = centered
        self.momentum = momentum

    def _checked(self, name: str, value: Any) -> Any:
        return flag(name, value) if name == "centered" else super()._checked(name, value)

    def _kernel(self) -> str:
        return f"RMSprop{'Centered' * self.centered}{'Momentum' * (self.momentum > 0)}"

    def _refuse_fewer_bits(self, dtype: str, reason: str | None = None) -> None:
        if getattr(self, "centered", False):  # which is set after the options
            reason = "h - a a, of rounded numbers, may be negative where it is centered"
        super()._refuse_fewer_bits(dtype, reason)

    def _slots(self) -> tuple[str, ...]:
        return ("h", *("a",) * self.centered, *("v",) * (self.momentum > 0))

    def _scalars(self, lr: float, t: int) -> Scalars:
        scalars = (lr, self.decay_rate, 1 - self.decay_rate, self.eps)
        return (*scalars, self.momentum) if self.momentum > 0 else scalars


class Adam(Optimizer):
    """Momentum and a step per element, both from running averages corrected for their start at zero.

    ::

        m += (1 - beta1) (g - m)        v += (1 - beta2) (g g - v)
        p -= lr_t m / (sqrt(v) + eps_hat),    lr_t = lr sqrt(1 - beta2^t) / (1 - beta1^t)

    Parameters
    ----------
    lr : float or callable, default 0.001
        Learning rate, about the largest change of an element in a step; or a function of the step.
    beta1, beta2 : float in [0, 1), default 0.9 and 0.999
        What a step leaves of the averages of the gradient and of its square.
    eps_hat : float, default 1e-7
        Added to ``sqrt(v)``, in units of the gradient: the textbook's class, and Keras's.
    eps : float, optional
        Given instead of ``eps_hat``: added to the root after the correction of ``v``, as in
        Algorithm 1 of the paper, PyTorch and Optax (1e-8 there) and "Dive into Deep Learning" (1e-6).
        The step is the same with ``eps_hat = eps sqrt(1 - beta2^t)``.
    weight_decay, maximize, clip_value, clip_norm, ema, on_nonfinite, flush_subnormals, sparse, groups : optional
        What all rules take: weight decay, clipping, averages, groups and more; see :class:`schuss.Optimizer`.
    state_dtype, master : optional
        How state, and parameters of 16 bits, are kept; see :class:`schuss.Optimizer`.

    Raises
    ------
    ValueError
        If an argument is outside of its range (the message has the value), or if both ``eps`` and
        ``eps_hat`` are given.

    Notes
    -----
    State: ``m`` and ``v``. The powers are computed from the integer ``t``, in double.

    References
    ----------
    Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015, arXiv:1412.6980; "Deep
    Learning from Scratch", 6.1.6; "Dive into Deep Learning", "Adam".

    Examples
    --------
    >>> import numpy as np, schuss
    >>> params = {"W": np.array([1.0, 1.0])}
    >>> opt = schuss.Adam(lr=0.1)
    >>> opt.update(params, {"W": np.array([3.0, -0.5])})
    >>> params["W"].round(4)
    array([0.9, 1.1])
    >>> schuss.Adam(learning_rate=0.1)
    Traceback (most recent call last):
    TypeError: Adam has no argument 'learning_rate': here it is called 'lr'
    """

    slots: ClassVar[tuple[str, ...]] = ("m", "v")
    _never_negative: ClassVar[tuple[str, ...]] = ("v",)
    _ranges: ClassVar = {"beta1": SHARE, "beta2": SHARE, "eps_hat": POSITIVE, "eps": POSITIVE}
    _alternatives: ClassVar[tuple[str, ...]] = ("eps_hat", "eps")

    beta1: float
    beta2: float
    eps_hat: float | None = None
    eps: float | None = None

    def __init__(
        self,
        lr: LearningRate = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        *,
        eps_hat: float | None = None,
        eps: float | None = None,
        **options: Unpack[L2Options],
    ) -> None:
        super().__init__(lr, **options)
        self.beta1 = beta1
        self.beta2 = beta2
        if eps is not None:
            self.eps = eps
        if eps_hat is not None or eps is None:
            self.eps_hat = 1e-7 if eps_hat is None else eps_hat

    def _checked(self, name: str, value: Any) -> Any:
        other = {"eps": self.eps_hat, "eps_hat": self.eps}.get(name)
        if other is not None:
            have = "eps_hat" if name == "eps" else "eps"
            raise ValueError(
                f"give eps or eps_hat, not both: got {name}={shown(value)} beside {have}={other!r}, "
                "with which this optimizer was made"
            )
        if value is None and name in self._alternatives:
            raise ValueError(f"{name} must be a number, as there is no other epsilon, got None")
        return super()._checked(name, value)

    def _scalars(self, lr: float, t: int) -> Scalars:
        correction = sqrt(1 - self.beta2**t)
        lr_t = lr * correction / (1 - self.beta1**t)
        eps_hat = self.eps_hat
        if eps_hat is None:
            assert self.eps is not None
            eps_hat = self.eps * correction
        return lr_t, 1 - self.beta1, 1 - self.beta2, eps_hat


class AdamW(Optimizer):
    """Adam with weight decay that the gradient's averages do not see.

    ::

        m += (1 - beta1) (g - m)        v += (1 - beta2) (g g - v)
        p = (1 - lr weight_decay) p - lr_t m / (sqrt(v) + eps_hat)
        lr_t = lr sqrt(1 - beta2^t) / (1 - beta1^t),    eps_hat = eps sqrt(1 - beta2^t)

    Parameters
    ----------
    lr : float or callable, default 0.001
        Learning rate, or a function of the step.
    beta1, beta2 : float in [0, 1), default 0.9 and 0.999
        What a step leaves of the averages of the gradient and of its square.
    eps : float, default 1e-8
        Added to the root after the bias correction.
    weight_decay : float, default 0.01
        Decoupled from the gradient: the share of a parameter that is lost in a step is ``lr * weight_decay``.
    maximize, clip_value, clip_norm, ema, on_nonfinite, flush_subnormals, sparse, groups : optional
        What all rules take: clipping, averages, groups and more; see :class:`schuss.Optimizer`.
    state_dtype, master : optional
        How state, and parameters of 16 bits, are kept; see :class:`schuss.Optimizer`.

    Raises
    ------
    ValueError
        If an argument is outside of its range; the message has the value.

    Notes
    -----
    State: ``m`` and ``v``. The same as ``torch.optim.AdamW`` and, with ``weight_decay=1e-4``, ``optax.adamw``.
    Keras's AdamW (0.004) puts epsilon as ``Adam(eps_hat=...)`` does.

    References
    ----------
    Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019, arXiv:1711.05101.

    Examples
    --------
    >>> import numpy as np, schuss
    >>> params = {"W": np.array([1.0])}
    >>> schuss.AdamW(lr=0.1, weight_decay=0.5).update(params, {"W": np.array([3.0])})
    >>> params["W"].round(4)
    array([0.85])
    """

    slots: ClassVar[tuple[str, ...]] = ("m", "v")
    _never_negative: ClassVar[tuple[str, ...]] = ("v",)
    _ranges: ClassVar = {"beta1": SHARE, "beta2": SHARE, "eps": POSITIVE}
    _decoupled: ClassVar[bool] = True

    beta1: float
    beta2: float
    eps: float

    def __init__(
        self,
        lr: LearningRate = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        *,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(lr, weight_decay=weight_decay, **options)
        self.beta1 = beta1
        self.beta2 = beta2
        self.eps = eps

    def _scalars(self, lr: float, t: int) -> Scalars:
        correction = sqrt(1 - self.beta2**t)
        lr_t = lr * correction / (1 - self.beta1**t)
        return lr_t, 1 - self.beta1, 1 - self.beta2, self.eps * correction, 1 - lr * self.weight_decay


class AMSGrad(Optimizer):
    """Adam whose step per element never grows again: it divides by the largest average so far.

    ::

        m += (1 - beta1) (g - m)        v += (1 - beta2) (g g - v)
        h = max(h, v)                   p -= lr m / (sqrt(h) + eps)

    With ``bias_correction`` lr and eps are the lr_t and the eps_hat of :class:`AdamW`.

    Parameters
    ----------
    lr : float or callable, default 0.001
        Learning rate, or a function of the step.
    beta1, beta2 : float in [0, 1), default 0.9 and 0.999
        What a step leaves of the averages of the gradient and of its square.
    eps : float, default 1e-8
        Added to the root, in units of the gradient.
    bias_correction : bool, default False
        Correct ``m`` and ``h`` for their start at zero, as :class:`Adam` does. The paper does not; PyTorch does.
    weight_decay, maximize, clip_value, clip_norm, ema, on_nonfinite, flush_subnormals, sparse, groups : optional
        What all rules take: weight decay, clipping, averages, groups and more; see :class:`schuss.Optimizer`.
    state_dtype, master : optional
        How state, and parameters of 16 bits, are kept; see :class:`schuss.Optimizer`.

    Raises
    ------
    ValueError
        If an argument is outside of its range; the message has the value.

    Notes
    -----
    State: ``m``, ``v`` and ``h``. ``torch.optim.Adam(amsgrad=True)`` is this with ``bias_correction=True``.
    Optax takes the maximum of the corrected averages, whose correction shrinks: its steps are smaller.

    References
    ----------
    Reddi, Kale and Kumar, "On the convergence of Adam and beyond", ICLR 2018, arXiv:1904.09237, algorithm 2.

    Examples
    --------
    >>> import numpy as np, schuss
    >>> params = {"W": np.array([1.0])}
    >>> schuss.AMSGrad(lr=0.1, beta1=0.5, beta2=0.75).update(params, {"W": np.array([3.0])})
    >>> params["W"].round(4)  # m = 1.5, v = h = 2.25
    array([0.9])
    """

    slots: ClassVar[tuple[str, ...]] = ("m", "v", "h")
    _whole_state: ClassVar[str | None] = "h is a maximum, and of numbers rounded at random one that is too large"
    _ranges: ClassVar = {"beta1": SHARE, "beta2": SHARE, "eps": POSITIVE}

    beta1: float
    beta2: float
    eps: float
    bias_correction: bool

    def __init__(
        self,
        lr: LearningRate = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        *,
        eps: float = 1e-8,
        bias_correction: bool = False,
        **options: Unpack[L2Options],
    ) -> None:
        super().__init__(lr, **options)
        self.beta1 = beta1
        self.beta2 = beta2
        self.eps = eps
        self.bias_correction = bias_correction

    def _checked(self, name: str, value: Any) -> Any:
        return flag(name, value) if name == "bias_correction" else super()._checked(name, value)

    def _scalars(self, lr: float, t: int) -> Scalars:
        if not self.bias_correction:
            return lr, 1 - self.beta1, 1 - self.beta2, self.eps
        correction = sqrt(1 - self.beta2**t)
        lr_t = lr * correction / (1 - self.beta1**t)
        return lr_t, 1 - self.beta1, 1 - self.beta2, self.eps * correction


class Adamax(Optimizer):
    """Adam by the infinity norm: it divides by the largest recent gradient.

    ::

        m += (1 - beta1) (g - m)        u = max(beta2 u, |g| + eps)
        p -= lr_t m / u,    lr_t = lr / (1 - beta1^t)

    Parameters
    ----------
    lr : float or callable, default 0.002
        Learning rate, or a function of the step.
    beta1, beta2 : float in [0, 1), default 0.9 and 0.999
        What a step leaves of the average of the gradient and of the largest one.
    eps : float, default 1e-8
        In units of the gradient, so that one of zero divides by no zero. The paper has none.
    weight_decay, maximize, clip_value, clip_norm, ema, on_nonfinite, flush_subnormals, sparse, groups : optional
        What all rules take: weight decay, clipping, averages, groups and more; see :class:`schuss.Optimizer`.
    state_dtype, master : optional
        How state, and parameters of 16 bits, are kept; see :class:`schuss.Optimizer`.

    Raises
    ------
    ValueError
        If an argument is outside of its range; the message has the value.

    Notes
    -----
    State: ``m`` and ``u``. The same as ``torch.optim.Adamax`` and ``optax.adamax``. Keras adds epsilon to u.

    References
    ----------
    Kingma and Ba, "Adam", ICLR 2015, arXiv:1412.6980, section 7.1.

    Examples
    --------
    >>> import numpy as np, schuss
    >>> params = {"W": np.array([1.0])}
    >>> schuss.Adamax(lr=0.1).update(params, {"W": np.array([3.0])})
    >>> params["W"].round(4)
    array([0.9])
    """

    slots: ClassVar[tuple[str, ...]] = ("m", "u")
    _never_negative: ClassVar[tuple[str, ...]] = ("u",)
    _ranges: ClassVar = {"beta1": SHARE, "beta2": SHARE, "eps": POSITIVE}

    beta1: float
    beta2: float
    eps: float

    def __init__(
        self,
        lr: LearningRate = 0.002,
        beta1: float = 0.9,
        beta2: float = 0.999,
        *,
        eps: float = 1e-8,
        **options: Unpack[L2Options],
    ) -> None:
        super().__init__(lr, **options)
        self.beta1 = beta1
        self.beta2 = beta2
        self.eps = eps

    def _scalars(self, lr: float, t: int) -> Scalars:
        return lr / (1 - self.beta1**t), 1 - self.beta1, self.beta2, self.eps


class NAdam(Optimizer):
    """Adam with Nesterov's momentum, whose share rises over the steps.

    ::

        m += (1 - beta1) (g - m)        v += (1 - beta2) (g g - v)
        p -= (lr_g g + lr_m m) / (sqrt(v) + eps_hat)
        lr_g = lr sqrt(1 - beta2^t) (1 - mu_t) / (1 - mu_1 mu_2 ... mu_t)
        lr_m = lr sqrt(1 - beta2^t) mu_(t+1) / (1 - mu_1 mu_2 ... mu_(t+1))
        mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2),    eps_hat = eps sqrt(1 - beta2^t)

    Parameters
    ----------
    lr : float or callable, default 0.002
        Learning rate, or a function of the step.
    beta1, beta2 : float in [0, 1), default 0.9 and 0.999
        What a step leaves of the averages of the gradient and of its square.
    eps : float, default 1e-8
        Added to the root after the bias correction.
    momentum_decay : float, default 0.004
        How fast ``mu_t`` rises from half of ``beta1`` to all of it.
    weight_decay, maximize, clip_value, clip_norm, ema, on_nonfinite, flush_subnormals, sparse, groups : optional
        What all rules take: weight decay, clipping, averages, groups and more; see :class:`schuss.Optimizer`.
    state_dtype, master : optional
        How state, and parameters of 16 bits, are kept; see :class:`schuss.Optimizer`.

    Raises
    ------
    ValueError
        If an argument is outside of its range; the message has the value.

    Notes
    -----
    State: ``m`` and ``v``. The same as ``torch.optim.NAdam``. Optax's nadam has a constant ``mu``.

    References
    ----------
    Dozat, "Incorporating Nesterov momentum into Adam", ICLR workshop, 2016.

    Examples
    --------
    >>> import numpy as np, schuss
    >>> params = {"W": np.array([1.0])}
    >>> schuss.NAdam(lr=0.1).update(params, {"W": np.array([3.0])})
    >>> params["W"].round(4)
    array([0.8944])
    """

    slots: ClassVar[tuple[str, ...]] = ("m", "v")
    _never_negative: ClassVar[tuple[str, ...]] = ("v",)
    _ranges: ClassVar = {"beta1": SHARE, "beta2": SHARE, "eps": POSITIVE, "momentum_decay": POSITIVE}

    beta1: float
    beta2: float
    eps: float
    momentum_decay: float
    _remembering: ClassVar[tuple[str, ...]] = ("_product",)
    # The last product of mu_1 ... mu_t that was computed, from the first factor on, and for what: (beta1,
    # momentum_decay, t, product). It hangs on nothing else, and is kept to be gone on from.
    _product: tuple[float, float, int, float] = (0.0, 0.0, 0, 1.0)

    def __init__(
        self,
        lr: LearningRate = 0.002,
        beta1: float = 0.9,
        beta2: float = 0.999,
        *,
        eps: float = 1e-8,
        momentum_decay: float = 0.004,
        **options: Unpack[L2Options],
    ) -> None:
        super().__init__(lr, **options)
        self.beta1 = beta1
        self.beta2 = beta2
        self.eps = eps
        self.momentum_decay = momentum_decay

    def _mu(self, t: int) -> float:
        return self.beta1 * (1 - 0.5 * float(0.96 ** (t * self.momentum_decay)))

    def _product_at(self, t: int) -> float:
        beta1, decay, done, product = self._product
        if (beta1, decay) != (self.beta1, self.momentum_decay) or done > t:
            done, product = 0, 1.0
        while done < t and product > 0:  # after a few thousand factors it is zero, and stays it
            done += 1
            product *= self._mu(done)
        object.__setattr__(self, "_product", (self.beta1, self.momentum_decay, t, product))
        return product

    def _memory(self, t: int) -> dict[str, Any]:
        return {"product": self._product_at(t)}

    def _remember(self, memory: Mapping[str, Any], t: int) -> None:
        if set(memory) != {"product"}:
            raise ValueError(f"NAdam remembers a product, got {shown(memory)}")
        product = number("the product that NAdam remembers", memory["product"], 0, 1, False)
        object.__setattr__(self, "_product", (self.beta1, self.momentum_decay, t, product))

    def _scalars(self, lr: float, t: int) -> Scalars:
        product, mu, mu_next = self._product_at(t), self._mu(t), self._mu(t + 1)
        correction = sqrt(1 - self.beta2**t)
        lr_g = lr * correction * (1 - mu) / (1 - product)
        lr_m = lr * correction * mu_next / (1 - product * mu_next)
        return lr_g, lr_m, 1 - self.beta1, 1 - self.beta2, self.eps * correction


class RAdam(Optimizer):
    """Adam that steps by momentum alone until the average of squares is known well enough.

    ::

        m += (1 - beta1) (g - m)        v += (1 - beta2) (g g - v)
        p -= lr_t r sqrt(1 - beta2^t) m / (sqrt(v) + eps)    if rho > 5
        p -= lr_t m                                          otherwise
        lr_t = lr / (1 - beta1^t)
        end = 2 / (1 - beta2) - 1,    rho = end - 2 t beta2^t / (1 - beta2^t)
        r = sqrt((rho - 4) (rho - 2) end / ((end - 4) (end - 2) rho))

    ``rho`` is how many gradients the average of squares is worth, ``end`` what that rises to.

    Parameters
    ----------
    lr : float or callable, default 0.001
        Learning rate, or a function of the step.
    beta1, beta2 : float in [0, 1), default 0.9 and 0.999
        What a step leaves of the averages of the gradient and of its square.
    eps : float, default 1e-8
        Added to ``sqrt(v)`` before the bias correction, as in PyTorch.
    weight_decay, maximize, clip_value, clip_norm, ema, on_nonfinite, flush_subnormals, sparse, groups : optional
        What all rules take: weight decay, clipping, averages, groups and more; see :class:`schuss.Optimizer`.
    state_dtype, master : optional
        How state, and parameters of 16 bits, are kept; see :class:`schuss.Optimizer`.

    Raises
    ------
    ValueError
        If an argument is outside of its range; the message has the value.

    Notes
    -----
    State: ``m`` and ``v``. The same as ``torch.optim.RAdam``. ``optax.radam`` adds epsilon after the correction,
    and includes ``rho = 5``.

    References
    ----------
    Liu et al., "On the variance of the adaptive learning rate and beyond", ICLR 2020, arXiv:1908.03265.

    Examples
    --------
    >>> import numpy as np, schuss
    >>> params = {"W": np.array([1.0])}
    >>> schuss.RAdam(lr=0.1).update(params, {"W": np.array([3.0])})
    >>> params["W"].round(4)  # the first steps are those of momentum
    array([0.7])
    """

    slots: ClassVar[tuple[str, ...]] = ("m", "v")
    _never_negative: ClassVar[tuple[str, ...]] = ("v",)
    _ranges: ClassVar = {"beta1": SHARE, "beta2": SHARE, "eps": POSITIVE}

    beta1: float
    beta2: float
    eps: float

    def __init__(
        self,
        lr: LearningRate = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        *,
        eps: float = 1e-8,
        **options: Unpack[L2Options],
    ) -> None:
        super().__init__(lr, **options)
        self.beta1 = beta1
        self.beta2 = beta2
        self.eps = eps

    def _scalars(self, lr: float, t: int) -> Scalars:
        end = 2 / (1 - self.beta2) - 1
        rho = end - 2 * t * self.beta2**t / (1 - self.beta2**t)
        lr_t = lr / (1 - self.beta1**t)
        if rho <= 5:
            return lr_t, 1 - self.beta1, 1 - self.beta2, self.eps, 0.0
        r = sqrt((rho - 4) * (rho - 2) * end / ((end - 4) * (end - 2) * rho))
        return lr_t * r * sqrt(1 - self.beta2**t), 1 - self.beta1, 1 - self.beta2, self.eps, 1.0


class AdaDelta(Optimizer):
    """Steps in the parameter's own unit: the average size of past steps over that of the gradients.

    ::

        h = rho h + (1 - rho) g g        u = (sqrt(d + eps) / sqrt(h + eps)) g
        d = rho d + (1 - rho) u u        p -= lr u

    Parameters
    ----------
    lr : float or callable, default 1.0
        A factor; the paper has none.
    decay_rate : float in [0, 1), default 0.9
        ``rho``: what a step leaves of both averages.
    eps : float, default 1e-6
        In units of a squared gradient and of a squared step; it also starts the motion.
    weight_decay, maximize, clip_value, clip_norm, ema, on_nonfinite, flush_subnormals, sparse, groups : optional
        What all rules take: weight decay, clipping, averages, groups and more; see :class:`schuss.Optimizer`.
    state_dtype, master : optional
        How state, and parameters of 16 bits, are kept; see :class:`schuss.Optimizer`.

    Raises
    ------
    ValueError
        If an argument is outside of its range; the message has the value.

    Notes
    -----
    State: ``h`` and ``d``. The same as ``torch.optim.Adadelta`` and ``optax.adadelta``; Keras has ``lr=0.001`` and
    0.95, "Dive into Deep Learning" 0.9 and 1e-5.

    References
    ----------
    Zeiler, "ADADELTA: an adaptive learning rate method", 2012, arXiv:1212.5701.

    Examples
    --------
    >>> import numpy as np, schuss
    >>> params = {"W": np.array([1.0])}
    >>> schuss.AdaDelta(decay_rate=0.75, eps=1.0).update(params, {"W": np.array([2.0])})
    >>> params["W"].round(4)  # u = 1 / sqrt(2) * 2
    array([-0.4142])
    """

    slots: ClassVar[tuple[str, ...]] = ("h", "d")
    _never_negative: ClassVar[tuple[str, ...]] = ("h", "d")
    _ranges: ClassVar = {"decay_rate": SHARE, "eps": POSITIVE}

    decay_rate: float
    eps: float

    def __init__(
        self,
        lr: LearningRate = 1.0,
        decay_rate: float = 0.9,
        *,
        eps: float = 1e-6,
        **options: Unpack[L2Options],
    ) -> None:
        super().__init__(lr, **options)
        self.decay_rate = decay_rate
        self.eps = eps

    def _scalars(self, lr: float, t: int) -> Scalars:
        return lr, self.decay_rate, 1 - self.decay_rate, self.eps


class Lion(Optimizer):
    """Every element moves by the same amount; only the sign is adapted.

    ::

        p = (1 - lr weight_decay) p - lr sign(beta1 m + (1 - beta1) g)
        m = beta2 m + (1 - beta2) g

    Parameters
    ----------
    lr : float or callable, default 0.0001
        Learning rate, the change of an element in a step: a third to a tenth of what suits Adam.
    beta1, beta2 : float in [0, 1), default 0.9 and 0.99
        The share of the average in the step's sign, and what a step leaves of the average.
    weight_decay : float, default 0
        Decoupled from the gradient; three to ten times what suits AdamW.
    maximize, clip_value, clip_norm, ema, on_nonfinite, flush_subnormals, sparse, groups : optional
        What all rules take: clipping, averages, groups and more; see :class:`schuss.Optimizer`.
    state_dtype, master : optional
        How state, and parameters of 16 bits, are kept; see :class:`schuss.Optimizer`.

    Raises
    ------
    ValueError
        If an argument is outside of its range; the message has the value.

    Notes
    -----
    State: ``m``, half of Adam's. The same as ``optax.lion`` (``weight_decay=1e-3`` there); PyTorch has none.

    References
    ----------
    Chen et al., "Symbolic discovery of optimization algorithms", 2023, arXiv:2302.06675.

    Examples
    --------
    >>> import numpy as np, schuss
    >>> params = {"W": np.array([1.0, 1.0, 1.0])}
    >>> schuss.Lion(lr=0.1).update(params, {"W": np.array([3.0, -0.001, 0.0])})
    >>> params["W"]
    array([0.9, 1.1, 1. ])
    """

    slots: ClassVar[tuple[str, ...]] = ("m",)
    _ranges: ClassVar = {"beta1": SHARE, "beta2": SHARE}
    _decoupled: ClassVar[bool] = True

    beta1: float
    beta2: float

    def __init__(
        self,
        lr: LearningRate = 0.0001,
        beta1: float = 0.9,
        beta2: float = 0.99,
        *,
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(lr, weight_decay=weight_decay, **options)
        self.beta1 = beta1
        self.beta2 = beta2

    def _scalars(self, lr: float, t: int) -> Scalars:
        return lr, self.beta1, 1 - self.beta1, self.beta2, 1 - self.beta2, 1 - lr * self.weight_decay


class LAMB(Optimizer):
    """Adam whose step is as long as the parameter: large batches, layer by layer.

    ::

        m += (1 - beta1) (g - m)        v += (1 - beta2) (g g - v)
        u = c m / (sqrt(v) + eps_hat) + weight_decay p,    p -= lr (|p| / |u|) u
        c = sqrt(1 - beta2^t) / (1 - beta1^t),    eps_hat = eps sqrt(1 - beta2^t)

    ``|p|`` and ``|u|`` are norms over one array.

    Parameters
    ----------
    lr : float or callable, default 0.001
        Learning rate: the length of a step as a share of the parameter's.
    beta1, beta2 : float in [0, 1), default 0.9 and 0.999
        What a step leaves of the averages of the gradient and of its square.
    eps : float, default 1e-6
        Added to the root after the bias correction.
    weight_decay : float, default 0
        A part of the direction, as in the paper.
    maximize, clip_value, clip_norm, ema, on_nonfinite, flush_subnormals, sparse, groups : optional
        What all rules take: clipping, averages, groups and more; see :class:`schuss.Optimizer`.
    state_dtype, master : optional
        How state, and parameters of 16 bits, are kept; see :class:`schuss.Optimizer`.

    Raises
    ------
    ValueError
        If an argument is outside of its range; the message has the value.

    Notes
    -----
    State: ``m`` and ``v``. Where a norm is zero the ratio is 1. The same as ``optax.lamb``; PyTorch has none.
    A step reads its arrays twice, as the norm of the direction must be known first.

    References
    ----------
    You et al., "Large batch optimization for deep learning: training BERT in 76 minutes", ICLR 2020,
    arXiv:1904.00962.

    Examples
    --------
    >>> import numpy as np, schuss
    >>> params = {"W": np.array([3.0, 4.0])}
    >>> schuss.LAMB(lr=0.1, eps=0.0).update(params, {"W": np.array([7.0, -7.0])})
    >>> params["W"].round(4)  # a step of length 0.5 along (1, -1)
    array([2.6464, 4.3536])
    """

    slots: ClassVar[tuple[str, ...]] = ("m", "v")
    _whole_state: ClassVar[str | None] = "its step goes over m and v twice, which would be rounded in between"
    _ranges: ClassVar = {"beta1": SHARE, "beta2": SHARE, "eps": POSITIVE}
    _decoupled: ClassVar[bool] = True
    _looks_at: ClassVar[LooksAt] = "norms"

    beta1: float
    beta2: float
    eps: float

    def __init__(
        self,
        lr: LearningRate = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        *,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(lr, weight_decay=weight_decay, **options)
        self.beta1 = beta1
        self.beta2 = beta2
        self.eps = eps

    def _scalars(self, lr: float, t: int) -> Scalars:
        root = sqrt(1 - self.beta2**t)
        correction = root / (1 - self.beta1**t)
        return lr, 1 - self.beta1, 1 - self.beta2, correction, self.eps * root, self.weight_decay


class LARS(Optimizer):
    """Momentum whose step is a fixed share of the parameter's length, layer by layer.

    ::

        v = mu v - lr ratio (g + weight_decay p)        p += v
        ratio = trust |p| / (|g| + weight_decay |p|)

    ``|p|`` and ``|g|`` are norms over one array.

    Parameters
    ----------
    lr : float or callable, default 1.0
        Learning rate.
    momentum : float in [0, 1), default 0.9
        ``mu``, the share of the velocity that is left after a step.
    trust : float, default 0.001
        The trust coefficient, ``eta`` in the paper.
    weight_decay : float, default 0
        Added to the gradient within the rule, and counted in the ratio.
    maximize, clip_value, clip_norm, ema, on_nonfinite, flush_subnormals, sparse, groups : optional
        What all rules take: clipping, averages, groups and more; see :class:`schuss.Optimizer`.
    state_dtype, master : optional
        How state, and parameters of 16 bits, are kept; see :class:`schuss.Optimizer`.

    Raises
    ------
    ValueError
        If an argument is outside of its range; the message has the value.

    Notes
    -----
    State: ``v``, which holds the learning rate. Where a norm is zero the ratio is 1. ``optax.lars`` divides by
    ``|g + weight_decay p|``, which is the same without weight decay; PyTorch has none.

    References
    ----------
    You, Gitman and Ginsburg, "Large batch training of convolutional networks", 2017, arXiv:1708.03888.

    Examples
    --------
    >>> import numpy as np, schuss
    >>> params = {"W": np.array([3.0, 4.0])}
    >>> schuss.LARS(lr=1.0, trust=0.1).update(params, {"W": np.array([7.0, 0.0])})
    >>> params["W"]
    array([2.5, 4. ])
    """

    slots: ClassVar[tuple[str, ...]] = ("v",)
    _ranges: ClassVar = {"momentum": SHARE, "trust": POSITIVE}
    _decoupled: ClassVar[bool] = True
    _looks_at: ClassVar[LooksAt] = "norms"

    momentum: float
    trust: float

    def __init__(
        self,
        lr: LearningRate = 1.0,
        momentum: float = 0.9,
        *,
        trust: float = 0.001,
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(lr, weight_decay=weight_decay, **options)
        self.momentum = momentum
        self.trust = trust

    def _scalars(self, lr: float, t: int) -> Scalars:
        return lr, self.momentum, self.weight_decay, self.trust


class Adan(Optimizer):
    """Adam that also averages how the gradient changes, as Nesterov's momentum would see it.

    ::

        d = g - b                       m += (1 - beta1) (g - m)
        v += (1 - beta2) (d - v)        n += (1 - beta3) ((g + beta2 d)^2 - n)
        p = (p - (lr_m m + lr_v v) / (sqrt(n) + eps_hat)) / (1 + lr weight_decay),    b = g
        lr_m = lr c / (1 - beta1^t),    lr_v = lr c beta2 / (1 - beta2^t)
        c = sqrt(1 - beta3^t),    eps_hat = eps c

    ``b`` is the gradient of the step before; at the optimizer's first step ``d`` is 0.

    Parameters
    ----------
    lr : float or callable, default 0.001
        Learning rate, or a function of the step.
    beta1, beta2, beta3 : float in [0, 1), default 0.98, 0.92 and 0.99
        What a step leaves of the averages; the paper's are ours from 1.
    eps : float, default 1e-8
        Added to the root after the bias correction.
    weight_decay : float, default 0
        By a proximal step, as in the paper.
    maximize, clip_value, clip_norm, ema, on_nonfinite, flush_subnormals, sparse, groups : optional
        What all rules take: clipping, averages, groups and more; see :class:`schuss.Optimizer`.
    state_dtype, master : optional
        How state, and parameters of 16 bits, are kept; see :class:`schuss.Optimizer`.

    Raises
    ------
    ValueError
        If an argument is outside of its range; the message has the value.

    Notes
    -----
    State: ``m``, ``v``, ``n`` and ``b``, the gradient before. ``optax.adan`` weights ``d`` and ``v`` with
    ``1 - beta2``, where the paper's formula, in its betas, and its authors' code have what is our ``beta2``. PyTorch
    has none.

    References
    ----------
    Xie et al., "Adan: adaptive Nesterov momentum algorithm", 2022, arXiv:2208.06677.

    Examples
    --------
    >>> import numpy as np, schuss
    >>> params = {"W": np.array([1.0])}
    >>> schuss.Adan(lr=0.1).update(params, {"W": np.array([3.0])})
    >>> params["W"].round(4)
    array([0.9])
    """

    slots: ClassVar[tuple[str, ...]] = ("m", "v", "n", "b")
    _never_negative: ClassVar[tuple[str, ...]] = ("n",)
    _ranges: ClassVar = {"beta1": SHARE, "beta2": SHARE, "beta3": SHARE, "eps": POSITIVE}
    _decoupled: ClassVar[bool] = True

    beta1: float
    beta2: float
    beta3: float
    eps: float

    def __init__(
        self,
        lr: LearningRate = 0.001,
        beta1: float = 0.98,
        beta2: float = 0.92,
        beta3: float = 0.99,
        *,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(lr, weight_decay=weight_decay, **options)
        self.beta1 = beta1
        self.beta2 = beta2
        self.beta3 = beta3
        self.eps = eps

    def _scalars(self, lr: float, t: int) -> Scalars:
        root = sqrt(1 - self.beta3**t)
        lr_m = lr * root / (1 - self.beta1**t)
        lr_v = lr * root * self.beta2 / (1 - self.beta2**t)
        shrink = 1 / (1 + lr * self.weight_decay)
        averages = (1 - self.beta1, self.beta2, 1 - self.beta2, 1 - self.beta3)
        return lr_m, lr_v, *averages, self.eps * root, shrink, float(t == 1)


_FASTEST = 1e100  # whose squares can still be summed


class Weights(NamedTuple):
    """What the average of a schedule-free rule goes by: the sum of the weights of t steps, and their largest rate.

    Parameters
    ----------
    t : int, default 0
        How many steps have been made.
    total : float, default 0
        The sum of their weights: of each, the square of the largest rate until then.
    largest : float, default 0
        The largest of their rates.
    """

    t: int = 0
    total: float = 0.0
    largest: float = 0.0

    def next(self, rate: float) -> tuple[Weights, float]:
        """The weights after a step of this rate, and its share of the average.

        Parameters
        ----------
        rate : float
            The learning rate of the step, warmed up.

        Returns
        -------
        weights : Weights
            After the step.
        share : float
            The weight of the step, the square of the largest rate so far, over the sum of all; 1 if that is zero.

        Raises
        ------
        ValueError
            If the rate is so large that squares could not be summed, above 1e100.
        """
        if rate > _FASTEST:
            raise ValueError(f"the rate of a schedule-free rule must be at most {_FASTEST:g}, got {rate!r}")
        largest = max(self.largest, rate)
        total = self.total + largest**2
        return Weights(self.t + 1, total, largest), largest**2 / total if total > 0 else 1.0


class _ScheduleFree(Optimizer):
    """What the schedule-free rules share: the average, and the weight of a step in it."""

    copies: ClassVar[tuple[str, ...]] = ("z", "x")
    _alone: ClassVar[str | None] = "it is evaluated at its averages, which no other rule has"
    _decoupled: ClassVar[bool] = True
    _remembering: ClassVar[tuple[str, ...]] = ("_weights",)
    warmup: int
    # Before and after the last step that was asked for. Which of them is the optimizer's is told by its t: a step that
    # was refused has not been made.
    _weights: tuple[Weights, Weights] = (Weights(), Weights())

    def _checked(self, name: str, value: Any) -> Any:
        return count(name, value, 0) if name == "warmup" else super()._checked(name, value)

    @property
    def averaged_params(self) -> Mapping[Any, NDArray[Any]]:
        """The averages x by name, which are to be evaluated and kept; the live arrays."""
        return {name: slots["x"] for name, slots in self.state.items()}

    def _weights_at(self, t: int) -> Weights:
        for weights in self._weights:
            if weights.t == t:
                return weights
        raise RuntimeError(f"the weights of step {t} are not known, those of step {self._weights[0].t} are")

    def _memory(self, t: int) -> dict[str, Any]:
        return {"weights": list(self._weights_at(t))}

    def _remember(self, memory: Mapping[str, Any], t: int) -> None:
        if set(memory) != {"weights"} or not isinstance(memory["weights"], Sequence) or len(memory["weights"]) != 3:
            raise ValueError(f"a schedule-free rule remembers the weights of its steps, got {shown(memory)}")
        at, *sums = memory["weights"]
        total, largest = (
            number(f"the {what} of a schedule-free rule", each, *POSITIVE)
            for what, each in zip(("sum of weights", "largest rate"), sums, strict=True)
        )
        if count("the step of a schedule-free rule's weights", at, 0) != t:
            raise ValueError(f"the weights of a schedule-free rule are those of step {at}, and {t} steps were made")
        weights = Weights(at, total, largest)
        object.__setattr__(self, "_weights", (weights, weights))

    def _warmed_up(self, lr: float, t: int) -> float:
        return lr * (min(1.0, t / self.warmup) if self.warmup else 1.0)

    def _scalars(self, lr: float, t: int) -> Scalars:
        before, lr = self._weights_at(t - 1), self._warmed_up(lr, t)
        after, share = before.next(lr)
        object.__setattr__(self, "_weights", (before, after))
        return self._scalars_of(lr, share, t)

    def _scalars_of(self, lr: float, share: float, t: int) -> Scalars:
        """The scalars of a step whose rate and share of the average are known."""
        raise NotImplementedError


class ScheduleFreeSGD(_ScheduleFree):
    """Gradient descent that needs no schedule: it is evaluated at the average of its iterates.

    ::

        z -= lr (g + weight_decay p)        x += c (z - x)        p = z + beta (x - z)
        c = w_t / (w_1 + ... + w_t),    w_t = (the largest lr of steps 1 to t)^2

    ``lr`` is here the rate of the step after the warm-up's factor, ``min(1, t / warmup)``. While all have been 0,
    ``c`` is 1.

    Parameters
    ----------
    lr : float or callable, default 1.0
        Learning rate: larger than without averaging. It needs no decay.
    momentum : float in [0, 1), default 0.9
        ``beta``, how near to the average the gradient is taken.
    warmup : int, default 0
        The learning rate rises along a straight line for so many steps.
    weight_decay : float, default 0
        Added to the gradient within the rule, at the point where the gradient is taken.
    maximize, clip_value, clip_norm, ema, on_nonfinite, flush_subnormals, sparse, groups : optional
        What all rules take: clipping, averages, groups and more; see :class:`schuss.Optimizer`.
    state_dtype, master : optional
        How state, and parameters of 16 bits, are kept; see :class:`schuss.Optimizer`.

    Raises
    ------
    ValueError
        If an argument is outside of its range; the message has the value.

    Notes
    -----
    State: ``z``, the iterates, and ``x``, their average, both from the parameter as it is at first. The parameters in
    ``params`` are the points at which gradients are to be computed. **Evaluate and save the averages**,
    ``opt.averaged_params``. ``optax.contrib.schedule_free_sgd`` keeps no x and computes it when asked to.

    References
    ----------
    Defazio et al., "The road less scheduled", NeurIPS 2024, arXiv:2405.15682.

    Examples
    --------
    >>> import numpy as np, schuss
    >>> params = {"W": np.array([4.0])}
    >>> opt = schuss.ScheduleFreeSGD(lr=0.5)
    >>> for _ in range(20):
    ...     opt.update(params, {"W": params["W"].copy()})  # the gradient of W * W / 2
    >>> bool(abs(opt.averaged_params["W"][0]) < 0.2)
    True
    """

    slots: ClassVar[tuple[str, ...]] = ("z", "x")
    _whole_state: ClassVar[str | None] = "z and x are parameters, which would lose what a step adds to them"
    _ranges: ClassVar = {"momentum": SHARE}

    momentum: float

    def __init__(
        self,
        lr: LearningRate = 1.0,
        momentum: float = 0.9,
        *,
        warmup: int = 0,
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(lr, weight_decay=weight_decay, **options)
        self.momentum = momentum
        self.warmup = warmup

    def _scalars_of(self, lr: float, share: float, t: int) -> Scalars:
        return lr, self.momentum, share, self.weight_decay


class ScheduleFreeAdamW(_ScheduleFree):
    """AdamW that needs no schedule: it is evaluated at the average of its iterates.

    ::

        v += (1 - beta2) (g g - v)
        z -= lr_t g / (sqrt(v) + eps_hat) + lr weight_decay p
        x += c (z - x)                  p = z + beta1 (x - z)
        lr_t = lr sqrt(1 - beta2^t),    eps_hat = eps sqrt(1 - beta2^t)
        c = w_t / (w_1 + ... + w_t),    w_t = (the largest lr of steps 1 to t)^2

    ``lr`` is here the rate of the step after the warm-up's factor, ``min(1, t / warmup)``. While all have been 0,
    ``c`` is 1.

    Parameters
    ----------
    lr : float or callable, default 0.0025
        Learning rate: one to ten times what suits AdamW with a schedule. It needs no decay.
    beta1 : float in [0, 1), default 0.9
        How near to the average the gradient is taken.
    beta2 : float in [0, 1), default 0.999
        What a step leaves of the average of the squared gradient.
    eps : float, default 1e-8
        Added to the root after the bias correction.
    warmup : int, default 0
        The learning rate rises along a straight line for so many steps.
    weight_decay : float, default 0
        Decoupled from the gradient.
    maximize, clip_value, clip_norm, ema, on_nonfinite, flush_subnormals, sparse, groups : optional
        What all rules take: clipping, averages, groups and more; see :class:`schuss.Optimizer`.
    state_dtype, master : optional
        How state, and parameters of 16 bits, are kept; see :class:`schuss.Optimizer`.

    Raises
    ------
    ValueError
        If an argument is outside of its range; the message has the value.

    Notes
    -----
    State: ``z``, the iterates, ``x``, their average, and ``v``. The parameters in ``params`` are the points at which
    gradients are to be computed. **Evaluate and save the averages**, ``opt.averaged_params``.

    References
    ----------
    Defazio et al., "The road less scheduled", NeurIPS 2024, arXiv:2405.15682, algorithm 1.

    Examples
    --------
    >>> import numpy as np, schuss
    >>> params = {"W": np.array([1.0])}
    >>> opt = schuss.ScheduleFreeAdamW(lr=0.1)
    >>> opt.update(params, {"W": np.array([3.0])})
    >>> opt.averaged_params["W"].round(4)
    array([0.9])
    """

    slots: ClassVar[tuple[str, ...]] = ("z", "x", "v")
    _whole_state: ClassVar[str | None] = "z and x are parameters, which would lose what a step adds to them"
    _ranges: ClassVar = {"beta1": SHARE, "beta2": SHARE, "eps": POSITIVE}

    beta1: float
    beta2: float
    eps: float

    def __init__(
        self,
        lr: LearningRate = 0.0025,
        beta1: float = 0.9,
        beta2: float = 0.999,
        *,
        eps: float = 1e-8,
        warmup: int = 0,
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(lr, weight_decay=weight_decay, **options)
        self.beta1 = beta1
        self.beta2 = beta2
        self.eps = eps
        self.warmup = warmup

    def _scalars_of(self, lr: float, share: float, t: int) -> Scalars:
        correction = sqrt(1 - self.beta2**t)
        lr_decay = lr * self.weight_decay
        return lr * correction, lr_decay, self.beta1, 1 - self.beta2, self.eps * correction, share


class Muon(Optimizer):
    """Momentum whose step is made orthogonal: every direction of a matrix moves by the same amount.

    ::

        m += (1 - mu) (g - m)        u = orthogonal(g + mu (m - g))
        p = (1 - lr weight_decay) p - lr sqrt(max(1, rows / columns)) u

    Parameters
    ----------
    lr : float or callable, default 0.001
        Learning rate, or a function of the step.
    momentum : float in [0, 1), default 0.95
        ``mu``: what a step leaves of the average of the gradient.
    nesterov : bool, default True
        Look ahead. With False, ``u = orthogonal(m)``.
    steps : int, default 5
        Newton-Schulz iterations; the singular values end between about 0.7 and 1.2, not at 1.
    weight_decay : float, default 0.1
        Decoupled from the gradient.
    maximize, clip_value, clip_norm, ema, on_nonfinite, flush_subnormals, sparse, groups : optional
        What all rules take: clipping, averages, groups and more; see :class:`schuss.Optimizer`.
    state_dtype, master : optional
        How state, and parameters of 16 bits, are kept; see :class:`schuss.Optimizer`.

    Raises
    ------
    ValueError
        If an argument is outside of its range (the message has the value), or if a parameter is no matrix.

    Notes
    -----
    For matrices alone: hidden layers' weights. Give biases, embeddings and the last layer another rule, by
    ``groups``; each with a rate or schedule of its own, as those of different rules are of different size.
    State: ``m``. The same as ``torch.optim.Muon``, which computes the iterations in bfloat16; here they are in the
    parameter's own dtype, on BLAS.

    References
    ----------
    Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.

    Examples
    --------
    >>> import numpy as np, schuss
    >>> params = {"W": np.zeros((2, 2))}
    >>> opt = schuss.Muon(lr=1.0)
    >>> opt.update(params, {"W": np.array([[0.0, 5.0], [-0.1, 0.0]])})
    >>> params["W"].round(1)  # as much along the small gradient as along the large one
    array([[ 0. , -0.7],
           [ 0.7,  0. ]])
    >>> params, grads = {"W": np.zeros((2, 2)), "b": np.zeros(2)}, {"W": np.eye(2), "b": np.ones(2)}
    >>> schuss.Muon(lr=1.0).update(params, grads)
    Traceback (most recent call last):
    ValueError: params['b']: Muon is for matrices, got shape (2,); give it another rule: groups={'b': {"rule": "AdamW"}}
    >>> adamw = {"rule": "AdamW", "lr": schuss.schedules.Cosine(0.1, steps=400)}
    >>> opt = schuss.Muon(schuss.schedules.Cosine(1.0, steps=400), groups={"b": adamw})  # and "embedding", "head*"
    >>> opt.update(params, grads)
    >>> params["b"].round(3)
    array([-0.1, -0.1])
    """

    slots: ClassVar[tuple[str, ...]] = ("m",)
    _ranges: ClassVar = {"momentum": SHARE}
    _decoupled: ClassVar[bool] = True
    _looks_at: ClassVar[LooksAt] = "whole"

    # Of the iteration; what a matrix's norm counts at least.
    _coefficients: tuple[float, float, float] = NEWTON_SCHULZ
    _least: float = 1e-7

    momentum: float
    nesterov: bool
    steps: int

    def __init__(
        self,
        lr: LearningRate = 0.001,
        momentum: float = 0.95,
        *,
        nesterov: bool = True,
        steps: int = 5,
        weight_decay: float = 0.1,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(lr, weight_decay=weight_decay, **options)
        self.momentum = momentum
        self.nesterov = nesterov
        self.steps = steps

    def _checked(self, name: str, value: Any) -> Any:
        if name == "nesterov":
            return flag(name, value)
        return count(name, value, 1) if name == "steps" else super()._checked(name, value)

    def _new_state(self, name: Any, p: Any) -> dict[str, NDArray[Any]]:
        if np.ndim(p) != 2:
            what, pattern = ("p", "...") if name is None else (f"params[{name!r}]", repr(escape(str(name))))
            raise ValueError(
                f"{what}: Muon is for matrices, got shape {np.shape(p)}; give it another rule: "
                f'groups={{{pattern}: {{"rule": "AdamW"}}}}'
            )
        return super()._new_state(name, p)

    def _scalars(self, lr: float, t: int) -> Scalars:
        look = self.momentum if self.nesterov else 1.0
        return lr, 1 - self.momentum, look, 1 - lr * self.weight_decay, float(self.steps)

    def _ratios(self, scalars: Scalars, workspaces: list[NDArray[Any]]) -> list[float]:
        orthogonalize(workspaces, int(scalars[-1]), self._coefficients, self._least)
        return [sqrt(max(1.0, u.shape[0] / u.shape[1])) if u.size else 1.0 for u in workspaces]


class Adafactor(Optimizer):
    """Adam's second moment in the memory of a row and a column, with steps relative to the parameter.

    ::

        R += s (row means of g g - R)        C += s (column means of g g - C),    s = t^beta2_decay
        V = R C / max(mean of R, eps)        u = g / max(sqrt(V), eps)
        p = (1 - lr weight_decay) p - max(eps2, rms(p)) min(lr, 1 / sqrt(t)) u / max(1, rms(u) / d)

    ``rms`` is the root of the mean square over one array. Arrays of fewer than two axes keep the whole of ``V``, by
    ``V += s (g g - V)``; of more than two, the last two are factored.

    Parameters
    ----------
    lr : float or callable, default 0.01
        The largest length of a step, as a share of the parameter's.
    beta2_decay : float in [-1, 0], default -0.8
        The exponent of the averages' share ``s``.
    eps : float, optional
        ``sqrt(V)`` counts at least this; the dtype's machine epsilon if not given.
    eps2 : float, default 0.001
        What the root mean square of a parameter counts at least.
    clip_threshold : float, default 1
        ``d``, to which the root mean square of a direction is brought down.
    weight_decay : float, default 0
        Decoupled from the gradient.
    maximize, clip_value, clip_norm, ema, on_nonfinite, flush_subnormals, sparse, groups : optional
        What all rules take: clipping, averages, groups and more; see :class:`schuss.Optimizer`.
    state_dtype, master : optional
        How state, and parameters of 16 bits, are kept; see :class:`schuss.Optimizer`.

    Raises
    ------
    ValueError
        If an argument is outside of its range; the message has the value.

    Notes
    -----
    State: ``row`` and ``column``, or ``v``. Of a matrix ``u`` is computed as ``g min(1 / sqrt(V), 1 / eps)``, with a
    root for each row and column, and none for an element. The same as ``torch.optim.Adafactor``; ``optax.adafactor``
    has other defaults and puts the square of epsilon into the means.

    References
    ----------
    Shazeer and Stern, "Adafactor: adaptive learning rates with sublinear memory cost", ICML 2018,
    arXiv:1804.04235; Zhai et al., "Scaling vision transformers", 2022, arXiv:2106.04560.

    Examples
    --------
    >>> import numpy as np, schuss
    >>> params = {"W": np.ones((2, 2))}
    >>> opt = schuss.Adafactor(lr=0.1)
    >>> opt.update(params, {"W": np.array([[3.0, 3.0], [-3.0, 3.0]])})
    >>> params["W"].round(4)
    array([[0.9, 0.9],
           [1.1, 0.9]])
    """

    slots: ClassVar[tuple[str, ...]] = ()
    _whole_state: ClassVar[str | None] = "its state is a row and a column for each matrix"
    _ranges: ClassVar = {"eps": POSITIVE, "eps2": POSITIVE, "clip_threshold": POSITIVE}
    _decoupled: ClassVar[bool] = True
    _looks_at: ClassVar[LooksAt] = "whole"

    beta2_decay: float
    eps: float | None = None
    eps2: float
    clip_threshold: float

    def __init__(
        self,
        lr: LearningRate = 0.01,
        *,
        beta2_decay: float = -0.8,
        eps: float | None = None,
        eps2: float = 1e-3,
        clip_threshold: float = 1.0,
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(lr, weight_decay=weight_decay, **options)
        self.beta2_decay = beta2_decay
        self.eps = eps
        self.eps2 = eps2
        self.clip_threshold = clip_threshold

    def _checked(self, name: str, value: Any) -> Any:
        if name == "beta2_decay":
            return number(name, value, -1, 0, False)
        checked = super()._checked(name, value)
        if name == "clip_threshold" and checked == 0:
            raise ValueError(f"clip_threshold must be above 0, got {shown(value)}")
        return checked

    def _new_state(self, name: Any, p: Any) -> dict[str, NDArray[Any]]:
        state = super()._new_state(name, p)
        p = np.asarray(p)
        dtype = computed(p.dtype)
        if p.ndim < 2:
            state["v"] = zeros_like(p, 1)
        else:
            state["row"] = np.zeros((*p.shape[:-1], 1), dtype)
            state["column"] = np.zeros((*p.shape[:-2], 1, p.shape[-1]), dtype)
        return state

    def _like(self, state: Mapping[str, NDArray[Any]]) -> NDArray[Any] | None:
        if "row" in state and "column" in state:
            shape = np.broadcast_shapes(state["row"].shape, state["column"].shape)
            return super()._like({**state, "ema": np.broadcast_to(state["row"], shape)})
        return super()._like({**state, "ema": state["v"]} if "v" in state else {})

    def _scalars(self, lr: float, t: int) -> Scalars:
        eps = -1.0 if self.eps is None else self.eps
        rate, share = min(lr, 1 / sqrt(t)), t**self.beta2_decay
        return 1 - lr * self.weight_decay, rate, share, eps, self.eps2, self.clip_threshold
