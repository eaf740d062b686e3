"""What makes the host wait for a GPU is refused: for tests on torch's meta device, which has shapes and no values."""

from contextlib import contextmanager

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class NoTalk(TorchDispatchMode):
    """Refuses what makes the host wait for a GPU: copies between them, values, sizes that depend on values. The GPU is
    torch's meta device, which has shapes and no values.
    """

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "item")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().partition("::")[2].partition(".")[0]
        # Tensors without dimensions on the CPU are arguments of a launch.
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        where = {t.device.type for t in given if t.ndim or name in ("copy_", "_to_copy", *self.WAITING)}
        where |= {torch.device(kwargs["device"]).type} if given and (kwargs or {}).get("device") else set()
        if "meta" in where and (name in self.WAITING or len(where) > 1):
            raise AssertionError(f"{func} makes the host wait: {[(t.device, list(t.shape)) for t in given]}")
        return func(*args, **(kwargs or {}))


class NoNumbers(TorchFunctionMode):
    """The same for tensors made of Python's numbers on the GPU, of which the dispatcher sees nothing: lists as an index
    too.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        device = (kwargs or {}).get("device")
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(i, (list, np.ndarray)) for i in index):
                raise AssertionError("an index of Python's numbers makes the host wait")
        if func in (torch.tensor, torch.as_tensor) and device is not None and torch.device(device).type == "meta":
            raise AssertionError("a tensor of Python's numbers makes the host wait")
        return func(*args, **(kwargs or {}))


@contextmanager
def watched():
    with NoTalk(), NoNumbers():
        yield
