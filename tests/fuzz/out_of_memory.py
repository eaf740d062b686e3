"""Calls in which one allocation after another fails, in a process of their own with failing_malloc.cpp preloaded.

python out_of_memory.py THREADS STRIDE OPERATION ...: every STRIDE-th allocation of an operation fails, each in a
call of its own. A line before each call says which one it is, should it end the process.
"""

import ctypes
import faulthandler
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
GOLDEN = HERE.parent / "golden"
#: Seconds that a call may take.
HANG = 120


def opener(path: Path):
    """A function that opens a model, by the C interface: pybind11 frees twice what it cannot register."""
    import ccm_fast

    library = ctypes.CDLL(str(Path(ccm_fast.__file__).with_name("libccm.so")))
    library.ccm_model_close.argtypes = [ctypes.c_void_p]
    library.ccm_model_fingerprint.argtypes = [ctypes.c_void_p, ctypes.c_char_p]

    def call():
        model = ctypes.c_void_p()
        status = library.ccm_model_open(str(path).encode(), None, ctypes.byref(model))
        if status == 11:
            raise MemoryError
        assert status == 0, status
        fingerprint = ctypes.create_string_buffer(8)
        library.ccm_model_fingerprint(model, fingerprint)
        library.ccm_model_close(model)
        return fingerprint.raw

    return call


def codec_calls(threads: int):
    """Of the codec without torch, and rans."""
    import numpy as np

    from ccm_fast import rans
    from ccm_fast.native import Codec

    path = GOLDEN / "tiny.safetensors"
    codec = Codec.load(path, threads=1)
    picture = np.random.default_rng(1).integers(0, 256, (70, 90, 3)).astype(np.uint8)
    data = codec.encode(picture, 4, effort=1, threads=1)
    # Not below: pybind11 ends the process where it has no memory to register a new object.
    files = [codec.open_file(data) for _ in range(3)]

    def decode(count: int):
        return [(p.tobytes(), y.tobytes()) for p, y, _ in codec.decode_files(files[:count], threads)]

    tables = rans.Tables([-1], [4], [0, 16384, 49152, 65535])
    symbols, rows = np.tile([0, 1, -1, 9], 300), np.zeros(1200, np.uint16)
    stream = rans.encode(tables, symbols, rows, None, 8, 2)
    return {
        "open": opener(path),
        "decode": lambda: decode(1),
        "decode_several": lambda: decode(3),
        "encode": lambda: codec.encode(picture, 4, effort=1, threads=threads),
        "encode_several": lambda: codec.encode([picture] * 3, 4, effort=1, threads=threads),
        "rans_encode": lambda: rans.encode(tables, symbols, rows, None, 8, 2),
        "rans_decode": lambda: rans.decode(tables, *stream, rows, None, 2).tobytes(),
    }


def operator_calls(threads: int):
    """Of torch's operators."""
    import numpy as np
    import torch

    from ccm_fast._backend import load
    from ccm_fast.entropy.frozen import FrozenEntropyModel
    from ccm_fast.entropy.testing import random_plan

    torch.set_num_threads(1)
    ops, rng = load().ops, np.random.default_rng(1)
    plan = random_plan(rng, groups=(6, 5))
    model, residual = FrozenEntropyModel(plan), FrozenEntropyModel(random_plan(rng, (6, 5), residual=True))
    z = torch.from_numpy(rng.integers(-3, 4, (2, 4, 4, plan.hyper_channels)).astype(np.int16))
    y = torch.from_numpy(rng.integers(-3, 4, (2, 16, 16, 11)).astype(np.int16))
    psi = model.hyper(z, 16, 16)
    streams, (z_stream, _) = model.encode_y(psi, y), model.encode_z(z)
    plan_bytes = torch.frombuffer(bytearray(plan.to_bytes()), dtype=torch.uint8)
    x, weight, bias = torch.rand(1, 32, 32, 16), torch.rand(16, 16, 3, 3), torch.zeros(16)
    packed, out = ops.pack_winograd(weight, 1, 1, False), torch.empty(1, 32, 32, 16)

    def winograd():
        ops.winograd(x, packed, 1, 1, bias, 0, 0.0, None, None, None, out, False, False, threads)
        return out.tolist()

    how = {"threads": threads}
    return {
        "pack_plan": lambda: ops.pack_plan(plan_bytes, "").tolist(),
        "hyper": lambda: model.hyper(z, 16, 16, **how).tolist(),
        "encode_z": lambda: bytes(model.encode_z(z, **how)[0].data),
        "decode_z": lambda: model.decode_z([z_stream], 4, 4, **how).tolist(),
        "encode_y": lambda: [bytes(s.data) for s in model.encode_y(psi, y, **how)[0]],
        "encode_y_residual": lambda: residual.encode_y_residual(psi, y.float(), **how)[1].tolist(),
        "decode_y": lambda: model.decode_y(psi, streams, **how).tolist(),
        "parameters": lambda: model.parameters(psi, y, **how)[0].tolist(),
        "pack_winograd": lambda: ops.pack_winograd(weight, 1, 1, False).tolist(),
        "winograd": winograd,
    }


def sweep(shim, name: str, call, stride: int) -> None:
    """Lets one allocation after another fail, up to the first call that makes no more of them."""
    expected = call()
    n = failed = 0
    while True:
        print(name, n, flush=True)
        faulthandler.dump_traceback_later(HANG, exit=True)
        shim.failing_malloc_arm(b"/ccm_fast/\0libstdc++\0", n)
        try:
            found = call()
        except MemoryError:
            found = None
        except RuntimeError as error:  # torch's name for it
            found = None
            if "alloc" not in str(error) and "memory" not in str(error):
                raise
        finally:
            made = shim.failing_malloc_disarm()
        failed += found is None
        assert found in (None, expected), "another result"
        assert call() == expected, "another result afterwards"
        if made <= n:
            break
        n += stride
    faulthandler.cancel_dump_traceback_later()
    print("done", name, failed, flush=True)


def main() -> None:
    threads, stride, *names = sys.argv[1:]
    shim = ctypes.CDLL(None)
    shim.failing_malloc_arm.argtypes = [ctypes.c_char_p, ctypes.c_long]
    shim.failing_malloc_disarm.restype = ctypes.c_long
    calls = (operator_calls if names[0] in OPERATORS else codec_calls)(int(threads))
    for name in names:
        sweep(shim, name, calls[name], int(stride))


CODEC = ("open", "decode", "decode_several", "encode", "encode_several", "rans_encode", "rans_decode")
OPERATORS = ("pack_plan", "hyper", "encode_z", "decode_z", "encode_y", "encode_y_residual", "decode_y", "parameters")
OPERATORS += ("pack_winograd", "winograd")

if __name__ == "__main__":
    main()
