"""All benchmarks behind ``ccm-fast bench``: tables to the terminal, one JSON file each into a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import coders, dropin, kernels, scaling
from .timing import device_for, write_json

__all__ = ["BENCHMARKS", "run"]


def _dropin(device: str, quick: bool) -> tuple[dict, str]:
    result = dropin.run(quick)
    return result, dropin.report(result)


def _coders(device: str, quick: bool) -> tuple[dict, str]:
    result = coders.run(quick)
    return result, coders.report(result)


def _kernels(device: str, quick: bool) -> tuple[dict, str]:
    result = kernels.run(device, quick=quick)
    return result, kernels.report(result)


def _scaling(device: str, quick: bool) -> tuple[dict, str]:
    result = scaling.run(device, quick=quick)
    return result, scaling.report(result)


BENCHMARKS = {"dropin": _dropin, "coders": _coders, "kernels": _kernels, "scaling": _scaling}


def run(names: Sequence[str], out: Path, *, device: str = "cpu", quick: bool = False) -> list[Path]:
    """Run benchmarks by name, print their tables, write ``OUT/NAME.json`` with the environment.

    Raises:
        DeviceError: no such device.
    """
    device_for(device)
    written = []
    for name in names:
        result, text = BENCHMARKS[name](device, quick)
        print(text, flush=True)
        written.append(write_json(out / f"{name}.json", result))
        print(f"written to {written[-1]}\n", flush=True)
    return written
