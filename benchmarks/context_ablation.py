"""Does the cross-channel context pay? Entropy models of several kinds on the same frozen latents, at equal budget.

The latents are those of a trained model's g_a, computed once for the training crops and kept. On them, from scratch and
with the same seeds, data order and budget, these are trained (h_a, h_s, prior of z and contexts; nothing else differs):

    hyper        hyperprior only
    spatial      one group, masked convolution: the paper's baseline
    channel-4    four groups, no masked convolution: channel-conditional
    ccm-2 ccm-4 ccm-8    both, in equal groups
    ccm-uneven   both, in four groups of 1/8, 1/8, 1/4 and 1/2 of the channels

Each is then frozen to integers (calibration, no fine-tuning), and the test images are encoded to real files, whose
sizes are reported; the images that they decode to are the same for all. The code length by the float model stands
beside it. Groups are contiguous channels in the order of the given model: if it was trained with groups of its own, it
has made its order for them.

    python benchmarks/context_ablation.py TEST --data TRAIN.tar ... --seconds 600 --seeds 1 2 3
    python benchmarks/context_ablation.py --table            the table of what is there, as docs/ has it

A variant's budget is in seconds of processor time, which a busy machine does not shorten (--seconds), or in steps
(--steps). Results are written after every variant; a second run does what is missing. Latents are kept under
runs/ablation, results in benchmarks/results/context_ablation.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ccm_fast.collect_env import collect
from ccm_fast.evaluate.curves import Curve, bd_rate
from ccm_fast.evaluate.metrics import psnr
from ccm_fast.evaluate.tables import markdown
from ccm_fast.files import decode_bytes, encode_picture
from ccm_fast.images import Picture
from ccm_fast.integer.freeze import freeze
from ccm_fast.models import CCMConfig, CrossChannelContextModel
from ccm_fast.train.data import ImageFiles
from ccm_fast.train.loss import rate_loss
from ccm_fast.weights import find, load

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "context_ablation.json"
WARMUP = 50  # steps


def variants(base: CCMConfig) -> dict[str, CCMConfig]:
    """Configurations with the transforms of `base`; what is not named is as there."""
    M = base.latent_channels

    def equal(n: int) -> tuple[int, ...]:
        return tuple(M * (k + 1) // n - M * k // n for k in range(n))

    eighth = M // 8
    uneven = (eighth, eighth, 2 * eighth, M - 4 * eighth)
    made = {
        "hyper": replace(base, groups=(M,), schedule="single"),
        "spatial": replace(base, groups=(M,), schedule="wavefront"),
        "channel-4": replace(base, groups=equal(4), schedule="single"),
        "ccm-2": replace(base, groups=equal(2), schedule="wavefront"),
        "ccm-4": replace(base, groups=equal(4), schedule="wavefront"),
        "ccm-8": replace(base, groups=equal(8), schedule="wavefront"),
        "ccm-uneven": replace(base, groups=uneven, schedule="wavefront"),
    }
    return {name: replace(config, name=name) for name, config in made.items()}


def latents(model: CrossChannelContextModel, digest: str, paths: list[Path], folder: Path, limit: int) -> Tensor:
    """y [n, M, h, w] before the gain, fp16, of the centre of each training image; from the folder if it is there."""
    images = ImageFiles(paths)
    count = min(limit or len(images), len(images))
    side = min(min(size) for size in images.sizes) // 16 * 16
    names = json.dumps([digest, count, side, [(str(Path(p).name), n) for p, _, n in images.places]])
    path = folder / f"latents_{hashlib.sha256(names.encode()).hexdigest()[:16]}.pt"
    if path.is_file():
        return torch.load(path, weights_only=True)
    out = []
    with torch.no_grad():
        for k in range(count):
            i, j = ((s - side) // 2 for s in images.sizes[k])
            x = torch.tensor(images[k][i : i + side, j : j + side]).permute(2, 0, 1)[None].float().div_(255)
            out.append(model.g_a(x.contiguous(memory_format=torch.channels_last)).half())
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    torch.save(torch.cat(out), temporary)
    temporary.rename(path)
    return torch.cat(out)


def build(config: CCMConfig, source: CrossChannelContextModel, seed: int) -> CrossChannelContextModel:
    """A new entropy model beside the source's transforms and gains."""
    torch.manual_seed(seed)
    model = CrossChannelContextModel(config)
    for part in ("g_a", "g_s"):
        getattr(model, part).load_state_dict(getattr(source, part).state_dict())
    model.log_gain.data.copy_(source.log_gain)
    model.log_inverse_gain.data.copy_(source.log_inverse_gain)
    for name, p in model.named_parameters():
        p.requires_grad_(not name.startswith(("g_a.", "g_s.", "log_")))
    return model


