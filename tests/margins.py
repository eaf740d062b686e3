"""How far tests' values are from their bounds: a pytest plugin, which benchmarks/margins.py runs.

    PYTHONPATH=tests python -m pytest -p margins --margins FILE [TESTS]

Comparisons in assert statements (``<``, ``<=``, ``>``, ``>=``, ``== pytest.approx(...)``) and calls of ``allclose`` and
its kin are recorded while the tests run, and only tests that have some do. FILE gets a JSON object per line: ``test``,
``place`` (file:line), ``text`` and ``slack``. The slack is what is left to the bound, as a share of the larger of both
sides (of the tolerance, where there is one); the least of all times that the line ran. Tests fail as they always do.
"""

import ast
import builtins
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from _pytest.assertion import rewrite

CLOSE = {
    "allclose": (1e-5, 1e-8),
    "isclose": (1e-5, 1e-8),
    "assert_close": (1.3e-6, 1e-5),
    "assert_allclose": (1e-7, 0),
}
SIGNS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "=="}
ApproxScalar = type(pytest.approx(1.0))


class Recorder:
    """What the instrumented lines call; the least slack of each line of each test."""

    def __init__(self):
        self.test = ""
        self.least = {}
        self.texts = {}

    def note(self, place, slack):
        if slack is not None:
            key = (self.test, place)
            self.least[key] = min(self.least.get(key, np.inf), slack)

    def compared(self, place, any_is_enough, operators, *values):
        """The value of a chain of comparisons."""
        result = None
        for operator, a, b in zip(operators, values, values[1:], strict=False):
            if operator == "==":
                self.note(place, approximate(a, b))
                found = a == b
            else:
                low, high = (a, b) if operator[0] == "<" else (b, a)
                self.note(place, distance(low, high, any_is_enough))
                found = {"<": low < high, "<=": low <= high}.get(operator.replace(">", "<"))
            result = found if result is None else result and found
        return result

    def close(self, place, name, call, a, b, *rest, **options):
        """What ``call(a, b, ...)`` gives; `name` is its own, for its tolerances."""
        rtol, atol = CLOSE[name]
        if len(rest) > 0:
            rtol = rest[0]
        rtol, atol = options.get("rtol", rtol), options.get("atol", atol)
        a64, b64 = numbers(a), numbers(b)
        if a64 is not None and b64 is not None and a64.shape == b64.shape and a64.size:
            allowed = atol + rtol * np.abs(b64)
            with np.errstate(all="ignore"):
                used = np.where(a64 == b64, 0, np.abs(a64 - b64) / allowed)
            self.note(place, 1 - float(np.nanmax(used)))
        return call(a, b, *rest, **options)


def numbers(value):
    """As an array of float64, or None."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().double().numpy()
    try:
        return np.asarray(value, np.float64)
    except (TypeError, ValueError):
        return None


def distance(low, high, any_is_enough):
    """(high - low) as a share of the larger of both; of arrays the least, or the greatest where any one will do."""
    low, high = numbers(low), numbers(high)
    if low is None or high is None or not low.size or not high.size:
        return None
    with np.errstate(all="ignore"):
        share = (high - low) / np.maximum(np.maximum(np.abs(low), np.abs(high)), 1e-300)
    share = share[np.isfinite(share)]
    return float(share.max() if any_is_enough else share.min()) if share.size else None


def approximate(a, b):
    """What is left of the tolerance of ``a == pytest.approx(b)``, or None if neither side is one."""
    if isinstance(a, ApproxScalar):
        a, b = b, a
    if not isinstance(b, ApproxScalar) or not np.isfinite(float(b.expected)):
        return None
    return 1 - float(abs(a - b.expected) / b.tolerance) if b.tolerance else None


class Instrument(ast.NodeTransformer):
    """Makes assert statements and calls of ``allclose`` tell the recorder."""

    def __init__(self, file, recorder):
        self.file, self.recorder = file, recorder
        self.inside = 0  # of assert statements
        self.any_is_enough = False
        self.count = 0

    def place(self, node):
        self.count += 1
        place = f"{self.file}:{node.lineno}"
        text = ast.unparse(node)
        if self.recorder.texts.setdefault(place, text) != text:  # a second one on its line
            place += f":{node.col_offset}"
            self.recorder.texts[place] = text
        return place

    def tell(self, node, method, *arguments, keywords=()):
        function = ast.Attribute(ast.Name("@margins", ast.Load()), method, ast.Load())
        return ast.fix_missing_locations(ast.copy_location(ast.Call(function, list(arguments), list(keywords)), node))

    def visit_Assert(self, node):
        self.inside += 1
        node.test = self.visit(node.test)
        self.inside -= 1
        return node

    def visit_comprehension(self, node):  # its conditions choose, and bound nothing
        node.iter = self.visit(node.iter)
        return node

    def visit_Compare(self, node):
        signs = [SIGNS.get(type(o)) for o in node.ops]
        bounded = any(s != "==" for s in signs) or "approx(" in ast.unparse(node)
        if not self.inside or not bounded or None in signs:
            return self.generic_visit(node)
        place = ast.Constant(self.place(node))
        operators = ast.Tuple([ast.Constant(s) for s in signs], ast.Load())
        sides = [node.left, *node.comparators]
        return self.tell(node, "compared", place, ast.Constant(self.any_is_enough), operators, *sides)

    def visit_Call(self, node):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if name in CLOSE and len(node.args) >= 2 and not any(isinstance(a, ast.Starred) for a in node.args[:2]):
            place = ast.Constant(self.place(node))
            rest = node.args
            return self.tell(node, "close", place, ast.Constant(name), node.func, *rest, keywords=node.keywords)
        before, self.any_is_enough = self.any_is_enough, name == "any"
        node = self.generic_visit(node)
        self.any_is_enough = before
        return node


class Plugin:
    def __init__(self, path):
        self.file = open(path, "w", encoding="utf-8", buffering=1)  # noqa: SIM115, open as long as tests run
        self.recorder = Recorder()
        self.functions = {}  # file: names of its functions that bound something, or call one that does
        self.rewrite_asserts = rewrite.rewrite_asserts
        rewrite.rewrite_asserts = self.instrumented
        setattr(builtins, "@margins", self.recorder)  # no name of a module's, as pytest's own
        rewrite._read_pyc = lambda *_: None  # what is there is not instrumented
        rewrite._write_pyc = lambda *_: True

    def instrumented(self, module, source, module_path=None, config=None):
        file = Path(module_path).name
        bounding = set()
        for node in module.body:
            instrument = Instrument(file, self.recorder)
            instrument.visit(node)
            names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
            if instrument.count or names & bounding:
                bounding.add(getattr(node, "name", ""))
        self.functions[file] = bounding
        self.rewrite_asserts(module, source, module_path, config)

    def pytest_collection_modifyitems(self, config, items):
        chosen = [i for i in items if i.originalname in self.functions.get(i.path.name, ())]
        config.hook.pytest_deselected(items=[i for i in items if i not in set(chosen)])
        items[:] = chosen

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item):
        self.recorder.test = item.nodeid

    def pytest_runtest_logfinish(self):
        for (test, place), slack in self.recorder.least.items():
            row = {"test": test, "place": place, "text": self.recorder.texts[place], "slack": slack}
            self.file.write(json.dumps(row) + os.linesep)
        self.recorder.least.clear()


def pytest_addoption(parser):
    parser.addoption("--margins", metavar="FILE", required=True, help="where to write what is left to each bound")


def pytest_configure(config):
    config.pluginmanager.register(Plugin(config.getoption("--margins")))
