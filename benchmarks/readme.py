"""Writes the figures of README.md and docs from the committed result files; `--check` only compares.

Text between `<!-- NAME -->` and `<!-- /NAME -->` is generated, and the plots that it shows (benchmarks/figures.py).
tests/test_readme.py runs the comparison. Sections whose results do not exist yet stay empty.

    python benchmarks/readme.py [--check]
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import figures

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
WEIGHTS = ROOT / "ccm_fast" / "weights_data"


def _load(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _machine(result: dict) -> str:
    e = result["environment"]
    return f"Machine: {e['cpu']}, {e['cores']} cores, {e['kernels'].split(',')[0]} kernels, torch {e['torch']}"


def kodak() -> str:
    """Times of a Kodak image, by stage."""
    result = _load(RESULTS / "kodak_ccm-small.json")
    rows = []
    for line in result["summary"]:
        for threads in (1, 2):
            d, e = line["seconds"][f"decode {threads}t"], line["seconds"][f"encode {threads}t"]
            rows.append(
                [
                    f"{line['quality']:g}",
                    f"{line['bpp']:.3f}",
                    f"{line['psnr']:.2f}",
                    str(threads),
                    f"{1000 * (d['z'] + d['h_s']):.0f}",
                    f"{1000 * d['entropy']:.0f}",
                    f"{1000 * d['g_s']:.0f}",
                    f"{d['whole command']:.1f}",
                    f"{1000 * (sum(e.values()) - e['whole command']):.0f}",
                    f"{e['whole command']:.1f}",
                ]
            )
    head = ["quality", "bpp", "PSNR, dB", "threads", "decode: z + h_s, ms", "context + rANS, ms", "g_s, ms"]
    head += ["decode command, s", "encode, ms", "encode command, s"]
    table = _table(head, rows)
    return f"{table}\n\n24 images, real file sizes; medians. {_machine(result)}."


def overhead() -> str:
    """Distance from the ideal code length, and the cost of the integers."""
    result = _load(RESULTS / "kodak_ccm-small.json")
    cost = _load(WEIGHTS / "ccm-small.json")["integer_cost_percent"]
    rows = []
    for line in result["summary"]:
        q = f"{line['quality']:g}"
        worst = line["worst_overhead_percent_from_10kB"]
        rows.append(
            [
                q,
                f"{line['overhead_percent']:+.2f} %",
                "-" if worst != worst else f"{worst:+.2f} %",
                f"{cost[q]:+.2f} %",
            ]
        )
    head = ["quality", "files over ideal code length", "worst file of 10 kB and more"]
    head.append("integers against the float model")
    return _table(head, rows)


def context() -> str:
    """Context + rANS against the arithmetic and against CompressAI."""
    rows = []
    for preset in ("ccm-small", "ccm-base"):
        r = _load(RESULTS / f"context_rans_{preset}_1t.json")
        rows.append(
            [
                preset,
                f"{sum(r['multiply_adds'].values()) / 1e9:.1f} G",
                f"{1000 * r['decode_seconds']:.0f}",
                f"{1000 * r['product_seconds']:.0f}",
                f"{r['ratio']:.2f}",
                f"{r['compressai_seconds']:.1f}",
                f"{r['times_faster']:.0f}x",
            ]
        )
    head = ["sizes of", "multiply-adds", "context + rANS, ms", "bare int8 product, ms", "ratio"]
    head += ["CompressAI's mbt2018 loop, s", "faster"]
    return f"{_table(head, rows)}\n\n768x512, one thread, medians of interleaved runs. {_machine(r)}."


def damage() -> str:
    """Outcomes of damaged files."""
    result = _load(RESULTS / "damage.json")
    rows = []
    for name, r in result["results"].items():
        errors = sum(n for kind, n in r["outcomes"].items() if kind != "image")
        rows.append([name, str(r["files"]), str(errors), f"{1000 * r['slowest_seconds']:.0f}"])
    return _table(["damage", "files", "typed errors", "slowest, ms"], rows)


def card() -> str:
    """Training totals and the rate-distortion table of the shipped weights."""
    report = _load(WEIGHTS / "ccm-small.json")
    t = report["training"]
    rows = [[f"{r['quality']:g}", f"{r['bpp']:.4f}", f"{r['psnr']:.2f}"] for r in report["results"]]
    text = f"{t['patches']:,} crops (128 to 256 pixels a side) in {t['step']:,} steps, {t['hours']:.1f} hours on cores"
    text += f" that were also used for other work, {t['cpu_hours']:.1f} hours of processor time, after a start from a"
    text += f" block transform. Weights: {report['file_bytes']:,} bytes, fingerprint"
    text += f" `{report['fingerprint']}`.\n\n"
    return (
        text
        + _table(["quality", "bpp (real files)", "PSNR, dB"], rows)
        + f"\n\nMeans over {report['images']} Kodak images."
    )


def _dropin_results(threads: tuple[int, ...] = (1, 2)) -> list[dict]:
    names = [f"dropin_{kind}_{t}t.json" for t in threads for kind in ("mbt2018", "cheng2020-anchor")]
    return [_load(RESULTS / name) for name in names if (RESULTS / name).exists()]


def dropin() -> str:
    """CompressAI's nets, accelerated, against CompressAI."""
    rows = []
    found = _dropin_results()
    for r in found:
        seconds = {name: t["median"] for name, t in r["seconds"].items()}
        pairs = {"loop": ("loop", "y to y_hat"), "decompress": ("decompress", "decompress")}
        pairs |= {"compress": ("compress", "compress"), "exact path": ("decompress", "exact path")}
        for ratio, (theirs, ours) in pairs.items():
            times = [f"{seconds[f'compressai {theirs}']:.2f}", f"{seconds[ours]:.3f}"]
            times.append(f"{r['times_faster'][ratio]:.1f}x")
            part = {"y to y_hat": "autoregressive part"}.get(ours, ours)
            rows.append([r["kind"], str(r["threads"]), part, *times])
    head = ["net, N = M = 192", "threads", "part", "CompressAI, s", "accelerated, s", "faster"]
    return f"{_table(head, rows)}\n\n768x512, medians of one interleaved run. {_machine(found[0])}."


