"""``ccm-fast encode``: images to .ccm files."""

from __future__ import annotations

import sys

from .jobs import IMAGE_SUFFIXES, Job, plan_jobs, prepare, rounded, run_jobs
from .messages import FAILURES, UsageError, complain, reason, usage

__all__ = ["run"]


def run(args) -> int:
    """``ccm-fast encode``."""
    try:
        if len(args.paths) < 2:
            raise UsageError("an input and an output are needed")
        if args.json and args.paths[-1] == "-":
            raise UsageError("--json and an image cannot both go to standard output")
        jobs = plan_jobs(args.paths[:-1], args.paths[-1], IMAGE_SUFFIXES, ".ccm")
    except UsageError as error:
        return usage("encode", error)
    from ccm_fast.effort import DEFAULT_EFFORT, EffortWarning
    from ccm_fast.files import encode_file, model_for

    prepare()
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
            options |= {name: getattr(args, name) for name in ("target_size", "target_bpp", "target_psnr")}
            report = encode_file(source, target, args.quality, model, **options)
        for note in notes:
            complain(job.source, note.message)
        return {**report, "seconds": rounded(seconds)}

    return run_jobs(jobs, args, work, "encode", IMAGE_SUFFIXES)
