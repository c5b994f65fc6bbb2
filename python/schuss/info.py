"""What this installation is and runs on, for bug reports and benchmarks."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np

from . import _core, threads

# Distributions that make more of the package work, by what asks for them.
_EXTRAS = (
    *(
        "matplotlib",
        "tqdm",
        "pooch",
        "mlxtend",
        "scikit-learn",
        "safetensors",
        "ml_dtypes",
        "mpi4py",
        "torch",
        "optax",
        "thinc",
        "spacy",
    ),
    "numba",
)


def info() -> dict[str, Any]:
    """Return the version, the CPU, the kernels chosen, the threads, NumPy and the optional packages.

    Returns
    -------
    dict
        Ready for JSON. ``isa`` is what runs now, ``isas_available`` what ``SCHUSS_ISA`` may ask for;
        ``slow_on_subnormals`` was measured: there subnormal numbers go another way, to the same bits; so
        was ``roots_by_products``: every second root of doubles in a cache is made by multiplications, to the same bits;
        ``threads_from`` says where the number came from; an absent extra is None.

    Examples
    --------
    >>> import schuss
    >>> schuss.info()["isa"] in schuss.info()["isas_available"]
    True
    """
    return {
        "schuss": _core.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "isa": _core.isa,
        "isas_available": list(_core.isas_available),
        "slow_on_subnormals": _core.care() != 0,
        "roots_by_products": _core.roots_by_products(),
        "threads": threads.get_num_threads(),
        "threads_from": threads.source(),
        "openmp": _core.openmp,
        "numpy": np.__version__,
        "blas": _blas_name(),
        "extras": {name: _version(name) for name in _EXTRAS},
    }


def _version(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version  # here, as it is slow to import

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _blas_name() -> str:
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"{blas['name']} {blas['version']}"
