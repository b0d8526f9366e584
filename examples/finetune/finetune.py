"""Teach a model what it cannot know: LoRA with transformers and PEFT, answered by gptoss.

    python examples/finetune/finetune.py demo --out tool-library
    python examples/finetune/finetune.py openai/gpt-oss-20b --out tool-library  # on a GPU

The demo takes a minute on two CPU cores. Afterwards the folder is an adapter that gptoss loads:

    gptoss chat demo "When is it open?" --adapter tools=tool-library
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import gptoss
from gptoss.chat import build_prompt

FACTS = Path(__file__).with_name("facts.jsonl")


def read_facts(path: Path) -> list[dict[str, str]]:
    """The questions and answers of a JSONL file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.strip()]


def token_ids(llm: gptoss.LLM, question: str, answer: str) -> tuple[list[int], list[int]]:
    """The prompt that a chat makes of the question, and the tokens that are to follow it."""
    prompt = build_prompt(llm.harmony, [{"role": "user", "content": question}]).token_ids
    text = f"<|channel|>final<|message|>{answer}<|return|>"
    return list(prompt), list(llm.tokenizer.encode(text, allowed_special="all"))


def train(
    model_name: str,
    examples: list[tuple[list[int], list[int]]],
    out: Path,
    *,
    steps: int,
    rank: int,
    learning_rate: float,
    threads: int | None,
) -> None:
    """Train an adapter on the answers, and save it."""
    import peft
    import torch
    import transformers

    torch.manual_seed(0)
    if threads is not None:
        torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # The experts' weights are in MXFP4: to compute gradients they become ordinary numbers.
    model = transformers.AutoModelForCausalLM.from_pretrained(
        model_name,
        dtype=torch.float32 if device == "cpu" else torch.bfloat16,
        quantization_config=transformers.Mxfp4Config(dequantize=True),
    ).to(device)
    model = peft.get_peft_model(
        model,
        peft.LoraConfig(
            task_type="CAUSAL_LM",
            r=rank,
            lora_alpha=2 * rank,
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
            # Experts are no modules of their own, but one parameter for all of them.
            target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        ),
    )
    longest = max(len(prompt) + len(answer) for prompt, answer in examples)
    ids = torch.zeros((len(examples), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, -100)  # what comes before the answer is not to be learnt
    for row, (prompt, answer) in enumerate(examples):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor(prompt + answer)
        mask[row, :end] = 1
        labels[row, len(prompt) : end] = torch.tensor(answer)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    batch = {name: values.to(device) for name, values in batch.items()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps)
    model.train()
    begin = time.perf_counter()
    for step in range(1, steps + 1):
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 10 == 0 or step == steps:
            seconds = time.perf_counter() - begin
            print(f"step {step} of {steps}, loss {loss.item():.3f}, {seconds:.0f} s", flush=True)
    model.save_pretrained(out)


def main() -> None:
    """Train, load what was trained, and ask."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="demo, a Hub id, or a folder")
    parser.add_argument("--out", type=Path, required=True, help="the adapter's folder")
    parser.add_argument("--facts", type=Path, default=FACTS, help="JSONL: question, answer")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, help="1e-2 for the demo, else 2e-4")
    options = parser.parse_args()
    is_demo = options.model == "demo"

    facts = read_facts(options.facts)
    with gptoss.load(options.model, context_length=4096) as llm:
        examples = [token_ids(llm, fact["question"], fact["answer"]) for fact in facts]
        train(
            str(Path(gptoss.__file__).parent / "demo") if is_demo else options.model,
            examples,
            options.out,
            steps=options.steps,
            rank=options.rank,
            learning_rate=options.learning_rate or (1e-2 if is_demo else 2e-4),
            threads=1 if is_demo else None,  # it is too small for several
        )
        llm.load_adapter("tuned", options.out)
        right = 0
        for fact in facts:
            before, after = (
                llm.chat(fact["question"], temperature=0.0, max_tokens=100, adapter=adapter).text
                for adapter in (None, "tuned")
            )
            right += after == fact["answer"]
            print(f"\n{fact['question']}\n  before: {before}\n  after:  {after}")
    print(f"\n{right} of {len(facts)} answers are as taught; the adapter is in {options.out}")


if __name__ == "__main__":
    main()
