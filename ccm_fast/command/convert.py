"""``ccm-fast convert``: a data set in one format to another, by processes here or by Ray."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from .machine import default_jobs
from .messages import UsageError, complain, interactive, reason, say, usage

__all__ = ["run"]


def _check(args) -> tuple[Path, Path]:
    source, target = Path(args.source).absolute(), Path(args.target).absolute()
    if target.exists() and not target.is_dir():
        raise UsageError(f"the target is a folder, and {args.target} is a file")
    real = Path(os.path.realpath(target))
    if real == Path(os.path.realpath(source)) or Path(os.path.realpath(source)) in real.parents:
        raise UsageError("the target must not lie in the source")
    return source, target


def run(args) -> int:
    """``ccm-fast convert``."""
    try:
        source, target = _check(args)
    except UsageError as error:
        return usage("convert", error)
    from ccm_fast.convert.manifest import SettingsError, open_manifest
    from ccm_fast.convert.recode import Recoder
    from ccm_fast.convert.units import find_units

    model = args.model if args.model is None or not os.path.exists(args.model) else os.path.abspath(args.model)
    recoder = Recoder(
        to=args.to.lower().lstrip("."),
        quality=args.quality,
        model=model,
        effort=args.effort,
        save_quality=args.save_quality,
        measure=args.psnr,
        max_pixels=args.max_pixels,
        device=args.device,
    )
    try:
        recoder.check()
        units = find_units(source, recoder)
        settings = {**recoder.settings(), "column": args.column}
        with open_manifest(target, settings, args.force) as manifest:
            todo = [unit for unit in units if not manifest.is_done(unit, source)]
            for line in _watched(_lines(todo, source, target, recoder, args), len(todo), args):
                manifest.add(line)
                if args.json:
                    say(json.dumps(line))
            manifest.finish(units)
            return _close([manifest.lines.get(unit.name) for unit in units], len(units) - len(todo), args)
    except SettingsError as error:
        return usage("convert", UsageError(str(error)))
    except (OSError, ValueError, ImportError) as error:
        complain(None, reason(error))
        return 1


def _lines(todo: list, source: Path, target: Path, recoder, args) -> Iterator[dict]:
    options = (str(source), str(target), recoder, args.column)
    if not todo:
        return iter(())
    if args.ray:
        from ccm_fast.convert.on_ray import run_on_ray

        return run_on_ray(todo, *options, args.ray, args.jobs)
    from ccm_fast.convert.local import run_local

    jobs = args.jobs or (default_jobs(len(todo)) if args.device == "cpu" else 1)  # one process works for a GPU
    return run_local(todo, *options, min(jobs, len(todo)))


def _watched(lines: Iterator[dict], count: int, args) -> Iterator[dict]:
    """The lines, with a bar where someone watches."""
    if args.quiet or not interactive():
        yield from lines
        return
    from tqdm import tqdm

    with tqdm(total=count, unit="file", desc="convert") as bar:
        for line in lines:
            yield line
            bar.update()


def _close(lines: list[dict | None], before: int, args) -> int:
    """Say what failed, and the sums; returns the exit code."""
    lines = [line for line in lines if line is not None]
    failed = sum(line.get("failed", 0) + ("error" in line and line["kind"] != "picture") for line in lines)
    for line in lines:
        if "error" in line:
            complain(line["source"], line["error"])
        for name, why in {} if line["kind"] == "picture" else line.get("errors", {}).items():
            complain(f"{line['source']}: {name}", f"left as it was: {why}")
    if not args.quiet:
        pictures, old, new = (sum(line[k] for line in lines) for k in ("pictures", "bytes_in", "bytes_out"))
        done = f", {before} of {len(lines)} files were done before" if before else ""
        complain(None, f"{pictures} pictures, {old / 1e6:.1f} MB -> {new / 1e6:.1f} MB, {failed} failed{done}")
    return int(bool(failed))
