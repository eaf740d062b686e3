"""Fits frozen weights again to what the default encoder codes: tables and centroids, and on request groups' integers.

    python benchmarks/refit.py ccm-small out.safetensors --data shards/*.tar --skip 0
    python benchmarks/refit.py ccm-small out.safetensors --data shards/*.tar --retrain 4 3 2 1 0 --one-step

The transforms and h_s stay as they are. Made the weights that ship (docs/experiments/training.md has what it gained).
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import torch

from ccm_fast.entropy.frozen import FrozenEntropyModel
from ccm_fast.freezing.fitting import Latents, fit_to_symbols
from ccm_fast.freezing.freeze import collect
from ccm_fast.freezing.retrain import TableLength, coded, put_back, retrain, rounded_network
from ccm_fast.freezing.skipping import leave_out
from ccm_fast.models.ccm import CrossChannelContextModel
from ccm_fast.train.data import load_images
from ccm_fast.weights import load, read_meta, save

CROP = 288  # as in freezing


def without_own_context(model: CrossChannelContextModel) -> None:
    """Take the fine group's own context away; its other layers have to be trained again."""
    model.config = replace(model.config, fine_context=False)
    model.contexts[-1].spatial = None


def train(model: CrossChannelContextModel, crops: list[Latents], args: argparse.Namespace) -> None:
    """Groups' integers, one after another, on the same symbols."""
    network, length = rounded_network(model), TableLength(model.frozen.plan)
    data = [coded(model, network, length, c) for c in crops]
    if args.one_step:
        without_own_context(model)
        network = rounded_network(model)
    for group in args.retrain:
        lengths = retrain(network, length, group, data, steps=args.steps, progress=True)
        tenth = max(1, len(lengths) // 10)
        first, last = (100 * np.mean(part) for part in (lengths[:tenth], lengths[-tenth:]))
        print(f"group {group}: {first:.3f} -> {last:.3f} % of all bits", flush=True)
        put_back(model, network, group)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", help="a shipped model's name, or a weights file")
    parser.add_argument("out", help="the new weights file")
    parser.add_argument("--data", nargs="+", required=True, help="training images")
    parser.add_argument("--images", type=int, default=1440, help="of them, at most so many for tables and centroids")
    parser.add_argument("--skip", type=int, default=0, help="the last scale index that is not coded; -1: all are coded")
    parser.add_argument("--retrain", type=int, nargs="*", default=[], metavar="GROUP", help="on all images, twice")
    parser.add_argument("--steps", type=int, default=10000, help="of each of these groups")
    parser.add_argument("--one-step", action="store_true", help="the fine group loses the context of its own")
    args = parser.parse_args()

    model = load(args.weights)
    found = load_images(args.data)
    if args.retrain:
        generator = torch.Generator().manual_seed(0)
        train(model, [c for c, _ in collect(model, found, CROP, generator, 2)], args)
    chosen = np.random.default_rng(0).permutation(len(found))[: args.images]
    crops = [c for c, _ in collect(model, [found[k] for k in chosen], CROP, torch.Generator().manual_seed(0))]
    plan = leave_out(model.frozen.plan, args.skip, (c.z_hat.short() for c in crops))
    model.frozen = FrozenEntropyModel(plan, model.frozen.shifts)
    fit_to_symbols(model, crops)
    save(model, args.out, read_meta(args.weights))


if __name__ == "__main__":
    main()
