"""The training loop: one process, any device, resumable, its schedule in hours."""

from __future__ import annotations

import copy
import json
import math
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from ..models import CCMConfig, CrossChannelContextModel
from .data import CropDataset, load_images
from .loss import psnr, rate_distortion_loss

__all__ = ["TrainConfig", "train"]


# Five scales of an 11-pixel window: (11 - 1) * 2^4 pixels and one more, rounded up to whole latents.
MS_SSIM_CROP = 176


@dataclass
class TrainConfig:
    """Options of :func:`train`.

    Attributes:
        out: folder for the checkpoint (``last.pt``) and the log (``log.jsonl``); a checkpoint there is resumed.
        data: tar shards, folders or images to train on.
        valid: the same, for validation; empty: none.
        preset: name of a model preset, or a configuration; used when nothing is resumed.
        init: weights (a checkpoint or a shipped .safetensors file) to start from when nothing is resumed.
        metric: "mse" or "ms-ssim".
        hours: hours of training that the learning-rate schedule spans (time in earlier, resumed runs counted).
        steps: stop after this many steps in all; 0: no such limit.
        batch, crop: batch size and side of the crops.
        lr: peak learning rate of Adam; linear warm-up over ``warmup`` steps, then cosine to ``lr * final_lr``.
        clip: limit of the gradient's norm.
        ema: decay of the averaged weights, which validation uses and which ship.
        bf16: run forward and backward under bf16 autocast (worth it only where the hardware has bf16 arithmetic).
        threads: torch threads; 0: leave as is.
        save_minutes, valid_minutes: intervals.
        seed: seed of everything random.
        device: torch device.
    """

    out: str
    data: list[str] = field(default_factory=list)
    valid: list[str] = field(default_factory=list)
    preset: str | CCMConfig = "ccm-small"
    init: str = ""
    metric: str = "mse"
    hours: float = 2.0
    steps: int = 0
    batch: int = 8
    crop: int = 128
    lr: float = 5e-4
    warmup: int = 100
    final_lr: float = 0.02
    clip: float = 1.0
    ema: float = 0.999
    bf16: bool = False
    threads: int = 0
    save_minutes: float = 10.0
    valid_minutes: float = 15.0
    seed: int = 1
    device: str = "cpu"


def _save(path: Path, payload: dict) -> None:
    """Write a checkpoint so that an interruption leaves either the old or the new one, never half of one."""
    temporary = path.with_suffix(".tmp")
    torch.save(payload, temporary)
    os.replace(temporary, path)


@torch.no_grad()
def validate(model: CrossChannelContextModel, images: list, qualities=(2.0, 4.0, 6.0), metric: str = "mse") -> dict:
    """Estimated bits per pixel and PSNR (mean over images) at some qualities, centre crops of 256x256."""
    model.eval()
    result = {}
    for q in qualities:
        bpp, db = [], []
        for image in images:
            i, j = ((s - min(s, 256)) // 2 for s in image.shape[:2])
            x = torch.from_numpy(image[i : i + 256, j : j + 256].copy()).permute(2, 0, 1)[None].float().div_(255)
            x = x.to(next(model.parameters()).device)
            out = model(x, q)
            out["x_hat"] = out["x_hat"].clamp(0, 1)
            terms = rate_distortion_loss(x, out, torch.tensor([q], device=x.device))
            bpp.append(float(terms["bpp"]))
            db.append(psnr(terms["mse"]))
        result[f"q{q:g}"] = {"bpp": sum(bpp) / len(bpp), "psnr": sum(db) / len(db)}
    return result


def _resume(cfg: TrainConfig, model, ema, optimizer, crops) -> tuple[int, float, int]:
    """Load ``last.pt`` (or ``init``). Returns steps, hours and patches so far."""
    last = Path(cfg.out, "last.pt")
    if last.exists():
        state = torch.load(last, map_location=cfg.device, weights_only=False)
        model.load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["torch_rng"].cpu())
        crops.restore(state["data"])
        return state["step"], state["hours"], state["patches"]
    if cfg.init:
        if cfg.init.endswith(".pt"):
            weights = torch.load(cfg.init, map_location=cfg.device, weights_only=False)["ema"]
        else:
            from ..weights import load_float_state

            weights = load_float_state(cfg.init)
        model.load_state_dict(weights)
        ema.load_state_dict(weights)
    return 0, 0.0, 0


