"""Data sets of .ccm files: PyTorch datasets over folders and tar shards, and decoders for other loaders.

Importing this package imports neither torch nor the native library; :mod:`ccm_fast.data.datasets` imports torch.
"""

from typing import TYPE_CHECKING

from ccm_fast._backend import import_with_torch
from ccm_fast.lazy import exports

if TYPE_CHECKING:  # for type checkers, which do not call __getattr__
    from ccm_fast.data.datasets import CcmDataset as CcmDataset
    from ccm_fast.data.datasets import CcmIterableDataset as CcmIterableDataset
    from ccm_fast.data.decoding import decode_image as decode_image
    from ccm_fast.data.decoding import load_image as load_image
    from ccm_fast.data.decoding import webdataset_decoder as webdataset_decoder

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
