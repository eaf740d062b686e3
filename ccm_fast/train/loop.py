"""The training loop: stages, exact resume, one process or several, any device."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ccm_fast.freezing.thaw import CEILING

from ..models import CrossChannelContextModel
from ..models.config import find_config
from . import checkpoint
from .config import TrainConfig
from .convolutions import fast_convolutions
from .data import CropDataset, ImageFiles, load_images
from .deadline import Deadline
from .fine import start_fine
from .klt import fit_synthesis, initialise
from .loss import psnr, rate_distortion_loss, rate_loss
from .noise import quantization_noise
from .parallel import Processes
from .precision import float32_trunk
from .resident import Replay, ResidentCrops
from .stages import (
    TRANSFORMS,
    Kind,
    LatentCache,
    Stage,
    learning_rate,
    parse_stages,
    revive_stacks,
    select,
    silence_contexts,
)

__all__ = ["TrainConfig", "train", "validate"]


# Five scales of an 11-pixel window: (11 - 1) * 2^4 pixels and one more, rounded up to whole latents.
MS_SSIM_CROP = 176
# Validation runs beside training on the same cores: two dozen images tell curves apart by 0.05 dB.
VALID_IMAGES = 24


# Crops that tell how strong the latents are, and whether the stacks over earlier groups are alive.
_PROBE = 16
# Learning rate of those stacks, as a share of the entropy model's: at 1e-3 their units die one by one (30 % of one
# group's in 150 steps), at 3e-4 none did.
_STACK_RATE = 0.5
# Of the weights of the entropy-parameter networks. Adam moves weights of units that hardly ever fire as fast as others:
# after 35,000 steps at 6e-4 thousands of them were beyond 5, up to 371, which as int8 leave the others no steps
# (integers cost 1.2 to 1.5 % of the bits). Cut off at 5 they gave 0.02 % more bits.
_HIDDEN_LIMIT = 5.0


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes in bf16 (and does not only convert)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


@torch.no_grad()
def validate(
    model: CrossChannelContextModel,
    images: list,
    qualities=(2.0, 4.0, 6.0, 8.0),
    metric: str = "mse",
    context: bool = True,
    rdoq: bool = False,
) -> dict:
    """Estimated bits per pixel and PSNR (means over images) at some qualities, centre crops of 256x256.

    Args:
        model: put into evaluation mode.
        images: uint8 [H, W, 3] each.
        qualities: where to measure.
        metric: of the loss.
        context: as for the model, and
        rdoq: likewise.

    Returns:
        ``{"q2": {"bpp", "bpp_z", "psnr" (dB), "loss"}, ...}``.
    """
    model.eval()
    device = next(model.parameters()).device
    result = {}
    for q in qualities:
        sums = {"bpp": 0.0, "bpp_z": 0.0, "psnr": 0.0, "loss": 0.0}
        for image in images:
            i, j = ((s - min(s, 256)) // 2 for s in image.shape[:2])
            x = torch.from_numpy(image[i : i + 256, j : j + 256].copy()).permute(2, 0, 1)[None].float().div_(255)
            x = x.to(device)
            with fast_convolutions(model):
                out = model(x, q, context, rdoq)
            out["x_hat"] = out["x_hat"].clamp(0, 1)
            terms = rate_distortion_loss(x, out, torch.tensor([q], device=device), metric)
            for key in ("bpp", "bpp_z", "loss"):
                sums[key] += float(terms[key])
            sums["psnr"] += psnr(terms["mse"])
        result[f"q{q:g}"] = {key: round(value / len(images), 5) for key, value in sums.items()}
    return result


class _Run:
    """A model in training: what a checkpoint holds, and one step."""

    def __init__(self, cfg: TrainConfig, processes: Processes, model: CrossChannelContextModel | None):
        self.cfg, self.processes = cfg, processes
        device = processes.device
        self.crops = CropDataset(
            ImageFiles(cfg.data, cfg.memory * 2**30), cfg.crop, cfg.seed, processes.rank, processes.world, cfg.augment
        )
        torch.manual_seed(cfg.seed)
        last = Path(cfg.out, "last.pt")
        state = checkpoint.read(last) if last.exists() else None
        own = () if model is None else ("g_a", "g_s")
        config = checkpoint.config_of(state, last, own) if state else find_config(cfg.preset)
        if model is not None and state and model.config != config:
            raise ValueError(f"the model is configured otherwise than the run in {cfg.out}")
        self.model = (CrossChannelContextModel(config) if model is None else model).to(device)
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # all steps have one shape
            self.model.to(memory_format=torch.channels_last)
        self.progress = checkpoint.Progress()
        if state is None:
            self.progress = self._start()
        processes.equalise(self.model)
        self.ema = copy.deepcopy(self.model).eval().requires_grad_(False)
        transforms = [p for n, p in self.model.named_parameters() if n.startswith(TRANSFORMS)]
        others = [p for n, p in self.model.named_parameters() if not n.startswith(TRANSFORMS)]
        stacks = [p for n, p in self.model.named_parameters() if ".stack." in n]
        others = [p for p in others if not any(p is q for q in stacks)]
        peaks = cfg.lr, cfg.lr * cfg.entropy_lr, cfg.lr * cfg.entropy_lr * _STACK_RATE
        self.optimizer = torch.optim.Adam(
            [{"params": p, "peak": peak} for p, peak in zip((transforms, others, stacks), peaks, strict=True)],
            lr=cfg.lr,
            fused=True,  # one pass over the memory: 4 ms a step instead of 26
        )
        torch.manual_seed(cfg.seed + 7919 * processes.rank)  # noise and qualities differ between the processes
        if state is not None:
            with checkpoint.blamed(last):
                self.progress = checkpoint.restore(state, self.model, self.ema, self.optimizer, self.crops, processes)
        for group, peak in zip(self.optimizer.param_groups, peaks, strict=True):
            group["peak"] = peak  # a resumed run may be given another rate
        self.bf16 = cfg.bf16 == "on" or (cfg.bf16 == "auto" and has_bf16(device))
        self.hidden = [p for n, p in self.model.named_parameters() if ".hidden." in n and n.endswith("weight")]
        self.latents = None
        self.resident = ResidentCrops(self.crops, device) if cfg.resident else None
        self.replay: tuple[Kind, Callable] | None = None

    def _start(self) -> checkpoint.Progress:
        """Weights to start from; returns the training that is already in them."""
        if self.cfg.init:
            return checkpoint.initial(self.cfg.init, self.model, self.crops.images)
        if self.cfg.start == "klt" and self.model.own_transforms:
            raise ValueError('start must be "random" where g_a or g_s is not this package\'s')
        if self.cfg.start == "klt":
            bases = initialise(self.model, self.crops.images, self.cfg.seed)
            with fast_convolutions(self.model.g_a):
                fit_synthesis(self.model, self.crops.images, bases)
                if self.model.config.fine:
                    start_fine(self.model, self.crops.images)
        elif self.cfg.start != "random":
            raise ValueError(f"start must be klt or random, not {self.cfg.start!r}")
        silence_contexts(self.model)
        return checkpoint.Progress()

    @torch.no_grad()
    def take_averaged_transforms(self) -> None:
        """Let the transforms be their averages: what ships is what an entropy model should be trained on."""
        averaged = dict(self.ema.named_parameters())
        for name, p in self.model.named_parameters():
            if name.startswith(TRANSFORMS):
                p.copy_(averaged[name])

    @torch.no_grad()
    def revive_stacks(self) -> list[int]:
        """See :func:`ccm_fast.train.stages.revive_stacks`; on a batch of its own, the same in all processes."""
        cfg, model = self.cfg, self.model
        probe = CropDataset(self.crops.images, cfg.crop, cfg.seed + 1)
        quality = torch.linspace(1, model.config.qualities, _PROBE, device=self.processes.device)
        rng = torch.get_rng_state()
        torch.manual_seed(cfg.seed)
        renewed = revive_stacks(model, model.analysis(probe.batch(_PROBE).to(quality.device), quality))
        torch.set_rng_state(rng)
        averaged = dict(self.ema.named_parameters())
        for name, p in model.named_parameters():
            if any(name.startswith(f"contexts.{g}.stack.") for g in renewed):
                averaged[name].copy_(p)
                self.optimizer.state.pop(p, None)  # moments of weights that are no more
        return renewed

    def save(self, path: Path) -> None:
        """Write a checkpoint; every process must call this."""
        rng = self.processes.gather(torch.get_rng_state())
        if self.processes.first:
            checkpoint.write(
                path, self.model, self.ema, self.optimizer, self.crops, rng, self.progress, asdict(self.cfg)
            )

    def select(self, kind: Kind) -> None:
        """Let the parameters of a stage take part, and activations end where those of a weights file do, or nowhere."""
        select(self.model, kind)
        for model in (self.model, self.ema):
            model.saturate(CEILING if self.cfg.saturate or not kind.entropy else None)

    def _quality(self) -> Tensor:
        """Qualities of a batch, stratified: every step sees the whole range."""
        slots = (torch.randperm(self.cfg.batch) + torch.rand(self.cfg.batch)) / self.cfg.batch
        return 1 + slots * (self.model.config.qualities - 1)

    def _z_weight(self) -> float:
        return min(1.0, (self.progress.step + 1) / max(self.cfg.z_warmup, 1))

    def latent_loss(self, kind: Kind) -> dict[str, Tensor]:
        """Loss terms of the next batch of latents."""
        cfg, device = self.cfg, self.processes.device
        if self.latents is None:
            # Whole images: a quarter of a 128-pixel crop's contexts would read the zeros outside of it.
            side = min(min(self.crops.sizes[k]) for k in self.crops.usable) // 16 * 16
            whole = CropDataset(self.crops.images, side, cfg.seed, self.crops.rank, self.crops.world)
            self.latents = LatentCache(whole, cfg.memory * 2**30)
        self.latents.crops.position = self.crops.position  # one number is the place in the data
        y = self.latents.batch(self.model, cfg.batch, device)
        self.crops.position = self.latents.crops.position
        quality = self._quality().to(device)
        self.model.train()
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            likelihoods = self.model.likelihoods(y * self.model.gain(quality), kind.contexts, cfg.rdoq_in(kind))
            return rate_loss(likelihoods, 256 * y.shape[-2] * y.shape[-1], quality, cfg.metric, self._z_weight())

    def image_loss(self, kind: Kind, x: Tensor, quality: Tensor, z_weight: float | Tensor) -> dict[str, Tensor]:
        """Loss terms of images [B, 3, H, W]."""
        # Without rate: latents as decoders get them, without noise.
        self.model.train(kind.rate)
        # A CUDA graph must not depend on what autocast has kept from before.
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16, cache_enabled=self.resident is None):
            out = self.model(x, quality, context=kind.contexts, rdoq=self.cfg.rdoq_in(kind))
        if not kind.rate:
            out["likelihoods"] = {k: v.detach() for k, v in out["likelihoods"].items()}
        # Outside of autocast: in bf16 the variances of structural measures are differences of nothing.
        return rate_distortion_loss(x, out, quality, self.cfg.metric, z_weight)

    def _resident_terms(self, kind: Kind) -> dict[str, Tensor]:
        """Loss terms of the next batch, whose gradients are computed: crops, forward and backward on the device."""
        device = self.processes.device

        def work(places: Tensor, quality: Tensor, z_weight: Tensor) -> dict[str, Tensor]:
            terms = self.image_loss(kind, self.resident.cut(places), quality, z_weight)
            self.optimizer.zero_grad(set_to_none=True)
            terms["loss"].backward()
            return {name: t.detach() for name, t in terms.items()}

        inputs = self.resident.places(self.cfg.batch), self._quality(), torch.tensor(self._z_weight())
        if device.type != "cuda":
            return work(*(t.to(device) for t in inputs))
        if self.replay is None or self.replay[0] != kind:
            self.replay = kind, Replay(work, device)
        return self.replay[1](*inputs)

    def step(self, kind: Kind, share: float) -> dict[str, Tensor]:
        """One step at a share of the peak rates; returns the loss terms and the gradient's norm."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * share
        noisy = self.cfg.quantization_noise and kind.contexts and kind.rate and kind.entropy
        with ExitStack() as inside:
            inside.enter_context(fast_convolutions(self.model))
            if self.bf16:
                inside.enter_context(float32_trunk(self.model))
            if noisy:
                inside.enter_context(quantization_noise(self.model))
            if self.resident and kind.transforms:
                terms = self._resident_terms(kind)
            else:
                if kind.transforms:
                    x = next(self.stream).to(self.processes.device, non_blocking=True)
                    terms = self.image_loss(kind, x, self._quality().to(x.device), self._z_weight())
                else:
                    terms = self.latent_loss(kind)
                self.optimizer.zero_grad(set_to_none=True)
                terms["loss"].backward()
        trained = [p for p in self.model.parameters() if p.grad is not None]
        self.processes.average_gradients(trained)
        norm = torch.nn.utils.clip_grad_norm_(trained, self.cfg.clip)
        # A rare bad batch is dropped instead of destroying the run; Adam looks at this without waiting for a GPU.
        self.optimizer.grad_scale, self.optimizer.found_inf = None, (~torch.isfinite(norm)).float()
        self.optimizer.step()
        with torch.no_grad():
            for weight in self.hidden if kind.entropy else ():
                weight.clamp_(-_HIDDEN_LIMIT, _HIDDEN_LIMIT)
        # Short memory at first: early weights are worth nothing.
        decay = min(self.cfg.ema, (1 + self.progress.step) / (10 + self.progress.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.model.parameters()), 1 - decay)
        return {**terms, "grad": norm}


