"""Strings that CompressAI itself wrote, decoded with the net's own float operations in their original order.

Nothing may be reordered here: the same operators, on tensors of the same shapes and strides, give the same bits, and
one scale on the other side of a table border would spoil all that follows. What is saved is what is not arithmetic:
the tables are converted once instead of at every position, and no symbol passes through a Python list.

Such strings carry no checksum, but their coder ends in a known state. Decoding checks it, so a damaged string, one of
another net, or one of a machine whose floats differ is found out instead of returned.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccm_fast import _backend
from ccm_fast.errors import DamagedError, TruncatedError
from ccm_fast.interop.compressai.codecs import gaussian_of, leaves

__all__ = ["ExactDecoder", "looks_foreign", "string_lists"]

_WHY = (
    "it is damaged, was written with another net, or on a machine whose floating point differs: such strings decode"
    " only where the net computes exactly what it computed when they were written"
)


def looks_foreign(string: bytes) -> bool:
    """Whether a string could be CompressAI's: whole 32-bit words, and a first state that its coder can be in."""
    return len(string) >= 8 and len(string) % 4 == 0 and 1 << 31 <= int.from_bytes(string[:8], "little") < 1 << 63


def string_lists(net: nn.Module) -> int:
    """How many lists of strings the net's ``compress`` returns: those of y, then that of z."""
    if not hasattr(net, "latent_codec"):
        return 2
    return 1 + sum(2 if hasattr(leaf, "anchor_parity") else 1 for leaf in leaves(net.latent_codec["y"]))


def _rows(entropy_model: nn.Module):
    """The native tables of one of CompressAI's entropy models."""
    parts = (entropy_model.quantized_cdf, entropy_model.cdf_length, entropy_model.offset)
    return _backend.load().rans.CompressaiRows(*(p.detach().cpu().numpy().astype(np.int32) for p in parts))


