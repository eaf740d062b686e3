"""Pairs of input and output, and the loop that works on them: what ``encode`` and ``decode`` share."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .messages import FAILURES, UsageError, complain, reason

__all__ = ["IMAGE_SUFFIXES", "Job", "plan_jobs", "prepare", "rounded", "run_jobs"]

IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tga", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class Job:
    """One input and where its output goes; "-" is standard input or output, None no output."""

    source: str
    target: str | None


def _walk(folder: Path, suffixes: set[str]) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix.lower() in suffixes)


def plan_jobs(inputs: list[str], out: str, suffixes: set[str], new_suffix: str) -> list[Job]:
    """Pair inputs with outputs. Raises UsageError if they do not go together."""
    several = len(inputs) > 1 or any(os.path.isdir(p) for p in inputs)
    into = several or os.path.isdir(out) or out.endswith(("/", os.sep))
    if not into or out == "-":
        if several:
            raise UsageError("several inputs need a folder as output")
        return [Job(inputs[0], out)]
    if os.path.exists(out) and not os.path.isdir(out):
        raise UsageError(f"several inputs need a folder as output, and {out} is a file")
    jobs = []
    for name in inputs:
        if name == "-":
            raise UsageError("standard input needs an output file, not a folder")
        path = Path(name)
        found = _walk(path, suffixes) if path.is_dir() else [path]
        for p in found:
            inside = p.relative_to(path) if path.is_dir() else Path(p.name)
            jobs.append(Job(str(p), str(Path(out) / inside.with_suffix(new_suffix))))
    return jobs


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(error.errno, "a file, where a folder is needed for the output", str(folder)) from None


def run_jobs(jobs: list[Job], args, work: Callable[[Job], dict], verb: str, suffixes: set[str]) -> int:
    """Do the jobs, complain about those that fail, go on with the others."""
    from tqdm import tqdm

    if not jobs:
        complain(", ".join(args.paths[:-1]), f"nothing to {verb}: no file ends in {', '.join(sorted(suffixes))}")
        return 1
    failed = False
    written: set[str] = set()
    show = len(jobs) > 1 and sys.stderr.isatty() and not args.quiet
    with tqdm(jobs, disable=not show, unit="file", desc=verb, leave=False) as bar:
        for job in bar:
            start = time.perf_counter()
            report = {"input": job.source, "output": job.target}
            try:
                if job.target not in (None, "-"):
                    if os.path.realpath(job.target) in written:
                        raise FileExistsError(None, f"{job.target} is the output of another input, too")
                    if os.path.isfile(job.target) and not args.force:
                        raise FileExistsError(None, f"{job.target} exists (--force replaces it)")
                    written.add(os.path.realpath(job.target))
                    _make_folder(Path(job.target).parent)
                report.update(work(job), total_seconds=round(time.perf_counter() - start, 4))
            except BrokenPipeError:
                raise
            except FAILURES as error:
                failed = True
                why = reason(error, job.source)
                report.update(error=why, type=type(error).__name__)
                with bar.external_write_mode(sys.stderr):
                    complain("standard input" if job.source == "-" else job.source, why)
            if args.json:
                print(json.dumps(report), flush=True)
            elif args.verbose and "error" not in report:
                with bar.external_write_mode(sys.stderr):
                    print(
                        f"{job.source} -> {job.target}  {report['width']}x{report['height']}  {report['bytes']} bytes"
                        f"  {report['bpp']:.3f} bpp  {report['total_seconds']:.2f} s",
                        file=sys.stderr,
                    )
    return int(failed)


def prepare() -> None:
    """Process-wide settings that the library itself does not touch."""
    import warnings

    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # --max-pixels takes its place
    warnings.filterwarnings("ignore", module="PIL")  # about odd metadata; stderr is for one-line errors


def rounded(seconds: dict) -> dict:
    """Seconds by stage, to a tenth of a millisecond."""
    return {name: round(value, 4) for name, value in seconds.items()}
