"""Training: it learns, resumes exactly, reads tar shards and folders, and refuses what it cannot do."""

import copy
import dataclasses
import io
import json
import os
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ccm_fast.command.main import main
from ccm_fast.models import CCMConfig, CrossChannelContextModel
from ccm_fast.models.quality import lagrange_multiplier
from ccm_fast.train import loop
from ccm_fast.train.data import CropDataset, load_images
from ccm_fast.train.klt import fit_synthesis, initialise
from ccm_fast.train.loop import TrainConfig, train
from ccm_fast.train.plot import plot, read_log
from ccm_fast.train.ship import load_checkpoint, ship
from ccm_fast.train.stages import TRANSFORMS, Stage, parse_stages, revive_stacks, silence_contexts

TINY = CCMConfig(
    name="tiny",
    widths=(8, 8, 8),
    blocks=(0, 0, 0),
    groups=(4, 4),
    hyper_channels=4,
    psi_channels=8,
    cross_kernels=(3,),
    parameter_widths=(16,),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three smooth pictures."""
    path = tmp_path_factory.mktemp("pictures")
    i, j = np.mgrid[:200, :190] / 30
    for k in range(3):
        planes = [np.sin(i * (1 + c) + k) * np.cos(j * (2 - c)) for c in range(3)]
        Image.fromarray(np.uint8(127 + 100 * np.stack(planes, -1))).save(path / f"{k}.png")
    return path


def config(out, folder, **options):
    options = {"stages": "joint=4", "batch": 2, "crop": 64, "warmup": 1, "save_minutes": 1e6, **options}
    return TrainConfig(out=str(out), data=[str(folder)], preset=TINY, threads=1, **options)


def losses(out):
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.slow
def test_it_learns_and_ships(tmp_path, folder):
    last = train(config(tmp_path, folder, stages="joint=150", lr=3e-3, valid=[str(folder)]), progress=False)
    first, *_, end = losses(tmp_path)
    assert end < 0.8 * first
    model, meta = load_checkpoint(last)
    assert (meta["step"], meta["patches"]) == (150, 300)
    report = ship(last, tmp_path / "t.safetensors", [str(folder)], [str(folder)], qualities=(2, 7), progress=False)
    assert report == json.loads((tmp_path / "t.json").read_text())
    low, high = report["results"]
    assert low["bpp"] < high["bpp"]
    assert set(report["integer_cost_percent"]) == {"2", "4", "6"}
    assert model.config == TINY
    # What has shipped can be trained on.
    again = train(
        config(tmp_path / "more", folder, stages="joint=1", lr=0.0, init=str(tmp_path / "t.safetensors")),
        progress=False,
    )
    continued, meta = load_checkpoint(again)
    assert (meta["step"], meta["patches"]) == (151, 302)  # training goes on counting
    for name, value in model.state_dict().items():
        if name.startswith(("g_a.", "g_s.", "h_a.", "log_gain")):
            assert torch.allclose(continued.state_dict()[name], value, atol=1e-3), name


def test_resume_is_exact(tmp_path, folder, monkeypatch):
    straight = train(config(tmp_path / "a", folder), progress=False)
    batch, calls = CropDataset.batch, []

    def interrupted(self, size):
        calls.append(size)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return batch(self, size)

    monkeypatch.setattr(CropDataset, "batch", interrupted)
    train(config(tmp_path / "b", folder), progress=False)
    resumed = train(config(tmp_path / "b", folder), progress=False)
    a, b = (torch.load(p, weights_only=False) for p in (straight, resumed))
    assert a["step"] == b["step"] == 4
    for part in ("model", "ema"):
        assert all(torch.equal(v, b[part][k]) for k, v in a[part].items())


def test_ms_ssim(tmp_path, folder):
    pytest.importorskip("pytorch_msssim")
    with pytest.raises(ValueError, match="176"):
        train(config(tmp_path, folder, metric="ms-ssim"), progress=False)
    train(config(tmp_path, folder, metric="ms-ssim", crop=176, stages="joint=1"), progress=False)
    assert (tmp_path / "last.pt").exists()


def test_visual(tmp_path, folder):
    pytest.importorskip("pytorch_msssim")
    pytest.importorskip("ssimulacra2")
    with pytest.raises(ValueError, match="visual needs crops of at least 176"):
        train(config(tmp_path, folder, metric="visual"), progress=False)
    last = train(config(tmp_path, folder, metric="visual", crop=176, stages="joint=1"), progress=False)
    model, meta = load_checkpoint(last)
    assert model.metric == meta["metric"] == "mse", "encoders weigh squared errors"
    assert meta["trained_for"] == "visual"


def test_shards_and_folders(tmp_path, folder):
    shard = tmp_path / "a.tar"
    with tarfile.open(shard, "w") as tar:
        for file in sorted(folder.iterdir()):
            tar.add(file, arcname=file.name)
        note = tarfile.TarInfo("a.json")
        note.size = 2
        tar.addfile(note, io.BytesIO(b"{}"))
    a, b = load_images([shard]), load_images([folder])
    assert len(a) == len(b) == 3
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    with pytest.raises(FileNotFoundError, match="no such"):
        load_images([tmp_path / "nothing"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no images"):
        load_images([tmp_path / "empty"])
    with pytest.raises(ValueError, match="crop"):
        CropDataset(a, 500)


def test_crops():
    image = np.arange(40 * 50 * 3, dtype=np.uint32).astype(np.uint8).reshape(40, 50, 3)
    crops = CropDataset([image], 32, seed=3)
    state = crops.state()
    first = crops.batch(5)
    assert first.shape == (5, 3, 32, 32)
    assert first.dtype == torch.float32
    crops.restore(state)
    assert torch.equal(crops.batch(5), first)


def test_augmented_crops():
    # Red grows to the right, green downwards; blue is constant. Then a crop's slopes tell how it lies and its scale.
    side, slope = 96, 2
    ramp = np.arange(side, dtype=np.uint8) * slope
    image = np.stack(np.broadcast_arrays(ramp[None, :], ramp[:, None], np.uint8(7)), -1)
    crops = CropDataset([image, image[:80]], 48, seed=3, augment=1.5)
    state = crops.state()
    first = crops.batch(200)
    crops.restore(state)
    assert torch.equal(crops.batch(200), first)
    assert torch.equal(first[:, 2], torch.full((200, 48, 48), 7 / 255))
    inner = first[:, :2, 8:40, 8:40] * 255
    across = (inner[..., -1] - inner[..., 0]).mean(-1) / 31 / slope  # [200, red and green]
    down = (inner[..., -1, :] - inner[..., 0, :]).mean(-1) / 31 / slope
    scale = across.abs().amax(1)
    assert (scale - down.abs().amax(1)).abs().max() < 0.02
    assert 60 < (scale == 1).sum() < 140
    assert 1 / 1.5 - 0.02 < scale.min() < 0.8
    assert 1.25 < scale.max() < 1.5 + 0.02
    places = {tuple(row) for row in (torch.cat([across, down], 1) / scale[:, None]).round().int().tolist()}
    assert len(places) == 8, "four turns, mirrored or not"


def test_lagrange_multipliers():
    lam = lagrange_multiplier(torch.tensor([1.0, 8.0]))
    assert torch.allclose(lam, torch.tensor([0.0018, 0.18]))
    assert torch.allclose(lagrange_multiplier(torch.tensor([1.0, 8.0]), "ms-ssim"), torch.tensor([2.4, 220.0]))
    with pytest.raises(ValueError, match="metric"):
        lagrange_multiplier(torch.tensor([1.0]), "ssim")


LOW = torch.tensor([2.0])


def tensor(image):
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255


STAGES = "hyper=2,transforms=2,context=2,joint=2"


def parameters(path, part="model"):
    return torch.load(path, weights_only=False)[part]


def test_stages_train_what_they_should(tmp_path, folder):
    before, averaged, taken = {}, {}, {}
    for stage in ("hyper", "transforms", "context", "joint"):
        done = STAGES[: STAGES.index(stage)] + f"{stage}=2"
        last = train(config(tmp_path, folder, stages=done, z_warmup=1), progress=False)
        after = parameters(last)
        if stage == "context":  # its transforms are what ships
            before.update({name: value for name, value in averaged.items() if name.startswith(TRANSFORMS)})
        changed = {name for name in after if before and not torch.equal(after[name], before[name])}
        taken[stage] = {name.split(".")[0 if name[0] != "c" else 2] for name in changed}
        before, averaged = after, parameters(last, "ema")
    transforms, hyper, context = {"g_a", "g_s", "log_gain", "log_inverse_gain"}, {"h_a", "h_s", "z_prior"}, {"spatial"}
    assert transforms | hyper <= taken["transforms"]
    assert not context & taken["transforms"]
    assert hyper | context | {"stack", "skip"} <= taken["context"]
    assert not transforms & taken["context"]
    assert transforms | hyper | context <= taken["joint"]


def test_stopped_between_and_inside_stages(tmp_path, folder):
    straight = train(config(tmp_path / "a", folder, stages=STAGES), progress=False)
    asked = []

    def stop():
        asked.append(1)
        return len(asked) in (3, 5, 6)

    for _ in range(4):
        resumed = train(config(tmp_path / "b", folder, stages=STAGES), progress=False, stop=stop)
    a, b = (torch.load(p, weights_only=False) for p in (straight, resumed))
    assert a["step"] == b["step"] == 8
    for part in ("model", "ema"):
        assert all(torch.equal(v, b[part][k]) for k, v in a[part].items())


def test_wrong_stages():
    for text in ("hyper", "joint=x", "joint=0", "nothing=3"):
        with pytest.raises(ValueError, match=r"stage"):
            parse_stages(text)
    assert parse_stages("hyper=5, joint=1.5h") == [Stage("hyper", steps=5), Stage("joint", hours=1.5)]


def test_block_transform_reconstructs():
    """All 768 components of a 16x16 block: nothing is lost, whatever the pictures were; fewer: the strongest stay."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(60)]
    full = CCMConfig(name="full", widths=(48, 192, 768), blocks=(1, 0, 0), groups=(384, 384), psi_channels=8)
    x = torch.from_numpy(images[0].copy()).permute(2, 0, 1)[None].float() / 255
    model = CrossChannelContextModel(full).eval()
    initialise(model, images)
    quality = torch.tensor([3.0])
    with torch.no_grad():
        y = model.analysis(x, quality)
        assert (model.synthesis(y, quality, (64, 64)) - x).abs().max() < 1e-3
        # An orthonormal transform of 4 (x - 1/2), less its mean: the energy is that of the pixels.
        power = (y / model.gain(quality)).square().sum() / (16 * (x - x.mean()).square().sum())
    assert 0.9 < float(power) < 1.1


def test_fitted_synthesis_restores_better():
    """Pictures that it was not fitted on, coarsely quantized."""
    rng = np.random.default_rng(1)
    i, j = np.mgrid[:96, :96]

    def picture():
        a, b, c, d = rng.normal(0, 0.15, 4)
        planes = [np.sin(a * i + b * j + k) + np.sin(c * i * j / 50 + d * j) for k in rng.uniform(0, 6, 3)]
        return np.uint8(127 + 60 * np.stack(planes, -1))

    images = [picture() for _ in range(48)]
    config = CCMConfig(name="s", widths=(48, 24, 24), blocks=(1, 0, 0), groups=(12, 12), psi_channels=8)
    model = CrossChannelContextModel(config).eval()
    bases = initialise(model, images[:40])
    y = [torch.round(model.analysis(x, LOW)).detach() for x in map(tensor, images[40:])]
    errors = []
    for _ in range(2):
        with torch.no_grad():
            pairs = [(model.synthesis(v, LOW, (96, 96)), tensor(im)) for v, im in zip(y, images[40:], strict=True)]
        errors.append(float(sum((a - b).square().mean() for a, b in pairs)))
        fit_synthesis(model, images[:40], bases)
    assert errors[1] < 0.95 * errors[0]


@pytest.mark.slow
def test_two_processes(tmp_path, folder):
    """torchrun: each takes its own crops and noise, and both step along the same gradient."""
    code = (
        "import os, pathlib; from tests.test_train import config; from ccm_fast.train.loop import train\n"
        "import ccm_fast.train.parallel as p; keep = p.Processes.average_gradients\n"
        "def spy(self, ps):\n"
        "    keep(self, ps); spy.seen = sum(float(q.grad.double().square().sum()) for q in ps)\n"
        "p.Processes.average_gradients = spy\n"
        f"train(config({str(tmp_path / 'run')!r}, {str(folder)!r}, stages='joint=2'), progress=False)\n"
        f"pathlib.Path({str(tmp_path)!r}, 'gradients' + os.environ['RANK']).write_text(repr(spy.seen))"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=240)
    assert done.returncode == 0, done.stderr
    # A file for each: lines that both print at the same moment run into each other.
    first, second = (float((tmp_path / f"gradients{rank}").read_text()) for rank in (0, 1))
    assert first == second > 0
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=False)
    assert (state["step"], state["patches"], state["data"]["position"]) == (2, 8, 8)
    assert len(state["torch_rng"]) == 2
    assert not torch.equal(*state["torch_rng"])


