"""Checkpoints: everything that decides how a run goes on, written so that an interruption leaves a whole one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from ..atomic import atomic_write
from ..errors import ModelError
from ..models import CCMConfig, CrossChannelContextModel
from ..models.ccm import weight_counts
from .floats import read_floats
from .grow import deepen, grow, is_deeper

__all__ = ["Progress", "averages", "blamed", "config_of", "initial", "read", "restore", "write"]

# What every checkpoint has.
_PARTS = ("config", "train", "model", "ema")


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        step, patches: optimizer steps and crops so far.
        hours: hours of steps (validation and saving not counted).
        cpu_hours: processor time of the first process in them: what counts where the machine does other work, too.
        gpu_hours: those of them that GPUs took, of all processes together.
        stage, stage_step, stage_hours: the current stage, and what was spent in it.
    """

    step: int = 0
    patches: int = 0
    hours: float = 0.0
    cpu_hours: float = 0.0
    gpu_hours: float = 0.0
    stage: int = 0
    stage_step: int = 0
    stage_hours: float = 0.0

    def count(self, patches: int, seconds: float, cpu_seconds: float, gpus: int = 0) -> None:
        """One more step, on so many GPUs."""
        self.step += 1
        self.stage_step += 1
        self.patches += patches
        self.hours += seconds / 3600
        self.stage_hours += seconds / 3600
        self.cpu_hours += cpu_seconds / 3600
        self.gpu_hours += gpus * seconds / 3600

    def next_stage(self) -> None:
        """The current stage is over."""
        self.stage, self.stage_step, self.stage_hours = self.stage + 1, 0, 0.0

    def report(self) -> dict:
        """What every line of the log begins with."""
        return {
            "step": self.step,
            "hours": round(self.hours, 4),
            "cpu_hours": round(self.cpu_hours, 4),
            "gpu_hours": round(self.gpu_hours, 4),
            "patches": self.patches,
        }


def write(path: Path, model, ema, optimizer, crops, rng: list[torch.Tensor], progress: Progress, options: dict) -> None:
    """Write a checkpoint: a new file takes the old one's place when it is complete."""
    state = {
        "config": model.config.to_dict(),
        "train": options,
        "model": model.state_dict(),
        "ema": ema.state_dict(),
        "optimizer": optimizer.state_dict(),
        "torch_rng": rng,
        "data": crops.state(),
        **asdict(progress),
    }
    with atomic_write(path) as file:
        torch.save(state, file)


@contextmanager
def blamed(path: str | Path) -> Iterator[None]:
    """Whatever goes wrong inside is this file's fault, which the error says: torch's own are of any type.

    Raises:
        ModelError: the file is damaged, or does not fit. OSError, MemoryError: as they are.
    """
    try:
        yield
    except (ModelError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ModelError(f"{path} is damaged, or no checkpoint of this release's ccm-fast train ({why})") from error


def read(path: str | Path) -> dict:
    """A checkpoint's contents.

    Raises:
        FileNotFoundError: no such file. ModelError: not a checkpoint of ``ccm-fast train``, or a damaged one.
    """
    with open(path, "rb") as file:
        archive = file.read(2) == b"PK"  # torch reads other things too
    with blamed(path):
        # Nothing but tensors and plain values: a file from elsewhere runs no code.
        state = torch.load(path, map_location="cpu", weights_only=True) if archive else None
    if not isinstance(state, dict) or any(not isinstance(state.get(key), dict) for key in _PARTS):
        raise ModelError(f"{path} is no checkpoint of ccm-fast train")
    for key in ("model", "ema"):
        if not all(isinstance(name, str) and isinstance(t, torch.Tensor) for name, t in state[key].items()):
            raise ModelError(f"{path} is no checkpoint of ccm-fast train: {key!r} holds other things than weights")
    return state


def config_of(state: dict, path: str | Path, own: Sequence[str] = ()) -> CCMConfig:
    """The configuration of what :func:`read` or :func:`averages` found.

    Args:
        state: what was found.
        path: where.
        own: names of the transforms that the caller brings, if any.

    Raises:
        ModelError: none, or one of more weights than the file holds.
    """
    with blamed(path):
        config = CCMConfig.from_dict(state["config"])
        for network, asked in weight_counts(config).items():
            held = sum(t.numel() for name, t in state["ema"].items() if name.startswith(network + "."))
            if network not in own and asked > held:
                raise ModelError(f"{path} holds fewer weights of {network} than its configuration asks for")
    return config


def averages(path: str | Path) -> dict | None:
    """Averaged weights (``"ema"``), their ``"config"`` and ``"train"``, of a checkpoint or of a file of floats.

    Returns:
        None for a weights file, which holds no floats of the entropy networks.

    Raises:
        FileNotFoundError: no such file. ModelError: a checkpoint that is none, or damaged floats.
    """
    return read(path) if str(path).endswith(".pt") else read_floats(path)


def _progress(state: dict) -> Progress:
    kinds = {key: type(default) for key, default in asdict(Progress()).items()}
    return Progress(**{key: kind(state[key]) for key, kind in kinds.items() if key in state})


def restore(state: dict, model, ema, optimizer, crops, processes) -> Progress:
    """Continue exactly from a checkpoint (with as many processes as it was written by)."""
    model.load_state_dict(state["model"])
    ema.load_state_dict(state["ema"])
    rng = state["torch_rng"]
    if not isinstance(rng, list) or len(state["optimizer"]["param_groups"]) != len(optimizer.param_groups):
        raise ValueError("this checkpoint is of an older layout: start a new run with --init and another --out")
    optimizer.load_state_dict(state["optimizer"])
    if processes.rank < len(rng):  # more processes than before: the others have their seeds
        torch.set_rng_state(rng[processes.rank])
    crops.restore(state["data"])
    return _progress(state)


def initial(path: str, model: CrossChannelContextModel, images: Sequence[np.ndarray]) -> Progress:
    """Load the weights of a checkpoint (its averaged ones), of floats or of a weights file, as far as they fit.

    A model with a fine group takes a trained one without as its coarse part, and starts the group on ``images``
    (:func:`ccm_fast.train.grow.grow`). One with deeper transforms starts as the shallower one
    (:func:`ccm_fast.train.grow.deepen`).

    Returns:
        The training that is in them, as far as it is known; a new run counts on from it, in stages of its own.

    Raises:
        ValueError: nothing fits.
    """
    before = Progress()
    shipped = not Path(path).suffix  # a name, not a file
    if not shipped and (state := averages(path)) is not None:
        weights, config = state["ema"], config_of(state, path, ("g_a", "g_s"))
        with blamed(path):
            before = _progress(state)
        before.stage = before.stage_step = 0
        before.stage_hours = 0.0
    else:
        from ..weights import load, read_meta

        source = load(path)
        weights, config = source.state_dict(), source.config
        totals = ("step", "patches", "hours", "cpu_hours", "gpu_hours")
        known = {k: v for k, v in read_meta(path).items() if k in totals}
        before = Progress(**known)
    if model.config.fine and not config.fine and not model.own_transforms:
        old = CrossChannelContextModel(config)
        old.load_state_dict(weights)
        grow(model, old.eval(), images)
        return before
    if is_deeper(model.config, config) and not model.own_transforms:
        old = CrossChannelContextModel(config)
        old.load_state_dict(weights)
        deepen(model, old)
        return before
    own = model.state_dict()
    fitting = {name: t for name, t in weights.items() if name in own and own[name].shape == t.shape}
    if not fitting:
        raise ValueError(f"{path}: no tensor fits this model; choose the --preset that it was trained with")
    model.load_state_dict(fitting, strict=False)
    return before
