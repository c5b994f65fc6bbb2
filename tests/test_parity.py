"""docs/conventions.md is true: in each row of its tables the two sides take the same 20 steps in float64.

The rows are read from the page itself. What is not installed is skipped; the extra `parity` has it.
"""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path

import numpy as np
import pytest
import schuss

pytestmark = pytest.mark.filterwarnings("default")  # the peers' own deprecations are theirs to mend

PAGE = Path(__file__).parents[1] / "docs" / "conventions.md"
ROWS = re.findall(r"^\| `(schuss\..*?)` \| `((torch|optax|keras)\..*?)` \|", PAGE.read_text(), re.MULTILINE)
STEPS = 20
# PyTorch's Muon computes in bfloat16, which has three decimal digits; Optax's Adafactor has a scalar in float32.
LOOSE = {"torch.optim.Muon": 0.03, "optax.adafactor": 1e-6}


def need(name):
    if name == "keras":
        os.environ.setdefault("KERAS_BACKEND", "torch")
        pytest.importorskip("torch", reason="PyTorch is not installed (extra parity)")
    return pytest.importorskip(name, reason=f"{name} is not installed (extra parity)")


def torch_steps(text, params, gradients):
    torch = need("torch")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # the scalars of its NAdam are tensors of this type
    try:
        tensors = [torch.nn.Parameter(torch.tensor(p)) for p in params]
        opt = eval(text, {"torch": torch, "params": tensors})
        for grads in gradients:
            for tensor, g in zip(tensors, grads, strict=True):
                tensor.grad = torch.tensor(g)
            opt.step()
            yield [tensor.detach().numpy() for tensor in tensors]
    finally:
        torch.set_default_dtype(before)


def optax_steps(text, params, gradients):
    optax = need("optax")
    jax = importlib.import_module("jax")
    importlib.import_module("optax.contrib")
    with jax.enable_x64(True):
        opt = eval(text, {"optax": optax})
        values = [jax.numpy.array(p) for p in params]
        state = opt.init(values)
        for grads in gradients:
            updates, state = opt.update([jax.numpy.array(g) for g in grads], state, values)
            values = optax.apply_updates(values, updates)
            yield [np.asarray(value) for value in values]


def keras_steps(text, params, gradients):
    keras = need("keras")
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    try:
        opt = eval(text, {"keras": keras})
        variables = [keras.Variable(p) for p in params]
        for grads in gradients:
            opt.apply([keras.ops.convert_to_tensor(g) for g in grads], variables)
            yield [keras.ops.convert_to_numpy(variable) for variable in variables]
    finally:
        keras.config.set_floatx(before)


PEERS = {"torch": torch_steps, "optax": optax_steps, "keras": keras_steps}


def test_the_page_has_rows_of_all_three():
    assert {peer for _, _, peer in ROWS} == set(PEERS)
    missing = [name for name in schuss.optimizers.OPTIMIZERS if f"schuss.{name}(" not in PAGE.read_text()]
    assert not missing


@pytest.mark.parametrize(("ours", "theirs", "peer"), ROWS, ids=[theirs for _, theirs, _ in ROWS])
def test_the_same_steps(ours, theirs, peer):
    rng = np.random.default_rng(0)
    shapes = [(7, 5), (4, 6)] if "Muon" in ours else [(7, 5), (6,)]
    start = [rng.normal(size=shape) for shape in shapes]
    gradients = [[rng.normal(size=shape) for shape in shapes] for _ in range(STEPS)]
    params = [p.copy() for p in start]
    opt = eval(ours, {"schuss": schuss})
    tolerance = LOOSE.get(theirs.split("(")[0], 1e-12)
    seen = 0
    for grads, expected in zip(gradients, PEERS[peer](theirs, start, gradients), strict=True):
        opt.update(params, grads)
        for p, e in zip(params, expected, strict=True):
            np.testing.assert_allclose(p, e, rtol=tolerance, atol=tolerance, err_msg=f"after step {opt.t}")
        seen += 1
    assert seen == STEPS


SENTENCE = r"`(schuss\.[^`]*)`\s+(?:takes\s+the\s+steps\s+of|those\s+of)\s+`(torch[^`]*)`"
TOUCHED = re.findall(SENTENCE, PAGE.read_text())
assert len(TOUCHED) == 3


@pytest.mark.parametrize(("ours", "theirs"), TOUCHED)
def test_rows_touched_alone(ours, theirs):
    """The sentence on gradients by rows: the same steps as PyTorch's on sparse gradients, also in rows that rest."""
    torch = need("torch")
    rng = np.random.default_rng(0)
    table = rng.normal(size=(30, 4))
    p = torch.nn.Parameter(torch.tensor(table))
    opt, peer = eval(ours, {"schuss": schuss}), eval(theirs, {"torch": torch, "p": p})
    opt.sparse = "touched"
    for _ in range(STEPS):
        indices, values = np.minimum(rng.zipf(1.3, 8) - 1, 29), rng.normal(size=(8, 4))
        opt.update({"E": table}, {"E": schuss.Rows(indices, values)})
        p.grad = torch.sparse_coo_tensor(torch.tensor(indices[None]), torch.tensor(values), (30, 4))
        peer.step()
        np.testing.assert_allclose(table, p.detach().numpy(), rtol=1e-9, atol=1e-12)
