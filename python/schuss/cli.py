"""The command line: it parses and prints; experiments, plots and benchmark do the work."""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from io import BytesIO, StringIO, TextIOWrapper
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from . import __version__, bench, datasets, experiments, plots
from ._extras import need
from .checks import number, shown
from .info import info
from .schedules import Schedule
from .specs import parse_optimizer, parse_schedule

# The shell's exit statuses for a process that Ctrl-C ended, and for one whose output nobody reads any more.
INTERRUPTED, UNREAD = 130, 141

_DRAWN_RATES = (0.0, 1e300, False)  # up to where the ticks of an axis are numbers


class Failure(Exception):
    """Something that the user can mend; its text is the one line that is shown."""


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())


@contextmanager
def _told_to_the_user() -> Iterator[None]:
    """Around what depends on the user's files and installation: turns their errors into one line."""
    try:
        yield
    except BrokenPipeError:
        raise  # of what is printed within: main() knows
    except (ImportError, OSError, ValueError) as error:
        raise Failure(str(error)) from error


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {_one_line(message)}\n")


def _whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """What reads a whole number within bounds."""
    wanted = f"expected a whole number from {least} {'on' if most is None else f'to {most:,}'}"

    def read(text: str) -> int:
        if len(text) > 18:  # 64 bits hold no more, and nothing here has so many
            raise argparse.ArgumentTypeError(f"{wanted}, of at most 18 digits, got {shown(text)}")
        value = int(text) if text.isascii() and text.isdecimal() else -1
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"{wanted}, got {shown(text)}")
        return value

    return read


_positive, _seed = _whole(1), _whole(0)
# Of each step, and of each epoch, something is kept and drawn.
_steps, _epochs = _whole(1, 10_000_000), _whole(1, 1_000_000)


def _rate(text: str) -> float:
    try:
        return number("the rate", float(text), *_DRAWN_RATES)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1e300, got {shown(text)}") from None


