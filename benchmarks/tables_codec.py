"""Sections about the codec that ships: its sizes, qualities and times."""

from __future__ import annotations

import itertools
import math
import textwrap

import ablation_report
from tables import WEIGHTS, Column, load, machine, made_of, ms, table, times_of
from tables_bench import dropin_results

from ccm_fast.evaluate.curves import METRICS, TITLES


@made_of("kodak_ccm-small.json")
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
        "decode: z + h_s, ms": lambda i: ms(i["d"]["z"] + i["d"]["h_s"]),
        "context + rANS, ms": lambda i: ms(i["d"]["entropy"]),
        "g_s, ms": lambda i: ms(i["d"]["g_s"]),
        "decode command, s": lambda i: f"{i['d']['whole command']:.1f}",
        "encode, ms": lambda i: ms(sum(i["e"].values()) - i["e"]["whole command"]),
        "encode command, s": lambda i: f"{i['e']['whole command']:.1f}",
    }
    return table(items, columns, f"24 images, real file sizes; medians. {times_of(result)}")


@made_of("kodak_ccm-small.json")
def overhead(result: dict) -> str:
    """Distance from the ideal code length, and the cost of the integers."""
    evaluation = load("ccm-small.json", WEIGHTS)
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
    return table(result["summary"], columns)


def context() -> str:
    """Context + rANS against the arithmetic and against CompressAI."""
    found = {preset: load(f"context_rans_{preset}_1t.json") for preset in ("ccm-small", "ccm-base")}
    items = [{"preset": preset, **r} for preset, r in found.items() if r]
    columns = {
        "sizes of": "{preset}",
        "multiply-adds": lambda i: f"{sum(i['multiply_adds'].values()) / 1e9:.1f} G",
        "context + rANS, ms": lambda i: ms(i["decode_seconds"]),
        "bare int8 product, ms": lambda i: ms(i["product_seconds"]),
        "ratio": "{ratio:.2f}",
        "CompressAI's mbt2018 loop, s": "{compressai_seconds:.1f}",
        "faster": "{times_faster:.0f}x",
    }
    below = "768x512, one thread, medians of interleaved runs. "
    return table(items, columns, below + machine(items[-1])) if items else ""


@made_of("damage.json")
def damage(result: dict) -> str:
    """Outcomes of damaged files."""
    columns = {
        "damage": "{name}",
        "files": "{files}",
        "typed errors": lambda i: f"{sum(n for kind, n in i['outcomes'].items() if kind != 'image')}",
        "slowest, ms": lambda i: ms(i["slowest_seconds"]),
    }
    return table(({"name": name, **r} for name, r in result["results"].items()), columns)


def card() -> str:
    """Training totals and the rate-distortion table of the shipped weights."""
    report = load("ccm-small.json", WEIGHTS)
    t = report["training"]
    gpu = f"{60 * t['gpu_hours']:.0f} minutes of them on a GPU, the others " if t.get("gpu_hours") else ""
    text = f"{t['patches']:,} crops (128 to 256 pixels a side) in {t['step']:,} steps, {t['hours']:.1f} hours ({gpu}on"
    text += f" cores that were also used for other work; {t['cpu_hours']:.1f} hours of processor time),"
    text += f" after a start from a block transform. Weights: {report['file_bytes']:,} bytes, fingerprint"
    text += f" `{report['fingerprint']}`.\n\n"
    return text + _points(report)


def card_eye() -> str:
    """The same of the model that was retuned for looks."""
    report = load("ccm-small-msssim.json", WEIGHTS)
    if not report:
        return ""
    before, t = load("ccm-small.json", WEIGHTS)["training"], report["training"]
    more = {key: t[key] - before[key] for key in ("step", "patches", "cpu_hours")}
    text = f"{more['patches']:,} crops of {t['crop']} pixels a side in {more['step']:,} steps on top of `ccm-small`,"
    text += f" {60 * more['cpu_hours']:.0f} minutes of one core. Weights: {report['file_bytes']:,} bytes, fingerprint"
    return f"{text} `{report['fingerprint']}`.\n\n" + _points(report)


def _points(report: dict) -> str:
    columns = {
        "quality": "{quality:g}",
        "bpp (real files)": "{bpp:.4f}",
        "PSNR, dB": "{psnr:.2f}",
    }
    return table(report["results"], columns, f"Means over {report['images']} Kodak images.")


def rates() -> str:
    """BD-rates of the shipped model against the codecs that were measured, at its default effort and at 4."""
    kodak, clic = load("rd_kodak_bd.json"), load("rd_clic_bd.json")
    found = {"Kodak": (kodak, "ccm-small"), "Kodak, `--effort 4`": (kodak, "ccm-small, effort 4")}
    found["CLIC 2025"] = (clic, "ccm-small")
    cells: dict[str, dict[str, str]] = {}
    for title, (result, model) in found.items():
        for e in result["models"].get(model, ()) if result else ():
            if not e["anchor"].endswith("*") and e["anchor_label"] not in result["models"]:  # published curves; our own
                cells.setdefault(e["anchor_label"], {})[title] = f"{e['psnr']['percent']:+.1f} %"
    columns: dict[str, Column] = {"against": "{name}"}
    columns |= {title: lambda i, title=title: i.get(title, "-") for title in found}
    return table(({"name": name, **c} for name, c in cells.items()), columns)


