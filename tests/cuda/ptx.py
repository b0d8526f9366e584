"""What can be read off a kernel's PTX: where control goes, and which of its arguments an address
comes from.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

STATEMENT = re.compile(r"(?:@!?(?P<guard>%\w+) )?(?P<op>[\w.:]+) ?(?P<operands>.*)", re.DOTALL)
# Operations that may hand an address on.
POINTERS = re.compile(r"(?:mov|cvta|add|sub|mad|min|max|and|or|xor|selp)\b")


@dataclass(frozen=True)
class Statement:
    text: str
    guard: str | None
    op: str
    operands: str

    @property
    def address(self) -> str:
        """The register of a memory access that holds the address, of two the second."""
        return re.findall(r"\[(%\w+)", self.operands)[-1]


class Kernel:
    """What stands behind `.entry NAME(` in PTX, of a kernel with one struct of arguments."""

    def __init__(self, text: str) -> None:
        open_braces, at = 0, 0
        for brace in re.finditer(r"[{}]", text):
            open_braces += 1 if brace[0] == "{" else -1
            if open_braces == 0:
                at = brace.start()
                break
        body = text[text.index("{") + 1 : at]
        body = re.sub(r"//.*|^\s*\.(?:loc|reg|pragma)\b.*$", "", body, flags=re.MULTILINE)
        self.statements: list[Statement] = []
        self.labels: dict[str, int] = {}
        for part in re.split(r";|(?<=:)\s", body):
            words = " ".join(part.split()).lstrip("{} ")  # scopes of inline assembly
            if words.endswith(":"):
                self.labels[words[:-1]] = len(self.statements)
            elif words and not words.startswith("."):
                match = STATEMENT.fullmatch(words)
                assert match, words
                self.statements.append(Statement(words, **match.groupdict()))
        # What runs off the end returns.
        self.statements.append(Statement("ret", None, "ret", ""))

    def before(self, op: str) -> list[Statement]:
        """Return what may run, from the kernel's start, with no `op` run before it, and those."""
        reached: set[int] = set()
        coming = [0]
        while coming:
            i = coming.pop()
            if i in reached:
                continue
            reached.add(i)
            at = self.statements[i]
            assert not re.match(r"(?:call|brx)\b", at.op), f"it is not known where {at.text} goes"
            if re.match(r"bra\b", at.op):
                coming.append(self.labels[at.operands])
            if at.guard or not (at.op == op or re.match(r"(?:bra|ret|exit|trap)\b", at.op)):
                coming.append(i + 1)
        return [self.statements[i] for i in sorted(reached)]

    def origins(self) -> Callable[[str], set[int]]:
        """Return which arguments the address in a register may come from: their offsets in bytes.

        Registers are taken as they are anywhere in the kernel. What was multiplied or shifted is an
        index, and what was loaded from memory a number.
        """
        arguments: dict[str, int] = {}  # registers that hold addresses of arguments
        found: defaultdict[str, set[int]] = defaultdict(set)
        size = -1
        while size != (size := len(arguments) + sum(map(len, found.values()))):
            for at in self.statements:
                match = re.fullmatch(r"(\{.*?\}|%\w+), (.*)", at.operands)
                if match:
                    self._follow(at.op, match[1], match[2], arguments, found)
        return lambda register: found.get(register, set())

    @staticmethod
    def _follow(
        op: str, to: str, of: str, arguments: dict[str, int], found: defaultdict[str, set[int]]
    ) -> None:
        if op.startswith("ld.param"):
            match = re.fullmatch(r"\[(%?\w+)(?:\+(-?\d+))?\]", of)
            assert match, of
            base = arguments.get(match[1]) if match[1].startswith("%") else 0
            if base is not None and op.endswith("64"):
                for i, register in enumerate(re.findall(r"%\w+", to)):
                    found[register].add(base + int(match[2] or 0) + 8 * i)
        elif POINTERS.match(op) and to.startswith("%rd"):
            operands = of.split(", ")
            if op.startswith("mad"):
                operands = operands[2:]
            if re.fullmatch(r"\w+_param_0", operands[0]):
                arguments[to] = 0
            elif operands[0] in arguments and op.startswith(("add", "mov", "cvta")):
                by = int(operands[1]) if op.startswith("add") else 0
                arguments[to] = arguments[operands[0]] + by
            for operand in operands:
                found[to] |= found.get(operand, set())
