"""How far tests with a threshold are from it, and how much that hangs on the machine: docs/experiments/margins.md.

Runs them (tests/margins.py) under limits of instruction sets, with other transforms and two threads. For every bound
the least slack over all settings is compared with its spread: a test whose spread is larger than what is left to the
bound asks luck.

    python benchmarks/margins.py [--settings default avx2] [TESTS]      (20 s to a minute of a core for each setting)
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from common import save

ROOT = Path(__file__).resolve().parents[1]
OLD = {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
SETTINGS = {
    "default": {},
    "two threads": {"OMP_NUM_THREADS": "2"},
    "scalar": {"CCM_FAST_ISA": "scalar"},
    "avx2": {"CCM_FAST_ISA": "avx2"},
    "avxvnni": {"CCM_FAST_ISA": "avxvnni"},
    "float32": {"CCM_FAST_TRANSFORMS": "float32"},
    "torch AVX2": AVX2,
    "torch SSE4": OLD,
    "float32, all AVX2": {"CCM_FAST_TRANSFORMS": "float32", "CCM_FAST_ISA": "avx2", **AVX2},
}
FILES = ("effort", "fitting", "tune", "skip", "int16", "centroids", "freeze", "train_precision")
# Of these files the tests with floats in their bounds, and none that takes a minute.
TESTS = (
    "passes_find_something or one_pass_does or more_effort_lowers or freezing_fits or files_are_smaller"
    " or the_command_line or decoders_have_what or shifts_are_means or pillow_saves_with_effort"
    " or corrections_bring or photographs_lose or weighted_error or gradients_are_near or centroid_is"
    " or every_group_gets or sensitivities_are"
)


def measure(setting: str, tests: list[str], file: Path) -> int:
    """Runs the tests, whose slacks go to a file; returns pytest's exit status."""
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **SETTINGS[setting], "PYTHONPATH": path}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "margins", "--margins", str(file), "-p", "no:cacheprovider"]
    return subprocess.run([*command, *tests], cwd=ROOT, env=environment).returncode


def summary(found: dict[str, list[dict]]) -> list[dict]:
    """For every bound of every test: the least slack, where it was, and the spread; least room first.

    Args:
        found: what the plugin has written, by setting.
    """
    slacks: dict[tuple[str, str], dict[str, float]] = {}
    for setting, lines in found.items():
        for line in lines:
            own = slacks.setdefault((line["test"].removeprefix("tests/"), line["text"]), {})
            own[setting] = min(line["slack"], own.get(setting, float("inf")))
    rows = []
    for (test, text), own in slacks.items():
        least, most = min(own.values()), max(own.values())
        where = min(own, key=own.__getitem__)
        rows.append({"test": test, "text": text, "least": least, "where": where, "spread": most - least})
    return sorted(rows, key=lambda r: r["least"] / max(r["spread"], 1e-12))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tests", nargs="*", help="arguments of pytest; without any, a list of tests with floats")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    args = parser.parse_args()
    tests = args.tests or [*(f"tests/test_{name}.py" for name in FILES), "-k", TESTS]
    found, failed = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for k, setting in enumerate(args.settings):
            file = Path(folder, f"{k}.jsonl")
            if measure(setting, tests, file):
                failed.append(setting)
            found[setting] = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    rows = summary(found)
    print(save("margins", {"settings": args.settings, "failed": failed, "rows": rows}))
    for row in rows:
        if row["spread"]:
            print(f"{row['least']:8.4f} left, spread {row['spread']:.4f}: {row['test']}: {row['text']}")


if __name__ == "__main__":
    main()
