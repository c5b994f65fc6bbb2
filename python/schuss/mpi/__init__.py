"""Many processes: an optimizer whose state is spread over the ranks of MPI."""

from .loading import Checkpoint, load
from .ranks import RankError
from .sharded import Sharded

__all__ = ["Checkpoint", "RankError", "Sharded", "load"]
