"""Figures of the results: they draw, and return matplotlib figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._extras import need
from .experiments import Fit, Path, Race
from .optimizers import OPTIMIZERS

# The palette of Okabe and Ito, which the colour-blind can tell apart; an optimizer has one colour everywhere.
_PALETTE = ("#000000", "#e69f00", "#56b4e9", "#009e73", "#d55e00", "#0072b2", "#cc79a7", "#999999")
COLORS = {name: _PALETTE[i % len(_PALETTE)] for i, name in enumerate(OPTIMIZERS)}


def smooth_curve(x: ArrayLike, window: int = 11) -> NDArray[np.float64]:
    """Weighted means over ``window`` neighbours, as in "Deep Learning from Scratch": a Kaiser window, beta 2.

    At the ends the means are over the neighbours that there are.

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


def path_figure(*rows: Sequence[Path]) -> Any:
    """One row of panels per experiment, one panel per optimizer: contours, path, start and end."""
    figure = _figure(2.5 * len(rows[0]) + 0.5, 2.7 * len(rows) + 0.2)
    panels = figure.subplots(len(rows), len(rows[0]), squeeze=False, sharex="row", sharey="row")
    for row, ways in zip(panels, rows, strict=True):
        scaled = ways[0].scaled
        reach = max(max(abs(x) for way in ways for x, _ in way.points) * 1.08, 2.6 if scaled else 10.0)
        height = max(max(abs(y) for way in ways for _, y in way.points) * 1.08, 2.6 if scaled else 4.0)
        if scaled:
            reach = height = max(reach, height)
        x, y = np.meshgrid(np.linspace(-reach, reach, 201), np.linspace(-height, height, 201))
        f = x**2 + y**2 if scaled else x**2 / 20 + y**2
        for axes, way in zip(row, ways, strict=True):
            axes.contour(x, y, f, levels=[0.1, 0.5, 1, 2, 4, 7, 11, 16, 22], colors="0.75", linewidths=0.7)
            axes.plot(
                *zip(*way.points, strict=True), "o-", color=COLORS[way.name], markersize=2.5, linewidth=1
            )
            axes.plot(
                *way.points[0], "s", color="white", markeredgecolor="black", markersize=6, label="start"
            )
            axes.plot(*way.points[-1], "*", color="gold", markeredgecolor="black", markersize=10, label="end")
            axes.plot(0, 0, "+", color="black", markersize=7)
            axes.set_title(f"{way.name}, lr {way.lr:g}", fontsize=10)
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
    for run in race.runs:
        if run.losses:
            iterations = np.arange(1, len(run.losses) + 1)
            axes.semilogy(iterations, smooth_curve(run.losses, 31), color=COLORS[run.name], label=run.name)
    # A network that knows nothing has log(10) = 2.3; what a first step throws above that is cut.
    axes.set_ylim(top=3)
    axes.legend(frameon=False)
    return figure


def race_accuracy_figure(race: Race) -> Any:
    """Test accuracy over iterations."""
    figure = _figure(7, 4.4)
    axes = _axes(figure, "iteration", "test accuracy")
    for run in race.runs:
        if run.accuracies:
            axes.plot(
                list(run.accuracies),
                list(run.accuracies.values()),
                "o-",
                markersize=3,
                color=COLORS[run.name],
                label=f"{run.name}  {run.accuracy:.1%}",
            )
    axes.yaxis.set_major_formatter(
        need("matplotlib.ticker", "drawing", package="matplotlib").PercentFormatter(1)
    )
    axes.legend(frameon=False, loc="lower right")
    return figure


def regression_figure(fits: Sequence[Fit]) -> Any:
    """Mean loss over epochs; a curve that leaves the figure has diverged, and says so in the legend."""
    figure = _figure(7, 4.4)
    axes = _axes(figure, "epoch", "mean loss")
    start = fits[0].losses[0]
    lowest = min((min(fit.losses) for fit in fits if not fit.diverged), default=start / 10)
    for fit in fits:
        label = f"{fit.name}  diverged" if fit.diverged else f"{fit.name}  {fit.losses[-1]:.4g}"
        visible = [loss if loss < 1e3 * start else np.nan for loss in fit.losses]
        axes.semilogy(fit.epochs, visible, color=COLORS[fit.name], label=label)
    axes.set_ylim(lowest * 0.85, start * 1.5)
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
        if (row["rule"], row["dtype"], row["threads"]) == ("Adam", "float32", threads)
        and "e" in row["case"][:4]
    ]
    others = iter(
        ("#0072b2", "#56b4e9", "#009e73", "#cc79a7", "#e69f00", "#999999", "#f0e442", "#882255", "#117733")
    )
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