def train(cfg: TrainConfig, progress: bool = True) -> Path:
    """Train a model; returns the path of the last checkpoint.

    Stops when the schedule's hours or steps are used up, or at an interrupt (Ctrl-C, SIGTERM through
    KeyboardInterrupt), and writes a checkpoint in every case.

    Raises:
        FileNotFoundError: no data. ValueError: crops that no image, or the metric, can do with.
    """
    if cfg.metric == "ms-ssim" and cfg.crop < MS_SSIM_CROP:
        raise ValueError(f"MS-SSIM needs crops of at least {MS_SSIM_CROP} pixels, not {cfg.crop}")
    torch.manual_seed(cfg.seed)
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    out = Path(cfg.out)
    out.mkdir(parents=True, exist_ok=True)
    last = out / "last.pt"
    config = None
    if last.exists():
        config = CCMConfig.from_dict(torch.load(last, map_location="cpu", weights_only=False)["config"])
    model = CrossChannelContextModel(config or cfg.preset).to(cfg.device)
    ema = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), lr=cfg.lr)
    crops = CropDataset(load_images(cfg.data), cfg.crop, cfg.seed)
    valid = load_images(cfg.valid) if cfg.valid else []
    step, hours, patches = _resume(cfg, model, ema, optimizer, crops)

    log = open(out / "log.jsonl", "a", encoding="utf-8", buffering=1)  # noqa: SIM115  (closed in finally)

    def note(**values) -> None:
        log.write(json.dumps({"step": step, "hours": round(hours, 4), "patches": patches, **values}) + "\n")

    def checkpoint() -> None:
        _save(
            last,
            {
                "config": model.config.to_dict(),
                "train": asdict(cfg),
                "model": model.state_dict(),
                "ema": ema.state_dict(),
                "optimizer": optimizer.state_dict(),
                "torch_rng": torch.get_rng_state(),
                "data": crops.state(),
                "step": step,
                "hours": hours,
                "patches": patches,
            },
        )

    note(event="start", config=asdict(cfg))
    bar = tqdm(disable=not progress, unit="step", initial=step, total=cfg.steps or None)
    saved = validated = clock = time.monotonic()
    average: dict[str, float] = {}
    try:
        while hours < cfg.hours and not (cfg.steps and step >= cfg.steps):
            done = max(hours / cfg.hours, step / cfg.steps if cfg.steps else 0.0)
            cosine = cfg.final_lr + (1 - cfg.final_lr) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
            lr = cfg.lr * min(1.0, (step + 1) / cfg.warmup) * cosine
            for group in optimizer.param_groups:
                group["lr"] = lr
            x = crops.batch(cfg.batch).to(cfg.device)
            # Stratified over the batch: every step sees the whole range of qualities.
            slots = (torch.randperm(cfg.batch) + torch.rand(cfg.batch)) / cfg.batch
            quality = (1 + slots * (model.config.qualities - 1)).to(cfg.device)
            model.train()
            with torch.autocast(torch.device(cfg.device).type, torch.bfloat16, enabled=cfg.bf16):
                terms = rate_distortion_loss(x, model(x, quality), quality, cfg.metric)
            optimizer.zero_grad(set_to_none=True)
            terms["loss"].backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.clip)
            if torch.isfinite(norm):  # a rare bad batch is dropped instead of destroying the run
                optimizer.step()
            decay = min(cfg.ema, (1 + step) / (10 + step))  # short memory at first: early weights are worth nothing
            with torch.no_grad():
                torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)
            step += 1
            patches += cfg.batch
            now = time.monotonic()
            hours += (now - clock) / 3600
            clock = now
            for key in ("loss", "bpp", "bpp_z", "mse"):
                value = float(terms[key].detach().mean())
                average[key] = value if key not in average else 0.98 * average[key] + 0.02 * value
            bar.update()
            if step % 50 == 0:
                bar.set_postfix({"loss": f"{average['loss']:.3f}", "bpp": f"{average['bpp']:.3f}"})
                note(lr=lr, grad=float(norm), psnr=psnr(average["mse"]), **{k: round(v, 6) for k, v in average.items()})
            if valid and now - validated > 60 * cfg.valid_minutes:
                note(event="valid", **validate(ema, valid))
                validated = clock = time.monotonic()
            if now - saved > 60 * cfg.save_minutes:
                checkpoint()
                saved = clock = time.monotonic()
        if valid:
            note(event="valid", **validate(ema, valid))
    except KeyboardInterrupt:
        note(event="interrupted")
    finally:
        checkpoint()
        log.close()
        bar.close()
    return last
