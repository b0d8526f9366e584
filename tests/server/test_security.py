"""Who may ask: keys, hosts, origins; what the command line makes of its options."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptoss.cli import main, make_parser
from gptoss.cli.serve import settings_of
from gptoss.server import ServerSettings
from gptoss.server.middleware import host_name
from support.asgi import ask, post

MODELS = "/v1/models"


class TestKeys:
    @pytest.fixture
    def locked(self, make: Callable[..., Any]) -> Any:
        return make(api_keys=("first-key", "second-key"))

    @pytest.mark.parametrize(
        "header", ["Bearer first-key", "bearer second-key", "Bearer  first-key"]
    )
    def test_a_known_one(self, locked: Any, header: str) -> None:
        assert ask(locked, "GET", MODELS, headers={"authorization": header}).status == 200

    def test_where_anthropics_clients_have_it(self, locked: Any) -> None:
        assert ask(locked, "GET", MODELS, headers={"x-api-key": "first-key"}).status == 200
        assert ask(locked, "GET", MODELS, headers={"x-api-key": "first"}).status == 401
        both = {"x-api-key": "first-key", "authorization": "Bearer first"}
        assert ask(locked, "GET", MODELS, headers=both).status == 401

    @pytest.mark.parametrize(
        "header",
        [
            None,
            "",
            "Bearer",
            "Bearer ",
            "Bearer first",
            "Bearer first-key2",
            "Bearer \xe9",
            "Basic first-key",
            "first-key",
        ],
    )
    @pytest.mark.parametrize("path", [MODELS, "/metrics", "/openapi.json", "/nothing", "/v1/x"])
    def test_none_or_another(
        self, locked: Any, header: str | None, path: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.DEBUG):
            headers = {} if header is None else {"authorization": header}
            reply = ask(locked, "GET", path, headers=headers)
        assert (reply.status, reply.error["code"]) == (401, "invalid_api_key")
        assert reply.headers["www-authenticate"] == "Bearer"
        assert "first-key" not in reply.error["message"] + caplog.text

    def test_before_the_body_is_looked_at(self, locked: Any) -> None:
        assert post(locked, "/v1/chat/completions", b"{").status == 401

    @pytest.mark.parametrize("path", ["/health", "/health/live"])
    def test_health_needs_none(self, locked: Any, path: str) -> None:
        assert ask(locked, "GET", path).status == 200

    def test_they_are_not_shown(self) -> None:
        assert "secret" not in repr(ServerSettings(api_keys=("secret",)))

    @pytest.mark.parametrize("key", ["", "a b", "é", "a\n"])
    def test_what_cannot_be_one(self, key: str) -> None:
        with pytest.raises(ValueError, match="key"):
            ServerSettings(api_keys=(key,))


class TestHosts:
    @pytest.mark.parametrize(
        ("host", "status"),
        [
            ("localhost", 200),
            ("localhost:8000", 200),
            ("LOCALHOST:1", 200),
            ("127.0.0.1:8000", 200),
            ("[::1]:8000", 200),
            ("evil.example", 403),
            ("evil.example:8000", 403),
            ("localhost.evil.example", 403),
            ("127.0.0.1.evil.example", 403),
            ("user@localhost", 200),
            ("", 403),
            ("[", 403),
        ],
    )
    def test_rebinding(self, make: Callable[..., Any], host: str, status: int) -> None:
        app = make(allowed_hosts=("localhost", "127.0.0.1", "::1"))
        reply = ask(app, "GET", MODELS, headers={"host": host})
        assert reply.status == status
        if status == 403:
            assert reply.error["code"] == "host_not_allowed"
            assert "--allowed-host" in reply.error["message"]
        assert ask(app, "GET", "/health", headers={"host": host}).status == 200

    def test_any(self, make: Callable[..., Any]) -> None:
        for allowed in (None, ("*",)):
            app = make(allowed_hosts=allowed)
            assert ask(app, "GET", MODELS, headers={"host": "x.example"}).status == 200

    def test_names(self) -> None:
        assert host_name("A.example:80") == "a.example"
        assert host_name("[::1]:80") == "::1"


class TestOrigins:
    def test_pages_from_elsewhere(self, demo: Any) -> None:
        """A browser sends what a page asks for, even if the page may not read the answer."""
        for origin in ("https://evil.example", "null", "http://testserver.evil.example", "x"):
            reply = post(demo, "/tokenize", {"prompt": "a"}, headers={"origin": origin})
            assert (reply.status, reply.error["code"]) == (403, "origin_not_allowed")
            assert "access-control-allow-origin" not in reply.headers

    @pytest.mark.parametrize("origin", ["http://testserver", "https://TESTSERVER"])
    def test_its_own_page(self, demo: Any, origin: str) -> None:
        reply = post(demo, "/tokenize", {"prompt": "a"}, headers={"origin": origin})
        assert reply.status == 200
        assert "access-control-allow-origin" not in reply.headers

    def test_listed_ones(self, make: Callable[..., Any]) -> None:
        app = make(cors_origins=("https://chat.example",))
        reply = post(app, "/tokenize", {"prompt": "a"}, headers={"origin": "https://chat.example"})
        assert reply.status == 200
        assert reply.headers["access-control-allow-origin"] == "https://chat.example"
        wrong = post(app, "/tokenize", {"prompt": "a"}, headers={"origin": "https://b.example"})
        assert wrong.status == 403
        assert "access-control-allow-origin" not in wrong.headers

    def test_errors_can_be_read_by_listed_ones(self, make: Callable[..., Any]) -> None:
        app = make(cors_origins=("https://chat.example",), api_keys=("k",))
        reply = ask(app, "GET", MODELS, headers={"origin": "https://chat.example"})
        assert reply.status == 401
        assert reply.headers["access-control-allow-origin"] == "https://chat.example"

    def test_all(self, make: Callable[..., Any]) -> None:
        app = make(cors_origins=("*",))
        reply = ask(app, "GET", MODELS, headers={"origin": "https://any.example"})
        assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, "*")

    @pytest.mark.parametrize("keys", [(), ("k",)])
    def test_preflight(self, make: Callable[..., Any], keys: tuple[str, ...]) -> None:
        app = make(cors_origins=("https://chat.example",), api_keys=keys)

        def preflight(origin: str) -> Any:
            headers = {
                "origin": origin,
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization, content-type",
            }
            return ask(app, "OPTIONS", "/v1/chat/completions", headers=headers)

        good = preflight("https://chat.example")
        assert good.status == 200
        assert good.headers["access-control-allow-origin"] == "https://chat.example"
        assert "POST" in good.headers["access-control-allow-methods"]
        assert "authorization" in good.headers["access-control-allow-headers"]
        bad = preflight("https://evil.example")
        assert bad.status == 400
        assert "access-control-allow-origin" not in bad.headers

    def test_no_preflight_without_origins(self, demo: Any) -> None:
        headers = {"access-control-request-method": "POST", "origin": "http://testserver"}
        reply = ask(demo, "OPTIONS", "/v1/chat/completions", headers=headers)
        assert reply.status == 405

    def test_with_a_key_the_key_decides(self, make: Callable[..., Any]) -> None:
        app = make(api_keys=("k",))
        headers = {"origin": "https://other.example", "authorization": "Bearer k"}
        reply = ask(app, "GET", MODELS, headers=headers)
        assert reply.status == 200
        assert "access-control-allow-origin" not in reply.headers


def settings(*arguments: str) -> ServerSettings:
    return settings_of(make_parser().parse_args(["serve", "demo", *arguments]))


class TestOptions:
    @pytest.fixture(autouse=True)
    def no_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("GPTOSS_API_KEY", raising=False)

    def test_the_defaults_let_this_machine_in_alone(self) -> None:
        found = settings()
        assert found.api_keys == ()
        assert found.allowed_hosts is not None
        assert set(found.allowed_hosts) == {"localhost", "127.0.0.1", "::1"}
        assert found.cors_origins == ()
        assert (found.max_waiting, found.timeout_s, found.reasoning) == (256, None, "show")
        assert found.store_path is None
        assert settings("--store", "kept").store_path == Path("kept")

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "server.example"])
    def test_elsewhere_a_key_is_needed(
        self, host: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert main(["serve", "demo", "--host", host]) == 2
        assert "--no-auth" in capsys.readouterr().err
        assert settings("--host", host, "--api-key", "k").api_keys == ("k",)
        assert settings("--host", host, "--api-key", "k").allowed_hosts is None
        assert capsys.readouterr().err == ""
        assert settings("--host", host, "--no-auth").api_keys == ()
        assert "warning: whoever can reach" in capsys.readouterr().err
        monkeypatch.setenv("GPTOSS_API_KEY", "from-variable")
        assert settings("--host", host).api_keys == ("from-variable",)

    def test_keys_from_everywhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GPTOSS_API_KEY", "c")
        file = tmp_path / "keys"
        file.write_text("# of the team\nd\n\n e # mine\na\n")
        found = settings("--api-key", "a", "--api-key", "b", "--api-key-file", str(file))
        assert found.api_keys == ("a", "b", "c", "d", "e")

    def test_a_file_without_a_key(self, tmp_path: Path) -> None:
        file = tmp_path / "keys"
        file.write_text("# none\n")
        with pytest.raises(ValueError, match="has no key in it"):
            settings("--api-key-file", str(file))
        assert main(["serve", "demo", "--api-key-file", str(tmp_path / "nothing")]) == 2

    def test_a_key_and_none(self) -> None:
        with pytest.raises(ValueError, match="does not go with a key"):
            settings("--no-auth", "--api-key", "a")

    def test_the_others(self) -> None:
        found = settings(
            *("--served-model-name", "a", "--served-model-name", "b", "--max-waiting", "3"),
            *("--timeout", "5.5", "--cors-origin", "https://a.example", "--root-path", "/llm"),
            *("--allowed-host", "me.example", "--reasoning", "hide", "--stream-interval", "4"),
        )
        assert found.served_model_names == ("a", "b")
        assert (found.max_waiting, found.timeout_s, found.stream_interval) == (3, 5.5, 4)
        assert (found.cors_origins, found.root_path) == (("https://a.example",), "/llm")
        assert found.reasoning == "hide"
        assert found.allowed_hosts is not None
        assert "me.example" in found.allowed_hosts

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--max-waiting", "-1"], "max_waiting must be at least 0"),
            (["--timeout", "0"], "timeout_s must be a positive number"),
            (["--timeout", "nan"], "timeout_s must be a positive number"),
            (["--stream-interval", "0"], "stream_interval must be at least 1"),
            (["--root-path", "llm"], "root_path must begin with a slash"),
            (["--port", "70000"], "the port must be from 0 to 65535, got 70000"),
            (["--host", "999.1.1.1", "--no-auth"], "cannot listen at 999.1.1.1"),
        ],
    )
    def test_wrong_ones(
        self, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["serve", "demo", *arguments]) == 2
        assert message in capsys.readouterr().err
