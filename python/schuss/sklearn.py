"""Where scikit-learn is met: its multilayer perceptrons, trained by any rule of ours.

``from schuss.sklearn import MLPClassifier`` in place of ``from sklearn.neural_network``; what is imported from here
needs scikit-learn (``pip install "schuss[sklearn]"``).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from inspect import Signature, signature
from itertools import pairwise
from math import inf, sqrt
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ._extras import need
from .base import Optimizer
from .checks import POSITIVE, SHARE, count, flag, number, shown
from .nn import MultiLayerNet, Sigmoid, softmax
from .optimizers import Muon
from .schedules import ReduceOnPlateau
from .specs import parse_optimizer, parse_schedule

need("sklearn", "schuss.sklearn", package="scikit-learn", extra="sklearn")

from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, is_classifier  # noqa: E402
from sklearn.exceptions import ConvergenceWarning  # noqa: E402
from sklearn.metrics import accuracy_score, r2_score  # noqa: E402
from sklearn.model_selection import train_test_split  # noqa: E402
from sklearn.utils import check_random_state, column_or_1d  # noqa: E402
from sklearn.utils.multiclass import check_classification_targets, type_of_target, unique_labels  # noqa: E402
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data  # noqa: E402

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["MLPClassifier", "MLPRegressor"]

Array = NDArray[Any]

_OURS = {"relu": "relu", "logistic": "sigmoid", "tanh": "tanh", "identity": "identity"}
# What scikit-learn's estimators take, and these do not.
_OF_THE_RULE = "it is the optimizer's: optimizer='Adam(lr=0.001)', or an instance"
_THEIRS = {
    "solver": "give optimizer='Adam', optimizer='Nesterov(lr=0.001, momentum=0.9)' for 'sgd', or another rule",
    "learning_rate": "give schedule='InverseSqrt(...)', or another schedule",
    "max_fun": "there is no L-BFGS",
    "loss": "the loss is the squared error",
    **dict.fromkeys(
        ("learning_rate_init", "power_t", "momentum", "nesterovs_momentum", "beta_1", "beta_2", "epsilon"), _OF_THE_RULE
    ),
}
_HEADS = {"softmax": "softmax", "logistic": "sigmoid", "identity": "identity"}


class _MultilayerPerceptron(BaseEstimator):  # type: ignore[misc]
    """What the two estimators share: arguments, training and prediction."""

    __signature__: ClassVar[Signature]

    coefs_: list[Array]
    intercepts_: list[Array]
    loss_: float
    loss_curve_: list[float]
    best_loss_: float | None
    validation_scores_: list[float] | None
    best_validation_score_: float | None

    def __init__(
        self,
        hidden_layer_sizes: int | Iterable[int] = (100,),
        activation: str = "relu",
        *,
        optimizer: str | Optimizer = "Adam",
        schedule: str | Callable[[int], float] | None = None,
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: float = 10,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.optimizer = optimizer
        self.schedule = schedule
        self.alpha = alpha
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change

    def __new__(cls, *args: Any, **given: Any) -> Self:
        for name in given:
            if name in _THEIRS:
                raise TypeError(f"{cls.__name__} has no {name}; {_THEIRS[name]}")
        made: Self = super().__new__(cls)
        return made

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        own = signature(cls.__init__)  # which __new__ would hide
        cls.__signature__ = own.replace(parameters=list(own.parameters.values())[1:])

    # What a classifier and a regressor have of their own. `reset` tells that all begins anew.

    def _checked_data(self, X: Any, y: Any, reset: bool, classes: Any) -> tuple[Any, Array]:
        """X and the targets as the network takes them; sets ``n_outputs_`` and ``out_activation_``."""
        raise NotImplementedError

    def _of_scores(self, scores: Array) -> Array:
        """What is predicted, from the network's scores."""
        raise NotImplementedError

    def _score(self, targets: Array, scores: Array, sample_weight: Array | None) -> float:
        """How well the scores fit targets that were held out."""
        raise NotImplementedError

    # Training.

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on all of the data for up to ``max_iter`` epochs.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)
            The examples. float32 stays float32; all other numbers become float64. A sparse matrix stays sparse.
        y : array of shape (n_samples,) or (n_samples, n_outputs)
            The targets.
        sample_weight : array of shape (n_samples,), optional
            How much each example counts.

        Returns
        -------
        self
            The estimator.

        Raises
        ------
        ValueError, TypeError
            For arguments out of their range, and data that scikit-learn's own estimators refuse; also if the weights
            are no longer finite at the end.
        """
        return self._fit(X, y, sample_weight, partial=False)

    def _fit(self, X: Any, y: Any, sample_weight: Any, *, partial: bool, classes: Any = None) -> Self:
        hidden = self._checked_arguments(partial)
        reset = not hasattr(self, "coefs_") or not (self.warm_start or partial)
        stepper = None if partial and not reset else self._new_stepper()
        X, targets = self._checked_data(X, y, reset, classes)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X, dtype=X.dtype, ensure_non_negative=True)
            if not sample_weight.any():
                raise ValueError("all sample weights are zero, so that nothing would be learned")
        random_state = check_random_state(self.random_state)
        widths = [X.shape[1], *hidden, self.n_outputs_]
        if reset:
            self._begin(widths, X.dtype, random_state)
        elif widths[1:] != [len(b) for b in self.intercepts_]:
            before = [len(b) for b in self.intercepts_]
            raise ValueError(f"the layers were of {before} neurons, now they are to be of {widths[1:]}; fit anew")
        if stepper is not None:
            self._stepper = stepper
        if stepper is not None or self._averages() is None:  # of averages, what goes on is what was stepped
            self._live = self._params()
        # joblib may have mapped them from a file that is only read.
        self._live = {name: p if p.flags.writeable else p.copy() for name, p in self._live.items()}
        self._train(X, targets, sample_weight, random_state, partial)
        if not all(np.isfinite(p).all() for p in (*self.coefs_, *self.intercepts_)):
            raise ValueError(
                "the weights are not finite any more; scale the data, or take a smaller learning rate, or clip_norm"
            )
        return self

    def _checked_arguments(self, partial: bool) -> list[int]:
        """Check all but the optimizer; return the sizes of the hidden layers."""
        sizes: Any = self.hidden_layer_sizes
        several = isinstance(sizes, Iterable) and not isinstance(sizes, str)
        hidden = [count("each of hidden_layer_sizes", size, 1) for size in (sizes if several else [sizes])]
        if self.activation not in _OURS:
            raise ValueError(f"activation must be one of {', '.join(map(repr, _OURS))}, got {shown(self.activation)}")
        number("alpha", self.alpha, *POSITIVE)
        number("tol", self.tol, *POSITIVE)
        number("validation_fraction", self.validation_fraction, *SHARE)
        if not (isinstance(self.batch_size, str) and self.batch_size == "auto"):
            count("batch_size", self.batch_size, 1)
        count("max_iter", self.max_iter, 1)
        if self.n_iter_no_change != inf:
            count("n_iter_no_change", self.n_iter_no_change, 1)
        for name in ("shuffle", "warm_start", "early_stopping"):
            flag(name, getattr(self, name))
        if partial and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        return hidden

    def _new_stepper(self) -> Optimizer:
        """An optimizer of the estimator's own."""
        made: Optimizer
        if isinstance(self.optimizer, str):
            made = parse_optimizer(self.optimizer).make()
        elif isinstance(self.optimizer, Optimizer):
            if self.optimizer.t:
                raise ValueError(f"optimizer must be one that has made no step; this one has made {self.optimizer.t}")
            made = deepcopy(self.optimizer)
        else:
            raise TypeError(
                f"optimizer must be one of ours, as schuss.Adam(lr=0.01), or its text, got {shown(self.optimizer)}"
            )
        if isinstance(made, Muon) and not made.groups:
            raise ValueError(
                "optimizer: Muon steps matrices alone, and a perceptron has biases; give these another rule, and the "
                'last layer, of 3, too: schuss.Muon(0.02, groups={"b*": adamw, "W3": adamw}), adamw = {"rule": "AdamW"}'
            )
        if isinstance(self.schedule, str):
            made.lr = parse_schedule(self.schedule)
        elif callable(self.schedule):
            made.lr = deepcopy(self.schedule)
        elif self.schedule is not None:
            raise TypeError(
                "schedule must be a function of the step, as schuss.schedules.Cosine(0.01, steps=2000), or its text, "
                f"got {shown(self.schedule)}"
            )
        return made

    def _begin(self, widths: list[int], dtype: Any, random_state: Any) -> None:
        """Draw the first weights as scikit-learn does, after Glorot and Bengio (2010)."""
        factor = 2.0 if self.activation == "logistic" else 6.0
        self.coefs_, self.intercepts_ = [], []
        for n, m in pairwise(widths):
            bound = sqrt(factor / (n + m))
            self.coefs_.append(random_state.uniform(-bound, bound, (n, m)).astype(dtype, copy=False))
            self.intercepts_.append(random_state.uniform(-bound, bound, m).astype(dtype, copy=False))
        self.n_layers_ = len(widths)
        self.t_ = 0
        self.loss_curve_ = []
        self._since_best = 0
        self.best_loss_ = None if self.early_stopping else inf
        self.validation_scores_ = [] if self.early_stopping else None
        self.best_validation_score_ = -inf if self.early_stopping else None

    def _train(self, X: Any, targets: Array, sample_weight: Any, random_state: Any, partial: bool) -> None:
        held_out: tuple[Any, ...] | None = None
        if self.early_stopping:
            X, targets, sample_weight, held_out = self._split(X, targets, sample_weight, random_state)
        n = X.shape[0]
        size: Any = 200 if isinstance(self.batch_size, str) else self.batch_size
        if size > n and not isinstance(self.batch_size, str):
            warnings.warn(f"batch_size={size} is more than there are samples; it is taken as {n}", stacklevel=4)
        network, order = self._network(self._live), np.arange(n)
        best: tuple[list[Array], list[Array]] | None = None
        self.n_iter_ = 0
        try:
            for _ in _epochs(1 if partial else self.max_iter, self):
                if self.shuffle:
                    order = order[random_state.permutation(n)]
                loss = 0.0
                for x, t, w in _batches(X, targets, sample_weight, order if self.shuffle else None, min(size, n)):
                    loss += self._step(network, x, t, w) * len(t)
                self.n_iter_ += 1
                self.t_ += n
                self.loss_ = loss / n
                self.loss_curve_.append(self.loss_)
                self._take_over()
                if self._is_best(held_out) and self.early_stopping:
                    best = [W.copy() for W in self.coefs_], [b.copy() for b in self.intercepts_]
                rate = self._stepper.lr
                if isinstance(rate, ReduceOnPlateau):
                    rate.report(self.loss_)
                if self._since_best > self.n_iter_no_change:
                    break
            else:
                if not partial:
                    warnings.warn(
                        f"max_iter={self.max_iter} epochs are over, and the training has not converged yet",
                        ConvergenceWarning,
                        stacklevel=4,
                    )
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=4)
            self._take_over()
        if best is not None:
            self.coefs_, self.intercepts_ = best
            self._live = self._params()

    def _split(self, X: Any, targets: Array, sample_weight: Any, random_state: Any) -> tuple[Any, ...]:
        """Hold out a share of the data, which decides when to stop."""
        binary = is_classifier(self) and self.n_outputs_ == 1
        given = (X, targets) if sample_weight is None else (X, targets, sample_weight)
        parts = train_test_split(
            *given,
            random_state=random_state,
            test_size=self.validation_fraction,
            stratify=targets if binary else None,
        )
        trained, held_out = parts[::2], parts[1::2]
        if held_out[0].shape[0] < 2:
            raise ValueError("fewer than 2 samples are held out; increase validation_fraction, or give more data")
        return (*trained, None, held_out) if sample_weight is None else (*trained, held_out)

    def _step(self, network: MultiLayerNet, x: Array, t: Array, w: Array | None) -> float:
        """Train on a batch; return its loss as scikit-learn reports it."""
        total = len(t) if w is None else float(w.sum(dtype=np.float64))
        if total == 0:
            return 0.0
        network.weight_decay_lambda = self.alpha / total
        gradient = network.gradient(x, t, w)
        loss = network.last_loss
        if network.head == "identity" and self.n_outputs_ > 1:  # of the error, the mean over the outputs
            decay = network._decay()
            loss = (loss - decay) / self.n_outputs_ + decay
        self._stepper.update(self._live, gradient)
        return loss

    def _is_best(self, held_out: tuple[Any, ...] | None) -> bool:
        """Whether the last epoch was the best; counts those since there was an improvement by ``tol``."""
        if held_out is None:
            best = inf if self.best_loss_ is None else self.best_loss_  # None after early_stopping
            self._since_best = self._since_best + 1 if self.loss_ > best - self.tol else 0
            self.best_loss_ = min(self.loss_, best)
            return self.loss_ < best
        X, targets, *sample_weight = held_out
        scores = self._scores(X)
        score = self._score(targets, scores, *(sample_weight or [None])) if np.isfinite(scores).all() else float("nan")
        self.validation_scores_ = [*(self.validation_scores_ or []), score]
        best = -inf if self.best_validation_score_ is None else self.best_validation_score_
        self._since_best = self._since_best + 1 if score < best + self.tol else 0
        self.best_validation_score_ = max(best, score)  # NaN is no better
        return score > best

    # Prediction.

    def _params(self) -> dict[str, Array]:
        params: dict[str, Array] = {}
        for i, (W, b) in enumerate(zip(self.coefs_, self.intercepts_, strict=True), start=1):
            params[f"W{i}"], params[f"b{i}"] = W, b
        return params

    def _take_over(self) -> None:
        """Let what is to be evaluated be the coefficients."""
        params = self._averages() or self._live
        self.coefs_ = [params[f"W{i}"] for i in range(1, self.n_layers_)]
        self.intercepts_ = [params[f"b{i}"] for i in range(1, self.n_layers_)]

    def _averages(self) -> Mapping[Any, Array] | None:
        """The optimizer's averages of the parameters, where it keeps some; empty before the first step."""
        if self._stepper.ema is not None:
            return self._stepper.ema_params
        averages: Mapping[Any, Array] | None = getattr(self._stepper, "averaged_params", None)
        return averages

    def _network(self, params: dict[str, Array]) -> MultiLayerNet:
        return MultiLayerNet.from_params(params, _OURS[self.activation], head=_HEADS[self.out_activation_])

    def _checked_scores(self, X: Any) -> Array:
        check_is_fitted(self)
        return self._scores(validate_data(self, X, accept_sparse="csr", dtype=(np.float64, np.float32), reset=False))

    def _scores(self, X: Any) -> Array:
        return self._network(self._params()).predict(X)

    def predict(self, X: Any) -> Array:
        """Predict the targets of examples.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)
            The examples.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Classes, or numbers.
        """
        return self._of_scores(self._checked_scores(X))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _batches(
    X: Any, targets: Array, sample_weight: Array | None, order: Array | None, size: int
) -> Iterator[tuple[Array, Array, Array | None]]:
    """The data in batches, in this order; the arrays are used again by the next batch."""
    buffer = None
    for start in range(0, X.shape[0], size):
        rows: Any = slice(start, start + size) if order is None else order[start : start + size]
        if order is None or not isinstance(X, np.ndarray):
            x = X[rows]
        else:
            buffer = np.empty((size, X.shape[1]), X.dtype) if buffer is None else buffer
            # They are within; the mode keeps NumPy from making another array.
            x = np.take(X, rows, axis=0, out=buffer[: len(rows)], mode="clip")
        yield x, targets[rows], None if sample_weight is None else sample_weight[rows]


