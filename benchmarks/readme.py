"""Writes the figures of README.md and docs from the committed result files; `--check` only compares.

Text between `<!-- NAME -->` and `<!-- /NAME -->` is generated, and the plots that it shows (benchmarks/figures.py).
tests/test_readme.py runs the comparison. Sections whose results do not exist yet stay empty.

    python benchmarks/readme.py [--check]
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import re
import statistics
import sys
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path

import ablation_report
import figures
from common import wrapped

from ccm_fast.evaluate.curves import METRICS, TITLES

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
WEIGHTS = ROOT / "ccm_fast" / "weights_data"

Column = str | Callable[[dict], str]  # a cell of an item: a format string of its values, or a function


def _load(name: str, folder: Path | None = None) -> dict | None:
    """A result file, or None: its section stays empty."""
    path = (folder or RESULTS) / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _made_of(name: str) -> Callable[[Callable[[dict], str]], Callable[[], str]]:
    """A section made of one result file."""

    def section(make: Callable[[dict], str]) -> Callable[[], str]:
        return lambda: make(result) if (result := _load(name)) else ""

    return section


def _table(items: Iterable[dict], columns: dict[str, Column], below: str = "") -> str:
    """Markdown: a row for each item, with the cells that the columns make of it, and text below. "" without items."""
    cells = [c.format_map if isinstance(c, str) else c for c in columns.values()]
    rows = ["| " + " | ".join(cell(item) for cell in cells) + " |" for item in items]
    head = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*head, *rows, *(["", below] if below else [])]) if rows else ""


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f}"


def _machine(result: dict) -> str:
    e = result["environment"]
    return f"Machine: {e['cpu']}, {e['cores']} cores, {e['kernels'].split(',')[0]} kernels, torch {e['torch']}."


@_made_of("kodak_ccm-small.json")
def kodak(result: dict) -> str:
    """Times of a Kodak image, by stage."""
    items = [
        {**line, "threads": t, "d": line["seconds"][f"decode {t}t"], "e": line["seconds"][f"encode {t}t"]}
        for line in result["summary"]
        for t in (1, 2)
    ]
    columns = {
        "quality": "{quality:g}",
        "bpp": "{bpp:.3f}",
        "PSNR, dB": "{psnr:.2f}",
        "threads": "{threads}",
        "decode: z + h_s, ms": lambda i: _ms(i["d"]["z"] + i["d"]["h_s"]),
        "context + rANS, ms": lambda i: _ms(i["d"]["entropy"]),
        "g_s, ms": lambda i: _ms(i["d"]["g_s"]),
        "decode command, s": lambda i: f"{i['d']['whole command']:.1f}",
        "encode, ms": lambda i: _ms(sum(i["e"].values()) - i["e"]["whole command"]),
        "encode command, s": lambda i: f"{i['e']['whole command']:.1f}",
    }
    return _table(items, columns, f"24 images, real file sizes; medians. {_times_of(result)}")


def _times_of(result: dict) -> str:
    """The machine that times were measured on, and that it was with weights from before, where it was."""
    of = result.get("times_of")
    if of is None:
        return _machine(result)
    return f"{_machine(of)} Times are of weights that shipped before ({of['weights']})."


@_made_of("kodak_ccm-small.json")
def overhead(result: dict) -> str:
    """Distance from the ideal code length, and the cost of the integers."""
    evaluation = _load("ccm-small.json", WEIGHTS)
    cost = evaluation["integer_cost_percent"]
    fitted = evaluation.get("with_shapes_percent")  # weights of before have none
    worst = "worst_overhead_percent_from_10kB"
    columns = {
        "quality": "{quality:g}",
        "files over ideal code length": "{overhead_percent:+.2f} %",
        "worst file of 10 kB and more": lambda i: "-" if math.isnan(i[worst]) else f"{i[worst]:+.2f} %",
        "integers against the float model": lambda i: f"{cost[format(i['quality'], 'g')]:+.2f} %",
        "with fitted tables": lambda i: f"{fitted[format(i['quality'], 'g')]:+.2f} %",
    }
    if not fitted:
        del columns["with fitted tables"]
    return _table(result["summary"], columns)


def context() -> str:
    """Context + rANS against the arithmetic and against CompressAI."""
    found = {preset: _load(f"context_rans_{preset}_1t.json") for preset in ("ccm-small", "ccm-base")}
    items = [{"preset": preset, **r} for preset, r in found.items() if r]
    columns = {
        "sizes of": "{preset}",
        "multiply-adds": lambda i: f"{sum(i['multiply_adds'].values()) / 1e9:.1f} G",
        "context + rANS, ms": lambda i: _ms(i["decode_seconds"]),
        "bare int8 product, ms": lambda i: _ms(i["product_seconds"]),
        "ratio": "{ratio:.2f}",
        "CompressAI's mbt2018 loop, s": "{compressai_seconds:.1f}",
        "faster": "{times_faster:.0f}x",
    }
    below = "768x512, one thread, medians of interleaved runs. "
    return _table(items, columns, below + _machine(items[-1])) if items else ""


@_made_of("damage.json")
def damage(result: dict) -> str:
    """Outcomes of damaged files."""
    columns = {
        "damage": "{name}",
        "files": "{files}",
        "typed errors": lambda i: f"{sum(n for kind, n in i['outcomes'].items() if kind != 'image')}",
        "slowest, ms": lambda i: _ms(i["slowest_seconds"]),
    }
    return _table(({"name": name, **r} for name, r in result["results"].items()), columns)


def card() -> str:
    """Training totals and the rate-distortion table of the shipped weights."""
    report = _load("ccm-small.json", WEIGHTS)
    t = report["training"]
    gpu = f"{60 * t['gpu_hours']:.0f} minutes of them on a GPU, the others " if t.get("gpu_hours") else ""
    text = f"{t['patches']:,} crops (128 to 256 pixels a side) in {t['step']:,} steps, {t['hours']:.1f} hours ({gpu}on"
    text += f" cores that were also used for other work; {t['cpu_hours']:.1f} hours of processor time),"
    text += f" after a start from a block transform. Weights: {report['file_bytes']:,} bytes, fingerprint"
    text += f" `{report['fingerprint']}`.\n\n"
    columns = {
        "quality": "{quality:g}",
        "bpp (real files)": "{bpp:.4f}",
        "PSNR, dB": "{psnr:.2f}",
    }
    return text + _table(report["results"], columns, f"Means over {report['images']} Kodak images.")


def _dropin_results(names: str = "dropin_{kind}_{threads}t.json") -> list[dict]:
    files = [names.format(kind=kind, threads=t) for t in (1, 2) for kind in ("mbt2018", "cheng2020-anchor")]
    return [r for name in files if (r := _load(name))]


# What the drop-in is compared by: the ratio's name in the results, then CompressAI's part, ours, and ours in words.
DROPIN = [
    ("loop", "loop", "y to y_hat", "autoregressive part"),
    ("decompress", "decompress", "decompress", "decompress"),
    ("compress", "compress", "compress", "compress"),
    ("decompress, floats", "decompress", "decompress, floats", "decompress, float32"),
    ("compress, floats", "compress", "compress, floats", "compress, float32"),
    ("exact path", "decompress", "exact path", "exact path"),
]


def dropin(names: str = "dropin_{kind}_{threads}t.json") -> str:
    """CompressAI's nets, accelerated, against CompressAI."""
    found = _dropin_results(names)
    columns = {
        "net, N = M = 192": "{kind}",
        "threads": "{threads}",
        "part": "{part}",
        "CompressAI, s": lambda i: f"{i['theirs']['median']:.2f}",
        "accelerated, s": lambda i: f"{i['ours']['median']:.3f}",
        "faster": lambda i: f"{i['times_faster'][i['ratio']]:.1f}x",
    }
    items = [
        {**r, "ratio": ratio, "theirs": r["seconds"][f"compressai {theirs}"], "ours": r["seconds"][ours], "part": part}
        for r in found
        for ratio, theirs, ours, part in DROPIN
        if ours in r["seconds"]  # an older run has no floats
    ]
    return _table(items, columns, f"768x512, medians of one interleaved run. {_machine(found[0])}") if found else ""


