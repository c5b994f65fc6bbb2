"""The command line: it parses and prints; experiments, plots and benchmark do the work."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from io import TextIOWrapper
from itertools import product
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from . import __version__, datasets
from .checks import number, shown
from .info import info
from .lab import bench, commands, plots, scale
from .lab.report import (
    INTERRUPTED,
    UNREAD,
    Failure,
    as_table,
    one_line,
    prepare,
    show,
    tell,
    told_to_the_user,
    write_figure,
)
from .lab.setting import TEXTBOOK
from .schedules import Schedule
from .specs import parse_optimizer, parse_schedule

_DRAWN_RATES = (0.0, 1e300, False)  # up to where the ticks of an axis are numbers


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {one_line(message)}\n")


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


def _amount(text: str) -> float:
    try:
        return number("the number", float(text), 1e-9, 1e18, False)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number from 1e-9 to 1e18, got {shown(text)}") from None


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
    actions = parser.add_subparsers(required=True, metavar="COMMAND")

    compare = actions.add_parser("compare", help="let the optimizers race")
    kinds = compare.add_subparsers(required=True, metavar="EXPERIMENT")

    def experiment(name: str, text: str, example: str, run: Any) -> argparse.ArgumentParser:
        sub = kinds.add_parser(name, help=text, description=f"{text}. Example: {example}")
        sub.add_argument(
            "--optimizers",
            nargs="+",
            type=_optimizer,
            default=list(TEXTBOOK),
            metavar="NAME",
            help=f'which, also with arguments, as in "Lion(lr=1e-4)" (default: {" ".join(TEXTBOOK)})',
        )
        _add_schedule(sub)
        _add_common(sub, run)
        return sub

    path = experiment(
        "path", "the textbook's valley f(x, y) = x^2/20 + y^2", "schuss compare path --scale", commands.compare_path
    )
    path.add_argument("--scale", action="store_true", help="beside it, the same after scaling x: circular contours")

    mnist = experiment(
        "mnist",
        "the textbook's race on handwritten digits",
        "schuss compare mnist --optimizers Adam SGD --iterations 500",
        commands.compare_mnist,
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
        commands.compare_regression,
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
    _add_common(closing, commands.compare_decay)

    vectors = kinds.add_parser(
        "embedding",
        help="words as vectors: dense gradients against rows",
        description="Skip-gram on Python's help topics, trained by dense gradients, by exact rows and by rows touched "
        "alone. Example: schuss compare embedding",
    )
    vectors.add_argument(
        "--optimizer",
        type=_optimizer,
        default="Adam(lr=0.003)",
        metavar="NAME",
        help="also with arguments (%(default)s)",
    )
    vectors.add_argument("--iterations", type=_steps, default=6000, metavar="N", help="of each way (%(default)s)")
    vectors.add_argument("--batch-size", type=_positive, default=32, metavar="N", help="pairs (%(default)s)")
    vectors.add_argument("--dimensions", type=_positive, default=100, metavar="N", help="of a vector (%(default)s)")
    vectors.add_argument("--seed", type=_seed, default=0, metavar="N", help="of vectors and pairs (%(default)s)")
    _add_common(vectors, commands.compare_embedding)

    letters = kinds.add_parser(
        "transformer",
        help="PyTorch's step on tensors against ours",
        description="A small transformer on the characters of Python's help topics, trained by torch.optim.AdamW and "
        "by schuss.torch.AdamW. Example: schuss compare transformer",
    )
    letters.add_argument("--iterations", type=_steps, default=400, metavar="N", help="of both (%(default)s)")
    letters.add_argument("--batch-size", type=_positive, default=16, metavar="N", help="texts (%(default)s)")
    letters.add_argument("--width", type=_positive, default=128, metavar="N", help="of the model (%(default)s)")
    letters.add_argument("--layers", type=_positive, default=2, metavar="N", help="blocks (%(default)s)")
    letters.add_argument("--seed", type=_seed, default=0, metavar="N", help="of parameters and batches (%(default)s)")
    _add_common(letters, commands.compare_transformer)

    bits = kinds.add_parser(
        "precision",
        help="parameters and state of fewer bits against float32",
        description="Adam on handwritten digits, on a line through a table and on hard gradients, in each format that "
        "parameters and state may have, and in two that fail. Example: schuss compare precision --seeds 3",
    )
    bits.add_argument("--epochs", type=_epochs, default=10, metavar="N", help="of the digits (%(default)s)")
    bits.add_argument("--batch-size", type=_positive, default=128, metavar="N", help="(%(default)s)")
    bits.add_argument(
        "--hidden", nargs="+", type=_positive, default=[100], metavar="N", help="neurons of each hidden layer (100)"
    )
    _add_seeds(bits, "weights and batches", 10)
    bits.add_argument("--data-dir", type=Path, metavar="DIR", help="a directory of the four IDX files")
    bits.add_argument(
        "--data", type=Path, metavar="FILE", help="a numeric table, last column the target (default: diabetes)"
    )
    _add_common(bits, commands.compare_precision)

    training = actions.add_parser("train", help="train a network to its best")
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
    best.add_argument(
        "--parts",
        type=_positive,
        metavar="N",
        help="of each batch, among the ranks of mpiexec; their number decides the bits (default: as many as ranks)",
    )
    best.add_argument("--data-dir", type=Path, metavar="DIR", help="a directory of the four IDX files")
    _add_common(best, commands.train_mnist)

    planning = actions.add_parser(
        "scale",
        help="what a step over many ranks of MPI needs, on paper",
        description="Bytes, memory and seconds of a sharded step of Adam in float32, by formulae and a simulation of "
        "its buckets (docs/scale.md). Example: schuss scale --parameters 1e9 --ranks 8 64 --network 50",
    )
    planning.add_argument(
        "--parameters", nargs="+", type=_amount, default=scale.SIZES, metavar="N", help="(1e8 1e9 1e10 1e11)"
    )
    planning.add_argument(
        "--ranks", nargs="+", type=_whole(1, 10**6), default=scale.RANKS, metavar="N", help="(8 64 1024)"
    )
    planning.add_argument(
        "--network", type=_amount, default=12.5, metavar="GB/S", help="that a rank receives (%(default)s: 100 Gbit/s)"
    )
    planning.add_argument(
        "--memory", type=_amount, default=100.0, metavar="GB/S", help="through a rank's memory (%(default)s)"
    )
    planning.add_argument("--latency", type=_amount, default=20.0, metavar="US", help="of a message (%(default)s)")
    planning.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    planning.set_defaults(run=_scale)

    drawing = actions.add_parser("plot", help="draw a thing by itself")
    things = drawing.add_subparsers(required=True, metavar="THING")
    course = things.add_parser(
        "schedule",
        help="learning rates over steps",
        description='Example: schuss plot schedule "WarmupCosine(1e-3, warmup=100, steps=2000)"',
    )
    course.add_argument("schedules", nargs="+", metavar="SCHEDULE", help="one line for each")
    course.add_argument("--steps", type=_steps, default=2000, metavar="N", help="(%(default)s)")
    _add_common(course, _plot_schedule)

    data = actions.add_parser("data", help="fetch data sets")
    sets = data.add_subparsers(required=True, metavar="SET")
    fetch = sets.add_parser("mnist", help="download the full MNIST", description="Example: schuss data mnist")
    fetch.add_argument("--data-dir", type=Path, metavar="DIR", help="where to (default: the cache)")
    fetch.set_defaults(run=_data_mnist)

    about = actions.add_parser("info", help="what is installed, and what it runs on")
    about.add_argument("--json", action="store_true", help="print JSON")
    about.set_defaults(run=_info)

    measure = actions.add_parser("bench", help="time the steps", description=bench.__doc__)
    bench.add_arguments(measure)
    measure.set_defaults(run=_bench)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status.

    0, 1 where an experiment finds an error of ours, 2 for what the user can mend, 130 after Ctrl-C, 141 unread.
    """
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
        tell("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        _discard(sys.stdout, sys.stderr)
        return UNREAD
    except OSError as error:  # what is the user's, told_to_the_user() catches: the rest is of the output
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


def _fail(text: str) -> int:
    tell(f"error: {text}")
    return 2


def _plot_schedule(args: argparse.Namespace) -> int:
    prepare(args.out)
    with told_to_the_user():
        chosen = {text: parse_schedule(text) for text in args.schedules}
    rates = {text: _rates(text, schedule, args.steps) for text, schedule in chosen.items()}
    files = [write_figure(args.out / "schedule.png", plots.schedule_figure(rates))]
    shown_steps = (1, max(1, args.steps // 2), args.steps)
    lines = (
        (repr(schedule), *(f"{rates[text][step - 1]:.4g}" for step in shown_steps)) for text, schedule in chosen.items()
    )
    result = {"schedules": {text: values.tolist() for text, values in rates.items()} if args.json else {}}
    show(args.json, result, as_table(("schedule", *(f"step {step}" for step in shown_steps)), lines), files)
    return 0


def _rates(text: str, schedule: Schedule, steps: int) -> NDArray[np.float64]:
    rates = np.empty(steps)
    for step in range(1, steps + 1):
        try:
            rates[step - 1] = number("the rate", schedule(step), *_DRAWN_RATES)
        except (TypeError, ValueError, OverflowError) as error:
            raise Failure(f"{shown(text)}, step {step}: {error}") from None
    return rates


def _scale(args: argparse.Namespace) -> int:
    machine = scale.Machine(args.network * 1e9, args.memory * 1e9, args.latency * 1e-6)
    rows = scale.table(list(product(args.parameters, args.ranks)), machine)
    result = {"machine": asdict(machine), "rows": [dict(zip(scale.HEADER, row, strict=True)) for row in rows]}
    show(args.json, result, as_table(scale.HEADER, rows), [])
    return 0


def _data_mnist(args: argparse.Namespace) -> int:
    with told_to_the_user():
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
    with told_to_the_user():
        return bench.main(args)
