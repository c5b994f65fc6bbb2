"""The benchmark: the time of a step against its peers', and against the memory's limit, in one run.

All contenders of a case take turns, so that what else the machine does hits them alike. A time is the median
over the turns; a ratio above 1 means that ours is the shorter one. The stream limit is a loop that moves the
same bytes through arrays of the same size, in place, on the same number of threads, and hardly computes; it goes
over them again and again within one call, so that small ones show the speed of the caches and no call's cost.
A rule in two halves moves more than that loop where its arrays do not stay in the cache: its limit is the loop's
time for each byte. Muon has none, as its time is that of matrix products.
"""

from __future__ import annotations

import csv
import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import product
from math import isqrt, prod
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

from .. import _core, threads
from .._extras import need
from ..info import info
from ..optimizers import OPTIMIZERS, Adam
from . import against, estimators, iteration, over_ranks, peers, pipelines, plots, precision_bench, tensors, zeros
from .peers import MNIST
from .report import as_table
from .setting import TEXTBOOK
from .timing import STREAM, free_memory, settled, time_text, time_turns

# GPT-2 small: two embeddings, twelve blocks of twelve tensors, a last normalisation.
_BLOCK = [(768,), (768,), (768, 2304), (2304,), (768, 768), (768,)]
_BLOCK += [(768,), (768,), (768, 3072), (3072,), (3072, 768), (768,)]
GPT2: list[tuple[int, ...]] = [(50257, 768), (1024, 768), *(_BLOCK * 12), (768,), (768,)]
_MATRICES = [shape for shape in _BLOCK if len(shape) == 2]

# All that are not ours.
_OTHERS = [peer.name for peer in (*peers.PEERS[1:], *peers.FORMATS) if peer.package or peer in peers.PEERS]
_OTHERS += [one.name for one in iteration.CONTENDERS[1:] if one.name not in _OTHERS]

# Those that a quick run has the time to let take large steps.
FAST = frozenset({"numpy", "textbook", "torch fused", "deepspeed", "optax", "numba"})

# The optimizers of other libraries: the fastest of them is what each rule is shown beside, at these sizes.
LIBRARIES = frozenset(peer.name for peer in peers.PEERS if peer.package)
SHOWN = (10**5, 3 * 10**7)

MUON = "Muon"
COMPOSITION = "clip+decay+EMA"
GPT2_SMALL = "GPT-2 small"
TWO_NETWORKS = "two networks"
STREAM_BYTES = 1 << 26  # that a call of it moves at least: some 500 us, beside which the start of a region is nothing

# A rule in two halves has to know the whole of a tensor before it can step it. How many arrays of the parameter's size
# such a step reads and writes: where all of them come from memory each time, and where they have stayed in the cache.
#   LAMB       p g m v in, m v out; then p m v in, p out                10, or p g m v in, p m v out   7
#   LARS       p g in; then p g v in, p v out                            7, or p g v in, p v out       5
#   Adafactor  p g in, for rms(p), rows and columns; then g in, for rms(u); then p g in, p out
#                                                                        6, or p g in, p out           3
TWO_HALVES = {"LAMB": (10, 7), "LARS": (7, 5), "Adafactor": (6, 3)}
L2_BYTES = 1 << 20  # of second-level cache for each thread: a tensor whose arrays fit into it is read once

# Steps after which contenders are compared (RAdam goes by momentum alone for its first five), and how far they may be
# from each other, as a share of the way that they have come.
COMPARED, COMPARED_LATER, APART = 2, {"RAdam": 7}, 3e-3


@dataclass(frozen=True)
class Case:
    """What is stepped: a rule on arrays of some shapes."""

    name: str
    rule: str
    shapes: Sequence[tuple[int, ...]]
    dtype: str
    threads: int

    @property
    def parameters(self) -> int:
        """How many numbers are stepped."""
        return sum(prod(shape) for shape in self.shapes)

    @property
    def streamed(self) -> int:
        """Bytes that the stream loop moves: the gradient in, the parameter and each state in and out."""
        return (3 + 2 * len(OPTIMIZERS[self.rule].slots)) * self.parameters * np.dtype(self.dtype).itemsize

    @property
    def bytes(self) -> int:
        """What a step must move at least: what is streamed, and what a rule in two halves reads again.

        The composition reads the gradient twice, for its norm, and has the average in and out.
        """
        size = np.dtype(self.dtype).itemsize
        if self.name == COMPOSITION:
            return self.streamed + 3 * self.parameters * size
        if self.rule not in TWO_HALVES:
            return self.streamed
        apart, together = TWO_HALVES[self.rule]
        fitting = self.threads * L2_BYTES // ((2 + len(OPTIMIZERS[self.rule].slots)) * size)
        return size * sum(n * (together if n <= fitting else apart) for n in map(prod, self.shapes))


