"""Roots of doubles by products against NumPy, bit for bit: hard cases, all exponents, and the rules that take some."""

import numpy as np
import pytest
import schuss
from conftest import assert_same_bits
from schuss import _core, reference

pytestmark = pytest.mark.skipif(
    not _core.can_make_roots_by_products, reason="the kernels that run here have no roots by products"
)
ROOTED = ["AdaGrad", "RMSprop", "Adam", "AdamW", "AMSGrad", "NAdam", "RAdam", "AdaDelta"]
VECTOR = 8


@pytest.fixture(autouse=True, params=[True, False], ids=["products", "processor"])
def by_products(request):
    _core.set_roots_by_products(request.param)
    assert _core.roots_by_products() is request.param
    yield request.param
    _core.set_roots_by_products(None)


def roots(x):
    """AdaDelta's step, ``u = sqrt(d + eps) / sqrt(h + eps) g`` and ``p -= lr u``, with all but d, lr and eps one."""
    room = np.full(len(x) + VECTOR, -0.0)
    start = -room.ctypes.data % 64 // room.itemsize
    p, ones, d = room[start : start + len(x)], np.ones_like(x), x.copy()  # vectors begin where p does, on a line
    _core.step("AdaDelta", (-1.0, 1.0, 0.0, -0.0), p, ones, [("h", np.ones_like(x)), ("d", d)], None, [])
    return p


def check(x):
    """In vectors of each place, and beside others, as one that is out of range takes a whole vector with it."""
    x = np.asarray(x, np.float64)
    with np.errstate(all="ignore"):
        expected = -0.0 - -1.0 * np.sqrt(x)
    for shift in (0, VECTOR):
        padded = np.concatenate([np.ones(shift), x])
        assert_same_bits(roots(padded)[shift:], expected)


def square_roots_modulo(c, bits):
    """All odd M below 2**bits with M*M = c modulo 2**bits, for c = 1 modulo 8: bit by bit."""
    found = [1, 3, 5, 7]
    for n in range(3, bits):
        found = [m + extra for m in found for extra in (0, 1 << n) if ((m + extra) ** 2 - c) % (1 << (n + 1)) == 0]
        found = sorted({m % (1 << n + 1) for m in found})
    return found


def test_roots_beside_the_middle_of_two_numbers():
    """Those x whose roots are nearest to where rounding changes: M*M - c is x times a power of 2, M has 54 bits."""
    hard = []
    for c in range(1 - 8 * 40, 8 * 40, 8):
        for bits in (54, 55):
            for m in square_roots_modulo(c % (1 << bits), bits):
                for middle in range(m, 1 << 54, 1 << bits):
                    x, rest = divmod(middle**2 - c, 1 << bits)
                    if middle >> 53 == 1 and rest == 0 and x >> 52 == 1:
                        hard.append(float(x) * 2.0 ** (bits % 2))  # the same root but for a power of 2
    assert len(hard) > 50
    check(hard)
    check(np.array(hard) * 2.0**-600)
    check(np.array(hard) * 2.0**900)


def test_perfect_squares_and_their_neighbours():
    k = np.arange(1, 200_001, dtype=np.float64)
    for x in (k * k, np.nextafter(k * k, 0), np.nextafter(k * k, np.inf)):
        check(x)


def test_all_exponents_and_what_has_none():
    rng = np.random.default_rng(0)
    exponents = np.repeat(np.arange(-1074, 1024), VECTOR)
    check(np.ldexp(1 + rng.random(len(exponents)), exponents))
    check(np.ldexp(np.nextafter(2.0, 0), np.arange(-1022, 1023)))
    for strange in (0.0, -0.0, np.inf, -np.inf, np.nan, -1.0, 5e-324, 2.0**-1022, np.finfo(float).max):
        for place in range(2 * VECTOR):
            x = rng.random(3 * VECTOR)
            x[place] = strange
            check(x)


def test_random_numbers():
    rng = np.random.default_rng(1)
    check(rng.random(1_000_003))
    check(np.exp(rng.uniform(-600, 600, 1_000_003)))


def test_billions_of_random_numbers(thorough):
    rng = np.random.default_rng(2)
    for _ in range(200):
        check(np.ldexp(1 + rng.random(5_000_000), rng.integers(-1, 1, 5_000_000)))


@pytest.mark.parametrize("options", [{}, {"clip_value": 0.5, "weight_decay": 0.1}, {"ema": 0.9}])
@pytest.mark.parametrize("rule", ROOTED)
def test_rules(rule, options):
    """All lengths around two vectors, with rows of zeros, with subnormal numbers in some, over several steps."""
    rng = np.random.default_rng(0)
    params = {n: rng.normal(size=n) for n in (1, 7, 8, 9, 15, 16, 17, 23, 24, 25, 33, 129, 1025, 3001)}
    theirs = {name: p.copy() for name, p in params.items()}
    opt, ref = getattr(schuss, rule)(**options), getattr(reference, rule)(**options)
    for t in range(7):
        grads = {name: rng.normal(size=name) * (rng.random(name) < 0.7) for name in params}
        grads[3001][:20] = 1e-160
        opt.update(params, grads)
        with np.errstate(all="ignore"):
            ref.update(theirs, grads)
        for name, p in theirs.items():
            assert_same_bits(params[name], p, f"{name} after step {t + 1}")
            for slot, array in ref.state[name].items():
                assert_same_bits(opt.state[name][slot], array, f"{name} {slot}")


@pytest.mark.parametrize("rule", ["RMSprop(centered)", "RMSprop(momentum)", "RMSprop(both)"])
def test_forms_of_rmsprop(rule):
    given = {"centered": "momentum" not in rule, "momentum": 0.0 if "centered" in rule else 0.9}
    rng = np.random.default_rng(0)
    p, g = {"p": rng.normal(size=3001)}, [{"p": rng.normal(size=3001)} for _ in range(4)]
    theirs, opt, ref = {"p": p["p"].copy()}, schuss.RMSprop(**given), reference.RMSprop(**given)
    for each in g:
        opt.update(p, each)
        ref.update(theirs, each)
    assert_same_bits(p["p"], theirs["p"])
    for slot, array in ref.state["p"].items():
        assert_same_bits(opt.state["p"][slot], array, slot)


def test_what_was_measured_is_told():
    assert schuss.info()["roots_by_products"] is _core.roots_by_products()
