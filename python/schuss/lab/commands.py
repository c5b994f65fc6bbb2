"""The commands that compare and train: they run an experiment, print its table, and write its files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import datasets
from .._extras import need
from ..mpi import RankError
from . import characters, experiments, parallel, plots, precision, precision_plots, words
from .report import (
    Failure,
    as_csv,
    as_table,
    exit_status,
    mean,
    one_line,
    prepare,
    seeds_said,
    show,
    spread,
    told_to_the_user,
    write,
    write_figure,
)
from .results import Run, Training
from .setting import over_seeds


def compare_path(args: argparse.Namespace) -> int:
    """``schuss compare path``: the textbook's valley."""
    prepare(args.out)
    with told_to_the_user():
        rows = [
            experiments.path(args.optimizers, scaled=scaled, schedule=args.schedule)
            for scaled in ((False, True) if args.scale else (False,))
        ]
    ways = [way for row in rows for way in row]
    files = [write_figure(args.out / "path.png", plots.path_figure(*rows))]
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
    show(args.json, result, as_table(header, lines), files)
    return 0


class _Bars:
    """A progress bar per optimizer, with its loss."""

    def __init__(self, iterations: int) -> None:
        self._tqdm = need("tqdm.auto", "the progress bar", package="tqdm").tqdm
        self._iterations = iterations
        self._bar: Any = None

    def watch(self, run: Run | words.WordRun) -> None:
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


def compare_mnist(args: argparse.Namespace) -> int:
    """``schuss compare mnist``: the race on handwritten digits."""
    prepare(args.out)
    with told_to_the_user():
        source = datasets.mnist_source(args.data_dir)
        name, data = datasets.mnist_name(args.data_dir), datasets.load_mnist(data_dir=args.data_dir)
        bars = _Bars(args.iterations)
    print(f"data: {source}", file=sys.stderr)
    try:
        with told_to_the_user():
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
        write_figure(args.out / "mnist_loss.png", plots.race_loss_figure(race)),
        write_figure(args.out / "mnist_accuracy.png", plots.race_accuracy_figure(race)),
        write(
            args.out / "mnist_curves.csv",
            as_csv(("optimizer", "iteration", "train_loss", "test_accuracy", "seed"), curves),
        ),
    ]
    summary, lines = [], []
    for runs in over_seeds(race.runs):
        losses = [run.final_loss for run in runs]
        accuracies = [run.accuracy for run in runs if run.accuracy is not None]  # Ctrl-C may come before the first test
        row = {
            "optimizer": runs[0].name,
            "iterations": len(runs[0].losses),
            "final_loss": mean(losses),
            "test_accuracy": mean(accuracies) if accuracies else None,
            "seconds": mean([run.seconds for run in runs]),
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
                *spread(losses, ".4f"),
                *(spread(accuracies, ".2%") if accuracies else ("", "")),
                f"{row['seconds']:.2f}",
                f"{row['gradient_us']:.0f}",
                f"{row['update_us']:.1f}",
            )
        )
    header = ("optimizer", "final loss", "range", "test accuracy", "range", "seconds", "gradient us", "update us")
    text = (
        as_table(header, lines) + f"\nfinal loss: mean of the last {min(100, args.iterations)} batches; "
        f"{seeds_said(race.setting)}; data: {source}"
    )
    result = {
        "data": source,
        "numpy": args.numpy,
        "interrupted": race.interrupted,
        "runs": summary,
        "setting": asdict(race.setting),
    }
    show(args.json, result, text, files)
    return exit_status(race.interrupted)


