"""What `make test` leaves to `make test-all`: combinations, never a value."""

import itertools
from types import SimpleNamespace

import pytest
import thinned


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("sizes", [(21, 6), (13, 9), (4, 3), (18, 2), (3, 4), (1, 5), (2, 2, 7)])
def test_every_value_stays(sizes, n):
    names = "abc"[: len(sizes)]
    combinations = [dict(zip(names, c, strict=True)) for c in itertools.product(*map(range, sizes))]
    stays = thinned.kept(combinations, n)
    left = [c for c, stay in zip(combinations, stays, strict=True) if stay]
    assert {pair for c in left for pair in c.items()} == {pair for c in combinations for pair in c.items()}
    assert len(left) <= len(combinations) / n + max(sizes)
    assert thinned.kept(combinations[1:2], n) == [True]  # what is asked for by its name


def test_tests_are_told_as_deselected(monkeypatch):
    class Item:
        path = "a.py"

        def __init__(self, name, index, n):
            self.originalname, self.nodeid, self.n = name, f"{name}{index}", n
            values = zip("ab", ("xyz"[index // 3], [index % 3]), strict=True)
            self.callspec = SimpleNamespace(params=dict(values))

        def get_closest_marker(self, name):
            return SimpleNamespace(args=(self.n,)) if self.n and name == "thinned" else None

    said = []
    config = SimpleNamespace(hook=SimpleNamespace(pytest_deselected=lambda items: said.extend(items)))
    items = [Item(name, k, n) for name, n in (("x", 3), ("y", 0)) for k in range(9)]
    for everything in (True, False):
        monkeypatch.setattr(thinned, "ALL", everything)
        left = list(items)
        thinned.deselect(config, left)
        assert (len(left), len(said)) == ((18, 0) if everything else (12, 6))
    assert not set(said) & set(left) and {i.originalname for i in said} == {"x"}
