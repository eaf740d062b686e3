"""The loop over files that ``encode`` and ``decode`` share: what is skipped, several at a time, and the summary."""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

from .garbage import collect_garbage
from .jobs import Job, Plan
from .machine import default_jobs, usable_cores
from .messages import complain, interactive, reason, say, shown
from .streams import same_file, taken

__all__ = ["StageTimes", "run_plan"]

# Of existing outputs, and of files with the same remark, so many are named one by one.
_NAMED = 5


class StoppedError(Exception):
    """The command is ending: the files that other threads work on are not of interest any more."""


class StageTimes(dict):
    """Seconds by stage, which a bar and a stop follow: given to the library as ``timings``.

    Attributes:
        shares: stage -> about which share of the time it takes, in the stages' order.
        notes: remarks about the file.
    """

    def __init__(self, shares: dict[str, float], stopping: threading.Event, bar=None):
        super().__init__()
        self.shares, self.notes = shares, []
        self._stopping, self._bar = stopping, bar
        self._begin: float | None = None  # of what whole() speaks of

    def _show(self, share: float) -> None:
        if self._stopping.is_set():
            raise StoppedError
        if self._bar is not None:
            self._bar.update(max(0.0, min(share, 1.0) - self._bar.n))

    def __setitem__(self, stage: str, seconds: float) -> None:
        super().__setitem__(stage, seconds)
        self._show(self._ended() if self._begin is None else 0.0)

    def progress(self, done: int, steps: int) -> None:
        """Steps within the stage after the last one that has ended."""
        current = next((share for name, share in self.shares.items() if name not in self), 0.0)
        self._show(self._ended() + current * done / max(steps, 1))

    def whole(self, done: int, steps: int) -> None:
        """Steps of all that comes after the stages that have ended, up to the writing."""
        if self._begin is None:
            self._begin = self._ended()
        self._show(self._begin + (1 - self._begin - self.shares.get("write", 0.0)) * done / max(steps, 1))

    def _ended(self) -> float:
        return sum(share for name, share in self.shares.items() if name in self)

    def rounded(self) -> dict[str, float]:
        """To a tenth of a millisecond."""
        return {name: round(seconds, 4) for name, seconds in self.items()}


class Batch:
    """A plan being worked on: what became of its files.

    Attributes:
        failed, skipped, done: numbers of files.
        before, after: bytes of the inputs that were worked on, and of their outputs.
    """

    def __init__(self, plan: Plan, args, verb: str):
        self.plan, self.args, self.verb = plan, args, verb
        self.failed = self.skipped = self.done = self.before = self.after = 0
        self._notes: dict[str, int] = {}

    def fail(self, job: Job, why: str, kind: str, quiet: bool = False) -> None:
        """One file could not be worked on."""
        self.failed += 1
        if not quiet:
            complain("standard input" if job.source == "-" else job.source, why)
        if self.args.json:
            _say_json({"input": job.source, "output": job.target, "error": why, "type": kind})

    def choose(self) -> list[Job]:
        """The jobs that are left to do: without those whose outputs exist, or are those of others."""
        left, existing = [], []
        seen: set[str] = set()
        for job in self.plan.jobs:
            if job.target in (None, "-"):
                left.append(job)
                continue
            target = os.path.realpath(job.target)
            if target in seen:
                self.fail(job, f"{job.target} is the output of another input, too", "FileExistsError")
            elif same_file(job.source, job.target):
                self.fail(job, "the output is the input itself", "FileExistsError")
            elif not self.args.force and taken(job.target):
                existing.append(job)
            else:
                left.append(job)
            seen.add(target)
        for job in existing:
            if self.args.skip_existing:
                self.skipped += 1
                if self.args.json:
                    _say_json({"input": job.source, "output": job.target, "skipped": True})
            else:
                why = f"{job.target} exists (--force replaces it)"
                self.fail(job, why, "FileExistsError", quiet=len(existing) > _NAMED)
        if len(existing) > _NAMED and not self.args.skip_existing:
            names = f"{len(existing)} outputs exist, {existing[0].target} the first"
            complain(None, f"{names} (--force replaces them, --skip-existing leaves them)")
        return left

    def finish(self, job: Job, report: dict) -> None:
        """Say what became of a file."""
        for note in report.pop("notes", ()):
            self._notes[note] = self._notes.get(note, 0) + 1
            if self._notes[note] <= _NAMED:
                complain("standard input" if job.source == "-" else job.source, note)
        if "error" in report:
            self.fail(job, report["error"], report["type"])
            return
        self.done += 1
        if job.source != "-" and job.target not in (None, "-"):
            with suppress(OSError):
                self.before, self.after = (
                    self.before + os.path.getsize(job.source),
                    self.after + os.path.getsize(job.target),
                )
        if self.args.json:
            _say_json({"input": job.source, "output": job.target, **report})
        elif self.args.verbose and sys.stderr is not None:
            size = f"{report['width']}x{report['height']}  {report['bytes']} bytes  {report['bpp']:.3f} bpp"
            line = f"{job.source} -> {job.target}  {size}  {report['total_seconds']:.2f} s"
            print(shown(line), file=sys.stderr)

    def close(self) -> int:
        """Say what was left out, and the sums; returns the exit code."""
        for note, count in self._notes.items():
            if count > _NAMED:
                complain(None, f"{note}: {count - _NAMED} more files")
        for name, why in self.plan.failures:
            complain(name, why)
        self.failed += len(self.plan.failures)
        if self.plan.several and not self.args.quiet:
            if line := self.plan.left_out_line():
                complain(None, line)
            skipped = f"{self.skipped} skipped" + (" (their outputs exist)" if self.skipped else "")
            sizes = f"; {_megabytes(self.before)} -> {_megabytes(self.after)}" if self.done else ""
            complain(None, f"{self.done} {self.verb}d, {skipped}, {self.failed} failed{sizes}")
        return int(bool(self.failed))


