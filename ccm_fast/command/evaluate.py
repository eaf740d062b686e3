"""``ccm-fast eval``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from ccm_fast.atomic import atomic_write
from ccm_fast.environment import collect
from ccm_fast.evaluate import plots, report
from ccm_fast.evaluate.codecs import CODECS, Codec, CodecMissingError
from ccm_fast.evaluate.crops import side_by_side
from ccm_fast.evaluate.curves import METRICS, Curve, curve_of, load_curves, results_of
from ccm_fast.evaluate.measure import Cache, Source, codec_of, run, sources
from ccm_fast.evaluate.metrics import butteraugli_version, ssimulacra2_version
from ccm_fast.evaluate.tables import bd_table, checks, deltas, plain
from ccm_fast.suffixes import IMAGE_SUFFIXES

from .messages import interactive
from .options import Renamed, effort, quality, threads, within

__all__ = ["build_parser", "main", "write_result"]


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``ccm-fast eval``."""
    parser = argparse.ArgumentParser(
        prog="ccm-fast eval",
        description="Rate and distortion of our models and of other codecs, from real files: results in CompressAI's"
        " format, figures, BD-rates, and a report in one HTML file.",
        epilog="What was measured is kept in DIR: a second run takes up where the first was stopped, and measures"
        " only what has changed.",
    )
    add = parser.add_argument
    add("data", nargs="+", metavar="DATA", help="images or folders of images, never trained on")
    add("-m", "--models", nargs="*", default=["ccm-small"], metavar="NAME|FILE", help="ours (default: ccm-small)")
    add(
        "-c",
        "--codecs",
        default="jpeg,webp,avif,avif-iq,jxl,hevc,vvc,jpeg2000",
        metavar="LIST",
        help=f"others, separated by commas: {', '.join(CODECS)}; all; none (default: %(default)s)",
    )
    add("-o", "--out", required=True, metavar="DIR", help="results, figures and report; also what is done so far")
    add(
        "-r",
        "--reference",
        nargs="+",
        default=[],
        metavar="PATH",
        help="result files of earlier runs on the same data, or published ones, to be joined (CompressAI's format)",
    )
    add("-q", "--qualities", type=quality, nargs="+", metavar="Q", help="of our models (default: 1 to 8)")
    add("-Q", dest="qualities", action=Renamed, now="-q", type=quality, nargs="+", help=argparse.SUPPRESS)
    add(
        "-E",
        "--effort",
        type=_effort,
        nargs="+",
        default=[None],
        metavar="N",
        help='of our encoder: one curve for each; "default": what it does when not asked (default)',
    )
    add(
        "--tune",
        choices=("default", "psnr", "ms-ssim"),
        nargs="+",
        default=["default"],
        metavar="TUNE",
        help="of our encoder: default (what the model is made for), psnr, ms-ssim; one curve for each",
    )
    add("--anchor", default="jpeg", metavar="NAME", help="what all are compared with, too (default: %(default)s)")
    add("--crops", type=within(int, 0), default=3, metavar="N", help="images to show crops of (default: %(default)s)")
    add("--name", help="of the data, for titles (default: the folder's name)")
    add(
        "-j",
        "--jobs",
        type=within(int, 1),
        default=1,
        metavar="N",
        help="processes; more than 1 spoils the times (default: 1)",
    )
    add("-t", "--threads", type=threads, metavar="N", help="CPU threads of our models (default: torch's choice)")
    add("--quiet", action="store_true", help="no progress bar")
    return parser


def _effort(text: str) -> int | None:
    return None if text == "default" else effort(text)


def _specs(args, skipped: list[str], complain) -> list[str | tuple]:
    """What to measure: models as tuples, codecs as names. Missing codecs are noted and left out."""
    names = {"all": list(CODECS), "none": []}.get(args.codecs, [n for n in args.codecs.split(",") if n])
    qualities = None if args.qualities is None else tuple(args.qualities)
    specs: list[str | tuple] = [
        (model, qualities, args.threads, chosen, None if tune == "default" else tune)
        for model in args.models
        for chosen in args.effort
        for tune in args.tune
    ]
    for spec in specs:
        codec_of(spec)  # a model that does not load ends the command
    for name in dict.fromkeys(names):
        try:
            codec_of(name)
        except CodecMissingError as error:
            skipped.append(f"{name}: {error}")
            complain(None, f"{name} is skipped: {error}")
            continue
        specs.append(name)
    return specs


def _merge(measured: list[Curve], joined: list[Curve]) -> list[Curve]:
    """Ours first, then what was measured, then published ones; a curve measured now replaces an earlier one.

    The order does not depend on which of them were measured now.
    """
    now = {c.name for c in measured}
    curves = measured + [c for c in joined if c.name not in now]
    order = {name: k for k, name in enumerate(CODECS)}
    return sorted(curves, key=lambda c: (not c.model, c.published, order.get(c.name, len(order))))


