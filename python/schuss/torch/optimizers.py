"""PyTorch's optimizers with our step: the same names, arguments, defaults, groups, hooks and state."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from inspect import Parameter, Signature, signature
from itertools import chain, count
from operator import is_, itemgetter
from typing import Any, ClassVar

from ..base import Optimizer
from ..checks import number
from ..options import CHOICES, RANGES, checked_option
from . import rules
from .rules import MOMENTS, Group, Names
from .step import Part, Whole
from .tensors import refuse, torch

_theirs: Any = import_module("torch.optim.optimizer")
_NONE: Names = {}
_OPTIONS = {
    "clip_norm": None,
    "clip_value": None,
    "ema": None,
    "on_nonfinite": "propagate",
    "sparse": "exact",
    "state_dtype": "float32",
    "master": "split",
}
_WHOLE = ("clip_norm", "ema", "on_nonfinite", "sparse")

_DOC = """{first}

A ``torch.optim.Optimizer`` for parameters on the CPU, with our step: groups, closures, hooks, schedules,
``torch.amp.GradScaler``, ``state_dict`` and ``load_state_dict`` are PyTorch's.

Parameters
----------
params : iterable of Tensor, of (name, Tensor), or of dicts
    As for each of PyTorch's optimizers; dense, of float32, float64, float16 or bfloat16, and of any strides.
{arguments} : optional
    {meaning}
clip_norm : float, optional
    The gradients of all groups together count as scaled down to this norm, as ``torch.nn.utils.clip_grad_norm_`` would
    do before a step; they are not written into. Afterwards ``last_grad_norm`` is what their norm was.
clip_value : float, optional
    Each element of a gradient counts as brought into ``[-clip_value, clip_value]``.
ema : float in [0, 1), optional
    Keep a running average of the parameters, the state ``"ema"``; :meth:`swap_ema` evaluates with it.
on_nonfinite : {{"propagate", "skip", "raise"}}, default "propagate"
    What to do where a gradient has an element that is NaN or infinite, before anything is written: what PyTorch does;
    leave out the step and count it in ``skipped``; or raise FloatingPointError.
sparse : {{"exact", "touched"}}, default "exact"
    What a sparse COO gradient does to the rows that it does not name: what its zeros would; or nothing.
state_dtype, master : optional
    How state, and parameters of 16 bits, are kept between steps: see :class:`schuss.Optimizer`.

Raises
------
TypeError, ValueError
    For arguments out of their range, and for parameters that are complex, quantised, sparse, on another device, or of
    a class that is more than its memory.

Notes
-----
{notes} docs/torch.md has what differs from PyTorch, and what is left out.

References
----------
{references}

