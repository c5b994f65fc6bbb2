"""PyTorch's state, from which an optimizer of ours goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base import Optimizer
from ..dtypes import computed
from ..options import Params
from ..states import restore, state_dict

__all__ = ["load_torch_state"]

# Slot -> (its name there, whether it lacks the factor -lr that ours holds).
_TORCH: dict[str, dict[str, tuple[str, bool]]] = {
    "SGD": {},
    "Momentum": {"v": ("momentum_buffer", True)},
    "Nesterov": {"v": ("momentum_buffer", True)},
    "AdaGrad": {"h": ("sum", False)},
    "RMSprop": {"h": ("square_avg", False), "a": ("grad_avg", False), "v": ("momentum_buffer", True)},
    "AMSGrad": {"m": ("exp_avg", False), "v": ("exp_avg_sq", False), "h": ("max_exp_avg_sq", False)},
    "Adamax": {"m": ("exp_avg", False), "u": ("exp_inf", False)},
    "AdaDelta": {"h": ("square_avg", False), "d": ("acc_delta", False)},
    **{name: {"m": ("exp_avg", False), "v": ("exp_avg_sq", False)} for name in ("Adam", "AdamW", "NAdam", "RAdam")},
}


def load_torch_state(
    opt: Optimizer,
    state: Mapping[Any, Mapping[str, Any]],
    names: Sequence[Any],
    t: int,
    *,
    params: Params | None = None,
) -> None:
    """Go on from where an optimizer of PyTorch has stopped.

    Parameters
    ----------
    opt : Optimizer
        With the arguments that take the same steps (docs/conventions.md).
    state : mapping of index -> name -> array
        PyTorch's ``state_dict()["state"]`` with its tensors as arrays:
        ``{i: {k: v.numpy() for k, v in s.items()} for i, s in torch_opt.state_dict()["state"].items()}``, or
        ``v.float().numpy()`` where they are of bfloat16.
    names : sequence
        The name here of each parameter there, by its index.
    t : int
        How many steps have been made; PyTorch counts per parameter, and its SGD not at all.
    params : mapping of name -> array, or list, optional
        The parameters as they will be stepped: needed where they have 16 bits, as PyTorch keeps no master of them.

    Raises
    ------
    TypeError
        If a parameter is no array.
    ValueError
        If a rule is one that PyTorch does not have, the state has tensors, a name is missing, an array has another
        shape than the others of its parameter, or a count of PyTorch's differs from ``t``. Nothing has changed then.
    """
    kind = type(opt).__name__
    if kind not in _TORCH:
        raise ValueError(f"{kind} has no state that could come from PyTorch; {', '.join(_TORCH)} have")
    found: dict[Any, dict[str, NDArray[Any]]] = {}
    for index, theirs in state.items():
        if not 0 <= index < len(names):
            raise ValueError(f"the state has a parameter {index}, of which names has no name")
        if "step" in theirs and int(theirs["step"]) != t:
            raise ValueError(f"parameter {index} has made {int(theirs['step'])} steps, not t={t}")
        if names[index] in found:
            raise ValueError(f"names has {names[index]!r} twice")
        member: Optimizer = opt._member_of(names[index])
        its_kind = type(member).__name__
        if its_kind not in _TORCH:
            raise ValueError(f"{its_kind}, the rule of {names[index]!r}, has no state that could come from PyTorch")
        lr = member._lr_at(max(t, 1))
        slots: dict[str, NDArray[Any]] = {}
        for slot in member._slots():
            name, lacks_lr = _TORCH[its_kind][slot]
            if theirs.get(name) is None:
                raise ValueError(f"parameter {index} has no {name!r}, from which {slot!r} would come")
            array = _array_of(theirs[name])
            wide = array.astype(computed(array.dtype), copy=False)
            slots[slot] = (-lr * wide if lacks_lr else wide).astype(wide.dtype, copy=False)
        p = None if params is None else _parameter(params, names[index])
        found[names[index]] = member._kept(slots, p)
    saved = {**state_dict(opt), "t": t, "skipped": 0, "memory": opt._memories(t), "state": found}
    restore(opt, saved, lr=opt.lr, groups=opt.groups)


def _array_of(value: Any) -> NDArray[Any]:
    if hasattr(value, "detach"):
        raise ValueError(
            "the state has tensors, not arrays: see help(schuss.torch.load_torch_state): v.float().numpy()"
        )
    return np.array(value)


def _parameter(params: Any, name: Any) -> NDArray[Any]:
    try:
        p = params[name]
    except (LookupError, TypeError):
        raise ValueError(f"params has no {name!r}") from None
    if not isinstance(p, np.ndarray):
        raise TypeError(f"params[{name!r}] must be a numpy.ndarray, as it will be stepped; got {type(p).__name__}")
    return p
