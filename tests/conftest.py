"""What several test files share: data, thread settings, and the one way to compare arrays."""

from __future__ import annotations

import os
import re
from collections import Counter
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import schuss
from schuss import _core

DTYPES = (np.float32, np.float64)

# Muon takes matrices alone, and leans on BLAS. The norms of LAMB and LARS follow the order of memory; Adafactor goes by
# rows and columns. All other rules work element by element.
ELEMENTWISE = [rule for rule in schuss.optimizers.OPTIMIZERS if rule not in ("Muon", "Adafactor", "LAMB", "LARS")]
ON_EACH_LAYOUT = [*ELEMENTWISE, "Adafactor"]
BITWISE = [*ON_EACH_LAYOUT, "LAMB", "LARS"]


def pytest_addoption(parser) -> None:
    parser.addoption(
        "--thorough", action="store_true", help="tens of thousands of random examples, and what takes long"
    )


def skipped_line(reasons) -> str:
    """What was skipped, and what to do for it: one line from the reasons of all skipped tests."""
    found = Counter()
    for reason in reasons:
        if extra := re.search(r"\(extra (\w+)", reason):
            found[f'want pip install ".[{extra[1]}]"'] += 1
        elif "--thorough" in reason:
            found["are in the long form, pytest --thorough"] += 1
        elif "is not installed" in reason:
            found['want pip install ".[test]"'] += 1
        elif variable := re.search(r"set ([A-Z_0-9]+)", reason):
            found[f"want {variable[1]}"] += 1
        else:
            found["do not concern this system (pytest -rs says why)"] += 1
    return "; ".join(f"{n} {what}" for what, n in found.most_common())


def pytest_terminal_summary(terminalreporter) -> None:
    reports = terminalreporter.stats.get("skipped", [])
    if reports:
        terminalreporter.write_line(f"skipped: {skipped_line(str(report.longrepr[2]) for report in reports)}")


@pytest.fixture
def thorough(request) -> None:
    """For tests that are run at night."""
    if not request.config.getoption("--thorough"):
        pytest.skip("takes long: run with --thorough")


@pytest.fixture
def shared_data() -> Path:
    """The directory of real data sets: SCHUSS_TEST_DATA, or shared/data beside the checkout."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SCHUSS_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip("no directory of real data: set SCHUSS_TEST_DATA to one with mnist/ and airfoil_self_noise.dat")
    return folder


@pytest.fixture(autouse=True, scope="session")
def _blas_leaves_cores_to_the_other_workers():
    """With pytest-xdist each worker's BLAS would take all cores; its threads spin, and all wait."""
    if "PYTEST_XDIST_WORKER" in os.environ and find_spec("threadpoolctl"):
        with import_module("threadpoolctl").threadpool_limits(1, "blas"):
            yield
    else:
        yield


@pytest.fixture(autouse=True)
def _settings_restored():
    threads, grain = schuss.get_num_threads(), _core.grain()
    yield
    schuss.set_num_threads(threads, grain=grain or None)
    _core.set_care(None)


@pytest.fixture(params=BITWISE)
def rule(request) -> str:
    return request.param


@pytest.fixture(params=DTYPES, ids=lambda dtype: dtype.__name__)
def dtype(request) -> type:
    return request.param


def assert_same_bits(actual, expected, where: str = "") -> None:
    """Equal bytes, element by element; NaN exactly where NaN is expected, whatever its payload."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype, where
    assert actual.shape == expected.shape, where
    if actual.reshape(-1).tobytes() == expected.reshape(-1).tobytes():  # older NumPy: of 32 axes at most
        return  # which is the rule, and quickly found
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(actual), nan, err_msg=f"NaN elsewhere: {where}")
    bits = np.dtype(f"u{actual.itemsize}")
    actual, expected = (np.where(nan, 0, a).astype(a.dtype).view(bits) for a in (actual, expected))
    np.testing.assert_array_equal(actual, expected, err_msg=where)


def assert_same_optimizers(actual, expected) -> None:
    """Same step count, same state, bit for bit."""
    assert actual.t == expected.t
    assert set(actual.state) == set(expected.state)
    for name, slots in expected.state.items():
        assert set(actual.state[name]) == set(slots)
        for slot, array in slots.items():
            assert_same_bits(actual.state[name][slot], array, f"state[{name!r}][{slot!r}]")
