"""``ccm-fast decode``: .ccm files to images."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .jobs import Job, plan_jobs, prepare, rounded, run_jobs
from .messages import FAILURES, UsageError, complain, reason, usage

__all__ = ["run"]


def run(args) -> int:
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
        return usage("decode", error)
    from ccm_fast.atomic import atomic_write
    from ccm_fast.engines import stage
    from ccm_fast.files import decode_bytes, model_for, read_bytes
    from ccm_fast.images import output_format, save_picture

    prepare()
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
        return {**report, "seconds": rounded(seconds)}

    return run_jobs(jobs, args, work, "decode", {".ccm"})
