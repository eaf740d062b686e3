"""Cycles of the pieces of latents_kernel on published latencies: predictions, see cuda_cost.py."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import sass

ROOT = Path(__file__).parent.parent
CUDA = ROOT / "csrc" / "entropy" / "cuda"

# --- Assumptions. Bands: "low" has the published latencies, "high" twice those of everything that is no plain ALU
# instruction (memory, shuffles, barriers, fences, launches); "fitted" what twelve measurements on an H100 say, with the
# clock below and SLOW_ROUND (results/cuda_calibration.json).
BANDS = {"low": 1.0, "fitted": 1.5, "high": 2.0}
# Cycles of a round with a symbol outside its window, an escape or the 32nd word, of the kernel that was measured.
SLOW_ROUND = 3500.0


@dataclass(frozen=True)
class Gpu:
    """Latencies in cycles."""

    name: str
    arch: int
    clock: float  # GHz, boost
    multiprocessors: int
    shared: int  # bytes a block may ask for
    shared_load: float
    l1: float
    l2: float
    fence: float  # store + gpu-wide fence


# Shared memory, L1, L2: arXiv 2402.13499 (A100 and H100 as quoted in our notes; its Ada column from memory, not read
# again). Clock of the H100: fitted, 1.755 is the PCIe part's. Fence: a simulator tuned to published microbenchmarks;
# Ada: as A100, scaled by L2. Clocks and multiprocessors:
# chipsandcheese.com, 2023/07/02 (H100 PCIe 1755 MHz, A100 1410 MHz; 132 multiprocessors are the SXM part's) and
# 2022/11/02 (RTX 4090). Shared memory per block: CUDA programming guide, compute capabilities 8.0, 8.9, 9.0.
GPUS = {
    "A100": Gpu("A100", 80, 1.410, 108, 163 * 1024, 29, 38, 262, 256),
    "H100": Gpu("H100", 90, 1.980, 132, 227 * 1024, 29, 41, 263, 283),
    "RTX 4090": Gpu("RTX 4090", 89, 2.520, 128, 99 * 1024, 30, 43, 273, 270),
}
SHUFFLE = 23  # cycles; simulator tuned to published microbenchmarks
UNUSUAL = 14  # POPC, FLO: quarter rate; assumed
BARRIER = 20  # same simulator
GENERIC = 8  # what a generic load of shared memory takes longer than LDS; assumed
CONTEXT_MISS = 0.25  # of the own context's loads; two of twelve taps read what was written one step ago; assumed
ENTRY_MISS = 0.5  # of the tables' loads, in L2 then: 28 to 60 kB of L1 are left beside shared memory; assumed
DENSE_MISS = 0.5  # of the dense part's inputs and weights: two warps share each; assumed
L2_BYTES = 64.0  # a cycle and multiprocessor; NVIDIA A100 white paper (5,120 a cycle for 80 slices of L2)
LAUNCH = 1.5  # microseconds from kernel to kernel in a CUDA graph; assumed
DRAM_GBS = 1500.0  # for filling planes; the slowest of the three cards has 1,000, but planes stay in L2

# --- From the source, by name, so that a change there is a change here.


def _constant(file: str, name: str) -> int:
    found = re.search(rf"\b{name}\s*=\s*(\d+)", (CUDA / file).read_text(encoding="utf-8"))
    if not found:
        raise ValueError(f"csrc/entropy/cuda/{file} no longer has {name}: the cost model has to follow")
    return int(found[1])


TILE_ROWS, TILE_COLUMNS = _constant("tiles.h", "kDenseRows"), _constant("tiles.h", "kDenseColumns")
STEPS_PER_NEWS = _constant("steps.cuh", "kStepsPerNews")
CHUNK = _constant("latents.h", "kChunk")
WARPS = _constant("kernels_cuda.h", "kMaxThreads") // 32
SCHEDULERS = 4
MAX_KNOWN = _constant("engine_cuda.cpp", "kMaxKnownTiles")
TRIED = _constant("rans_warp.cuh", "kTried")
MOST_AHEAD = _constant("latents.h", "kMostAhead")
LISTED = _constant("step_list.cuh", "kListed")
GATHERED = _constant("crew.cuh", "kGathered")
MOST_PARTS, MOST_SLOTS = _constant("latents.h", "kMostParts"), _constant("latents.h", "kMostSlots")
LEAST_PARTS, LONG_TABLE = _constant("engine_cuda.cpp", "kLeastParts"), _constant("engine_cuda.cpp", "kLongTable")
WORDS_AHEAD = int(re.search(r"kWordsAhead = (\d+)", (CUDA / "latents.h").read_text(encoding="utf-8"))[1])
QUIET_ROUNDS = _constant("rans_warp.cuh", "kQuietRounds")


# --- Machine code: cycles of loops and straight pieces.

# Products in the code of a layer, of two tiles each: three in their loop, four behind it.
STRAIGHT = 14


def _line(file: str, text: str, nth: int = 0) -> int:
    lines = (CUDA / file).read_text(encoding="utf-8").splitlines()
    found = [n for n, line in enumerate(lines, 1) if text in line]
    if len(found) <= nth:
        raise ValueError(f"csrc/entropy/cuda/{file} no longer has `{text}`: the cost model has to follow")
    return found[nth]


def _latency(gpu: Gpu, scale: float, weights_in_shared: bool) -> Callable:
    """Cycles until the result of an instruction of variable duration is there."""
    packed = {_line("product.cuh", "const uint4 packed = *weights;")}
    inputs = {_line("product.cuh", "load_word(at[n] + first)")}
    spatial = {_line("step_network.cuh", "product(end - first, from.row,")}
    fetch = _line("sequence.cuh", "CCM_DEVICE void fetch_words(")
    words = range(fetch, fetch + 8)
    # Of symbols beyond their windows' neighbours; the tables are too large for L1.
    far = _line("rans_warp.cuh", "CCM_DEVICE static uint32_t look_far(")
    tables = range(far, far + 18)
    base = {_line("step_network.cuh", f"= sum[{k}]") for k in (0, 8)}
    gathered = {_line("crew.cuh", "some[k] = load_word(context.at(")}  # acquiring has emptied L1
    # Positions: who looks ahead has brought them into L1.
    places = {_line("step_network.cuh", text) for text in ("return where[k < count ?", "return at[p + k < end ?")}
    shared = gpu.shared_load + GENERIC

    def mixed(miss: float) -> float:
        return gpu.l1 + miss * (gpu.l2 - gpu.l1)

    def cycles(i) -> float:
        op, dense = i.op, any(f in ("chase.cuh", "dense.cuh") for f, _ in i.lines)
        if op.startswith(("SHFL", "S2R")):
            n = SHUFFLE
        elif op.startswith(("POPC", "FLO")):
            n = UNUSUAL
        elif op.startswith("LDS"):
            n = gpu.shared_load
        elif not op.startswith("LD"):
            n = SHUFFLE
        elif i.within("product.cuh", packed):
            n = mixed(DENSE_MISS) if dense else (shared if weights_in_shared else gpu.l2)
        elif i.within("product.cuh", inputs) and (dense or i.within("step_network.cuh", spatial)):
            n = mixed(DENSE_MISS if dense else CONTEXT_MISS) + (0 if op.startswith("LDG") else GENERIC)
        elif (
            i.within("sequence.cuh", words)
            or i.within("rans_warp.cuh", tables)
            or i.within("step_network.cuh", base)
            or (i.within("crew.cuh", gathered) and not op.startswith("LDS"))
        ):
            n = gpu.l2
        elif i.within("step_network.cuh", places) and not op.startswith("LDS"):
            n = gpu.l1 + (0 if op.startswith("LDG") else GENERIC)
        else:
            n = gpu.l1 if op.startswith("LDG") else shared
        return n * scale

    return cycles


def read_machine_code(folder: Path, arch: int, crews: bool = False) -> dict:
    """Traces of the pieces of the kernel with all in shared memory; ``crews``: of that for groups with crews."""
    code = sass.disassemble(sass.compile_kernel(folder, arch), f"latents_kernelILb1ELb{int(crews)}E")
    crew = "crew.cuh"
    step, net, listing = "steps.cuh", "step_network.cuh", "step_list.cuh"
    rans = "rans_warp.cuh"
    choose = (listing, {_line(listing, "list.symbols[place + more] = {key[u],")})
    counted = {_line(listing, "all += n;")}
    publish = (step, {_line(step, "to.publish(done.targets[k]")})
    multiplied = {_line(rans, "static_cast<uint64_t>(found.less) * high_")}
    tried = {_line(rans, "static_cast<uint64_t>(freq) * high[k]")}
    # What is no part of a common round: symbols outside their window, escapes, new words.
    cold = set(range(_line(rans, "CCM_DEVICE void slow_round("), _line(rans, "CCM_DEVICE void rounds(")))
    cold |= {_line(rans, "slow_round(rows, place, symbol, found, true", nth) for nth in (0, 1)}
    # Of slow rounds: symbols beyond the neighbours, escapes.
    unlikely = set(range(_line(rans, "CCM_DEVICE static uint32_t look_far("), _line(rans, "CCM_DEVICE void rounds(")))
    unlikely |= {_line(rans, "const DeviceRow& whole = "), _line(rans, "damaged |= decode_escapes(")}
    unlikely |= {_line(rans, "rare_round(rows, place.to,")}
    neighbours = {_line(rans, "rows.neighbours[beside - 1].entry[")}
    failed = {_line(rans, "const Symbol symbol = symbols[done + place.lane];")}
    filled = {_line("sequence.cuh", "staged_ += kWordsAhead;")}
    searched = set(
        range(_line(rans, "unsigned who = __ballot_sync"), _line(rans, "CCM_DEVICE static uint32_t look_far("))
    )

    def multiplies(i: sass.Instruction) -> bool:  # a round's multiplication
        return i.op.startswith("IMAD.WIDE.U32") and i.within(rans, multiplied) and not i.within(rans, cold)

    def tries(i: sass.Instruction) -> bool:
        return i.op.startswith("IMAD.WIDE.U32") and i.within(rans, tried)

    def looks(i: sass.Instruction) -> bool:
        return i.op.startswith("LD") and i.within(rans, neighbours)

    def fills(i: sass.Instruction) -> bool:
        return i.within("sequence.cuh", filled)

    begun = {_line(net, "if (lane == 0) ahead_steps()[m_tile] = steps;")}
    first_layer = {_line(net, "add_context(c.weights(m_tile), max(begun")}

    gathers = {_line(crew, "some[k] = load_word(context.at(")} if crews else set()
    crew_bodies: list[range] = []
    pieces: dict[str, list] = {}
    network: dict[str, range] = {}
    ahead = range(0)
    for body in code.loops():
        inside = [code.instructions[k] for k in body]
        count = Counter(i.op.split(".")[0] for i in inside)
        times = (sum(map(multiplies, inside)), sum(map(tries, inside)))
        in_crew = any(file == crew for i in inside for file, _ in i.lines)
        if (
            in_crew
            and len(inside) < 1000
            and not count["BAR"]
            and (count["IMMA"] or any(i.within(crew, gathers) for i in inside))
        ):
            crew_bodies.append(body)
        elif times[1] == TRIED and "modes" not in pieces:
            pieces["modes"] = sass.shortest_turn(code, body, tries, TRIED, cold | failed | multiplied, rans)
            pieces["modes failed"] = sass.shortest_turn(code, body, multiplies, 1, cold, rans, 20000)
        elif times == (2, 0) and "rans" not in pieces:  # two rounds a turn
            pieces["rans"] = sass.shortest_turn(code, body, multiplies, 2, cold, rans)
            pieces["slow"] = sass.shortest_turn(code, body, looks, 1, unlikely, rans, 20000)
            pieces["staged"] = sass.shortest_turn(code, body, fills, 1, unlikely | searched, rans, 20000)
        elif times == (1, 0) and "rans alone" not in pieces:
            pieces["rans alone"] = sass.shortest_turn(code, body, multiplies, 1, cold, rans)
        elif count["IMMA"] and len(inside) < 200:
            outer = {f for i in inside for f, _ in i.lines}
            tiles = count["IMMA"] // 3  # three products a turn
            if "chase.cuh" in outer:
                pieces.setdefault("dense", []).append(inside)
            else:
                conv = any(i.within("product.cuh", {_line("product.cuh", "next[0] = quads[")}) for i in inside)
                pieces[f"{'conv' if conv else 'rows'} {tiles}"] = inside
        elif any(i.within(net, begun) for i in inside) and count["IMMA"] and not count["BAR"]:
            ahead = body
        elif count["IMMA"] == STRAIGHT and not count["BAR"] and any(i.within(net, first_layer) for i in inside):
            network["first"] = body
        elif (
            count["IMMA"] == STRAIGHT and count["BAR"] == 1 and any(file == net for i in inside for file, _ in i.lines)
        ):
            network["later"] = body
        elif len(inside) < 400:
            for name, where in (("choose", choose), ("count", (listing, counted)), ("publish", publish)):
                known = pieces.get(name)
                if any(i.within(*where) for i in inside) and (known is None or len(inside) < len(known)):
                    pieces[name] = inside
    wanted = {
        "choose",
        "count",
        "publish",
        "dense",
        "conv 2",
        "rows 2",
        "rans",
        "rans alone",
        "slow",
        "staged",
        "modes",
        "modes failed",
    }
    if missing := sorted(wanted - set(pieces)) or len(network) < 2:
        raise ValueError(f"sm_{arch}: pieces of the kernel were not found: {missing}")
    # Models that scale no context.
    rescaled = {_line("publish.cuh", "if (mult) value = requantize(value, mult[channel]")}
    pieces["publish"] = [i for i in pieces["publish"] if not i.within("publish.cuh", rescaled)]
    pieces["dense"] = max(pieces["dense"], key=lambda p: sum(i.op == "LDG.E" for i in p))
    features, parameters = _line(net, "CCM_DEVICE void put_features("), _line(net, "CCM_DEVICE void put_parameters(")
    after = _line(net, "CCM_DEVICE uint4& ahead(")
    means = range(_line(net, "int16_t* to = means +"), _line(net, "} else if (of < 2 * channels) {"))
    epilogue = {  # lines that belong to others
        "bytes": set(range(parameters, after)),
        "scale": {*range(features, parameters), *means},
    }
    base = set(range(_line(net, "CCM_DEVICE void start_from_base("), _line(net, "acc.v[n][2 + k] = sum[8];") + 2))
    base.add(_line(net, "if (begun < 0) start_from_base("))
    # What follows a tile, if the same warp has another one.
    again = _line(net, "if (m_tile < c.m_tiles) {", 1)
    others_turn = {
        *range(again, again + 4),
        _line(net, "if (m_tile < c.m_tiles) numbers = LaneNumbers::of(c, m_tile);", 1),
    }
    loops = [set(body) for body in code.loops() if len(body) < 160]
    for name, body in network.items():
        straight = [code.instructions[k] for k in body if not any(k in other for other in loops)]
        for kind, others in epilogue.items():
            pieces[f"{name} {kind} 2"] = [i for i in straight if not i.within(net, others | base | others_turn)]
        pieces[f"{name} again 2"] = [i for i in straight if i.within(net, others_turn)]
    pieces["ahead"] = [code.instructions[k] for k in ahead if not any(k in other for other in loops)]
    if not pieces["ahead"]:
        raise ValueError(f"sm_{arch}: what is added up ahead was not found")
    if crews:
        _add_crew(pieces, code, crew_bodies, epilogue)
    return pieces


def _add_crew(pieces: dict[str, list], code, bodies: list[range], epilogue: dict[str, set[int]]) -> None:
    """What a member does: a loop of products, tiles of channels of a layer, sums begun ahead, what taps read."""
    crew, net = "crew.cuh", "step_network.cuh"
    base = range(_line(crew, "CCM_DEVICE void add_base("), _line(crew, "acc.v[n][k] += sum[n][k];") + 1)
    names = {
        "first": _line(crew, "add_rows(c, m_tile, begun, c.k_steps, acc);"),
        "later": _line(crew, "product_rows(c.k_steps, at, c.weights(m_tile), acc);"),
        "ahead": _line(crew, "add_rows(c, m_tile, 0, early_, acc);"),
    }
    inside = {body: [code.instructions[k] for k in body] for body in bodies}
    products = {b: sum(i.op.startswith("IMMA") for i in found) for b, found in inside.items()}
    loops = [b for b in bodies if products[b] == 6]
    straight = {
        name: [code.instructions[k] for k in b if not any(k in other for other in loops)]
        for b, found in inside.items()
        for name, line in names.items()
        if products[b] == STRAIGHT and any(i.within(crew, {line}) for i in found)
    }
    again = _line(crew, "if (m_tile < c.m_tiles) {", 1)
    others_turn = {
        *range(again, again + 5),
        _line(crew, "if (m_tile < c.m_tiles) numbers = LaneNumbers::of(c, m_tile);", 1),
    }
    pieces["crew rows 2"] = max((inside[b] for b in loops), key=len)
    for name in ("first", "later"):
        for kind, others in epilogue.items():
            pieces[f"crew {name} {kind} 2"] = [
                i for i in straight[name] if not i.within(crew, {*base, *others_turn}) and not i.within(net, others)
            ]
        pieces[f"crew {name} again 2"] = [i for i in straight[name] if i.within(crew, others_turn)]
    pieces["crew ahead 2"] = [i for i in straight["ahead"] if not i.within(crew, base)]
    pieces["gather"] = max((inside[b] for b in bodies if not products[b]), key=len)


def machine_cycles(pieces: dict[str, list], gpu: Gpu, scale: float) -> dict[str, dict]:
    """``lone``: cycles of one warp for one turn of a loop or one straight piece; ``issue``: its instructions."""
    found = {}
    for name, trace in pieces.items():
        own = name.removeprefix("crew ")
        straight = own.startswith(("first", "later", "ahead"))
        for shared in (True, False):
            if not shared and not own.startswith(("conv", "rows", "first", "later", "ahead")):
                continue
            cost = (sass.cycles if straight else sass.per_round)(trace, _latency(gpu, scale, shared))
            turns = {"rans": 2, "choose": LISTED, "gather": GATHERED}.get(name, 1)
            if name in ("slow", "staged"):  # of a turn of two rounds, one of which is common, the other done over
                cost -= 2 * found["rans"]["lone"]
            if own.startswith(("conv", "rows", "dense")):
                nt = TILE_ROWS * TILE_COLUMNS // 8 if name == "dense" else int(own.split()[1])
                turns = sum(i.op.startswith("IMMA") for i in trace) / nt
            found[name + ("" if shared else " L2")] = {
                "lone": round(cost / turns, 1),
                "issue": round(len(trace) / turns, 1),
            }
    return found
