"""Many questions from a JSONL file, answered together; a run that was stopped goes on.

    python examples/batch_jsonl.py demo questions.jsonl answers.jsonl
    python examples/batch_jsonl.py openai/gpt-oss-20b reviews.jsonl sentiments.jsonl \
        --developer "Is this review positive, negative or mixed? One word."

Each line of the input is an object with an "id" and a "question"; whatever else it holds is copied
to its line of the output. Lines are written as they are finished, so their order is another one.
For files in the form of OpenAI's batch API there is `gptoss batch`, which keeps the order.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import gptoss

IN_FLIGHT = 32  # the engine runs 16 at a time; as many wait, so that it never does


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file, checked."""
    rows = []
    seen = set()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        row = json.loads(line)
        if not isinstance(row, dict) or "id" not in row or not isinstance(row.get("question"), str):
            raise SystemExit(f'{path}:{number}: expected {{"id": …, "question": "…"}}, got {line}')
        if row["id"] in seen:
            raise SystemExit(f"{path}:{number}: the id {row['id']!r} occurs twice")
        seen.add(row["id"])
        rows.append(row)
    return rows


def finished_ids(path: Path) -> set[Any]:
    """The ids of an earlier run's output; what it was writing when it stopped is removed."""
    if not path.exists():
        return set()
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return {json.loads(line)["id"] for line in whole.splitlines()}


async def answer_all(
    llm: gptoss.LLM, rows: list[dict[str, Any]], out: Path, **options: Any
) -> None:
    """Answer rows, IN_FLIGHT at a time, and append each answer to a file."""
    places = asyncio.Semaphore(IN_FLIGHT)
    done = 0
    with out.open("a", encoding="utf-8") as file:

        async def one(row: dict[str, Any]) -> None:
            nonlocal done
            async with places:
                try:
                    result = await llm.achat(row["question"], **options)
                    answered = {"answer": result.text, "finish_reason": result.finish_reason}
                except ValueError as error:  # a question longer than the context, for one
                    answered = {"error": str(error)}
            file.write(json.dumps({**row, **answered}, ensure_ascii=False) + "\n")
            file.flush()
            done += 1
            print(f"\r{done}/{len(rows)}", end="", file=sys.stderr, flush=True)

        await asyncio.gather(*map(one, rows))
    print(file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help='"demo", a Hub id or a folder')
    parser.add_argument("questions", type=Path, help="the JSONL file to read")
    parser.add_argument("answers", type=Path, help="the JSONL file to write, or to go on with")
    parser.add_argument("--developer", help="instructions that hold for every question")
    parser.add_argument("--effort", choices=("low", "medium", "high"), default="low")
    parser.add_argument("--max-tokens", type=int, default=1000)
    args = parser.parse_args()

    finished = finished_ids(args.answers)
    rows = [row for row in read_rows(args.questions) if row["id"] not in finished]
    print(f"{len(rows)} to answer, {len(finished)} answered before", file=sys.stderr)
    with gptoss.load(args.model) as llm:
        work = answer_all(
            llm,
            rows,
            args.answers,
            developer=args.developer,
            reasoning_effort=args.effort,
            temperature=0,
            max_tokens=args.max_tokens,
        )
        asyncio.run(work)


if __name__ == "__main__":
    main()
