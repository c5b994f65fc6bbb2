"""The optimizers: what they take, which scalars a step needs, and what state they keep.

The step itself is ``cpp/rules.hpp``; the same mathematics in NumPy is :mod:`schuss.reference`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from inspect import signature
from math import isfinite, sqrt
from types import MappingProxyType
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import _core

__all__ = ["SGD", "AdaGrad", "Adam", "Momentum", "Nesterov", "Optimizer", "RMSprop"]

LearningRate: TypeAlias = float | Callable[[int], float]
Params: TypeAlias = MutableMapping[Any, Any] | Sequence[Any]
Grads: TypeAlias = Mapping[Any, Any] | Sequence[Any]

# What other frameworks and books call our arguments; the first that a class has is the one meant.
_ELSEWHERE: Mapping[str, tuple[str, ...]] = {
    "learning_rate": ("lr",),
    "eta": ("lr",),
    "alpha": ("decay_rate", "lr"),
    "rho": ("decay_rate",),
    "decay": ("decay_rate",),
    "gamma": ("decay_rate", "momentum"),
    "mu": ("momentum",),
    "beta": ("momentum", "decay_rate"),
    "b1": ("beta1",),
    "b2": ("beta2",),
    "beta_1": ("beta1",),
    "beta_2": ("beta2",),
    "epsilon": ("eps_hat", "eps"),
}


def _number(name: str, value: Any, low: float, high: float, *, open_end: bool) -> float:
    """A float within the range that the mathematics allows."""
    if isinstance(value, (bool, str, bytes)) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a number, got {value!r}")
    number = float(value)
    inside = low <= number < high if open_end else low <= number <= high
    if not (inside and isfinite(number)):
        if not isfinite(high):
            wanted = f"finite and at least {low:g}"
        else:
            wanted = f"in [{low:g}, {high:g}{')' if open_end else ']'}"
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    return number


class Optimizer:
    """What all optimizers share: the step count, the state, and :meth:`update`.

    Not used by itself: take one of its subclasses. They differ in their arguments alone.

    Attributes
    ----------
    lr : float or callable
        The learning rate, or a function of the step ``t`` (1 for the first) that gives it. Assignable.
    t : int
        How many updates have been made.
    state : mapping
        Name of a parameter -> name of a slot -> its array, of the parameter's shape and dtype. The
        arrays are the live ones: what is written into them counts.
    """

    slots: ClassVar[tuple[str, ...]] = ()
    # The range of each hyperparameter: lowest, highest, whether the highest is excluded.
    _ranges: ClassVar[dict[str, tuple[float, float, bool]]] = {}
    _arguments: ClassVar[tuple[str, ...]] = ()

    lr: LearningRate
    _engine: _core.Engine

    def __init_subclass__(cls) -> None:
        own = signature(cls.__init__)
        arguments = list(own.parameters.values())[1:]
        cls._arguments = tuple(argument.name for argument in arguments)
        cls.__signature__ = own.replace(parameters=arguments)  # type: ignore[attr-defined]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:  # noqa: D102
        for name in kwargs:
            if name not in cls._arguments:
                raise TypeError(cls._unknown(name))
        self = super().__new__(cls)
        object.__setattr__(self, "_engine", _core.Engine(cls.__name__, cls.slots))
        return self

    @classmethod
    def _unknown(cls, name: str) -> str:
        """Say what another framework's argument is called here."""
        if name == "betas" and "beta1" in cls._arguments:
            return f"{cls.__name__} has no argument 'betas': give beta1 and beta2"
        if name == "nesterov":
            return f"{cls.__name__} has no argument 'nesterov': use schuss.Nesterov"
        for ours in _ELSEWHERE.get(name, ()):
            if ours in cls._arguments:
                return f"{cls.__name__} has no argument {name!r}: here it is called {ours!r}"
        return f"{cls.__name__} has no argument {name!r}; it takes {', '.join(cls._arguments)}"

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "lr":
            if not callable(value):
                value = _number("lr", value, 0, float("inf"), open_end=False)
        elif name in self._ranges:
            low, high, open_end = self._ranges[name]
            value = _number(name, value, low, high, open_end=open_end)
        else:
            raise AttributeError(f"cannot set {name!r}: {type(self)._unknown(name)}")
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        given = ((name, getattr(self, name)) for name in self._arguments)
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in given if v is not None)})"

    @property
    def t(self) -> int:
        """How many updates have been made."""
        return self._engine.t

    @property
    def state(self) -> Mapping[Any, Mapping[str, NDArray[Any]]]:
        """The state arrays by parameter and slot, as in ``opt.state["W1"]["m"]``."""
        return MappingProxyType({name: MappingProxyType(slots) for name, slots in self._engine.state.items()})

    def update(self, params: Params, grads: Grads) -> None:
        """Take one step: change ``params`` in place, going by ``grads``.

        Parameters
        ----------
        params : mutable mapping of name -> ndarray, or list of ndarray
            The parameters, float32 or float64, of any shape and any strides. A Python float or a NumPy
            scalar is taken too; as it cannot change in place, its entry is replaced.
        grads : mapping or list, like ``params``
            A gradient for each parameter, of the same dtype and shape; it is only read. ``None`` skips
            its parameter.

        Raises
        ------
        TypeError
            For what is not such an array: another type or dtype, a byte-swapped array, a gradient of
            another dtype than its parameter's.
        ValueError
            For different names or shapes, a parameter that is read-only, not aligned, or overlaps
            anything else in memory, a parameter that has changed since its state was made, and a
            learning rate that is negative or not finite.

        Notes
        -----
        A refused update has changed nothing: no parameter, no state, not ``t``. An update by another
        thread on the same optimizer is waited for. NaN and infinity do what they do in NumPy.

        Examples
        --------
        >>> import numpy as np, schuss
        >>> params = {"W": np.ones(3), "b": np.zeros(1)}
        >>> opt = schuss.SGD(lr=0.5)
        >>> opt.update(params, {"W": np.array([1.0, 0.0, -1.0]), "b": None})
        >>> params["W"]
        array([0.5, 1. , 1.5])
        >>> opt.update(params, {"W": np.zeros(2), "b": None})
        Traceback (most recent call last):
        ValueError: grads['W'] has shape (2,), its parameter has shape (3,); they must be equal
        """
        self._engine.update(self, params, grads)

    # The engine calls the three that follow, at each step: what stands in them costs every update.

    def _lr_at(self, t: int) -> float:
        assert callable(self.lr)
        return _number(f"lr({t})", self.lr(t), 0, float("inf"), open_end=False)

    def _scalars(self, lr: float, t: int) -> tuple[float, ...]:
        """The members of the rule in cpp/rules.hpp at step t, in their order."""
        raise NotImplementedError

    def _new_state(self, p: Any) -> dict[str, NDArray[Any]]:
        return {slot: _zeros_like(p) for slot in self.slots}


