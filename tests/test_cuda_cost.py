"""The CUDA engine's cost model: the simulated schedule keeps the real one's bounds; the document is current."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ccm_fast
from ccm_fast import engine_times
from ccm_fast.entropy.testing import random_plan

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import cuda_cost
import cuda_crew
import cuda_fit
import cuda_model
import cuda_nets
import cuda_pieces
import cuda_steps
from cuda_pieces import STEPS_PER_NEWS, TILE_COLUMNS, TILE_ROWS
from cuda_schedule import build_order, chunk_order, simulate


def run(h, w, groups, kernels=(5, 3, 3), blocks=10**6, task=0.0, shift=2, **more):
    order = build_order(h, w, shift)
    chain = lambda g: kernels if g else ()  # noqa: E731
    return order, simulate(order, groups, lambda *a: {"step": 1.0}, lambda *a: task, chain, blocks, **more)


@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 40), (9, 17), (32, 48)])
def test_free_groups_follow_at_the_offset_of_their_tiles(h, w):
    order, alone = run(h, w, 1)
    assert alone.total == order.steps == w + 3 * (h - 1)
    _, two = run(h, w, 2)
    _, four = run(h, w, 4)
    offset = two.starts[1]
    # A group begins when the tiles around its first one are there, and at the latest when the group before is done.
    assert 1 <= offset <= order.steps
    assert order.steps + 3 * offset <= four.total + 1e-9
    assert four.total <= 4 * order.steps
    assert four.tasks == 3 * 3 * order.tiles
    # The first position lies in the tile that the shift of the last layer's grid says. Tiles in the same place of the
    # layers before are all that it waits for: of the first layer, with two positions around it, for the 5 x 5.
    rows, columns = ((2 // tile + 1) * tile + 2 for tile in (TILE_ROWS, TILE_COLUMNS))
    first = 3 * (min(h, rows) - 1) + min(w, columns)
    assert offset == min(order.steps, -(-first // STEPS_PER_NEWS) * STEPS_PER_NEWS)


def test_a_group_of_one_step_follows_chunk_by_chunk():
    """It begins when its first row is there, long before the group before it is done."""
    order = build_order(32, 48, 2)
    fine = chunk_order(order, 32, 48, 16, 2)
    assert (fine.steps, sum(fine.counts)) == (96, 32 * 48)
    assert frozenset.union(*fine.tiles_of_step) == frozenset.union(*order.tiles_of_step)
    _, found = run(32, 48, 2, last_order=fine)
    assert 16 < found.starts[1] < 80 and found.ends[0] == 141 < found.total < 141 + 40


def test_one_block_does_everything_in_turn():
    order, one = run(9, 17, 3, blocks=1, task=10.0)
    assert one.total >= order.steps
    assert one.tasks == 2 * 3 * order.tiles


@pytest.mark.parametrize("tile", [(4, 16), (4, 8), (2, 8)])
def test_shifted_tiles_hold_what_the_rule_waits_for(tile):
    """Position by position: whatever a tile of a layer reads lies in the tiles above it and to its left, or in its own
    place, of the layer before; the base of a position in the tile that its step waits for.
    """
    h, w, kernels = 9, 37, (5, 3, 3)
    order = build_order(h, w, 2, *tile)
    place = lambda i, j, shift: ((i + shift) // tile[0], (j + shift) // tile[1])  # noqa: E731
    for layer, shift in ((1, 1), (2, 2)):
        radius = kernels[layer] // 2
        up, left = -(-2 * radius // tile[0]), -(-2 * radius // tile[1])
        for i in range(h):
            for j in range(w):
                a, b = place(i, j, shift)
                for ni in range(max(0, i - radius), min(h, i + radius + 1)):
                    for nj in range(max(0, j - radius), min(w, j + radius + 1)):
                        c, d = place(ni, nj, shift - radius)
                        assert a - up <= c <= a and b - left <= d <= b
                if layer == 2:
                    assert a * order.tiles_j + b in order.tiles_of_step[j + 3 * i]
    for t, needs in enumerate(order.needs[2]):  # all that a tile of the first layer reads
        i, j = (t // order.tiles_j + 1) * tile[0] + 1, (t % order.tiles_j + 1) * tile[1] + 1
        assert needs >= min(order.steps, 3 * min(i, h - 1) + min(j, w - 1) + 1)


def test_a_group_follows_within_40_steps_and_closer_with_small_tiles():
    far, near = (
        cuda_model.offset_in_steps("768x512", cuda_nets.pictures("ccm-base")[0], (4, 16)),
        run(32, 48, 2)[1].starts[1],
    )
    assert 17 <= near < far <= 40


def test_order_is_that_of_the_engine():
    order = build_order(32, 48)
    assert (order.steps, max(order.counts), sum(order.counts)) == (141, 16, 32 * 48)
    for r in (0, 2):
        assert order.needs[r][0] == 3 * (TILE_ROWS + r - 1) + TILE_COLUMNS + r
    assert order.needs[0][-1] == 141
    assert sorted(order.sequence) == list(range(order.tiles)) and order.sequence[0] == 0


def test_the_model_fits_what_was_measured():
    """Twelve points, three numbers: no confirmation, but a change of the model must not lose it."""
    found = json.loads(cuda_cost.RESULT.read_text(encoding="utf-8"))["calibration"]
    assert len(found) == 12
    assert all(abs(p["predicted_ms"] / p["measured_ms"] - 1) < 0.08 for p in found)
    assert cuda_fit.calibration(only=5) == [found[5]]
    stored = json.loads(cuda_fit.CALIBRATION.read_text(encoding="utf-8"))["fit"]
    best = stored["grid"][0]
    assert (best["scale"], best["slow_round"]) == (cuda_pieces.BANDS["fitted"], cuda_pieces.SLOW_ROUND)
    assert best["clock"] == cuda_pieces.GPUS["H100"].clock
    assert all(abs(out) < 10 for out in stored["left_out_percent"])


def costs(group=1, options=None, model=None, longest=0, **change):
    """Of a group of ccm-small as it is fitted, with a stream of 8 lanes."""
    stored = json.loads(cuda_cost.RESULT.read_text(encoding="utf-8"))["cycles"]["H100"]["fitted"]
    stream = replace(cuda_nets.Stream(8, 40.0, 1.0, 0.0), **change)
    model = model or cuda_nets.pictures("ccm-small")[0]
    return cuda_steps.Costs(
        model, cuda_cost.GPU, 1.5, stored, options or cuda_steps.Options(), group, stream, 408,
        longest=longest,
    )  # fmt: skip


def test_each_group_costs_what_it_has():
    """Its own channels, lanes, coded symbols and slow rounds."""

    def cost(**change):
        return costs(**change).step(16, False)

    assert cost(lanes=16)["rans"] < 0.65 * cost()["rans"]
    assert cost(coded=20.0)["rans"] < 0.65 * cost()["rans"]
    assert cost(slow=0.2)["rans"] > 1.3 * cost()["rans"]
    assert cost(slow=0.2, far=0.5)["rans"] > cost(slow=0.2)["rans"]
    assert cost(lanes=64)["rans"] < cost(lanes=32)["rans"]
    assert costs(group=4).listing(16) > 1.5 * costs().listing(16)
    # Rounds of most probable symbols alone are quick where few take words, and only there.
    calm = cost(bits=0.1, calm=0.99)["rans"]
    assert calm < 0.25 * cost(bits=0.1, calm=0.1)["rans"] and cost(calm=0.99)["rans"] == cost()["rans"]


def test_taps_are_rounded_up_to_words_and_products():
    """Of 48 channels 12 taps are 18 products of 32 bytes, of 47 as many; ten of them 15. None without own context."""
    model = replace(cuda_nets.pictures("ccm-small")[0], groups=(47, 48, 48, 48, 128))
    for group in (0, 1):
        own = costs(group, model=model)
        assert own.layers[0] == (8, 18) and own.ahead()[0] == 15
    assert costs(4).layers[0] == (8, 0) and costs(4).ahead()[0] == 0
    assert costs(4, model=replace(model, fine_context=True)).layers[0] == (8, 48)


def test_steps_whose_base_comes_late_begin_nothing_ahead():
    own = costs()
    begun, late = own.step(16, False, True), own.step(16, False, False)
    assert late["products"] > 3 * begun["products"] and late["requantize"] > begun["requantize"]
    seen = []

    def step(image, group, count, announces, begun):
        seen.append((group, begun))
        return {"rans": 1.0}

    order = build_order(9, 17, 2)
    simulate(order, 2, step, lambda *a: 50.0, lambda g: (5, 3, 3), 10**6)
    assert all(begun for group, begun in seen[1:] if group == 0) and not seen[0][1]
    assert not all(begun for group, begun in seen if group)


def test_lists_are_written_beside_the_decoders():
    """Of chunks that need nothing of what is decoded; what lasts longer decides."""
    fine, wide = costs(4, coded=16.0), costs(model=cuda_nets.pictures("ccm-base")[0], longest=40)
    assert fine.two_lists and not costs(1).two_lists and costs(1, longest=40).two_lists
    assert not wide.two_lists  # twelve tiles of sums for eleven warps
    begun, late = fine.step(16, False, True), fine.step(16, False, False)
    assert begun["rans"] == late["rans"] and sum(begun.values()) < 0.7 * sum(late.values())
    # Where decoders are quicker still, the list is better written by all warps behind them (by a tenth with coded=2).
    quick = costs(4, lanes=32, coded=8.0)
    written = sum(quick.written(16, False, quick.beside).values())
    begun, late = (sum(quick.step(16, False, b).values()) for b in (True, False))
    assert quick.rans(16) < written < begun < late
    one, three = (sum(costs(1, longest=40).step(n, False).values()) for n in (16, 48))
    apart = sum(costs(1).step(48, False).values())
    assert one + 2 * costs(1).rans(16, 0.0) < three < apart


def crew_of(model, longest, spare=128, batch=1):
    """Of the costs of a model's groups: those with a crew, and the blocks that it takes."""
    stored = json.loads(cuda_cost.RESULT.read_text(encoding="utf-8"))["cycles"]["H100"]["fitted"]
    own = [costs(g, model=model, longest=longest) for g in range(len(model.groups))]
    found, taken = cuda_crew.with_crews(own, stored["crews"], spare, batch)
    return [c if isinstance(c, cuda_crew.CrewCosts) else None for c in found], taken


