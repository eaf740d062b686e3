"""``ccm-fast decode``: .ccm files to images."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

from .ahead import open_model_ahead
from .batch import StageTimes, run_plan
from .jobs import Job, Plan, plan_jobs
from .messages import UsageError, usage
from .options import split_paths
from .streams import binary_input, check_terminal, open_target

__all__ = ["run"]

# Of 24 megapixels to PNG.
SHARES = {"z": 0.01, "h_s": 0.04, "entropy": 0.15, "g_s": 0.6, "write": 0.2}


def _same(a: str, b: str) -> bool:
    return os.path.realpath(a) == os.path.realpath(b)


def _plan(args, suffix: str) -> Plan:
    """What to do. Raises UsageError for what does not go together."""
    if args.latents and len(args.paths) == 1 and args.output is None:
        args.inputs, out = args.paths, None
        plan = Plan([Job(args.paths[0], None)])
    else:
        out = split_paths(args)
        plan = plan_jobs(args.inputs, out, {".ccm"}, suffix)
    check_terminal(out, args.force)
    if args.thumbnail is not None and (args.latents or args.groups is not None):
        raise UsageError(f"--{'latents' if args.latents else 'groups'} and --thumbnail do not go together")
    if args.latents and args.crop is not None:
        raise UsageError("--latents are of the whole picture: not with --crop")
    if args.latents:
        if len(plan.jobs) != 1 or os.path.isdir(args.inputs[0]):
            raise UsageError("--latents needs exactly one input file")
        job = plan.jobs[0]
        if args.latents != "-" and any(name and _same(args.latents, name) for name in (job.source, job.target)):
            raise UsageError("--latents and another file of this command are the same file")
    if [out, args.latents, "-" if args.json else None].count("-") > 1:
        raise UsageError("only one of the image, --latents and --json can go to standard output")
    return plan


def run(args) -> int:
    """``ccm-fast decode``."""
    suffix = "." + (args.format or "png").lower().lstrip(".")
    try:
        plan = _plan(args, suffix)
    except UsageError as error:
        return usage("decode", error)

    def start(threads: int | None) -> Callable[[Job, StageTimes], dict]:
        if args.engine in (None, "cpu") and args.thumbnail is None:
            open_model_ahead(args.model, args.inputs[0])
        from ccm_fast.files import decode_bytes, opened
        from ccm_fast.images import orientation, output_format, save_picture, strip_metadata, to_pillow
        from ccm_fast.reading import read_bytes
        from ccm_fast.region import turned_region_of
        from ccm_fast.stream.container import parse_container
        from ccm_fast.stream.packet import peek
        from ccm_fast.timing import stage

        model = opened(args.model, args.engine) if args.model else None
        output_format(suffix)
        options = {"threads": threads, "engine": args.engine, "max_pixels": args.max_pixels, "depth": args.depth}
        save_options = {} if args.save_quality is None else {"quality": args.save_quality}

        def part(data: bytes) -> tuple[int, int, int, int] | None:
            if args.crop is None:
                return None
            container = parse_container(data)
            head, turn = peek(container.packet, args.max_pixels), orientation(container.chunks)
            return turned_region_of(args.crop, turn, head.width, head.height)

        def thumbnail(data: bytes, target: str, file_format: str, times: StageTimes) -> dict:
            from PIL import Image, ImageOps

            import ccm_fast.interop.pillow  # noqa: F401 - Pillow opens .ccm files, scaled while decoded where it can

            from .info import describe

            report = describe(data)
            if args.crop is None:
                image = Image.open(io.BytesIO(data))
                image.model = model
            else:
                part_of = {**options, "depth": 8, "region": part(data), "latents": False}
                image = to_pillow(decode_bytes(data, model, **part_of).picture)
            image.thumbnail((args.thumbnail, args.thumbnail))
            image = ImageOps.exif_transpose(image)
            whole = io.BytesIO()
            image.save(whole, file_format, icc_profile=image.info.get("icc_profile"), **save_options)
            with stage(times, "write"), open_target(target, args.force) as file:
                file.write(whole.getbuffer())
            return {name: report[name] for name in ("width", "height", "bytes", "bpp", "quality")}

        def work(job: Job, times: StageTimes) -> dict:
            to_file = job.target not in (None, "-") and not args.format and Path(job.target).suffix
            file_format = output_format(Path(job.target).suffix if to_file else suffix)
            data = read_bytes(binary_input(job.source), args.max_pixels)
            if args.thumbnail is not None:
                return thumbnail(data, job.target, file_format, times)
            wanted = bool(args.latents)
            watched = {"timings": times, "progress": times.whole}
            watched |= {"groups": args.groups, "region": part(data), "latents": wanted}
            decoded = decode_bytes(data, model, **watched, **options)
            if args.latents:
                import numpy as np

                whole = io.BytesIO()  # NumPy writes to real files by their descriptor
                np.save(whole, decoded.latents)
                with open_target(args.latents, args.force) as file:
                    file.write(whole.getbuffer())
            picture = strip_metadata(decoded.picture) if args.strip else decoded.picture
            if job.target is not None:
                with stage(times, "write"), open_target(job.target, args.force) as file:
                    save_picture(picture, file, file_format, **save_options)
            p = peek(decoded.packet_bytes, None)
            report = {"width": p.width, "height": p.height, "bytes": len(data)}
            return report | {"bpp": 8 * len(data) / (p.width * p.height), "quality": 1 + p.quality_code / 32}

        return work

    return run_plan(plan, args, "decode", {".ccm"}, SHARES, start)
