"""Lets frozen weights leave out symbols, and fits tables and centroids to them again; the integers stay as they are.

    python benchmarks/refit.py ccm-small out.safetensors --data shards/*.tar --skip 0

Made the weights that ship (docs/experiments/training.md has what it gained).
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from ccm_fast.entropy.frozen import FrozenEntropyModel
from ccm_fast.freezing.fitting import fit_to_symbols
from ccm_fast.freezing.freeze import collect
from ccm_fast.freezing.skipping import leave_out
from ccm_fast.train.data import load_images
from ccm_fast.weights import load, read_meta, save

CROP = 288  # as in freezing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", help="a shipped model's name, or a weights file")
    parser.add_argument("out", help="the new weights file")
    parser.add_argument("--data", nargs="+", required=True, help="training images")
    parser.add_argument("--images", type=int, default=1440, help="of them, at most so many")
    parser.add_argument("--skip", type=int, default=0, help="the last scale index that is not coded; -1: all are coded")
    args = parser.parse_args()

    model = load(args.weights)
    found = load_images(args.data)
    chosen = np.random.default_rng(0).permutation(len(found))[: args.images]
    crops = [c for c, _ in collect(model, [found[k] for k in chosen], CROP, torch.Generator().manual_seed(0))]
    plan = leave_out(model.frozen.plan, args.skip, (c.z_hat.short() for c in crops))
    model.frozen = FrozenEntropyModel(plan, model.frozen.shifts)
    fit_to_symbols(model, crops)
    save(model, args.out, read_meta(args.weights))


if __name__ == "__main__":
    main()
