"""The benchmark of a training iteration on MNIST's digits: drawing, matrix products, layers and update apart.

Each contender trains the textbook's network by Adam in its own way, and in each turn goes on from where its last one
ended. So the times have in them what training brings: pixels that are always black, neurons that are silent, gradients
full of zeros, averages that sink below the normal range. What did not learn is found out.

Within an iteration each part finds caches and cores as the one before has left them, and is timed there: drawing the
batch, the gradient, the update. The matrix products cannot be; they are timed by themselves after each turn, on the
same shapes, layouts and dtype, by the same calls of the same library. The gradient's time beside them is its layers'.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from time import perf_counter_ns
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import optimizers, threads
from ..datasets import load_mnist, mnist_name
from ..nn import MultiLayerNet
from .peers import SIZES, TextbookAdam
from .timing import settled, time_text

Array = NDArray[Any]

BATCH = 128
NUMBERS = range(1, len(SIZES))  # of the layers, as in W1, b1

# How often each contender has its turn, and of how many iterations: 2,000 in all, or 300 if quick. A turn starts with
# some that are not counted. In the rest before it the threads of the one before fall asleep: OpenBLAS's keep their
# cores busy for some 30 ms.
TURNS, QUICK_TURNS = (20, 100), (10, 30)
WARM_UP = 10
REST_S = 0.06

WHOLE = "MNIST iteration"
DRAWING, PRODUCTS, LAYERS, UPDATE = PARTS = ("its drawing", "its products", "its layers", "its update()")
CASES = (WHOLE, *PARTS)


class Times(NamedTuple):
    """Seconds of an iteration, and of what is timed within it: drawing is what is left."""

    whole: float
    gradient: float
    update: float


class Training(NamedTuple):
    """A contender at work."""

    run: Callable[[int], Times]  # so many iterations, and their mean
    products: Callable[[], object]  # the matrix products of one iteration, with nothing between them
    scores: Callable[[Array], Array]  # of examples, as it has learnt so far; their softmax is what it believes


class Contender(NamedTuple):
    """One who trains networks: a name, the package that it needs (None: no other), how it starts on digits."""

    name: str
    package: str | None
    start: Callable[[Array, Array], Training]


def _in_parts(
    draw: Callable[[], tuple[Any, Any]], gradient: Callable[[Any, Any], Any], update: Callable[[Any], object]
) -> Callable[[int], Times]:
    """Iterations of these parts, each of which takes what the one before returns."""

    def run(n: int) -> Times:
        computing = updating = 0
        begin = perf_counter_ns()
        for _ in range(n):
            x, t = draw()
            drawn = perf_counter_ns()
            grads = gradient(x, t)
            computed = perf_counter_ns()
            update(grads)
            updating += perf_counter_ns() - computed
            computing += computed - drawn
        return _per_iteration(n, perf_counter_ns() - begin, computing, updating)

    return run


def _per_iteration(n: int, *ns: int) -> Times:
    return Times(*(each / n / 1e9 for each in ns))


def _stand_ins(x: Array, dtype: Any) -> tuple[list[Array], list[Array]]:
    """What goes into each layer, half zeros as the rectifier leaves it, and the gradients at what comes out."""
    rng = np.random.default_rng(0)
    inputs = [np.maximum(rng.standard_normal((BATCH, n)), 0).astype(dtype) for n in SIZES[1:-1]]
    slopes = [rng.standard_normal((BATCH, n)).astype(dtype) for n in SIZES[1:]]
    return [np.resize(x, (BATCH, SIZES[0])), *inputs], slopes


def _factors(x: Array, weights: Sequence[Array], first: bool = False) -> list[tuple[Array, Array]]:
    """What is multiplied in an iteration, in its order; with ``first`` also for the gradient at the images."""
    inputs, slopes = _stand_ins(x, weights[0].dtype)
    found = list(zip(inputs, weights, strict=True))
    for a, d, W in reversed(list(zip(inputs, slopes, weights, strict=True))):
        found.append((a.T, d))
        if first or a is not inputs[0]:
            found.append((d, W.T))
    return found


def _ours(x: Array, t: Array) -> Training:
    net, opt = MultiLayerNet(SIZES[0], SIZES[1:-1], SIZES[-1], seed=0), optimizers.Adam()
    rng = np.random.default_rng(0)
    images = np.empty((BATCH, x.shape[1]), x.dtype)  # kept: new memory for each batch would cost as much as reading it
    factors = _factors(x, [net.params[f"W{i}"] for i in NUMBERS])
    results = [np.empty((len(a), b.shape[1]), a.dtype) for a, b in factors]

    def draw() -> tuple[Array, Array]:
        batch = rng.integers(0, len(x), BATCH)
        np.take(x, batch, axis=0, out=images, mode="clip")
        return images, t[batch]

    def products() -> None:
        for (a, b), result in zip(factors, results, strict=True):
            np.dot(a, b, out=result)

    return Training(_in_parts(draw, net.gradient, lambda grads: opt.update(net.params, grads)), products, net.predict)


def _textbook(x: Array, t: Array) -> Training:
    """The book's way: float64 weights, a new array for each result, one layer after the other."""
    rng = np.random.default_rng(0)
    params = {f"b{i}": np.zeros(SIZES[i]) for i in NUMBERS}
    for i in NUMBERS:
        params[f"W{i}"] = np.sqrt(2 / SIZES[i - 1]) * rng.standard_normal((SIZES[i - 1], SIZES[i]))
    opt, decay = TextbookAdam(), 0.0

    def draw() -> tuple[Array, Array]:
        batch = rng.choice(len(x), BATCH)
        return x[batch], t[batch]

    def loss(y: Array, labels: Array) -> Any:
        penalty = sum(0.5 * decay * np.sum(params[f"W{i}"] ** 2) for i in NUMBERS)
        return penalty - np.sum(np.log(y[np.arange(BATCH), labels] + 1e-7)) / BATCH

    def forward(images: Array) -> tuple[list[Array], list[Array]]:
        outputs, masks = [images], []
        for i in NUMBERS:
            y = np.dot(outputs[-1], params[f"W{i}"]) + params[f"b{i}"]
            if i < len(SIZES) - 1:
                masks.append(y <= 0)
                y = y.copy()
                y[masks[-1]] = 0
            outputs.append(y)
        return outputs, masks

    def gradient(images: Array, labels: Array) -> dict[str, Array]:
        outputs, masks = forward(images)
        scores = outputs[-1] - np.max(outputs[-1], axis=-1, keepdims=True)
        y = np.exp(scores) / np.sum(np.exp(scores), axis=-1, keepdims=True)
        loss(y, labels)
        d = y.copy()
        d[np.arange(BATCH), labels] -= 1
        d, grads = d / BATCH, {}
        for i in reversed(NUMBERS):
            if i < len(SIZES) - 1:
                d[masks[i - 1]] = 0
            dx = np.dot(d, params[f"W{i}"].T)
            grads[f"W{i}"] = np.dot(outputs[i - 1].T, d) + decay * params[f"W{i}"]
            grads[f"b{i}"] = np.sum(d, axis=0)
            d = dx
        return grads

    factors = _factors(x, [params[f"W{i}"] for i in NUMBERS], first=True)

    def products() -> None:
        for a, b in factors:
            np.dot(a, b)

    run = _in_parts(draw, gradient, lambda grads: opt.update(params, grads))
    return Training(run, products, lambda images: forward(images)[0][-1])