def dropin_avx2() -> str:
    """The same on a processor that has AVX2 and nothing newer."""
    return dropin("dropin_{kind}_{threads}t_avx2.json")


@_made_of("dropin_cuda.json")
def dropin_cuda(result: dict) -> str:
    """CompressAI's nets, accelerated, on a GPU."""
    columns = {
        "net, N = M = 192": "{kind}",
        "CompressAI's loop, s": "{compressai_loop_s:.2f}",
        "y string to y_hat, ms": lambda i: f"{i['y_to_y_hat']['median_ms']:.1f}",
        "faster": lambda i: f"{i['times_faster']['loop']:.0f}x",
        "CompressAI's decompress, s": "{compressai_decompress_s:.2f}",
        "accelerated, s": "{decompress_s:.3f}",
        "faster ": lambda i: f"{i['times_faster']['decompress']:.0f}x",
    }
    note = f" ({result['note']})" if "note" in result else ""
    below = f"768x512, medians. GPU: {result['gpu']}{note}; CompressAI on one core of {result['environment']['cpu']}."
    return _table(result["cases"], columns, below)


@_made_of("gpu_check_h100.json")
def gpu(result: dict) -> str:
    """Latents of a GPU against the CPU's, and how long each stage takes."""
    stages = ("decode_z", "hyper", "decode_y")
    columns = {
        "image": "{file}",
        "quality": "{quality}",
        "bytes": "{bytes}",
        "latents": lambda i: "the CPU's" if i["equal"] else "**others**",
        **{f"{name}, ms": lambda i, name=name: f"{i['stages'][name]['median_ms']:.2f}" for name in stages},
    }
    files = []
    for f in result["profile"]["files"]:
        files.append(f"{f['name']} {1e3 * f['stages']['total']['median']:.1f} ms")
        if f["graph"]:
            files[-1] += f" ({1e3 * f['graph']['median']:.1f} ms as a CUDA graph)"
    e = result["environment"]
    below = f"768x512, medians of {result['profile']['repeats']}, caches emptied. From file to picture at quality 4: "
    return _table(result["images"], columns, below + f"{', '.join(files)}. {e['gpu']}, torch {e['torch']}.")


