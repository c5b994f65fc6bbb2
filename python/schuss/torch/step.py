"""What the engine asks of tensors: the parameters of one kernel are stepped in one go, whatever their group.

PyTorch counts the steps of each parameter by itself, and leaves out those without a gradient. So the parameters of a
group that have made as many steps are a cohort, which is to the engine what a group is. State is in
``optimizer.state``, in the tensors that PyTorch's own optimizer would have there; their memory is what is worked on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from itertools import compress
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..base import Optimizer
from ..dtypes import computed
from ..formats import decode, number_of
from ..options import CLIP_EPS, ON_NONFINITE, Orders
from ..rows import Rows
from .rules import Names, counts_steps, numbers_after, remember
from .tensors import array_of, known, learn, tensor_of, torch

Group = MutableMapping[str, Any]
Make = Callable[[Group], Optimizer]
GRAD = attrgetter("grad")
increment_version = torch.autograd.graph.increment_version


class Slots(dict[str, Any]):
    """A parameter's state in PyTorch's dict: it notes that something else was put into it."""

    def __init__(self, items: Mapping[str, Any], changed: list[bool]) -> None:
        super().__init__(items)
        self.changed: list[bool] = changed

    def put(self, name: str, value: Any) -> None:
        """Put what the engine knows of."""
        super().__setitem__(name, value)


def _noting(method: Any) -> Any:
    def noting(self: Slots, *args: Any, **kwargs: Any) -> Any:
        self.changed[0] = True
        return method(self, *args, **kwargs)

    return noting


for _name in ("__setitem__", "__delitem__", "__ior__", "clear", "pop", "popitem", "setdefault", "update"):
    setattr(Slots, _name, _noting(getattr(dict, _name)))


class Whole(NamedTuple):
    """What concerns all parameters together."""

    clip_norm: float | None
    ema: float | None
    on_nonfinite: str
    sparse: str
    only_sparse: bool


class Cohort:
    """Parameters of one group that have made t steps, by their places; asked for the scalars of the next one."""

    def __init__(self, group: Group, rule: Optimizer, t: int) -> None:
        self.group: Group = group
        self.rule: Optimizer = rule
        self.t: int = t
        self.lr: float = 0.0
        self.places: list[int] = []
        self.index: Any = slice(None)  # the same, for NumPy

    def _scalars(self, lr: float, t: int) -> tuple[float, ...]:
        return self.rule._scalars(lr, self.t + 1)

    def _ratios(self, scalars: tuple[float, ...], workspaces: list[NDArray[Any]]) -> list[float]:
        return self.rule._ratios(scalars, workspaces)


class Part:
    """The parameters whose rules have the same kernel and slots, and the engine that steps them.

    ``numbers`` are those by which their random numbers go, and ``groups`` the group of each. ``state`` is PyTorch's.
    """

    def __init__(
        self,
        state: MutableMapping[Any, Any],
        params: list[Any],
        numbers: list[int],
        groups: list[Group],
        make: Make,
        names: Names,
        whole: Whole,
        changed: list[bool],
    ) -> None:
        self.params: list[Any] = params
        self.cohorts: list[Cohort] = []
        self._numbers, self._groups_of = numbers, groups
        self._state, self._make, self._names, self._whole, self._changed = state, make, names, whole, changed
        self._may_skip = whole.on_nonfinite == "skip"
        self._look_at_each = whole.only_sparse  # of the gradients, once there was one that is not dense
        self._fresh: dict[int, dict[str, NDArray[Any]]] = {}
        rule = make(groups[0])
        self._counts = counts_steps(rule)
        dtype = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
        kept = numbers_after(rule, groups[0], 0.0, 1) if self._counts else {}
        self._counters = {name: torch.zeros(len(params), dtype=dtype) for name in kept}
        self._views = {name: tensor.numpy() for name, tensor in self._counters.items()}
        for place, p in enumerate(params):
            if state.get(p):
                for name, view in self._views.items():
                    view[place] = float(state[p].get(name, view[place]))
        ts = [self._steps_made(p) for p in params]
        self._gather(ts)
        for place, p in enumerate(params):
            if state.get(p):
                self._publish(place, {})
        self._written = [(tensor, tensor._version) for tensor in self._counters.values()]
        self.engine: _core.Engine = _core.Engine(True)
        # The random numbers by which we round go by the updates; a loaded group tells how many there were.
        self._random = rule.state_dtype != "float32" or rule.master is None
        self.engine.restore(self, {}, max([*ts, *(group.get("updates", 0) for group in groups)]), 0, {})

    def _steps_made(self, p: Any) -> int:
        state = self._state.get(p, {})
        if "step" in state:
            return int(state["step"])
        return int(any(state.get(name) is not None for name in self._names.values()))

    def _gather(self, ts: Sequence[int]) -> None:
        """Make the cohorts of parameters that have made these steps."""
        found: dict[tuple[int, int], Cohort] = {}
        for place, (group, t) in enumerate(zip(self._groups_of, ts, strict=True)):
            key = id(group), t
            if key not in found:
                found[key] = Cohort(group, self._make(group), t)
                if t:
                    remember(found[key].rule, {name: float(view[place]) for name, view in self._views.items()})
            found[key].places.append(place)
        self.cohorts = list(found.values())
        self._cohort_of = {place: cohort for cohort in self.cohorts for place in cohort.places}
        for cohort in self.cohorts:
            if len(self.cohorts) > 1:
                cohort.index = np.array(cohort.places)

    def settled(self) -> bool:
        """Whether nobody has written into the counts of steps."""
        for tensor, version in self._written:  # noqa: SIM110  (a loop is faster)
            if tensor._version != version:
                return False
        return True

    def renew(self, group: Group) -> bool:
        """Take a group's new arguments. False where with them the state would be another."""
        for cohort in self.cohorts:
            if cohort.group is group:
                rule, before = self._make(group), cohort.rule
                kept = [(each._structure(), each.state_dtype, each.master) for each in (rule, before)]
                if kept[0] != kept[1]:
                    return False
                for name in before._remembering:
                    object.__setattr__(rule, name, getattr(before, name))
                cohort.rule = rule
        self.engine.change(self, {})
        return True

    def step(self, scale: float) -> None:
        """Step those that have a gradient."""
        params, engine = self.params, self.engine
        grads = list(map(GRAD, params))
        if grads[0] is None and all(grad is None for grad in grads):
            return
        for cohort in self.cohorts:
            cohort.lr = float(cohort.group["lr"])
        skipped = engine.skipped if self._may_skip else 0
        self._update(grads, scale)
        if self._may_skip and engine.skipped != skipped:
            return
        here = None if engine.stepped == len(params) else [grad is not None for grad in grads]
        increment_version(params if here is None else list(compress(params, here)))
        self._advance(here)
        if self._random:
            for cohort in self.cohorts:
                cohort.group["updates"] = engine.t
        for place, arrays in self._fresh.items():
            self._publish(place, arrays)

    def _update(self, grads: list[Any], scale: float) -> None:
        self._fresh = {}
        if not self._look_at_each:
            try:
                return self.engine.update(self, self.params, grads, scale)
            except (RuntimeError, TypeError):
                # Of one that has no memory of its own to show, another sign than that has, or a class not met before.
                if all(
                    grad is None or (grad.layout == torch.strided and not grad.is_neg() and type(grad) in known)
                    for grad in grads
                ):
                    raise
            self._look_at_each = True
            self._fresh = {}
        taken = [self._taken(grad, p) for grad, p in zip(grads, self.params, strict=True)]
        self.engine.update(self, self.params, taken, scale)
        if self.engine.behind:
            self.engine.catch_up(self.params, None)  # as the next forward pass may read any row

    def _taken(self, grad: Any, p: Any) -> Any:
        """A gradient as the engine takes it: sparse ones by rows where they are."""
        if grad is None:
            return None
        if not learn(type(grad)):
            kind = type(grad)
            raise TypeError(f"a gradient is a {kind.__module__}.{kind.__qualname__}, which is more than its memory")
        if grad.layout == torch.strided:
            if self._whole.only_sparse:
                raise RuntimeError("SparseAdam takes sparse gradients alone; use Adam for dense ones")
            return grad.resolve_neg()
        if grad.layout == torch.sparse_coo and grad.sparse_dim() == 1:
            values = grad._values().contiguous()
            wide = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
            return Rows(grad._indices()[0].contiguous().numpy(), array_of(wide))
        return grad.to_dense()

    def _advance(self, here: list[bool] | None) -> None:
        """Count the step of those that have made it."""
        ts = None
        for cohort in self.cohorts:
            made = cohort.places if here is None else [place for place in cohort.places if here[place]]
            if not made:
                continue
            all_of_it = len(made) == len(cohort.places)
            if self._counts:
                index = cohort.index if all_of_it else np.array(made)
                for name, value in numbers_after(cohort.rule, cohort.group, cohort.lr, cohort.t + 1).items():
                    self._views[name][index] = value
            if all_of_it:
                cohort.t += 1
            else:
                ts = ts or {}
                ts.update(dict.fromkeys(made, cohort.t + 1))
        if self._whole.only_sparse:  # PyTorch's SparseAdam counts in integers
            for p, made in zip(self.params, self._views["step"], strict=True):
                if p in self._state:
                    self._state[p].put("step", int(made))
        if ts is not None:
            self._gather([ts.get(place, self._cohort_of[place].t) for place in range(len(self.params))])
            self.engine.change(self, {})
            self.engine.forget_plans()

    def _publish(self, place: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Show a parameter's state where PyTorch has it."""
        p = self.params[place]
        slots = self._state[p]
        if not isinstance(slots, Slots) or slots.changed is not self._changed:
            slots = self._state[p] = Slots(slots, self._changed)
        for slot, array in arrays.items():
            shown = slots.get(self._name(slot))
            if shown is None or not np.shares_memory(array_of(shown), array):
                slots.put(self._name(slot), tensor_of(array))
        for name, counter in self._counters.items():
            slots.put(name, int(counter[place]) if self._whole.only_sparse else counter[place])

    def _name(self, slot: str) -> str:
        plain = slot.removesuffix("_scale")
        return self._names.get(plain, plain) + slot[len(plain) :]

    # The engine asks what follows, as it asks an optimizer of ours: see cpp/engine.hpp.

    @property
    def lr(self) -> float:
        """The rate of the first cohort."""
        return self.cohorts[0].lr

    @property
    def _members(self) -> tuple[Cohort, ...]:
        return tuple(self.cohorts[1:])

    @property
    def _groups(self) -> Part:
        return self

    def numbers_of(self, places: Sequence[int], params: Any) -> list[int]:
        """The number of each parameter's cohort."""
        return [self.cohorts.index(self._cohort_of[place]) for place in places]

    def _scalars(self, lr: float, t: int) -> tuple[float, ...]:
        return self.cohorts[0]._scalars(lr, t)

    def _structures(self) -> list[tuple[str, tuple[str, ...], bool]]:
        return [cohort.rule._structure() for cohort in self.cohorts]

    def _orders(self) -> Orders:
        whole = self._whole
        return (
            -1.0 if whole.clip_norm is None else whole.clip_norm,
            CLIP_EPS,
            ON_NONFINITE.index(whole.on_nonfinite),
            -1.0 if whole.ema is None else whole.ema,
            False,
            whole.sparse == "touched",
            False,
            [cohort.rule._order() for cohort in self.cohorts],
        )

    def _place_of(self, place: int) -> tuple[int, int, bool]:
        return number_of(self._numbers[place]), 0, self._cohort_of[place].rule.master is not None

    def _workspace(self, place: int, p: Any) -> NDArray[Any]:
        return self._cohort_of[place].rule._workspace(place, array_of(p))

    def _ratios(self, scalars: tuple[float, ...], workspaces: list[NDArray[Any]]) -> list[float]:
        return self.cohorts[0]._ratios(scalars, workspaces)

    def _make_state(self, place: int, p: Any) -> dict[str, NDArray[Any]]:
        """The state of a parameter that the engine has not met: what PyTorch's dict has of it, else new."""
        cohort, array = self._cohort_of[place], array_of(p)
        rule = cohort.rule
        object.__setattr__(rule, "lr", cohort.lr)  # at which the steps of Rprop begin
        made = rule._kept_state(place, array)
        there = self._state.get(p) or {}
        wanted = {*made, *(f"{slot}_scale" for slot in rule._slots())}
        found = {slot: array_of(there[self._name(slot)]) for slot in wanted if there.get(self._name(slot)) is not None}
        for slot in found.keys() & made.keys():
            if found[slot].shape != made[slot].shape:
                raise ValueError(
                    f"the state {self._name(slot)!r} of a parameter of shape {array.shape} has shape "
                    f"{found[slot].shape}; take that of the same model"
                )
        own = [slot for slot in rule._slots() if slot in found]
        if any(found[slot].dtype != made[slot].dtype for slot in own):  # it was kept in another format
            dtype = computed(array.dtype)
            wide = {slot: decode(found, slot).astype(dtype, copy=False) for slot in own}
            made.update(rule._kept({**rule._new_state(place, array), **wide}, array))
            found = {slot: each for slot, each in found.items() if slot in ("remainder", "master", "ema")}
        for slot, each in found.items():
            if slot in made and each.dtype == made[slot].dtype:
                fits = each.flags.c_contiguous or rule.state_dtype == "float32"
                made[slot] = each if fits and each.flags.writeable else np.array(each, order="C")
        self._fresh[place] = made
        return made