def _say_json(report: dict) -> None:
    import json

    say(json.dumps(report))


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


@contextmanager
def _notes_to(current: threading.local) -> Iterator[None]:
    """Let warnings of the library, for the time being, become remarks about the file that a thread is working on."""

    def show(message, category, *where, **options) -> None:
        times = getattr(current, "times", None)
        if times is not None and category.__module__.startswith("ccm_fast."):
            times.notes.append(str(message))
        else:
            other(message, category, *where, **options)

    with warnings.catch_warnings():
        other, warnings.showwarning = warnings.showwarning, show
        warnings.simplefilter("always", UserWarning)
        warnings.filterwarnings("ignore", module="PIL")  # about odd metadata; stderr is for one-line errors
        yield


def _bar(show: bool, **options) -> AbstractContextManager:
    """A progress bar as a context, or None: tqdm's import is a good part of a short command's time."""
    if not show:
        return nullcontext()
    from tqdm import tqdm

    return tqdm(leave=False, **options)


@contextmanager
def _ticking(bar) -> Iterator[None]:
    """Let a bar's clock go on while a stage takes long; ``None`` is no bar."""
    over = threading.Event()

    def tick() -> None:
        while not over.wait(1.0):
            bar.refresh()

    thread = threading.Thread(target=tick, daemon=True)
    if bar is not None:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if bar is not None:
            thread.join()


@contextmanager
def _pillow_limit(max_pixels: int | None) -> Iterator[None]:
    """Pillow's own limit, which some formats ask while they are opened, is the command's."""
    from PIL import Image

    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max_pixels
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def run_plan(
    plan: Plan,
    args,
    verb: str,
    suffixes: Iterable[str],
    shares: dict[str, float],
    start: Callable[[int | None], Callable[[Job, StageTimes], dict]],
) -> int:
    """Do the jobs, complain about those that fail, go on with the others; several at a time if there are several.

    Args:
        plan: what to do.
        args: the command's arguments: ``json``, ``verbose``, ``quiet``, ``force``, ``skip_existing``, ``jobs``,
            ``threads``, ``max_pixels``, ``inputs``.
        verb: "encode" or "decode".
        suffixes: of the files that the command takes from folders.
        shares: stages of the work, as for :class:`StageTimes`.
        start: called once, with the threads that each job may use, if there is anything to do: returns what does a job,
            and returns a report with the keys ``width``, ``height``, ``bytes`` and ``bpp``. Whatever it raises is that
            file's failure.

    Returns:
        The exit code.
    """
    batch = Batch(plan, args, verb)
    if not plan.jobs and not plan.failures:
        complain(", ".join(args.inputs), f"nothing to {verb}: no file ends in {', '.join(sorted(suffixes))}")
        return 1
    todo = batch.choose()
    if not todo:
        return batch.close()
    at_once = min(args.jobs or default_jobs(len(todo)), len(todo))
    threads = args.threads or (max(1, usable_cores() // at_once) if at_once > 1 else None)
    # Before torch is loaded: threads of its OpenMP that wait give the processor away. On a busy machine of two cores an
    # encoding at effort 5 took 14 to 22 s with it and 93 to 134 s without.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # NumPy's OpenBLAS has nothing to do here, but its threads spin for a tenth of a second once they are started.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        work = start(threads)
    except Exception as error:
        complain(None, reason(error))
        return 1
    collect_garbage()
    current, stopping = threading.local(), threading.Event()

    def attempt(job: Job, bar=None) -> dict:
        begin = time.perf_counter()
        times = current.times = StageTimes(shares, stopping, bar)
        try:
            report = work(job, times)
        except Exception as error:
            if isinstance(error, BrokenPipeError) and job.target == "-":
                raise
            return {"error": reason(error, job.source), "type": type(error).__name__, "notes": times.notes}
        seconds = {"seconds": times.rounded(), "total_seconds": round(time.perf_counter() - begin, 4)}
        return {**report, **seconds, "notes": times.notes}

    show = interactive() and not args.quiet
    with _notes_to(current), _pillow_limit(args.max_pixels):
        if len(todo) == 1:
            style = "{desc}: {percentage:3.0f}% |{bar}| {elapsed}"
            with _bar(show, total=1.0, desc=verb, delay=1, bar_format=style) as bar, _ticking(bar):
                report = attempt(todo[0], bar)
            batch.finish(todo[0], report)
            return batch.close()
        from concurrent.futures import ThreadPoolExecutor  # 5 ms that a single file need not wait

        with (
            _bar(show, total=len(todo), unit="file", desc=verb) as bar,
            ThreadPoolExecutor(at_once, "ccm-fast") as pool,
        ):
            futures = [pool.submit(attempt, job) for job in todo]
            try:
                for job, future in zip(todo, futures, strict=True):
                    report = future.result()
                    with bar.external_write_mode(sys.stderr) if bar is not None else nullcontext():
                        batch.finish(job, report)
                    if bar is not None:
                        bar.update()
            except BaseException:
                stopping.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return batch.close()
