"""The tokenizer on the published vocabulary, against tiktoken."""

# ruff: noqa: RUF001 (look-alike characters are wanted here)

from __future__ import annotations

import base64
import json
import random
import sys
import time
import unicodedata
from functools import cache
from typing import Any

import pytest
import tiktoken

from gptoss.tokenizer import Tokenizer
from gptoss.tokenizer.bpe import Library, Published
from support.paths import real_data

pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module", params=["published", "as any other"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """Return both ways to read the file; the digest of the second is another."""
    text = (real_data() / "gpt-oss-20b" / "tokenizer.json").read_text(encoding="utf-8")
    tokenizer = Tokenizer(text if request.param == "published" else f"{text} ")
    kind = Published if request.param == "published" else Library
    assert isinstance(tokenizer._bpe, kind)
    return tokenizer


@pytest.fixture(scope="module")
def oracle() -> Any:
    """Build tiktoken's encoding from the ranks, with the pattern and names of tokenizer.json."""
    lines = (real_data() / "o200k_base.tiktoken").read_bytes().splitlines()
    ranks = {base64.b64decode(piece): int(rank) for piece, rank in map(bytes.split, lines)}
    published = json.loads((real_data() / "gpt-oss-20b" / "tokenizer.json").read_bytes())
    split = published["pre_tokenizer"]["pretokenizers"][0]
    return tiktoken.Encoding(
        "o200k",
        pat_str=split["pattern"]["Regex"],
        mergeable_ranks=ranks,
        special_tokens={token["content"]: token["id"] for token in published["added_tokens"]},
    )


SCRIPTS = (
    "The quick brown fox don't can't I'LL we've O'Reilly's jumps",
    "Größe Übermaß naïve coöperate façade Łódź Dvořák İstanbul ıIiİ ǅ ǆ ǄA",
    "Съешь же ещё этих мягких французских булок Ђорђе Ї",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία ΑΣ ς",
    "האקדמיה ללשון העברית שָׁלוֹם",
    "صِف خَلقَ خَودِ كَمِثلِ الشَمسِ ١٢٣٤٥ ۱۲۳",
    "ऋषियों को सताने वाले दुष्ट राक्षसों १२३",
    "তেলেগু ಕನ್ನಡ தமிழ் മലയാളം ગુજરાતી ਪੰਜਾਬੀ සිංහල",
    "ภาษาไทยเป็นภาษาที่ไม่มีช่องว่าง ๑๒๓ ລາວ ខ្មែរ မြန်မာ",
    "敏捷的棕色狐狸跳過懶狗。我能吞下玻璃而不傷身體 一二三",
    "いろはにほへと ちりぬるを カタカナ ｶﾀｶﾅ 漢字かな交じり文",
    "키스의 고유조건은 입술끼리 만나야 하고 ㄱㄴㄷ",
    "ქართული Հայերեն አማርኛ ᏣᎳᎩ ᠮᠣᠩᠭᠣᠯ བོད་སྐད ᚠᚢᚦ 𐌰𐌱𐌲 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟘𝟙𝟚",
)
OTHERS = (
    "😀 👨‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪🇫🇷 ❤️ ☺ ✔︎ 1️⃣",
    "e\u0301 a\u0308\u0323 Z\u0335\u0321\u0322a\u0334\u0316l\u0337g\u0336o\u0338 \u0301 \u20dd",
    "½ ² ³ ⅷ Ⅻ ① ㊿ 〇 1234567890 3.14159 1,000,000 0x7fFF 1e-5 ١٢٣٤",
    "\t\n\r\n \r  \n\n   \u00a0 \u2003\u3000\u1680 \u0085 \u2028\u2029 \v\f \x1c\x1f \u200b\ufeff",
    "!!! ... ??!? ---- ==== ____ //// \\\\ ,,,; :: -> => <= != && || ** ## $$ @@ ~~ `` ''\"\"",
    "\x00\x01\x7f\x80\x9f \ufffd \ufffe\uffff \U0010ffff \ue000 \u00ad \u061c",
)
CODE = (
    'def f(x: int) -> str:\n    """Doc."""\n    return f"{x!r:>{10}}"\n\n\nclass A(B):\n\tpass\n',
    'int main(void) {\r\n\tfor (int i = 0; i < 10; ++i) { printf("%d\\n", i); }\r\n}\r\n',
    '{"a": [1, 2.5e-3, null, true], "b": {"c": "\\u00e9"}}',
    "<div class='x'>\n  <a href=\"https://example.org/a?b=c&d=%20#e\">it's</a>\n</div>\n",
    "SELECT * FROM t WHERE a <> 'it''s' -- comment\n    AND b IS NOT NULL;\n\n\n",
    "$ ls -la | grep -E '^d.*[0-9]{3,}$' >> /dev/null 2>&1 && echo \"$HOME/${X:-y}\"\n",
)
SAMPLES = (*SCRIPTS, *OTHERS, *CODE)