def test_crops_of_several_processes(folder):
    images = load_images([folder])
    alone = CropDataset(images, 32, seed=3)
    both = [CropDataset(images, 32, seed=3, rank=r, world=2) for r in (0, 1)]
    assert sorted(both[0].take(3) + both[1].take(3)) == alone.take(6)
    first = next(alone.stream(4))
    alone.restore({"position": 6})
    assert torch.equal(next(alone.stream(4, workers=1)), first)
    assert alone.position == 10


@pytest.mark.slow
def test_plot(tmp_path, folder):
    pytest.importorskip("matplotlib")
    train(config(tmp_path, folder, stages="joint=50", valid=[str(folder)]), progress=False)
    steps, valid = read_log(tmp_path)
    assert [v["step"] for v in steps] == [50]
    assert set(valid[0]) >= {"q2", "q4", "q6", "q8"}
    assert plot([tmp_path], tmp_path / "a.png").read_bytes()[1:4] == b"PNG"
    assert main(["train", "--out", str(tmp_path), "--plot", str(tmp_path / "b.svg")]) == 0
    assert "<svg" in (tmp_path / "b.svg").read_text()
    assert main(["train", "--out", str(tmp_path / "nothing"), "--plot", str(tmp_path / "c.svg")]) == 1
    (tmp_path / "log.jsonl").write_text("x\n{}\n")
    with pytest.raises(ValueError, match="line 1"):
        read_log(tmp_path)


