"""An answer on its way to the terminal or into a pipe."""

from __future__ import annotations

import re
import time
import unicodedata
from typing import TYPE_CHECKING

from gptoss.chat import ChatDelta, ToolOutput

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live
    from rich.markdown import Markdown
    from rich.segment import Segment

# What could move the terminal's cursor, or worse; line feed and tab may pass.
_CONTROLS = {code: "\ufffd" for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in (9, 10)}
_REFRESH_S = 0.1


class View:
    """Prints an answer as it comes: what is for the user to `out`, the rest, dimmed, to `aside`.

    As a context manager it ends with a complete line. On a terminal, control characters are
    replaced, and with `markdown` the answer is rendered; a pipe gets the text as it is.
    """

    def __init__(
        self,
        out: Console,
        aside: Console,
        *,
        show_reasoning: bool = False,
        markdown: bool = True,
        quiet: bool = False,
    ) -> None:
        self._out = out
        self._aside = aside
        self._show_reasoning = show_reasoning
        # Not where the cursor cannot go back: the answer would only come block by block.
        self._markdown = markdown and out.is_terminal and not out.is_dumb_terminal
        self._quiet = quiet
        self._kind = ""  # of what stands in the line that is not complete
        self._blocks: MarkdownStream | None = None
        self._status = aside.status("thinking", spinner_style="dim")

    def __enter__(self) -> View:
        if self._aside.is_terminal and not self._quiet:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()
        self._end_line()

    def show(self, event: ChatDelta | ToolOutput) -> None:
        """Print one piece."""
        if isinstance(event, ToolOutput):
            if not self._quiet:
                call = event.call
                self._write("call", f"{call.name}({call.arguments})", aside=True)
                self._write("output", event.text, aside=True)
        elif event.kind == "reasoning" and self._show_reasoning:
            self._write("reasoning", event.reasoning, aside=True)
        elif event.kind in ("preamble", "text"):
            self._write(event.kind, event.preamble + event.text)

    def _write(self, kind: str, text: str, *, aside: bool = False) -> None:
        from rich.text import Text

        self._status.stop()
        if kind != self._kind:
            self._end_line()
        self._kind = kind
        console = self._aside if aside else self._out
        if not console.is_terminal:  # as it is: rich would replace tabs
            console.file.write(text)
            console.file.flush()
        elif self._markdown and not aside:
            if self._blocks is None:
                self._blocks = MarkdownStream(self._out)
            self._blocks.feed(text.translate(_CONTROLS))
        else:
            shown = Text(text.translate(_CONTROLS), style="dim" if aside else "")
            console.print(shown, end="", soft_wrap=True)

    def _end_line(self) -> None:
        if self._blocks is not None:
            self._blocks.close()
            self._blocks = None
        elif self._kind:
            (self._out if self._kind in ("preamble", "text") else self._aside).print()
        self._kind = ""


class MarkdownStream:
    """Renders Markdown while it is written.

    Blocks that are complete (paragraphs, lists, code, tables) are printed for good. The last one
    is drawn again as it grows, its end where it is higher than the terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._pending = ""
        self._printed = False
        self._live: Live | None = None
        self._next_s = 0.0  # when it is drawn again

    def feed(self, text: str) -> None:
        """Take more of the text."""
        self._pending += text
        begin_s = time.monotonic()
        if begin_s < self._next_s:
            return
        # The line that is being written may yet turn out to belong to the block before it.
        end = self._pending.rfind("\n") + 1
        *complete, last = _split_blocks(self._pending[:end])
        self._print(complete)
        self._pending = last + self._pending[end:]
        self._draw()
        end_s = time.monotonic()
        self._next_s = end_s + _pause_s(end_s - begin_s)

    def close(self) -> None:
        """Print what is left."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._pending.strip() or not self._printed:
            self._print(_split_blocks(self._pending))
        self._pending = ""

    def _print(self, blocks: list[str]) -> None:
        # One by one: in one piece, rich leaves more blank lines before some than before others.
        for block in blocks:
            self._console.print(_Rendered(block, blank_before=self._printed), end="")
            self._printed = True

    def _draw(self) -> None:
        from rich.live import Live

        if self._live is None:
            self._live = Live(
                console=self._console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        shown = _Rendered(
            self._pending, blank_before=self._printed, most_lines=self._console.height - 1
        )
        self._live.update(shown, refresh=True)


def _pause_s(drawing_s: float) -> float:
    """How long not to draw: a block that is long takes a while, and must not hold up the rest."""
    return max(_REFRESH_S, 4 * drawing_s)


class _Rendered:
    """A text in Markdown, or its last lines: without blank lines around it, but for one before."""

    def __init__(self, text: str, *, blank_before: bool, most_lines: int | None = None) -> None:
        self._text = text
        self._blank_before = blank_before
        self._most_lines = most_lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.segment import Segment

        lines = _lines(console, options, self._text)
        while lines and _is_blank(lines[0]):
            del lines[0]
        while lines and _is_blank(lines[-1]):
            del lines[-1]
        if self._blank_before:
            lines = [[], *lines]
        if self._most_lines is not None:
            lines = lines[-max(1, self._most_lines) :]
        for line in lines or [[]]:
            yield from _without_padding(line)
            yield Segment.line()


def _lines(console: Console, options: ConsoleOptions, text: str) -> list[list[Segment]]:
    """The lines of a text in Markdown, none of which a terminal breaks once more.

    A line that it broke would be one more than is taken back when the text is drawn again.
    """
    lines = console.render_lines(_markdown(text), options, pad=False)
    width = options.max_width
    while width > 1 and (excess := max(map(_columns, lines), default=0) - options.max_width) > 0:
        width = max(1, width - excess)
        lines = console.render_lines(_markdown(text), options.update_width(width), pad=False)
    return lines


def _columns(line: list[Segment]) -> int:
    """How wide a terminal draws a line at most.

    They differ in whether the spacing marks of Hindi, Bengali and others take a column; rich says
    that they do not.
    """
    from rich.segment import Segment

    columns = Segment.get_line_length(line)
    return columns + sum(
        unicodedata.category(character) == "Mc"
        for segment in line
        if not segment.text.isascii()
        for character in segment.text
    )


def _without_padding(line: list[Segment]) -> list[Segment]:
    """A line without the blanks at its end, which would be copied along; colours stay."""
    kept = list(line)
    while kept and not (kept[-1].style and kept[-1].style.bgcolor):
        last = kept.pop()
        text = last.text.rstrip(" ")
        if text:
            return [*kept, last._replace(text=text)]
    return kept


def _is_blank(line: list[Segment]) -> bool:
    return not any(segment.text.strip() for segment in line)


def _markdown(text: str) -> Markdown:
    from rich.markdown import Markdown

    # A link's address stays visible: a model must not be able to hide where it leads.
    return Markdown(text, code_theme="ansi_dark", hyperlinks=False)


def _split_blocks(text: str) -> list[str]:
    """The blocks of a text in Markdown; all but the last are complete."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt().enable("strikethrough").enable("table")
    starts = {t.map[0] for t in parser.parse(text) if t.level == 0 and t.map is not None}
    bounds = sorted(starts)[1:]
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)  # unlike splitlines, as Markdown counts them
    return ["".join(lines[a:b]) for a, b in zip([0, *bounds], [*bounds, None], strict=True)]
