"""The network: its formulas written out again, differences, labels, buffers and refusals."""

from __future__ import annotations

import numpy as np
import pytest
from schuss import nn
from schuss.nn import MultiLayerNet

RNG = np.random.default_rng(0)
X = RNG.normal(size=(9, 6))
T = RNG.integers(0, 4, 9)


def plain_loss_and_gradient(params, x, t, activation, decay):
    """Forward and backward in the most literal form: one-hot rows, explicit softmax, float64."""
    squash = {"relu": lambda z: z * (z > 0), "sigmoid": lambda z: 1 / (1 + np.exp(-z))}[activation]
    slope = {"relu": lambda y: (y > 0) * 1.0, "sigmoid": lambda y: y * (1 - y)}[activation]
    layers = len(params) // 2
    outputs = [x]
    for i in range(1, layers + 1):
        z = outputs[-1] @ params[f"W{i}"] + params[f"b{i}"]
        outputs.append(squash(z) if i < layers else z)
    p = np.exp(outputs[-1])
    p /= p.sum(axis=1, keepdims=True)
    loss = -np.mean(np.sum(t * np.log(p), axis=1))
    loss += 0.5 * decay * sum(np.sum(params[f"W{i}"] ** 2) for i in range(1, layers + 1))
    d, grads = (p - t) / len(x), {}
    for i in range(layers, 0, -1):
        grads[f"W{i}"] = outputs[i - 1].T @ d + decay * params[f"W{i}"]
        grads[f"b{i}"] = d.sum(axis=0)
        d = (d @ params[f"W{i}"].T) * slope(outputs[i - 1])
    return loss, grads


@pytest.mark.parametrize("hidden", [[], [5], [7, 3, 5]])
@pytest.mark.parametrize("decay", [0, 0.1])
@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_loss_and_gradient_are_the_formulas(activation, decay, hidden):
    net = MultiLayerNet(6, hidden, 4, activation, "he", decay, dtype=np.float64, seed=1)
    for name, p in net.params.items():
        p += 0.1 * np.random.default_rng(len(name)).normal(size=p.shape)
    loss, grads = plain_loss_and_gradient(net.params, X, np.eye(4)[T], activation, decay)
    mine = net.gradient(X, T)
    assert list(mine) == list(net.params)
    assert net.last_loss == pytest.approx(loss, rel=1e-13)
    assert net.loss(X, T) == pytest.approx(loss, rel=1e-13)
    for name, g in grads.items():
        np.testing.assert_allclose(mine[name], g, rtol=1e-11, atol=1e-14)
        assert mine[name].flags.c_contiguous


@pytest.mark.parametrize("labels", [T, T.astype(np.uint8), np.eye(4)[T], RNG.dirichlet(np.ones(4), 9)])
@pytest.mark.parametrize("decay", [0, 0.1])
@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_differences_agree_with_backpropagation(activation, decay, labels):
    net = MultiLayerNet(6, [7, 5], 4, activation, "he", decay, dtype=np.float64, seed=2)
    by_differences = net.numerical_gradient(X, labels)
    for name, g in net.gradient(X, labels).items():
        assert np.abs(by_differences[name] - g).max() <= 1e-7 * np.abs(g).max()


# Heads, activations, weights.

SQUASH = {
    "relu": (lambda z: z * (z > 0), lambda y: (y > 0) * 1.0),
    "sigmoid": (lambda z: 1 / (1 + np.exp(-z)), lambda y: y * (1 - y)),
    "tanh": (np.tanh, lambda y: 1 - y**2),
    "identity": (lambda z: z, np.ones_like),
}
BINARY = RNG.integers(0, 2, (9, 4)).astype(float)
HEADS = {
    "softmax": (T, lambda x: nn.softmax(x), lambda x, y: -np.log(y[np.arange(9), T])),
    "sigmoid": (
        BINARY,
        lambda x: 1 / (1 + np.exp(-x)),
        lambda x, y: -(BINARY * np.log(y) + (1 - BINARY) * np.log(1 - y)).sum(axis=1),
    ),
    "identity": (RNG.normal(size=(9, 4)), lambda x: x, None),
}
HEADS["identity"] = (*HEADS["identity"][:2], lambda x, y: 0.5 * ((y - HEADS["identity"][0]) ** 2).sum(axis=1))


