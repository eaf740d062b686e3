"""Arguments of the library that used to end the process, or to fail somewhere inside of torch."""

import pytest
import tiny
import torch

from ccm_fast import compress


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
