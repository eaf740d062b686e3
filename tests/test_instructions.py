"""Hot loops must not grow: instruction counts against tests/instructions.json."""

import json

import instructions
import pytest

WHY = instructions.missing()


@pytest.mark.slow
@pytest.mark.skipif(WHY is not None, reason=str(WHY))
def test_instruction_counts():
    stored = json.loads(instructions.STORED.read_text())
    if stored["compiler"] != instructions.compiler():
        pytest.skip(f"counts are those of {stored['compiler']}; this is {instructions.compiler()}")
    found = instructions.count()
    # Valgrind hides what the processor lacks: on one without AVX2 its loops are not there.
    assert set(found) == set(stored["counts"]) or not any("avx2" in label for label in found)
    grown = {
        k: (v, found[k]) for k, v in stored["counts"].items() if found.get(k, 0) > v * (1 + instructions.TOLERANCE)
    }
    assert not grown, (
        f"more instructions than before (was, is): {grown}; if meant: python tests/instructions.py --update"
    )
    shrunk = {
        k: (v, found[k]) for k, v in stored["counts"].items() if found.get(k, v) < v * (1 - instructions.TOLERANCE)
    }
    assert not shrunk, f"fewer instructions than before, well done: python tests/instructions.py --update ({shrunk})"
