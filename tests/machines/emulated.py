"""Other machines: the codec, compiled by Debian's cross compilers and run by qemu-user or wine, on the golden files.

`make test-machines` runs it; it is not among the tests of `make test`, for its packages. A machine whose packages are
missing is skipped. Portable kernels have to give what they give here to the last bit, pixels and files included; the
latents of golden.json are every kernel's.
"""

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path

import ccm_program
import numpy as np
import pytest
import tiny
import torch
from weak_symbols import weak_functions

from ccm_fast import weights
from ccm_fast.entropy.testing import random_plan, sample_latents
from ccm_fast.models import Schedule

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = tiny.GOLDEN / "tiny.safetensors"
GOLDEN = json.loads((tiny.GOLDEN / "golden.json").read_text())
FILES = [name for name, case in GOLDEN.items() if case.get("plan") != 3]  # that one has weights of its own


@dataclasses.dataclass(frozen=True)
class Machine:
    """A processor, how programs are made for it, and what runs them."""

    compiler: str
    emulator: str
    package: str
    kernels: dict = dataclasses.field(default_factory=lambda: {"": "scalar"})  # an emulated processor: its best
    runtime: str = "qemu-user"  # the emulator's package
    suffix: str = ""  # of programs
    flags: tuple = ("-pthread", "-Werror")
    isas: tuple | None = None  # None: those that the compiler knows

    def missing(self):
        return [
            package
            for program, package in ((self.compiler, self.package), (self.emulator, self.runtime))
            if not shutil.which(program)
        ]


ARM = {"cortex-a72": "scalar", "cortex-a76": "dotprod", "max": "i8mm"}
MACHINES = {
    "aarch64": Machine("aarch64-linux-gnu-g++", "qemu-aarch64", "g++-aarch64-linux-gnu", ARM),
    "armhf": Machine("arm-linux-gnueabihf-g++", "qemu-arm", "g++-arm-linux-gnueabihf"),
    "s390x": Machine("s390x-linux-gnu-g++", "qemu-s390x", "g++-s390x-linux-gnu"),  # big-endian
    # Portable kernels alone: GCC aligns no vectors of 32 bytes on Windows's stack.
    "windows": Machine(
        "x86_64-w64-mingw32-g++-posix",
        "wine",
        "g++-mingw-w64-x86-64-posix",
        runtime="wine",
        suffix=".exe",
        flags=("-pthread",),
        isas=(),
    ),
}
PROGRAMS = [ROOT / "tests/cpp/machine_check.cpp", ROOT / "tests/cpp/engine_check.cpp", ROOT / "examples/decode.c"]


@dataclasses.dataclass(frozen=True)
class Programs:
    """Programs for one machine."""

    folder: Path
    emulator: tuple = ()
    kernels: dict = dataclasses.field(default_factory=lambda: {"": "scalar"})
    nm: str = "nm"
    suffix: str = ""

    def run(self, program, *arguments, processor=""):
        emulator = [*self.emulator, "-cpu", processor] if processor else self.emulator
        command = [*emulator, self.folder / (program + self.suffix), *arguments]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def check(self, weights_file, *arguments, isa="scalar", processor=""):
        return self.run("machine_check", weights_file, isa, *arguments, processor=processor).splitlines()


@pytest.fixture(scope="session")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("here")
    ccm_program.build(["c++"], folder, PROGRAMS, isas=())
    return Programs(folder)


@pytest.fixture(scope="session", params=MACHINES)
def there(request, tmp_path_factory):
    machine = MACHINES[request.param]
    if machine.missing():
        pytest.skip(f"without the Debian packages {' '.join(machine.missing())}")
    folder = tmp_path_factory.mktemp(request.param)
    ccm_program.build([machine.compiler], folder, PROGRAMS, machine.isas, machine.flags, suffix=machine.suffix)
    nm = machine.compiler.removesuffix("-posix").replace("g++", "nm")
    return Programs(folder, (machine.emulator,), machine.kernels, nm, machine.suffix)


@pytest.fixture(scope="session")
def skipping(tmp_path_factory):
    """Weights with a plan of version 3 and all that higher efforts need."""
    path = tmp_path_factory.mktemp("weights") / "skipping.safetensors"
    model = tiny.skipping()
    torch.manual_seed(3)
    model.sensitivities = torch.rand(2, model.config.latent_channels) + 0.1
    weights.save(model, path)
    return path


def paths(names):
    return [tiny.GOLDEN / f"{name}.ccm" for name in names]


def latents_of(lines):
    return [line.split()[2] for line in lines]


def test_golden_files(there, here):
    """Latents are golden.json's, and pixels those of this machine."""
    found = there.check(WEIGHTS, *paths(FILES))
    assert latents_of(found) == [GOLDEN[name]["sha256"] for name in FILES]
    assert found == here.check(WEIGHTS, *paths(FILES))


def test_plan_of_version_3(there, here, skipping):
    found = there.check(skipping, *paths(["colour3"]))
    assert latents_of(found) == [GOLDEN["colour3"]["sha256"]]
    assert found == here.check(skipping, *paths(["colour3"]))


def test_special_instruction_sets_stay_in_their_files(there):
    count, weak = weak_functions(sorted(there.folder.glob("*.o")), there.nm)
    assert bool(count) == (len(there.kernels) > 1) and not weak


def test_every_processor_has_the_same_latents(there):
    for processor in there.kernels:
        found = there.check(WEIGHTS, *paths(FILES), isa="", processor=processor)
        assert latents_of(found) == [GOLDEN[name]["sha256"] for name in FILES], processor


@pytest.mark.parametrize("features", [{}, {"leaky": True, "residual": True, "scaled": True}])
def test_all_kernels_are_exact(there, features, tmp_path):
    """Streams, h_s and rows of every symbol, by each instruction set; and each processor has those that it should."""
    rng = np.random.default_rng(8)
    h, w = 9, 14
    plan = random_plan(rng, groups=(6, 4, 7), hyper_channels=3, schedule=Schedule.from_name("wavefront"), **features)
    z, y = sample_latents(rng, plan, h, w, escape=0.02)
    (tmp_path / "plan").write_bytes(plan.to_bytes())
    (tmp_path / "z").write_bytes(z.astype("<i2").tobytes())
    (tmp_path / "y").write_bytes(y.astype("<i2").tobytes())
    expected = ["scalar"]
    for processor, best in there.kernels.items():
        expected += [best] if best != "scalar" else []
        found = there.run("engine_check", tmp_path, h, w, 2, 4, processor=processor).split()
        assert found == ["ok", *expected], processor


@pytest.mark.parametrize("shipped", [False, True])
def test_encodes_to_the_same_bytes(there, here, skipping, shipped):
    """At all efforts, and the shipped model at the lowest."""
    arguments = (weights.find("ccm-small"), "encode", 1) if shipped else (skipping, "encode", 3)
    found = there.check(*arguments)
    assert len(found) == (3 if shipped else 9) and found == here.check(*arguments)


def test_the_example_in_c(there, here, tmp_path):
    pictures = []
    for programs in (there, here):
        programs.run("decode", WEIGHTS, tiny.GOLDEN / "colour2.ccm", tmp_path / "a.ppm")
        pictures.append((tmp_path / "a.ppm").read_bytes())
    assert pictures[0] == pictures[1]
