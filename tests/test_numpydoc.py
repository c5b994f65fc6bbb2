"""Docstrings say what there is: numpydoc compares that of each public name with what it takes and returns."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from pathlib import Path

import pytest
import schuss
from schuss.options import L2Options

validation = pytest.importorskip("numpydoc.validate", reason="numpydoc is not installed (extra dev)")

MODULES = [
    "schuss",
    "schuss.optimizers",
    "schuss.functional",
    "schuss.schedules",
    "schuss.nn",
    "schuss.datasets",
    "schuss.checkpoint",
    "schuss.mpi",
    "schuss.threads",
    "schuss.info",
    "schuss.scipy",
    "schuss.textbook",
    "schuss.textbook.ch04",
    *(["schuss.torch"] if importlib.util.find_spec("torch") else []),
    *(["schuss.sklearn"] if importlib.util.find_spec("sklearn") else []),
    *(["schuss.thinc"] if importlib.util.find_spec("thinc") else []),
]

LEFT_OUT = {
    # Where lines break is for ruff to say.
    *("GL01", "GL02", "GL03"),
    # Nothing is deprecated.
    "GL09",
    # A summary may name what is returned, which the check takes for a verb in the third person; a few need two lines.
    *("SS05", "SS06"),
    # What is said in a line needs no second text and no example, and the text itself names what else there is to see.
    *("ES01", "EX01", "SA01", "SA04"),
    # A description may go on from the name before it, or be no sentence; and a single result may have a name.
    *("PR08", "PR09", "PR10", "RT02", "RT04", "RT05"),
    # A context manager is described by what it does.
    "YD01",
}
# It is not made by itself: what its docstring lists are the options of all rules, which the second test looks at.
LEFT_OUT_OF = {"schuss.base.Optimizer": {"PR01", "PR02"}}


def public():
    """The public names of these modules, and the public methods and properties of their classes."""
    found = set()
    for module in map(importlib.import_module, MODULES):
        own = [name for name, each in vars(module).items() if getattr(each, "__module__", None) == module.__name__]
        for name in getattr(module, "__all__", [name for name in own if not name.startswith("_")]):
            each = getattr(module, name)
            if not (inspect.isclass(each) or inspect.isfunction(each)):
                continue  # a constant or a module
            found.add(f"{each.__module__}.{each.__qualname__}")
            for cls in each.__mro__ if inspect.isclass(each) else ():
                for part, value in vars(cls).items() if cls.__module__.startswith("schuss") else ():
                    if not part.startswith("_") and (
                        inspect.isfunction(value) or isinstance(value, (property, classmethod))
                    ):
                        found.add(f"{cls.__module__}.{cls.__qualname__}.{part}")
    return sorted(found)


@pytest.mark.parametrize("name", public())
def test_docstring(name):
    left_out = LEFT_OUT | LEFT_OUT_OF.get(name, set())
    faults = [fault for fault in validation.validate(name)["errors"] if fault[0] not in left_out]
    assert faults == []


def test_the_options_that_all_take():
    documented = validation.Validator(validation.get_doc_object(schuss.Optimizer)).doc_parameters
    assert set(documented) == set(L2Options.__annotations__)


@pytest.mark.parametrize("path", sorted(Path(schuss.__file__).parent.rglob("*.py")), ids=lambda path: path.name)
def test_equations_are_plain_text(path):
    assert ":math:" not in path.read_text(encoding="utf-8")
    assert ".. math::" not in path.read_text(encoding="utf-8")
