"""The command line: it parses and prints; experiments, plots and benchmark do the work."""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any, NoReturn

from . import __version__, bench, datasets, experiments, plots
from ._extras import need
from .info import info
from .optimizers import OPTIMIZERS

INTERRUPTED = 130  # the shell's exit status for a process that Ctrl-C ended


class Failure(Exception):
    """Something that the user can mend; its text is the one line that is shown."""


@contextmanager
def _told_to_the_user() -> Iterator[None]:
    """Around what depends on the user's files and installation: turns their errors into one line."""
    try:
        yield
    except (ImportError, OSError, ValueError) as error:
        raise Failure(str(error)) from error


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return number


def _seed(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 on, got {text!r}")
    return number


def _optimizer(text: str) -> str:
    if text not in OPTIMIZERS:
        raise argparse.ArgumentTypeError(
            f"no optimizer is called {text!r}; there are {', '.join(OPTIMIZERS)}"
        )
    return text


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="schuss", description="Optimizer steps on NumPy arrays: compared, measured, explained."
    )
    parser.add_argument("--version", action="version", version=f"schuss {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    compare = commands.add_parser("compare", help="let the optimizers race")
    kinds = compare.add_subparsers(required=True, metavar="EXPERIMENT")

    def experiment(name: str, text: str, example: str, run: Any) -> argparse.ArgumentParser:
        sub = kinds.add_parser(name, help=text, description=f"{text}. Example: {example}")
        sub.add_argument(
            "--optimizers",
            nargs="+",
            type=_optimizer,
            default=list(OPTIMIZERS),
            metavar="NAME",
            help=f"which, and in which order (default: {' '.join(OPTIMIZERS)})",
        )
        sub.add_argument(
            "--out",
            type=Path,
            default=Path("schuss-results"),
            metavar="DIR",
            help="where files go (%(default)s)",
        )
        sub.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
        sub.set_defaults(run=run)
        return sub

    path = experiment(
        "path", "the textbook's valley f(x, y) = x^2/20 + y^2", "schuss compare path --scale", _compare_path
    )
    path.add_argument(
        "--scale", action="store_true", help="beside it, the same after scaling x: circular contours"
    )

    mnist = experiment(
        "mnist",
        "the textbook's race on handwritten digits",
        "schuss compare mnist --optimizers Adam SGD --iterations 500",
        _compare_mnist,
    )
    mnist.add_argument(
        "--iterations", type=_positive, default=2000, metavar="N", help="per optimizer (%(default)s)"
    )
    mnist.add_argument("--batch-size", type=_positive, default=128, metavar="N", help="(%(default)s)")
    mnist.add_argument(
        "--hidden",
        nargs="+",
        type=_positive,
        default=[100, 100, 100, 100],
        metavar="N",
        help="neurons of each hidden layer (100 100 100 100)",
    )
    mnist.add_argument(
        "--seed", type=_seed, default=0, metavar="N", help="of weights and batches (%(default)s)"
    )
    mnist.add_argument("--data-dir", type=Path, metavar="DIR", help="a directory of the four IDX files")
    mnist.add_argument(
        "--numpy", action="store_true", help="step in plain NumPy: the same curves, more slowly"
    )

    regression = experiment(
        "regression",
        "linear regression by mini-batches, standardised",
        "schuss compare regression --data airfoil_self_noise.dat",
        _compare_regression,
    )
    regression.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="a numeric table, last column the target (default: diabetes)",
    )
    regression.add_argument("--no-scale", action="store_true", help="leave features and target as they are")
    regression.add_argument(
        "--seed", type=_seed, default=0, metavar="N", help="of weights and order (%(default)s)"
    )

    data = commands.add_parser("data", help="fetch data sets")
    sets = data.add_subparsers(required=True, metavar="SET")
    fetch = sets.add_parser("mnist", help="download the full MNIST", description="Example: schuss data mnist")
    fetch.add_argument("--data-dir", type=Path, metavar="DIR", help="where to (default: the cache)")
    fetch.set_defaults(run=_data_mnist)

    about = commands.add_parser("info", help="what is installed, and what it runs on")
    about.add_argument("--json", action="store_true", help="print JSON")
    about.set_defaults(run=_info)

    measure = commands.add_parser("bench", help="time the steps", description=bench.__doc__)
    bench.add_arguments(measure)
    measure.set_defaults(run=_bench)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0, 2 for what the user can mend, 130 after Ctrl-C."""
    args = _parser().parse_args(argv)
    try:
        return int(args.run(args))
    except Failure as failure:
        print(f"schuss: error: {failure}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("schuss: interrupted", file=sys.stderr)
        return INTERRUPTED


def _prepare(out: Path) -> None:
    """Fail before the work, not after it, where the figures could not be drawn or written."""
    with _told_to_the_user():
        need("matplotlib", "schuss compare")
        try:
            out.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=out).close()
        except OSError as error:
            raise OSError(f"cannot write into --out {out}: {error.strerror}") from error


def _write(path: Path, data: bytes | str) -> Path:
    """Write all of a file or nothing of it."""
    partial = path.with_name(f".{path.name}.partial")
    with _told_to_the_user():
        partial.write_bytes(data.encode() if isinstance(data, str) else data)
        os.replace(partial, path)
    return path


def _write_figure(path: Path, figure: Any) -> Path:
    partial = path.with_name(f".partial-{path.name}")
    with _told_to_the_user():
        figure.savefig(partial)
        os.replace(partial, path)
    return path


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns under their heads, the first to the left and the numbers to the right."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def _report(as_json: bool, result: dict[str, Any], text: str, files: Sequence[Path]) -> None:
    if as_json:
        print(json.dumps({**result, "files": [str(path) for path in files]}, indent=1))
    else:
        print(text)
        for path in files:
            print(f"wrote {path}")


def _compare_path(args: argparse.Namespace) -> int:
    _prepare(args.out)
    rows = [experiments.path(args.optimizers)]
    if args.scale:
        rows.append(experiments.path(args.optimizers, scaled=True))
    ways = [way for row in rows for way in row]
    files = [_write_figure(args.out / "path.png", plots.path_figure(*rows))]
    header = ("optimizer", "lr", "end x", "end y", "f at end")
    lines = (
        (
            way.name + (" (scaled)" if way.scaled else ""),
            f"{way.lr:g}",
            *(f"{v:.4f}" for v in way.points[-1]),
            f"{way.end_value:.2e}",
        )
        for way in ways
    )
    result = {
        "paths": [
            {
                "optimizer": w.name,
                "lr": w.lr,
                "scaled": w.scaled,
                "points": w.points,
                "end_value": w.end_value,
            }
            for w in ways
        ]
    }
    _report(args.json, result, _table(header, lines), files)
    return 0


class _Bars:
    """A progress bar per optimizer, with its loss."""

    def __init__(self, iterations: int) -> None:
        self._tqdm = need("tqdm", "the progress bar").tqdm
        self._iterations = iterations
        self._bar: Any = None

    def watch(self, run: experiments.Run) -> None:
        done = len(run.losses)
        if done == 1:
            self.close()
            self._bar = self._tqdm(
                total=self._iterations, desc=f"{run.name:10}", unit="step", mininterval=0.2
            )
        if done % 20 == 0 or done == self._iterations:
            recent = run.losses[-20:]
            self._bar.set_postfix(loss=f"{sum(recent) / len(recent):.4f}", refresh=False)
        self._bar.update()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _compare_mnist(args: argparse.Namespace) -> int:
    _prepare(args.out)
    with _told_to_the_user():
        source = datasets.mnist_source(args.data_dir)
        data = datasets.load_mnist(data_dir=args.data_dir)
        bars = _Bars(args.iterations)
    print(f"data: {source}", file=sys.stderr)
    race = experiments.mnist(
        data,
        args.optimizers,
        hidden=args.hidden,
        iterations=args.iterations,
        batch_size=args.batch_size,
        seed=args.seed,
        in_numpy=args.numpy,
        watch=bars.watch,
    )
    bars.close()
    curves = (
        (run.name, i, repr(loss), repr(run.accuracies[i]) if i in run.accuracies else "")
        for run in race.runs
        for i, loss in enumerate(run.losses, start=1)
    )
    files = [
        _write_figure(args.out / "mnist_loss.png", plots.race_loss_figure(race)),
        _write_figure(args.out / "mnist_accuracy.png", plots.race_accuracy_figure(race)),
        _write(
            args.out / "mnist_curves.csv",
            _csv(("optimizer", "iteration", "train_loss", "test_accuracy"), curves),
        ),
    ]
    summary = [
        {
            "optimizer": run.name,
            "iterations": len(run.losses),
            "final_loss": run.final_loss,
            "test_accuracy": run.accuracy,  # None where it was interrupted before the first test
            "seconds": run.seconds,
            "gradient_us": _median_us(run.gradient_ns),
            "update_us": _median_us(run.update_ns),
        }
        for run in race.runs
        if run.losses
    ]
    header = ("optimizer", "final loss", "test accuracy", "seconds", "gradient us", "update us")
    lines = (
        (
            str(s["optimizer"]),
            f"{s['final_loss']:.4f}",
            "" if s["test_accuracy"] is None else f"{s['test_accuracy']:.2%}",
            f"{s['seconds']:.2f}",
            f"{s['gradient_us']:.0f}",
            f"{s['update_us']:.1f}",
        )
        for s in summary
    )
    text = _table(header, lines) + f"\nfinal loss: mean of the last 100 batches; data: {source}"
    result = {"data": source, "numpy": args.numpy, "interrupted": race.interrupted, "runs": summary}
    _report(args.json, result, text, files)
    if race.interrupted:
        print("schuss: interrupted: these are partial results", file=sys.stderr)
        return INTERRUPTED
    return 0


def _median_us(nanoseconds: Sequence[int]) -> float:
    return sorted(nanoseconds)[len(nanoseconds) // 2] / 1e3


def _compare_regression(args: argparse.Namespace) -> int:
    _prepare(args.out)
    with _told_to_the_user():
        if args.data is None:
            diabetes = need("sklearn.datasets", "the diabetes data", package="scikit-learn").load_diabetes(
                scaled=False
            )
            features, target = diabetes.data, diabetes.target
        else:
            features, target = datasets.load_table(args.data)
        if not args.no_scale:
            features, _ = datasets.scale_features(features)
            target, _ = datasets.scale_features(target)
    fits = experiments.regression(features[:1500], target[:1500], args.optimizers, seed=args.seed)
    files = [
        _write_figure(args.out / "regression.png", plots.regression_figure(fits)),
        _write(
            args.out / "regression_curves.csv",
            _csv(
                ("optimizer", "epoch", "mean_loss"),
                (
                    (f.name, repr(e), repr(loss))
                    for f in fits
                    for e, loss in zip(f.epochs, f.losses, strict=True)
                ),
            ),
        ),
    ]
    lines = (
        (f.name, f"{f.losses[0]:.4g}", "diverged" if f.diverged else f"{f.losses[-1]:.4g}") for f in fits
    )
    result = {
        "data": str(args.data or "diabetes"),
        "scaled": not args.no_scale,
        "fits": [
            {"optimizer": f.name, "diverged": f.diverged, "final_loss": None if f.diverged else f.losses[-1]}
            for f in fits
        ],
    }
    _report(args.json, result, _table(("optimizer", "first loss", "final loss"), lines), files)
    return 0


def _data_mnist(args: argparse.Namespace) -> int:
    with _told_to_the_user():
        print(f"MNIST is in {datasets.fetch_mnist(args.data_dir)}")
    return 0


def _info(args: argparse.Namespace) -> int:
    facts = info()
    if args.json:
        print(json.dumps(facts, indent=1))
        return 0
    extras = facts.pop("extras")
    for name, value in facts.items():
        print(f"{name:16} {', '.join(value) if isinstance(value, list) else value}")
    for name, version in extras.items():
        print(f"{name:16} {version or 'not installed'}")
    return 0


def _bench(args: argparse.Namespace) -> int:
    with _told_to_the_user():
        return bench.main(args)
