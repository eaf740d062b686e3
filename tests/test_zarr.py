"""The codec of Zarr."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny

import ccm_fast
from ccm_fast import errors

zarr = pytest.importorskip("zarr")
ROOT = Path(__file__).parents[1]
WEIGHTS = str(tiny.GOLDEN / "tiny.safetensors")


@pytest.mark.parametrize("per_chunk", [1, 2])
def test_an_array_of_pictures(tmp_path, per_chunk):
    from ccm_fast.interop.zarr import CcmCodec

    zarr.registry.register_codec("ccm_fast", CcmCodec)  # what the installed package's entry point does
    pictures = np.stack([tiny.photo(24, 32, k) for k in range(5)])
    codec = CcmCodec(quality=5, model=WEIGHTS, effort=1)
    options = {"dtype": "u1", "serializer": codec, "compressors": None}
    array = zarr.create_array(tmp_path / "a.zarr", shape=pictures.shape, chunks=(per_chunk, 24, 32, 3), **options)
    array[:] = pictures
    again = zarr.open_array(tmp_path / "a.zarr", mode="r")
    files = ccm_fast.encode_batch(pictures, 5, model=WEIGHTS, effort=1)
    assert np.array_equal(again[:], ccm_fast.decode_arrays(files, model=WEIGHTS))
    assert np.array_equal(again[3, 4:9], ccm_fast.decode_arrays(files[3:4], model=WEIGHTS)[0, 4:9])
    if per_chunk == 1:
        chunk = tmp_path / "a.zarr/c/2/0/0/0"
        assert chunk.read_bytes() == files[2]
        chunk.write_bytes(files[2][:-3])
        with pytest.raises(errors.BitstreamError):
            again[2]
    for shape, dtype in (((4, 4), "u1"), ((4, 4, 3), "u2"), ((4, 4, 4), "u1")):
        with pytest.raises(ValueError, match="arrays of pictures"):
            zarr.create_array(tmp_path / "b.zarr", shape=shape, chunks=shape, **{**options, "dtype": dtype})


PROGRAM = """
import sys
import numpy as np
import zarr

path, weights, pictures = sys.argv[1], sys.argv[2], np.load(sys.argv[3])
codec = {"name": "ccm_fast", "configuration": {"quality": 5, "model": weights, "effort": 1}}
options = {"dtype": "u1", "serializer": codec, "compressors": None}
array = zarr.create_array(path, shape=pictures.shape, chunks=(1, *pictures.shape[1:]), **options)
array[:] = pictures
assert "ccm_fast.interop.zarr" in sys.modules
print(zarr.open_array(path, mode="r")[:].sum())
"""


@pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="tests installed wheels")
def test_zarr_finds_the_codec_by_its_entry_point(tmp_path):
    """What installing does: the distribution's metadata are on the path. Nothing but zarr is imported."""
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    metadata = tmp_path / "site/ccm_fast-9.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: ccm-fast\nVersion: 9\n")
    points = (f"{name} = {value}" for name, value in project["entry-points"]["zarr.codecs"].items())
    (metadata / "entry_points.txt").write_text("\n".join(["[zarr.codecs]", *points, ""]))
    pictures = np.stack([tiny.photo(24, 32, k) for k in range(2)])
    np.save(tmp_path / "pictures.npy", pictures)
    command = [sys.executable, "-c", PROGRAM, tmp_path / "a.zarr", WEIGHTS, tmp_path / "pictures.npy"]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{ROOT}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    files = ccm_fast.encode_batch(pictures, 5, model=WEIGHTS, effort=1)
    want = ccm_fast.decode_arrays(files, model=WEIGHTS).sum()
    assert (done.stdout, done.stderr) == (f"{want}\n", "")
    assert (tmp_path / "a.zarr/c/1/0/0/0").read_bytes() == files[1]
