"""Checkpoints, read: by as many ranks as there are now, whoever has written them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..base import Optimizer
from ..checkpoint import load as load_whole
from ..files import read_whole
from ..formats import elements_of
from ..memory import copy_of, in_files
from ..options import Params
from ..shards import INDEX_BEGINS, Index, is_index
from ..shares import Piece, Shares, Tensor
from .ranks import Ranks
from .sharded import BUCKET, Sharded


class Checkpoint(NamedTuple):
    """What a checkpoint held: the sharded optimizer, and the parameters if they were saved with it.

    Parameters
    ----------
    optimizer : Sharded
        After as many steps as it had made.
    params : dict or list of ndarray, or None
        All of them, on each rank.
    """

    optimizer: Sharded
    params: Any  # a dict or a list of arrays, or None


def load(
    path: str | os.PathLike[str],
    comm: Any = None,
    *,
    params: Params | None = None,
    classes: Sequence[type[Optimizer]] = (),
    parts: int | None = None,
    weight: Literal["mean", "sum"] | None = None,
    reduction: Literal["tree", "mpi"] | None = None,
    grad_dtype: Literal["given", "bfloat16"] | None = None,
    bucket: int = BUCKET,
    state_dir: str | os.PathLike[str] | None = None,
) -> Checkpoint:
    """Read what :meth:`Sharded.save` has written with any number of ranks, or :meth:`schuss.Optimizer.save` with one.

    Parameters
    ----------
    path : str or path
        Of the index, or of the file; all ranks can read it and the shares beside it.
    comm : mpi4py.MPI.Intracomm, optional
        The ranks that go on; ``MPI.COMM_WORLD`` if it is not given.
    params : mapping or list, optional
        Arrays of the parameters' names, shapes and dtypes, as ``numpy.memmap``, into which they are read; new ones are
        made if it is not given. Where a file turns out to be damaged they have some of it.
    classes : sequence of types, optional
        As for :func:`schuss.load`.
    parts, weight, reduction, grad_dtype : optional
        As for :class:`Sharded`; those of the run that was saved if they are not given.
    bucket, state_dir : optional
        As for :class:`Sharded`.

    Returns
    -------
    Checkpoint
        A pair of the sharded optimizer, of whose state each rank has read its share alone, and of the parameters: those
        that were given, a dict or list of new ones, or None where none were saved.

    Raises
    ------
    ValueError
        If a file is damaged, cut short, or not one of ours; or as :class:`Sharded` does.
    FileNotFoundError, PermissionError, ...
        As the system says.
    RankError
        If another rank has raised one of these.
    ImportError
        If mpi4py or safetensors is not installed.

    Examples
    --------
    >>> import numpy as np, os, schuss, tempfile
    >>> from schuss.mpi import Sharded, load
    >>> params, opt = {"W": np.ones(3)}, Sharded(schuss.Momentum(lr=0.5))
    >>> opt.update(params, {"W": np.array([1.0, 0.0, 0.0])})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "run.json")
    ...     opt.save(path, params)
    ...     again, params = load(path)
    >>> again.optimizer.t, params["W"]
    (1, array([0.5, 1. , 1. ]))
    """
    ranks = Ranks(comm)
    found = None
    given = {"parts": parts, "weight": weight, "reduction": reduction, "grad_dtype": grad_dtype}
    asked: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    try:
        with ranks.together(), ranks.agreed():
            if is_index(read_whole(path, most=INDEX_BEGINS)):
                found = _read(path, ranks, classes, state_dir, params)
                asked = {**found.sharing, **asked}
            elif params is not None:
                raise ValueError(
                    f"params: {os.fspath(path)} is of one process, and read by schuss.load into new arrays"
                )
            else:
                opt, params = load_whole(path, classes)
        others: dict[str, Any] = {"bucket": bucket, "state_dir": state_dir}
        if found is None:
            return Checkpoint(Sharded(opt, ranks, **asked, **others), params)
        sharded = Sharded(found.optimizer, ranks, **asked, **others)
    except BaseException:
        ranks.close()
        raise
    if found.has_state:  # else the first step cuts, as in a run that was not interrupted
        sharded._go_on(found.shares)
    return Checkpoint(sharded, found.params)


class _Found(NamedTuple):
    optimizer: Optimizer  # with this rank's state
    params: Any
    shares: Shares
    sharing: dict[str, Any]
    has_state: bool


def _read(
    path: str | os.PathLike[str],
    ranks: Ranks,
    classes: Sequence[type[Optimizer]],
    state_dir: str | os.PathLike[str] | None,
    into: Params | None,
) -> _Found:
    """What the index and the shares hold for this rank."""
    with Index.read(path) as index, in_files(state_dir):
        tensors, params = index.tensors, into
        if into is not None:
            index.read_params(into)
        elif index.has_params:
            read = [index.whole_param(i) for i in range(len(tensors))]
            params = read if index.listed else {t.name: p for t, p in zip(tensors, read, strict=True)}
        if params is not None:
            by_name: Any = params
            tensors = [Tensor.of(t.name, by_name[t.name], by_rows=t.rows_stay) for t in tensors]
        shares = Shares(tensors, ranks.size, whole=index.whole)
        state = {}
        for piece in shares.pieces[ranks.rank]:
            tensor = tensors[piece.tensor]
            if index.slots[piece.tensor]:
                state[tensor.name] = {slot: _share_of(index, tensor, piece, slot) for slot in index.slots[piece.tensor]}
        opt = index.optimizer(classes, state)
        return _Found(opt, params, shares, index.sharing, any(index.slots))


def _share_of(index: Index, tensor: Tensor, piece: Piece, slot: str) -> NDArray[Any]:
    """A piece of a slot, in the order in which the parameter lies now."""
    i, first, last = piece
    if index.whole or elements_of(slot) > 1:
        return copy_of(index.state(i, slot, first, last))
    if index.tensors[i].way == tensor.way:
        flat = index.state(i, slot, first, last)
    else:
        flat = np.asarray(tensor.line(index.whole_state(i, slot))[piece.slice])
    return copy_of(flat.reshape(-1, *tensor.shape[1:]) if tensor.rows_stay else flat)