def train(
    cfg: TrainConfig,
    progress: bool = True,
    stop: Callable[[], bool] = lambda: False,
    model: CrossChannelContextModel | None = None,
) -> Path:
    """Train a model; returns the path of the last checkpoint.

    Ends when all stages are over, when ``stop()`` says so (asked after every step), or at a KeyboardInterrupt, and
    writes a checkpoint in every case. A run that was stopped and resumed gives, step for step, the bits of one that
    was not (one thread, stages counted in steps).

    Args:
        cfg: what to train, on what, for how long.
        progress: show a bar.
        stop: asked after every step.
        model: the model to train, in place; its configuration stands for ``cfg.preset``. For transforms of one's own.
            None: made of ``cfg.preset``, or of the checkpoint that is resumed.

    Raises:
        FileNotFoundError: no data. ValueError: crops that no image, or the metric, can do with; unknown options.
    """
    deadline = Deadline(cfg.limit) if cfg.limit else None
    stages = parse_stages(cfg.stages)
    if deadline and len(stages) > 1:
        raise ValueError(f"a limit is for one stage, not for {len(stages)}")
    find_config(cfg.preset)  # what is wrong with it is said before any data is read
    learning_rate(cfg.schedule, 0.0, cfg.final_lr)
    for name in ("batch", "crop", "augment"):
        if getattr(cfg, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(cfg, name)!r}")
    if cfg.bf16 not in ("auto", "on", "off"):
        raise ValueError(f"bf16 must be auto, on or off, not {cfg.bf16!r}")
    if cfg.metric != "mse" and cfg.crop < MS_SSIM_CROP:
        raise ValueError(f"{cfg.metric} needs crops of at least {MS_SSIM_CROP} pixels, not {cfg.crop}")
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    out = Path(cfg.out)
    out.mkdir(parents=True, exist_ok=True)
    processes = Processes(cfg.device)
    try:
        run = _Run(cfg, processes, model)
        valid = load_images(cfg.valid)[:VALID_IMAGES] if cfg.valid and processes.first else []
        with open(out / "log.jsonl" if processes.first else "/dev/null", "a", encoding="utf-8", buffering=1) as log:
            _stages(run, stages, valid, log, progress and processes.first, stop, deadline)
    finally:
        processes.close()
    return out / "last.pt"


