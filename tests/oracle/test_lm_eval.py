"""A small task of lm-evaluation-harness on the demo: its figures are our own count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import gptoss

lm_eval = pytest.importorskip("lm_eval", reason="needs the extra `eval`")
pytest.importorskip("datasets", reason="needs the extra `eval`")
tasks_module = pytest.importorskip("lm_eval.tasks")

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore"),  # of the harness and what it imports
]

SUMS = [(a, b) for a in (3, 17, 28) for b in (4, 25)]

_CHOICE = """\
task: sums_choice
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{label}}"
metric_list: [{metric: acc}]
"""
_GENERATE = """\
task: sums_generate
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {do_sample: false, max_gen_toks: 16}
metric_list: [{metric: exact_match}]
"""


@pytest.fixture
def tasks(tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    docs = []
    for a, b in SUMS:
        choices = [str(a + b + change) for change in (-1, 0, 10)]
        answer = f"{a} + {b} = {a + b}."
        docs.append(
            {"question": f"What is {a} + {b}?", "choices": choices, "label": 1, "answer": answer}
        )
    data = tmp_path / "sums.jsonl"
    data.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    source = (
        f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\ntest_split: test\n"
    )
    for name, text in (("choice", _CHOICE), ("generate", _GENERATE)):
        (tmp_path / f"{name}.yaml").write_text(source + text)
    return tmp_path, docs


def test_its_figures_are_ours(
    tasks: tuple[Path, list[dict[str, Any]]],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
    from gptoss.eval.harness import GptossLM

    folder, docs = tasks
    model = GptossLM("demo", "medium", 200, context_length=600, precision="reference")
    manager = tasks_module.TaskManager(include_path=str(folder), include_defaults=False)

    def figure(task: str, metric: str, **more: Any) -> float:
        found = lm_eval.simple_evaluate(
            model, tasks=[task], task_manager=manager, bootstrap_iters=0, **more
        )
        return float(found["results"][task][f"{metric},none"])

    with gptoss.load("demo", context_length=600, precision="reference") as llm:
        right = 0
        for doc in docs:
            sums = []
            for choice in doc["choices"]:
                ids = llm.tokenizer.encode(f"{doc['question']} {choice}")
                count = len(ids) - len(llm.tokenizer.encode(doc["question"]))
                scored = llm.generate(ids, max_tokens=0, prompt_logprobs=0).prompt_logprobs
                assert scored is not None
                sums.append(sum(entry.logprob for entry in scored[-count:] if entry))
            right += max(range(3), key=lambda i: sums[i]) == doc["label"]
        assert figure("sums_choice", "acc") == pytest.approx(right / len(docs))

        answers = [llm.chat(doc["question"], temperature=0, max_tokens=200).text for doc in docs]
        exact = sum(text == doc["answer"] for text, doc in zip(answers, docs, strict=True))
        found = figure("sums_generate", "exact_match", apply_chat_template=True)
        assert found == pytest.approx(exact / len(docs))
