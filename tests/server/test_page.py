"""The chat page's files: what is served, with which headers, and where the libraries come from."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, cast

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from gptoss.server import ServerSettings, page
from gptoss.server.app import make_app, make_service

FOLDER = Path(page.__file__).with_name("page")
VENDOR = FOLDER / "vendor"
OWN = sorted(path for path in FOLDER.iterdir() if path.is_file())
LICENCES = {"MIT", "Apache-2.0", "BSD-3-Clause"}


@pytest.fixture(scope="module")
def client() -> TestClient:
    """A client of an application with the page alone."""
    return TestClient(Starlette(routes=list(page.routes(cast("Any", None)))))


@pytest.fixture(scope="module")
def versions() -> list[dict[str, Any]]:
    """What tools/vendor_page.py has written."""
    return cast("list[dict[str, Any]]", json.loads((VENDOR / "versions.json").read_text()))


def assets(client: TestClient) -> str:
    """Below which the page's files are."""
    found = re.search(r'"(page/[0-9a-f]{16}/)app\.js"', client.get("/").text)
    assert found is not None
    return f"/{found[1]}"


class TestServing:
    def test_the_page_itself(self, client: TestClient) -> None:
        answer = client.get("/")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["cache-control"] == "no-cache"
        again = client.get("/", headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")

    def test_every_file_is_served_for_good(self, client: TestClient) -> None:
        base = assets(client)
        served = [path for path in FOLDER.rglob("*") if path.suffix in (".js", ".css", ".woff2")]
        assert len(served) > 30
        for path in served:
            answer = client.get(base + path.relative_to(FOLDER).as_posix())
            assert answer.content == path.read_bytes()
            assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert client.get(base + "app.js").headers["content-type"].startswith("text/javascript")

    @pytest.mark.parametrize("name", ["", "app.js", "nothing"])
    def test_every_answer_has_the_headers(self, client: TestClient, name: str) -> None:
        headers = client.get(assets(client) + name if name else "/").headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'self'; ")
        assert "unsafe" not in policy
        assert "http" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-dns-prefetch-control"] == "off"

    @pytest.mark.parametrize(
        "name",
        [
            *("../page.py", "..%2fpage.py", "%2e%2e/page.py", "/etc/passwd", "index.html", "."),
            *("vendor/versions.json", "vendor/marked.LICENSE", "app.js/", "APP.JS", "vendor"),
        ],
    )
    def test_nothing_else_is_served(self, client: TestClient, name: str) -> None:
        assert client.get(assets(client) + name).status_code == 404

    def test_another_hash_is_nothing(self, client: TestClient) -> None:
        assert client.get("/page/0123456789abcdef/app.js").status_code == 404


class TestFiles:
    def test_no_script_or_style_stands_in_the_page(self) -> None:
        html = (FOLDER / "index.html").read_text()
        assert all(" src=" in tag for tag in re.findall(r"<script[^>]*>", html))
        assert "<style" not in html
        assert re.search(r"\s(on\w+|style)\s*=", html) is None

    def test_what_the_page_names_is_there(self) -> None:
        html = (FOLDER / "index.html").read_text()
        named = re.findall(r'"page/([^"]+)"', html)
        for path in OWN:
            if path.suffix == ".js":
                named += re.findall(r'(?:from|import)\s*\(?"\./([^"]+)"', path.read_text())
        assert {"app.js", "vendor/highlight.min.js", "vendor/katex/katex.min.js"} <= set(named)
        assert [name for name in named if not (FOLDER / name).is_file()] == []

    @pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
    def test_no_file_names_another_host(self, path: Path) -> None:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert re.findall(r"https?://[\w.-]+\w", text) in ([], ["http://192.168"])

    def test_every_icon_and_label_that_is_used_is_there(self) -> None:
        html = (FOLDER / "index.html").read_text()
        ids = re.findall(r'\bid="([^"]+)"', html)
        assert len(ids) == len(set(ids))
        used = re.findall(r'(?:href="#|aria-labelledby=")([^"]+)"', html)
        for path in OWN:
            if path.suffix == ".js":
                text = path.read_text()
                used += re.findall(r'byId\("([^"]+)"\)', text)
                used += [f"icon-{name}" for name in re.findall(r'(?:icon|Button)\("(\w+)"', text)]
        assert len(used) > 50
        assert sorted(set(used) - set(ids)) == []


class TestVendored:
    def test_files_are_those_of_the_packages(self, versions: list[dict[str, Any]]) -> None:
        expected = {name: sum_ for entry in versions for name, sum_ in entry["sha256"].items()}
        found = {
            path.relative_to(VENDOR).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in VENDOR.rglob("*")
            if path.is_file() and path.name != "versions.json"
        }
        assert found == expected

    def test_versions_and_licences(self, versions: list[dict[str, Any]]) -> None:
        assert [entry["package"] for entry in versions] == [
            *("marked", "dompurify", "@highlightjs/cdn-assets", "katex"),
        ]
        for entry in versions:
            assert re.fullmatch(r"\d+\.\d+\.\d+", entry["version"])
            assert entry["licence"] in LICENCES
            assert entry["integrity"].startswith("sha512-")
            assert sum("LICENSE" in name for name in entry["sha256"]) == 1

    def test_they_are_small(self) -> None:
        sizes = {path: path.stat().st_size for path in VENDOR.rglob("*") if path.is_file()}
        assert sum(sizes.values()) < 900_000
        at_start = ("marked.esm.js", "purify.min.js")
        assert sum(sizes[VENDOR / name] for name in at_start) < 100_000
        fonts = {path.suffix for path in (VENDOR / "katex" / "fonts").iterdir()}
        assert fonts == {".woff2"}


class TestInTheServer:
    def test_the_files_need_no_key(self) -> None:
        service = make_service(ServerSettings(api_keys=("secret",)))
        client = TestClient(make_app(service))
        assert client.get("/").status_code == 200
        assert client.get(assets(client) + "app.js").status_code == 200
        assert client.get("/v1/models").status_code == 401

    def test_it_can_be_left_out(self) -> None:
        client = TestClient(make_app(make_service(ServerSettings(page=False))))
        assert client.get("/").status_code == 404

    def test_it_is_below_the_path_of_a_mount(self) -> None:
        client = TestClient(
            Starlette(routes=[Mount("/llm", make_app(make_service(ServerSettings())))])
        )
        found = re.search(r'"(page/[0-9a-f]{16}/app\.js)"', client.get("/llm/").text)
        assert found is not None
        assert client.get(f"/llm/{found[1]}").status_code == 200
