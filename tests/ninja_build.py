"""Programs and libraries of tests, compiled by ninja below build/: what has not changed is not compiled again.

Safe to use from several processes: whoever comes second waits, and finds everything there.
"""

import fcntl
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CXX = shlex.split(os.environ.get("CXX", "")) or [shutil.which("g++") or "c++"]


class Rules:
    """The text of a build.ninja: objects, and what is linked of them. Names are paths below the build's folder."""

    def __init__(self):
        cxx = shlex.join(CXX)
        self._made = set()
        self._lines = [
            "rule cxx",
            f"  command = {cxx} $flags -MMD -MF $out.d -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "rule link",
            f"  command = {cxx} $in $flags -o $out",
        ]

    def compile(self, target, source, flags):
        """Adds an object, once, and returns its name."""
        if target not in self._made:
            self._made.add(target)
            self._lines += [f"build {target}: cxx {source}", f"  flags = {shlex.join(flags)}"]
        return target

    def link(self, target, objects, flags):
        """Adds a program or a library. Of inline functions that several objects have, the first one's is kept."""
        self._lines += [f"build {target}: link {' '.join(objects)}", f"  flags = {shlex.join(flags)}"]

    def make(self, name, product):
        """Builds one product in build/NAME and returns its path."""
        folder = ROOT / "build" / name
        folder.mkdir(parents=True, exist_ok=True)
        text, file = "\n".join(self._lines) + "\n", folder / "build.ninja"
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not file.exists() or file.read_text() != text:
                file.write_text(text)
            done = subprocess.run([find_ninja(), "-C", str(folder), product], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{product} does not compile:\n{done.stdout[-8000:]}{done.stderr[-2000:]}")
        return folder / product


def find_ninja():
    """The program, of the package of this name or of the system."""
    try:
        import ninja

        return str(Path(ninja.BIN_DIR, "ninja"))
    except ImportError:
        return shutil.which("ninja") or sys.exit("ninja was not found: pip install ninja")