class ExactDecoder:
    """Decodes CompressAI's own strings of one net, bit for bit as the net's ``decompress`` does.

    Args:
        net: updated, in evaluation mode, on the CPU.
    """

    def __init__(self, net: nn.Module):
        self.net = net
        self.y_codec = None
        if hasattr(net, "latent_codec"):
            self.y_codec = net.latent_codec["y"]
            hyper, gaussian = net.latent_codec["hyper"], gaussian_of(leaves(self.y_codec)[0])
        else:
            hyper, gaussian = net, net.gaussian_conditional
        self.h_s = hyper.h_s
        self.z_rows, self.y_rows = _rows(hyper.entropy_bottleneck), _rows(gaussian)
        self.medians = hyper.entropy_bottleneck.quantiles[:, 0, 1].detach()
        self.borders = gaussian.scale_table[:-1].contiguous()
        self.bound = gaussian.lower_bound_scale.bound

    @torch.no_grad()
    def latents(self, strings: list[list[bytes]], shape: tuple[int, int]) -> Tensor:
        """y_hat, float32 [B, M, 4 shape[0], 4 shape[1]].

        Args:
            strings: as many lists as :func:`string_lists` says, the last one of z, each with a string per image.
            shape: of z.

        Raises:
            TruncatedError, DamagedError: a string is not one that this net wrote on a machine like this one.
        """
        *y_lists, z_strings = strings
        channels = len(self.medians)
        row = np.repeat(np.arange(channels, dtype=np.int32), shape[0] * shape[1])
        symbols = []
        for k, string in enumerate(z_strings):
            decoder = self._decoder(self.z_rows, string)
            symbols.append(torch.from_numpy(decoder.decode(row)).reshape(1, channels, *shape))
            _check(decoder, f"image {k}: the z string")
        z_hat = torch.cat(symbols).type_as(self.medians)
        z_hat += self.medians.reshape(1, -1, 1, 1)
        params = self.h_s(z_hat)
        if self.y_codec is not None:
            return self._groups(y_lists, params)
        (y_strings,) = y_lists
        if hasattr(self.net, "context_prediction"):
            return self._raster(self.net, y_strings, params)
        scales, means = params, None
        if params.shape[1] == 2 * self.net.M:
            scales, means = params.chunk(2, 1)
        return self._parallel(y_strings, scales, means)

    def _parallel(self, strings: list[bytes], scales: Tensor, means: Tensor | None) -> Tensor:
        """Positions that do not depend on each other."""
        index = self._index(scales).numpy()
        symbols = []
        for k, string in enumerate(strings):
            decoder = self._decoder(self.y_rows, string)
            symbols.append(torch.from_numpy(decoder.decode(index[k])).reshape(1, *scales.shape[1:]))
            _check(decoder, f"image {k}: a y string")
        y_hat = torch.cat(symbols).to(scales.dtype)
        return y_hat if means is None else y_hat.add_(means)

    def _groups(self, strings: list[list[bytes]], params: Tensor) -> Tensor:
        """The groups of a latent codec, by the codec's own methods."""
        codecs = leaves(self.y_codec)
        if codecs == [self.y_codec]:
            return self._leaf(self.y_codec, strings, params)
        each = len(strings) // len(codecs)
        n, _, h, w = params.shape
        y_hat = torch.zeros(n, sum(self.y_codec.groups), h, w)
        parts = y_hat.split(self.y_codec.groups, dim=1)
        for k, leaf in enumerate(codecs):
            own = self.y_codec._get_ctx_params(k, params, parts)
            parts[k][:] = self._leaf(leaf, strings[each * k : each * (k + 1)], own)
        return y_hat

    def _leaf(self, leaf: nn.Module, strings: list[list[bytes]], params: Tensor) -> Tensor:
        if not hasattr(leaf, "anchor_parity"):
            return self._raster(leaf, strings[0], params)
        halves = leaf.unembed(params)
        n, _, h, w = halves.shape[1:]
        y_hat = params.new_zeros((2, n, leaf.context_prediction.in_channels, h, w))
        for i in range(2):
            near = leaf.unembed(leaf.context_prediction(leaf.embed(y_hat)))[i]
            if i == 0:
                near = leaf._mask_all(near)
            scales, means = leaf.latent_codec["y"]._chunk(leaf.entropy_parameters(leaf.merge(near, halves[i])))
            y_hat[i] = self._parallel(strings[i], scales, means)
        return leaf.embed(y_hat)

    def _raster(self, net: nn.Module, strings: list[bytes], params: Tensor) -> Tensor:
        """The autoregressive loop, position by position."""
        context = net.context_prediction
        weight, bias, k = context.weight, context.bias, context.kernel_size[0]
        pad = (k - 1) // 2
        h, w = params.shape[-2:]
        y_hat = torch.zeros(len(strings), context.in_channels, h + 2 * pad, w + 2 * pad)
        for b, string in enumerate(strings):
            decoder = self._decoder(self.y_rows, string)
            y, p = y_hat[b : b + 1], params[b : b + 1]
            for i, j in product(range(h), range(w)):
                if decoder.failed():  # nothing that follows would be right
                    break
                near = F.conv2d(y[:, :, i : i + k, j : j + k], weight, bias=bias)
                found = net.entropy_parameters(torch.cat((p[:, :, i : i + 1, j : j + 1], near), dim=1))
                scales, means = found.chunk(2, 1)
                v = torch.from_numpy(decoder.decode(self._index(scales).numpy()))
                y[0, :, i + pad, j + pad] = v.type_as(means).add_(means.reshape(-1))
            _check(decoder, f"image {b}: the y string")
        return F.pad(y_hat, (-pad, -pad, -pad, -pad))

    def _index(self, scales: Tensor) -> Tensor:
        """Table rows: the number of borders below each scale, as 63 comparisons in a loop find it."""
        bounded = torch.max(scales, self.bound)
        return torch.searchsorted(self.borders, bounded.contiguous(), out_int32=True)

    @staticmethod
    def _decoder(rows, string: bytes):
        return _backend.load().rans.CompressaiDecoder(rows, bytes(string))


def _check(decoder, what: str) -> None:
    status = decoder.finish()
    if status == 1:
        raise TruncatedError(f"{what}, which CompressAI wrote, ends before its last symbol; {_WHY}")
    if status:
        raise DamagedError(f"{what}, which CompressAI wrote, does not decode to its end: {_WHY}")
