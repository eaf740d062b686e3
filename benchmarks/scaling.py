"""Decode time over sizes, batches and threads, and peak memory; every measurement in a process of its own.

python benchmarks/scaling.py [--device cuda]
"""

from __future__ import annotations

import argparse

from common import save

from ccm_fast.bench import scaling


def main() -> None:
    """Run, print, write benchmarks/results/scaling_DEVICE.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    result = scaling.run(args.device, repeats=args.repeats)
    print(scaling.report(result))
    print("written to", save(f"scaling_{args.device.replace(':', '')}", result))


if __name__ == "__main__":
    main()
