"""Pictures a second of a DataLoader from .ccm, JPEG, WebP, AVIF and JPEG XL of the same PSNR, and what each takes.

    python benchmarks/loading.py PICTURES...      # writes benchmarks/results/loading.json

Formats take turns, so that a busy machine is busy for all of them. Beside the clock's rate stands the processor time of
a decode, measured in the worker around it, which other programs disturb much less. benchmarks/readme.py makes a table
of the result for docs/datasets.md. JPEG files are also decoded by torchvision and by TorchCodec, where they are
installed and load.
"""

from __future__ import annotations

import argparse
import importlib
import io
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from common import save
from PIL import Image
from torch.utils.data import DataLoader, Dataset

import ccm_fast
from ccm_fast.psnr import psnr

# Pillow's name, the setting's range, and what else is set; None: .ccm. The fastest settings of Pillow's plugins.
FORMATS = {
    ".ccm": None,
    "JPEG": ("JPEG", (5, 98), {"subsampling": 0}),
    "WebP": ("WEBP", (1, 100), {"method": 4}),
    "AVIF": ("AVIF", (1, 99), {"speed": 6, "max_threads": 1}),
    "JPEG XL": ("JXL", (1, 99), {"effort": 5, "num_threads": 1}),
}
CODEC = None


def _by_torchvision(data: bytes) -> np.ndarray:
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB).permute(1, 2, 0).numpy()


def _by_torchcodec(data: bytes) -> np.ndarray:
    from torchcodec.decoders import decode_jpeg

    return decode_jpeg(data).permute(1, 2, 0).numpy()


# Other decoders of JPEG's files: the package, and what it does.
DECODERS: dict[str, tuple[str, Callable[[bytes], np.ndarray]]] = {
    "JPEG, torchvision": ("torchvision", _by_torchvision),
    "JPEG, TorchCodec": ("torchcodec", _by_torchcodec),
}


def others(jpeg: bytes) -> dict[str, str]:
    """Those of DECODERS that work here, with their versions."""
    found = {}
    for name, (package, decoder) in DECODERS.items():
        try:
            importlib.import_module(package)
            decoder(jpeg)
            found[name] = version(package)
        except Exception as error:  # whatever a library raises that does not load
            print(f"{name}: left out: {str(error).splitlines()[0]}")
    return found


def decode(name: str, data: bytes) -> np.ndarray:
    """uint8 [H, W, 3], on one thread."""
    global CODEC
    if name in DECODERS:
        return DECODERS[name][1](data)
    if FORMATS[name] is None:
        CODEC = CODEC or ccm_fast.Codec.load()
        return CODEC.decode(data, threads=1)
    if name == "JPEG XL":
        import pillow_jxl  # noqa: F401 - registers itself
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def encode(name: str, photo: np.ndarray, quality: float) -> bytes:
    """The bytes at a setting, on one thread."""
    if FORMATS[name] is None:
        return ccm_fast.Codec.load().encode(photo, quality, threads=1)
    if name == "JPEG XL":
        import pillow_jxl  # noqa: F401
    file_format, _, options = FORMATS[name]
    out = io.BytesIO()
    Image.fromarray(photo).save(out, file_format, quality=int(quality), **options)
    return out.getvalue()


def of_quality(name: str, photo: np.ndarray, wanted: float) -> tuple[bytes, float, float]:
    """The smallest file with the PSNR, its PSNR, and the processor seconds of an encoding."""
    low, high = FORMATS[name][1]
    while low < high:
        middle = (low + high) // 2
        low, high = (
            (low, middle) if psnr(photo, decode(name, encode(name, photo, middle))) >= wanted else (middle + 1, high)
        )
    start = time.process_time()
    data = encode(name, photo, low)
    return data, psnr(photo, decode(name, data)), time.process_time() - start


class Files(Dataset):
    """So many pictures, over and over; each item is the processor time of its decoding."""

    def __init__(self, name: str, files: list[bytes], count: int):
        self.name, self.files, self.count = name, files, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, k: int) -> tuple[np.ndarray, float]:
        start = time.process_time()
        picture = decode(self.name, self.files[k % len(self.files)])
        return picture, time.process_time() - start


def collate(items: list) -> tuple[int, list[float]]:
    """Pictures differ in size, and are not the point: their number goes on."""
    return len(items), [seconds for _, seconds in items]


def measure(paths: list[Path], quality: float, rounds: int, count: int, workers: int) -> dict:
    """The whole measurement."""
    photos = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    pixels = sum(photo.shape[0] * photo.shape[1] for photo in photos)
    ccm_fast.Codec.load().encode(photos[0][:64, :64].copy(), quality)
    results: dict[str, dict] = {}
    files: dict[str, list[bytes]] = {}
    loaders: dict[str, DataLoader] = {}
    start = time.process_time()
    own = [encode(".ccm", photo, quality) for photo in photos]
    seconds = time.process_time() - start
    wanted = [psnr(photo, decode(".ccm", data)) for photo, data in zip(photos, own, strict=True)]
    for name in FORMATS:
        if name == ".ccm":
            found = [(data, value, seconds / len(own)) for data, value in zip(own, wanted, strict=True)]
        else:
            found = [of_quality(name, photo, value) for photo, value in zip(photos, wanted, strict=True)]
        data, values, times = zip(*found, strict=True)
        results[name] = {
            "bytes": sum(map(len, data)),
            "psnr": statistics.mean(values),
            "encode_seconds": statistics.mean(times),
            "rates": [],
            "decode_seconds": [],
        }
        files[name] = list(data)
    versions = others(files["JPEG"][0])
    for name in versions:
        psnrs = [psnr(photo, decode(name, data)) for photo, data in zip(photos, files["JPEG"], strict=True)]
        results[name] = results["JPEG"] | {"psnr": statistics.mean(psnrs), "rates": [], "decode_seconds": []}
        files[name] = files["JPEG"]
    for name, some in files.items():
        options = {"batch_size": 4, "num_workers": workers, "persistent_workers": True, "collate_fn": collate}
        loaders[name] = DataLoader(Files(name, some, count), multiprocessing_context="fork", **options)
    for k in range(rounds + 1):  # the first one is not counted: workers start
        for name, loader in loaders.items():
            start = time.perf_counter()
            batches = list(loader)
            taken = time.perf_counter() - start
            if k:
                results[name]["rates"].append(sum(n for n, _ in batches) / taken)
                results[name]["decode_seconds"] += [s for _, seconds in batches for s in seconds]
    for found in results.values():
        found["decode_seconds"] = statistics.median(found["decode_seconds"])
    weights = ccm_fast.Codec.load().fingerprint.hex()
    found = {"pictures": len(photos), "pixels": pixels, "workers": workers, "weights": weights, "versions": versions}
    return {**found, "formats": results}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--quality", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    print(save("loading", measure(args.paths, args.quality, args.rounds, args.count, args.workers)))


if __name__ == "__main__":
    main()
