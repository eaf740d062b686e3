"""Freezing: a float entropy network becomes integers.

The network is written down once more in the units of the integers (:mod:`ccm_fast.freezing.layers`). Calibration
chooses the scales from activations; then a short fine-tuning with straight-through gradients on the code length itself
moves weights across rounding thresholds (in the spirit of AdaRound, Nagel et al. 2020, arXiv 2004.10568, but end to
end).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ccm_fast.eager import eager
from ccm_fast.entropy.frozen import FrozenEntropyModel
from ccm_fast.entropy.schedule import Schedule
from ccm_fast.errors import ModelError, NotFrozenError
from ccm_fast.freezing.calibration import best_calibration, code_length
from ccm_fast.freezing.fitting import FITTED_CROPS, Latents, fit_to_symbols
from ccm_fast.freezing.rounded import Group
from ccm_fast.freezing.skipping import leave_out
from ccm_fast.freezing.thaw import thaw
from ccm_fast.freezing.tuning import fine_tune
from ccm_fast.models.ccm import CrossChannelContextModel
from ccm_fast.pixels import image_tensor

__all__ = ["collect", "freeze", "keep"]


# Crops that are looked at together: 19 ms each instead of 34 (288x288, two cores).
_TOGETHER = 8


@torch.no_grad()
def _analysed(
    model: CrossChannelContextModel, crops: list[Tensor], qualities: list[float]
) -> Iterator[tuple[Latents, float]]:
    """Latents of crops of one size, and their expected bits."""
    x = torch.stack(crops)
    y = model.analysis(x, torch.tensor(qualities))
    z_hat = torch.round(model.h_a(y))
    y_hat = model.coded(y, z_hat)
    bits = code_length(y_hat, *model.entropy_parameters(y_hat, z_hat)).tolist()
    rest = (y - y_hat).half()
    for k, quality in enumerate(qualities):
        own = slice(k, k + 1)
        yield Latents(y_hat[own], z_hat[own], rest[own], quality, (x.shape[2], x.shape[3])), max(1.0, bits[k])


def collect(
    model: CrossChannelContextModel,
    images: Sequence[Tensor | np.ndarray],
    crop: int,
    generator: torch.Generator,
    versions: int = 1,
) -> Iterator[tuple[Latents, float]]:
    """Latents of random crops of all images, then of all images again, at qualities spread over the trained range.

    Every second version of an image is mirrored. With each, the bits that the float model expects.
    """
    total = versions * len(images)
    spread = torch.randperm(total, generator=generator).tolist()
    waiting: dict[torch.Size, tuple[list[Tensor], list[float]]] = {}
    for n, k in enumerate(spread):
        x = image_tensor(images[n % len(images)])
        i, j = (int(torch.randint(max(1, s - crop + 1), (1,), generator=generator)) for s in x.shape[1:])
        x = x[:, i : i + crop, j : j + crop]
        crops, qualities = waiting.setdefault(x.shape, ([], []))
        crops.append(x.flip(-1) if n // len(images) % 2 else x)
        qualities.append(1.0 + (model.config.qualities - 1) * (k + 0.5) / total)
        if len(crops) == _TOGETHER:
            yield from _analysed(model, *waiting.pop(x.shape))
    for rest in waiting.values():
        yield from _analysed(model, *rest)


#: Fine-tuning steps from so many images on. Fewer images would rather be learned by heart; what more of both bring
#: is in train/ship.py.
FINE_TUNE_STEPS = {0: 0, 32: 300, 256: 1000, 3000: 10000}
#: Of every image that is fine-tuned on: of other places and qualities, and every second one mirrored.
VERSIONS = 4
#: Images that scales are chosen by: every choice is tried on all of them.
CALIBRATION_IMAGES = 64


@eager
def freeze(
    model: CrossChannelContextModel,
    images: Sequence[Tensor | np.ndarray],
    *,
    steps: int | None = None,
    batch: int = 8,
    crop: int = 288,
    seed: int = 0,
    history: list[float] | None = None,
    progress: bool = False,
    skip: int | None = None,
) -> FrozenEntropyModel:
    """Give a trained model its integer entropy model; sets ``model.frozen`` and returns it.

    The float parameters are not touched. All qualities are calibrated together, over the whole trained range. With
    enough images the tables of y take the shapes of what is coded with them, and centroids its means
    (:mod:`ccm_fast.freezing.fitting`).

    Args:
        model: the trained model; put into evaluation mode.
        images: calibration images, each float [3, H, W] in [0, 1] or uint8 [H, W, 3] or [3, H, W]; some 64 varied
            photographs (not those that results are reported on).
        steps: fine-tuning steps; None: 10,000 with at least 3,000 images, 1000 with 256, 300 with 32, none with fewer;
            0: calibration only.
        batch: crops per step.
        crop: side of the random crop that is taken of each image, pixels.
        seed: seed of crops, qualities and order.
        history: if given, the relative code length of every step (1: that of the float model) is appended.
        progress: show bars.
        skip: the last scale index of symbols of y that are not coded, 0..62 (-1: all are), which also leaves out the
            channels of z that never vary: streams are then of version 2. None:
            as the model was trained (``CCMConfig.skip_index``), which by default is that everything is coded. For
            ``ccm-small``, without any training for it, 0 saves 0.6 / 0.0 / 0.1 % of the rate at quality 2 / 4 / 6 (1.9
            / 1.3 / 1.0 % at effort 1) and leaves out 69 / 53 / 38 % of the symbols; more takes whole regions' detail.

    Returns:
        The frozen model.

    Raises:
        TypeError, ValueError: no images, or not images; weights that are not finite.
        OverflowProofError: some input could overflow 32 bits. Scales are chosen so that this does not happen; if it
            does, the layer that the message names has weights beyond what integers can do.
    """
    if not len(images):
        raise ValueError("freezing needs calibration images")
    bad = [name for name, p in model.named_parameters() if not bool(torch.isfinite(p).all())]
    if bad:
        raise ValueError(f"weights that are not finite cannot be frozen: {', '.join(bad[:5])}")
    model.eval()
    model.sensitivities, model.reduced = None, {}  # of other transforms, perhaps
    generator = torch.Generator().manual_seed(seed)
    if steps is None:
        steps = max(n for least, n in FINE_TUNE_STEPS.items() if len(images) >= least)
    crops: list[Latents] = []  # for tables and centroids
    data: list[tuple[Tensor, ...]] = []
    expected = []
    versions = VERSIONS if steps else 1
    found = collect(model, images, crop, generator, versions)
    for c, bits in tqdm(found, disable=not progress, total=versions * len(images), unit="crop", desc="latents"):
        if len(crops) < FITTED_CROPS:
            crops.append(c)
        data.append((c.y_hat.short(), c.z_hat.short()))
        expected.append(bits)
    first = [(y.float(), z.float()) for y, z in data[: min(CALIBRATION_IMAGES, len(images))]]
    network = best_calibration(model, first, expected[: len(first)], progress)
    if steps:

        def loss(tensors: tuple[Tensor, ...], chosen: list[int]) -> Tensor:
            # Every image counts by its code length relative to the expected one, whatever its quality.
            y_hat, z_hat = (t.float() for t in tensors)
            return (code_length(y_hat, *network(y_hat, z_hat)) / torch.tensor([expected[k] for k in chosen])).mean()

        for group in cast("Iterable[Group]", network.groups):
            group.share_scales()
        with torch.enable_grad():
            lengths = fine_tune(network, data, loss, steps, batch, seed=seed, progress=progress)
        if history is not None:
            history += lengths
    plan = network.export(model)
    if skip is None and model.config.skip_index >= 0:
        skip = model.config.skip_index
    if skip is not None:
        plan = leave_out(plan, skip, (z for _, z in data))
        if model.config.fine and not model.config.fine_context:
            schedules = [plan.schedule_of(g) for g in range(len(plan.groups))]
            plan = replace(plan, schedules=(*schedules[:-1], Schedule(row_step=1)))  # in any order: a row at a time
    model.frozen = FrozenEntropyModel(plan)
    return fit_to_symbols(model, crops)


# Of a weight that a checkpoint, or its floats in fp16, and a thawed plan have in common.
_SAME = 2e-3


@eager
def keep(
    model: CrossChannelContextModel,
    kept: CrossChannelContextModel,
    images: Sequence[Tensor | np.ndarray],
    *,
    crop: int = 288,
    seed: int = 0,
    progress: bool = False,
) -> FrozenEntropyModel:
    """Give a model the integers of the one that its transforms were retuned for (stage "retune" of training).

    Tables and centroids are fitted to what is coded now; scales, weights and what is left out stay, but for channels of
    z that vary now. Takes minutes, where :func:`freeze` takes an hour.

    Args:
        model: the trained model, with the entropy model of `kept` in floats; its configuration becomes that of `kept`.
        kept: a frozen model.
        images: as for :func:`freeze`; no more than 480 are looked at.
        crop: side of the random crop that is taken of each image, pixels.
        seed: seed of crops and qualities.
        progress: show a bar.

    Returns:
        The frozen model, which ``model.frozen`` is set to.

    Raises:
        ModelError: the two have not one entropy model.
        NotFrozenError: `kept` is not frozen.
    """
    if kept.frozen is None:
        raise NotFrozenError("the model whose integers are to be kept has none")
    theirs, plan = kept.state_dict(), kept.frozen.plan
    for name, p in model.state_dict().items():
        other = theirs.get(name)
        if other is None or other.shape != p.shape:
            raise ModelError(f"the models differ in their layers: {name}")
        if name.startswith(("h_s.", "contexts.", "z_prior.")) and not torch.allclose(p, other, rtol=_SAME, atol=1e-6):
            raise ModelError(f"{name} is another one than in the model whose integers are to be kept: freeze it")
    model.eval()
    thaw(model, plan)
    model.config, model.sensitivities, model.reduced = kept.config, None, {}
    generator = torch.Generator().manual_seed(seed)
    chosen = [images[k] for k in torch.randperm(len(images), generator=generator).tolist()[:FITTED_CROPS]]
    found = collect(model, chosen, crop, generator)
    crops = [c for c, _ in tqdm(found, disable=not progress, total=len(chosen), unit="crop", desc="latents")]
    plan = leave_out(plan, plan.skip, (c.z_hat.short() for c in crops))
    model.frozen = FrozenEntropyModel(plan, kept.frozen.shifts)
    return fit_to_symbols(model, crops)
