"""Figures of the results: they draw, and return matplotlib figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._extras import need
from .experiments import TEXTBOOK, Decay, Fit, Path, Race, Training

# The palette of Okabe and Ito, which the colour-blind can tell apart.
_PALETTE = ("#000000", "#e69f00", "#56b4e9", "#009e73", "#d55e00", "#0072b2", "#cc79a7", "#999999")


def colors(names: Sequence[str]) -> dict[str, str]:
    """A colour for each: the textbook's optimizers keep theirs everywhere, the others take what is free."""
    own = dict(zip(TEXTBOOK, _PALETTE, strict=False))
    free = [color for color in _PALETTE if color not in {own[name] for name in names if name in own}]
    others = [name for name in names if name not in own]
    return own | {name: (free or list(_PALETTE))[i % len(free or _PALETTE)] for i, name in enumerate(others)}


def smooth_curve(x: ArrayLike, window: int = 11) -> NDArray[np.float64]:
    """Weighted means over ``window`` neighbours, as in "Deep Learning from Scratch": a Kaiser window, beta 2.

    At the ends the means are over the neighbours that there are.

    Parameters
    ----------
    x : array of shape (n,)
        The values, in their order.
    window : int, default 11
        How many neighbours a mean is over, itself among them; odd, so that as many lie on either side.

    Returns
    -------
    ndarray of float64, shape (n,)
        A mean for each value.

    Examples
    --------
    >>> from schuss.plots import smooth_curve
    >>> smooth_curve([1.0, 1.0, 1.0]).round(6)
    array([1., 1., 1.])
    """
    x = np.asarray(x, np.float64)
    weights = np.kaiser(window, 2)
    half = window // 2
    sums = np.convolve(x, weights)[half : half + len(x)]
    return sums / np.convolve(np.ones(len(x)), weights)[half : half + len(x)]


def _figure(width: float, height: float) -> Any:
    figure = need("matplotlib.figure", "drawing", package="matplotlib").Figure((width, height), dpi=120)
    figure.set_layout_engine("constrained")
    return figure


def _axes(figure: Any, xlabel: str, ylabel: str) -> Any:
    axes = figure.add_subplot()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _near(way: Path) -> list[tuple[float, float]]:
    """The points of a path that can be drawn, also if it diverges: those whose squares are numbers."""
    return [(x, y) for x, y in way.points if abs(x) < 1e100 and abs(y) < 1e100]


def path_figure(*rows: Sequence[Path]) -> Any:
    """One row of panels per experiment, one panel per optimizer: contours, path, start and end."""
    figure = _figure(2.5 * len(rows[0]) + 0.5, 2.7 * len(rows) + 0.2)
    color = colors([way.name for way in rows[0]])
    panels = figure.subplots(len(rows), len(rows[0]), squeeze=False, sharex="row", sharey="row")
    for row, ways in zip(panels, rows, strict=True):
        scaled = ways[0].scaled
        reach = max(max(abs(x) for way in ways for x, _ in _near(way)) * 1.08, 2.6 if scaled else 10.0)
        height = max(max(abs(y) for way in ways for _, y in _near(way)) * 1.08, 2.6 if scaled else 4.0)
        if scaled:
            reach = height = max(reach, height)
        x, y = np.meshgrid(np.linspace(-reach, reach, 201), np.linspace(-height, height, 201))
        f = x**2 + y**2 if scaled else x**2 / 20 + y**2
        for axes, way in zip(row, ways, strict=True):
            axes.contour(x, y, f, levels=[0.1, 0.5, 1, 2, 4, 7, 11, 16, 22], colors="0.75", linewidths=0.7)
            points = _near(way)
            axes.plot(*zip(*points, strict=True), "o-", color=color[way.name], markersize=2.5, linewidth=1)
            axes.plot(*points[0], "s", color="white", markeredgecolor="black", markersize=6, label="start")
            if len(points) == len(way.points):
                axes.plot(*points[-1], "*", color="gold", markeredgecolor="black", markersize=10, label="end")
            axes.plot(0, 0, "+", color="black", markersize=7)
            title = way.name if "(" in way.name else f"{way.name}, lr {way.lr:g}"
            axes.set_title(title, fontsize=10 if len(title) < 24 else 7)
            axes.set_xlabel("u = x / √20" if scaled else "x")
            if scaled:
                axes.set_aspect("equal")
        row[0].set_ylabel("y")
    panels[0][0].legend(fontsize=8, loc="upper right", framealpha=1)
    return figure


