"""The site: sphinx-build -W --keep-going -n -c docs . build-site

It is built from the files as they are in the repository, so that the links in them lead where they
lead there. The index's links make the table of contents.
"""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

project = "gptoss"
author = "the authors of gptoss"
copyright = author
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "examples/README.md",
    "examples/finetune/README.md",
    "tools/train_demo/README.md",
]
myst_heading_anchors = 4
smartquotes = False  # "q8" is to be copied
html_theme = "furo"
html_title = "gptoss"
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
# What is no language of pygments.
highlight_language = "text"


def _add_contents(app: Sphinx, document: str, source: list[str]) -> None:
    """Enter the pages that the index links to, section by section, into the table of contents."""
    if document != root_doc:
        return
    sections = source[0].split("\n## ")[1:]
    source[0] += "\n```{toctree}\n:hidden:\n\n../README\n```\n"
    for section in sections:
        title, _, text = section.partition("\n")
        pages = re.findall(r"\]\(([\w./-]+)\.md\)", text)
        entries = "\n".join(f"/docs/{page}" if "/" not in page else page for page in pages)
        source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n{entries}\n```\n"


def _add_front_door(app: Sphinx, error: Exception | None) -> None:
    """Lead from the folder of the site to the index, which is in docs/ as in the repository."""
    if error is None and app.builder.format == "html":
        door = '<meta http-equiv="refresh" content="0; url=docs/index.html">\n'
        (Path(app.outdir) / "index.html").write_text(door, encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _add_contents)
    app.connect("build-finished", _add_front_door)
