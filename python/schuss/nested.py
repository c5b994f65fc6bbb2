"""Parameters within dicts, lists, tuples and dataclasses: their names are paths, as in "layers/0/W"."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from itertools import count
from typing import Any, TypeVar

import numpy as np

from . import _core
from .checks import shown

__all__ = ["register_dataclass"]

_Class = TypeVar("_Class", bound=type)
_NUMBERS = (bool, int, float, complex, np.generic)
_DEEPEST = 50

_registered: dict[str, type[Any]] = {}


def register_dataclass(kind: _Class) -> _Class:
    """Let instances of a dataclass hold parameters, and gradients, by the names of its fields.

    Parameters
    ----------
    kind : type
        A dataclass, each of whose fields is an array, or holds some.

    Returns
    -------
    type
        The same class: it is a decorator, too.

    Raises
    ------
    TypeError
        If it is no dataclass.
    ValueError
        If another class of this name has been registered: checkpoints name it.

    See Also
    --------
    schuss.Optimizer.update : Which takes them; ``jax.tree_util.register_dataclass`` is the like of it.

    Examples
    --------
    >>> import numpy as np, schuss
    >>> from dataclasses import dataclass
    >>> @schuss.register_dataclass
    ... @dataclass
    ... class Affine:
    ...     W: np.ndarray
    ...     b: np.ndarray
    >>> net = [Affine(np.ones((2, 2)), np.zeros(2)), Affine(np.ones((2, 1)), np.zeros(1))]
    >>> grads = [Affine(np.ones((2, 2)), np.ones(2)), Affine(np.ones((2, 1)), np.ones(1))]
    >>> opt = schuss.SGD(lr=0.5, groups={"*/b": {"lr": 0.1}})
    >>> opt.update(net, grads)
    >>> net[0].W[0], net[1].b
    (array([0.5, 0.5]), array([-0.1]))
    """
    if not isinstance(kind, type) or not is_dataclass(kind):
        raise TypeError(f"register_dataclass() takes a dataclass, got {shown(kind)}")
    name = f"{kind.__module__}.{kind.__qualname__}"
    known = _registered.get(name, kind)
    if known is not kind and [each.name for each in fields(known)] != [each.name for each in fields(kind)]:
        raise ValueError(f"another dataclass {name}, with other fields, has been registered")
    _registered[name] = kind
    return kind


def is_nest(value: Any) -> bool:
    """Whether a value holds parameters by name or number. A list of numbers is one array that is still to be made."""
    if isinstance(value, np.ndarray):
        return False
    if isinstance(value, (list, tuple)):
        return not any(isinstance(each, _NUMBERS) for each in value)
    return isinstance(value, Mapping) or type(value) in _registered.values()


def _children(value: Any) -> Iterator[tuple[Any, Any]]:
    """What a container holds, by its own keys, numbers or fields."""
    if isinstance(value, Mapping):
        yield from ((key, value[key]) for key in value)
    elif isinstance(value, (list, tuple)):
        yield from enumerate(value)
    else:
        yield from ((each.name, getattr(value, each.name)) for each in fields(value))


def _below(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The same by their paths."""
    for key, each in _children(value):
        if not isinstance(key, (str, int)):
            raise TypeError(f"{shown(key)}, a name within params{_at(path)}, must be a string or a whole number")
        yield f"{path}/{key}" if path else str(key), each


def _at(path: str) -> str:
    return f"[{path!r}]" if path else ""


