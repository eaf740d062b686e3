"""Strings in CompressAI's format, into its decoder and, where CompressAI is installed, into small nets of its own."""

import importlib.util
import json
from base64 import b64decode, b64encode

import compressai_nets
import mutation
import numpy as np
import torch
from mutation import number, pick
from target import Target, must

from ccm_fast import errors
from ccm_fast._backend import load_rans

KINDS = ("bmshj2018-hyperprior", "mbt2018-mean", "mbt2018", "checkerboard", "elic2022-official")


class Strings(Target):
    """Inputs are JSON: a net's name, its strings and their shape; or tables, rows and a string."""

    name = "strings"
    seconds = 4.0

    def __init__(self):
        self.nets = {}
        if importlib.util.find_spec("compressai"):
            self.nets = {kind: compressai_nets.make(kind) for kind in KINDS}
        self.written = {kind: self._written(net) for kind, net in self.nets.items()}
        self.decoders = {}

    def _written(self, net):
        with torch.no_grad():
            out = net.compress(compressai_nets.photos(1, 64, 128))
        shape = out["shape"]["hyper"] if isinstance(out["shape"], dict) else out["shape"]
        return [part[0] for part in out["strings"]], tuple(shape)

    def make(self, rng):
        if not self.nets or rng.random() < 0.5:
            return json.dumps(self._tables(rng)).encode()
        kind = pick(rng, sorted(self.nets))
        strings, shape = self.written[kind]
        strings, shape = list(strings), list(shape)
        for _ in range(pick(rng, (1, 1, 2))):
            k = int(rng.integers(len(strings)))
            how = int(rng.integers(6))
            if how == 0:
                shape[int(rng.integers(2))] = pick(rng, (0, -1, 1, 3, 4, number(rng)))
            elif how == 1:
                strings[k] = strings[k][: 4 * int(rng.integers(len(strings[k]) // 4 + 1))]
            elif how == 2:
                strings[k] += rng.bytes(4 * int(rng.integers(1, 4)))
            elif how == 3:
                strings[k] = pick(rng, strings)
            else:
                strings[k] = mutation.damage(rng, strings[k])
        return json.dumps({"net": kind, "strings": [b64encode(s).decode() for s in strings], "shape": shape}).encode()

    def _tables(self, rng):
        rows, size, offset = int(rng.integers(1, 5)), [], []
        width = int(rng.integers(3, 40))
        cdf = np.zeros((rows, width), np.int64)
        for r in range(rows):
            n = int(rng.integers(3, width + 1))
            cdf[r, 1 : n - 1] = np.sort(rng.choice(65535, n - 2, replace=False) + 1)
            cdf[r, n - 1] = 1 << 16
            size.append(n)
            offset.append(int(rng.integers(-20, 3)))
        if rng.random() < 0.2:
            cdf[int(rng.integers(rows)), int(rng.integers(width))] = pick(rng, (-1, 0, 65536, 65537, 2**31 - 1))
        if rng.random() < 0.1:
            size[0] = pick(rng, (-1, 0, 2, 3, width + 1, 2**31 - 1))
        if rng.random() < 0.1:
            offset[0] = pick(rng, (-(2**31), 2**31 - 1, 65537, -65536))
        row = rng.integers(0, rows, int(rng.integers(200)))
        data = (1 << 31 | int(rng.integers(1 << 62))).to_bytes(8, "little") + rng.bytes(4 * int(rng.integers(60)))
        if rng.random() < 0.3:
            data = mutation.damage(rng, data)
        string = b64encode(data).decode()
        return {"cdf": cdf.tolist(), "size": size, "offset": offset, "row": row.tolist(), "string": string}

    def check(self, data):
        given = json.loads(data)
        if "net" in given:
            return self._by_net(given)
        rans = load_rans()
        parts = (np.array(given[key], np.int32) for key in ("cdf", "size", "offset"))
        try:
            rows = rans.CompressaiRows(*parts)
        except ValueError:
            return "ValueError"
        row, string = np.array(given["row"], np.int32), b64decode(given["string"])
        whole, pieces = rans.CompressaiDecoder(rows, string), rans.CompressaiDecoder(rows, string)
        at = len(row) // 3
        symbols = whole.decode(row).tolist()
        must(pieces.decode(row[:at]).tolist() + pieces.decode(row[at:]).tolist() == symbols, "others in pieces")
        must(pieces.finish() == whole.finish(), "another end in pieces")
        return ("string", "truncated", "damaged")[whole.finish()]

    def _by_net(self, given):
        kind = given["net"]
        if kind not in self.nets:
            return "no CompressAI"
        if kind not in self.decoders:
            from ccm_fast.interop.compressai import accelerate

            pictures = compressai_nets.photos(2, 64, 64, seed=9)
            self.decoders[kind] = accelerate(self.nets[kind], pictures, steps=0)
        strings = [[b64decode(s)] for s in given["strings"]]
        try:
            out = self.decoders[kind].decompress(strings, given["shape"], threads=1, max_pixels=1 << 18)
        except errors.BitstreamError as error:
            must(type(error) is not errors.BitstreamError and bool(str(error)), f"no kind: {error!r}")
            return type(error).__name__
        except ValueError as error:
            must("shape" in str(error) or "strings" in str(error), f"an argument, not the strings: {error}")
            return "ValueError"
        must(bool(torch.isfinite(out["x_hat"]).all()), "pixels that are not finite")
        return "picture"
