"""What more lanes cost in bytes: whole files at one quality, by the number of rANS lanes of every stream.

    python benchmarks/lanes.py FOLDER [--quality 4]

Writes benchmarks/results/lanes.json. Lanes are for decoders that use them all, which GPUs do (docs/cuda.md).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common import save

from ccm_fast.files import encode_picture, model_for
from ccm_fast.images import open_picture
from ccm_fast.stream.limits import MAX_PIXELS

LANES = (0, 1, 2, 4, 8, 16, 32)  # 0: as the encoder chooses


def main() -> None:
    """Encode, print, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="PNG files")
    parser.add_argument("--quality", type=float, default=4.0)
    parser.add_argument("--model", default="ccm-small")
    args = parser.parse_args()
    model = model_for(args.model)
    files = sorted(args.folder.glob("*.png"))
    sizes = {
        n: [len(encode_picture(open_picture(f, MAX_PIXELS), args.quality, model, lanes=n)) for f in files]
        for n in LANES
    }
    base = sum(sizes[0])
    result = {
        "model": args.model,
        "quality": args.quality,
        "images": [f.name for f in files],
        "bytes": sizes,
        "percent_over_chosen": {n: 100 * (sum(v) / base - 1) for n, v in sizes.items()},
    }
    for n, value in result["percent_over_chosen"].items():
        print(f"lanes {n:2}: {sum(sizes[n]) / len(files):9.1f} bytes a file, {value:+.2f} %")
    print("written to", save("lanes", result))


if __name__ == "__main__":
    main()