def leaves(params: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """The parameters by their paths, in order."""
    if depth > _DEEPEST:
        raise ValueError(f"params{_at(path)} is nested more than {_DEEPEST} deep")
    if depth and not is_nest(params):
        if isinstance(params, _NUMBERS):
            raise TypeError(
                f"params{_at(path)} is a number within another container: it cannot change in place; use "
                "numpy.array(x), and keep that"
            )
        yield path, params
        return
    again = {} if type(params) in (dict, list, tuple) else dict(_below(params, path))
    for below, each in _below(params, path):
        if again and again[below] is not each:
            raise TypeError(
                f"params{_at(path)}: {type(params).__name__} gives another array at each access, so an update would be "
                "lost; use a dict of the arrays"
            )
        yield from leaves(each, below, depth + 1)


def by_path(params: Any) -> dict[str, Any]:
    """The same as a dict, in which each path stands for one."""
    found: dict[str, Any] = {}
    for path, leaf in leaves(params):
        if path in found:
            raise ValueError(f"params has two parameters of the path {path!r}; use names without a slash")
        found[path] = leaf
    return found


def flat(params: Any) -> Any:
    """Parameters by their paths where one container holds others, or is a dataclass; else as they are."""
    values = params.values() if isinstance(params, Mapping) else params if isinstance(params, (list, tuple)) else ()
    nested = type(params) in _registered.values() or any(is_nest(each) for each in values)
    return by_path(params) if nested else params


def _gradients(params: Any, grads: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if not is_nest(params):
        yield path, grads
        return
    if grads is None and path:
        yield from ((below, None) for below, _ in leaves(params, path, 1))
        return
    if not is_nest(grads):
        raise TypeError(
            f"grads{_at(path)} must be nested as params{_at(path)} is, in a {type(params).__name__}; got "
            f"{type(grads).__name__}"
        )
    mine, theirs = dict(_below(params, path)), dict(_below(grads, path))
    if mine.keys() != theirs.keys():
        lacks = ", ".join(repr(below) for below in mine if below not in theirs)
        has = ", ".join(repr(below) for below in theirs if below not in mine)
        raise ValueError(
            "params and grads must have the same names:"
            + (f" grads lacks {lacks}" if lacks else "")
            + ("," if lacks and has else "")
            + (f" grads has {has}, which params lacks" if has else "")
            + " (a gradient of None skips its parameter, or all that are below it)"
        )
    for below, each in mine.items():
        yield from _gradients(each, theirs[below], below)


def flatten(params: Any, grads: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Nested parameters and gradients by their paths."""
    return by_path(params), dict(_gradients(params, grads))


_core.learn_nested(is_nest, flatten)


# How they were nested, as JSON has it; a parameter is its number.


def nest_of(params: Any) -> Any:
    """Describe the containers of what flat() has taken."""
    numbers = count()

    def described(value: Any, top: bool) -> Any:
        if not top and not is_nest(value):
            return next(numbers)
        children = [(key, described(each, False)) for key, each in _children(value)]
        if isinstance(value, Mapping):
            return {"dict": [list(pair) for pair in children]}
        if isinstance(value, (list, tuple)):
            return {"list" if isinstance(value, list) else "tuple": [each for _, each in children]}
        return {"dataclass": f"{type(value).__module__}.{type(value).__qualname__}", "fields": dict(children)}

    return described(params, True)


def nested_as(nest: Any, leaves: list[Any]) -> Any:
    """Put parameters into containers as they were described, each once; ValueError where that cannot be."""
    used: list[int] = []

    def made(each: Any, depth: int) -> Any:
        if depth > _DEEPEST:
            raise ValueError("its parameters are nested too deep")
        if type(each) is int:
            if not 0 <= each < len(leaves):
                raise ValueError("its parameters are nested in a way that names none of them")
            used.append(each)
            return leaves[each]
        if not isinstance(each, dict):
            raise ValueError("its parameters are nested in a way that is not known")
        if set(each) == {"dict"}:
            return {_key(key): made(child, depth + 1) for key, child in each["dict"]}
        if set(each) == {"list"}:
            return [made(child, depth + 1) for child in each["list"]]
        if set(each) == {"tuple"}:
            return tuple(made(child, depth + 1) for child in each["tuple"])
        if set(each) == {"dataclass", "fields"}:
            cls = _registered.get(str(each["dataclass"]))
            if cls is None:
                raise ValueError(
                    f"its parameters are in the dataclass {each['dataclass']}: give that to schuss.register_dataclass()"
                )
            if [field.name for field in fields(cls)] != list(each["fields"]):
                raise ValueError(f"the dataclass {each['dataclass']} has other fields than it had")
            return cls(**{name: made(child, depth + 1) for name, child in each["fields"].items()})
        raise ValueError("its parameters are nested in a way that is not known")

    found = made(nest, 0)
    if sorted(used) != list(range(len(leaves))):
        raise ValueError("its parameters are nested in a way that does not name each once")
    return found


def _key(key: Any) -> Any:
    if type(key) not in (str, int):
        raise ValueError("its parameters are nested under a name that is none")
    return key
