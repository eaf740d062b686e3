"""Does the cross-channel context pay? Entropy models of several kinds on the same frozen latents, at equal budget.

The latents are those of a trained model's g_a, computed once for the training crops, also mirrored, and kept. On them,
from scratch and with the same seeds, data order, noise and budget, these are trained (h_a, h_s, prior of z, contexts):

    hyper        hyperprior only
    spatial      one group, masked convolution: the paper's baseline
    channel-4    four groups, no masked convolution: channel-conditional
    ccm-2 ccm-4 ccm-8    both, in equal groups
    ccm-uneven   both, in four groups of 1/8, 1/8, 1/4 and 1/2 of the channels, strong channels first
    ccm-4-sorted both, in four equal groups, strong channels first (only where it is asked for)

What could favour one of them by its size alone is held equal: the layers in which a group's contexts are added and its
parameters made are as wide in total, over all groups, as in the given model (one group: four times as wide as each of
four); the convolutions over earlier groups are those of the given model. Parameters and multiply-adds stand in the
table. Channels are dealt to the groups by their energy in the training latents: each of the equal groups gets its share
of the strong ones, as the training's start has it (train/klt.py), whatever groups the given model was trained with.

Each is then frozen to integers (calibration, no fine-tuning), and the test images are encoded to real files, whose
sizes are reported; the images that they decode to are the same for all. The code length by the float model stands
beside it.

    python benchmarks/context_ablation.py TEST --data TRAIN.tar ... --checkpoint runs/a/last.pt --steps 3000
    python benchmarks/context_ablation.py --document      writes docs/context_ablation.md from the results
    python benchmarks/context_ablation.py --check         is it what the results say?

A training's budget is in steps, so that all see the same latents, or in seconds of processor time (--seconds). Without
--variants all are trained with the first seed, and the pair of the paper's claim, spatial and ccm-4, with three.
Everything that is done is kept: results are written after every training and test, a training's state every 200 steps,
and the same command takes up where it was stopped. Latents and states lie in runs/ablation, results in
benchmarks/results/context_ablation.json. With --times, all decoders are timed in turns at the end, on a machine that
should be idle then.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from ablation_models import (
    build,
    channel_order,
    channel_strengths,
    latents,
    sizes,
    transforms_digest,
    variants,
    write,
)
from ablation_report import DOCUMENT, RESULT, document, table, write_document
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ccm_fast.environment import collect
from ccm_fast.evaluate.metrics import psnr
from ccm_fast.files import decode_bytes, encode_picture
from ccm_fast.freezing.freeze import freeze
from ccm_fast.images import Picture
from ccm_fast.models import CCMConfig, CrossChannelContextModel
from ccm_fast.train.data import ImageFiles
from ccm_fast.train.loss import rate_loss
from ccm_fast.train.ship import load_checkpoint
from ccm_fast.weights import load

ROOT = Path(__file__).parent.parent
WARMUP = 50  # steps
# Added to a channel's power, in steps squared, before its weights are scaled by one over the root: weak channels are
# nearly always zero, and their rare symbols should not move weights by a hundred times as much as others'.
FLOOR = 0.1
SAVE_STEPS = 200  # a minute or two of work
HEADLINE = ("spatial", "ccm-4")
HEADLINE_SEEDS = (1, 2, 3)
EXTRA = ("ccm-4-sorted",)  # only where it is asked for


# ---------------------------------------------------------------------------------------------------------------------
# Training


class Scaled(nn.Module):
    """A convolution's weights as those of inputs of unit power: times `scale` [inputs], they are what they were."""

    def __init__(self, scale: Tensor):
        super().__init__()
        self.register_buffer("scale", scale)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.scale[None, :, None, None]


def readers(model: CrossChannelContextModel) -> list[tuple[nn.Conv2d, slice]]:
    """The convolutions that read y, and which of its channels."""
    found, start = [(model.h_a[0], slice(None))], 0
    for group in model.contexts:
        end = start + group.channels
        found += [(group.spatial, slice(start, end))] if group.spatial is not None else []
        found += [(layer, slice(start)) for layer in (*group.stack[:1], group.skip) if layer is not None]
        start = end
    return found