def _optimizer(text: str) -> str:
    try:
        return parse_optimizer(text).text
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _schedule(text: str) -> Schedule:
    try:
        return parse_schedule(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _add_common(parser: argparse.ArgumentParser, run: Any) -> None:
    parser.add_argument(
        "--out", type=Path, default=Path("schuss-results"), metavar="DIR", help="where files go (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.set_defaults(run=run)


def _add_seeds(parser: argparse.ArgumentParser, of: str, default: int) -> None:
    parser.add_argument("--seed", type=_seed, default=0, metavar="N", help=f"the first, of {of} (%(default)s)")
    parser.add_argument(
        "--seeds",
        type=_whole(1, 1000),
        default=default,
        metavar="N",
        help="how many, from --seed on: figures show mean and band (%(default)s)",
    )


def _add_schedule(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--schedule",
        type=_schedule,
        metavar="SCHEDULE",
        help='a factor on each learning rate, as in "Cosine(1, steps=2000)"',
    )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="schuss", description="Optimizer steps on NumPy arrays: compared, measured, explained.")
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
            default=list(experiments.TEXTBOOK),
            metavar="NAME",
            help=f'which, also with arguments, as in "Lion(lr=1e-4)" (default: {" ".join(experiments.TEXTBOOK)})',
        )
        _add_schedule(sub)
        _add_common(sub, run)
        return sub

    path = experiment(
        "path", "the textbook's valley f(x, y) = x^2/20 + y^2", "schuss compare path --scale", _compare_path
    )
    path.add_argument("--scale", action="store_true", help="beside it, the same after scaling x: circular contours")

    mnist = experiment(
        "mnist",
        "the textbook's race on handwritten digits",
        "schuss compare mnist --optimizers Adam SGD --iterations 500",
        _compare_mnist,
    )
    mnist.add_argument(
        "--iterations",
        type=_steps,
        default=1200,
        metavar="N",
        help="per optimizer and seed (%(default)s; the textbook has 2000)",
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
    _add_seeds(mnist, "weights and batches", 3)
    mnist.add_argument("--data-dir", type=Path, metavar="DIR", help="a directory of the four IDX files")
    mnist.add_argument("--numpy", action="store_true", help="step in plain NumPy: the same curves, more slowly")

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
    _add_seeds(regression, "weights and order", 10)

    closing = kinds.add_parser(
        "decay",
        help="a constant learning rate against each decay",
        description="A constant rate wanders around the minimum, each decay closes in. Example: schuss compare decay",
    )
    closing.add_argument("--lr", type=_rate, default=0.4, metavar="RATE", help="at first (%(default)s)")
    closing.add_argument("--epochs", type=_epochs, default=12, metavar="N", help="(%(default)s)")
    closing.add_argument("--batch-size", type=_positive, default=16, metavar="N", help="(%(default)s)")
    _add_seeds(closing, "weights and batches", 3)
    closing.add_argument("--data-dir", type=Path, metavar="DIR", help="a directory of the four IDX files")
    _add_common(closing, _compare_decay)

    training = commands.add_parser("train", help="train a network to its best")
    networks = training.add_subparsers(required=True, metavar="DATA")
    best = networks.add_parser(
        "mnist",
        help="handwritten digits",
        description='Example: schuss train mnist --optimizer "Adam(lr=1e-3)" --hidden 300 --epochs 5',
    )
    best.add_argument(
        "--optimizer",
        type=_optimizer,
        default="AdamW(weight_decay=0.05)",
        metavar="NAME",
        help="also with arguments (%(default)s)",
    )
    _add_schedule(best)
    best.add_argument("--epochs", type=_epochs, default=10, metavar="N", help="at most (%(default)s)")
    best.add_argument(
        "--patience", type=_positive, default=3, metavar="N", help="epochs without a better one (%(default)s)"
    )
    best.add_argument("--batch-size", type=_positive, default=128, metavar="N", help="(%(default)s)")
    best.add_argument(
        "--hidden", nargs="+", type=_positive, default=[512, 256], metavar="N", help="neurons of each layer (512 256)"
    )
    best.add_argument("--seed", type=_seed, default=0, metavar="N", help="of weights and batches (%(default)s)")
    best.add_argument("--data-dir", type=Path, metavar="DIR", help="a directory of the four IDX files")
    _add_common(best, _train_mnist)

    drawing = commands.add_parser("plot", help="draw a thing by itself")
    things = drawing.add_subparsers(required=True, metavar="THING")
    course = things.add_parser(
        "schedule",
        help="learning rates over steps",
        description='Example: schuss plot schedule "WarmupCosine(1e-3, warmup=100, steps=2000)"',
    )
    course.add_argument("schedules", nargs="+", metavar="SCHEDULE", help="one line for each")
    course.add_argument("--steps", type=_steps, default=2000, metavar="N", help="(%(default)s)")
    _add_common(course, _plot_schedule)

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
    """Run the command line; return the exit status: 0, 2 for what the user can mend, 130 after Ctrl-C, 141 unread."""
    _settle_streams()
    try:
        try:
            given = sys.argv[1:] if argv is None else argv
            args = _parser().parse_args(given or ["--help"])
            return int(args.run(args))
        finally:
            # Here, where a full disk can still be told: the interpreter's own flush at its exit would be too late.
            sys.stdout.flush()
    except Failure as failure:
        return _fail(str(failure))
    except KeyboardInterrupt:
        _tell("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        _discard(sys.stdout, sys.stderr)
        return UNREAD
    except OSError as error:  # what is the user's, _told_to_the_user() catches: the rest is of the output
        _discard(sys.stdout)
        return _fail(f"cannot write the output: {error.strerror}")
    except (MemoryError, OverflowError) as error:
        what = "not enough memory" if isinstance(error, MemoryError) else "a number is too large"
        return _fail(f"{what}: {error}" if str(error) else what)


def _settle_streams() -> None:
    """Print whatever comes: to streams that the shell has closed, and names that their encoding does not have."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (to the end of the process)
        if isinstance(stream := getattr(sys, name), TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _discard(*streams: Any) -> None:
    """Let what a stream still holds go nowhere: at its exit the interpreter would try again, and complain."""
    for stream in streams:
        with suppress(OSError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())


def _tell(text: str) -> None:
    """One line for the user, whatever the text has; if it cannot be written there is no one to tell."""
    with suppress(OSError):
        print(f"schuss: {_one_line(text)}", file=sys.stderr)


def _fail(text: str) -> int:
    _tell(f"error: {text}")
    return 2


def _end(interrupted: bool) -> int:
    """The exit status of an experiment whose results have been shown."""
    if interrupted:
        _tell("interrupted: these are partial results")
    return INTERRUPTED if interrupted else 0


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
        try:
            partial.write_bytes(data.encode() if isinstance(data, str) else data)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    return path


def _write_figure(path: Path, figure: Any) -> Path:
    stream = BytesIO()
    with _told_to_the_user():
        figure.savefig(stream, format="png")
    return _write(path, stream.getvalue())


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
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


def _mean(values: Sequence[float]) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.mean(values))


def _spread(values: Sequence[float], form: str) -> tuple[str, str]:
    """The mean of some seeds, and their lowest and highest; no range of one."""
    return f"{_mean(values):{form}}", f"{min(values):{form}} to {max(values):{form}}" if len(values) > 1 else ""


def _seeds_said(setting: experiments.Setting) -> str:
    first, last = setting.seeds[0], setting.seeds[-1]
    return f"seed {first}" if first == last else f"mean and range over the seeds {first} to {last}"


def _report(as_json: bool, result: dict[str, Any], text: str, files: Sequence[Path]) -> None:
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


def _compare_path(args: argparse.Namespace) -> int:
    _prepare(args.out)
    with _told_to_the_user():
        rows = [
            experiments.path(args.optimizers, scaled=scaled, schedule=args.schedule)
            for scaled in ((False, True) if args.scale else (False,))
        ]
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
        ],
        "setting": asdict(rows[0].setting),
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
            name = f"{run.name:10} seed {run.seed}"
            self._bar = self._tqdm(total=self._iterations, desc=name, unit="step", mininterval=0.2)
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
        name, data = datasets.mnist_name(args.data_dir), datasets.load_mnist(data_dir=args.data_dir)
        bars = _Bars(args.iterations)
    print(f"data: {source}", file=sys.stderr)
    try:
        with _told_to_the_user():
            race = experiments.mnist(
                data,
                args.optimizers,
                hidden=args.hidden,
                iterations=args.iterations,
                batch_size=args.batch_size,
                seed=args.seed,
                seeds=args.seeds,
                in_numpy=args.numpy,
                schedule=args.schedule,
                watch=bars.watch,
                data_name=name,
            )
    finally:
        bars.close()
    if not race.runs:
        raise KeyboardInterrupt  # before the first step: there is nothing to show
    curves = (
        (run.name, i, repr(loss), repr(run.accuracies[i]) if i in run.accuracies else "", run.seed)
        for run in race.runs
        for i, loss in enumerate(run.losses, start=1)
    )
    files = [
        _write_figure(args.out / "mnist_loss.png", plots.race_loss_figure(race)),
        _write_figure(args.out / "mnist_accuracy.png", plots.race_accuracy_figure(race)),
        _write(
            args.out / "mnist_curves.csv",
            _csv(("optimizer", "iteration", "train_loss", "test_accuracy", "seed"), curves),
        ),
    ]
    summary, lines = [], []
    for runs in experiments.over_seeds(race.runs):
        losses = [run.final_loss for run in runs]
        accuracies = [run.accuracy for run in runs if run.accuracy is not None]  # Ctrl-C may come before the first test
        row = {
            "optimizer": runs[0].name,
            "iterations": len(runs[0].losses),
            "final_loss": _mean(losses),
            "test_accuracy": _mean(accuracies) if accuracies else None,
            "seconds": _mean([run.seconds for run in runs]),
            "gradient_us": _median_us([time for run in runs for time in run.gradient_ns]),
            "update_us": _median_us([time for run in runs for time in run.update_ns]),
            "seeds": [run.seed for run in runs],
            "final_losses": losses,
            "test_accuracies": accuracies,
        }
        summary.append(row)
        lines.append(
            (
                runs[0].name,
                *_spread(losses, ".4f"),
                *(_spread(accuracies, ".2%") if accuracies else ("", "")),
                f"{row['seconds']:.2f}",
                f"{row['gradient_us']:.0f}",
                f"{row['update_us']:.1f}",
            )
        )
    header = ("optimizer", "final loss", "range", "test accuracy", "range", "seconds", "gradient us", "update us")
    text = (
        _table(header, lines) + f"\nfinal loss: mean of the last {min(100, args.iterations)} batches; "
        f"{_seeds_said(race.setting)}; data: {source}"
    )
    result = {
        "data": source,
        "numpy": args.numpy,
        "interrupted": race.interrupted,
        "runs": summary,
        "setting": asdict(race.setting),
    }
    _report(args.json, result, text, files)
    return _end(race.interrupted)


def _median_us(nanoseconds: Sequence[int]) -> float:
    return sorted(nanoseconds)[len(nanoseconds) // 2] / 1e3


_MOST_ROWS = 1500  # as many as the book takes of its table


def _compare_regression(args: argparse.Namespace) -> int:
    _prepare(args.out)
    with _told_to_the_user():
        if args.data is None:
            diabetes = need("sklearn.datasets", "the diabetes data", package="scikit-learn").load_diabetes(scaled=False)
            features, target, name = diabetes.data, diabetes.target, "scikit-learn's diabetes"
        else:
            features, target = datasets.load_table(args.data)
            name = args.data.name
        if not args.no_scale:
            features, _ = datasets.scale_features(features)
            target, _ = datasets.scale_features(target)
            name += ", standardised"
        if len(target) > _MOST_ROWS:
            name += f", the first {_MOST_ROWS:,} of {len(target):,} rows"
    with _told_to_the_user():
        fits = experiments.regression(
            features[:_MOST_ROWS],
            target[:_MOST_ROWS],
            args.optimizers,
            seed=args.seed,
            seeds=args.seeds,
            schedule=args.schedule,
            data_name=name,
        )
    if not fits:
        raise KeyboardInterrupt  # before the first 100 examples: there is nothing to show
    curves = ((f.name, repr(e), repr(loss), f.seed) for f in fits for e, loss in zip(f.epochs, f.losses, strict=True))
    files = [
        _write_figure(args.out / "regression.png", plots.regression_figure(fits)),
        _write(args.out / "regression_curves.csv", _csv(("optimizer", "epoch", "mean_loss", "seed"), curves)),
    ]
    groups = experiments.over_seeds(fits)
    lines = []
    for group in groups:
        first, _ = _spread([fit.losses[0] for fit in group], ".4g")
        end = _spread([fit.losses[-1] for fit in group], ".4g")
        lines.append((group[0].name, first, *(("diverged", "") if any(fit.diverged for fit in group) else end)))
    counts = fits.setting.counts
    text = (
        _table(("optimizer", "first loss", "final loss", "range"), lines)
        + f"\nleast mean loss of all lines: {fits[0].minimum:.4g}; {_seeds_said(fits.setting)}; "
        f"data: {_one_line(name)}: {counts['rows']:,} rows, {counts['features']:,} features"
    )
    result = {
        "data": str(args.data or "diabetes"),
        "scaled": not args.no_scale,
        "interrupted": fits.interrupted,
        "minimum": fits[0].minimum,
        "fits": [
            {
                "optimizer": group[0].name,
                "diverged": any(fit.diverged for fit in group),
                "final_loss": None if any(fit.diverged for fit in group) else _mean([fit.losses[-1] for fit in group]),
                "seeds": [fit.seed for fit in group],
                "final_losses": [fit.losses[-1] for fit in group],
            }
            for group in groups
        ],
        "setting": asdict(fits.setting),
    }
    _report(args.json, result, text, files)
    return _end(fits.interrupted)


def _compare_decay(args: argparse.Namespace) -> int:
    _prepare(args.out)
    with _told_to_the_user():
        source = datasets.mnist_source(args.data_dir)
        data = datasets.load_mnist(data_dir=args.data_dir)
        runs = experiments.decay(
            data,
            lr=args.lr,
            epochs=args.epochs,
            batch_size=args.batch_size,
            seed=args.seed,
            seeds=args.seeds,
            data_name=datasets.mnist_name(args.data_dir),
        )
    if not runs:
        raise KeyboardInterrupt  # before the first measurement: there is nothing to show
    rows = (
        (run.name, i, repr(loss), run.seed) for run in runs for i, loss in zip(run.iterations, run.losses, strict=True)
    )
    files = [
        _write_figure(args.out / "decay.png", plots.decay_figure(runs)),
        _write(args.out / "decay_curves.csv", _csv(("schedule", "iteration", "loss", "seed"), rows)),
    ]
    groups = experiments.over_seeds(runs)
    seen = runs.interrupted or all(run.diverged for run in runs)
    header = ("schedule", "last rate", "above minimum", "range", "wander", "range")
    lines = (
        (
            group[0].name,
            f"{group[0].schedule(group[0].iterations[-1]):.4g}",
            *_spread([run.excess for run in group], ".5f"),
            *_spread([run.wander for run in group], ".5f"),
        )
        for group in groups
    )
    text = (
        _table(header, lines)
        + f"\nthe loss above {'the lowest seen' if seen else 'its minimum'}, {runs[0].minimum:.4f}: "
        f"mean and deviation over the last quarter of the steps; {_seeds_said(runs.setting)}; data: {source}"
    )
    result = {
        "data": source,
        "interrupted": runs.interrupted,
        "minimum": runs[0].minimum,
        "runs": [
            {
                "schedule": repr(group[0].schedule),
                "excess": _mean([run.excess for run in group]),
                "wander": _mean([run.wander for run in group]),
                "factor": group[0].name,
                "seeds": [run.seed for run in group],
                "excesses": [run.excess for run in group],
                "wanders": [run.wander for run in group],
            }
            for group in groups
        ],
        "setting": asdict(runs.setting),
    }
    _report(args.json, result, text, files)
    return _end(runs.interrupted)


def _train_mnist(args: argparse.Namespace) -> int:
    _prepare(args.out)
    with _told_to_the_user():
        source = datasets.mnist_source(args.data_dir)
        data = datasets.load_mnist(data_dir=args.data_dir)
    checkpoint = args.out / "mnist_network.npz"

    def watch(training: experiments.Training) -> None:
        epoch = len(training.losses)
        if training.best_epoch == epoch:
            stream = BytesIO()
            np.savez(stream, **training.params)  # type: ignore[arg-type]
            _write(checkpoint, stream.getvalue())
        print(
            f"epoch {epoch:2}: loss {training.losses[-1]:.4f}, validation {training.accuracies[-1]:.2%}, "
            f"rate {training.rates[-1]:.3g}{', the best so far' if training.best_epoch == epoch else ''}",
            file=sys.stderr,
        )

    print(f"data: {source}", file=sys.stderr)
    with _told_to_the_user():
        training = experiments.train(
            data,
            optimizer=args.optimizer,
            schedule=args.schedule,
            hidden=args.hidden,
            epochs=args.epochs,
            batch_size=args.batch_size,
            patience=args.patience,
            seed=args.seed,
            watch=watch,
            data_name=datasets.mnist_name(args.data_dir),
        )
    if not training.params:
        raise KeyboardInterrupt  # before the first epoch was through: there is nothing to show
    files = [
        checkpoint,
        _write_figure(args.out / "mnist_training.png", plots.training_figure(training)),
        _write_figure(args.out / "mnist_confusion.png", plots.confusion_figure(training)),
        _write_figure(args.out / "mnist_misread.png", plots.misread_figure(training, data[1][0])),
    ]
    ended = "stopped early" if training.stopped else "interrupted" if training.interrupted else "all epochs done"
    text = (
        f"test accuracy {training.test_accuracy:.2%}: {len(training.misread)} of {len(data[1][1])} digits misread\n"
        f"best of {len(training.losses)} epochs: {training.best_epoch}, "
        f"validation {max(training.accuracies):.2%}; {ended}; data: {source}"
    )
    result = {
        "data": source,
        "test_accuracy": training.test_accuracy,
        "best_epoch": training.best_epoch,
        "losses": training.losses,
        "validation": training.accuracies,
        "confusion": training.confusion.tolist(),
        "stopped_early": training.stopped,
        "interrupted": training.interrupted,
        "setting": asdict(training.setting),
    }
    _report(args.json, result, text, files)
    return _end(training.interrupted)


def _plot_schedule(args: argparse.Namespace) -> int:
    _prepare(args.out)
    with _told_to_the_user():
        chosen = {text: parse_schedule(text) for text in args.schedules}
    rates = {text: _rates(text, schedule, args.steps) for text, schedule in chosen.items()}
    files = [_write_figure(args.out / "schedule.png", plots.schedule_figure(rates))]
    shown_steps = (1, max(1, args.steps // 2), args.steps)
    lines = (
        (repr(schedule), *(f"{rates[text][step - 1]:.4g}" for step in shown_steps)) for text, schedule in chosen.items()
    )
    result = {"schedules": {text: values.tolist() for text, values in rates.items()} if args.json else {}}
    _report(args.json, result, _table(("schedule", *(f"step {step}" for step in shown_steps)), lines), files)
    return 0


def _rates(text: str, schedule: Schedule, steps: int) -> NDArray[np.float64]:
    rates = np.empty(steps)
    for step in range(1, steps + 1):
        try:
            rates[step - 1] = number("the rate", schedule(step), *_DRAWN_RATES)
        except (TypeError, ValueError, OverflowError) as error:
            raise Failure(f"{shown(text)}, step {step}: {error}") from None
    return rates


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
