"""What a model takes on a card: planned without one, and without a build that has CUDA."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

import gptoss
from gptoss import BackendError, _core
from gptoss.checkpoint.memory import Placement, card_rooms, estimate_config, place
from gptoss.cli import main
from gptoss.config import ModelConfig
from gptoss.published import GPT_OSS_20B, GPT_OSS_120B
from support.checkpoints import MICRO, make_checkpoint

GB = 10**9
HAS_CARD = {name: available for name, available, _ in _core.backends()}["cuda"]
without_card = pytest.mark.skipif(HAS_CARD, reason="there is a card")


def card_20b(tokens: int, **options: Any) -> gptoss.MemoryEstimate:
    return estimate_config("20b", GPT_OSS_20B, tokens, device="cuda", **options)


def test_weights_are_those_of_the_files_and_little_more() -> None:
    for config, gigabytes in ((GPT_OSS_20B, 13.9), (GPT_OSS_120B, 65.7)):
        mapped = estimate_config("", config, 4096)
        card = estimate_config("", config, 4096, device="cuda")
        assert card.weight_bytes / GB == pytest.approx(gigabytes, abs=0.1)
        # Biases in float32, and an array of a megabyte or more in whole pieces of two.
        assert 0 < card.weights.pop("padding") < 0.015 * mapped.weight_bytes
        assert card.weights == mapped.weights
    saved = card_20b(4096).weight_bytes - card_20b(4096, dense="q8").weight_bytes
    assert saved / GB == pytest.approx(1.15, abs=0.05)


def test_pages_are_counted_as_the_engine_allocates_them() -> None:
    page = 12 * 2 * 64 * 8 * 64 * 2  # of 12 layers: keys and values of 64 tokens, 8 heads of 64
    # A window of 128 and a step of 512: pages for both, begun and ended anywhere.
    ring = (
        _core.plan_memory(
            GPT_OSS_20B,
            device="cpu",
            threads=0,
            precision="auto",
            dense="bf16",
            kv_cache_dtype="auto",
            context_length=4096,
            max_step_tokens=512,
            max_sequences=1,
            rooms=[("cpu", 2**62)],
        )["kv_cache"]
        // page
        - 64
    )
    for sequences in (1, 16):
        held = 8 + sequences  # a step in flight: 512 tokens, and a page begun by each sequence
        assert card_20b(4096, max_sequences=sequences).kv_bytes == page * (
            64 * sequences + ring * (sequences + 1) + held
        )


def test_what_more_takes_more() -> None:
    one = card_20b(8192)
    assert card_20b(16_384).kv_bytes > one.kv_bytes
    assert card_20b(8192, max_sequences=4).workspace_bytes > one.workspace_bytes
    assert card_20b(8192, kv_cache_dtype="int8").kv_bytes < 0.54 * one.kv_bytes
    assert card_20b(8192, chunk_tokens=64).workspace_bytes < one.workspace_bytes
    # A step has room for as many tokens whatever the context; rotations and splits grow with it.
    assert card_20b(8).workspace_bytes == card_20b(64).workspace_bytes < one.workspace_bytes


def test_str(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "micro", MICRO)
    estimate = gptoss.estimate_memory(
        tmp_path / "micro", 128, device="cuda", max_sequences=3, chunk_tokens=64
    )
    text = str(estimate)
    assert text.startswith("micro on cuda\n")
    assert "KV cache, 3 x 128 tokens" in text
    assert "padding" in text


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"device": "tpu"}, ValueError, "device must be one of .* got 'tpu'"),
        ({"max_sequences": 0}, ValueError, "max_sequences must be from 1 to 4096, got 0"),
        ({"device": "cuda", "dense": "bf12"}, BackendError, "bf12 are not built yet"),
    ],
)
def test_mistakes(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gptoss.estimate_memory("demo", 128, **arguments)


def test_a_step_that_reference_mode_cannot_launch() -> None:
    # Its kernels have a row of the grid for each token and expert: 65,535 at most.
    assert card_20b(8192, precision="reference", chunk_tokens=16_383).workspace_bytes > 0
    text = r'precision="reference" computes at most 16383 tokens in a step, got max_step_tokens '
    with pytest.raises(ValueError, match=f"{text}16384$"):
        card_20b(8192, precision="reference", chunk_tokens=16_384)
    assert card_20b(8192, chunk_tokens=16_384).workspace_bytes > 0


def test_gguf_matrices_in_q8_0_stay_so() -> None:
    layers = range(GPT_OSS_20B.num_hidden_layers)
    names = [f"model.layers.{i}.self_attn.{x}_proj.weight" for i in layers for x in "qkvo"]
    q8_0 = frozenset([*names, "lm_head.weight"])
    held = card_20b(4096, q8_0=q8_0)
    assert held.weight_bytes == pytest.approx(card_20b(4096, dense="q8").weight_bytes, rel=1e-3)
    # Their inputs are made int8.
    assert held.workspace_bytes > card_20b(4096).workspace_bytes


def test_usable_memory_of_a_card() -> None:
    usable = 24 * GB - 24 * GB // 32 - (512 << 20)
    assert card_rooms([24 * GB, 24 * GB]) == [("cuda:0", usable), ("cuda:1", usable)]


@without_card
def test_no_card() -> None:
    with pytest.raises(BackendError, match="'cuda' is not available"):
        card_rooms(())


def placed(config: ModelConfig, tokens: int | None, *gigabytes: float, **options: Any) -> Placement:
    modes = {"precision": "auto", "dense": "bf16", "kv_cache_dtype": "auto", "max_sequences": 1}
    memory = [int(size * GB) for size in gigabytes]
    return place(config, tokens, **(modes | options), rooms=card_rooms(memory))


def context_20b(gigabytes: int, **options: Any) -> int:
    return placed(GPT_OSS_20B, None, gigabytes, cpu_experts=0, **options).context_length


def test_the_context_that_load_chooses_fits_and_no_page_more() -> None:
    ((_, usable),) = card_rooms([16 * GB])
    for options in ({}, {"dense": "q8"}, {"kv_cache_dtype": "int8"}):
        tokens = context_20b(16, **options)
        assert card_20b(tokens, **options).total_bytes <= usable
        assert card_20b(tokens + 64, **options).total_bytes > usable
    assert context_20b(24) == 131_072
    # Their windows and logits take place.
    assert context_20b(16, max_sequences=16) < context_20b(16)


def test_what_cannot_be_loaded_says_what_could() -> None:
    with pytest.raises(MemoryError) as caught:
        context_20b(15)
    text = str(caught.value)
    assert text.startswith("a context of 2048 tokens takes 50.33 MB of KV cache, and only ")
    assert "beside 0.27 GB of workspace" in text
    assert "13.93 GB of weights" in text
    assert re.search(r': no context fits; .*; with dense="q8" at most \d+$', text)


def test_cards_first_then_the_machine() -> None:
    assert placed(GPT_OSS_20B, 8192, 16) == Placement(True, 8192, 1, 0)
    assert placed(GPT_OSS_20B, 8192, 8, 16) == Placement(True, 8192, 1, 0)
    assert placed(GPT_OSS_20B, 8192, 10, 8, 6) == Placement(True, 8192, 2, 0)
    assert placed(GPT_OSS_20B, 8192, 8, 6, 6) == Placement(True, 8192, 3, 0)
    some, alone = (placed(GPT_OSS_20B, 8192, *cards) for cards in ((8, 6), (8,)))
    assert some.fits
    assert alone.fits
    assert some.devices == 2
    assert 0 < some.cpu_experts < alone.cpu_experts
    assert not placed(GPT_OSS_20B, 8192, 2).fits
    assert placed(GPT_OSS_120B, 131_072, 48, 48) == Placement(True, 131_072, 2, 0)
    # A card that is of no use is left alone.
    assert placed(GPT_OSS_20B, 8192, 10, 0.6).devices == 1
    # The context that all cards have room for.
    longest = placed(GPT_OSS_20B, None, 10, 8).context_length
    assert placed(GPT_OSS_20B, longest, 10, 8).devices == 2
    assert placed(GPT_OSS_20B, longest, 10, 8).cpu_experts == 0


def test_experts_on_the_cpu_are_not_on_the_card() -> None:
    every, some = card_20b(8192), card_20b(8192, cpu_experts=5)
    stored, kept = (e.weight_bytes - e.weights["padding"] for e in (every, some))
    assert some.cpu_expert_bytes == stored - kept
    assert some.cpu_expert_bytes / (5 * 423e6) == pytest.approx(1, abs=0.01)
    assert every.cpu_expert_bytes == 0
    assert every.weight_bytes - some.weight_bytes == pytest.approx(stored - kept, rel=0.02)
    assert "in RAM, experts of 5 layers" in str(some)
    assert some.kv_bytes == every.kv_bytes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cpu_experts": 25}, "cpu_experts must be from 0 to 24, got 25"),
        ({"cpu_experts": 1, "device": "cpu"}, 'cpu_experts=1 goes with device="cuda" only'),
    ],
)
def test_experts_that_cannot_be_on_the_cpu(options: dict[str, Any], message: str) -> None:
    modes = {"device": "cuda"} | options
    with pytest.raises(ValueError, match=message):
        estimate_config("20b", GPT_OSS_20B, 8192, **modes)


class TestInfo:
    @pytest.fixture
    def model(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        """A name for 20b's shape, without its files."""
        located = dataclasses.replace(
            gptoss.checkpoint.resolve.find_model("demo"), name="20b", config=GPT_OSS_20B
        )
        monkeypatch.setattr("gptoss.cli.info.find_model", lambda *_, **__: located)
        monkeypatch.setenv("COLUMNS", "80")
        return "demo"

    def test_a_card_that_is_not_here(self, model: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["info", model, "--device", "cuda", "--memory", "16GB"]) == 0
        out = capsys.readouterr().out
        ((_, usable),) = card_rooms([16 * GB])
        for dense in ("bf16", "q8"):
            assert f"precision auto, dense {dense}; weights " in out
            for tokens in (4096, 131_072):
                for sequences in (1, 64):
                    needed = card_20b(tokens, dense=dense, max_sequences=sequences).total_bytes
                    verdict = "fits" if needed <= usable else r"(no|\d+ in RAM)"
                    assert re.search(rf"\b{needed / GB:.2f} {verdict} ", out)
        assert " fits" in out
        assert " in RAM" in out
        assert f"1 sequence, max_sequences=1: context up to {context_20b(16):,}" in out
        tokens = context_20b(16, dense="q8", max_sequences=16)
        assert f"share pages, as load has it: context up to {tokens:,}" in out
        assert f"Planned for 16.00 GB, of which {usable / GB:.2f} GB can be used" in out

    def test_the_table_in_the_documents(
        self, model: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["info", model, "--device=cuda", "--memory=16GB", "--dense=bf16"]) == 0
        shown = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
        text = (Path(__file__).resolve().parents[2] / "docs" / "cuda.md").read_text()
        written = re.search(r"```text\n(GB on a card.*?)```", text, re.DOTALL)
        assert written
        lines = written[1].splitlines()
        first = shown.index(lines[0])
        assert shown[first : first + len(lines)] == lines

    def test_what_does_not_fit_goes_to_the_machine(
        self, model: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        command = ["info", model, "--device=cuda", "--memory=12GiB", "--dense=q8"]
        assert main(command) == 0
        out = capsys.readouterr().out
        assert re.search(r"as load has it: context up to [\d,]+, \d+ in RAM", out)
        assert "leaves the experts of 3 layers there" in " ".join(out.split())
        assert "dense bf16" not in out
        assert " fits" not in out

    def test_nothing_fits(self, model: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["info", model, "--device=cuda", "--memory=2GB", "--dense=q8"]) == 0
        out = capsys.readouterr().out
        assert "as load has it: does not fit" in out
        assert not re.search(r"\d (fits|\d+ cards|\d+ in RAM)", out)

    def test_several_cards(self, model: str, capsys: pytest.CaptureFixture[str]) -> None:
        sizes = ["--memory", "12GB,8GB"]
        assert main(["info", *sizes, model, "--device=cuda", "--dense=bf16"]) == 0
        out = capsys.readouterr().out
        needed = card_20b(4096).total_bytes
        assert f"{needed / GB:.2f} 2 cards" in out
        assert re.search(r"\d+ in RAM", out)
        told = "Planned for 12.00 GB and 8.00 GB, of which 11.09 GB and 7.21 GB can be used"
        assert told in " ".join(out.split())

    @without_card
    def test_without_a_card_the_usual_sizes(
        self, model: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["info", model, "--device", "cuda", "--kv-cache-dtype", "int8"]) == 0
        out = capsys.readouterr().out
        needed = card_20b(4096, kv_cache_dtype="int8").total_bytes
        assert f"{needed / GB:.2f} (16)" in out
        assert "KV cache int8" in out
        assert "device 'cuda' is not available: " in out
        assert "8, 12, 16, 24, 32, 48, 80, 96, 141 GB" in " ".join(out.split())

    def test_unknown_device(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["info", "demo", "--device", "tpu"]) == 2
        assert "device must be one of ('cpu', 'cuda'), got 'tpu'" in capsys.readouterr().err

    def test_memory_of_another_machine(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["info", "demo", "--memory", "100 MB"]) == 0
        assert "of 0.10 GB that are available" in " ".join(capsys.readouterr().out.split())

    @pytest.mark.parametrize(
        "size", ["24", "GB", "0GB", "-1GB", "24TB", "1e3GB", "24GB,", "24GB,x"]
    )
    def test_sizes_that_are_none(self, size: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit, match="2"):
            main(["info", "demo", "--device=cuda", f"--memory={size}"])
        assert "expected a size such as 24GB or 24GiB" in capsys.readouterr().err