def race_loss_figure(race: Race) -> Any:
    """Training loss over iterations, smoothed; the loss axis is logarithmic."""
    figure = _figure(7, 4.4)
    axes = _axes(figure, "iteration", "training loss (smoothed)")
    color = colors([run.name for run in race.runs])
    for run in race.runs:
        if run.losses:
            iterations = np.arange(1, len(run.losses) + 1)
            axes.semilogy(iterations, smooth_curve(run.losses, 31), color=color[run.name], label=run.name)
    # A network that knows nothing has log(10) = 2.3; what a first step throws above that is cut.
    axes.set_ylim(top=3)
    axes.legend(frameon=False)
    return figure


def race_accuracy_figure(race: Race) -> Any:
    """Test accuracy over iterations."""
    figure = _figure(7, 4.4)
    axes = _axes(figure, "iteration", "test accuracy")
    color = colors([run.name for run in race.runs])
    for run in race.runs:
        if run.accuracies:
            axes.plot(
                list(run.accuracies),
                list(run.accuracies.values()),
                "o-",
                markersize=3,
                color=color[run.name],
                label=f"{run.name}  {run.accuracy:.1%}",
            )
    axes.yaxis.set_major_formatter(need("matplotlib.ticker", "drawing", package="matplotlib").PercentFormatter(1))
    if axes.lines:  # Ctrl-C may come before the first test
        axes.legend(frameon=False, loc="lower right")
    return figure


def regression_figure(fits: Sequence[Fit]) -> Any:
    """Mean loss over epochs; a curve that leaves the figure has diverged, and says so in the legend."""
    figure = _figure(7, 4.4)
    axes = _axes(figure, "epoch", "mean loss")
    color = colors([fit.name for fit in fits])
    start = fits[0].losses[0]
    # A logarithmic axis has no zero: neither as a perfect end nor, of data that are all zero, as the start.
    above = [loss for fit in fits if not fit.diverged for loss in fit.losses if loss > 0]
    for fit in fits:
        label = f"{fit.name}  diverged" if fit.diverged else f"{fit.name}  {fit.losses[-1]:.4g}"
        visible = [loss if loss < 1e3 * start else np.nan for loss in fit.losses]
        axes.semilogy(fit.epochs, visible, color=color[fit.name], label=label)
    if start > 0:
        axes.set_ylim(min(above, default=start / 10) * 0.85, start * 1.5)
    axes.legend(frameon=False)
    return figure


