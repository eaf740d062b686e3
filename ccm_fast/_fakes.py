"""Fake kernels: what shapes the operators return, for torch.compile, torch.export and opcheck.

Channel counts and stream lengths are not in the arguments' shapes but inside the packed model and the data, so those
dimensions are dynamic ("unbacked") sizes.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["register"]


def _size() -> torch.SymInt:
    return torch.library.get_ctx().new_dynamic_size()


def _pack_plan(plan: Tensor, isa: str) -> Tensor:
    return plan.new_empty([_size()])


def _pack_plan_cuda(plan: Tensor) -> Tensor:
    return plan.new_empty([_size()])


# Results are where the data is: the packed model stays in host memory even when the data is on a GPU.


def _decode_z(packed: Tensor, data: Tensor, segments: Tensor, hz: int, wz: int, threads: int):
    batch = segments.shape[0]
    return data.new_empty([batch, hz, wz, _size()], dtype=torch.int16), data.new_empty([batch], dtype=torch.int32)


def _hyper(packed: Tensor, z_hat: Tensor, h: int, w: int, threads: int) -> Tensor:
    return z_hat.new_empty([z_hat.shape[0], h, w, _size()], dtype=torch.uint8)


def _decode_y(packed: Tensor, psi: Tensor, data: Tensor, segments: Tensor, threads: int):
    y_hat = psi.new_empty([*psi.shape[:3], _size()], dtype=torch.int16)
    return y_hat, psi.new_empty([psi.shape[0]], dtype=torch.int32)


def _decode_y_parameters(packed: Tensor, psi: Tensor, data: Tensor, segments: Tensor, threads: int):
    y_hat, status = _decode_y(packed, psi, data, segments, threads)
    return y_hat, status, torch.empty_like(y_hat), torch.empty_like(y_hat)


def _decode_y_restored(packed: Tensor, psi: Tensor, data: Tensor, segments: Tensor, shifts: Tensor, threads: int):
    y_hat, status = _decode_y(packed, psi, data, segments, threads)
    return y_hat, status, torch.empty_like(y_hat, dtype=torch.float32)


def _encode_z(packed: Tensor, z_hat: Tensor, lanes: int, threads: int):
    data = z_hat.new_empty([_size()], dtype=torch.uint8)
    return data, z_hat.new_empty([z_hat.shape[0], 3], dtype=torch.int64)


def _encode_y(packed: Tensor, psi: Tensor, y_hat: Tensor, lanes: int, threads: int):
    return psi.new_empty([_size()]), psi.new_empty([psi.shape[0], _size(), 3], dtype=torch.int64)


def _encode_y_residual(packed: Tensor, psi: Tensor, y: Tensor, lanes: int, threads: int):
    return *_encode_y(packed, psi, y, lanes, threads), torch.empty_like(y, dtype=torch.int16)


def _settle_y(packed: Tensor, psi: Tensor, y_hat: Tensor, threads: int):
    return torch.empty_like(y_hat), torch.empty_like(y_hat), torch.empty_like(y_hat)


def _settled(packed: Tensor, psi: Tensor, y_hat: Tensor, threads: int) -> Tensor:
    return torch.empty_like(y_hat)


def _encode_settled(packed: Tensor, psi: Tensor, y_hat: Tensor, lanes: int, threads: int):
    return *_encode_y(packed, psi, y_hat, lanes, threads), torch.empty_like(y_hat)


def _parameters(packed: Tensor, psi: Tensor, y_hat: Tensor, threads: int):
    return torch.empty_like(y_hat), torch.empty_like(y_hat)


def _int8_product(x: Tensor, w: Tensor, isa: str, repeats: int) -> Tensor:
    return x.new_empty([x.shape[0], w.shape[0]], dtype=torch.int32)


def _pack_panels(matrix: Tensor, int16: bool, whole: bool) -> Tensor:
    rows, pad = matrix.shape[0], (matrix.shape[1] + 15) // 16 * 16
    return matrix.new_empty([pad + (rows + 7) // 8 * 4 * pad if int16 else rows * pad])


def _pack_winograd(weight: Tensor, in_phases: int, out_phases: int, int16: bool) -> Tensor:
    return weight.new_empty([_size()])


def _conv3x3(x: Tensor, weight: Tensor, bias: Tensor, stride: int, *_) -> Tensor:
    return x.new_empty([x.shape[0], x.shape[1] // stride, x.shape[2] // stride, weight.shape[0]])


def _conv3x3_input_gradient(dy: Tensor, weight: Tensor, stride: int, *_) -> Tensor:
    return dy.new_empty([dy.shape[0], dy.shape[1] * stride, dy.shape[2] * stride, weight.shape[3]])


def _conv3x3_weight_gradient(x: Tensor, dy: Tensor, *_) -> Tensor:
    return x.new_empty([dy.shape[3], 3, 3, x.shape[3]])


def _move_symbols(symbols: Tensor, offset: Tensor, row: Tensor, slope: Tensor, *_) -> Tensor:
    return torch.empty_like(slope)


def _coded_bits(symbols: Tensor, *_) -> Tensor:
    return symbols.new_empty([symbols.shape[0]], dtype=torch.float64)


def _cell_errors(cells: Tensor, *_) -> Tensor:
    return cells.new_empty([cells.shape[0]])


def _checksum(x: Tensor) -> Tensor:
    return x.new_empty([1], dtype=torch.int64)


def _nothing(*_) -> None:
    """Of operators that write to one of their arguments."""


def register() -> None:
    """Register a fake kernel for every operator that takes tensors. Call once, after the library is loaded."""
    fakes = {
        "pack_plan": _pack_plan,
        "pack_plan_cuda": _pack_plan_cuda,
        "decode_z": _decode_z,
        "hyper": _hyper,
        "decode_y": _decode_y,
        "decode_y_parameters": _decode_y_parameters,
        "decode_y_restored": _decode_y_restored,
        "encode_z": _encode_z,
        "encode_y": _encode_y,
        "encode_y_residual": _encode_y_residual,
        "settle_y": _settle_y,
        "settled": _settled,
        "encode_settled": _encode_settled,
        "parameters": _parameters,
        "int8_product": _int8_product,
        "huge_pages": _nothing,
        "checksum": _checksum,
        "picture_filter": _nothing,
        "pack_panels": _pack_panels,
        "pack_winograd": _pack_winograd,
        "winograd": _nothing,
        "direct": _nothing,
        "move_symbols": _move_symbols,
        "coded_bits": _coded_bits,
        "cell_errors": _cell_errors,
        "conv3x3": _conv3x3,
        "conv3x3_input_gradient": _conv3x3_input_gradient,
        "conv3x3_weight_gradient": _conv3x3_weight_gradient,
    }
    for name, fake in fakes.items():
        torch.library.register_fake(f"ccm_fast::{name}", fake)
