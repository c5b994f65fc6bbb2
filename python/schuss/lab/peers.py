"""Other libraries set to do the same work as ours, for the benchmark: a step.

Each peer names the package that it needs and the rules that it has. Started on lists of arrays, it gives
a function that takes one step and one that reads the parameters; those in fewer bits also say what they keep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import dtypes, formats, optimizers, reference, threads

Arrays = Sequence[NDArray[Any]]

SIZES = (784, 100, 100, 100, 100, 10)  # of the textbook's network
MNIST = [shape for n, m in pairwise(SIZES) for shape in ((n, m), (m,))]  # its ten tensors

# The one setting in which all of them are compared; epsilon is the one after the bias correction.
LR, MOMENTUM, RHO, BETA1, BETA2, EPS, DECAY = 1e-3, 0.9, 0.99, 0.9, 0.999, 1e-8, 0.01
_ADAMS = {"beta1": BETA1, "beta2": BETA2, "eps": EPS}
ARGUMENTS: dict[str, dict[str, float]] = {
    "SGD": {},
    "Momentum": {"momentum": MOMENTUM},
    "Nesterov": {"momentum": MOMENTUM},
    "AdaGrad": {"eps": EPS},
    "RMSprop": {"decay_rate": RHO, "eps": EPS},
    "Adam": _ADAMS,
    "AdamW": {**_ADAMS, "weight_decay": DECAY},
    "AMSGrad": {**_ADAMS, "bias_correction": True},  # the paper's has none, PyTorch's and Optax's do
    "Adamax": _ADAMS,
    "NAdam": {**_ADAMS, "momentum_decay": 1e3},  # so that mu is beta1 from the first step on, as Optax's is
    "RAdam": _ADAMS,
    "AdaDelta": {"decay_rate": 0.9, "eps": 1e-6},
    "Lion": {"beta1": 0.9, "beta2": 0.99, "weight_decay": DECAY},
    "LAMB": {"beta1": BETA1, "beta2": BETA2, "eps": 1e-6, "weight_decay": DECAY},
    "LARS": {"momentum": MOMENTUM, "trust": 1e-3},
    "Adan": {"beta1": 0.98, "beta2": 0.5, "beta3": 0.99, "eps": EPS},  # Optax has 1 - beta2 where the paper has beta2
    "ScheduleFreeSGD": {"momentum": MOMENTUM},
    "ScheduleFreeAdamW": _ADAMS,
    "Muon": {"momentum": 0.95, "weight_decay": 0.1},
    "Adafactor": {"beta2_decay": -0.8, "clip_threshold": 1.0},
}
# Where LR would be a step that vanishes beside the parameters, so that no one could be seen to take another.
_RATES = {"AdaDelta": 1.0, "LARS": 0.05, "Muon": 0.02}


def rate(rule: str) -> float:
    """The learning rate at which a rule is compared."""
    return _RATES.get(rule, LR)


class Kept(NamedTuple):
    """Bytes of gradients, of parameters, of what is kept beside them, of state; and of what a step moves again."""

    grads: int
    params: int
    beside: int
    state: int
    again: int = 0

    @property
    def moved(self) -> int:
        """What a step must move at least: the gradients in, all else in and out."""
        return self.grads + 2 * (self.params + self.beside + self.state) + self.again


class Runner(NamedTuple):
    """A peer at work: take a step; read the parameters as they are now; the gradients that it goes by, if arrays."""

    step: Callable[[], object]
    read: Callable[[], Arrays]
    grads: Arrays = ()
    kept: Callable[[], Kept] | None = None  # of those in fewer bits, after a step


class Peer(NamedTuple):
    """A contender: its name, the package that it needs (None: no other), its rules, how it starts.

    Of some rules its step ``differs`` by more than rounding: they are timed, and not compared.
    """

    name: str
    package: str | None
    rules: frozenset[str]
    start: Callable[[str, Arrays, Arrays], Runner]
    differs: frozenset[str] = frozenset()

    def missing(self) -> bool:
        """Whether its package is not installed."""
        return self.package is not None and find_spec(self.package) is None


def _by_name(table: dict[str, type[Any]]) -> Callable[[str, Arrays, Arrays], Runner]:
    def start(rule: str, params: Arrays, grads: Arrays) -> Runner:
        named = {str(i): p.copy() for i, p in enumerate(params)}
        gradients = {str(i): g.copy() for i, g in enumerate(grads)}
        opt = table[rule](lr=rate(rule), **ARGUMENTS[rule])
        return Runner(lambda: opt.update(named, gradients), lambda: list(named.values()), list(gradients.values()))

    return start


class TextbookAdam:
    """Adam as the textbook has it. Its ``lr_t`` is a NumPy float64: float32 arrays pass through float64."""

    def __init__(self) -> None:
        self.t = 0
        self.m: dict[str, NDArray[Any]] = {}
        self.v: dict[str, NDArray[Any]] = {}

    def update(self, params: dict[str, NDArray[Any]], grads: dict[str, NDArray[Any]]) -> None:
        """Step all arrays."""
        if not self.m:
            for name, p in params.items():
                self.m[name], self.v[name] = np.zeros_like(p), np.zeros_like(p)
        self.t += 1
        lr_t = LR * np.sqrt(1.0 - BETA2**self.t) / (1.0 - BETA1**self.t)
        for name in params:
            m, v = self.m[name], self.v[name]
            m += (1 - BETA1) * (grads[name] - m)
            v += (1 - BETA2) * (grads[name] ** 2 - v)
            params[name] -= lr_t * m / (np.sqrt(v) + 1e-7)


def _textbook(rule: str, params: Arrays, grads: Arrays) -> Runner:
    named = {str(i): p.copy() for i, p in enumerate(params)}
    gradients = {str(i): g.copy() for i, g in enumerate(grads)}
    opt = TextbookAdam()
    return Runner(lambda: opt.update(named, gradients), lambda: list(named.values()))


def _tensors(params: Arrays, grads: Arrays, dtype: str | None = None) -> list[Any]:
    import torch

    torch.set_num_threads(threads.get_num_threads())
    wanted = None if dtype is None else getattr(torch, dtype)
    tensors = [torch.nn.Parameter(torch.tensor(p, dtype=wanted)) for p in params]
    for tensor, g in zip(tensors, grads, strict=True):
        tensor.grad = torch.tensor(g, dtype=wanted)
    return tensors


def _torch(**flags: bool) -> Callable[[str, Arrays, Arrays], Runner]:
    """Start PyTorch's, of which two steps are its own.

    Its Muon, which knows no such flags, computes its products in bfloat16. Its foreach Nesterov adds the velocity to
    the gradients that it is given: a second step by the same ones goes elsewhere.
    """

    def start(rule: str, params: Arrays, grads: Arrays) -> Runner:
        tensors = _tensors(params, grads)
        from torch import optim

        lr, has = rate(rule), ARGUMENTS[rule]
        betas = has.get("beta1", BETA1), has.get("beta2", BETA2)
        make: dict[str, Callable[[], Any]] = {
            "SGD": lambda: optim.SGD(tensors, lr, **flags),
            "Momentum": lambda: optim.SGD(tensors, lr, momentum=MOMENTUM, **flags),
            "Nesterov": lambda: optim.SGD(tensors, lr, momentum=MOMENTUM, nesterov=True, **flags),
            "AdaGrad": lambda: optim.Adagrad(tensors, lr, eps=EPS, **flags),
            "RMSprop": lambda: optim.RMSprop(tensors, lr, alpha=RHO, eps=EPS, **flags),
            "Adam": lambda: optim.Adam(tensors, lr, betas, EPS, **flags),
            "AdamW": lambda: optim.AdamW(tensors, lr, betas, EPS, DECAY, **flags),
            "AMSGrad": lambda: optim.Adam(tensors, lr, betas, EPS, amsgrad=True, **flags),
            "Adamax": lambda: optim.Adamax(tensors, lr, betas, EPS, **flags),
            "NAdam": lambda: optim.NAdam(tensors, lr, betas, EPS, momentum_decay=has["momentum_decay"], **flags),
            "RAdam": lambda: optim.RAdam(tensors, lr, betas, EPS, **flags),
            "AdaDelta": lambda: optim.Adadelta(tensors, lr, has["decay_rate"], has["eps"], **flags),
            "Adafactor": lambda: optim.Adafactor(
                tensors, lr, has["beta2_decay"], d=has["clip_threshold"], weight_decay=0.0, **flags
            ),
            "Muon": lambda: optim.Muon(tensors, lr, has["weight_decay"], has["momentum"]),
        }
        opt = make[rule]()
        gradients = [tensor.grad.numpy() for tensor in tensors]
        return Runner(opt.step, lambda: [tensor.detach().numpy() for tensor in tensors], gradients)

    return start


def _deepspeed(rule: str, params: Arrays, grads: Arrays) -> Runner:
    """DeepSpeed's. Its AdaGrad forgets the squares of the last elements where they fill no vector of 16."""
    from deepspeed.ops.adagrad import DeepSpeedCPUAdagrad
    from deepspeed.ops.adam import DeepSpeedCPUAdam
    from deepspeed.ops.lion import DeepSpeedCPULion

    tensors = _tensors(params, grads)
    lr, has = rate(rule), ARGUMENTS[rule]
    make: dict[str, Callable[[], Any]] = {
        "Adam": lambda: DeepSpeedCPUAdam(tensors, lr, betas=(BETA1, BETA2), eps=EPS, adamw_mode=False),
        "AdamW": lambda: DeepSpeedCPUAdam(
            tensors, lr, betas=(BETA1, BETA2), eps=EPS, weight_decay=DECAY, adamw_mode=True
        ),
        "AdaGrad": lambda: DeepSpeedCPUAdagrad(tensors, lr, EPS),
        "Lion": lambda: DeepSpeedCPULion(tensors, lr, (has["beta1"], has["beta2"]), DECAY),
    }
    opt = make[rule]()
    return Runner(opt.step, lambda: [tensor.detach().numpy() for tensor in tensors])


