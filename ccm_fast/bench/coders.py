"""Entropy coders side by side: ours with 1 to 32 lanes and those that can be imported, on the same symbols and tables.

Two sets of a million symbols of 64 zero-mean Gaussians: ``photo`` (scales as an image model chooses them: sharp ones
mostly, in runs; 0.92 bit a symbol) and ``uniform`` (all scales alike, in no order; 4.6 bits). A peer gets the very same
cumulative frequencies, and its result is compared with the symbols; a coder that cannot be imported is left out with a
line. ``copy`` is a memory copy of the decoded symbols.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ccm_fast import rans
from ccm_fast._backend import load
from ccm_fast.engines import torch_threads
from ccm_fast.entropy.plan import TableRows
from ccm_fast.entropy.tables import fraction_bits, gaussian_rows
from ccm_fast.interop.compressai.package import compressai

from .timing import interleaved, table

__all__ = ["Data", "coders", "make_data", "report", "run"]

PHOTO_BITS = 0.92


@dataclass
class Data:
    """Symbols to code: int32 [K], the row of each, uint16 [K], of 64 zero-mean rows."""

    name: str
    tables: TableRows
    rows: np.ndarray
    symbols: np.ndarray
    bits: np.ndarray  # ideal length of each symbol

    @property
    def ideal_bytes(self) -> float:
        """The ideal length of all symbols together."""
        return float(self.bits.sum()) / 8


def zero_mean_rows() -> TableRows:
    """Of each of the 64 scales the row whose mean is 0."""
    rows, bits = gaussian_rows(), fraction_bits().astype(int)
    first = np.concatenate([[0], np.cumsum(1 << bits)[:-1]]) + ((1 << bits) >> 1)
    frequencies = [np.diff(np.append(rows.row(r).astype(np.int64)[: rows.n[r]], 65536)) for r in first]
    return TableRows.from_frequencies([int(rows.lo[r]) for r in first], frequencies)


def make_data(name: str, count: int, seed: int = 0) -> Data:
    """Draw ``count`` symbols from their own distributions (escapes become the row's edge).

    ``photo``: the scale index is a first-order random walk clipped at the sharpest scale, its level chosen for 0.92
    bit a symbol, new for every run of 24 symbols (a position's channels) around the level of its channel.
    """
    rng = np.random.default_rng(seed)
    tables = zero_mean_rows()
    if name == "uniform":
        rows = rng.integers(0, 64, count)
    else:
        entropy = []
        for r in range(64):
            p = np.diff(np.append(tables.row(r).astype(np.int64)[: tables.n[r]], 65536)) / 65536
            entropy.append(-(p * np.log2(p)).sum())
        channel = np.tile(rng.normal(0, 8, 24), count // 24 + 1)[:count]
        walk = np.cumsum(rng.normal(0, 1, count // 24 + 1))
        walk = np.repeat(12 * np.sin(walk / 8), 24)[:count]
        shape = channel + walk + rng.normal(0, 2, count)
        low, high = -64.0, 64.0
        for _ in range(40):
            level = (low + high) / 2
            rows = np.clip(np.rint(shape + level), 0, 63).astype(np.int64)
            low, high = (level, high) if np.take(entropy, rows).mean() < PHOTO_BITS else (low, level)
    symbols = np.empty(count, np.int32)
    u = rng.integers(0, 65536, count)
    for r in range(64):
        here = np.flatnonzero(rows == r)
        entry = np.searchsorted(tables.row(r)[: tables.n[r]], u[here], side="right") - 1
        symbols[here] = tables.lo[r] + np.minimum(entry, tables.n[r] - 2)
    frequency = np.diff(np.append(tables.cdf.astype(np.int64), 65536)) % 65536
    first = np.concatenate([[0], np.cumsum(tables.n)[:-1]])
    bits = 16 - np.log2(frequency[first[rows] + symbols - tables.lo[rows]])
    return Data(name, tables, rows.astype(np.uint16), symbols, bits)


@dataclass
class Coder:
    """One way to code a :class:`Data`: ``bytes`` is its size; the calls are what is timed."""

    name: str
    bytes: int
    encode: Callable[[], object]
    decode: Callable[[], np.ndarray]  # of ``count`` symbols
    count: int


def ours(data: Data) -> list[Coder]:
    """The coder of this package, as :mod:`ccm_fast.rans` offers it."""
    t = data.tables
    tables, native = rans.Tables(t.lo, t.n, t.cdf), load().rans
    found = []
    for lanes in (1, 2, 4, 8, 16, 32):
        stream, _ = native.encode(tables, data.symbols, data.rows, None, lanes)

        def encode(lanes: int = lanes) -> object:
            return native.encode(tables, data.symbols, data.rows, None, lanes)

        def decode(stream: bytes = stream, lanes: int = lanes) -> np.ndarray:
            return native.decode(tables, stream, lanes, data.rows)[0]

        found.append(Coder(f"ccm_fast, {lanes} lanes", len(stream), encode, decode, len(data.rows)))
    return found


def _compressai(data: Data) -> list[Coder]:
    ans = compressai("ans")
    t = data.tables
    cdfs = [[*t.row(r)[: t.n[r]].tolist(), 65536] for r in range(len(t.n))]
    widest = max(map(len, cdfs))
    args = (data.rows.tolist(), [c + [0] * (widest - len(c)) for c in cdfs], [len(c) for c in cdfs], t.lo.tolist())
    symbols = data.symbols.tolist()
    stream = ans.RansEncoder().encode_with_indexes(symbols, *args)
    return [
        Coder(
            "compressai rans (lists)",
            len(stream),
            lambda: ans.RansEncoder().encode_with_indexes(symbols, *args),
            lambda: ans.RansDecoder().decode_with_indexes(stream, *args),
            len(symbols),
        )
    ]


def _torch_ans(data: Data) -> list[Coder]:
    import torch
    from torch_ans import _C
    from torch_ans.utils import TorchANSInterface

    t = data.tables
    cdfs = torch.zeros(len(t.n), int(t.n.max()) + 1, dtype=torch.int32)
    for r in range(len(t.n)):
        cdfs[r, : t.n[r]] = torch.from_numpy(t.row(r)[: t.n[r]].astype(np.int32))
        cdfs[r, t.n[r]] = 65536
    sizes = torch.from_numpy((t.n + 1).astype(np.int32))
    offsets = torch.from_numpy(np.asarray(t.lo, np.int32))
    symbols, rows = torch.from_numpy(data.symbols)[None], torch.from_numpy(data.rows.astype(np.int32))[None]
    found = []
    for states in (1, 8):
        coder = TorchANSInterface(
            impl="rans64", bypass_coding=False, freq_precision=16, num_parallel_states=1, num_interleaves=states
        )
        coder.set_cdfs(cdfs, sizes, offsets)
        stream = coder.encode(symbols, rows)
        size = sum(map(len, _C.rans_stream_to_byte_strings(stream)))

        def encode(coder=coder) -> object:
            return coder.encode(symbols, rows)

        def decode(coder=coder, stream=stream) -> np.ndarray:
            return coder.decode(stream.clone(), rows).numpy().ravel()  # decoding consumes the stream

        found.append(Coder(f"torch_ans rans64, {states} states", size, encode, decode, symbols.numel()))
    return found


def _constriction(data: Data) -> list[Coder]:
    import constriction

    from ccm_fast.entropy.tables import scales

    # Its own tables, of the same Gaussians; a tenth of the symbols, since it takes 0.1 us each.
    count = len(data.rows) // 10
    rows, symbols = data.rows[:count], np.ascontiguousarray(data.symbols[:count])
    reach = int(-data.tables.lo.min())
    model = constriction.stream.model.QuantizedGaussian(-reach, reach)
    means, widths = np.zeros(count), scales()[rows]

    def encode() -> np.ndarray:
        coder = constriction.stream.stack.AnsCoder()
        coder.encode_reverse(symbols, model, means, widths)
        return coder.get_compressed()

    words = encode()

    def decode() -> np.ndarray:
        return constriction.stream.stack.AnsCoder(words).decode(model, means, widths)

    return [Coder("constriction ANS", words.nbytes, encode, decode, count)]


def _torchac(data: Data) -> list[Coder]:
    import torch

    # Compiles itself when first imported; for minutes, on a busy machine.
    import torchac

    t = data.tables
    # One table row of up to 2,055 numbers for each symbol is its interface: 4 kB a symbol, hence so few.
    count = len(data.rows) // 50
    most = int(t.n.max()) + 1
    cdfs = np.full((len(t.n), most), 65535, np.int64)  # wraps to its own "end" below
    for r in range(len(t.n)):
        # Its format wants rising values behind the row's end, too: frequencies of 1, taken from the top.
        row = t.row(r)[: t.n[r]].astype(np.int64)
        rest = most - len(row)
        cdfs[r] = np.concatenate(
            [np.minimum(row, 65535 - rest - (len(row) - 1 - np.arange(len(row)))), 65536 - rest + np.arange(rest)]
        )
        cdfs[r, -1] = 65536
    per_symbol = torch.from_numpy(cdfs.astype(np.uint16).view(np.int16)[data.rows[:count]])
    symbols = torch.from_numpy((data.symbols - t.lo[data.rows])[:count].astype(np.int16))
    lo = t.lo[data.rows[:count]]
    stream = torchac.encode_int16_normalized_cdf(per_symbol, symbols)
    return [
        Coder(
            "torchac",
            len(stream),
            lambda: torchac.encode_int16_normalized_cdf(per_symbol, symbols),
            lambda: torchac.decode_int16_normalized_cdf(per_symbol, stream).numpy() + lo,
            count,
        )
    ]


PEERS = {"compressai": _compressai, "torch_ans": _torch_ans, "constriction": _constriction, "torchac": _torchac}


def coders(data: Data, say: Callable[[str], None] = print) -> list[Coder]:
    """All coders that are here; each has decoded the data correctly once."""
    found = ours(data)
    for name, make in PEERS.items():
        try:
            found += make(data)
        except Exception as why:  # a peer that does not import, build or run is no failure of ours
            say(f"{name}: skipped ({type(why).__name__}: {' '.join(str(why).split())[:120]})")
    good = []
    for coder in found:
        if np.array_equal(np.asarray(coder.decode(), np.int64), data.symbols[: coder.count]):
            good.append(coder)
        elif coder.name.startswith("ccm_fast"):
            raise RuntimeError(f"{coder.name} decodes wrongly")
        else:
            say(f"{coder.name}: skipped (it does not decode what it encoded)")
    return good


def run(
    quick: bool = False,
    repeats: int | None = None,
    say: Callable[[str], None] = print,
    count: int | None = None,
) -> dict:
    """Both sets of data, decoding and encoding of all coders in turns.

    Returns:
        ``data``: name -> ``symbols``, ``ideal_bytes``, ``copy_msymbols`` and ``coders``: name -> ``bytes``,
        ``overhead`` (over the ideal length of the symbols that it coded), ``decode`` and ``encode`` (statistics) and
        ``decode_msymbols``, ``encode_msymbols`` (millions a second, from medians), ``best_decode_msymbols``.
    """
    count = count or (20_000 if quick else 1_000_000)
    repeats = repeats or (2 if quick else 9)
    result: dict = {"data": {}}
    for name in ("photo", "uniform"):
        data = make_data(name, count)
        found = coders(data, say)
        out, source = np.empty(count, np.int16), data.symbols.astype(np.int16)
        calls: dict[str, Callable[[], object]] = {"copy": lambda out=out, source=source: np.copyto(out, source)}
        for coder in found:
            calls[f"decode {coder.name}"], calls[f"encode {coder.name}"] = coder.decode, coder.encode
        with torch_threads(1):  # torch_ans uses torch's threads, which spin where cores are shared
            times = interleaved(calls, repeats, warmup=1)
        entry: dict = {
            "symbols": count,
            "ideal_bytes": data.ideal_bytes,
            "bits_per_symbol": 8 * data.ideal_bytes / count,
            "copy_msymbols": count / times["copy"]["median"] / 1e6,
            "coders": {},
        }
        for coder in found:
            part = float(data.bits[: coder.count].sum()) / 8
            decode, encode = times[f"decode {coder.name}"], times[f"encode {coder.name}"]
            entry["coders"][coder.name] = {
                "symbols": coder.count,
                "bytes": coder.bytes,
                "overhead": coder.bytes / part - 1,
                "decode": decode,
                "encode": encode,
                "decode_msymbols": coder.count / decode["median"] / 1e6,
                "best_decode_msymbols": coder.count / decode["best"] / 1e6,
                "encode_msymbols": coder.count / encode["median"] / 1e6,
            }
        result["data"][name] = entry
    return result


def report(result: dict) -> str:
    """Tables for people."""
    lines = []
    for name, entry in result["data"].items():
        lines.append(
            f"{name}: {entry['symbols']:,} symbols, {entry['bits_per_symbol']:.2f} bits each; a copy of the decoded"
            f" symbols: {entry['copy_msymbols']:,.0f} M symbols/s"
        )
        rows: list[list] = [["coder", "decode M/s", "best", "encode M/s", "bytes", "over ideal %", "spread %"]]
        for coder, c in entry["coders"].items():
            rows.append(
                [
                    coder,
                    c["decode_msymbols"],
                    c["best_decode_msymbols"],
                    c["encode_msymbols"],
                    c["bytes"],
                    100 * c["overhead"],
                    100 * c["decode"]["spread"],
                ]
            )
        lines += [table(rows), ""]
    return "\n".join(lines).rstrip()
