"""CompressAI's nets, accelerated, against CompressAI itself: one interleaved run (``ccm-fast bench dropin``).

    python benchmarks/dropin.py [--kind mbt2018 cheng2020-anchor] [--threads 1 2] [--repeats 2]

See ccm_fast/bench/dropin.py for what is timed and checked. Some five minutes, nearly all of them CompressAI's.
"""

from __future__ import annotations

import argparse

from common import save

from ccm_fast.bench import dropin


def main() -> None:
    """Run, print, write benchmarks/results/dropin_KIND_THREADSt.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", nargs="+", default=list(dropin.KINDS), choices=list(dropin.KINDS))
    parser.add_argument("--size", type=int, nargs=2, default=(768, 512), metavar=("W", "H"))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=2, help="of CompressAI")
    parser.add_argument("--own-repeats", type=int, default=3, help="of ours, for each of CompressAI's")
    args = parser.parse_args()
    options = {"threads": args.threads, "repeats": args.repeats, "own_repeats": args.own_repeats}
    result = dropin.run(kinds=args.kind, size=tuple(args.size), **options)
    print(dropin.report(result))
    for case in result["cases"]:
        print("written to", save(f"dropin_{case['kind']}_{case['threads']}t", case))


if __name__ == "__main__":
    main()
