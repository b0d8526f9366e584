"""Answers on a terminal: Markdown while it is written, nothing twice, nothing lost."""

from __future__ import annotations

import random
from typing import Any

import pytest
from rich.console import Console

from gptoss.chat import ChatDelta
from gptoss.cli import view
from gptoss.cli.view import MarkdownStream, View
from support.screen import Terminal

DOCUMENT = """\
# Title

A paragraph with **bold** and `code`
that goes on.

- one
- two

  still two
- three

| a | b |
|---|---|
| 1 | 2 |

```python
def f():

    return "# no title"
```

1. first

2. second

> a quote

The [end](https://example.org/x).
"""


def console_on(terminal: Any, height: int = 50, **more: Any) -> Console:
    return Console(
        file=terminal, force_terminal=True, width=60, height=height, highlight=False, **more
    )


def shown(pieces: list[str], height: int = 50) -> str:
    terminal = Terminal(height)
    stream = MarkdownStream(console_on(terminal, height))
    for piece in pieces:
        stream.feed(piece)
    stream.close()
    return terminal.screen.text


@pytest.fixture(autouse=True)
def always_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "_pause_s", lambda drawing_s: 0.0)


@pytest.mark.parametrize("height", [3, 6, 50])
def test_how_it_is_cut_changes_nothing(height: int) -> None:
    whole = shown([DOCUMENT], height)
    assert "**" not in whole
    assert "• one" in whole
    assert 'return "# no title"' in whole
    assert "https://example.org/x" in whole
    assert whole.count("A paragraph with bold and code that goes on.") == 1
    assert shown(list(DOCUMENT), height) == whole
    rng = random.Random(0)
    for _ in range(20):
        pieces, rest = [], DOCUMENT
        while rest:
            length = rng.randint(1, 40)
            pieces.append(rest[:length])
            rest = rest[length:]
        assert shown(pieces, height) == whole


def test_blocks_have_one_blank_line_between_them() -> None:
    text = shown(["## A\nb\n- c\n- d\n```\ne\n```\nf\n\n\n\ng\n"])
    assert [line.strip() for line in text.splitlines()] == [
        *("A", "", "b", "", "• c", "• d", "", "e", "", "f", "", "g"),
    ]


def test_only_line_feeds_end_lines() -> None:
    assert view._split_blocks("a\u2028b\n\nc\u2028d\n# e\nf") == [
        "a\u2028b\n\n",
        "c\u2028d\n",
        "# e\n",
        "f",
    ]
    assert view._split_blocks("") == [""]


def test_the_last_block_is_seen_while_it_grows() -> None:
    terminal = Terminal(8)
    stream = MarkdownStream(console_on(terminal, 8))
    stream.feed("Done.\n\n```\n" + "\n".join(f"line {i}" for i in range(30)))
    assert "Done." in terminal.screen.text
    assert "line 29" in terminal.screen.text
    assert "line 3\n" not in terminal.screen.text
    stream.feed("\nline 30\n```\n")
    stream.close()
    lines = [line.strip() for line in terminal.screen.text.splitlines()]
    assert [line for line in lines if line.startswith("line")] == [f"line {i}" for i in range(31)]


def test_a_long_block_is_drawn_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert view._pause_s(0.001) == 0.1
    assert view._pause_s(1) == 4
    drawn: list[str] = []
    monkeypatch.setattr(MarkdownStream, "_draw", lambda stream: drawn.append(stream._pending))
    stream = MarkdownStream(console_on(Terminal()))
    for _ in range(200):
        stream.feed("word ")
    stream.close()
    assert 1 <= len(drawn) < 20


def test_no_padding_is_copied_along() -> None:
    terminal = Terminal()
    stream = MarkdownStream(console_on(terminal, color_system=None))
    stream.feed("A word.\n\n- item\n\n```\ncode\n```\n")
    stream.close()
    lines = terminal.getvalue().replace("\r", "").split("\n")
    assert "A word." in lines
    assert " • item" in lines


class TestView:
    def show(self, *deltas: ChatDelta, **options: Any) -> str:
        terminal = Terminal()
        console = console_on(terminal)
        with View(console, console, **options) as shown:
            for delta in deltas:
                shown.show(delta)
        return terminal.screen.text

    def test_kinds_stand_in_lines_of_their_own(self) -> None:
        deltas = [
            ChatDelta("reasoning", reasoning="I *think*"),
            ChatDelta("preamble", preamble="Let me **look**."),
            ChatDelta("text", text="It is *so*."),
        ]
        text = self.show(*deltas, show_reasoning=True)
        assert text == "I *think*\nLet me look.\nIt is so.\n"
        assert self.show(*deltas) == "Let me look.\nIt is so.\n"

    def test_plain(self) -> None:
        assert self.show(ChatDelta("text", text="**a**"), markdown=False) == "**a**\n"

    def test_a_dumb_terminal_gets_the_text_as_it_comes(self) -> None:
        terminal = Terminal()
        console = console_on(terminal, _environ={"TERM": "dumb"})
        with View(console, console) as shown:
            for letter in "One *two*":
                before = terminal.getvalue()
                shown.show(ChatDelta("text", text=letter))
                assert terminal.getvalue() == before + letter
        assert terminal.getvalue() == "One *two*\n"

    def test_control_characters_are_replaced(self) -> None:
        for markdown in (True, False):
            text = self.show(ChatDelta("text", text="a\x1b[2Jb\x9bc"), markdown=markdown)
            assert text == "a\ufffd[2Jb\ufffdc\n"

    def test_links_are_not_hidden(self) -> None:
        # No OSC 8: the screen would refuse it.
        assert self.show(ChatDelta("text", text="[a](https://b.example)")) == (
            "a (https://b.example)\n"
        )

    def test_an_empty_answer(self) -> None:
        assert self.show(ChatDelta("text", text="")) == "\n"
        assert self.show() == "\n"
