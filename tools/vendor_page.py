#!/usr/bin/env python3
"""Fetch the libraries of the chat page from npm's packages, or check that they are what npm has.

    tools/vendor_page.py            replace python/gptoss/server/page/vendor
    tools/vendor_page.py --check    compare it with the packages, byte for byte

Needs `npm` and its registry. A version is changed here, and nothing in that folder by hand; a test
holds the files to the checksums in vendor/versions.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

VENDOR = Path(__file__).resolve().parents[1] / "python" / "gptoss" / "server" / "page" / "vendor"

# npm's package, version, licence, and which of its files become which of ours.
PACKAGES: list[dict[str, Any]] = [
    {
        "package": "marked",
        "version": "18.2.1",
        "licence": "MIT",
        "files": {"lib/marked.esm.js": "marked.esm.js", "LICENSE": "marked.LICENSE"},
    },
    {
        "package": "dompurify",
        "version": "3.5.0",
        "licence": "Apache-2.0",  # or MPL-2.0, as one chooses
        "files": {"dist/purify.min.js": "purify.min.js", "LICENSE": "purify.LICENSE"},
    },
    {
        "package": "@highlightjs/cdn-assets",
        "version": "11.12.0",
        "licence": "BSD-3-Clause",
        "files": {"es/highlight.min.js": "highlight.min.js", "LICENSE": "highlight.LICENSE"},
    },
    {
        "package": "katex",
        "version": "0.19.1",
        "licence": "MIT",
        "files": {
            "dist/katex.min.js": "katex/katex.min.js",
            "dist/katex.min.css": "katex/katex.min.css",
            "dist/fonts/*.woff2": "katex/fonts/*",
            "LICENSE": "katex/LICENSE",
        },
    },
]


def fetch(entry: dict[str, Any], scratch: Path, out: Path) -> dict[str, Any]:
    """Copy a package's files into `out`; returns its part of versions.json."""
    name = f"{entry['package']}@{entry['version']}"
    command = ["npm", "pack", "--json", "--ignore-scripts", "--pack-destination", scratch, name]
    packed = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    (about,) = packed if isinstance(packed, list) else packed.values()
    archive = scratch / about["filename"]
    sums = {}
    with tarfile.open(archive) as tar:
        for member in sorted(tar.getmembers(), key=lambda member: member.name):
            path = member.name.partition("/")[2]
            for pattern, target in entry["files"].items():
                if not (member.isfile() and fnmatch(path, pattern)):
                    continue
                place = target.replace("*", Path(path).name)
                source = tar.extractfile(member)
                assert source is not None
                content = source.read()
                (out / place).parent.mkdir(parents=True, exist_ok=True)
                (out / place).write_bytes(content)
                sums[place] = hashlib.sha256(content).hexdigest()
    keys = ("package", "version", "licence")
    return {**{key: entry[key] for key in keys}, "integrity": about["integrity"], "sha256": sums}


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def main() -> int:
    """Fetch or check; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail on a difference")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "vendor"
        out.mkdir()
        versions = [fetch(entry, Path(folder), out) for entry in PACKAGES]
        (out / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")
        if not check:
            shutil.rmtree(VENDOR, ignore_errors=True)
            shutil.copytree(out, VENDOR)
            return 0
        here, there = contents(VENDOR), contents(out)
    differing = sorted(name for name in here | there if here.get(name) != there.get(name))
    for name in differing:
        print(f"differs from npm's: {name}", file=sys.stderr)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
