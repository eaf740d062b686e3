"""The machine code of the kernels, for every architecture of the last build; no GPU is needed."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent / "emu"))
import machine_code as mc

from ccm_fast import _backend

FOLDER = mc.build_folder()
built = pytest.mark.skipif(
    not (_backend.build_info().get("cuda") and FOLDER), reason="this build has no CUDA kernels (no nvcc, or CCM_CUDA=0)"
)


@pytest.mark.slow
@built
def test_every_kernel_keeps_the_rules():
    rows = mc.survey(FOLDER)
    assert {kernel.partition("<")[0] for kernel, *_ in rows} == set(mc.BUDGET)
    wanted = {name.partition("+")[0] for name in _backend.build_info()["cuda"]["architectures"]}
    assert wanted <= {arch for _, arch, *_ in rows}
    broken = {
        f"{kernel} sm_{arch}": faults
        for kernel, arch, used, code in rows
        if (faults := mc.faults(kernel, used, code, arch))
    }
    assert not broken


@built
def test_instructions_are_looked_at():
    if not mc.tool():
        pytest.skip("needs cuobjdump and nvdisasm: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")
    code = mc.instructions(FOLDER / "entropy/cuda/latents_cuda.cu.o")
    assert code and all(len(c) > 500 for c in code.values())
    # What the kernel cannot be without: were it not found, absence of other things would mean nothing.
    for names in ({mc.opcode(i).partition(".")[0] for i in c} for c in code.values()):
        assert {"IMMA", "VOTE", "LDS", "STG", "BAR"} <= names


def test_rules_can_be_broken():
    sound = mc.Resources(100, 0, 0, 0)
    code = ["IMMA.16832.S8.U8 R4, R1, R2, RZ", "LDG.E.128 R4, desc[UR4][R2.64]", "HFMA2.MMA R5, -RZ, RZ, 0, 2.98e-07"]
    assert mc.faults("latents_kernel", sound, code) == []
    for used in (sound._replace(spills=8), sound._replace(stack=8), sound._replace(registers=255)):
        assert len(mc.faults("latents_kernel", used, code)) == 1
    assert mc.faults("latents_kernel<Lb1ELb0E>", sound._replace(registers=255), code, "120") == []
    assert len(mc.faults("hyper_kernel", sound._replace(registers=255), code, "120")) == 1
    for bad in (
        "LDL R1, [R2]",
        "FFMA R1, R2, R3, R4",
        "I2F.U32.RP R2, R3",
        "MUFU.RCP R2, R3",
        "F2I.FTZ.U32.TRUNC.NTZ R5, R4",
    ):
        assert len(mc.faults("latents_kernel", sound, [*code, bad])) == 1, bad
    assert len(mc.faults("latents_kernel", sound, [*code, "LDG.E.CONSTANT R1, [R2.64]"])) == 1
    assert len(mc.faults("latents_kernel", sound, code[1:])) == 1
    assert len(mc.faults("decode_z_kernel", sound._replace(registers=60), code)) == 1
    floats = ["I2F.S16 R2, R3", "FADD R1, R2, R3"]
    small = mc.Resources(20, 0, 0, 0)
    assert mc.faults("restore_kernel", small, floats) == [] and mc.faults(
        "restore_kernel", small, [*floats, "FMUL R1, R2"]
    )
    assert mc.faults("new_kernel", sound, code) == ["new_kernel has no line in BUDGET"]