_LINE, _HUGE_PAGE = 64, 2 << 20


def _zeros_like(p: Any) -> NDArray[Any]:
    """Zeros in the shape, dtype and order of axes of ``p``, which lie in memory as ``p`` does.

    Unlike numpy.zeros_like this touches no memory: the thread that first works on a page places it. They
    begin as far past a cache line as ``p`` does, so that vectors straddle lines in none of them or in all;
    and large ones past the start of a huge page, which the system can then give.
    """
    p = np.asarray(p)
    axes = sorted(range(p.ndim), key=lambda axis: -abs(p.strides[axis]))
    boundary = _HUGE_PAGE if p.nbytes >= 2 * _HUGE_PAGE else _LINE
    memory = np.zeros(p.nbytes + boundary + _LINE, np.uint8)
    skip = -memory.ctypes.data % boundary + p.ctypes.data % _LINE
    zeros: NDArray[Any] = (
        memory[skip : skip + p.nbytes].view(p.dtype).reshape([p.shape[axis] for axis in axes])
    )
    return zeros.transpose(np.argsort(axes)) if axes else zeros


_EPS = (0.0, float("inf"), False)
_UNIT = (0.0, 1.0, True)


class SGD(Optimizer):
    r"""Stochastic gradient descent: :math:`p \leftarrow p - \mathrm{lr}\, g`.

    Parameters
    ----------
    lr : float or callable, default 0.01
        Learning rate, in units of parameter per gradient; or a function of the step.

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

    def __init__(self, lr: LearningRate = 0.01) -> None:
        self.lr = lr

    def _scalars(self, lr: float, t: int) -> tuple[float, ...]:
        return (lr,)


class Momentum(Optimizer):
    r"""Gradient descent with momentum: the parameter rolls like a heavy ball.

    .. math:: v \leftarrow \mu v - \mathrm{lr}\,(1 - d)\, g \qquad p \leftarrow p + v

    Parameters
    ----------
    lr : float or callable, default 0.01
        Learning rate, or a function of the step.
    momentum : float in [0, 1), default 0.9
        :math:`\mu`, the share of the velocity that is left after a step.
    dampening : float in [0, 1], default 0
        :math:`d`. With ``dampening=momentum`` the velocity is a running average of the steps, as in
        Andrew Ng's course.

    Raises
    ------
    ValueError
        If an argument is outside of its range; the message has the value.

    Notes
    -----
    State: ``v``, the velocity, which holds the learning rate (as in Keras). PyTorch and Optax keep
    :math:`b = \mu b + g` and step by :math:`-\mathrm{lr}\,b`: the same path while ``lr`` is constant.
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

    slots = ("v",)
    _ranges: ClassVar = {"momentum": _UNIT, "dampening": (0.0, 1.0, False)}

    momentum: float
    dampening: float

    def __init__(self, lr: LearningRate = 0.01, momentum: float = 0.9, dampening: float = 0.0) -> None:
        self.lr = lr
        self.momentum = momentum
        self.dampening = dampening

    def _scalars(self, lr: float, t: int) -> tuple[float, ...]:
        return lr * (1 - self.dampening), self.momentum