def test_crews_are_formed_where_the_engine_forms_them():
    """For weights of more than two blocks' memory, for steps of several chunks, as far as there are blocks."""
    (wide,), taken = crew_of(cuda_nets.mbt2018(), 16)
    assert wide.parts == taken > 10 and wide.slots == 1 and wide.member_share == [1, 1, 1]
    assert crew_of(cuda_nets.mbt2018(), 16, spare=12)[1] == 12 and crew_of(cuda_nets.mbt2018(), 16, spare=2)[1] == 0
    base, small = cuda_nets.pictures("ccm-base")[0], cuda_nets.pictures("ccm-small")[0]
    assert crew_of(base, 16)[1] == crew_of(small, 16)[1] == 0
    crews, taken = crew_of(base, 40)
    assert taken == 12 and all((c.parts, c.slots) == (1, 3) for c in crews)
    assert crew_of(base, 40, batch=8)[1] == 4 * 3 and crew_of(base, 40, batch=16)[1] == 4 * 2
    crews, taken = crew_of(small, 40)
    assert taken == 12 and crews[4] is None  # no context of its own
    assert crew_of(small, 40, batch=64)[1] == 0


def test_crews_make_steps_shorter():
    (wide,), _ = crew_of(cuda_nets.mbt2018(), 16)
    alone = sum(costs(0, model=cuda_nets.mbt2018()).step(16, False).values())
    assert sum(wide.step(16, False).values()) < alone / 2
    assert sum(wide.step(16, False, False).values()) > sum(wide.step(16, False).values())
    crews, _ = crew_of(cuda_nets.pictures("ccm-base")[0], 40)
    one, three = (sum(crews[1].step(n, False).values()) for n in (16, 40))
    assert one < three < 2.5 * one
    few = replace(crews[1], slots=1)
    assert sum(few.step(40, False).values()) >= three