class Training:
    """The training of one model: what a state on disk holds, and one step.

    What reads y learns in units of its channels' `strengths` (see channel_strengths, in the order of `y`). Their powers
    differ by a factor of ten thousand, and Adam steps every weight alike: after 250 steps of two images, the loss of
    ccm-4 was 1.29 instead of 1.54 (and 1.22 at twice the learning rate, which is the default).
    """

    def __init__(self, model: CrossChannelContextModel, y: Tensor, strengths: Tensor, args, seed: int):
        self.model, self.y, self.args = model, y, args
        scale = (torch.exp(2 * strengths) + FLOOR).rsqrt()
        for layer, channels in readers(model):
            parametrize.register_parametrization(layer, "weight", Scaled(scale[channels]))
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=args.lr, fused=True)
        self.generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        self.done = {"steps": 0, "cpu_seconds": 0.0, "training_bpp": None}
        self.pixels = 256 * y.shape[-2] * y.shape[-1]

    @property
    def share(self) -> float:
        """Of the budget, that is spent."""
        return self.done["steps"] / self.args.steps if self.args.steps else self.done["cpu_seconds"] / self.args.seconds

    def step(self) -> None:
        """One step; the learning rate falls along a cosine over the budget."""
        start, args = time.process_time(), self.args
        fall = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, self.share)))
        for group in self.optimizer.param_groups:
            group["lr"] = args.lr * min(1, (self.done["steps"] + 1) / WARMUP) * fall
        chosen = torch.randint(len(self.y), (args.batch,), generator=self.generator)
        drawn = torch.randint(len(args.qualities), (args.batch,), generator=self.generator)
        levels = torch.tensor(args.qualities)[drawn]
        with torch.no_grad():
            batch = self.y[chosen].float() * self.model.gain(levels)
        # z counts fully only after a tenth of the budget: before h_s reads it, its cost would silence it.
        weight = min(1.0, 10 * self.share)
        terms = rate_loss(self.model.likelihoods(batch), self.pixels, levels, z_weight=weight)
        self.optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        if torch.isfinite(torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)):
            self.optimizer.step()
        bpp, before = float(terms["bpp"].detach().mean()), self.done["training_bpp"]
        self.done["training_bpp"] = bpp if before is None else 0.98 * before + 0.02 * bpp
        self.done["steps"] += 1
        self.done["cpu_seconds"] += time.process_time() - start

    def run(self, path: Path, identity: dict) -> dict:
        """Train to the end of the budget, from the state in `path` if it is of the same experiment."""
        if path.is_file():
            state = torch.load(path, weights_only=True)
            if state["identity"] == json.dumps(identity):
                self.model.load_state_dict(state["model"])
                self.optimizer.load_state_dict(state["optimizer"])
                self.generator.set_state(state["generator"])
                torch.set_rng_state(state["rng"])
                self.done = state["done"]
        self.model.train()
        while self.share < 1:
            self.step()
            if self.done["steps"] % SAVE_STEPS == 0 or self.share >= 1:
                self.save(path, identity)
        for layer, _ in readers(self.model):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
        self.model.eval()
        return {**self.done, "cpu_seconds": round(self.done["cpu_seconds"], 1)}

    def save(self, path: Path, identity: dict) -> None:
        """The state from which :meth:`run` goes on with the same numbers (on one thread)."""
        state = {"identity": json.dumps(identity), "model": self.model.state_dict(), "done": self.done}
        state |= {"optimizer": self.optimizer.state_dict(), "generator": self.generator.get_state()}
        write({**state, "rng": torch.get_rng_state()}, path)


# ---------------------------------------------------------------------------------------------------------------------
# Tests


@torch.no_grad()
def float_bits(model: CrossChannelContextModel, pixels, quality: float) -> float:
    """Code length of an image by the float model, bits."""
    x = torch.tensor(pixels).permute(2, 0, 1)[None].float().div_(255)
    found = model.likelihoods(model.analysis(x, torch.tensor([quality])))
    return float(sum(-torch.log2(v).sum() for v in found.values()))


