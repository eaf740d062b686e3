"""The plan: bytes and back, validation, overflow proof."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccm_fast.entropy.plan import IntConv, OverflowProofError, Plan, PlanError, TableRows, fixed_point, layers
from ccm_fast.entropy.testing import random_plan
from ccm_fast.errors import ModelError


def make(seed=0, **kwargs):
    return random_plan(np.random.default_rng(seed), **kwargs)


@pytest.mark.parametrize("schedule", ["wavefront", "checkerboard", "single", "multistage2", "multistage4"])
@pytest.mark.parametrize("groups", [(4,), (5, 1, 7)])
def test_bytes_and_back(schedule, groups):
    plan = make(groups=groups, schedule=schedule, scale_codes=100)
    data = plan.to_bytes()
    again = Plan.from_bytes(data)
    assert again.fingerprint == plan.fingerprint and len(plan.fingerprint) == 8
    for (name, a), (_, b) in zip(layers(plan), layers(again), strict=True):
        assert np.array_equal(a.weight, b.weight) and np.array_equal(a.bias, b.bias), name
    again._bytes = None  # write what was read, not what was kept
    assert again.to_bytes() == data


def test_without_stack_skip_or_hidden():
    plan = make(groups=(3, 2), cross_kernels=(), skip_kernel=0, widths=(8,))
    assert not plan.groups[1].stack and plan.groups[1].skip is None and not plan.groups[1].hidden
    assert Plan.from_bytes(plan.to_bytes()).to_bytes() == plan.to_bytes()


def test_a_plan_with_other_tables_has_other_bytes():
    plan = random_plan(np.random.default_rng(1), groups=(3,))
    before = plan.to_bytes()
    z_rows = TableRows.from_frequencies([-1] * plan.hyper_channels, [np.array([9, 65517, 9, 1])] * plan.hyper_channels)
    other = replace(plan, z_rows=z_rows)
    assert other.to_bytes() != before == plan.to_bytes()
    assert Plan.from_bytes(other.to_bytes()).z_rows.cdf.tolist() == z_rows.cdf.tolist()


def test_every_truncation_is_an_error():
    data = make(groups=(1,), psi_channels=2, widths=(4, 2), hyper_channels=1).to_bytes()
    for end in [*range(0, 600), *range(600, len(data), 97), len(data) - 1]:
        with pytest.raises(PlanError):
            Plan.from_bytes(data[:end])
    with pytest.raises(PlanError, match="length"):
        Plan.from_bytes(data + b"\0\0\0\0")


@settings(max_examples=150)
@given(data=st.data())
def test_damage_is_a_plan_error_or_another_plan(data):
    good = bytearray(make(groups=(2, 1), psi_channels=2, widths=(4,), hyper_channels=1).to_bytes())
    at = data.draw(st.integers(0, min(len(good), 4000) - 1))
    good[at] ^= data.draw(st.integers(1, 255))
    try:
        plan = Plan.from_bytes(bytes(good))
    except PlanError as error:
        assert isinstance(error, ModelError) and isinstance(error, ValueError) and str(error)
    else:
        assert plan.fingerprint != make(groups=(2, 1), psi_channels=2, widths=(4,), hyper_channels=1).fingerprint


def test_messages_name_the_part():
    plan = make()
    plan.groups[1].stack[0].mult[3] = -1
    with pytest.raises(PlanError, match=r"group 1 stack\.0: mult"):
        plan.to_bytes()
    plan = make()
    plan.groups[0].taps[0] = (0, 1)
    with pytest.raises(PlanError, match="group 0"):
        plan.to_bytes()
    plan = make(schedule="checkerboard")
    plan.groups[0].taps[0] = (-2, -2)  # the same colour: the same step
    with pytest.raises(PlanError, match="no position may read"):
        plan.to_bytes()
    plan = make()
    plan.scale_table[5] = 64
    with pytest.raises(PlanError, match="scale table"):
        plan.to_bytes()
    plan = make()
    plan.y_rows.cdf[7] = plan.y_rows.cdf[6]
    with pytest.raises(PlanError, match="does not rise"):
        plan.to_bytes()


def test_overflow_proof_names_layer_and_channel():
    plan = make()
    conv = plan.groups[1].hidden[0]
    conv.bias[2] = (1 << 31) - 1
    with pytest.raises(OverflowProofError, match=r"group 1 hidden\.0, channel 2"):
        plan.to_bytes()
    plan = make()
    plan.hyper_synthesis[1].mult[4], plan.hyper_synthesis[1].shift[4] = (1 << 31) - 1, 16
    with pytest.raises(OverflowProofError, match=r"h_s\.1, channel 4"):
        plan.to_bytes()
    plan = make()  # each part fits, their sum does not
    for conv in (plan.groups[1].hyper, plan.groups[1].stack[-1]):
        conv.bias[:] = 1 << 28
        bound = np.abs(conv.weight.astype(np.int64)).sum(axis=(1, 2, 3)) * 255 + np.abs(conv.bias.astype(np.int64))
        conv.mult[:], conv.shift[:] = fixed_point(0.6 * 2**31 / bound)
    with pytest.raises(OverflowProofError, match="group 1 base"):
        plan.to_bytes()


def test_proof_is_run_on_load():
    plan = make()
    data = plan.to_bytes()
    conv = plan.hyper_synthesis[0]
    old = conv.bias.tobytes() + conv.mult.tobytes()
    assert data.count(old) == 1
    conv.bias[0] = (1 << 31) - 1
    with pytest.raises(OverflowProofError, match=r"h_s\.0, channel 0"):
        Plan.from_bytes(data.replace(old, conv.bias.tobytes() + conv.mult.tobytes()))


@given(st.floats(0, 2.0**14, exclude_max=True))
def test_fixed_point(factor):
    mult, shift = fixed_point(factor)
    assert 0 <= mult[0] < 1 << 31 and 16 <= shift[0] <= 62
    assert np.ldexp(float(mult[0]), -int(shift[0])) == pytest.approx(factor, rel=2.0**-29, abs=2.0**-62)


def test_fixed_point_refuses():
    for factor in (-1.0, 2.0**14, np.nan):
        with pytest.raises(PlanError):
            fixed_point(factor)


def test_rows_refuse_bad_frequencies():
    with pytest.raises(PlanError):
        TableRows.from_frequencies([0], [np.array([65535, 0, 1])])
    with pytest.raises(PlanError):
        TableRows.from_frequencies([0], [np.array([65535, 2])])


def test_int_conv_sizes():
    conv = make().hyper_synthesis[1]
    assert isinstance(conv, IntConv)
    assert (conv.inputs, conv.outputs, conv.channels, conv.kernel, conv.upsample) == (8, 32, 8, 3, 2)


def test_a_changed_plan_has_bytes_of_its_own():
    """The bytes are kept; those of a plan that `replace` made must not be the old one's."""
    plan = random_plan(np.random.default_rng(3))
    before = plan.to_bytes()
    cdf = plan.y_rows.cdf.copy()
    rows = [r for r in range(len(plan.y_rows)) if plan.y_rows.n[r] >= 4]
    widest = max(rows, key=lambda r: plan.y_rows.row(r)[3] - plan.y_rows.row(r)[2])
    cdf[plan.y_rows.start[widest] + 2] += 1  # one of 65536 from an entry to the one before it
    changed = replace(plan, y_rows=TableRows(plan.y_rows.lo, plan.y_rows.n, cdf))
    assert changed.to_bytes() != before and changed.fingerprint != plan.fingerprint
    assert (Plan.from_bytes(changed.to_bytes()).y_rows.cdf == cdf).all()
