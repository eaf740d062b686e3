"""Arguments of the library that used to end the process, or to fail somewhere inside of torch."""

import numpy as np
import pytest
import tiny
import torch

from ccm_fast import compress, decompress, load


@pytest.mark.parametrize("threads", [0, -1, 1025, 40000, 100000, 2**40])
def test_threads_out_of_range(threads):
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match="threads"):
        compress(tiny.model(), torch.rand(1, 3, 32, 32), threads=threads)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    "x",
    [
        torch.rand(1, 3, 16, 16).to_sparse(),
        torch.rand(1, 3, 16, 16, device="meta"),
        torch.zeros(1, 3, 16, 16).to(torch.float8_e4m3fn),
    ],
    ids=["sparse", "meta", "float8"],
)
def test_tensors_that_hold_no_picture(x):
    with pytest.raises(TypeError, match="dense"):
        compress(tiny.model(), x)


def test_whole_numbers_of_numpy():
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    plain = compress(tiny.model(), x, effort=2, lanes=8)
    assert compress(tiny.model(), x, effort=np.int64(2), lanes=np.int64(8)) == plain
    with pytest.raises(TypeError, match="lanes must be a whole number"):
        compress(tiny.model(), x, lanes=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_default_dtype_changes_nothing(dtype):
    x = torch.from_numpy(tiny.photo(48, 64, 1)).permute(2, 0, 1)[None].float() / 255
    model = load("ccm-small")
    out = compress(model, x)
    x_hat = decompress(model, **out)["x_hat"]
    torch.set_default_dtype(dtype)
    try:
        again = load("ccm-small")
        assert {p.dtype for p in again.parameters()} == {torch.float32}
        assert compress(again, x) == out
        found = decompress(again, **out)["x_hat"]
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32 and torch.equal(found, x_hat)


@pytest.mark.slow
def test_the_default_device_changes_nothing():
    x = torch.from_numpy(tiny.photo(48, 64, 1)).permute(2, 0, 1)[None].float() / 255
    model = load("ccm-small")
    out = compress(model, x)
    x_hat = decompress(model, **out)["x_hat"]
    torch.set_default_device("meta")
    try:
        again = load("ccm-small")
        assert compress(again, x) == out
        found = decompress(again, **out)["x_hat"]
    finally:
        torch.set_default_device(None)
    assert torch.equal(found, x_hat)