def _median_us(nanoseconds: Sequence[int]) -> float:
    return sorted(nanoseconds)[len(nanoseconds) // 2] / 1e3


_MOST_ROWS = 1500  # as many as the book takes of its table


def _table(path: Path | None, scaled: bool) -> tuple[NDArray[Any], NDArray[Any], str]:
    """Features and target of a file, or of the diabetes data; and what they are called."""
    if path is None:
        diabetes = need("sklearn.datasets", "the diabetes data", package="scikit-learn").load_diabetes(scaled=False)
        features, target, name = diabetes.data, diabetes.target, "scikit-learn's diabetes"
    else:
        features, target = datasets.load_table(path)
        name = path.name
    if scaled:
        features, _ = datasets.scale_features(features)
        target, _ = datasets.scale_features(target)
        name += ", standardised"
    if len(target) > _MOST_ROWS:
        name += f", the first {_MOST_ROWS:,} of {len(target):,} rows"
    return features[:_MOST_ROWS], target[:_MOST_ROWS], name


def compare_regression(args: argparse.Namespace) -> int:
    """``schuss compare regression``: a line through a table."""
    prepare(args.out)
    with told_to_the_user():
        features, target, name = _table(args.data, not args.no_scale)
    with told_to_the_user():
        fits = experiments.regression(
            features,
            target,
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
        write_figure(args.out / "regression.png", plots.regression_figure(fits)),
        write(args.out / "regression_curves.csv", as_csv(("optimizer", "epoch", "mean_loss", "seed"), curves)),
    ]
    groups = over_seeds(fits)
    lines = []
    for group in groups:
        first, _ = spread([fit.losses[0] for fit in group], ".4g")
        end = spread([fit.losses[-1] for fit in group], ".4g")
        lines.append((group[0].name, first, *(("diverged", "") if any(fit.diverged for fit in group) else end)))
    counts = fits.setting.counts
    text = (
        as_table(("optimizer", "first loss", "final loss", "range"), lines)
        + f"\nleast mean loss of all lines: {fits[0].minimum:.4g}; {seeds_said(fits.setting)}; "
        f"data: {one_line(name)}: {counts['rows']:,} rows, {counts['features']:,} features"
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
                "final_loss": None if any(fit.diverged for fit in group) else mean([fit.losses[-1] for fit in group]),
                "seeds": [fit.seed for fit in group],
                "final_losses": [fit.losses[-1] for fit in group],
            }
            for group in groups
        ],
        "setting": asdict(fits.setting),
    }
    show(args.json, result, text, files)
    return exit_status(fits.interrupted)


def compare_decay(args: argparse.Namespace) -> int:
    """``schuss compare decay``: a constant rate against each decay."""
    prepare(args.out)
    with told_to_the_user():
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
        write_figure(args.out / "decay.png", plots.decay_figure(runs)),
        write(args.out / "decay_curves.csv", as_csv(("schedule", "iteration", "loss", "seed"), rows)),
    ]
    groups = over_seeds(runs)
    seen = runs.interrupted or all(run.diverged for run in runs)
    header = ("schedule", "last rate", "above minimum", "range", "wander", "range")
    lines = (
        (
            group[0].name,
            f"{group[0].schedule(group[0].iterations[-1]):.4g}",
            *spread([run.excess for run in group], ".5f"),
            *spread([run.wander for run in group], ".5f"),
        )
        for group in groups
    )
    text = (
        as_table(header, lines)
        + f"\nthe loss above {'the lowest seen' if seen else 'its minimum'}, {runs[0].minimum:.4f}: "
        f"mean and deviation over the last quarter of the steps; {seeds_said(runs.setting)}; data: {source}"
    )
    result = {
        "data": source,
        "interrupted": runs.interrupted,
        "minimum": runs[0].minimum,
        "runs": [
            {
                "schedule": repr(group[0].schedule),
                "excess": mean([run.excess for run in group]),
                "wander": mean([run.wander for run in group]),
                "factor": group[0].name,
                "seeds": [run.seed for run in group],
                "excesses": [run.excess for run in group],
                "wanders": [run.wander for run in group],
            }
            for group in groups
        ],
        "setting": asdict(runs.setting),
    }
    show(args.json, result, text, files)
    return exit_status(runs.interrupted)


def _raced(
    args: argparse.Namespace, name: str, start: Callable[..., Any], figure: Callable[[Any], Any]
) -> tuple[Any, list[Path]]:
    """Run a race of ways with its progress bars; write its figure and its curves."""
    prepare(args.out)
    bars = _Bars(args.iterations)
    try:
        with told_to_the_user():
            race = start(iterations=args.iterations, batch_size=args.batch_size, seed=args.seed, watch=bars.watch)
    finally:
        bars.close()
    if not race.runs:
        raise KeyboardInterrupt  # before the first step: there is nothing to show
    curves = ((run.name, i, repr(loss), run.seed) for run in race.runs for i, loss in enumerate(run.losses, start=1))
    return race, [
        write_figure(args.out / f"{name}.png", figure(race)),
        write(args.out / f"{name}_curves.csv", as_csv(("way", "iteration", "train_loss", "seed"), curves)),
    ]


