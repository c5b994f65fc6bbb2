"""How many threads an update may use, and where that number came from."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from operator import index
from pathlib import Path
from typing import Any

from .checks import shown


@contextmanager
def _short_spin() -> Iterator[None]:
    """Let libgomp's threads wait for the next update only briefly before they sleep.

    By default they keep their cores busy for milliseconds, in which NumPy's BLAS has to go without: a
    training iteration of 0.6 ms took 10 ms. libgomp reads its settings once, when it is loaded, and that
    is when ``_core`` is first imported. What the user has set is left alone.
    """
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    if any(name in os.environ for name in names):
        yield
        return
    os.environ["GOMP_SPINCOUNT"] = "3000"  # 20 to 30 us: longer than from one update to the next
    try:
        yield
    finally:
        del os.environ["GOMP_SPINCOUNT"]


with _short_spin():
    from . import _core

__all__ = ["get_num_threads", "set_num_threads"]

_source = ""


def set_num_threads(n: int, *, grain: int | None = None) -> None:
    """Let every update use at most ``n`` threads.

    This goes before ``SCHUSS_NUM_THREADS``, ``OMP_NUM_THREADS``, the affinity mask and the cgroup
    quota, which decide otherwise, in that order; the last two are divided among the ranks that MPI has started here.

    Parameters
    ----------
    n : int
        From 1 to 1,024. Results do not depend on it, bit for bit.
    grain : int, optional
        The memory traffic, in bytes, from which a thread of its own is worth its start: an update of
        ``b`` bytes then runs on ``min(n, b // grain)`` threads. Without it small work runs on one thread,
        large on ``n``, and what lies between on one or ``n``, as has been faster in this program.

    Raises
    ------
    ValueError
        Where ``n`` or ``grain`` is less than 1, or ``n`` more than 1,024.
    TypeError
        Where one of them is not an int.

    Examples
    --------
    >>> import schuss
    >>> before = schuss.get_num_threads()
    >>> schuss.set_num_threads(1)
    >>> schuss.get_num_threads()
    1
    >>> schuss.set_num_threads(before)
    """
    global _source
    n = _checked("n", n, _core.most_threads)
    grain = 0 if grain is None else _checked("grain", grain, sys.maxsize)
    _core.set_grain(grain)
    _core.set_threads(n)
    _source = "set_num_threads()"


def _checked(name: str, value: Any, most: int) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an int, got {shown(value)}")
    found = index(value)
    if found < 1:
        raise ValueError(f"{name} must be at least 1, got {shown(value)}")
    if found > most:
        raise ValueError(f"{name} must be at most {most}, got {shown(value)}")
    return found


def get_num_threads() -> int:
    """Return the most threads that an update may use.

    Returns
    -------
    int
        From 1 to 1,024; ``schuss.info()["threads_from"]`` says where the number came from.
    """
    return _core.threads()


def source() -> str:
    """Return what the number of threads was taken from."""
    return _source


def _cgroup_quota(root: Path = Path("/")) -> float | None:
    """CPUs that this process's cgroup, or any above it, grants; None where there is no limit."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        here = top / path.lstrip("/")
        # Inside a container the path is the host's, and only the top is there to be seen.
        for folder in (here, *here.parents):
            quotas.append(_folder_quota(folder, v1=bool(controllers)))
            if folder == top:
                break
    return min((quota for quota in quotas if quota is not None), default=None)


def _folder_quota(folder: Path, *, v1: bool) -> float | None:
    try:
        if v1:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        else:
            quota, period = (folder / "cpu.max").read_text().split()
        limited = quota not in ("max", "-1")
        return int(quota) / int(period) if limited else None
    except (OSError, ValueError):
        return None


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _ranks_here() -> int:
    """How many ranks of MPI its launcher has started on this machine; 1 without one, or where it gave each its CPUs."""
    for name in ("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE"):  # MPICH and those made from it; Open MPI
        if found := _count(os.environ.get(name, "")):
            return found if _usable_cpus() == (os.cpu_count() or 1) else 1
    return 1


def _count(text: str) -> int | None:
    """The whole number from 1 on that a text is, if it is one."""
    found = int(text) if len(text) < 10 and text.isascii() and text.isdecimal() else 0
    return found if found >= 1 else None


def _decide() -> tuple[int, str]:
    ours = os.environ.get("SCHUSS_NUM_THREADS", "").strip()
    if ours:
        found = _count(ours)
        if found is None or found > _core.most_threads:
            raise ImportError(f"SCHUSS_NUM_THREADS must be a whole number from 1 to {_core.most_threads}, got {ours!r}")
        return found, "SCHUSS_NUM_THREADS"
    # OpenMP allows a list, one number per level of nesting; what it cannot read it ignores.
    omp = _count(os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip())
    if omp is not None:
        return min(omp, _core.most_threads), "OMP_NUM_THREADS"
    cpus, quota, ranks = _usable_cpus(), _cgroup_quota(), _ranks_here()
    shared = f", for {ranks} ranks of MPI" if ranks > 1 else ""
    if quota is not None and quota < cpus:
        return max(1, int(quota / ranks)), f"cgroup CPU quota{shared}"
    return max(1, min(cpus // ranks, _core.most_threads)), f"CPU affinity{shared}"


def _start() -> None:
    global _source
    n, _source = _decide()
    _core.set_threads(n)


_start()
