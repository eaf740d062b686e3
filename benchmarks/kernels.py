"""Microbenchmarks of every operator, over sizes, on the CPU engine or the GPU engine.

python benchmarks/kernels.py [--device cuda] [--threads 1] [--cold]
"""

from __future__ import annotations

import argparse

from common import save

from ccm_fast.bench import kernels


def main() -> None:
    """Run, print, write benchmarks/results/kernels_DEVICE.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--cold", action="store_true", help="empty the caches before each call")
    args = parser.parse_args()
    result = kernels.run(args.device, threads=args.threads, cold=args.cold, repeats=args.repeats)
    print(kernels.report(result))
    name = f"kernels_{args.device.replace(':', '')}{'_cold' if args.cold else ''}"
    print("written to", save(name, result))


if __name__ == "__main__":
    main()
