"""benchmarks/context_ablation.py: it trains, tests, resumes, and compares fairly."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
WEIGHTS = str(tiny.GOLDEN / "tiny.safetensors")


@pytest.fixture
def ablation(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("context_ablation")


def test_context_ablation_trains_tests_and_resumes(ablation, photos, tmp_path, capsys, monkeypatch):
    names = ["spatial", "channel-4", "ccm-uneven"]
    configs = ablation.variants(tiny.CONFIG)
    assert all(c.latent_channels == tiny.CONFIG.latent_channels for c in configs.values())
    assert [configs[n].groups for n in names] == [(9,), (2, 2, 2, 3), (1, 1, 2, 5)]
    out = tmp_path / "r.json"
    command = [photos, "--data", photos, "--checkpoint", WEIGHTS, "--steps", 4, "--batch", 2, "--calibration", 2]
    command += ["--qualities", 2, 4, 6, 8, "--latents", tmp_path / "y", "--out", out, "--variants"]

    def run(*names):
        ablation.main([str(a) for a in [*command, *names]])
        return json.loads(out.read_text())["runs"]

    first = run(*names[:2])
    # Killed in the middle of a training: the state is of step 2, and what follows is what would have been.
    steps = []

    def killed(training, real=ablation.Training.step):
        if training.done["steps"] == 3 and len(steps) >= 8:  # the first five are the estimate's
            raise KeyboardInterrupt
        steps.append(training.done["steps"])
        real(training)

    with monkeypatch.context() as patch:
        patch.setattr(ablation, "SAVE_STEPS", 2)
        patch.setattr(ablation.Training, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            run(*names)
        assert set(json.loads(out.read_text())["runs"]) == set(first)
        steps.clear()
        patch.setattr(ablation, "estimate", lambda *a: None)
        runs = run(*names)
        assert steps == [2, 3]
    assert list(runs) == [f"{n}/1" for n in names] and all(runs[k] == first[k] for k in first)
    resumed = runs.pop("ccm-uneven/1")
    out.write_text(json.dumps({**json.loads(out.read_text()), "runs": runs}))
    (tmp_path / "y" / "ccm-uneven-1.pt").unlink()
    whole = run(*names)["ccm-uneven/1"]
    runs["ccm-uneven/1"] = whole
    assert whole["training_bpp"] == resumed["training_bpp"]
    assert [r["bpp"] for r in whole["rows"]] == [r["bpp"] for r in resumed["rows"]]
    for run_ in runs.values():
        assert run_["steps"] == 4 and [r["quality"] for r in run_["rows"]] == [2, 4, 6, 8]
        for row, other in zip(run_["rows"], runs["spatial/1"]["rows"], strict=True):
            assert row["psnr"] == pytest.approx(other["psnr"], abs=0.01)  # the same latents, in another order
            assert 0.7 < row["float_bpp"] / row["bpp"] < 1.4  # calibration helps what four steps have trained
    table = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][-3:]
    assert table[-1][:2] == ["| ccm-uneven", "1+1+2+5"] and table[-1][5:7] == ["1", "4"]
    assert table[0][:2] == ["| spatial", "9"]
    assert all(row[-1] == "not timed |" for row in table)
    ablation.main([str(a) for a in [*command[:-1], "--times", 1, "--variants", *names]])
    assert set(json.loads(out.read_text())["decode_ms"]) == set(names)
    assert "not timed" not in capsys.readouterr().out
    with pytest.raises(SystemExit):  # another budget is another experiment
        ablation.main([str(a) for a in [*command, "spatial", "--steps", 3]])


def test_context_ablation_compares_sizes_and_rates_fairly(ablation):
    from ccm_fast.models import PRESETS, CrossChannelContextModel
    from ccm_fast.train.klt import groups_in_turn

    base = PRESETS["ccm-small-192"]
    configs = ablation.variants(base)
    assert configs["ccm-4"].groups == base.groups and configs["ccm-4"].parameter_widths == base.parameter_widths
    for name, c in configs.items():
        assert [len(c.groups) * w for w in c.parameter_widths] == [4 * w for w in base.parameter_widths], name
        rest = ("widths", "blocks", "hyper_channels", "psi_channels", "cross_kernels", "cross_width")
        assert all(getattr(c, key) == getattr(base, key) for key in rest)
    # By hand: h_s at a 16th, a 16th and a quarter of the positions; contexts at all of them, 12 of 25 taps.
    p, n, (a, b) = base.psi_channels, base.hyper_channels, (512, 384)
    dense = 9 * (n * p + 4 * p * p) / 16 + 9 * 4 * p * p / 4 + p * a
    sizes = {name: ablation.sizes(CrossChannelContextModel(configs[name])) for name in ("hyper", "spatial")}
    assert sizes["hyper"]["multiply_adds"] == int(dense + a * b + b * 384)
    assert sizes["spatial"]["multiply_adds"] - sizes["hyper"]["multiply_adds"] == 12 * 192 * a
    assert sizes["spatial"]["parameters"] - sizes["hyper"]["parameters"] == 12 * 192 * a
    # Channels: all once; equal groups of equal strength, or the strong ones first.
    strengths = torch.arange(192.0)[torch.randperm(192, generator=torch.Generator().manual_seed(0))]
    for name in ("ccm-8", "ccm-uneven"):
        order = ablation.channel_order(strengths, configs[name])
        means = [float(s.mean()) for s in strengths[order].split(configs[name].groups)]
        assert sorted(order) == list(range(192))
        assert np.ptp(means) < 15 if name == "ccm-8" else means == sorted(means, reverse=True)
    assert sorted(groups_in_turn((1, 3, 4))) == list(range(8))

    rows = [{"quality": q, "bpp": 0.1 * 2**q, "float_bpp": 0.1 * 2**q, "psnr": 28 + 2 * q} for q in range(4)]
    runs = {}
    for name, factor, seed in (("spatial", 1, 1), ("spatial", 1.1, 2), ("ccm-4", 0.95, 1), ("ccm-4", 1.1 * 0.93, 2)):
        mine = [{**r, "bpp": factor * r["bpp"]} for r in rows]
        run = {"variant": name, "seed": seed, "groups": [1], "widths": [1], "steps": 5, "cpu_seconds": 60}
        runs[f"{name}/{seed}"] = {**run, "parameters": 1, "multiply_adds": 1, "rows": mine}
    last = ablation.table({"runs": runs}).splitlines()[-1]
    assert "| ccm-4 |" in last and "| -6.00 % ± 1.41 | -0.00 % ± 0.00 |" in last.replace("+0.00", "-0.00"), last
    setup = {"steps": 5, "lr": 1e-3, "batch": 8, "transforms": "0"}
    about = {"setup": setup, "latents": [2, 3, 4, 5], "test_images": 24, "environment": {"cpu": "X"}}
    assert "`ccm-4` against `spatial`: -6.00 % ± 1.41 bits" in ablation.document({"runs": runs, **about})
    assert ablation.document({"runs": {}}).endswith("Nothing has been trained yet.\n")


def test_document_says_what_the_results_say(ablation):
    ablation.main(["--check"])
