"""One in-place function per rule, on single arrays: the caller owns the state and counts the steps.

``adam_(p, g, m, v, t=1, lr=1e-3)`` changes ``p``, ``m`` and ``v`` as :class:`schuss.Adam` would: the same
checks, the same kernels. After ``p`` and ``g`` come the state arrays of the class, in the order of its docstring,
of the shape and dtype of ``p``, zero before the first step (``z`` and ``x`` of the schedule-free rules: copies of
``p``; ``h`` of AdaGrad: any first value). ``t`` is the step, from 1 on. All other arguments are those of the class,
by keyword; ``lr`` must be given.

A function knows nothing of past steps but what is in the arrays. So the schedule-free ones take one more, ``weights``:
two float64 zeros before the first step, in which they keep the sum of the weights of the steps and the largest rate.

The loop of "Dive into Deep Learning" over parameters and states is then three lines:

>>> import numpy as np
>>> from schuss.functional import adam_
>>> def adam(params, grads, states, hyperparams):
...     for p, g, (v, s) in zip(params, grads, states):
...         adam_(p, g, v, s, t=hyperparams["t"], lr=hyperparams["lr"], eps=1e-6)
...     hyperparams["t"] += 1
>>> params, states = [np.ones(2), np.zeros(1)], [(np.zeros(2), np.zeros(2)), (np.zeros(1), np.zeros(1))]
>>> adam(params, [np.array([0.5, -3.0]), np.ones(1)], states, {"t": 1, "lr": 0.01})
>>> params[0].round(4), params[1].round(4)
(array([0.99, 1.01]), array([-0.01]))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from inspect import Parameter, Signature, signature
from typing import Any

import numpy as np

from . import _core, optimizers
from .base import Optimizer
from .checks import POSITIVE, count, number

__all__ = [
    "adadelta_",
    "adafactor_",
    "adagrad_",
    "adam_",
    "adamax_",
    "adamw_",
    "adan_",
    "amsgrad_",
    "lamb_",
    "lars_",
    "lion_",
    "momentum_",
    "muon_",
    "nadam_",
    "nesterov_",
    "radam_",
    "rmsprop_",
    "schedule_free_adamw_",
    "schedule_free_sgd_",
    "sgd_",
]


@lru_cache(maxsize=256)
def _optimizer(name: str, arguments: tuple[tuple[str, Any], ...]) -> Optimizer:
    """An optimizer that is only asked for scalars, which hang on nothing but what it is asked."""
    opt: Optimizer = optimizers.OPTIMIZERS[name](**dict(arguments))
    return opt


def _asked(cls: type[Optimizer], t: Any, lr: Any, arguments: Mapping[str, Any]) -> tuple[Optimizer, int, float]:
    """The optimizer of these arguments, of which those that are None are not given; and the step and the rate."""
    given = tuple((name, value) for name, value in arguments.items() if value is not None)
    try:
        opt = _optimizer(cls.__name__, given)
    except TypeError:  # of an argument that has no hash
        opt = cls(**dict(given))
    return opt, count("t", t, 1), number("lr", lr, *POSITIVE)


def _step(
    cls: type[Optimizer], p: Any, g: Any, state: Mapping[str, Any], t: Any, lr: Any, arguments: Mapping[str, Any]
) -> None:
    opt, t, lr = _asked(cls, t, lr, arguments)
    slots = [(slot, state[slot]) for slot in opt._slots()]
    _core.step(opt._kernel(), opt._scalars(lr, t), p, g, slots, None, [])


def _step_with_workspace(
    cls: type[Optimizer], p: Any, g: Any, state: Mapping[str, Any], t: Any, lr: Any, arguments: Mapping[str, Any]
) -> None:
    """The step of a rule whose second half needs Python."""
    opt, t, lr = _asked(cls, t, lr, arguments)
    _check_state(opt, p, state)
    own = [(slot, state[slot]) for slot in opt._slots()]
    _core.step(opt._kernel(), opt._scalars(lr, t), p, g, [*own, ("u", opt._workspace(None, p))], opt._ratios, [])


def _check_state(opt: Optimizer, p: Any, state: Mapping[str, Any]) -> None:
    """Refuse state that is not of the shapes and dtypes that the rule keeps for p."""
    if type(p) is not np.ndarray and type(p) is not np.memmap:
        return  # which the core refuses
    expected = opt._new_state(None, p)
    for slot, array in state.items():
        if slot not in expected or not isinstance(array, np.ndarray) or array.shape != expected[slot].shape:
            wanted = {name: each.shape for name, each in expected.items()}
            name = type(opt).__name__.lower()
            raise ValueError(f"{name}_ needs, for p of shape {p.shape}, arrays of these shapes: {wanted}")
        if array.dtype != expected[slot].dtype:
            raise TypeError(f"{slot} is {array.dtype}, p is {expected[slot].dtype}; they must be equal")


def _step_weighted(
    cls: type[Optimizer], p: Any, g: Any, state: Mapping[str, Any], t: Any, lr: Any, arguments: Mapping[str, Any]
) -> None:
    """The step of a schedule-free rule, whose average goes by the weights of past steps."""
    opt, t, lr = _asked(cls, t, lr, arguments)
    assert isinstance(opt, optimizers._ScheduleFree)
    weights = state["weights"]
    if not isinstance(weights, np.ndarray) or weights.shape != (2,) or weights.dtype != np.float64:
        raise TypeError(f"weights must be an array of two float64, zeros before the first step, got {weights!r}")
    sums = (number(f"weights[{i}]", each, *POSITIVE) for i, each in enumerate(weights.tolist()))
    rate = opt._warmed_up(lr, t)
    after, share = optimizers.Weights(t - 1, *sums).next(rate)
    slots = [(slot, state[slot]) for slot in (*opt._slots(), "weights")]
    pending = [(weights, np.array([after.total, after.largest]))]
    _core.step(opt._kernel(), opt._scalars_of(rate, share, t), p, g, slots, None, pending)


_DOC = """One step of :class:`schuss.{cls}` on one array, in place.

