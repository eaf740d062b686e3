"""The frozen entropy model: a plan, and the engines that run it."""

from __future__ import annotations

from ccm_fast.entropy.stream_decoding import StreamDecoding
from ccm_fast.entropy.stream_encoding import StreamEncoding

__all__ = ["FrozenEntropyModel"]


class FrozenEntropyModel(StreamEncoding, StreamDecoding):
    """Everything between the bytes of a stream and the latents, in integers.

    Latents and features are channel-last tensors, on the CPU or (engine "cuda") on a GPU: z_hat int16 [B, hz, wz, N]
    with hz = ceil(h / 4), psi uint8 [B, h, w, P], y_hat int16 [B, h, w, M] in units of ``y_unit``. All engines give the
    same bytes and numbers.

    Residual models round y - mean instead of y: :meth:`encode_y_residual` takes the place of :meth:`encode_y`.

    Args:
        plan: the frozen model's numbers.
        shifts: what symbols stand for beside themselves, see :class:`ccm_fast.entropy.centroids.Centroids`; no part of
            what files depend on.
    """