def _optax_rules() -> dict[str, Callable[[], Any]]:
    """How each rule is made.

    Where its formulas differ from ours, the steps are the same in this setting: epsilon under AdaGrad's root is small
    beside the gradients, and so is its place in RAdam; of gradients that stay as they are, AMSGrad's largest corrected
    average is the last one, and Muon's momentum, which corrects for its start at zero, has the same direction. Muon
    takes rows for inputs unless it is told: its dimension numbers turn that around.
    """
    import optax
    from optax import contrib

    def muon() -> Any:
        numbers = contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=0)
        return contrib.muon(
            rate("Muon"),
            beta=ARGUMENTS["Muon"]["momentum"],
            weight_decay=ARGUMENTS["Muon"]["weight_decay"],
            muon_weight_dimension_numbers=lambda params: [numbers for _ in params],
        )

    def betas(rule: str) -> tuple[float, ...]:
        return tuple(value for name, value in ARGUMENTS[rule].items() if name.startswith("beta") and name[4:].isdigit())

    return {
        "SGD": lambda: optax.sgd(LR),
        "Momentum": lambda: optax.sgd(LR, momentum=MOMENTUM),
        "Nesterov": lambda: optax.sgd(LR, momentum=MOMENTUM, nesterov=True),
        "AdaGrad": lambda: optax.adagrad(LR, 0.0, EPS),
        "RMSprop": lambda: optax.rmsprop(LR, RHO, EPS, eps_in_sqrt=False),
        "Adam": lambda: optax.adam(LR, BETA1, BETA2, EPS),
        "AdamW": lambda: optax.adamw(LR, BETA1, BETA2, EPS, weight_decay=DECAY),
        "AMSGrad": lambda: optax.amsgrad(LR, BETA1, BETA2, EPS),
        "Adamax": lambda: optax.adamax(LR, BETA1, BETA2, EPS),
        "NAdam": lambda: optax.nadam(LR, BETA1, BETA2, EPS),
        "RAdam": lambda: optax.radam(LR, BETA1, BETA2, EPS),
        "AdaDelta": lambda: optax.adadelta(rate("AdaDelta"), *ARGUMENTS["AdaDelta"].values()),
        "Lion": lambda: optax.lion(LR, *betas("Lion"), weight_decay=DECAY),
        "LAMB": lambda: optax.lamb(LR, *betas("LAMB"), ARGUMENTS["LAMB"]["eps"], weight_decay=DECAY),
        "LARS": lambda: optax.lars(rate("LARS"), trust_coefficient=ARGUMENTS["LARS"]["trust"], momentum=MOMENTUM),
        "Adan": lambda: optax.adan(LR, *betas("Adan"), EPS, eps_root=0.0),
        "ScheduleFreeSGD": lambda: contrib.schedule_free_sgd(LR, b1=MOMENTUM),
        "ScheduleFreeAdamW": lambda: contrib.schedule_free_adamw(LR, b1=BETA1, b2=BETA2, eps=EPS),
        "Muon": muon,
        "Adafactor": lambda: optax.adafactor(LR, min_dim_size_to_factor=1),
    }


