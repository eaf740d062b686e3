"""Rate-distortion curves: averages over images, CompressAI's result format, BD-rates.

A file of results is CompressAI's ``{"name", "description", "results": {"bpp": [...], "psnr-rgb": [...], ...}}``. Ours
hold more: the settings, every image's figures (``images``), the data (``data``) and the environment. Published curves
have no environment, which is how they are told apart.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

from .codecs import Codec

__all__ = [
    "DISTANCES",
    "LOOKS",
    "METRICS",
    "PUBLISHED",
    "TITLES",
    "Curve",
    "Delta",
    "bd_rate",
    "load_curves",
    "results_of",
    "to_decibels",
]

METRICS = {"psnr": "psnr-rgb", "ms-ssim": "ms-ssim-rgb", "ssimulacra2": "ssimulacra2", "butteraugli": "butteraugli"}
TITLES = {"psnr": "PSNR", "ms-ssim": "MS-SSIM", "ssimulacra2": "SSIMULACRA2", "butteraugli": "Butteraugli"}
UNITS = {
    "psnr": "PSNR (RGB), dB",
    "ms-ssim": "MS-SSIM (RGB), dB: -10 log10(1 - MS-SSIM)",
    "ssimulacra2": "SSIMULACRA2",
    "butteraugli": "Butteraugli (3-norm), less is better",
}
DISTANCES = frozenset({"butteraugli"})  # the less the better: curves hold them with the sign turned
LOOKS = ("ssimulacra2", "butteraugli")  # measured where they are installed, and not in decibels

# What is shown of a folder of published results: those optimized for squared error, one of each, and one that was
# optimized for MS-SSIM. File pattern -> (name of the family, label). The order is that of the tables.
PUBLISHED = {
    "jpeg.json": ("jpeg", "JPEG"),
    "jpeg2000.json": ("jpeg2000", "JPEG 2000"),
    "webp.json": ("webp", "WebP"),
    "av1.json": ("avif", "AV1"),
    "bpg_444_x265_ycbcr.json": ("hevc", "BPG 4:4:4 (HEVC, x265)"),
    "hm.json": ("hm", "HEVC (HM)"),
    "vtm.json": ("vvc", "VVC (VTM)"),
    "compressai-bmshj2018-hyperprior_mse_cpu.json": ("bmshj2018", "bmshj2018-hyperprior"),
    "compressai-mbt2018-mean_mse_cpu.json": ("mbt2018-mean", "mbt2018-mean"),
    "compressai-mbt2018_mse_cpu.json": ("mbt2018", "mbt2018"),
    "compressai-mbt2018_ms-ssim_cpu.json": ("mbt2018-ms-ssim", "mbt2018 for MS-SSIM"),
    "compressai-cheng2020-anchor_mse_cpu.json": ("cheng2020", "cheng2020-anchor"),
    "compressai-cheng2020-attn_mse_cpu.json": ("cheng2020-attn", "cheng2020-attn"),
    "paper-elic2022_mse.json": ("elic2022", "ELIC 2022"),
    "cool-chic-5.json": ("cool-chic", "Cool-Chic 5.0"),
}

# Codecs of ours that a published family is of, beside those of its own name.
KIN = {"avif420": "avif", "avif-iq": "avif", "jpeg444": "jpeg", "vvc-medium": "vvc"}

# BD-rates over less than this share of the shorter curve's range say more about the fit than about the codecs.
MIN_OVERLAP = 0.25
MIN_POINTS = 4  # of a curve, for a cubic to mean anything


def to_decibels(ms_ssim: float) -> float:
    """MS-SSIM on a scale on which differences near 1 can be seen."""
    return math.inf if ms_ssim >= 1 else -10 * math.log10(1 - ms_ssim)


@dataclass
class Curve:
    """One codec's mean rate and distortion at each setting, in order of rate.

    Attributes:
        name: for file names and for codecs; published ones end with ``*``.
        label: for readers.
        bpp: bits per pixel, mean over the images.
        quality: by metric of METRICS (``psnr``, ``ms-ssim`` in dB), the more the better: distances are negative. A
            metric that was not measured is missing.
        family: curves of one family have one colour.
        published: read from a file of others.
        model: one of ours.
        result: the file it is from or goes to.
    """

    name: str
    label: str
    bpp: list[float]
    quality: dict[str, list[float]]
    family: str
    published: bool = False
    model: bool = False
    result: dict = field(default_factory=dict)


def results_of(codec: Codec, records: Sequence[dict], data: dict, environment: dict, model: bool) -> dict:
    """The result file of one codec, from the records of :func:`measure.run`.

    Means over images: of bits per pixel, of PSNR in dB, of MS-SSIM, of seconds. Lossless settings have no PSNR and are
    left out.
    """
    settings = list(dict.fromkeys(r["setting"] for r in records))
    rows = {s: [r for r in records if r["setting"] == s] for s in settings}
    settings = [s for s in settings if all(r["psnr"] is not None for r in rows[s])]

    def means(value) -> list[float]:
        return [float(np.mean([value(r) for r in rows[s]])) for s in settings]

    results = {"bpp": means(lambda r: 8 * r["bytes"] / r["pixels"]), "psnr-rgb": means(lambda r: r["psnr"])}
    if all(r["ms_ssim"] is not None for s in settings for r in rows[s]):
        results["ms-ssim-rgb"] = means(lambda r: r["ms_ssim"])
    for metric in LOOKS:
        if all(r.get(metric) is not None for s in settings for r in rows[s]):
            results[metric] = means(lambda r, metric=metric: r[metric])
    results["encoding_time"] = means(lambda r: r["encode_seconds"])
    results["decoding_time"] = means(lambda r: r["decode_seconds"])
    results["encoding_cpu_time"] = means(lambda r: r["encode_cpu_seconds"])
    results["decoding_cpu_time"] = means(lambda r: r["decode_cpu_seconds"])
    results["setting"] = settings
    images: dict[str, dict] = {}
    for s in settings:
        for r in rows[s]:
            image = images.setdefault(r["image"], {"bytes": [], "psnr": [], "ms_ssim": []})
            image["bytes"].append(r["bytes"])
            image["psnr"].append(round(r["psnr"], 4))
            image["ms_ssim"].append(r["ms_ssim"] and round(r["ms_ssim"], 6))
            for metric in LOOKS:
                if r.get(metric) is not None:
                    image.setdefault(metric, []).append(round(r[metric], 4))
    return {
        "name": codec.label,
        "description": codec.description,
        "results": results,
        "codec": codec.name,
        "version": codec.version,
        "model": model,
        "jobs": max((r.get("jobs", 1) for r in records), default=1),
        "data": data,
        "environment": environment,
        "images": images,
    }


def curve_of(result: dict, name: str, family: str, label: str | None = None) -> Curve:
    """A curve from the contents of a result file. Raises ValueError if it is none."""
    try:
        found = result["results"]
        order = np.argsort(found["bpp"])
        quality = {}
        if "psnr-rgb" in found:
            quality["psnr"] = [float(found["psnr-rgb"][k]) for k in order]
        if "ms-ssim-rgb" in found:
            quality["ms-ssim"] = [to_decibels(found["ms-ssim-rgb"][k]) for k in order]
        elif "ms-ssim-db-rgb" in found:
            quality["ms-ssim"] = [float(found["ms-ssim-db-rgb"][k]) for k in order]
        for metric in LOOKS:
            if metric in found:
                sign = -1 if metric in DISTANCES else 1
                quality[metric] = [sign * float(found[metric][k]) for k in order]
        return Curve(
            name=name,
            label=label or result["name"],
            bpp=[float(found["bpp"][k]) for k in order],
            quality=quality,
            family=family,
            published="environment" not in result,
            model=bool(result.get("model", False)),
            result=result,
        )
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"not a file of results ({type(error).__name__}: {error})") from error


def load_curves(paths: Sequence[str | Path]) -> list[Curve]:
    """Curves of files, and of folders of files (with those within): of published ones those in PUBLISHED.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a file that holds no results.
    """
    curves = []
    for path in map(Path, paths):
        files = sorted(path.rglob("*.json")) if path.is_dir() else [path]
        if not files or not all(f.is_file() for f in files):
            raise FileNotFoundError(f"no results (*.json) in {path}")
        for file in files:
            try:
                result = json.loads(file.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"{file}: not JSON: {error}") from error
            if not isinstance(result, dict) or "results" not in result:
                if path.is_dir():
                    continue
                raise ValueError(f"{file}: not a file of results")
            try:
                if "environment" in result:
                    name = result.get("codec", file.stem)
                    curves.append(curve_of(result, name, name))
                    continue
                known = [v for pattern, v in PUBLISHED.items() if fnmatch(file.name, pattern)]
                if known or not path.is_dir():  # whoever names a file wants it
                    family, label = known[0] if known else (file.stem, str(result.get("name", file.stem)))
                    curves.append(curve_of(result, family + "*", family, f"{label}, published"))
            except ValueError as error:
                raise ValueError(f"{file}: {error}") from error
    order = [family for family, _ in PUBLISHED.values()]
    return sorted(curves, key=lambda c: (c.published, order.index(c.family) if c.family in order else len(order)))


@dataclass(frozen=True)
class Delta:
    """Mean difference in rate at equal distortion.

    Attributes:
        percent: of the anchor's rate; negative: the test needs less. None: see ``reason``.
        low, high: the qualities (dB, points of SSIMULACRA2, distances with the sign turned) that both curves reach,
            over which the mean is taken.
        share: of the shorter curve's range that lies in there.
        reason: why there is no number.
    """

    percent: float | None
    low: float = math.nan
    high: float = math.nan
    share: float = 0.0
    reason: str = ""


def bd_rate(anchor: Curve, test: Curve, metric: str = "psnr") -> Delta:
    """BD-rate of `test` against `anchor` (bjontegaard package: log rate over quality, by monotone cubics, "pchip").

    No number is given for curves that do not overlap in distortion over at least a quarter of the shorter one's range,
    that have fewer than four points, or that do not rise.
    """
    import bjontegaard

    sides = []
    for curve in (anchor, test):
        if metric not in curve.quality:
            return Delta(None, reason="not measured")
        points = np.array([curve.bpp, curve.quality[metric]])
        if not np.isfinite(points).all() or points.shape[1] < MIN_POINTS:
            return Delta(None, reason=f"fewer than {MIN_POINTS} points")
        if (np.diff(points) <= 0).any():
            return Delta(None, reason="not rising")
        sides.append(points)
    (_, a), (_, t) = sides
    low, high = max(a[0], t[0]), min(a[-1], t[-1])
    share = max(0.0, (high - low) / min(np.ptp(a), np.ptp(t)))
    if share < MIN_OVERLAP:
        return Delta(None, low, high, share, "no overlap" if share == 0 else "hardly any overlap")
    percent = bjontegaard.bd_rate(*sides[0], *sides[1], "pchip", require_matching_points=False, min_overlap=0)
    return Delta(float(percent), low, high, share)