def precision() -> str:
    """What transforms in 16-bit integers gain and cost."""
    times, costs = _load("transforms_1t.json"), _load("precision.json")
    if not times or not costs:
        return ""
    rows = [
        {"name": name, **row} for name, row in times["layers"].items() if " of " in name and not name.startswith("5x5")
    ]
    columns = {
        "one thread, 768x512": "{name}",
        "torch, ms": lambda i: _ms(i["torch"]),
        "float32, ms": lambda i: _ms(i["float32"]),
        "int16, ms": lambda i: _ms(i["int16"]),
        "error, of the result's size": "{error_int16:.1e}",
    }
    text = _table(rows, columns, "") + "\n\n"
    items = [{"net": net["net"], "images": net["images"], **row} for net in costs["nets"] for row in net["rows"]]
    columns = {
        "net": "{net}",
        "quality, or lambda": lambda i: f"{i.get('quality', i.get('lambda')):g}",
        "bpp": lambda i: f"{i['float32']['bpp']:.3f}",
        "PSNR, dB": lambda i: f"{i['float32']['psnr']:.2f}",
        "bits with int16": lambda i: f"{100 * (i['int16']['bpp'] / i['float32']['bpp'] - 1):+.3f} %",
        "PSNR with int16": lambda i: f"{i['int16']['psnr'] - i['float32']['psnr']:+.4f} dB",
        "pictures apart, levels": "{levels_apart:.3f}",
    }
    rates = ", ".join(f"{n['net']} {n['bd_rate_percent']:+.2f} % ({n['images']} pictures)" for n in costs["nets"])
    return text + _table(items, columns, f"BD-rate of int16 against float32: {rates}. {_machine(times)}")