def limits() -> str:
    """How far the drop-in is from what limits it."""
    rows = []
    for r in _dropin_results():
        if "limits" not in r:  # of an older run
            continue
        m, seconds = r["limits"], {name: t["median"] for name, t in r["seconds"].items()}
        least = [m["product_seconds"], m["g_s_seconds_at_peak"]]
        macs, names = [m["context_multiply_adds"], m["g_s_multiply_adds"]], ["y to y_hat", "decompress: g_s"]
        bounds = ["one dense int8 product", f"float product, {m['float_peak_gmacs']:.0f} Gmac/s"]
        for name, n, bound, t in zip(names, macs, bounds, least, strict=True):
            row = [r["kind"], str(r["threads"]), name.rsplit(" ", 1)[-1] if ":" in name else "autoregressive part"]
            row += [f"{n / 1e9:.1f} G", bound, f"{1000 * t:.0f}", f"{1000 * seconds[name]:.0f}"]
            rows.append([*row, f"{seconds[name] / t:.2f}"])
    head = ["net", "threads", "part", "multiply-adds", "limit", "at the limit, ms", "took, ms", "ratio"]
    return _table(head, rows) if rows else ""


def coders() -> str:
    """Entropy coders side by side."""
    path = RESULTS / "entropy_coders.json"
    if not path.exists():
        return ""
    result = _load(path)
    parts = []
    for name, entry in result["data"].items():
        rows = []
        for coder, c in entry["coders"].items():
            instructions = result.get("instructions", {}) if name == "photo" else {}
            lanes = coder.removeprefix("ccm_fast, ").removesuffix(" lanes")
            counted = instructions.get(f"rans_decode {lanes} avx2", instructions.get(f"rans_decode {lanes}"))
            row = [coder, f"{c['decode_msymbols']:.0f}", f"{c['encode_msymbols']:.0f}"]
            row += [f"{100 * c['overhead']:+.3f} %", f"{entry['copy_msymbols'] / c['decode_msymbols']:.0f}x"]
            rows.append([*row, f"{counted:.1f}" if counted and coder.startswith("ccm_fast") else ""])
        head = ["coder", "decode, M symbols/s", "encode, M symbols/s", "over ideal", "a copy is faster by"]
        head.append("instructions a symbol")
        text = f"{name}: {entry['symbols']:,} symbols of {entry['bits_per_symbol']:.2f} bits."
        parts.append(f"{text}\n\n{_table(head, rows)}")
    return "\n\n".join(parts) + f"\n\nOne thread, medians. {_machine(result)}."


