"""Models, health, metrics, tokens, and the OpenAPI document."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
from openai.types import Model
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.routing import Mount

import gptoss
from gptoss.server import ServerSettings
from gptoss.server.app import make_app, make_service
from gptoss.server.service import _short_name
from support.asgi import ask, post

USER = [{"role": "user", "content": "What is 17 + 25?"}]


class TestModels:
    def test_the_list(self, demo: Any) -> None:
        found = ask(demo, "GET", "/v1/models").json
        assert found["object"] == "list"
        (model,) = found["data"]
        Model.model_validate(model, strict=True)
        assert (model["id"], model["max_model_len"]) == ("demo", 4096)
        assert ask(demo, "GET", "/v1/models/demo").json == model

    def test_other_names(self, make: Callable[..., Any]) -> None:
        app = make(served_model_names=("openai/gpt-oss-20b", "gpt-4o"))
        names = [model["id"] for model in ask(app, "GET", "/v1/models").json["data"]]
        assert names == ["openai/gpt-oss-20b", "gpt-4o"]
        assert ask(app, "GET", "/v1/models/openai/gpt-oss-20b").json["id"] == names[0]
        assert ask(app, "GET", "/v1/models/demo").status == 404
        body = {"messages": USER, "model": "gpt-4o", "max_tokens": 1}
        assert post(app, "/v1/chat/completions", body).json["model"] == names[0]

    @pytest.mark.parametrize(
        ("name", "short"),
        [
            ("demo", "demo"),
            ("openai/gpt-oss-20b", "openai/gpt-oss-20b"),
            ("/home/me/models/gpt-oss", "gpt-oss"),
            ("../gpt-oss", "gpt-oss"),
            ("a/b/c", "c"),
        ],
    )
    def test_where_it_lies_is_not_told(self, name: str, short: str) -> None:
        assert _short_name(name) == short


class TestHealth:
    def test_while_it_loads(self, llm: gptoss.LLM) -> None:
        service = make_service(ServerSettings(), "/models/demo")
        app = make_app(service)
        loading = ask(app, "GET", "/health")
        assert (loading.status, loading.json) == (503, {"status": "loading"})
        assert ask(app, "GET", "/health/live").status == 200
        assert ask(app, "GET", "/v1/models").json["data"][0]["id"] == "demo"
        posts = {
            "/v1/chat/completions": {"messages": USER},
            "/v1/completions": {"prompt": "a"},
            "/tokenize": {"prompt": "a"},
            "/detokenize": {"tokens": [1]},
        }
        for path, body in posts.items():
            reply = post(app, path, body)
            assert (reply.status, reply.error["code"]) == (503, "model_loading")
            assert reply.headers["retry-after"] == "1"
        assert ask(app, "GET", "/metrics").status == 503
        service.set_model(llm)
        assert ask(app, "GET", "/health").json == {"status": "ok"}
        assert post(app, "/tokenize", {"prompt": "a"}).status == 200


class TestMetrics:
    def test_counters(self, make: Callable[..., Any], llm: gptoss.LLM) -> None:
        app = make()
        body = {"messages": USER, "max_tokens": 5, "temperature": 0}
        post(app, "/v1/chat/completions", body)
        post(app, "/v1/chat/completions", {**body, "stream": True})
        post(app, "/v1/completions", {"prompt": "a", "max_tokens": 3, "ignore_eos": True})
        post(app, "/v1/completions", {})
        values = self.read(app)
        assert values["gptoss:request_success_total", "length"] == 3
        assert values["gptoss:time_to_first_token_seconds_count", ""] == 3
        # Markup is not seen, and the completion came at once, in its result.
        assert 1 <= values["gptoss:inter_token_latency_seconds_count", ""] <= 8
        assert values["gptoss:request_generation_tokens_sum", ""] == 13
        assert values["gptoss:http_requests_total", "/v1/completions 400"] == 1
        assert values["gptoss:http_requests_total", "/v1/chat/completions 200"] == 2
        stats = llm.stats()
        assert values["gptoss:generation_tokens_total", ""] == stats.generated_tokens
        assert values["gptoss:prefix_cache_hits_total", ""] == stats.cached_tokens
        assert values["gptoss:num_requests_running", ""] == 0
        assert values["gptoss:num_requests_waiting", ""] == 0
        assert 0 <= values["gptoss:kv_cache_usage_perc", ""] <= 1

    @staticmethod
    def read(app: Any) -> dict[tuple[str, str], float]:
        reply = ask(app, "GET", "/metrics")
        assert reply.headers["content-type"].startswith("text/plain")
        found = {}
        for family in text_string_to_metric_families(reply.body.decode()):
            for name, labels, value, *_ in family.samples:
                if "handler" in labels:
                    kind = f"{labels['handler']} {labels['status']}"
                else:
                    assert labels["model_name"] == "demo"
                    kind = labels.get("finished_reason", "")
                if "le" not in labels:
                    found[name, kind] = value
        return found


class TestTokens:
    def test_text(self, demo: Any, llm: gptoss.LLM) -> None:
        text = "Hello wörld <|start|>"
        found = post(demo, "/tokenize", {"prompt": text, "return_token_strs": True}).json
        assert found["tokens"] == llm.tokenizer.encode(text)
        assert found["count"] == len(found["tokens"]) == len(found["token_strs"])
        assert found["max_model_len"] == 4096
        back = post(demo, "/detokenize", {"tokens": found["tokens"]}).json
        assert back == {"prompt": text}
        special = post(demo, "/tokenize", {"prompt": "<|start|>", "allow_special_tokens": True})
        assert special.json["count"] == 1

    def test_a_conversation(self, demo: Any) -> None:
        found = post(demo, "/tokenize", {"messages": USER, "reasoning_effort": "high"}).json
        body = {"messages": USER, "reasoning_effort": "high", "max_tokens": 1}
        usage = post(demo, "/v1/chat/completions", body).json["usage"]
        assert found["count"] == usage["prompt_tokens"]

    @pytest.mark.parametrize(
        ("path", "body", "param"),
        [
            ("/tokenize", {}, "prompt"),
            ("/tokenize", {"prompt": "a", "messages": USER}, "prompt"),
            ("/tokenize", {"messages": [{"role": "x"}]}, "messages[0]"),
            ("/detokenize", {}, "tokens"),
            ("/detokenize", {"tokens": [10**7]}, "tokens[0]"),
            ("/detokenize", {"tokens": ["a"]}, "tokens[0]"),
        ],
    )
    def test_errors(self, demo: Any, path: str, body: Any, param: str) -> None:
        reply = post(demo, path, body)
        assert (reply.status, reply.error["param"]) == (400, param)


class TestOpenApi:
    def test_it_names_what_there_is(self, demo: Any) -> None:
        found = ask(demo, "GET", "/openapi.json").json
        routes = {
            (re.sub(r":path\}", "}", route.path), method.lower())
            for route in demo.routes
            for method in route.methods
            if method != "HEAD" and route.path != "/openapi.json" and route.include_in_schema
        }
        documented = {(path, method) for path, ops in found["paths"].items() for method in ops}
        assert documented == routes

    def test_its_schemas_are_schemas(self, demo: Any) -> None:
        jsonschema = pytest.importorskip("jsonschema")
        found = ask(demo, "GET", "/openapi.json").json
        chat = found["paths"]["/v1/chat/completions"]["post"]["requestBody"]
        schema = chat["content"]["application/json"]["schema"]
        jsonschema.Draft202012Validator.check_schema(schema)
        valid = {"messages": USER, "temperature": None, "stop": ["a"], "user": "x", "other": 1}
        jsonschema.validate(valid, schema)
        for wrong in ({}, {"messages": USER, "temperature": "x"}, {"messages": USER, "audio": {}}):
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(wrong, schema)


class TestAccessLine:
    def test_one_line_for_each_request(self, demo: Any, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO, "gptoss.server.access"):
            reply = post(
                demo,
                "/v1/chat/completions",
                {"messages": [{"role": "user", "content": "my secret"}], "max_tokens": 3},
                headers={"x-request-id": "abc-1", "authorization": "Bearer my-key"},
            )
            ask(demo, "GET", "/v1/x\n\x1b[31m?secret=1")
        assert reply.headers["x-request-id"] == "abc-1"
        first, second = (record.getMessage() for record in caplog.records)
        assert re.fullmatch(
            r'abc-1 127\.0\.0\.1 "POST /v1/chat/completions" 200 prompt=\d+ cached=\d+ '
            r"generated=3 first=\d+\.\d{3}s total=\d+\.\d{3}s length",
            first,
        )
        assert re.fullmatch(
            r'req_[0-9a-f]{24} 127\.0\.0\.1 "GET /v1/x\\n\\x1b\[31m" 404 total=\S+', second
        )
        assert "secret" not in caplog.text
        assert "my-key" not in caplog.text

    def test_ids_that_could_do_harm_are_replaced(self, demo: Any) -> None:
        for given in ("a b", "x" * 200, "<script>", ""):
            reply = ask(demo, "GET", "/health", headers={"x-request-id": given})
            assert re.fullmatch(r"req_[0-9a-f]{24}", reply.headers["x-request-id"])


class TestEmbedded:
    """The application as a part of another, which tells it neither beginning nor end."""

    def test_mounted(self, make: Callable[..., Any], llm: gptoss.LLM) -> None:
        outer = Starlette(routes=[Mount("/llm", app=make(api_keys=("k",), allowed_hosts=("a",)))])
        assert ask(outer, "GET", "/llm/health").status == 200
        assert ask(outer, "GET", "/llm/v1/models").status == 403
        headers = {"host": "a"}
        assert ask(outer, "GET", "/llm/v1/models", headers=headers).status == 401
        headers["authorization"] = "Bearer k"
        assert ask(outer, "GET", "/llm/v1/models", headers=headers).status == 200
        body = {"messages": USER, "max_tokens": 3, "stream": True}
        reply = post(outer, "/llm/v1/chat/completions", body, headers=headers)
        assert reply.events[-1] == "[DONE]"

    def test_two_on_one_model(self, make: Callable[..., Any]) -> None:
        """Counters and queues are each one's own."""
        first, second = make(), make()
        post(first, "/v1/completions", {"prompt": "a", "max_tokens": 1})
        counted = "gptoss:request_success_total"
        assert any(name == counted for name, _ in TestMetrics.read(first))
        assert not any(name == counted for name, _ in TestMetrics.read(second))
