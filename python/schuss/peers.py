"""Other libraries' optimizers, set to take the same steps as ours, for the benchmark.

Each peer names the package that it needs and the rules that it has. Started on lists of arrays, it gives
a function that takes one step and one that reads the parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import optimizers, reference

Arrays = Sequence[NDArray[Any]]

# The one setting in which all of them are compared; epsilon is the one after the bias correction.
LR, MOMENTUM, RHO, BETA1, BETA2, EPS = 1e-3, 0.9, 0.99, 0.9, 0.999, 1e-8
ARGUMENTS: dict[str, dict[str, float]] = {
    "SGD": {},
    "Momentum": {"momentum": MOMENTUM},
    "Nesterov": {"momentum": MOMENTUM},
    "AdaGrad": {"eps": EPS},
    "RMSprop": {"decay_rate": RHO, "eps": EPS},
    "Adam": {"beta1": BETA1, "beta2": BETA2, "eps": EPS},
}


class Runner(NamedTuple):
    """A peer at work: take a step; read the parameters as they are now."""

    step: Callable[[], object]
    read: Callable[[], Arrays]


class Peer(NamedTuple):
    """A contender: its name, the package that it needs (None: no other), its rules, how it starts."""

    name: str
    package: str | None
    rules: frozenset[str]
    start: Callable[[str, Arrays, Arrays], Runner]

    def missing(self) -> bool:
        """Whether its package is not installed."""
        return self.package is not None and find_spec(self.package) is None


def _by_name(table: dict[str, type[Any]]) -> Callable[[str, Arrays, Arrays], Runner]:
    def start(rule: str, params: Arrays, grads: Arrays) -> Runner:
        named = {str(i): p.copy() for i, p in enumerate(params)}
        gradients = {str(i): g.copy() for i, g in enumerate(grads)}
        opt = table[rule](lr=LR, **ARGUMENTS[rule])
        return Runner(lambda: opt.update(named, gradients), lambda: list(named.values()))

    return start


def _torch(**flags: bool) -> Callable[[str, Arrays, Arrays], Runner]:
    def start(rule: str, params: Arrays, grads: Arrays) -> Runner:
        import torch

        tensors = [torch.nn.Parameter(torch.tensor(p)) for p in params]
        for tensor, g in zip(tensors, grads, strict=True):
            tensor.grad = torch.tensor(g)
        make: dict[str, Callable[[], Any]] = {
            "SGD": lambda: torch.optim.SGD(tensors, LR, **flags),
            "Momentum": lambda: torch.optim.SGD(tensors, LR, momentum=MOMENTUM, **flags),
            "Nesterov": lambda: torch.optim.SGD(tensors, LR, momentum=MOMENTUM, nesterov=True, **flags),
            "AdaGrad": lambda: torch.optim.Adagrad(tensors, LR, eps=EPS, **flags),
            "RMSprop": lambda: torch.optim.RMSprop(tensors, LR, alpha=RHO, eps=EPS, **flags),
            "Adam": lambda: torch.optim.Adam(tensors, LR, (BETA1, BETA2), EPS, **flags),
        }
        opt = make[rule]()
        return Runner(opt.step, lambda: [tensor.detach().numpy() for tensor in tensors])

    return start


def _deepspeed(rule: str, params: Arrays, grads: Arrays) -> Runner:
    import torch
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    tensors = [torch.nn.Parameter(torch.tensor(p)) for p in params]
    for tensor, g in zip(tensors, grads, strict=True):
        tensor.grad = torch.tensor(g)
    opt = DeepSpeedCPUAdam(tensors, LR, betas=(BETA1, BETA2), eps=EPS, adamw_mode=False)
    return Runner(opt.step, lambda: [tensor.detach().numpy() for tensor in tensors])


def _optax(rule: str, params: Arrays, grads: Arrays) -> Runner:
    import jax
    import optax

    jax.config.update("jax_enable_x64", True)
    make: dict[str, Callable[[], Any]] = {
        "SGD": lambda: optax.sgd(LR),
        "Momentum": lambda: optax.sgd(LR, momentum=MOMENTUM),
        "Nesterov": lambda: optax.sgd(LR, momentum=MOMENTUM, nesterov=True),
        "Adam": lambda: optax.adam(LR, BETA1, BETA2, EPS),
    }
    opt = make[rule]()
    gradients = [jax.numpy.array(g) for g in grads]

    def change(values: Any, gradients: Any, state: Any) -> Any:
        updates, state = opt.update(gradients, state, values)
        return optax.apply_updates(values, updates), state

    step = jax.jit(change, donate_argnums=(0, 2))
    now = [jax.numpy.array(p) for p in params]
    held = [now, opt.init(now)]

    def run() -> None:
        held[0], held[1] = step(held[0], gradients, held[1])
        jax.block_until_ready(held[0])

    return Runner(run, lambda: [np.asarray(p) for p in held[0]])


def _numba(rule: str, params: Arrays, grads: Arrays) -> Runner:
    import numba

    @numba.njit(parallel=True)  # type: ignore[untyped-decorator]
    def adam(p: Any, g: Any, m: Any, v: Any, lr_t: Any, c1: Any, c2: Any, eps_hat: Any) -> None:
        for i in numba.prange(p.size):
            m[i] += c1 * (g[i] - m[i])
            v[i] += c2 * (g[i] * g[i] - v[i])
            p[i] -= lr_t * m[i] / (np.sqrt(v[i]) + eps_hat)

    rows = [
        (p.ravel().copy(), g.ravel().copy(), np.zeros(p.size, p.dtype), np.zeros(p.size, p.dtype))
        for p, g in zip(params, grads, strict=True)
    ]
    t = 0

    def run() -> None:
        nonlocal t
        t += 1
        number = rows[0][0].dtype.type
        correction = (1 - BETA2**t) ** 0.5
        scalars = (LR * correction / (1 - BETA1**t), 1 - BETA1, 1 - BETA2, EPS * correction)
        for row in rows:
            adam(*row, *(number(scalar) for scalar in scalars))

    return Runner(run, lambda: [row[0].reshape(p.shape) for row, p in zip(rows, params, strict=True)])


def _thinc(rule: str, params: Arrays, grads: Arrays) -> Runner:
    from thinc.api import Adam

    opt = Adam(LR, beta1=BETA1, beta2=BETA2, eps=EPS, L2=0.0, grad_clip=0.0)
    rows = [[p.copy(), g.copy()] for p, g in zip(params, grads, strict=True)]

    def run() -> None:
        for i, row in enumerate(rows):
            row[0], _ = opt((0, str(i)), row[0], row[1])
        opt.step_schedules()

    return Runner(run, lambda: [row[0] for row in rows])


_ALL = frozenset(optimizers.OPTIMIZERS)
_TORCH = frozenset({"SGD", "Momentum", "Nesterov", "AdaGrad", "RMSprop", "Adam"})
_ADAM = frozenset({"Adam"})

PEERS = [
    Peer("schuss", None, _ALL, _by_name(optimizers.OPTIMIZERS)),
    Peer("numpy", None, _ALL, _by_name(reference.OPTIMIZERS)),
    Peer("torch", "torch", _TORCH, _torch(foreach=False)),
    Peer("torch foreach", "torch", _TORCH, _torch(foreach=True)),
    Peer("torch fused", "torch", _TORCH - {"RMSprop"}, _torch(fused=True)),
    Peer("deepspeed", "deepspeed", _ADAM, _deepspeed),
    Peer("optax", "optax", frozenset({"SGD", "Momentum", "Nesterov", "Adam"}), _optax),
    Peer("numba", "numba", _ADAM, _numba),
    Peer("thinc", "thinc", _ADAM, _thinc),
]
