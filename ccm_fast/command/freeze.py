"""``ccm-fast freeze``: a training checkpoint to weights."""

from __future__ import annotations

import json

from .messages import FAILURES, complain, interactive, reason, say

__all__ = ["run"]


def run(args) -> int:
    """``ccm-fast freeze``."""
    from ccm_fast.train.ship import ship

    try:
        report = ship(args.checkpoint, args.out, args.data, args.test, progress=not args.quiet and interactive())
    except FAILURES as error:
        complain(None, reason(error))
        return 1
    say(json.dumps(report, indent=1))
    return 0
