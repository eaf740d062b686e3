"""Sizes of the nets whose cost is predicted, and what photographs' streams hold; see cuda_cost.py."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from cuda_pieces import ROOT

sys.path.insert(0, str(ROOT))
from ccm_fast.entropy.reference_streams import LANES_OF_Z, LANES_WITH_TAPER, lanes_for_symbols
from ccm_fast.models.config import PRESETS

STREAMS = ROOT / "benchmarks" / "results" / "cuda_streams.json"
KNOWN = 32 * 48  # positions of the photographs
SIZES = {"768x512": (32, 48), "1920x1080": (68, 120), "3840x2160": (135, 240)}


@dataclass(frozen=True)
class Stream:
    """A group's: lanes, coded symbols a position, bits of one, share of the rounds that a symbol makes slow.

    ``calm``: share of the rounds of most probable symbols alone of which none takes a word. ``far``: share of the slow
    rounds with a symbol beyond its window's neighbours. ``tapered``: rounds over those of as many lanes to the end, as
    if every step had its share of what lanes that have retired cost.
    """

    lanes: int
    coded: float
    bits: float
    slow: float
    calm: float = 0.0
    far: float = 0.0
    tapered: float = 1.0


@dataclass(frozen=True)
class Content:
    """What a group's stream holds: as it is, and what else is known for other numbers of lanes."""

    stream: Stream
    slow_32: float  # with 32 lanes

    def coded_with(self, positions: int, lanes: int) -> Stream:
        """Lanes 0: as the encoder chooses; where that is not known, as it would if a taper is always possible."""
        s = self.stream
        coded = s.coded * positions
        own = lanes or (s.lanes if positions == KNOWN else 0)
        own = own or lanes_for_symbols(coded, coded * s.bits / 8, LANES_WITH_TAPER)
        if own == s.lanes and not lanes:
            return s
        share = min(own, 32)
        slow = 1 - (1 - self.slow_32) ** (share / 32)
        return Stream(
            own,
            s.coded,
            s.bits,
            slow,
            s.calm ** (share / min(s.lanes, 32)),
            s.far,
            1.0 if lanes or own > 32 else s.tapered,
        )


@dataclass(frozen=True)
class Model:
    """Sizes that decide the cost. Convolutions of the dense part: (kernel, input channels, output channels)."""

    name: str
    groups: tuple[int, ...]
    taps: int
    width: int  # of the base
    hidden: tuple[int, ...]
    stacks: tuple[tuple[int, ...], ...]  # kernels, group by group
    cross_width: int
    psi: int
    hyper_channels: int
    contents: tuple[Content, ...]  # of each group
    z: Stream  # coded: symbols a position of y
    row_tables: int  # bytes of windows and neighbours in shared memory
    skips: bool  # whether the plan leaves symbols out
    fine_context: bool = True  # False: the last group has no context of its own, and is one step

    def streams(self, positions: int, lanes: int) -> list[Stream]:
        """Of every group; lanes 0: as the encoder chooses."""
        return [c.coded_with(positions, lanes) for c in self.contents]

    @property
    def channels(self) -> int:
        return sum(self.groups)

    @property
    def shift(self) -> int:
        """Of the last layer's tiles, as DeviceGroup::shift: the most of all groups."""
        return max(sum(k // 2 for k in stack[1:]) for stack in self.stacks)

    def chain(self, g: int) -> list[tuple[int, int, int]]:
        before = sum(self.groups[:g])
        if not before:
            return []
        stack = self.stacks[g]
        dims = [before, *[self.cross_width] * (len(stack) - 1), self.width]
        return [(k, a, b) for k, (a, b) in zip(stack, pairwise(dims), strict=True)]


@cache
def _stored() -> dict:
    return json.loads(STREAMS.read_text(encoding="utf-8"))


def _content(found: dict) -> Content:
    stream = Stream(*(found[k] for k in ("lanes", "coded", "bits", "slow", "calm", "far", "tapered")))
    return Content(stream, found["slow_32"])


def _z(found: dict, times: int = 1) -> Stream:
    positions, coded = SIZES["768x512"][0] * SIZES["768x512"][1], found["coded"] * times
    payload = found["bytes"] * times
    lanes = found["lanes"] if times == 1 else lanes_for_symbols(coded, payload, LANES_OF_Z)
    return Stream(lanes, coded / positions, 8 * payload / max(1, coded), 0.0)


def pictures(preset: str, quality: str = "4.0") -> list[Model]:
    """ccm-small, or ccm-base, with what the stream of each photograph holds (results/cuda_streams.json).

    ccm-base has no weights: each of its groups is taken for the one of ccm-small with the same place, of as many
    channels, and z for as many times larger as it has channels.
    """
    stored, c, small = _stored(), PRESETS[preset], PRESETS["ccm-small"]
    assert c.groups == small.groups[: len(c.groups)]
    shipped = preset == "ccm-small"  # its fine group came to be decoded in one step after its preset was written
    tables = stored["rows"] * 80 + stored["long_rows"] * 128
    return [
        Model(
            preset, c.groups, c.context_kernel**2 // 2, c.parameter_widths[0], c.parameter_widths[1:],
            tuple(c.stack_kernels(g) for g in range(len(c.groups))), c.cross_width, c.psi_channels, c.hyper_channels,
            tuple(map(_content, found["groups"][: len(c.groups)])),
            _z(found["z"], c.hyper_channels // small.hyper_channels), tables, True, not shipped,
        )
        for found in stored["pictures"][quality]
    ]  # fmt: skip


def names() -> list[str]:
    """File names of the photographs, in the order of pictures()."""
    return _stored()["images"]


# The net of the drop-in's benchmark on one 768 x 512 photograph (results/dropin_cuda.json). Its z takes about a
# twentieth, and no symbol lies outside its window: assumed.
MBT2018_BYTES = 94610


def mbt2018() -> Model:
    """CompressAI's, with N = M = 192."""
    bits = 8 * MBT2018_BYTES / (32 * 48 * 192)
    content = Content(Stream(128, 192.0, bits, 0.0), 0.0)
    z = Stream(16, 96 * 192 / (32 * 48), 8 * 1700 / (96 * 192), 0.0)
    return Model("mbt2018", (192,), 12, 640, (512,), ((),), 0, 384, 192, (content,), z, 64 * 80 + 40 * 128, False)
