"""Break each rule in turn, and show that the tests go red each time.

Usage: python .ci/mutate.py [--write]: with it the table goes into tests/README.md.

A kind of mutation is put into all rules at once, as they do not depend on each other: one build per kind. Then the
tests of each rule are run alone; a rule whose tests stay green has a mutant that survives.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STRUCT = re.compile(r"(struct (\w+) \{\n.*?\n\};\n)", re.DOTALL)
KINDS = ("none", "sign", "constant", "swapped slot", "skipped tail")
# Structs that are tested through another's class: its name, and the number of the case in test_bitwise.py.
VARIANTS = {
    "RMSpropCentered": ("RMSprop", "2]"),
    "RMSpropMomentum": ("RMSprop", "3]"),
    "RMSpropCenteredMomentum": ("RMSprop", "4]"),
}


def sign(struct: str) -> str:
    """The step goes the other way: of the last statement that changes p, a sign is turned."""
    if "p -= " in struct:
        return "p += ".join(struct.rsplit("p -= ", 1))
    if "p += " in struct:
        return "p -= ".join(struct.rsplit("p += ", 1))
    head, tail = re.split(r"(?=\bp = )", struct, maxsplit=1)
    return head + re.sub(r" - | \+ ", lambda m: " + " if m[0] == " - " else " - ", tail, count=1)


def constant(struct: str) -> str:
    """The first scalar is used a thousandth larger."""
    name = re.search(r"\bT (\w+)[,;]", struct)[1]
    head, body = struct.split("\n", 3)[:3], struct.split("\n", 3)[3]
    return "\n".join([*head, re.sub(rf"\b{name}\b", f"({name} * T(1.001))", body)])


def swapped_slot(struct: str) -> str:
    """The first two state arrays change places; a single one is not kept; where there is none nothing is changed."""
    half = re.search(r"measure\([^)]*T& ", struct)  # of a rule in two halves, the one that writes the state
    begin = half.start() if half else struct.rindex("operator()(")
    head, parameters, body = struct[:begin], *struct[begin:].split("{", 1)
    names = [name for name in re.findall(r"T&? (\w+)(?=[,)])", parameters) if name not in ("p", "g")]
    if len(names) == 1:
        parameters = parameters.replace(f"T& {names[0]}", f"T {names[0]}")
    elif names:
        a, b = names[:2]
        parameters = re.sub(rf"\b({a}|{b})\b", lambda m: b if m[0] == a else a, parameters)
    return head + parameters + "{" + body


def skipped_tail(sweep: str) -> str:
    """The loops leave out what does not fill a vector of 16."""
    return sweep.replace("i < n; ++i)", "i < (n > 16 ? n / 16 * 16 : n); ++i)")


def rewrite(folder: Path, kind: str) -> set[str]:
    """Put the mutation into a copy of the project; return the rules that it has changed."""
    rules = folder / "cpp" / "rules.hpp"
    text = rules.read_text()
    if kind == "skipped tail":
        sweep = folder / "cpp" / "sweep.hpp"
        sweep.write_text(skipped_tail(sweep.read_text()))
        return {name for _, name in STRUCT.findall(text)}
    mutate = {"sign": sign, "constant": constant, "swapped slot": swapped_slot}[kind]
    changed = set()

    def each(match: re.Match[str]) -> str:
        new = mutate(match[1])
        if new != match[1]:
            changed.add(match[2])
        return new

    rules.write_text(STRUCT.sub(each, text))
    return changed


def tests_of(struct: str) -> list[str]:
    """The arguments of pytest that choose the tests of one rule."""
    name, case = VARIANTS.get(struct, (struct, ""))
    chosen = f"-{name}-{case}" if case else f"[{name}- or -{name}-"
    return ["tests/test_rules.py", "tests/test_bitwise.py", "-k", f"({chosen}) and not other_isa"]


def make(folder: Path, python: Path, kind: str) -> set[str]:
    """Build a fresh copy with this mutation in all rules; return the rules that have it."""
    subprocess.run(["rm", "-rf", folder], check=True)
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    if kind == "none":
        changed = {name for _, name in STRUCT.findall((folder / "cpp" / "rules.hpp").read_text())}
    else:
        changed = rewrite(folder, kind)
    command = [python, "-m", "pip", "install", "--quiet", ".[test]"]
    subprocess.run(command, cwd=folder, check=True, stderr=subprocess.DEVNULL)
    return changed


def killer_of(folder: Path, python: Path, struct: str) -> str:
    """The first test that goes red, or 'survives'."""
    command = [python, "-m", "pytest", "-q", "-x", "-n0", "--no-header", "-p", "no:cacheprovider", *tests_of(struct)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        sys.exit(f"{struct}: its tests did not run\n{done.stdout}{done.stderr}")
    found = re.search(r"^FAILED \S+?::(\S+)", done.stdout, re.MULTILINE)
    return found[1] if found else "survives"


def write(table: dict[str, dict[str, str]]) -> None:
    """Put the table into tests/README.md."""
    kinds = KINDS[1:]
    lines = ["| rule | " + " | ".join(kinds) + " |", "| --- |" + " --- |" * len(kinds)]
    for struct, found in table.items():
        lines.append(
            f"| {struct} | " + " | ".join(f"`{found[kind]}`" if kind in found else "" for kind in kinds) + " |"
        )
    page = ROOT / "tests" / "README.md"
    before, rest = page.read_text().split("<!-- mutants -->\n")
    page.write_text(f"{before}<!-- mutants -->\n" + "\n".join(lines) + "\n<!-- end -->" + rest.split("<!-- end -->")[1])


def main() -> int:
    table: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as work:
        venv.create(Path(work) / "venv", with_pip=True)
        python, folder = Path(work) / "venv" / "bin" / "python", Path(work) / "schuss"
        for kind in KINDS:
            for struct in sorted(make(folder, python, kind)):
                killer = killer_of(folder, python, struct)
                table.setdefault(struct, {})[kind] = killer
                print(f"{kind:14} {struct:24} {killer}", flush=True)
    red = {(struct, kind): killer != "survives" for struct, kinds in table.items() for kind, killer in kinds.items()}
    mutants = {place: dead for place, dead in red.items() if place[1] != "none"}
    print(f"{sum(mutants.values())} of {len(mutants)} mutants killed")
    if "--write" in sys.argv:
        write(table)
    return 0 if all(mutants.values()) and not any(dead for place, dead in red.items() if place[1] == "none") else 1


if __name__ == "__main__":
    sys.exit(main())