def bench_figure(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Speed over size, one line per contender: Adam on one float32 array, with the stream limit drawn dashed.

    ``rows`` are those of :mod:`schuss.bench`, as dicts.
    """
    figure = _figure(7, 4.6)
    axes = _axes(figure, "parameters", "memory traffic, GB/s")
    threads = max(row["threads"] for row in rows)
    mine = [
        row
        for row in rows
        if (row["rule"], row["dtype"], row["threads"]) == ("Adam", "float32", threads) and "e" in row["case"][:4]
    ]
    others = iter(("#0072b2", "#56b4e9", "#009e73", "#cc79a7", "#e69f00", "#999999", "#f0e442", "#882255", "#117733"))
    for name in dict.fromkeys(row["contender"] for row in mine):
        speed = {row["parameters"]: row["gb_per_s"] for row in mine if row["contender"] == name}
        if name == "schuss":
            style: dict[str, Any] = {"color": "#d55e00", "linewidth": 2.6, "zorder": 5}
        elif name == "stream limit":
            style = {"color": "black", "linestyle": "--"}
        else:
            style = {"color": next(others), "linewidth": 1.2, "markersize": 4}
        axes.loglog(list(speed), list(speed.values()), marker="o", label=name, **style)
    axes.legend(frameon=False, fontsize=8, ncols=2)
    return figure


def decay_figure(runs: Sequence[Decay]) -> Any:
    """Loss over iterations, one line per schedule, and below it the rates."""
    figure = _figure(7, 5.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for axes, label in ((upper, "loss above the minimum"), (lower, "learning rate")):
        axes.set(ylabel=label)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    lower.set_xlabel("iteration")
    color = colors([run.name for run in runs])
    for run in runs:
        above = np.array(run.losses) - run.minimum
        upper.semilogy(run.iterations, above, color=color[run.name], linewidth=1, label=run.name)
        lower.plot(run.iterations, [run.schedule(t) for t in run.iterations], color=color[run.name], linewidth=1)
    upper.legend(frameon=False, ncols=2)
    return figure


def schedule_figure(rates: Mapping[str, ArrayLike]) -> Any:
    """The rates from step 1 on, one line for each schedule by its name."""
    figure = _figure(7, 3.6)
    axes = _axes(figure, "step", "learning rate")
    for name, values in rates.items():
        values = np.asarray(values)
        axes.plot(np.arange(1, len(values) + 1), values, label=name)
    figure.legend(loc="outside upper left", frameon=False, fontsize=8)
    return figure


def training_figure(training: Training) -> Any:
    """Training loss and validation accuracy by epoch; the best epoch is marked."""
    figure = _figure(7, 4)
    axes = _axes(figure, "epoch", "training loss")
    epochs = np.arange(1, len(training.losses) + 1)
    axes.semilogy(epochs, training.losses, "o-", color=_PALETTE[5], markersize=4, label="training loss")
    right = axes.twinx()
    right.plot(epochs, training.accuracies, "s-", color=_PALETTE[4], markersize=4, label="validation accuracy")
    right.axvline(training.best_epoch, color="0.6", linestyle=":", label=f"best: epoch {training.best_epoch}")
    right.yaxis.set_major_formatter(need("matplotlib.ticker", "drawing", package="matplotlib").PercentFormatter(1))
    right.set_ylabel("validation accuracy")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def confusion_figure(training: Training) -> Any:
    """How often each true digit was read as which; the diagonal, of digits read rightly, is left white."""
    figure = _figure(5.4, 5)
    axes = figure.add_subplot()
    wrong = training.confusion * (1 - np.eye(10, dtype=int))
    axes.imshow(wrong, cmap="Reds")
    for true, read in np.ndindex(10, 10):
        count = int(training.confusion[true, read])
        if count:
            dark = wrong[true, read] > wrong.max() / 2
            axes.text(read, true, count, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    axes.set(xlabel="read as", ylabel="true digit", xticks=range(10), yticks=range(10))
    axes.set_title(f"test accuracy {training.test_accuracy:.2%}", fontsize=10)
    return figure


def misread_figure(training: Training, images: NDArray[Any]) -> Any:
    """The first 50 misread digits of the test set, with what they are and what they were read as."""
    shown = training.misread[:50]
    figure = _figure(8, max(1, -(-len(shown) // 10)) * 1.0 + 0.4)
    panels = figure.subplots(max(1, -(-len(shown) // 10)), 10, squeeze=False).ravel()
    for axes in panels:
        axes.axis("off")
    for axes, (place, true, read) in zip(panels, shown, strict=False):
        axes.imshow(images[place].reshape(28, 28), cmap="gray_r")
        axes.set_title(f"{true} as {read}", fontsize=7, pad=2)
    return figure
