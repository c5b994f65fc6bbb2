"""Prints what the installed package needs for some of its extras, a requirement a line."""

import sys
from importlib.metadata import requires

from packaging.requirements import Requirement

for each in map(Requirement, requires("schuss") or ()):
    if each.marker and each.name != "schuss" and any(each.marker.evaluate({"extra": extra}) for extra in sys.argv[1:]):
        print(f"{each.name}{each.specifier}")