That class has the equation, and says what each state array and each argument means.

Parameters
----------
p : ndarray
    The parameter, float32 or float64, of any shape that the class takes and any strides; changed in place.
g : ndarray
    Its gradient, of the same shape and dtype; only read.
{state}t : int
    The step, from 1 on.
lr : float
    The learning rate of this step.
{own}
Raises
------
TypeError, ValueError
    For an argument that is not known, missing, of another type or out of its range; and for arrays of other shapes
    or dtypes, read-only ones, and those that overlap in memory. Nothing has changed then.
"""


def _doc(cls: type[Optimizer], more: tuple[str, ...], own: Sequence[str]) -> str:
    """The docstring of the function of a class: what is known of all rules, and the names of this one's arguments."""
    first = {"ScheduleFreeSGD": "copies of it", "ScheduleFreeAdamW": "z and x copies of it, v zeros"}
    first["AdaGrad"] = "zeros, or any other first value,"
    state = f"""{", ".join(cls.slots)} : ndarray
    State of the class, of the shape and dtype of ``p``: {first.get(cls.__name__, "zeros")} before the first
    step; changed in place.
"""
    weights = f"""{", ".join(more)} : ndarray of 2 float64
    The sum of the weights of the steps, and their largest rate: zeros before the first step; changed in place.
"""
    arguments = f"""{", ".join(own)} : optional
    As :class:`schuss.{cls.__name__}` takes them, with its defaults; by keyword.
"""
    return _DOC.format(
        cls=cls.__name__, state=state * bool(cls.slots) + weights * bool(more), own=arguments * bool(own)
    )


