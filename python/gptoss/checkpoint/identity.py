"""Which checkpoint this is, told without reading all of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from gptoss._files import open_regular
from gptoss.checkpoint.checkpoint import Checkpoint

_SAMPLE_BYTES = 4096


def identity(checkpoint: Checkpoint) -> bytes:
    """Return a digest that two checkpoints share only if they compute the same.

    It is made of the config, of the names and shapes of all tensors, of some bytes in the middle of
    each, and of the size and the time of last change of the files that they come from. So a copy
    may count as another checkpoint; one that was changed does not count as the same.

    Parameters
    ----------
    checkpoint : Checkpoint
        As `open_checkpoint` returned it.

    Returns
    -------
    bytes
        SHA-256.

    Raises
    ------
    CheckpointError
        A file cannot be read.
    """
    digest = hashlib.sha256(repr(checkpoint.config).encode())
    files: dict[Path, bytes] = {}
    for name in sorted(checkpoint.tensors):
        tensor = checkpoint.tensors[name]
        if tensor.path not in files:
            status = tensor.path.stat()
            files[tensor.path] = f"{status.st_size} {status.st_mtime_ns}".encode()
        middle = max(0, tensor.nbytes - _SAMPLE_BYTES) // 2
        if tensor.array is None:
            with open_regular(tensor.path, limit=None) as file:
                file.seek(tensor.offset + middle)
                sample = file.read(min(_SAMPLE_BYTES, tensor.nbytes))
        else:
            flat = tensor.array.reshape(-1).view(np.uint8)
            sample = flat[middle : middle + _SAMPLE_BYTES].tobytes()
        entry = f"{name} {tensor.dtype} {tensor.shape} {tensor.array is None}"
        for part in (entry.encode(), files[tensor.path], sample):
            digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()
