"""Figures of the results: they draw, and return matplotlib figures.

Each says below its axes what was run, and marks what it leaves out. They look the same whatever matplotlibrc says, on a
white ground of their own, and are made to be read at half their size too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from importlib.util import find_spec
from io import BytesIO
from math import inf, isfinite, log10, sqrt
from textwrap import fill
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _core
from .._extras import need
from .setting import TEXTBOOK, Setting, over_seeds

if TYPE_CHECKING:
    from .characters import CharacterRace
    from .results import Decay, Fit, Path, Race, Results, Training
    from .words import WordRace

Arguments = ParamSpec("Arguments")

# The palette of Okabe and Ito, which the colour-blind can tell apart.
_PALETTE = ("#000000", "#e69f00", "#56b4e9", "#009e73", "#d55e00", "#0072b2", "#cc79a7", "#999999")


def colors(names: Sequence[str]) -> dict[str, str]:
    """A colour for each: the textbook's optimizers keep theirs everywhere, the others take what is free."""
    own = dict(zip(TEXTBOOK, _PALETTE, strict=False))
    free = [color for color in _PALETTE if color not in {own[name] for name in names if name in own}]
    others = [name for name in dict.fromkeys(names) if name not in own]
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
    >>> from schuss.lab.plots import smooth_curve
    >>> smooth_curve([1.0, 1.0, 1.0]).round(6)
    array([1., 1., 1.])
    """
    x = np.asarray(x, np.float64)
    weights = np.kaiser(window, 2)
    half = window // 2
    sums = np.convolve(x, weights)[half : half + len(x)]
    return sums / np.convolve(np.ones(len(x)), weights)[half : half + len(x)]


_SMALL = 7.5  # points, of captions
_WIDTH = 6.4  # inches, of a figure with one pair of axes


def _plainly(draw: Callable[Arguments, Any]) -> Callable[Arguments, Any]:
    """Draw in matplotlib's own style: in the user's, lines that are made for a white ground might lie on black."""

    @wraps(draw)
    def drawn(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Any:
        with need("matplotlib.style", "drawing", package="matplotlib").context("default"):
            return draw(*args, **kwargs)

    return drawn


def _figure(width: float, height: float) -> Any:
    figure = need("matplotlib.figure", "drawing", package="matplotlib").Figure(
        (width, height), dpi=140, facecolor="white"
    )
    figure.set_layout_engine("constrained")
    figure._repr_png_ = partial(png, figure)  # a notebook shows it, also where no one has asked for matplotlib inline
    return figure


def png(figure: Any) -> bytes:
    """A figure as the content of a PNG file."""
    stream = BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def shown_in_notebook(draw: Callable[[Any], Any], result: Any) -> bytes | None:
    """A result's figure as a notebook asks for it; nothing, and so its text, where matplotlib is not installed."""
    return png(draw(result)) if find_spec("matplotlib") else None


def _axes(figure: Any, xlabel: str, ylabel: str) -> Any:
    axes = figure.add_subplot()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    _dress(axes)
    return axes


def _dress(axes: Any) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    # Ticks may be made as late as they are drawn, in the user's style.
    axes.tick_params(which="both", color="black", labelcolor="black")


def _grow(figure: Any, inches: float) -> None:
    """Room for text around the axes, so that they keep their size."""
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + inches)


def _caption(figure: Any, *parts: str, version: str = _core.__version__) -> None:
    """Write below the axes what was run and how it is drawn, small and grey."""
    fonts = need("matplotlib.font_manager", "drawing", package="matplotlib")
    known = fonts.get_font(fonts.findfont(fonts.FontProperties())).get_charmap()
    # Short parts are not broken: to the wrapper a space that does not break is none.
    whole = [part.replace(" ", "\xa0") if len(part) < 40 else part for part in [*parts, f"schuss {version}"] if part]
    text = "; ".join(whole)
    # What the font cannot show, of a file's name, as its escape.
    text = "".join(c if ord(c) in known else c.encode("unicode_escape").decode() for c in text)
    lines = fill(text, int(figure.get_size_inches()[0] * 72 / (_SMALL * 0.58))).replace("\xa0", " ")
    figure.supxlabel(lines, x=0.01, ha="left", fontsize=_SMALL, color="0.35", parse_math=False)
    _grow(figure, (lines.count("\n") + 1) * _SMALL * 1.25 / 72)


