"""What a rank is given for a step: looked at as an update of one process does, and told to the other ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import numpy as np

from .. import _core
from ..base import Optimizer
from ..checks import shown
from ..files import sum_of
from ..options import Grads, Params
from ..rows import Rows
from ..schedules import Schedule
from ..shares import BLOCK, Shares, Tensor
from ..views import view_of
from .moves import Line

ROWS, NONE = "Rows", "None"


class Given(NamedTuple):
    """The parameters, how they lie, and the gradients of some parts of the batch, by parameters' numbers."""

    params: list[Any]
    tensors: tuple[Tensor, ...]
    kinds: tuple[str, ...]  # of the gradients: the dtype of an array, or one of those above
    grads: list[list[Any]]


def look_at(params: Params, grads: Sequence[Grads], before: Given | None, ranks: int) -> Given:
    """Check all that can be checked before it is known who has which share; ``before`` is the last that was taken."""
    of_parts = [_plain(each) for each in grads]
    for each in of_parts:
        _core.check(params, each)
    names = list(params.keys()) if hasattr(params, "keys") else list(range(len(params)))
    given = [params[name] for name in names]
    listed = [[each[name] for name in names] for each in of_parts]
    kinds = _kinds(names, listed)
    refuse_shared(listed, names)
    if before is not None and _are_alike(names, given, before):
        return Given(given, before.tensors, kinds, listed)
    tensors = []
    for name, p, kind in zip(names, given, kinds, strict=True):
        if not isinstance(p, np.ndarray):
            raise TypeError(
                f"params[{name!r}] is {shown(p)}: sharded parameters are arrays; wrap it in numpy.array(...)"
            )
        tensor = Tensor.of(name, p, by_rows=True)
        # Where it costs next to nothing rows stay whole, in case that a gradient by rows comes later.
        small = p.size <= 8 * BLOCK or tensor.grain * 8 * ranks <= p.size
        if kind != ROWS and (p.ndim < 2 or not tensor.straight or not small):
            tensor = tensor._replace(rows_stay=False)
        if kind == ROWS and not tensor.straight:
            raise ValueError(
                f"params[{name!r}]: for a gradient by rows each row must lie in one piece of memory, and one after "
                "another; use a C-contiguous copy of the parameter"
            )
        tensors.append(tensor)
    if before is not None:
        tensors = _like_before(tensors, before.tensors)
    return Given(given, tuple(tensors), kinds, listed)


def _plain(grads: Grads) -> Any:
    """As a dict or a list, read once; other things are left for the check to refuse."""
    if isinstance(grads, (list, tuple)):
        return [_seen(each) for each in grads]
    return {name: _seen(grads[name]) for name in grads.keys()} if hasattr(grads, "keys") else grads  # noqa: SIM118


def _seen(g: Any) -> Any:
    """A gradient as an array, where it is one of another library's."""
    view = None if isinstance(g, (np.ndarray, Rows)) or g is None else view_of(g)
    return g if view is None else view


def _kinds(names: Sequence[Any], grads: Sequence[Sequence[Any]]) -> tuple[str, ...]:
    found = []
    for i, name in enumerate(names):
        kinds = [_kind(each[i]) for each in grads]
        for part, kind in enumerate(kinds):
            if kind != kinds[0]:
                raise ValueError(
                    f"grads[{name!r}] is {kinds[0]} in the first part of the batch and {kind} in part {part} of this "
                    "rank; it must be of one kind in all"
                )
        found.append(kinds[0])
    return tuple(found)


def _kind(g: Any) -> str:
    if g is None:
        return NONE
    return ROWS if type(g) is Rows else str(np.asarray(g).dtype.name)


def _are_alike(names: Sequence[Any], given: Sequence[Any], before: Given) -> bool:
    """Whether these are the same arrays, lying as they did."""
    if len(names) != len(before.tensors):
        return False
    same = zip(names, given, before.params, before.tensors, strict=True)
    return all(p is old and name == tensor.name and p.shape == tensor.shape for name, p, old, tensor in same)


