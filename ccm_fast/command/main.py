"""The command line, ``ccm-fast COMMAND``: from the arguments to the module of the command.

The work of a command is the function ``run`` of the module of its name, which takes the parsed arguments and returns
the exit code; ``train`` and ``eval`` have parsers of their own, in :mod:`.train` and :mod:`.evaluate`.
Nothing heavy is imported before it is needed, so that ``--help`` and usage errors come at once.

Conventions
    Exit codes: 0 fine, 1 something failed (the other files were still worked on), 2 wrong usage, 128 + N ended by
    signal N (130: Ctrl-C).
    Errors are one line on stderr each: ``ccm-fast: FILE: message``.
    An existing output is left alone and reported, as gzip does; --force replaces it. Outputs appear complete or not
    at all, also when a signal ends the command.
    --json prints one JSON object per file on stdout.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from .garbage import collect_garbage
from .messages import complain, reason

__all__ = ["main"]


class Terminated(KeyboardInterrupt):
    """A signal that ends the command as Ctrl-C does: what was begun is taken back."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


@contextmanager
def _signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the program, where nobody has said otherwise (nohup ignores the second)."""

    def end(number: int, _: object) -> None:
        raise Terminated(number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    changed = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in changed:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


def _occupy_standard_descriptors() -> None:
    """Let no file become descriptor 0, 1 or 2, where they are closed: libraries print there."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free: this one


def _dispatch(argv: list[str]) -> int:
    if argv[:1] in (["train"], ["eval"]):
        collect_garbage()
    if argv[:1] == ["train"]:  # its options are those of TrainConfig, known only after torch's import
        from ccm_fast.command.train import main as train

        return train(argv[1:])
    if argv[:1] == ["eval"]:
        from ccm_fast.command.evaluate import main as evaluate

        return evaluate(argv[1:])
    from .parser import parse

    args = parse(argv)
    if args.command not in ("encode", "decode"):  # which import more first
        collect_garbage()
    return importlib.import_module(f"ccm_fast.command.{args.command}").run(args)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (argparse exits by itself on wrong usage)."""
    _occupy_standard_descriptors()
    try:
        with _signals():
            return _dispatch(list(sys.argv[1:] if argv is None else argv))
    except Terminated as end:
        return 128 + end.number
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        from ccm_fast._backend import TORCH_REMEDY

        complain(None, f"this needs torch, which is not installed: {TORCH_REMEDY}")
        return 1
    except BrokenPipeError:  # the reader of our output has left
        sys.stdout = None
        return 1
    except OSError as error:  # standard output is closed, or its disk is full
        complain(None, reason(error))
        sys.stdout = None  # or its buffer would be tried again at exit
        return 1
