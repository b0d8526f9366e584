"""One sentence in each of the languages of MMMLU, through every layer that touches text."""
# ruff: noqa: RUF001  other scripts have characters that look like ASCII

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import gptoss
from gptoss import Tokenizer
from gptoss.chat import ChatDelta
from gptoss.cli import main
from gptoss.cli.view import View
from gptoss.engine.request import TextOutput
from gptoss.harmony import HarmonyEncoding, load_harmony_encoding
from support.paths import real_data
from support.screen import Terminal
from support.scripted_model import ScriptedModel

# "The library opens at nine o'clock, and everybody may read there.", with a word to stop before.
SENTENCES = {
    "Arabic": ("تفتح المكتبة أبوابها في الساعة التاسعة، ويمكن للجميع القراءة فيها.", "ويمكن"),
    "Bengali": ("গ্রন্থাগারটি সকাল নয়টায় খোলে, এবং সবাই সেখানে পড়তে পারে।", "সবাই"),
    "German": (
        "Die Bücherei öffnet um neun, und alle dürfen dort lesen – größtenteils.",
        "dürfen",
    ),
    "Spanish": (
        "¿La biblioteca abre a las nueve? Sí, y mañana todos leerán allí.",
        "mañana",
    ),
    "French": ("La bibliothèque ouvre à neuf heures, et chacun peut y lire ; voilà l’été.", "été"),
    "Hindi": ("पुस्तकालय नौ बजे खुलता है, और वहाँ सब लोग पढ़ सकते हैं।", "पढ़"),
    "Indonesian": ("Perpustakaan dibuka pukul sembilan, dan semua orang boleh membaca.", "semua"),
    "Italian": ("La biblioteca apre alle nove, perciò chiunque può leggere là.", "può"),
    "Japanese": ("図書館は九時に開き、誰でもそこで本を読むことができます。", "誰でも"),
    "Korean": ("도서관은 아홉 시에 열리며, 누구나 그곳에서 책을 읽을 수 있습니다.", "누구나"),
    "Portuguese": (
        "A biblioteca abre às nove, e então todos lerão lá: é grátis, não?",
        "então",
    ),
    "Swahili": (
        "Maktaba hufunguliwa saa tatu asubuhi, na kila mtu anaweza kusoma.",
        "anaweza",
    ),
    "Yoruba": ("Ilé ìkàwé máa ń ṣí ní aago mẹ́sàn-án, gbogbo ènìyàn sì lè kàwé níbẹ̀.", "ènìyàn"),
    "Chinese": ("图书馆九点开门，每个人都可以在那里看书。", "每个人"),
}
LANGUAGES = [pytest.param(*pair, id=name) for name, pair in SENTENCES.items()]

each_language = pytest.mark.parametrize(("sentence", "word"), LANGUAGES)


def test_there_are_fourteen() -> None:
    assert len(SENTENCES) == 14
    for sentence, word in SENTENCES.values():
        assert sentence.count(word) == 1