class Nesterov(Optimizer):
    r"""Momentum that looks ahead: the gradient counts as if taken where the velocity leads.

    .. math:: v \leftarrow \mu v - \mathrm{lr}\, g \qquad p \leftarrow p + \mu v - \mathrm{lr}\, g

    Parameters
    ----------
    lr : float or callable, default 0.01
        Learning rate, or a function of the step.
    momentum : float in [0, 1), default 0.9
        :math:`\mu`, the share of the velocity that is left after a step.

    Raises
    ------
    ValueError
        If an argument is outside of its range; the message has the value.

    Notes
    -----
    State: ``v``, the velocity. In :math:`p \leftarrow p + \mu v - \mathrm{lr}\, g` it is the new one. The
    parameter that is kept is the point looked ahead to, as in Keras, in ``torch.optim.SGD(nesterov=True)``
    and in ``optax.sgd(nesterov=True)``; on a change of ``lr`` see :class:`Momentum`.

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

    slots = ("v",)
    _ranges: ClassVar = {"momentum": _UNIT}

    momentum: float

    def __init__(self, lr: LearningRate = 0.01, momentum: float = 0.9) -> None:
        self.lr = lr
        self.momentum = momentum

    def _scalars(self, lr: float, t: int) -> tuple[float, ...]:
        return lr, self.momentum


class AdaGrad(Optimizer):
    r"""A step per element that shrinks with the squared gradients it has seen.

    .. math:: h \leftarrow h + g^2 \qquad p \leftarrow p - \mathrm{lr}\, g / (\sqrt h + \epsilon)

    Parameters
    ----------
    lr : float or callable, default 0.01
        Learning rate, or a function of the step.
    eps : float, default 1e-7
        Added to the root, in units of the gradient, so that a first gradient of zero divides by no zero.

    Raises
    ------
    ValueError
        If an argument is negative or not finite.

    Notes
    -----
    State: ``h``, the sum of squares, from zero. PyTorch: ``eps=1e-10``. Keras and Optax start the sum at 0.1
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

    slots = ("h",)
    _ranges: ClassVar = {"eps": _EPS}

    eps: float

    def __init__(self, lr: LearningRate = 0.01, *, eps: float = 1e-7) -> None:
        self.lr = lr
        self.eps = eps

    def _scalars(self, lr: float, t: int) -> tuple[float, ...]:
        return lr, self.eps


