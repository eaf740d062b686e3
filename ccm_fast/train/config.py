"""The options of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..models import CCMConfig
from ..models.config import PRESETS
from .stages import Kind

__all__ = ["TrainConfig"]


def _about(text: str, least: float | None = None, most: float | None = None) -> dict:
    """What ``ccm-fast train --help`` says of an option, and what it may be."""
    return {"help": text, "limits": tuple(limit for limit in (least, most) if limit is not None)}


@dataclass
class TrainConfig:
    """Options of :func:`ccm_fast.train.loop.train`; what each means stands beside it."""

    out: str = field(
        metadata=_about("folder for the checkpoint (last.pt) and the log (log.jsonl); a checkpoint there is resumed.")
    )
    data: list[str] = field(default_factory=list, metadata=_about("tar shards, folders or images to train on."))
    valid: list[str] = field(default_factory=list, metadata=_about("the same, for validation; empty: none."))
    preset: str | CCMConfig = field(
        default="ccm-small",
        metadata=_about(
            f"name of a model preset ({', '.join(PRESETS)}), or a JSON file of one's own (NAME.json, "
            "docs/own_models.md); used when nothing is resumed."
        ),
    )
    init: str = field(
        default="",
        metadata=_about(
            "weights (a checkpoint, floats of one, or a shipped .safetensors file) to start from when nothing is "
            "resumed; tensors that the preset has in another shape, or not at all, are left out."
        ),
    )
    start: str = field(
        default="klt",
        metadata=_about(
            'when neither: "klt" starts the transforms as a block transform of the training images, "random" anywhere.'
        ),
    )
    stages: str = field(
        default="hyper=0.1h,transforms=0.6h,context=0.3h,joint=1h",
        metadata=_about(
            "what to train and for how long, one after another: hyper (the hyperprior alone, on the latents of "
            "fixed transforms), transforms (with the hyperprior), context (the whole entropy model, transforms "
            "fixed), synthesis (g_s alone, for the error) or joint (everything), each with hours (0.5h) or steps "
            "(2000)."
        ),
    )
    limit: float = field(
        default=0.0,
        metadata=_about(
            "minutes of the clock, if not 0, that the call may take, loading, validations and saving included. "
            "The one stage, whatever its length, ends with them, and its schedule with it; a resumed one goes on "
            "in its schedule. For machines that are lent for minutes.",
            0,
        ),
    )
    metric: str = field(default="mse", metadata=_about('"mse", "ms-ssim" or "visual" (SSIMULACRA2 for the half).'))
    batch: int = field(default=8, metadata=_about("crops per step and process.", 1))
    crop: int = field(default=128, metadata=_about("side of the crops, pixels.", 16))
    augment: float = field(
        default=1.0,
        metadata=_about(
            "above 1, crops are also turned, and every second one is scaled by up to this factor, up or down "
            "(where transforms are trained; latents are cached as they are).",
            1,
        ),
    )
    lr: float = field(default=3e-4, metadata=_about("peak learning rate of Adam for the transforms.", 0))
    entropy_lr: float = field(default=2.0, metadata=_about("that of everything else, as a multiple of lr.", 0))
    warmup: int = field(default=100, metadata=_about("steps of linear warm-up at the start of every stage.", 0))
    schedule: str = field(
        default="hold",
        metadata=_about(
            'of the learning rate in each stage, "cosine", "step" or "hold" (constant, then a cosine at the end).'
        ),
    )
    final_lr: float = field(
        default=0.03, metadata=_about("the share of the rate that is left at the end of a stage.", 0, 1)
    )
    z_warmup: int = field(
        default=1000,
        metadata=_about(
            "steps over which the rate of z comes to count fully; at once, z would be silenced before h_s has "
            "learned to read it.",
            0,
        ),
    )
    rdoq: bool = field(
        default=False,
        metadata=_about(
            "let symbols be those that the default encoder chooses, by rate-distortion-optimized quantization, where "
            'contexts take part (not with metric "ms-ssim"); for a model whose means and scales are worth something.'
        ),
    )
    quantization_noise: bool = field(
        default=False,
        metadata=_about(
            "add noise to the entropy model's weights and activations, as wide as the steps of the bytes that "
            "they will be, where contexts take part: for the last stage before freezing."
        ),
    )
    saturate: bool = field(
        default=False,
        metadata=_about(
            "let the entropy model's activations end where the bytes of a weights file end: for a run that starts from "
            "one, whose integers lean on it. The stage retune always does."
        ),
    )
    clip: float = field(default=1.0, metadata=_about("limit of the gradient's norm.", 0))
    ema: float = field(
        default=0.999, metadata=_about("decay of the averaged weights, which validation uses and which ship.", 0, 1)
    )
    bf16: str = field(
        default="auto",
        metadata=_about(
            '"auto" (where the hardware computes in bf16), "on" or "off": forward and backward under bf16 '
            "autocast, but for what leads to latents, means, scales and pixels."
        ),
    )
    threads: int = field(default=0, metadata=_about("torch threads; 0: leave as is.", 0, 1024))
    workers: int = field(
        default=0,
        metadata=_about("processes that decode images ahead; worth it when the images do not fit into memory.", 0),
    )
    memory: float = field(default=4.0, metadata=_about("gigabytes of decoded images and of latents to keep, each.", 0))
    save_minutes: float = field(default=10.0, metadata=_about("interval of checkpoints.", 0))
    valid_minutes: float = field(default=15.0, metadata=_about("interval of validations.", 0))
    seed: int = field(default=1, metadata=_about("seed of everything random.", 0))
    device: str = field(default="cpu", metadata=_about('torch device; "cuda" under torchrun: one GPU per process.'))
    resident: bool = field(
        default=False,
        metadata=_about(
            "keep all images in the device's memory, cut crops there, and on a GPU record a step's forward and "
            "backward as one CUDA graph: for stages that train transforms, where images fit (0.25 MB each at "
            "288x288)."
        ),
    )

    def rdoq_in(self, kind: Kind) -> bool:
        """Whether a stage's symbols are those of rate-distortion-optimized quantization."""
        return self.rdoq and kind.contexts and self.metric != "ms-ssim"
