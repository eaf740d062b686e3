"""CompressAI's contract on the integer engine: the object that ``ccm_fast.accelerate`` returns.

    x -- g_a --> y --------------------------+--> rANS, mean by mean (encode_y_residual) --> y string
                 |                           |
                 h_a -- round(z - median) ---+ h_s (integers) --> psi
                                '--> rANS --> z string

:func:`accelerate` makes one, :func:`restore` reads one from a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ccm_fast.constants import SYMBOL_MAX
from ccm_fast.decoding import check_fingerprint, check_structure, decode_latents, parse_packets
from ccm_fast.eager import eager
from ccm_fast.encoding import check_images, packets_of, strings_of
from ccm_fast.engines import stage, torch_threads
from ccm_fast.entropy.frozen import FrozenEntropyModel
from ccm_fast.errors import BitstreamError, DamagedError, EncodeError, ModelError, NotCcmError
from ccm_fast.interop.compressai.exact import ExactDecoder, looks_foreign, string_lists
from ccm_fast.interop.compressai.floats import Sample, sample
from ccm_fast.interop.compressai.lower import lower
from ccm_fast.interop.compressai.parts import EntropyNet
from ccm_fast.interop.compressai.read import read
from ccm_fast.interop.compressai.samples import dead_leaves
from ccm_fast.interop.compressai.saved import read_saved, write_saved
from ccm_fast.interop.compressai.synthesis import fast_transform
from ccm_fast.pixels import image_tensor
from ccm_fast.stream.limits import MAX_PIXELS, check_size
from ccm_fast.stream.packet import Packet, parse_strings, peek
from ccm_fast.tiles import STRIDE

__all__ = ["AcceleratedNet", "accelerate", "restore"]

#: Calibration pictures of our own, and the side of the crops that are taken of each picture.
PICTURES, CROP = 48, 256
#: Fine-tuning steps with and without enough pictures not to learn them by heart.
STEPS, ENOUGH = 150, 16


class AcceleratedNet:
    """A CompressAI net whose entropy path is integer; made by :func:`accelerate` or :func:`restore`.

    Attributes:
        net: the net itself. Its transforms were copied: after training it further, accelerate it again.
        frozen: the integer entropy model.
        exact: strings that CompressAI wrote are decoded too.
    """

    def __init__(self, net: nn.Module, entropy: EntropyNet, frozen: FrozenEntropyModel, exact: bool, fast: bool):
        self.net, self.frozen, self.exact = net, frozen, exact
        self._entropy = entropy
        rows = frozen.plan.z_rows
        self._constant = int(rows.n[-1]) - 2 if frozen.plan.hyper_channels > entropy.hyper_channels else 0
        self._foreign: ExactDecoder | None = None
        self._foreign_parts = string_lists(net)
        self._own: dict[str, Any] = {"g_a": net.g_a, "h_a": entropy.h_a, "g_s": net.g_s}
        self._fast = {name: fast_transform(module) for name, module in self._own.items()} if fast else {}

    @property
    def accelerated(self) -> AcceleratedNet:
        """Itself: ``ccm_fast.compress`` and ``decompress`` take the net or this."""
        return self

    def __repr__(self) -> str:
        return f"AcceleratedNet({type(self.net).__name__}, {self.frozen.fingerprint.hex()})"

    def _transform(self, name: str) -> Any:
        """The fast copy of g_a, h_a or g_s; of a net that has been moved to a GPU since, its own."""
        own = self._own[name]
        return own if next(self.net.parameters()).device.type != "cpu" else self._fast.get(name, own)

    # -----------------------------------------------------------------------------------------------------------------

    @eager
    def compress(
        self,
        x: Tensor,
        *,
        lanes: int = 0,
        threads: int | None = None,
        engine: str | None = None,
        timings: dict[str, float] | None = None,
    ) -> dict[str, Any]:
        """Compress images, by CompressAI's contract.

        Args:
            x: float [B, 3, H, W]; any size: sides that are no multiples of 16 are padded with their edges, and
                :meth:`decompress` returns the size that came in.
            lanes: rANS lanes per stream (1, 2, 4, 8, 16, 32, 64, 128); 0 chooses them by the payload.
            threads: of torch and of the entropy coder; None: torch's setting.
            engine: "cpu" or "reference" (plain Python, slow); None: "cpu". Residual latents are encoded on the CPU.
            timings: if given, seconds are added to its keys ``g_a``, ``h_a``, ``h_s`` and ``entropy``.

        Returns:
            ``{"strings": [[y string of each image], [z string of each image]], "shape": (hz, wz)}``.

        Raises:
            TypeError, ValueError: x is no such tensor.
            EncodeError: latents that are not finite, or beyond what the format carries.
        """
        check_images(x)
        return strings_of(self.encode(x, lanes=lanes, threads=threads, engine=engine, timings=timings))

    def encode(
        self,
        x: Tensor,
        *,
        grey: bool = False,
        lanes: int = 0,
        threads: int | None = None,
        engine: str | None = None,
        timings: dict[str, float] | None = None,
    ) -> list[Packet]:
        """The packets of images; ``grey`` marks them as grey. The rest is as for :meth:`compress`."""
        H, W = x.shape[-2:]
        check_size(W, H, None)
        weight = next(self.net.parameters())
        with torch.inference_mode(), torch_threads(threads) as count:
            options: dict[str, Any] = {"threads": count, "engine": engine or "cpu"}
            with stage(timings, "g_a"):
                padded = F.pad(x.to(weight), (0, -W % STRIDE, 0, -H % STRIDE), mode="replicate")
                y = self._transform("g_a")(padded)
            with stage(timings, "h_a"):
                z_hat = self._z_symbols(self._transform("h_a")(y.abs() if self._entropy.kind == "scale" else y))
                y = y.permute(0, 2, 3, 1).to("cpu")
            with stage(timings, "h_s"):
                psi = self.frozen.hyper(z_hat, *y.shape[1:3], **options)
            with stage(timings, "entropy"):
                z_streams = self.frozen.encode_z(z_hat, lanes=lanes, version=2, **options)
                try:
                    y_streams, _ = self.frozen.encode_y_residual(psi, y, lanes=lanes, version=2, **options)
                except ValueError as error:
                    raise EncodeError(f"this net cannot code this image: {error}") from error
        return packets_of(self.frozen, (H, W), [0] * len(x), z_streams, y_streams, grey)

    def _z_symbols(self, z: Tensor) -> Tensor:
        """round(z - median), int16 [B, hz, wz, channels], with the constant channel."""
        medians = self._entropy.medians.to(z).reshape(1, -1, 1, 1)
        symbols = torch.round(z - medians).permute(0, 2, 3, 1).to("cpu")
        if not bool((symbols.abs() <= SYMBOL_MAX).all()):  # NaN too
            raise EncodeError("z leaves the range of 16-bit symbols: this net cannot code this image")
        if self._constant:
            symbols = F.pad(symbols, (0, 1), value=self._constant)
        return symbols.to(torch.int16).contiguous()

    @eager
    def decompress(
        self,
        strings: Sequence[Sequence[bytes]],
        shape: tuple[int, int] | None = None,
        *,
        threads: int | None = None,
        engine: str | None = None,
        max_pixels: int | None = MAX_PIXELS,
        timings: dict[str, float] | None = None,
    ) -> dict[str, Any]:
        """Decompress strings of :meth:`compress`, or (if ``exact``) strings that CompressAI itself wrote.

        The latter are decoded by the net's own float operations in their original order: the same picture, bit for bit,
        as ``net.decompress`` gives, and the same limits: on a machine whose floats differ from the writer's they do not
        decode, which is found out and said.

        Args:
            strings: ``[[y string of each image], [z string of each image]]``.
            shape: as returned by compress; our own strings know it, and None leaves it to them.
            threads: of torch and of the entropy decoder; None: torch's setting.
            engine: "cpu", "cuda" or "reference"; None: "cuda" if the net is on a GPU and the build has it.
            max_pixels: largest image to decode; None: no limit but the format's.
            timings: if given, seconds are added to its keys ``z``, ``h_s``, ``entropy`` and ``g_s``.

        Returns:
            ``{"x_hat": float32 [B, 3, H, W] in [0, 1]}``.

        Raises:
            BitstreamError: one of its subclasses says what is wrong with the strings.
            ValueError: strings of another structure, or images of different sizes.
        """
        if isinstance(shape, dict):  # what nets of latent codecs return
            shape = shape.get("hyper")
        if self._foreign_parts != 2 and isinstance(strings, (list, tuple)) and len(strings) == self._foreign_parts:
            check_structure(strings, self._foreign_parts)
            if not all(looks_foreign(s) for part in strings for s in part):
                raise NotCcmError("these are neither strings of this package nor of CompressAI")
            return self._decompress_foreign(strings, shape, threads, max_pixels, timings)
        check_structure(strings)
        if not all(self._ours(y, max_pixels) for y in strings[0]):
            self._explain(strings, shape, max_pixels)
            return self._decompress_foreign(strings, shape, threads, max_pixels, timings)
        packets = parse_packets(self.frozen, strings, shape, max_pixels)
        return {"x_hat": self.decode(packets, threads=threads, engine=engine, timings=timings)[0]}

    def decode(
        self,
        packets: Sequence[Packet],
        *,
        threads: int | None = None,
        engine: str | None = None,
        timings: dict[str, float] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Images float32 [B, 3, H, W] in [0, 1], and y_hat in 1/16, int16 [B, h, w, M], of equally large packets.

        The rest is as for :meth:`decompress`.
        """
        device = next(self.net.parameters()).device
        options: dict[str, Any] = {"threads": threads, "engine": engine, "device": device, "timings": timings}
        y_hat = decode_latents(self.frozen, packets, **options)
        H, W = packets[0].height, packets[0].width
        with torch.inference_mode(), torch_threads(threads), stage(timings, "g_s"):
            y = y_hat.to(next(self.net.parameters())).permute(0, 3, 1, 2) * self.frozen.y_unit
            x_hat = self._transform("g_s")(y)[..., :H, :W].clamp(0, 1).float()
            x_hat = x_hat.clone(memory_format=torch.contiguous_format)
            for k, packet in enumerate(packets):
                if packet.grey:
                    x_hat[k] = x_hat[k].mean(0, keepdim=True)
        return x_hat, y_hat

    # -----------------------------------------------------------------------------------------------------------------
    # Strings that are not this model's

    def _ours(self, y_string: bytes, max_pixels: int | None) -> bool:
        try:
            return peek(y_string, max_pixels).fingerprint == self.frozen.fingerprint
        except BitstreamError:
            # Too short, or a size beyond the limits behind our fingerprint: still ours, and its parser will say so.
            return bytes(y_string[1:9]) == self.frozen.fingerprint

    def _explain(self, strings: Sequence[Sequence[bytes]], shape: object, max_pixels: int | None) -> None:
        """Raise what can be said about strings that are neither ours nor, possibly, CompressAI's."""
        for y, z in zip(*strings, strict=True):
            if self._ours(y, max_pixels):
                raise ValueError("the strings are partly of this package and partly of another: decompress them singly")
            if self._ours(z, max_pixels):
                raise DamagedError("y and z strings are swapped: strings must be [[y strings], [z strings]]")
            other = _other_model(y, z)
            if other is not None:
                check_fingerprint(other, self.frozen)
            if not (looks_foreign(y) and looks_foreign(z)):
                raise NotCcmError("these are neither strings of this package nor of CompressAI")

    def _decompress_foreign(
        self,
        strings: Sequence[Sequence[bytes]],
        shape: tuple[int, int] | None,
        threads: int | None,
        max_pixels: int | None,
        timings: dict[str, float] | None,
    ) -> dict[str, Tensor]:
        if not self.exact:
            raise NotCcmError(
                "CompressAI wrote these strings: their decoding depends on floats, so they decode only on a machine"
                " like the writer's, and slowly; accelerate(net, exact=True) does it"
            )
        if shape is None:
            raise ValueError("strings that CompressAI wrote need the shape that its compress returned")
        hz, wz = (int(s) for s in shape)
        if hz < 1 or wz < 1:
            raise ValueError(f"shape must be two positive numbers, not {tuple(shape)}")
        check_size(64 * wz, 64 * hz, max_pixels)
        if next(self.net.parameters()).device.type != "cpu":
            raise ValueError("strings that CompressAI wrote are decoded on the CPU: move the net there")
        if self._foreign is None:
            self._foreign = ExactDecoder(self.net)
        with torch.no_grad(), torch_threads(threads):
            with stage(timings, "entropy"):
                y_hat = self._foreign.latents([list(part) for part in strings], (hz, wz))
            with stage(timings, "g_s"):
                return {"x_hat": self._own["g_s"](y_hat).clamp_(0, 1)}

    # -----------------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path, whole: bool = False) -> None:
        """Write the frozen entropy model, so that another machine shares exactly this one.

        Args:
            path: the file, by custom NAME.safetensors; replaced in one go.
            whole: with the net's own parameters: ``ccm_fast.load(path)`` and ``ccm-fast -m path`` then need nothing
                else but CompressAI. Without them, ``ccm_fast.load(path, net)`` reads it, with the same net.

        Raises:
            ModelError: a whole net of a class that is not CompressAI's.
        """
        write_saved(path, self.net, self.frozen.to_bytes(), self._entropy.medians, whole)


