"""Text to fields: an invoice becomes an object of a given shape, a line of JSON for each file.

    pip install '.[structured]'
    python examples/extract.py demo
    python examples/extract.py openai/gpt-oss-20b mail1.txt mail2.txt

`response_format` lets nothing through that does not fit the schema, so what comes back can be read
without checks of its shape. That its values are true is another matter: what does not stand in the
text is named on stderr. The demo fits the shape and understands nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import gptoss

SAMPLE = """\
Hello, please find our invoice 2026-118 below. Six hours of piano tuning, 60 EUR each, make
360 EUR in all, due on 2026-04-30. You paid the last one twice, many thanks.
Kind regards, Mira Lindqvist, Lindqvist Pianos
"""
# Lengths and numbers are bounded, so that an answer always has an end.
INVOICE = {
    "type": "object",
    "properties": {
        "number": {"type": "string", "maxLength": 20, "description": "the invoice's number"},
        "seller": {"type": "string", "maxLength": 60, "description": "the company that sells"},
        "total": {"type": "integer", "minimum": 0, "maximum": 10_000_000},
        "currency": {"type": "string", "enum": ["EUR", "USD", "GBP", "other"]},
        "due": {"type": "string", "format": "date"},
    },
    "required": ["number", "seller", "total", "currency", "due"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "invoice", "schema": INVOICE}}


def extract(llm: gptoss.LLM, text: str, effort: str) -> dict[str, Any]:
    """The fields of a text; RuntimeError if the context ended before the answer did."""
    result = llm.chat(
        text,
        developer="Extract the fields of the invoice in the user's message.",
        response_format=FORMAT,
        reasoning_effort=effort,
        max_reasoning_tokens=500,
        temperature=0,
    )
    if result.finish_reason != "stop":
        raise RuntimeError(f"the answer is not complete: {result.text}")
    fields: dict[str, Any] = json.loads(result.text)
    return fields


def not_in_text(fields: dict[str, Any], text: str) -> list[str]:
    """The names of those fields whose value the text does not have, letter for letter."""
    return [name for name, value in fields.items() if str(value) not in text]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help='"demo", a Hub id or a folder')
    parser.add_argument("files", nargs="*", type=Path, help="text files; without any, a sample")
    parser.add_argument("--effort", choices=("low", "medium", "high"), default="low")
    args = parser.parse_args()

    texts = {path.name: path.read_text(encoding="utf-8") for path in args.files}
    with gptoss.load(args.model) as llm:
        for name, text in (texts or {"the sample": SAMPLE}).items():
            fields = extract(llm, text, args.effort)
            print(json.dumps(fields, ensure_ascii=False))
            for field in not_in_text(fields, text):
                print(f"{name}: {field} is not in the text", file=sys.stderr)


if __name__ == "__main__":
    main()
