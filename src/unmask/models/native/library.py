"""`trunk.cpp`, compiled for the processor at hand, and its structures as ctypes has them."""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from unmask.errors import ResourceError

_LOG = logging.getLogger(__name__)
_SOURCE = Path(__file__).with_name("trunk.cpp")
_FLAGS = ["-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-std=c++17", "-shared", "-fPIC", "-pthread"]
_SECONDS = 300
# bytes of a layer's weights, and of a head's, up to which this was at least as fast as oneDNN
MOST, MOST_OF_HEAD = 2**25, 2**22

# see `trunk.cpp`
_DONE, _NO_MEMORY = 0, 2
_FLOATS, _WHOLES, _BYTES, _NUMBER = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64


class LayerWeights(ctypes.Structure):
    """See `trunk.cpp`."""

    _fields_ = [
        *((name, _FLOATS) for name in ("attention_norm", "queries", "queries_bias", "keys", "keys_bias")),
        *((name, _FLOATS) for name in ("values", "values_bias", "query_norm", "key_norm", "seen", "mlp_norm")),
        *((name, _FLOATS) for name in ("gate_up", "down")),
    ]


class Network(ctypes.Structure):
    """See `trunk.cpp`."""

    _fields_ = [
        *((name, _NUMBER) for name in ("layers", "width", "heads", "key_heads", "head_width", "mlp_width")),
        ("eps", ctypes.c_float),
        ("layer", ctypes.POINTER(LayerWeights)),
        *((name, _FLOATS) for name in ("last_norm", "embedding")),
        ("words", _NUMBER),
        ("embedding_scale", ctypes.c_float),
        ("first", _FLOATS),
    ]


class Call(ctypes.Structure):
    """See `trunk.cpp`."""

    _fields_ = [
        *((name, _NUMBER) for name in ("rows", "length", "seen", "threads")),
        ("tokens", _WHOLES),
        *((name, _FLOATS) for name in ("cos", "sin")),
        ("angles_of_row", _NUMBER),
        *((name, _FLOATS) for name in ("keys", "values")),
        *((name, _NUMBER) for name in ("of_layer", "of_row", "of_head")),
        *((name, _WHOLES) for name in ("row", "column")),
        ("start", _NUMBER),
        ("mask", _BYTES),
        *((name, _NUMBER) for name in ("mask_of_row", "mask_of_query")),
        ("wanted", _WHOLES),
        ("wanted_count", _NUMBER),
        ("hidden", _FLOATS),
    ]


def compiler() -> str | None:
    """A compiler of C++ that there is here: the one that CXX names, or a usual one."""
    named = os.environ.get("CXX")
    return next((found for name in ([named] if named else _USUAL) if (found := shutil.which(name))), None)


_USUAL = ("g++", "clang++", "c++", "cl")


@cache
def library() -> Any | None:
    """What `trunk.cpp` offers, compiled now, in some two seconds; None: this compiler cannot, which is said in the log.

    Raises:
        ResourceError: the compiler does not end.
    """
    named = compiler()
    if named is None or Path(named).stem == "cl":
        return None
    with tempfile.TemporaryDirectory(prefix="unmask-native-") as folder:
        made = Path(folder) / "trunk.so"
        try:
            done = subprocess.run(
                [named, *_FLAGS, str(_SOURCE), "-o", str(made)], capture_output=True, timeout=_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise ResourceError(f"{named} did not compile within {_SECONDS} s. Leave out compiling.") from error
        if done.returncode != 0 or not made.exists():
            said = next(iter(done.stderr.decode(errors="replace").splitlines()), "nothing")
            _LOG.warning("%s did not compile %s: PyTorch computes in its place. It said: %s", named, _SOURCE.name, said)
            return None
        loaded = ctypes.CDLL(str(made))
    loaded.tile.restype = loaded.lanes.restype = _NUMBER
    loaded.forward.argtypes = [ctypes.POINTER(Network), ctypes.POINTER(Call)]
    loaded.multiply_rows.argtypes = [_FLOATS, _NUMBER, _NUMBER, _FLOATS, _NUMBER, _FLOATS]
    of_logits = [_FLOATS, _NUMBER, _NUMBER, _WHOLES, _NUMBER]
    loaded.judge.argtypes = [*of_logits, _NUMBER, _BYTES, _NUMBER, _WHOLES, _FLOATS]
    loaded.multiply_rows.restype = None
    loaded.forward.restype = loaded.judge.restype = _told
    return loaded


def _told(outcome: int) -> bool:
    """What `trunk.cpp` says of a call: whether it did it, or the arguments do not belong together.

    Raises:
        MemoryError: there is too little.
    """
    if outcome == _NO_MEMORY:
        raise MemoryError("compiled decoding")
    return outcome == _DONE


def pointer(tensor: Tensor | None) -> int | None:
    """Where its numbers begin; they lie one behind the other."""
    if tensor is None:
        return None
    assert tensor.is_contiguous()
    return tensor.data_ptr()


def layers_of(weights: Sequence[dict[str, Tensor | None]]) -> Any:
    """An array of `LayerWeights`."""
    return (LayerWeights * len(weights))(
        *(LayerWeights(**{name: pointer(tensor) for name, tensor in layer.items()}) for layer in weights)
    )
