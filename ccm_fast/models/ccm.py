"""The cross-channel context model: transforms, hyperprior and grouped context in one thin module."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccm_fast.constants import CONTEXT_LIMIT
from ccm_fast.entropy.likelihood import centroid, logistic_likelihood, scale_from_index

from .config import CCMConfig, find_config
from .context import GroupContext, relu
from .entropy import FactorizedPrior, ste_round, towards_mean
from .transforms import AnalysisTransform, HyperAnalysis, HyperSynthesis, SynthesisTransform

if TYPE_CHECKING:
    from ccm_fast.entropy.frozen import FrozenEntropyModel

__all__ = ["CrossChannelContextModel"]


#: Of a model, all that may be large: what makes each network from a configuration.
NETWORKS: dict[str, Callable[[CCMConfig], nn.Module]] = {
    "g_a": AnalysisTransform,
    "g_s": SynthesisTransform,
    "h_a": HyperAnalysis,
    "h_s": HyperSynthesis,
    "contexts": lambda c: nn.ModuleList(GroupContext(c, g) for g in range(len(c.groups))),
}


def weight_counts(config: CCMConfig) -> dict[str, int]:
    """How many weights each of :data:`NETWORKS` has, without memory for them."""
    with torch.device("meta"):
        return {name: sum(p.numel() for p in build(config).parameters()) for name, build in NETWORKS.items()}


class CrossChannelContextModel(nn.Module):
    """Learned image codec with the cross-channel context model of Ma, Wang, Liao and Ye (arXiv 2103.02884).

        x - g_a - * gain(q) - y -- round -- y_hat -- * 1 / gain(q) -- g_s -- x_hat
                              |               |
                              h_a             +--- own group (masked conv), earlier groups (conv stack)
                              |               |
                              z - round - h_s - psi ---> mean, scale of y_hat, group by group

    With one group this is the joint autoregressive and hyperprior model (Minnen et al. 2018, arXiv 1809.02736), the
    paper's baseline. One model serves all qualities by gain vectors (Cui et al. 2021, arXiv 2003.02012), interpolated
    between the trained levels.

    Args:
        config: a :class:`CCMConfig`, the name of a preset, or a JSON file; see
            :func:`~ccm_fast.models.config.find_config`.
        g_a: an analysis transform of one's own, images [B, 3, 16h, 16w] in [0, 1] -> [B, M, h, w]; None: the
            configuration's.
        g_s: a synthesis transform of one's own, [B, M, h, w] -> [B, 3, 16h, 16w]; None: the configuration's. What large
            images need of both is in :func:`ccm_fast.tiles.margin`.

    Raises:
        ValueError: no such preset, or a transform that gives other shapes.
    """

    def __init__(
        self, config: CCMConfig | str = "ccm-small", g_a: nn.Module | None = None, g_s: nn.Module | None = None
    ):
        super().__init__()
        self.config = find_config(config)
        c = self.config
        self.g_a = NETWORKS["g_a"](c) if g_a is None else g_a
        self.g_s = NETWORKS["g_s"](c) if g_s is None else g_s
        self.h_a = NETWORKS["h_a"](c)
        self.h_s = NETWORKS["h_s"](c)
        self.z_prior = FactorizedPrior(c.hyper_channels)
        self.contexts = NETWORKS["contexts"](c)
        # Finer quantization for higher qualities: from a step of 1 to one of 1/12 of y's unit, log-linear. Trained on.
        start = torch.linspace(0.0, math.log(12.0), c.qualities)[:, None].expand(-1, c.latent_channels)
        self.log_gain = nn.Parameter(start.clone())
        self.log_inverse_gain = nn.Parameter(-start.clone())
        #: The integer entropy model (:class:`ccm_fast.entropy.FrozenEntropyModel`) after :func:`ccm_fast.freeze`.
        self.frozen: FrozenEntropyModel | None = None
        #: Of g_s, float32 [2, M], once measured (:func:`ccm_fast.effort.distortion.sensitivities`).
        self.sensitivities: Tensor | None = None
        #: Short ways to pictures of 1/4 and 1/8 of the sides, once fitted (:mod:`ccm_fast.freezing.reduced`).
        self.reduced: dict[int, Tensor] = {}
        #: What the weights were trained for, "mse" or "ms-ssim": what an encoder may optimize, too.
        self.metric = "mse"
        #: The same, where it is another one than encoders optimize: "visual". Such models send no picture filters.
        self.trained_for = "mse"
        #: See :meth:`saturate`.
        self.ceiling: float | None = None
        for module in (self.g_a, self.g_s):
            # Before 2.14 torch's stubs lack it.
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload, unused-ignore]
        if g_a is not None:
            _check_transform("g_a", self.g_a, (1, 3, 64, 64), (1, c.latent_channels, 4, 4))
        if g_s is not None:
            _check_transform("g_s", self.g_s, (1, c.latent_channels, 4, 4), (1, 3, 64, 64))

    def saturate(self, ceiling: float | None) -> None:
        """Let activations of h_s and the contexts end at a ceiling, as the bytes do that they are when frozen.

        Args:
            ceiling: the largest activation; None: there is none, as in a new model. Floats that are made of integers
                have one (:func:`ccm_fast.freezing.thaw.thaw`).
        """
        self.ceiling = ceiling
        for group in cast("Iterable[GroupContext]", self.contexts):
            group.ceiling = ceiling

    @property
    def own_transforms(self) -> dict[str, str]:
        """Those of g_a and g_s that are not this package's, with the names of their classes."""
        pairs = (("g_a", self.g_a, AnalysisTransform), ("g_s", self.g_s, SynthesisTransform))
        return {
            name: f"{type(module).__module__}.{type(module).__qualname__}"
            for name, module, known in pairs
            if type(module) is not known
        }

    def _interpolate(self, table: Tensor, quality: Tensor) -> Tensor:
        # In double precision: libraries differ in the last bits of exp, and its rounding to single hides that.
        q = (quality.to(table).double() - 1.0).clamp(0, self.config.qualities - 1)
        low = q.floor().long().clamp(max=max(self.config.qualities - 2, 0))
        high = (low + 1).clamp(max=self.config.qualities - 1)
        w, wide = (q - low).unsqueeze(-1), table.double()
        return torch.exp(torch.lerp(wide[low], wide[high], w)).to(table)[:, :, None, None]

    def gain(self, quality: Tensor) -> Tensor:
        """Gain vectors [B, M, 1, 1] for qualities [B] in 1..8; the levels between are interpolated log-linearly."""
        return self._interpolate(self.log_gain, quality)

    def inverse_gain(self, quality: Tensor) -> Tensor:
        """The decoder's gain vectors [B, M, 1, 1] for qualities [B]."""
        return self._interpolate(self.log_inverse_gain, quality)

    def analysis(self, x: Tensor, quality: Tensor) -> Tensor:
        """y [B, M, h, w] (not rounded) of images [B, 3, H, W] in [0, 1]; h = ceil(H / 16). Pads by replication."""
        h, w = x.shape[-2:]
        x = F.pad(x, (0, -w % 16, 0, -h % 16), mode="replicate")
        return self.g_a(x.contiguous(memory_format=torch.channels_last)) * self.gain(quality)

    def synthesis(self, y_hat: Tensor, quality: Tensor, size: tuple[int, int]) -> Tensor:
        """Images [B, 3, *size], not clamped, of y_hat [B, M, h, w]."""
        x = self.g_s((y_hat * self.inverse_gain(quality)).contiguous(memory_format=torch.channels_last))
        return x[..., : size[0], : size[1]]

    def entropy_parameters(
        self,
        y_hat: Tensor,
        z_hat: Tensor,
        context: bool = True,
        choose: Callable[[slice, Tensor, Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mean and fractional scale index [B, M, h, w] of every symbol, given all of y_hat (float, all at once).

        Args:
            y_hat: symbols, float [B, M, h, w].
            z_hat: float [B, N, ceil(h / 4), ceil(w / 4)].
            context: False leaves out what is computed from y_hat: a cheap hyperprior to train the transforms with.
            choose: called for each group with its channels, means and indexes; gives the symbols that later groups see.
                Where symbols may be skipped it is called again with what these are in the context of its choice, which
                decoders have: once in training, thrice in evaluation, after which hardly any symbol changes.
        """
        psi = z_hat.clamp(-CONTEXT_LIMIT, CONTEXT_LIMIT)
        for module in self.h_s.children():
            psi = relu(psi, self.ceiling) if isinstance(module, nn.ReLU) else module(psi)
        psi = psi[..., : y_hat.shape[-2], : y_hat.shape[-1]]
        known = y_hat.clamp(-CONTEXT_LIMIT, CONTEXT_LIMIT)
        means, indexes, start = [], [], 0
        for group in cast("Iterable[GroupContext]", self.contexts):
            end = start + group.channels
            own = known[:, start:end]
            if not context:
                mean, index = group.parameters_from(group.hyper(psi))
            elif choose is None or self.config.skip_index < 0:
                mean, index = group(psi, known[:, :start] if start else None, own)
            else:
                base = group.base(psi, known[:, :start] if start else None)
                for _ in range(1 if self.training else 3):
                    with torch.no_grad():
                        found = group.parameters_beside(base, own)
                    own = choose(slice(start, end), *found).clamp(-CONTEXT_LIMIT, CONTEXT_LIMIT)
                mean, index = group.parameters_beside(base, own)
            if choose is not None:
                chosen = choose(slice(start, end), mean, index).clamp(-CONTEXT_LIMIT, CONTEXT_LIMIT)
                known = torch.cat([known[:, :start], chosen, known[:, end:]], 1)
            means.append(mean)
            indexes.append(index)
            start = end
        return torch.cat(means, 1), torch.cat(indexes, 1)

    def forward(
        self, x: Tensor, quality: Tensor | float = 4.0, context: bool = True, rdoq: bool = False
    ) -> dict[str, Any]:
        """Training and evaluation pass.

        Contexts, g_s and the likelihoods of y are those of the rounded symbols, as coded, with straight-through
        gradients (Minnen & Singh 2020). In training mode z has additive uniform noise instead (Balle et al. 2018), and
        so has y where the rate's gradient goes to it: under noise the rate is 18 % higher than the symbols' (mean over
        all qualities), and an entropy model that is trained for it codes 0.6 % worse at quality 2.

        Args:
            x: images, float [B, 3, H, W] in [0, 1].
            quality: one number, or float [B], from 1 (smallest) to 8 (best).
            context: see :meth:`entropy_parameters`.
            rdoq: symbols are those of :meth:`rdoq`, as the default encoder chooses them, not the nearest ones.

        Returns:
            ``{"x_hat": [B, 3, H, W], "likelihoods": {"y": [B, M, h, w], "z": [B, N, hz, wz]}}``
        """
        quality = torch.as_tensor(quality, dtype=torch.float32, device=x.device).expand(x.shape[0])
        y = self.analysis(x, quality)
        likelihoods, y_hat, mean, scale = self._entropy(y, context, rdoq)
        y_hat = self.reconstruct(y_hat, mean, scale)
        H, W = x.shape[-2:]
        return {"x_hat": self.synthesis(y_hat, quality, (H, W)), "likelihoods": likelihoods}

    def reconstruct(self, y_hat: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
        """What g_s reads, [B, M, h, w], for integer y_hat: see :attr:`CCMConfig.reconstruction`.

        Gradients go to y_hat alone: the entropy model is there to predict, not to draw reconstructions its way.
        """
        if self.config.reconstruction == "integer":
            return y_hat
        with torch.no_grad(), torch.autocast(y_hat.device.type, enabled=False):
            offset = centroid(y_hat.float(), mean, scale) - y_hat
        return y_hat + offset

    def likelihoods(self, y: Tensor, context: bool = True, rdoq: bool = False) -> dict[str, Tensor]:
        """The entropy model's part of :meth:`forward`: ``{"y": [B, M, h, w], "z": [B, N, hz, wz]}`` of y, unrounded."""
        return self._entropy(y, context, rdoq)[0]

    def rdoq(self, y: Tensor, z_hat: Tensor, context: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """Symbols by rate-distortion-optimized quantization (:func:`towards_mean`), with straight-through gradients.

        Groups are rounded one after another, each in the context of what the earlier ones have become and of its own
        nearest symbols: one run of the network, as for symbols that are known.

        Args:
            y: float [B, M, h, w], not rounded.
            z_hat: float [B, N, ceil(h / 4), ceil(w / 4)].
            context: see :meth:`entropy_parameters`.

        Returns:
            y_hat, whole numbers, and mean and fractional scale index of every symbol; float, of y's shape.
        """
        y_hat, _, mean, index = self._choose(y, z_hat, context, rdoq=True)
        return y_hat, mean, index

    def skipped(self, index: Tensor) -> Tensor:
        """Where symbols of these fractional scale indexes are not coded, bool of its shape."""
        limit = self.config.skip_index
        return index < (limit + 0.5 if limit >= 0 else -torch.inf)  # indexes are not clamped yet

    def _choose(self, y: Tensor, z_hat: Tensor, context: bool, rdoq: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What decoders get for y, what it would be if nothing were skipped, and mean and index of every symbol."""
        if not rdoq and self.config.skip_index < 0:
            y_hat = ste_round(y)
            return y_hat, y_hat, *self.entropy_parameters(y_hat, z_hat, context)
        parts: dict[int, tuple[Tensor, Tensor]] = {}

        def choose(channels: slice, mean: Tensor, index: Tensor) -> Tensor:
            own = y[:, channels]
            with torch.autocast(y.device.type, enabled=False), torch.no_grad():
                exact, mean, index = own.float(), mean.float(), index.float()
                scale = scale_from_index(index)
                wanted = towards_mean(exact, mean, scale, self.reconstruct) if rdoq else torch.round(exact)
                coded = torch.where(self.skipped(index), torch.round(mean), wanted)
            parts[channels.start] = own + (coded - own).detach(), own + (wanted - own).detach()
            return parts[channels.start][0]

        mean, index = self.entropy_parameters(ste_round(y), z_hat, context, choose)
        y_hat, wanted = (torch.cat(part, 1) for part in zip(*parts.values(), strict=True))
        return y_hat, wanted, mean, index

    def coded(self, y: Tensor, z_hat: Tensor) -> Tensor:
        """What the default effort codes, about: y by :meth:`rdoq`, or for other metrics than mse rounded.

        Args:
            y: float [B, M, h, w], not rounded.
            z_hat: float [B, N, ceil(h / 4), ceil(w / 4)].

        Returns:
            Whole numbers of y's type and shape.
        """
        return self._choose(y, z_hat, True, rdoq=self.metric == "mse")[0]

    def _entropy(self, y: Tensor, context: bool, rdoq: bool) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
        """Likelihoods of y, unrounded; y_hat, and mean and scale of every symbol."""
        z = self.h_a(y).float()  # under autocast, what is rounded and what likelihoods are made of is fp32
        # Noise for z, not rounding: early z lies within half a step of zero, and from an input that is rounded to zero
        # everywhere h_s would never learn that it carries anything.
        z_hat = z + torch.rand_like(z) - 0.5 if self.training else torch.round(z)
        y_hat, wanted, mean, index = self._choose(y, z_hat, context, rdoq)
        with torch.autocast(y.device.type, enabled=False):
            mean, scale = mean.float(), scale_from_index(index.float())
            if self.training:
                # Also of symbols that are skipped what they would cost: where that is much, they had better be coded,
                # and nothing else tells the scales so.
                likelihood = logistic_likelihood(wanted.detach(), mean, scale)
            else:
                likelihood = logistic_likelihood(y_hat, mean, scale).masked_fill(self.skipped(index), 1.0)
            if self.training and y.requires_grad:
                # y itself moves by the rate under noise, whose slope does not jump between symbols. 1 in value.
                noisy = logistic_likelihood(y + torch.rand_like(y) - 0.5, mean.detach(), scale.detach())
                likelihood = likelihood * (noisy / noisy.detach())
        return {"y": likelihood, "z": self.z_prior(z_hat)}, y_hat, mean, scale


@torch.no_grad()
def _check_transform(name: str, module: nn.Module, shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """Raises ValueError unless a transform gives the wanted shape, and has a parameter that says where it is."""
    weight = next(module.parameters(), None)
    if weight is None:
        raise ValueError(f"{name} has no parameter: one is needed, if only to say on which device it runs")
    training = module.training
    module.eval()
    try:
        found = module(torch.zeros(shape, dtype=weight.dtype, device=weight.device))
    except RuntimeError as error:
        raise ValueError(f"{name} does not take an input of {list(shape)}: {error}") from error
    finally:
        module.train(training)
    if tuple(found.shape) != wanted:
        raise ValueError(f"{name} makes {list(found.shape)} of {list(shape)}, not {list(wanted)}")
