"""docs/faults.md: a row for every fault, and tests that exist."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROWS = [
    [cell.strip() for cell in line.strip("|\n").split(" | ")]
    for line in (TESTS.parent / "docs" / "faults.md").read_text(encoding="utf-8").splitlines()
    if re.match(r"\| [FS]\d", line)
]


def names_in(path):
    """Names of the tests in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    return {f.name for f in functions if f.name.startswith("test_")}


def named(cell):
    """(file, its tests) of what a row says; "all" are all."""
    for part in cell.split(";"):
        file, names = part.split(":", 1)
        path = TESTS / f"{file.strip(' `')}.py"
        yield path, set(re.findall(r"`(test_\w+)`", names)) or {"all"} & set(names.split())


def test_every_fault_has_a_row():
    assert {row[0].split()[0] for row in ROWS} == {f"F{k}" for k in range(1, 34)} | {f"S{k}" for k in range(1, 11)}
    assert all(len(row) == 4 and all(row) for row in ROWS)


@pytest.mark.parametrize("number, cell", [(row[0], row[3]) for row in ROWS])
def test_the_tests_exist(number, cell):
    if re.fullmatch(r"as [FS]\d+", cell):
        assert cell[3:] in {row[0] for row in ROWS}
        return
    for path, names in named(cell):
        found = names_in(path)
        assert names and (names == {"all"} or names <= found), names - found