class RMSprop(Optimizer):
    r"""AdaGrad that forgets: the squared gradients are averaged over the recent past.

    .. math::
        h \leftarrow \rho h + (1 - \rho)\, g^2 \qquad p \leftarrow p - \mathrm{lr}\, g / (\sqrt h + \epsilon)

    Parameters
    ----------
    lr : float or callable, default 0.01
        Learning rate, or a function of the step.
    decay_rate : float in [0, 1), default 0.99
        :math:`\rho`; the average reaches back over about ``1 / (1 - decay_rate)`` steps.
    eps : float, default 1e-7
        Added to the root, in units of the gradient.

    Raises
    ------
    ValueError
        If an argument is outside of its range; the message has the value.

    Notes
    -----
    State: ``h``, the running average of squares, from zero. PyTorch calls ``decay_rate`` alpha (0.99,
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

    slots = ("h",)
    _ranges: ClassVar = {"decay_rate": _UNIT, "eps": _EPS}

    decay_rate: float
    eps: float

    def __init__(self, lr: LearningRate = 0.01, decay_rate: float = 0.99, *, eps: float = 1e-7) -> None:
        self.lr = lr
        self.decay_rate = decay_rate
        self.eps = eps

    def _scalars(self, lr: float, t: int) -> tuple[float, ...]:
        return lr, self.decay_rate, 1 - self.decay_rate, self.eps


class Adam(Optimizer):
    r"""Momentum and a step per element, both from running averages corrected for their start at zero.

    .. math::
        m &\leftarrow m + (1 - \beta_1)(g - m) \qquad v \leftarrow v + (1 - \beta_2)(g^2 - v) \\
        p &\leftarrow p - \mathrm{lr}_t\, m / (\sqrt v + \hat\epsilon), \qquad
        \mathrm{lr}_t = \mathrm{lr}\, \sqrt{1 - \beta_2^t} / (1 - \beta_1^t)

    Parameters
    ----------
    lr : float or callable, default 0.001
        Learning rate, about the largest change of an element in a step; or a function of the step.
    beta1, beta2 : float in [0, 1), default 0.9 and 0.999
        What a step leaves of the averages of the gradient and of its square.
    eps_hat : float, default 1e-7
        :math:`\hat\epsilon`, added to :math:`\sqrt v`: the textbook's class, and Keras's.
    eps : float, optional
        Given instead of ``eps_hat``: added to :math:`\sqrt{\hat v}`, the root after the correction, as in
        Algorithm 1 of the paper, PyTorch and Optax (1e-8 there) and "Dive into Deep Learning" (1e-6).
        The step is the same with :math:`\hat\epsilon = \epsilon \sqrt{1 - \beta_2^t}`.

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

    slots = ("m", "v")
    _ranges: ClassVar = {"beta1": _UNIT, "beta2": _UNIT, "eps_hat": _EPS, "eps": _EPS}

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
    ) -> None:
        self.lr = lr
        self.beta1 = beta1
        self.beta2 = beta2
        if eps is not None:
            self.eps = eps
        if eps_hat is not None or eps is None:
            self.eps_hat = 1e-7 if eps_hat is None else eps_hat

    def __setattr__(self, name: str, value: Any) -> None:
        other = {"eps": self.eps_hat, "eps_hat": self.eps}.get(name)
        if other is not None:
            have = "eps_hat" if name == "eps" else "eps"
            raise ValueError(f"give eps or eps_hat, not both: got {name}={value!r} beside {have}={other!r}")
        super().__setattr__(name, value)

    def _scalars(self, lr: float, t: int) -> tuple[float, ...]:
        correction = sqrt(1 - self.beta2**t)
        lr_t = lr * correction / (1 - self.beta1**t)
        eps_hat = self.eps_hat
        if eps_hat is None:
            assert self.eps is not None
            eps_hat = self.eps * correction
        return lr_t, 1 - self.beta1, 1 - self.beta2, eps_hat


# The one table that tests, benchmark, experiments and command line read.
OPTIMIZERS: dict[str, type[Optimizer]] = {
    cls.__name__: cls for cls in (SGD, Momentum, Nesterov, AdaGrad, RMSprop, Adam)
}