@pytest.mark.parametrize("weights", [None, RNG.integers(0, 4, 9), RNG.random(9)], ids=["none", "counts", "shares"])
@pytest.mark.parametrize("activation", SQUASH)
@pytest.mark.parametrize("head", HEADS)
def test_heads_activations_and_weights_are_the_formulas(head, activation, weights):
    net = MultiLayerNet(6, [7, 5], 4, activation, 0.5, 0.1, head=head, dtype=np.float64, seed=3)
    targets, of_scores, losses = HEADS[head]
    squash, slope = SQUASH[activation]
    p = net.params
    for name in ("b1", "b2", "b3"):
        p[name] += RNG.normal(size=p[name].shape)
    first = squash(X @ p["W1"] + p["b1"])
    second = squash(first @ p["W2"] + p["b2"])
    scores = second @ p["W3"] + p["b3"]
    w = np.ones(9) if weights is None else weights / 1.0
    decay = 0.05 * sum((p[name] ** 2).sum() for name in ("W1", "W2", "W3"))
    expected = (w * losses(scores, of_scores(scores))).sum() / w.sum() + decay
    d = (of_scores(scores) - (np.eye(4)[T] if head == "softmax" else targets)) * (w / w.sum())[:, None]
    d2 = (d @ p["W3"].T) * slope(second)
    d1 = (d2 @ p["W2"].T) * slope(first)
    wanted = {
        **{"W1": X.T @ d1 + 0.1 * p["W1"], "b1": d1.sum(axis=0)},
        **{"W2": first.T @ d2 + 0.1 * p["W2"], "b2": d2.sum(axis=0)},
        **{"W3": second.T @ d + 0.1 * p["W3"], "b3": d.sum(axis=0)},
    }
    grads = net.gradient(X, targets, weights)
    assert net.last_loss == pytest.approx(expected, rel=1e-12)
    assert net.loss(X, targets, weights) == pytest.approx(expected, rel=1e-12)
    for name, g in wanted.items():
        np.testing.assert_allclose(grads[name], g, rtol=1e-9, atol=1e-13)
    by_differences = net.numerical_gradient(X, targets, weights)
    for name, g in grads.items():
        assert np.abs(by_differences[name] - g).max() <= 1e-6 * np.abs(g).max()


def test_weights_are_counts_of_rows():
    counts = np.array([2, 0, 1, 3, 1, 0, 1, 1, 2])
    again = np.repeat(np.arange(9), counts)
    for head, (targets, *_) in HEADS.items():
        net = MultiLayerNet(6, [5], 4, head=head, dtype=np.float64, seed=0)
        weighted = {name: g.copy() for name, g in net.gradient(X, targets, counts).items()}
        loss = net.last_loss
        for name, g in net.gradient(X[again], targets[again]).items():
            np.testing.assert_allclose(weighted[name], g, rtol=1e-12, atol=1e-15)
        assert net.last_loss == pytest.approx(loss, rel=1e-13)


def test_extreme_scores_of_sigmoids():
    net = MultiLayerNet(2, [], 2, head="sigmoid", dtype=np.float64, seed=0)
    net.params["W1"][...] = [[1e4, -1e4], [0, 0]]
    assert net.loss([[1.0, 0.0]], [[1, 0]]) == 0
    assert net.loss([[1.0, 0.0]], [[0, 1]]) == 2e4
    assert all(np.isfinite(g).all() for g in net.gradient([[1.0, 0.0]], [[0, 1]]).values())


