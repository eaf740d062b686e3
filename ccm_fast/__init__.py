"""ccm_fast: learned image compression with cross-channel context models, decoded fast and bit-exactly.

Importing this package costs next to nothing: each public name is imported at its first use (PEP 562), and the native
libraries are loaded when the first function needs them. See `ccm_fast._backend`.
"""

from types import ModuleType
from typing import TYPE_CHECKING

from ccm_fast.lazy import exports
from ccm_fast.version import __version__

if TYPE_CHECKING:  # for type checkers, which do not call __getattr__
    from ccm_fast.batches import decode_arrays as decode_arrays
    from ccm_fast.batches import decode_batch as decode_batch
    from ccm_fast.batches import encode_batch as encode_batch
    from ccm_fast.codec import compress as compress
    from ccm_fast.codec import decompress as decompress
    from ccm_fast.entropy.plan import OverflowProofError as OverflowProofError
    from ccm_fast.errors import BitstreamError as BitstreamError
    from ccm_fast.errors import BuildError as BuildError
    from ccm_fast.errors import CcmFastError as CcmFastError
    from ccm_fast.errors import DamagedError as DamagedError
    from ccm_fast.errors import EncodeError as EncodeError
    from ccm_fast.errors import ImageError as ImageError
    from ccm_fast.errors import LimitError as LimitError
    from ccm_fast.errors import ModelError as ModelError
    from ccm_fast.errors import NotCcmError as NotCcmError
    from ccm_fast.errors import NotFrozenError as NotFrozenError
    from ccm_fast.errors import TargetError as TargetError
    from ccm_fast.errors import TruncatedError as TruncatedError
    from ccm_fast.errors import UnsupportedVersionError as UnsupportedVersionError
    from ccm_fast.errors import WrongModelError as WrongModelError
    from ccm_fast.files import decode_file as decode_file
    from ccm_fast.files import encode_file as encode_file
    from ccm_fast.freezing.freeze import freeze as freeze
    from ccm_fast.interop.compressai import accelerate as accelerate
    from ccm_fast.models import CrossChannelContextModel as CrossChannelContextModel
    from ccm_fast.native import Codec as Codec
    from ccm_fast.precision import set_transform_precision as set_transform_precision
    from ccm_fast.precision import transform_precision as transform_precision
    from ccm_fast.weights import load as load

# Public name -> module that defines it. The names are the package's promise; the modules may move.
_EXPORTS = {
    "Codec": "ccm_fast.native",
    "compress": "ccm_fast.codec",
    "decompress": "ccm_fast.codec",
    "load": "ccm_fast.weights",
    "freeze": "ccm_fast.freezing.freeze",
    "accelerate": "ccm_fast.interop.compressai",
    "set_transform_precision": "ccm_fast.precision",
    "transform_precision": "ccm_fast.precision",
    "encode_file": "ccm_fast.files",
    "decode_file": "ccm_fast.files",
    "encode_batch": "ccm_fast.batches",
    "decode_batch": "ccm_fast.batches",
    "decode_arrays": "ccm_fast.batches",
    "CrossChannelContextModel": "ccm_fast.models",
    "CcmFastError": "ccm_fast.errors",
    "BuildError": "ccm_fast.errors",
    "BitstreamError": "ccm_fast.errors",
    "NotCcmError": "ccm_fast.errors",
    "TruncatedError": "ccm_fast.errors",
    "DamagedError": "ccm_fast.errors",
    "WrongModelError": "ccm_fast.errors",
    "UnsupportedVersionError": "ccm_fast.errors",
    "LimitError": "ccm_fast.errors",
    "NotFrozenError": "ccm_fast.errors",
    "EncodeError": "ccm_fast.errors",
    "TargetError": "ccm_fast.errors",
    "ImageError": "ccm_fast.errors",
    "ModelError": "ccm_fast.errors",
    "OverflowProofError": "ccm_fast.entropy.plan",
}

__all__ = ["__version__", *_EXPORTS]


def _with_torch(module: str, name: str) -> ModuleType:
    from ccm_fast._backend import import_with_torch

    return import_with_torch(module, name)


__getattr__, __dir__ = exports(globals(), _EXPORTS, _with_torch)
