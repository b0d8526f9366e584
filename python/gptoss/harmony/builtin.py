"""The tool namespaces that gpt-oss was trained with, in the words it was trained on.

Each is the dictionary form of a `ToolNamespaceConfig`.
"""

from __future__ import annotations

from typing import Any

_STRING = {"type": "string"}
_LATEST = {"type": "number", "default": -1}

BROWSER: dict[str, Any] = {
    "name": "browser",
    "description": (
        "Tool for browsing.\n"
        "The `cursor` appears in brackets before each browsing display: `[{cursor}]`.\n"
        "Cite information from the tool using the following format:\n"
        "`【{cursor}†L{line_start}(-L{line_end})?】`, for example: `【6†L9-L11】` or `【8†L3】`.\n"
        "Do not quote more than 10 words directly from the tool output.\n"
        "sources=web (default: web)"
    ),
    "tools": [
        {
            "name": "search",
            "description": (
                "Searches for information related to `query` and displays `topn` results."
            ),
            "parameters": {
                "type": "object",
                "properties": {
                    "query": _STRING,
                    "topn": {"type": "number", "default": 10},
                    "source": _STRING,
                },
                "required": ["query"],
            },
        },
        {
            "name": "open",
            "description": (
                "Opens the link `id` from the page indicated by `cursor` starting at line number "
                "`loc`, showing `num_lines` lines.\n"
                "Valid link ids are displayed with the formatting: `【{id}†.*】`.\n"
                "If `cursor` is not provided, the most recent page is implied.\n"
                "If `id` is a string, it is treated as a fully qualified URL associated with "
                "`source`.\n"
                "If `loc` is not provided, the viewport will be positioned at the beginning of "
                "the document or centered on the most relevant passage, if available.\n"
                "Use this function without `id` to scroll to a new location of an opened page."
            ),
            "parameters": {
                "type": "object",
                "properties": {
                    "id": {"type": ["number", "string"], "default": -1},
                    "cursor": _LATEST,
                    "loc": _LATEST,
                    "num_lines": _LATEST,
                    "view_source": {"type": "boolean", "default": False},
                    "source": _STRING,
                },
            },
        },
        {
            "name": "find",
            "description": (
                "Finds exact matches of `pattern` in the current page, or the page given by "
                "`cursor`."
            ),
            "parameters": {
                "type": "object",
                "properties": {"pattern": _STRING, "cursor": _LATEST},
                "required": ["pattern"],
            },
        },
    ],
}

PYTHON: dict[str, Any] = {
    "name": "python",
    "description": (
        "Use this tool to execute Python code in your chain of thought. The code will not be "
        "shown to the user. This tool should be used for internal reasoning, but not for code "
        "that is intended to be visible to the user (e.g. when creating plots, tables, or "
        "files).\n\n"
        "When you send a message containing Python code to python, it will be executed in a "
        "stateful Jupyter notebook environment. python will respond with the output of the "
        "execution or time out after 120.0 seconds. The drive at '/mnt/data' can be used to "
        "save and persist user files. Internet access for this session is UNKNOWN. Depends on "
        "the cluster."
    ),
    "tools": [],
}
