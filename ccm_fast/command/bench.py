"""``ccm-fast bench``: benchmarks beside peers."""

from __future__ import annotations

from pathlib import Path

from .messages import FAILURES, UsageError, complain, reason, usage

__all__ = ["run"]


def run(args) -> int:
    """``ccm-fast bench``."""
    from ccm_fast.bench.run import BENCHMARKS, run

    unknown = sorted(set(args.what) - set(BENCHMARKS))
    if unknown:
        return usage("bench", UsageError(f"{unknown[0]} is none of {', '.join(BENCHMARKS)}"))
    try:
        run(args.what or list(BENCHMARKS), Path(args.out), device=args.device, quick=args.quick)
    except FAILURES as error:
        complain(None, reason(error))
        return 1
    return 0