def compare_embedding(args: argparse.Namespace) -> int:
    """``schuss compare embedding``: words as vectors, by dense gradients and by rows."""
    text = words.Words.of_python()
    race, files = _raced(
        args,
        "embedding",
        partial(words.embedding, text, optimizer=args.optimizer, dimensions=args.dimensions),
        plots.words_figure,
    )
    rows, lines = [], []
    for run in race.runs:
        gradient_us, update_us = mean(run.gradient_ns) / 1e3, mean(run.update_ns) / 1e3
        row = {
            "way": run.name,
            "iterations": len(run.losses),
            "final_loss": run.final_loss,
            "gradient_us": gradient_us,
            "update_us": update_us,
            "gradient_bytes": run.gradient_bytes,
        }
        rows.append(row)
        size = f"{run.gradient_bytes / 1e3:,.0f} kB"
        lines.append((run.name, f"{run.final_loss:.4f}", f"{gradient_us:.0f}", f"{update_us:.0f}", size))
    counts = race.setting.counts
    header = ("way", "final loss", "gradient us", "update us", "gradient's size")
    same = {
        True: "the same losses and vectors, bit for bit",
        False: "OTHER losses or vectors, which must not be: an error of schuss, please report it",
        None: "not compared: the run was cut short",
    }[race.same_bits]
    told = (
        as_table(header, lines) + f"\ndense and exact rows: {same}; times are means, an update's with what catches up\n"
        f"{race.setting.data}: {counts['words']:,} words, {counts['different']:,} different"
    )
    result = {
        "same_bits": race.same_bits,
        "interrupted": race.interrupted,
        "runs": rows,
        "setting": asdict(race.setting),
    }
    show(args.json, result, told, files)
    return 1 if race.same_bits is False else exit_status(race.interrupted)


def compare_transformer(args: argparse.Namespace) -> int:
    """``schuss compare transformer``: PyTorch's step against ours, on tensors."""
    race, files = _raced(
        args,
        "transformer",
        partial(characters.transformer, width=args.width, layers=args.layers),
        plots.characters_figure,
    )
    rows, lines = [], []
    for run in race.runs:
        seconds, step_ms = (sum(run.gradient_ns) + sum(run.update_ns)) / 1e9, mean(run.update_ns) / 1e6
        loss = mean(run.losses[-50:])
        rows.append({"way": run.name, "seconds": seconds, "step_ms": step_ms, "final_loss": loss})
        lines.append((run.name, f"{loss:.4f}", f"{seconds:.1f}", f"{step_ms:.2f}"))
    said = "" if race.difference is None else f"\nthe losses differ by {race.difference:.1e} at most, relatively"
    told = as_table(("way", "final loss", "seconds", "step ms"), lines) + said
    result = {
        "difference": race.difference,
        "interrupted": race.interrupted,
        "runs": rows,
        "setting": asdict(race.setting),
    }
    show(args.json, result, told, files)
    return exit_status(race.interrupted)


