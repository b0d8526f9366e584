"""bfloat16 in 12 bits, without loss: what `load(dense="bf12")` makes of dense matrices.

A row of K weights, padded to P, a multiple of 64, is bytes: P lower bytes of bfloat16; P/2 bytes of
nibbles, places in a table; the table, 16 upper bytes; uint32, the row's first escaped group; 4
bytes; one bit for each group of 64, set where it is escaped, in whole uint64; zeros to a multiple
of 64. Escaped groups are kept as bfloat16 beside the rows, in order.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

GROUP = 64
_TABLE = 16


def row_bytes(k: int) -> int:
    """Bytes of a row of `k` weights."""
    groups = -(-k // GROUP)
    nbytes = 96 * groups + _TABLE + 8 + 8 * -(-groups // 64)
    return -(-nbytes // 64) * 64


def decode(
    rows: npt.NDArray[np.uint8], escapes: npt.NDArray[np.uint16], k: int
) -> npt.NDArray[np.uint16]:
    """Turn rows (N, bytes) and escaped groups (n, 64) into bits of bfloat16 (N, K)."""
    groups = -(-k // GROUP)
    padded = groups * GROUP
    weights = np.zeros((len(rows), groups, GROUP), np.uint16)
    for row, out in zip(rows, weights, strict=True):
        low, nibbles, table, rest = np.split(
            row, [padded, padded // 2 * 3, padded // 2 * 3 + _TABLE]
        )
        places = np.stack([nibbles & 15, nibbles >> 4], axis=-1).reshape(-1)
        stored = table[places].astype(np.uint16) << 8 | low
        # Runs of 8 lie in the order 0, 4, 1, 5, 2, 6, 3, 7.
        out[...] = stored.reshape(groups, 4, 2, 8).swapaxes(1, 2).reshape(groups, GROUP)
        first = int(rest[:4].view(np.uint32)[0])
        escaped = np.unpackbits(rest[8:], bitorder="little")[:groups].astype(bool)
        out[escaped] = escapes[first : first + escaped.sum()]
    return weights.reshape(len(rows), padded)[:, :k]