def test_accuracy_by_head():
    net = MultiLayerNet.from_params({"W1": np.eye(2), "b1": np.zeros(2)}, head="sigmoid")
    assert net.accuracy([[3.0, -1.0], [-2.0, -1.0]], [[1, 0], [1, 0]]) == 0.75
    with pytest.raises(ValueError, match="no accuracy"):
        MultiLayerNet(2, [], 2, head="identity").accuracy([[1.0, 2.0]], [[1.0, 2.0]])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(8), r"weights must have shape \(9,\), got \(8,\)"),
        (-np.ones(9), "at least 0"),
        (np.zeros(9), "not all 0"),
        (np.full(9, np.nan), "finite"),
    ],
)
@pytest.mark.parametrize("head", HEADS)
def test_weights_refused(head, weights, message):
    net = MultiLayerNet(6, [5], 4, head=head, seed=0)
    with pytest.raises(ValueError, match=message):
        net.gradient(X, HEADS[head][0], weights)


@pytest.mark.parametrize("bad", [-1, 2, np.nan])
def test_targets_of_sigmoids(bad):
    targets = BINARY.copy()
    targets[2, 1] = bad
    with pytest.raises(ValueError, match="targets of sigmoids must be 0 or 1"):
        MultiLayerNet(6, [5], 4, head="sigmoid", seed=0).loss(X, targets)


def test_one_output_wants_a_column():
    with pytest.raises(ValueError, match=r"targets must have shape \(9, 1\), got \(9,\); give t\[:, None\]"):
        MultiLayerNet(6, [5], 1, head="identity", seed=0).loss(X, X[:, 0])


@pytest.mark.parametrize("head", HEADS)
def test_no_examples_have_no_loss(head):
    net = MultiLayerNet(6, [5], 4, head=head, seed=0)
    with np.errstate(all="ignore"):
        assert np.isnan(net.loss(X[:0], HEADS[head][0][:0]))


def test_sparse_examples():
    sparse = pytest.importorskip("scipy.sparse", reason="scipy is not installed (extra scipy)")
    dense = np.where(X > 0, X, 0)
    for way in (sparse.csr_array, sparse.coo_matrix):
        net, twin = (MultiLayerNet(6, [5], 4, weight_decay_lambda=0.1, dtype=np.float64, seed=0) for _ in range(2))
        np.testing.assert_allclose(net.predict(way(dense)), twin.predict(dense), rtol=1e-13)
        for name, g in net.gradient(way(dense), T).items():
            np.testing.assert_allclose(g, twin.gradient(dense, T)[name], rtol=1e-12, atol=1e-15)
        assert net.accuracy(way(dense), T) == twin.accuracy(dense, T)
    with pytest.raises(ValueError, match=r"x must have shape \(n, 6\), got \(9, 5\)"):
        net.predict(sparse.csr_array(dense[:, :5]))


@pytest.mark.parametrize("head", ["sigmoid", "identity"])
def test_targets_refused(head):
    with pytest.raises(ValueError, match=r"targets must have shape \(9, 4\), got \(9,\)"):
        MultiLayerNet(6, [5], 4, head=head, seed=0).loss(X, T)


def test_from_parameters():
    made = MultiLayerNet(6, [5, 3], 4, "tanh", weight_decay_lambda=0.1, seed=0)
    net = MultiLayerNet.from_params(made.params, "tanh", 0.1)
    assert (net.input_size, net.hidden_size_list, net.output_size, net.dtype) == (6, [5, 3], 4, np.float32)
    np.testing.assert_array_equal(net.predict(X), made.predict(X))
    assert all(net.params[name] is p for name, p in made.params.items())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"W3": np.ones((4, 2))}, ValueError, "must have the names"),
        ({"b2": np.ones(3, np.float32)}, TypeError, r"params\['b2'\] is float32, W1 is float64"),
        ({"b2": [1.0]}, TypeError, r"params\['b2'\] must be an array"),
        ({"b1": np.ones(4)}, ValueError, r"params\['b1'\] must have shape \(5,\), got \(4,\)"),
        ({"W2": np.ones((4, 3))}, ValueError, r"params\['W2'\] must have shape \(5, m\), got \(4, 3\)"),
    ],
)
def test_parameters_refused(change, error, message):
    params = {"W1": np.ones((6, 5)), "b1": np.ones(5), "W2": np.ones((5, 3)), "b2": np.ones(3)}
    with pytest.raises(error, match=message):
        MultiLayerNet.from_params({**params, **change})


