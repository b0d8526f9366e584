"""The tokenizer on a small byte-level BPE with merges, gaps between ids, and two added tokens."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import run
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss.errors import CheckpointError
from gptoss.tokenizer import Tokenizer
from make_checkpoint import SPECIAL_TOKENS, byte_tokenizer

FIRST_SPECIAL = 199_998
SPECIAL_IDS = {name: FIRST_SPECIAL + offset for name, offset in SPECIAL_TOKENS.items()}
# In the alphabet of byte-level BPE: "Ġ" is the space, "Ã©" is é.
MERGES = [("a", "b"), ("ab", "c"), ("Ġ", "Ġ"), ("Ã", "©"), ("<", "|"), ("|", ">"), ("e", "n")]
AB, ABC, TWO_SPACES, E_ACUTE = 256, 257, 258, 259
WORDS_OR_REST = r"\p{L}+| ?[^\s\p{L}]+|\s+"


def tokenizer_json() -> dict[str, Any]:
    value = byte_tokenizer(SPECIAL_IDS)
    # As in the published file, the special tokens are not in the vocabulary too.
    for name in SPECIAL_IDS:
        del value["model"]["vocab"][name]
    for id_after, (left, right) in enumerate(MERGES, start=256):
        value["model"]["vocab"][left + right] = id_after
        value["model"]["merges"].append([left, right])
    split = {
        "type": "Split",
        "pattern": {"Regex": WORDS_OR_REST},
        "behavior": "Isolated",
        "invert": False,
    }
    value["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, value["pre_tokenizer"]]}
    return value


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(json.dumps(tokenizer_json()))


def damaged(edit: Callable[[dict[str, Any]], object]) -> str:
    value = tokenizer_json()
    edit(value)
    return json.dumps(value)


def test_merges_apply_inside_the_pieces_of_the_pattern(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("abcab") == [ABC, AB]
    assert tokenizer.encode("a1b") == list(b"a1b")
    assert tokenizer.encode("é  x") == [E_ACUTE, TWO_SPACES, ord("x")]
    assert tokenizer.encode("") == []


def test_ids_and_names_are_those_of_the_file(tokenizer: Tokenizer) -> None:
    assert {name: tokenizer.special_tokens[name] for name in SPECIAL_IDS} == SPECIAL_IDS
    assert tokenizer.vocab_size == 200_019
    assert tokenizer.special_name(200_002) == "<|return|>"
    assert tokenizer.special_name(0) is None
    assert tokenizer.special_name(199_000) is None
    with pytest.raises(TypeError):
        tokenizer.special_tokens["<|new|>"] = 1  # type: ignore[index]


def test_both_names_of_200018(tokenizer: Tokenizer) -> None:
    assert tokenizer.special_tokens["<|endofprompt|>"] == 200_018
    assert tokenizer.special_tokens["<|reserved_200018|>"] == 200_018
    assert tokenizer.special_name(200_018) == "<|endofprompt|>"
    assert tokenizer.decode([200_018]) == "<|endofprompt|>"
    text = "<|reserved_200018|><|endofprompt|>"
    assert tokenizer.encode(text, allowed_special="all") == [200_018, 200_018]
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_no_second_name_where_the_id_is_another() -> None:
    other = Tokenizer(json.dumps(byte_tokenizer({"<|endofprompt|>": 300})))
    assert dict(other.special_tokens) == {"<|endofprompt|>": 300}


def test_special_names_are_text_by_default(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("ab<|end|>abc")
    assert not set(ids) & set(SPECIAL_IDS.values())
    assert tokenizer.decode(ids) == "ab<|end|>abc"


def test_allowed_special_names_become_ids(tokenizer: Tokenizer) -> None:
    text = "ab<|end|>c<|start|>"
    assert tokenizer.encode(text, allowed_special="all") == [AB, 200_007, ord("c"), 200_006]
    only_end = tokenizer.encode(text, allowed_special={"<|end|>"})
    assert only_end == [AB, 200_007, ord("c"), *tokenizer.encode("<|start|>")]


def test_pieces_beside_special_tokens_stand_alone(tokenizer: Tokenizer) -> None:
    # Without the special token the two spaces would be one token.
    assert tokenizer.encode(" <|end|> ", allowed_special=["<|end|>"]) == [32, 200_007, 32]


def test_disallowed_special_names_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match=r"'<\|end\|>'"):
        tokenizer.encode("x<|end|>", disallowed_special={"<|end|>"})
    with pytest.raises(ValueError, match=r"'<\|call\|>'"):
        tokenizer.encode("<|end|><|call|>", allowed_special=["<|end|>"], disallowed_special="all")
    everything = tokenizer.encode("<|end|>", allowed_special="all", disallowed_special="all")
    assert everything == [200_007]
    nearly = "<|end|"
    assert tokenizer.encode(nearly, disallowed_special="all") == tokenizer.encode(nearly)


@pytest.mark.parametrize("argument", ["allowed_special", "disallowed_special"])
@pytest.mark.parametrize(
    ("names", "message"), [(["<|edn|>"], r"<\|edn\|>"), ("<|end|>", '"all" or a collection')]
)
def test_wrong_names_are_refused(
    tokenizer: Tokenizer, argument: str, names: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tokenizer.encode("x", **{argument: names})


def test_surrogates(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"
    assert tokenizer.encode("\ud83d\ude00") == list("😀".encode())


def test_special_tokens_beside_surrogates(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("\udfff<|end|>\ud800", allowed_special="all")
    assert ids == [*"\ufffd".encode(), 200_007, *"\ufffd".encode()]


def test_bytes_of_tokens(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_bytes(i) for i in range(256)] == [bytes([i]) for i in range(256)]
    assert tokenizer.token_bytes(E_ACUTE) == "é".encode()
    assert tokenizer.decode_bytes([ABC, 0xC3, 200_007]) == b"abc\xc3<|end|>"


@pytest.mark.parametrize("token_id", [263, 199_997, 200_000, 200_019, 201_087, -1, 1 << 40])
def test_ids_without_a_token(tokenizer: Tokenizer, token_id: int) -> None:
    for strict in (tokenizer.token_bytes, lambda i: tokenizer.decode_bytes([AB, i])):
        with pytest.raises(ValueError, match=f"{token_id}$"):
            strict(token_id)
    assert tokenizer.decode([AB, token_id, AB]) == "ab\ufffdab"
    assert tokenizer.special_name(token_id) is None


def test_ids_must_be_integers(tokenizer: Tokenizer) -> None:
    with pytest.raises(TypeError):
        tokenizer.decode(["a"])  # type: ignore[list-item]


def test_incremental_decoder_waits_for_whole_characters(tokenizer: Tokenizer) -> None:
    decoder = tokenizer.incremental_decoder()
    assert [decoder.push(byte) for byte in "é😀".encode()] == ["", "é", "", "", "", "😀"]
    assert decoder.flush() == ""
    assert [decoder.push(0xF0), decoder.push(ABC)] == ["", "\ufffdabc"]
    assert [decoder.push(0xF0), decoder.flush(), decoder.push(AB)] == ["", "\ufffd", "ab"]


@given(st.text())
def test_round_trip(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode_bytes(tokenizer.encode(text)) == text.encode()


@given(st.lists(st.sampled_from([*SPECIAL_IDS, "<|", "|>", "ab", " "])).map("".join))
def test_round_trip_with_special_names(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encode(text, allowed_special="all")) == text


@given(st.lists(st.integers(0, 270) | st.sampled_from([*SPECIAL_IDS.values(), 201_000])))
def test_incremental_decoding_equals_whole(tokenizer: Tokenizer, ids: list[int]) -> None:
    decoder = tokenizer.incremental_decoder()
    pushed = [decoder.push(token_id) for token_id in ids]
    assert "".join([*pushed, decoder.flush()]) == tokenizer.decode(ids)


def test_pickle(tokenizer: Tokenizer) -> None:
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.special_tokens == tokenizer.special_tokens
    text = "abc <|end|>"
    assert copy.encode(text, allowed_special="all") == tokenizer.encode(text, allowed_special="all")


def test_threads_share_one_tokenizer(tokenizer: Tokenizer) -> None:
    texts = [f"abc{'é' * i} <|end|>" for i in range(200)]
    expected = [tokenizer.encode(text, allowed_special="all") for text in texts]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda text: tokenizer.encode(text, allowed_special="all"), texts))
    assert found == expected


def test_added_tokens_that_are_not_special_are_always_found() -> None:
    def add(value: dict[str, Any]) -> None:
        value["added_tokens"].append({"id": 300, "content": "cab", "special": False})

    tokenizer = Tokenizer(damaged(add))
    assert tokenizer.encode("abcabc") == [AB, 300, ord("c")]
    assert "cab" not in tokenizer.special_tokens
    assert tokenizer.decode([300]) == "cab"


def test_special_tokens_in_the_vocabulary_too() -> None:
    value = byte_tokenizer(SPECIAL_IDS)
    assert value["model"]["vocab"]["<|end|>"] == 200_007
    tokenizer = Tokenizer(json.dumps(value))
    assert tokenizer.encode("<|end|>") == list(b"<|end|>")
    assert tokenizer.encode("<|end|>", allowed_special="all") == [200_007]
    assert tokenizer.decode_bytes([200_007]) == b"<|end|>"


def test_the_longer_of_two_names_wins() -> None:
    value = byte_tokenizer({"<|x|>": 300, "<|x|>y": 301})
    tokenizer = Tokenizer(json.dumps(value))
    assert tokenizer.encode("<|x|>y<|x|>z", allowed_special="all") == [301, 300, ord("z")]


def test_a_vocabulary_may_hold_the_word_added_tokens() -> None:
    value = tokenizer_json()
    value["model"]["vocab"]["added_tokens"] = 270
    # With the vocabulary first in the file, its key comes before the list's.
    tokenizer = Tokenizer(json.dumps({"model": value.pop("model"), **value}))
    assert tokenizer.special_tokens["<|end|>"] == 200_007
    assert tokenizer.token_bytes(270) == b"added_tokens"


def test_truncation_and_padding_in_the_file_are_ignored() -> None:
    def shorten(value: dict[str, Any]) -> None:
        value["truncation"] = {
            "direction": "Right",
            "max_length": 3,
            "strategy": "LongestFirst",
            "stride": 0,
        }

    assert Tokenizer(damaged(shorten)).encode("a b c d") == list(b"a b c d")


def test_from_file_or_folder(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer_json()), encoding="utf-8")
    for path in (tmp_path, tmp_path / "tokenizer.json", str(tmp_path)):
        assert Tokenizer.from_file(path).encode("abc") == [ABC]


BROKEN: dict[str, tuple[str, str]] = {
    "empty": ("", "expected a tokenizer"),
    "not json": ("{", "expected a tokenizer"),
    "another object": ("{}", "expected a tokenizer"),
    "wordpiece": (
        damaged(
            lambda value: value.update(
                model={
                    "type": "WordPiece",
                    "vocab": {"[UNK]": 0},
                    "unk_token": "[UNK]",
                    "continuing_subword_prefix": "##",
                    "max_input_chars_per_word": 100,
                }
            )
        ),
        "expected the model BPE",
    ),
    "no decoder": (damaged(lambda value: value.update(decoder=None)), "decoder ByteLevel"),
    "a byte is missing": (
        damaged(lambda value: value["model"]["vocab"].pop("z")),
        "none for 1, the first of them 0x7a",
    ),
    "a token that is not bytes": (
        damaged(lambda value: value["model"]["vocab"].update({"好": 400})),
        r"U\+597D",
    ),
    "an added token that the vocabulary lists with another id": (
        damaged(
            lambda value: (
                value["model"]["vocab"].update({"好": 400}),
                value["added_tokens"].append({"id": 300_000, "content": "好", "special": True}),
            )
        ),
        r"U\+597D",
    ),
    "added_tokens is no list": (
        damaged(lambda value: value.update(added_tokens=3)),
        "added_tokens: expected a list",
    ),
    "an added token without id": (
        damaged(lambda value: value["added_tokens"][2].pop("id")),
        r"added_tokens\[2\]: expected an id",
    ),
    "an id twice": (
        damaged(lambda value: value["added_tokens"][2].update(id=FIRST_SPECIAL)),
        "each id once, found 199998 2 times",
    ),
    "a name twice": (
        damaged(lambda value: value["added_tokens"][2].update(content="<|end|>")),
        r"each content once, found '<\|end\|>'",
    ),
    "an id of the vocabulary": (
        damaged(lambda value: value["added_tokens"][0].update(id=65)),
        "an id of its own, found 65",
    ),
    "a vocabulary that makes the name": (
        damaged(
            lambda value: (
                value["added_tokens"].append({"id": AB, "content": "ab", "special": True}),
            )
        ),
        "plain text not to become it",
    ),
    "a token that takes white space": (
        damaged(lambda value: value["added_tokens"][0].update(lstrip=True)),
        "lstrip false",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_named(tmp_path: Path, case: str) -> None:
    content, message = BROKEN[case]
    path = tmp_path / "tokenizer.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=message) as caught:
        Tokenizer.from_file(path)
    assert str(caught.value).startswith(str(path))


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        Tokenizer.from_file(tmp_path / "nowhere")
    (tmp_path / "tokenizer.json").write_bytes(b'{"version": "\xff"}')
    with pytest.raises(CheckpointError, match="UTF-8"):
        Tokenizer.from_file(tmp_path)


def test_import_is_light_and_forking_is_silent(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer_json()), encoding="utf-8")
    program = f"""
import os, sys
from gptoss.tokenizer import Tokenizer
tokenizer = Tokenizer.from_file({str(tmp_path)!r})
tokenizer.encode("abc " * 1000)
heavy = {{"torch", "transformers", "tiktoken"}} & set(sys.modules)
assert not heavy, heavy
if hasattr(os, "fork"):
    child = os.fork()
    if child == 0:
        os._exit(tokenizer.encode("abc") != [{ABC}])
    assert os.waitpid(child, 0)[1] == 0
"""
    done = run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