def scaling() -> str:
    """Decoding over sizes and batches, and its memory."""
    path = RESULTS / "scaling_cpu.json"
    if not path.exists():
        return ""
    result = _load(path)
    rows = []
    for c in result["cases"]:
        pixels = c["width"] * c["height"] * c["batch"]
        row = [f"{c['width']}x{c['height']}", str(c["batch"]), str(c["threads"])]
        row += [f"{1000 * c['entropy']['median']:.0f}", f"{1000 * c['decompress']['median']:.0f}"]
        row += [f"{1e9 * c['decompress']['median'] / pixels:.0f}", f"{c['peak_bytes'] / 1e6:.0f}"]
        rows.append([*row, f"{(c['peak_bytes'] - result['base_bytes']) / 1e6:.0f}"])
    head = ["size", "batch", "threads", "to latents, ms", "to pixels, ms", "us a kilopixel", "peak memory, MB"]
    table = _table([*head, "of it decoding, MB"], rows)
    return f"{table}\n\n{result['model']}, medians; each row a process of its own. {_machine(result)}."


def kernels() -> str:
    """Every operator by itself."""
    path = RESULTS / "kernels_cpu.json"
    if not path.exists():
        return ""
    result = _load(path)
    rows = []
    for c in result["cases"]:
        rate = f"{c['rate']:.1f} {c['unit']}" if c["rate"] else ""
        rows.append([c["name"], c["size"], f"{1000 * c['median']:.2f}", f"{1000 * c['best']:.2f}", rate])
    table = _table(["operator", "size", "median, ms", "best, ms", "rate"], rows)
    return f"{table}\n\n{result['threads']} thread. {_machine(result)}."


def plots() -> str:
    """The plots there are results for."""
    shown = [f"![{title}]({file})" for file, title in figures.TITLES.items() if figures.points(file, RESULTS)]
    return "\n".join(shown)


def effort() -> str:
    """Gains and times of the encoder's efforts."""
    result = _load(RESULTS / "effort.json")
    rows = []
    for name, r in result["summary"].items():
        gain = r["reason"] if r["bd_rate_percent"] is None else f"{r['bd_rate_percent']:+.2f} %"
        changes = [f"{b:+.1f} %, {p:+.2f} dB" for b, p in zip(r["bpp_percent"], r["psnr_db"], strict=True)]
        times = r["seconds"] / result["summary"]["1"]["seconds"]
        rows.append([name, str(r["images"]), gain, *changes, f"{r['seconds']:.2f}", f"{times:.1f}x"])
    head = ["effort", "images", "BD-rate against effort 1", *(f"quality {q}" for q in result["qualities"])]
    table = _table([*head, "seconds an image", "time"], rows)
    text = "Kodak, real files; changes of size and PSNR against effort 1 at the same quality, on the same images."
    return f"{table}\n\n{text} Medians of processor time, one thread. {_machine(result)}."


# File -> its generated sections.
SECTIONS: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"kodak": kodak, "overhead": overhead, "context": context, "damage": damage, "dropin": dropin},
    "docs/benchmarks.md": {
        "plots": plots,
        "dropin": dropin,
        "limits": limits,
        "coders": coders,
        "scaling": scaling,
        "kernels": kernels,
    },
    "docs/compressai.md": {"dropin": dropin},
    "docs/effort.md": {"effort": effort},
    "docs/model_card.md": {"card": card},
}
# Sections that a file may also have.
OPTIONAL = {"README.md": {"coders": coders, "scaling": scaling, "limits": limits}}


def generate(name: str) -> tuple[str, str]:
    """A file's text, and the same with every generated section brought up to date."""
    old = text = (ROOT / name).read_text(encoding="utf-8")
    for section, make in (SECTIONS[name] | OPTIONAL.get(name, {})).items():
        pattern = re.compile(rf"(<!-- {section} -->\n).*?(<!-- /{section} -->)", re.DOTALL)
        if not pattern.search(text):
            if section in OPTIONAL.get(name, {}):
                continue
            raise SystemExit(f"{name} has no section {section}")
        body = make()
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
