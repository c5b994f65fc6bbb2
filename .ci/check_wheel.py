"""Check that a wheel carries the package and nothing else."""

import sys
import zipfile
from pathlib import PurePosixPath

(wheel,) = sys.argv[1:]
names = [PurePosixPath(name) for name in zipfile.ZipFile(wheel).namelist()]
metadata = {name for name in names if name.parts[0].endswith(".dist-info")}
package = [name for name in names if name not in metadata]
wrong = [
    str(name)
    for name in package
    if name.parts[0] != "schuss"
    or (name.suffix not in {".py", ".pyi", ".so", ".pyd"} and name.name != "py.typed")
    or "test" in name.name
]
for needed in ("schuss/py.typed", "schuss/_core.pyi", "schuss/__init__.py"):
    if PurePosixPath(needed) not in package:
        wrong.append(f"{needed} is missing")
if wrong:
    sys.exit(f"{wheel}: " + ", ".join(wrong))
print(f"{len(package)} files of the package, {len(metadata)} of metadata")
