"""A classifier trained on originals and on .ccm files of two qualities: accuracy and bytes, over three seeds.

    python benchmarks/classifier.py TRAIN      # writes benchmarks/results/classifier.json

TRAIN is a folder of tar shards of photographs' crops (288 pixels a side, JPEG) with a manifest.csv, which says what a
crop was cut out of. Eight classes follow from that: fronts of houses, bathrooms, bedrooms and kitchens (all four of one
collection), cars, food, pictures from the air, aircraft. A small convolutional network learns them from nothing. Each
of the three seeds tests another third of the photographs by a network that has seen the rest (all crops of a photograph
are in one third), so that every picture is tested once. A seed draws weights and the order of training; the same seeds
serve every set, which differ by their pixels alone. One thread. benchmarks/readme.py makes a table of the result for
docs/datasets.md.
"""

from __future__ import annotations

import argparse
import csv
import io
import random
import statistics
import tarfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import save
from PIL import Image
from torch import Tensor, nn

import ccm_fast
from ccm_fast.psnr import psnr

# Class: the column "source" of the manifest, and a part of the original path.
CLASSES = {
    "house fronts": ("houses", "frontal"),
    "bathrooms": ("houses", "bathroom"),
    "bedrooms": ("houses", "bedroom"),
    "kitchens": ("houses", "kitchen"),
    "cars": ("pimcore", "Car Images"),
    "food": ("based", ""),
    "from the air": ("seneca", ""),
    "aircraft": ("aircraft", ""),
}
MOST = 100  # crops of a class, so that none is the answer to most questions
SEEDS = 3
SIDE, INSIDE = 144, 128  # of a picture in memory, and of what the network sees of it


def chosen(folder: Path) -> tuple[list[bytes], list[int], list[str]]:
    """The crops' files, their classes, and the photograph that each was cut out of."""
    members: dict[str, dict[str, bytes]] = {}
    files, labels, photos = [], [], []
    with open(folder / "manifest.csv", newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    random.Random(0).shuffle(rows)
    for label, (source, part) in enumerate(CLASSES.values()):
        found = [row for row in rows if row["source"] == source and part in row["original_path"]]
        for row in found[:MOST]:
            shard = row["shard"]
            if shard not in members:
                with tarfile.open(folder / f"{shard}.tar") as tar:
                    members[shard] = {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}
            files.append(members[shard][row["file"]])
            labels.append(label)
            photos.append(f"{source}/{row['original_path']}")
    return files, labels, photos


def reduced(pictures: list[np.ndarray]) -> Tensor:
    """Pictures of any size as uint8 [N, 3, SIDE, SIDE]."""
    size = (SIDE, SIDE)
    small = [np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX)) for picture in pictures]
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).contiguous()


def network() -> nn.Module:
    """Five convolutions."""

    def stage(a: int, b: int, size: int, stride: int, padding: int) -> list[nn.Module]:
        return [nn.Conv2d(a, b, size, stride, padding, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]

    return nn.Sequential(
        *stage(3, 32, 4, 4, 0),
        *stage(32, 64, 3, 2, 1),
        *stage(64, 64, 3, 1, 1),
        *stage(64, 128, 3, 2, 1),
        *stage(128, 128, 3, 1, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(128, len(CLASSES)),
    ).to(memory_format=torch.channels_last)


def _input(pixels: Tensor) -> Tensor:
    return pixels.to(memory_format=torch.channels_last).float().div_(127.5).sub_(1)


def _augmented(pixels: Tensor, draw: random.Random) -> Tensor:
    """A random window of each picture, half of them mirrored."""
    windows = []
    for picture in pixels:
        y, x = draw.randrange(SIDE - INSIDE + 1), draw.randrange(SIDE - INSIDE + 1)
        window = picture[:, y : y + INSIDE, x : x + INSIDE]
        windows.append(window.flip(2) if draw.random() < 0.5 else window)
    return torch.stack(windows)


def trained(pixels: Tensor, labels: Tensor, epochs: int, seed: int) -> nn.Module:
    """A network that has seen the pictures so many times."""
    torch.manual_seed(seed)
    draw, net, batch = random.Random(seed), network(), 32
    steps = epochs * (len(pixels) // batch)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    for _ in range(epochs):
        order = torch.randperm(len(pixels))
        for k in range(len(pixels) // batch):
            where = order[k * batch : (k + 1) * batch]
            loss = F.cross_entropy(net(_input(_augmented(pixels[where], draw))), labels[where], label_smoothing=0.1)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()


@torch.inference_mode()
def right(net: nn.Module, pixels: Tensor, labels: Tensor) -> int:
    """How many pictures are recognised, by their middle and its mirror image."""
    edge = (SIDE - INSIDE) // 2
    x = _input(pixels[..., edge : edge + INSIDE, edge : edge + INSIDE])
    return int((net(x) + net(x.flip(3))).argmax(1).eq(labels).sum())


def thirds(photos: list[str]) -> Tensor:
    """For each crop the seed, 0 to 2, that tests its photograph."""
    names = sorted(set(photos))
    random.Random(0).shuffle(names)
    place = {name: k % SEEDS for k, name in enumerate(names)}
    return torch.tensor([place[name] for name in photos])


def sets_of(files: list[bytes], qualities: list[float]) -> dict[str, dict]:
    """The originals and the .ccm files: bytes, PSNR against the originals, and pixels as the network gets them."""
    originals = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in files]
    found = {"originals (JPEG)": {"bytes": sum(map(len, files)), "psnr": None, "pixels": reduced(originals)}}
    for quality in qualities:
        coded = ccm_fast.encode_batch(originals, quality, threads=1)
        decoded = ccm_fast.decode_arrays(coded, threads=1, errors="none")
        found[f".ccm, quality {quality:g}"] = {
            "bytes": sum(map(len, coded)),
            "psnr": statistics.mean(psnr(a, b) for a, b in zip(originals, decoded, strict=True)),
            "pixels": reduced(decoded),
        }
    return found


def measure(folder: Path, qualities: list[float], epochs: int) -> dict:
    """The whole measurement."""
    torch.set_num_threads(1)
    start = time.process_time()
    files, classes, photos = chosen(folder)
    labels = torch.tensor(classes)
    sets = sets_of(files, qualities)
    print(f"encoded: {time.process_time() - start:.0f} s", flush=True)
    pristine, third = sets["originals (JPEG)"]["pixels"], thirds(photos)
    for seed in range(SEEDS):
        test = third == seed
        for name, one in sets.items():
            net = trained(one["pixels"][~test], labels[~test], epochs, seed)
            one.setdefault("right", []).append(right(net, one["pixels"][test], labels[test]))
            one.setdefault("right_on_originals", []).append(right(net, pristine[test], labels[test]))
            print(f"seed {seed}, {name}: {one['right'][-1]}, {time.process_time() - start:.0f} s", flush=True)
    for one in sets.values():
        del one["pixels"]
    return {
        "pictures": len(files),
        "photographs": len(set(photos)),
        "classes": {name: classes.count(k) for k, name in enumerate(CLASSES)},
        "tested": [int((third == seed).sum()) for seed in range(SEEDS)],
        "epochs": epochs,
        "cpu_seconds": time.process_time() - start,
        "sets": sets,
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--qualities", type=float, nargs="+", default=[4.0, 2.0])
    parser.add_argument("--epochs", type=int, default=20)
    args = parser.parse_args()
    result = measure(args.folder, args.qualities, args.epochs)
    print(save("classifier", result))


if __name__ == "__main__":
    main()
