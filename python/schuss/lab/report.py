"""What a command says and leaves behind: tables, JSON, CSV and figures, each file whole or not there."""

from __future__ import annotations

import csv
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import StringIO
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from .._extras import need
from .plots import png
from .setting import Setting

# The shell's exit statuses for a process that Ctrl-C ended, and for one whose output nobody reads any more.
INTERRUPTED, UNREAD = 130, 141


class Failure(Exception):
    """Something that the user can mend; its text is the one line that is shown."""


def one_line(text: str) -> str:
    """A text without ends of lines."""
    return " ".join(text.splitlines())


@contextmanager
def told_to_the_user() -> Iterator[None]:
    """Around what depends on the user's files and installation: turns their errors into one line."""
    try:
        yield
    except BrokenPipeError:
        raise  # of what is printed within: main() knows
    except (ImportError, OSError, ValueError) as error:
        raise Failure(str(error)) from error


def tell(text: str) -> None:
    """One line for the user, whatever the text has; if it cannot be written there is no one to tell."""
    with suppress(OSError):
        print(f"schuss: {one_line(text)}", file=sys.stderr)


def exit_status(interrupted: bool) -> int:
    """The exit status of an experiment whose results have been shown."""
    if interrupted:
        tell("interrupted: these are partial results")
    return INTERRUPTED if interrupted else 0


def prepare(out: Path) -> None:
    """Fail before the work, not after it, where the figures could not be drawn or written."""
    with told_to_the_user():
        need("matplotlib", "schuss compare")
        try:
            out.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=out).close()
        except OSError as error:
            raise OSError(f"cannot write into --out {out}: {error.strerror}") from error


def write(path: Path, data: bytes | str) -> Path:
    """Write all of a file or nothing of it."""
    partial = path.with_name(f".{path.name}.partial")
    with told_to_the_user():
        try:
            partial.write_bytes(data.encode() if isinstance(data, str) else data)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    return path


def write_figure(path: Path, figure: Any) -> Path:
    """Write a figure as PNG."""
    with told_to_the_user():
        content = png(figure)
    return write(path, content)


def as_csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows below a header, as CSV."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def as_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns under their heads, the first to the left and the numbers to the right; none that are empty."""
    columns = [column for column in zip(header, *rows, strict=True) if any(column[1:])]
    lines = list(zip(*columns, strict=True))
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def mean(values: Sequence[float]) -> float:
    """A mean that may overflow, as what diverges does."""
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.mean(values))


def spread(values: Sequence[float], form: str) -> tuple[str, str]:
    """The mean of some seeds, and their lowest and highest; no range of one."""
    return f"{mean(values):{form}}", f"{min(values):{form}} to {max(values):{form}}" if len(values) > 1 else ""


def seeds_said(setting: Setting) -> str:
    """What the numbers of a table are of."""
    first, last = setting.seeds[0], setting.seeds[-1]
    return f"seed {first}" if first == last else f"mean and range over the seeds {first} to {last}"


def show(as_json: bool, result: dict[str, Any], text: str, files: Sequence[Path]) -> None:
    """Print the result: as JSON, or as text with the names of the files."""
    if as_json:
        print(json.dumps(_for_json({**result, "files": [str(path) for path in files]}), indent=1, allow_nan=False))
    else:
        print(text)
        for path in files:
            print(f"wrote {path}")


def _for_json(value: Any) -> Any:
    """The same with null for what is not finite, as JSON has no such numbers."""
    if isinstance(value, dict):
        return {key: _for_json(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_for_json(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value