def _torch(x: Array, t: Array) -> Training:
    import torch

    torch.set_num_threads(threads.get_num_threads())
    torch.manual_seed(0)
    layers: list[Any] = []
    for i in NUMBERS:
        layers += [torch.nn.Linear(SIZES[i - 1], SIZES[i]), torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers[:-1])
    opt = torch.optim.Adam(net.parameters(), fused=True)
    images, labels = torch.from_numpy(x), torch.from_numpy(t)

    def draw() -> tuple[Any, Any]:
        batch = torch.randint(len(images), (BATCH,))
        return images[batch], labels[batch]

    def gradient(some: Any, labels: Any) -> None:
        loss = torch.nn.functional.cross_entropy(net(some), labels)
        opt.zero_grad()
        loss.backward()

    # Its weights lie the other way round, and so do their gradients.
    weights = [layer.weight.detach() for layer in layers[::2]]
    inputs, slopes = ([torch.from_numpy(a) for a in arrays] for arrays in _stand_ins(x, x.dtype))

    def products() -> None:
        with torch.no_grad():
            for a, W in zip(inputs, weights, strict=True):
                torch.mm(a, W.t())
            for i in reversed(range(len(weights))):
                if i:
                    torch.mm(slopes[i], weights[i])
                torch.mm(slopes[i].t(), inputs[i])

    def scores(some: Array) -> Array:
        with torch.no_grad():
            found: Array = net(torch.from_numpy(some)).numpy()
        return found

    return Training(_in_parts(draw, gradient, lambda _: opt.step()), products, scores)