def test_progress_is_announced_beside_the_network():
    """It takes no time of a step; others see it later."""
    assert costs(3).step(16, True) == costs(3).step(16, False) and costs(3).news_delay > 0


def test_weights_fill_shared_memory_tile_by_tile():
    """Those of ccm-base do not fit whole beside the tables: then all would come from L2, for two tiles a warp."""
    first, *others = costs(model=cuda_nets.pictures("ccm-base")[0]).in_shared
    assert 0.5 < first < 1 and others == [1, 1]
    assert costs(1).in_shared == [1, 1, 1]


def test_a_batch_is_done_by_few_blocks():
    """All images' steps and tiles are done; groups share the blocks' time."""
    order = build_order(5, 9, 2)
    step, task = (lambda *a: {"rans": 100.0}), (lambda *a: 10.0)
    chain = lambda g: (5, 3, 3)  # noqa: E731
    one = simulate(order, 3, step, task, chain, 100)
    found = {blocks: simulate(order, 3, step, task, chain, blocks, images=8) for blocks in (1, 6, 1000)}
    assert all(o.tasks == 8 * one.tasks == 8 * 2 * 3 * order.tiles for o in found.values())
    assert found[1000].total == pytest.approx(one.total, rel=0.05)
    assert found[1].total >= 8 * 3 * order.steps * 100
    assert found[1].total / 6 <= found[6].total < found[1].total / 2


