"""The commands behind :mod:`ccm_fast.cli`; each takes the parsed arguments and returns an exit code."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ccm_fast.errors import CcmFastError

__all__ = ["bench", "decode", "encode", "env", "freeze", "info", "profile", "selftest"]

IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tga", ".tif", ".tiff", ".webp"}
# What one file may fail with while the others go on. The last two: a picture too large for this machine.
FAILURES = (CcmFastError, OSError, ValueError, MemoryError, RuntimeError)


def complain(name: str | None, message: object) -> None:
    """One line on stderr."""
    text = " ".join(str(message).split()) or type(message).__name__
    print(f"ccm-fast: {name}: {text}" if name else f"ccm-fast: {text}", file=sys.stderr, flush=True)


def reason(error: BaseException, source: str | None = None) -> str:
    """An error's message; of a file error with the file's name, unless that is ``source``, which stands before it."""
    if isinstance(error, OSError) and error.strerror:
        name = error.filename
        return error.strerror if name is None or os.fspath(name) == source else f"{os.fspath(name)}: {error.strerror}"
    return str(error) or type(error).__name__


class UsageError(Exception):
    """Wrong arguments that argparse cannot see."""


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


def _run(jobs: list[Job], args, work: Callable[[Job], dict], verb: str, suffixes: set[str]) -> int:
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


def _usage(command: str, error: UsageError) -> int:
    complain(None, f"{command}: {error} (see ccm-fast {command} --help)")
    return 2


def _settings(args) -> None:
    """Process-wide settings that the library itself does not touch."""
    import warnings

    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # --max-pixels takes its place
    warnings.filterwarnings("ignore", module="PIL")  # about odd metadata; stderr is for one-line errors


def _rounded(seconds: dict) -> dict:
    return {name: round(value, 4) for name, value in seconds.items()}


def encode(args) -> int:
    """``ccm-fast encode``."""
    try:
        if len(args.paths) < 2:
            raise UsageError("an input and an output are needed")
        if args.json and args.paths[-1] == "-":
            raise UsageError("--json and an image cannot both go to standard output")
        jobs = plan_jobs(args.paths[:-1], args.paths[-1], IMAGE_SUFFIXES, ".ccm")
    except UsageError as error:
        return _usage("encode", error)
    from ccm_fast.effort import DEFAULT_EFFORT, EffortWarning
    from ccm_fast.files import encode_file, model_for

    _settings(args)
    try:
        model = model_for(args.model)
    except FAILURES as error:
        complain(None, reason(error))
        return 1

    bars = not args.quiet and sys.stderr.isatty() and (args.effort or DEFAULT_EFFORT) > DEFAULT_EFFORT

    def work(job: Job) -> dict:
        import io
        import warnings

        from tqdm import tqdm

        seconds: dict[str, float] = {}
        source = io.BytesIO(sys.stdin.buffer.read()) if job.source == "-" else job.source
        target = sys.stdout.buffer if job.target == "-" else job.target
        options = {"lanes": args.lanes, "threads": args.threads, "max_pixels": args.max_pixels, "timings": seconds}
        with warnings.catch_warnings(record=True) as notes, tqdm(disable=not bars, unit="step", leave=False) as bar:
            warnings.simplefilter("always", EffortWarning)

            def progress(done: int, steps: int) -> None:
                bar.total = steps
                bar.update(done - bar.n)

            options |= {"effort": args.effort, "progress": progress}
            report = encode_file(source, target, args.quality, model, **options)
        for note in notes:
            complain(job.source, note.message)
        return {**report, "seconds": _rounded(seconds)}

    return _run(jobs, args, work, "encode", IMAGE_SUFFIXES)


def decode(args) -> int:
    """``ccm-fast decode``."""
    suffix = "." + (args.format or "png").lower().lstrip(".")
    try:
        if len(args.paths) == 1 and args.latents:
            jobs = [Job(args.paths[0], None)]
        elif len(args.paths) == 1:
            raise UsageError("an input and an output are needed")
        else:
            jobs = plan_jobs(args.paths[:-1], args.paths[-1], {".ccm"}, suffix)
        if args.json and jobs and jobs[0].target == "-":
            raise UsageError("--json and an image cannot both go to standard output")
        if args.latents and (len(jobs) != 1 or os.path.isdir(args.paths[0])):
            raise UsageError("--latents needs exactly one input file")
    except UsageError as error:
        return _usage("decode", error)
    from ccm_fast.engines import stage
    from ccm_fast.files import decode_bytes, model_for, read_bytes
    from ccm_fast.images import atomic_write, output_format, save_picture

    _settings(args)
    try:
        model = model_for(args.model) if args.model else None
        output_format(suffix)
        if args.latents and os.path.isfile(args.latents) and not args.force:
            raise FileExistsError(None, f"{args.latents} exists (--force replaces it)")
    except FAILURES as error:
        complain(None, reason(error))
        return 1
    save_options = {} if args.save_quality is None else {"quality": args.save_quality}

    def work(job: Job) -> dict:
        import numpy as np

        seconds: dict[str, float] = {}
        to_file = job.target not in (None, "-") and not args.format and Path(job.target).suffix
        file_format = output_format(Path(job.target).suffix if to_file else suffix)
        data = read_bytes(sys.stdin.buffer if job.source == "-" else job.source, args.max_pixels)
        options = {"threads": args.threads, "engine": args.engine, "max_pixels": args.max_pixels}
        decoded = decode_bytes(data, model, timings=seconds, **options)
        if args.latents:
            with atomic_write(args.latents) as file:
                np.save(file, decoded.latents)
        if job.target is not None:
            target = sys.stdout.buffer if job.target == "-" else job.target
            with stage(seconds, "write"):
                save_picture(decoded.picture, target, file_format, **save_options)
        p = decoded.packet
        bpp = 8 * len(data) / (p.width * p.height)
        report = {"width": p.width, "height": p.height, "bytes": len(data), "bpp": bpp, "quality": p.quality}
        return {**report, "seconds": _rounded(seconds)}

    return _run(jobs, args, work, "decode", {".ccm"})


def describe(data: bytes) -> dict:
    """What can be said of a .ccm file without decoding it. Raises BitstreamError."""
    from ccm_fast.errors import DamagedError
    from ccm_fast.stream.container import ALPHA, EXIF, ICC, parse_container
    from ccm_fast.stream.packet import guess_groups, peek

    container = parse_container(data)
    fixed = peek(container.packet, None)
    packet = guess_groups(container.packet, None)
    if packet is None:
        raise DamagedError("no number of groups makes the checksum right: the data is damaged or cut off")
    names = {ALPHA: "alpha", EXIF: "exif", ICC: "icc"}
    sizes = [len(s) for s in packet.streams]
    return {
        "bytes": len(data),
        "version": data[3] & 0x0F,
        "width": fixed.width,
        "height": fixed.height,
        "grey": fixed.grey,
        "quality": packet.quality,
        "bpp": 8 * len(data) / (fixed.width * fixed.height),
        "fingerprint": fixed.fingerprint.hex(),
        "model": _model_name(fixed.fingerprint),
        "groups": packet.groups,
        "lanes": {"z": packet.lanes[0], "y": list(packet.lanes[1:])},
        "parts": {
            "container": len(data) - len(container.packet),
            "header": len(packet.header()),
            "z": sizes[0],
            "y": sizes[1:],
        },
        "chunks": {names.get(kind, kind): len(content) for kind, content in container.chunks.items()},
    }


def _model_name(fingerprint: bytes) -> str | None:
    """The shipped model with this fingerprint, if this installation can tell."""
    try:
        from ccm_fast.files import shipped_fingerprints

        return shipped_fingerprints().get(fingerprint, (None,))[0]
    except (ImportError, OSError, ValueError):
        return None


def _lines(report: dict) -> Iterator[str]:
    r, parts = report, report["parts"]
    kind = "grey" if r["grey"] else "colour"
    yield f"{r['width']}x{r['height']} {kind}, quality {r['quality']:g}, {r['bytes']} bytes, {r['bpp']:.4f} bpp"
    model = f" ({r['model']})" if r["model"] else ""
    yield f"  format version {r['version']}, model {r['fingerprint']}{model}, {r['groups']} groups"
    yield f"  bytes  container {parts['container']}, header {parts['header']}, z {parts['z']}, y {parts['y']}"
    yield f"  lanes  z {r['lanes']['z']}, y {r['lanes']['y']}"
    if r["chunks"]:
        yield "  chunks " + ", ".join(f"{name} {size}" for name, size in r["chunks"].items())


def info(args) -> int:
    """``ccm-fast info``."""
    failed = False
    for name in args.files:
        try:
            if name == "-":
                data = sys.stdin.buffer.read()
            else:
                data = Path(name).read_bytes()
            report = {"file": name, **describe(data)}
        except FAILURES as error:
            failed = True
            why = reason(error, name)
            complain(name, why)
            report = {"file": name, "error": why, "type": type(error).__name__}
        if args.json:
            print(json.dumps(report))
        elif "error" not in report:
            first, *rest = _lines(report)
            print("\n".join((f"{name}: {first}", *rest)))
    return int(failed)


def selftest(args) -> int:
    """``ccm-fast selftest``."""
    from ccm_fast.selftest import run

    results = []
    for check in run(args.model):
        results.append(check)
        if not args.json:
            print(f"{'ok  ' if check['ok'] else 'FAIL'}  {check['name']}  {check['note']}".rstrip(), flush=True)
    good = all(check["ok"] for check in results)
    if args.json:
        print(json.dumps({"ok": good, "checks": results}))
    else:
        print("all checks passed" if good else "SOME CHECKS FAILED; please report them together with `ccm-fast env`")
    return int(not good)


def env(args) -> int:
    """``ccm-fast env``."""
    from ccm_fast.collect_env import collect, format_env

    print(json.dumps(collect()) if args.json else format_env())
    return 0


def freeze(args) -> int:
    """``ccm-fast freeze``."""
    from ccm_fast.train.ship import ship

    try:
        report = ship(args.checkpoint, args.out, args.data, args.test, progress=not args.quiet and sys.stderr.isatty())
    except FAILURES as error:
        complain(None, reason(error))
        return 1
    print(json.dumps(report, indent=1))
    return 0


def profile(args) -> int:
    """``ccm-fast profile``."""
    from ccm_fast import profile as profiler
    from ccm_fast.bench.timing import write_json
    from ccm_fast.images import atomic_write

    options = {"device": args.device, "threads": args.threads, "repeats": args.repeats, "graph": args.graph}
    try:
        result = profiler.profile(args.files, args.model, **options)
        if args.trace:
            with atomic_write(args.trace) as file:
                file.write(json.dumps(profiler.chrome_trace(result)).encode())
        if args.json == "-":
            print(json.dumps(result))
        else:
            print(profiler.report(result))
        if args.json not in (None, "-"):
            write_json(args.json, result)
    except FAILURES as error:
        complain(None, reason(error))
        return 1
    return 0


def bench(args) -> int:
    """``ccm-fast bench``."""
    from ccm_fast.bench.run import BENCHMARKS, run

    unknown = sorted(set(args.what) - set(BENCHMARKS))
    if unknown:
        return _usage("bench", UsageError(f"{unknown[0]} is none of {', '.join(BENCHMARKS)}"))
    try:
        run(args.what or list(BENCHMARKS), Path(args.out), device=args.device, quick=args.quick)
    except FAILURES as error:
        complain(None, reason(error))
        return 1
    return 0
