"""Makes suite.json: the JSON Schema test suite for draft 2020-12, from the sdist of jsonschema.

    pip download --no-deps --no-binary jsonschema jsonschema==4.26.0
    tar xf jsonschema-4.26.0.tar.gz
    python tests/golden/json_schema/make_suite.py jsonschema-4.26.0/json

Each case is a description, a schema, instances that are valid, and instances that are not.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

# Of those that are optional: formats are held here, and regular expressions are.
_OPTIONAL = ("format/*.json", "ecmascript-regex.json", "non-bmp-regex.json", "bignum.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("suite", type=Path)
    suite = parser.parse_args().suite
    folder = suite / "tests" / "draft2020-12"
    paths = [*folder.glob("*.json")]
    for pattern in _OPTIONAL:
        paths += (folder / "optional").glob(pattern)
    found = {}
    for path in sorted(paths):
        name = path.relative_to(folder).with_suffix("").as_posix()
        found[name] = [
            [
                case["description"],
                case["schema"],
                [test["data"] for test in case["tests"] if test["valid"]],
                [test["data"] for test in case["tests"] if not test["valid"]],
            ]
            for case in json.loads(path.read_text())
        ]
    out = Path(__file__).with_name("suite.json")
    lines = [f"{json.dumps(name)}:{_compact(cases)}" for name, cases in found.items()]
    out.write_text("{" + ",\n".join(lines) + "}\n")
    Path(__file__).with_name("LICENSE").write_bytes((suite / "LICENSE").read_bytes())


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


if __name__ == "__main__":
    main()