def _done(run: _Run, stage: Stage, deadline: Deadline | None) -> float:
    """The share of the stage that is over: 1 or more at its end, in all processes alike."""
    if deadline is None:
        return stage.done(run.progress.stage_hours, run.progress.stage_step)
    return run.processes.largest(deadline.done())[0]


def _steps_left(run: _Run, stages: list[Stage], done: float) -> int | None:
    """About how many steps are left, in this stage of which a share is ``done`` and in those after it.

    Stages of hours are counted by the pace of this one; None where it has none yet.
    """
    p = run.progress
    if not (done > 0 and p.stage_step and p.stage_hours):
        return None
    left = p.stage_step * (1 - min(done, 1.0)) / done
    for stage in stages[p.stage + 1 :]:
        left += stage.hours * p.stage_step / p.stage_hours if stage.hours else stage.steps
    return math.ceil(left)


def _stages(
    run: _Run,
    stages: list,
    valid: list,
    log,
    progress: bool,
    stop: Callable[[], bool],
    deadline: Deadline | None,
) -> None:
    cfg, p, last = run.cfg, run.progress, Path(run.cfg.out, "last.pt")

    def note(**values) -> None:
        log.write(json.dumps({**p.report(), **values}) + "\n")

    def check(stage: Stage) -> None:
        if valid:
            found = validate(
                run.ema, valid, metric=cfg.metric, context=stage.kind.contexts, rdoq=cfg.rdoq_in(stage.kind)
            )
            note(event="valid", stage=stage.name, **found)

    note(event="start", config=asdict(cfg), bf16=run.bf16, processes=run.processes.world)
    if deadline and p.stage < len(stages):  # what the end will take, and what the run starts from
        run.select(stages[p.stage].kind)
        before = time.monotonic()
        check(stages[p.stage])
        run.save(last)
        deadline.start(p.stage_hours, *run.processes.largest(time.monotonic() - before))
    bar = tqdm(disable=not progress, unit="step", initial=p.step)
    saved = validated = time.monotonic()
    mark = None
    try:
        while p.stage < len(stages):
            stage = stages[p.stage]
            run.select(stage.kind)
            run.latents = run.replay = None  # of the transforms as they are now, and of gradients that are no more
            if not stage.kind.transforms and p.stage_step == 0:
                run.take_averaged_transforms()
            learns = stage.kind.contexts and stage.kind.rate and stage.kind.entropy
            if learns and p.stage_step == 0 and (renewed := run.revive_stacks()):
                note(event="renewed", groups=renewed)
            run.stream = run.crops.stream(cfg.batch, cfg.workers)
            average: dict[str, Tensor] = {}
            while (done := _done(run, stage, deadline)) < 1:
                clock, cpu = time.monotonic(), time.process_time()
                mark = torch.get_rng_state(), run.crops.state()
                share = min(1.0, (p.stage_step + 1) / max(cfg.warmup, 1)) * learning_rate(
                    cfg.schedule, done, cfg.final_lr
                )
                terms = run.step(stage.kind, share)
                mark = None
                elapsed, stopping = run.processes.largest(time.monotonic() - clock, stop())
                world = run.processes.world
                gpus = world if run.processes.device.type == "cuda" else 0
                p.count(cfg.batch * world, elapsed, time.process_time() - cpu, gpus)
                for key in ("loss", "bpp", "bpp_z", "mse"):
                    if key in terms:  # tensors: reading them would wait for a GPU
                        value = terms[key].detach().mean().double()
                        average[key] = value if key not in average else 0.98 * average[key] + 0.02 * value
                bar.update()
                if p.step % 50 == 0:
                    means = {k: round(float(v), 6) for k, v in average.items()}
                    if "mse" in means:
                        means["psnr"] = round(psnr(average["mse"]), 6)
                    steps = _steps_left(run, stages, done)
                    if steps is not None:
                        bar.total = p.step + steps  # by which the bar says how long it will take
                    bar.set_postfix({"stage": stage.name, "bpp": f"{means['bpp']:.3f}"})
                    note(stage=stage.name, lr=share * cfg.lr, grad=float(terms["grad"]), **means)
                # The first process's clock decides for all: saving is a collective operation.
                late, due = run.processes.largest(
                    run.processes.first and time.monotonic() - validated > 60 * cfg.valid_minutes,
                    run.processes.first and time.monotonic() - saved > 60 * cfg.save_minutes,
                )
                if late:
                    check(stage)
                    validated = time.monotonic()
                if due:
                    run.save(last)
                    saved = time.monotonic()
                if stopping:
                    note(event="stopped", stage=stage.name)
                    run.save(last)
                    return
            check(stage)
            p.next_stage()
    except KeyboardInterrupt:
        if mark is not None:  # inside a step that did not come to its end: the next run begins with it
            torch.set_rng_state(mark[0])
            run.crops.restore(mark[1])
        note(event="interrupted")
    except BaseException:
        if run.processes.world == 1:  # else the others are elsewhere, and would not take part in saving
            run.save(last)
        raise
    finally:
        bar.close()
    run.save(last)
