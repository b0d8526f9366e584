"""The architecture of gpt-oss, twice: plainly, and as the hand-written pass that training uses.

`plain_logits` is the definition: a few lines of PyTorch that autograd differentiates and that run
anywhere. `FastModel` computes the same with its gradients on a CPU, several times as fast: bf16
matrix products, conversations side by side without padding, and `kernels.cpp` for the rest.
`check.py` compares the two.
"""

from __future__ import annotations

import ctypes
import math
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

HEAD_DIM = 64
BLOCK = 32
# Rows of a matrix product come in multiples of this: the library under PyTorch compiles a kernel
# for each new size, which takes longer than the product.
ROUND = 64
# What activations are held in and matrices multiplied in. Where the processor has no products of
# bf16 these take ten times as long as float32's.
PRODUCTS = torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32
EPS = 1e-5
LIMIT = 7.0
ALPHA = 1.702
ROPE_THETA, ROPE_FACTOR, ROPE_FAST, ROPE_SLOW, ROPE_ORIGINAL = 150000.0, 32.0, 32.0, 1.0, 4096


@dataclass(frozen=True)
class Shape:
    """Sizes of the model; layers alternate between the window and full attention."""

    vocab: int
    hidden: int = 128
    intermediate: int = 64
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    experts: int = 16
    active: int = 4
    window: int = 64

    @property
    def qkv(self) -> int:
        return (self.heads + 2 * self.kv_heads) * HEAD_DIM

    def layer_window(self, layer: int) -> int:
        return self.window if layer % 2 == 0 else 1 << 30


Params = dict[str, Tensor]


def init(shape: Shape, seed: int) -> Params:
    """Master weights in float32. Experts hold their gate rows first, then their up rows."""
    random = torch.Generator().manual_seed(seed)

    def normal(*size: int, std: float) -> Tensor:
        return torch.randn(*size, generator=random) * std

    c, i, e = shape.hidden, shape.intermediate, shape.experts
    params = {
        "embed": normal(shape.vocab, c, std=0.5),
        "lm_head": normal(shape.vocab, c, std=0.5 / math.sqrt(c)),
        "norm": torch.ones(c),
    }
    for layer in range(shape.layers):
        width = shape.heads * HEAD_DIM
        params |= {
            f"{layer}.norm1": torch.ones(c),
            f"{layer}.qkv": normal(shape.qkv, c, std=1 / math.sqrt(c)),
            f"{layer}.qkv_bias": torch.zeros(shape.qkv),
            f"{layer}.o": normal(c, width, std=0.5 / math.sqrt(width)),
            f"{layer}.o_bias": torch.zeros(c),
            f"{layer}.sinks": torch.zeros(shape.heads),
            f"{layer}.norm2": torch.ones(c),
            f"{layer}.router": normal(e, c, std=1 / math.sqrt(c)),
            f"{layer}.router_bias": torch.zeros(e),
            f"{layer}.w1": normal(e, 2 * i, c, std=1 / math.sqrt(c)),
            f"{layer}.b1": torch.zeros(e, 2 * i),
            f"{layer}.w2": normal(e, c, i, std=0.7 / math.sqrt(i)),
            f"{layer}.b2": torch.zeros(e, c),
        }
    return params


