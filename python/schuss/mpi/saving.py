"""Checkpoints: every rank writes its share, and one of them the index that makes the shares a checkpoint."""

from __future__ import annotations

import json
import os
from secrets import token_hex
from typing import Any

import numpy as np

from .._extras import need
from ..base import Optimizer
from ..files import saved_name
from ..options import Params
from ..shards import Share, real_path, write_index, write_share
from ..shares import Shares
from ..states import savable
from .given import Given, facts_of, lines_of, look_at
from .ranks import Ranks


def save(
    ranks: Ranks,
    opt: Optimizer,
    path: str | os.PathLike[str],
    params: Params | None,
    before: Given | None,
    shares: Shares | None,
    sharing: dict[str, Any],
) -> None:
    """Write all shares, then the index; what was there before stays until that is on the disk."""
    with ranks.agreed() as facts:
        need("safetensors.numpy", "saving checkpoints", extra="checkpoint")
        where = real_path(path)
        document = {
            **savable(opt),
            "sharing": sharing,
            "list": not hasattr(params, "keys"),
            "params": params is not None,
        }
        given = before
        if params is not None:
            nothing = dict.fromkeys(params.keys()) if hasattr(params, "keys") else [None] * len(params)
            given = look_at(params, [nothing], before, ranks.size)
        if shares is None:
            shares = Shares(() if given is None else given.tensors, ranks.size, whole=opt._widest_look() == "whole")
        document["whole"] = shares.whole
        for tensor in shares.tensors:
            saved_name(tensor.name)
        pieces = shares.pieces[ranks.rank]
        lines = lines_of(given) if params is not None and given is not None else None
        wanted = None if lines is None else [np.ascontiguousarray(lines[p.tensor][p.slice]) for p in pieces]
        state = [opt._engine.state.get(shares.tensors[piece.tensor].name, {}) for piece in pieces]
        facts += [("what they do", "save()"), ("the path", os.fspath(where)), ("params given", str(params is not None))]
        if given is not None:
            facts += facts_of(given, opt)
    token = ranks.gathered(np.frombuffer(token_hex(8).encode(), np.uint8))[0].tobytes().decode()
    share = None
    try:
        with ranks.agreed():
            share = write_share(where, token, ranks.rank, ranks.size, pieces, state, wanted)
    except Exception:
        if share is not None and not ranks.ended:  # all know that there will be no index of it
            where.with_name(share.file).unlink(missing_ok=True)
        raise
    # From here on there may be an index that names these shares; if there is none, the next save removes them.
    written = ranks.gathered_lists(np.frombuffer(json.dumps(share).encode(), np.uint8))
    with ranks.agreed():
        if ranks.rank == 0:
            write_index(where, document, shares.tensors, [Share(*json.loads(each.tobytes())) for each in written])
