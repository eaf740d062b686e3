"""Stages of a training run: what is trained, with which entropy model, for how long, at which rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ccm_fast.constants import CONTEXT_LIMIT

from ..models import CrossChannelContextModel
from ..models.context import GroupContext
from ..models.inference import inference
from .data import CropDataset, to_tensor

__all__ = [
    "STAGES",
    "TRANSFORMS",
    "LatentCache",
    "Stage",
    "parse_stages",
    "revive_stacks",
    "silence_contexts",
    "silence_group",
]


class Kind(NamedTuple):
    """What a stage trains.

    Attributes:
        transforms: whether g_s and its gains run and learn; else the entropy model learns on fixed latents.
        contexts: whether what is computed from y_hat takes part; else the hyperprior works alone.
        rate: whether the rate counts; else g_s learns alone to restore images from fixed latents.
        entropy: whether the decoder's entropy model (h_s, the contexts, the prior of z) learns.
    """

    transforms: bool
    contexts: bool
    rate: bool = True
    entropy: bool = True


#: The cheap stages come first: a step of "hyper" costs an eighth of one of "joint" and sees four times the latents.
#: Alone, the hyperprior has to learn to carry information, which it does not beside contexts. Transforms come when
#: the rate that they are optimized for means something. "synthesis" spends everything on g_s: what is
#: coded stays as it is. "retune" lets the transforms and h_a learn for another error and the entropy model that there
#: is: its integers, and the time that freezing takes, are kept.
STAGES = {
    "hyper": Kind(transforms=False, contexts=False),
    "transforms": Kind(transforms=True, contexts=False),
    "context": Kind(transforms=False, contexts=True),
    "synthesis": Kind(transforms=True, contexts=True, rate=False),
    "retune": Kind(transforms=True, contexts=True, entropy=False),
    "joint": Kind(transforms=True, contexts=True),
}
#: Parameters whose names begin so belong to the transforms; the others to the entropy model.
TRANSFORMS = ("g_a.", "g_s.", "log_gain", "log_inverse_gain")
#: The decoder's part of them.
SYNTHESIS = ("g_s.", "log_inverse_gain")


@dataclass(frozen=True)
class Stage:
    """One stage, ``name``, of so many ``hours`` or ``steps`` (the other is 0)."""

    name: str
    hours: float = 0.0
    steps: int = 0

    @property
    def kind(self) -> Kind:
        """What it trains."""
        return STAGES[self.name]

    def done(self, hours: float, steps: int) -> float:
        """The share of the stage that is over, given what has been spent in it."""
        return hours / self.hours if self.hours else steps / self.steps


def parse_stages(text: str) -> list[Stage]:
    """Stages from e.g. ``"transforms=0.5h,context=2000,joint=1h"``: hours with an h, steps without.

    Raises:
        ValueError: another name, or no positive length.
    """
    stages = []
    for part in text.split(","):
        name, _, length = part.strip().partition("=")
        if name not in STAGES:
            raise ValueError(f"unknown stage {name!r}: choose from {', '.join(STAGES)}, as in joint=1.5h or joint=2000")
        try:
            stage = Stage(name, hours=float(length[:-1])) if length.endswith("h") else Stage(name, steps=int(length))
        except ValueError:
            raise ValueError(f"stage {name}: its length is hours (1.5h) or steps (2000), not {length!r}") from None
        if not max(stage.hours, stage.steps) > 0:
            raise ValueError(f"stage {name}: its length must be positive")
        stages.append(stage)
    return stages


def select(model: CrossChannelContextModel, kind: Kind) -> None:
    """Let exactly the parameters of a stage take part in training."""
    for name, p in model.named_parameters():
        if not kind.rate:
            p.requires_grad_(name.startswith(SYNTHESIS))
        elif name.startswith(TRANSFORMS):
            p.requires_grad_(kind.transforms)
        elif not kind.entropy:
            p.requires_grad_(name.startswith("h_a."))
        else:
            from_y = ".spatial." in name or ".stack." in name or ".skip." in name
            p.requires_grad_(kind.contexts or not from_y)


@torch.no_grad()
def silence_contexts(model: CrossChannelContextModel) -> None:
    """Make a new model's contexts add nothing: the stage that trains them then starts from the trained hyperprior.

    The stacks over earlier groups are silent through and through, for :func:`revive_stacks` to fit to the latents.
    """
    for group in model.contexts:
        silence_group(group)


@torch.no_grad()
def silence_group(group: GroupContext) -> None:
    """Make what one group's contexts add zero."""
    for layer in (group.spatial, group.skip, *group.stack):
        if layer is not None:
            layer.weight.zero_()
            if layer.bias is not None:
                layer.bias.zero_()