Examples
--------
>>> import torch
>>> from schuss.torch import {name}
>>> torch.manual_seed(0)  # doctest: +ELLIPSIS
<torch...
>>> model = torch.nn.{model}
>>> opt = {name}(model.parameters())
>>> model({data}).sum().backward()
>>> opt.step()
"""

_THEIRS = """Those of {its}, with its defaults. ``foreach`` and ``fused`` change nothing, as all parameters are
    stepped in one go; ``capturable`` and ``differentiable`` cannot be had."""
_OURS = """Those of {ours}, whose ``beta1``, ``beta2`` and so on are ``betas`` here."""
_LINEAR = "Linear(3, 2, bias=False)", "torch.ones(1, 3)"
_TABLE = "Embedding(4, 2, sparse=True)", "torch.tensor([1, 2])"


class Stepper(torch.optim.Optimizer):
    """What all of them share: the options of ours, and the step."""

    _names: ClassVar[Names] = _NONE
    _only_sparse: ClassVar[bool] = False
    __signature__: ClassVar[Signature]

    @staticmethod
    def _make(group: Group) -> Optimizer:
        """The rule that a group is stepped by."""
        raise NotImplementedError

    def __init__(
        self,
        params: Any,
        *args: Any,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        ema: float | None = None,
        on_nonfinite: str = "propagate",
        sparse: str = "exact",
        state_dtype: str = "float32",
        master: str | None = "split",
        **kwargs: Any,
    ) -> None:
        self._begin()
        given = (clip_norm, clip_value, ema, on_nonfinite, sparse, state_dtype, master)
        self._given = {name: _checked(name, value) for name, value in zip(_OPTIONS, given, strict=True)}
        super().__init__(params, *args, **kwargs)
        self.defaults.update(self._given)

    def _begin(self) -> None:
        self._changed = [True]
        self._parts: list[Part] = []
        self._seen: list[Seen] = []
        self._seen_state: list[Any] = []
        self._whole: Whole | None = None
        self._averaged = False
        self._skipped = 0

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, as PyTorch does; where one cannot be stepped here the groups are as before.

        Parameters
        ----------
        param_group : dict
            Its ``"params"``, and the arguments in which it differs, ours among them.
        """
        if isinstance(param_group, dict):
            self._complete(param_group)
        super().add_param_group(param_group)
        try:
            group = self.param_groups[-1]
            for p in group["params"]:
                refuse(p)
            for name in ("capturable", "differentiable"):
                if group.get(name):
                    raise ValueError(f"{name}=True cannot be had here: it is for steps that PyTorch records")
            self._make(group)
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise
        self._changed[0] = True

    def _complete(self, group: Group) -> None:
        """Check a group's options of ours, and give it those that it lacks, as one of PyTorch's own does."""
        for name, value in self._given.items():
            group[name] = _checked(name, group.get(name, value))

    @property
    def skipped(self) -> int:
        """How many steps were left out with ``on_nonfinite="skip"``."""
        return self._skipped + sum(part.engine.skipped for part in self._parts)

    @property
    def last_grad_norm(self) -> float | None:
        """The norm of all gradients at the last step that computed it: with ``clip_norm`` or ``on_nonfinite``."""
        return self._parts[0].engine.last_grad_norm if self._parts else None

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Parameters
        ----------
        closure : callable, optional
            Computes the loss and its gradients anew, and returns the loss.

        Returns
        -------
        Tensor or None
            What the closure has returned.
        """
        if (
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or _theirs._global_optimizer_pre_hooks
            or _theirs._global_optimizer_post_hooks
            or torch.autograd._profiler_enabled()
        ):
            return self._watched_step(closure)
        return self._step(closure)

    step.hooked = True  # type: ignore[attr-defined]  # as PyTorch marks what need not be wrapped: 10 us

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._averaged:
            raise RuntimeError("step() within swap_ema(): the parameters are their averages there")
        scale = None
        if hasattr(self, "found_inf"):  # of a GradScaler that leaves both to the optimizer
            if float(self.found_inf):
                return loss
            scale = self.grad_scale
        if not self._settled():
            self._settle()
        for part in self._parts:
            part.step(1.0 if scale is None else 1 / float(scale))
        self._changed[0] = False
        self._seen_state = list(self.state.values())
        return loss

    _watched_step = torch.optim.Optimizer.profile_hook_step(_step)

    def _settled(self) -> bool:
        """Whether groups, parameters and state are as they were; new arguments of a group are taken."""
        groups = self.param_groups
        if self._changed[0] or len(groups) != len(self._seen):
            return False
        for group, seen in zip(groups, self._seen, strict=True):
            if group is not seen.group or not _same(group["params"], seen.params):
                return False
            if seen.told(group):
                continue
            if self._check_whole() != self._whole or not all(part.renew(group) for part in self._parts):
                return False
            seen.take(group)
        for part in self._parts:
            if not part.settled():
                return False
        return _same(self.state.values(), self._seen_state)

    def _settle(self) -> None:
        """Look at everything anew: groups, parameters, and what is in the state."""
        whole = self._check_whole()
        found: dict[Any, tuple[list[Any], list[int], list[Any]]] = {}
        number = count()
        for group in filter(itemgetter("params"), self.param_groups):
            params, numbers, groups = found.setdefault(self._make(group)._structure(), ([], [], []))
            for p in group["params"]:
                refuse(p)
                params.append(p)
                numbers.append(next(number))
                groups.append(group)
        if len(found) > 1 and (whole.clip_norm is not None or whole.on_nonfinite != "propagate"):
            raise ValueError(
                "clip_norm and on_nonfinite look at all groups together, whose rules must then be of the same kind: "
                "make two optimizers, or give the groups the same momentum, amsgrad and the like"
            )
        self._skipped, self._whole = self.skipped, whole
        self._parts = [
            Part(self.state, params, numbers, groups, self._make, self._names, whole, self._changed)
            for params, numbers, groups in found.values()
        ]
        self._seen = [Seen(group) for group in self.param_groups]
        self._changed[0] = False

    def _check_whole(self) -> Whole:
        first = self.param_groups[0]
        for group in self.param_groups[1:]:
            for name in _WHOLE:
                if group[name] != first[name]:
                    raise ValueError(
                        f"{name} concerns all parameters together: one group has {first[name]!r}, one {group[name]!r}"
                    )
        sparse = "touched" if self._only_sparse else first["sparse"]
        return Whole(first["clip_norm"], first["ema"], first["on_nonfinite"], sparse, self._only_sparse)

    @contextmanager
    def swap_ema(self) -> Iterator[None]:
        """Put the averages in the place of the parameters, and the parameters back at the end of the ``with``.

        Raises
        ------
        RuntimeError
            Without ``ema``, or within another ``swap_ema()``. A step within is one, too.

        Examples
        --------
        >>> import torch
        >>> from schuss.torch import SGD
        >>> w = torch.nn.Parameter(torch.zeros(1))
        >>> opt = SGD([w], lr=1.0, ema=0.5)
        >>> w.grad = torch.tensor([-1.0])
        >>> opt.step()
        >>> with opt.swap_ema():
        ...     w.item()
        0.5
        >>> w.item()
        1.0
        """
        if self.param_groups[0]["ema"] is None:
            raise RuntimeError("swap_ema() needs an optimizer that was made with ema=...")
        if self._averaged:
            raise RuntimeError("swap_ema() within swap_ema()")
        kept = []
        with torch.no_grad():
            for p in chain.from_iterable(group["params"] for group in self.param_groups):
                average = self.state.get(p, {}).get("ema")
                if average is not None:
                    kept.append((p, p.detach().clone()))
                    p.copy_(average)
        self._averaged = True
        try:
            yield
        finally:
            self._averaged = False
            with torch.no_grad():
                for p, old in kept:
                    p.copy_(old)

    def state_dict(self) -> dict[str, Any]:
        """Return groups and state as PyTorch does; its own optimizer goes on from them.

        Returns
        -------
        dict
            With ``"state"`` and ``"param_groups"``, to be written by ``torch.save``. The tensors are the live ones.
        """
        found = super().state_dict()
        return {**found, "state": _plain(found["state"])}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` of this class, or of PyTorch's, has returned.

        Parameters
        ----------
        state_dict : mapping
            Its tensors keep the dtype in which they were saved, as parameters of 16 bits have a master of 32; PyTorch
            casts them to the parameter's.
        """
        saved: dict[str, Any] = {}
        handle = self.register_load_state_dict_pre_hook(lambda _, given: saved.update(given))
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
        keys = chain.from_iterable(group["params"] for group in saved["param_groups"])
        params = chain.from_iterable(group["params"] for group in self.param_groups)
        for key, p in zip(keys, params, strict=True):
            for name, value in saved["state"].get(key, {}).items():
                if torch.is_tensor(value) and value.dtype != self.state[p][name].dtype:
                    self.state[p][name] = value.detach().to("cpu", copy=True)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "state": defaultdict(dict, _plain(self.state))}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._begin()
        super().__setstate__(state)
        self._given = {name: self.defaults.get(name, default) for name, default in _OPTIONS.items()}
        for group in self.param_groups:
            self._complete(group)

    def __init_subclass__(
        cls,
        *,
        rule: str | None = None,
        make: Callable[[Group], Optimizer] | None = None,
        names: Names = _NONE,
        only_sparse: bool = False,
    ) -> None:
        """Give a class of ours its rule, its signature, which is PyTorch's where it has it, and its docstring."""
        if rule is None:
            return
        assert make is not None
        cls._make = staticmethod(make)  # type: ignore[assignment,method-assign]
        cls._names, cls._only_sparse = names, only_sparse
        theirs = next(each for each in cls.__mro__[1:] if each.__module__.startswith("torch.optim"))
        has = theirs is not torch.optim.Optimizer
        own = [*signature(theirs if has else cls.__init__).parameters.values()]
        own = [each for each in own if each.name not in ("self", "options")]
        options = signature(Stepper.__init__).parameters
        more = [options[name].replace(kind=Parameter.KEYWORD_ONLY) for name in _OPTIONS]
        cls.__signature__ = Signature([*own, *more])
        model, data = _TABLE if only_sparse else _LINEAR
        its, ours = f"``torch.optim.{cls.__name__}``", f":class:`schuss.{rule}`"
        cls.__doc__ = _DOC.format(
            first=cls.__doc__,
            arguments=", ".join(each.name for each in own[1:]),
            meaning=(_THEIRS if has else _OURS).format(its=its, ours=ours),
            notes=f"State is exchanged with {its} both ways." if has else 'The state has a count "step".',
            references=f"See {ours}, and {its}." if has else f"See {ours}.",
            name=cls.__name__,
            model=model,
            data=data,
        )


