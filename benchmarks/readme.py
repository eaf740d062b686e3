"""Writes the figures of README.md and docs from the committed result files; `--check` only compares.

Text between `<!-- NAME -->` and `<!-- /NAME -->` is generated, and the plots that it shows (benchmarks/figures.py).
tests/test_readme.py runs the comparison. Sections whose results do not exist yet stay empty.

    python benchmarks/readme.py [--check]
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable

import figures
import tables_bench
import tables_codec
import tables_data
from common import wrapped
from tables import RESULTS, ROOT

# File -> its generated sections.
SECTIONS: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {
        "speed": tables_codec.speed,
        "rates": tables_codec.rates,
        "looks": tables_codec.looks,
        "exactness": tables_codec.exactness,
    },
    "docs/usage.md": {"qualities": tables_codec.qualities},
    "docs/figures.md": {
        "kodak": tables_codec.kodak,
        "overhead": tables_codec.overhead,
        "context": tables_codec.context,
        "damage": tables_codec.damage,
        "contexts": tables_codec.contexts,
    },
    "docs/benchmarks.md": {
        "plots": tables_bench.plots,
        "dropin": tables_bench.dropin,
        "dropin-avx2": tables_bench.dropin_avx2,
        "dropin-cuda": tables_bench.dropin_cuda,
        "limits": tables_bench.limits,
        "coders": tables_bench.coders,
        "scaling": tables_bench.scaling,
        "kernels": tables_bench.kernels,
    },
    "docs/compressai.md": {"dropin": tables_bench.dropin, "precision": tables_bench.precision},
    "docs/cuda.md": {"gpu": tables_bench.gpu},
    "docs/datasets.md": {
        "loading": tables_data.loading,
        "pays": tables_data.pays,
        "cores": tables_data.cores,
        "classifier": tables_data.classifier,
    },
    "docs/effort.md": {"effort": tables_codec.effort, "filter": tables_codec.picture_filter},
    "docs/experiments/margins.md": {"margins": tables_bench.margins},
    "docs/pictures.md": {"thumbnails": tables_data.thumbnails, "parts": tables_data.parts},
    "docs/use.md": {"looks": tables_codec.looks},
    "docs/model_card.md": {"rates": tables_codec.rates, "card": tables_codec.card, "card-eye": tables_codec.card_eye},
    "ccm_fast/anchors.py": {"qualities": tables_codec.quality_help},
}


def generate(name: str) -> tuple[str, str]:
    """A file's text, and the same with every generated section brought up to date."""
    old = text = (ROOT / name).read_text(encoding="utf-8")
    for section, make in SECTIONS[name].items():
        pattern = re.compile(rf"(<!-- {section} -->\n).*?(<!-- /{section} -->)", re.DOTALL)
        if not pattern.search(text):
            raise SystemExit(f"{name} has no section {section}")
        body = wrapped(make() or "")
        text = pattern.sub(lambda m, body=body: f"{m[1]}{body}\n{m[2]}" if body else m[1] + m[2], text)
    return old, text


def main() -> None:
    """Write the files, or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    for name in SECTIONS:
        old, new = generate(name)
        if args.check and new != old:
            sys.exit(f"{name} is not what the results say: run python benchmarks/readme.py")
        (ROOT / name).write_text(new, encoding="utf-8")
    for file in figures.TITLES:
        if args.check and not figures.agrees(file, RESULTS, ROOT / "docs"):
            sys.exit(f"docs/{file} is not what the results say: run python benchmarks/readme.py")
        if not args.check:
            figures.write(file, RESULTS, ROOT / "docs")


if __name__ == "__main__":
    main()
