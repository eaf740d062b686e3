"""``ccm-fast train``: the options are the fields of TrainConfig."""

from __future__ import annotations

import argparse
import dataclasses
import signal
from collections.abc import Sequence
from pathlib import Path

from ccm_fast.bench.timing import device_for
from ccm_fast.train.checkpoint import read
from ccm_fast.train.config import TrainConfig
from ccm_fast.train.floats import write_floats
from ccm_fast.train.loop import train

from .messages import FAILURES, complain, interactive, reason
from .options import within

__all__ = ["build_parser", "main"]


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``ccm-fast train``."""
    parser = argparse.ArgumentParser(
        prog="ccm-fast train",
        description="Train a model, or continue the run in --out. Ctrl-C and SIGTERM write a checkpoint and stop.",
        epilog="torchrun --nproc-per-node=N -m ccm_fast train ... does the same in N processes (GPUs: --device cuda).",
    )
    for option in dataclasses.fields(TrainConfig):
        default = option.default if option.default is not dataclasses.MISSING else None
        flag, text = "--" + option.name.replace("_", "-"), option.metadata["help"].replace("%", "%%")
        if option.name == "out":
            parser.add_argument(flag, required=True, help=text)
        elif option.name in ("data", "valid"):
            parser.add_argument(flag, nargs="+", default=[], metavar="PATH", help=text)
        elif isinstance(default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=default, help=text)
        else:
            kind = type(default)
            parse = within(kind, *option.metadata["limits"]) if kind in (int, float) else kind
            parser.add_argument(flag, type=parse, default=default, help=f"{text} (default: {default!r})")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument(
        "--plot", metavar="FILE", help="train nothing; draw the log of the run in --out (PNG, SVG, PDF)"
    )
    parser.add_argument(
        "--floats",
        metavar="FILE",
        help="train nothing; write the averaged weights of the run in --out in fp16 (.safetensors), for a later --init",
    )
    return parser


def _instead(folder: str, picture: str | None, floats: str | None) -> int:
    """What --plot and --floats ask for, of the run in a folder."""
    try:
        if picture:
            from ccm_fast.train.plot import plot

            print(plot([folder], picture))
        if floats:
            write_floats(read(Path(folder, "last.pt")), floats)
            print(floats)
    except (*FAILURES, ImportError) as error:
        complain(None, reason(error))
        return 1
    return 0


def main(argv: Sequence[str]) -> int:
    """Run ``ccm-fast train``; returns the exit code."""
    parser = build_parser()
    args = vars(parser.parse_args(argv))
    picture, floats = args.pop("plot"), args.pop("floats")
    if picture or floats:
        return _instead(args["out"], picture, floats)
    if not args["data"]:
        parser.error("the following arguments are required: --data")
    progress = not args.pop("quiet") and interactive()

    asked: list[int] = []

    def ask(number: int, _: object) -> None:
        if asked:  # the second time at once, in the middle of a step
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    try:
        device_for(args["device"])
        last = train(TrainConfig(**args), progress=progress, stop=lambda: bool(asked))
    except FAILURES as error:
        complain(None, reason(error))
        return 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    print(last)
    return 0