def _other_model(y: bytes, z: bytes) -> bytes | None:
    """The fingerprint of a whole packet of some other model, or None."""
    for groups in range(1, 33):
        try:
            return parse_strings(y, z, groups, None).fingerprint
        except BitstreamError:
            continue
    return None


# ---------------------------------------------------------------------------------------------------------------------


@eager
def accelerate(
    net: nn.Module,
    images: Sequence[Tensor | np.ndarray] | Tensor | None = None,
    *,
    steps: int | None = None,
    exact: bool = True,
    fast: bool = True,
    seed: int = 0,
    history: list[float] | None = None,
    progress: bool = False,
) -> AcceleratedNet:
    """Give a trained CompressAI net an integer entropy path: fast, and exact on every machine.

    The net itself is not changed, but remembers the result: ``ccm_fast.compress(net, x)`` and
    ``ccm_fast.decompress(net, strings, shape)`` then use it.

    Args:
        net: one of CompressAI's JointAutoregressiveHierarchicalPriors (mbt2018), Cheng2020Anchor, Cheng2020Attention,
            ScaleHyperprior, MeanScaleHyperprior, Cheng2020AnchorCheckerboard, Elic2022Official or Elic2022Chandelier,
            trained, after ``net.update()``; put into evaluation mode.
        images: calibration pictures, each float [3, H, W] in [0, 1] or uint8 [H, W, 3] or [3, H, W]; some 32 varied
            photographs. None: pictures of our own (:mod:`ccm_fast.interop.compressai.samples`).
        steps: of fine-tuning the integers; None: 150 with at least 16 pictures, else none.
        exact: strings that CompressAI itself wrote are decoded too; False: they raise an error.
        fast: transforms are rearranged for speed (floats differ in their last bits); False: the net's own modules.
        seed: of crops and order.
        history: if given, the relative excess of code length over the float net's is appended, before, during and after
            fine-tuning.
        progress: show bars.

    Raises:
        ModelError: a net that cannot be taken over; the message lists those that can.
        NotFrozenError: ``net.update()`` has not been called.
        ValueError: no pictures, or not pictures.
    """
    entropy = read(net)
    net.eval()
    if images is None:
        images = dead_leaves(PICTURES, CROP, seed)
    if not len(images):
        raise ValueError("calibration needs pictures; None takes some of our own")
    data = _collect(net, entropy, images, seed, progress)
    steps = (STEPS if len(data) >= ENOUGH else 0) if steps is None else steps
    plan = lower(entropy, data, steps, seed=seed, history=history, progress=progress)
    return _attach(AcceleratedNet(net, entropy, FrozenEntropyModel(plan), exact, fast))


