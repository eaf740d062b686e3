"""``ccm-fast demo [IMAGE]``: a photograph through the codec, and the proof that another machine agrees.

Encodes and decodes an image, compares it with a JPEG of the same size, decodes the file once more in another process
that may use no vector instructions, and writes demo_out/side_by_side.png.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import subprocess
import sys
import time
from pathlib import Path

from .messages import FAILURES, complain, reason

__all__ = ["find_photograph", "jpeg_of_size", "run"]

# Photographs that come with packages people have (the demo extra installs the first), as (package, file inside it).
PHOTOGRAPHS = (
    ("skimage", "data/coffee.png"),
    ("sklearn", "datasets/images/china.jpg"),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
)


def find_photograph() -> Path:
    """A photograph on this machine. Raises FileNotFoundError, saying what to do."""
    for package, name in PHOTOGRAPHS:
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin and (path := Path(spec.origin).parent / name).is_file():
            return path
    raise FileNotFoundError("no photograph found: name one, or `pip install scikit-image`, which carries some")


def jpeg_of_size(image, size: int) -> bytes:
    """The JPEG of the highest quality setting that is no larger than ``size`` bytes; of the lowest if none is."""
    low, high, best = 1, 95, b""
    while low <= high:
        middle = (low + high) // 2
        out = io.BytesIO()
        image.save(out, "JPEG", quality=middle, optimize=True)
        if out.tell() <= size or not best:
            best = out.getvalue()
        low, high = (middle + 1, high) if out.tell() <= size else (low, middle - 1)
    return best


def side_by_side(panels: list, path: Path) -> None:
    """A picture of (caption, image) panels next to each other."""
    from PIL import Image, ImageDraw, ImageFont

    width, height = panels[0][1].size
    band = 28
    sheet = Image.new("RGB", (width * len(panels), height + band), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(max(10, min(18, width // 24)))
    for k, (caption, image) in enumerate(panels):
        sheet.paste(image, (k * width, band))
        draw.text((k * width + 6, 4), caption, "black", font)
    sheet.save(path)


def _latents_elsewhere(path: Path, model: str | None, isa: str) -> tuple[str, float]:
    """SHA-256 of the latents that another process decodes with one instruction set, and its seconds."""
    import numpy as np

    out = path.with_suffix(".npy")
    command = [sys.executable, "-m", "ccm_fast", "decode", str(path), "--latents", str(out), "--force"]
    start = time.perf_counter()
    subprocess.run(command + (["--model", model] if model else []), env={**os.environ, "CCM_FAST_ISA": isa}, check=True)
    seconds = time.perf_counter() - start
    latents = np.load(out)
    out.unlink()
    return hashlib.sha256(latents.tobytes()).hexdigest(), seconds


def show(image_path: Path, quality: float, model: str | None, folder: Path) -> int:
    """The demo; returns the exit code."""
    import numpy as np
    import torch
    from PIL import Image

    from ccm_fast.files import decode_bytes, encode_file, model_for
    from ccm_fast.psnr import psnr

    folder.mkdir(parents=True, exist_ok=True)
    with Image.open(image_path) as opened:
        image = opened.convert("RGB")
    original = np.asarray(image)
    print(f"{image_path.name}: {image.width}x{image.height}, {image_path.stat().st_size} bytes as it came")
    loaded = model_for(model)
    target = folder / f"{image_path.stem}.ccm"

    encode_file(image, io.BytesIO(), quality, loaded)  # the first run also sets up torch's kernels
    times, back = {}, {}
    report = encode_file(image, target, quality, loaded, timings=times)
    data = target.read_bytes()
    decode_bytes(data, loaded)
    decoded = decode_bytes(data, loaded, timings=back)
    picture = Image.fromarray(decoded.picture.pixels)
    picture.save(folder / f"{image_path.stem}.png")
    ours = psnr(original, decoded.picture.pixels)
    jpeg = jpeg_of_size(image, len(data))
    jpeg_image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    theirs = psnr(original, np.asarray(jpeg_image))

    pixels = image.width * image.height
    print(
        f"  ccm_fast  quality {report['quality']:g}  {len(data):7d} bytes  {report['bpp']:.3f} bpp  PSNR {ours:.2f} dB"
    )
    print(f"  JPEG      same size  {len(jpeg):7d} bytes  {8 * len(jpeg) / pixels:.3f} bpp  PSNR {theirs:.2f} dB")
    for name, seconds in (("encode", times), ("decode", back)):
        parts = ", ".join(f"{stage} {1000 * value:.0f}" for stage, value in seconds.items())
        print(f"  {name} {1000 * sum(seconds.values()):.0f} ms ({parts}) on {torch.get_num_threads()} threads")

    here = hashlib.sha256(decoded.latents.tobytes()).hexdigest()
    there, seconds = _latents_elsewhere(target, model, "scalar")
    print(f"  latents decoded here                            sha256 {here[:32]}...")
    print(f"  in another process, without vector instructions sha256 {there[:32]}...  ({seconds:.1f} s with start-up)")
    print("  identical, bit for bit" if here == there else "  DIFFERENT: please report this with `ccm-fast env`")

    sheet = folder / "side_by_side.png"
    captions = ("original", f"ccm_fast {len(data)} bytes, {ours:.2f} dB", f"JPEG {len(jpeg)} bytes, {theirs:.2f} dB")
    side_by_side(list(zip(captions, (image, picture, jpeg_image), strict=True)), sheet)
    print(f"  {target}, {sheet}")
    return int(here != there)


def run(args) -> int:
    """``ccm-fast demo``."""
    try:
        return show(args.image or find_photograph(), args.quality, args.model, args.out)
    except FAILURES as error:
        complain(None, reason(error))
        return 1
