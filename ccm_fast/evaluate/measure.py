"""Every codec, image and setting, once: results go to a file as they come, and a second run takes up where it was left.

A cache is a file of JSON lines. What a line is about, its key, is everything that the result depends on: the image's
pixels, the codec with its version and options, the setting.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import CcmFastError, ImageError
from ..images.formats import readable
from . import codecs
from .codecs import Codec, CodecError
from .curves import LOOKS
from .metrics import butteraugli, looks_versions, ms_ssim, psnr, ssimulacra2

__all__ = ["Cache", "Source", "Task", "load_pixels", "measure", "run", "sources"]

RECORD = 2  # version of a record's meaning


@dataclass(frozen=True)
class Source:
    """An image to measure on: its file, the name for reports, and the digest of its pixels."""

    path: str
    name: str
    size: tuple[int, int]
    digest: str


@dataclass(frozen=True)
class Task:
    """One measurement, small enough to be sent to another process.

    ``codec`` is a name in CODECS, or the arguments of :func:`codecs.model_codec`.
    """

    codec: str | tuple
    source: Source
    setting: float


def load_pixels(path: str | Path) -> np.ndarray:
    """uint8 [H, W, 3]: what all codecs are given. Transparency and metadata are left out.

    Raises:
        ImageError: not a picture that Pillow reads.
    """
    try:
        with Image.open(path, formats=readable()) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"{path}: cannot be read: {error}") from error


def sources(paths: Sequence[str | Path], suffixes: set[str]) -> list[Source]:
    """The images of files and folders (with those within), sorted by name within each.

    Raises:
        FileNotFoundError: nothing there.
        ImageError: not a picture.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in suffixes) if path.is_dir() else [path]
        if not inside or not all(p.is_file() for p in inside):
            raise FileNotFoundError(f"no images in {path}")
        found += inside
    result = []
    for path in found:
        pixels = load_pixels(path)
        digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:16]
        result.append(Source(str(path), path.stem, pixels.shape[:2], digest))
    names = [s.name for s in result]
    if len(set(names)) < len(names):
        result = [replace(s, name=f"{Path(s.path).parent.name}/{Path(s.path).name}") for s in result]
    return result


def codec_of(spec: str | tuple) -> Codec:
    """The codec of a task, in whatever process."""
    return codecs.classical(spec) if isinstance(spec, str) else codecs.model_codec(*spec)


def key_of(codec: Codec, source: Source, setting: float) -> str:
    """What a result depends on."""
    text = json.dumps([RECORD, source.digest, codec.name, codec.version, float(setting), *looks_versions()])
    return hashlib.sha256(text.encode()).hexdigest()[:24]


class Cache:
    """Results by key, on disk. One process at a time may write one file."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.records: dict[str, dict] = {}
        text = self.path.read_text(encoding="utf-8") if self.path.is_file() else ""
        for line in text.splitlines():
            try:
                record = json.loads(line)
                # What was not measured stays None.
                self.records[record["key"]] = {
                    k: math.nan if v is None and k not in LOOKS else v for k, v in record.items()
                }
            except (ValueError, TypeError, KeyError):  # the last line of a run that was killed
                continue
        self._torn = text[-1:] not in ("", "\n")

    def get(self, key: str) -> dict | None:
        """A result, or None."""
        return self.records.get(key)

    def put(self, record: dict) -> None:
        """Keep a result; it is in the file when this returns."""
        self.records[record["key"]] = record
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # JSON has no word for what is no number, as MS-SSIM of a small picture.
        known = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write("\n" * self._torn + json.dumps(known, allow_nan=False) + "\n")
        self._torn = False


def _clock() -> tuple[float, float]:
    """Seconds on the wall; of processors, children that have ended included: the second hardly minds a busy machine."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter(), time.process_time() + children.ru_utime + children.ru_stime


