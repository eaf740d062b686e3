"""Sections about data sets, thumbnails and parts of pictures: loading, converting, learning from them."""

from __future__ import annotations

import statistics

from tables import Column, machine, made_of, table


@made_of("loading.json")
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
    return table(items, columns)


@made_of("loading.json")
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


@made_of("cores.json")
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
    below += f" follow. {machine(result)}"
    return table(items, columns, below)


@made_of("thumbnails.json")
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
    return table(items, columns, f"{below} processor time. {machine(result)}")


@made_of("parts.json")
def parts(result: dict) -> str:
    """Parts of large pictures beside whole ones."""
    columns: dict[str, Column] = {
        "megapixels": lambda i: f"{i['width'] * i['height'] / 1e6:.0f}",
        "part": lambda i: f"{i['side']}x{i['side']}" if i["side"] else "all",
        "processor time, s": lambda i: f"{i['seconds']:.1f}",
        "peak memory, MB": lambda i: f"{i['memory']:,.0f}",
    }
    below = f"Mosaics of {result['pictures']} photographs, quality {result['quality']:g}, by the command to PPM."
    return table(result["parts"], columns, f"{below} {machine(result)}")


@made_of("classifier.json")
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
    below += f" seeds, which test a third each. {machine(result)}"
    return table(({"name": name, **r} for name, r in result["sets"].items()), columns, below)
