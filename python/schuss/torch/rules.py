"""PyTorch's groups as rules of ours: the arguments, the forms that differ, and the names of the state there."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from math import sqrt
from types import MappingProxyType
from typing import Any, ClassVar

from numpy.typing import NDArray

from .. import optimizers as ours
from ..base import Optimizer
from ..optimizers import Scalars

Group = MutableMapping[str, Any]
Names = Mapping[str, str]  # slot -> what PyTorch calls it

MOMENTS: Names = MappingProxyType({"m": "exp_avg", "v": "exp_avg_sq"})


class HeavyBall(ours.Momentum):
    """``b = mu b + (1 - dampening) g``, then ``p -= lr b``, or ``p -= lr (g + mu b)`` where it looks ahead.

    The first gradient is not dampened.
    """

    _look: bool = False

    def _kernel(self) -> str:
        return "HeavyBall"

    def _scalars(self, lr: float, t: int) -> Scalars:
        return lr, self.momentum, 1.0 if t == 1 else 1 - self.dampening, float(self._look)


class RMSpropHeavyBall(ours.RMSprop):
    """``b = mu b + g / (sqrt(h) + eps)``, then ``p -= lr b``."""

    def _kernel(self) -> str:
        return f"RMSprop{'Centered' * self.centered}HeavyBall"


class Decoupled(Optimizer):
    """A rule whose weight decay is decoupled from the gradient, where ours has it in the gradient alone."""

    _decoupled: ClassVar[bool] = True

    def _kernel(self) -> str:
        return f"{self._rule.__name__}W"

    def _scalars(self, lr: float, t: int) -> Scalars:
        return (*super()._scalars(lr, t), 1 - lr * self.weight_decay)


class AMSGradW(Decoupled, ours.AMSGrad):
    """AMSGrad so."""


class NAdamW(Decoupled, ours.NAdam):
    """NAdam so."""


class RAdamW(Decoupled, ours.RAdam):
    """RAdam so."""


class ASGD(ours.SGD):
    """``p = (1 - lambd eta) p - eta g``, and ``x += mu (p - x)``.

    After step t ``eta = lr / (1 + lambd lr t)^alpha`` and ``mu = 1 / max(1, t - t0)``; they begin as lr and 1.
    """

    slots: ClassVar[tuple[str, ...]] = ("x",)
    _remembering: ClassVar[tuple[str, ...]] = ("_eta", "_mu")
    _lambd: float = 1e-4
    _eta: float | None = None
    _mu: float = 1.0

    def _kernel(self) -> str:
        return "ASGD"

    def _scalars(self, lr: float, t: int) -> Scalars:
        eta = lr if self._eta is None else self._eta
        return eta, 1 - self._lambd * eta, self._mu, 1 - self._mu


class Rprop(ours.SGD):
    """The size of a step, of each element, rises while the gradient keeps its sign, and falls where it turns."""

    slots: ClassVar[tuple[str, ...]] = ("last", "s")
    _never_negative: ClassVar[tuple[str, ...]] = ("s",)
    _whole_state: ClassVar[str | None] = "its sizes of steps are products of many factors"
    _bounds: tuple[float, float, float, float] = (0.5, 1.2, 1e-6, 50.0)

    def _kernel(self) -> str:
        return "Rprop"

    def _scalars(self, lr: float, t: int) -> Scalars:
        return self._bounds

    def _new_state(self, name: Any, p: Any) -> dict[str, NDArray[Any]]:
        state = super()._new_state(name, p)
        state["s"][...] = self.lr
        return state


class Muon(ours.Muon):
    """Muon with PyTorch's choices: the iteration's coefficients, and how the rate goes by a matrix's shape."""

    _like_adamw: bool = False

    def _kernel(self) -> str:
        return "Muon"

    def _ratios(self, scalars: Scalars, workspaces: list[NDArray[Any]]) -> list[float]:
        ratios = super()._ratios(scalars, workspaces)
        return [0.2 * sqrt(max(u.shape)) for u in workspaces] if self._like_adamw else ratios


def options_of(group: Group) -> dict[str, Any]:
    """What all rules take, as a group has it."""
    found = {name: group[name] for name in ("clip_value", "ema", "state_dtype", "master")}
    return {
        **found,
        "maximize": bool(group.get("maximize", False)),
        "weight_decay": float(group.get("weight_decay", 0.0)),
    }


def _with(rule: Optimizer, **attributes: Any) -> Optimizer:
    for name, value in attributes.items():
        object.__setattr__(rule, name, value)
    return rule


# A rule for a group. Its learning rate is not asked for.


def sgd(group: Group) -> Optimizer:
    """SGD, with momentum or without."""
    if not group["momentum"]:
        return ours.SGD(**options_of(group))
    rule = HeavyBall(momentum=group["momentum"], dampening=group["dampening"], **options_of(group))
    return _with(rule, _look=bool(group["nesterov"]))


def adagrad(group: Group) -> Optimizer:
    """Adagrad."""
    start = group["initial_accumulator_value"]
    return ours.AdaGrad(eps=group["eps"], initial_accumulator=start, lr_decay=group["lr_decay"], **options_of(group))