def measure(codec: Codec, source: Source, setting: float, pixels: np.ndarray | None = None) -> dict:
    """Encode, decode, compare.

    Returns:
        ``key, image, codec, setting, pixels, bytes, psnr`` (dB; None: no error), ``ms_ssim`` (None: image too small),
        ``ssimulacra2, butteraugli`` (None: not installed, or too small),
        ``encode_seconds, encode_cpu_seconds, decode_seconds, decode_cpu_seconds``.

    Raises:
        CodecError: it failed, or what it decoded is not an image of this size.
    """
    pixels = load_pixels(source.path) if pixels is None else pixels
    clock = [_clock()]
    data = codec.encode(pixels, setting)
    clock.append(_clock())
    decoded = codec.decode(data, source.size)
    clock.append(_clock())
    if decoded.shape != pixels.shape:
        raise CodecError(f"{codec.name} decoded {decoded.shape} where {pixels.shape} went in")
    quality = psnr(pixels, decoded)
    return {
        "key": key_of(codec, source, setting),
        "image": source.name,
        "codec": codec.name,
        "setting": setting,
        "pixels": source.size[0] * source.size[1],
        "bytes": len(data),
        "psnr": None if quality == float("inf") else quality,
        "ms_ssim": ms_ssim(pixels, decoded),
        "ssimulacra2": ssimulacra2(pixels, decoded),
        "butteraugli": butteraugli(pixels, decoded),
        **{
            f"{way}_{kind}": round(clock[k + 1][i] - clock[k][i], 4)
            for k, way in enumerate(("encode", "decode"))
            for i, kind in enumerate(("seconds", "cpu_seconds"))
        },
    }


def _work(task: Task) -> tuple[Task, dict | str]:
    try:
        return task, measure(codec_of(task.codec), task.source, task.setting)
    except (CcmFastError, OSError, ValueError, KeyError, RuntimeError, MemoryError) as error:
        return task, f"{task.source.name} at {task.setting:g}: {error}"


def _start(threads: int | None) -> None:
    os.environ["OMP_NUM_THREADS"] = str(threads or 1)  # torch, which most codecs need only late, reads it then


def _results(tasks: list[Task], jobs: int, threads: int | None) -> Iterator[tuple[Task, dict | str]]:
    if jobs == 1:
        yield from map(_work, tasks)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor, as_completed

    spawn = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    pool = ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_start, initargs=(threads,))
    try:
        for future in as_completed([pool.submit(_work, task) for task in tasks]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def run(
    specs: Sequence[str | tuple],
    images: Sequence[Source],
    cache: Cache,
    *,
    jobs: int = 1,
    threads: int | None = None,
    progress: bool = False,
    complain: Callable[[str, str], None] = lambda codec, message: None,
) -> dict[str, list[dict]]:
    """Measure whatever the cache does not hold.

    Args:
        specs: codecs, as in :class:`Task`.
        images: from :func:`sources`.
        cache: results are added to it.
        jobs: processes; with more than one, times say less.
        threads: of torch in each process, where there are several.
        progress: show a bar on stderr.
        complain: called with a codec's name and what went wrong with one image; the others go on.

    Returns:
        Codec name -> its records, by setting and image. A setting that failed on an image is left out altogether: an
        average over fewer images is not comparable.
    """
    from tqdm import tqdm

    table = {spec: codec_of(spec) for spec in specs}
    tasks = [Task(spec, image, setting) for spec in specs for image in images for setting in table[spec].ladder]
    missing = [t for t in tasks if cache.get(key_of(table[t.codec], t.source, t.setting)) is None]
    failed = set()
    with tqdm(total=len(missing), disable=not progress or not missing, unit="file", leave=False) as bar:
        for task, outcome in _results(missing, jobs, threads):
            name = table[task.codec].name
            if isinstance(outcome, str):
                failed.add((task.codec, task.setting))
                with bar.external_write_mode():
                    complain(name, outcome)
            else:
                cache.put({**outcome, "jobs": jobs})
            bar.set_postfix_str(name)
            bar.update()
    return {
        codec.name: [
            cache.records[key_of(codec, image, setting)]
            for setting in codec.ladder
            if (spec, setting) not in failed
            for image in images
        ]
        for spec, codec in table.items()
    }
