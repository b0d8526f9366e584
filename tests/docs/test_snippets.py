"""Every example of the README and of docs/ runs on the demo, and prints what stands there."""

from __future__ import annotations

import difflib
import importlib.util
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _script() -> ModuleType:
    path = ROOT / "tools" / "update_snippets.py"
    spec = importlib.util.spec_from_file_location("update_snippets", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = script  # for its dataclass
    spec.loader.exec_module(script)
    return script


snippets = _script()

# What does not run here, and why: page, reason, how often. A new one is a line of this table.
NOT_RUN = {
    ("CONTRIBUTING.md", "compiles the package"): 2,
    ("docs/adapters.md", "there is no such adapter"): 2,
    ("docs/checkpoints.md", "downloads 14 GB"): 1,
    ("docs/cuda.md", "needs GPUs"): 1,
    ("docs/cuda.md", "asks the Hub for config.json"): 1,
    ("docs/cuda.md", "compiles the package"): 1,
    ("docs/cuda.md", "compiles the kernels, and the package for three systems"): 1,
    ("docs/cuda.md", "needs a GPU"): 3,
    ("docs/cuda.md", "needs nvcc and the emulator's build"): 1,
    ("docs/emulator.md", "needs the emulator's build; tests/emulator runs its like"): 2,
    ("docs/evaluation.md", "downloads a model and data sets"): 2,
    ("docs/gguf.md", "the file is 12 GB"): 1,
    ("docs/install.md", "is the README's set-up command, in parts"): 1,
    ("docs/install.md", "needs a wheel"): 1,
    ("docs/memory.md", "takes 14 GB and the right to make control groups"): 1,
    ("docs/quickstart.md", "is the README's set-up command"): 1,
    ("docs/quickstart.md", "asks the Hub for sizes"): 1,
    ("docs/speed.md", "takes 14 GB and an hour"): 1,
    ("docs/speed.md", "takes 8 GB and an instruction set that not every machine has"): 1,
    ("docs/speed.md", "takes 8 GB"): 2,
    ("docs/speed.md", "takes 20 GB and half an hour"): 1,
    ("docs/speed.md", "takes 10 GB and two hours"): 1,
    ("docs/speed.md", "takes 3 GB"): 1,
}
NOT_SHOWN = {
    ("docs/coming-from.md", "continues a text, which the demo cannot"): 2,
    ("docs/engine.md", "continues a text, which the demo cannot"): 1,
    ("docs/python-api.md", "made from a docstring"): 4,
}


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", snippets.pages(), ids=_name)
def test_it_prints_what_is_shown(page: Path) -> None:
    old = page.read_text(encoding="utf-8")
    new = snippets.refreshed(page)
    changes = difflib.unified_diff(
        old.splitlines(), new.splitlines(), "shown", "printed", lineterm=""
    )
    assert new == old, "\n".join(
        [f"stale: python tools/update_snippets.py {_name(page)}", *changes]
    )


@pytest.mark.parametrize(("mark", "expected"), [("not run", NOT_RUN), ("not shown", NOT_SHOWN)])
def test_what_is_left_out_is_counted(mark: str, expected: dict[tuple[str, str], int]) -> None:
    found = Counter(
        (_name(page), block.value)
        for page in snippets.pages()
        for block in snippets.blocks(page.read_text(encoding="utf-8"))
        if block.mark == mark
    )
    for (page, reason), count in sorted(found.items()):
        print(f"{mark}: {page}, {count}: {reason}")
    assert found == expected


def test_what_others_run_is_the_set_up() -> None:
    found = {
        (_name(page), block.mark, block.value)
        for page in snippets.pages()
        for block in snippets.blocks(page.read_text(encoding="utf-8"))
        if block.mark in ("run", "test", "offline")
    }
    assert found == {
        ("README.md", "run", ""),
        ("README.md", "test", ""),
        ("docs/offline.md", "offline", "fetch"),
        ("docs/offline.md", "offline", "install"),
    }


def test_each_program_has_both_sides() -> None:
    text = (ROOT / "docs" / "coming-from.md").read_text()
    for section in text.split("\n## ")[1:]:
        kinds = [block.kind for block in snippets.blocks(section)]
        assert [kind for kind in kinds if kind != "output"] == ["python theirs", "python"]


def refreshed(folder: Path, text: str) -> str:
    page = folder / "page.md"
    page.write_text(text)
    return str(snippets.refreshed(page))


def test_outputs_are_written(tmp_path: Path) -> None:
    text = """\
<!-- setup:
number = 6
-->
```python
import gptoss
print(number * 7)
```

<!-- file: tools.py -->
```python
def double(number: int) -> int:
    return 2 * number
```

```python
from tools import double
async def later(): return double(4)
print(await later())
```

```output
9
```

```console
$ gptoss info openai/gpt-oss-20b > /dev/null
$ echo "one
> two" && echo three >&2
```
"""
    new = refreshed(tmp_path, text)
    assert "```\n\n```output\n42\n```\n\n<!-- file" in new
    assert "```\n\n```output\n8\n```\n\n```console" in new
    assert '/dev/null\n$ echo "one\n> two" && echo three >&2\none\ntwo\nthree\n```\n' in new
    assert refreshed(tmp_path, new) == new


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("```output\n1\n```\n", "output without Python above it"),
        ("```\nls\n```\n", "neither run nor marked"),
        ("```sh\nls\n```\n", "neither run nor marked"),
        ("<!-- not run -->\n```sh\nls\n```\n", "without a reason"),
        ("<!-- not run: no -->\nSo it is.\n```sh\nls\n```\n", "above no block"),
    ],
)
def test_what_is_marked_badly_is_an_error(text: str, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        snippets.blocks(text)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("```sh\nls\n```\n", "page.md: line 1: 'sh' is neither run"),
        ("```python\n1 / 0\n```\n", "page.md: line 1: ZeroDivisionError"),
        ("```python\n1\n```\n\n```output\n1\n```\n", "prints nothing"),
        ("```python theirs\nfrom\n```\n", "line 1: SyntaxError"),
        ("```console\n$ false\n```\n", "'false' ends with 1"),
        ("```console\nfalse\n```\n", "begins with a command"),
        ("```python\nimport socket as s\ns.create_connection(('192.0.2.1', 80))\n```\n", "asked"),
    ],
)
def test_what_does_not_work_is_an_error(text: str, error: str, tmp_path: Path) -> None:
    with pytest.raises(snippets.SnippetError, match=error):
        refreshed(tmp_path, text)
