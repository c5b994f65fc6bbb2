"""The house: what imports what, and whether the drawing in CONTRIBUTING.md shows it."""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import schuss
from conftest import skipped_line

PACKAGE = Path(schuss.__file__).parent
ROOT = Path(__file__).parents[1]
MODULES = sorted(".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("*.py"))


def imports_of(module: str) -> set[str]:
    """The modules of ours that one imports, within functions too; what is for types alone does not count."""
    path = PACKAGE / (module.replace(".", "/") + ".py")
    found = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            return
        if isinstance(node, ast.ImportFrom) and node.level:
            package = module.split(".")[: -node.level]
            base = [*package, *(node.module or "").split(".")] if node.module else package
            for each in (each for each in node.names if each.name != "_core"):
                inner, outer = ".".join([*base, each.name]), ".".join(base)
                found.update(name for name in (inner, f"{inner}.__init__") if name in MODULES)
                if inner not in MODULES and f"{inner}.__init__" not in MODULES:
                    found.update(name for name in (outer, f"{outer}.__init__".lstrip(".")) if name in MODULES)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found - {module}


def test_no_circle():
    try:
        order = list(TopologicalSorter({module: imports_of(module) for module in MODULES}).static_order())
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))
    assert order.index("checks") < order.index("base") < order.index("optimizers") < order.index("__init__")


def test_the_library_does_not_know_what_shows_it():
    outside = {"cli", "__main__", "bench"}
    for module in MODULES:
        if module not in outside and not module.startswith("lab."):
            assert not {name for name in imports_of(module) if name.startswith("lab") or name in outside}, module


def test_each_room_says_what_for():
    for module in MODULES:
        text = (PACKAGE / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8")
        assert re.match(r'"""[A-Z`].{10,}', text), module
    for path in (ROOT / "cpp").iterdir():
        assert re.match(r"// [A-Z].{10,}", path.read_text(encoding="utf-8")), path


def drawn(block: str) -> set[str]:
    """The names at the beginnings of lines below a folder in the drawing."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    lines = re.search(rf"^{re.escape(block)}.*\n((?:  .*\n)+)", text, re.MULTILINE)[1].splitlines()
    names = set()
    for line in lines:
        name = line.split()[0]
        stem, *endings = name.split("/.")
        names.add(stem.rstrip("/"))
        names.update(f"{stem.rpartition('.')[0]}.{ending}" for ending in endings)
    return names


def test_the_drawing_shows_every_room():
    assert drawn("cpp/") == {path.name for path in (ROOT / "cpp").iterdir()}
    rooms = {path.name for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert drawn("python/schuss/") == rooms - {"__init__.py", "__main__.py"}
    assert drawn("docs/") == {path.name for path in (ROOT / "docs").iterdir() if path.suffix == ".md"}


def test_the_drawing_goes_from_below():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    lines = re.search(r"^python/schuss/.*\n((?:  .*\n)+)", text, re.MULTILINE)[1].splitlines()
    place = {line.split()[0].removesuffix(".py").rstrip("/"): i for i, line in enumerate(lines)}
    for module in MODULES:
        room = module.split(".")[0]
        for other in imports_of(module):
            above = other.split(".")[0]
            if room in place and above in place and room != above:
                assert place[above] < place[room], f"{module} imports {other}"


def test_what_is_skipped_is_summed_up_in_a_line():
    reasons = ["Skipped: PyTorch is not installed (extra parity)"] * 3 + ["Skipped: takes long: run with --thorough"]
    reasons += [
        "Skipped: no directory of real data: set SCHUSS_TEST_DATA to one with mnist/",
        "Skipped: there is no GIL",
        "Skipped: scikit-learn is not installed",
    ]
    assert skipped_line(reasons) == (
        '3 want pip install ".[parity]"; 1 are in the long form, pytest --thorough; 1 want SCHUSS_TEST_DATA; '
        '1 do not concern this system (pytest -rs says why); 1 want pip install ".[test]"'
    )