def test_the_choice_of_an_engine_goes_by_these_predictions():
    """Within a fourth: lanes as chosen and 32, two sizes, a batch."""
    plan = ccm_fast.load("ccm-small").frozen.plan
    found = json.loads(cuda_cost.RESULT.read_text(encoding="utf-8"))
    rows = [r for r in found["predictions"] if r["model"] == "ccm-small"]
    assert len(rows) == 3
    for row in rows:
        shape = cuda_nets.SIZES[row["size"]]
        ms = 1000 * engine_times.gpu_seconds_of(plan, shape, 1, row["rounds"], engine_times.Gpu())
        assert abs(ms / row["fitted"]["ms"] - 1) < 0.25, row["size"]
    wide = random_plan(np.random.default_rng(0), groups=(192,), hyper_channels=4, widths=(640, 512))
    (row,) = (r for r in found["predictions"] if r["model"] == "mbt2018" and r["lanes_chosen"])
    one, alone = (
        1000 * engine_times.gpu_seconds_of(wide, (32, 48), 1, row["rounds"], engine_times.Gpu(n)) for n in (132, 20)
    )
    assert abs(one / row["fitted"]["ms"] - 1) < 0.25 and alone > 3 * one
    many = 1000 * engine_times.gpu_seconds_of(plan, (32, 48), cuda_cost.BATCH, rows[0]["rounds"], engine_times.Gpu())
    assert abs(many / found["batch"]["as it is"]["fitted"] - 1) < 0.25


def test_document_agrees_with_the_results():
    text = cuda_cost.DOCUMENT.read_text(encoding="utf-8")
    assert cuda_cost.fill(text, json.loads(cuda_cost.RESULT.read_text(encoding="utf-8"))) == text
