"""Weights files: one safetensors file with the float transforms, the frozen entropy model, and what they are.

    tensors   "plan"         uint8: the frozen entropy model (FORMAT.md section 7)
              "shifts"       fp16, optional: what symbols stand for (:mod:`ccm_fast.entropy.centroids`)
              "sensitivities" float32, optional: of g_s (:func:`ccm_fast.effort.distortion.sensitivities`)
              "reduced.4", "reduced.8"  fp16, optional: of smaller pictures (:mod:`ccm_fast.freezing.reduced`)
              "float.NAME"   fp16: the parameters of the transforms, the gains and the prior of z (buffers of whole
                             numbers, which own transforms may have, keep their type)
    metadata  "format"       "ccm_fast weights 1"
              "config"       JSON: the CCMConfig
              "meta"         JSON: whatever the author wants to say (training, licence, results)
              "transforms"   JSON, optional: {"g_a": CLASS, "g_s": CLASS} of transforms that are not this package's

The entropy networks are in the plan alone; their float form, for training and for likelihoods, is made from it
(:mod:`ccm_fast.freezing.thaw`). Nothing in a weights file is executed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from ccm_fast.atomic import atomic_write
from ccm_fast.constants import MAX_GROUPS
from ccm_fast.eager import eager
from ccm_fast.engines import on_cpu_by_default
from ccm_fast.entropy.centroids import REACH
from ccm_fast.entropy.frozen import FrozenEntropyModel
from ccm_fast.entropy.plan import Plan
from ccm_fast.entropy.plan_parts import MAX_CHANNELS
from ccm_fast.errors import ModelError, NotFrozenError
from ccm_fast.freezing.reduced import FITTED_OUTPUTS, fitted_inputs
from ccm_fast.freezing.thaw import thaw
from ccm_fast.models import CCMConfig, CrossChannelContextModel
from ccm_fast.models.ccm import weight_counts
from ccm_fast.shipped import available, find, is_accelerated
from ccm_fast.tensor_store import read_tensors

if TYPE_CHECKING:
    from ccm_fast.interop.compressai import AcceleratedNet

__all__ = ["available", "find", "load", "read_meta", "save"]

FORMAT = "ccm_fast weights 1"
_REFUSAL = "is no weights file of this package"
PREFIX = "float."
SHIFTS, SENSITIVITIES, TRANSFORMS = "shifts", "sensitivities", "transforms"
REDUCED = "reduced."
#: What csrc/codec/codec.cpp says of such a plan, too.
RESIDUAL = "an entropy model that codes residuals, which only accelerated nets of CompressAI have"
FROZEN = ("h_s.", "contexts.")  # parameters that the plan holds
# Of a configuration: what plans may have, and residual blocks at one resolution.
MAX_KERNEL, MAX_BLOCKS, MAX_QUALITIES = 7, 64, 256
# Floats that a byte of a plan may stand for: of a masked 7x7 convolution it has the taps of its schedule alone.
PER_PLAN_BYTE = 8


def save(model: CrossChannelContextModel, path: str | Path, meta: dict[str, Any] | None = None) -> None:
    """Write a frozen model.

    Args:
        model: the model; its parameters are stored in fp16.
        path: the file, by custom NAME.safetensors; replaced in one go.
        meta: JSON-ready remarks.

    Raises:
        NotFrozenError: ``model.frozen`` is not set.
        ModelError: a parameter is not finite in fp16, or the entropy model is not of this kind of model.
    """
    from safetensors.torch import save as serialized

    if model.frozen is None:
        raise NotFrozenError("the model has no integer entropy model: call ccm_fast.freeze(model, images) first")
    path = Path(path)
    _check_fit(model.frozen.plan, model.config, path)
    tensors = {"plan": torch.frombuffer(bytearray(model.frozen.to_bytes()), dtype=torch.uint8)}
    if model.frozen.shifts is not None:
        tensors[SHIFTS] = model.frozen.shifts.contiguous()
    if model.sensitivities is not None:
        tensors[SENSITIVITIES] = model.sensitivities.contiguous()
    for factor, rows in model.reduced.items():
        tensors[f"{REDUCED}{factor}"] = rows.contiguous()
    for name, value in model.state_dict().items():
        if name.startswith(FROZEN):
            continue
        half = value.detach().to("cpu", _stored(value)).contiguous()
        if not bool(torch.isfinite(half).all()):
            raise ModelError(f"parameter {name} is not finite in fp16")
        tensors[PREFIX + name] = half
    metadata = {
        "format": FORMAT,
        "config": json.dumps(model.config.to_dict()),
        "meta": json.dumps(meta or {}),
    }
    if model.own_transforms:
        metadata[TRANSFORMS] = json.dumps(model.own_transforms)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(serialized(tensors, metadata))


def _stored(value: Tensor) -> torch.dtype:
    return torch.float16 if value.is_floating_point() else value.dtype


def _json(metadata: dict[str, str], key: str, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(metadata[key])
    except (KeyError, ValueError, RecursionError) as error:
        raise ModelError(f"{path.name}: no readable {key!r} in the metadata") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path.name}: {key!r} is not an object")
    return value


def _check_sizes(config: dict[str, Any]) -> None:
    """Raises ValueError for numbers that no model has (FORMAT.md, section 7), before anything is built of them."""
    for key, value in config.items():
        values = value if isinstance(value, list) else [value]
        limit = MAX_KERNEL if "kernel" in key else MAX_BLOCKS if "blocks" in key else MAX_CHANNELS
        if len(values) > MAX_GROUPS or any(isinstance(v, (int, float)) and not -1 <= v <= limit for v in values):
            raise ValueError(f"{key} is out of range")


def _check_amount(config: CCMConfig, tensors: dict[str, Tensor], own: tuple[str, ...]) -> None:
    """Raises ValueError for a configuration of more weights than the file holds, before memory is taken for them.

    Args:
        config: the configuration.
        tensors: of the file.
        own: names of the transforms that the caller brings.
    """
    if config.latent_channels > MAX_CHANNELS or config.qualities > MAX_QUALITIES:
        raise ValueError("more latents or qualities than any model has")
    plan = tensors["plan"].numel()
    for network, asked in weight_counts(config).items():
        held = sum(t.numel() for name, t in tensors.items() if name.startswith(f"{PREFIX}{network}."))
        if f"{network}." in FROZEN:
            held = PER_PLAN_BYTE * plan
        if network not in own and asked > held:
            raise ValueError(f"{network} would have {asked} weights, more than the file")


def _check_transforms(path: Path, metadata: dict[str, str], given: dict[str, torch.nn.Module | None]) -> None:
    """Raises ModelError, TypeError unless the caller has brought the transforms that are not this package's."""
    own = _json(metadata, TRANSFORMS, path) if TRANSFORMS in metadata else {}
    for name, module in given.items():
        if name in own and module is None:
            raise ModelError(
                f"{path.name}: its {name} is of a class of the author's own, {own[name]}: bring an object of it,"
                f" ccm_fast.load(path, {name}=...)"
            )
        if name not in own and module is not None:
            raise TypeError(f"{path.name}: its {name} is this package's, none has to be brought")