def _optax(rule: str, params: Arrays, grads: Arrays) -> Runner:
    import jax
    import optax

    jax.config.update("jax_enable_x64", True)
    opt = _optax_rules()[rule]()
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


@cache
def _numba_adam() -> Any:
    import numba

    @numba.njit(parallel=True)  # type: ignore[untyped-decorator]
    def adam(p: Any, g: Any, m: Any, v: Any, lr_t: Any, c1: Any, c2: Any, eps_hat: Any) -> None:
        for i in numba.prange(p.size):
            m[i] += c1 * (g[i] - m[i])
            v[i] += c2 * (g[i] * g[i] - v[i])
            p[i] -= lr_t * m[i] / (np.sqrt(v[i]) + eps_hat)

    return adam


def _numba(rule: str, params: Arrays, grads: Arrays) -> Runner:
    import numba

    numba.set_num_threads(min(threads.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
    adam = _numba_adam()
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
        rounded = [number(scalar) for scalar in scalars]
        for row in rows:
            adam(*row, *rounded)

    return Runner(run, lambda: [row[0].reshape(p.shape) for row, p in zip(rows, params, strict=True)])


def _thinc(rule: str, params: Arrays, grads: Arrays) -> Runner:
    from thinc.api import Adam

    opt = Adam(LR, beta1=BETA1, beta2=BETA2, eps=EPS, L2=0.0, grad_clip=0.0)
    rows = [[p.copy(), g.copy()] for p, g in zip(params, grads, strict=True)]

    def run() -> None:
        for i, (row, g) in enumerate(zip(rows, grads, strict=True)):
            row[1][...] = g  # it clears the gradients that it is given
            row[0], _ = opt((0, str(i)), row[0], row[1])
        opt.step_schedules()

    return Runner(run, lambda: [row[0] for row in rows])


_ALL = frozenset(optimizers.OPTIMIZERS)
_ADAM, _MUON = frozenset({"Adam"}), frozenset({"Muon"})
_FUSED = frozenset({"SGD", "Momentum", "Nesterov", "AdaGrad", "Adam", "AdamW", "AMSGrad"})
_FOREACH = _FUSED | {"RMSprop", "Adamax", "NAdam", "RAdam", "AdaDelta", "Adafactor"}

PEERS = [
    Peer("schuss", None, _ALL, _by_name(optimizers.OPTIMIZERS)),
    Peer("numpy", None, _ALL, _by_name(reference.OPTIMIZERS)),
    Peer("textbook", None, _ADAM, _textbook),
    Peer("torch", "torch", _FOREACH | _MUON, _torch(foreach=False), differs=_MUON),
    Peer("torch foreach", "torch", _FOREACH, _torch(foreach=True), differs=frozenset({"Nesterov"})),
    Peer("torch fused", "torch", _FUSED, _torch(fused=True)),
    Peer("deepspeed", "deepspeed", frozenset({"Adam", "AdamW", "AdaGrad", "Lion"}), _deepspeed),
    Peer("optax", "optax", _ALL, _optax),
    Peer("numba", "numba", _ADAM, _numba),
    Peer("thinc", "thinc", _ADAM, _thinc),
]


# Adam in fewer bits than 32: of parameters and gradients, of state, or of both. The first is what the others are
# compared with.

Start = Callable[[str, Arrays, Arrays], Runner]


def _bytes(arrays: Iterable[Any]) -> int:
    return sum(int(array.nbytes) for array in arrays)


def _ours(parameters: str = "float32", state: str = "float32") -> Start:
    """Ours; a bfloat16 has the lower half of its float32 beside it."""

    def start(rule: str, params: Arrays, grads: Arrays) -> Runner:
        dtype = dtypes.bfloat16() if parameters == "bfloat16" else np.dtype(parameters)
        named = {str(i): p.astype(dtype) for i, p in enumerate(params)}
        gradients = {str(i): g.astype(dtype) for i, g in enumerate(grads)}
        opt = optimizers.OPTIMIZERS[rule](lr=LR, **ARGUMENTS[rule], state_dtype=state, master="split")

        def kept() -> Kept:
            slots = [(slot, array) for each in opt.state.values() for slot, array in each.items()]
            beside = _bytes(array for slot, array in slots if slot == "remainder")
            total = _bytes(array for _, array in slots)
            return Kept(_bytes(gradients.values()), _bytes(named.values()), beside, total - beside)

        def read() -> Arrays:
            return [formats.parameter(p, opt.state[name]) for name, p in named.items()]

        return Runner(lambda: opt.update(named, gradients), read, list(gradients.values()), kept)

    return start


def _cast(rule: str, params: Arrays, grads: Arrays) -> Runner:
    """What one does without formats: all of bfloat16 cast into arrays of float32, a step, the parameters cast back."""
    dtype = dtypes.bfloat16()
    mine, gradients = [p.astype(dtype) for p in params], [g.astype(dtype) for g in grads]
    wide_params, wide_grads = [np.empty_like(p) for p in params], [np.empty_like(g) for g in grads]
    opt = optimizers.OPTIMIZERS[rule](lr=LR, **ARGUMENTS[rule])

    def step() -> None:
        for to, of in zip((*wide_params, *wide_grads), (*mine, *gradients), strict=True):
            to[...] = of
        opt.update(wide_params, wide_grads)
        for to, of in zip(mine, wide_params, strict=True):
            to[...] = of

    def kept() -> Kept:
        again = 2 * _bytes(wide_params)  # they are written and read by the casts, and read and written by the step
        state = _bytes(array for slots in opt.state.values() for array in slots.values())
        return Kept(_bytes(gradients), _bytes(mine), _bytes((*wide_params, *wide_grads)), state, again)

    return Runner(step, lambda: [p.astype(np.float32) for p in mine], gradients, kept)


def _of_torch(opt: Any, tensors: list[Any], size: int | None = None) -> Runner:
    """A PyTorch optimizer at work. What it keeps is what grows with the parameters: no count, no table of codes."""

    def parts(value: Any) -> list[Any]:
        return [value.codes, value.scale] if hasattr(value, "codes") else [value]

    def kept() -> Kept:
        held = [
            part
            for tensor in tensors
            for slot, value in opt.state[tensor].items()
            if hasattr(value, "nbytes") and slot != "step" and not slot.startswith("qmap")
            for part in parts(value)
        ]
        return Kept(_bytes(tensor.grad for tensor in tensors), _bytes(tensors), 0, _bytes(held))

    return Runner(opt.step, lambda: [tensor.detach().float().numpy()[:size] for tensor in tensors], (), kept)


def _torch_bfloat16(rule: str, params: Arrays, grads: Arrays) -> Runner:
    tensors = _tensors(params, grads, "bfloat16")
    import torch

    return _of_torch(torch.optim.AdamW(tensors, LR, (BETA1, BETA2), EPS, 0.0, fused=True), tensors)


def _deepspeed_16_bits(dtype: str) -> Start:
    """DeepSpeed's with state of float32, as it has by itself. Without AVX-512, only its float16 goes by vectors."""

    def start(rule: str, params: Arrays, grads: Arrays) -> Runner:
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        tensors = _tensors(params, grads, dtype)
        return _of_torch(DeepSpeedCPUAdam(tensors, LR, betas=(BETA1, BETA2), eps=EPS, adamw_mode=False), tensors)

    return start


def _bitsandbytes(rule: str, params: Arrays, grads: Arrays) -> Runner:
    """State in codes of 8 bits, parameters in float32. Below 4,096 elements it keeps state in float32."""
    import bitsandbytes

    tensors = _tensors(params, grads)
    return _of_torch(bitsandbytes.optim.Adam8bit(tensors, LR, (BETA1, BETA2), EPS), tensors)


def _torchao(rule: str, params: Arrays, grads: Arrays) -> Runner:
    """State in codes of 8 bits, parameters in float32, compiled at the first step.

    It keeps the state of an array in float32 unless its size is a multiple of 256: here it is made one.
    """
    from torchao.optim import AdamW8bit

    size = params[0].size
    fitting, slopes = ([np.resize(array, -(-size // 256) * 256) for array in arrays] for arrays in (params, grads))
    tensors = _tensors(fitting, slopes)
    return _of_torch(AdamW8bit(tensors, LR, (BETA1, BETA2), EPS, 0.0), tensors, size)


FORMATS = [
    Peer("float32", None, _ADAM, _ours()),
    Peer("state bfloat16", None, _ADAM, _ours(state="bfloat16")),
    Peer("state int8", None, _ADAM, _ours(state="int8")),
    Peer("bfloat16 split", None, _ADAM, _ours("bfloat16")),
    Peer("split, state bfloat16", None, _ADAM, _ours("bfloat16", "bfloat16")),
    Peer("split, state int8", None, _ADAM, _ours("bfloat16", "int8")),
    Peer("cast, step, cast", None, _ADAM, _cast),
    Peer("torch fused bfloat16", "torch", _ADAM, _torch_bfloat16),
    Peer("deepspeed bfloat16", "deepspeed", _ADAM, _deepspeed_16_bits("bfloat16")),
    Peer("deepspeed float16", "deepspeed", _ADAM, _deepspeed_16_bits("float16")),
    Peer("bitsandbytes 8-bit", "bitsandbytes", _ADAM, _bitsandbytes),
    Peer("torchao 8-bit", "torchao", _ADAM, _torchao),
]


# A step with all that stands around it: the norm clipped, AdamW, a running average of the parameters.

CLIP, EMA = 1.0, 0.999


def composition(name: str, params: Arrays, grads: Arrays) -> Runner | None:
    """Start the composition as that peer does it; None if it is not compared."""
    starts = {"schuss": _our_composition, "torch fused": _torch_composition}
    return starts[name](params, grads) if name in starts else None


def _our_composition(params: Arrays, grads: Arrays) -> Runner:
    mine, gradients = [p.copy() for p in params], [g.copy() for g in grads]
    opt = optimizers.AdamW(LR, BETA1, BETA2, eps=EPS, weight_decay=DECAY, clip_norm=CLIP, ema=EMA)
    return Runner(lambda: opt.update(mine, gradients), lambda: mine)


def _torch_composition(params: Arrays, grads: Arrays) -> Runner:
    tensors = _tensors(params, grads)
    import torch

    averages = [tensor.detach().clone() for tensor in tensors]
    opt = torch.optim.AdamW(tensors, LR, (BETA1, BETA2), EPS, DECAY, fused=True)

    def run() -> None:
        torch.nn.utils.clip_grad_norm_(tensors, CLIP, foreach=True)
        opt.step()
        with torch.no_grad():
            torch._foreach_lerp_(averages, tensors, 1 - EMA)

    return Runner(run, lambda: [tensor.detach().numpy() for tensor in tensors])


# One optimizer that serves two networks in turn, whose arrays have the same names: "Deep Learning from Scratch", 6.3.2.


def in_turn(peer: Peer, rule: str, params: Arrays, grads: Arrays) -> Runner | None:
    """Start a peer whose optimizer is handed its arrays at each step; None for those that hold them."""
    tables: dict[str, dict[str, type[Any]]] = {"schuss": optimizers.OPTIMIZERS, "numpy": reference.OPTIMIZERS}
    if peer.name not in tables:
        return None
    half = len(params) // 2
    networks = [
        ({str(i): p.copy() for i, p in enumerate(params[part])}, {str(i): g.copy() for i, g in enumerate(grads[part])})
        for part in (slice(half), slice(half, None))
    ]
    opt = tables[peer.name][rule](lr=rate(rule), **ARGUMENTS[rule])

    def step() -> None:
        for mine, gradients in networks:
            opt.update(mine, gradients)

    return Runner(step, lambda: [p for mine, _ in networks for p in mine.values()])
