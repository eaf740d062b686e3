"""CompressAI's nets, accelerated, on a GPU, beside CompressAI's own loop on the CPU.

    python benchmarks/dropin_gpu.py [--repeats 20]

N = M = 192, one picture of 768x512, nets as in ccm_fast/bench/dropin.py. The latents have to be the CPU engine's.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from common import save
from gpu_parts import latencies

from ccm_fast.bench import dropin
from ccm_fast.decoding import decode_latents, parse_packets


def measure(kind: str, repeats: int) -> dict:
    """Seconds and milliseconds of one net."""
    case = dropin._Case(kind, (768, 512), None)
    fast, frozen, net = case.fast, case.frozen, case.net
    ours, theirs = fast.compress(case.x), net.compress(case.x)
    start = time.perf_counter()
    net.decompress(theirs["strings"], theirs["shape"])
    record = {"compressai_decompress_s": time.perf_counter() - start, "compressai_loop_s": sum(case.loop)}
    (packet,) = parse_packets(frozen, **ours)
    expected = decode_latents(frozen, [packet])
    streams = frozen.upload([packet.z_stream], [packet.y_streams], "cuda")
    found = frozen.decode_queued(streams, case.latent)
    frozen.check(found.status)
    if not torch.equal(found.y_hat.cpu(), expected):
        raise RuntimeError(f"{kind}: the GPU decodes other latents than the CPU")
    packed, decode_y = frozen.packed_for("cuda", None), torch.ops.ccm_fast.decode_y
    record["z_to_y_hat"] = latencies(lambda: frozen.decode_queued(streams, case.latent), repeats)
    record["y_to_y_hat"] = latencies(
        lambda: decode_y(packed, found.psi, streams.y_data, streams.y_segments, 1), repeats
    )
    net.to("cuda")
    seconds = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        fast.decompress(**ours)["x_hat"].cpu()
        seconds.append(time.perf_counter() - start)
    record["decompress_s"] = statistics.median(seconds[1:])
    record["times_faster"] = {
        "loop": 1e3 * record["compressai_loop_s"] / record["y_to_y_hat"]["median_ms"],
        "decompress": record["compressai_decompress_s"] / record["decompress_s"],
    }
    return {"kind": kind, **record}


def main() -> None:
    """Run, print, write benchmarks/results/dropin_cuda.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cases = []
    for kind in dropin.KINDS:
        cases.append(measure(kind, args.repeats))
        print(cases[-1], flush=True)
    print("written to", save("dropin_cuda", {"gpu": torch.cuda.get_device_name(), "cases": cases}))


if __name__ == "__main__":
    main()
