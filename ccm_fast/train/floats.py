"""The floats of a run in a small file: what a later run starts from where the checkpoint itself is too large to keep.

    tensors   "NAME"      fp16: the averaged weights, those of the entropy networks too
    metadata  "format"    "ccm_fast floats 1"
              "config"    JSON: the CCMConfig
              "train"     JSON: the run's options
              "progress"  JSON: the training that is in them

A checkpoint holds every weight four times in fp32 (the weights, their averages, Adam's two moments). A run that starts
from the averages alone loses the moments, which Adam has again after a few hundred steps, and in fp16 the averages
take an eighth of the space. A weights file is no substitute: it holds the entropy networks as integers.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ..atomic import atomic_write
from ..errors import ModelError

__all__ = ["read_floats", "write_floats"]

FORMAT = "ccm_fast floats 1"
_TOTALS = ("step", "patches", "hours", "cpu_hours", "gpu_hours")


def write_floats(state: dict, path: str | Path) -> None:
    """Write a checkpoint's averaged weights; a new file takes the old one's place when it is complete.

    Args:
        state: as from :func:`ccm_fast.train.checkpoint.read`.
        path: by custom NAME.safetensors.

    Raises:
        ModelError: a weight is not finite in fp16.
    """
    from safetensors.torch import save

    tensors = {name: t.to("cpu", torch.float16).contiguous() for name, t in state["ema"].items()}
    for name, t in tensors.items():
        if not bool(torch.isfinite(t).all()):
            raise ModelError(f"parameter {name} is not finite in fp16")
    options = {k: v for k, v in state["train"].items() if k not in ("out", "data", "valid", "init", "preset")}
    metadata = {
        "format": FORMAT,
        "config": json.dumps(state["config"]),
        "train": json.dumps(options),
        "progress": json.dumps({key: state[key] for key in _TOTALS if key in state}),
    }
    with atomic_write(path) as file:
        file.write(save(tensors, metadata))


def read_floats(path: str | Path) -> dict | None:
    """What :func:`write_floats` has written, as the part of a checkpoint that it is; None: another kind of file.

    Returns:
        ``"config"``, ``"train"``, ``"ema"`` (fp32), and those of step, patches, hours, cpu_hours and gpu_hours that
        are known.

    Raises:
        FileNotFoundError: no such file. ModelError: the file contradicts itself.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                return None
            weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118  (not a dict)
        parts = {key: json.loads(metadata[key]) for key in ("config", "train", "progress")}
    except SafetensorError:
        return None
    except (KeyError, ValueError) as error:
        raise ModelError(f"{path}: its metadata cannot be read: {error}") from error
    progress = {key: parts["progress"][key] for key in _TOTALS if key in parts["progress"]}
    return {"config": parts["config"], "train": parts["train"], "ema": weights, **progress}
