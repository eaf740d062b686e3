"""Distortion of 8-bit RGB images.

PSNR and MS-SSIM say how far two pictures are apart, SSIMULACRA2 and Butteraugli how far apart they look. They agree
with what people answer: SSIMULACRA2 is 100 for no difference, 90 for none that is seen, 70, 50 and 30 for high, medium
and low quality, and goes below 0; Butteraugli is a distance, 0 for no difference. All are taken image by image, on the
rounded 8-bit values that a decoder writes, and averaged over the images afterwards, as CompressAI and the papers do.
(PSNR of the mean error is lower: on Kodak by 0.1 to 0.5 dB for JPEG and WebP.)
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import re
import shutil
import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

from ..psnr import psnr

__all__ = [
    "MS_SSIM_MIN_SIDE",
    "butteraugli",
    "butteraugli_version",
    "looks_versions",
    "ms_ssim",
    "psnr",
    "ssimulacra2",
    "ssimulacra2_version",
]

BUTTERAUGLI = "butteraugli_main"  # the program of libjxl's

MS_SSIM_MIN_SIDE = 161  # five scales of an 11-wide window: (11 - 1) * 2^4 + 1


def ms_ssim(a: np.ndarray, b: np.ndarray) -> float | None:
    """Of two uint8 arrays [H, W, 3], by pytorch-msssim: five scales, mean over R, G, B.

    None for images with a side below 161 pixels, on which the fifth scale does not exist.
    """
    if min(a.shape[:2]) < MS_SSIM_MIN_SIDE:
        return None
    import torch
    from pytorch_msssim import ms_ssim as of

    # Not torch.from_numpy: Pillow's arrays are not writable, and torch warns.
    planes = [torch.tensor(x).permute(2, 0, 1)[None].float() for x in (a, b)]
    with torch.inference_mode():
        return float(of(*planes, data_range=255))


def ssimulacra2_version() -> str | None:
    """Of the package that measures it; None: it is not installed (pip install ccm-fast[eval])."""
    return version("ssimulacra2") if importlib.util.find_spec("ssimulacra2") else None


def ssimulacra2(a: np.ndarray, b: np.ndarray) -> float | None:
    """Of two uint8 arrays [H, W, 3], the original first, by the package ssimulacra2.

    None where that is not installed, and for images with a side below 8 pixels.
    """
    if ssimulacra2_version() is None or min(a.shape[:2]) < 8:
        return None
    from ssimulacra2 import compute_ssimulacra2

    files = []
    for pixels in (a, b):  # it takes files
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "BMP")
        file.seek(0)
        files.append(file)
    return float(compute_ssimulacra2(*files))


@functools.cache
def _digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]


def butteraugli_version() -> str | None:
    """Digest of the program that measures it, which does not say its version; None: there is none (Debian:
    libjxl-devtools).
    """
    path = shutil.which(BUTTERAUGLI)
    return path and _digest(path)


def butteraugli(a: np.ndarray, b: np.ndarray) -> float | None:
    """Distance of two uint8 arrays [H, W, 3], the original first: the 3-norm over the picture, at 80 cd/m².

    None where libjxl's ``butteraugli_main`` is not in the path, and for images with a side below 8 pixels.

    Raises:
        RuntimeError: the program failed.
    """
    program = shutil.which(BUTTERAUGLI)
    if program is None or min(a.shape[:2]) < 8:
        return None
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder, f"{name}.ppm")) for name in "ab"]
        for path, pixels in zip(paths, (a, b), strict=True):
            Image.fromarray(pixels).save(path)
        run = subprocess.run([program, *paths], capture_output=True, text=True)
    found = re.search(r"^3-norm: (\S+)$", run.stdout, re.M)
    if run.returncode or found is None:
        raise RuntimeError(f"{BUTTERAUGLI} left with {run.returncode}: {(run.stderr or run.stdout).strip()[-300:]}")
    return float(found[1])


def looks_versions() -> list[str | None]:
    """What measures looks here, for keys of what was measured: programs that are optional count where they are."""
    return [ssimulacra2_version(), *filter(None, [butteraugli_version()])]
