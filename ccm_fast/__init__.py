"""ccm_fast: learned image compression with cross-channel context models, decoded fast and bit-exactly.

Importing this package costs next to nothing: each public name is imported at its first use (PEP 562), and the native
libraries are loaded when the first function needs them. See `ccm_fast._backend`.
"""

from ccm_fast.version import __version__

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


def __getattr__(name):
    try:
        module = _EXPORTS[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    from ccm_fast._backend import import_with_torch

    value = getattr(import_with_torch(module, f"ccm_fast.{name}"), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__():
    return sorted({*globals(), *_EXPORTS})