#: Of the last layer of a new stack: it then says something, and little.
_QUIET = 0.03


@torch.no_grad()
def revive_stacks(model: CrossChannelContextModel, y: Tensor, share: float = 0.5) -> list[int]:
    """Give the convolution stacks over earlier groups new weights where most of their units never fire.

    Latents reach a hundred in some channels and a tenth in others, and Adam moves all weights by equal steps: the first
    ones throw the stack's outputs far below zero, where ReLUs have no gradients. (Weights have shipped with 95 to 98 %
    of the units of every second layer dead.) New weights are He's (2015, arXiv 1502.01852) for inputs of the power that
    the channels have.

    Args:
        model: its contexts.
        y: latents of some images after the gain, float [B, M, h, w], of all qualities.
        share: of a layer's units; a stack with a layer that has more silent ones is renewed.

    Returns:
        The groups whose stacks were renewed.
    """
    y_hat = torch.round(y).clamp(-CONTEXT_LIMIT, CONTEXT_LIMIT)
    # Hardly ever more than a zero: such channels must not drown the others.
    power = y_hat.square().mean((0, 2, 3)).sqrt().clamp(min=0.25)
    renewed, start = [], 0
    for g, group in enumerate(model.contexts):
        f, silent = y_hat[:, :start], 0.0
        for conv in group.stack[:-1]:
            f = torch.relu(conv(f))
            silent = max(silent, float((f.amax((0, 2, 3)) <= 0).float().mean()))
        if silent > share:
            renewed.append(g)
            for conv in group.stack:
                torch.nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
                if conv.bias is not None:
                    conv.bias.zero_()
            group.stack[0].weight.div_(power[:start, None, None])
            group.stack[-1].weight.mul_(_QUIET)
        start += group.channels
    return renewed


def learning_rate(kind: str, done: float, final: float) -> float:
    """The share of the peak rate after ``done`` of a stage.

    Args:
        kind: "cosine" from 1 to ``final``; "step": 1, then ``final**0.5`` from 60 % on and ``final`` from 85 % on;
            "hold": 1, then a cosine in the last quarter, so that a run can be prolonged from before it.
        done: 0..1.
        final: the last share.
    """
    done = min(max(done, 0.0), 1.0)
    if kind == "step":
        return 1.0 if done < 0.6 else final**0.5 if done < 0.85 else final
    if kind == "hold":
        done = max(0.0, 4 * done - 3)
    elif kind != "cosine":
        raise ValueError(f"schedule must be cosine, step or hold, not {kind!r}")
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done))


class LatentCache:
    """Latents of whole training images before their gain, for stages that leave the transforms as they are.

    y of an image is computed when it is first drawn and then kept in fp16 (at M = 192 a 288x288 crop takes 120 kB, a
    quarter of its pixels in fp32), so that after the first epochs no transform runs at all.

    Args:
        crops: where images and their order come from; its crop size is the side of what is cut out of each.
        memory: bytes to keep at most; what does not fit is computed again.
    """

    #: Every image comes in so many versions, of different places and mirrored or not, each as likely as the others:
    #: a set of two thousand images is otherwise seen thirty times in an hour.
    VERSIONS = 4

    def __init__(self, crops: CropDataset, memory: float = float("inf")):
        self.crops, self.memory = crops, memory
        self._kept: dict[tuple[int, int], Tensor] = {}

    @torch.no_grad()
    def batch(self, model: CrossChannelContextModel, size: int, device: str) -> Tensor:
        """y [size, M, h, w] before the gain, the next of this process."""
        out = []
        for n in self.crops.take(size):
            k, rng = self.crops.where(n)
            version = int(rng.integers(self.VERSIONS))
            y = self._kept.get((k, version))
            if y is None:
                image, side = self.crops.images[k], self.crops.crop
                places = np.random.default_rng((self.crops.seed, k, version))
                i, j = (int(places.integers(s - side + 1)) for s in image.shape[:2])
                patch = image[i : i + side, j : j + side]
                x = to_tensor([patch[:, ::-1] if version % 2 else patch]).to(device)
                # fp16 also when it is not kept: the numbers must not depend on the memory there is.
                y = inference(model.g_a)(x.contiguous(memory_format=torch.channels_last)).half().cpu()
                if y.nbytes <= self.memory:
                    self.memory -= y.nbytes
                    self._kept[k, version] = y
            out.append(y)
        return torch.cat(out).to(device).float()
