"""Where thinc and spaCy are met: their optimizer, with our step.

In the config of ``spacy train`` it is one line::

    [training.optimizer]
    @optimizers = "schuss.Adam.v1"

The names are found by thinc's registry once schuss is installed; what is imported from here needs thinc
(``pip install "schuss[thinc]"``).
"""

# No `from __future__ import annotations`: thinc checks a config by the annotations as they are.

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import _core
from . import optimizers as ours
from ._extras import need
from .base import Optimizer as OurOptimizer
from .checks import POSITIVE, SHARE, number, shown
from .formats import number_of
from .memory import zeros_like
from .optimizers import Scalars
from .options import GLOBAL, Orders
from .specs import parse_optimizer
from .states import writable

theirs = need("thinc.optimizers", "schuss.thinc", extra="thinc")

__all__ = ["SGD", "Adam", "Optimizer", "RAdam", "Rule"]

Key = tuple[int, str]
if TYPE_CHECKING:
    Rate = float | list[float] | Iterator[float]
else:
    Rate = theirs.Adam.__annotations__["learn_rate"]  # of thinc 8: numbers and generators; of thinc 9: its schedules


class _Adam(ours.AdamW):
    """thinc's Adam: epsilon is added to the root of the average as it is, and decay comes after the step."""

    def _scalars(self, lr: float, t: int) -> Scalars:
        decay = 1 - lr * self.weight_decay
        lr_t = lr * (1 - self.beta2**t) ** 0.5 / (1 - self.beta1**t)
        return decay * lr_t, 1 - self.beta1, 1 - self.beta2, self.eps, decay


class _RAdam(ours.RAdam):
    """thinc's RAdam: its corrections are those of the step after, and decay comes after the step."""

    _decoupled = True

    def _kernel(self) -> str:
        return "RAdamW"

    def _scalars(self, lr: float, t: int) -> Scalars:
        decay = 1 - lr * self.weight_decay
        lr_t, *others = super()._scalars(lr, t + 1)
        return (decay * lr_t, *others, decay)


class _SGD(ours.SGD):
    """thinc's SGD: decay comes after the step, ``p = (1 - lr weight_decay) (p - lr g)``."""

    def _scalars(self, lr: float, t: int) -> Scalars:
        return (lr * (1 - lr * self.weight_decay),)


class _Step:
    """One parameter's rule, and what stands around it: what the engine asks is in cpp/engine.hpp."""

    _members = ()

    def __init__(self, key: Key, rule: OurOptimizer, averaged: bool, t: int, state: dict[str, NDArray[Any]]) -> None:
        self.rule = rule
        self.lr = 0.0
        self.clip = 0.0
        self.average = -1.0
        self.l2 = 0.0
        self.numbers: tuple[float, ...] = ()
        self.shown = False  # whether its state stands where thinc has it
        self._averaged = averaged
        kernel, slots, _ = rule._structure()
        self._kept = kernel, (*slots, "ema") if averaged else slots, averaged
        self.engine = _core.Engine()
        self.engine.restore(self, {}, t, 0, {key: state} if state else {})

    def _structures(self) -> list[tuple[str, tuple[str, ...], bool]]:
        return [self._kept]

    def _orders(self) -> Orders:
        _, clip_value, sign = self.rule._order()
        return self.clip or -1.0, 0.0, 0, self.average, False, False, True, [(self.l2, clip_value, sign)]

    def _scalars(self, lr: float, t: int) -> Scalars:
        return self.rule._scalars(lr, t)

    def _make_state(self, key: Key, p: Any) -> dict[str, NDArray[Any]]:
        state = self.rule._kept_state(key, p)
        return {**state, "ema": zeros_like(p, len(state) + 1)} if self._averaged else state

    def _place_of(self, key: Key) -> tuple[int, int, bool]:
        return number_of(key), 0, self.rule.master is not None

    def _workspace(self, key: Key, p: Any) -> NDArray[Any]:
        return self.rule._workspace(key, p)

    def _ratios(self, scalars: tuple[float, ...], workspaces: list[NDArray[Any]]) -> list[float]:
        return self.rule._ratios(scalars, workspaces)


