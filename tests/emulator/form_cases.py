"""What each element-wise instruction form means, in Python and numpy.

`expand` lists the opcodes of a row of the table; `Case` says of one opcode which operands it has
and what it computes, on integers that hold the operands' bits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from emulator import exact
from emulator.exact import FORMATS, Value

BITS = {
    "pred": 1, "b8": 8, "u8": 8, "s8": 8, "b16": 16, "u16": 16, "s16": 16, "f16": 16, "bf16": 16,
    "b32": 32, "u32": 32, "s32": 32, "f32": 32, "tf32": 32, "f16x2": 32, "bf16x2": 32, "b64": 64,
    "u64": 64, "s64": 64, "f64": 64, "f32x2": 64,
}  # fmt: skip


def expand(pattern: str) -> Iterator[list[str]]:
    """List the opcodes of a pattern as words."""
    choices = []
    for part in pattern.split("."):
        if part[0] == "{":
            choices.append(part[1:-1].split("|"))
        elif part[0] == "[":
            choices.append(["", *part[1:-1].split("|")])
        else:
            choices.append([part])
    for words in itertools.product(*choices):
        yield [w for w in words if w]


@dataclass
class Case:
    """One opcode: types of the results and operands, and its meaning on their bits."""

    opcode: str
    results: list[str]
    operands: list[str]  # a type, or "=text" for a constant operand
    meaning: Callable[..., Any]  # one int per operand -> an int or a tuple of them
    tolerance: float = 0.0  # relative, for approximate functions


def signed(x: int, bits: int) -> int:
    """Read the low bits as two's complement."""
    x &= (1 << bits) - 1
    return x - (1 << bits) if x >> (bits - 1) else x


def _wrap(f: Callable[..., int], kind: str) -> Callable[..., int]:
    """Apply f to the values of integers of a type, and cut the result to it."""
    bits = BITS[kind]

    def meaning(*raw: int) -> int:
        values = [signed(x, bits) if kind[0] == "s" else x for x in raw]
        return f(*values) & ((1 << bits) - 1)

    return meaning


def _divide(a: int, b: int, bits: int) -> int:
    if b == 0:
        return (1 << bits) - 1
    q = abs(a) // abs(b)
    return q if (a < 0) == (b < 0) else -q


def _clamp32(x: int) -> int:
    return max(-(2**31), min(2**31 - 1, x))


