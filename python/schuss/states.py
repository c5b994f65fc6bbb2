"""An optimizer as a plain dict, and made again from one, of which nothing is taken on trust.

The dict holds the format, the class, arguments, counts and copies of the state arrays; all but those as JSON has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from math import isfinite
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .checks import count, shown
from .dtypes import is_bfloat16
from .memory import copy_of, held
from .registry import OPTIMIZERS
from .schedules import SCHEDULES, ReduceOnPlateau, Schedule

if TYPE_CHECKING:
    from .base import Optimizer
    from .options import LearningRate

FORMAT = 2
_LATER = {"sparse": "exact", "state_dtype": "float32", "master": "split"}  # arguments that were not there at first
_DTYPES = (np.float32, np.float64, np.int16, np.int8, np.uint8)  # of state, and bfloat16
_DEEPEST = 50  # schedules within schedules


# What is not an array, as JSON and back.


def _encode(value: Any, plateaus: list[Any], depth: int = 0) -> Any:
    """What is not an array as JSON has it. ``plateaus`` gathers the schedules that change: places may share one."""
    if depth > _DEEPEST:
        raise ValueError(f"more than {_DEEPEST} schedules stand within each other")
    if isinstance(value, Schedule):
        # One of the user's cannot be made again from its name, also where its name is that of one of ours.
        if SCHEDULES.get(type(value).__name__) is not type(value):
            return {"function": repr(value)}
        if any(value is each for each in plateaus):
            return {"same": next(i for i, each in enumerate(plateaus) if each is value)}
        if isinstance(value, ReduceOnPlateau):
            plateaus.append(value)
        found = {each.name: _encode(getattr(value, each.name), plateaus, depth + 1) for each in fields(value)}  # type: ignore[arg-type]
        return {"schedule": type(value).__name__, "fields": found}
    if isinstance(value, Mapping):
        pairs = value.items()
        return {"mapping": [[_encode(each, plateaus, depth + 1) for each in pair] for pair in pairs]}
    if isinstance(value, (tuple, list)):
        return {"tuple": [_encode(each, plateaus, depth + 1) for each in value]}
    if callable(value):
        return {"function": repr(value)}
    if value is None or isinstance(value, (bool, str)):
        return value
    number = value.item() if isinstance(value, np.generic) else value if isinstance(value, int) else float(value)
    return {"number": repr(number)} if isinstance(number, float) and not isfinite(number) else number


def _decode(value: Any, plateaus: list[Any], depth: int = 0) -> Any:
    if depth > _DEEPEST:
        raise ValueError(f"more than {_DEEPEST} schedules stand within each other")
    if not isinstance(value, dict):
        return value
    (kind,) = value.keys() & {"schedule", "mapping", "tuple", "function", "number", "same"}
    if kind == "number":
        return float(value["number"])
    if kind == "same":
        return plateaus[count("the number of a schedule", value["same"], 0)]
    if kind == "mapping":
        return {
            _decode(name, plateaus, depth + 1): _decode(given, plateaus, depth + 1) for name, given in value["mapping"]
        }
    if kind == "tuple":
        return tuple(_decode(each, plateaus, depth + 1) for each in value["tuple"])
    if kind == "function":
        raise ValueError(
            f"a learning rate was the function {value['function']}, which a checkpoint cannot hold: "
            "give lr=... in its place, or groups=... where it is a group's"
        )
    cls: Any = SCHEDULES[value["schedule"]]
    found = {name: _decode(given, plateaus, depth + 1) for name, given in value["fields"].items()}
    if set(found) != {each.name for each in fields(cls)}:
        raise ValueError(f"{cls.__name__} has other fields than {', '.join(found)}")
    schedule = cls(**{each.name: found.pop(each.name) for each in fields(cls) if each.init})
    for name, given in found.items():
        object.__setattr__(schedule, name, given)
    schedule._check()
    if cls is ReduceOnPlateau:
        plateaus.append(schedule)
    return schedule


def state_dict(opt: Optimizer) -> dict[str, Any]:
    """Return all there is to know of an optimizer; the state arrays are copies.

    Parameters
    ----------
    opt : Optimizer
        It is left as it is.

    Returns
    -------
    dict
        As :meth:`schuss.Optimizer.state_dict` returns it.
    """
    refuse_share(opt, "state_dict()")
    with opt._engine:
        return {**without_arrays(opt), "state": opt._copied_state()}


def refuse_share(opt: Optimizer, what: str) -> None:
    """Refuse to take for a whole optimizer what schuss.mpi.Sharded has."""
    if opt._shared:
        raise RuntimeError(
            f"{what}: the state of this optimizer is one rank's share; use save() or gather() of its "
            "schuss.mpi.Sharded, on all ranks"
        )


def without_arrays(opt: Optimizer) -> dict[str, Any]:
    """All that :func:`state_dict` returns but the state."""
    plateaus: list[Any] = []
    return {
        "format": FORMAT,
        "class": type(opt).__name__,
        "arguments": {name: _encode(getattr(opt, name), plateaus) for name in opt._arguments},
        "t": opt.t,
        "skipped": opt.skipped,
        "memory": opt._memories(opt.t),
    }


def savable(opt: Optimizer) -> dict[str, Any]:
    """The same, for a file: what could not be read from it is refused, and must not take the place of what can."""
    name = type(opt).__name__
    if OPTIMIZERS.get(name, type(opt)) is not type(opt):
        raise ValueError(
            f"your class {name} is named like one of ours, which is what would be read; give it another name"
        )
    saved = without_arrays(opt)
    if any("function" in text for text in _kinds(saved["arguments"])):
        raise ValueError(
            "lr is a function, which a checkpoint cannot hold; use a schedule of schuss.schedules, or keep state_dict()"
        )
    made_from({**saved, "state": {}}, type(opt))
    return saved


def _kinds(value: Any) -> list[Any]:
    """All keys within an encoded value."""
    if isinstance(value, Mapping):
        return [*value, *(key for each in value.values() for key in _kinds(each))]
    if isinstance(value, list):
        return [key for each in value for key in _kinds(each)]
    return []


def restore(
    opt: Optimizer, saved: Mapping[str, Any], lr: LearningRate | None = None, groups: Mapping[str, Any] | None = None
) -> None:
    """Make of ``opt`` what was saved; where anything is wrong with that, say what, and change nothing."""
    refuse_share(opt, "load_state_dict()")
    made = made_from(saved, type(opt), {"lr": lr, "groups": groups})
    with opt._engine:
        go_on(opt, made, made._memories(made.t), made.t, made.skipped, made._engine.state)


def made_from(
    saved: Mapping[str, Any], cls: type[Optimizer] | None = None, given: Mapping[str, Any] = MappingProxyType({})
) -> Optimizer:
    """Make an optimizer from a saved dict, of which nothing is taken on trust."""
    if not isinstance(saved, Mapping):
        raise TypeError(f"a saved state is a dict, got {type(saved).__name__}")
    missing = {"format", "class", "arguments", "t", "skipped", "memory", "state"} - set(saved)
    if missing:
        raise ValueError(f"this is no state of a schuss optimizer: it lacks {', '.join(sorted(missing))}")
    if saved["format"] == 1:
        try:
            saved = _of_format_1(saved)
        except (TypeError, KeyError, IndexError, AttributeError) as error:
            raise ValueError(f"this is no state of format 1: {error!r}") from error
    if saved["format"] != FORMAT:
        raise ValueError(
            f"the state has format {shown(saved['format'])}, this version of schuss reads formats up to {FORMAT}"
        )
    name = saved["class"]
    if not isinstance(name, str) or name not in (*OPTIMIZERS, cls and cls.__name__):
        raise ValueError(
            f"the state is of a class {shown(name)}, which this version of schuss does not have; "
            "one of your own goes to load(path, classes=[...])"
        )
    if cls is not None and cls.__name__ != name:
        raise ValueError(f"the state is of {name}, this optimizer is {cls.__name__}")
    cls = cls or OPTIMIZERS[name]
    if isinstance(saved["arguments"], Mapping):
        saved = {**saved, "arguments": {**_LATER, **saved["arguments"]}}
    if not isinstance(saved["arguments"], Mapping) or set(saved["arguments"]) != set(cls._arguments):
        raise ValueError(f"the state's arguments are not those of {name}: {', '.join(cls._arguments)}")
    for number in ("t", "skipped"):
        if isinstance(saved[number], bool) or not isinstance(saved[number], int) or not 0 <= saved[number] < 2**62:
            raise ValueError(f"the state's {number} must be a whole number, got {shown(saved[number])}")
    given = {name: value for name, value in given.items() if value is not None}
    plateaus: list[Any] = []
    try:
        decoded: dict[str, Any] = {}
        for argument, value in saved["arguments"].items():
            if argument not in given:
                decoded[argument] = _decode(value, plateaus)
                continue
            decoded[argument] = given[argument]
            with suppress(ValueError):  # another argument may share its schedule
                _decode(value, plateaus)
        opt = made_of(cls, decoded)
        state = _checked_state(opt, saved["state"])
        go_on(opt, opt, _memories_of(opt, saved, "groups" in given), saved["t"], saved["skipped"], state)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise ValueError(f"the state of {name} cannot be restored: {error}") from error
    return opt


def _memories_of(opt: Optimizer, saved: Mapping[str, Any], regrouped: bool) -> list[Any]:
    """What the optimizer and its groups are to remember; of groups that take the place of the saved ones by pattern."""
    memory, encoded = saved["memory"], saved["arguments"]["groups"]
    pairs = encoded["mapping"] if encoded else []
    if not isinstance(memory, list) or len(memory) != 1 + len(pairs):
        raise ValueError(f"the memory must be a list of one for the optimizer and each of {len(pairs)} groups")
    if not regrouped:
        return memory
    known = {
        (pattern, dict(given["mapping"]).get("rule")): each
        for (pattern, given), each in zip(pairs, memory[1:], strict=True)
    }
    others = [
        known.get((name, given.get("rule")), None if "rule" in given else memory[0])
        for name, given in opt.groups.items()
    ]
    return [memory[0], *others]


def _of_format_1(saved: Mapping[str, Any]) -> dict[str, Any]:
    """A state as it was kept before: with the workspace of two rules, and other words for what some remember."""
    state, memory = saved["state"], saved["memory"]
    if saved["class"] in ("Muon", "Adafactor") and isinstance(state, Mapping):
        state = {name: {slot: array for slot, array in slots.items() if slot != "u"} for name, slots in state.items()}
    if str(saved["class"]).startswith("ScheduleFree"):
        memory = [{"weights": [each["sums"][0], *each["sums"][2:]]} for each in memory]
    return {**saved, "format": 2, "state": state, "memory": memory}


def _checked_state(opt: Optimizer, state: Any) -> dict[Any, dict[str, NDArray[Any]]]:
    """Copies of the state arrays, which must be those that the optimizer would have made."""
    if not isinstance(state, Mapping):
        raise ValueError(f"the state must be a dict of name -> slots, got {type(state).__name__}")
    found: dict[Any, dict[str, NDArray[Any]]] = {}
    for name, slots in state.items():
        if not isinstance(slots, Mapping):
            raise ValueError(f"the state of {name!r} must be a dict of slot -> array, got {type(slots).__name__}")
        for slot, array in slots.items():
            if type(array) is not np.ndarray or not (array.dtype in _DTYPES or is_bfloat16(array.dtype)):
                what = getattr(array, "dtype", type(array).__name__)
                raise ValueError(
                    f"the state {slot!r} of {name!r} must be an array of float32, float64 or fewer bits, got {what}"
                )
        member: Optimizer = opt._member_of(name)
        own = member._structure()[1]
        full = member._like(slots) if set(own) <= set(slots) else None
        expected = {} if full is None else opt._make_state(name, full)
        if not set(slots) == set(expected) >= set(own):
            wanted = ", ".join(expected or own) or "none"
            raise ValueError(
                f"the state of {name!r} has the slots {', '.join(slots)}; {type(member).__name__} has {wanted}"
            )
        for slot, array in slots.items():
            if (array.shape, array.dtype) != (expected[slot].shape, expected[slot].dtype):
                raise ValueError(
                    f"the state {slot!r} of {name!r} is {array.dtype} of shape {array.shape}, "
                    f"expected {expected[slot].dtype} of shape {expected[slot].shape}"
                )
        found[name] = {
            slot: copy_of(array) if array.dtype in (np.float32, np.float64) and slot != "master" else held(array)
            for slot, array in slots.items()
        }
    return found


def made_of(cls: type[Optimizer], given: Mapping[str, Any]) -> Optimizer:
    """An optimizer with these arguments, of which those that are None are not given, but for one.

    They are the rule's: a class that inherits from it may take others.
    """
    rule = cls._rule
    made: Optimizer = rule(**{name: value for name, value in given.items() if value is not None or name == "master"})
    if rule is cls:
        return made
    opt: Optimizer = cls.__new__(cls)
    for name, value in vars(made).items():
        if name not in ("_engine", "_members"):
            object.__setattr__(opt, name, value)
    object.__setattr__(opt, "_members", opt._members_with({}))
    return opt


def go_on(
    opt: Optimizer, made: Optimizer, memories: Sequence[Any], t: int, skipped: int, state: dict[Any, Any]
) -> None:
    """Make of ``opt`` what is ``made``, which may be the same, after ``t`` steps: all of it at once."""
    for member, memory in zip((made, *made._members), memories, strict=True):
        if memory is not None:
            member._remember(memory, t)
    names = {*made._arguments, *made._remembering, "_groups", "_members"} - {"groups"}
    attributes = {name: getattr(made, name, None) for name in names}
    opt._engine.restore(opt, attributes, t, skipped, state)


def rebuilt(
    cls: type[Optimizer],
    given: dict[str, Any],
    own: dict[str, Any],
    memories: list[Any],
    t: int,
    skipped: int,
    state: dict[Any, Any],
) -> Optimizer:
    """A copy of an optimizer, for pickle and copy."""
    opt = made_of(cls, given)
    for name, value in own.items():
        object.__setattr__(opt, name, value)
    object.__setattr__(opt, "_members", opt._members_with({}))
    go_on(opt, opt, memories, t, skipped, {name: writable(slots) for name, slots in state.items()})
    return opt


def writable(slots: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """State as it can be stepped: what a pickle has in buffers of its own may be read-only, as what joblib maps is."""
    return {slot: array if array.flags.writeable else copy_of(array) for slot, array in slots.items()}