@made_of("eyes_kodak.json")
def looks(result: dict) -> str:
    """BD-rates against AVIF as its encoder tunes itself, by what is measured and by what eyes see."""
    items = [
        {"name": e["test_label"], **{m: f"{e[m]['percent']:+.1f} %" for m in METRICS if m in e}}
        for e in result["against_avif"]
    ]
    for item in items:
        wins, pairs = result["ahead"][item["name"]]["ssimulacra2"]
        item["ahead"] = f"{wins} of {pairs}"
    columns: dict[str, Column] = {"bits against AVIF, tune=iq": "{name}"}
    columns |= {("at equal " if m == "psnr" else "") + TITLES[m]: f"{{{m}}}" for m in METRICS if m in items[0]}
    columns["ahead in SSIMULACRA2"] = "{ahead}"
    names = ", ".join(name.removeprefix("kodim") for name in result["images"])
    which = "" if len(result["images"]) == 24 else f" ({names})"
    note = f"{len(result['images'])} photographs of Kodak{which}. Ahead: of their pictures at quality 2, 4 and 6,"
    return table(items, columns, f"{note} against AVIF's of that size.")


def speed() -> str:
    """What decoding and encoding take, and what they took before."""
    kodak, context = load("kodak_ccm-small.json"), load("context_rans_ccm-small_1t.json")
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
    for r in (r for r in dropin_results() if r["threads"] == 1):
        theirs, mine = (r["seconds"][k]["median"] for k in ("compressai decompress", "decompress"))
        items.append((f"{r['kind']} of CompressAI, `decompress`", mine, f"{theirs:.1f} s", theirs))
    columns: dict[str, Column] = {
        "": lambda i: i[0],
        "ms": lambda i: ms(i[1]),
        "CompressAI": lambda i: i[2],
        "faster": lambda i: f"{i[3] / i[1]:.0f}x" if i[3] else "-",
    }
    return table(items, columns, times_of(kodak))


def exactness() -> str:
    """What integers cost in bits, and what becomes of damaged files."""
    kodak, damaged = load("kodak_ccm-small.json"), load("damage.json")
    if not (kodak and damaged):
        return ""
    cost = load("ccm-small.json", WEIGHTS)["integer_cost_percent"]
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
    return table(items, columns, below)


@made_of("context_ablation.json")
def contexts(result: dict) -> str:
    """Whether the paper's combination of contexts pays."""
    return ablation_report.claim(result)


@made_of("effort.json")
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
    below = (
        "Kodak, real files without picture filters (below); changes of size and PSNR against effort 1 at the same "
        "quality, on the same images."
    )
    below += f" Medians of processor time, one thread. {machine(result)}"
    return table(({"name": name, **r} for name, r in summary.items()), columns, below)


def _anchors() -> list[dict]:
    """Every whole quality on Kodak: bits per pixel, PSNR, and JPEG's settings (4:4:4) of equal PSNR and MS-SSIM."""
    ours, jpeg = load("rd_kodak_ccm-small.json"), load("rd_kodak_jpeg444.json")
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
    return table(_anchors(), columns, "Means over Kodak; JPEG by its quality setting, 4:4:4.")


def quality_help() -> str:
    if not (anchors := _anchors()):
        return ""
    each = "; ".join("{quality:g}: {bpp:.2f} and JPEG {by_ssim}".format_map(a) for a in anchors)
    text = f"Qualities by bits a pixel and the JPEG of equal MS-SSIM (means over Kodak) - {each}."
    return textwrap.fill(text, 118)


@made_of("picture_filter.json")
def picture_filter(result: dict) -> str:
    """What picture filters gain and cost."""

    def change(one: dict, key: str) -> float:
        return 100 * (one["with"][key] / one["without"][key] - 1)

    def decibels(one: dict) -> float:
        return 10 * math.log10((1 - one["without"]["ms_ssim"]) / (1 - one["with"]["ms_ssim"]))

    columns: dict[str, Column] = {
        "quality": "{quality}",
        "bytes of the filter": lambda i: f"{i['with']['bytes'] - i['without']['bytes']:.0f}",
        "files": lambda i: f"{change(i, 'bytes'):+.2f} %",
        "PSNR, dB": lambda i: f"{i['with']['psnr'] - i['without']['psnr']:+.3f}",
        "MS-SSIM, dB": lambda i: f"{decibels(i):+.3f}",
        "time of decoding": lambda i: f"{change(i, 'decode'):+.1f} %",
        "of encoding": lambda i: f"{change(i, 'encode'):+.0f} %",
    }
    rates = result["bd_rate"]
    below = (
        f"BD-rate: {rates['psnr']:+.2f} % at equal PSNR, {rates['ms_ssim']:+.2f} % at equal MS-SSIM. "
        f"`{result['model']}`, means of {result['pictures']} Kodak photographs, one thread. {machine(result)}"
    )
    return table(result["levels"], columns, below)
