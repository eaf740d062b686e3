"""Pictures of every format into the encoder."""

import io

import mutation
import numpy as np
import tiny
from files import pictures
from mutation import pick
from PIL import Image
from target import Target, must

from ccm_fast import errors, files
from ccm_fast.images.picture import Picture
from ccm_fast.images.write import save_picture
from ccm_fast.native import Codec

STRUCTURED = {"PNG": mutation.damage_png, "TIFF": mutation.damage_tiff, "JPEG": mutation.damage_jpeg}
MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "AVIF": ("RGB", "RGBA"),
    "JPEG2000": ("L", "LA", "RGB", "RGBA", "I;16"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "GIF": ("L", "P"),
    "PPM": ("1", "L", "RGB", "I;16"),
    "PCX": ("1", "L", "P", "RGB"),
    "SGI": ("L", "RGB", "RGBA"),
    "TGA": ("1", "L", "LA", "P", "RGB", "RGBA"),
    "QOI": ("RGB", "RGBA"),
    # What is not read here, whatever a file is called.
    "ICO": ("RGBA",),
    "EPS": ("RGB",),
    "PDF": ("RGB",),
}
OPTIONS = {
    "TIFF": ({}, {"compression": "tiff_lzw"}, {"compression": "packbits"}, {"compression": "tiff_adobe_deflate"}),
    "JPEG": ({}, {"progressive": True}, {"subsampling": 2}),
    "WEBP": ({}, {"lossless": True}),
    "TGA": ({}, {"compression": "tga_rle"}),
}


def convert(image: Image.Image, mode: str) -> Image.Image:
    if mode in ("I", "I;16", "F"):
        values = np.asarray(image.convert("L")).astype({"I": np.int32, "I;16": np.uint16, "F": np.float32}[mode])
        return Image.fromarray(values * 200)
    return image.convert("RGB").convert(mode) if mode == "LAB" else image.convert(mode)


def seeds() -> list[tuple[str, bytes]]:
    """Format and bytes of small pictures: every format and mode, with and without metadata."""
    base = pictures()[0]
    carried = {"exif": base.info["exif"], "icc_profile": base.info["icc_profile"]}
    plain = Image.fromarray(np.asarray(base))
    found = []
    for name, modes in MODES.items():
        for mode in modes:
            for options in OPTIONS.get(name, ({},)):
                for info in ({}, carried) if name in ("PNG", "TIFF", "JPEG", "WEBP", "AVIF") else ({},):
                    out = io.BytesIO()
                    try:
                        image = convert(plain, mode)
                        if mode == "1" and options.get("compression") == "packbits":
                            options = {"compression": "group4"}
                        image.save(out, name, **options, **info)
                    except (OSError, ValueError, KeyError, RuntimeError):  # what this Pillow does not write
                        continue
                    found.append((name, out.getvalue()))
    deep = np.random.default_rng(1).integers(0, 65536, (20, 24, 3)).astype(np.uint16)
    for name in ("PNG", "PPM"):
        out = io.BytesIO()
        save_picture(Picture(deep, {}), out, name)
        found.append((name, out.getvalue()))
    frames = [Image.fromarray(tiny.photo(16, 16, k)) for k in range(2)]
    for name in ("GIF", "TIFF", "PNG", "WEBP", "MPO"):
        out = io.BytesIO()
        frames[0].save(out, name, save_all=True, append_images=frames[1:])
        found.append((name, out.getvalue()))
    found.append(("EPS", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n{} loop\n"))
    return found


class Pictures(Target):
    name = "pictures"
    megabytes = 400  # samples of 2^22 pixels in several types

    def __init__(self):
        self.codec = Codec.load(tiny.GOLDEN / "tiny.safetensors", threads=1)
        self.seeds = seeds()

    def make(self, rng):
        name, data = pick(rng, self.seeds)
        if rng.random() < 0.05:
            _other, more = pick(rng, self.seeds)
            at = int(rng.integers(len(data)))
            return data[:at] + more[min(at, len(more)) :]
        for _ in range(pick(rng, (1, 1, 2, 4))):
            data = mutation.damage_by(rng, data, STRUCTURED.get(name))
        return data

    def check(self, data):
        out = io.BytesIO()
        try:
            about = files.encode_file(io.BytesIO(data), out, 4, self.codec, effort=1, threads=1, max_pixels=1 << 22)
        except (errors.ImageError, errors.LimitError, errors.EncodeError) as error:
            must(bool(str(error)), "an error that says nothing")
            return type(error).__name__
        if about["width"] * about["height"] < 1 << 18:
            decoded = files.decode_bytes(out.getvalue(), self.codec, threads=1)
            must(decoded.picture.size == (about["height"], about["width"]), "a picture of another size")
        return "picture"