def train(model: CrossChannelContextModel, y: Tensor, args, seed: int) -> dict:
    """Train the entropy model on latents; the rate falls along a cosine over the budget."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=args.lr)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model.train()
    start, wall, step, average = time.process_time(), time.perf_counter(), 0, None
    pixels = 256 * y.shape[-2] * y.shape[-1]
    while True:
        spent = time.process_time() - start
        done = step / args.steps if args.steps else spent / args.seconds
        if done >= 1:
            break
        rate = args.lr * min(1, (step + 1) / WARMUP) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        chosen = torch.randint(len(y), (args.batch,), generator=generator)
        levels = torch.tensor(args.qualities)[torch.randint(len(args.qualities), (args.batch,), generator=generator)]
        with torch.no_grad():
            batch = y[chosen].float() * model.gain(levels)
        # z counts fully only after a tenth of the budget: before h_s reads it, its cost would silence it.
        terms = rate_loss(model.likelihoods(batch), pixels, levels, z_weight=min(1.0, 10 * done))
        optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        if torch.isfinite(torch.nn.utils.clip_grad_norm_(parameters, 1.0)):
            optimizer.step()
        step += 1
        bpp = float(terms["bpp"].detach().mean())
        average = bpp if average is None else 0.98 * average + 0.02 * bpp
    model.eval()
    return {
        "steps": step,
        "cpu_seconds": round(time.process_time() - start, 1),
        "seconds": round(time.perf_counter() - wall, 1),
        "training_bpp": average,
    }


@torch.no_grad()
def float_bits(model: CrossChannelContextModel, pixels, quality: float) -> float:
    """Code length of an image by the float model, bits."""
    x = torch.tensor(pixels).permute(2, 0, 1)[None].float().div_(255)
    found = model.likelihoods(model.analysis(x, torch.tensor([quality])))
    return float(sum(-torch.log2(v).sum() for v in found.values()))


def test(model: CrossChannelContextModel, images: list, qualities: list[float]) -> list[dict]:
    """Means over the test images at each quality: real files, float code length, PSNR, seconds."""
    rows = []
    for quality in qualities:
        found = []
        for pixels in images:
            data = encode_picture(Picture(pixels), quality, model, effort=1)  # the same latents for all
            seconds: dict[str, float] = {}
            decoded = decode_bytes(data, model, timings=seconds, max_pixels=None).picture.pixels
            area = pixels.shape[0] * pixels.shape[1]
            ideal = float_bits(model, pixels, quality) / area
            found.append((8 * len(data) / area, ideal, psnr(pixels, decoded), seconds["h_s"] + seconds["entropy"]))
        bpp, ideal, quality_db, decode = (statistics.fmean(column) for column in zip(*found, strict=True))
        rows.append({"quality": quality, "bpp": bpp, "float_bpp": ideal, "psnr": quality_db, "decode_seconds": decode})
    return rows


def table(result: dict) -> str:
    """Markdown: bits per pixel by quality, and BD-rates against "spatial" of the same seed."""
    runs = result["runs"].values()
    qualities = sorted({row["quality"] for run in runs for row in run["rows"]})

    def curve(run: dict) -> Curve:
        rows = sorted(run["rows"], key=lambda r: r["bpp"])
        return Curve(run["variant"], run["variant"], [r["bpp"] for r in rows], {"psnr": [r["psnr"] for r in rows]}, "")

    anchors = {run["seed"]: run for run in runs if run["variant"] == "spatial"}
    head = ["variant", "groups", "seeds", "steps"] + [f"bpp, quality {q:g}" for q in qualities]
    head += ["files against spatial", "BD-rate against spatial", "context + rANS, ms"]
    body = []
    for name in dict.fromkeys(run["variant"] for run in runs):
        mine = [run for run in runs if run["variant"] == name]
        bpp = {q: [r["bpp"] for run in mine for r in run["rows"] if r["quality"] == q] for q in qualities}
        paired = [(anchors[run["seed"]], run) for run in mine if run["seed"] in anchors]
        ratio = [
            100 * (math.exp(statistics.fmean(math.log(b["bpp"] / a["bpp"]) for a, b in zip(x["rows"], y["rows"]))) - 1)
            for x, y in paired
        ]
        deltas = [bd_rate(curve(a), curve(b)) for a, b in paired]
        numbers = [d.percent for d in deltas if d.percent is not None]
        body.append(
            [
                name,
                "+".join(map(str, mine[0]["groups"])),
                str(len(mine)),
                f"{statistics.fmean(run['steps'] for run in mine):.0f}",
                *(spread(bpp[q], "{:.4f}") for q in qualities),
                spread(ratio, "{:+.2f}", " %"),
                spread(numbers, "{:+.2f}", " %") if numbers else (deltas[0].reason if deltas else "none"),
                f"{1000 * statistics.fmean(r['decode_seconds'] for run in mine for r in run['rows']):.0f}",
            ]
        )
    return markdown((head, body))


def spread(values: list[float], form: str, unit: str = "") -> str:
    """Mean, and standard deviation where there are several."""
    if not values:
        return "none"
    text = form.format(statistics.fmean(values)) + unit
    return text + (f" ± {form.replace('+', '').format(statistics.stdev(values))}" if len(values) > 1 else "")


def main(argv: list[str] | None = None) -> None:
    """Train and test what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("test", nargs="*", type=Path, help="images or folders to test on (Kodak)")
    parser.add_argument("--data", nargs="+", type=Path, default=[], help="training images")
    parser.add_argument("--model", default="ccm-small", help="whose transforms to take (default: %(default)s)")
    parser.add_argument("--variants", nargs="+", help="default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--qualities", type=float, nargs="+", default=[2.0, 4.0, 6.0, 8.0])
    parser.add_argument("--seconds", type=float, default=600.0, help="processor seconds for each training")
    parser.add_argument("--steps", type=int, default=0, help="instead of --seconds")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--limit", type=int, default=0, help="training images to use; 0: all")
    parser.add_argument("--calibration", type=int, default=48, metavar="N", help="crops to calibrate the integers on")
    parser.add_argument("--latents", type=Path, default=ROOT / "runs" / "ablation")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--table", action="store_true", help="print the table and stop")
    args = parser.parse_args(argv)
    result = json.loads(args.out.read_text(encoding="utf-8")) if args.out.is_file() else {"runs": {}}
    if not args.table:
        source = load(args.model)
        digest = hashlib.sha256(Path(find(args.model)).read_bytes()).hexdigest()[:16]
        budget = {"steps": args.steps} if args.steps else {"seconds": args.seconds}
        setup = {"model": digest, **budget, "batch": args.batch, "lr": args.lr, "qualities": args.qualities}
        setup |= {"limit": args.limit, "calibration": args.calibration}
        if result.get("setup", setup) != setup:
            parser.error(f"{args.out} is of another setup: {result['setup']}; name another file with --out")
        configs = variants(source.config)
        for name in args.variants or configs:
            if name not in configs:
                parser.error(f"no variant {name!r}; there are {', '.join(configs)}")
        y = latents(source, digest, args.data, args.latents, args.limit)
        images = list(ImageFiles(args.test))
        crops = ImageFiles(args.data)
        step = max(1, len(crops) // args.calibration)
        calibration = [crops[k] for k in range(0, len(crops), step)][: args.calibration]
        result |= {"setup": setup, "environment": collect(), "test_images": len(images), "crops": len(y)}
        for seed in args.seeds:
            for name in args.variants or configs:
                key = f"{name}/{seed}"
                if key in result["runs"]:
                    continue
                model = build(configs[name], source, seed)
                trained = train(model, y, args, seed)
                freeze(model, calibration, steps=0, seed=0)
                run = {"variant": name, "seed": seed, "groups": configs[name].groups, **trained}
                result["runs"][key] = {**run, "rows": test(model, images, args.qualities)}
                args.out.parent.mkdir(parents=True, exist_ok=True)
                temporary = args.out.with_suffix(".tmp")
                temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
                temporary.rename(args.out)
                print(key, trained, flush=True)
    print(table(result))


if __name__ == "__main__":
    main()
