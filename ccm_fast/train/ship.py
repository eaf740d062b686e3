"""From a training checkpoint to the weights that ship: freeze, save in fp16, evaluate what was saved."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from ccm_fast.freezing.thaw import CEILING

from ..atomic import atomic_write
from ..errors import ModelError
from ..models import CrossChannelContextModel
from ..models.quality import encoder_metric
from ..psnr import psnr
from .checkpoint import averages, config_of
from .data import load_images

__all__ = ["evaluate", "load_checkpoint", "ship"]

# For calibration and the fine-tuning of the integers, which learns few images by heart. What the integers of the same
# weights cost on Kodak at quality 2 / 4 / 6: with 480 photographs 0.54 / 0.39 / 0.32 % after 1000 steps, and 0.80 /
# 0.67 / 0.61 % after 2000; with 1600 photographs 0.22 / 0.10 / 0.03 % after 1000. Now all are taken, up to this many,
# in four versions each: 3,670 took 9.4 GB and 24 minutes of two cores with AVX-512.
FREEZE_IMAGES = 4000


def load_checkpoint(
    path: str | Path, g_a: nn.Module | None = None, g_s: nn.Module | None = None
) -> tuple[CrossChannelContextModel, dict]:
    """The averaged weights of a training checkpoint, or of floats, as a model, and what is known of its training.

    Args:
        path: the checkpoint, or floats.
        g_a: the analysis transform, where it was one's own: a module of that class, which takes the weights.
        g_s: the synthesis transform, likewise.

    Raises:
        FileNotFoundError: no such file.
        ModelError: neither a checkpoint of ``ccm-fast train`` nor floats, or weights of other transforms.
    """
    state = averages(path)
    if state is None:
        raise ModelError(f"{path} is no checkpoint of ccm-fast train, and no file of floats")
    own = [name for name, module in (("g_a", g_a), ("g_s", g_s)) if module is not None]
    model = CrossChannelContextModel(config_of(state, path, own), g_a, g_s)
    try:
        model.load_state_dict(state["ema"])
    except RuntimeError as error:
        why = " ".join(str(error).split())
        raise ModelError(f"{path}: weights of other transforms (one's own: g_a, g_s): {why}") from error
    train = state["train"]
    if train.get("saturate"):
        model.saturate(CEILING)
    trained_for = train.get("metric", model.metric)
    model.metric, model.trained_for = encoder_metric(trained_for), trained_for
    meta = {key: state[key] for key in ("step", "hours", "cpu_hours", "gpu_hours", "patches") if key in state}
    meta.update(
        {key: train[key] for key in ("metric", "crop", "augment", "batch", "lr", "seed", "stages") if key in train}
    )
    if trained_for != model.metric:
        meta.update(metric=model.metric, trained_for=trained_for)
    return model.eval(), meta


def evaluate(
    model: CrossChannelContextModel, images: Sequence[np.ndarray], qualities: Sequence[float], progress: bool = True
) -> list[dict]:
    """Mean size and PSNR of real strings (as in a file, container included) at some qualities.

    Args:
        model: a frozen model.
        images: uint8 [H, W, 3].
        qualities: where to measure.
        progress: show a bar.

    Returns:
        For each quality ``{"quality", "bpp", "psnr"}``, means over images (PSNR of 8-bit RGB, in dB).
    """
    from ..codec import compress, decompress

    result = []
    bar = tqdm(total=len(qualities) * len(images), unit="image", disable=not progress)
    for quality in qualities:
        bpp, quality_db = [], []
        for image in images:
            x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
            out = compress(model, x, quality)
            x_hat = decompress(model, **out)["x_hat"]
            restored = (x_hat[0].permute(1, 2, 0).numpy() * 255).round().clip(0, 255).astype(np.uint8)
            size = 4 + sum(len(s) for part in out["strings"] for s in part)  # 4: the container's magic and version
            bpp.append(8 * size / (image.shape[0] * image.shape[1]))
            quality_db.append(psnr(restored, image))
            bar.update()
        result.append({"quality": quality, "bpp": float(np.mean(bpp)), "psnr": float(np.mean(quality_db))})
    bar.close()
    return result


def ship(
    checkpoint: str | Path,
    out: str | Path,
    data: Sequence[str],
    test: Sequence[str] = (),
    qualities: Sequence[float] = (1, 2, 3, 4, 5, 6, 7, 8),
    cost_qualities: Sequence[float] = (2, 4, 6),
    seed: int = 0,
    progress: bool = True,
    images: int = FREEZE_IMAGES,
    steps: int | None = None,
    skip: int | None = None,
    kept: str | Path | None = None,
) -> dict:
    """Freeze a checkpoint, write the weights, load them again, evaluate, and write the evaluation beside them.

    Args:
        checkpoint: ``last.pt`` of a training run, or floats that ``ccm-fast train --floats`` has written.
        out: the weights file, NAME.safetensors; the evaluation goes to NAME.json.
        data: training images, for calibration.
        test: images to evaluate on (never trained on); none: no evaluation.
        qualities: qualities of the rate-distortion curve.
        cost_qualities: qualities at which the cost of the integers is measured.
        seed: choice of calibration images, and of everything random in freezing.
        progress: show bars.
        images: calibration images at most.
        steps: of fine-tuning; None: by the number of images.
        skip: see :func:`ccm_fast.freeze`.
        kept: a shipped model's name or a weights file whose integers are kept, for a checkpoint of stage "retune"
            (:func:`ccm_fast.freezing.freeze.keep`); `steps` and `skip` have no say then.

    Returns:
        The evaluation, as written.

    Raises:
        ModelError: no checkpoint, or one with another entropy model than `kept`.
    """
    from ccm_fast.freezing.cost import integer_cost
    from ccm_fast.freezing.freeze import freeze, keep

    from ..weights import load, save

    model, meta = load_checkpoint(checkpoint)
    found = load_images(list(data))
    chosen = np.random.default_rng(seed).permutation(len(found))[:images]
    photographs = [found[k] for k in chosen]
    if kept is None:
        freeze(model, photographs, steps=steps, seed=seed, progress=progress, skip=skip)
    else:
        keep(model, load(kept), photographs, seed=seed, progress=progress)
    out = Path(out)
    save(model, out, meta)
    report = {"model": out.stem, "training": meta, "fingerprint": model.frozen.fingerprint.hex()}
    report["file_bytes"] = out.stat().st_size
    if test:
        tests = load_images(list(test))
        report["images"] = len(tests)
        # The float model's latents and likelihoods against the integers', from the same float parameters.
        costs = integer_cost(model, model.frozen, tests, cost_qualities)
        report["integer_cost_percent"] = {f"{c.quality:g}": 100 * c.integer_growth for c in costs}
        report["with_shapes_percent"] = {f"{c.quality:g}": 100 * c.growth for c in costs}
        report["results"] = evaluate(load(out), tests, qualities, progress)
    with atomic_write(out.with_suffix(".json")) as file:
        file.write(json.dumps(report, indent=1).encode() + b"\n")
    return report
