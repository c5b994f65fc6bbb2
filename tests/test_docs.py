"""The examples in the docstrings and in the README run and show what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import schuss

MODULES = [
    "schuss",
    *(f"schuss.{m.name}" for m in pkgutil.iter_modules(schuss.__path__) if m.name != "__main__"),
]


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    if name == "schuss.checkpoint":
        pytest.importorskip("safetensors", reason="safetensors is not installed (extra checkpoint)")
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_readme():
    readme = Path(__file__).parents[1] / "README.md"
    blocks = re.findall(r"```python\n(.*?)```", readme.read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(block, {})
