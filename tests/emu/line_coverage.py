"""Line coverage of the kernels by the tests of the emulated engine, by gcov; fails below 90 % of the lines of any file.

python tests/emu/line_coverage.py
"""

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict

import build

BAR = 0.9


def main():
    folder = build.build("coverage").parent
    for old in folder.glob("*.gcda"):
        old.unlink()
    env = {**os.environ, "CCM_EMU_FLAVOUR": "coverage"}
    # One process: counters are written at its end, and several would wait for each other.
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist"]
    tests += ["tests/test_cuda_emulated.py", "tests/test_cuda_crew.py", "tests/test_cuda_filter.py"]
    tests += ["-m", "not sanitized"]
    if subprocess.run(tests, cwd=build.ROOT, env=env).returncode:
        sys.exit("coverage: the tests fail")
    gcov = shutil.which("gcov") or sys.exit("coverage: gcov was not found (it comes with g++)")
    hits = defaultdict(dict)
    for notes in sorted(folder.glob("*.gcda")):
        subprocess.run([gcov, "--json-format", notes.name], cwd=folder, check=True, capture_output=True)
    for report in sorted(folder.glob("*.gcov.json.gz")):
        for file in json.loads(gzip.decompress(report.read_bytes()))["files"]:
            path = (folder / file["file"]).resolve()
            if path.parent in build.CUDA_ROOMS and path.name != "device.h":
                for line in file["lines"]:
                    lines = hits[path.name]
                    lines[line["line_number"]] = lines.get(line["line_number"], 0) + line["count"]
        report.unlink()
    if not hits:
        sys.exit("coverage: gcov found no kernels")
    low = []
    for name, lines in sorted(hits.items()):
        missed = sorted(n for n, count in lines.items() if not count)
        share = 1 - len(missed) / len(lines)
        print(f"{name:22} {len(lines):4} lines {share:7.1%}  missed: {', '.join(map(str, missed)) or '-'}")
        low += [name] if share < BAR else []
    total = sum(len(v) for v in hits.values())
    print(f"{'all':22} {total:4} lines {sum(c > 0 for v in hits.values() for c in v.values()) / total:7.1%}")
    sys.exit(f"below {BAR:.0%}: {', '.join(low)}" if low else 0)


if __name__ == "__main__":
    main()
