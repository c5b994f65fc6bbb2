"""The examples in the docstrings and in the README run and show what they say."""

from __future__ import annotations

import ast
import doctest
import importlib
import pkgutil
import re
from importlib import metadata
from pathlib import Path

import pytest
import schuss

MODULES = [
    "schuss",
    *(m.name for m in pkgutil.walk_packages(schuss.__path__, "schuss.") if not m.name.endswith("__main__")),
]


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    if name == "schuss.checkpoint":
        pytest.importorskip("safetensors", reason="safetensors is not installed (extra checkpoint)")
    if name.startswith("schuss.mpi."):
        pytest.importorskip("mpi4py", reason="mpi4py is not installed (extra mpi)")
    if name == "schuss.scipy":
        pytest.importorskip("scipy", reason="scipy is not installed (extra scipy)")
    if name == "schuss.sklearn":
        pytest.importorskip("sklearn", reason="scikit-learn is not installed (extra sklearn)")
    if name == "schuss.thinc":
        pytest.importorskip("thinc", reason="thinc is not installed (extra thinc)")
    if name in ("schuss.torch.tensors", "schuss.torch.step", "schuss.torch.optimizers"):
        pytest.importorskip("torch", reason="torch is not installed (extra torch)")
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_readme():
    readme = Path(__file__).parents[1] / "README.md"
    blocks = re.findall(r"```python\n(.*?)```", readme.read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(block, {})


def examples():
    """The examples of docs/gradients.md by their headings."""
    page = (Path(__file__).parents[1] / "docs" / "gradients.md").read_text()
    for section in page.split("\n## ")[1:]:
        yield from (
            (section.splitlines()[0], block) for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL)
        )


@pytest.mark.parametrize(("heading", "block"), [pytest.param(*each, id=each[0]) for each in examples()])
def test_where_gradients_come_from(heading, block):
    for package in re.findall(r"^(?:import|from) (\w+)", block, re.MULTILINE):
        pytest.importorskip(package, reason=f'{package} is not installed: pip install ".[parity]"')
    exec(block, {})


# Optional packages.


def needed():
    """Each call of need(): the package, and the extra that its message names."""
    found = []
    for path in Path(schuss.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "need":
                named = {each.arg: each.value.value for each in node.keywords}
                package = named.get("package") or node.args[0].value.split(".")[0]
                found.append(pytest.param(package, named.get("extra", "demo"), id=f"{path.name}:{node.lineno}"))
    return found


@pytest.mark.parametrize(("package", "extra"), needed())
def test_each_message_names_the_extra_that_brings_the_package(package, extra):
    brought = [re.match(r"[\w-]+", text)[0] for text in metadata.requires("schuss") if f'extra == "{extra}"' in text]
    assert package in brought


def test_one_version():
    root = Path(__file__).parents[1]
    cited = re.search(r"^version: (.*)$", (root / "CITATION.cff").read_text(), re.MULTILINE)[1]
    built = re.search(r'^version = "(.*)"$', (root / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert cited == built == schuss.__version__
