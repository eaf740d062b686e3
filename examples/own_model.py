"""A model of one's own: sizes, groups, schedule and transforms; trained, frozen, written, and loaded again.

    python examples/own_model.py PHOTOGRAPHS OUT [--steps 2000]

OUT/own.safetensors is the model, OUT/photo.ccm one of the photographs. ``docs/own_models.md`` explains the parts.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from PIL import Image
from torch import Tensor, nn

import ccm_fast
from ccm_fast import weights
from ccm_fast.entropy.schedule import Schedule
from ccm_fast.models.config import find_config
from ccm_fast.train.config import TrainConfig
from ccm_fast.train.data import load_images
from ccm_fast.train.loop import train
from ccm_fast.train.ship import load_checkpoint

# Sizes and groups from a file; the schedule as an object: every second column first, then those between them.
CONFIG = replace(find_config(Path(__file__).with_name("own_model.json")), schedule=Schedule(pattern=((0, 1),)))


class Analysis(nn.Module):
    """g_a: three strided convolutions with SiLU, [B, 3, 16h, 16w] -> [B, M, h, w]."""

    # Latents around a tile that its own depend on: 2 + 4 + 8 pixels, which is less than the 16 of one latent.
    margin = 1

    def __init__(self, latents: int, width: int = 32):
        super().__init__()
        self.first = nn.Conv2d(3, width, 5, stride=4, padding=2)
        self.second = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.last = nn.Conv2d(width, latents, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.silu(self.first(4 * x - 2))
        return self.last(nn.functional.silu(self.second(x)))


def synthesis(latents: int, width: int = 32) -> nn.Sequential:
    """g_s: of layers whose receptive field is known, so that large images run in tiles without further ado."""
    return nn.Sequential(
        nn.ConvTranspose2d(latents, width, 5, stride=2, padding=2, output_padding=1),
        nn.SiLU(),
        nn.ConvTranspose2d(width, width, 5, stride=2, padding=2, output_padding=1),
        nn.SiLU(),
        nn.Conv2d(width, 48, 3, padding=1),
        nn.PixelShuffle(4),
    )


def transforms() -> dict[str, nn.Module]:
    """New transforms: whoever loads the model has to bring them."""
    return {"g_a": Analysis(CONFIG.latent_channels), "g_s": synthesis(CONFIG.latent_channels)}


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photographs", help="a folder, or a tar file")
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=2000, help="of each of the two stages")
    args = parser.parse_args()

    # 1. Train. Transforms of one's own begin with random weights.
    model = ccm_fast.CrossChannelContextModel(CONFIG, **transforms())
    stages = f"transforms={args.steps},joint={args.steps}"
    cfg = TrainConfig(str(args.out / "run"), [args.photographs], start="random", stages=stages)
    last = train(cfg, model=model)

    # 2. Freeze: the entropy model becomes integers.
    model, meta = load_checkpoint(last, **transforms())
    images = load_images([args.photographs])
    ccm_fast.freeze(model, images)
    weights.save(model, args.out / "own.safetensors", meta)

    # 3. Encode.
    print(ccm_fast.encode_file(Image.fromarray(images[0]), args.out / "photo.ccm", quality=4, model=model))

    # 4. Elsewhere: the weights file, and the code of the transforms.
    again = ccm_fast.load(args.out / "own.safetensors", **transforms())
    ccm_fast.decode_file(args.out / "photo.ccm", args.out / "photo.png", model=again)


if __name__ == "__main__":
    main()