def _said(setting: Setting) -> list[str]:
    """What was run, part by part."""
    counted = ", ".join(f"{n:,} {what}" for what, n in setting.counts.items())
    layers = "-".join(map(str, setting.layers))
    epochs = f"{setting.epochs:,} epoch{'s' * (setting.epochs > 1)}"
    seeds = setting.seeds
    return [
        f"{setting.data}: {counted}" if counted else setting.data,
        f"{setting.model} {layers}".strip(),
        f"weight decay {setting.weight_decay:g}" if setting.weight_decay else "",
        f"lr times {setting.schedule}" if setting.schedule else "",
        f"{setting.iterations:,} iterations" if setting.iterations else "",
        epochs + (f" at most, patience {setting.patience:,}" if setting.patience else "") if setting.epochs else "",
        f"batch {setting.batch_size:,}" if setting.batch_size else "",
        f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}" if seeds else "",
        "steps in NumPy" if setting.in_numpy else "",
    ]


def _averaged(setting: Setting) -> str:
    """What lines and bands are."""
    return "line: mean of the seeds, band: lowest to highest" if len(setting.seeds) > 1 else ""


def _short(label: str) -> str:
    return label if len(label) <= 60 else f"{label[:57]}..."


def _legend(figure: Any, *all_axes: Any) -> None:
    """One entry for each line that has a label, above the axes, where it covers nothing."""
    handles = [handle for axes in all_axes for handle in axes.get_legend_handles_labels()[0]]
    labels = [handle.get_label() for handle in handles]
    if not handles:  # Ctrl-C may come before there is a line
        return
    longest = max(map(len, labels)) + 7
    columns = max(1, min(3, len(labels), int(figure.get_size_inches()[0] * 72 / (8 * 0.56)) // longest))
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, frameon=False, fontsize=8)
    _grow(figure, -(-len(labels) // columns) * 8 * 1.5 / 72)


def _band(axes: Any, x: Any, series: Sequence[Any], **style: Any) -> NDArray[np.float64]:
    """Draw the mean of some curves, and what lies between the lowest and the highest; return the highest."""
    curves = np.array(series, np.float64)
    highest: NDArray[np.float64] = curves.max(axis=0)
    with np.errstate(over="ignore", invalid="ignore"):
        axes.plot(x, curves.mean(axis=0), **style)
    if len(curves) > 1:
        axes.fill_between(x, curves.min(axis=0), highest, color=style["color"], alpha=0.2, linewidth=0)
    return highest


def _cut(values: ArrayLike, top: float) -> NDArray[np.float64]:
    """A curve of which what is no number, or far above the top of its axes, is drawn as going there."""
    far = 1e3 * top
    values = np.asarray(values, np.float64)
    return np.minimum(np.where(np.isfinite(values), values, far), far)


def _mark_cuts(axes: Any, x: ArrayLike, highest: NDArray[np.float64], top: float, color: str) -> bool:
    """Put an arrow at the upper edge of logarithmic axes wherever a curve leaves through it; say whether one does."""
    x, height = np.asarray(x, np.float64), np.log10(np.maximum(highest, 1e-300)) - log10(top)
    above = height > 0
    leaving = np.flatnonzero(above[1:] & ~above[:-1])
    share = height[leaving] / (height[leaving] - height[leaving + 1])
    places = [*x[:1][above[:1]], *(x[leaving] + share * (x[leaving + 1] - x[leaving]))]
    for place in places:
        beside = sum(abs(other.xy[0] - place) < 0.02 * (x[-1] - x[0] + 1) for other in axes.texts)
        axes.annotate(
            "▲",
            (place, top),
            (9 * beside, 0),
            textcoords="offset points",
            color=color,
            ha="center",
            annotation_clip=False,
        )
    return bool(places)


def _end_at(axes: Any, top: float) -> None:
    """Let logarithmic axes end at the top, and begin below it even where all curves lie above."""
    low, _ = axes.get_ylim()
    axes.set_ylim(low if low < top else top / 100, top)


def _plain(value: float) -> str:
    """A number in as few characters as show three of its digits: 0.05, 20,000, 1e-5."""
    return f"{float(f'{value:.3g}'):,g}".replace("e-0", "e-").replace("e+0", "e")


def _plain_log_ticks(axes: Any) -> None:
    """Plain numbers on a logarithmic axis, as many as can be read; after its limits are set."""
    ticker = need("matplotlib.ticker", "drawing", package="matplotlib")
    low, high = axes.get_ylim()
    decades = log10(high / low)
    if decades < 1.1:
        axes.yaxis.set_major_locator(ticker.MaxNLocator(6))
        axes.yaxis.set_minor_locator(ticker.NullLocator())
    else:
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if decades < 3 else (1,)))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: _plain(value)))
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())


