"""A short run of every kind of hostile input, and all inputs again that once found something."""

from pathlib import Path

import pytest
import run
import target

CORPUS = Path(__file__).with_name("corpus")
#: Cases of each kind: two to four seconds of processor time. Every run of the suite takes the same ones.
CASES = {"files": 20, "plans": 60, "weights": 100, "pictures": 100, "strings": 50, "coder": 500}
FEW = {"files": 6, "plans": 10, "weights": 10, "pictures": 20, "coder": 50}


@pytest.fixture(scope="module")
def made():
    """What tests a kind, made once."""
    known = {}

    def one(kind):
        if kind not in known:
            known[kind] = run.target(kind)
        return known[kind]

    return one


def outcomes(tested, seeds):
    return {target.run(tested, tested.case(seed)) for seed in seeds}


@pytest.mark.parametrize("kind", FEW)
def test_a_few_cases(made, kind):
    assert len(outcomes(made(kind), range(10000, 10000 + FEW[kind]))) > 1  # some are refused, some are not


@pytest.mark.slow
@pytest.mark.parametrize("kind", CASES)
def test_some_cases(made, kind):
    assert len(outcomes(made(kind), range(CASES[kind]))) > 1


def _found():
    """The corpus; the largest pictures, which end in z on every instruction set, take two to four seconds each."""
    for path in sorted(CORPUS.glob("*-*")):
        yield pytest.param(path, marks=[pytest.mark.slow] * path.name.endswith("-z.ccm"), id=path.name)


@pytest.mark.parametrize("path", [*_found()])
def test_what_was_found(made, path, monkeypatch):
    tested = made(path.name.partition("-")[0])
    monkeypatch.setattr(tested, "thorough", True, raising=False)
    target.run(tested, path.read_bytes())


def test_cases_are_those_of_their_seeds(made):
    for kind in FEW:
        assert made(kind).case(5) == made(kind).case(5)
