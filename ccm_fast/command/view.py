"""``ccm-fast view``: pictures on a page in the browser; the page is one file that needs nothing else."""

from __future__ import annotations

import base64
import html
import io
import os
import tempfile
import webbrowser
from pathlib import Path

from .messages import complain, interactive, reason, say, shown
from .streams import binary_input, ccm_files, open_target

__all__ = ["page", "run"]

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ margin: 0; font: 14px system-ui, sans-serif; background: #202124; color: #e8eaed; }}
figure {{ margin: 0; padding: 12px; }}
figcaption {{ padding: 0 0 8px; }}
img {{ max-width: 100%; max-height: calc(100vh - 56px); cursor: zoom-in;
  background: repeating-conic-gradient(#999 0 25%, #bbb 0 50%) 0 0 / 16px 16px; }}
img.whole {{ max-width: none; max-height: none; cursor: zoom-out; image-rendering: pixelated; }}
</style></head><body>
{figures}
<script>
for (const image of document.images) image.onclick = () => image.classList.toggle("whole");
</script>
</body></html>
"""
_FIGURE = """<figure><figcaption><b>{name}</b> &ensp; {text}</figcaption><img alt="{name}" src="{source}"></figure>"""


def page(pictures: list[tuple[str, str, bytes]]) -> str:
    """A page of (name, remarks, PNG file) triples. A click on a picture shows its pixels one to one."""
    figures = []
    for name, text, png in pictures:
        source = "data:image/png;base64," + base64.b64encode(png).decode()
        figures.append(_FIGURE.format(name=html.escape(name), text=html.escape(text), source=source))
    title = ", ".join(name for name, _, _ in pictures[:3]) + (", ..." if len(pictures) > 3 else "")
    return _PAGE.format(title=html.escape(title), figures="\n".join(figures))


def _picture(name: str, args) -> tuple[str, str, bytes]:
    from PIL import ImageOps

    from ccm_fast.files import decode_file
    from ccm_fast.reading import read_bytes
    from ccm_fast.stream.container import parse_container
    from ccm_fast.stream.packet import peek

    data = read_bytes(binary_input(name), args.max_pixels)
    image = decode_file(io.BytesIO(data), None, args.model, max_pixels=args.max_pixels)
    quality = 1 + peek(parse_container(data).packet, args.max_pixels).quality_code / 32
    bpp = 8 * len(data) / (image.width * image.height)
    out = io.BytesIO()
    profile = image.info.get("icc_profile")
    ImageOps.exif_transpose(image).save(out, "PNG", compress_level=1, icc_profile=profile)
    text = f"{image.width}x{image.height}, quality {quality:g}, {len(data):,} bytes, {bpp:.3f} bits a pixel"
    return shown(os.path.basename(name)), text, out.getvalue()


def run(args) -> int:
    """``ccm-fast view``."""
    failed, pictures = False, []
    from tqdm import tqdm

    with tqdm(list(ccm_files(args.files)), unit="file", disable=not interactive(), leave=False, delay=1) as bar:
        for name in bar:
            try:
                pictures.append(_picture(name, args))
            except Exception as error:
                failed = True
                complain("standard input" if name == "-" else name, reason(error, name))
    if not pictures:
        return 1
    text = page(pictures).encode()
    if args.output is not None:
        with open_target(args.output, args.force) as file:
            file.write(text)
        return int(failed)
    with tempfile.NamedTemporaryFile("wb", prefix="ccm-fast-view-", suffix=".html", delete=False) as file:
        file.write(text)
    say(file.name)
    if not webbrowser.open(Path(file.name).as_uri()):
        complain(None, "no browser was found; the page is the file above")
        return 1
    return int(failed)
