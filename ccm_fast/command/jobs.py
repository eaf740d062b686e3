"""Which files a command works on, and where their outputs go."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ccm_fast.suffixes import IMAGE_SUFFIXES

from .messages import UsageError, reason, shown

__all__ = ["Job", "Plan", "plan_jobs"]

# Files whose names are said where a folder job leaves them out; of more, how many of which kind.
_NAMED = 5
_ENDINGS = IMAGE_SUFFIXES | {".ccm"}


class Job(NamedTuple):
    """One input and where its output goes; "-" is standard input or output, None no output."""

    source: str
    target: str | None


class Plan:
    """What is to be done.

    Attributes:
        jobs: pairs of input and output.
        several: whether this is a job on several inputs or folders, which ends with a summary.
        failures: (path, message) of folders that cannot be read.
        left_out: files in the folders that are not of the command's kind.
    """

    def __init__(self, jobs: list[Job] | None = None, several: bool = False):
        """Of jobs that are known already."""
        self.jobs = [] if jobs is None else jobs
        self.several = several
        self.failures: list[tuple[str, str]] = []
        self.left_out: list[str] = []

    def left_out_line(self) -> str | None:
        """One line about what is left out, None if nothing is."""
        names = self.left_out
        if not names:
            return None
        if len(names) <= _NAMED:
            return f"left out, not of a kind that is read here: {', '.join(names)}"
        kinds = Counter(os.path.splitext(name)[1].lower() or "no suffix" for name in names)
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        return f"left out, not of a kind that is read here: {len(names)} files ({counts})"


def _walk(folder: Path, suffixes: Iterable[str], plan: Plan) -> list[Path]:
    """The files of a folder and those within, of the suffixes; notes the others, and folders that cannot be read."""
    found = []

    def unreadable(error: OSError) -> None:
        plan.failures.append((os.fsdecode(error.filename), reason(error, os.fsdecode(error.filename))))

    for place, folders, files in os.walk(folder, onerror=unreadable):
        folders.sort()
        for name in sorted(files):
            path = Path(place, name)
            if name.startswith("._"):  # what macOS keeps beside files on foreign disks, by their suffixes
                continue
            if path.suffix.lower() in suffixes and path.is_file():
                found.append(path)
            else:
                plan.left_out.append(str(path))
    return sorted(found)


def plan_jobs(inputs: list[str], out: str, suffixes: Iterable[str], new_suffix: str) -> Plan:
    """Pair inputs with outputs.

    Args:
        inputs: files, folders, or "-".
        out: a file, a folder, or "-".
        suffixes: of the files to take from folders.
        new_suffix: of the outputs in a folder.

    Raises:
        UsageError: they do not go together.
    """
    several = len(inputs) > 1 or any(os.path.isdir(p) for p in inputs)
    into = several or os.path.isdir(out) or out.endswith(("/", os.sep))
    if not into or out == "-":
        if several:
            raise UsageError("several inputs need a folder as output")
        return Plan([Job(inputs[0], out)])
    if os.path.exists(out) and not os.path.isdir(out):
        raise UsageError(f"several inputs need a folder as output, and {shown(out)} is a file")
    if not os.path.exists(out) and Path(out).suffix.lower() in _ENDINGS and not out.endswith(("/", os.sep)):
        raise UsageError(
            f"several inputs need a folder as output, and {shown(out)} looks like a file (a folder of that name:"
            f" {shown(out)}/)"
        )
    plan = Plan(several=several)
    for name in inputs:
        if name == "-":
            raise UsageError("standard input needs an output file, not a folder")
        path = Path(name)
        found = _walk(path, suffixes, plan) if path.is_dir() else [path]
        for p in found:
            inside = p.relative_to(path) if path.is_dir() else Path(p.name)
            plan.jobs.append(Job(str(p), str(Path(out) / inside.with_suffix(new_suffix))))
    return plan