def _function(
    cls: type[Optimizer], take: Callable[..., None] = _step, more: tuple[str, ...] = ()
) -> Callable[..., None]:
    """Make the function of a class from its slots and the signature of its own arguments."""
    own = [
        a.replace(kind=Parameter.KEYWORD_ONLY)
        for a in list(signature(cls.__init__).parameters.values())[2:]
        if a.kind is not Parameter.VAR_KEYWORD and a.name != "initial_accumulator"  # which is in the caller's h
    ]
    arrays = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in ("p", "g", *cls.slots, *more)]
    step = [Parameter(name, Parameter.KEYWORD_ONLY) for name in ("t", "lr")]
    bound = Signature([*arrays, *step, *own])

    def function(*args: Any, **kwargs: Any) -> None:
        try:
            given = bound.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{function.__name__}(): {error}; it is called as {function.__name__}{bound}") from None
        given.apply_defaults()
        values = given.arguments
        state = {slot: values[slot] for slot in (*cls.slots, *more)}
        arguments = {a.name: values[a.name] for a in own}
        take(cls, values["p"], values["g"], state, values["t"], values["lr"], arguments)

    name = {"ScheduleFreeSGD": "schedule_free_sgd", "ScheduleFreeAdamW": "schedule_free_adamw"}
    function.__name__ = function.__qualname__ = name.get(cls.__name__, cls.__name__.lower()) + "_"
    function.__doc__ = _doc(cls, more, [a.name for a in own])
    function.__signature__ = bound  # type: ignore[attr-defined]
    return function


sgd_: Callable[..., None] = _function(optimizers.SGD)
momentum_: Callable[..., None] = _function(optimizers.Momentum)
nesterov_: Callable[..., None] = _function(optimizers.Nesterov)
adagrad_: Callable[..., None] = _function(optimizers.AdaGrad)
adamw_: Callable[..., None] = _function(optimizers.AdamW)
amsgrad_: Callable[..., None] = _function(optimizers.AMSGrad)
adamax_: Callable[..., None] = _function(optimizers.Adamax)
nadam_: Callable[..., None] = _function(optimizers.NAdam)
radam_: Callable[..., None] = _function(optimizers.RAdam)
adadelta_: Callable[..., None] = _function(optimizers.AdaDelta)
lion_: Callable[..., None] = _function(optimizers.Lion)
lamb_: Callable[..., None] = _function(optimizers.LAMB)
lars_: Callable[..., None] = _function(optimizers.LARS)
adan_: Callable[..., None] = _function(optimizers.Adan)
schedule_free_sgd_: Callable[..., None] = _function(optimizers.ScheduleFreeSGD, _step_weighted, ("weights",))
schedule_free_adamw_: Callable[..., None] = _function(optimizers.ScheduleFreeAdamW, _step_weighted, ("weights",))
muon_: Callable[..., None] = _function(optimizers.Muon, _step_with_workspace)


def adam_(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    *,
    t: int,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps_hat: float | None = None,
    eps: float | None = None,
) -> None:
    """One step of :class:`schuss.Adam` on one array, in place.

    Parameters
    ----------
    p : ndarray
        The parameter, float32 or float64, of any shape and any strides; changed in place.
    g : ndarray
        Its gradient, of the same shape and dtype; only read.
    m, v : ndarray
        The averages of the gradient and of its square, of the shape and dtype of ``p``: zeros before the first step;
        changed in place.
    t : int
        The step, from 1 on.
    lr : float
        The learning rate of this step.
    beta1, beta2 : float in [0, 1), default 0.9 and 0.999
        What a step leaves of the averages.
    eps_hat, eps : float, optional
        One of them, as :class:`schuss.Adam` takes it; ``eps_hat`` is 1e-7 if neither is given.

    Raises
    ------
    TypeError, ValueError
        For an argument that is not known, missing, of another type or out of its range; and for arrays of other shapes
        or dtypes, read-only ones, and those that overlap in memory. Nothing has changed then.
    """
    arguments = {"beta1": beta1, "beta2": beta2, "eps_hat": eps_hat, "eps": eps}
    _step(optimizers.Adam, p, g, {"m": m, "v": v}, t, lr, arguments)


