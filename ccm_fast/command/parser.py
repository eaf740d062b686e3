"""The arguments of the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from ccm_fast.anchors import NOT_LOSSLESS, QUALITIES
from ccm_fast.version import __version__

from .options import (
    Parser,
    Refused,
    Renamed,
    add_common,
    add_json,
    add_max_pixels,
    add_quality,
    crop,
    effort,
    groups,
    threads,
    within,
)

__all__ = ["build_parser", "parse"]


_FILES = (
    "With one input file, OUT is a file (or an existing folder); with several, or with folders, it is a folder,"
    " made if needed, in which the inputs' structure is kept. `-` is standard input or output."
)


def _encode(p: argparse.ArgumentParser) -> None:
    p.add_argument("paths", nargs="+", metavar="PATH", help="images or folders, then the output")
    add_quality(p)
    p.add_argument(
        "-m",
        "--model",
        default="ccm-small",
        metavar="NAME|FILE",
        help="shipped model or weights file (default: %(default)s)",
    )
    p.add_argument(
        "-e",
        "--effort",
        type=effort,
        metavar="N",
        help="1 (fastest) to 9 (best trade of size and error; minutes for a photograph) (default: 3)",
    )
    p.add_argument(
        "--tune",
        choices=("psnr", "ms-ssim"),
        help="what errors count by: squares, or how well the picture hides them (default: what the model is made for)",
    )
    target = p.add_mutually_exclusive_group()
    for name, kind, what in (
        ("size", within(int, 1), "BYTES at most"),
        ("bpp", within(float, 1e-6), "bits per pixel at most"),
        ("psnr", within(float, 1e-6), "dB at least"),
    ):
        metavar = {"size": "BYTES", "bpp": "BPP", "psnr": "DB"}[name]
        note = f"search the quality that gives {what}, from --quality on"
        target.add_argument(f"--target-{name}", type=kind, metavar=metavar, help=note)
    p.add_argument(
        "--strip", action="store_true", help="leave out EXIF, XMP and IPTC (and turn the picture as EXIF says)"
    )
    p.add_argument("--exif", metavar="FILE", help="an EXIF block in place of the picture's own")
    p.add_argument("--icc", metavar="FILE", help="an ICC profile in place of the picture's own")
    p.add_argument("--lossless", action=Refused, why=NOT_LOSSLESS)
    p.add_argument(
        "--lanes",
        type=int,
        default=0,
        choices=(0, 1, 2, 4, 8, 16, 32, 64, 128),
        help="rANS lanes per stream: 32 decode fastest on GPUs and cost some bytes; 0: chosen by size (default)",
    )
    add_common(p)


def _decode(p: argparse.ArgumentParser) -> None:
    p.add_argument("paths", nargs="+", metavar="PATH", help="files (.ccm) or folders, then the output")
    p.add_argument("--format", metavar="SUFFIX", help="png, jpg, webp, tif, ...: for folders and standard output")
    p.add_argument(
        "--save-quality",
        type=within(int, 0, 100),
        metavar="N",
        help="the output format's own quality setting (JPEG, WebP)",
    )
    p.add_argument(
        "--depth", type=int, choices=(8, 16), default=8, help="bits a sample: 16 into PNG and PPM, grey also TIFF"
    )
    p.add_argument(
        "--strip", action="store_true", help="leave out EXIF, XMP and IPTC (and turn the picture as EXIF says)"
    )
    p.add_argument(
        "--thumbnail",
        type=within(int, 1, 1 << 20),
        metavar="N",
        help="scale down to N pixels a side at most, and turn upright",
    )
    p.add_argument(
        "--crop",
        type=crop,
        metavar="WxH+X+Y",
        help="decode a part alone, in less time: WxH pixels, X from the left and Y from the top of the upright picture",
    )
    p.add_argument(
        "--groups",
        type=groups,
        metavar="N|available",
        help="a preview: read the first N groups of latents alone, or those that are there of a file that is cut off",
    )
    p.add_argument(
        "--latents", metavar="FILE.npy", help="also save y_hat, int16 [h, w, M], for comparing machines; one input only"
    )
    p.add_argument("-m", "--model", metavar="NAME|FILE", help="default: the shipped model that the file names")
    p.add_argument("--engine", choices=("cpu", "cuda", "reference"), help="reference: plain Python, slow")
    add_common(p)


def _convert(p: argparse.ArgumentParser) -> None:
    p.add_argument("source", metavar="SOURCE", help="a folder, a picture, a tar archive or a Parquet table")
    p.add_argument("target", metavar="TARGET", help="a folder, made if needed")
    p.add_argument("--to", default="ccm", metavar="SUFFIX", help="ccm, or of .ccm files png, jpg, ... (default: ccm)")
    add_quality(p)
    p.add_argument("-m", "--model", metavar="NAME|FILE", help="default: ccm-small, or the one that a file names")
    p.add_argument("-e", "--effort", type=within(int, 1, 3), metavar="N", help="1 to 3 (default: 3)")
    p.add_argument(
        "--save-quality", type=within(int, 0, 100), metavar="N", help="the other format's own quality setting"
    )
    p.add_argument(
        "--no-psnr",
        dest="psnr",
        action="store_false",
        help="do not decode what was encoded: it takes a third of the time, and the manifest is without PSNR",
    )
    p.add_argument("--column", metavar="NAME", help="of the pictures in tables (default: image, or the only one)")
    p.add_argument(
        "-j", "--jobs", type=threads, metavar="N", help="processes, or Ray's actors (default: one for each core)"
    )
    p.add_argument(
        "--ray", metavar="ADDRESS", help="work on a Ray cluster: its address, or auto; local: one on this machine"
    )
    p.add_argument("--device", default="cpu", metavar="cpu|cuda", help="where to work; with --ray an actor has a GPU")
    p.add_argument("-f", "--force", action="store_true", help="begin anew where TARGET was made with other settings")
    p.add_argument("--json", action="store_true", help="print the manifest's lines as they come")
    p.add_argument("--quiet", action="store_true", help="no progress bar, no summary")
    add_max_pixels(p)


def _info(p: argparse.ArgumentParser) -> None:
    p.add_argument("files", nargs="+", metavar="FILE", help="files (.ccm), or folders of them; - is standard input")
    add_json(p, "one JSON object per file")
    add_max_pixels(p)


def _view(p: argparse.ArgumentParser) -> None:
    p.add_argument("files", nargs="+", metavar="FILE", help="files (.ccm), or folders of them; - is standard input")
    p.add_argument("-o", "--output", metavar="FILE.html", help="write the page there, and open nothing")
    p.add_argument("-f", "--force", action="store_true", help="replace an existing page")
    p.add_argument("-m", "--model", metavar="NAME|FILE", help="default: the shipped model that a file names")
    add_max_pixels(p)


def _selftest(p: argparse.ArgumentParser) -> None:
    p.add_argument("-m", "--model", metavar="NAME|FILE", help="default: every shipped model")
    add_json(p, "one JSON object")


def _env(p: argparse.ArgumentParser) -> None:
    add_json(p, "one JSON object")


def _freeze(p: argparse.ArgumentParser) -> None:
    p.add_argument("checkpoint", help="last.pt of a training run")
    p.add_argument("out", metavar="OUT.safetensors", help="the weights; an evaluation goes to OUT.json")
    p.add_argument("--data", nargs="+", required=True, metavar="PATH", help="training images, to calibrate on")
    p.add_argument("--images", type=within(int, 1), metavar="N", help="of them, at most so many (default: 4000)")
    p.add_argument(
        "--steps",
        type=within(int, 0),
        metavar="N",
        help="of fine-tuning; 0: calibration only (default: by the number of images, 10000 from 3000 of them on)",
    )
    p.add_argument(
        "--skip",
        type=within(int, -1, 62),
        metavar="N",
        help="do not code symbols with a scale index up to N, nor channels of z that never vary (default: code all)",
    )
    p.add_argument(
        "--keep",
        metavar="MODEL",
        help="keep the integers of this model (a name, or a weights file): for a run of the stage retune from it",
    )
    p.add_argument("-f", "--force", action="store_true", help="replace existing outputs")
    p.add_argument("--test", nargs="+", default=[], metavar="PATH", help="images to evaluate on; never trained on")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    p.add_argument("-q", dest="quiet", action=Renamed, now="--quiet", flag=True, help=argparse.SUPPRESS)


def _profile(p: argparse.ArgumentParser) -> None:
    p.add_argument("files", nargs="+", metavar="FILE", help="files (.ccm), or pictures, which are encoded first")
    p.add_argument("--device", default="cpu", metavar="DEVICE", help="cpu, cuda or cuda:N (default: %(default)s)")
    p.add_argument(
        "--repeats", type=within(int, 1), default=10, metavar="N", help="decodings that count (default: %(default)s)"
    )
    p.add_argument("--trace", metavar="FILE", help="write a trace for chrome://tracing or Perfetto")
    p.add_argument("--json", metavar="FILE", help="write the figures and the environment; - is standard output")
    p.add_argument("--graph", action="store_true", help="also time the decoding as a captured CUDA graph")
    p.add_argument("-t", "--threads", type=threads, metavar="N", help="CPU threads; 1 lists each group too")
    p.add_argument("-m", "--model", metavar="NAME|FILE", help="default: the shipped model that a file names")


def _bench(p: argparse.ArgumentParser) -> None:
    p.add_argument("what", nargs="*", metavar="WHAT", help="dropin, coders, kernels, scaling (default: all)")
    p.add_argument("--out", default="bench_results", metavar="FOLDER", help="for JSON files (default: %(default)s)")
    p.add_argument("--device", default="cpu", metavar="DEVICE", help="cpu, cuda or cuda:N (default: %(default)s)")
    p.add_argument("--quick", action="store_true", help="small sizes and few repeats: does it run, not how fast")


def _demo(p: argparse.ArgumentParser) -> None:
    p.add_argument("image", nargs="?", type=Path, help="a picture (default: one that a Python package carries)")
    add_quality(p)
    p.add_argument("-m", "--model", metavar="NAME|FILE", help="default: ccm-small")
    p.add_argument("--out", type=Path, default=Path("demo_out"), metavar="FOLDER", help="default: %(default)s")


# What argparse says of each command, and its arguments.
_COMMANDS: dict[str, tuple[dict[str, str], Callable[[argparse.ArgumentParser], None] | None]] = {
    "encode": (
        {
            "help": "images to .ccm files",
            "usage": "ccm-fast encode [options] IN... OUT\n       ccm-fast encode [options] IN... -o OUT",
            "epilog": f"{_FILES} {QUALITIES}",
        },
        _encode,
    ),
    "decode": (
        {
            "help": "images of .ccm files",
            "usage": "ccm-fast decode [options] IN... OUT\n       ccm-fast decode [options] IN... -o OUT\n"
            "       ccm-fast decode [options] IN --latents FILE.npy",
            "epilog": _FILES + " The format follows OUT's suffix, or --format; it is PNG otherwise.",
        },
        _decode,
    ),
    "convert": (
        {
            "help": "data sets to .ccm, and back",
            "epilog": "SOURCE is a file or a folder, whose pictures, tar shards and Parquet tables are converted; other"
            " files are copied. TARGET/manifest.jsonl says what became of each; the same command again goes on after"
            " a stop.",
        },
        _convert,
    ),
    "info": ({"help": "what is in .ccm files; needs no model"}, _info),
    "view": ({"help": "show .ccm files in the browser"}, _view),
    "selftest": ({"help": "check that this installation encodes and decodes exactly"}, _selftest),
    "env": ({"help": "the environment, for bug reports"}, _env),
    "train": ({"help": "train a model"}, None),
    "eval": ({"help": "rate and distortion against other codecs"}, None),
    "freeze": ({"help": "a training checkpoint to weights: integers, fp16, evaluation"}, _freeze),
    "profile": ({"help": "decode latency by stage", "epilog": "Pictures are encoded first, at quality 4."}, _profile),
    "bench": ({"help": "benchmarks beside peers, in interleaved runs"}, _bench),
    "demo": ({"help": "a photograph through the codec, beside a JPEG of the same size"}, _demo),
}


def build_parser(
    others: dict[str, argparse.ArgumentParser] | None = None, only: str | None = None
) -> argparse.ArgumentParser:
    """The parser of every command.

    Args:
        others: the parsers of ``train`` and ``eval``, which know their options only after torch's import; without
            them, these two are names alone.
        only: the one command that is wanted, if it is known: to announce the arguments of all takes 3 ms.
    """
    parser = Parser(
        prog="ccm-fast",
        description="Learned image compression with cross-channel context models, decoded bit-exactly on any machine.",
        epilog="Exit codes: 0 fine, 1 a file failed, 2 wrong usage. `ccm-fast COMMAND --help` says more.",
    )
    parser.add_argument("--version", action="version", version=f"ccm-fast {__version__}")
    commands = parser.add_subparsers(prog=parser.prog, dest="command", metavar="COMMAND", required=True)
    for name, (texts, add_arguments) in _COMMANDS.items():
        if only not in (None, name):
            continue
        if add_arguments is None:
            parents = [others[name]] if others else []
            more = {"description": parents[0].description, "epilog": parents[0].epilog} if parents else {}
            commands.add_parser(name, add_help=False, parents=parents, **texts, **more)
            continue
        add_arguments(commands.add_parser(name, **texts))
    parser.commands = commands.choices
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Arguments of a command line; argparse exits on wrong ones, with the usage of the command that they are for."""
    parser = build_parser(only=argv[0] if argv and argv[0] in _COMMANDS else None)
    if not argv or (command := parser.commands.get(argv[0])) is None:
        return parser.parse_args(argv)
    if "--" in argv:  # which argparse does not understand where options stand between paths
        args, unknown = command.parse_known_args(argv[1:])
        if unknown:
            command.error(f"unrecognized arguments: {' '.join(unknown)}")
    else:  # as cwebp and getopt take them: options before, between and after paths
        args = command.parse_intermixed_args(argv[1:])
    args.command = argv[0]
    return args


def build_whole_parser() -> argparse.ArgumentParser:
    """The parser of every command, for man page and shell completion."""
    from ccm_fast.command.evaluate import build_parser as evaluate
    from ccm_fast.command.train import build_parser as train

    return build_parser({"train": train(), "eval": evaluate()})
