"""What more lanes cost in bytes: whole files, by the number of rANS lanes of every stream, over files of one lane.

    python benchmarks/lanes.py FOLDER [--qualities 2 4 6]

Writes benchmarks/results/lanes.json. Lanes are for decoders that use them all, which GPUs do (docs/cuda.md).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common import save

from ccm_fast.files import codec_for, encode_picture
from ccm_fast.images import open_picture
from ccm_fast.stream.limits import MAX_PIXELS

LANES = (1, 0, 8, 16, 32, 64)  # 0: as the encoder chooses


def sizes(files: list[Path], model: str, quality: float) -> dict[int, list[int]]:
    """Bytes of each picture's file, by lanes."""
    codec = codec_for(model)
    return {
        n: [len(encode_picture(open_picture(f, MAX_PIXELS), quality, codec, lanes=n)) for f in files] for n in LANES
    }


def main() -> None:
    """Encode, print, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="PNG files")
    parser.add_argument("--qualities", type=float, nargs="+", default=[2.0, 4.0, 6.0])
    parser.add_argument("--model", default="ccm-small")
    args = parser.parse_args()
    files = sorted(args.folder.glob("*.png"))
    found = {}
    for quality in args.qualities:
        of = sizes(files, args.model, quality)
        one = of[1]
        found[str(quality)] = {
            "bytes": of,
            "percent_over_one": {n: round(100 * (sum(v) / sum(one) - 1), 3) for n, v in of.items()},
            "worst_percent_over_one": {
                n: round(max(100 * (a / b - 1) for a, b in zip(v, one, strict=True)), 3) for n, v in of.items()
            },
        }
        for n, v in of.items():
            more, worst = (found[str(quality)][k][n] for k in ("percent_over_one", "worst_percent_over_one"))
            mean = sum(v) / len(files)
            print(f"quality {quality:g}, lanes {n:2}: {mean:9.1f} bytes a file, {more:+.2f} % (worst {worst:+.2f} %)")
    result = {"model": args.model, "images": [f.name for f in files], "qualities": found}
    print("written to", save("lanes", result))


if __name__ == "__main__":
    main()
