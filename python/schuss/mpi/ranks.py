"""How ranks talk: what they agree on, how they wait, and how each hears of another's failure."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import py_object, pythonapi
from hashlib import blake2b
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from .._extras import need
from ..checks import shown

Facts = Sequence[tuple[str, str]]

_ALARM = 1  # the tag of the one kind of message that is not part of a collective
_TEXT = 1000  # bytes of an error that others are told
_SPINS = 200  # looks at a request before the processor is left to others for a while


def _abandon(requests: Any) -> None:
    """Never let go of requests that will not be done, as a rank has failed, nor of the memory that they hold.

    MPI may write into it until it is finalized, which is after Python is.
    """
    pythonapi.Py_IncRef(py_object(requests))


class RankError(RuntimeError):
    """Another rank has failed; the message says which, and with what.

    Parameters
    ----------
    rank : int
        Which.
    text : str
        What it told.
    """

    rank: int
    text: str

    def __init__(self, rank: int, text: str) -> None:
        super().__init__(rank, text)
        self.rank, self.text = rank, text

    def __str__(self) -> str:
        return f"rank {self.rank} has failed: {self.text}"


class Ranks:
    """A communicator of ours alone, in which no rank waits for one that has failed.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm, or None
        It is duplicated; all of its ranks make this at the same time. None is MPI.COMM_WORLD.
    """

    comm: Any
    rank: int
    size: int

    def __init__(self, comm: Any) -> None:
        self.MPI: Any = need("mpi4py.MPI", "schuss.mpi", extra="mpi")
        if comm is None:
            comm = self.MPI.COMM_WORLD
        if not isinstance(comm, self.MPI.Intracomm):
            raise TypeError(f"comm must be an intracommunicator of mpi4py, as MPI.COMM_WORLD; got {shown(comm)}")
        if comm == self.MPI.COMM_NULL:
            raise ValueError("comm is MPI.COMM_NULL: this process is none of its ranks")
        self.comm = comm.Dup()
        self.rank, self.size = self.comm.rank, self.comm.size
        self.ended: str | None = None  # why no step can follow
        self.told: BaseException | None = None  # the last error that all ranks know of
        self._under_way: dict[int, Any] = {}  # requests, by their objects' addresses
        self._within = False

    def close(self) -> None:
        """Let go of the communicator; all ranks do this."""
        if self.ended is None:
            self.comm.Free()
            self.ended = "it has been closed"

    def leave(self, error: BaseException) -> None:
        """Go, as of an error of which the others may not know: they raise when they next wait for this rank."""
        if self.ended is None:
            self._alarm(error)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What all ranks do at the same time: an error of one ends it for all."""
        if self.ended is not None:
            raise RuntimeError(f"this sharded optimizer cannot go on: {self.ended}")
        if self._within:
            raise RuntimeError(
                "this sharded optimizer is in use: by another thread, or by a function that it has called"
            )
        self._within = True
        try:
            yield
        except BaseException as error:
            if error is not self.told:
                self._alarm(error)
            raise
        finally:
            self._within = False
            self.told = None

    def _alarm(self, error: BaseException) -> None:
        """Tell the others, who may be waiting for this rank anywhere."""
        text = text_of(error)
        self.ended = f"rank {self.rank} has failed ({text}), and the others may have gone on; load a checkpoint"
        data = _encoded(text)[:_TEXT]
        for other in range(self.size):
            if other != self.rank:
                self.started(self.comm.Isend([data, self.MPI.BYTE], dest=other, tag=_ALARM))
        _abandon(self._under_way)

    def _listen(self) -> None:
        status = self.MPI.Status()
        if not self.comm.Iprobe(source=self.MPI.ANY_SOURCE, tag=_ALARM, status=status):
            return
        data = bytearray(_TEXT)
        self.comm.Recv([data, self.MPI.BYTE], source=status.Get_source(), tag=_ALARM)
        error = RankError(status.Get_source(), bytes(data[: status.Get_count(self.MPI.BYTE)]).decode(errors="replace"))
        self.ended = f"{error}, while this rank waited for it; load a checkpoint"
        _abandon(self._under_way)
        self._raise(error)

    def known(self, error: BaseException) -> BaseException:
        """An error that all ranks are about to raise."""
        self.told = error
        return error

    def _raise(self, error: BaseException) -> NoReturn:
        raise self.known(error)

    def started(self, request: Any) -> Any:
        """Have a request's memory held until it is waited for."""
        self._under_way[id(request)] = request
        return request

    def wait(self, request: Any) -> None:
        """Until a request is done, or another rank has failed. The processor is shared with whoever has work."""
        spins = 0
        while not request.Test():
            spins += 1
            if spins % 16 == 0:
                self._listen()
            if spins > _SPINS:
                time.sleep(2e-5)
            elif hasattr(os, "sched_yield"):
                os.sched_yield()
        del self._under_way[id(request)]

    # What all ranks call with arrays of the same kind.

    def gathered(self, mine: NDArray[Any]) -> NDArray[Any]:
        """Arrays of the same shape from all ranks, as rows."""
        mine = np.ascontiguousarray(mine)
        found = np.empty((self.size, *mine.shape), mine.dtype)
        sent, came = mine.view(np.uint8), found.view(np.uint8)
        self.wait(self.started(self.comm.Iallgather([sent, self.MPI.BYTE], [came, self.MPI.BYTE])))
        return found

    def gathered_lists(self, mine: NDArray[Any]) -> list[NDArray[Any]]:
        """Arrays of one axis from all ranks, each of a length of its own."""
        lengths = self.gathered(np.array([len(mine)])).ravel().tolist()
        return self.gathered_known(mine, lengths)

    def gathered_known(self, mine: NDArray[Any], lengths: Sequence[int]) -> list[NDArray[Any]]:
        """The same where all ranks know the lengths."""
        counts = [length * mine.itemsize for length in lengths]
        found = np.empty(sum(lengths), mine.dtype)
        sent, came = np.ascontiguousarray(mine).view(np.uint8), found.view(np.uint8)
        coming = [came, counts, self.MPI.BYTE]
        self.wait(self.started(self.comm.Iallgatherv([sent, self.MPI.BYTE], coming)))
        return np.split(found, np.cumsum(lengths)[:-1])

    def exchanged(self, outgoing: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """What each rank has for this one: ``outgoing`` has an array of one axis for each, all of one dtype."""
        dtype = outgoing[0].dtype
        sending = np.array([each.nbytes for each in outgoing])
        coming = self.gathered(sending)[:, self.rank]
        data = np.concatenate([np.ascontiguousarray(each) for each in outgoing]).view(np.uint8)
        found = np.empty(int(coming.sum()), np.uint8)
        incoming = [found, coming.tolist(), self.MPI.BYTE]
        self.wait(self.started(self.comm.Ialltoallv([data, sending.tolist(), self.MPI.BYTE], incoming)))
        return [each.view(dtype) for each in np.split(found, np.cumsum(coming)[:-1])]

    def agree(self, error: BaseException | None = None, facts: Facts = ()) -> None:
        """Go on if no rank has an error, and all have the same facts; else raise, in all of them."""
        digest = blake2b(_encoded("\0".join(f"{label}\0{value}" for label, value in facts)), digest_size=32).digest()
        text = b"" if error is None else _encoded(text_of(error))[:_TEXT]
        head = np.zeros(1 + 32 + _TEXT, np.uint8)
        head[0] = error is not None
        head[1:33] = np.frombuffer(digest, np.uint8)
        head[33 : 33 + len(text)] = np.frombuffer(text, np.uint8)
        heads = self.gathered(head)
        failed = np.flatnonzero(heads[:, 0])
        if len(failed):
            if error is not None:
                self._raise(error)
            told = heads[failed[0], 33:].tobytes().rstrip(b"\0").decode(errors="replace")
            self._raise(RankError(int(failed[0]), told))
        if (heads[:, 1:33] != heads[0, 1:33]).any():
            self._raise(ValueError(self._difference(facts)))

    @contextmanager
    def agreed(self) -> Iterator[list[tuple[str, str]]]:
        """Around what each rank does by itself: all agree on how it has ended, and on the facts that it adds."""
        error = None
        facts: list[tuple[str, str]] = []
        try:
            yield facts
        except Exception as found:
            error = found
        self.agree(error, facts)

    def _difference(self, facts: Facts) -> str:
        data = np.frombuffer(json.dumps(list(facts)).encode(), np.uint8)
        told = [json.loads(each.tobytes()) for each in self.gathered_lists(data)]
        for place in range(max(map(len, told))):
            lines = [each[place] if place < len(each) else ["the number of parameters", "fewer"] for each in told]
            for other, line in enumerate(lines):
                if line != lines[0]:
                    label = lines[0][0] if lines[0][0] == line[0] else "what comes next"
                    ours, theirs = (x[1] if label == x[0] else f"{x[0]} ({x[1]})" for x in (lines[0], line))
                    return f"the ranks differ in {label}: rank 0 has {ours}, rank {other} has {theirs}"
        return "the ranks differ in a way that cannot be told"


def text_of(error: BaseException) -> str:
    """What others are told of an error."""
    try:
        text = str(error)
    except Exception:  # of a class of the user's
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _encoded(text: str) -> bytes:
    return text.encode(errors="backslashreplace")
