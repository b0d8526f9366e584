"""Ask a demo checkpoint what it was never trained on, through the compiled core, greedily.

    python tools/train_demo/evaluate.py CHECKPOINT [--count 100] [--sample FILE]

Prints a table, then JSON on the last line. An answer counts if its final text, or its tool call's
name and arguments, are exactly the expected ones. `--sample` writes some cases of each task for
the tests.
"""

# Long lists read better as text.
# ruff: noqa: SIM905

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from conversations import (
    DECLINE,
    addition,
    comparison,
    fixed_question,
    follow_up,
    instructed,
    other,
    question,
    render,
    subtraction,
    unfit,
    word_task,
)
from draws import EFFORTS, Draw, Example
from tool_tasks import (
    RESULT_TASKS,
    calculator,
    python_call,
    python_result,
    too_large,
    tool_call,
)

import gptoss
from gptoss.harmony import HarmonyEncoding, Message, Role, TextContent

SEED = 977
# Written by hand; no generator makes them.
FOREIGN = (
    "Why do cats purr?|Name three rivers in Asia.|Can you proofread my letter?|"
    "How many cups make a gallon?|What did Newton prove?|Is tomorrow a holiday?|"
    "Which shampoo should I use?|Do penguins fly?|What time does the bank close?|"
    "I lost my keys, what now?|Who runs the United Nations?|How can I sleep better?|"
    "Tell me who you voted for.|Rewrite this sentence in a formal tone.|"
    "Does money make people happy?|How is glass made?|What's a synonym of big?|"
    "Are ghosts real?|List the months with 30 days.|What is the chemical symbol of gold?|"
    "Who plays the lead in that new film?|Should I learn French or Spanish?|"
    "How much water should I drink?|Which planet is the hottest?|What's the plural of ox?|"
    "Could you be my lawyer?|Why did the dinosaurs die out?|How do magnets work?|"
    "What's on television tonight?|Give me a riddle.|Does aspirin help against headaches?|"
    "How old is the Earth?|What shall we play?|Who painted the ceiling of the Sistine Chapel?|"
    "What's 7 times 8?|How do I change a tyre?|Is the shop open on Sundays?|"
    "What makes bread rise?|Help, my screen is frozen!|Count to ten in German."
).split("|")


def foreign(draw: Draw, effort: str) -> Example:
    """A question that is out of scope, in words of no template."""
    text = draw.one(FOREIGN)
    messages = [{"role": "user", "content": text}]
    return Example("foreign", effort, messages, "", DECLINE)


TASKS: dict[str, Callable[[Draw, str], Example]] = {
    **{f"sums of {n} digits": partial(addition, digits=n) for n in (1, 2, 3, 4)},
    **{f"differences of {n} digits": partial(subtraction, digits=n) for n in (2, 3, 4)},
    "comparisons": comparison,
    "follow-up sums": follow_up,
    "questions about gptoss, unseen wordings": question,
    "questions about gptoss, the fixed list": fixed_question,
    "out of scope, unseen combinations": other,
    "out of scope, written by hand": foreign,
    "sums too large for it": too_large,
    "tool calls, unseen names": partial(tool_call, forced=False),
    "tools of which none fits": unfit,
    "tool calls that are forced": partial(tool_call, forced=True),
    **RESULT_TASKS,
    "sums by functions": calculator,
    "built-in python: calls": python_call,
    "built-in python: results": python_result,
    "developer's instructions": instructed,
    "words reversed or counted": word_task,
}


# The tests have the list anyway, and the model does not learn to tell when no tool fits.
NOT_SAMPLED = ("questions about gptoss, the fixed list", "tools of which none fits")


def cases(make: Callable[[Draw, str], Example], count: int, effort: str | None) -> list[Example]:
    """Different cases of one task from the held-out part."""
    draw = Draw(SEED, held=True)
    found: dict[str, Example] = {}
    for _ in range(count * 20):
        if len(found) == count:
            break
        case = make(draw, effort or draw.one(EFFORTS))
        found.setdefault(json.dumps([case.messages, case.tools, case.developer]), case)
    return list(found.values())


