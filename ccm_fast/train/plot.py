"""Pictures of training logs: loss over patches, and rate-distortion of the validation images over time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

__all__ = ["plot", "read_log"]


def read_log(path: str | Path) -> tuple[list[dict], list[dict]]:
    """Lines of a ``log.jsonl`` (or of the one in a run's folder): those of training, and those of validation.

    A last line that a crash cut short is left out.

    Raises:
        FileNotFoundError: no such file. ValueError: no log of ``ccm-fast train``.
    """
    path = Path(path)
    path = path / "log.jsonl" if path.is_dir() else path
    lines, text = [], path.read_text(encoding="utf-8").splitlines()
    for n, line in enumerate(text):
        try:
            lines.append(json.loads(line))
        except ValueError:
            if n + 1 < len(text):
                raise ValueError(f"{path}: line {n + 1} is not JSON") from None
    if not any("step" in line for line in lines):
        raise ValueError(f"{path} is no log of ccm-fast train")
    return [v for v in lines if "loss" in v], [v for v in lines if v.get("event") == "valid"]


def plot(logs: Sequence[str | Path], out: str | Path) -> Path:
    """Draw logs of runs into a picture (suffix .png, .svg or .pdf); needs matplotlib (extra ``eval``).

    Raises:
        FileNotFoundError, ValueError: as :func:`read_log`; ValueError also of a run that has logged nothing to draw.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    over_time, plane = figure.subplots(1, 2)
    for n, log in enumerate(logs):
        steps, valid = read_log(log)
        if not steps and not valid:
            raise ValueError(f"{log}: there is nothing to draw yet: steps are logged from the 50th on")
        name = Path(log).parent.name if Path(log).suffix else Path(log).name
        stages = list(dict.fromkeys(v.get("stage", "") for v in steps))
        for k, stage in enumerate(stages):
            # Stages have losses of their own (without distortion, or without contexts): one line each.
            part = [v for v in steps if v.get("stage", "") == stage]
            x, y = [v["patches"] for v in part], [v["loss"] for v in part]
            over_time.plot(x, y, color=f"C{n}", alpha=1 - 0.6 * k / len(stages), label=f"{name} {stage}".strip())
        for k, point in enumerate(valid):
            curve = [point[q] for q in sorted(q for q in point if q.startswith("q"))]
            last = k + 1 == len(valid)
            label = f"{name}, {point.get('cpu_hours', point['hours']):.2f} h" if last else None
            alpha = 0.15 + 0.85 * (k + 1) / len(valid)
            plane.plot([v["bpp"] for v in curve], [v["psnr"] for v in curve], "o-", c=f"C{n}", alpha=alpha, label=label)
    over_time.set(xlabel="patches", ylabel="loss (mean of the last 50 steps or so)", yscale="log")
    plane.set(xlabel="bits per pixel (estimated)", ylabel="PSNR, dB", title="validation, darker: later")
    for axes in (over_time, plane):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    figure.savefig(out, dpi=110)
    return Path(out)
