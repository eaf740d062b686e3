"""Model configurations and the presets that have weights or are meant for training."""

from __future__ import annotations

import json
import operator
import os
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, SupportsIndex, cast

from ccm_fast.entropy.schedule import Schedule

__all__ = ["PRESETS", "CCMConfig", "find_config"]

_LISTS = ("widths", "blocks", "groups", "cross_kernels", "parameter_widths", "synthesis_blocks")
_NUMBERS = {
    "hyper_channels": 1,
    "psi_channels": 1,
    "context_kernel": 1,
    "cross_width": 1,
    "cross_skip_kernel": 0,
    "qualities": 1,
    "skip_index": -1,
}


@dataclass(frozen=True)
class CCMConfig:
    """Sizes of a :class:`~ccm_fast.models.CrossChannelContextModel`.

    arXiv 2103.02884 defines the scheme; its inner sizes were not available to us, so all of these are our choice.

    Attributes:
        name: preset name, stored with weights.
        widths: channels of the transforms at 1/4, 1/8 and 1/16 of the image's resolution.
        blocks: residual blocks at those three resolutions.
        groups: channels of each latent group, coded one after another; their sum is M.
        hyper_channels: channels of z.
        psi_channels: channels of the hyperprior's features at the resolution of y.
        context_kernel: size of the masked convolution over the own group (odd; ignored by the "single" schedule).
        schedule: the coding schedule: a :class:`~ccm_fast.entropy.schedule.Schedule`, a dict of its fields, or the name
            of a common one ("wavefront", "checkerboard", "single", "multistage2", "multistage4").
        cross_kernels: kernels of the convolution stack over the earlier groups; () leaves the stack out.
        cross_width: channels inside that stack.
        cross_skip_kernel: kernel of the linear path beside the stack; 0 leaves it out. With ``cross_kernels=()``
            this is the linear cross-channel context.
        parameter_widths: hidden widths of the 1x1 entropy-parameter network. The first is where all contexts are added.
        qualities: number of trained quality levels (gain vectors); levels between them are interpolated.
        reconstruction: what g_s reads: "integer", y_hat itself, or "centroid", the expected value of y in each
            symbol's interval under the mean and scale that the decoder knows anyway.
        fine: whether the last group holds fine details, which only high qualities code. It is cheap: strided 4x4
            convolutions of the features at 1/4, added to the image by a linear map of 16x16 pixels, not looked at by
            h_a, with a stack over the earlier groups that lacks the first kernel.
        fine_context: whether the fine channels are predicted from those of their own group, too. Without that, all of
            them are decoded in one step.
        fine_deep: whether the fine channels are also told of the features at 1/8, behind the residual blocks there.
        synthesis_blocks: residual blocks of g_s, where they are not those of g_a; () for the same.
        skip_index: symbols whose scale index, rounded, is at most this are not coded: they are what their mean rounds
            to. -1: all are coded.
    """

    name: str = "ccm-small"
    widths: tuple[int, int, int] = (64, 112, 128)
    blocks: tuple[int, int, int] = (1, 2, 1)
    groups: tuple[int, ...] = (32, 32, 32, 32)
    hyper_channels: int = 64
    psi_channels: int = 96
    context_kernel: int = 5
    schedule: str | Schedule = "wavefront"
    cross_kernels: tuple[int, ...] = (5, 3, 3)
    cross_width: int = 64
    cross_skip_kernel: int = 1
    parameter_widths: tuple[int, ...] = (128, 96)
    qualities: int = 8
    reconstruction: str = "integer"
    fine: bool = False
    fine_deep: bool = False
    synthesis_blocks: tuple[int, ...] = ()
    skip_index: int = -1
    fine_context: bool = True

    def __post_init__(self) -> None:
        for key in _LISTS:
            values = getattr(self, key)
            if not isinstance(values, (list, tuple)):
                raise ValueError(f"{key} must be a list of whole numbers, not {values!r}")
            object.__setattr__(self, key, tuple(_whole(key, v, 0) for v in values))
        for key, least in _NUMBERS.items():
            object.__setattr__(self, key, _whole(key, getattr(self, key), least))
        if isinstance(self.schedule, dict):
            try:
                object.__setattr__(self, "schedule", Schedule(**self.schedule))
            except TypeError as error:
                raise ValueError(f"schedule: {error}") from error
        elif not isinstance(self.schedule, (str, Schedule)):
            raise ValueError(f"schedule must be a Schedule, a dict of its fields or a name, not {self.schedule!r}")
        _ = self.coding_schedule  # an unknown name is an error here, not where a model is built
        if len(self.widths) != 3 or len(self.blocks) != 3 or min(self.widths) < 1:
            raise ValueError("widths and blocks need a number each for 1/4, 1/8 and 1/16 of the resolution")
        if not self.groups or min(self.groups) < 1:
            raise ValueError("groups must name at least one group of at least one channel")
        if self.fine and len(self.groups) < 2:
            raise ValueError("a fine group needs a coarse one before it")
        if self.fine_deep and not self.fine:
            raise ValueError("fine_deep needs a fine group")
        if len(self.synthesis_blocks) not in (0, len(self.blocks)):
            raise ValueError("synthesis_blocks needs a number for each resolution")
        if not self.parameter_widths:
            raise ValueError("parameter_widths needs at least one hidden layer: the contexts are added there")
        if self.reconstruction not in ("integer", "centroid"):
            raise ValueError(f"reconstruction must be integer or centroid, not {self.reconstruction!r}")
        if not -1 <= self.skip_index < 64:
            raise ValueError(f"skip_index must be a scale index or -1, not {self.skip_index!r}")
        for k in (self.context_kernel, *self.cross_kernels):
            if k % 2 != 1:
                raise ValueError(f"convolution kernels must be odd, got {k}")

    @property
    def coding_schedule(self) -> Schedule:
        """The schedule itself, where :attr:`schedule` may be a name."""
        if isinstance(self.schedule, Schedule):
            return self.schedule
        return Schedule.from_name(self.schedule, self.context_kernel)

    @property
    def latent_channels(self) -> int:
        """M, the channels of y."""
        return sum(self.groups)

    @property
    def fine_channels(self) -> int:
        """Channels of y in the fine group, the last; 0 without one."""
        return self.groups[-1] if self.fine else 0

    @property
    def coarse_channels(self) -> int:
        """Channels of y that are not fine."""
        return self.latent_channels - self.fine_channels

    def is_fine(self, group: int) -> bool:
        """Whether this is the fine group."""
        return self.fine and group == len(self.groups) - 1

    def stack_kernels(self, group: int) -> tuple[int, ...]:
        """Kernels of a group's convolution stack over the earlier groups."""
        return self.cross_kernels[1:] if self.is_fine(group) else self.cross_kernels

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict; :meth:`from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> CCMConfig:
        """The configuration written by :meth:`to_dict`.

        Raises:
            ValueError: an unknown key, or a value that no model can have.
        """
        known = [f.name for f in fields(cls)]
        if unknown := sorted(set(d) - set(known)):
            raise ValueError(f"unknown in a configuration: {', '.join(unknown)} (there are: {', '.join(known)})")
        return cls(**d)


def _whole(key: str, value: object, least: int) -> int:
    """Raises ValueError unless the value is a whole number of at least ``least``."""
    try:
        number = -2 if isinstance(value, bool) else operator.index(cast("SupportsIndex", value))
    except TypeError:
        number = -2
    if number < least:
        raise ValueError(f"{key} must be a whole number of at least {least}, not {value!r}")
    return number


PRESETS: dict[str, CCMConfig] = {
    # What ships, but for the fine group's own context, which was taken from its integers (docs/experiments/training.md,
    # "Integers trained on what files hold"). A block transform of 16x16 pixels (768 samples) cut to 128 components
    # cannot exceed 32.3 dB on Kodak; 160 allow 34.4, 192 allow 36.4 (train/klt.py, no quantization). Leaving out the
    # residual block at 1/16, whose parameters are the dearest per multiply-add, makes room for them in 10 MB of fp16.
    "ccm-small": CCMConfig(
        widths=(64, 112, 192),
        blocks=(1, 2, 0),
        groups=(48, 48, 48, 48, 128),
        hyper_channels=32,
        psi_channels=64,
        reconstruction="centroid",
        fine=True,
        fine_deep=True,
        synthesis_blocks=(1, 3, 0),
    ),
    "ccm-small-192": CCMConfig(
        name="ccm-small-192",
        widths=(64, 112, 192),
        blocks=(1, 2, 0),
        groups=(48, 48, 48, 48),
        reconstruction="centroid",
    ),
    # 21 k multiply-adds per pixel in g_s; shipped before the one above.
    "ccm-small-128": CCMConfig(name="ccm-small-128"),
    # The field's usual size (N = M = 192), for those with GPUs.
    "ccm-base": CCMConfig(
        name="ccm-base",
        widths=(96, 192, 192),
        blocks=(2, 3, 3),
        groups=(48, 48, 48, 48),
        hyper_channels=128,
        psi_channels=192,
        cross_width=160,
        parameter_widths=(192, 128),
        reconstruction="centroid",
    ),
}
# What format 2 is made for: symbols of the smallest scales are not coded (more would cost 1.6 % of the rate), and the
# fine group is decoded in one step. Training for the former has cost more than it saves where the encoder rounds by
# rate and distortion: docs/experiments/training.md.
PRESETS["ccm-small-2"] = replace(PRESETS["ccm-small"], name="ccm-small-2", skip_index=0, fine_context=False)
# 62 k multiply-adds a pixel in decoding, where ccm-small has 35 k; no weights ship yet. All of it is residual blocks of
# g_s, and some of g_a, so that training goes on from ccm-small's floats (train/grow.py). At 1/4 of the resolution a
# block costs 4.6 k multiply-adds a pixel and 0.15 MB of fp16, at 1/8 3.5 k and 0.45 MB, at 1/16 2.6 k and 1.3 MB:
# blocks at 1/4 are the cheapest to store, those at 1/8 have gained most (docs/experiments/training.md). Weights are
# 14.8 MB in fp16, the encoder included, so that they would ship in two files.
PRESETS["ccm-medium"] = replace(PRESETS["ccm-small-2"], name="ccm-medium", blocks=(2, 3, 1), synthesis_blocks=(4, 6, 1))
PRESETS["ccm-small-g1"] = replace(PRESETS["ccm-small-192"], name="ccm-small-g1", groups=(192,))


def find_config(preset: str | os.PathLike[str] | CCMConfig) -> CCMConfig:
    """The configuration of a preset's name, or of a JSON file.

    A file holds an object with fields of :class:`CCMConfig`. Those that it lacks are the defaults, or those of the
    preset that its key ``"preset"`` names. Without a ``"name"`` the model is called like the file.

    Args:
        preset: a name in :data:`PRESETS`, the path of a file ending in ``.json``, or a configuration, which is
            returned.

    Raises:
        ValueError: no preset of that name, or a file that is no configuration; the message says what there is.
        OSError: the file cannot be read.
    """
    if isinstance(preset, CCMConfig):
        return preset
    names = ", ".join(PRESETS)
    if not str(preset).endswith(".json"):
        if preset not in PRESETS:
            raise ValueError(f"unknown preset {str(preset)!r}: choose from {names}, or name a JSON file (NAME.json)")
        return PRESETS[str(preset)]
    path = Path(preset)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON file: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold an object with the fields of a configuration")
    base = values.pop("preset", None)
    if base is not None and base not in PRESETS:
        raise ValueError(f"{path}: unknown preset {base!r}: choose from {names}")
    start = {} if base is None else {f.name: getattr(PRESETS[base], f.name) for f in fields(CCMConfig)}
    try:
        return CCMConfig.from_dict({**start, "name": path.stem, **values})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
