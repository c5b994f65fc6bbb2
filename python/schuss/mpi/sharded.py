"""An optimizer over many processes: the way of a sharded step, from the gradients of all to the parameters of all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from glob import escape
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..base import Optimizer
from ..checks import count, real, shown
from ..dtypes import computed, dtype_named, is_16_bits
from ..formats import elements_of, parameter_dtype
from ..memory import copy_of, in_files, zeros
from ..options import Grads, Params
from ..shares import Piece, Shares, Tensor
from ..states import go_on
from .given import NONE, ROWS, Given, facts_of, lines_of, look_at, place_rows, sums_of
from .moves import Buffers, Line, Moves, parts_of
from .ranks import Facts, Ranks
from .saving import save
from .step import Step

if TYPE_CHECKING:
    from typing_extensions import Self

_MOST_WAYS = 8  # of moving, as parameters may have a gradient in one step and none in the next
BUCKET = 32 << 20  # bytes

WEIGHTS, REDUCTIONS, GRAD_DTYPES = ("mean", "sum"), ("tree", "mpi"), ("given", "bfloat16")


def _checked_optimizer(optimizer: object) -> None:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be one of schuss, as schuss.Adam(); got {shown(optimizer)}")


def _hint(name: str) -> str:
    return (
        f": it is the optimizer's, .optimizer.{name}, on all ranks alike"
        if hasattr(Optimizer, name) or name == "lr"
        else ""
    )


def _bytes_of(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)


class Sharded:
    """An optimizer whose state is spread over the ranks of an MPI communicator, as in ZeRO, stage 1.

    Every rank has all parameters, and the gradients of its part of the batch. In a step the gradients are added up and
    each rank receives the sums for its share of the parameters; it steps them, with the state that it has of them
    alone, and sends them to all others.

    Parameters
    ----------
    optimizer : Optimizer
        What steps, with all its options. It is :attr:`optimizer` from now on, of which ``t``, ``lr``,
        ``last_grad_norm`` and all else are read, and set, on all ranks alike. Its ``state`` and ``ema_params`` are this
        rank's share (:meth:`gather` has them whole), and its own ``update`` and ``save`` are not to be called. If it
        has made steps in one process already it has the same state on all ranks.
    comm : mpi4py.MPI.Intracomm, optional
        Of which ranks; ``MPI.COMM_WORLD`` if it is not given.
    parts : int, optional
        Into how many parts the batch is divided, over all ranks; at least as many as ranks, and so many if it is not
        given. Their gradients are added in an order that depends on this number alone: with the same parts the
        parameters are the same, bit for bit, on any number of ranks up to it. Rank r has the parts of :attr:`my_parts`.
        Fewest bytes move where both numbers are powers of two.
    weight : {"mean", "sum"}, default "mean"
        What the step goes by: the mean of the parts' gradients or their sum. Parts count alike, however many examples
        each has; where they differ in that, sums over examples, ``weight="sum"`` and ``grad_scale`` make a mean.
    reduction : {"tree", "mpi"}, default "tree"
        Who adds over the ranks: the tree described below, or MPI itself, in an order of its own. That may be faster,
        and gives up the same bits: another number of ranks, another machine or another release of MPI may round
        otherwise. Gradients by rows are added in order all the same.
    grad_dtype : {"given", "bfloat16"}, default "given"
        What the gradients of a part travel as, if not as they were given: each part's are rounded to the nearest
        bfloat16, and the sums are those of these, in float32. Half the bytes move where a rank has one part; sums of
        several travel as float32. Gradients by rows travel as they were given.
    bucket : int, default 32 MiB
        How many bytes of all ranks' shares travel together. Two buckets are under way in each direction.
    state_dir : path, optional
        A directory, which exists, in which state and sums lie in files instead of memory; they have no names and are
        gone with the process. For what is larger than memory, together with parameters and gradients that are
        ``numpy.memmap``.

    Attributes
    ----------
    optimizer : Optimizer
        See above.
    parts : int
        How many parts the batch has, over all ranks.

    Raises
    ------
    TypeError
        If ``optimizer`` is none of schuss, or ``comm`` no intracommunicator: that must be so on all ranks.
    ValueError
        If another argument is not one of those named.
    ImportError
        If mpi4py is not installed.

    See Also
    --------
    schuss.mpi.load : What :meth:`save` has written, on any number of ranks.

    Notes
    -----
    The sum of parts: parts 0 and 1 are added, 2 and 3, ...; then these sums in the same way. The norms of
    ``clip_norm``, ``last_grad_norm``, LAMB and LARS are sums over blocks in the same order as in one process. Muon,
    Adafactor and rules of your own see whole arrays: each of their arrays is one rank's.

    All ranks make, step, save, gather and close together, and as often. A rank that raises in its own code between two
    steps leaves the others waiting, as in any program of MPI: ``mpiexec -n 4 python -m mpi4py train.py`` ends them all,
    and ``with Sharded(...) as opt:`` has the others raise at their next step.

    Memory beside the parameters: state, and the sums of gradients, of at most 1/ranks of the parameters' elements and 8
    blocks of 1,024, or as many rows as make whole blocks where gradients come by rows; and at most 7 buckets, or blocks
    of all ranks.

    With gradients by rows (:class:`schuss.Rows`), only the rows named travel. With ``sparse="touched"``, and for rules
    and options to which a zero gradient is none, only they are sent back; with ``sparse="exact"`` all rows move in a
    step, and all are sent. None is ever behind. Whether a small parameter is cut between rows its gradient at the first
    step decides.

    Parameters and gradients of 16 bits travel as they are, and are added in float32. They have the bits of one process,
    too, as has state of fewer bits (``state_dtype``). That, and ``master=None``, are for arrays in C order; gradients
    by rows are for parameters of float32 and float64 with state as wide.

    ZeRO: Rajbhandari et al., 2020, arXiv:1910.02054. PyTorch's counterpart is ``ZeroRedundancyOptimizer``, which gives
    whole tensors to ranks and promises no order of sums.

    Examples
    --------
    With one rank, which has two parts of the batch:

    >>> import numpy as np, schuss
    >>> from schuss.mpi import Sharded
    >>> params = {"W": np.ones(3)}
    >>> opt = Sharded(schuss.SGD(lr=0.5), parts=2)
    >>> opt.update_parts(params, [{"W": np.array([1.0, 0.0, 0.0])}, {"W": np.array([1.0, 2.0, 0.0])}])
    >>> params["W"]
    array([0.5, 0.5, 1. ])
    """

    optimizer: Optimizer
    parts: int

    def __init__(
        self,
        optimizer: Optimizer,
        comm: Any = None,
        *,
        parts: int | None = None,
        weight: Literal["mean", "sum"] = "mean",
        reduction: Literal["tree", "mpi"] = "tree",
        grad_dtype: Literal["given", "bfloat16"] = "given",
        bucket: int = BUCKET,
        state_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        try:
            self._ranks = comm if isinstance(comm, Ranks) else Ranks(comm)
        except TypeError:
            _checked_optimizer(optimizer)  # which may be what is wrong
            raise
        try:
            with self._ranks.together(), self._ranks.agreed() as facts:
                _checked_optimizer(optimizer)
                parts = self._ranks.size if parts is None else count("parts", parts, 1)
                if parts < self._ranks.size:
                    raise ValueError(
                        f"parts must be at least one for each of the {self._ranks.size} ranks, got {parts}; "
                        "start fewer ranks"
                    )
                for name, value, known in (
                    ("weight", weight, WEIGHTS),
                    ("reduction", reduction, REDUCTIONS),
                    ("grad_dtype", grad_dtype, GRAD_DTYPES),
                ):
                    if not isinstance(value, str) or value not in known:
                        raise ValueError(f"{name} must be one of {', '.join(known)}, got {shown(value)}")
                if grad_dtype != "given":
                    if reduction == "mpi":
                        raise ValueError(f'grad_dtype="{grad_dtype}" is for reduction="tree": MPI does not add that')
                    dtype_named(grad_dtype)  # which may not be installed
                bucket = count("bucket", bucket, 1)
                if state_dir is not None and not Path(state_dir).is_dir():
                    raise ValueError(f"state_dir must be a directory, got {shown(state_dir)}")
                sharing = {"parts": parts, "weight": weight, "reduction": reduction, "grad_dtype": grad_dtype}
                facts += [("what they do", "Sharded()"), *((name, str(value)) for name, value in sharing.items())]
                facts.append(("bucket", str(bucket)))
        except Exception:
            self._ranks.close()
            raise
        assert parts is not None
        object.__setattr__(optimizer, "_shared", True)
        self.optimizer, self.parts = optimizer, parts
        self._weight, self._reduction, self._grad_dtype = weight, reduction, grad_dtype
        self._bucket, self._state_dir = bucket, state_dir
        # Of the last step: what was given, how it lies, and who has what.
        self._given: Given | None = None
        self._shares: Shares | None = None
        self._lines: dict[int, Line] = {}
        self._pieces: dict[int, NDArray[Any]] = {}
        self._ways: dict[tuple[str, ...], Moves] = {}
        self._buffers, self._sums = Buffers(), dict[str, NDArray[Any]]()
        self._seconds = {"reduce": 0.0, "gather": 0.0}
        self._received = 0
        self._begun = False  # whether there is state of these shares, or may be
        self._has_whole_state = any(optimizer._engine.state.values())  # as of one that has made steps in one process

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"Sharded has no {name!r}{_hint(name)}")

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and (name not in ("optimizer", "parts") or "parts" in vars(self)):
            raise AttributeError(f"cannot set {name!r} of Sharded{_hint(name)}")
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        ranks = self._ranks
        return f"Sharded({self.optimizer!r}, rank {ranks.rank} of {ranks.size}, parts={self.parts})"

    @property
    def my_parts(self) -> range:
        """Which parts of the batch are this rank's, numbered from 0 over all ranks."""
        return parts_of(self._ranks.rank, self._ranks.size, self.parts)

    @property
    def traffic(self) -> Mapping[str, float]:
        """Since it was made: bytes received from other ranks, and seconds in which gradients and parameters moved."""
        ways = list(self._ways.values())
        return {
            "received": self._received + sum(way.received for way in ways),
            **{each: self._seconds[each] + sum(way.seconds[each] for way in ways) for each in ("reduce", "gather")},
        }

    @property
    def nbytes(self) -> Mapping[str, int]:
        """Bytes of this rank beside the parameters, in memory or ``state_dir``: of state, of sums and of buckets."""
        state = self.optimizer._engine.state.values()
        return {
            "state": sum(array.nbytes for slots in state for array in slots.values()),
            "sums": sum(array.nbytes for array in self._sums.values()),
            "buckets": self._buffers.nbytes,
        }

    def close(self) -> None:
        """Let go of the communicator that this has made for itself; all ranks do this, and make no step after it.

        MPI has some 2,000 of them; a program that makes many of these closes each.
        """
        if self._ranks.ended is not None:
            return
        with self._ranks.together():
            self._ranks.agree(None, [("what they do", "close()")])
        self._ranks.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if error[1] is None:
            self.close()
        elif isinstance(error[1], BaseException):
            self._ranks.leave(error[1])

    def update(self, params: Params, grads: Grads, *, grad_scale: float = 1.0) -> None:
        """Take one step, of all ranks together.

        Parameters
        ----------
        params : mutable mapping of name -> ndarray, or list of ndarray
            All parameters, with the same values on all ranks; as for :meth:`schuss.Optimizer.update`, but no floats.
        grads : mapping or list, like ``params``
            The gradients of this rank's part of the batch. One that is None must be so on all ranks.
        grad_scale : float, default 1
            The gradients are multiplied by this, the same on all ranks.

        Raises
        ------
        TypeError, ValueError, FloatingPointError
            As :meth:`schuss.Optimizer.update` does, on the rank whose arguments are wrong; and on all ranks, with the
            same text, where they differ in names, shapes, dtypes, options, rates or ``t``. Nothing has changed then.
        RankError
            On the other ranks. If a rank fails after the first write, which only a signal or MPI can make it do, no
            step can follow.
        RuntimeError
            If this rank has several parts of the batch, or if an earlier step ended in its middle.

        Notes
        -----
        At the first step the ranks compare their parameters, too, by a checksum of each array; after it that is theirs.
        """
        if len(self.my_parts) != 1:
            self._fail(RuntimeError(f"this rank has {len(self.my_parts)} parts of the batch: call update_parts()"))
        self._step(params, (grads,), grad_scale)

    def update_parts(self, params: Params, grads: Sequence[Grads], *, grad_scale: float = 1.0) -> None:
        """Take one step by the gradients of several parts of the batch.

        Parameters
        ----------
        params : mapping or list, like those of :meth:`update`
            All parameters.
        grads : sequence
            The gradients of each of :attr:`my_parts`, in this order, in memory of their own: those of
            :class:`schuss.nn.MultiLayerNet`, which uses its arrays again, are copied first.
        grad_scale : float, default 1
            The gradients are multiplied by this, the same on all ranks.

        Raises
        ------
        TypeError, ValueError, FloatingPointError, RankError, RuntimeError
            As :meth:`update` does.
        """
        if not isinstance(grads, Sequence) or isinstance(grads, (str, bytes)):
            what = type(grads).__name__
            self._fail(TypeError(f"grads must be a list, with the gradients of each part of this rank; got {what}"))
        if len(grads) != len(self.my_parts):
            mine = f"{len(self.my_parts)} of the {self.parts} parts"
            self._fail(ValueError(f"grads must have the gradients of {mine} of the batch, got {len(grads)}"))
        self._step(params, grads, grad_scale)

    def gather(self, slot: str) -> dict[Any, NDArray[Any]]:
        """Have a slot of the state whole, on all ranks, which call this together: ``gather("ema")`` the averages.

        Parameters
        ----------
        slot : str
            Its name, as in :attr:`schuss.Optimizer.state`.

        Returns
        -------
        dict
            Name of a parameter -> array, of those that have such a slot.

        Raises
        ------
        ValueError
            If there is no such slot.
        RankError
            If another rank has failed.
        """
        ranks, found = self._ranks, {}
        with ranks.together():
            ranks.agree(None, [("what they do", "gather()"), ("the slot", shown(slot)), ("t", str(self.optimizer.t))])
            if self._has_whole_state:
                return {name: slots[slot].copy() for name, slots in self.optimizer.state.items() if slot in slots}
            state = self.optimizer._engine.state
            shares = self._shares or Shares((), ranks.size)
            for tensor in shares.tensors:
                mine = state.get(tensor.name, {}).get(slot)
                told = b"" if mine is None else json.dumps([mine.dtype.name, mine.shape]).encode()
                kinds = [json.loads(each.tobytes()) for each in ranks.gathered_lists(_bytes_of(told)) if each.size]
                if not kinds and not tensor.size and self.optimizer.t:  # of which nobody has a piece
                    empty = self.optimizer._make_state(tensor.name, np.zeros(tensor.shape, dtype_named(tensor.dtype)))
                    found.update({tensor.name: empty[slot]} if slot in empty else {})
                if not kinds:
                    continue
                data = np.empty(0, np.uint8) if mine is None else np.asarray(mine, order="C").reshape(-1).view(np.uint8)
                whole = np.concatenate(ranks.gathered_lists(data)).view(dtype_named(kinds[0][0]))
                if shares.whole:
                    whole = whole.reshape(kinds[0][1])
                elif elements_of(slot) == 1:
                    whole = np.asarray(tensor.walked(whole), order="C")
                found[tensor.name] = whole
            if (
                not found
                and self.optimizer.t
                and not any(slot in slots for _, slots, _ in self.optimizer._structures())
            ):
                names = sorted({name for slots in state.values() for name in slots})
                there = ", ".join(names) or "none on this rank"
                raise self._ranks.known(ValueError(f"no parameter has the state {shown(slot)}; there is {there}"))
        return found

    def save(self, path: str | os.PathLike[str], params: Params | None = None) -> None:
        """Write the optimizer, and its parameters if given: each rank a file of its share, one of them the index.

        The index is the checkpoint. It is written when all shares are on the disk, and takes the place of the one
        before; whenever a rank or a machine stops, there is the old checkpoint or the new one, whole.

        Parameters
        ----------
        path : str or path
            Where the index is to be, the same on all ranks. The shares, in the format safetensors, lie beside it, where
            all ranks that will read them can, and begin with its name: an index that is copied or renamed alone is
            none, and the next save to this path removes them. To keep a checkpoint save to another path.
        params : mapping or list, optional
            All parameters, as for :meth:`update`.

        Raises
        ------
        ValueError, TypeError, OSError, ImportError
            As :meth:`schuss.Optimizer.save` does; on the other ranks RankError. The old checkpoint is then as it was.
        RuntimeError
            If the optimizer has made steps in one process, and none since.
        """
        if self._has_whole_state:
            self._fail(
                RuntimeError("no step has been made over ranks yet: what was saved in one process is still all of it")
            )
        sharing = {
            "parts": self.parts,
            "weight": self._weight,
            "reduction": self._reduction,
            "grad_dtype": self._grad_dtype,
        }
        with self._ranks.together():
            save(self._ranks, self.optimizer, path, params, self._given, self._shares, sharing)

    def _fail(self, error: BaseException) -> None:
        """Raise, when the others are told at the beginning of their step."""
        with self._ranks.together():
            self._ranks.agree(error)

    def _step(self, params: Params, grads: Sequence[Grads], grad_scale: float) -> None:
        ranks, opt = self._ranks, self.optimizer
        with ranks.together():
            error: Exception | None = None
            with ranks.agreed() as facts:
                scale = self._checked_scale(grad_scale)
                step, found_facts = self._prepared(params, grads, grad_scale)
                facts += found_facts
            self._given, self._shares = step.given._replace(grads=[]), step.shares
            firsts = {step.shares.tensors[p.tensor].name: p.first for p in step.shares.pieces[ranks.rank]}
            object.__setattr__(opt, "_firsts", firsts)
            self._lines, self._pieces = step.lines, step.pieces
            step.begin()
            try:
                with in_files(self._state_dir):
                    if self._has_whole_state:
                        self._take_share(step.shares)
                    opt._engine.update_share(opt, step.params, step.grads, scale, step)
            except Exception as found:
                if found is not ranks.told:
                    if step.is_together:
                        raise  # which the others, wherever they are, hear by an alarm
                    error = found  # of this rank alone, before the next point where all agree; or found by all at once
                if not ranks.ended:
                    if not self._begun:  # nothing hangs on the shares
                        self._given = self._shares = None
                    try:
                        if error is not None:
                            ranks.agree(error)
                    finally:
                        step.drain()
                raise
            if step.is_ready:
                self._begun = True
                step.end(opt._engine)

    def _checked_scale(self, grad_scale: float) -> float:
        scale = real("grad_scale", grad_scale)
        if not isfinite(scale):
            raise ValueError(f"grad_scale must be a finite number, got {shown(grad_scale)}")
        return scale / self.parts if self._weight == "mean" else scale

    def _go_on(self, shares: Shares) -> None:
        """Take the state that the optimizer has for that of these shares."""
        self._has_whole_state, self._begun = False, True
        nothing = (NONE,) * len(shares.tensors)
        self._shares, self._given = shares, Given([None] * len(shares.tensors), shares.tensors, nothing, [])

    def _prepared(self, params: Params, grads: Sequence[Grads], grad_scale: float) -> tuple[Step, Facts]:
        """The step that these arguments ask for, as far as this rank can tell."""
        opt, ranks = self.optimizer, self._ranks
        given = look_at(params, grads, self._given, ranks.size)
        opt._groups.numbers_of([], params)  # of all names, while an engine knows those of a share
        shares = self._shares
        if shares is None:  # or what is kept belongs to shares that the ranks did not agree on
            shares = Shares(given.tensors, ranks.size, whole=opt._widest_look() == "whole")
            self._ways.clear()
            self._sums.clear()
        place_rows(given, shares)
        self._refuse_in_fewer_bits(given)
        if self._has_whole_state:
            self._check_whole_state(shares)
        lines, pieces = self._lines, self._pieces
        if self._given is None or any(p is not old for p, old in zip(given.params, self._given.params, strict=True)):
            lines = lines_of(given)
            pieces = self._cut(given, shares, lines)
        facts = [("what they do", "update()"), ("grad_scale", repr(grad_scale)), *facts_of(given, opt)]
        if self._given is None:
            facts += sums_of(given)
        at_once = opt.clip_norm is not None or opt.on_nonfinite != "propagate" or opt._widest_look() != "elements"
        step = Step(
            *(ranks, shares, given, lines, pieces, self._way(given, shares)),
            parts=self.my_parts,
            at_once=at_once,
            bucket=self._bucket,
        )
        return step, facts

    def _refuse_in_fewer_bits(self, given: Given) -> None:
        """Refuse what cannot be with fewer bits: elements without a place in the whole, rows, and what has 64."""
        opt = self.optimizer
        for tensor, kind, p in zip(given.tensors, given.kinds, given.params, strict=True):
            member: Optimizer = opt._member_of(tensor.name)
            few, small = member.state_dtype != "float32", is_16_bits(p.dtype)
            if (few or (small and member.master is None)) and not tensor.straight:
                what = f'state_dtype="{member.state_dtype}"' if few else "master=None"
                raise ValueError(
                    f"params[{tensor.name!r}]: over ranks {what} is for arrays in C order; use such a copy of it, or "
                    "other options for this parameter"
                )
            if kind == ROWS and (few or small):
                group = f'groups={{{escape(str(tensor.name))!r}: {{"state_dtype": "float32"}}}}'
                raise ValueError(
                    f"grads[{tensor.name!r}] is by rows: over ranks that is for parameters of float32 and float64 with "
                    f"state as wide; {f'give it {group}' if few else 'give it dense gradients'}"
                )
            if self._grad_dtype != "given" and tensor.dtype == "float64":
                raise ValueError(
                    f"params[{tensor.name!r}] is float64, and so are its gradients; "
                    f'grad_dtype="{self._grad_dtype}" is for what is computed in float32'
                )

    def _cut(self, given: Given, shares: Shares, lines: Mapping[int, Line]) -> dict[int, NDArray[Any]]:
        """My pieces of the parameters: views, where a walk has one."""
        pieces = {}
        for piece in shares.pieces[self._ranks.rank]:
            i = piece.tensor
            if shares.whole:
                pieces[i] = given.params[i]
                continue
            pieces[i] = lines[i][piece.slice]
            if given.tensors[i].rows_stay:
                pieces[i] = pieces[i].reshape(-1, *given.tensors[i].shape[1:])
        return pieces

    def _check_whole_state(self, shares: Shares) -> None:
        """Refuse parameters that are not those of which an optimizer has state, from steps in one process."""
        state = self.optimizer.state
        names = {tensor.name for tensor in shares.tensors}
        if not names >= set(state):
            others = sorted(set(state) - names, key=str)
            raise ValueError(f"the optimizer has state of {shown(others)}, which params lacks")
        for tensor in shares.tensors:
            slots = {} if shares.whole else state.get(tensor.name, {})
            for slot, array in slots.items():
                if elements_of(slot) > 1:
                    continue
                dtype = parameter_dtype(slot, array.dtype)
                if array.shape != tensor.shape or computed(dtype) != computed(dtype_named(tensor.dtype)):
                    raise ValueError(
                        f"params[{tensor.name!r}] is {tensor.dtype} of shape {tensor.shape}, but its state was made "
                        f"for {array.dtype} of shape {array.shape}; a changed parameter needs a new optimizer"
                    )

    def _take_share(self, shares: Shares) -> None:
        """Keep my pieces of that state alone."""
        opt, state = self.optimizer, {}
        whole = opt.state
        for piece in shares.pieces[self._ranks.rank]:
            tensor, mine = shares.tensors[piece.tensor], self._pieces[piece.tensor]
            if tensor.name in whole:
                state[tensor.name] = {
                    slot: copy_of(array if shares.whole else _share_of(tensor, piece, slot, array, mine.shape))
                    for slot, array in whole[tensor.name].items()
                }
        with opt._engine:
            go_on(opt, opt, opt._memories(opt.t), opt.t, opt.skipped, state)
        self._has_whole_state, self._begun = False, True

    def _way(self, given: Given, shares: Shares) -> Moves:
        """How gradients of these kinds move; where there is nothing to add or to send, none does."""
        if given.kinds not in self._ways:
            if len(self._ways) == _MOST_WAYS:
                for way in self._ways.values():
                    self._received += way.received
                    for each in self._seconds:
                        self._seconds[each] += way.seconds[each]
                self._ways.clear()
            alone = self._ranks.size == self.parts == 1 and self._grad_dtype == "given"
            dense = {
                i: dtype_named(kind if self._grad_dtype == "given" else self._grad_dtype)
                for i, kind in enumerate(given.kinds)
                if kind not in (ROWS, NONE) and not alone
            }
            with in_files(self._state_dir):
                if not self._sums and not alone:
                    for dtype in {tensor.dtype for tensor in shares.tensors}:
                        mine = (p for p in shares.pieces[self._ranks.rank] if shares.tensors[p.tensor].dtype == dtype)
                        kind = computed(dtype_named(dtype))
                        self._sums[dtype] = zeros(sum(piece.size for piece in mine) * kind.itemsize).view(kind)
                in_order = self._reduction == "tree"
                self._ways[given.kinds] = Moves(
                    self._ranks, shares, dense, self.parts, in_order, self._bucket, self._buffers, self._sums
                )
        return self._ways[given.kinds]


def _share_of(tensor: Tensor, piece: Piece, slot: str, array: NDArray[Any], shape: tuple[int, ...]) -> Any:
    """A piece of a slot of a whole state."""
    per = elements_of(slot)
    if per > 1:
        return array[piece.first // per : -(-piece.last // per)]
    return tensor.line(array)[piece.slice].reshape(shape)