@dataclass(frozen=True)
class Row:
    """One contender in one case. Times are in seconds; low and high are the quartiles."""

    case: str
    rule: str
    dtype: str
    parameters: int
    threads: int
    contender: str
    median: float
    low: float
    high: float
    gb_per_s: float | None
    over_ours: float  # its time over ours
    of_limit: float | None  # the limit's time over its own


def _stream(case: Case, repeats: int) -> Callable[[], object]:
    """The in-place loop that streams over arrays of the case's size so often.

    They begin on cache lines, each at another place of its page: a limit is not to pay for vectors that straddle lines,
    nor for loads that a processor takes for those of what was just stored 4096 bytes away.
    """
    size, line, page = case.parameters * np.dtype(case.dtype).itemsize, 64, 4096
    arrays = []
    for i in range(2 + len(OPTIMIZERS[case.rule].slots)):
        memory = np.empty(size + 2 * page, np.uint8)
        begin = -memory.ctypes.data % page + 9 * line * i
        arrays.append(memory[begin : begin + size].view(case.dtype))
        arrays[-1].fill(1e-3)
    p, g, *state = arrays
    return lambda: _core.stream(p, g, state, case.threads, repeats)


def _started(case: Case, contenders: Sequence[peers.Peer]) -> dict[str, peers.Runner]:
    """All contenders after some steps; those whose step should be ours have come to the same place."""
    numbers = np.random.default_rng(0).standard_normal(1 << 16).astype(case.dtype)
    # No gradient is near zero, where it would show who adds epsilon before the bias correction and who after.
    slopes = -0.1 * (numbers + np.copysign(0.1, numbers)).astype(case.dtype)
    params, grads = ([np.resize(values, shape) for shape in case.shapes] for values in (numbers, slopes))
    if case.name == COMPOSITION:
        started = {peer.name: peers.composition(peer.name, params, grads) for peer in contenders}
    elif case.name == TWO_NETWORKS:
        started = {peer.name: peers.in_turn(peer, case.rule, params, grads) for peer in contenders}
    else:
        started = {peer.name: peer.start(case.rule, params, grads) for peer in contenders}
    runners = {name: runner for name, runner in started.items() if runner is not None}
    for runner in runners.values():
        for _ in range(COMPARED_LATER.get(case.rule, COMPARED)):
            runner.step()
    differing = {peer.name for peer in contenders if case.rule in peer.differs}
    ours = runners["schuss"].read()
    for name in (name for name in runners if name not in differing):
        for before, mine, theirs in zip(params, ours, runners[name].read(), strict=True):
            way = mine - before
            apart = APART * float(np.max(np.abs(way)))
            np.testing.assert_allclose(theirs - before, way, rtol=APART, atol=apart, err_msg=f"{name} steps otherwise")
    return runners