def parse(encoding: HarmonyEncoding, case: Example, tokens: list[int]) -> tuple[str, Any]:
    """The analysis, and the final text or the call as (name, arguments or code)."""
    if case.forced and case.call is not None:
        return "", (case.call[0], _arguments(encoding.decode(tokens[:-1])))
    analysis = ""
    answer: Any = None
    for message in encoding.parse_messages_from_completion_tokens(
        tokens, Role.ASSISTANT, strict=False
    ):
        if message.recipient == "python":
            answer = ("python", _text(message))
        elif message.recipient is not None:
            answer = (message.recipient.removeprefix("functions."), _arguments(_text(message)))
        elif message.channel == "final":
            answer = _text(message)
        else:
            analysis += _text(message)
    return analysis, answer


def _arguments(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _text(message: Message) -> str:
    return "".join(item.text for item in message.content if isinstance(item, TextContent))


def ask(llm: gptoss.LLM, examples: list[Example]) -> list[tuple[str, Any]]:
    """The model's analysis and answer to each."""
    encoding = HarmonyEncoding(llm.tokenizer)
    prompts = [render(case, encoding)[0] for case in examples]
    results = llm.generate(prompts, temperature=0.0, max_tokens=400)
    return [
        parse(encoding, case, result.token_ids)
        for case, result in zip(examples, results, strict=True)
    ]


def evaluate(llm: gptoss.LLM, count: int, show: int = 0) -> dict[str, Any]:
    """Percent right per task, and the lengths of the analysis by effort."""
    encoding = HarmonyEncoding(llm.tokenizer)
    table: dict[str, Any] = {}
    for name, make in TASKS.items():
        examples = cases(make, count, effort=None)
        wrong = []
        for case, (analysis, answer) in zip(examples, ask(llm, examples), strict=True):
            if answer != case.expected:
                wrong.append((case, analysis, answer))
        right = len(examples) - len(wrong)
        table[name] = {"right": right, "of": len(examples)}
        print(f"| {name} | {right} / {len(examples)} | {100 * right / len(examples):.1f} % |")
        for case, analysis, answer in wrong[:show]:
            print(f"    {case.effort}: {case.messages[-1]['content']!r} {analysis!r} {answer!r}")
            print(f"        wanted {case.reasoning!r} {case.expected!r}")
    for name in ("sums of 3 digits", "questions about gptoss, unseen wordings"):
        lengths = []
        for effort in EFFORTS:
            answers = ask(llm, cases(TASKS[name], 30, effort))
            tokens = sum(len(encoding.encode(analysis)) for analysis, _ in answers)
            lengths.append(round(tokens / len(answers), 1))
        table[f"analysis tokens, {name}"] = dict(zip(EFFORTS, lengths, strict=True))
        print(f"| analysis of {name}, tokens | {' / '.join(map(str, lengths))} | low/medium/high |")
    return table


def write_sample(path: Path, count: int) -> None:
    """Some cases of each task, as what `LLM.chat` takes and should give."""
    listed = []
    for name, make in TASKS.items():
        if name in NOT_SAMPLED:
            continue
        for case in cases(make, count // 2 if name in RESULT_TASKS else count, effort="medium"):
            if case.code is not None:
                expected: dict[str, Any] = {"name": "python", "code": case.code}
            elif case.call is not None:
                expected = {"name": case.call[0], "arguments": case.call[1]}
            else:
                expected = {"text": case.text}
            listed.append(
                {
                    "task": name,
                    "messages": case.messages,
                    "tools": case.tools,
                    "builtin": case.builtin,
                    "forced": case.forced,
                    "developer": case.developer,
                    "effort": case.effort,
                    "expected": expected,
                }
            )
    made_by = (
        f"tools/train_demo/evaluate.py --sample, {count} held-out cases of each task, "
        "half as many of each shape of result"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ",\n".join(json.dumps(case) for case in listed)
    path.write_text(f'{{"made_by": {json.dumps(made_by)}, "cases": [\n{rows}\n]}}\n')


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT")
    parser.add_argument("--count", type=int, default=100, help="cases per task")
    parser.add_argument("--show", type=int, default=0, help="wrong answers to show per task")
    parser.add_argument("--sample", type=Path, metavar="FILE", help="write cases for the tests")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.sample:
        write_sample(options.sample, 20)
    start = time.perf_counter()
    with gptoss.load(options.checkpoint, threads=options.threads, context_length=2048) as llm:
        table = evaluate(llm, options.count, options.show)
    print(json.dumps({**table, "seconds": round(time.perf_counter() - start, 1)}))


if __name__ == "__main__":
    main()