def rope_tables(positions: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of YaRN, (positions, HEAD_DIM / 2), computed in double."""
    half = HEAD_DIM // 2
    i = torch.arange(half, dtype=torch.float64)
    freq = ROPE_THETA ** (2 * i / HEAD_DIM)
    low, high = (
        half * math.log(ROPE_ORIGINAL / (beta * 2 * math.pi)) / math.log(ROPE_THETA)
        for beta in (ROPE_FAST, ROPE_SLOW)
    )
    ramp = ((i - low) / (high - low)).clamp(0, 1)
    inverse = ramp / (ROPE_FACTOR * freq) + (1 - ramp) / freq
    angle = torch.arange(positions, dtype=torch.float64)[:, None] * inverse
    scale = 0.1 * math.log(ROPE_FACTOR) + 1
    return (angle.cos() * scale).float(), (angle.sin() * scale).float()


def fake_mxfp4(weight: Tensor) -> Tensor:
    """What MXFP4 makes of a weight: `gptoss.reference.mxfp4`, there and back."""
    blocks = weight.unflatten(-1, (-1, BLOCK))
    _, exponent = torch.frexp(blocks.abs().amax(-1, keepdim=True))
    scale = torch.exp2((exponent - 3).clamp(-127, 127).float())
    x = blocks / scale
    a = x.abs()
    step = torch.where(a < 2, 0.5, torch.where(a < 4, 1.0, 2.0))
    rounded = ((a / step).round() * step).clamp(max=6)
    return (rounded.copysign(x) * scale).flatten(-2)


def shipped(params: Params, quantise: bool) -> Params:
    """The weights as the checkpoint holds them: MXFP4 experts, bf16 for the rest."""
    return {
        name: fake_mxfp4(value)
        if quantise and name.endswith((".w1", ".w2"))
        else value.bfloat16().float()
        for name, value in params.items()
    }


# -- plainly ---------------------------------------------------------------------------------


def plain_logits(shape: Shape, params: Params, ids: Tensor) -> Tensor:
    """Logits (T, V) of one conversation (T ids), in the parameters' dtype."""

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + EPS) * weight

    def rotate(x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    tokens = len(ids)
    cos, sin = (table[:, None].to(params["embed"].dtype) for table in rope_tables(tokens))
    distance = torch.arange(tokens)[:, None] - torch.arange(tokens)
    x = params["embed"][ids]
    for layer in range(shape.layers):
        p = {name: params[f"{layer}.{name}"] for name in LAYER_NAMES}
        qkv = norm(x, p["norm1"]) @ p["qkv"].T + p["qkv_bias"]
        heads = qkv.unflatten(-1, (-1, HEAD_DIM))
        q, k, v = heads.split([shape.heads, shape.kv_heads, shape.kv_heads], 1)
        k, v = (y.repeat_interleave(shape.heads // shape.kv_heads, 1) for y in (rotate(k), v))
        scores = torch.einsum("qhd,khd->hqk", rotate(q), k) / math.sqrt(HEAD_DIM)
        hidden = (distance < 0) | (distance >= shape.layer_window(layer))
        scores = scores.masked_fill(hidden, -math.inf)
        sinks = p["sinks"][:, None, None].expand(-1, tokens, 1)
        weights = torch.cat([scores, sinks], -1).softmax(-1)[..., :-1]
        x = x + torch.einsum("hqk,khd->qhd", weights, v).flatten(1) @ p["o"].T + p["o_bias"]

        h = norm(x, p["norm2"])
        top, chosen = (h @ p["router"].T + p["router_bias"]).topk(shape.active)
        gate, up = (torch.einsum("tc,tanc->tan", h, p["w1"][chosen]) + p["b1"][chosen]).chunk(2, -1)
        gate, up = gate.clamp(max=LIMIT), up.clamp(-LIMIT, LIMIT)
        act = gate * torch.sigmoid(ALPHA * gate) * (up + 1)
        y = torch.einsum("tan,tacn->tac", act, p["w2"][chosen]) + p["b2"][chosen]
        x = x + (top.softmax(-1)[..., None] * y).sum(1)
    return norm(x, params["norm"]) @ params["lm_head"].T


LAYER_NAMES = (
    "norm1 qkv qkv_bias o o_bias sinks norm2 router router_bias w1 b1 w2 b2".split()  # noqa: SIM905
)


# -- fast ------------------------------------------------------------------------------------


def compile_kernels() -> ctypes.CDLL:
    """Build kernels.cpp for this machine."""
    library = Path(tempfile.mkdtemp()) / "kernels.so"
    kind = [] if PRODUCTS is torch.bfloat16 else ["-DFLOAT32"]
    flags = [
        "-O3",
        *kind,
        "-march=native",
        "-ffast-math",
        "-fopenmp",
        "-std=c++20",
        "-shared",
        "-fPIC",
    ]
    source = Path(__file__).with_name("kernels.cpp")
    subprocess.run(["g++", *flags, str(source), "-o", str(library)], check=True)
    kernels = ctypes.CDLL(str(library))
    kernels.cross_entropy.restype = ctypes.c_double
    return kernels


def _arguments(*values: Tensor | int | float | None) -> list[object]:
    """Pointers of contiguous tensors; whole numbers as 64 bits, which the ABI narrows."""
    out: list[object] = []
    for value in values:
        if isinstance(value, Tensor):
            assert value.is_contiguous()
            out.append(ctypes.c_void_p(value.data_ptr()))
        elif isinstance(value, float):
            out.append(ctypes.c_float(value))
        else:
            out.append(None if value is None else ctypes.c_int64(value))
    return out


@dataclass
class Batch:
    """Conversations one after another.

    ids (N); starts (S + 1), where each begins; rows (M), the tokens whose successors are learned;
    targets (M), these; factor (M), their weights, which sum to 1.
    """

    ids: Tensor
    starts: Tensor
    rows: Tensor
    targets: Tensor
    factor: Tensor


class FastModel:
    """Loss and gradients of a batch; parameters stay with the caller."""

    def __init__(self, shape: Shape, balance: float, longest: int = 2048) -> None:
        self.shape = shape
        self.balance = balance
        self.kernels = compile_kernels()
        self.cos, self.sin = rope_tables(longest)

    def step(self, params: Params, batch: Batch) -> tuple[float, Params]:
        """The loss, and the gradient of each parameter (straight through the rounding).

        `params` are the weights as `shipped` gives them.
        """
        shape = self.shape
        kernels = self.kernels
        # The values are those of bf16 either way.
        half = {name: value.to(PRODUCTS) for name, value in params.items()}
        grads = {name: torch.zeros_like(value) for name, value in params.items()}
        tokens, hidden, inner = len(batch.ids), shape.hidden, shape.intermediate
        x = params["embed"][batch.ids]
        saved = []

        most = tokens * shape.active + shape.experts * ROUND
        ones = torch.ones(1, most, dtype=PRODUCTS)

        def column_sums(x: Tensor) -> Tensor:
            return (ones[:, : len(x)] @ x)[0]

        def norm(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
            y, scale = torch.empty_like(x, dtype=PRODUCTS), torch.empty(len(x))
            kernels.rms_norm_forward(*_arguments(x, weight, len(x), hidden, y, scale))
            return y, scale

        def norm_backward(x: Tensor, name: str, scale: Tensor, dy: Tensor, dx: Tensor) -> None:
            kernels.rms_norm_backward(
                *_arguments(x, params[name], scale, dy, len(x), hidden, dx, grads[name])
            )

        for layer in range(shape.layers):
            p = {name: half[f"{layer}.{name}"] for name in LAYER_NAMES}
            sinks = params[f"{layer}.sinks"]
            h1, scale1 = norm(x, params[f"{layer}.norm1"])
            qkv = torch.addmm(p["qkv_bias"], h1, p["qkv"].T)
            out = torch.empty(tokens, shape.heads * HEAD_DIM, dtype=PRODUCTS)
            lse = torch.empty(tokens, shape.heads)
            attention = (
                qkv, sinks, self.cos, self.sin, batch.starts, len(batch.starts) - 1,
                shape.heads, shape.kv_heads, shape.layer_window(layer), out, lse,
            )  # fmt: skip
            kernels.attention_forward(*_arguments(*attention))
            x1 = x + torch.addmm(p["o_bias"], out, p["o"].T)

            h2, scale2 = norm(x1, params[f"{layer}.norm2"])
            logits = torch.addmm(
                params[f"{layer}.router_bias"], h2.float(), params[f"{layer}.router"].T
            )
            top, chosen = logits.topk(shape.active)
            weight = top.softmax(-1)
            where, counts, pieces = self._slots(chosen)
            slots = sum(pieces)
            rows = torch.zeros(slots, hidden, dtype=PRODUCTS)
            kernels.scatter(*_arguments(h2, where, tokens, shape.active, hidden, rows))
            gate_up = torch.empty(slots, 2 * inner, dtype=PRODUCTS)
            for e, (a, b) in enumerate(zip(rows.split(pieces), gate_up.split(pieces), strict=True)):
                torch.addmm(p["b1"][e], a, p["w1"][e].T, out=b)
            act = torch.empty(slots, inner, dtype=PRODUCTS)
            kernels.swiglu_forward(*_arguments(gate_up, slots, inner, LIMIT, act))
            y = torch.empty(slots, hidden, dtype=PRODUCTS)
            for e, (a, b) in enumerate(zip(act.split(pieces), y.split(pieces), strict=True)):
                torch.addmm(p["b2"][e], a, p["w2"][e].T, out=b)
            x2 = x1.clone()
            kernels.combine(*_arguments(y, weight, where, tokens, shape.active, hidden, x2))
            saved.append(
                (x, h1, scale1, attention, x1, h2, scale2, logits, chosen, weight, where, counts,
                 pieces, rows, gate_up, act, y)
            )  # fmt: skip
            x = x2

        xr = x[batch.rows]
        h, scale = norm(xr, params["norm"])
        logits = h @ half["lm_head"].T
        loss = kernels.cross_entropy(
            *_arguments(logits, batch.targets, batch.factor, len(logits), shape.vocab)
        )
        grads["lm_head"] = (logits.T @ h).float()
        dxr = torch.zeros_like(xr)
        norm_backward(xr, "norm", scale, (logits @ half["lm_head"]).float(), dxr)
        dx = torch.zeros_like(x)
        dx[batch.rows] = dxr

        for layer in reversed(range(shape.layers)):
            p = {name: half[f"{layer}.{name}"] for name in LAYER_NAMES}
            g = {name: grads[f"{layer}.{name}"] for name in LAYER_NAMES}
            (x, h1, scale1, attention, x1, h2, scale2, logits, chosen, weight, where, counts,
             pieces, rows, gate_up, act, y) = saved.pop()  # fmt: skip
            dy = torch.zeros_like(y)
            d_weight = torch.empty_like(weight)
            kernels.combine_backward(
                *_arguments(dx, y, weight, where, tokens, shape.active, hidden, dy, d_weight)
            )
            d_act = torch.empty_like(act)
            for e, (a, b, d) in enumerate(
                zip(dy.split(pieces), act.split(pieces), d_act.split(pieces), strict=True)
            ):
                torch.mm(a, p["w2"][e], out=d)
                g["w2"][e] = a.T @ b
                g["b2"][e] = column_sums(a)
            d_gate_up = torch.empty_like(gate_up)
            kernels.swiglu_backward(
                *_arguments(gate_up, d_act, len(gate_up), inner, LIMIT, d_gate_up)
            )
            d_rows = torch.empty_like(rows)
            for e, (a, b, d) in enumerate(
                zip(d_gate_up.split(pieces), rows.split(pieces), d_rows.split(pieces), strict=True)
            ):
                torch.mm(a, p["w1"][e], out=d)
                g["w1"][e] = a.T @ b
                g["b1"][e] = column_sums(a)
            d_top = weight * (d_weight - (weight * d_weight).sum(-1, keepdim=True))
            d_logits = torch.zeros_like(logits).scatter_(1, chosen, d_top)
            d_logits += self._balance_gradient(logits, counts)
            g["router"] += d_logits.T @ h2.float()
            g["router_bias"] += d_logits.sum(0)
            dh2 = d_logits @ params[f"{layer}.router"]
            kernels.combine(*_arguments(d_rows, None, where, tokens, shape.active, hidden, dh2))
            norm_backward(x1, f"{layer}.norm2", scale2, dh2, dx)

            d_o = dx.to(PRODUCTS)
            qkv, sinks, *_, out, lse = attention
            g["o"] += d_o.T @ out
            g["o_bias"] += dx.sum(0)
            d_out = d_o @ p["o"]
            d_qkv = torch.empty_like(qkv)
            kernels.attention_backward(*_arguments(*attention, d_out, d_qkv, g["sinks"]))
            g["qkv"] += d_qkv.T @ h1
            g["qkv_bias"] += column_sums(d_qkv)
            norm_backward(x, f"{layer}.norm1", scale1, (d_qkv @ p["qkv"]).float(), dx)
        grads["embed"].index_add_(0, batch.ids, dx)
        return loss, grads

    def _slots(self, chosen: Tensor) -> tuple[Tensor, Tensor, list[int]]:
        """Where the rows of each token's experts lie when sorted by expert.

        Returns their indices (N, active), how many each expert has, and how many places each has,
        the same rounded up.
        """
        flat = chosen.flatten()
        order = flat.argsort(stable=True)
        counts = flat.bincount(minlength=self.shape.experts)
        places = (counts + ROUND - 1) // ROUND * ROUND
        skipped = (places.cumsum(0) - places) - (counts.cumsum(0) - counts)
        where = torch.empty_like(flat)
        where[order] = torch.arange(len(flat)) + skipped[flat[order]]
        return where, counts, places.tolist()

    def _balance_gradient(self, logits: Tensor, counts: Tensor) -> Tensor:
        """Of balance * E * sum over experts of (share of slots) * (mean probability)."""
        share = counts / counts.sum()
        p = logits.softmax(-1)
        factor = self.balance * self.shape.experts / len(logits)
        return factor * p * (share - (p * share).sum(-1, keepdim=True))
