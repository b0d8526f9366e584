"""Write the tables of docs/server.md from the tables of fields that the server checks with.

python tools/make_server_docs.py            write them
python tools/make_server_docs.py --check    exit 1 if they are not what would be written
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from gptoss.server.openapi import POSTS

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "server.md"

_ELSEWHERE = ("/v1/responses", "/v1/messages", "/v1/messages/count_tokens")  # pages of their own
_SECTION = re.compile(r"(<!-- fields of (\S+) -->\n).*?(<!-- end of fields -->\n)", re.DOTALL)


def document(text: str) -> str:
    """The text with its tables as they should be.

    Raises
    ------
    ValueError
        A path has no section, or a section no path.
    """
    seen: list[str] = []

    def section(match: re.Match[str]) -> str:
        path = match[2]
        if path not in POSTS:
            raise ValueError(f"{DOCUMENT}: the server takes nothing at {path}")
        seen.append(path)
        return f"{match[1]}{POSTS[path][0].markdown()}{match[3]}"

    made = _SECTION.sub(section, text)
    missing = [path for path in POSTS if path not in (*seen, *_ELSEWHERE)]
    if missing:
        raise ValueError(f"{DOCUMENT}: there is no <!-- fields of {missing[0]} -->")
    return made


def main() -> int:
    """Write the tables, or check them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true")
    text = DOCUMENT.read_text(encoding="utf-8")
    made = document(text)
    if not parser.parse_args().check:
        DOCUMENT.write_text(made, encoding="utf-8")
        return 0
    if made == text:
        return 0
    print(f"{DOCUMENT} is stale: python tools/make_server_docs.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