def test(model: CrossChannelContextModel, images: list, qualities: list[float]) -> list[dict]:
    """At each quality, means over the test images: real files, float code length, PSNR."""
    rows = []
    for quality in qualities:
        found = []
        for pixels in images:
            data = encode_picture(Picture(pixels), quality, model, effort=1, threads=1)  # the same latents for all
            decoded = decode_bytes(data, model, threads=1, max_pixels=None).picture.pixels
            area = pixels.shape[0] * pixels.shape[1]
            ideal = float_bits(model, pixels, quality) / area
            found.append((8 * len(data) / area, ideal, psnr(pixels, decoded)))
        bpp, ideal, quality_db = map(statistics.fmean, zip(*found, strict=True))
        rows.append({"quality": quality, "bpp": bpp, "float_bpp": ideal, "psnr": quality_db})
    return rows


# ---------------------------------------------------------------------------------------------------------------------


def plan_runs(args) -> list[tuple[str, int]]:
    """(variant, seed), the most telling first."""
    if args.variants:
        return [(name, seed) for seed in args.seeds for name in args.variants]
    first = [(name, args.seeds[0]) for name in variants(CCMConfig()) if name not in EXTRA]
    return first + [(name, seed) for seed in HEADLINE_SEEDS for name in HEADLINE if (name, seed) not in first]


def estimate(missing: list, configs: dict, source, y: Tensor, args) -> None:
    """Say what is to be done and how long it will take, from a few steps of each kind."""
    total, seconds, order, strengths = 0.0, {}, list(range(y.shape[1])), channel_strengths(source, y[:256])
    for name, seed in missing:
        if name not in seconds:
            training = Training(build(configs[name], source, order, strengths, seed), y, strengths, args, seed)
            training.model.train()
            training.step()  # allocations
            before = training.done["cpu_seconds"]
            for _ in range(4):
                training.step()
            seconds[name] = (training.done["cpu_seconds"] - before) / 4
            size = sizes(training.model)
            steps = args.steps or args.seconds / seconds[name]
            minutes = steps * seconds[name] / 60
            text = f"{size['parameters'] / 1e6:.2f} M parameters, {size['multiply_adds'] / 1e3:.0f} k multiply-adds"
            text += f" a latent; {1000 * seconds[name]:.0f} ms a step, {steps:.0f} steps: {minutes:.0f} minutes"
            print(f"{name}: {text} of processor time", flush=True)
        total += args.steps * seconds[name] if args.steps else args.seconds
    text = f"{len(missing)} trainings to do: {total / 3600:.1f} hours of processor time, and two to three minutes each"
    print(f"{text} to freeze and test on Kodak", flush=True)


def experiment(args, result: dict, parser: argparse.ArgumentParser) -> None:
    """Train and test what is missing; results are written as they come."""
    torch.set_num_threads(1)
    source = load_checkpoint(args.checkpoint)[0] if args.checkpoint.endswith(".pt") else load(args.checkpoint)
    if source.config.fine:
        parser.error("--checkpoint: contexts are compared on coarse channels alone, e.g. of the preset ccm-small-192")
    digest = transforms_digest(source)
    budget = {"steps": args.steps} if args.steps else {"seconds": args.seconds}
    setup = {"transforms": digest, **budget, "batch": args.batch, "lr": args.lr, "qualities": args.qualities}
    setup |= {"limit": args.limit, "calibration": args.calibration, "scaled_inputs": FLOOR}
    if result.get("setup", setup) != setup:
        parser.error(f"{args.out} is of another setup: {result['setup']}; name another file with --out")
    configs = variants(source.config)
    if unknown := set(args.variants or ()) - set(configs):
        parser.error(f"no variant {', '.join(unknown)}; there are {', '.join(configs)}")
    crops = ImageFiles(args.data)
    y = latents(source, digest, crops, args.latents, args.limit)
    images = list(ImageFiles(args.test))
    chosen = np.linspace(0, len(crops) - 1, min(args.calibration, len(crops))).astype(int)
    calibration = [crops[int(k)] for k in chosen]
    result |= {"setup": setup, "environment": collect(), "test_images": len(images), "latents": list(y.shape)}
    missing = [(name, seed) for name, seed in plan_runs(args) if f"{name}/{seed}" not in result["runs"]]
    estimate(missing, configs, source, y, args)
    strengths = channel_strengths(source, y)

    def prepare(name: str, seed: int) -> tuple[CrossChannelContextModel, dict, float]:
        """A model, trained (or taken from its state) and frozen; what training says; when it had been trained."""
        config = configs[name]
        order = channel_order(strengths, config)
        model = build(config, source, order, strengths, seed)
        identity = {**setup, "config": config.to_dict(), "order": order, "seed": seed}
        state = args.latents / f"{name}-{seed}.pt"
        trained = Training(model, y[:, order].contiguous(), strengths[order], args, seed).run(state, identity)
        middle = time.process_time()
        freeze(model, calibration, steps=0, seed=0)
        return model, trained, middle

    for name, seed in missing:
        config, start = configs[name], time.process_time()
        model, trained, middle = prepare(name, seed)
        run = {"variant": name, "seed": seed, "groups": config.groups, "widths": config.parameter_widths}
        run |= {**trained, **sizes(model), "rows": test(model, images, args.qualities)}
        run["test_cpu_seconds"] = round(time.process_time() - middle, 1)
        result["runs"][f"{name}/{seed}"] = run
        keep(result, args.out)
        bpp = ", ".join(f"{r['quality']:g}: {r['bpp']:.4f} ({r['float_bpp']:.4f})" for r in run["rows"])
        print(f"{name}/{seed}: {(time.process_time() - start) / 60:.0f} min; bpp (float) {bpp}", flush=True)
    if args.times:
        models = {
            name: prepare(name, args.seeds[0])[0] for name in configs if f"{name}/{args.seeds[0]}" in result["runs"]
        }
        result["decode_ms"] = decode_times(models, images[: args.times])
        keep(result, args.out)


