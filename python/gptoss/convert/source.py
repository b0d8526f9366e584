"""A model's numbers, tensor by tensor and expert by expert, whatever form its files have."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gptoss import _core
from gptoss.adapters import Adapter, AdapterReader, Change
from gptoss.checkpoint import Checkpoint, TensorSource
from gptoss.checkpoint.convert import to_bf16
from gptoss.checkpoint.gguf_file import GgufTensor, read_rows, row_pieces
from gptoss.checkpoint.gguf_model import GgufPart, make_part, match_gguf, read_floats
from gptoss.checkpoint.layout import MAX_SCALE_BYTE, MXFP4_BLOCK_SIZE, stored_tensors
from gptoss.checkpoint.open import (
    Located,
    find_tensors,
    has_bf16_experts,
    match_tensors,
    read_tokenizer_json,
    stop_token_ids,
)
from gptoss.config import ModelConfig
from gptoss.errors import CheckpointError
from gptoss.ops import mxfp4_dequantize, mxfp4_quantize
from gptoss.tokenizer.json_file import TokenizerJson

Words = npt.NDArray[np.uint16]
Bytes = npt.NDArray[np.uint8]

# Bounds what is held of a tensor: 16 MB as float32.
_PIECE_ITEMS = 1 << 22
_PIECE_BYTES = 1 << 24

_EMBEDDING = "model.embed_tokens.weight"  # its change has a row for each token


@dataclass(frozen=True)
class Source:
    """What is converted.

    Attributes
    ----------
    config : ModelConfig
        With the ids to stop at.
    name : str
        For display.
    tokenizer_json : TokenizerJson or None
        The tokenizer.
    tensors : mapping of str to TensorSource
        Under canonical names, experts in MXFP4 or wide ([E, in, out], named `..._proj`); empty
        for GGUF.
    parts : mapping of str to GgufPart
        The same of GGUF.
    least_squares : bool
        How wide experts are rounded to MXFP4.
    adapter : Adapter or None
        What is merged into the weights.
    """

    config: ModelConfig
    name: str
    tokenizer_json: TokenizerJson | None
    tensors: Mapping[str, TensorSource]
    parts: Mapping[str, GgufPart]
    least_squares: bool = True
    adapter: Adapter | None = None

    @classmethod
    def of(
        cls,
        located: Located,
        *,
        least_squares: bool = True,
        adapter: str | os.PathLike[str] | None = None,
    ) -> Source:
        """Open a model without turning its weights into anything; raises CheckpointError."""
        tokenizer_json = read_tokenizer_json(located)
        config = dataclasses.replace(
            located.config, eos_token_ids=stop_token_ids(located, tokenizer_json)
        )
        parts: dict[str, GgufPart] = {}
        tensors: dict[str, TensorSource] = {}
        if located.gguf is not None:
            parts = {part.name: part for part in match_gguf(located.gguf, config)}
        else:
            found = find_tensors(located)
            tensors = match_tensors(located, found, bf16_experts=has_bf16_experts(found))
        merged = None
        if adapter is not None:
            if parts:
                raise ValueError(
                    f"{located.name}: an adapter is merged into a model in safetensors, got GGUF: "
                    "convert it first"
                )
            merged = AdapterReader(config, tensors).read(adapter)
        return cls(config, located.name, tokenizer_json, tensors, parts, least_squares, merged)

    @classmethod
    def of_checkpoint(cls, checkpoint: Checkpoint) -> Source:
        """The same of an opened checkpoint; ValueError for GGUF, which has other names."""
        if checkpoint.layout == "gguf":
            raise ValueError("expected a checkpoint in safetensors, got one in GGUF")
        return cls(
            checkpoint.config, checkpoint.name, checkpoint.tokenizer_json, checkpoint.tensors, {}
        )

    def bf16(self, name: str) -> Iterator[Words]:
        """Read a tensor as bits of bfloat16, in flat pieces of whole rows.

        Raises
        ------
        CheckpointError
            A number is NaN, infinite or out of bfloat16's range.
        """
        change = self._changes.get(name)
        if change is None:
            for piece in self._pieces(name):
                yield piece if piece.dtype == np.uint16 else _rounded(name, piece)
            return
        row = 0
        for piece in self._pieces(name):
            if name == _EMBEDDING:
                values = _floats(piece).reshape(-1, change.second.shape[1])
                values += change.first[row : row + len(values)] @ change.second
            else:
                values = _floats(piece).reshape(-1, change.first.shape[1])
                values += change.second[:, row : row + len(values)].T @ change.first
            row += len(values)
            yield _rounded(name, values.reshape(-1))

    @functools.cached_property
    def _changes(self) -> dict[str, Change]:
        """What is merged, by canonical name; of experts by its stem."""
        if self.adapter is None:
            return {}
        by_role = self.adapter.changes
        stored = stored_tensors(self.config, "hf", bf16_experts=True)
        parts = (part for tensor in stored for part in tensor.parts)
        return {part.name: by_role[part.role] for part in parts if part.role in by_role}

    def _pieces(self, name: str) -> Iterator[npt.NDArray[Any]]:
        """A tensor in flat pieces of whole rows: numbers, or bits of bfloat16."""
        part = self.parts.get(name)
        if part is None:
            source = self.tensors[name]
            rows = max(1, _PIECE_ITEMS // source.shape[-1])
            yield from source.pieces(rows * source.shape[-1])
        elif len(part.sources) == 2:
            yield make_part(part, "convert", _run)[name].read().reshape(-1)
        else:
            (only,) = part.sources
            for begin, count in row_pieces(only, _PIECE_BYTES):
                if only.type == "BF16":
                    yield read_rows(only, begin, count).view("<u2").reshape(-1)
                else:
                    yield read_floats(only, begin, count).reshape(-1)

    def expert_mxfp4(self, stem: str, expert: int) -> tuple[Bytes, Bytes]:
        """Read one expert's matrix in MXFP4, rounded to it where it is wide.

        Parameters
        ----------
        stem : str
            The canonical name without "_blocks".
        expert : int
            Which.

        Returns
        -------
        blocks, scales : numpy.ndarray
            (rows, K/32, 16) and (rows, K/32) uint8.

        Raises
        ------
        CheckpointError
            A weight is NaN or infinite, or a scale is.
        """
        if self.is_wide(stem) or stem in self._changes:
            try:
                return mxfp4_quantize(
                    self.expert_floats(stem, expert), least_squares=self.least_squares
                )
            except ValueError as error:
                raise CheckpointError(
                    f"{self.name}: tensor {stem}: expected finite weights, found NaN or infinity "
                    f"in expert {expert}"
                ) from error
        return self._own_mxfp4(stem, expert)

    def _own_mxfp4(self, stem: str, expert: int) -> tuple[Bytes, Bytes]:
        part = self.parts.get(stem)
        if part is None:
            blocks, scales = (
                _expert(self.tensors[stem + suffix], expert) for suffix in ("_blocks", "_scales")
            )
        else:
            _, rows, columns = part.shape
            row_blocks = columns // MXFP4_BLOCK_SIZE
            flat = np.empty((rows, row_blocks * 16), np.uint8)
            scales = np.empty((rows, row_blocks), np.uint8)
            step = len(part.sources)
            for first, source in enumerate(part.sources):
                _core.mxfp4_from_ggml(_gguf_expert(source, expert), flat, scales, first, step)
            blocks = flat.reshape(rows, row_blocks, 16)
        if scales.max() > MAX_SCALE_BYTE:
            raise CheckpointError(
                f"{self.name}: tensor {stem}: expected scale bytes up to {MAX_SCALE_BYTE}, found "
                f"{scales.max()} in expert {expert}"
            )
        return blocks, scales

    def expert_floats(self, stem: str, expert: int) -> npt.NDArray[np.float32]:
        """Read one expert's matrix (rows, K) as float32: exactly, but for what is merged."""
        values = self._own_floats(stem, expert)
        change = self._changes.get(stem)
        if change is not None:
            values += change.second[expert].T @ change.first[expert]
        return values

    def _own_floats(self, stem: str, expert: int) -> npt.NDArray[np.float32]:
        if not self.is_wide(stem):
            return mxfp4_dequantize(*self._own_mxfp4(stem, expert))
        part = self.parts.get(stem)
        if part is None:
            matrix = _expert(self.tensors[stem], expert)  # (K, rows)
            return np.ascontiguousarray(_floats(matrix).T)
        _, rows, columns = part.shape
        values = np.empty((rows, columns), np.float32)
        step, count = len(part.sources), rows // len(part.sources)
        for first, source in enumerate(part.sources):
            values[first::step] = read_floats(source, expert * count, count)
        return values

    def is_wide(self, stem: str) -> bool:
        """Whether these experts are bfloat16 or wider."""
        part = self.parts.get(stem)
        return stem in self.tensors if part is None else part.type != "MXFP4"

    def files(self) -> dict[Any, None]:
        """The files that it is read from."""
        paths = [source.path for source in self.tensors.values()]
        paths += [source.path for part in self.parts.values() for source in part.sources]
        return dict.fromkeys(paths)


def _run(tasks: Iterable[Callable[[], None]]) -> None:
    for task in tasks:
        task()


def _expert(source: TensorSource, expert: int) -> npt.NDArray[Any]:
    shape = source.shape[1:]
    nbytes = source.nbytes // source.shape[0]
    if source.array is not None:
        found: npt.NDArray[Any] = source.array[expert]
        return found
    own = dataclasses.replace(
        source, offset=source.offset + expert * nbytes, nbytes=nbytes, shape=shape
    )
    (piece,) = own.pieces(int(np.prod(shape)))
    return piece.reshape(shape)


def _gguf_expert(source: GgufTensor, expert: int) -> Bytes:
    count = source.shape[1]
    return read_rows(source, expert * count, count)


def _floats(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def _rounded(name: str, values: npt.NDArray[Any]) -> Words:
    bits, _ = to_bf16(np.ascontiguousarray(values, np.float32))
    if ((bits & 0x7F80) == 0x7F80).any():
        raise CheckpointError(
            f"tensor {name}: expected finite numbers of bfloat16's range, found others"
        )
    return bits