def integer_case(words: list[str]) -> Case | None:
    """Arithmetic, logic, shifts and bit fields of integers."""
    op, kind = words[0], words[-1]
    bits = BITS.get(kind, 0)
    mask = (1 << bits) - 1
    name = ".".join(words)

    def case(n: int, f: Callable[..., int], result: str = kind) -> Case:
        return Case(name, [result], [kind] * n, f)

    if "cc" in words or op in ("addc", "subc", "madc"):
        return None  # a test of their own
    if op in ("add", "sub"):
        sign = 1 if op == "add" else -1
        if "sat" in words:
            return case(2, _wrap(lambda a, b: _clamp32(a + sign * b), kind))
        return case(2, _wrap(lambda a, b: a + sign * b, kind))
    if op in ("mul", "mad"):
        n = 2 if op == "mul" else 3
        if "wide" in words:
            wide = kind[0] + str(2 * bits)
            inner = [kind, kind] + ([wide] if n == 3 else [])

            def wide_meaning(a: int, b: int, c: int = 0) -> int:
                if kind[0] == "s":
                    a, b = signed(a, bits), signed(b, bits)
                return (a * b + c) & ((1 << (2 * bits)) - 1)

            return Case(name, [wide], inner, wide_meaning)
        high = "hi" in words
        if "sat" in words:
            return case(3, _wrap(lambda a, b, c: _clamp32((a * b >> 32) + c), kind))
        shift = bits if high else 0
        return case(n, _wrap(lambda a, b, c=0: (a * b >> shift) + c, kind))
    if op in ("mul24", "mad24"):
        shift = 16 if "hi" in words else 0

        def low24(x: int) -> int:
            return signed(x, 24) if kind == "s32" else x & 0xFFFFFF

        return case(
            2 if op == "mul24" else 3,
            lambda a, b, c=0: ((low24(a) * low24(b) >> shift) + c) & mask,
        )
    simple: dict[str, tuple[int, Callable[..., int]]] = {
        "div": (2, lambda a, b: _divide(a, b, bits)),
        "rem": (2, lambda a, b: a if b == 0 else a - b * _divide(a, b, bits)),
        "min": (2, min),
        "max": (2, max),
        "abs": (1, abs),
        "neg": (1, lambda a: -a),
        "sad": (3, lambda a, b, c: c + abs(a - b)),
    }
    if op in simple and kind[0] in "us":
        n, f = simple[op]
        return case(n, _wrap(f, kind))
    logic: dict[str, tuple[int, Callable[..., int]]] = {
        "and": (2, lambda a, b: a & b),
        "or": (2, lambda a, b: a | b),
        "xor": (2, lambda a, b: a ^ b),
        "not": (1, lambda a: ~a & mask),
        "cnot": (1, lambda a: int(a == 0)),
    }
    if op in logic:
        n, f = logic[op]
        return case(n, f)
    if op == "lop3":
        table = 0b11001010

        def lop3(a: int, b: int, c: int) -> int:
            out = 0
            for i in range(32):
                index = (a >> i & 1) << 2 | (b >> i & 1) << 1 | (c >> i & 1)
                out |= (table >> index & 1) << i
            return out

        return Case(name, [kind], [kind] * 3 + [f"={table}"], lop3)
    if op == "shl":
        return Case(name, [kind], [kind, "n32"], lambda a, n: a << n & mask if n < bits else 0)
    if op == "shr":
        return Case(
            name, [kind], [kind, "n32"],
            lambda a, n: ((signed(a, bits) if kind[0] == "s" else a) >> min(n, 2 * bits)) & mask,
        )  # fmt: skip
    if op == "shf":

        def shf(low: int, high: int, n: int) -> int:
            n = n & 31 if "wrap" in words else min(n, 32)
            both = high << 32 | low
            return (both << n >> 32 if "l" in words else both >> n) & 0xFFFFFFFF

        return Case(name, [kind], [kind, kind, "n32"], shf)
    if op == "popc":
        return case(1, lambda a: a.bit_count(), "u32")
    if op == "clz":
        return case(1, lambda a: bits - a.bit_length(), "u32")
    if op == "brev":
        return case(1, lambda a: int(f"{a:0{bits}b}"[::-1], 2))
    if op == "bfind":

        def bfind(a: int) -> int:
            if kind[0] == "s" and signed(a, bits) < 0:
                a = ~a & mask
            if not a:
                return 0xFFFFFFFF
            at = a.bit_length() - 1
            return bits - 1 - at if "shiftamt" in words else at

        return case(1, bfind, "u32")
    if op == "bfe":

        def bfe(a: int, at: int, length: int) -> int:
            at, length = at & 255, length & 255
            if not length:
                return 0
            # Bits above the top are zeros, or the sign.
            value = signed(a, bits) if kind[0] == "s" else a
            field = value >> at
            if kind[0] == "s":
                return signed(field, min(length, 300)) & mask if length < bits else field & mask
            return field & ((1 << length) - 1) & mask

        return Case(name, [kind], [kind, "n32", "n32"], bfe)
    if op == "bfi":

        def bfi(a: int, b: int, at: int, length: int) -> int:
            at, length = at & 255, length & 255
            field = (((1 << length) - 1) << at) & mask
            return (b & ~field) | (a << at & field)

        return Case(name, [kind], [kind, kind, "n32", "n32"], bfi)
    if op == "prmt":
        return Case(name, ["b32"], ["b32"] * 3, _prmt(words[2] if len(words) > 2 else ""))
    if op in ("dp4a", "dp2a"):
        return Case(name, ["b32"], ["b32"] * 3, _dot(words))
    if op == "isspacep":
        return None
    return None


def _prmt(mode: str) -> Callable[..., int]:
    def meaning(a: int, b: int, c: int) -> int:
        source = [(b << 32 | a) >> (8 * i) & 255 for i in range(8)]
        n = c & 3
        order = {
            "f4e": [(n + i) % 8 for i in range(4)],
            "b4e": [(n - i) % 8 for i in range(4)],
            "rc8": [n] * 4,
            "ecl": [max(n, i) for i in range(4)],
            "ecr": [min(n, i) for i in range(4)],
            "rc16": [2 * (n & 1), 2 * (n & 1) + 1] * 2,
        }
        if mode:
            picked = [source[i] for i in order[mode]]
        else:
            picked = []
            for i in range(4):
                selector = c >> (4 * i) & 15
                byte = source[selector & 7]
                picked.append((255 if byte & 128 else 0) if selector & 8 else byte)
        return sum(byte << (8 * i) for i, byte in enumerate(picked))

    return meaning