def compare_precision(args: argparse.Namespace) -> int:
    """``schuss compare precision``: formats of fewer bits against float32."""
    prepare(args.out)
    with told_to_the_user():
        need("ml_dtypes", "schuss compare precision", extra="low-precision")
        source = datasets.mnist_source(args.data_dir)
        name, data = datasets.mnist_name(args.data_dir), datasets.load_mnist(data_dir=args.data_dir)
        features, target, table_name = _table(args.data, True)
        iterations = args.epochs * -(-len(data[0][0]) // args.batch_size)
        bars = _Bars(iterations)
    print(f"data: {source}; {one_line(table_name)}", file=sys.stderr)
    seeds = {"seed": args.seed, "seeds": args.seeds}
    try:
        with told_to_the_user():
            steps = precision.stressed(watch=lambda form: print(f"stress: {form}", file=sys.stderr))
            line = precision.line(features, target, data_name=table_name, **seeds)
            digits, weights = precision.digits(
                data,
                hidden=args.hidden,
                epochs=args.epochs,
                batch_size=args.batch_size,
                watch=bars.watch,
                data_name=name,
                **seeds,
            )
    finally:
        bars.close()
    if not digits.runs:
        raise KeyboardInterrupt  # before the first step: there is nothing to show
    comparison = precision.Comparison(precision.FORMATS, digits, line, steps, weights)
    rows, accepted = comparison.rows(), comparison.accepted
    files = [
        write_figure(args.out / "precision.png", precision_plots.precision_figure(comparison)),
        write(args.out / "precision.csv", as_csv(*comparison.table())),
        write(
            args.out / "precision_curves.csv",
            as_csv(("data", "format", "iteration", "mean_loss", "lowest", "highest"), comparison.curves()),
        ),
    ]
    header = (
        "format",
        "bytes",
        "test accuracy",
        "range",
        "points from float32",
        "final loss",
        "correlation",
        "of the line",
    )
    steps_header = ("largest step", "over float32's", "falls short")
    lines = []
    for row in rows:
        accuracies = spread(row.accuracies, ".2%") if row.accuracies else ("", "")
        error = f" +- {100 * row.error:.3f}" if len(row.differences) > 1 else ""
        lines.append(
            (
                row.form.name,
                f"{row.bytes:.2f}",
                *accuracies,
                f"{100 * row.difference:+.3f}{error}" if row.differences else "",
                f"{mean(row.final_losses):.4g}",
                f"{row.digits_correlation:.6f}",
                f"{row.line_correlation:.6f}",
                f"{row.largest:.3g}",
                "{:.2f} to {:.2f}".format(*row.over_float32)
                if row.over_float32[1] < 100
                else f"{row.over_float32[1]:.1e}",
                ", ".join(row.short) or "in nothing",
            )
        )
    text = (
        as_table((*header, *steps_header), lines)
        + f"\naccepted: within {accepted.points:g} points of float32, both correlations of mean loss curves at least "
        f"{accepted.correlation:g}, no step above {accepted.step:.2f} lr, nor all below {accepted.still:g} of "
        "float32's largest\nbytes: of a parameter, what is beside it, and state; accuracy: mean of the last quarter of "
        f"tests; {seeds_said(digits.setting)}; data: {source}; {one_line(table_name)}"
    )
    result = {
        "data": source,
        "table": table_name,
        "interrupted": comparison.interrupted,
        "formats": [row.as_dict() for row in rows],
        "settings": [asdict(digits.setting), asdict(line.setting)],
    }
    show(args.json, result, text, files)
    return exit_status(comparison.interrupted)


def train_mnist(args: argparse.Namespace) -> int:
    """``schuss train mnist``: one network to its best, by one process or by the ranks of MPI."""
    with told_to_the_user():
        team = parallel.team(args.parts)
    try:
        return _train_mnist(args, team)
    except RankError as error:
        failure = Failure(str(error))
    except Failure as error:
        failure = error
    if team.shown:
        raise failure
    return 2


def _train_mnist(args: argparse.Namespace, team: parallel.Alone) -> int:
    with told_to_the_user():
        team.in_turn(lambda: prepare(args.out))
        source = datasets.mnist_source(args.data_dir)
        data = team.in_turn(lambda: datasets.load_mnist(data_dir=args.data_dir))
    checkpoint = args.out / "mnist_network.npz"
    bar: Any = None

    def tick(step: int, steps: int) -> None:
        nonlocal bar
        if team.shown and bar is None:
            tqdm = need("tqdm.auto", "the progress bar", package="tqdm").tqdm
            # Under mpiexec no stream is a terminal.
            quiet = None if parallel.ranks_started() == 1 else False
            bar = tqdm(total=steps, unit="step", mininterval=0.2, leave=False, disable=quiet)
        if team.shown:
            bar.update(step - bar.n)

    def watch(training: Training) -> None:
        epoch = len(training.losses)
        if training.best_epoch == epoch:
            stream = BytesIO()
            np.savez(stream, **training.params)  # type: ignore[arg-type]
            team.once(lambda: write(checkpoint, stream.getvalue()))
        if not team.shown:
            return
        bar.clear()
        print(
            f"epoch {epoch:2}: loss {training.losses[-1]:.4f}, validation {training.accuracies[-1]:.2%}, "
            f"rate {training.rates[-1]:.3g}{', the best so far' if training.best_epoch == epoch else ''}",
            file=sys.stderr,
        )

    if team.shown:
        print(f"data: {source}", file=sys.stderr)
    try:
        with told_to_the_user():
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
                tick=tick,
                data_name=datasets.mnist_name(args.data_dir),
                team=team,
            )
    finally:
        if bar is not None:
            bar.close()
    if not team.shown:
        return exit_status(training.interrupted)
    if not training.params:
        raise KeyboardInterrupt  # before the first epoch was through: there is nothing to show
    files = [
        checkpoint,
        write_figure(args.out / "mnist_training.png", plots.training_figure(training)),
        write_figure(args.out / "mnist_confusion.png", plots.confusion_figure(training)),
        write_figure(args.out / "mnist_misread.png", plots.misread_figure(training, data[1][0])),
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
    show(args.json, result, text, files)
    return exit_status(training.interrupted)