def rmsprop_(
    p: Any,
    g: Any,
    h: Any,
    a: Any = None,
    v: Any = None,
    *,
    t: int,
    lr: float,
    decay_rate: float = 0.99,
    eps: float = 1e-7,
    momentum: float = 0.0,
) -> None:
    """One step of :class:`schuss.RMSprop` on one array, in place.

    It is centered if ``a`` is given, and has momentum if ``v`` is.

    Parameters
    ----------
    p : ndarray
        The parameter, float32 or float64, of any shape and any strides; changed in place.
    g : ndarray
        Its gradient, of the same shape and dtype; only read.
    h : ndarray
        The average of the squared gradient, of the shape and dtype of ``p``: zeros before the first step; changed in
        place.
    a : ndarray, optional
        The average of the gradient, likewise.
    v : ndarray, optional
        The velocity, likewise; goes with a ``momentum`` above 0.
    t : int
        The step, from 1 on.
    lr : float
        The learning rate of this step.
    decay_rate, eps, momentum : float, optional
        As :class:`schuss.RMSprop` takes them, with its defaults.

    Raises
    ------
    TypeError, ValueError
        For an argument that is not known, missing, of another type or out of its range; and for arrays of other shapes
        or dtypes, read-only ones, and those that overlap in memory. Nothing has changed then.
    """
    if (v is not None) != (momentum > 0):
        raise ValueError(f"v and a momentum above 0 go together, got momentum={momentum!r} and v={type(v).__name__}")
    arguments = {"decay_rate": decay_rate, "eps": eps, "centered": a is not None, "momentum": momentum}
    _step(optimizers.RMSprop, p, g, {"h": h, "a": a, "v": v}, t, lr, arguments)


def adafactor_(
    p: Any,
    g: Any,
    row: Any = None,
    column: Any = None,
    v: Any = None,
    *,
    t: int,
    lr: float,
    beta2_decay: float = -0.8,
    eps: float | None = None,
    eps2: float = 1e-3,
    clip_threshold: float = 1.0,
    weight_decay: float = 0.0,
) -> None:
    """One step of :class:`schuss.Adafactor` on one array, in place.

    Give ``row`` and ``column`` for arrays of two axes or more, ``v`` for those of fewer.

    Parameters
    ----------
    p : ndarray
        The parameter, float32 or float64, of any shape and any strides; changed in place.
    g : ndarray
        Its gradient, of the same shape and dtype; only read.
    row, column : ndarray, optional
        The means of the squared gradient over the last axis and over the one before it, of the dtype of ``p``: for a
        ``p`` of shape (..., m, n) of the shapes (..., m, 1) and (..., 1, n). Zeros before the first step; changed in
        place.
    v : ndarray, optional
        The average of the squared gradient, of the shape and dtype of ``p``: likewise.
    t : int
        The step, from 1 on.
    lr : float
        The learning rate of this step.
    beta2_decay, eps, eps2, clip_threshold, weight_decay : float, optional
        As :class:`schuss.Adafactor` takes them, with its defaults.

    Raises
    ------
    TypeError, ValueError
        For an argument that is not known, missing, of another type or out of its range; and for arrays of other shapes
        or dtypes, read-only ones, and those that overlap in memory. Nothing has changed then.
    """
    factors = {"v": v} if v is not None else {"row": row, "column": column}
    arguments = {
        "beta2_decay": beta2_decay,
        "eps": eps,
        "eps2": eps2,
        "clip_threshold": clip_threshold,
        "weight_decay": weight_decay,
    }
    opt, t, lr = _asked(optimizers.Adafactor, t, lr, arguments)
    _check_state(opt, p, factors)
    _core.step(opt._kernel(), opt._scalars(lr, t), p, g, list(factors.items()), None, [])
