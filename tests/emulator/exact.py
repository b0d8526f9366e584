"""Floating point by exact arithmetic, which conversions and arithmetic are tested against.

Numbers are fractions; the special ones are "nan", "inf" and "-inf". Zeros carry their sign as the
strings "0" and "-0".
"""

from __future__ import annotations

from fractions import Fraction
from math import isqrt

Value = Fraction | str


class Format:
    """A binary format: stored mantissa bits and exponent bits."""

    def __init__(self, mantissa: int, exponent: int) -> None:
        self.mantissa = mantissa
        self.exponent = exponent
        self.bias = (1 << (exponent - 1)) - 1
        self.bits = 1 + mantissa + exponent

    def decode(self, bits: int) -> Value:
        """Return what the bits mean."""
        negative = bits >> (self.bits - 1)
        field = bits >> self.mantissa & ((1 << self.exponent) - 1)
        fraction = bits & ((1 << self.mantissa) - 1)
        if field == (1 << self.exponent) - 1:
            return "nan" if fraction else ("-inf" if negative else "inf")
        if field == 0 and fraction == 0:
            return "-0" if negative else "0"
        if field:
            fraction += 1 << self.mantissa
        scale = max(field, 1) - self.bias - self.mantissa
        value = Fraction(fraction) * Fraction(2) ** scale
        return -value if negative else value

    def encode(self, value: Value, mode: str = "rn") -> int:
        """Return the bits nearest to the value in rounding mode rn, rz, rm, rp or rna."""
        top = 1 << (self.bits - 1)
        infinity = ((1 << self.exponent) - 1) << self.mantissa
        if isinstance(value, str):
            return {"nan": top - 1, "inf": infinity, "-inf": top | infinity, "0": 0, "-0": top}[
                value
            ]
        negative, size = value < 0, abs(value)
        assert size > 0
        # The largest power of two below, by counting bits, then corrected.
        power = size.numerator.bit_length() - size.denominator.bit_length()
        if Fraction(2) ** power > size:
            power -= 1
        unit = max(power, 1 - self.bias) - self.mantissa
        scaled = size / Fraction(2) ** unit
        whole = scaled.numerator // scaled.denominator
        rest = scaled - whole
        half = Fraction(1, 2)
        up = {
            "rn": rest > half or (rest == half and whole & 1),
            "rna": rest >= half,
            "rz": False,
            "rm": negative and rest > 0,
            "rp": not negative and rest > 0,
        }[mode]
        whole += int(up)
        bits = whole + ((unit - (1 - self.bias - self.mantissa)) << self.mantissa)
        if bits >= infinity:
            away = {"rn": True, "rna": True, "rz": False, "rm": negative, "rp": not negative}[mode]
            bits = infinity if away else infinity - 1
        return bits | (top if negative else 0)

    def is_subnormal(self, value: Value) -> bool:
        """Whether the value is not zero and below the normal range."""
        return isinstance(value, Fraction) and abs(value) < Fraction(2) ** (1 - self.bias)


FORMATS = {
    "f16": Format(10, 5),
    "bf16": Format(7, 8),
    "tf32": Format(10, 8),
    "f32": Format(23, 8),
    "f64": Format(52, 11),
}


def negate(value: Value) -> Value:
    """Return -value."""
    if isinstance(value, str):
        return {"nan": "nan", "inf": "-inf", "-inf": "inf", "0": "-0", "-0": "0"}[value]
    return -value


def is_negative(value: Value) -> bool:
    """Whether the sign is set; of a NaN it is not."""
    return value.startswith("-") if isinstance(value, str) else value < 0


def _is_zero(value: Value) -> bool:
    return value in ("0", "-0")


def _is_infinite(value: Value) -> bool:
    return value in ("inf", "-inf")


def _number(value: Value) -> Fraction:
    return Fraction(0) if isinstance(value, str) else value


def add(a: Value, b: Value, mode: str = "rn") -> Value:
    """Return a + b; an exact zero of two numbers has the sign that the mode gives it."""
    if "nan" in (a, b):
        return "nan"
    if _is_infinite(a) or _is_infinite(b):
        if _is_infinite(a) and _is_infinite(b) and a != b:
            return "nan"
        return a if _is_infinite(a) else b
    if _is_zero(a) and _is_zero(b):
        if a == b:
            return a
        return "-0" if mode == "rm" else "0"
    total = _number(a) + _number(b)
    if total == 0:
        return "-0" if mode == "rm" else "0"
    return total


def multiply(a: Value, b: Value) -> Value:
    """Return a * b."""
    if "nan" in (a, b):
        return "nan"
    sign = "-" if is_negative(a) != is_negative(b) else ""
    if _is_infinite(a) or _is_infinite(b):
        return "nan" if _is_zero(a) or _is_zero(b) else sign + "inf"
    if _is_zero(a) or _is_zero(b):
        return sign + "0"
    return _number(a) * _number(b)


def divide(a: Value, b: Value) -> Value:
    """Return a / b."""
    if "nan" in (a, b):
        return "nan"
    sign = "-" if is_negative(a) != is_negative(b) else ""
    if _is_infinite(a):
        return "nan" if _is_infinite(b) else sign + "inf"
    if _is_infinite(b):
        return sign + "0"
    if _is_zero(b):
        return "nan" if _is_zero(a) else sign + "inf"
    if _is_zero(a):
        return sign + "0"
    return _number(a) / _number(b)


def square_root(a: Value) -> Value:
    """Return the root, exact enough for any rounding to 53 bits to be right."""
    if a in ("nan", "inf", "0", "-0"):
        return a
    if is_negative(a):
        return "nan"
    value = _number(a)
    # As many bits as leave no doubt, and one more that says whether something is left.
    shift = 400 + 2 * max(0, value.denominator.bit_length())
    scaled = (value.numerator << shift) // value.denominator
    if shift & 1:
        scaled, shift = scaled << 1, shift + 1
    root = isqrt(scaled)
    exact = root * root * value.denominator == value.numerator << shift
    return Fraction(2 * root + (0 if exact else 1), 2) / Fraction(2) ** (shift // 2)


def saturate(value: Value) -> Value:
    """Clamp to [0, 1]; NaN becomes 0."""
    if value == "nan" or is_negative(value) or _is_zero(value):
        return "0"
    if value == "inf" or _number(value) > 1:
        return Fraction(1)
    return value
