"""The functions of the book: activations, losses, and gradients by differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checks import shown
from ..nn import softmax as softmax

Array = NDArray[Any]

STEP = 1e-4  # of the differences: the book's h


def identity_function(x: Array) -> Array:
    """Return ``x`` itself: the output of a regression, 3.5.

    Parameters
    ----------
    x : ndarray
        Any.

    Returns
    -------
    ndarray
        The same.
    """
    return x


def step_function(x: Array) -> Array:
    """1 where ``x`` is positive, 0 elsewhere, 3.2.

    Parameters
    ----------
    x : ndarray
        Numbers.

    Returns
    -------
    ndarray of int
        A new array of the same shape.
    """
    return np.array(x > 0, dtype=int)


def sigmoid(x: Array) -> Array:
    """The logistic function ``1 / (1 + exp(-x))``, 3.2. As in the book it warns where ``exp(-x)`` overflows.

    Parameters
    ----------
    x : ndarray
        Numbers.

    Returns
    -------
    ndarray
        A new array of the same shape.
    """
    y: Array = 1 / (1 + np.exp(-x))
    return y


def sigmoid_grad(x: Array) -> Array:
    """Slope of the logistic function at ``x``: ``(1 - y) y`` with ``y = sigmoid(x)``.

    Parameters
    ----------
    x : ndarray
        Numbers.

    Returns
    -------
    ndarray
        A new array of the same shape.
    """
    y = sigmoid(x)
    return (1.0 - y) * y


def relu(x: Array) -> Array:
    """The rectifier ``max(0, x)``, 3.2.

    Parameters
    ----------
    x : ndarray
        Numbers.

    Returns
    -------
    ndarray
        A new array of the same shape.
    """
    y: Array = np.maximum(0, x)
    return y


def relu_grad(x: Array) -> Array:
    """Slope of the rectifier: 1 where ``x`` is 0 or more, 0 elsewhere.

    Parameters
    ----------
    x : ndarray
        Numbers.

    Returns
    -------
    ndarray
        A new array of the shape and dtype of ``x``.
    """
    return (x >= 0).astype(x.dtype)


def sum_squared_error(y: Array, t: Array) -> float:
    """Half of the summed squares of ``y - t``, 4.2.

    Parameters
    ----------
    y, t : ndarray
        Outputs and targets, of the same shape.

    Returns
    -------
    float
        The error.
    """
    error: float = 0.5 * np.sum((y - t) ** 2)
    return error


def cross_entropy_error(y: Array, t: Array) -> float:
    """Mean of ``-log(y[label] + 1e-7)``, 4.2.

    Parameters
    ----------
    y : ndarray of shape (n, classes), or (classes,)
        Probabilities.
    t : ndarray of shape (n,), or that of ``y``
        Labels, or one-hot rows.

    Returns
    -------
    float
        The mean over the rows.

    Examples
    --------
    >>> from schuss.textbook import *
    >>> float(cross_entropy_error(np.array([0.1, 0.6, 0.3]), np.array([0, 1, 0])).round(4))
    0.5108
    """
    if y.ndim == 1:
        y, t = y.reshape(1, y.size), t.reshape(1, t.size)
    if t.size == y.size:
        t = t.argmax(axis=1)
    rows = len(y)
    error: float = -np.sum(np.log(y[np.arange(rows), t] + 1e-7)) / rows
    return error


def softmax_loss(X: Array, t: Array) -> float:
    """:func:`cross_entropy_error` of the :func:`softmax` of ``X``.

    Parameters
    ----------
    X : ndarray of shape (n, classes), or (classes,)
        Scores.
    t : ndarray
        Labels, or one-hot rows.

    Returns
    -------
    float
        The mean over the rows.
    """
    return cross_entropy_error(softmax(X), t)


def numerical_gradient(f: Callable[[Array], float], x: Array) -> Array:
    """Central differences of ``f`` at ``x``, element by element, 4.4: ``(f(x + h) - f(x - h)) / 2h`` with h = 1e-4.

    :func:`schuss.nn.numerical_gradient` has a step that fits the dtype, and more digits.

    Parameters
    ----------
    f : callable
        Called with ``x``, in which one element differs.
    x : ndarray of floats
        Changed in place and set back, also where ``f`` raises.

    Returns
    -------
    ndarray
        Of the shape and dtype of ``x``.

    Raises
    ------
    TypeError
        If ``x`` holds no floats: a step of 1e-4 is none between whole numbers.

    Examples
    --------
    >>> from schuss.textbook import *
    >>> numerical_gradient(lambda x: np.sum(x**2), np.array([3.0, 4.0])).round(6)
    array([6., 8.])
    """
    if not isinstance(x, np.ndarray):
        raise TypeError(f"x must be an array, as it is changed and set back; got {shown(x)}: use numpy.array(...)")
    if x.dtype.kind != "f":
        raise TypeError(f"x must be of floats, got dtype {x.dtype}; write 3.0 in place of 3, or use x.astype(float)")
    gradient = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        kept = x[i]
        try:
            x[i] = kept + STEP
            above = f(x)
            x[i] = kept - STEP
            below = f(x)
        finally:
            x[i] = kept
        gradient[i] = (above - below) / (2 * STEP)
    return gradient


def numerical_gradient_2d(f: Callable[[Array], float], X: Array) -> Array:
    """:func:`numerical_gradient` of ``f`` at each row of ``X``; ``f`` takes a row.

    Parameters
    ----------
    f : callable
        Called with a row, in which one element differs.
    X : ndarray of floats
        Points, one in each row; or a single one.

    Returns
    -------
    ndarray
        Of the shape and dtype of ``X``.
    """
    if X.ndim == 1:
        return numerical_gradient(f, X)
    return np.array([numerical_gradient(f, x) for x in X])