@pytest.fixture(scope="module", params=["demo", "published"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param == "demo":
        return Tokenizer("demo")
    return Tokenizer(real_data() / "gpt-oss-20b")


class TestTokens:
    @each_language
    @pytest.mark.parametrize("form", ["NFC", "NFD"])
    def test_there_and_back(
        self, tokenizer: Tokenizer, sentence: str, word: str, form: Any
    ) -> None:
        text = unicodedata.normalize(form, sentence)
        assert tokenizer.decode(tokenizer.encode(text)) == text

    @each_language
    def test_whole_characters_one_token_at_a_time(
        self, tokenizer: Tokenizer, sentence: str, word: str
    ) -> None:
        decoder = tokenizer.incremental_decoder()
        pieces = [decoder.push(token) for token in tokenizer.encode(sentence)]
        assert "".join(pieces) == sentence
        assert decoder.flush() == ""

    @each_language
    def test_cut_anywhere(self, tokenizer: Tokenizer, sentence: str, word: str) -> None:
        """What is cut in the middle of a character ends in one U+FFFD, and not before."""
        ids = tokenizer.encode(sentence)
        for end in range(len(ids)):
            decoder = tokenizer.incremental_decoder()
            text = "".join(decoder.push(token) for token in ids[:end])
            assert sentence.startswith(text)
            assert decoder.flush() in ("", "\ufffd")

    @each_language
    def test_stop_strings(self, tokenizer: Tokenizer, sentence: str, word: str) -> None:
        output = TextOutput(tokenizer, [word])
        text = ""
        for token in tokenizer.encode(sentence):
            text += output.push([token])
            assert sentence.startswith(text)
            if output.found is not None:
                break
        assert output.found == word
        assert text + output.flush() == sentence.partition(word)[0]


def answer(sentence: str) -> str:
    return f"<|channel|>final<|message|>{sentence}<|return|>"


@pytest.fixture(scope="module", params=["bytes", "demo", "published"])
def encoding(request: pytest.FixtureRequest) -> HarmonyEncoding | None:
    """None is the scripted model's own: single bytes, so that every character is cut."""
    if request.param == "bytes":
        return None
    if request.param == "demo":
        return load_harmony_encoding("demo")
    return load_harmony_encoding(real_data() / "gpt-oss-20b")


class TestChat:
    @each_language
    def test_streaming(self, encoding: HarmonyEncoding | None, sentence: str, word: str) -> None:
        model = ScriptedModel(
            f"<|channel|>analysis<|message|>{sentence}<|end|><|start|>assistant{answer(sentence)}",
            encoding=encoding,
        )
        deltas = list(model.chat(sentence, stream=True))
        assert "".join(delta.text for delta in deltas) == sentence
        assert "".join(delta.reasoning for delta in deltas) == sentence
        assert all("\ufffd" not in delta.text + delta.reasoning for delta in deltas)
        assert f"{sentence}<|end|>" in model.text(model.requests[0][0])

    @each_language
    def test_stop_strings(self, encoding: HarmonyEncoding | None, sentence: str, word: str) -> None:
        model = ScriptedModel(answer(sentence), encoding=encoding)
        deltas = list(model.chat("Hi", stream=True, stop=[word]))
        assert "".join(delta.text for delta in deltas) == sentence.partition(word)[0]
        assert deltas[-1].finish_reason == "stop"

    @each_language
    def test_bytes_of_tokens(
        self, encoding: HarmonyEncoding | None, sentence: str, word: str
    ) -> None:
        """What OpenAI's log-probabilities have for tokens that end within a character."""
        model = ScriptedModel(answer(sentence), encoding=encoding)
        choice = model.chat("Hi", logprobs=0).to_openai()["choices"][0]
        pieces = [bytes(token["bytes"]) for token in choice["logprobs"]["content"]]
        assert b"".join(pieces).decode() == choice["message"]["content"] == sentence

    @each_language
    def test_tools(self, encoding: HarmonyEncoding | None, sentence: str, word: str) -> None:
        """In the schema, in the arguments and in the result."""

        def look_up(text: str) -> dict[str, str]:
            return {"found": text}

        look_up.__doc__ = sentence
        call = (
            "<|channel|>commentary to=functions.look_up <|constrain|>json<|message|>"
            f'{{"text": "{word}"}}<|call|>'
        )
        model = ScriptedModel(call, answer(sentence), encoding=encoding)
        assert model.run("Hi", tools=[look_up]).text == sentence
        assert sentence in model.text(model.requests[0][0])
        assert f'{{"found": "{word}"}}<|end|>' in model.text(model.requests[1][0])


def cells(line: str) -> int:
    """How many columns of a terminal a line takes."""
    marks = ("Mn", "Me", "Cf")  # drawn over the character before; Mc may or may not be
    return sum(
        2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in line
        if unicodedata.category(character) not in marks
    )


class TestTerminal:
    @each_language
    @pytest.mark.parametrize("markdown", [True, False])
    @pytest.mark.parametrize("width", [20, 200])
    def test_nothing_is_lost(self, sentence: str, word: str, markdown: bool, width: int) -> None:
        terminal = Terminal()
        console = Console(
            file=terminal,
            force_terminal=True,
            width=width,
            color_system=None,
            _environ={"TERM": "xterm" if markdown else "dumb"},
        )
        with View(console, console, markdown=markdown, quiet=True) as view:
            for character in sentence:
                view.show(ChatDelta("text", text=character))
        assert "".join(terminal.screen.text.split()) == "".join(sentence.split())

    @each_language
    def test_no_line_is_too_wide(
        self, sentence: str, word: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is drawn again is taken back by its lines: a terminal must not add any."""
        monkeypatch.setattr("gptoss.cli.view._pause_s", lambda drawing_s: 0.0)  # at every character
        terminal, width = Terminal(), 20
        console = Console(
            file=terminal,
            force_terminal=True,
            width=width,
            color_system=None,
            _environ={"TERM": "xterm"},
        )
        with View(console, console, quiet=True) as view:
            for character in sentence:
                view.show(ChatDelta("text", text=character))
        drawn = re.split(r"\x1b\[[\d;?]*[A-Za-z]|[\r\n]", terminal.getvalue())
        assert len(drawn) > len(sentence)
        assert max(map(cells, drawn)) <= width
        assert "".join(terminal.screen.text.split()) == "".join(sentence.split())

    @each_language
    def test_the_command(
        self,
        sentence: str,
        word: str,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        model = ScriptedModel(answer(sentence))
        monkeypatch.setattr("gptoss.load", lambda name, **_: model)
        assert main(["chat", "model", sentence]) == 0
        assert capsys.readouterr().out == f"{sentence}\n"
        assert f"{sentence}<|end|>" in model.text(model.requests[0][0])

    def test_a_history_in_all_of_them(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from gptoss.cli.prompt import Prompt

        sentences = [sentence for sentence, _ in SENTENCES.values()]
        prompt = Prompt(tmp_path / "history")
        for sentence in sentences:
            prompt.add(sentence)
        assert Prompt(tmp_path / "history").entries == sentences


class Says:
    """A constraint that makes a model say a text."""

    def __init__(self, token_ids: list[int]) -> None:
        self._rest = token_ids

    def accept(self, token_ids: list[int]) -> gptoss.Decision:
        forced, self._rest = self._rest, []
        return gptoss.Decision(forced=forced)

    def fill(self, mask: Any) -> None:
        """What it says then is its own affair."""


class TestEngine:
    """The demo, which speaks no language but English, made to say these sentences."""

    @each_language
    def test_streaming(self, demo: gptoss.LLM, sentence: str, word: str) -> None:
        ids = demo.tokenizer.encode(sentence)
        says = Says(ids)
        chunks = list(demo.stream("Hi", max_tokens=len(ids), constraint=says, ignore_eos=True))
        assert "".join(chunk.text for chunk in chunks) == sentence
        assert all("\ufffd" not in chunk.text for chunk in chunks)
        result = demo.generate("Hi", max_tokens=len(ids), constraint=Says(ids), ignore_eos=True)
        assert (result.text, result.token_ids) == (sentence, ids)

    @each_language
    def test_stop_strings(self, demo: gptoss.LLM, sentence: str, word: str) -> None:
        says = Says(demo.tokenizer.encode(sentence))
        chunks = list(demo.stream("Hi", max_tokens=500, constraint=says, stop=[word]))
        assert "".join(chunk.text for chunk in chunks) == sentence.partition(word)[0]
        assert chunks[-1].finish_reason == "stop"

    @each_language
    def test_chat(self, demo: gptoss.LLM, sentence: str, word: str) -> None:
        """What it answers is not asked; but it streams what it returns."""
        whole = demo.chat(sentence, temperature=0, max_tokens=60)
        streamed = list(demo.chat(sentence, temperature=0, max_tokens=60, stream=True))
        assert "".join(delta.text for delta in streamed) == whole.text
        result = demo.generate(sentence, temperature=0, max_tokens=1)
        assert demo.tokenizer.decode(result.prompt_token_ids) == sentence


@pytest.fixture(scope="module")
def demo() -> gptoss.LLM:
    return gptoss.load("demo", context_length=2048)