def _checked(name: str, value: Any) -> Any:
    if name in CHOICES:
        return checked_option(name, value)
    return None if value is None else number(name, value, *RANGES[name])


def _plain(state: Mapping[Any, Any]) -> dict[Any, Any]:
    """State in dicts of PyTorch's kind."""
    return {key: dict(slots) if isinstance(slots, dict) else slots for key, slots in state.items()}


def _same(now: Any, before: list[Any]) -> bool:
    return len(now) == len(before) and all(map(is_, now, before))


class Seen:
    """A group as it was last looked at; its rate is read at each step."""

    def __init__(self, group: Group) -> None:
        self.group: Group = group
        self.params: list[Any] = list(group["params"])
        self.arguments: Callable[[Group], Any]
        self.values: Any
        self.writable: bool  # whether one is a tensor
        self.take(group)

    def take(self, group: Group) -> None:
        """Remember a group's arguments."""
        names = [name for name in group if name not in ("params", "lr", "param_names", "initial_lr", "updates")]
        self.arguments = itemgetter(*names)
        self.values = self.arguments(group)
        each = chain.from_iterable(value if isinstance(value, (tuple, list)) else (value,) for value in self.values)
        self.writable = any(isinstance(value, torch.Tensor) for value in each)

    def told(self, group: Group) -> bool:
        """Whether its arguments are the same, and none is a tensor, which may be written into."""
        try:
            return not self.writable and bool(self.arguments(group) == self.values)
        except KeyError:
            return False