def _sklearn(x: Array, t: Array) -> Training:
    """Its ``partial_fit`` on so many examples as the iterations need: what it checks, it checks once for them all.

    It draws, that is, shuffles and takes its batches, between an update and the next gradient.
    """
    from sklearn.neural_network import MLPClassifier
    from sklearn.utils.extmath import safe_sparse_dot

    model = MLPClassifier(SIZES[1:-1], batch_size=BATCH, alpha=0.0, random_state=0)
    rng, classes = np.random.default_rng(0), np.arange(SIZES[-1])
    spent = {"gradient": 0, "update": 0}

    def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            begin = perf_counter_ns()
            found = function(*args)
            spent[part] += perf_counter_ns() - begin
            return found

        return call

    def train(n: int) -> None:
        while n:
            some = min(n, len(x) // BATCH)
            start = rng.integers(0, len(x) - some * BATCH + 1)
            rows = slice(start, start + some * BATCH)
            model.partial_fit(x[rows], t[rows], classes=classes)
            n -= some

    train(1)  # which makes the weights, and the optimizer
    model._backprop = timed("gradient", model._backprop)
    model._optimizer.update_params = timed("update", model._optimizer.update_params)

    def run(n: int) -> Times:
        spent.update(gradient=0, update=0)
        begin = perf_counter_ns()
        train(n)
        return _per_iteration(n, perf_counter_ns() - begin, *spent.values())

    factors = _factors(x, model.coefs_)

    def products() -> None:
        for a, b in factors:
            safe_sparse_dot(a, b)

    def scores(some: Array) -> Array:
        found: Array = np.log(np.maximum(model.predict_proba(some), np.finfo(x.dtype).tiny))
        return found

    return Training(run, products, scores)


CONTENDERS = [
    Contender("schuss", None, _ours),
    Contender("textbook", None, _textbook),
    Contender("torch fused", "torch", _torch),
    Contender("scikit-learn", "sklearn", _sklearn),
]


def _digits(show: Callable[[str], None]) -> tuple[str, Array, Array, Array, Array]:
    """What they are called; images and labels to train with and to test with. Noise where there are none."""
    try:
        (x, t), (x_test, t_test) = load_mnist()
        return mnist_name(), x, t.astype(np.int64), x_test, t_test.astype(np.int64)
    except ImportError as error:
        show(f"\nno digits, so noise, around an image for each label ({error}; or `schuss data mnist`)")
    rng = np.random.default_rng(0)
    images, t = rng.random((SIZES[-1], SIZES[0]), np.float32), rng.integers(0, SIZES[-1], 12_000)
    x = (images[t] + rng.random((len(t), SIZES[0]), np.float32)) / 2
    return "noise", x[:10_000], t[:10_000], x[10_000:], t[10_000:]


def _loss(scores: Array, t: Array) -> float:
    """The mean cross-entropy."""
    below = scores - scores.max(axis=1, keepdims=True)
    return float(np.mean(np.log(np.exp(below).sum(axis=1)) - below[np.arange(len(t)), t]))


def _mean_seconds(function: Callable[[], object], n: int) -> float:
    for _ in range(min(n, WARM_UP)):
        function()
    begin = perf_counter_ns()
    for _ in range(n):
        function()
    return (perf_counter_ns() - begin) / n / 1e9


def _chosen(names: Sequence[str] | None, show: Callable[[str], None]) -> list[Contender]:
    """Ours, and those of others that are wanted and there; a line names those that are not."""
    wanted = [one for one in CONTENDERS if names is None or one.name in ("schuss", *names)]
    absent = [one.name for one in wanted if one.package and not find_spec(one.package)]
    if absent:
        show(f"\n{WHOLE}: not installed: {', '.join(absent)}")
    return [one for one in wanted if one.name not in absent]


def run(
    names: Sequence[str] | None, n_threads: int, quick: bool, show: Callable[[str], None]
) -> dict[str, dict[str, list[float]]]:
    """Train by turns, and show the table: for each of CASES and each contender the seconds of an iteration, by turns.

    ``names`` are those of others that are wanted, None for all.
    """
    contenders = _chosen(names, show)
    data, x, t, x_test, t_test = _digits(show)
    turns, n = QUICK_TURNS if quick else TURNS
    seconds: dict[str, dict[str, list[float]]] = {case: {one.name: [] for one in contenders} for case in CASES}
    accuracy = {}
    with settled(n_threads):
        trainings = {one.name: one.start(x, t) for one in contenders}
        first = {name: _loss(training.scores(x_test), t_test) for name, training in trainings.items()}
        order = list(trainings)
        for turn in range(turns):
            for name in order[turn % len(order) :] + order[: turn % len(order)]:
                time.sleep(REST_S)
                trainings[name].run(WARM_UP)
                found = trainings[name].run(n)
                alone = _mean_seconds(trainings[name].products, n)
                drawing = found.whole - found.gradient - found.update
                values = (found.whole, drawing, alone, found.gradient - alone, found.update)
                for case, value in zip(CASES, values, strict=True):
                    seconds[case][name].append(value)
        for name, training in trainings.items():
            scores = training.scores(x_test)
            if not _loss(scores, t_test) < first[name]:
                raise AssertionError(f"{name} has not learnt: its loss was {first[name]:.3g}, and is no less")
            accuracy[name] = float(np.mean(scores.argmax(axis=1) == t_test))
    show(f"\n{WHOLE}, Adam, {n_threads} thread(s): {turns * n:,} of {BATCH} examples on {data}, in {turns} turns")
    for line in _table(seconds, accuracy):
        show(line)
    return seconds


def _table(seconds: dict[str, dict[str, list[float]]], accuracy: dict[str, float]) -> list[str]:
    """A line a contender: medians of the turns, and quartiles; its times over ours, with and without the products."""
    medians = {
        case: {name: float(np.median(times)) for name, times in by_name.items()} for case, by_name in seconds.items()
    }
    whole, products = medians[WHOLE], medians[PRODUCTS]
    heads = "".join(f"{case.removeprefix('its '):>10}" for case in PARTS)
    lines = [
        f"  {'':14}{'':>9} {'':>19} {'theirs':>8}{'without':>10}{'':40}{'correct':>9}",
        f"  {'':14}{'median':>9} {'quartiles':>19} {'/ ours':>8}{'products':>10}{heads}{'in test':>9}",
    ]
    for name, median in whole.items():
        low, high = np.quantile(seconds[WHOLE][name], (0.25, 0.75))
        besides = (median - products[name]) / (whole["schuss"] - products["schuss"])
        ratios = f"{'':18}" if name == "schuss" else f"{median / whole['schuss']:>8.2f}{besides:>10.2f}"
        parts = "".join(f"{time_text(medians[case][name]):>10}" for case in PARTS)
        spread = f"{time_text(low)} - {time_text(high)}"
        lines.append(f"  {name:14}{time_text(median):>9} {spread:>19} {ratios}{parts}{accuracy[name]:>9.3f}")
    return lines