def limits() -> str:
    """How far the drop-in is from what limits it."""
    items = []
    for r in _dropin_results():
        if "limits" not in r:  # of an older run
            continue
        m, who = r["limits"], {"kind": r["kind"], "threads": r["threads"]}
        took = {name: r["seconds"][name]["median"] for name in ("y to y_hat", "decompress: g_s")}
        part = {**who, "part": "autoregressive part", "limit": "one dense int8 product", "took": took["y to y_hat"]}
        items.append({**part, "n": m["context_multiply_adds"], "least": m["product_seconds"]})
        bound = f"float product, {m['float_peak_gmacs']:.0f} Gmac/s"
        part = {**who, "part": "g_s", "limit": bound, "took": took["decompress: g_s"]}
        items.append({**part, "n": m["g_s_multiply_adds"], "least": m["g_s_seconds_at_peak"]})
    columns = {
        "net": "{kind}",
        "threads": "{threads}",
        "part": "{part}",
        "multiply-adds": lambda i: f"{i['n'] / 1e9:.1f} G",
        "limit": "{limit}",
        "at the limit, ms": lambda i: _ms(i["least"]),
        "took, ms": lambda i: _ms(i["took"]),
        "ratio": lambda i: f"{i['took'] / i['least']:.2f}",
    }
    return _table(items, columns)


@_made_of("entropy_coders.json")
def coders(result: dict) -> str:
    """Entropy coders side by side."""

    def instructions(i: dict) -> str:
        if i["data"] != "photo" or not i["coder"].startswith("ccm_fast"):
            return ""
        lanes = i["coder"].removeprefix("ccm_fast, ").removesuffix(" lanes")
        counts = result.get("instructions", {})
        counted = counts.get(f"rans_decode {lanes} avx2", counts.get(f"rans_decode {lanes}"))
        return f"{counted:.1f}" if counted else ""

    columns = {
        "coder": "{coder}",
        "decode, M symbols/s": "{decode_msymbols:.0f}",
        "encode, M symbols/s": "{encode_msymbols:.0f}",
        "over ideal": lambda i: f"{100 * i['overhead']:+.3f} %",
        "a copy is faster by": lambda i: f"{i['copy'] / i['decode_msymbols']:.0f}x",
        "instructions a symbol": instructions,
    }
    parts = []
    for name, entry in result["data"].items():
        about = {"data": name, "copy": entry["copy_msymbols"]}
        parts.append(f"{name}: {entry['symbols']:,} symbols of {entry['bits_per_symbol']:.2f} bits.")
        parts.append(_table(({**about, "coder": coder, **c} for coder, c in entry["coders"].items()), columns))
    return "\n\n".join([*parts, f"One thread, medians. {_machine(result)}"])


@_made_of("scaling_cpu.json")
def scaling(result: dict) -> str:
    """Decoding over sizes and batches, and its memory."""
    columns = {
        "size": lambda c: f"{c['width']}x{c['height']}",
        "batch": "{batch}",
        "threads": "{threads}",
        "to latents, ms": lambda c: _ms(c["entropy"]["median"]),
        "to pixels, ms": lambda c: _ms(c["decompress"]["median"]),
        "us a kilopixel": lambda c: f"{1e9 * c['decompress']['median'] / (c['width'] * c['height'] * c['batch']):.0f}",
        "peak memory, MB": lambda c: f"{c['peak_bytes'] / 1e6:.0f}",
        "of it decoding, MB": lambda c: f"{(c['peak_bytes'] - result['base_bytes']) / 1e6:.0f}",
    }
    below = f"{result['model']}, medians; each row a process of its own. {_machine(result)}"
    return _table(result["cases"], columns, below)


@_made_of("kernels_cpu.json")
def kernels(result: dict) -> str:
    """Every operator by itself."""
    columns = {
        "operator": "{name}",
        "size": "{size}",
        "median, ms": lambda c: f"{1000 * c['median']:.2f}",
        "best, ms": lambda c: f"{1000 * c['best']:.2f}",
        "rate": lambda c: f"{c['rate']:.1f} {c['unit']}" if c["rate"] else "",
    }
    return _table(result["cases"], columns, f"{result['threads']} thread. {_machine(result)}")


def plots() -> str:
    """The plots there are results for."""
    shown = [f"![{title}]({file})" for file, title in figures.TITLES.items() if figures.points(file, RESULTS)]
    return "\n".join(shown)