@on_cpu_by_default
def _build(path: Path, g_a: torch.nn.Module | None, g_s: torch.nn.Module | None) -> CrossChannelContextModel:
    tensors, metadata = read_tensors(path, FORMAT, _REFUSAL)
    _check_transforms(path, metadata, {"g_a": g_a, "g_s": g_s})
    plan = tensors.get("plan")
    if plan is None or plan.dtype != torch.uint8 or plan.ndim != 1:
        raise ModelError(f"{path.name}: the frozen entropy model is missing, or not a row of bytes")
    try:
        config = _json(metadata, "config", path)
        _check_sizes(config)
        known = CCMConfig.from_dict(config)
        _check_amount(known, tensors, tuple(name for name, own in (("g_a", g_a), ("g_s", g_s)) if own is not None))
        model = CrossChannelContextModel(known, g_a, g_s).float()  # whatever the default dtype is
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ModelError(f"{path.name}: bad configuration: {error}") from error
    expected = {name: t for name, t in model.state_dict().items() if not name.startswith(FROZEN)}
    found = {name.removeprefix(PREFIX): t for name, t in tensors.items() if name.startswith(PREFIX)}
    reduced = {factor: t for factor in (4, 8) if (t := tensors.get(f"{REDUCED}{factor}")) is not None}
    others = {"plan", SHIFTS, SENSITIVITIES, *(f"{REDUCED}{factor}" for factor in reduced)}
    unknown = [name for name in tensors if name not in others and not name.startswith(PREFIX)]
    if unknown or set(found) != set(expected):
        names = sorted({*unknown, *(set(found) ^ set(expected))})
        raise ModelError(f"{path.name}: missing or unknown tensors: {', '.join(names[:5])}")
    for name, t in found.items():
        wanted = _stored(expected[name])
        if t.dtype != wanted or t.shape != expected[name].shape:
            raise ModelError(
                f"{path.name}: {name} is {t.dtype} {tuple(t.shape)}, not {wanted} {tuple(expected[name].shape)}"
            )
        if not bool(torch.isfinite(t).all()):
            raise ModelError(f"{path.name}: {name} has values that are not finite")
    floats = {name: t.float() if t.is_floating_point() else t for name, t in found.items()}
    model.load_state_dict(floats, strict=False)
    shifts = tensors.get(SHIFTS)
    model.frozen = FrozenEntropyModel.from_bytes(plan.contiguous().numpy().tobytes(), shifts)
    _check_fit(model.frozen.plan, model.config, path)
    if shifts is not None:
        shape = (len(model.frozen.plan.y_rows), 2 * REACH + 1)
        if shifts.dtype != torch.float16 or shifts.shape != shape or not bool((shifts.abs() <= 1).all()):
            raise ModelError(f"{path.name}: {SHIFTS} must be torch.float16 {shape}, at most 1 in magnitude")
    h = tensors.get(SENSITIVITIES)
    if h is not None:
        shape = (2, model.config.latent_channels)
        if h.dtype != torch.float32 or h.shape != shape or not bool((torch.isfinite(h) & (h >= 0)).all()):
            raise ModelError(f"{path.name}: {SENSITIVITIES} must be torch.float32 {shape}, finite and not negative")
    model.sensitivities = h
    for factor, rows in reduced.items():
        shape = (FITTED_OUTPUTS, fitted_inputs(model.config, factor))
        if rows.dtype != torch.float16 or rows.shape != shape or not bool(torch.isfinite(rows).all()):
            raise ModelError(f"{path.name}: {REDUCED}{factor} must be torch.float16 {shape}, and finite")
    model.reduced = reduced
    try:
        thaw(model, model.frozen.plan)
    except ValueError as error:
        raise ModelError(f"{path.name}: the frozen entropy model does not fit the configuration: {error}") from error
    remarks = _json(metadata, "meta", path)
    model.metric = str(remarks.get("metric", "mse"))
    model.trained_for = str(remarks.get("trained_for", model.metric))
    return model.eval()