def _dot(words: list[str]) -> Callable[..., int]:
    a_signed, b_signed = words[-2] == "s32", words[-1] == "s32"

    def part(x: int, i: int, width: int, is_signed: bool) -> int:
        raw = x >> (width * i) & ((1 << width) - 1)
        return signed(raw, width) if is_signed else raw

    def meaning(a: int, b: int, c: int) -> int:
        if words[0] == "dp4a":
            total = sum(part(a, i, 8, a_signed) * part(b, i, 8, b_signed) for i in range(4))
        else:
            first = 2 if "hi" in words else 0
            total = sum(
                part(a, i, 16, a_signed) * part(b, i + first, 8, b_signed) for i in range(2)
            )
        return (c + total) & 0xFFFFFFFF

    return meaning


# ---- floating point ----


def _flush(value: Value, kind: str) -> Value:
    if FORMATS[kind].is_subnormal(value):
        return "-0" if exact.is_negative(value) else "0"
    return value


def _order(value: Value) -> tuple[Fraction, int]:
    """Sort key in which -0 is below +0."""
    if isinstance(value, str):
        if value in ("inf", "-inf"):
            return (Fraction(10) ** 400 * (-1 if value[0] == "-" else 1), 0)
        return (Fraction(0), -1 if value == "-0" else 1)
    return (value, 0)


def _extreme(values: tuple[Value, ...], smallest: bool, nan_wins: bool) -> Value:
    numbers = [v for v in values if v != "nan"]
    if not numbers or (nan_wins and len(numbers) < len(values)):
        return "nan"
    return (min if smallest else max)(numbers, key=_order)


def _unary_float(function: Callable[[float], float]) -> Callable[[Value], Value]:
    def apply(value: Value) -> Value:
        x = float(value)
        try:
            y = function(x)
        except (ValueError, OverflowError, ZeroDivisionError):
            y = special_result(function, x)
        if math.isnan(y):
            return "nan"
        if math.isinf(y):
            return "inf" if y > 0 else "-inf"
        if y == 0:
            return "-0" if math.copysign(1, y) < 0 else "0"
        return Fraction(y)

    return apply


def special_result(function: Callable[[float], float], x: float) -> float:
    """Return what the functions give where Python's raise."""
    if function is _log2 and x == 0:
        return float("-inf")
    if function in (_reciprocal, _rsqrt) and x == 0:
        return math.copysign(float("inf"), x)
    if function is _exp2 and x > 0:
        return float("inf")
    return float("nan")


def _exp2(x: float) -> float:
    return 2.0**x


def _log2(x: float) -> float:
    return math.log2(x)


def _reciprocal(x: float) -> float:
    return 1 / x


def _rsqrt(x: float) -> float:
    return 0.0 if x == math.inf else 1 / math.sqrt(x)


APPROXIMATE: dict[str, Callable[[float], float]] = {
    "ex2": _exp2, "lg2": _log2, "sin": math.sin, "cos": math.cos, "tanh": math.tanh,
    "rsqrt": _rsqrt,
    "rcp": _reciprocal, "sqrt": math.sqrt,
}  # fmt: skip


