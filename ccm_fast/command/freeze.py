"""``ccm-fast freeze``: a training checkpoint to weights."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

from .messages import FAILURES, complain, interactive, reason, say

__all__ = ["run"]


def run(args) -> int:
    """``ccm-fast freeze``."""
    try:
        # Before the minutes or hours that it takes, and so that no one's configuration of that name is lost.
        for path in (Path(args.out), Path(args.out).with_suffix(".json")):
            if os.path.lexists(path) and not args.force:
                raise FileExistsError(errno.EEXIST, "exists (--force replaces it)", str(path))
        from ccm_fast.train.ship import ship

        options = {"steps": args.steps, "skip": args.skip, "kept": args.keep}
        options["progress"] = not args.quiet and interactive()
        if args.images is not None:
            options["images"] = args.images
        report = ship(args.checkpoint, args.out, args.data, args.test, **options)
    except FAILURES as error:
        complain(None, reason(error))
        return 1
    say(json.dumps(report, indent=1))
    return 0
