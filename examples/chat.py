"""A chat in the terminal: streamed, with a history on disk and a choice of effort.

    python examples/chat.py demo
    python examples/chat.py openai/gpt-oss-20b --effort high --history talk.json

Type a question. /effort low|medium|high sets how long the model thinks, /reasoning shows what it
thinks, /new forgets the conversation, /quit or Ctrl-D ends. Ctrl-C stops an answer, and the
question is forgotten. `gptoss chat` is the same with more comfort; this file is for taking parts.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import gptoss

EFFORTS = ("low", "medium", "high")
GREY, PLAIN = ("\033[90m", "\033[0m") if sys.stdout.isatty() else ("", "")


def answer(
    llm: gptoss.LLM, messages: list[Any], *, show_reasoning: bool, **options: Any
) -> list[Any]:
    """Print an answer as it is made; return the conversation with it."""
    kind = "text"
    with llm.chat(messages, stream=True, **options) as stream:  # leaving it cancels the request
        for delta in stream:
            if delta.kind not in ("reasoning", "text") or (delta.reasoning and not show_reasoning):
                continue
            if delta.kind != kind:
                print(GREY if delta.kind == "reasoning" else f"{PLAIN}\n", end="")
                kind = delta.kind
            print(delta.reasoning or delta.text, end="", flush=True)
    print(PLAIN)
    assert stream.result is not None  # it is there once the last delta has come
    if stream.result.finish_reason == "length":
        print("[cut: the context is full, or --max-tokens reached]")
    return list(stream.result.messages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help='"demo", a Hub id or a folder')
    parser.add_argument("--effort", choices=EFFORTS, default="medium")
    parser.add_argument("--history", type=Path, help="a JSON file to go on from and to write to")
    parser.add_argument("--system", help="instructions for the whole conversation")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--max-tokens", type=int, help="most tokens of an answer")
    args = parser.parse_args()

    beginning = [{"role": "system", "content": args.system}] if args.system else []
    messages: list[Any] = list(beginning)
    if args.history and args.history.exists():
        messages = json.loads(args.history.read_text(encoding="utf-8"))
    effort, show_reasoning = args.effort, False

    with gptoss.load(args.model) as llm:
        print(f"{llm.name}: {llm.description}")
        while True:
            try:
                text = input("> ").strip()
            except (EOFError, KeyboardInterrupt):
                break
            command, _, value = text.partition(" ")
            if command == "/quit":
                break
            if command == "/new":
                messages = list(beginning)
            elif command == "/reasoning":
                show_reasoning = not show_reasoning
            elif command == "/effort" and value in EFFORTS:
                effort = value
            elif command.startswith("/"):
                print("/effort low|medium|high, /reasoning, /new, /quit")
            elif text:
                try:
                    messages = answer(
                        llm,
                        [*messages, {"role": "user", "content": text}],
                        show_reasoning=show_reasoning,
                        reasoning_effort=effort,
                        temperature=args.temperature,
                        max_tokens=args.max_tokens,
                    )
                except KeyboardInterrupt:
                    print(f"{PLAIN}\n[stopped]")
                except ValueError as error:  # for one, a conversation that outgrows the context
                    print(f"[{error}]")
                if args.history:
                    talk = json.dumps(messages, ensure_ascii=False, indent=1)
                    args.history.write_text(talk, encoding="utf-8")


if __name__ == "__main__":
    main()
