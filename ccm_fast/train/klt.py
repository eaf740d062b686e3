"""A start for the transforms: the Karhunen-Loeve transform of photographs, written into the convolutions.

Between their residual blocks g_a and g_s are linear, so a block transform of 16x16 pixels fits into them exactly:
4x4 pixels in the first convolution, then two stages of 2x2. A few hundred photographs give its bases in seconds, where
gradient descent from random weights takes hours on a CPU to find anything as good. Training then widens the taps beyond
the blocks and switches on the residual blocks, which start as identities.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor, nn

from ccm_fast.constants import SCALE_MIN

from ..models import CrossChannelContextModel
from ..models.quality import lagrange_multiplier
from ..models.transforms import ResidualBlock, main_path

__all__ = ["fit_synthesis", "groups_in_turn", "initialise", "quantization_steps"]

# Blocks of 64x64 pixels taken of every image: 16 vectors of the last stage each, so that two thousand images give 80
# for each of its 448 dimensions.
_BLOCKS = 1
_SIDE = 64
# Factor of the quantization step at the lowest quality, falling to 1 at the highest.
_COARSER = 1.4
# Images of 256x256 that the synthesis filters are fitted on: 100,000 samples for the 1,729 unknowns of each output.
_FIT_IMAGES = 400


def _basis(vectors: Tensor, keep: int) -> Tensor:
    """The ``keep`` orthonormal directions [keep, D] of most energy of vectors [n, D] (fewer if D is smaller)."""
    covariance = vectors.T.double() @ vectors.double() / len(vectors)
    _, directions = torch.linalg.eigh(covariance)
    return directions.flip(1).T[:keep].float()


def groups_in_turn(sizes: tuple[int, ...]) -> list[int]:
    """Place of every component, strongest first: each group gets its share of the strong ones.

    A group is predicted from the groups before it, so bits that all lie in the first group would gain nothing from
    the cross-channel context.
    """
    starts = np.cumsum((0, *sizes[:-1]))
    places = sorted((k + 0.5) / size + g * 1e-9 for g, size in enumerate(sizes) for k in range(size))
    taken = [0] * len(sizes)
    out = []
    for place in places:
        # The group whose next channel stands at this relative position.
        g = min(range(len(sizes)), key=lambda g: abs((taken[g] + 0.5) / sizes[g] + g * 1e-9 - place))
        out.append(int(starts[g]) + taken[g])
        taken[g] += 1
    return out


def _convolutions(transform: nn.Sequential) -> list[nn.Conv2d]:
    return [m for m in main_path(transform) if isinstance(m, nn.Conv2d)]


def _clear(conv: nn.Conv2d, outputs: int, inputs: int) -> None:
    """Silence what reads the spare input channels and what writes the used outputs; spare outputs stay random."""
    conv.weight[:outputs] = 0
    conv.weight[:, inputs:] = 0
    conv.bias.zero_()


def quantization_steps(qualities: int) -> Tensor:
    """Steps [qualities] of an orthonormal transform of pixels as g_a scales them (4 for the range of 0 to 255).

    Bits -log2(step) and error step^2 / 12 of each coefficient balance at step^2 = 18 / (ln 2 * 255^2 * lambda) in units
    of [0, 1] (three colours), 16 times that in ours. That is for many bits a coefficient; with few, larger steps are
    better (searched on validation images).
    """
    quality = torch.arange(1, qualities + 1, dtype=torch.float32)
    step = (16 * 18 / (np.log(2) * 255**2 * lagrange_multiplier(quality))).sqrt()
    return step * _COARSER ** ((qualities - quality) / max(qualities - 1, 1))


@torch.no_grad()
def fit_synthesis(
    model: CrossChannelContextModel, images: list[np.ndarray], bases: list[Tensor], count: int = _FIT_IMAGES
) -> None:
    """Give g_s the linear filters that restore decoded photographs best, by least squares.

    A block transform's inverse reads one block. Filters of 3x3 blocks, in g_s' first upsampling, see the neighbours'
    errors, too, and smooth what quantization has torn apart: 0.20 / 0.24 / 0.25 / 0.10 / -0.09 dB at qualities 1, 2, 4,
    6 and 8, which take part with their weights in the loss. (Fitting the next two convolutions, too, on a model that
    had already been trained made it worse.) Latents are not touched.

    Args:
        model: fresh from :func:`initialise`.
        images: photographs, uint8 [H, W, 3].
        bases: of the stages, finest first, as :func:`initialise` returns them.
        count: how many images to fit on, each at one quality.
    """
    training = model.training
    model.eval()
    first, conv = _convolutions(model.g_s)[:2]
    device, levels = conv.weight.device, model.config.qualities
    inputs, outputs = bases[2].shape
    gram = torch.zeros(9 * inputs + 1, 9 * inputs + 1, dtype=torch.float64)
    cross = torch.zeros(9 * inputs + 1, outputs, dtype=torch.float64)
    order = np.random.default_rng(0).permutation(len(images))
    usable = (n for n in order if min(images[n].shape[:2]) >= _SIDE)  # as for the bases: what is smaller is left out
    for k, n in enumerate(itertools.islice(usable, count)):
        h, w = (min(s, 256) // 16 * 16 for s in images[n].shape[:2])
        x = torch.from_numpy(images[n][:h, :w].copy()).permute(2, 0, 1)[None].float() / 255
        quality = torch.tensor([1 + (levels - 1) * (k % 16 + 0.5) / 16], device=device)
        y = torch.round(model.analysis(x.to(device), quality)) * model.inverse_gain(quality)
        y = y[:, : model.config.coarse_channels]
        seen = nn.functional.unfold(first(y)[:, :inputs].cpu(), 3, padding=1)[0]
        seen = torch.cat([seen, torch.ones(1, seen.shape[1])])
        wanted = (x - 0.5) * 4.0  # the components of 8x8 blocks, four to a position
        for factor, basis in zip((4, 2), bases, strict=False):
            wanted = nn.functional.conv2d(nn.functional.pixel_unshuffle(wanted, factor), basis[:, :, None, None])
        wanted = nn.functional.pixel_unshuffle(wanted, 2)[0].flatten(1)
        weight = float(lagrange_multiplier(quality)) ** 0.5
        gram += (weight * seen @ seen.T).double()
        cross += (weight * seen @ wanted.T).double()
    # A ridge of a hundred-thousandth of the mean power: weak channels have too few samples to tell.
    gram += torch.eye(len(gram)) * gram.diagonal().mean() * 1e-5
    solution = torch.linalg.solve(gram, cross).float().to(device)
    conv.weight[:outputs, :inputs] = solution[:-1].T.reshape(outputs, inputs, 3, 3)
    conv.bias[:outputs] = solution[-1]
    model.train(training)


@torch.no_grad()
def initialise(model: CrossChannelContextModel, images: list[np.ndarray], seed: int = 0) -> list[Tensor]:
    """Write the block transform and the quantization steps that suit it into a model.

    Args:
        model: its g_a, g_s and gain vectors are overwritten; channels beyond the transform's keep random weights.
        images: photographs, uint8 [H, W, 3].
        seed: of the blocks taken.

    Returns:
        The bases [components, inputs] of the three stages, finest first.

    Raises:
        ValueError: no image is as large as 64x64 pixels.
    """
    rng = np.random.default_rng(seed)
    blocks = []
    for image in images:
        if min(image.shape[:2]) >= _SIDE:
            for _ in range(_BLOCKS):
                i, j = (int(rng.integers(s - _SIDE + 1)) for s in image.shape[:2])
                blocks.append(image[i : i + _SIDE, j : j + _SIDE])
    if not blocks:
        raise ValueError(f"no image is as large as {_SIDE}x{_SIDE} pixels")
    x = (torch.from_numpy(np.stack(blocks)).permute(0, 3, 1, 2).float() / 255 - 0.5) * 4.0  # as g_a scales it
    parts, down, up = [], _convolutions(model.g_a), _convolutions(model.g_s)
    for factor, width in zip((4, 2, 2), model.config.widths, strict=True):
        x = nn.functional.pixel_unshuffle(x, factor)
        basis = _basis(x.permute(0, 2, 3, 1).flatten(0, 2), width)
        x = nn.functional.conv2d(x, basis[:, :, None, None])
        parts.append(basis)
    for transform in (model.g_a, model.g_s):
        for block in main_path(transform):
            if isinstance(block, ResidualBlock):
                block.conv2.weight.zero_()
                block.conv2.bias.zero_()

    # g_a: the first stage is a 1x1 on 4x4 blocks, the others 2x2 blocks under the lower right taps of a strided 3x3.
    previous = 48
    for k, basis in enumerate(parts):
        rows = basis.shape[0]
        _clear(down[k], rows, previous)
        if k == 0:
            down[k].weight[:rows, :48, 1, 1] = basis
        else:
            down[k].weight[:rows, :previous, 1:, 1:] = basis.reshape(rows, previous, 2, 2)
        previous = rows
    # g_s, backwards: transposed bases; a pixel shuffle reads channel 4c + 2a + b as a pixel unshuffle writes it.
    for k, basis in enumerate(parts):
        conv, rows = up[3 - k], basis.shape[0]
        _clear(conv, basis.shape[1], rows)
        conv.weight[: basis.shape[1], :rows, 1, 1] = basis.T

    # The components' places among the latents, and a zero mean.
    M, coarse = model.config.coarse_channels, model.config.groups[: -1 if model.config.fine else None]
    places = groups_in_turn(coarse)[: min(M, previous)]
    _clear(down[3], M, previous)
    _clear(up[0], previous, M)
    mean = x.mean((0, 2, 3))
    for component, place in enumerate(places):
        down[3].weight[place, component, 1, 1] = 1
        down[3].bias[place] = -mean[component]
        up[0].weight[component, place, 1, 1] = 1
        up[0].bias[component] = mean[component]

    step = quantization_steps(model.config.qualities)
    model.log_gain.copy_(-step.log()[:, None].expand_as(model.log_gain))
    model.log_inverse_gain.copy_(step.log()[:, None].expand_as(model.log_gain))

    # What the entropy model says before it has learned anything: each channel's sigma at the middle quality.
    sigma = torch.full((M,), SCALE_MIN)
    sigma[places] = (x.std((0, 2, 3)) / step.log().mean().exp())[: len(places)]
    for group, own in zip(model.contexts, sigma.split(coarse), strict=False):  # the fine one: start_fine
        group.start_from(own)
    return parts
