"""A tiny frozen model for tests: random float transforms, random integers; it codes anything, badly and fast."""

import copy
import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ccm_fast import weights
from ccm_fast.entropy.frozen import FrozenEntropyModel
from ccm_fast.entropy.plan import CODED
from ccm_fast.entropy.testing import random_plan
from ccm_fast.models import CCMConfig, CrossChannelContextModel

# Convolutions this small lose time on threads, most of all where several test processes share the cores.
torch.set_num_threads(1)

GOLDEN = Path(__file__).parent / "golden"
CONFIG = CCMConfig(
    name="tiny",
    widths=(6, 6, 6),
    blocks=(1, 0, 1),
    groups=(4, 2, 3),
    hyper_channels=4,
    psi_channels=8,
    cross_kernels=(3, 3),
    cross_width=6,
    parameter_widths=(12, 8),
)


def make(seed: int = 0) -> CrossChannelContextModel:
    """A new one. Only one machine's floats make the same one again: tests that need that load the golden file."""
    torch.manual_seed(seed)
    model = CrossChannelContextModel(CONFIG).eval().requires_grad_(False)
    model.log_gain += 3.0  # random transforms shrink: bring y to some quantization steps, and x_hat to some contrast
    model.log_inverse_gain += 1.0
    c = CONFIG
    sizes = {"psi_channels": c.psi_channels, "cross_width": c.cross_width, "widths": c.parameter_widths}
    plan = random_plan(np.random.default_rng(seed), c.groups, c.hyper_channels, **sizes)
    model.frozen = FrozenEntropyModel(plan)
    return model


@functools.cache
def model() -> CrossChannelContextModel:
    """The committed one."""
    return weights.load(GOLDEN / "tiny.safetensors")


@functools.cache
def skipping() -> CrossChannelContextModel:
    """The committed one with a plan of version 3: about half of y is not coded, nor is a channel of z."""
    out = copy.deepcopy(model())
    z_values = np.array([CODED, 0, CODED, CODED], np.int32)
    out.frozen = FrozenEntropyModel(replace(out.frozen.plan, skip=20, z_values=z_values), out.frozen.shifts)
    return out


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Something like a photograph: smooth areas, edges, a little noise; uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    i, j = np.mgrid[:height, :width] / 24.0
    planes = [np.sin(i * rng.uniform(0.5, 2) + rng.uniform(0, 6)) * np.cos(j * rng.uniform(0.5, 2)) for _ in range(3)]
    image = 128 + 70 * np.stack(planes, -1) + 40 * ((i + 2 * j) % 3 > 1.5)[..., None]
    return np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


def photographs(height: int, width: int) -> torch.Tensor:
    """Crops of the four colour photographs that scikit-image ships, float32 [4, 3, height, width] in [0, 1]."""
    import skimage.data

    corners = {"astronaut": (0, 160), "coffee": (120, 200), "chelsea": (60, 120), "rocket": (100, 200)}
    cut = [getattr(skimage.data, name)()[i : i + height, j : j + width] for name, (i, j) in corners.items()]
    return torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2).float() / 255


def batch(*seeds, height=40, width=56):
    """Photographs as a tensor, float32 [B, 3, height, width] in [0, 1]."""
    return torch.stack([torch.from_numpy(photo(height, width, s)).permute(2, 0, 1) / 255 for s in seeds])
