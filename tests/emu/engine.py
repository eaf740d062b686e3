"""The emulated CUDA engine in Python: the operators' names and results, on CPU tensors."""

import ctypes
import functools
import os
from unittest import mock

import torch

import build


@functools.cache
def library(flavour="plain"):
    lib = ctypes.CDLL(str(build.build(flavour)))
    lib.ccm_emu_error.restype = ctypes.c_char_p
    for name in ("pack", "decode_z", "hyper", "decode_y", "encode_y", "encode_z", "stream_capacity"):
        getattr(lib, f"ccm_emu_{name}").restype = ctypes.c_int64
    return lib


def schedule(**settings):
    """Settings of the emulator for the launches inside: seed, resident, smem, sms (see cuda_emu.h)."""
    return mock.patch.dict(os.environ, {f"CCM_EMU_{k.upper()}": str(v) for k, v in settings.items()})


def _p(t):
    assert t.is_contiguous()
    return ctypes.c_void_p(t.data_ptr())


class EmulatedEngine:
    """One plan on the emulated device. `threads` of a block, `blocks` of the persistent kernel, bytes of `shared`.

    `crew`: blocks that compute a group's networks, slots << 8 | parts; -1: as pays, 0: none.
    """

    def __init__(self, plan, threads=0, blocks=0, shared=-1, flavour=None, crew=-1):
        self.plan, self.lib = plan, library(flavour or os.environ.get("CCM_EMU_FLAVOUR", "plain"))
        self.options = (ctypes.c_int32 * 4)(threads, blocks, shared, crew)
        raw = plan.to_bytes()
        size = self._check(self.lib.ccm_emu_pack(raw, ctypes.c_int64(len(raw)), None, ctypes.c_int64(0)))
        self.model = torch.empty(size, dtype=torch.uint8)
        self._check(self.lib.ccm_emu_pack(raw, ctypes.c_int64(len(raw)), _p(self.model), ctypes.c_int64(size)))

    def _check(self, result):
        if result < 0:
            raise RuntimeError(self.lib.ccm_emu_error().decode())
        return result

    def _call(self, name, *arguments):
        return self._check(getattr(self.lib, f"ccm_emu_{name}")(_p(self.model), self.options, *arguments))

    def decode_z(self, data, segments, hz, wz):
        b = segments.shape[0]
        z = torch.full((b, hz, wz, self.plan.hyper_channels), 9999, dtype=torch.int16)
        status = torch.full((b,), -1, dtype=torch.int32)
        self._call("decode_z", _p(data), ctypes.c_int64(data.numel()), _p(segments), b, hz, wz, _p(z), _p(status))
        return z, status

    def hyper(self, z, h, w):
        psi = torch.full((z.shape[0], h, w, self.plan.psi_channels), 77, dtype=torch.uint8)
        self._call("hyper", _p(z), z.shape[0], h, w, _p(psi))
        return psi

    def decode_y(self, psi, data, segments):
        return self.decode_y_restored(psi, data, segments, None)[:2]

    def decode_y_restored(self, psi, data, segments, shifts):
        """y, status and what symbols stand for, given shifts float32 [rows, 2 reach + 1]."""
        b, h, w, _ = psi.shape
        y = torch.full((b, h, w, self.plan.latent_channels), 9999, dtype=torch.int16)
        status = torch.full((b,), -1, dtype=torch.int32)
        restored = None if shifts is None else torch.full(y.shape, 9999.0)
        reach, out = (0, None) if shifts is None else (shifts.shape[1] // 2, _p(restored))
        size = ctypes.c_int64(data.numel())
        self._call(
            "decode_y", _p(psi), _p(data), size, _p(segments), b, h, w, _p(y), _p(status),
            None if shifts is None else _p(shifts), reach, out,
        )  # fmt: skip
        return y, status, restored

    def _streams(self, b, groups, symbols):
        capacity = self.lib.ccm_emu_stream_capacity(ctypes.c_int64(symbols))
        data = torch.full((b * groups * capacity,), 0x5A, dtype=torch.uint8)
        segments = torch.full((b, groups, 3), -7, dtype=torch.int64)
        status = torch.full((b,), -1, dtype=torch.int32)
        return capacity, data, segments, status

    def encode_y(self, psi, y, lanes):
        b, h, w, _ = psi.shape
        groups = self.plan.group_channels
        capacity, data, segments, status = self._streams(b, len(groups), h * w * max(groups))
        y_hat = torch.full((b, h, w, self.plan.latent_channels), 9999, dtype=torch.int16)
        out = (_p(y_hat), _p(data), ctypes.c_int64(capacity), _p(segments), _p(status))
        self._call("encode_y", _p(psi), _p(y), b, h, w, lanes, *out)
        return y_hat, data, segments, status

    def encode_z(self, z, lanes):
        b, hz, wz, channels = z.shape
        capacity, data, segments, status = self._streams(b, 1, hz * wz * channels)
        self._call("encode_z", _p(z), b, hz, wz, lanes, _p(data), ctypes.c_int64(capacity), _p(segments), _p(status))
        return data, segments  # every z can be coded: its status is not used