def _like_before(tensors: Sequence[Tensor], before: Sequence[Tensor]) -> list[Tensor]:
    """The tensors whose shares there are already; they must be these."""
    names, old_names = [tensor.name for tensor in tensors], [tensor.name for tensor in before]
    if names != old_names:
        raise ValueError(f"params has the names {shown(names)}; the ranks' shares were made of {shown(old_names)}")
    for new, old in zip(tensors, before, strict=True):
        if (new.shape, new.dtype) != (old.shape, old.dtype):
            raise ValueError(
                f"params[{new.name!r}] is {new.dtype} of shape {new.shape}, but its shares were made for "
                f"{old.dtype} of shape {old.shape}; a changed parameter needs a new optimizer"
            )
        if new.way != old.way:
            raise ValueError(
                f"params[{new.name!r}] lies in another order than when its shares were made: its axes go by other "
                "strides; copy the new values into an array like the old one"
            )
    return list(before)


def sums_of(given: Given) -> list[tuple[str, str]]:
    """A checksum of each parameter."""
    return [
        (f"the values of params[{tensor.name!r}]", f"those of checksum {sum_of(np.asarray(p, order='C')):08x}")
        for tensor, p in zip(given.tensors, given.params, strict=True)
    ]


def refuse_shared(grads: Sequence[Sequence[Any]], names: Sequence[Any]) -> None:
    """Refuse gradients of two parts that lie in the same memory: the earlier one's are no longer there."""
    for part, (these, *others) in enumerate(grads[i:] for i in range(len(grads) - 1)):
        for later, those in enumerate(others, part + 1):
            for name, a, b in zip(names, these, those, strict=True):
                a, b = (each.values if type(each) is Rows else each for each in (a, b))
                if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and a.size and np.may_share_memory(a, b):
                    raise ValueError(
                        f"grads[{name!r}] of this rank's parts {part} and {later} lie in the same memory; copy those "
                        "of each part, as what computes them may use its arrays again"
                    )


def place_rows(given: Given, shares: Shares) -> None:
    """Refuse gradients by rows for what is not cut between rows."""
    for tensor, kind in zip(shares.tensors, given.kinds, strict=True):
        if kind == ROWS and not tensor.rows_stay and len(tensor.shape) > 1:
            raise ValueError(
                f"grads[{tensor.name!r}] is by rows, but it was none when the shares were made, and they were cut "
                "within rows; let the first step have Rows for it, if with no row"
            )


def lines_of(given: Given) -> dict[int, Line]:
    """What takes the slices of each parameter's walk."""
    return {i: tensor.line(p) for i, (tensor, p) in enumerate(zip(given.tensors, given.params, strict=True))}


def facts_of(given: Given, opt: Optimizer) -> list[tuple[str, str]]:
    """What all ranks must have in common, each as a label and a text."""
    facts = [("the class of the optimizer", type(opt).__name__), ("t", str(opt.t)), ("skipped", str(opt.skipped))]
    facts += [(f"the optimizer's {name}", _text(getattr(opt, name, None))) for name in opt._arguments]
    facts.append(("what the optimizer remembers", repr(opt._memories(opt.t))))
    for i, (tensor, kind) in enumerate(zip(given.tensors, given.kinds, strict=True)):
        facts.append((f"the name of parameter {i}", repr(tensor.name)))
        facts.append((f"the shape of params[{tensor.name!r}]", str(tensor.shape)))
        facts.append((f"the dtype of params[{tensor.name!r}]", tensor.dtype))
        facts.append((f"the order of strides of params[{tensor.name!r}]", str(tensor.way)))
        facts.append((f"grads[{tensor.name!r}]", kind))
    return facts


def _text(value: Any) -> str:
    """What ranks compare of an argument: of functions, and things of the user's, that there is one."""
    if isinstance(value, Schedule) and is_dataclass(value):
        return f"{type(value).__name__}({', '.join(_text(getattr(value, each.name)) for each in fields(value))})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_text(key)}: {_text(each)}' for key, each in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"({', '.join(map(_text, value))})"
    if value is None or isinstance(value, (bool, int, float, str, np.generic)):
        return repr(value)
    return "a function" if callable(value) else f"a {type(value).__name__}"
