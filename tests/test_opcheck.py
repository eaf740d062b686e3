"""The operators as torch sees them: schemas, fake kernels, dispatch."""

import numpy as np
import pytest
import tiny
import torch

from ccm_fast import _backend
from ccm_fast.entropy.centroids import REACH
from ccm_fast.entropy.tables import gaussian_rows
from ccm_fast.entropy.testing import random_plan

ops = _backend.load().ops


@pytest.fixture(scope="module")
def tensors():
    rng = np.random.default_rng(0)
    plan = random_plan(rng, groups=(4, 4), hyper_channels=3)
    plan_bytes = torch.frombuffer(bytearray(plan.to_bytes()), dtype=torch.uint8)
    packed = ops.pack_plan(plan_bytes, "")
    z = torch.from_numpy(rng.integers(-2, 3, (2, 2, 3, 3)).astype(np.int16))
    psi = ops.hyper(packed, z, 6, 10, 1)
    y = torch.from_numpy(rng.integers(-2, 3, (2, 6, 10, 8)).astype(np.int16))
    return plan_bytes, packed, z, psi, y


@pytest.mark.slow
def test_opcheck(tensors):
    torch.manual_seed(0)  # packed floats that are read as integers and back must not be NaN by chance
    plan_bytes, packed, z, psi, y = tensors
    z_data, z_segments = ops.encode_z(packed, z, 0, 1)
    y_data, y_segments = ops.encode_y(packed, psi, y, 0, 1)
    residual = random_plan(np.random.default_rng(1), (4, 4), 3, leaky=True, residual=True, scaled=True)
    residual_packed = ops.pack_plan(torch.frombuffer(bytearray(residual.to_bytes()), dtype=torch.uint8), "")
    skipping = random_plan(np.random.default_rng(2), (4, 4), 3, skipped=18)
    skipping_packed = ops.pack_plan(torch.frombuffer(bytearray(skipping.to_bytes()), dtype=torch.uint8), "")
    shape = (len(gaussian_rows()), 2 * REACH + 1)
    calls = {
        "pack_plan": (plan_bytes, ""),
        "decode_z": (packed, z_data, z_segments, 2, 3, 1),
        "hyper": (packed, z, 6, 10, 1),
        "decode_y": (packed, psi, y_data, y_segments, 1),
        "decode_y_parameters": (packed, psi, y_data, y_segments, 1),
        "decode_y_restored": (packed, psi, y_data, y_segments, torch.rand(shape), 1),
        "encode_z": (packed, z, 0, 1),
        "encode_y": (packed, psi, y, 0, 1),
        "encode_y_residual": (residual_packed, psi, 256 * y.int(), 0, 1),
        "settle_y": (skipping_packed, psi, y, 1),
        "settled": (skipping_packed, psi, y, 1),
        "encode_settled": (skipping_packed, psi, y, 256, 1),
        "parameters": (packed, psi, y, 1),
        "int8_product": (torch.ones(3, 8, dtype=torch.uint8), torch.ones(5, 8, dtype=torch.int8), "", 1),
    }
    x, bias, after = torch.randn(1, 4, 6, 8), torch.zeros(16), (1, 0.1, None, None, None)
    kernel = torch.randn(16, 8, 3, 3)
    calls["pack_panels"] = (torch.randn(8, 16), False, False)  # integers, as floats, may be NaN: never equal
    calls["pack_winograd"] = (kernel, 1, 4, False)
    calls["huge_pages"] = (x,)
    calls["checksum"] = (x,)
    y = torch.zeros(1, 8, 12, 4)
    calls["winograd"] = (x, ops.pack_winograd(kernel, 1, 4, False), 1, 4, bias, *after, y, False, False, 1)
    calls["direct"] = (
        x,
        ops.pack_panels(torch.randn(72, 16), False, False),
        3,
        2,
        1,
        bias,
        *after,
        torch.zeros(1, 2, 3, 16),
        True,
        False,
        1,
    )
    weight = torch.randn(16, 3, 3, 8)
    calls["conv3x3"] = (x, weight, bias, 2, 0.1, None, 1)
    calls["conv3x3_input_gradient"] = (torch.randn(1, 2, 3, 16), weight, 2, None, 1)
    calls["conv3x3_weight_gradient"] = (x, torch.randn(1, 4, 6, 16), 1, 1)
    symbols, numbers = torch.randint(-2, 3, (1, 2, 3, 4), dtype=torch.int32), torch.randn(1, 2, 3, 4)
    shorts = [torch.randint(0, 2, symbols.shape, dtype=torch.int16) for _ in range(2)]
    rows = torch.tensor([[-1, 0], [3, 2], [0, 4]], dtype=torch.int32)  # first symbols, last entries, places
    calls["move_symbols"] = (
        symbols,
        *shorts,
        numbers,
        torch.rand(1, 1, 1, 4),
        -numbers,
        torch.ones(2, 3, 4, dtype=torch.bool),
        *(torch.rand(7), *rows, torch.rand(2), torch.rand(2, 5), 1.5),
        1,
    )
    calls["coded_bits"] = (symbols, *shorts, torch.rand(7), *rows, 1)
    wanted = torch.rand(2, 4, 6, 3, 16)
    calls["cell_errors"] = (torch.randn(2, 4, 6, 48), torch.randn(2, 2, 3, 192), wanted, torch.rand(2, 4, 6, 16), 1)
    if _backend.has_cuda():
        calls["pack_plan_cuda"] = (plan_bytes,)
    for name, arguments in calls.items():
        torch.library.opcheck(getattr(ops, name).default, arguments)


def test_decoding_inside_a_compiled_function(tensors):
    """No graph break: the operators are opaque nodes of the graph."""
    _, packed, _, psi, y = tensors
    data, segments = ops.encode_y(packed, psi, y, 0, 1)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def decode(packed, psi, data, segments):
        y_hat, status = torch.ops.ccm_fast.decode_y(packed, psi, data, segments, 1)
        return y_hat.float() * 0.5, status

    half, status = decode(packed, psi, data, segments)
    assert status.tolist() == [0, 0]
    assert torch.equal(half * 2, y.float())


def test_decoding_and_synthesis_in_one_graph():
    """From the streams to the image, without a graph break in between or in g_s."""
    model = tiny.make()
    packed, (h, w) = model.frozen.packed(), (4, 6)
    z = torch.zeros(1, 1, 2, tiny.CONFIG.hyper_channels, dtype=torch.int16)
    psi = ops.hyper(packed, z, h, w, 1)
    y = torch.from_numpy(np.random.default_rng(2).integers(-2, 3, (1, h, w, model.config.latent_channels)))
    data, segments = ops.encode_y(packed, psi, y.short(), 0, 1)

    def decode(packed, psi, data, segments):
        y_hat, _ = torch.ops.ccm_fast.decode_y(packed, psi, data, segments, 1)
        torch._check(y_hat.shape[3] == model.config.latent_channels)  # a number inside the packed model
        return model.g_s(y_hat.float().permute(0, 3, 1, 2))

    with torch.inference_mode():
        image = torch.compile(decode, fullgraph=True, backend="aot_eager")(packed, psi, data, segments)
        assert torch.equal(image, decode(packed, psi, data, segments))