def float_case(words: list[str]) -> Case | None:
    """Arithmetic of f16, bf16, f32 and f64, in all rounding modes."""
    op, kind = words[0], words[-1]
    name = ".".join(words)
    element = kind.removesuffix("x2")
    if element not in FORMATS:
        return None
    form = FORMATS[element]
    ftz = "ftz" in words
    mode = next((w for w in words if w in ("rz", "rm", "rp")), "rn")
    arity = {
        "fma": 3,
        "mad": 3,
        "add": 2,
        "sub": 2,
        "mul": 2,
        "div": 2,
        "min": 2,
        "max": 2,
        "copysign": 2,
    }
    approximate = "approx" in words
    functions: dict[str, Callable[..., Value]] = {
        "add": lambda a, b: exact.add(a, b, mode),
        "sub": lambda a, b: exact.add(a, exact.negate(b), mode),
        "mul": exact.multiply,
        "div": exact.divide,
        "fma": lambda a, b, c: exact.add(exact.multiply(a, b), c, mode),
        "mad": lambda a, b, c: exact.add(exact.multiply(a, b), c, mode),
        "sqrt": exact.square_root,
        "rcp": lambda a: exact.divide(Fraction(1), a),
        "min": lambda *values: _extreme(values, True, "NaN" in words),
        "max": lambda *values: _extreme(values, False, "NaN" in words),
    }
    bit_wise: dict[str, Callable[..., int]] = {
        "neg": lambda a: a ^ (1 << (form.bits - 1)),
        "abs": lambda a: a & ~(1 << (form.bits - 1)),
        "copysign": lambda a, b: (b & ~(1 << (form.bits - 1))) | (a & (1 << (form.bits - 1))),
    }
    if op in APPROXIMATE and approximate and op not in ("rcp", "sqrt"):
        functions[op] = _unary_float(APPROXIMATE[op])
    if op not in functions and op not in bit_wise:
        return None

    def one(*raw: int) -> int:
        values = [form.decode(x) for x in raw]
        if op in bit_wise:
            if op != "copysign" and values[0] == "nan" and element in ("f32", "f64"):
                return form.encode("nan")
            out = bit_wise[op](*raw)
            return form.encode(_flush(form.decode(out), element)) if ftz else out
        if ftz:
            values = [_flush(v, element) for v in values]
        result = functions[op](*values)
        bits = form.encode(result, mode)
        if ftz:
            bits = form.encode(_flush(form.decode(bits), element))
        if "sat" in words:
            bits = form.encode(exact.saturate(form.decode(bits)))
        if "relu" in words and form.decode(bits) != "nan" and exact.is_negative(form.decode(bits)):
            bits = 0
        return bits

    def meaning(*raw: int) -> int:
        if element == kind:
            return one(*raw)
        low = one(*(x & ((1 << form.bits) - 1) for x in raw))
        return low | one(*(x >> form.bits for x in raw)) << form.bits

    tolerance = {"f16": 2.0**-10, "bf16": 2.0**-7}.get(element, 2.0**-21) if approximate else 0.0
    if op == "div" and "full" in words:
        tolerance = 2.0**-21
    return Case(name, [kind], [kind] * arity.get(op, 1), meaning, tolerance)


# ---- comparisons and selections ----

RELATIONS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: a == b, "ne": lambda a, b: a != b, "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b, "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b,
}  # fmt: skip
SAME = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}


def _relation(words: list[str], kind: str) -> Callable[[int, int], bool]:
    word = words[1]
    if kind in FORMATS:
        form = FORMATS[kind]

        def compare(a: int, b: int) -> bool:
            x, y = form.decode(a), form.decode(b)
            if "ftz" in words:
                x, y = _flush(x, kind), _flush(y, kind)
            unordered = "nan" in (x, y)
            if word == "num":
                return not unordered
            if word == "nan":
                return unordered
            if unordered:
                return word[-1] == "u" and word in ("equ", "neu", "ltu", "leu", "gtu", "geu")
            base = word[:2]
            return RELATIONS[base](_order(x)[0], _order(y)[0])

        return compare
    bits = BITS[kind]

    def compare_integers(a: int, b: int) -> bool:
        if kind[0] == "s":
            a, b = signed(a, bits), signed(b, bits)
        return RELATIONS[SAME.get(word, word)](a, b)

    return compare_integers


BOOLEAN: dict[str, Callable[[bool, bool], bool]] = {
    "and": lambda a, b: a and b, "or": lambda a, b: a or b, "xor": lambda a, b: a != b,
}  # fmt: skip


