"""Where SciPy is met: each of our rules as a method of ``scipy.optimize.minimize``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from inspect import signature
from typing import TYPE_CHECKING, Any
from warnings import warn

import numpy as np
from numpy.typing import NDArray

from ._extras import need
from .base import Optimizer
from .checks import POSITIVE, count, flag, number

if TYPE_CHECKING:
    from scipy.optimize import OptimizeResult

__all__ = ["minimizer"]

_MESSAGES = {
    0: "Optimization terminated successfully: no element of the projected gradient is above gtol.",
    1: "Maximum number of iterations has been exceeded.",
    3: "The function or its gradient is not finite.",
    99: "`callback` raised `StopIteration`.",
}


def minimizer(optimizer: Optimizer) -> Callable[..., OptimizeResult]:
    """Return a method for ``scipy.optimize.minimize`` that takes an optimizer's steps.

    Parameters
    ----------
    optimizer : Optimizer
        One that has made no step; each call of ``minimize`` begins with a copy of it. Its learning rate may be a
        schedule.

    Returns
    -------
    callable
        To be given as ``method=``. It takes ``jac`` as all do: ``True`` where the function returns its value and its
        gradient, or a function; without one the gradient is found by finite differences, which takes one more
        evaluation for each element of ``x``. ``bounds`` are kept by projection after each step. ``callback`` is called
        after each step, with ``intermediate_result`` if that is its argument's name, else with ``x``; it may raise
        StopIteration.

        Options: ``maxiter`` (1000); ``gtol`` (1e-5, also by ``tol``), below which the largest element of the projected
        gradient ends it; ``best`` (False), whether the result is the best point that was met, as for noisy functions,
        and not the last; ``disp`` (False).

    Raises
    ------
    TypeError
        If it is given something else than an optimizer.
    ValueError
        If the optimizer has made steps; in ``minimize``, if there are constraints, if bounds or the gradient are of
        another shape than ``x``, or an option is out of its range.
    ImportError
        If SciPy is not installed.

    Notes
    -----
    The result has ``x, fun, jac, nit, nfev, njev, success, status, message``: status 0 is success; 1, 3 and 99 are
    ``maxiter``, a value or gradient that is not finite, and the callback's StopIteration. Steps of a fixed length, as
    Adam's, stay some multiple of the learning rate away from a minimum: let the rate fall.

    Examples
    --------
    >>> import numpy as np, schuss
    >>> from scipy.optimize import minimize, rosen, rosen_der
    >>> from schuss.scipy import minimizer
    >>> adam = minimizer(schuss.Adam(lr=0.05))
    >>> found = minimize(rosen, [-1.0, 2.0], jac=rosen_der, method=adam, options={"maxiter": 5000})
    >>> found.success, found.x.round(3)
    (True, array([1., 1.]))
    """
    need("scipy.optimize", "schuss.scipy", extra="scipy")
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"minimizer() takes an optimizer, as schuss.Adam(lr=0.05), got {type(optimizer).__name__}")
    if optimizer.t:
        raise ValueError(f"minimizer() takes an optimizer that has made no step; this one has made {optimizer.t}")

    def method(
        fun: Callable[..., Any],
        x0: Any,
        args: tuple[Any, ...] = (),
        *,
        jac: Callable[..., Any] | None = None,
        hess: Any = None,
        hessp: Any = None,
        bounds: Any = None,
        constraints: Any = (),
        callback: Callable[..., Any] | None = None,
        maxiter: int = 1000,
        gtol: float = 1e-5,
        tol: float | None = None,
        best: bool = False,
        disp: bool = False,
        **unknown: Any,
    ) -> OptimizeResult:
        from scipy.optimize import OptimizeWarning

        if len(np.atleast_1d(constraints)):
            raise ValueError("schuss.scipy.minimizer() keeps bounds, but no other constraints")
        if hess is not None or hessp is not None:
            warn("Method schuss.scipy.minimizer does not use Hessian information.", RuntimeWarning, stacklevel=3)
        if unknown:
            warn(f"Unknown solver options: {', '.join(unknown)}", OptimizeWarning, stacklevel=3)
        search = _Search(fun, jac, x0, args, bounds, flag("best", best))
        return search.run(
            deepcopy(optimizer),
            _told(callback),
            count("maxiter", maxiter, 0),
            number("gtol" if tol is None else "tol", gtol if tol is None else tol, *POSITIVE),
            bool(disp),
        )

    return method


class _Search:
    """A function, its gradient, and where in its bounds it was last asked for."""

    def __init__(self, fun: Callable[..., Any], jac: Any, x0: Any, args: Any, bounds: Any, best: bool) -> None:
        x = np.array(x0, np.float32 if np.asarray(x0).dtype == np.float32 else np.float64)
        self._fun, self._jac, self._args, self._best = fun, jac, args, best
        self._low, self._high = _box(bounds, x)
        self.x: NDArray[Any] = np.clip(x, self._low, self._high)
        self.value: float
        self.gradient: NDArray[Any]
        self.nfev: int = 0
        self.njev: int = 0
        self._ask()
        self._found = self.x.copy(), self.value, self.gradient

    def _ask(self) -> None:
        """The value and the gradient at x; functions are given copies, which they may keep."""
        value = self._fun(self.x.copy(), *self._args)
        self.nfev += 1
        if np.size(value) != 1:
            raise ValueError(f"the function must return a number, got an array of shape {np.shape(value)}")
        self.value = float(np.asarray(value).item())
        if self._jac is None:
            from scipy.optimize import approx_fprime

            gradient = approx_fprime(self.x.copy(), self._fun, np.sqrt(np.finfo(self.x.dtype).eps), *self._args)
            self.nfev += self.x.size + 1
        else:
            gradient = self._jac(self.x.copy(), *self._args)
        self.njev += 1
        self.gradient = np.array(gradient, self.x.dtype)
        if self.gradient.shape != self.x.shape:
            raise ValueError(f"the gradient has shape {self.gradient.shape}, x has shape {self.x.shape}")

    def _slope(self) -> float:
        """The largest element of the gradient, of which what leads out of the bounds does not count."""
        inward = self.x - np.clip(self.x - self.gradient, self._low, self._high)
        return float(np.max(np.abs(inward), initial=0.0))

    def _status(self, gtol: float, left: int) -> int | None:
        if not (np.isfinite(self.value) and np.isfinite(self.gradient).all()):
            return 3
        if self._slope() <= gtol:
            return 0
        return 1 if left == 0 else None

    def run(
        self, opt: Optimizer, tell: Callable[[OptimizeResult], None], maxiter: int, gtol: float, disp: bool
    ) -> OptimizeResult:
        """Take steps until one of the ends is reached."""
        from scipy.optimize import OptimizeResult

        steps = 0
        while (status := self._status(gtol, maxiter - steps)) is None:
            opt.update([self.x], [self.gradient])
            np.clip(self.x, self._low, self._high, out=self.x)
            steps += 1
            self._ask()
            if self.value < self._found[1]:
                self._found = self.x.copy(), self.value, self.gradient
            try:
                tell(OptimizeResult(x=self.x.copy(), fun=self.value, jac=self.gradient.copy(), nit=steps))
            except StopIteration:
                status = 99
                break
        x, value, gradient = self._found if self._best else (self.x, self.value, self.gradient)
        if disp:
            print(_MESSAGES[status])
            print(f"         Current function value: {value:f}")
            print(f"         Iterations: {steps:d}")
            print(f"         Function evaluations: {self.nfev:d}")
            print(f"         Gradient evaluations: {self.njev:d}")
        return OptimizeResult(
            x=x,
            fun=value,
            jac=gradient,
            nit=steps,
            nfev=self.nfev,
            njev=self.njev,
            success=status == 0,
            status=status,
            message=_MESSAGES[status],
        )


def _box(bounds: Any, x: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The lowest and the highest x, from SciPy's Bounds or pairs of numbers, of which None is no bound."""
    low: Any = -np.inf
    high: Any = np.inf
    if hasattr(bounds, "lb"):
        low, high = bounds.lb, bounds.ub
    elif bounds is not None:
        pairs: Sequence[Any] = list(bounds)
        if len(pairs) != x.size or any(len(pair) != 2 for pair in pairs):
            raise ValueError(f"bounds must be {x.size} pairs of the lowest and the highest x, got {len(pairs)}")
        low = np.array([-np.inf if pair[0] is None else pair[0] for pair in pairs])
        high = np.array([np.inf if pair[1] is None else pair[1] for pair in pairs])
    box = np.broadcast_to(np.asarray(low, x.dtype), x.shape), np.broadcast_to(np.asarray(high, x.dtype), x.shape)
    if np.any(box[0] > box[1]):
        raise ValueError("a lowest x of the bounds is above the highest")
    return box


def _told(callback: Callable[..., Any] | None) -> Callable[[OptimizeResult], None]:
    """A callback in either of SciPy's ways."""

    def tell(result: OptimizeResult) -> None:
        if callback is None:
            return
        if by_name:
            callback(intermediate_result=result)
        else:
            callback(result.x)

    by_name = callback is not None and set(signature(callback).parameters) == {"intermediate_result"}
    return tell