def _sheets(args, images: list[Source], table: list[Codec], folder: Path, complain) -> list[dict]:
    chosen = images[:: max(1, len(images) // args.crops)][: args.crops] if args.crops > 0 else []
    leader = None
    if args.models:
        # Low on the ladder (quality 2 of 1 to 8): there codecs' pictures differ, further up they hardly do.
        leader = table[0], table[0].ladder[(len(table[0].ladder) - 1) // 4]
    return [side_by_side(table, leader, image, folder, complain=complain) for image in chosen]


def main(argv: Sequence[str]) -> int:
    """Measure, average, compare, draw, write. Returns the exit code."""
    from .messages import FAILURES, complain, reason

    args = build_parser().parse_args(argv)
    failed: list[str] = []

    def note(codec: str, message: str) -> None:
        failed.append(codec)
        complain(codec, message)

    skipped: list[str] = []
    progress = not args.quiet and interactive()
    out = Path(args.out)
    try:
        joined = load_curves(args.reference)
        images = sources(args.data, IMAGE_SUFFIXES)
        specs = _specs(args, skipped, complain)
        if not specs and not joined:
            raise ValueError("nothing to measure: no model, no codec that is installed, no --reference")
        name = args.name or Path(args.data[0]).resolve().name
        sizes = sum(s.size[0] * s.size[1] for s in images)
        data = {"name": name, "images": len(images), "pixels": sizes}
        environment = collect()
        out.mkdir(parents=True, exist_ok=True)
        cache = Cache(out / "cache.jsonl")
        options = {"jobs": args.jobs, "threads": args.threads, "progress": progress, "complain": note}
        measured, table = [], [codec_of(spec) for spec in specs]
        for spec, codec in zip(specs, table, strict=True):  # one by one: whoever stops this has the results so far
            records = run([spec], images, cache, **options)[codec.name]
            result = results_of(codec, records, data, environment, not isinstance(spec, str))
            if result["results"]["bpp"]:
                measured.append(curve_of(result, codec.name, codec.name))
                write_result(out / f"{codec.name}.json", result)
    except FAILURES as error:
        complain(None, reason(error))
        return 1
    curves = _merge(measured, joined)
    anchor = next((c for n in (args.anchor, args.anchor + "*") for c in curves if c.name == n), None)
    against = {c.label: deltas(curves, [c]) for c in curves if c.model}
    everything = [] if anchor is None else deltas([anchor], [c for c in curves if not c.model])
    rates = {"data": data, "measured": [c.name for c in measured], "models": against}
    rates |= {"anchor": anchor and anchor.name, "everything": everything, "checks": checks(curves)}
    (out / "bd_rates.json").write_text(json.dumps(rates, indent=1) + "\n", encoding="utf-8")
    title = f"{name}: {len(images)} images"
    for metric in METRICS:
        if any(metric in c.quality for c in curves):
            plots.save(curves, metric, title, out / f"rd_{metric}")
    sheets = _sheets(args, images, table, out / "crops", note)
    if ssimulacra2_version() is None:
        skipped.append("SSIMULACRA2: not installed (pip install ssimulacra2)")
    if butteraugli_version() is None:
        skipped.append("Butteraugli: butteraugli_main is not in the path (Debian: apt install libjxl-devtools)")
    subtitle = f"{len(images)} images, {sizes / 1e6:.1f} megapixels. Solid curves were measured, dashed ones published."
    page = report.render(
        f"Rate and distortion on {name}",
        subtitle,
        curves,
        against,
        everything,
        anchor,
        rates["checks"],
        sheets,
        skipped,
        environment,
    )
    (out / "report.html").write_text(page, encoding="utf-8")
    for label, found in against.items():
        print(f"{label} against each (negative: fewer bits than it needs), {title}")
        print(plain(bd_table(found, "anchor")), end="\n\n")
    if everything:
        print(f"each against {anchor.label}")
        print(plain(bd_table(everything, "test")), end="\n\n")
    print(f"written: {out / 'report.html'}, figures rd_*.png and .svg, results *.json, bd_rates.json")
    return int(bool(failed))


def write_result(path: Path, result: dict) -> None:
    """Indented down to the lists, which stay on a line each: small, and readable in a diff."""
    compact = json.dumps
    images = ",\n".join(f"  {compact(k)}: {compact(v)}" for k, v in result["images"].items())
    inner = ",\n".join(f"  {compact(k)}: {compact(v)}" for k, v in result["results"].items())
    rest = {k: v for k, v in result.items() if k not in ("images", "results")}
    text = json.dumps(rest, indent=1)
    text = text[: text.rindex("\n}")] + f',\n "results": {{\n{inner}\n }},\n "images": {{\n{images}\n }}\n}}\n'
    with atomic_write(path) as file:
        file.write(text.encode())