def test_differences_for_a_float32_network_are_taken_in_float64():
    net = MultiLayerNet(6, [7, 5], 4, seed=2)
    by_differences = net.numerical_gradient(X, T)
    for name, g in net.gradient(X, T).items():
        assert by_differences[name].dtype == np.float32
        np.testing.assert_allclose(by_differences[name], g, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("scale", "std"),
    [("relu", (2 / 400) ** 0.5), ("He", (2 / 400) ** 0.5), ("sigmoid", 0.05), ("XAVIER", 0.05), (0.3, 0.3)],
)
def test_the_initial_scale(scale, std):
    net = MultiLayerNet(400, [300], 10, weight_init_std=scale, seed=0)
    assert net.params["W1"].std() == pytest.approx(std, rel=0.02)
    assert not net.params["b1"].any()
    assert all(p.dtype == np.float32 for p in net.params.values())


def test_the_global_seed_gives_the_textbooks_weights():
    np.random.seed(7)
    net = MultiLayerNet(5, [4], 3, dtype=np.float64)
    np.random.seed(7)
    np.testing.assert_array_equal(net.params["W1"], np.sqrt(2 / 5) * np.random.randn(5, 4))
    np.testing.assert_array_equal(net.params["W2"], np.sqrt(2 / 4) * np.random.randn(4, 3))


def test_a_seed_of_its_own_leaves_the_global_generator_alone():
    np.random.seed(7)
    expected = np.random.random()
    np.random.seed(7)
    one, two, other = (MultiLayerNet(5, [4], 3, seed=seed) for seed in (1, 1, 2))
    assert np.random.random() == expected
    np.testing.assert_array_equal(one.params["W1"], two.params["W1"])
    assert not np.array_equal(one.params["W1"], other.params["W1"])


def test_extreme_scores_do_not_overflow():
    net = MultiLayerNet(2, [], 2, dtype=np.float64, seed=0)
    net.params["W1"][...] = 1e4 * np.eye(2)
    assert net.loss([[1.0, 0.0]], [1]) == 1e4
    assert net.loss([[1.0, 0.0]], [0]) == 0
    sigmoid = MultiLayerNet(2, [3], 2, "sigmoid", 1e4, seed=0)
    assert np.isfinite(sigmoid.loss(1e4 * np.eye(2), [0, 1]))
    assert all(np.isfinite(g).all() for g in sigmoid.gradient(1e4 * np.eye(2), [0, 1]).values())


def test_what_predict_returns_belongs_to_the_caller():
    net = MultiLayerNet(6, [5], 4, seed=0)
    first = net.predict(X)
    kept = first.copy()
    net.predict(X[::-1])
    net.gradient(X, T)
    np.testing.assert_array_equal(first, kept)


def test_gradients_are_written_where_they_were():
    """The documented reuse: the same arrays every time, in a dict of its own every time."""
    net = MultiLayerNet(6, [5], 4, seed=0)
    first = net.gradient(X, T)
    kept = first["W1"].copy()
    second = net.gradient(X[::-1], T)
    assert second is not first
    assert all(second[name] is first[name] for name in first)
    assert not np.array_equal(first["W1"], kept)


def test_batches_of_changing_size():
    net, fresh = (MultiLayerNet(6, [5, 5], 4, dtype=np.float64, seed=0) for _ in range(2))
    for n in (9, 3, 9, 1, 7):
        np.testing.assert_allclose(net.gradient(X[:n], T[:n])["W1"], fresh.gradient(X[:n], T[:n])["W1"])
        fresh = MultiLayerNet(6, [5, 5], 4, dtype=np.float64, seed=0)


