"""Data sets of .ccm files: PyTorch datasets over folders and tar shards, and decoders for other loaders.

Importing this package imports neither torch nor the native library; :mod:`ccm_fast.data.datasets` imports torch.
"""

from ccm_fast._backend import import_with_torch
from ccm_fast.lazy import exports

# Public name -> module that defines it.
_EXPORTS = {
    "decode_image": "ccm_fast.data.decoding",
    "load_image": "ccm_fast.data.decoding",
    "webdataset_decoder": "ccm_fast.data.decoding",
    "CcmDataset": "ccm_fast.data.datasets",
    "CcmIterableDataset": "ccm_fast.data.datasets",
}

__all__ = list(_EXPORTS)

__getattr__, __dir__ = exports(globals(), _EXPORTS, import_with_torch)
