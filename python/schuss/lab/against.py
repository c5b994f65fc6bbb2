"""A run of the benchmark against an earlier one of the same machine: what of ours got slower, beyond the noise.

The machine itself may be slower today. How much is told by the stream limit of the same case, whose speed is that of
the memory or the cache; where a case has none, by the median of its other contenders; and where it has none of those,
by the median of the run's limits. But a neighbour that takes half of the cache or of a core slows a loop that waits for
memory and one that computes by different shares. So ours counts as slower only if it is both by the clock and beside
the machine, and by the lesser of the two. The noise is the distance of the quartiles in both runs, of ours and of the
limit, and how far the other contenders moved from what the limit tells, all added as independent errors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, hypot, isfinite, log
from pathlib import Path
from statistics import median
from typing import Any

from .report import as_table
from .timing import STREAM, time_text

LEAST_NOISE = 0.1  # two runs of the same code are further apart, now and then, than quartiles show
RATIO = "now / before, by the clock or beside the limit (or the others), which is nearer to 1"

Rows = Sequence[Mapping[str, Any]]
Contenders = Mapping[str, Mapping[str, Any]]  # the rows of one case, by contender
Key = tuple[str, str, str, int]


@dataclass(frozen=True)
class Change:
    """One of our times in two runs. The ratio is above 1 where it is slower."""

    case: str
    rule: str
    dtype: str
    threads: int
    before: float
    now: float
    ratio: float  # now over before: by the clock or beside the machine, which is nearer to 1; 1 if they contradict
    noise: float  # a ratio between 1 / noise and noise says nothing

    @property
    def verdict(self) -> str:
        """Whether it is slower, faster, or the same within the noise."""
        if self.ratio > self.noise:
            return "slower"
        return "faster" if self.ratio * self.noise < 1 else "same"


def read(path: Path, machine: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of an earlier ``schuss bench --json``.

    Those of another processor or ISA are refused: there a rule is nearer to the limit, or further from it, by itself.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        before = {name: found["machine"][name] for name in ("cpu", "isa")}
        rows = [row for row in found["rows"] if _is_ours(row)]
    except FileNotFoundError as error:
        raise FileNotFoundError(f"--against {path}: there is no such file") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"--against {path}: this is no JSON of schuss bench") from error
    for name, value in before.items():
        if value != machine[name]:
            raise ValueError(f"--against {path}: it is of another machine: its {name} is {value}, here {machine[name]}")
    if not rows:
        raise ValueError(f"--against {path}: it has no times of rules")
    return rows


_NAMES = ("case", "rule", "dtype", "contender")
_TIMES = ("median", "low", "high")


def _is_ours(row: Any) -> bool:
    """Whether this is a row of the benchmark's cases; those of formats and of other tables have other columns."""
    if not all(name in row for name in (*_NAMES, *_TIMES, "threads", "of_limit")):
        return False
    if not all(isinstance(row[name], str) for name in _NAMES) or not isinstance(row["threads"], int):
        raise TypeError
    numbers = (*_TIMES, "gb_per_s") if row["contender"] == STREAM else _TIMES
    if not all(isinstance(row[name], (int, float)) and isfinite(row[name]) and row[name] > 0 for name in numbers):
        raise TypeError
    return True


def changes(before: Rows, now: Rows) -> list[Change]:
    """Each of our times that both runs have."""
    earlier, later = _by_case(before), _by_case(now)
    pairs = {key: (earlier[key], contenders) for key, contenders in later.items() if key in earlier}
    limits = [_limit(*pair) for pair in pairs.values() if all(STREAM in run for run in pair)]
    return [_change(key, *pair, limits) for key, pair in pairs.items() if all("schuss" in run for run in pair)]


def _limit(before: Contenders, now: Contenders) -> float:
    """How the limit moved: by its speed, which stays if another number of bytes is thought to be a rule's limit."""
    return log(before[STREAM]["gb_per_s"] / now[STREAM]["gb_per_s"])


def _by_case(rows: Rows) -> dict[Key, dict[str, Mapping[str, Any]]]:
    found: dict[Key, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["case"], row["rule"], row["dtype"], row["threads"]), {})[row["contender"]] = row
    return found


def _change(key: Key, before: Contenders, now: Contenders, limits: Sequence[float]) -> Change:
    moved = {name: log(now[name]["median"] / before[name]["median"]) for name in now if name in before}
    ours, timed = moved.pop("schuss"), ["schuss"]
    if moved.pop(STREAM, None) is not None:
        machine = _limit(before, now)
        timed.append(STREAM)
        others = [*moved.values()]
    else:
        others = [*moved.values()] or list(limits)
        machine = median(others) if others else 0.0
    apart = median(abs(each - machine) for each in others) if others else 0.0
    spreads = [log(run[name]["high"] / run[name]["low"]) for run in (before, now) for name in timed]
    beside = ours - machine
    ratio = min(ours, beside, key=abs) if ours * beside > 0 else 0.0
    noise = max(LEAST_NOISE, hypot(*spreads, apart))
    return Change(*key, before["schuss"]["median"], now["schuss"]["median"], exp(ratio), exp(noise))


def table(found: Sequence[Change]) -> str:
    """All changes, and in the last line how many are beyond the noise."""
    header = ("case", "rule", "", "threads", "before", "now", "ratio", "noise", "verdict")
    lines = [
        (
            change.case,
            change.rule,
            change.dtype,
            str(change.threads),
            time_text(change.before),
            time_text(change.now),
            f"{change.ratio:.2f}",
            f"{change.noise:.2f}",
            change.verdict,
        )
        for change in found
    ]
    counts = {verdict: sum(change.verdict == verdict for change in found) for verdict in ("slower", "faster", "same")}
    summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return f"{as_table(header, lines)}\n{summary}; ratio: {RATIO}"
