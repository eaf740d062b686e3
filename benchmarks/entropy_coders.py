"""Entropy coders side by side, with their distance from a memory copy, from the ideal length and in instructions.

    python benchmarks/entropy_coders.py [--repeats 9]

``ccm-fast bench coders`` is the same without the instruction counts, which take valgrind and a C++ compiler.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from common import save

from ccm_fast.bench import coders

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))


def main() -> None:
    """Run, print, write benchmarks/results/entropy_coders.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--symbols", type=int, default=1_000_000)
    parser.add_argument("--no-instructions", action="store_true", help="without valgrind")
    args = parser.parse_args()
    result = coders.run(repeats=args.repeats, count=args.symbols)
    print(coders.report(result))
    if not args.no_instructions:
        import instructions

        why = instructions.missing()
        if why:
            print(f"instruction counts: skipped ({why})")
        else:
            result["instructions"] = {k: v for k, v in instructions.count().items() if k.startswith("rans")}
            print("\ninstructions a symbol, photo-like symbols (callgrind)")
            for name, value in result["instructions"].items():
                print(f"  {name:24} {value:8.2f}")
    print("written to", save("entropy_coders", result))


if __name__ == "__main__":
    main()
