"""Check the kernels' objects: what they export, and which instructions their loops are made of.

Usage: check_kernels.py BUILD_DIRECTORY, in which the object libraries kernels_<isa> have been built.
"""

import re
import subprocess
import sys
from pathlib import Path

# The packed square roots and divisions show that a loop is vectorised, at the width that its ISA has.
WIDTH = {"baseline": "xmm", "avx2": "ymm", "avx512": "zmm"}
RULES_WITH_ROOT = ("AdaGrad", "RMSprop", "Adam")


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def check(isa: str, path: Path) -> list[str]:
    wrong = []
    exported = [line.split()[-1] for line in run("nm", "--extern-only", "--defined-only", str(path)).splitlines()]
    if exported != [f"schuss_kernels_{isa}"]:
        wrong.append(f"{isa}: exports {exported}")
    wanted = [line.split()[-1] for line in run("nm", "--undefined-only", str(path)).splitlines()]
    # sqrt is called nowhere: its instruction is inlined. (Position-independent code names the GOT; and of moving memory
    # the C library chooses its own way for the processor.)
    if set(wanted) - {"_GLOBAL_OFFSET_TABLE_", "memcpy", "memset"}:
        wrong.append(f"{isa}: calls {wanted}")
    code = run("objdump", "-dC", "--no-show-raw-insn", str(path))
    if isa == "baseline":
        wide = re.findall(r"\t(v\w+ .*|.*%[yz]mm\d+.*)", code)
        if wide:
            wrong.append(f"baseline: {len(wide)} AVX instructions, the first: {wide[0]}")
    careful = 0
    for function in re.split(r"\n(?=[0-9a-f]{16} <)", code):
        head = function.splitlines()[0]
        if re.search(r"Careful<|carefully<|Tiny<|Gradual<", head):
            careful += 1
            if not re.search(rf"%{WIDTH[isa]}", function):
                wrong.append(f"{isa}: {head} has no {WIDTH[isa]}")
            continue
        fused = len(re.findall(r"\tv?fn?m(?:add|sub)", function))
        estimates = len(re.findall(r"\tv?(?:rsqrt|rcp)", function))
        if "Eight<" in head:  # a root by products: an estimate, and eight fused operations
            if not 0 < estimates * 8 == fused:
                wrong.append(f"{isa}: {head} has {estimates} estimates and {fused} fused operations")
            continue
        if estimates:
            wrong.append(f"{isa}: {head} approximates a root or a reciprocal")
        if fused:  # which the careful way alone has besides, on purpose
            wrong.append(f"{isa}: {head} fuses multiplications with additions")
        name = re.search(r"sweep<.*?::(\w+)<(float|double)>", head)
        if name is None:
            continue
        rule, kind = name.groups()
        suffix = "ps" if kind == "float" else "pd"
        need = [f"sub{suffix}|add{suffix}"]
        if rule in RULES_WITH_ROOT:
            need += [f"sqrt{suffix}", f"div{suffix}"]
        for operation in need:
            if not re.search(rf"v?({operation})\b.*%{WIDTH[isa]}", function):
                wrong.append(f"{isa}: {rule}<{kind}> has no {operation} on {WIDTH[isa]}")
    if bool(careful) != (isa != "baseline"):
        wrong.append(f"{isa}: {careful} careful functions")
    return wrong


build = Path(sys.argv[1])
wrong = []
checked = 0
for isa in WIDTH:
    for path in build.glob(f"CMakeFiles/kernels_{isa}.dir/cpp/kernels.cpp.o"):
        wrong += check(isa, path)
        checked += 1
if checked != len(WIDTH):
    wrong.append(f"{checked} objects found, {len(WIDTH)} expected")
if wrong:
    sys.exit("\n".join(wrong))
print(
    f"{checked} ISAs: vectorised; nothing fused or approximate but in the careful way and in roots by products; "
    "one entry point each"
)
