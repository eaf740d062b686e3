"""``ccm-fast encode``: images to .ccm files."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import suppress

from ccm_fast.reading import read_at_most
from ccm_fast.stream.limits import MAX_CHUNK_BYTES
from ccm_fast.suffixes import IMAGE_SUFFIXES

from .ahead import open_model_ahead
from .batch import StageTimes, run_plan
from .graphics import smaller_losslessly
from .jobs import Job, plan_jobs
from .messages import UsageError, usage
from .options import split_paths
from .streams import check_terminal, open_target, picture_input

__all__ = ["run"]

# Of 24 megapixels at the default effort.
SHARES = {"read": 0.05, "g_a": 0.4, "h_a": 0.03, "h_s": 0.07, "effort": 0.25, "entropy": 0.2}


def run(args) -> int:
    """``ccm-fast encode``."""
    try:
        out = split_paths(args)
        check_terminal(out, args.force)
        if args.json and out == "-":
            raise UsageError("--json and an image cannot both go to standard output")
        plan = plan_jobs(args.inputs, out, IMAGE_SUFFIXES, ".ccm")
    except UsageError as error:
        return usage("encode", error)

    def start(threads: int | None) -> Callable[[Job, StageTimes], dict]:
        if args.effort in (None, 1, 2, 3):
            open_model_ahead(args.model)
        from ccm_fast.files import encode_file, opened

        model = opened(args.model)
        options = {name: getattr(args, name) for name in ("lanes", "max_pixels", "effort", "tune")}
        options |= {name: getattr(args, name) for name in ("target_size", "target_bpp", "target_psnr", "strip")}
        for name in ("exif", "icc"):
            if getattr(args, name):
                with open(getattr(args, name), "rb") as file:
                    options[name] = read_at_most(file, MAX_CHUNK_BYTES)

        # Efforts with gradients tell of the steps within their stage; others, and searches, of the whole.
        steps = not getattr(model, "encodes", lambda *_: False)(args.effort, args.tune)
        steps = steps and args.target_size is args.target_bpp is args.target_psnr is None

        def work(job: Job, times: StageTimes) -> dict:
            source, whole = picture_input(job.source, args.max_pixels), io.BytesIO()
            watched = {"threads": threads, "timings": times, "progress": times.progress if steps else times.whole}
            report = encode_file(source, whole, args.quality, model, **options, **watched)
            with open_target(job.target, args.force) as file:
                file.write(whole.getbuffer())
            with suppress(OSError, ValueError):  # a remark: no file fails by it
                if not args.quiet and (line := smaller_losslessly(source, len(whole.getbuffer()))):
                    times.notes.append(line)
            return report

        return work

    return run_plan(plan, args, "encode", IMAGE_SUFFIXES, SHARES, start)
