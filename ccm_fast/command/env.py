"""``ccm-fast env``: what to paste into a bug report."""

import json

from ccm_fast.environment import collect, format_env

from .messages import say


def run(args) -> int:
    """``ccm-fast env``."""
    say(json.dumps(collect()) if args.json else format_env())
    return 0
