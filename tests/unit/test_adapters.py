"""LoRA adapters: read from PEFT's folders, and added for the requests that name them."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import gptoss
from gptoss.adapters import AdapterReader
from gptoss.checkpoint import open_checkpoint
from gptoss.config import ModelConfig
from gptoss.reference.lora import merge_lora
from gptoss.reference.model import ReferenceModel, load_tensors
from support.adapters import ATTENTION, EXPERTS, ROUTER, make_adapter
from support.checkpoints import edit_header, edit_json
from support.tolerances import assert_fp32_tier, relative_l2

DEMO = Path(gptoss.__file__).parent / "demo"
PROMPTS = 20
SCORED: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True, "max_tokens": 12, "logprobs": 5}


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return open_checkpoint(DEMO).config


@pytest.fixture(scope="module")
def llm() -> Iterator[gptoss.LLM]:
    with gptoss.load(DEMO, context_length=1024) as model:
        yield model


def prompts_of(config: ModelConfig, count: int, length: int = 70) -> list[list[int]]:
    random = np.random.default_rng(11)
    return [
        random.integers(0, config.vocab_size, length + 3 * place).tolist() for place in range(count)
    ]


def what(result: gptoss.GenerationResult) -> object:
    """Everything of a result but how long it took and what was cached."""
    return result.token_ids, result.logprobs, result.finish_reason


# -- what is computed ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True, "rank": 5, "lora_alpha": 3},
        {
            "rank": 3,
            "ranks": {"q_proj": 1, "gate_up_proj": 17, "weight": 8, "lm_head": 33},
            "alpha_pattern": {"layers.1.self_attn.q_proj": 9.5, "experts.down_proj": 2},
        },
        {"is_swapped": True},
        {"dtype": np.float16, "modules": ["o_proj"], "parameters": [EXPERTS[1]]},
        {"dtype": ml_dtypes.bfloat16, "modules": [], "parameters": [EXPERTS[0]]},
    ],
    ids=["all", "rslora", "patterns", "swapped", "down in f16", "gate_up in bf16"],
)
def test_it_equals_the_merged_model(
    tmp_path: Path, config: ModelConfig, options: dict[str, Any]
) -> None:
    folder = make_adapter(tmp_path / "a", config, **options)
    plain = ReferenceModel(config, load_tensors(open_checkpoint(DEMO)))
    is_swapped = options.get("is_swapped")
    if is_swapped:  # the reference knows one form
        options = {name: value for name, value in options.items() if name != "is_swapped"}
        straight = unswapped(folder, tmp_path / "b", config)
    merged = ReferenceModel(
        config, merge_lora(config, plain.tensors, straight if is_swapped else folder)
    )
    with gptoss.load(DEMO, precision="reference", context_length=512) as llm:
        llm.load_adapter("a", folder)
        for prompt in prompts_of(config, PROMPTS if options == {} else 3):
            expected = merged.logits(prompt)
            assert_fp32_tier(llm.logits(prompt, adapter="a"), expected)
        assert_fp32_tier(llm.logits(prompt), plain.logits(prompt))
        # It would be noticed if it were left out.
        assert np.median(relative_l2(llm.logits(prompt), expected)) > 1e-3


def unswapped(folder: Path, out: Path, config: ModelConfig) -> Path:
    """The same adapter with A and B of experts in their usual places."""
    tensors = load_file(folder / "adapter_model.safetensors")
    experts = config.num_local_experts
    for name in list(tensors):
        if ".mlp.experts." in name and name.endswith("lora_A.weight"):
            other = name.replace("lora_A", "lora_B")
            a, b = tensors[name], tensors[other]
            rank = len(a) // experts
            a, b = a.reshape(experts, rank, -1), b.reshape(len(b), rank, experts)
            tensors[name] = np.ascontiguousarray(b.transpose(2, 1, 0)).reshape(experts * rank, -1)
            tensors[other] = np.ascontiguousarray(a.transpose(2, 1, 0)).reshape(-1, rank * experts)
    out.mkdir()
    save_file(tensors, out / "adapter_model.safetensors")
    (out / "adapter_config.json").write_text((folder / "adapter_config.json").read_text())
    return out


def test_an_embedding_may_be_a_target_parameter(tmp_path: Path, config: ModelConfig) -> None:
    folder = make_adapter(tmp_path / "a", config, modules=["embed_tokens"], parameters=[])
    other = make_adapter(tmp_path / "b", config, modules=["embed_tokens"], parameters=[])
    tensors = load_file(folder / "adapter_model.safetensors")
    stem = "base_model.model.model.embed_tokens"
    save_file(
        {
            f"{stem}.lora_A.weight": np.ascontiguousarray(tensors[f"{stem}.lora_embedding_B"].T),
            f"{stem}.lora_B.weight": np.ascontiguousarray(tensors[f"{stem}.lora_embedding_A"].T),
        },
        other / "adapter_model.safetensors",
    )
    edit_json(
        other / "adapter_config.json",
        lambda values: values.update(target_parameters=["embed_tokens.weight"], target_modules=[]),
    )
    reader = AdapterReader(config, open_checkpoint(DEMO).tensors)
    (mine,), (its,) = (reader.read(path).changes.values() for path in (folder, other))
    assert np.array_equal(mine.first, its.first)
    assert np.array_equal(mine.second, its.second)


def test_eight_in_a_batch_are_each_as_alone(tmp_path: Path, llm: gptoss.LLM) -> None:
    kinds: list[dict[str, Any]] = [
        {},
        {"rank": 16, "modules": ATTENTION, "parameters": []},
        {"rank": 1},
        {"modules": ["q_proj"], "parameters": [], "rank": 9},
        {"modules": [], "parameters": EXPERTS, "rank": 3},
        {"modules": ["lm_head"], "parameters": [ROUTER]},
        {"modules": ["embed_tokens"], "parameters": [EXPERTS[1]], "rank": 20},
        {"use_rslora": True, "ranks": {"k_proj": 11, "down_proj": 2}},
    ]
    names: list[str | None] = [None]
    for place, kind in enumerate(kinds):
        folder = make_adapter(tmp_path / str(place), llm.config, seed=place, **kind)
        llm.load_adapter(f"batch {place}", folder)
        names.append(f"batch {place}")
    assert set(names[1:]) <= set(llm.adapters)
    prompts = prompts_of(llm.config, len(names), 40)

    def begin(place: int) -> Any:
        # Of its own salt: nothing of it is cached.
        return llm.submit(
            prompts[place], adapter=names[place], cache_salt=f"{begun} {place}", **SCORED
        )

    begun = "together"
    requests = [begin(place) for place in range(len(names))]
    together = [what(request.result()) for request in requests]
    begun = "alone"
    alone = [what(begin(place).result()) for place in range(len(names))]
    assert together == alone
    # The same prompt has another answer with each.
    answers = [llm.logits(prompts[0], [-1], adapter=name).tobytes() for name in names]
    assert len(set(answers)) == len(names)
    for name in names[1:]:
        assert name is not None
        llm.unload_adapter(name)


@pytest.mark.parametrize("options", [{"dense": "q8"}, {"speculative": "ngram"}, {"threads": 3}])
def test_other_ways_of_loading(tmp_path: Path, llm: gptoss.LLM, options: dict[str, Any]) -> None:
    folder = make_adapter(tmp_path / "a", llm.config)
    prompt = prompts_of(llm.config, 1)[0] * 2
    llm.load_adapter("other", folder)
    with gptoss.load(DEMO, context_length=1024, **options) as model:
        model.load_adapter("x", folder)
        found = model.generate(prompt, adapter="x", **SCORED)
        plain = model.generate(prompt, **SCORED)
    assert found.logprobs != plain.logprobs
    if "dense" not in options:
        assert what(found) == what(llm.generate(prompt, adapter="other", **SCORED))
    llm.unload_adapter("other")


# -- the prefix cache ------------------------------------------------------------------------


def test_prefixes_are_not_shared_across_adapters(tmp_path: Path, llm: gptoss.LLM) -> None:
    for name, seed in (("one", 1), ("two", 2)):
        llm.load_adapter(name, make_adapter(tmp_path / name, llm.config, seed=seed))
    prompt = np.random.default_rng(7).integers(0, llm.config.vocab_size, 200).tolist()

    def cached(adapter: str | None, salt: str | None = None) -> int:
        result = llm.generate(prompt, adapter=adapter, cache_salt=salt, max_tokens=1)
        return result.usage.cached_tokens

    assert [cached(name) for name in (None, "one", "two")] == [0, 0, 0]
    assert all(cached(name) >= 192 for name in (None, "one", "two"))
    assert cached("one", "salt") == 0
    assert cached("one", "salt") >= 192
    # What it computes is what counts, not its name.
    llm.unload_adapter("one")
    llm.load_adapter("three", tmp_path / "one")
    assert cached("three") >= 192
    for name in ("two", "three"):
        llm.unload_adapter(name)


def test_pages_on_disk_are_an_adapters_own(tmp_path: Path, config: ModelConfig) -> None:
    folders = [make_adapter(tmp_path / str(seed), config, seed=seed) for seed in (1, 2)]
    prompt = np.random.default_rng(8).integers(0, config.vocab_size, 200).tolist()

    def answers() -> list[gptoss.GenerationResult]:
        with gptoss.load(DEMO, context_length=512, prefix_cache_dir=tmp_path / "pages") as model:
            model.load_adapter("x", folders[0])
            return [model.generate(prompt, adapter=name, **SCORED) for name in ("x", None)]

    first, second = answers(), answers()
    assert [result.usage.cached_tokens for result in first] == [0, 0]
    assert all(result.usage.cached_tokens >= 192 for result in second)
    assert list(map(what, first)) == list(map(what, second))
    folders[0] = folders[1]
    other = answers()
    assert other[0].usage.cached_tokens == 0
    assert other[1].usage.cached_tokens >= 192
    assert what(other[0]) != what(first[0])


# -- loading and unloading ---------------------------------------------------------------------


def test_unloading_lets_requests_go_on(tmp_path: Path, llm: gptoss.LLM) -> None:
    folder = make_adapter(tmp_path / "a", llm.config)
    prompt = prompts_of(llm.config, 1)[0]
    llm.load_adapter("going", folder)
    long = {**SCORED, "max_tokens": 60}
    expected = what(llm.generate(prompt, adapter="going", cache_salt="a", **long))
    request = llm.submit(prompt, adapter="going", cache_salt="b", **long)
    waiting = [
        llm.submit(prompt, adapter="going", cache_salt=f"c{place}", **long) for place in range(20)
    ]
    next(request)
    llm.unload_adapter("going")
    assert "going" not in llm.adapters
    with pytest.raises(ValueError, match=r"no adapter named 'going': loaded are"):
        llm.generate(prompt, adapter="going")
    with pytest.raises(ValueError, match="no adapter named 'going'"):
        llm.unload_adapter("going")
    # Its name is free at once, and means the new one.
    other = make_adapter(tmp_path / "b", llm.config, seed=9)
    llm.load_adapter("going", other)
    assert what(llm.generate(prompt, adapter="going", **long)) != expected
    assert what(request.result()) == expected
    assert all(what(one.result()) == expected for one in waiting)
    llm.unload_adapter("going")


def test_threads_load_and_unload_while_others_generate(tmp_path: Path, llm: gptoss.LLM) -> None:
    folders = [make_adapter(tmp_path / str(seed), llm.config, seed=seed) for seed in range(2)]
    prompt = prompts_of(llm.config, 1, 30)[0]
    expected = []
    for folder in folders:
        llm.load_adapter("t", folder)
        expected.append(what(llm.generate(prompt, adapter="t", **SCORED)))
        llm.unload_adapter("t")
    problems: list[object] = []

    def work(place: int) -> None:
        try:
            for turn in range(6):
                name, which = f"thread {place} {turn}", (place + turn) % 2
                llm.load_adapter(name, folders[which])
                request = llm.submit(prompt, adapter=name, **SCORED)
                llm.unload_adapter(name)
                if what(request.result()) != expected[which]:
                    problems.append((place, turn))
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_a_chat_may_have_one(tmp_path: Path, llm: gptoss.LLM) -> None:
    llm.load_adapter("chat", make_adapter(tmp_path / "a", llm.config, size=0.2))
    options: dict[str, Any] = {"temperature": 0.0, "max_tokens": 20, "seed": 1}
    plain = llm.chat("Hello", **options)
    assert llm.chat("Hello", adapter="chat", **options).token_ids != plain.token_ids
    assert llm.chat("Hello", **options).token_ids == plain.token_ids
    llm.unload_adapter("chat")
    with pytest.raises(ValueError, match="no adapter named"):
        llm.chat("Hello", adapter="chat", **options)


def test_names(tmp_path: Path, llm: gptoss.LLM) -> None:
    folder = make_adapter(tmp_path / "a", llm.config, rank=1, modules=["q_proj"], parameters=[])
    for name, error in (("", ValueError), ("a\nb", ValueError), (3, TypeError)):
        with pytest.raises(error, match="name must be"):
            llm.load_adapter(name, folder)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="adapter must be"):
        gptoss.SamplingParams(adapter=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="did you mean adapter"):
        gptoss.SamplingParams(lora_request="a")
    llm.load_adapter("twice", folder)
    with pytest.raises(ValueError, match="'twice' already: unload it first"):
        llm.load_adapter("twice", folder)
    llm.unload_adapter("twice")
    with pytest.raises(ValueError, match="no adapter named 'nobody'"):
        llm.logits([1, 2], adapter="nobody")
    with pytest.raises(ValueError, match="no adapter named 'nobody'"):
        llm.generate(["a", "b"], adapter="nobody")


def test_a_closed_model_loads_none(tmp_path: Path, config: ModelConfig) -> None:
    folder = make_adapter(tmp_path / "a", config, rank=1, modules=["q_proj"], parameters=[])
    model = gptoss.load(DEMO, context_length=64)
    model.close()
    for call in (lambda: model.load_adapter("a", folder), lambda: model.unload_adapter("a")):
        with pytest.raises(RuntimeError, match="closed"):
            call()


# -- refusals ------------------------------------------------------------------------------------


def put(**fields: Any) -> Callable[[Path], None]:
    return lambda folder: edit_json(
        folder / "adapter_config.json", lambda values: values.update(fields)
    )


def tensors(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        values = load_file(folder / "adapter_model.safetensors")
        edit(values)
        save_file(values, folder / "adapter_model.safetensors")

    return apply


def move(old: str, new: str) -> Callable[[Path], None]:
    return tensors(lambda values: values.update({new: values.pop(old)}))


STEM = "base_model.model.model.layers.0"
Q_A = f"{STEM}.self_attn.q_proj.lora_A.weight"


def with_nan(values: dict[str, Any]) -> None:
    values[Q_A] = values[Q_A].copy()
    values[Q_A][1, 2] = np.nan


def cut(name: str, length: int) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:length])


REFUSALS: dict[str, tuple[Callable[[Path], object], str]] = {
    "another kind": (put(peft_type="IA3"), "peft_type: expected 'LORA', found 'IA3'"),
    "another task": (put(task_type="SEQ_CLS"), "task_type"),
    "modules_to_save": (put(modules_to_save=["lm_head"]), "modules_to_save.*trained whole"),
    "DoRA": (put(use_dora=True), "use_dora.*DoRA"),
    "biases": (put(bias="all"), "bias.*biases that were trained"),
    "lora_bias": (put(lora_bias=True), "lora_bias.*a bias in the change"),
    "tokens": (put(trainable_token_indices=[1]), "trainable_token_indices"),
    "aLoRA": (put(alora_invocation_tokens=[1]), "alora_invocation_tokens.*activated"),
    "replicated layers": (put(layer_replication=[[0, 2]]), "layer_replication"),
    "a later kind": (put(use_something=True), "use_something: expected a LoRA without it"),
    "PiSSA": (put(init_lora_weights="pissa_niter_4"), "init_lora_weights.*changes the base"),
    "rank zero": (put(r=0), "r: expected a rank"),
    "rank as text": (put(r="8"), "r: expected a rank"),
    "another rank": (put(r=7), "r: expected the rank of the weights .*, 4, found 7"),
    "no alpha": (put(lora_alpha=None), "lora_alpha: expected a number"),
    "infinite alpha": (put(lora_alpha=1e300), "lora_alpha: expected a number"),
    "alphas": (put(alpha_pattern=[1]), "alpha_pattern: expected an object"),
    "a slow pattern": (put(rank_pattern={"(.*)*x": 3}), "rank_pattern: expected a pattern"),
    "a wrong pattern": (put(rank_pattern={"[": 3}), "rank_pattern: expected regular"),
    "targets": (put(target_parameters="x"), "target_parameters: expected a list"),
    "rslora": (put(use_rslora="yes"), "use_rslora: expected true or false"),
    "a bias of experts": (
        put(target_parameters=["mlp.experts.gate_up_proj_bias"]),
        "target_parameters: expected the experts' gate_up_proj and down_proj",
    ),
    "experts without names": (put(target_parameters=None), "expected factors of the parameters"),
    "the larger model": (
        put(base_model_name_or_path="unsloth/gpt-oss-120b"),
        "base_model_name_or_path.*another base model",
    ),
    "no weights": (
        lambda folder: (folder / "adapter_model.safetensors").unlink(),
        "adapter_model.safetensors: expected a readable file",
    ),
    "no config": (
        lambda folder: (folder / "adapter_config.json").unlink(),
        "expected a PEFT adapter with adapter_config.json, found none",
    ),
    "pickles": (
        lambda folder: (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin"),
        "pickles are not read",
    ),
    "cut weights": (cut("adapter_model.safetensors", 5000), "cut off"),
    "cut config": (cut("adapter_config.json", 20), "expected a JSON object"),
    "a layer too many": (
        move(Q_A, Q_A.replace("layers.0", "layers.4")),
        "expected layers below 4, found 4: the adapter is of another base model",
    ),
    "half a pair": (tensors(lambda values: values.pop(Q_A)), "expected it and lora_B"),
    "a layer less": (
        tensors(
            lambda values: [values.pop(name) for name in list(values) if "layers.3.self" in name]
        ),
        "layers.3.attention.q, which the config's targets name",
    ),
    "another width": (
        tensors(lambda values: values.update({Q_A: np.zeros((4, 129), np.float32)})),
        r"expected factors A \(r, 128\) and B \(256, r\)",
    ),
    "more experts": (
        tensors(
            lambda values: values.update(
                {f"{STEM}.mlp.experts.lora_A.weight": np.zeros((68, 64), np.float32)}
            )
        ),
        "expected factors of gate_up_proj|expected factors of down_proj",
    ),
    "integers": (
        tensors(lambda values: values.update({Q_A: np.zeros((4, 128), np.int8)})),
        "expected F32, F16 or BF16, found I8",
    ),
    "a vector": (
        tensors(lambda values: values.update({Q_A: np.zeros(128, np.float32)})),
        "expected two dimensions",
    ),
    "NaN": (tensors(with_nan), r"expected finite numbers, found nan at \(1, 2\)"),
    "a magnitude": (
        move(Q_A, f"{STEM}.self_attn.q_proj.lora_magnitude_vector"),
        "DoRA",
    ),
    "a saved module": (
        move(Q_A, "base_model.model.lm_head.modules_to_save.weight"),
        "trained whole",
    ),
    "a norm": (move(Q_A, f"{STEM}.input_layernorm.lora_A.weight"), "found another name"),
    "another family": (move(Q_A, f"{STEM}.mlp.gate_proj.lora_A.weight"), "found another name"),
    "experts as modules": (
        move(Q_A, f"{STEM}.mlp.experts.gate_up_projs.0.lora_A.weight"),
        "modules of their own",
    ),
    "another embedding": (
        tensors(
            lambda values: values.update(
                {
                    "base_model.model.model.embed_tokens.base_layer.weight": np.ones(
                        (1536, 128), np.float32
                    )
                }
            )
        ),
        "expected the model's own model.embed_tokens.weight",
    ),
    "a resized unembedding": (
        tensors(
            lambda values: values.update(
                {"base_model.model.lm_head.weight": np.ones((1540, 128), np.float32)}
            )
        ),
        "expected the model's own lm_head.weight",
    ),
    "nothing": (
        lambda folder: (
            tensors(lambda values: values.clear())(folder),
            put(target_modules=[], target_parameters=None)(folder),
        ),
        "expected factors of LoRA, found none",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_no_adapter_of_the_model_is_refused(
    tmp_path: Path, config: ModelConfig, case: str
) -> None:
    folder = make_adapter(tmp_path / "a", config)
    reader = AdapterReader(config, open_checkpoint(DEMO).tensors)
    reader.read(folder)
    damage, message = REFUSALS[case]
    damage(folder)
    with pytest.raises(gptoss.CheckpointError, match=message) as raised:
        reader.read(folder)
    assert str(folder) in str(raised.value)


def test_what_is_no_folder_is_refused(tmp_path: Path, config: ModelConfig, llm: gptoss.LLM) -> None:
    with pytest.raises(gptoss.CheckpointError, match="found nothing"):
        llm.load_adapter("a", tmp_path / "none")
    with pytest.raises(gptoss.CheckpointError, match="it is a whole model"):
        llm.load_adapter("a", DEMO)
    with pytest.raises(TypeError, match="path must be a path"):
        llm.load_adapter("a", 3)  # type: ignore[arg-type]
    assert "a" not in llm.adapters


def test_an_adapter_of_another_shape_is_refused(tmp_path: Path, config: ModelConfig) -> None:
    reader = AdapterReader(config, open_checkpoint(DEMO).tensors)
    for place, other in enumerate(
        (
            dataclasses.replace(config, hidden_size=96),
            dataclasses.replace(config, num_local_experts=8),
            dataclasses.replace(config, vocab_size=1537),
            dataclasses.replace(config, num_attention_heads=2),
            dataclasses.replace(config, intermediate_size=96),
        )
    ):
        folder = make_adapter(tmp_path / str(place), other)
        with pytest.raises(gptoss.CheckpointError, match="of another base model"):
            reader.read(folder)


def test_the_models_own_embedding_may_be_in_the_file(tmp_path: Path, config: ModelConfig) -> None:
    checkpoint = open_checkpoint(DEMO)
    folder = make_adapter(tmp_path / "a", config)
    own = load_tensors(checkpoint)["model.embed_tokens.weight"].astype(np.float32)
    name = "base_model.model.model.embed_tokens.base_layer.weight"
    tensors(lambda values: values.update({name: own}))(folder)
    changes = AdapterReader(config, checkpoint.tensors).read(folder).changes
    assert len(changes) == 2 + 4 * (4 + 1 + 2)


def test_fields_that_say_nothing_are_let_through(tmp_path: Path, config: ModelConfig) -> None:
    folder = make_adapter(tmp_path / "a", config)
    put(
        use_something=False,
        eva_config={"rho": 2.0},
        runtime_config={"ephemeral_gpu_offload": False},
        init_lora_weights="gaussian",
        megatron_core="megatron.core",
        lora_dropout=0.3,
    )(folder)
    AdapterReader(config, open_checkpoint(DEMO).tensors).read(folder)


def test_some_layers_are_enough_where_the_config_says_so(
    tmp_path: Path, config: ModelConfig
) -> None:
    folder = make_adapter(
        tmp_path / "a", config, modules=["q_proj"], parameters=[], layers_to_transform=[0, 2]
    )

    def keep(values: dict[str, Any]) -> None:
        for name in list(values):
            if "layers.1." in name or "layers.3." in name:
                del values[name]

    tensors(keep)(folder)
    changes = AdapterReader(config, open_checkpoint(DEMO).tensors).read(folder).changes
    assert set(changes) == {"layers.0.attention.q", "layers.2.attention.q"}


def test_a_header_that_lies_is_refused(tmp_path: Path, config: ModelConfig) -> None:
    folder = make_adapter(tmp_path / "a", config)
    edit_header(
        folder / "adapter_model.safetensors",
        lambda header: header[Q_A].update(shape=[4, 1 << 40]),
    )
    with pytest.raises(gptoss.CheckpointError, match="bytes for F32"):
        AdapterReader(config, open_checkpoint(DEMO).tensors).read(folder)