class SGD(Stepper, torch.optim.SGD, rule="SGD", make=rules.sgd, names={"v": "momentum_buffer"}):
    """Stochastic gradient descent, with momentum or without."""


class Adagrad(Stepper, torch.optim.Adagrad, rule="AdaGrad", make=rules.adagrad, names={"h": "sum"}):
    """Adagrad: a step per element that shrinks with the squared gradients it has seen."""


class RMSprop(
    Stepper,
    torch.optim.RMSprop,
    rule="RMSprop",
    make=rules.rmsprop,
    names={"h": "square_avg", "a": "grad_avg", "v": "momentum_buffer"},
):
    """RMSprop: Adagrad that forgets, centered and with momentum where that is wanted."""


class Adadelta(
    Stepper, torch.optim.Adadelta, rule="AdaDelta", make=rules.adadelta, names={"h": "square_avg", "d": "acc_delta"}
):
    """Adadelta: steps in the parameter's own unit."""


class Adam(Stepper, torch.optim.Adam, rule="Adam", make=rules.adam, names={**MOMENTS, "h": "max_exp_avg_sq"}):
    """Adam, and AMSGrad."""


class AdamW(Stepper, torch.optim.AdamW, rule="AdamW", make=rules.adam, names={**MOMENTS, "h": "max_exp_avg_sq"}):
    """Adam with weight decay that is decoupled from the gradient, and AMSGrad."""


class SparseAdam(Stepper, torch.optim.SparseAdam, rule="Adam", make=rules.sparse_adam, names=MOMENTS, only_sparse=True):
    """Adam for sparse gradients alone: the rows that they do not name rest."""


class Adamax(Stepper, torch.optim.Adamax, rule="Adamax", make=rules.adamax, names={"m": "exp_avg", "u": "exp_inf"}):
    """Adamax: Adam by the infinity norm."""


class NAdam(Stepper, torch.optim.NAdam, rule="NAdam", make=rules.nadam, names=MOMENTS):
    """Adam with Nesterov's momentum."""


class RAdam(Stepper, torch.optim.RAdam, rule="RAdam", make=rules.radam, names=MOMENTS):
    """Adam that steps by momentum alone until the average of squares is known well enough."""


class ASGD(Stepper, torch.optim.ASGD, rule="SGD", make=rules.asgd, names={"x": "ax"}):
    """Averaged stochastic gradient descent: the state ``ax`` is the average of the parameters."""


class Rprop(Stepper, torch.optim.Rprop, rule="SGD", make=rules.rprop, names={"last": "prev", "s": "step_size"}):
    """Resilient backpropagation: the signs of whole batches' gradients move, and adapt, the step of each element."""


class Adafactor(
    Stepper,
    torch.optim.Adafactor,
    rule="Adafactor",
    make=rules.adafactor,
    names={"row": "row_var", "column": "col_var", "v": "variance"},
):
    """Adafactor: Adam's second moment in the memory of a row and a column."""


class Muon(Stepper, torch.optim.Muon, rule="Muon", make=rules.muon, names={"m": "momentum_buffer"}):
    """Muon: momentum of matrices, made orthogonal."""


class Lion(Stepper, rule="Lion", make=rules.lion, names={"m": "exp_avg"}):
    """Lion: every element moves by the same amount."""

    def __init__(
        self,
        params: Any,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        given = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, given, **options)


class Adan(
    Stepper,
    rule="Adan",
    make=rules.adan,
    names={"m": "exp_avg", "v": "exp_avg_diff", "n": "exp_avg_sq", "b": "previous_grad"},
):
    """Adan: Adam that also averages how the gradient changes."""

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        given = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, given, **options)


class LAMB(Stepper, rule="LAMB", make=rules.lamb, names=MOMENTS):
    """LAMB: Adam whose step is as long as the parameter."""

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        given = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, given, **options)


class LARS(Stepper, rule="LARS", make=rules.lars, names={"v": "velocity"}):
    """LARS: momentum whose step is a fixed share of the parameter's length."""

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        momentum: float = 0.9,
        trust: float = 0.001,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        given = {"lr": lr, "momentum": momentum, "trust": trust, "weight_decay": weight_decay, "maximize": maximize}
        super().__init__(params, given, **options)
