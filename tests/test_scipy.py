"""schuss.scipy: our rules as methods of scipy.optimize.minimize, on SciPy's own functions."""

import numpy as np
import pytest
import schuss
from schuss import reference

optimize = pytest.importorskip("scipy.optimize", reason='scipy is not installed: pip install ".[scipy]"')
from schuss.scipy import minimizer  # noqa: E402

START = np.array([-1.2, 1.0, 0.5])


def both(x):
    return optimize.rosen(x), optimize.rosen_der(x)


def falling(t):
    return 0.05 * 0.999**t


@pytest.mark.parametrize(
    "rule", ["Adam", "RMSprop", "NAdam", "AdaDelta", "Lion", "SGD", "Momentum", "LAMB", "Adafactor"]
)
def test_steps_are_the_rules_own(rule):
    """The path is that of the reference's loop, to the bit for rules that are."""
    lr = 1e-4 if rule in ("SGD", "Momentum") else 0.01
    x, ref = START.copy(), getattr(reference, rule)(lr=lr)
    path = []
    for _ in range(20):
        ref.update([x], [optimize.rosen_der(x)])
        path.append(x.copy())
    seen = []
    opt = getattr(schuss, rule)(lr=lr)
    found = optimize.minimize(
        both, START, jac=True, method=minimizer(opt), options={"maxiter": 20}, callback=seen.append
    )
    assert opt.t == 0
    assert (found.nit, found.nfev, found.njev, found.status, found.success) == (20, 21, 21, 1, False)
    assert "Maximum number of iterations" in found.message
    check = np.testing.assert_allclose if rule == "LAMB" else np.testing.assert_array_equal
    check(seen, path)
    check(found.x, path[-1])
    assert found.fun == optimize.rosen(found.x)
    np.testing.assert_array_equal(found.jac, optimize.rosen_der(found.x))
    np.testing.assert_array_equal(START, [-1.2, 1.0, 0.5])


def ackley(x):
    a, b = np.sqrt(np.mean(x**2)), np.mean(np.cos(2 * np.pi * x))
    return -20 * np.exp(-0.2 * a) - np.exp(b) + 20 + np.e


def beale(x):
    a, b = x
    return (1.5 - a + a * b) ** 2 + (2.25 - a + a * b**2) ** 2 + (2.625 - a + a * b**3) ** 2


def booth(x):
    return (x[0] + 2 * x[1] - 7) ** 2 + (2 * x[0] + x[1] - 5) ** 2


