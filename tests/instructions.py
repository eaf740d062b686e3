"""Instructions that the hot loops take, counted by callgrind: the same on a busy machine as on a quiet one.

python tests/instructions.py            compare with tests/instructions.json
python tests/instructions.py --update   write it anew, after a change that is meant
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STORED = Path(__file__).with_name("instructions.json")
# Counts repeat exactly; this is for changes that are none: another patch release of the C library, say.
TOLERANCE = 0.03
sys.path.insert(0, str(ROOT / "_build_backend"))
from ccm_sources import CSRC, isa_flags, isa_macros  # noqa: E402

CPU = ("kernels", "kernels_scalar", "kernels_avx2", "rans_cpu", "rans_encode", "rans_avx2", "winograd_int")
SOURCES = ("base/cpu", "base/crc32c", "base/memory", "model/rows", *(f"entropy/cpu/{name}" for name in CPU))


def compiler() -> str:
    """Name and version of the compiler that CXX, or c++, names."""
    command = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    done = subprocess.run([command, "--version"], capture_output=True, text=True) if command else None
    return done.stdout.splitlines()[0] if done and done.stdout else ""


def missing() -> str | None:
    """Why instructions cannot be counted here, or None."""
    if platform.machine() not in ("x86_64", "amd64") or sys.platform != "linux":
        return f"counted on x86-64 Linux only, not on {sys.platform} {platform.machine()}"
    if not shutil.which("valgrind"):
        return "valgrind is not installed (Debian, Ubuntu: apt-get install valgrind)"
    if not compiler():
        return "no C++ compiler was found"
    header = Path(shutil.which("valgrind")).resolve().parents[1] / "include/valgrind/callgrind.h"
    return None if header.exists() else f"{header} is missing (Debian, Ubuntu: part of the package valgrind)"


def build(folder: Path) -> Path:
    """The program, with setup.py's flags."""
    cxx = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    flags = ["-std=c++17", "-O3", "-g0", "-fPIC", "-fvisibility=hidden", *isa_macros(["_avx2"])]
    flags += [f"-I{CSRC}", "-pthread"]
    objects, running = [], []
    for source in [*(CSRC / f"{name}.cpp" for name in SOURCES), ROOT / "tests/cpp/hot_loops.cpp"]:
        objects.append(folder / f"{source.stem}.o")
        running.append(subprocess.Popen([cxx, *flags, *isa_flags(source), "-c", str(source), "-o", str(objects[-1])]))
        if len(running) == 2:
            _wait(running.pop(0))
    for process in running:
        _wait(process)
    program = folder / "hot_loops"
    subprocess.run([cxx, *map(str, objects), "-pthread", "-o", str(program)], check=True)
    return program


def _wait(process: subprocess.Popen) -> None:
    if process.wait():
        raise RuntimeError(f"{' '.join(process.args[-3:])} does not compile")


def count() -> dict[str, float]:
    """Instructions per multiply-add, value, symbol or byte of every hot loop."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/counts", "-q"]
        command.append(str(build(folder)))
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300)
        lines = [line.rsplit(" ", 1) for line in done.stdout.splitlines()]
        if done.returncode or not lines or any(label == "WRONG" for label, _ in lines):
            raise RuntimeError(f"hot_loops failed: {done.stdout[-500:]} {done.stderr[-1500:]}")
        found = {}
        for number, (label, units) in enumerate(lines, 1):
            text = (folder / f"counts.{number}").read_text()
            found[label] = int(re.search(r"^totals: (\d+)", text, re.M)[1]) / float(units)
        return found


def main() -> int:
    """Count, compare or update."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true")
    why = missing()
    args = parser.parse_args()
    if why:
        print(why, file=sys.stderr)
        return 2
    found = count()
    before = json.loads(STORED.read_text())["counts"] if STORED.exists() else {}
    for label, value in found.items():
        change = f"{100 * (value / before[label] - 1):+7.2f} %" if label in before else "    new"
        print(f"{label:24} {value:9.3f} {change}")
    if args.update:
        rounded = {label: round(value, 4) for label, value in found.items()}
        STORED.write_text(json.dumps({"compiler": compiler(), "counts": rounded}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
