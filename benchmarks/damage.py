"""What happens to damaged files: truncated, flipped and random bytes, with and without a repaired checksum.

Every decode runs the whole path (container, coder, g_s) of the shipped model on a photograph; outcomes are counted, the
slowest is timed (processor time). "image" in a row with a repaired checksum means that the bytes are a valid file of
other latents.

    python benchmarks/damage.py PHOTOGRAPH
"""

from __future__ import annotations

import argparse
import collections
import io
import time
from dataclasses import replace

import numpy as np
from common import save
from PIL import Image

import ccm_fast
from ccm_fast import errors, files
from ccm_fast.stream.container import parse_container, write_container
from ccm_fast.stream.packet import parse_file


def main() -> None:
    """Run, print, write benchmarks/results/damage.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photograph")
    parser.add_argument("--model", default="ccm-small")
    parser.add_argument("--flips", type=int, default=10_000)
    parser.add_argument("--repaired", type=int, default=10_000, help="flips behind a repaired checksum")
    args = parser.parse_args()
    model = ccm_fast.load(args.model)
    with Image.open(args.photograph) as photograph:
        crop = photograph.convert("RGB").crop((0, 0, 192, 128))
    out = io.BytesIO()
    files.encode_file(crop, out, 4, model)
    good = out.getvalue()
    packet = parse_file(parse_container(good).packet, len(model.config.groups))
    rng = np.random.default_rng(0)

    def flipped(data: bytes) -> bytes:
        bad = bytearray(data)
        bad[rng.integers(len(bad))] ^= 1 << rng.integers(8)
        return bytes(bad)

    def repaired() -> bytes:
        """A bit of a stream flipped, and the checksum computed anew, as a hostile writer would."""
        streams = list(packet.streams)
        k = int(rng.choice(len(streams), p=np.array([len(s) for s in streams]) / sum(map(len, streams))))
        streams[k] = flipped(streams[k])
        return write_container(replace(packet, streams=tuple(streams)).to_file())

    cases = {
        "truncated at every byte": (good[:n] for n in range(len(good))),
        "one bit flipped": (flipped(good) for _ in range(args.flips)),
        "random bytes": (rng.bytes(rng.integers(400)) for _ in range(args.flips)),
        "random bytes behind a good magic": (good[:4] + rng.bytes(rng.integers(400)) for _ in range(args.flips)),
        "one bit of a stream flipped, checksum repaired": (repaired() for _ in range(args.repaired)),
    }
    results = {}
    for name, files_ in cases.items():
        outcomes: collections.Counter[str] = collections.Counter()
        slowest = 0.0
        for data in files_:
            start = time.process_time()
            try:
                files.decode_bytes(data, model)
                outcome = "image"
            except errors.BitstreamError as error:
                outcome = type(error).__name__
            outcomes[outcome] += 1
            slowest = max(slowest, time.process_time() - start)
        counts = dict(outcomes.most_common())
        results[name] = {"files": outcomes.total(), "outcomes": counts, "slowest_seconds": slowest}
        print(f"{name}: {outcomes.total()} files, {counts}, slowest {slowest:.3f} s")
    print("written to", save("damage", {"model": args.model, "bytes": len(good), "results": results}))


if __name__ == "__main__":
    main()