FUNCTIONS = {
    "rosen": (optimize.rosen, [-1.2, 1.0], [1, 1]),
    "beale": (beale, [1.0, 1.0], [3, 0.5]),
    "booth": (booth, [0.0, 0.0], [1, 3]),
    "ackley": (ackley, [0.3, -0.2], [0, 0]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_known_minima_by_finite_differences(name):
    """The functions of SciPy's benchmarks."""
    fun, start, expected = FUNCTIONS[name]
    rate = schuss.schedules.Cosine(0.05, steps=8000)
    found = optimize.minimize(
        fun, start, method=minimizer(schuss.Adam(lr=rate)), options={"maxiter": 8000, "gtol": 1e-4, "best": True}
    )
    np.testing.assert_allclose(found.x, expected, atol=2e-3)
    assert found.nfev == (1 + 3) * (found.nit + 1)


def test_gtol_and_tol():
    for how in ({"options": {"gtol": 0.5, "maxiter": 5000}}, {"tol": 0.5, "options": {"maxiter": 5000}}):
        found = optimize.minimize(both, [-1.0, 2.0], jac=True, method=minimizer(schuss.Adam(lr=0.05)), **how)
        assert (found.success, found.status) == (True, 0)
        assert np.abs(found.jac).max() <= 0.5
    found = optimize.minimize(both, [1.0, 1.0], jac=True, method=minimizer(schuss.SGD()))
    assert (found.nit, found.nfev, found.success) == (0, 1, True)


def test_arguments_of_the_function():
    def fun(x, a, b):
        return a * (x[0] - b) ** 2

    def jac(x, a, b):
        return np.array([2 * a * (x[0] - b)])

    found = optimize.minimize(fun, [0.0], args=(2.0, 3.0), jac=jac, method=minimizer(schuss.SGD(lr=0.1)))
    assert found.success
    assert found.x[0] == pytest.approx(3, abs=1e-5)


def test_callbacks_of_both_kinds():
    seen = []

    def new(intermediate_result):
        seen.append(intermediate_result)
        if len(seen) == 3:
            raise StopIteration

    found = optimize.minimize(both, START, jac=True, method=minimizer(schuss.Adam(lr=0.01)), callback=new)
    assert (found.nit, found.status, found.success) == (3, 99, False)
    assert "StopIteration" in found.message
    assert seen[-1].fun == found.fun
    assert len({tuple(each.x) for each in seen}) == 3  # each its own

    def old(x):
        x[:] = 0  # a copy
        raise StopIteration

    found = optimize.minimize(both, START, jac=True, method=minimizer(schuss.Adam(lr=0.01)), callback=old)
    assert found.nit == 1
    assert (found.x != 0).all()


@pytest.mark.parametrize("kind", ["pairs", "Bounds"])
def test_bounds_by_projection(kind):
    bounds = [(None, 0.5), (-1, None)] if kind == "pairs" else optimize.Bounds([-np.inf, -1], [0.5, np.inf])
    points = []
    found = optimize.minimize(
        both, [3.0, -4.0], jac=True, method=minimizer(schuss.Adam(lr=falling)), bounds=bounds,
        options={"maxiter": 20000, "gtol": 1e-4}, callback=lambda x: points.append(x),
    )  # fmt: skip
    theirs = optimize.minimize(both, [0.0, 0.0], jac=True, method="L-BFGS-B", bounds=bounds)
    assert found.success
    np.testing.assert_allclose(found.x, theirs.x, atol=1e-3)
    assert all(x[0] <= 0.5 and x[1] >= -1 for x in points)


def test_the_best_of_a_noisy_function():
    def noisy(x):
        rng = np.random.default_rng(abs(hash(x.tobytes())) % 2**32)
        return float(x[0] ** 2 + rng.normal()), 2 * x + rng.normal(size=1)

    seen = []
    how = {"jac": True, "method": minimizer(schuss.Adam(lr=0.3)), "options": {"maxiter": 200, "best": True}}
    found = optimize.minimize(
        noisy, [3.0], callback=lambda intermediate_result: seen.append(intermediate_result.fun), **how
    )
    assert found.fun == min(seen)
    assert found.fun == noisy(found.x)[0]


def test_what_is_not_finite_ends_it():
    def fun(x):
        return (np.inf if x[0] < 0.5 else x[0]), np.ones(1)

    found = optimize.minimize(fun, [1.0], jac=True, method=minimizer(schuss.SGD(lr=0.2)))
    assert (found.status, found.success) == (3, False)
    assert "not finite" in found.message
    found = optimize.minimize(
        fun, [1.0], jac=True, method=minimizer(schuss.SGD(lr=0.2)), options={"best": True, "gtol": 0.0}
    )
    assert found.fun == pytest.approx(0.6)


def test_disp_and_kinds_of_x(capsys):
    found = optimize.minimize(
        both,
        np.array([-1, 2], np.float32),
        jac=True,
        method=minimizer(schuss.Adam()),
        options={"disp": True, "maxiter": 2},
    )
    assert found.x.dtype == np.float32
    assert "Iterations: 2" in capsys.readouterr().out
    found = optimize.minimize(both, [-1, 2], jac=True, method=minimizer(schuss.Adam()), options={"maxiter": 2})
    assert found.x.dtype == np.float64


def test_what_is_refused():
    with pytest.raises(TypeError, match="takes an optimizer"):
        minimizer("Adam")
    used = schuss.SGD()
    used.update([np.ones(1)], [np.ones(1)])
    with pytest.raises(ValueError, match="has made no step"):
        minimizer(used)
    method = minimizer(schuss.SGD())
    with pytest.raises(ValueError, match="no other constraints"):
        optimize.minimize(both, START, jac=True, method=method, constraints=[{"type": "eq", "fun": np.sum}])
    with pytest.raises(ValueError, match="3 pairs"):
        optimize.minimize(both, START, jac=True, method=method, bounds=[(0, 1)])
    with pytest.raises(ValueError, match="above the highest"):
        optimize.minimize(both, START, jac=True, method=method, bounds=[(1, 0)] * 3)
    with pytest.raises(ValueError, match=r"the gradient has shape \(2,\), x has shape \(3,\)"):
        optimize.minimize(lambda x: (0.0, np.ones(2)), START, jac=True, method=method)
    with pytest.raises(ValueError, match="must return a number"):
        optimize.minimize(lambda x: (np.ones(2), np.ones(3)), START, jac=True, method=method)
    for options in ({"maxiter": -1}, {"gtol": -1.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            optimize.minimize(both, START, jac=True, method=method, options=options)
    with pytest.warns(optimize.OptimizeWarning, match="Unknown solver options: ftol"):
        optimize.minimize(both, START, jac=True, method=method, options={"ftol": 1, "maxiter": 1})
    with pytest.warns(RuntimeWarning, match="does not use Hessian"):
        optimize.minimize(both, START, jac=True, hess=optimize.rosen_hess, method=method, options={"maxiter": 1})