def compare_case(words: list[str]) -> Case | None:
    """setp, set, selp, slct and testp."""
    op, kind = words[0], words[-1]
    name = ".".join(words)
    if op == "testp":
        form = FORMATS[kind]
        tests: dict[str, Callable[[Value], bool]] = {
            "finite": lambda v: v not in ("nan", "inf", "-inf"),
            "infinite": lambda v: v in ("inf", "-inf"),
            "number": lambda v: v != "nan",
            "notanumber": lambda v: v == "nan",
            # Zero is neither normal nor subnormal.
            "normal": lambda v: isinstance(v, Fraction) and not form.is_subnormal(v),
            "subnormal": form.is_subnormal,
        }
        return Case(name, ["pred"], [kind], lambda a: int(tests[words[1]](form.decode(a))))
    if op == "selp":
        return Case(name, [kind], [kind, kind, "pred"], lambda a, b, p: a if p else b)
    if op == "slct":

        def slct(a: int, b: int, c: int) -> int:
            if kind == "s32":
                return a if signed(c, 32) >= 0 else b
            v = FORMATS["f32"].decode(c)
            if "ftz" in words:
                v = _flush(v, "f32")
            return a if v == "-0" or (v != "nan" and not exact.is_negative(v)) else b

        return Case(name, [words[-2]], [words[-2], words[-2], kind], slct)
    if op not in ("setp", "set"):
        return None
    boolean = next((w for w in words if w in BOOLEAN), None)
    element = kind.removesuffix("x2")
    holds = _relation(words, element)
    extra = ["pred"] if boolean else []
    if kind.endswith("x2"):

        def both(a: int, b: int, p: int = 0) -> tuple[bool, bool]:
            low, high = holds(a & 0xFFFF, b & 0xFFFF), holds(a >> 16, b >> 16)
            if boolean:
                low, high = BOOLEAN[boolean](low, bool(p)), BOOLEAN[boolean](high, bool(p))
            return low, high

        if op == "setp":
            return Case(name, ["pred|pred"], [kind, kind, *extra],
                        lambda a, b, p=0: tuple(map(int, both(a, b, p))))  # fmt: skip
        yes = {"f16x2": 0x3C00, "bf16x2": 0x3F80}.get(words[-2], 0xFFFF)

        def set_halves(a: int, b: int) -> int:
            return sum(yes << 16 * i for i, holding in enumerate(both(a, b)) if holding)

        return Case(name, [words[-2]], [kind, kind], set_halves)

    def result(a: int, b: int, p: int, value: bool) -> bool:
        return BOOLEAN[boolean](value, bool(p)) if boolean else value

    if op == "setp":

        def pair(a: int, b: int, p: int = 0) -> tuple[int, int]:
            value = holds(a, b)
            return int(result(a, b, p, value)), int(result(a, b, p, not value))

        return Case(name, ["pred|pred"], [kind, kind, *extra], pair)
    target = words[-2]
    yes = {"f32": 0x3F800000, "f16": 0x3C00, "bf16": 0x3F80}.get(target, (1 << BITS[target]) - 1)
    return Case(name, [target], [kind, kind, *extra],
                lambda a, b, p=0: yes if result(a, b, p, holds(a, b)) else 0)  # fmt: skip


# ---- conversions ----

MODES = {"rn": "rn", "rz": "rz", "rm": "rm", "rp": "rp", "rna": "rna"}
INTEGRAL = {"rni": "rn", "rzi": "rz", "rmi": "rm", "rpi": "rp"}


def _to_integer(value: Fraction, mode: str) -> int:
    whole = value.numerator // value.denominator
    rest = value - whole
    if mode == "rm":
        return whole
    if mode == "rp":
        return whole + (rest > 0)
    if mode == "rz":
        return whole + (rest > 0 and value < 0)
    half = Fraction(1, 2)
    return whole + int(rest > half or (rest == half and whole & 1))


