"""The command line, ``ccm-fast COMMAND``: from the arguments to the module of the command.

The work of a command is the function ``run`` of the module of its name, which takes the parsed arguments and returns
the exit code; ``train`` and ``eval`` are in ``command.py`` of :mod:`ccm_fast.train` and :mod:`ccm_fast.evaluate`.
Nothing heavy is imported before it is needed, so that ``--help`` and usage errors come at once.

Conventions
    Exit codes: 0 fine, 1 something failed (the other files were still worked on), 2 wrong usage, 130 interrupted.
    Errors are one line on stderr each: ``ccm-fast: FILE: message``.
    An existing output is left alone and reported, as gzip does; --force replaces it. Outputs appear complete or not
    at all.
    --json prints one JSON object per file on stdout.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (argparse exits by itself on wrong usage)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if argv[:1] == ["train"]:  # its options are those of TrainConfig, known only after torch's import
            from ccm_fast.train.command import main as train

            return train(argv[1:])
        if argv[:1] == ["eval"]:
            from ccm_fast.evaluate.command import main as evaluate

            return evaluate(argv[1:])
        from .parser import build_parser

        args = build_parser().parse_args(argv)
        return importlib.import_module(f"ccm_fast.command.{args.command}").run(args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has left
        sys.stdout = None
        return 1
