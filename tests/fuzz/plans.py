"""Frozen plans: Python's checks and C++'s accept the same ones, and those run alike on every instruction set."""

import copy
import dataclasses

import mutation
import numpy as np
import torch
from mutation import EDGES, pick
from target import Target, must

from ccm_fast._backend import load
from ccm_fast.entropy.frozen import FrozenEntropyModel
from ccm_fast.entropy.plan import CODED, Plan, PlanError, layers
from ccm_fast.entropy.plan_bytes import write
from ccm_fast.entropy.testing import random_plan
from ccm_fast.models import Schedule

#: Of every version of the format.
KINDS = (
    {},
    {"schedule": "checkerboard"},
    {"leaky": True, "residual": True, "scaled": True},
    {"leaky": True, "direct": True, "scaled": True},
    {"skipped": 20, "fixed": 2},
    {"skipped": 0, "schedules": ("wavefront", "checkerboard", Schedule(1, 0, ((0,),)))},
)


def seeds() -> list[Plan]:
    """Small ones."""
    sizes = {
        "groups": (3, 2, 2),
        "psi_channels": 5,
        "cross_width": 4,
        "widths": (6, 5),
        "hyper_layers": ((3, 2), (1, 2)),
    }
    return [
        random_plan(np.random.default_rng(k), kernel=3 + 2 * (k % 2), **sizes, **KINDS[k]) for k in range(len(KINDS))
    ]


def spoil(rng: np.random.Generator, plan: Plan) -> None:
    """Change one number, or all numbers of one array, to something at the end of its range."""
    convs = [conv for _, conv in layers(plan)]
    kind = int(rng.integers(10))
    if kind <= 3:
        part = pick(rng, [*convs, *plan.groups])
        names = [n for n in ("weight", "bias", "mult", "shift", "below") if getattr(part, n, None) is not None]
        name = pick(rng, names)
        ends = {"weight": (-128, -127, 127, 0), "shift": (16, 62, 15, 63, 30), "mult": (0, 1, 2**31 - 1, -1, 2**30)}
        values = getattr(part, name)
        value = pick(rng, ends.get(name, (0, 2**31 - 1, -(2**31), 1)))
        if not values.size:
            return
        if rng.random() < 0.5:
            values[...] = value
        else:
            values[tuple(int(rng.integers(n)) for n in values.shape)] = value
    elif kind == 4:
        part = pick(rng, [*convs, *(group for group in plan.groups if group.head)])
        part.output = pick(rng, (0, 1, 2, 3) if part in convs else (0, 3))
        part.below = np.array(part.mult) if part.below is None else part.below
    elif kind == 5:
        part = pick(rng, [*convs, *plan.groups])
        part.zero = pick(rng, (0, 1, 128, 255))
    elif kind == 6:
        rows = pick(rng, (plan.y_rows, plan.z_rows))
        array = pick(rng, (rows.lo, rows.n, rows.cdf))
        k = int(rng.integers(len(array)))
        array[k] = (int(array[k]) + pick(rng, (1, -1, 7))) % 65536
    elif kind == 7:
        table = pick(rng, (plan.scale_table, plan.fraction_bits))
        table[int(rng.integers(len(table)))] = pick(rng, (0, 1, 4, 5, 63, 64, 255))
    elif kind == 8 and plan.groups[0].taps.size:
        pick(rng, plan.groups).taps.flat[0] += pick(rng, (1, -1))
    else:
        plan.skip = pick(rng, (-1, 0, 20, 62, 63))
        plan.row_step = pick(rng, (plan.row_step, 0, 1, 255))