def rates() -> str:
    """BD-rates of the shipped model against the codecs that were measured."""
    found = {title: _load(f"rd_{name}_bd.json") for name, title in (("kodak", "Kodak"), ("clic", "CLIC 2025"))}
    cells: dict[str, dict[str, str]] = {}
    for title, result in found.items():
        for e in result["models"]["ccm-small"] if result else ():
            if not e["anchor"].endswith("*"):  # published curves
                cells.setdefault(e["anchor_label"], {})[title] = f"{e['psnr']['percent']:+.1f} %"
    columns: dict[str, Column] = {"against": "{name}"}
    columns |= {title: lambda i, title=title: i.get(title, "-") for title in found}
    return _table(({"name": name, **c} for name, c in cells.items()), columns)


@_made_of("eyes_kodak.json")
def looks(result: dict) -> str:
    """BD-rates against AVIF as its encoder tunes itself, by what is measured and by what eyes see."""
    items = [
        {"name": e["test_label"], **{m: f"{e[m]['percent']:+.1f} %" for m in METRICS if m in e}}
        for e in result["against_avif"]
    ]
    columns: dict[str, Column] = {"bits against AVIF, tune=iq": "{name}"}
    columns |= {("at equal " if m == "psnr" else "") + TITLES[m]: f"{{{m}}}" for m in METRICS if m in items[0]}
    names = ", ".join(name.removeprefix("kodim") for name in result["images"])
    which = "" if len(result["images"]) == 24 else f" ({names})"
    return _table(items, columns, f"{len(result['images'])} photographs of Kodak{which}.")


def speed() -> str:
    """What decoding and encoding take, and what they took before."""
    kodak, context = _load("kodak_ccm-small.json"), _load("context_rans_ccm-small_1t.json")
    if not (kodak and context):
        return ""
    line = next(i for i in kodak["summary"] if i["quality"] == 4)
    ours = {what: line["seconds"][f"{what} 1t"] for what in ("decode", "encode")}
    total = {what: sum(v for k, v in parts.items() if k != "whole command") for what, parts in ours.items()}
    loop = context["compressai_seconds"]
    items = [
        ("`ccm-small`, decode a photograph (quality 4)", total["decode"], "-", ""),
        ("`ccm-small`, encode it", total["encode"], "-", ""),
        ("`ccm-small`, contexts and rANS alone", ours["decode"]["entropy"], f"{loop:.1f} s (mbt2018's loop)", loop),
    ]
    for r in (r for r in _dropin_results() if r["threads"] == 1):
        theirs, mine = (r["seconds"][k]["median"] for k in ("compressai decompress", "decompress"))
        items.append((f"{r['kind']} of CompressAI, `decompress`", mine, f"{theirs:.1f} s", theirs))
    columns: dict[str, Column] = {
        "": lambda i: i[0],
        "ms": lambda i: _ms(i[1]),
        "CompressAI": lambda i: i[2],
        "faster": lambda i: f"{i[3] / i[1]:.0f}x" if i[3] else "-",
    }
    return _table(items, columns, _times_of(kodak))


def exactness() -> str:
    """What integers cost in bits, and what becomes of damaged files."""
    kodak, damaged = _load("kodak_ccm-small.json"), _load("damage.json")
    if not (kodak and damaged):
        return ""
    cost = _load("ccm-small.json", WEIGHTS)["integer_cost_percent"]
    lines = [(format(line["quality"], "g"), line) for line in kodak["summary"]]
    bad = damaged["results"].values()
    files = sum(r["files"] for r in bad)
    errors = sum(n for r in bad for kind, n in r["outcomes"].items() if kind != "image")
    items = [
        {"what": "files, over the ideal code length", **{q: f"{line['overhead_percent']:+.2f} %" for q, line in lines}},
        {"what": "integers, against the float model", **{q: f"{cost[q]:+.2f} %" for q, _ in lines}},
    ]
    columns: dict[str, Column] = {"bits": "{what}"}
    columns |= {f"quality {q}": lambda i, q=q: i[q] for q, _ in lines}
    below = (
        "Every instruction set, thread count, number of lanes and batching, and the pure-Python oracle, decode a file"
    )
    below += (
        f" to the same latents (`tests/test_exactness.py`). Of {files:,} damaged files {errors:,} end in a typed error."
    )
    return _table(items, columns, below)


