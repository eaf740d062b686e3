"""Which combinations of a test's parameters run: every n-th in `make test`, all of them in `make test-all`."""

import os
from collections.abc import Iterable, Mapping

ALL = bool(os.environ.get("CCM_TEST_ALL"))


def kept(combinations: Iterable[Mapping[str, int]], n: int) -> list[bool]:
    """Which of these stay: those whose indices add up to a multiple of n, and what brings a value that they lack.

    Args:
        combinations: Index of the value of each parameter, by the parameter's name.
        n: About so many combinations for one that stays.
    """
    values = [set(c.items()) for c in combinations]
    stays = [sum(c.values()) % n == 0 for c in map(dict, values)]
    seen = set().union(*(v for v, stay in zip(values, stays, strict=True) if stay))
    for k, v in enumerate(values):
        if not v <= seen:
            stays[k] = True
            seen |= v
    return stays


def numbered(combinations: list[Mapping[str, object]]) -> list[dict[str, int]]:
    """Values of parameters by name -> their numbers, in the order in which each parameter's values come."""
    known = {}
    for name, value in (pair for c in combinations for pair in c.items()):
        values = known.setdefault(name, [])
        if value not in values:
            values.append(value)
    return [{name: known[name].index(value) for name, value in c.items()} for c in combinations]


def deselect(config, items: list) -> None:
    """Takes out of pytest's list of tests what those with the marker `thinned(n)` leave to `make test-all`."""
    if ALL:
        return
    functions = {}
    for item in items:
        marker = item.get_closest_marker("thinned")
        if marker:
            functions.setdefault((item.path, item.originalname), (marker.args[0], []))[1].append(item)
    out = set()
    for n, members in functions.values():
        stays = kept(numbered([item.callspec.params for item in members]), n)
        out.update(item for item, stay in zip(members, stays, strict=True) if not stay)
    if out:
        config.hook.pytest_deselected(items=sorted(out, key=lambda item: item.nodeid))
        items[:] = [item for item in items if item not in out]