class Optimizer(theirs.Optimizer):  # type: ignore[misc,name-defined]
    """The optimizer of thinc, with our step: clip, step, decay, average and the zeroing of the gradient in one pass.

    :func:`Adam`, :func:`RAdam`, :func:`SGD` and :func:`Rule` make it.

    Parameters
    ----------
    learn_rate, L2, beta1, beta2, eps, grad_clip : float, list, generator or schedule
        As thinc's own; :func:`Adam` says what they mean.
    use_averages, use_radam, L2_is_weight_decay : bool
        The same.
    rule : schuss.Optimizer, optional
        The rule to step by instead of thinc's three.

    Notes
    -----
    The protocol is thinc's: ``weights, gradient = optimizer(key, weights, gradient, lr_scale=1.0)`` changes both arrays
    in place, ``step_schedules()`` moves the schedules on, ``averages`` has the averages of the weights by key, and
    thinc 9's ``last_score`` is what its schedules are told. ``mom1`` and ``mom2`` show the state, ``nr_update`` counts.
    It can be copied and pickled as far as its schedules can.
    """

    # thinc's class locks its attributes, too.
    __slots__ = ["_averaged", "_rule", "_steps"]

    mom1: dict[Key, NDArray[Any]]
    mom2: dict[Key, NDArray[Any]]
    averages: dict[Key, NDArray[Any]] | None
    nr_update: dict[Key, int]
    use_radam: bool
    L2_is_weight_decay: bool
    step: int
    last_score: tuple[int, float] | None

    def __init__(
        self,
        learn_rate: Rate,
        *,
        L2: Rate = 0.0,
        beta1: Rate = 0.9,
        beta2: Rate = 0.999,
        eps: Rate = 1e-8,
        grad_clip: Rate = 1.0,
        use_averages: bool = True,
        use_radam: bool = False,
        L2_is_weight_decay: bool = True,
        rule: OurOptimizer | None = None,
    ) -> None:
        for name, value, most in (
            *(("learn_rate", learn_rate, POSITIVE), ("L2", L2, POSITIVE), ("grad_clip", grad_clip, POSITIVE)),
            *(("beta1", beta1, SHARE), ("beta2", beta2, SHARE), ("eps", eps, POSITIVE)),
        ):
            if isinstance(value, (int, float)):  # of schedules it is seen when they are asked
                number(name, value, *most)
        super().__init__(
            learn_rate,
            L2=L2,
            beta1=beta1,
            beta2=beta2,
            eps=eps,
            grad_clip=grad_clip,
            use_averages=use_averages,
            use_radam=use_radam,
            L2_is_weight_decay=L2_is_weight_decay,
        )
        self._rule = rule
        self._steps: dict[Key, _Step] = {}
        self._averaged = use_averages

    def __call__(
        self, key: Key, weights: NDArray[Any], gradient: NDArray[Any], *, lr_scale: float = 1.0
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Step ``weights`` in place, and set the gradient to zeros.

        Parameters
        ----------
        key : (int, str)
            The layer's number and the parameter's name.
        weights, gradient : ndarray
            Of one shape and dtype; changed in place.
        lr_scale : float
            A factor of the learning rate.

        Returns
        -------
        weights, gradient : ndarray
            The same arrays.

        Raises
        ------
        TypeError, ValueError
            Where the arrays are no NumPy arrays that can be stepped in place, or a number is out of its range; nothing
            has changed then.
        """
        if len(gradient) < 1:
            return weights, gradient
        step = self._steps.get(key)
        if step is None:
            step = self._steps[key] = self._begin(key, 0, {}, {})
        t = step.engine.t + 1
        rate = self._value("learn_rate", key) * number("lr_scale", lr_scale, *POSITIVE)
        if rate != step.lr:
            step.lr = number("learn_rate", rate, *POSITIVE)
        L2 = number("L2", self._value("L2", key), *POSITIVE)
        clip = number("grad_clip", self._value("grad_clip", key), *POSITIVE)
        average = min((1 + t) / (10 + t), 0.9999) if self._averaged else -1.0
        decays = step.rule._decoupled if self._rule is not None else self.L2_is_weight_decay
        self._heed(step, L2 if decays else 0.0, key)
        l2, before = 0.0 if decays else L2, None
        if L2 and decays and isinstance(step.rule, _SGD):
            l2 = _beside_decay(L2, step.lr)
        elif l2 and clip and self._rule is None:  # what is clipped has L2 in it
            _core.check({key: weights}, {key: gradient})
            l2, before = 0.0, gradient.copy()
        if (clip, average, l2) != (step.clip, step.average, step.l2):
            step.clip, step.average, step.l2 = clip, average, l2
            step.engine.change(step, {})
        try:
            if before is not None:
                gradient += L2 * weights
            step.engine.update(step, {key: weights}, {key: gradient}, 1.0)
        except BaseException:
            if before is not None and gradient.flags.writeable:
                gradient[...] = before
            raise
        self.nr_update[key] = t
        if not step.shown:
            self._show(key, step)
        return weights, gradient

    def _value(self, name: str, key: Key) -> float:
        """What an argument is now: thinc 9 keeps schedules, thinc 8 what they have last given."""
        value = getattr(self, name)
        if callable(value):
            value = value(self.step, key=key, last_score=self.last_score)
        return float(value)

    def _begin(self, key: Key, t: int, state: dict[str, NDArray[Any]], memory: dict[str, Any]) -> _Step:
        rule: OurOptimizer
        if self._rule is not None:
            rule = self._rule._twin()
        elif self.use_radam:
            rule = _RAdam()._twin()
        else:
            adaptive = self._value("b1", key) > 0 and self._value("b2", key) > 0
            rule = _Adam()._twin() if adaptive else _SGD()._twin()
        for name, value in memory.items():
            object.__setattr__(rule, name, value)
        return _Step(key, rule, self._averaged, t, state)

    def _heed(self, step: _Step, decay: float, key: Key) -> None:
        """Give the rule the numbers that it goes by now."""
        if self._rule is not None or isinstance(step.rule, _SGD):
            numbers: tuple[float, ...] = (decay,)
        else:
            numbers = decay, self._value("b1", key), self._value("b2", key), self._value("eps", key)
        if numbers != step.numbers:
            for name, value in zip(("weight_decay", "beta1", "beta2", "eps"), numbers, strict=False):
                object.__setattr__(step.rule, name, step.rule._checked(name, value))
            step.numbers = numbers

    def _show(self, key: Key, step: _Step) -> None:
        """Show a parameter's state where thinc has it."""
        state = step.engine.state[key]
        for slot, moments in (("m", self.mom1), ("v", self.mom2)):
            if slot in state and state[slot].dtype in (np.float32, np.float64):
                moments[key] = state[slot].reshape(-1)
        if self.averages is not None and "ema" in state:
            self.averages[key] = state["ema"]
        step.shown = True

    def __getstate__(self) -> dict[str, Any]:
        slots = {*theirs.Optimizer.__slots__, "_rule", "_averaged"} - {"mom1", "mom2", "averages"}
        kept = {
            key: (
                step.engine.t,
                dict(step.engine.state[key]),
                {name: getattr(step.rule, name) for name in step.rule._remembering},
            )
            for key, step in self._steps.items()
            if step.engine.t
        }
        return {**{name: getattr(self, name) for name in slots if hasattr(self, name)}, "_steps": kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        kept = state.pop("_steps")
        averages: Any = {} if state["_averaged"] else None
        for name, value in {**state, "mom1": {}, "mom2": {}, "averages": averages, "_steps": {}}.items():
            setattr(self, name, value)
        for key, (t, arrays, memory) in kept.items():
            self._steps[key] = self._begin(key, t, writable(arrays), memory)
            self._show(key, self._steps[key])


def _beside_decay(L2: float, lr: float) -> float:
    """What stands for decay in SGD's gradient, whose step is by ``lr (1 - lr L2)``."""
    if lr * L2 >= 1:
        raise ValueError(f"learn_rate times L2 must be below 1 for SGD, got {lr:g} * {L2:g}")
    return L2 / (1 - lr * L2)


def Adam(
    learn_rate: Rate = 0.001,
    *,
    L2: Rate = 0.0,
    beta1: Rate = 0.9,
    beta2: Rate = 0.999,
    eps: Rate = 1e-8,
    grad_clip: Rate = 1.0,
    L2_is_weight_decay: bool = True,
    use_averages: bool = True,
) -> Optimizer:
    """Make thinc's ``Adam``: arguments, defaults and numbers are those of ``@optimizers = "Adam.v1"``.

    ::

        g = g min(1, grad_clip / |g|)
        m = beta1 m + (1 - beta1) g        v = beta2 v + (1 - beta2) g g
        w = (1 - lr L2) (w - lr_t m / (sqrt(v) + eps))
        lr_t = lr sqrt(1 - beta2^t) / (1 - beta1^t)
        average = d average + (1 - d) w,    d = min((1 + t) / (10 + t), 0.9999)

    Parameters
    ----------
    learn_rate, L2, beta1, beta2, eps, grad_clip : float, list, generator or schedule
        ``grad_clip`` is for the norm of each array by itself; 0: none.
    L2_is_weight_decay : bool
        Whether ``L2`` is the weight decay above; otherwise ``L2 w`` is added to the gradient before it is clipped.
    use_averages : bool
        Whether to keep averages of the weights, which spaCy evaluates and saves.

    Returns
    -------
    Optimizer
        To be called for each parameter, as thinc and spaCy do.

    Raises
    ------
    ValueError
        If a schedule is none, or a number is out of its range; of a schedule's that is seen when it is called.

    Notes
    -----
    thinc calls epsilon what :class:`schuss.Adam` calls ``eps_hat``, and clips by ``grad_clip / |g|`` without PyTorch's
    1e-6. A parameter whose ``beta1`` or ``beta2`` is 0 is stepped by SGD, where thinc raises NotImplementedError for
    ``beta1 = 0`` alone.

    References
    ----------
    ``thinc.optimizers.Adam``; Kingma & Ba, "Adam: a method for stochastic optimization", ICLR 2015, arXiv:1412.6980.

    Examples
    --------
    >>> import numpy as np
    >>> from schuss.thinc import Adam
    >>> opt = Adam(0.1, use_averages=False)
    >>> w, g = np.ones(2, np.float32), np.array([3.0, -4.0], np.float32)
    >>> w, g = opt((0, "W"), w, g)
    >>> w, g
    (array([0.90000004, 1.0999999 ], dtype=float32), array([0., 0.], dtype=float32))
    """
    return Optimizer(
        learn_rate,
        L2=L2,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        grad_clip=grad_clip,
        L2_is_weight_decay=L2_is_weight_decay,
        use_averages=use_averages,
    )


def RAdam(
    learn_rate: Rate = 0.001,
    *,
    beta1: Rate = 0.9,
    beta2: Rate = 0.999,
    eps: Rate = 1e-8,
    L2: Rate = 0.0,
    L2_is_weight_decay: bool = True,
    grad_clip: Rate = 1.0,
    use_averages: bool = True,
) -> Optimizer:
    """Make thinc's ``RAdam``: arguments, defaults and numbers are those of ``@optimizers = "RAdam.v1"``.

    The equation is that of :class:`schuss.RAdam`, but that its corrections at step t are those of t + 1; what stands
    around it is as for :func:`Adam`.

    Parameters
    ----------
    learn_rate, beta1, beta2, eps, L2 : float, list, generator or schedule
        As for :func:`Adam`, and so are the others.
    L2_is_weight_decay : bool
        Whether ``L2`` is a weight decay.
    grad_clip : float, list, generator or schedule
        The norm to which each gradient is clipped.
    use_averages : bool
        Whether to keep averages.

    Returns
    -------
    Optimizer
        To be called for each parameter.

    Raises
    ------
    ValueError
        As for :func:`Adam`.

    Notes
    -----
    thinc's does not heed ``lr_scale``, this one does.

    References
    ----------
    ``thinc.optimizers.RAdam``; Liu et al., "On the variance of the adaptive learning rate and beyond", ICLR 2020,
    arXiv:1908.03265.

    Examples
    --------
    >>> import numpy as np
    >>> from schuss.thinc import RAdam
    >>> w, g = RAdam(0.1)((0, "W"), np.ones(2, np.float32), np.array([0.6, -0.8], np.float32))
    >>> w.round(3)
    array([0.968, 1.042], dtype=float32)
    """
    return Optimizer(
        learn_rate,
        L2=L2,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        grad_clip=grad_clip,
        L2_is_weight_decay=L2_is_weight_decay,
        use_averages=use_averages,
        use_radam=True,
    )


def SGD(
    learn_rate: Rate,
    *,
    L2: Rate = 0.0,
    grad_clip: Rate = 1.0,
    L2_is_weight_decay: bool = True,
    use_averages: bool = True,
) -> Optimizer:
    """Make thinc's ``SGD``: arguments, defaults and numbers are those of ``@optimizers = "SGD.v1"``.

    ``w = (1 - lr L2) (w - lr g)``; what stands around it is as for :func:`Adam`.

    Parameters
    ----------
    learn_rate, L2, grad_clip : float, list, generator or schedule
        As for :func:`Adam`.
    L2_is_weight_decay, use_averages : bool
        The same.

    Returns
    -------
    Optimizer
        To be called for each parameter.

    Raises
    ------
    ValueError
        As for :func:`Adam`; and where ``lr L2`` is 1 or more.

    References
    ----------
    ``thinc.optimizers.SGD``.

    Examples
    --------
    >>> import numpy as np
    >>> from schuss.thinc import SGD
    >>> w, g = SGD(0.1)((0, "W"), np.ones(2, np.float32), np.array([3.0, -4.0], np.float32))
    >>> w  # the gradient was clipped to a norm of 1
    array([0.94, 1.08], dtype=float32)
    """
    return Optimizer(
        learn_rate,
        L2=L2,
        beta1=0.0,
        beta2=0.0,
        grad_clip=grad_clip,
        L2_is_weight_decay=L2_is_weight_decay,
        use_averages=use_averages,
    )


def Rule(
    rule: str,
    learn_rate: Rate,
    *,
    L2: Rate = 0.0,
    grad_clip: Rate = 1.0,
    L2_is_weight_decay: bool = True,
    use_averages: bool = True,
) -> Optimizer:
    """Make an optimizer of thinc's protocol from any other rule of ours, as ``@optimizers = "schuss.Rule.v1"``.

    Parameters
    ----------
    rule : str
        As the command line takes it: ``"Lion"``, ``"Lion(beta2=0.98)"``, ``"Adam(state_dtype='bfloat16')"``.
    learn_rate : float, list, generator or schedule
        As for :func:`Adam`.
    L2 : float, list, generator or schedule
        The rule's ``weight_decay``.
    grad_clip : float, list, generator or schedule
        As for :func:`Adam`.
    L2_is_weight_decay : bool
        Must be what the rule makes of it: true for the rules whose decay is decoupled from the gradient, else false.
    use_averages : bool
        As for :func:`Adam`.

    Returns
    -------
    Optimizer
        To be called for each parameter. Its numbers are those of the rule, not thinc's: epsilon is where the rule's
        docstring says, and decay before the step.

    Raises
    ------
    ValueError, TypeError
        If the text cannot be read, or has what is said by another argument here; for Muon and the schedule-free rules.

    Examples
    --------
    >>> import numpy as np
    >>> from schuss.thinc import Rule
    >>> w, g = Rule("Lion", 0.1)((0, "W"), np.ones(2, np.float32), np.array([3.0, -4.0], np.float32))
    >>> w
    array([0.9, 1.1], dtype=float32)
    """
    if not isinstance(rule, str):
        raise TypeError(f"rule must be the text of an optimizer, as 'Lion(beta2=0.98)', got {shown(rule)}")
    spec = parse_optimizer(rule)
    elsewhere = {"lr": "learn_rate", "weight_decay": "L2", "clip_norm": "grad_clip", "ema": "use_averages"}
    given = {*spec.named, *ours.OPTIMIZERS[spec.name]._arguments[: len(spec.positional)]}
    for name in given & {*elsewhere, *GLOBAL}:
        if name in elsewhere:
            raise ValueError(f"rule={rule!r}: {name} is said by {elsewhere[name]}")
        raise ValueError(f"rule={rule!r}: thinc steps each parameter by itself, and has no place for {name}")
    made: OurOptimizer = spec.make()
    if isinstance(made, ours._ScheduleFree):
        raise ValueError(f"rule={rule!r} keeps the weights to evaluate in its state, where spaCy does not look")
    if isinstance(made, ours.Muon):
        raise ValueError(f"rule={rule!r} steps matrices alone, and a model has biases, too; take another rule")
    if L2 != 0 and L2_is_weight_decay != made._decoupled:
        how = "is decoupled from the gradient" if made._decoupled else "is added to the gradient"
        raise ValueError(
            f"rule={rule!r}: its weight decay {how}; say so by L2_is_weight_decay = {str(made._decoupled).lower()}"
        )
    return Optimizer(
        learn_rate,
        L2=L2,
        grad_clip=grad_clip,
        L2_is_weight_decay=L2_is_weight_decay,
        use_averages=use_averages,
        rule=made,
    )