@_made_of("context_ablation.json")
def contexts(result: dict) -> str:
    """Whether the paper's combination of contexts pays."""
    return ablation_report.claim(result)


@_made_of("effort.json")
def effort(result: dict) -> str:
    """Gains and times of the encoder's efforts."""
    summary = result["summary"]
    columns = {
        "effort": "{name}",
        "images": "{images}",
        "BD-rate against effort 1": lambda i: (
            i["reason"] if i["bd_rate_percent"] is None else f"{i['bd_rate_percent']:+.2f} %"
        ),
    }
    for k, quality in enumerate(result["qualities"]):
        columns[f"quality {quality}"] = lambda i, k=k: f"{i['bpp_percent'][k]:+.1f} %, {i['psnr_db'][k]:+.2f} dB"
    columns["seconds an image"] = "{seconds:.2f}"
    columns["time"] = lambda i: f"{i['seconds'] / summary['1']['seconds']:.1f}x"
    below = "Kodak, real files; changes of size and PSNR against effort 1 at the same quality, on the same images."
    below += f" Medians of processor time, one thread. {_machine(result)}"
    return _table(({"name": name, **r} for name, r in summary.items()), columns, below)


@_made_of("loading.json")
def loading(result: dict) -> str:
    """Formats of equal PSNR in a training's loader."""
    items = [{"name": name, "n": result["pictures"], **r} for name, r in result["formats"].items()]
    columns: dict[str, Column] = {
        "": "{name}",
        "bytes": lambda i: f"{i['bytes'] / i['n']:,.0f}",
        "PSNR, dB": "{psnr:.2f}",
        "pictures/s by the clock": lambda i: (
            f"{statistics.median(i['rates']):.0f} ({min(i['rates']):.0f} to {max(i['rates']):.0f})"
        ),
        "ms a decode": lambda i: f"{i['decode_seconds'] * 1e3:.1f}",
        "ms an encode": lambda i: f"{i['encode_seconds'] * 1e3:.1f}",
        "10^9 pictures, core hours to decode, to encode": lambda i: (
            f"{i['decode_seconds'] / 3600 * 1e9:,.0f}, {i['encode_seconds'] / 3600 * 1e9:,.0f}"
        ),
    }
    return _table(items, columns)


@_made_of("loading.json")
def pays(result: dict) -> str:
    """Bytes against processor time, in words."""
    ccm, jpeg, avif = (result["formats"][name] for name in (".ccm", "JPEG", "AVIF"))
    times = [ccm["decode_seconds"] / other["decode_seconds"] for other in (jpeg, avif)]
    shares = [100 * ccm["bytes"] / other["bytes"] for other in (jpeg, avif)]
    saved = (jpeg["bytes"] - ccm["bytes"]) / result["pictures"]
    cost = ccm["decode_seconds"] - jpeg["decode_seconds"]
    terabytes = [found["bytes"] / result["pictures"] / 1e3 for found in (ccm, avif, jpeg)]
    return (
        f"It takes {times[0]:.0f} times the processor time of a JPEG and {times[1]:.0f} times that of AVIF, for"
        f" {shares[0]:.0f} % of the bytes of the one and {shares[1]:.0f} % of those of the other. Against JPEG a"
        f" picture of this size saves {saved / 1e3:.0f} kB and costs {cost * 1e3:.0f} ms of a core: a link pays for the"
        f" decoder where it brings a loader's core less than {saved / cost / 1e6:.1f} MB/s. A billion of these are"
        f" {terabytes[0]:.0f} TB in `.ccm`, {terabytes[1]:.0f} in AVIF, {terabytes[2]:.0f} in JPEG."
    )