def test_a_run_with_nothing_to_draw_yet(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    (tmp_path / "log.jsonl").write_text('{"event": "start", "step": 0}\n')
    assert main(["train", "--out", str(tmp_path), "--plot", str(tmp_path / "a.png")]) == 1
    assert "nothing to draw yet" in capsys.readouterr().err and not (tmp_path / "a.png").exists()


def test_bf16(tmp_path, folder):
    """Autocast changes the numbers, and nothing overflows in any stage; in software where the CPU has no bf16."""
    full = parameters(train(config(tmp_path / "a", folder, stages=STAGES, bf16="off"), progress=False))
    half = parameters(train(config(tmp_path / "b", folder, stages=STAGES, bf16="on"), progress=False))
    assert all(v.dtype == torch.float32 and bool(v.isfinite().all()) for v in half.values())
    assert not torch.equal(full["g_a.1.weight"], half["g_a.1.weight"])
    with pytest.raises(ValueError, match="bf16"):
        train(config(tmp_path, folder, bf16="perhaps"), progress=False)


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"crop": -16}])
def test_sizes_are_positive(tmp_path, folder, wrong):
    with pytest.raises(ValueError, match="at least 1"):
        train(config(tmp_path, folder, **wrong), progress=False)


def test_dead_stacks_over_earlier_groups_are_renewed():
    torch.manual_seed(0)
    model = CrossChannelContextModel(replace(TINY, groups=(4, 2, 3), cross_kernels=(3, 3, 3)))
    power = torch.logspace(2, -1, 9)[None, :, None, None]
    y = torch.randn(8, 9, 6, 6) * power

    def alive(group, start):
        f, shares = torch.round(y)[:, :start].clamp(-127, 127), []
        for conv in group.stack[:-1]:
            f = torch.relu(conv(f))
            shares.append(float((f.amax((0, 2, 3)) > 0).float().mean()))
        return shares

    silence_contexts(model)
    assert alive(model.contexts[1], 4) == [0, 0]
    assert revive_stacks(model, y) == [1, 2]
    for g, start in ((1, 4), (2, 6)):
        assert min(alive(model.contexts[g], start)) > 0.8
        # Small at first, whatever the power of the latents.
        earlier = torch.round(y)[:, :start].clamp(-127, 127)
        with torch.no_grad():
            f = earlier
            for conv in model.contexts[g].stack[:-1]:
                f = torch.relu(conv(f))
            assert 1e-4 < model.contexts[g].stack[-1](f).std() < 0.3
    kept = copy.deepcopy(model.state_dict())
    assert revive_stacks(model, y) == []
    assert all(torch.equal(a, b) for a, b in zip(kept.values(), model.state_dict().values(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["mse", "ms-ssim"])
def test_symbols_as_they_are_coded(tmp_path, folder, monkeypatch, metric):
    """Stages with contexts ask for them, validation does too, and other metrics know none."""
    asked = []
    forward, likelihoods = CrossChannelContextModel.forward, CrossChannelContextModel.likelihoods

    def watched_forward(self, x, quality=4.0, context=True, rdoq=False):
        asked.append((context, rdoq))
        return forward(self, x, quality, context, rdoq)

    def watched_likelihoods(self, y, context=True, rdoq=False):
        asked.append((context, rdoq))
        return likelihoods(self, y, context, rdoq)

    monkeypatch.setattr(CrossChannelContextModel, "forward", watched_forward)
    monkeypatch.setattr(CrossChannelContextModel, "likelihoods", watched_likelihoods)
    stages = "hyper=1,transforms=1,context=1,synthesis=1,joint=1"
    options = {"metric": metric, "crop": 64 if metric == "mse" else 176, "start": "random", "stages": stages}
    options["valid"] = [str(folder / "0.png")]
    train(config(tmp_path / "a", folder, rdoq=True, **options), progress=False)
    assert {context for context, _ in asked} == {True, False}
    assert all(rdoq == (context and metric == "mse") for context, rdoq in asked)
    asked.clear()
    train(config(tmp_path / "b", folder, **options), progress=False)
    assert not any(rdoq for _, rdoq in asked)


@pytest.mark.slow
def test_synthesis_learns_alone(tmp_path, folder):
    """Nothing that decides what is coded changes, and the error falls."""
    first = train(config(tmp_path / "a", folder, stages="hyper=2", start="random"), progress=False)
    options = {"init": str(first), "stages": "synthesis=150", "lr": 1e-3}
    second = train(config(tmp_path / "b", folder, **options), progress=False)
    before, after = (load_checkpoint(p)[0].state_dict() for p in (first, second))
    changed = {n.split(".")[0] for n in before if not torch.equal(before[n], after[n])}
    assert changed == {"g_s", "log_inverse_gain"}
    mse = [json.loads(line).get("mse") for line in (tmp_path / "b" / "log.jsonl").read_text().splitlines()]
    first, *_, last = (v for v in mse if v is not None)  # running means, at steps 50 and 150
    assert last < 0.9 * first


def test_no_weight_outgrows_the_others(tmp_path, folder, monkeypatch):
    """Of the hidden layers: as int8 it would leave them no steps."""
    monkeypatch.setattr(loop, "_HIDDEN_LIMIT", 0.1)
    preset = replace(TINY, parameter_widths=(16, 12))
    last = train(replace(config(tmp_path, folder, stages="joint=2"), preset=preset), progress=False)
    model, _ = load_checkpoint(last)
    widest = {n: float(p.detach().abs().max()) for n, p in model.named_parameters() if n.startswith("contexts")}
    hidden = [w for n, w in widest.items() if ".hidden." in n and n.endswith("weight")]
    assert hidden and max(hidden) < 0.2 < max(widest.values())  # averages over three steps, from wider ones on


def test_help_says_all_of_every_option(capsys):
    """Sentences with colons and names of attributes in them, too; and what the numbers may be holds."""
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = "".join(capsys.readouterr().out.split())  # lines are broken after hyphens, too
    for option in dataclasses.fields(TrainConfig):
        said = option.metadata["help"]
        assert "".join(said.split()) in text and said.endswith(".")
    assert "forwardandbackwardasoneCUDAgraph:forstages" in text and "ccm-small," in text
    for wrong in (["--ema", "1.5"], ["--batch", "0"], ["--crop", "15"]):
        with pytest.raises(SystemExit, match="2"):
            main(["train", "--out", "x", *wrong])
        assert "must be" in capsys.readouterr().err


def test_small_pictures_are_left_out_from_the_start(tmp_path, folder):
    for k in range(3):
        Image.open(folder / f"{k}.png").save(tmp_path / f"{k}.png")
    Image.new("RGB", (16, 12)).save(tmp_path / "small.png")
    last = train(config(tmp_path / "run", tmp_path, stages="joint=1"), progress=False)
    state = torch.load(last, weights_only=True)
    assert state["step"] == 1 and all(v.isfinite().all() for v in state["model"].values())
