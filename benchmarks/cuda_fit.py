"""What an H100's twelve points say about the cost model's free numbers; see cuda_cost.py.

    python benchmarks/cuda_fit.py      tries a grid of them (half a minute), and writes what fits to the calibration

Three numbers: by how much latencies exceed the published ones, cycles of a slow round of the kernel that was measured,
and the clock. Each point is also predicted by the numbers that fit the eleven others best.
"""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

from cuda_model import microseconds, run
from cuda_nets import SIZES, Stream, pictures
from cuda_pieces import BANDS, GPUS, ROOT, SLOW_ROUND
from cuda_schedule import build_order
from cuda_steps import MEASURED_NEWS, Costs, Options

CALIBRATION = ROOT / "benchmarks" / "results" / "cuda_calibration.json"
SCALES = (1.25, 1.375, 1.5, 1.625, 1.75)
SLOW_ROUNDS = (2000.0, 2500.0, 3000.0, 3500.0)
CLOCKS = (1.755, 1.98)  # GHz: the PCIe part's, and the SXM part's at its highest


def _stored() -> dict:
    return json.loads(CALIBRATION.read_text(encoding="utf-8"))


def cycles_of(point: dict, code: dict, scale: float, slow_round: float) -> float:
    """decode_y of one point, in cycles; ``code``: of the measured kernel with latencies of 1 and 2 times."""
    gpu = GPUS["H100"]
    low, high = code["low"], code["high"]
    # Cycles are linear in the latencies, but for which of two waits is the longer one.
    between = {n: {k: low[n][k] + (scale - 1) * (high[n][k] - low[n][k]) for k in low[n]} for n in low}
    model = replace(pictures("ccm-small")[0], fine_context=True)  # as its fine group was then
    order = build_order(*SIZES["768x512"], model.shift)
    costs = [
        Costs(model, gpu, scale, between, Options(news=MEASURED_NEWS), g, Stream(**group), order.tiles, slow_round)
        for g, group in enumerate(point["groups"])
    ]
    return run([costs], order, SIZES["768x512"]).total


def calibration(only: int | None = None) -> list[dict]:
    """The kernel that an H100 has run, predicted with the constants that were fitted to it, beside what it took.

    ``only``: one of the points.
    """
    stored = _stored()
    found = []
    for point in stored["points"] if only is None else [stored["points"][only]]:
        ms = microseconds(cycles_of(point, stored["cycles"], BANDS["fitted"], SLOW_ROUND), GPUS["H100"]) / 1000
        found.append({**{k: point[k] for k in ("file", "quality", "measured_ms")}, "predicted_ms": round(ms, 2)})
    return found


def rms(errors: list[float]) -> float:
    """Of logarithms of predicted over measured."""
    return math.sqrt(sum(e * e for e in errors) / len(errors))


def fit(points: list[dict], code: dict) -> dict:
    """The best of the grid, those that fit nearly as well, and each point by the best of the others."""
    errors = {}
    for scale, slow in itertools.product(SCALES, SLOW_ROUNDS):
        cycles = [cycles_of(p, code, scale, slow) for p in points]
        for clock in CLOCKS:
            errors[scale, slow, clock] = [
                math.log(c / clock / 1e6 / p["measured_ms"]) for c, p in zip(cycles, points, strict=True)
            ]
    ranked = sorted(errors, key=lambda k: rms(errors[k]))
    left_out = []
    for k in range(len(points)):
        best = min(errors, key=lambda n: rms(errors[n][:k] + errors[n][k + 1 :]))
        left_out.append(round(100 * math.expm1(errors[best][k]), 1))
    names = ("scale", "slow_round", "clock")
    return {
        "grid": [
            {**dict(zip(names, n, strict=True)), "rms_percent": round(100 * rms(errors[n]), 2)} for n in ranked[:8]
        ],
        "left_out_percent": left_out,
    }


def main() -> None:
    """Fit, and store it beside the points."""
    stored = _stored()
    stored["fit"] = fit(stored["points"], stored["cycles"])
    CALIBRATION.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    for row in stored["fit"]["grid"]:
        print(row)
    print("left out:", stored["fit"]["left_out_percent"])


if __name__ == "__main__":
    main()
