"""The choice of kernels: what is available, the override, and its errors."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import schuss


def isa_with(value):
    environment = {k: v for k, v in os.environ.items() if k != "SCHUSS_ISA"}
    if value is not None:
        environment["SCHUSS_ISA"] = value
    command = [sys.executable, "-c", "import schuss; print(schuss.info()['isa'])"]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("isa", schuss.info()["isas_available"])
def test_the_override_is_followed(isa):
    assert isa_with(isa).stdout.strip() == isa


@pytest.mark.parametrize("value", [None, ""])
def test_the_best_is_chosen_otherwise(value):
    assert isa_with(value).stdout.strip() == schuss.info()["isas_available"][-1]


def test_what_the_cpu_lacks_is_an_error_at_import():
    done = isa_with("avx1024")
    assert done.returncode != 0
    available = schuss.info()["isas_available"]
    assert done.stderr.strip().splitlines()[-1] == (
        f"ImportError: SCHUSS_ISA=avx1024: this CPU can run {', '.join(available)}; "
        f"unset SCHUSS_ISA to use {available[-1]}"
    )


def test_the_probe_agrees_with_the_kernel():
    try:
        with open("/proc/cpuinfo") as file:
            flags = next(line for line in file if line.startswith("flags")).split()
    except (OSError, StopIteration):
        pytest.skip("no flags of an x86 CPU in /proc/cpuinfo")
    v3 = {"avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"} <= set(flags)
    v4 = v3 and {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"} <= set(flags)
    assert schuss.info()["isas_available"] == ["baseline"] + ["avx2"] * v3 + ["avx512"] * v4
