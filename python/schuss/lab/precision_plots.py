"""The figure of formats of fewer bits: the curves of all; what each weighs, how well it reads, how far it steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .plots import (
    _PALETTE,
    _averaged,
    _band,
    _caption,
    _cut,
    _dress,
    _figure,
    _legend,
    _mark_cuts,
    _partial,
    _plain_log_ticks,
    _plainly,
    _said,
    smooth_curve,
)
from .results import Race, Run, overflows_are_seen
from .setting import over_seeds
from .stress import EPS, bound

if TYPE_CHECKING:
    from .precision import Comparison, Format, Row

_GOOD, _BAD = "#009e73", "#b00020"
_PARTS = {"parameter": "#444444", "beside it": "#999999", "m": "#56b4e9", "v": "#0072b2"}
_CASES = ("o", "s", "^", "v", "D")
# What is kept in which format: colour for parameters, dashes for state.
_COLORS = {"float32": _PALETTE[5], "split": _PALETTE[3], "None": _PALETTE[1], "float16": _PALETTE[2]}
_DASHES: Mapping[str, Any] = {"float32": "-", "bfloat16": (0, (5, 2)), "int8": (0, (1, 1.2))}


def _style(form: Format, naive: int) -> dict[str, Any]:
    """How a format's line is drawn; ``naive`` counts those that are there to fail."""
    if form.fails:
        return {"color": (_PALETTE[4], _PALETTE[6])[naive % 2], "linewidth": 1.8, "zorder": 1.5}
    if form.parameters == form.state == "float32":
        return {"color": "black", "linewidth": 2.4, "alpha": 0.9} if not form.pushed else {"color": "0.55"}
    kind = form.parameters if form.parameters in _COLORS else str(form.master)
    return {"color": _COLORS[kind], "linestyle": _DASHES[form.state], "linewidth": 1.3, "zorder": 3}


def _styles(forms: Sequence[Format]) -> dict[str, dict[str, Any]]:
    naive = [form.name for form in forms if form.fails]
    return {form.name: _style(form, naive.index(form.name) if form.fails else 0) for form in forms}


def _curves(above: Any, below: Any, race: Race, rows: Sequence[Row], window: int) -> bool:
    """The losses, and below them their means over that of float32; say whether one leaves the figure."""
    styles = _styles([row.form for row in rows])
    groups = {runs[0].name: runs for runs in over_seeds(race.runs)}
    first: list[Run] = groups[rows[0].form.name]
    calm = [
        smooth_curve(run.losses, window).max() for row in rows if not row.form.fails for run in groups[row.form.name]
    ]
    top, cut = 1.2 * max(calm), False
    ours = smooth_curve(np.mean([run.losses for run in first], axis=0), window)
    over: dict[str, Any] = {}
    for row in rows:
        name, runs, style = row.form.name, groups[row.form.name], styles[row.form.name]
        iterations = np.arange(1, len(runs[0].losses) + 1)
        smooth = [_cut(smooth_curve(run.losses, window), top) for run in runs]
        if np.max(smooth) > top:  # of such a one the mean alone, as its band would cover the figure
            smooth = [np.mean(smooth, axis=0)]
            above.annotate("diverges", (1, top), (30, -2), textcoords="offset points", va="top", color=style["color"])
        highest = _band(above, iterations, smooth, label=name, **style)
        cut |= _mark_cuts(above, iterations, highest, top, style["color"])
        n = min(len(ours), len(iterations))
        over[name] = _cut(smooth_curve(np.mean([run.losses for run in runs], axis=0), window)[:n] / ours[:n], 1e6)
        below.plot(iterations[:n], np.maximum(over[name], 1e-6), **style)
    above.set_yscale("log")
    low, _ = above.get_ylim()
    above.set_ylim(low if low < top else top / 100, top)
    _plain_log_ticks(above)
    good = [abs(value - 1) for row in rows if not row.short for value in over[row.form.name]]
    # Those that fail, too, as long as the others can still be told from float32.
    ends = [over[row.form.name].max() - 1 for row in rows]
    down, up = 1.3 * max(0.015, *good), 1.1 * max(0.015, *good, *(end for end in ends if end < 0.5))
    below.set_ylim(1 - down, 1 + up)
    told = f"all with ✓: within {max(good, default=0):.1%} of float32's loss"
    below.text(0.1, 0.95, told, transform=below.transAxes, va="top", fontsize=8)
    for name, values in over.items():
        outside = np.flatnonzero(values > 1 + up)
        if outside.size:
            mark = {"color": styles[name]["color"], "ha": "center", "va": "top", "annotation_clip": False}
            below.annotate("▲", (outside[0] + 1, 1 + up), **mark)
            cut = True
    return cut


def _weights(axes: Any, rows: Sequence[Row]) -> None:
    for place, row in enumerate(rows):
        done = 0.0
        for part, color in _PARTS.items():
            axes.barh(
                place, row.weights[part], left=done, color=color, label="" if place else part, height=0.7, zorder=2
            )
            done += row.weights[part]
        axes.annotate(f" {done:.2f}".rstrip("0").rstrip("."), (done, place), va="center", fontsize=8)
    axes.margins(x=0.18)
    axes.set_xlabel("bytes a parameter")