@cache
def characters() -> list[str]:
    """All assigned characters but those for private use."""
    every = map(chr, range(sys.maxunicode + 1))
    return [c for c in every if unicodedata.category(c) not in ("Cn", "Co", "Cs")]


def generated(count: int) -> list[str]:
    """Make strings of all kinds: pieces of the samples, any characters, runs, white space."""
    rng = random.Random(20)
    white = " \t\n\r\u00a0\u3000"

    def piece() -> str:
        kind = rng.randrange(6)
        if kind == 0:
            sample = rng.choice(SAMPLES)
            begin = rng.randrange(len(sample))
            return sample[begin : begin + rng.randint(1, 40)]
        if kind == 1:
            return "".join(rng.choices(characters(), k=rng.randint(1, 12)))
        if kind == 2:
            return rng.choice(rng.choice(SAMPLES)) * rng.randint(1, 60)
        if kind == 3:
            return "".join(rng.choices(white, k=rng.randint(1, 9)))
        if kind == 4:
            return str(rng.randrange(10 ** rng.randint(1, 25)))
        return "".join(rng.choices("aAbB'sStTlLdDvVeErR 1.,\n", k=rng.randint(1, 30)))

    return ["".join(piece() for _ in range(rng.randint(1, 8))) for _ in range(count)]


def test_samples(tokenizer: Tokenizer, oracle: Any) -> None:
    for text in (*SAMPLES, "\n".join(SAMPLES)):
        assert tokenizer.encode(text) == oracle.encode_ordinary(text), text


def test_generated_strings(tokenizer: Tokenizer, oracle: Any) -> None:
    for text in generated(4000):
        ids = tokenizer.encode(text)
        assert ids == oracle.encode_ordinary(text), text
        assert tokenizer.decode_bytes(ids) == text.encode()


def test_every_character(tokenizer: Tokenizer, oracle: Any) -> None:
    for character in characters():
        # Letters, digits and white space around it show the class that it has in the pattern.
        text = f"a{character}a1{character}1 {character} \n{character}"
        assert tokenizer.encode(text) == oracle.encode_ordinary(text), ascii(text)


def test_special_tokens(tokenizer: Tokenizer, oracle: Any) -> None:
    rng = random.Random(21)
    names = list(oracle.special_tokens_set)
    pieces = [*names, *names, "<|", "|>", "<|end|", "end|>", *SAMPLES[:3], " ", "\n", "  \n"]
    for _ in range(500):
        text = "".join(rng.choices(pieces, k=rng.randint(1, 9)))
        allowed = set(rng.sample(names, rng.randrange(len(names))))
        for special in ("all", set(), allowed):
            expected = oracle.encode(text, allowed_special=special, disallowed_special=())
            assert tokenizer.encode(text, allowed_special=special) == expected
        for disallowed in ("all", set(rng.sample(names, 3))):
            try:
                expected = oracle.encode(
                    text, allowed_special=allowed, disallowed_special=disallowed
                )
            except ValueError:
                with pytest.raises(ValueError, match="disallowed"):
                    tokenizer.encode(text, allowed, disallowed)
            else:
                assert tokenizer.encode(text, allowed, disallowed) == expected