def _percent_ticks(axes: Any) -> None:
    axes.yaxis.set_major_formatter(need("matplotlib.ticker", "drawing", package="matplotlib").PercentFormatter(1))


def _chance(accuracy: float, digits: int) -> str:
    """How far an accuracy may lie beside that on all digits there are, by the choice of those it was tested on."""
    error = sqrt(accuracy * (1 - accuracy) / digits)
    return f"{accuracy:.1%} of {digits:,} digits has a standard error of {error:.1%}"


def _near(way: Path) -> list[tuple[float, float]]:
    """The points of a path that can be drawn, also if it diverges: those whose squares are numbers."""
    return [(x, y) for x, y in way.points if abs(x) < 1e100 and abs(y) < 1e100]


_LEVELS = (0.1, 0.5, 1, 2, 4, 7, 11, 16, 22)


@_plainly
def path_figure(*rows: Results[Path]) -> Any:
    """One panel per optimizer, below each other where it ran in several ways: contours, path, start and end."""
    names = [way.name for way in rows[0]]
    across = min(3, len(names))
    down = -(-len(names) // across)
    figure = _figure(2.5 * across, 2.3 * down * len(rows))
    color = colors(names)
    panels = figure.subplots(down * len(rows), across, squeeze=False)
    handles: dict[str, Any] = {}
    for below, ways in enumerate(rows):
        scaled = ways[0].scaled
        least = (2.6, 2.6) if scaled else (10.0, 4.0)
        # One that diverges would make the others' ways too small to be seen.
        reach, height = (
            min(max(max(abs(point[i]) for way in ways for point in _near(way)) * 1.08, least[i]), 2 * least[i])
            for i in (0, 1)
        )
        if scaled:
            reach = height = max(reach, height)
        x, y = np.meshgrid(np.linspace(-reach, reach, 201), np.linspace(-height, height, 201))
        f = x**2 + y**2 if scaled else x**2 / 20 + y**2
        for i, way in enumerate(ways):
            axes = panels[i // across * len(rows) + below][i % across]
            axes.tick_params(color="black", labelcolor="black")
            axes.contour(x, y, f, levels=_LEVELS, colors="0.75", linewidths=0.7)
            points = _near(way)
            axes.plot(*zip(*points, strict=True), "o-", color=color[way.name], markersize=2.5, linewidth=1)
            axes.plot(*points[0], "s", color="white", markeredgecolor="black", markersize=6, label="start")
            outside = [step for step, (u, v) in enumerate(way.points) if not (abs(u) <= reach and abs(v) <= height)]
            if len(way.points) - 1 not in outside:
                axes.plot(*points[-1], "*", color="gold", markeredgecolor="black", markersize=10, label="end")
            if outside:
                told = axes.text(0.5, 0.04, f"leaves the panel at step {outside[0]}", transform=axes.transAxes)
                told.set(ha="center", fontsize=8, bbox={"facecolor": "white", "linewidth": 0, "pad": 1}, zorder=6)
            axes.plot(0, 0, "+", color="black", markersize=7, label="minimum", linestyle="none")
            axes.set(xlim=(-reach, reach), ylim=(-height, height), xlabel="u = x / √20" if scaled else "x", ylabel="y")
            axes.set_title(fill(_short(ways.setting.label(way.name)), 28), fontsize=9)
            if scaled:
                axes.set_aspect("equal")
            handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    for panel in panels.ravel():
        if not panel.lines:
            panel.remove()
    figure.legend(handles.values(), handles, loc="outside upper left", ncols=3, frameon=False, fontsize=8)
    _grow(figure, 0.2)
    setting = rows[0].setting
    _caption(figure, *_said(setting), "grey: f = " + ", ".join(map(str, _LEVELS)), version=setting.version)
    return figure


@_plainly
def race_loss_figure(race: Race) -> Any:
    """Training loss over iterations, smoothed; the loss axis is logarithmic."""
    figure = _figure(_WIDTH, 3.8)
    axes = _axes(figure, "iteration", "training loss")
    color = colors([run.name for run in race.runs])
    # A network that knows nothing has log(10) = 2.3; what a first step throws above that is cut.
    top, cut = 3.0, False
    for runs in over_seeds(race.runs):
        name = runs[0].name
        iterations = np.arange(1, len(runs[0].losses) + 1)
        label = _counted(race.setting, name, [run.diverged for run in runs])
        smooth = [_cut(smooth_curve(run.losses, 31), top) for run in runs]
        highest = _band(axes, iterations, smooth, color=color[name], label=label)
        cut |= _mark_cuts(axes, iterations, highest, top, color[name])
    axes.set_yscale("log")
    _end_at(axes, top)
    _plain_log_ticks(axes)
    _legend(figure, axes)
    _caption(
        figure,
        *_said(race.setting),
        "loss of each batch, smoothed over 31",
        _averaged(race.setting),
        f"▲ cut above {_plain(top)}" if cut else "",
        _partial(race.interrupted),
        version=race.setting.version,
    )
    return figure


def _counted(setting: Setting, name: str, diverged: Sequence[bool], end: str = "") -> str:
    """What a legend says of an optimizer: its rate, its end, and which of its runs are missing or diverged."""
    label = _short(setting.label(name)) if name in setting.rates else name
    seeds, bad = len(setting.seeds), sum(diverged)
    if bad:
        end = "diverged" + (f" with {bad} of {len(diverged)} seeds" if bad < len(diverged) else "")
    missing = f" ({len(diverged)} of {seeds} seeds)" if len(diverged) < seeds else ""
    return label + (f": {end}" if end else "") + missing


def _partial(interrupted: bool) -> str:
    return "interrupted: partial results" if interrupted else ""


@_plainly
def race_accuracy_figure(race: Race) -> Any:
    """Test accuracy over iterations."""
    figure = _figure(_WIDTH, 3.8)
    axes = _axes(figure, "iteration", "test accuracy")
    color = colors([run.name for run in race.runs])
    best = 0.0
    for runs in over_seeds(race.runs):
        name, tested = runs[0].name, list(runs[0].accuracies)
        if not tested:
            continue
        ends = [run.accuracies[tested[-1]] for run in runs]
        best = max(best, float(np.mean(ends)))
        end = f"{np.mean(ends):.1%}" + (f" ({min(ends):.1%} to {max(ends):.1%})" if len(ends) > 1 else "")
        label = _counted(race.setting, name, [False] * len(ends), end)
        curves = [[run.accuracies[iteration] for iteration in tested] for run in runs]
        _band(axes, tested, curves, color=color[name], label=label, marker="o", markersize=3)
    _percent_ticks(axes)
    _legend(figure, axes)
    _caption(
        figure,
        *_said(race.setting),
        _averaged(race.setting),
        _chance(best, race.setting.counts["to test"]),
        _partial(race.interrupted),
        version=race.setting.version,
    )
    return figure


@_plainly
def regression_figure(fits: Results[Fit]) -> Any:
    """Mean loss over epochs, and the least that there is; a curve that leaves the figure is marked."""
    figure = _figure(_WIDTH, 3.8)
    axes = _axes(figure, "epoch", "mean loss")
    color = colors([fit.name for fit in fits])
    start, minimum = max(fit.losses[0] for fit in fits), fits[0].minimum
    # A logarithmic axis has no zero: neither as a perfect end nor, of data that are all zero, as the start.
    above = [loss for fit in fits if not fit.diverged for loss in fit.losses if loss > 0]
    low, top, cut = min(above, default=start / 10), 1.5 * start, False
    for runs in over_seeds(fits):
        name = runs[0].name
        ends = [run.losses[-1] for run in runs]
        label = _counted(fits.setting, name, [run.diverged for run in runs], f"{np.mean(ends):.4g}")
        highest = _band(axes, runs[0].epochs, [_cut(run.losses, top) for run in runs], color=color[name], label=label)
        cut |= start > 0 and _mark_cuts(axes, runs[0].epochs, highest, top, color[name])
    shown = minimum > low / 1000
    if shown:
        low = min(low, minimum)
        axes.axhline(minimum, color="black", linestyle="--", linewidth=1, label=f"least squares: {minimum:.4g}")
    if start > 0:
        axes.set_yscale("log")
        axes.set_ylim(low * (low / top) ** 0.05, top)
        _plain_log_ticks(axes)
    _legend(figure, axes)
    _caption(
        figure,
        *_said(fits.setting),
        _averaged(fits.setting),
        "numbers: the loss at the end",
        "" if shown else f"the least mean loss, {minimum:.2g}, lies below the axis",
        f"▲ cut above {_plain(top)}" if cut else "",
        _partial(fits.interrupted),
        version=fits.setting.version,
    )
    return figure


@_plainly
def bench_figure(rows: Sequence[Mapping[str, Any]], machine: str = "") -> Any:
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
    _caption(figure, "Adam on one float32 array", f"{threads} thread(s)", *([machine] if machine else []))
    return figure


@_plainly
def decay_figure(runs: Results[Decay]) -> Any:
    """Loss over iterations, one line per schedule, and below it the rates."""
    figure = _figure(_WIDTH, 5)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for axes, label in ((upper, "loss above the minimum"), (lower, "learning rate")):
        axes.set(ylabel=label)
        _dress(axes)
    lower.set_xlabel("iteration")
    color = colors([run.name for run in runs])
    known = not all(run.diverged for run in runs)
    # Ten times the loss of what knows nothing, log(10): where only what diverges comes to.
    top, cut = 23.0, False
    for group in over_seeds(runs):
        run = group[0]
        above = [_cut(np.array(each.losses) - (each.minimum if known else 0), top) for each in group]
        label = _counted(runs.setting, run.name, [each.diverged for each in group])
        highest = _band(upper, run.iterations, above, color=color[run.name], linewidth=1, label=label)
        cut |= _mark_cuts(upper, run.iterations, highest, top, color[run.name])
        lower.plot(run.iterations, [run.schedule(t) for t in run.iterations], color=color[run.name], linewidth=1)
    lower.set_ylim(bottom=0)
    upper.set_yscale("log")
    if cut:
        _end_at(upper, top)
    _plain_log_ticks(upper)
    _legend(figure, upper)
    _caption(
        figure,
        *_said(runs.setting),
        f"SGD, lr {runs.setting.rates['SGD']:g} times the factor of each curve, epoch from 0 and t from 1",
        f"minimum {'seen' if runs.interrupted else 'of the loss'} {runs[0].minimum:.4f}"
        if known
        else "no minimum is known",
        f"▲ cut above {_plain(top)}" if cut else "",
        _averaged(runs.setting),
        _partial(runs.interrupted),
        version=runs.setting.version,
    )
    return figure


@_plainly
def words_figure(race: WordRace) -> Any:
    """The loss over iterations of each way, and beside it the time of its step."""
    return _losses_and_times(race, race.same_bits, 201, "time: mean, with what catches up")


def characters_figure(race: CharacterRace) -> Any:
    """The same of PyTorch's step and ours."""
    same = race.difference is not None and race.difference < 0.05
    return _losses_and_times(race, same, 21, "time: mean, the step's with clipping and zero_grad()")


def _losses_and_times(race: WordRace | CharacterRace, same: bool | None, window: int, times_are: str) -> Any:
    figure = _figure(_WIDTH, 3.8)
    axes, bars = figure.subplots(1, 2, width_ratios=(3, 2))
    axes.set(xlabel="iteration", ylabel="training loss")
    bars.set(xlabel="us: gradient (pale), step")
    color = colors([run.name for run in race.runs])
    for i, run in enumerate(race.runs):
        drawn_over = same and i == 1  # the first line lies under the second
        style = {"linestyle": (0, (4, 4)), "zorder": 3} if drawn_over else {}
        smooth = smooth_curve(run.losses, window)
        label = f"{run.name}{': the same line' if drawn_over else ''}"
        axes.plot(np.arange(1, len(smooth) + 1), smooth, color=color[run.name], label=label, **style)
        gradient, step = (float(np.mean(times)) / 1e3 for times in (run.gradient_ns, run.update_ns))
        bars.barh(i, gradient, color=color[run.name], alpha=0.35)
        bars.barh(i, step, left=gradient, color=color[run.name])
        bars.annotate(f" {gradient:.0f} + {step:.0f}", (gradient + step, i), va="center", fontsize=8)
    bars.set_yticks([])
    bars.invert_yaxis()
    bars.margins(x=0.45)
    _dress(axes)
    _dress(bars)
    _legend(figure, axes)
    _caption(
        figure,
        *_said(race.setting),
        f"loss smoothed over {window} batches",
        times_are,
        _partial(race.interrupted),
        version=race.setting.version,
    )
    return figure


@_plainly
def schedule_figure(rates: Mapping[str, ArrayLike]) -> Any:
    """The rates from step 1 on, one line for each schedule by its name."""
    figure = _figure(_WIDTH, 3.2)
    axes = _axes(figure, "step", "learning rate")
    steps = 0
    for name, values in rates.items():
        steps = np.size(values)
        axes.plot(np.arange(1, steps + 1), values, label=_short(name))
    _legend(figure, axes)
    _caption(figure, f"{steps:,} steps, the first is step 1")
    return figure


@_plainly
def training_figure(training: Training) -> Any:
    """Training loss and validation accuracy by epoch; the best epoch is marked."""
    figure = _figure(_WIDTH, 3.6)
    axes = _axes(figure, "epoch", "training loss")
    epochs = np.arange(1, len(training.losses) + 1)
    right = axes.twinx()
    numbers = [loss for loss in training.losses if 0 < loss < inf]
    top = 10 * max(numbers, default=1.0)
    label = "training loss" + ("" if isfinite(training.losses[-1]) else ": diverged")
    losses = _cut(training.losses, top)
    axes.plot(epochs, losses, "o-", color=_PALETTE[5], markersize=4, label=label)
    cut = _mark_cuts(axes, epochs, losses, top, _PALETTE[5])
    right.plot(epochs, training.accuracies, "s-", color=_PALETTE[4], markersize=4, label="validation accuracy")
    axes.axvline(training.best_epoch, color="0.6", linestyle=":", label=f"best: epoch {training.best_epoch}")
    axes.set_yscale("log")
    if cut:
        _end_at(axes, top)
    _plain_log_ticks(axes)
    axes.xaxis.set_major_locator(
        need("matplotlib.ticker", "drawing", package="matplotlib").MaxNLocator(integer=True, min_n_ticks=1)
    )
    right.spines["top"].set_visible(False)
    right.tick_params(color="black", labelcolor="black")
    _percent_ticks(right)
    right.set_ylabel("validation accuracy")
    _legend(figure, axes, right)
    held = training.setting.counts["held back to validate"]
    best = training.accuracies[training.best_epoch - 1]
    lost = "▲ the loss is no number" if cut else ""
    _caption(figure, *_trained(training), lost, _chance(best, held), version=training.setting.version)
    return figure


def _trained(training: Training) -> list[str]:
    """What was trained, and how it ended."""
    (optimizer,) = training.setting.rates
    ended = f"stopped early after {len(training.losses):,}" if training.stopped else _partial(training.interrupted)
    return [_short(training.setting.label(optimizer)), *_said(training.setting), ended]


@_plainly
def confusion_figure(training: Training) -> Any:
    """How often each true digit was read as which; what was read rightly, or never so, is left white."""
    figure = _figure(5.4, 4.8)
    axes = figure.add_subplot()
    wrong = training.confusion * (1 - np.eye(10, dtype=int))
    axes.imshow(np.where(wrong > 0, wrong, np.nan), cmap="Reds", vmin=0, vmax=max(1, wrong.max()))
    for true, read in np.ndindex(10, 10):
        count = int(training.confusion[true, read])
        if count:
            dark = wrong[true, read] > wrong.max() / 2
            axes.text(read, true, count, ha="center", va="center", fontsize=9, color="white" if dark else "black")
    axes.set(xlabel="read as", ylabel="true digit", xticks=range(10), yticks=range(10))
    axes.tick_params(color="black", labelcolor="black")
    tested = int(training.confusion.sum())
    axes.set_title(f"{tested - len(training.misread):,} of {tested:,} digits read rightly", fontsize=10)
    _caption(
        figure,
        "the redder, the more often misread; white: the diagonal, read rightly, and what never was",
        *_trained(training),
        _chance(training.test_accuracy, tested),
        version=training.setting.version,
    )
    return figure


_SHEET = 50  # digits


@_plainly
def misread_figure(training: Training, images: NDArray[Any]) -> Any:
    """The first 50 misread digits of the test set, with what they are and what they were read as."""
    shown = training.misread[:_SHEET]
    down = max(1, -(-len(shown) // 10))
    figure = _figure(_WIDTH, down * 0.8 + 0.3)
    panels = figure.subplots(down, 10, squeeze=False).ravel()
    for axes in panels:
        axes.axis("off")
    for axes, (place, true, read) in zip(panels, shown, strict=False):
        axes.imshow(images[place].reshape(28, 28), cmap="gray_r")
        axes.set_title(f"{true} as {read}", fontsize=8, pad=2)
    figure.suptitle(f"{len(shown)} of {len(training.misread):,} misread digits ({len(images):,} tested)", fontsize=10)
    example = "{1} as {2}: the digit is {1} and was read as {2}".format(*shown[0]) if shown else ""
    _caption(figure, example, *_trained(training), version=training.setting.version)
    return figure
