"""Sections about benchmarks beside peers, about parts of the codec, and about tests' bounds."""

from __future__ import annotations

import figures
import tables
from tables import load, machine, made_of, ms, table


def dropin_results(names: str = "dropin_{kind}_{threads}t.json") -> list[dict]:
    files = [names.format(kind=kind, threads=t) for t in (1, 2) for kind in ("mbt2018", "cheng2020-anchor")]
    return [r for name in files if (r := load(name))]


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
    found = dropin_results(names)
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
    return table(items, columns, f"768x512, medians of one interleaved run. {machine(found[0])}") if found else ""


def dropin_avx2() -> str:
    """The same on a processor that has AVX2 and nothing newer."""
    return dropin("dropin_{kind}_{threads}t_avx2.json")


@made_of("dropin_cuda.json")
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
    return table(result["cases"], columns, below)


# A folder that gpu_check.py has written, or some of its files.
GPU_CHECK = "gpu_check_h100"


def gpu(folder: str = GPU_CHECK) -> str:
    """Latents of a GPU against the CPU's, and how long each stage takes."""
    exact, whole = load(f"{folder}/exact.json"), load(f"{folder}/whole.json")
    if not exact or not whole:
        return ""
    profile = whole["records"][0]["profile"]
    stages = ("decode_z", "hyper", "decode_y")
    columns = {
        "image": "{file}",
        "quality": "{quality:g}",
        "bytes": "{bytes}",
        "latents": lambda i: "the CPU's" if i["equal"] else "**others**",
        **{f"{name}, ms": lambda i, name=name: f"{i['stages'][name]['median_ms']:.2f}" for name in stages},
    }
    files = []
    for f in profile["files"]:
        files.append(f"{f['name']} {1e3 * f['stages']['total']['median']:.1f} ms")
        if f["graph"]:
            files[-1] += f" ({1e3 * f['graph']['median']:.1f} ms as a CUDA graph)"
    e = exact["environment"]
    below = f"768x512, medians of {profile['repeats']}, caches emptied. From file to picture at quality 4: "
    return table(exact["records"], columns, below + f"{', '.join(files)}. {e['gpu']}, torch {e['torch']}.")


def precision() -> str:
    """What transforms in 16-bit integers gain and cost."""
    times, costs = load("transforms_1t.json"), load("precision.json")
    if not times or not costs:
        return ""
    rows = [
        {"name": name, **row} for name, row in times["layers"].items() if " of " in name and not name.startswith("5x5")
    ]
    columns = {
        "one thread, 768x512": "{name}",
        "torch, ms": lambda i: ms(i["torch"]),
        "float32, ms": lambda i: ms(i["float32"]),
        "int16, ms": lambda i: ms(i["int16"]),
        "error, of the result's size": "{error_int16:.1e}",
    }
    text = table(rows, columns, "") + "\n\n"
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
    return text + table(items, columns, f"BD-rate of int16 against float32: {rates}. {machine(times)}")


def limits() -> str:
    """How far the drop-in is from what limits it."""
    items = []
    for r in dropin_results():
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
        "at the limit, ms": lambda i: ms(i["least"]),
        "took, ms": lambda i: ms(i["took"]),
        "ratio": lambda i: f"{i['took'] / i['least']:.2f}",
    }
    return table(items, columns)


@made_of("entropy_coders.json")
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
        parts.append(table(({**about, "coder": coder, **c} for coder, c in entry["coders"].items()), columns))
    return "\n\n".join([*parts, f"One thread, medians. {machine(result)}"])


@made_of("scaling_cpu.json")
def scaling(result: dict) -> str:
    """Decoding over sizes and batches, and its memory."""
    columns = {
        "size": lambda c: f"{c['width']}x{c['height']}",
        "batch": "{batch}",
        "threads": "{threads}",
        "to latents, ms": lambda c: ms(c["entropy"]["median"]),
        "to pixels, ms": lambda c: ms(c["decompress"]["median"]),
        "us a kilopixel": lambda c: f"{1e9 * c['decompress']['median'] / (c['width'] * c['height'] * c['batch']):.0f}",
        "peak memory, MB": lambda c: f"{c['peak_bytes'] / 1e6:.0f}",
        "of it decoding, MB": lambda c: f"{(c['peak_bytes'] - result['base_bytes']) / 1e6:.0f}",
    }
    below = f"{result['model']}, medians; each row a process of its own. {machine(result)}"
    return table(result["cases"], columns, below)


@made_of("kernels_cpu.json")
def kernels(result: dict) -> str:
    """Every operator by itself."""
    columns = {
        "operator": "{name}",
        "size": "{size}",
        "median, ms": lambda c: f"{1000 * c['median']:.2f}",
        "best, ms": lambda c: f"{1000 * c['best']:.2f}",
        "rate": lambda c: f"{c['rate']:.1f} {c['unit']}" if c["rate"] else "",
    }
    return table(result["cases"], columns, f"{result['threads']} thread. {machine(result)}")


def plots() -> str:
    """The plots there are results for."""
    shown = [f"![{title}]({file})" for file, title in figures.TITLES.items() if figures.points(file, tables.RESULTS)]
    return "\n".join(shown)


@made_of("margins.json")
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
    return table(rows, columns, f"Settings: {', '.join(result['settings'])}. {failed} {machine(result)}")