@_made_of("cores.json")
def cores(result: dict) -> str:
    """Loading and converting against cores: measured, and calculated for machines that were not there."""
    measured = {int(cores): seconds for cores, seconds in result["cores"].items()}
    items = [{"cores": f"{n}", "n": n, **seconds} for n, seconds in measured.items()]
    last = measured[max(measured)]
    items += [{"cores": f"{n} (calculated)", "n": n, **last} for n in (16, 96)]
    columns: dict[str, Column] = {
        "cores": "{cores}",
        "loading, ms of a core each": lambda i: f"{i['decode'] * 1e3:.0f}",
        "pictures/s": lambda i: f"{i['n'] / i['decode']:,.0f}",
        "converting, ms of a core each": lambda i: f"{i['convert'] * 1e3:.0f}",
        "pictures/s ": lambda i: f"{i['n'] / i['convert']:,.1f}" if i["n"] < 16 else f"{i['n'] / i['convert']:,.0f}",
        "10^9 pictures, days to convert": lambda i: f"{1e9 * i['convert'] / i['n'] / 86400:,.0f}",
    }
    size = f"{result['pixels'] / result['pictures'] / 1e6:.2f} megapixels, quality {result['quality']:g}"
    below = f"{result['pictures']} photographs of {size}; medians of processor time, from which the rates of idle cores"
    below += f" follow. {_machine(result)}"
    return _table(items, columns, below)


@_made_of("thumbnails.json")
def thumbnails(result: dict) -> str:
    """Reduced decoding beside decoding whole and scaling down."""
    items = [{"factor": factor, **ways} for factor, ways in result["factors"].items()]
    columns: dict[str, Column] = {
        "of the sides": "1/{factor}",
        "whole, scaled: ms": lambda i: f"{i['whole']['seconds'] * 1e3:.1f}",
        "reduced: ms": lambda i: f"{i['reduced']['seconds'] * 1e3:.1f}",
        "of the time": lambda i: f"{100 * i['reduced']['seconds'] / i['whole']['seconds']:.0f} %",
        "PSNR against the whole one, scaled": lambda i: f"{i['reduced']['close']:.1f}",
        "PSNR of both against the original, scaled": lambda i: f"{i['reduced']['psnr']:.1f}, {i['whole']['psnr']:.1f}",
        "JPEG: ms": lambda i: f"{i['jpeg whole']['seconds'] * 1e3:.1f}, {i['jpeg reduced']['seconds'] * 1e3:.1f}",
        "JPEG: PSNR against the whole one, scaled": lambda i: f"{i['jpeg reduced']['close']:.1f}",
    }
    size = f"{result['pixels'] / result['pictures'] / 1e6:.2f} megapixels, quality {result['quality']:g}"
    below = f"{result['pictures']} photographs of {size}, and JPEG files of the same PSNR; medians of one thread's"
    return _table(items, columns, f"{below} processor time. {_machine(result)}")


@_made_of("classifier.json")
def classifier(result: dict) -> str:
    """What a classifier learns from compressed pictures."""
    originals = next(iter(result["sets"].values()))

    def spread(right: list[int]) -> str:
        shares = [100 * n / tested for n, tested in zip(right, result["tested"], strict=True)]
        return f"{sum(right) / sum(result['tested']) * 100:.1f} ± {statistics.stdev(shares):.1f} %"

    columns: dict[str, Column] = {
        "trained on": "{name}",
        "MB": lambda i: f"{i['bytes'] / 1e6:.1f}",
        "of the originals": lambda i: f"{100 * i['bytes'] / originals['bytes']:.1f} %",
        "PSNR, dB": lambda i: f"{i['psnr']:.1f}" if i["psnr"] else "-",
        "right, on pictures of its kind": lambda i: spread(i["right"]),
        "on originals": lambda i: spread(i["right_on_originals"]),
    }
    classes = ", ".join(f"{name} {count}" for name, count in result["classes"].items())
    below = f"{result['pictures']} crops of {result['photographs']} photographs ({classes}); {result['epochs']} epochs."
    below += (
        f" Right answers of all pictures, each tested once, ± the standard deviation of the {len(result['tested'])}"
    )
    below += f" seeds, which test a third each. {_machine(result)}"
    return _table(({"name": name, **r} for name, r in result["sets"].items()), columns, below)