def run_case(case: Case, contenders: Sequence[peers.Peer], budget: float) -> list[Row]:
    """Check that all contenders take the same steps, then time them by turns."""
    with settled(case.threads):
        steps: dict[str, Callable[[], object]] = {
            name: runner.step for name, runner in _started(case, contenders).items()
        }
        repeats = max(1, STREAM_BYTES // case.streamed)
        if case.rule != MUON and case.name not in (COMPOSITION, TWO_NETWORKS):
            steps[STREAM] = _stream(case, repeats)
        seconds = time_turns(steps, budget)
        if STREAM in seconds:
            seconds[STREAM] = [time / repeats * case.bytes / case.streamed for time in seconds[STREAM]]
        return _rows(case, seconds)


def run_iteration(names: Sequence[str] | None, n: int, quick: bool, show: Callable[[str], None]) -> list[Row]:
    """Time and show a training iteration and its parts."""
    found = iteration.run(names, n, quick, show)
    return [row for case, times in found.items() for row in _rows(Case(case, "Adam", MNIST, "float32", n), times)]


def _rows(case: Case, seconds: dict[str, list[float]]) -> list[Row]:
    medians = {name: float(np.median(times)) for name, times in seconds.items()}
    moves = case.name not in iteration.CASES and case.rule != MUON
    return [
        Row(
            case.name,
            case.rule,
            case.dtype,
            case.parameters,
            case.threads,
            name,
            medians[name],
            float(np.quantile(times, 0.25)),
            float(np.quantile(times, 0.75)),
            case.bytes / medians[name] / 1e9 if moves else None,
            medians[name] / medians["schuss"],
            medians[STREAM] / medians[name] if STREAM in medians else None,
        )
        for name, times in seconds.items()
    ]


def _size_name(n: int) -> str:
    mantissa, exponent = f"{n:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _shapes(rule: str, n: int) -> list[tuple[int, ...]]:
    """One array of so many numbers: of Adafactor a matrix, nearly square, as all is otherwise of any other rule."""
    if rule != "Adafactor":
        return [(n,)]
    rows = next(count for count in range(isqrt(n), 0, -1) if n % count == 0)
    return [(rows, n // rows)]


def cases(quick: bool, n_threads: int) -> Iterator[tuple[Case, frozenset[str] | None, float]]:
    """Each case, the peers it is for (None: all) and the seconds it may take.

    First Adam against all peers, then each rule against NumPy and the limit, and at two sizes against the libraries.
    """
    sizes = [10**3, 10**5, 10**6, 3 * 10**7] if quick else [10**3, 10**4, 10**5, 10**6, 10**7, 3 * 10**7, 10**8]
    budget = 1.0 if quick else 6.0
    for n in sizes[: None if quick else -1]:
        slow = quick and n > 10**6
        yield Case(_size_name(n), "Adam", [(n,)], "float32", n_threads), FAST if slow else None, budget
    yield Case("MNIST tensors", "Adam", MNIST, "float32", n_threads), None, budget
    yield Case(TWO_NETWORKS, "SGD", MNIST * 2, "float32", n_threads), frozenset({"numpy"}), budget
    yield Case("1,000 x 1,000", "Adam", [(1000,)] * 1000, "float32", n_threads), None, budget
    yield Case(COMPOSITION, "Adam", [(3 * 10**7,)], "float32", n_threads), frozenset({"torch fused"}), budget
    if not quick:
        # Against one peer alone: each holds four arrays of 500 MB.
        yield Case(GPT2_SMALL, "Adam", GPT2, "float32", n_threads), frozenset({"torch fused"}), 12
        for rule in TWO_HALVES:
            yield Case(GPT2_SMALL, rule, GPT2, "float32", n_threads), LIBRARIES, 12
    matrices = [(256, 256)] * 8 if quick else _MATRICES
    yield Case("8 x (256, 256)" if quick else "GPT-2 block", MUON, matrices, "float32", n_threads), None, budget
    for rule, dtype, count in product(OPTIMIZERS, ("float32", "float64"), sorted({1, n_threads})):
        if rule == MUON:
            continue
        shown = (dtype, count) == ("float32", n_threads)
        if quick:
            mine = [10**5] * shown + [3 * 10**7] * (count == n_threads and rule in ("SGD", "Momentum", "Adam"))
        elif rule in TEXTBOOK:
            mine = sizes
        else:
            mine = [10**3, 10**5, 3 * 10**7] if count == n_threads else []
        for n in mine:
            if n <= 3 * 10**7 and shown and rule == "Adam":
                continue  # was in the first part
            if n == 10**8 and not shown:
                continue
            wanted = LIBRARIES if shown and n in SHOWN and (not quick or n == SHOWN[0]) else frozenset[str]()
            if count == n_threads and n <= 10**7 and not quick:
                wanted |= {"numpy"}
            budget = 0.4 if not wanted & LIBRARIES else 0.2 if quick else 2.0
            yield Case(_size_name(n), rule, _shapes(rule, n), dtype, count), wanted, budget


def _marked(row: Row) -> str:
    """A contender's name, with an asterisk where its step is not ours by more than rounding."""
    differs = any(peer.name == row.contender and row.rule in peer.differs for peer in peers.PEERS)
    return f"{row.contender} *" if differs else row.contender


def _print_case(rows: Sequence[Row]) -> None:
    first = rows[0]
    work = f"{first.rule}, {first.case}, {first.dtype}, {first.threads} thread(s)"
    print(f"\n{work}: {first.parameters:,} parameters")
    print(f"  {'':14} {'median':>9} {'quartiles':>19} {'GB/s':>7} {'of limit':>8} {'theirs / ours':>13}")
    for row in rows:
        spread = f"{time_text(row.low)} - {time_text(row.high)}"
        speed = "" if row.gb_per_s is None else f"{row.gb_per_s:.1f}"
        limit = "" if row.of_limit is None else f"{row.of_limit:.2f}"
        ratio = "" if row.contender == "schuss" else f"{row.over_ours:.2f}"
        median = time_text(row.median)
        print(f"  {_marked(row):14} {median:>9} {spread:>19} {speed:>7} {limit:>8} {ratio:>13}", flush=True)


def _print_summary(rows: Sequence[Row], n_threads: int) -> None:
    """Adam in float32: each peer's time over ours."""
    mine = [
        row
        for row in rows
        if (row.dtype, row.threads) == ("float32", n_threads) and (row.rule == "Adam" or row.case == COMPOSITION)
    ]
    names = list(dict.fromkeys(row.contender for row in mine if row.contender != "schuss"))
    print(f"\nAdam, float32, {n_threads} thread(s): their time / ours")
    print(f"  {'':16}{'ours':>9}" + "".join(f"{name:>15}" for name in names))
    for case in dict.fromkeys(row.case for row in mine):
        here = {row.contender: row for row in mine if row.case == case}
        cells = (f"{here[name].over_ours:.2f}" if name in here else "" for name in names)
        print(f"  {case:16}{time_text(here['schuss'].median):>9}" + "".join(f"{cell:>15}" for cell in cells))


def _print_limits(rows: Sequence[Row], n_threads: int) -> None:
    """Every rule: how near it comes to the limit, and what the further threads bring."""
    mine = [row for row in rows if row.contender == "schuss" and row.of_limit is not None]
    ours = {(row.rule, row.dtype, row.case, row.threads): row for row in mine}
    sizes = [case for case in dict.fromkeys(row.case for row in mine) if "e" in case[:4]]

    def of_limit(rule: str, dtype: str, size: str) -> float | None:
        row = ours.get((rule, dtype, size, n_threads))
        return row.of_limit if row else None

    def gain(rule: str, dtype: str, size: str) -> float | None:
        one, all_ = ours.get((rule, dtype, size, 1)), ours.get((rule, dtype, size, n_threads))
        return one.median / all_.median if one and all_ and n_threads > 1 else None

    for title, value in (
        (f"the limit's time / ours, {n_threads} thread(s)", of_limit),
        (f"ours with 1 thread / with {n_threads}", gain),
    ):
        table = {
            (rule, dtype): [value(rule, dtype, size) for size in sizes]
            for rule, dtype in product(OPTIMIZERS, ("float32", "float64"))
        }
        if all(number is None for row in table.values() for number in row):
            continue
        print(f"\n{title}\n  {'':27}" + "".join(f"{size:>8}" for size in sizes))
        for (rule, dtype), row in table.items():
            if any(number is not None for number in row):
                texts = ("" if number is None else f"{number:.2f}" for number in row)
                print(f"  {rule:18}{dtype:9}" + "".join(f"{text:>8}" for text in texts))


def _print_best(rows: Sequence[Row], n_threads: int) -> None:
    """Every rule beside the fastest other library that has it."""
    mine = [row for row in rows if (row.dtype, row.threads) == ("float32", n_threads)]
    wanted = {_size_name(n) for n in SHOWN} | {GPT2_SMALL} | {row.case for row in mine if row.rule == MUON}
    for case in dict.fromkeys(row.case for row in mine if row.case in wanted):
        lines = []
        for rule in OPTIMIZERS:
            here = {row.contender: row for row in mine if (row.case, row.rule) == (case, rule)}
            others = [row for name, row in here.items() if name in LIBRARIES]
            if not others:
                continue
            ours, best = here["schuss"], min(others, key=lambda row: row.median)
            limit = "" if ours.of_limit is None else f"{ours.of_limit:.2f}"
            lines.append((rule, time_text(ours.median), limit, _marked(best), f"{best.over_ours:.2f}"))
        if lines:
            print(f"\n{case}, float32, {n_threads} thread(s): every rule, and the fastest of other libraries")
            print(as_table(("rule", "ours", "of limit", "fastest", "theirs / ours"), lines))
            if any(line[3].endswith("*") for line in lines):
                print("* not compared: its step differs from ours by more than rounding")


def profile(repeats: int = 3000) -> dict[str, dict[str, float]]:
    """Split a call into its parts: case -> part -> median nanoseconds."""
    parts: dict[str, dict[str, float]] = {}
    for name, shapes in (("1e3", [(1000,)]), ("MNIST tensors", MNIST), ("1,000 x 1,000", [(1000,)] * 1000)):
        params = {str(i): np.ones(shape, np.float32) for i, shape in enumerate(shapes)}
        grads = {name: p * 0.1 for name, p in params.items()}
        opt = Adam()
        count = max(100, repeats // len(shapes))
        laps = [opt._engine.profile(opt, params, grads) for _ in range(count)]
        begin = perf_counter_ns()
        for _ in range(count):
            opt.update(params, grads)
        parts[name] = {part: float(np.median([lap[part] for lap in laps])) for part in laps[0]}
        parts[name]["whole call"] = (perf_counter_ns() - begin) / count
    return parts


def _print_profile() -> None:
    parts = profile()
    order = ("scalars", "checks", "plan", "region", "kernel", "floats", "whole call")
    print("Where the time of a call goes, Adam, float32, medians in us; the parts' clocks cost 20 to 30 ns each")
    print(f"  {'':14}" + "".join(f"{part:>12}" for part in order))
    for name, times in parts.items():
        print(f"  {name:14}" + "".join(f"{times[part] / 1e3:>12.3f}" for part in order))


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options of ``schuss bench``."""
    parser.add_argument("--quick", action="store_true", help="fewer cases, in one or two minutes")
    parser.add_argument("--profile", action="store_true", help="split a call into its parts, and no more")
    parser.add_argument("--zeros", action="store_true", help="gradients full of zeros, and by rows, and no more")
    parser.add_argument("--torch", action="store_true", help="steps on PyTorch's tensors, and no more")
    parser.add_argument("--spacy", action="store_true", help="spaCy's training by thinc's optimizer, and no more")
    parser.add_argument("--sklearn", action="store_true", help="scikit-learn's perceptrons and ours, and no more")
    parser.add_argument(
        "--mnist",
        action="store_true",
        help="a training iteration on MNIST's digits, its parts apart, and no more",
    )
    parser.add_argument("--formats", action="store_true", help="Adam in fewer bits than 32, and no more")
    parser.add_argument(
        "--busy",
        action="store_true",
        help="the same of one thread, by itself and while all others stream through the memory",
    )
    parser.add_argument(
        "--mpi",
        action="store_true",
        help="a step over the ranks of mpiexec, and no more: mpiexec -n 4 schuss bench --mpi",
    )
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=_OTHERS,
        metavar="NAME",
        help=f"only these: {', '.join(map(repr, _OTHERS))}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine and rows as JSON")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the rows as CSV")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw Adam's speed over size")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="FILE",
        help="compare with an earlier --json of this machine; status 1 if ours got slower beyond the noise",
    )


def _write_json(path: Path, machine: dict[str, Any], rows: Sequence[Any]) -> None:
    path.write_text(json.dumps({"machine": machine, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")


def _main_mpi(args: Namespace, facts: dict[str, Any]) -> int:
    ranks = need("mpi4py.MPI", "schuss bench --mpi", extra="mpi").COMM_WORLD
    if ranks.rank == 0:
        print(f"{facts['cpu']}, {facts['isa']}, numpy {facts['numpy']}")
    sizes: list[tuple[str, Sequence[tuple[int, ...]]]] = [("MNIST tensors", MNIST), ("1e6", [(10**6,)])]
    if not args.quick:
        sizes += [("1e7", [(10**7,)]), ("GPT-2 small", GPT2)]
    found = over_ranks.run(sizes, lambda line: print(line, flush=True))
    if args.json and ranks.rank == 0:
        _write_json(args.json, facts, found)
    return 0


def _run_cases(rows: list[Row], present: Sequence[peers.Peer], n_threads: int, quick: bool) -> None:
    """Time all cases, print each, and add what was measured to the rows."""
    for case, names, budget in cases(quick, n_threads):
        contenders = [
            peer
            for peer in present
            if peer.name == "schuss" or (case.rule in peer.rules and (names is None or peer.name in names))
        ]
        if (len(contenders) + 1) * case.streamed > 0.8 * free_memory():
            work = f"{case.rule}, {case.name}, {case.dtype}, {case.threads} thread(s)"
            print(f"\n{work}: left out, too large for this machine's memory")
            continue
        measured = run_case(case, contenders, budget)
        _print_case(measured)
        rows += measured


def main(args: Namespace) -> int:
    """Run the benchmark, print it case by case, and write what was asked for, also after Ctrl-C."""
    apart = next((name for name in ("mpi", "torch", "spacy", "sklearn", "mnist", "zeros") if getattr(args, name)), None)
    mode = next((name for name in ("profile", "formats", "busy") if getattr(args, name)), apart)
    if args.against and mode:
        raise ValueError(f"schuss bench --against compares the cases of the rules, which --{mode} leaves out")
    if args.profile:
        _print_profile()
        return 0
    if (args.formats or args.busy) and args.figure:
        raise ValueError("schuss bench --formats and --busy draw no --figure; they have --json and --csv")
    if apart and (args.csv or args.figure):
        raise ValueError(f"schuss bench --{apart} writes no --csv and no --figure; it has --json")
    if args.figure:
        need("matplotlib", "schuss bench --figure")
    for path in (args.json, args.csv, args.figure):
        if path is not None and not path.parent.is_dir():
            raise FileNotFoundError(f"{path.parent}, where {path.name} is to be written, is no directory")
    facts, n_threads = info(), threads.get_num_threads()
    before = against.read(args.against, facts) if args.against else []
    if args.busy and n_threads < 2:
        raise ValueError("schuss bench --busy needs 2 threads at least: one that steps, and one that streams")
    wanted = [peer for peer in peers.PEERS if args.peers is None or peer.name in ("schuss", *args.peers)]
    present = [peer for peer in wanted if not peer.missing()]
    absent = ", ".join(peer.name for peer in wanted if peer.missing())
    if args.mpi:
        return _main_mpi(args, facts)
    print(f"{facts['cpu']}, {facts['isa']}, {n_threads} thread(s), {facts['openmp']}, numpy {facts['numpy']}")
    if not (args.formats or args.busy or (apart and not args.zeros)):
        print(f"contenders: {', '.join(peer.name for peer in present)}; not installed: {absent or 'none'}")

    def say(line: str) -> None:
        print(line, flush=True)

    if apart:
        found: list[Any] = tensors.run(GPT2, n_threads, args.quick, say) if args.torch else []
        if args.spacy:
            found += pipelines.run(args.quick, say)
        if args.sklearn:
            found += estimators.run(args.quick, say)
        if args.mnist:
            found += run_iteration(args.peers, n_threads, args.quick, say)
        if args.zeros:
            found += [*zeros.run(present, n_threads, args.quick, say), *zeros.run_rows(n_threads, args.quick, say)]
        if args.json:
            _write_json(args.json, facts, found)
        return 0

    rows: list[Row] = []
    of_formats: list[precision_bench.Row] = []
    interrupted = False
    try:
        if not (args.formats or args.busy):
            rows += run_iteration(args.peers, n_threads, args.quick, say)
            _run_cases(rows, present, n_threads, args.quick)
        for measured in precision_bench.run(args.peers, n_threads, args.quick, args.busy, say):
            of_formats += measured
    except KeyboardInterrupt:
        interrupted = True
    if rows:
        _print_summary(rows, n_threads)
        _print_limits(rows, n_threads)
        _print_best(rows, n_threads)
    if args.json:
        _write_json(args.json, facts, [*rows, *of_formats])
    if args.csv:
        with args.csv.open("w", newline="") as file:
            lines = [asdict(row) for row in rows] + [asdict(row) for row in of_formats]
            columns = dict.fromkeys(column.name for kind in (Row, precision_bench.Row) for column in fields(kind))
            writer = csv.DictWriter(file, list(columns), lineterminator="\n")
            writer.writeheader()
            writer.writerows(lines)
    if args.figure:
        plots.bench_figure([asdict(row) for row in rows], f"{facts['cpu']}, {facts['isa']}").savefig(args.figure)
    changes = against.changes(before, [asdict(row) for row in rows])
    if changes:
        print(f"\nagainst {args.against}\n{against.table(changes)}")
    if interrupted:
        raise KeyboardInterrupt
    if args.against and not changes:
        raise ValueError(f"--against {args.against}: it has none of the cases of this run")
    return int(any(change.verdict == "slower" for change in changes))