def _check_fit(plan: Plan, config: CCMConfig, path: Path) -> None:
    """Raises ModelError unless the plan belongs to the transforms: same latents, same schedule, whole numbers."""
    schedule = config.coding_schedule
    same = (
        plan.group_channels == config.groups
        and plan.hyper_channels == config.hyper_channels
        and (plan.row_step, plan.col_step) == (schedule.row_step, schedule.col_step)
        and plan.pattern.tolist() == [list(row) for row in schedule.pattern]
    )
    if not same:
        raise ModelError(f"{path.name}: the frozen entropy model does not belong to the configuration")
    if plan.residual:
        raise ModelError(f"{path.name}: {RESIDUAL}")


@overload
def load(
    name_or_path: str | os.PathLike[str],
    net: None = None,
    *,
    g_a: torch.nn.Module | None = None,
    g_s: torch.nn.Module | None = None,
) -> CrossChannelContextModel: ...
@overload
def load(name_or_path: str | os.PathLike[str], net: torch.nn.Module, **options: Any) -> AcceleratedNet: ...


@eager
def load(
    name_or_path: str | os.PathLike[str],
    net: torch.nn.Module | None = None,
    *,
    g_a: torch.nn.Module | None = None,
    g_s: torch.nn.Module | None = None,
    **options: Any,
) -> CrossChannelContextModel | AcceleratedNet:
    """A frozen model in evaluation mode, ready to encode and decode.

    Args:
        name_or_path: a shipped model's name (see :func:`available`), or a .safetensors file. Of a net of CompressAI
            that was saved whole, the :class:`~ccm_fast.interop.compressai.AcceleratedNet` is returned.
        net: a net of CompressAI: then the file is what its accelerated form has saved, and an
            :class:`~ccm_fast.interop.compressai.AcceleratedNet` is returned, as from :func:`ccm_fast.accelerate`.
        g_a: of a model with an analysis transform of one's own: a module of that class, which takes the file's weights
            and becomes the model's. Nothing in a file says how to make one.
        g_s: its synthesis transform, likewise.
        options: with a net, those of :func:`ccm_fast.interop.compressai.restore`.

    Raises:
        FileNotFoundError: no such model; the message lists the names.
        ModelError: not a weights file, or one that is damaged or contradicts itself, or whose transforms are missing.
    """
    if net is not None or is_accelerated(name_or_path):
        from ccm_fast.interop.compressai import restore

        return restore(find(name_or_path), net, **options)
    if options:
        raise TypeError(f"load() takes {', '.join(options)} only together with a net")
    return _build(find(name_or_path), g_a, g_s).requires_grad_(False)


def read_meta(name_or_path: str | Path) -> dict[str, Any]:
    """The author's remarks in a weights file. Raises as :func:`load`."""
    path = find(name_or_path)
    _, metadata = read_tensors(path, FORMAT, _REFUSAL)
    return _json(metadata, "meta", path)