def _accuracies(axes: Any, rows: Sequence[Row], allowed: float) -> None:
    """Differences from float32 in points, with twice their standard error; an arrow where one is beyond the axes."""
    reach = 4 * allowed
    axes.axvspan(-allowed, allowed, color=_GOOD, alpha=0.15, linewidth=0, label="accepted, of the mean")
    axes.axvline(0, color="black", linewidth=0.8)
    for place, row in enumerate(rows):
        if not row.differences:  # Ctrl-C may come before the first test
            continue
        points, error = 100 * row.difference, 200 * row.error
        color = _BAD if "accuracy" in row.short else "black"
        if not abs(points) < reach:
            told = f"◀ {points:.1f}" if points < 0 else f"{points:.1f} ▶"
            side = {"ha": "left" if points < 0 else "right", "va": "center", "fontsize": 8, "color": color}
            axes.annotate(told, (-reach if points < 0 else reach, place), **side)
            continue
        axes.errorbar(points, place, xerr=error if np.isfinite(error) else None, fmt="o", color=color, markersize=4)
    axes.set_xlim(-reach, reach)
    axes.set_xlabel("accuracy minus float32's, points")


def _stress(axes: Any, rows: Sequence[Row], accepted: float, still: float) -> None:
    cases = list(rows[0].steps)
    # What is no number has its mark at the edge.
    finite = [step for row in rows for step in row.steps.values() if 0 < step < np.inf]
    edge = 3 * max([*finite, accepted])
    axes.axvspan(accepted, 2 * edge, color=_BAD, alpha=0.1, linewidth=0, label="above twice that: too large")
    axes.axvline(bound(), color="black", linestyle="--", linewidth=1, label=f"bound of Adam, {bound():.2f}")
    for i, case in enumerate(cases):
        for place, row in enumerate(rows):
            step = min(row.steps[case], edge)
            bad = step > accepted or step < still * rows[0].steps[case]
            color = _BAD if bad else "black"
            style = {"markerfacecolor": color if bad else "none", "markersize": 5, "linestyle": "none"}
            label = "" if place else case
            axes.plot(step, place + (i - 2) * 0.14, _CASES[i % 5], color=color, label=label, **style)
    axes.set_xscale("log")
    axes.set_xlim(0.3, 2 * edge)
    axes.set_xlabel("largest step, over lr")


def _verdict(row: Row) -> str:
    return f"✗ {row.form.name}\n({', '.join(row.short)})" if row.short else f"✓ {row.form.name}"


def _key(axes: Any, **where: Any) -> None:
    axes.legend(fontsize=7.5, borderpad=0.3, handlelength=1.2, columnspacing=0.9, labelspacing=0.3, **where)


@_plainly
@overflows_are_seen
def precision_figure(comparison: Comparison) -> Any:
    """Loss curves on digits and on a line, as they are and over float32's; weights, accuracies and steps by format."""
    accepted = comparison.accepted
    rows = comparison.rows()
    figure = _figure(11, 9.6)
    grid = figure.add_gridspec(2, 1, height_ratios=(5, 4.4))
    upper = grid[0].subgridspec(2, 2, height_ratios=(5, 3))
    axes = [[figure.add_subplot(upper[i, j]) for j in (0, 1)] for i in (0, 1)]
    cut = False
    for j, (race, window) in enumerate(((comparison.digits, 201), (comparison.line, accepted.smoothed))):
        above, below = axes[0][j], axes[1][j]
        above.sharex(below)
        above.tick_params(labelbottom=False)
        cut |= _curves(above, below, race, rows, min(window, len(race.runs[0].losses)) // 2 * 2 + 1)
        what = "training loss" if j == 0 else "mean loss of all rows"
        above.set_title(f"{race.setting.data.split(',')[0]}: {race.setting.model}", fontsize=10, parse_math=False)
        above.set_ylabel(what)
        below.set(xlabel="iteration", ylabel="loss over float32's")
        for each in (above, below):
            _dress(each)
    lower = grid[1].subgridspec(1, 3, width_ratios=(3, 3, 4))
    weights = figure.add_subplot(lower[0])
    accuracies, steps = (figure.add_subplot(lower[i], sharey=weights) for i in (1, 2))
    _weights(weights, rows)
    _accuracies(accuracies, rows, accepted.points)
    _stress(steps, rows, accepted.step, accepted.still)
    for each in (weights, accuracies, steps):
        _dress(each)
        each.tick_params(labelleft=each is weights)
    for each, columns in ((weights, 4), (accuracies, 1)):
        _key(each, loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns, frameon=False)
    _key(steps, loc="upper right", framealpha=0.9, edgecolor="none")  # where steps would be that are too large
    weights.set_yticks(range(len(rows)), [_verdict(row) for row in rows])
    weights.set_ylim(len(rows) - 0.4, -0.6)
    for label, row in zip(weights.get_yticklabels(), rows, strict=True):
        label.set(color=_BAD if row.short else "black", fontsize=8)
    _legend(figure, axes[0][0])
    digits, line = comparison.digits.setting, comparison.line.setting
    _caption(
        figure,
        *_said(digits),
        *_said(line),
        "Adam with lr {:g} and {:g}".format(*(setting.rates["Adam"] for setting in (digits, line))),
        _averaged(digits),
        "losses smoothed over 201 and 31 iterations",
        "error bars: two standard errors of the difference by seed",
        f"steps: from parameters of zero, gradients of float32, eps {EPS:g}",
        "red: too large, or below half of float32's",
        "▲ leaves the figure" if cut else "",
        f"✗ falls short: accuracy beyond {accepted.points:g} points, correlation of mean curves below "
        f"{accepted.correlation:g}, a step above {accepted.step:.1f} lr, or none above {accepted.still:g} of float32's "
        "largest",
        _partial(comparison.interrupted),
        version=digits.version,
    )
    return figure