@pytest.mark.parametrize("text", ["a\ud800b", "\udc00\ud800", "x\ud83d\ude00y", "\ud83d<|end|>"])
def test_surrogates(tokenizer: Tokenizer, oracle: Any, text: str) -> None:
    expected = oracle.encode(text, allowed_special="all")
    assert tokenizer.encode(text, allowed_special="all") == expected


LONG_RUNS = {
    "letters": "a" * 100_000,
    "capitals": "A" * 100_000,
    "spaces": " " * 100_000,
    "spaces before a letter": " " * 100_000 + "a",
    "digits": "1" * 100_000,
    "newlines": "\n" * 100_000,
    "dashes": "-" * 100_000,
    "emoji": "😀" * 100_000,
    "han": "好" * 100_000,
    "combining marks": "\u0301" * 100_000,
    "words": "abcdefghij" * 10_000,
    "mixed": "aA1 \n" * 20_000,
    "random letters": "".join(random.Random(22).choices("abcdefghijklmnop", k=100_000)),
}


@pytest.mark.parametrize("run", LONG_RUNS)
def test_100_000_characters(tokenizer: Tokenizer, oracle: Any, run: str) -> None:
    start = time.perf_counter()
    ids = tokenizer.encode(LONG_RUNS[run])
    elapsed_s = time.perf_counter() - start
    assert ids == oracle.encode_ordinary(LONG_RUNS[run])
    assert elapsed_s < 2


def test_a_run_that_only_one_library_can_split(tokenizer: Tokenizer) -> None:
    text = "a" + " " * 1_000_000 + "antidisestablishmentarianism, b"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert len(ids) < 9000
    # What is after the run is as without it.
    rest = tokenizer.encode(" antidisestablishmentarianism, b")
    assert ids[-len(rest) :] == rest


def test_both_ways_agree_where_one_falls_back() -> None:
    text = (real_data() / "gpt-oss-20b" / "tokenizer.json").read_text(encoding="utf-8")
    published, other = Tokenizer(text)._bpe, Tokenizer(f"{text} ")._bpe
    assert isinstance(published, Published)
    for sample in (*SAMPLES, *generated(300), *LONG_RUNS.values()):
        assert published._library.encode(sample) == other.encode(sample), sample[:100]


def test_a_text_that_the_pattern_cannot_match_is_an_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="12000000 characters cannot be split"):
        tokenizer.encode(" " * 12_000_000)


def test_every_token(tokenizer: Tokenizer, oracle: Any) -> None:
    assert tokenizer.vocab_size == oracle.n_vocab
    for token_id in range(oracle.n_vocab):
        assert tokenizer.token_bytes(token_id) == oracle.decode_single_token_bytes(token_id)


def test_decoding_any_tokens(tokenizer: Tokenizer, oracle: Any) -> None:
    rng = random.Random(23)
    for _ in range(500):
        ids = rng.choices(range(tokenizer.vocab_size), k=rng.randint(1, 30))
        decoder = tokenizer.incremental_decoder()
        streamed = "".join([*map(decoder.push, ids), decoder.flush()])
        assert tokenizer.decode(ids) == streamed == oracle.decode(ids)


def test_names_of_200018(tokenizer: Tokenizer) -> None:
    assert tokenizer.special_tokens["<|endofprompt|>"] == 200_018
    assert tokenizer.special_tokens["<|reserved_200018|>"] == 200_018


@pytest.mark.parametrize("token_id", [200_019, 201_087, 201_088])
def test_the_padding_of_the_vocabulary_has_no_tokens(tokenizer: Tokenizer, token_id: int) -> None:
    with pytest.raises(ValueError, match=str(token_id)):
        tokenizer.decode_bytes([token_id])