def convert_case(words: list[str]) -> Case | None:
    """cvt between integers and floats of all widths."""
    name = ".".join(words)
    if "pack" in words:
        target, width = words[3], BITS[words[3]]
        low, high = (
            (-(1 << (width - 1)), (1 << (width - 1)) - 1)
            if target[0] == "s"
            else (0, (1 << width) - 1)
        )

        def clamp(x: int) -> int:
            return max(low, min(high, signed(x, 32))) & ((1 << width) - 1)

        if words[-1] == "b32":

            def over(a: int, b: int, c: int) -> int:
                return (c << 16 & 0xFFFFFFFF) | clamp(a) << 8 | clamp(b)

            return Case(name, ["b32"], ["s32", "s32", "b32"], over)
        return Case(name, ["b32"], ["s32", "s32"], lambda a, b: clamp(a) << 16 | clamp(b))
    target, source = words[-2], words[-1]
    mode = next((MODES[w] for w in words[1:] if w in MODES), None)
    integral = next((INTEGRAL[w] for w in words[1:] if w in INTEGRAL), None)
    relu = "relu" in words

    def to_format(value: Value, kind: str, how: str) -> int:
        if relu and value != "nan" and exact.is_negative(value):
            return 0
        bits = FORMATS[kind].encode(value, how)
        return bits << 13 if kind == "tf32" else bits

    if target in ("f16x2", "bf16x2"):
        kind = target.removesuffix("x2")
        return Case(
            name, [target], ["f32", "f32"],
            lambda a, b: to_format(FORMATS["f32"].decode(a), kind, mode or "rn") << 16
            | to_format(FORMATS["f32"].decode(b), kind, mode or "rn"),
        )  # fmt: skip
    from_float, to_float = source in FORMATS, target in FORMATS
    sat = "sat" in words
    # Combinations that PTX does not have.
    if from_float and not to_float and integral is None:
        return None
    if integral is not None and (
        mode is not None or not from_float or (to_float and source != target)
    ):
        return None
    if to_float and integral is None and mode is None:
        narrows = not from_float or FORMATS[target].bits < FORMATS[source].bits
        if narrows or (source != target and {source, target} == {"f16", "bf16"}):
            return None
    if "rna" in words and target != "tf32":
        return None
    if not from_float and not to_float and mode is not None:
        return None
    if "ftz" in words and "f32" not in (source, target):
        return None
    if not from_float and "ftz" in words:
        return None

    def meaning(raw: int) -> int:
        if from_float:
            value = FORMATS[source].decode(raw)
            if "ftz" in words and source == "f32":
                value = _flush(value, "f32")
        if from_float and to_float:
            if integral is not None and isinstance(value, Fraction):
                whole = _to_integer(value, integral)
                value = Fraction(whole) if whole else ("-0" if exact.is_negative(value) else "0")
            if sat:
                value = exact.saturate(value)
            bits = to_format(value, target, mode or "rn")
            if "ftz" in words and target == "f32":
                bits = FORMATS["f32"].encode(_flush(FORMATS["f32"].decode(bits), "f32"))
            return bits
        width = BITS[target]
        if from_float:
            if value == "nan":
                wide = width == 64 or source == "f64"
                return 1 << (width - 1) if wide else 0
            low, high = (
                (-(1 << (width - 1)), (1 << (width - 1)) - 1)
                if target[0] == "s"
                else (0, (1 << width) - 1)
            )
            if value in ("inf", "-inf"):
                whole = high if value == "inf" else low
            else:
                whole = 0 if isinstance(value, str) else _to_integer(value, integral or "rz")
            return max(low, min(high, whole)) & ((1 << width) - 1)
        number = signed(raw, BITS[source]) if source[0] == "s" else raw & ((1 << BITS[source]) - 1)
        if to_float:
            bits = FORMATS[target].encode(Fraction(number) if number else "0", mode or "rn")
            return (
                FORMATS[target].encode(exact.saturate(FORMATS[target].decode(bits)))
                if sat
                else bits
            )
        if sat:
            low, high = (
                (-(1 << (width - 1)), (1 << (width - 1)) - 1)
                if target[0] == "s"
                else (0, (1 << width) - 1)
            )
            number = max(low, min(high, number))
        return number & ((1 << width) - 1)

    return Case(name, [target], [source], meaning)


def case_of(words: list[str]) -> Case | None:
    """Return the case of an opcode, or None where another test has it or PTX lacks it."""
    op, kind = words[0], words[-1]
    if op == "cvt":
        return None if {"e4m3x2", "e5m2x2"} & set(words) else convert_case(words)
    if op in ("mapa", "getctarank"):
        return None
    if op in ("setp", "set", "selp", "slct", "testp"):
        return compare_case(words)
    if op in ("ld", "st", "ldu", "atom", "red", "mov", "cvta", "fence", "bar", "barrier"):
        return None
    if kind.removesuffix("x2") in FORMATS:
        return float_case(words)
    return integer_case(words)


def cases_of(words: list[str]) -> list[Case]:
    """Return the cases of an opcode, one for each number of operands that it may have."""
    case = case_of(words)
    if case is None:
        return []
    if words[0] in ("min", "max") and words[-1] == "f32":
        # float_case's meaning takes any number of values.
        return [case, replace(case, operands=[*case.operands, "f32"])]
    return [case]
