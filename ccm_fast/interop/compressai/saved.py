"""Files of accelerated nets: the frozen entropy model, and on request the net itself.

    tensors   "plan"      uint8: the frozen entropy model
              "medians"   of z, by which the net is recognised
              "net.NAME"  optional: the net's state
    metadata  "format"    "ccm_fast accelerated net 1"
              "net"       JSON: name of the net's class
              "arguments" JSON, with the net's state: what its class takes

A file names one of CompressAI's classes and holds numbers; nothing in it is executed.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from ccm_fast.atomic import atomic_write
from ccm_fast.constants import MAX_GROUPS
from ccm_fast.entropy.plan import Plan
from ccm_fast.entropy.plan_parts import MAX_CHANNELS
from ccm_fast.errors import ModelError
from ccm_fast.interop.compressai.package import compressai
from ccm_fast.tensor_store import read_tensors

__all__ = ["read_saved", "write_saved"]

FORMAT = "ccm_fast accelerated net 1"
PREFIX = "net."
#: Of CompressAI's classes, those that a file may name.
CLASSES = (
    "ScaleHyperprior",
    "MeanScaleHyperprior",
    "JointAutoregressiveHierarchicalPriors",
    "Cheng2020Anchor",
    "Cheng2020Attention",
    "Cheng2020AnchorCheckerboard",
    "Elic2022Official",
    "Elic2022Chandelier",
)


def write_saved(path: str | Path, net: nn.Module, plan: bytes, medians: Tensor, whole: bool) -> None:
    """Write a file.

    Args:
        path: the file; replaced in one go.
        net: the net; on any device.
        plan: the frozen entropy model.
        medians: of z.
        whole: the net's state, too.

    Raises:
        ModelError: a whole net of a class that no file may name.
    """
    from safetensors.torch import save as serialized

    tensors = {"plan": torch.frombuffer(bytearray(plan), dtype=torch.uint8), "medians": medians.contiguous()}
    metadata = {"format": FORMAT, "net": json.dumps(type(net).__name__)}
    if whole:
        metadata["arguments"] = json.dumps(_arguments(net))
        tensors |= {PREFIX + name: t.detach().cpu().contiguous().clone() for name, t in net.state_dict().items()}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(serialized(tensors, metadata))


def _arguments(net: nn.Module) -> dict:
    """What makes a net of the same sizes."""
    name = type(net).__name__
    if name not in CLASSES or type(net).__module__.partition(".")[0] != "compressai":
        raise ModelError(
            f"{name} is none of CompressAI's classes that a file may name ({', '.join(CLASSES)}): save it without"
            " whole=True, and bring the net to ccm_fast.load(path, net)"
        )
    convs = [m for m in net.g_a.modules() if isinstance(m, nn.Conv2d)]
    known = {"N": convs[0].out_channels, "M": convs[-1].out_channels}  # not all classes keep them
    keys = inspect.signature(type(net).__init__).parameters
    wanted = {key: getattr(net, key, known.get(key)) for key in keys}
    if wanted.get("groups", 0) is None:
        wanted["groups"] = getattr(net, "groups", None) or list(net.latent_codec["y"].groups)
    return {key: value for key, value in wanted.items() if isinstance(value, int) or _is_list(value)}


def _is_list(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(v, int) for v in value)


def read_saved(path: str | Path, net: nn.Module | None) -> tuple[nn.Module, Plan, Tensor]:
    """What :func:`write_saved` wrote: the net (the given one, or a new one), the plan and the medians.

    Raises:
        FileNotFoundError: no such file.
        ModelError: not such a file, or one without the net where none is given.
        ImportError: a net is to be made, and CompressAI is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {str(path)!r}")
    refusal = "does not hold the entropy model of an accelerated net"
    state, metadata = read_tensors(path, FORMAT, refusal, lambda name: net is None or not name.startswith(PREFIX))
    try:
        plan, medians = state.pop("plan"), state.pop("medians")
    except KeyError as missing:
        raise ModelError(f"{path.name} {refusal}: no tensor {missing}") from None
    state = {name.removeprefix(PREFIX): t for name, t in state.items() if name.startswith(PREFIX)}
    if plan.dtype != torch.uint8 or plan.ndim != 1:
        raise ModelError(f"{path.name}: the plan is not a row of bytes")
    if net is None:
        net = _made(path, metadata, state)
    return net, Plan.from_bytes(plan.contiguous().numpy().tobytes()), medians


def _made(path: Path, metadata: dict[str, str], state: dict[str, Tensor]) -> nn.Module:
    try:
        name, arguments = json.loads(metadata.get("net", "null")), json.loads(metadata.get("arguments", "null"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path.name}: its metadata cannot be read") from error
    if arguments is None:
        raise ModelError(
            f"{path.name} holds the entropy model of a net of CompressAI, {name}, and not the net:"
            " ccm_fast.load(path, net), or save it with whole=True"
        )
    if not isinstance(arguments, dict):
        raise ModelError(f"{path.name}: its metadata cannot be read")
    numbers = [v for value in arguments.values() for v in (value if isinstance(value, list) else [value])]
    good = all(isinstance(v, int) and 0 <= v <= MAX_CHANNELS for v in numbers) and len(numbers) <= MAX_GROUPS + 8
    if name not in CLASSES or not good:
        raise ModelError(f"{path.name}: no net of CompressAI is {name} with {arguments}")
    try:
        net = getattr(compressai("models"), name)(**arguments)
        net.load_state_dict(state)
    except (TypeError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        raise ModelError(f"{path.name}: its tensors are not those of {name} with {arguments}: {error}") from error
    return net.eval().requires_grad_(False)
