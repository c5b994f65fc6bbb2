"""Groups: patterns of parameters' names, each with arguments of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Any

import numpy as np

from .checks import shown
from .options import Params


class Groups:
    """The groups as they were given. The first pattern that matches a name counts; group 0 is of what none matches.

    Parameters
    ----------
    given : mapping
        Pattern -> arguments.

    Raises
    ------
    TypeError
        If it is no mapping of mappings.
    """

    def __init__(self, given: Any) -> None:
        if not isinstance(given, Mapping) or not all(isinstance(each, Mapping) for each in given.values()):
            raise TypeError(f"groups must be a dict of pattern -> dict of arguments, got {shown(given)}")
        frozen = {
            str(pattern): MappingProxyType({k: _kept(v) for k, v in each.items()}) for pattern, each in given.items()
        }
        if len(frozen) < len(given):
            raise ValueError(f"groups must have each pattern once, got {', '.join(map(shown, given))}")
        self.given: Mapping[str, Mapping[str, Any]] = MappingProxyType(frozen)
        self._known = False  # whether each pattern has been seen to match a name

    def __bool__(self) -> bool:
        return bool(self.given)

    def number_of(self, name: Any) -> int:
        """The number of a name's group: 0, or the place of the first pattern that matches, from 1 on."""
        patterns = enumerate(self.given, 1)
        return next((i for i, pattern in patterns if fnmatchcase(str(name), pattern)), 0)

    def numbers_of(self, names: Sequence[Any], params: Params) -> list[int]:
        """The numbers of these names' groups. A group that none of ``params`` is of is an error, the first time."""
        if not self._known:
            everything = [str(name) for name in (params.keys() if hasattr(params, "keys") else range(len(params)))]
            found = {self.number_of(name) for name in everything}
            for i, pattern in enumerate(self.given, 1):
                if not any(fnmatchcase(name, pattern) for name in everything):
                    raise ValueError(f"groups[{pattern!r}] matches no parameter; there are {', '.join(everything)}")
                if i not in found:
                    raise ValueError(
                        f"groups[{pattern!r}] is of no parameter, as patterns before it match all that it does; the "
                        "first that matches counts: give it an earlier place"
                    )
            self._known = True
        return [self.number_of(name) for name in names]


def _kept(value: Any) -> Any:
    """A number instead of an array of no axes, which its owner may change."""
    return value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value


NO_GROUPS = Groups({})