def _epochs(n: int, estimator: Any) -> Iterator[int]:
    """Count epochs; with ``verbose`` show how far it is, and the loss."""
    if not estimator.verbose or n == 1:
        yield from range(n)
        return
    tqdm = need("tqdm.auto", "verbose=True", package="tqdm", extra="sklearn").tqdm
    with tqdm(total=n, unit="epoch") as bar:
        for i in range(n):
            yield i
            text = {"loss": f"{estimator.loss_:.6f}"}
            if estimator.validation_scores_:
                text["validation score"] = f"{estimator.validation_scores_[-1]:.4f}"
            bar.set_postfix(text, refresh=False)
            bar.update()


class MLPClassifier(ClassifierMixin, _MultilayerPerceptron):  # type: ignore[misc]
    """The ``MLPClassifier`` of scikit-learn, trained by any rule of ours.

    From the same ``random_state`` come the same first weights, batches and splits, so that with
    ``optimizer="Adam(eps_hat=1e-8)"`` the losses are those of ``solver="adam"`` to rounding; the default's epsilon is
    the textbook's, 1e-7.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default (100,)
        Neurons of each hidden layer.
    activation : {"relu", "logistic", "tanh", "identity"}, default "relu"
        Of the hidden layers.
    optimizer : str or schuss.Optimizer, default "Adam"
        The rule, with its arguments: ``schuss.AdamW(lr=0.01)``, or as text, ``"AdamW(lr=0.01)"``; Muon with another
        rule for the biases, ``groups={"b*": {"rule": "AdamW"}}``. Parameters are called W1, b1, W2, ... from the input
        on. An instance is copied, and must have made no step. Where it keeps averages of the weights (``ema``, the
        schedule-free rules), these are what is evaluated.
    schedule : str or callable, optional
        The learning rate over steps (batches), in place of the optimizer's: ``schuss.schedules.Cosine(0.01, 2000)``, or
        as text; an epoch has ``ceil(n_samples / batch_size)`` of them. A group with a rate of its own keeps that.
        To a ``ReduceOnPlateau`` the loss of each epoch is reported.
    alpha : float, default 0.0001
        L2: the loss has ``alpha * sum(W ** 2) / (2 n)`` added for a batch of n examples.
    batch_size : int or "auto", default "auto"
        Examples to a step; "auto": 200.
    max_iter : int, default 200
        Epochs at most.
    shuffle : bool, default True
        Whether each epoch has the examples in another order.
    random_state : int, RandomState or None, default None
        Of the first weights, the order and the split.
    tol : float, default 1e-4
        By how much an epoch must be better to count as an improvement.
    verbose : bool, default False
        Whether to show a progress bar; needs tqdm.
    warm_start : bool, default False
        Whether ``fit`` goes on from the last weights; the optimizer begins anew.
    early_stopping : bool, default False
        Whether a share of the data is held out, whose score decides when to stop and which weights to keep.
    validation_fraction : float, default 0.1
        That share.
    n_iter_no_change : int, default 10
        How many epochs without an improvement end the training; may be ``numpy.inf``.

    Attributes
    ----------
    classes_ : ndarray
        The labels, sorted.
    coefs_, intercepts_ : list of ndarray
        Weights and biases of each layer.
    loss_, best_loss_ : float
        Of the last epoch, and the lowest.
    loss_curve_ : list of float
        The loss of each epoch.
    validation_scores_, best_validation_score_ : list of float, float
        With ``early_stopping``, else None.
    n_iter_, t_ : int
        Epochs of the last training, and examples seen in all.
    n_features_in_, n_outputs_, n_layers_ : int
        Sizes.
    feature_names_in_ : ndarray
        The names of columns, where X had some.
    out_activation_ : str
        "softmax"; "logistic" for two classes and for several labels at once.

    Raises
    ------
    ImportError
        If scikit-learn is not installed.

    See Also
    --------
    schuss.nn.MultiLayerNet : The network by itself.

    Notes
    -----
    scikit-learn's ``solver``, ``learning_rate``, ``learning_rate_init``, ``power_t``, ``momentum``, ``beta_1`` and the
    like are the optimizer's arguments here: ``solver="sgd"`` is ``optimizer="Nesterov(lr=0.001, momentum=0.9)"``.
    There is no L-BFGS.

    References
    ----------
    ``sklearn.neural_network.MLPClassifier``; Glorot & Bengio, "Understanding the difficulty of training deep
    feedforward neural networks", AISTATS 2010.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from schuss.sklearn import MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = MLPClassifier((16,), optimizer="AdamW(lr=0.01)", random_state=0, tol=0.003)
    >>> model.fit(X, y).score(X, y) > 0.95
    True
    """

    classes_: Array

    def _checked_data(self, X: Any, y: Any, reset: bool, classes: Any) -> tuple[Any, Array]:
        dtype = (np.float64, np.float32) if reset else self.coefs_[0].dtype
        X, y = validate_data(self, X, y, accept_sparse="csr", multi_output=True, dtype=dtype, reset=reset)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        if type_of_target(y) == "multiclass-multioutput":
            raise ValueError("y has several columns that are no labels of 0 and 1; fit a classifier for each of them")
        several = y.ndim == 2
        found = unique_labels(y)
        if reset:
            self.classes_ = found if classes is None or several else unique_labels(classes)
            self._multilabel = several
            binary = not several and len(self.classes_) <= 2
            self.n_outputs_ = y.shape[1] if several else 1 if binary else len(self.classes_)
            self.out_activation_ = "logistic" if several or binary else "softmax"
        elif several != self._multilabel or (several and y.shape[1] != self.n_outputs_):
            raise ValueError("y must have as many columns as in the previous call")
        if len(np.setdiff1d(found, self.classes_)):
            raise ValueError(f"y has classes {found}, of which not all are among those of before, {self.classes_}")
        if several:
            targets = np.asarray(y.toarray() if hasattr(y, "toarray") else y, X.dtype)
        else:
            targets = np.searchsorted(self.classes_, y)
            if self.out_activation_ == "logistic":
                targets = targets.reshape(-1, 1).astype(X.dtype)
        return X, targets

    def _of_scores(self, scores: Array) -> Array:
        if self._multilabel:
            return (scores > 0).astype(np.int64)
        if self.n_outputs_ > 1:
            places = scores.argmax(axis=1)
        else:
            places = ((scores[:, 0] > 0) & (len(self.classes_) > 1)).astype(np.int64)
        predicted: Array = self.classes_[places]
        return predicted

    def _score(self, targets: Array, scores: Array, sample_weight: Array | None) -> float:
        found = scores.argmax(axis=1) if targets.ndim == 1 else scores > 0
        return float(accuracy_score(targets if targets.ndim == 1 else targets > 0, found, sample_weight=sample_weight))

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Self:
        """Train for one epoch more.

        Parameters
        ----------
        X, y, sample_weight : array
            As for :meth:`fit`.
        classes : array of shape (n_classes,), optional
            All classes that there will be; needed in the first call.

        Returns
        -------
        self
            The estimator.

        Raises
        ------
        ValueError
            Without classes in the first call, and with others in a later one; with ``early_stopping``; and as for
            :meth:`fit`.
        """
        known = getattr(self, "classes_", None)
        if known is None and classes is None:
            raise ValueError("classes must be passed on the first call to partial_fit.")
        if known is not None and classes is not None and not np.array_equal(known, unique_labels(classes)):
            raise ValueError(f"classes={shown(classes)} is not the same as on the last call, which was {known}")
        return self._fit(X, y, sample_weight, partial=True, classes=classes)

    def predict_proba(self, X: Any) -> Array:
        """Predict the probability of each class.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)
            The examples.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            In the order of ``classes_``. Rows sum to 1, but where an example may have several labels.
        """
        scores = self._checked_scores(X)
        if self.out_activation_ == "softmax":
            return softmax(scores)
        if len(self.classes_) == 1 and not self._multilabel:
            return np.ones_like(scores)
        shares = Sigmoid().forward(scores)
        return shares if self._multilabel else np.hstack([1 - shares, shares])

    def predict_log_proba(self, X: Any) -> Array:
        """Predict the logarithm of the probability of each class.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)
            The examples.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            ``log(predict_proba(X))``.
        """
        shares = self.predict_proba(X)
        return np.log(shares, out=shares)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class MLPRegressor(RegressorMixin, _MultilayerPerceptron):  # type: ignore[misc]
    """The ``MLPRegressor`` of scikit-learn by the squared error, trained by any rule of ours.

    Parameters
    ----------
    hidden_layer_sizes, activation, optimizer, schedule, alpha, batch_size, max_iter : optional
        As for :class:`MLPClassifier`, and so are the others.
    shuffle, random_state, tol, verbose, warm_start, early_stopping, validation_fraction, n_iter_no_change : optional
        The same.

    Attributes
    ----------
    coefs_, intercepts_, loss_curve_, validation_scores_ : list
        As for :class:`MLPClassifier`. The loss is halved, and the mean over the outputs.
    loss_, best_loss_, best_validation_score_ : float
        The same.
    n_iter_, t_, n_features_in_, n_outputs_, n_layers_ : int
        The same.
    feature_names_in_ : ndarray
        The same.
    out_activation_ : str
        "identity".

    See Also
    --------
    MLPClassifier : For classes.

    Notes
    -----
    scikit-learn's has ``loss`` as its first argument, with a Poisson loss, which this one has not.

    References
    ----------
    ``sklearn.neural_network.MLPRegressor``.

    Examples
    --------
    >>> import numpy as np
    >>> from schuss.sklearn import MLPRegressor
    >>> X = np.linspace(-1, 1, 200)[:, None]
    >>> model = MLPRegressor(optimizer="Adam(lr=0.01)", random_state=0).fit(X, X[:, 0] ** 2)
    >>> model.score(X, X[:, 0] ** 2) > 0.95
    True
    """

    def _checked_data(self, X: Any, y: Any, reset: bool, classes: Any) -> tuple[Any, Array]:
        dtype = (np.float64, np.float32) if reset else self.coefs_[0].dtype
        X, y = validate_data(
            self, X, y, accept_sparse="csr", multi_output=True, y_numeric=True, dtype=dtype, reset=reset
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        targets = y.reshape(len(y), -1).astype(X.dtype, copy=False)
        self.n_outputs_, self.out_activation_ = targets.shape[1], "identity"
        return X, targets

    def _of_scores(self, scores: Array) -> Array:
        return scores.ravel() if self.n_outputs_ == 1 else scores

    def _score(self, targets: Array, scores: Array, sample_weight: Array | None) -> float:
        return float(r2_score(targets, scores, sample_weight=sample_weight))

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train for one epoch more.

        Parameters
        ----------
        X, y, sample_weight : array
            As for :meth:`fit`.

        Returns
        -------
        self
            The estimator.

        Raises
        ------
        ValueError
            With ``early_stopping``; and as for :meth:`fit`.
        """
        return self._fit(X, y, sample_weight, partial=True)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
