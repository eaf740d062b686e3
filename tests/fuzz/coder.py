"""Arguments of ccm_fast.rans, and damaged streams: vectors, plain code and the oracle say the same."""

import json
import os
from unittest import mock

import mutation
import numpy as np
from mutation import number, pick
from target import Target, must

from ccm_fast import errors, rans
from ccm_fast.entropy.plan_parts import TableRows
from ccm_fast.entropy.reference_streams import decode_stream
from ccm_fast.stream.packet import Stream

LANES = (1, 2, 4, 8, 16, 32, 64, 128)


def tables(rng: np.random.Generator) -> dict[str, list[int]]:
    """Rows as rans.Tables wants them: narrow, wide, with entries of the least frequency."""
    lo, n, cdf = [], [], []
    for _ in range(int(rng.integers(1, 6))):
        size = int(rng.integers(2, pick(rng, (4, 40, 300))))
        starts = np.sort(rng.choice(65535, size - 1, replace=False) + 1)
        if rng.random() < 0.3:  # the least frequencies, at either end
            starts = np.arange(size - 1) + pick(rng, (1, 65536 - size + 1))
        lo.append(-int(rng.integers(size)))
        n.append(size)
        cdf += [0, *starts.tolist()]
    return {"lo": lo, "n": n, "cdf": cdf}


class Coder(Target):
    """Inputs are JSON: tables, symbols, rows, steps, lanes, version, and what is done to the stream."""

    name = "coder"

    def make(self, rng):
        given = tables(rng)
        count = int(rng.integers(0, pick(rng, (4, 300))))
        rows = rng.integers(0, len(given["n"]), count)
        symbols = rng.integers(-3, 4, count)
        far = rng.random(count) < 0.05
        symbols[far] = rng.integers(-32767, 32768, int(far.sum()))
        cuts = np.sort(rng.integers(0, count + 1, int(rng.integers(4))))
        steps = np.diff([0, *cuts, count]).tolist() if rng.random() < 0.7 else None
        given |= {"rows": rows.tolist(), "symbols": symbols.tolist(), "steps": steps}
        given |= {"version": int(rng.integers(1, 3)), "lanes": pick(rng, (0, *LANES)), "damage": 0}
        if rng.random() < 0.5:  # wrong arguments
            for _ in range(int(rng.integers(1, 3))):
                self._spoil(rng, given)
        elif rng.random() < 0.8:
            given["damage"] = int(rng.integers(1, 1 << 30))
        return json.dumps(given).encode()

    def _spoil(self, rng, given) -> None:
        key = pick(rng, sorted(given))
        odd = (None, 0.5, "1", [], [[1]], -1, number(rng), -number(rng), number(rng, 40), 2**70, True)
        if isinstance(given[key], list) and given[key] and rng.random() < 0.8:
            k = int(rng.integers(len(given[key])))
            if rng.random() < 0.2:
                del given[key][k]
            else:
                given[key][k] = pick(rng, odd)
        elif key != "damage":
            given[key] = pick(rng, odd)

    def check(self, data):
        g = json.loads(data)
        try:
            made = rans.Tables(g["lo"], g["n"], g["cdf"])
            stream, lanes = rans.encode(made, g["symbols"], g["rows"], g["steps"], g["lanes"], g["version"])
        except (TypeError, ValueError, IndexError, OverflowError) as error:
            must(bool(str(error)), "an error that says nothing")
            return type(error).__name__
        found = rans.decode(made, stream, lanes, g["rows"], g["steps"], g["version"])
        must(found.tolist() == np.ravel(g["symbols"]).tolist(), "decoded symbols are others than the encoded ones")
        if not g["damage"]:
            return "round trip"
        rng = np.random.default_rng(g["damage"])
        stream = mutation.damage(rng, stream)
        if rng.random() < 0.2:
            lanes = pick(rng, LANES)
        arguments = (made, stream, lanes, g["rows"], g["steps"], g["version"])
        found = self._decoded(*arguments)
        with mock.patch.dict(os.environ, CCM_FAST_ISA="scalar"):
            must(self._decoded(*arguments) == found, "vectors and plain code disagree")
        if found != "ValueError" and rng.random() < 0.2:
            same = self._by_oracle(g, stream, lanes)
            # A stream may be both: garbage is often longer than what is there.
            must(same == found or (isinstance(same, str) and isinstance(found, str)), "the oracle disagrees")
        return found if isinstance(found, str) else "symbols"

    def _decoded(self, *arguments):
        try:
            return rans.decode(*arguments).tolist()
        except (errors.DamagedError, errors.TruncatedError) as error:
            return type(error).__name__
        except ValueError:
            return "ValueError"

    def _by_oracle(self, g, stream, lanes):
        rows = TableRows(np.array(g["lo"], np.int32), np.array(g["n"], np.int32), np.array(g["cdf"], np.uint16))
        out, at = [], 0
        steps = [len(g["rows"])] if g["steps"] is None else g["steps"]
        calls = []
        for size in steps:
            row = np.array(g["rows"][at : at + size], np.int64)
            calls.append(lambda draw, row=row: out.extend(draw(row, np.zeros_like(row)).tolist()))
            at += size
        try:
            decode_stream(Stream.of(stream, lanes, g["version"]), rows, calls)
        except errors.BitstreamError as error:
            return type(error).__name__
        return out