class Plans(Target):
    name = "plans"

    def __init__(self):
        self.plans = seeds()
        self.ops = load().ops
        self.isas = self.ops.isa_list().split(",")

    def make(self, rng):
        plan = copy.deepcopy(pick(rng, self.plans))
        plan = Plan(**{f.name: getattr(plan, f.name) for f in dataclasses.fields(plan) if f.init})
        if rng.random() < 0.6:
            for _ in range(int(rng.integers(1, 4))):
                spoil(rng, plan)
            return write(plan)
        data = bytearray(write(plan))
        for _ in range(1 << int(rng.integers(3))):
            # Sizes and schedules stand at the front.
            at = 4 * int(rng.integers(pick(rng, (20, len(data) // 4))))
            value = pick(rng, (*EDGES, -1, int(rng.integers(12)), int.from_bytes(data[at : at + 4], "little") + 1))
            data[at : at + 4] = (value % (1 << 32)).to_bytes(4, "little")
        if rng.random() < 0.1:
            data = bytearray(mutation.damage(rng, bytes(data)))
            data[8:12] = len(data).to_bytes(4, "little")
        return bytes(data)

    def check(self, data):
        try:
            plan = Plan.from_bytes(data)
        except PlanError as error:
            must(bool(str(error)), "an error that says nothing")
            plan = None
        for isa in self.isas:
            try:
                self.ops.pack_plan(torch.frombuffer(bytearray(data), dtype=torch.uint8), isa)
            except RuntimeError:
                must(plan is None, f"Python accepts a plan that C++ refuses ({isa})")
            else:
                must(plan is not None, f"C++ accepts a plan that Python refuses ({isa})")
        if plan is None:
            return "PlanError"
        must(plan.to_bytes() == data, "a plan of other bytes")
        if plan.latent_channels * plan.psi_channels < 4096:
            self._run(mutation.options_of(data), FrozenEntropyModel(plan))
        return "plan"

    def _run(self, rng, model: FrozenEntropyModel) -> None:
        """Encode and decode random latents, on every instruction set; sometimes by the oracle too."""
        plan, h, w = model.plan, int(rng.integers(1, 9)), int(rng.integers(1, 9))
        z_hat = torch.from_numpy(rng.integers(-4, 5, (1, -(-h // 4), -(-w // 4), plan.hyper_channels)).astype(np.int16))
        if plan.z_values is not None:
            coded = torch.from_numpy(plan.z_values == CODED)
            z_hat = torch.where(coded, z_hat, torch.from_numpy(plan.z_values).to(torch.int16))
        y = torch.from_numpy(rng.integers(-4, 5, (1, h, w, plan.latent_channels)).astype(np.int16))
        far = torch.from_numpy(rng.random(y.shape) < 0.01)
        y = torch.where(far, torch.from_numpy(rng.integers(-2000, 2001, y.shape).astype(np.int16)), y)
        settings = [{"isa": isa, "threads": int(rng.integers(1, 4))} for isa in self.isas]
        if rng.random() < 0.03:
            settings.append({"engine": "reference"})
        version, lanes = int(rng.integers(model.stream_version, 3)), pick(rng, (0, 1, 2, 8, 32))
        expected = None
        for options in settings:
            found = self._pass(model, z_hat, y, (h, w), lanes, version, options)
            expected = found if expected is None else expected
            must(found == expected, f"other bytes or latents with {options}")

    def _pass(self, model, z_hat, y, size, lanes, version, options):
        (z,) = model.encode_z(z_hat, lanes=lanes, version=version, **options)
        must(torch.equal(model.decode_z([z], *z_hat.shape[1:3], **options), z_hat), "other z")
        psi = model.hyper(z_hat, *size, **options)
        try:
            if model.residual:
                (streams,), settled = model.encode_y_residual(psi, y.float(), lanes=lanes, version=version, **options)
            else:
                (streams,), settled = model.encode_settled(psi, y, lanes=lanes, version=version, **options)
        except ValueError:  # a mean that takes a latent out of 16 bits
            return "ValueError"
        must(torch.equal(model.decode_y(psi, [streams], **options), settled), "other y")
        return z, psi.tolist(), [bytes(s.data) for s in streams], settled.tolist()
