"""Tensors as arrays, in the same memory; and which of them can be parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._extras import need
from ..dtypes import bfloat16, is_bfloat16

if TYPE_CHECKING:
    import torch as torch
else:
    torch = need("torch", "schuss.torch", extra="torch")
if not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
    raise ImportError(f"schuss.torch needs PyTorch 2.10 or later, this is {torch.__version__}")

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

# Classes whose objects are their memory and nothing more. The core knows them.
known: set[type[Any]] = set()


def learn(kind: type[Any]) -> bool:
    """Whether tensors of a class are their memory; the core is told of it, the first time."""
    if kind in known:
        return True
    if kind.__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        return False
    _core.learn_tensors(kind)
    known.add(kind)
    return True


learn(torch.Tensor)
learn(torch.nn.Parameter)


def refuse(p: Any) -> None:
    """Say what to do with a parameter that cannot be stepped here; PyTorch has looked whether it is a tensor."""
    if torch.nn.parameter.is_lazy(p):
        raise ValueError("a parameter has no shape yet: run the lazy module once before its optimizer is made")
    what = f"a parameter of shape {tuple(p.shape)} is "
    if p.device.type == "meta":
        raise ValueError(f"{what}on the meta device and has no numbers: materialise it first, with module.to_empty()")
    if p.device.type != "cpu":
        raise ValueError(f"{what}on {p.device}; this optimizer steps on the CPU: use torch.optim there")
    if p.layout != torch.strided:
        raise ValueError(f"{what}{p.layout}; parameters must be dense (gradients may be sparse COO)")
    if p.is_quantized:
        raise TypeError(f"{what}quantised ({p.dtype}): step the parameter that it was made from")
    if p.is_complex():
        raise TypeError(f"{what}{p.dtype}; make torch.view_as_real(p) the parameter")
    if p.dtype not in DTYPES:
        raise TypeError(f"{what}{p.dtype}; float32, float64, float16 and bfloat16 can be stepped")
    if not learn(type(p)):
        raise TypeError(
            f"{what}a {type(p).__module__}.{type(p).__qualname__}, which is more than its memory: use torch.optim, or "
            "give the local tensor that it is made of"
        )


def array_of(tensor: Any) -> NDArray[Any]:
    """The array with a tensor's memory."""
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        bits: NDArray[Any] = tensor.view(torch.int16).numpy()
        return bits.view(bfloat16())
    found: NDArray[Any] = tensor.numpy()
    return found


def tensor_of(array: NDArray[Any]) -> Any:
    """The tensor with an array's memory."""
    if is_bfloat16(array.dtype):
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