def test_many_rows_go_through_in_chunks():
    net = MultiLayerNet(6, [5], 4, seed=0)
    x = np.random.default_rng(0).normal(size=(2 * nn.CHUNK + 77, 6)).astype(np.float32)
    scores = net.predict(x)
    assert max(len(affine._y._array) for affine in net._affine) <= nn.CHUNK
    by_row = np.concatenate([net.predict(row[None]) for row in x[:: nn.CHUNK // 3]])
    np.testing.assert_allclose(scores[:: nn.CHUNK // 3], by_row, rtol=1e-5, atol=1e-6)
    t = scores.argmax(axis=1)
    assert net.accuracy(x, t) == 1.0
    assert net.accuracy(x, np.eye(4)[t]) == 1.0
    assert net.accuracy(x, (t + 1) % 4) == 0.0


def test_parameters_are_read_anew():
    net = MultiLayerNet(6, [5], 4, dtype=np.float64, seed=0)
    net.gradient(X, T)
    net.params["W1"] = np.zeros((6, 5))
    net.params["W2"][...] = 0
    assert net.loss(X, T) == pytest.approx(np.log(4))
    net.gradient(X, T)
    assert net.last_loss == pytest.approx(np.log(4))


def test_the_same_gradient_every_time():
    nets = [MultiLayerNet(784, [100, 100], 10, seed=0) for _ in range(2)]
    x = np.random.default_rng(0).random((128, 784), np.float32)
    t = np.random.default_rng(1).integers(0, 10, 128)
    first = {name: g.copy() for name, g in nets[0].gradient(x, t).items()}
    for net in (nets[0], nets[1], nets[0]):
        for name, g in net.gradient(x.copy(), t).items():
            np.testing.assert_array_equal(g, first[name])


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"activation": "swish"}, ValueError, "activation must be 'relu', .* or 'identity', got 'swish'"),
        ({"head": "tanh"}, ValueError, "head must be 'softmax', 'sigmoid' or 'identity', got 'tanh'"),
        ({"weight_init_std": "big"}, ValueError, "weight_init_std must be .*got 'big'"),
        ({"weight_init_std": float("nan")}, ValueError, "weight_init_std must be .*got nan"),
        ({"weight_decay_lambda": -1}, ValueError, "weight_decay_lambda must be finite and at least 0, got -1"),
        ({"dtype": np.float16}, TypeError, "dtype must be float32 or float64, got float16"),
        (
            {"hidden_size_list": [3, 0]},
            ValueError,
            r"the neurons of a hidden layer must be a whole number from 1 on, got 0",
        ),
    ],
)
def test_bad_arguments_are_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        MultiLayerNet(**{"input_size": 6, "hidden_size_list": [5], "output_size": 4, **arguments})


@pytest.mark.parametrize(
    ("x", "t", "error", "match"),
    [
        (X[:, :5], T, ValueError, r"x must have shape \(n, 6\), got \(9, 5\)"),
        (X[0], T, ValueError, r"got \(6,\)"),
        (X.reshape(9, 1, 2, 3), T, ValueError, r"images need load_mnist\(flatten=True\)"),
        (X, T[:5], ValueError, r"labels must have shape \(9,\), or \(9, 4\) if one-hot; got \(5,\)"),
        (X, T + 1, ValueError, r"labels must lie in 0 ... 3, got 4"),
        (X, T - 1, ValueError, r"labels must lie in 0 ... 3, got -1"),
        (X, T.astype(float), TypeError, r"labels must be integers, or one-hot rows; got dtype float64"),
    ],
)
def test_bad_batches_are_refused(x, t, error, match):
    net = MultiLayerNet(6, [5], 4, seed=0)
    for call in (net.loss, net.gradient):
        with pytest.raises(error, match=match):
            call(x, t)


def test_the_layers_alone():
    """The textbook's chain of layers, as its chapter 5 strings them together."""
    W, b = RNG.normal(size=(6, 4)), RNG.normal(size=4)
    affine, relu, last = nn.Affine(W, b), nn.Relu(), nn.SoftmaxWithLoss()
    loss = last.forward(relu.forward(affine.forward(X)), T)
    dx = affine.backward(relu.backward(last.backward()))

    def f(_):
        return nn.SoftmaxWithLoss().forward(nn.Relu().forward(nn.Affine(W, b).forward(x)), T)

    again = nn.SoftmaxWithLoss()
    again.forward(X, np.arange(len(X)) % X.shape[1])
    once = again.backward().copy()
    again.forward(X, np.arange(len(X)) % X.shape[1])
    assert (again.backward(2.0) == 2 * once).all()
    x = X.copy()
    assert f(x) == loss
    for array, gradient in ((x, dx), (W, affine.dW), (b, affine.db)):
        np.testing.assert_allclose(nn.numerical_gradient(f, array), gradient, rtol=1e-6, atol=1e-9)
    with pytest.raises(TypeError, match="differences need float64, got float32"):
        nn.numerical_gradient(f, X.astype(np.float32))


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("call", [1, 2, 3, 4])
def test_differences_set_back_what_they_changed_whatever_happens(call, error):
    x = np.array([[0.1, 0.2]])
    calls = []

    def f(x):
        calls.append(x.copy())
        if len(calls) == call:
            raise error
        return x.sum()

    with pytest.raises(error):
        nn.numerical_gradient(f, x)
    assert len(calls) == call
    assert not np.array_equal(calls[-1], x)
    assert x.tolist() == [[0.1, 0.2]]


def test_an_embedding_is_a_table():
    rng = np.random.default_rng(0)
    W = rng.normal(size=(9, 2, 3)).astype(np.float32)
    layer = nn.Embedding(W)
    for words in (np.array([[0, 8], [3, 3]], np.uint8), [5, 5, 5, 1], 7, np.zeros((2, 0), int)):
        y = layer.forward(words)
        np.testing.assert_array_equal(y, W[np.asarray(words, int)])
        dout = rng.normal(size=y.shape).astype(np.float32)
        assert layer.backward(dout) is None
        expected = np.zeros_like(W)
        np.add.at(expected, np.asarray(words, int), dout)
        np.testing.assert_array_equal(layer.dW.dense(9), expected)
        assert layer.dW.indices.dtype == np.int64
    assert layer.W is W
    y = layer.forward([1, 2])
    y[...] = 0
    assert W[1:3].all()
    dout = np.ones((2, 2, 3), np.float32)
    layer.backward(dout)
    assert np.shares_memory(layer.dW.values, dout)
    layer.backward(np.ones((2, 3, 2), np.float32).transpose(0, 2, 1))
    assert layer.dW.values.flags.c_contiguous
    with pytest.raises(TypeError, match=r"dout is float64, W is float32; convert it with .astype\(W.dtype\)"):
        layer.backward(np.ones((2, 2, 3)))


@pytest.mark.parametrize(
    ("words", "error", "text"),
    [
        ([1.0], TypeError, "indices must be integers, got float64"),
        ([True], TypeError, "indices must be integers, got bool"),
        ([0, 9], IndexError, "indices must be from 0 to 8, got 9"),
        ([0, -1], IndexError, "indices must be from 0 to 8, got -1"),
    ],
)
def test_words_that_are_none(words, error, text):
    with pytest.raises(error, match=text):
        nn.Embedding(np.ones((9, 2))).forward(words)


def test_what_an_embedding_is_made_of():
    with pytest.raises(TypeError, match=r"W must be a numpy.ndarray with a row for each word, got \[1\]"):
        nn.Embedding([1])
    layer = nn.Embedding(np.ones((9, 2)))
    layer.forward([1, 2])
    with pytest.raises(ValueError, match=r"dout has shape \(2,\), the output had \(2, 2\)"):
        layer.backward(np.ones(2))
