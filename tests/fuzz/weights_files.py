"""Weights files: safetensors, its JSON, the configuration in it, and what tensors hold."""

import json
import struct
import tempfile
from pathlib import Path

import mutation
import numpy as np
import plans
import tiny
from mutation import EDGES, number, pick
from target import Target, must

from ccm_fast import errors, weights
from ccm_fast.native import Codec

SPECIAL_HALVES = (0x7C00, 0xFC00, 0x7E00, 0x7BFF, 0xFBFF, 0x0001, 0x8000)  # infinities, NaN, largest, least, -0


def odd(rng: np.random.Generator):
    """Some value of JSON."""
    some = (
        None,
        True,
        -1,
        0,
        1,
        2,
        1.5,
        1e400,
        -1e-320,
        "",
        "3",
        [],
        {},
        [[]],
        {"a": []},
        number(rng),
        -number(rng),
        2**70,
    )
    return pick(rng, some)


def change(rng: np.random.Generator, value):
    """The value with something in it replaced, left out or added."""
    if rng.random() < 0.2:
        return odd(rng)
    if isinstance(value, dict) and value:
        key = pick(rng, sorted(value))
        kind = rng.random()
        if kind < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if kind < 0.2:
            return {**value, pick(rng, ("", "x", "A" * 300, key + "_")): odd(rng)}
        return {**value, key: change(rng, value[key])}
    if isinstance(value, list) and value:
        k = int(rng.integers(len(value)))
        kind = rng.random()
        if kind < 0.2:
            return value * pick(rng, (0, 2, 40))
        return [*value[:k], change(rng, value[k]), *value[k + 1 :]]
    if isinstance(value, int) and not isinstance(value, bool):
        return pick(rng, (value + 1, value - 1, 2 * value, -value, pick(rng, EDGES)))
    return odd(rng)


def packed(header: object, data: bytes) -> bytes:
    """A file; the header as JSON, or as text that need not be any."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


class Weights(Target):
    name = "weights"
    seconds = 4.0

    def __init__(self):
        raw = (tiny.GOLDEN / "tiny.safetensors").read_bytes()
        size = struct.unpack_from("<Q", raw)[0]
        self.header, self.data = json.loads(raw[8 : 8 + size]), raw[8 + size :]
        self.plans = plans.Plans()
        self.picture = tiny.photo(20, 30)

    def make(self, rng):
        header, data = json.loads(json.dumps(self.header)), bytearray(self.data)
        about, kind = header["__metadata__"], int(rng.integers(10))
        if kind <= 3:
            config = json.loads(about["config"])
            for _ in range(int(rng.integers(1, 4))):
                config = change(rng, config)
            about["config"] = json.dumps(config)
        elif kind == 4:
            about[pick(rng, sorted(about))] = pick(rng, ("", "{", "[" * 5000, "{}", json.dumps(odd(rng)), "\0"))
        elif kind == 5:
            name = pick(rng, sorted(header))
            header[name] = change(rng, header[name])
        elif kind == 6:  # values of one tensor
            start, end = header[pick(rng, [n for n in sorted(header) if n.startswith("float.")])]["data_offsets"]
            value = pick(rng, SPECIAL_HALVES).to_bytes(2, "little")
            for at in range(start, end, 2) if rng.random() < 0.3 else [start]:
                data[at : at + 2] = value
        elif kind == 7:  # a damaged plan, of its own length
            start, end = header["plan"]["data_offsets"]
            plan = mutation.damage(rng, bytes(data[start:end]))
            if rng.random() < 0.3:
                plan = self.plans.make(rng)
            data[start:end] = plan[: end - start].ljust(end - start, b"\0")
        elif kind == 8:
            text = mutation.damage(rng, json.dumps(header).encode())
            return packed(text, bytes(data))
        else:
            whole = packed(header, bytes(data))
            size = pick(rng, (0, 7, 8, 100, len(whole), len(whole) - 1, number(rng, 64)))
            if rng.random() < 0.5:
                return whole[: int(rng.integers(len(whole)))] + rng.bytes(int(rng.integers(2)))
            return struct.pack("<Q", size % (1 << 64)) + whole[8:]
        return packed(header, bytes(data))

    def check(self, data):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "case.safetensors")
            path.write_bytes(data)
            module = self._opened(lambda: weights.load(path))
            codec = self._opened(lambda: Codec.load(path, threads=1))
        must(module is None or codec is not None, "a model for torch that is none without it")
        if codec is None:
            return "ModelError"
        try:
            coded = codec.encode(self.picture, 4, effort=1, threads=1)
        except errors.EncodeError:
            return "no latents"
        except errors.ModelError:  # what only encoders need is read when one is made
            return "no encoder"
        must(codec.decode(coded, threads=1).shape == self.picture.shape, "a picture of another size")
        return "codec" if module is None else "model"  # the codec reads what it needs, and no more

    def _opened(self, call):
        try:
            return call()
        except errors.ModelError as error:
            must(bool(str(error)), "an error that says nothing")
            return None