def keep(result: dict, path: Path) -> None:
    """Write the results, in one go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def decode_times(models: dict[str, CrossChannelContextModel], images: list, repeats: int = 3) -> dict[str, float]:
    """Milliseconds of h_s, contexts and rANS on one thread, median: all models in turns, at quality 4."""
    files = {
        name: [encode_picture(Picture(x), 4.0, m, effort=1, threads=1) for x in images] for name, m in models.items()
    }
    found: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(repeats):
        for k in range(len(images)):
            for name, model in models.items():
                seconds: dict[str, float] = {}
                decode_bytes(files[name][k], model, threads=1, timings=seconds, max_pixels=None)
                found[name].append(1000 * (seconds["h_s"] + seconds["entropy"]))
    return {name: round(statistics.median(values), 2) for name, values in found.items()}


def main(argv: list[str] | None = None) -> None:
    """Train and test what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("test", nargs="*", type=Path, help="images or folders to test on (Kodak)")
    parser.add_argument("--data", nargs="+", type=Path, default=[], help="training images")
    parser.add_argument(
        "--checkpoint",
        metavar="FILE|NAME",
        help="whose transforms to take: a training's .pt (its averaged weights), or weights; without a fine group",
    )
    parser.add_argument("--variants", nargs="+", help="default: see above")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--qualities", type=float, nargs="+", default=[2.0, 4.0, 6.0, 8.0])
    parser.add_argument("--steps", type=int, default=3000, help="of each training (default: %(default)s)")
    parser.add_argument("--seconds", type=float, help="of processor time for each training, instead of --steps")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--limit", type=int, default=0, help="training images to use; 0: all")
    parser.add_argument("--calibration", type=int, default=48, metavar="N", help="crops to calibrate the integers on")
    parser.add_argument(
        "--times", type=int, default=0, metavar="N", help="then time the decoders on N images, in turns"
    )
    parser.add_argument("--latents", type=Path, default=ROOT / "runs" / "ablation", metavar="DIR", help="also states")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--document", action="store_true", help="write the document from the results and stop")
    parser.add_argument("--check", action="store_true", help="compare the document with the results and stop")
    args = parser.parse_args(argv)
    if args.seconds:
        args.steps = 0
    result = json.loads(args.out.read_text(encoding="utf-8")) if args.out.is_file() else {"runs": {}}
    if args.check:
        if not DOCUMENT.is_file() or DOCUMENT.read_text(encoding="utf-8") != document(result):
            sys.exit(f"{DOCUMENT.name} is not what the results say: run python {Path(__file__).name} --document")
        return
    if not args.document:
        if not args.checkpoint:
            parser.error("--checkpoint: whose transforms?")
        experiment(args, result, parser)
        print(table(result))
    if args.document or args.out == RESULT:
        write_document(result)


if __name__ == "__main__":
    main()
