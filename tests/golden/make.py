"""Made the golden files once. Run it only for a new version of the format: the files are a promise (FORMAT.md).

It makes what is missing: those of version 2, one of a plan of version 3, one with a picture filter and one whose
lanes retire, beside the ones of version 1 that an earlier state made.
"""

import hashlib
import io
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny

from ccm_fast.files import decode_bytes, encode_file
from ccm_fast.stream.container import FILTER, parse_container, write_container

# Three classes, coefficients of -9 to 9.
FILTER_CHUNK = bytes.fromhex(
    "0321e876dd5a7b3ec6b8ee27f6b94fee91a3e78b8085d7deed7c715ec7e5f3c9e78917f7bd4d0cc47c3d1fc7abafa3034fef"
    "3a355ed781fbea7a2e3ea61abe3acbe7a3c239cfd8117a856996ea758a399fb11ff17acd673d07ae47e9bc2edcbe5f1aa70e"
)


def image(name):
    pixels = tiny.photo(37, 53)
    if name == "grey":
        return Image.fromarray(pixels[..., 0])
    if name == "alpha":
        alpha = (np.mgrid[:37, :53].sum(0) * 3 % 256).astype(np.uint8)
        picture = Image.fromarray(np.dstack([pixels, alpha]))
        exif = Image.Exif()
        exif[0x0112] = 6
        picture.info.update(exif=exif.tobytes(), icc_profile=b"not really a profile")
        return picture
    if name == "pixel":
        return Image.fromarray(pixels[:1, :1])
    return Image.fromarray(pixels)


def main():
    out = json.loads((tiny.GOLDEN / "golden.json").read_text())
    for picture, quality, lanes, model in (
        ("colour", 4.0, 0, tiny.model()),
        ("grey", 2.5, 2, tiny.model()),
        ("alpha", 8.0, 64, tiny.model()),
        ("pixel", 1.0, 0, tiny.model()),
        ("colour", 6.0, 2, tiny.skipping()),
        ("filter", 5.0, 1, tiny.model()),
        ("taper", 6.0, 2, tiny.model()),
    ):
        name, data = f"{picture}{model.frozen.plan.version if model is tiny.skipping() else 2}", io.BytesIO()
        if (tiny.GOLDEN / f"{name}.ccm").exists():
            continue
        encode_file(image(picture), data, quality, model, lanes=lanes)
        if picture == "filter":
            container = parse_container(data.getvalue())
            data = io.BytesIO(write_container(container.packet, {FILTER: FILTER_CHUNK}))
        (tiny.GOLDEN / f"{name}.ccm").write_bytes(data.getvalue())
        decoded = decode_bytes(data.getvalue(), model, engine="reference")
        latents = np.ascontiguousarray(decoded.latents.astype("<i2"))
        out[name] = {
            "shape": list(latents.shape),
            "sha256": hashlib.sha256(latents.tobytes()).hexdigest(),
            "size": [decoded.packet.width, decoded.packet.height],
            "quality": decoded.packet.quality,
            "lanes": list(decoded.packet.lanes),
            "tapers": list(decoded.packet.tapers),
            "version": decoded.packet.version,
            "plan": model.frozen.plan.version,
            "chunks": {k: len(v) for k, v in decoded.picture.chunks.items()},
            "mean": round(float(decoded.picture.pixels.mean()), 2),
        }
    (tiny.GOLDEN / "golden.json").write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