def rmsprop(group: Group) -> Optimizer:
    """RMSprop, with all that it may have."""
    kind = RMSpropHeavyBall if group["momentum"] else ours.RMSprop
    arguments = {name: group[name] for name in ("eps", "momentum")}
    return kind(decay_rate=group["alpha"], centered=bool(group["centered"]), **arguments, **options_of(group))


def adadelta(group: Group) -> Optimizer:
    """Adadelta."""
    return ours.AdaDelta(decay_rate=group["rho"], eps=group["eps"], **options_of(group))


def _betas(group: Group) -> dict[str, Any]:
    beta1, beta2 = group["betas"]
    return {"beta1": float(beta1), "beta2": float(beta2)}


def adam(group: Group) -> Optimizer:
    """Adam and AdamW, with amsgrad or without."""
    decoupled = bool(group.get("decoupled_weight_decay", False))
    arguments = {**_betas(group), "eps": group["eps"], **options_of(group)}
    if group.get("amsgrad", False):
        return (AMSGradW if decoupled else ours.AMSGrad)(bias_correction=True, **arguments)
    return (ours.AdamW if decoupled else ours.Adam)(**arguments)


def sparse_adam(group: Group) -> Optimizer:
    """SparseAdam, whose epsilon is added before the correction."""
    return ours.Adam(**_betas(group), eps_hat=group["eps"], **options_of(group))


def adamax(group: Group) -> Optimizer:
    """Adamax."""
    return ours.Adamax(**_betas(group), eps=group["eps"], **options_of(group))


def nadam(group: Group) -> Optimizer:
    """NAdam, with either kind of weight decay."""
    kind = NAdamW if group["decoupled_weight_decay"] else ours.NAdam
    return kind(**_betas(group), eps=group["eps"], momentum_decay=group["momentum_decay"], **options_of(group))


def radam(group: Group) -> Optimizer:
    """RAdam, with either kind of weight decay."""
    kind = RAdamW if group["decoupled_weight_decay"] else ours.RAdam
    return kind(**_betas(group), eps=group["eps"], **options_of(group))


def asgd(group: Group) -> Optimizer:
    """ASGD."""
    return _with(ASGD(**options_of(group)), _lambd=group["lambd"])


def rprop(group: Group) -> Optimizer:
    """Rprop."""
    return _with(Rprop(**options_of(group)), _bounds=(*group["etas"], *group["step_sizes"]))


def adafactor(group: Group) -> Optimizer:
    """Adafactor."""
    eps, eps2 = group["eps"]
    given = options_of(group)
    return ours.Adafactor(beta2_decay=group["beta2_decay"], eps=eps, eps2=eps2, clip_threshold=group["d"], **given)


def muon(group: Group) -> Optimizer:
    """Muon."""
    a, b, c = map(float, group["ns_coefficients"])
    rule = Muon(
        momentum=group["momentum"], nesterov=bool(group["nesterov"]), steps=group["ns_steps"], **options_of(group)
    )
    like_adamw = group["adjust_lr_fn"] == "match_rms_adamw"
    return _with(rule, _coefficients=(a, b, c), _least=float(group["eps"]), _like_adamw=like_adamw)


def lion(group: Group) -> Optimizer:
    """Lion."""
    return ours.Lion(**_betas(group), **options_of(group))


def adan(group: Group) -> Optimizer:
    """Adan."""
    beta1, beta2, beta3 = map(float, group["betas"])
    return ours.Adan(beta1=beta1, beta2=beta2, beta3=beta3, eps=group["eps"], **options_of(group))


def lamb(group: Group) -> Optimizer:
    """LAMB."""
    return ours.LAMB(**_betas(group), eps=group["eps"], **options_of(group))


def lars(group: Group) -> Optimizer:
    """LARS."""
    return ours.LARS(momentum=group["momentum"], trust=group["trust"], **options_of(group))


# What a parameter's state has beside arrays, as PyTorch keeps it: numbers.


def counts_steps(rule: Optimizer) -> bool:
    """Whether the state has the number of steps. PyTorch's SGD and Muon do not; random numbers go by it."""
    random = rule.state_dtype != "float32" or rule.master is None
    return random or isinstance(rule, (ASGD, Rprop)) or not isinstance(rule, (ours.SGD, HeavyBall, ours.Muon))


def numbers_after(rule: Optimizer, group: Group, lr: float, t: int) -> dict[str, float]:
    """The numbers of a parameter's state after step t, which a rule that goes by them remembers."""
    if isinstance(rule, ASGD):
        eta = lr / (1 + group["lambd"] * lr * t) ** group["alpha"]
        mu = 1 / max(1.0, t - group["t0"])
        _with(rule, _eta=eta, _mu=mu)
        return {"step": t, "eta": eta, "mu": mu}
    if isinstance(rule, ours.NAdam):
        return {"step": t, "mu_product": rule._product_at(t)}
    return {"step": t}


def remember(rule: Optimizer, numbers: Mapping[str, float]) -> None:
    """Take what a rule goes by from the numbers of a parameter's state."""
    if isinstance(rule, ASGD):
        _with(rule, _eta=numbers["eta"], _mu=numbers["mu"])