@_made_of("margins.json")
def margins(result: dict) -> str:
    """What is left to tests' bounds over settings; those that never change are left out."""
    rows = [
        {
            **r,
            "name": r["test"].split("::")[-1],
            "bound": r["text"].replace("|", "\\|"),
            "room": r["least"] / r["spread"],
        }
        for r in result["rows"]
        if r["spread"] > 1e-4 * abs(r["least"])
    ]
    columns = {
        "test": "`{name}`",
        "bound": "`{bound}`",
        "least": "{least:.4f}",
        "where": "{where}",
        "spread": "{spread:.4f}",
        "room": "{room:.1f}",
    }
    failed = f"Failed: {', '.join(result['failed'])}." if result["failed"] else "No test failed in any of them."
    return _table(rows, columns, f"Settings: {', '.join(result['settings'])}. {failed} {_machine(result)}")


def _anchors() -> list[dict]:
    """Every whole quality on Kodak: bits per pixel, PSNR, and JPEG's settings (4:4:4) of equal PSNR and MS-SSIM."""
    ours, jpeg = _load("rd_kodak_ccm-small.json"), _load("rd_kodak_jpeg444.json")
    if ours is None or jpeg is None:
        return []
    ours, jpeg = ours["results"], jpeg["results"]

    def setting(metric: str, value: float) -> str:
        """Between those that were measured; JPEG's settings are no scale that could be continued."""
        points = sorted(zip(jpeg[metric], jpeg["setting"], strict=True))
        for (low, a), (high, b) in itertools.pairwise(points):
            if low <= value <= high:
                return f"{a + (b - a) * (value - low) / (high - low):.0f}"
        return f"over {points[-1][1]}" if value > points[-1][0] else f"under {points[0][1]}"

    rows = zip(ours["setting"], ours["bpp"], ours["psnr-rgb"], ours["ms-ssim-rgb"], strict=True)
    return [
        {"quality": q, "bpp": bpp, "psnr": db, "by_psnr": setting("psnr-rgb", db), "by_ssim": setting("ms-ssim-rgb", s)}
        for q, bpp, db, s in rows
    ]


def qualities() -> str:
    columns: dict[str, Column] = {"quality": "{quality:g}", "bits a pixel": "{bpp:.2f}", "PSNR, dB": "{psnr:.1f}"}
    columns |= {"JPEG of that PSNR": "{by_psnr}", "JPEG of that MS-SSIM": "{by_ssim}"}
    return _table(_anchors(), columns, "Means over Kodak; JPEG by its quality setting, 4:4:4.")


def quality_help() -> str:
    if not (anchors := _anchors()):
        return ""
    each = "; ".join("{quality:g}: {bpp:.2f} and JPEG {by_ssim}".format_map(a) for a in anchors)
    text = f"Qualities by bits a pixel and the JPEG of equal MS-SSIM (means over Kodak) - {each}."
    return textwrap.fill(text, 118)


# File -> its generated sections.
SECTIONS: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"speed": speed, "rates": rates, "looks": looks, "exactness": exactness},
    "docs/usage.md": {"qualities": qualities},
    "docs/figures.md": {
        "kodak": kodak,
        "overhead": overhead,
        "context": context,
        "damage": damage,
        "contexts": contexts,
    },
    "docs/benchmarks.md": {
        "plots": plots,
        "dropin": dropin,
        "dropin-avx2": dropin_avx2,
        "dropin-cuda": dropin_cuda,
        "limits": limits,
        "coders": coders,
        "scaling": scaling,
        "kernels": kernels,
    },
    "docs/compressai.md": {"dropin": dropin, "precision": precision},
    "docs/cuda.md": {"gpu": gpu},
    "docs/datasets.md": {"loading": loading, "pays": pays, "cores": cores, "classifier": classifier},
    "docs/effort.md": {"effort": effort},
    "docs/experiments/margins.md": {"margins": margins},
    "docs/pictures.md": {"thumbnails": thumbnails},
    "docs/use.md": {"looks": looks},
    "docs/model_card.md": {"rates": rates, "card": card},
    "ccm_fast/anchors.py": {"qualities": quality_help},
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