def _attach(fast: AcceleratedNet) -> AcceleratedNet:
    object.__setattr__(fast.net, "accelerated", fast)  # no submodule: not in the state dict
    return fast


@torch.no_grad()
def _collect(
    net: nn.Module, entropy: EntropyNet, images: Iterable[Tensor | np.ndarray], seed: int, progress: bool
) -> list[Sample]:
    g_a: Any = net.g_a
    generator = torch.Generator().manual_seed(seed)
    weight = next(net.parameters())
    data = []
    for image in tqdm(images, disable=not progress, unit="picture", desc="latents"):
        x = image_tensor(image)
        i, j = (int(torch.randint(max(1, s - CROP + 1), (1,), generator=generator)) for s in x.shape[1:])
        x = x[None, :, i : i + CROP, j : j + CROP].to(weight)
        x = F.pad(x, (0, -x.shape[-1] % 64, 0, -x.shape[-2] % 64), mode="replicate")
        y = g_a(x)
        z = entropy.h_a(y.abs() if entropy.kind == "scale" else y)
        data.append(sample(entropy, y.float().cpu(), z.float().cpu()))
    return data


def restore(path: str | Path, net: nn.Module | None = None, *, exact: bool = True, fast: bool = True) -> AcceleratedNet:
    """An accelerated net from what :meth:`AcceleratedNet.save` wrote; ``ccm_fast.load(path, net)`` calls it.

    Args:
        path: the file.
        net: the net that was accelerated, with the same parameters; None: the file's own, if it was saved whole.
        exact: as for :func:`accelerate`.
        fast: as for :func:`accelerate`.

    Raises:
        FileNotFoundError: no such file.
        ModelError: not such a file, one of another net, or one without a net where none is given.
        ImportError: no net is given, and CompressAI is not installed.
    """
    path = Path(path)
    net, plan, medians = read_saved(path, net)
    entropy = read(net)
    net.eval()
    frozen = FrozenEntropyModel(plan)
    same = (
        frozen.plan.group_channels == tuple(group.channels for group in entropy.groups)
        and frozen.plan.hyper_channels - entropy.hyper_channels in (0, 1)
        and frozen.plan.residual
        and medians.shape == entropy.medians.shape
    )
    if not same or not torch.equal(medians, entropy.medians):
        raise ModelError(f"{path.name} belongs to another net: sizes or medians differ")
    return _attach(AcceleratedNet(net, entropy, frozen, exact, fast))
