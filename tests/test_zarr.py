"""The codec of Zarr."""

import numpy as np
import pytest
import tiny

import ccm_fast
from ccm_fast import errors

zarr = pytest.importorskip("zarr")
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
