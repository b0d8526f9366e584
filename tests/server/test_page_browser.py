"""The chat page in a browser: Debian's Chromium, driven through selenium."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support import browser, stand_in
from support.stand_in import BREAK, StandIn, Step, call, reasoning, text

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

pytestmark = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing() or "never")

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 20.0


class Page:
    """The page in a browser, and what a person does there."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        self.driver.get(url)
        self.until("document.body.classList.contains('ready')")

    def reload(self) -> None:
        self.driver.refresh()
        self.until("document.body.classList.contains('ready')")

    def run(self, script: str, *arguments: object) -> Any:
        """What a function body returns, a promise awaited."""
        code = (
            f"const done = arguments[arguments.length - 1]; (async () => {{ {script} }})()"
            ".then(value => done({ value }), error => done({ error: String(error) }));"
        )
        answer = self.driver.execute_async_script(code, *arguments)
        assert "error" not in answer, answer
        return answer.get("value")

    def until(self, condition: str, timeout_s: float = WAIT_S) -> None:
        end = time.monotonic() + timeout_s
        while not self.driver.execute_script(f"return Boolean({condition})"):
            assert time.monotonic() < end, f"never: {condition}"
            time.sleep(0.03)

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        found: list[str] = self.driver.execute_script(
            "return [...document.querySelectorAll(arguments[0])]"
            ".map(node => (node.innerText ?? node.textContent).trim())",
            selector,
        )
        return found

    def click(self, selector: str) -> None:
        from selenium.common.exceptions import StaleElementReferenceException

        try:
            self.find(selector).click()
        except StaleElementReferenceException:  # a list has changed between the two
            self.find(selector).click()

    def fill(self, selector: str, value: str) -> None:
        self.find(selector).send_keys("\ue009a\ue000\ue017" + value)  # Control a, Delete

    def keys(self, *keys: str) -> None:
        """Hold all but the last, press the last."""
        from selenium.webdriver import ActionChains

        chain = ActionChains(self.driver)
        for key in keys[:-1]:
            chain.key_down(key)
        chain.send_keys(keys[-1])
        for key in keys[:-1]:
            chain.key_up(key)
        chain.perform()

    def send(self, message: str) -> None:
        self.find("#message").send_keys(message + "\n")

    def until_done(self, timeout_s: float = WAIT_S) -> None:
        self.until(
            "document.getElementById('stop').hidden && !document.querySelector('.running')"
            " && document.querySelector('.message:last-child:not(.user)')",
            timeout_s,
        )

    def say(self, message: str) -> None:
        """Send a message and wait for the answer."""
        self.send(message)
        self.until_done()

    def problems(self) -> list[str]:
        """What the browser's console has complained of since this was last asked."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def driver(downloads: Path) -> Iterator[Chrome]:
    with browser.browser(downloads) as driver:
        driver.set_script_timeout(60)
        yield driver


@pytest.fixture
def server() -> Iterator[StandIn]:
    """A server of this test's own, so that its port, its origin and its storage are, too."""
    with stand_in.running() as server:
        yield server


@pytest.fixture
def page(driver: Chrome, server: StandIn) -> Page:
    driver.get_log("browser")
    browser.requested(driver)
    page = Page(driver)
    page.open(server.url)
    return page


class TestConversation:
    def test_streams_and_shows_what_it_cost(self, server: StandIn, page: Page) -> None:
        begun = threading.Event()

        def answer(_: dict[str, Any]) -> Iterator[Step]:
            yield from reasoning("Think ", "first.")
            yield 0.05
            yield from text("**Bold** and")
            while not begun.is_set():
                yield 0.02
            yield from text(" `code`.")

        server.answer = answer
        page.send("Hello")
        page.until("document.querySelector('.assistant > .markdown .tail strong')")
        assert page.texts(".assistant > .markdown .tail strong") == ["Bold"]
        assert page.find("#stop").is_displayed()
        assert page.texts(".assistant .stats") == [""]
        begun.set()
        page.until_done()
        assert page.texts(".assistant > .markdown") == ["Bold and code."]
        (stats,) = page.texts(".assistant .stats")
        assert stats.startswith("stand-in · 4 tokens · ")
        assert " tokens/s · first after 0." in stats
        assert page.texts(".reasoning summary")[0].startswith("Thought for ")
        assert not page.find(".reasoning .markdown").is_displayed()
        page.click(".reasoning summary")
        assert page.find(".reasoning .markdown").text == "Think first."
        assert page.texts("#status") == ["The answer is complete"]
        assert page.problems() == []

    def test_is_kept_in_the_browser_and_sent_again(self, server: StandIn, page: Page) -> None:
        page.say("First question")
        page.reload()
        page.until("document.querySelectorAll('.message').length == 2")
        assert page.texts(".bubble") == ["First question"]
        page.say("Second")
        assert server.bodies[-1]["messages"] == [
            {"role": "user", "content": "First question"},
            {"role": "assistant", "content": "Hello"},
            {"role": "user", "content": "Second"},
        ]
        assert page.texts("#conversations .name") == ["First question"]

    def test_stop_keeps_what_came_and_frees_the_server(self, server: StandIn, page: Page) -> None:
        def answer(_: dict[str, Any]) -> Iterator[Step]:
            yield from text("So far")
            for _ in range(1000):
                yield 0.02
                yield from text(" on")

        server.answer = answer
        page.send("Tell me")
        page.until(
            "document.querySelector('.assistant > .markdown .tail')?.innerText.includes('on on')"
        )
        page.keys("\ue00c")  # Escape
        page.until_done()
        assert page.texts(".assistant .notice") == ["Stopped."]
        assert page.texts(".assistant > .markdown")[0].startswith("So far on on")
        end = time.monotonic() + WAIT_S
        while not server.left and time.monotonic() < end:
            time.sleep(0.02)
        assert len(server.left) == 1

    def test_goes_on_while_another_is_looked_at(self, server: StandIn, page: Page) -> None:
        leave = threading.Event()

        def answer(body: dict[str, Any]) -> Iterator[Step]:
            yield from text("One ")
            while body["messages"][-1]["content"] == "slow" and not leave.is_set():
                yield 0.02
            yield from text("two")

        server.answer = answer
        page.send("slow")
        page.until("document.querySelector('.assistant > .markdown .tail p')")
        page.click("#new-chat")
        page.say("quick")
        assert page.texts(".assistant > .markdown") == ["One two"]
        page.click("#conversations .item:last-child .open")
        page.until("document.querySelector('.bubble')?.innerText == 'slow'")
        assert page.texts(".running > .markdown") == ["One"]
        leave.set()
        page.until_done()
        assert page.texts(".assistant > .markdown") == ["One two"]

    def test_versions(self, server: StandIn, page: Page) -> None:
        answers = iter("ABCDE")
        server.answer = lambda _: text(next(answers))
        page.say("one")
        page.say("two")
        assert page.texts(".assistant > .markdown") == ["A", "B"]
        # Another answer to the first: the second question is of the other version.
        page.click(".message:nth-child(2) [aria-label='Another answer']")
        page.until_done()
        assert page.texts(".assistant > .markdown") == ["C"]
        assert server.bodies[-1]["messages"] == [{"role": "user", "content": "one"}]
        assert page.texts(".branches span") == ["2/2"]
        page.click("[aria-label='Previous version']")
        page.until("document.querySelectorAll('.message').length == 4")
        assert page.texts(".assistant > .markdown") == ["A", "B"]
        # Edit the second question.
        page.click(".message:nth-child(3) [aria-label='Edit']")
        page.fill(".edit", "two, but better")
        page.find(".edit").send_keys("\n")
        page.until_done()
        assert page.texts(".bubble") == ["one", "two, but better"]
        assert page.texts(".assistant > .markdown") == ["A", "D"]
        assert [m["content"] for m in server.bodies[-1]["messages"]] == [
            "one",
            "A",
            "two, but better",
        ]
        page.reload()
        page.until("document.querySelectorAll('.message').length == 4")
        assert page.texts(".branches span") == ["1/2", "2/2"]
        page.run("document.activeElement.blur()")
        page.keys("[")  # the last message that has versions
        page.until("document.querySelectorAll('.bubble')[1].innerText == 'two'")
        assert page.texts(".assistant > .markdown") == ["A", "B"]

    def test_calls_of_tools(self, server: StandIn, page: Page) -> None:
        def answer(body: dict[str, Any]) -> list[Step]:
            if body["messages"][-1]["role"] == "tool":
                return text("Sunny.")
            return [*reasoning("Look it up."), *call("get_weather", '{"city": ', '"Oslo"}')]

        server.answer = answer
        tool = {"name": "get_weather", "parameters": {"type": "object"}}
        page.click("#open-settings")
        page.run("document.querySelector('[name=tools]').value = arguments[0]", json.dumps([tool]))
        page.click("#settings-dialog .primary")
        page.say("Weather?")
        assert server.bodies[0]["tools"] == [{"type": "function", "function": tool}]
        assert page.texts(".call summary") == ["Calls\nget_weather"]
        assert page.texts(".call pre") == ['{\n  "city": "Oslo"\n}']
        page.fill(".results textarea", '{"sky": "blue"}')
        page.click(".results button")
        page.until("document.querySelectorAll('.message').length == 4")
        page.until_done()
        assert page.texts(".message:last-child > .markdown") == ["Sunny."]
        function = {"name": "get_weather", "arguments": '{"city": "Oslo"}'}
        assert server.bodies[1]["messages"][1:] == [
            {
                "role": "assistant",
                "content": None,
                "reasoning": "Look it up.",
                "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": '{"sky": "blue"}'},
        ]
        assert not page.find(".call pre").is_displayed()
        assert page.texts(".tool summary") == ["Result of\nget_weather"]

    def test_settings_go_with_the_request(self, server: StandIn, page: Page) -> None:
        from selenium.webdriver.support.ui import Select

        page.keys("\ue009", ",")  # Control
        page.fill("[name=system]", "Be brief.")
        page.fill("[name=temperature]", "0.5")
        page.fill("[name=top_k]", "40")
        page.fill("[name=seed]", "7")
        page.click("#settings-dialog .primary")
        Select(page.find("#effort")).select_by_value("high")
        page.say("Hello")
        body = server.bodies[0]
        assert body.pop("messages") == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello"},
        ]
        assert body == {
            **{"model": "stand-in", "temperature": 0.5, "top_k": 40, "seed": 7},
            **{
                "reasoning_effort": "high",
                "stream": True,
                "stream_options": {"include_usage": True},
            },
        }
        page.open(server.url)
        page.click("#open-settings")
        page.fill("[name=tools]", "{}")
        page.click("#settings-dialog .primary")
        assert page.find("#settings-dialog").is_displayed()  # not accepted
        page.fill("[name=tools]", "")
        page.click("#settings-reset")
        page.click("#settings-dialog .primary")
        page.say("Again")
        assert set(server.bodies[1]) - {"messages"} == {
            *("model", "reasoning_effort", "stream", "stream_options"),
        }

    def test_finds_renames_and_deletes(self, server: StandIn, page: Page) -> None:
        server.answer = lambda body: text(f"The answer to {body['messages'][0]['content']}")
        for question in ("zebra", "lion", "tapir"):
            page.click("#new-chat")
            page.say(question)
        page.keys("\ue009", "k")
        page.find("#search").send_keys("TO LION")
        page.until("document.querySelectorAll('#conversations .open').length == 1")
        assert page.texts("#conversations .snippet") == ["The answer to lion"]
        page.click("#conversations .open")
        page.until("document.querySelector('.bubble')?.innerText == 'lion'")
        page.find("#search").clear()
        page.find("#search").send_keys(" ")
        page.until("document.querySelectorAll('#conversations .open').length == 3")
        page.fill("#title", "Cats\n")
        page.until("document.querySelector('.current .name').innerText == 'Cats'")
        page.click("#delete")
        page.click("#confirm-dialog [value=no]")
        page.click("#delete")
        page.click("#confirm-yes")
        page.until("document.querySelectorAll('#conversations .open').length == 2")
        assert page.texts("#conversations .name") == ["tapir", "zebra"]
        assert page.find("#greeting").is_displayed()

    def test_keyboard_help_and_edit(self, page: Page) -> None:
        page.say("typo")
        page.find("#message").send_keys("\ue013")  # arrow up
        assert page.find(".edit").get_attribute("value") == "typo"
        page.find(".edit").send_keys("\ue00c")
        assert page.texts(".bubble") == ["typo"]
        page.run("document.activeElement.blur()")
        page.keys("?")
        assert page.find("#help-dialog").is_displayed()
        page.keys("\ue00c")
        page.keys("/")
        page.keys("\ue009", "\ue008", "o")  # Control, Shift
        assert page.find("#greeting").is_displayed()


@pytest.fixture(scope="module")
def demo() -> Iterator[str]:
    """Address of `gptoss serve demo`."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    listener.close()
    command = [sys.executable, "-m", "gptoss", "serve", "demo", "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if "ready" in line:
                    break
            yield f"http://127.0.0.1:{port}/"
        finally:
            process.terminate()


class TestDemo:
    def test_a_conversation(self, driver: Chrome, demo: str) -> None:
        page = Page(driver)
        page.open(demo)
        page.until("document.getElementById('model').value === 'demo'")
        page.say("What is 1234 + 4321?")
        assert "5555" in page.texts(".assistant > .markdown")[0]
        assert page.texts(".reasoning summary")[0].startswith("Thought for ")
        assert " tokens/s · first after " in page.texts(".assistant .stats")[0]
        page.say("What is 20 + 22?")
        assert "42" in page.texts(".assistant > .markdown")[1]
        page.click(".message:nth-child(3) [aria-label='Edit']")
        page.fill(".edit", "What is 50 + 27?\n")
        page.until("document.querySelector('.message:nth-child(3) .branches')")
        page.until_done()
        assert "77" in page.texts(".assistant > .markdown")[1]
        page.reload()
        page.until("document.querySelectorAll('.message').length == 4")
        assert "5555" in page.texts(".assistant > .markdown")[0]
        problems = [problem for problem in page.problems() if "favicon" not in problem]
        assert problems == []

    def test_stop_and_go_on(self, driver: Chrome, demo: str) -> None:
        page = Page(driver)
        page.open(demo)
        page.until("document.getElementById('model').value === 'demo'")
        page.click("#new-chat")
        page.send("What is 1111 + 2222?")
        page.until("document.querySelector('.reasoning:not([hidden]), .notice:not([hidden])')")
        page.keys("\ue00c")
        page.until_done()
        page.say("What is 20 + 22?")
        assert "42" in page.texts(".message:last-child > .markdown")[0]


class TestKey:
    def test_is_asked_for_and_kept_for_the_tab(self, server: StandIn, page: Page) -> None:
        server.key = "right"
        page.open(server.url)
        page.until("document.getElementById('key-dialog').open")
        page.fill("[name=key]", "wrong\n")
        page.until("!document.getElementById('key-problem').hidden")
        page.fill("[name=key]", "right\n")
        page.until("document.getElementById('model').value == 'stand-in'")
        page.say("Hello")
        assert page.texts(".assistant > .markdown") == ["Hello"]
        page.open(server.url)
        page.until("document.getElementById('model').value == 'stand-in'")
        assert not page.find("#key-dialog").is_displayed()
        kept = page.run("return [JSON.stringify(localStorage), JSON.stringify(sessionStorage)]")
        assert "right" not in kept[0]
        assert "right" in kept[1]

    def test_in_the_middle_of_a_conversation(self, server: StandIn, page: Page) -> None:
        page.until("document.getElementById('model').value == 'stand-in'")
        server.key = "new"
        page.send("Hello")
        page.until("document.getElementById('key-dialog').open")
        page.fill("[name=key]", "new\n")
        page.until_done()
        assert page.texts(".assistant > .markdown") == ["Hello"]
        assert [body["messages"][0]["content"] for body in server.bodies] == ["Hello"]
        server.key = "newer"
        page.send("Again")
        page.until("document.getElementById('key-dialog').open")
        page.click("#key-dialog [data-close]")
        page.until_done()
        assert page.texts(".assistant .notice:not([hidden])") == ["The server asks for a key."]


class TestBrokenConnection:
    def test_in_the_middle_of_an_answer(self, server: StandIn, page: Page) -> None:
        server.answer = lambda _: [*text("Half an"), 0.1, BREAK]
        page.say("Hello")
        assert page.texts(".assistant > .markdown") == ["Half an"]
        notice = "The connection broke before the answer was complete."
        assert page.texts(".assistant .notice.error") == [notice]
        server.answer = lambda _: text("Whole")
        page.click("[aria-label='Another answer']")
        page.until_done()
        assert page.texts(".assistant > .markdown") == ["Whole"]
        page.reload()
        page.until("document.querySelectorAll('.message').length == 2")
        page.click("[aria-label='Previous version']")
        page.until("document.querySelector('.assistant .notice.error:not([hidden])')")
        assert page.texts(".assistant > .markdown") == ["Half an"]

    def test_before_the_first_word(self, server: StandIn, page: Page) -> None:
        server.answer = lambda _: [BREAK]
        page.say("Hello")
        assert page.find(".assistant .notice.error").is_displayed()
        server.answer = lambda _: text("Yes?")
        page.say("Are you there?")
        # An answer without a word is nothing to send.
        assert [m["role"] for m in server.bodies[-1]["messages"]] == ["user", "user"]

    def test_an_error_in_the_stream_is_shown(self, server: StandIn, page: Page) -> None:
        error = {"message": "Out of <b>memory</b>", "type": "server_error", "code": None}
        server.answer = lambda _: [*text("So"), {"error": error}]
        page.say("Hello")
        assert page.texts(".assistant .notice.error") == ["Out of <b>memory</b>"]

    def test_a_page_closed_in_the_middle(self, server: StandIn, page: Page) -> None:
        def answer(_: dict[str, Any]) -> Iterator[Step]:
            yield from text("Begun")
            for _ in range(500):
                yield 0.02

        server.answer = answer
        page.send("Hello")
        page.until("document.querySelector('.assistant > .markdown .tail p')")
        page.run("document.dispatchEvent(new Event('visibilitychange'))")
        page.reload()
        page.until("document.querySelectorAll('.message').length == 2")
        assert "page was closed" in page.texts(".assistant .notice")[0]


HOSTILE = """
<script>window.hacked = 1</script><img src=x onerror="window.hacked = 2">
<svg onload="window.hacked = 3"><script>window.hacked = 4</script></svg>
<iframe srcdoc="<script>parent.hacked = 5</script>"></iframe><math><mtext><style><img src onerror=1>
<a href="javascript:window.hacked = 6" id="js">click</a> [also](javascript:window.hacked=7)
<details open ontoggle="window.hacked = 8"><summary>x</summary></details>
<form action="https://evil.example/"><input name=key><button>Send</button></form>
<div style="position:fixed;inset:0" class="message user" id="messages">cover</div>

[data](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==) [relative](/v1/models)

```html"><script>window.hacked = 9</script>
<script>window.hacked = 10</script>
```

$\\href{javascript:window.hacked=11}{x}$ \\(\\htmlData{a=b}{x}\\) \\[\\includegraphics{https://evil.example/m.png}\\]
"""

REMOTE = """
![a picture](https://evil.example/a.png "t") ![][ref]
<img src="https://evil.example/b.png" srcset="//evil.example/c">
<video src="https://evil.example/d.mp4" poster="https://evil.example/e.png"></video>
<link rel="stylesheet" href="https://evil.example/f.css">
<style>@import "https://evil.example/g.css"</style>
<p style="background: url(https://evil.example/h.png)">styled</p>
<meta http-equiv="refresh" content="0;url=https://evil.example/i"><base href="https://evil.example/">
<object data="https://evil.example/j"></object><embed src="https://evil.example/k">
<svg><image href="https://evil.example/l.png"/><use href="https://evil.example/m.svg#x"/></svg>
<table background="https://evil.example/n.png"><tr><td>cell</td></tr></table>

[a link](https://evil.example/click) <https://evil.example/auto> https://evil.example/bare

[ref]: https://evil.example/ref.png
"""


class TestStrangersText:
    @pytest.mark.parametrize("size", [1, 7, 10_000], ids=lambda size: f"{size} characters at once")
    def test_a_script_does_not_run(self, server: StandIn, page: Page, size: int) -> None:
        pieces = [HOSTILE[at : at + size] for at in range(0, len(HOSTILE), size)]
        server.answer = lambda _: [*reasoning(*pieces), *text(*pieces)]
        page.say("Hello <script>window.hacked = 12</script>")
        page.click(".reasoning summary")
        time.sleep(0.3)
        allowed = page.run("return document.querySelectorAll('.assistant a[href]').length")
        for at in range(len(page.driver.find_elements("css selector", ".assistant .markdown a"))):
            page.run(
                "document.querySelectorAll('.assistant .markdown a')[arguments[0]].click()", at
            )
        assert page.run("return window.hacked ?? null") is None
        assert allowed == 0
        assert (
            page.run(
                "return document.querySelectorAll(arguments[0]).length",
                ".assistant .markdown :is(script, style, iframe, form, input, img, svg:not(.icon),"
                " [onerror], [onload], [ontoggle], [id], [name], .message, .user,"
                " [style*=position]):not(.katex *)",
            )
            == 0
        )
        assert len(page.texts(".message")) == 2
        assert page.driver.current_url.startswith(server.url)

    def test_nothing_is_requested_from_elsewhere(self, server: StandIn, page: Page) -> None:
        server.answer = lambda _: text(*(REMOTE[at : at + 9] for at in range(0, len(REMOTE), 9)))
        page.say("Hello")
        time.sleep(0.5)
        # Conversations that are opened again are rendered at once, not by and by.
        page.reload()
        page.until("document.querySelectorAll('.message').length == 2")
        time.sleep(0.5)
        addresses = browser.requested(page.driver)
        assert len(addresses) > 10
        own = ("data:", server.url)
        assert [address for address in addresses if not address.startswith(own)] == []
        links = page.run(
            "return [...document.querySelectorAll('.assistant .markdown a')].map(a =>"
            " [a.getAttribute('href'), a.rel, a.target, a.className])"
        )
        assert [
            "https://evil.example/a.png",
            "noopener noreferrer nofollow",
            "_blank",
            "image",
        ] in links
        assert {tuple(link[1:3]) for link in links} == {("noopener noreferrer nofollow", "_blank")}
        assert len(links) >= 5


class TestMarkdown:
    def test_code_is_highlighted_and_copied(self, server: StandIn, page: Page) -> None:
        code = 'def f():\n    return "<b>"\n'
        server.answer = lambda _: text("Look:\n\n```python\n", code[:12], code[12:], "```\n\nDone.")
        page.say("Code?")
        page.until("document.querySelector('.code .hljs-keyword')")
        assert page.texts(".code .hljs-keyword") == ["def", "return"]
        assert page.texts(".code-bar span:first-child") == ["python"]
        page.run(
            "window.copied = null; document.execCommand = () =>"
            " { window.copied = document.activeElement.value; return true };"
            " navigator.clipboard.writeText = () => Promise.reject()"
        )
        page.click(".code .copy")
        page.until("window.copied !== null")
        assert page.run("return window.copied") == code.rstrip("\n")

    def test_math_is_typeset_and_loaded_when_there_is_some(
        self, server: StandIn, page: Page
    ) -> None:
        server.answer = lambda _: text("It costs $5 or $10, `$x$` and 3$.")
        page.say("Price?")
        assert not any("katex" in address for address in browser.requested(page.driver))
        tex = "Inline \\(a_1\\), $b^2$:\n\n\\[\n\\frac{1}{2}\n+ c\n\\]\n\n$$\nd\n$$\n\n"
        tex += "Bad: \\(\\frac{1\\)"
        server.answer = lambda _: text(*tex)
        page.say("Math?")
        page.until("document.querySelectorAll('.katex').length == 4")
        assert page.texts(".katex-display annotation") == ["\\frac{1}{2}\n+ c", "d"]
        assert page.texts(".math-source") == ["\\frac{1"]
        assert any("katex.min.js" in address for address in browser.requested(page.driver))

    def test_grows_to_what_it_is_at_once(self, page: Page) -> None:
        texts = [path.read_text()[:5000] for path in sorted((ROOT / "docs").glob("*.md"))]
        texts += [
            "- a\n- b\n\n- c\n\n1. x\n2. y\n   - z\n\n10. w\n",
            "a\n---\n\nb\n- c\n\n```\nopen\n\n- code",
        ]
        differences = page.run(
            """
            const base = document.querySelector("script[type=module]").src;
            const { StreamedMarkdown } = await import(new URL("markdown.js", base));
            let seed = 1;
            const random = (n) => (seed = (seed * 48271) % 2147483647) % n;
            const seen = (root) => [...root.querySelectorAll("p, li, pre, tr, h1, h2, h3")]
              .map((node) => node.nodeName === "P" && node.closest("li") ? "" : node.nodeName
                + node.textContent.replace(/\\s+/g, " ").trim()).filter(Boolean).join("\\n");
            const differences = [];
            for (const text of arguments[0]) {
              const once = document.createElement("div");
              const whole = new StreamedMarkdown(once);
              whole.add(text);
              await whole.finish();
              const grown = document.createElement("div");
              const streamed = new StreamedMarkdown(grown);
              for (let at = 0; at < text.length; ) {
                const size = 1 + random(60);
                streamed.add(text.slice(at, at + size));
                streamed.render();
                at += size;
              }
              await streamed.finish();
              if (seen(once) !== seen(grown)) differences.push([seen(once), seen(grown)]);
            }
            return differences;
            """,
            [text.replace("\r", "") for text in texts],
        )
        assert [
            next(
                pair
                for pair in zip(*(side.split("\n") for side in both), strict=False)
                if pair[0] != pair[1]
            )
            for both in differences
        ] == []


class TestExport:
    def test_and_import(self, server: StandIn, page: Page, downloads: Path) -> None:
        answers = iter("ABC")
        server.answer = lambda _: [*reasoning("r"), *text(next(answers))]
        page.say("one")
        page.click("[aria-label='Another answer']")
        page.until_done()
        page.click("#new-chat")
        page.say("two")
        page.click("#export-all")
        file = downloads / "gptoss-conversations.json"
        end = time.monotonic() + WAIT_S
        while not file.exists() and time.monotonic() < end:
            time.sleep(0.05)
        exported = json.loads(file.read_text())
        assert {one["title"] for one in exported["conversations"]} == {"one", "two"}
        with stand_in.running() as other:  # another origin: nothing is kept there
            page.open(other.url)
            assert page.texts("#conversations .name") == []
            for _ in range(2):  # the second time it changes nothing
                page.find("#import-file").send_keys(str(file))
                page.until("document.getElementById('toast').innerText.includes('2 conversations')")
                page.run("document.getElementById('toast').textContent = ''")
            assert page.texts("#conversations .name") == ["two", "one"]
            page.click("#conversations .item:last-child .open")
            page.until("document.querySelector('.bubble')?.innerText == 'one'")
            assert page.texts(".assistant > .markdown") == ["B"]
            page.click("[aria-label='Previous version']")
            page.until("document.querySelector('.assistant > .markdown').innerText == 'A'")
            assert page.texts(".reasoning summary") != []
        file.unlink()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda file: "{", "no JSON file"),
            (lambda file: {**file, "format": "other"}, "no file of exported conversations"),
            (lambda file: {**file, "version": 2}, "Version 1"),
            (lambda file: {**file, "conversations": [{}]}, "conversation 1 needs an id"),
            (lambda file: _with_node(file, role="system"), "a role in message n"),
            (lambda file: _with_node(file, content=None), "text in message n"),
            (lambda file: _with_node(file, parent="elsewhere"), "the parent of message n"),
            (lambda file: _with_node(file, parent="n"), "an end above message n"),
            (lambda file: _with_node(file, tool_calls=[{"id": 1}]), "its calls in message n"),
            (lambda file: _with_node(file, stats={"tokens": "<b>"}), "numbers in n"),
        ],
    )
    def test_a_bad_file_says_what_is_wrong(
        self, page: Page, tmp_path: Path, change: Any, message: str
    ) -> None:
        node = {"id": "n", "parent": None, "role": "user", "content": "x", "created": 1}
        body = {"id": "c", "title": "t", "system": "", "created": 1, "updated": 1}
        body |= {"nodes": {"n": node}, "chosen": {"": "n"}}
        good = {"format": "gptoss-conversations", "version": 1, "conversations": [body]}
        bad = change(good)
        path = tmp_path / "file.json"
        path.write_text(bad if isinstance(bad, str) else json.dumps(bad))
        page.find("#import-file").send_keys(str(path))
        page.until("!document.getElementById('toast').hidden")
        assert message in page.texts("#toast")[0]
        assert page.texts("#conversations .name") == []


def _with_node(file: dict[str, Any], **fields: Any) -> dict[str, Any]:
    (body,) = file["conversations"]
    node = {**body["nodes"]["n"], **fields}
    return {**file, "conversations": [{**body, "nodes": {"n": node}}]}


class TestAccess:
    def test_every_control_has_a_name(self, page: Page) -> None:
        page.say("Hello")
        page.click("#delete")  # so that the question's button has its name
        page.click("#confirm-dialog [value=no]")
        page.run("for (const dialog of document.querySelectorAll('dialog')) dialog.show()")
        controls = page.driver.find_elements(
            "css selector", "button, input:not([type=file]), textarea, select, nav, [role=region]"
        )
        seen = [control for control in controls if control.is_displayed()]
        assert len(seen) > 30
        nameless = [c.get_attribute("outerHTML") for c in seen if not c.accessible_name.strip()]
        assert nameless == []

    @pytest.mark.parametrize("theme", ["light", "dark"])
    def test_contrast(self, page: Page, theme: str) -> None:
        ratios = page.run(
            """
            document.documentElement.dataset.theme = arguments[0];
            const probe = document.body.appendChild(document.createElement("i"));
            const light = (name) => {
              probe.style.color = `var(--${name})`;
              const parts = getComputedStyle(probe).color.match(/[\\d.]+/g).slice(0, 3);
              const [r, g, b] = parts.map((part) => part / 255)
                .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
              return 0.2126 * r + 0.7152 * g + 0.0722 * b;
            };
            const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            const found = {};
            for (const ground of ["ground", "raised", "sunken"])
              for (const text of ["text", "muted", "accent", "keyword", "string", "number", "name"])
                found[`${text} on ${ground}`] = ratio(light(text), light(ground));
            for (const [text, ground] of [["text", "bubble"], ["text", "hover"], ["muted", "hover"],
              ["on-accent", "accent"], ["on-danger", "danger"], ["danger", "warning-ground"]])
              found[`${text} on ${ground}`] = ratio(light(text), light(ground));
            probe.remove();
            return found;
            """,
            theme,
        )
        assert len(ratios) == 27
        assert {pair: ratio for pair, ratio in ratios.items() if ratio < 4.5} == {}

    def test_fits_a_phone(self, server: StandIn, page: Page) -> None:
        wide = "| " + " | ".join("column" for _ in range(30)) + " |\n"
        rows = wide + "|" + "--|" * 30 + "\n" + wide
        server.answer = lambda _: text(f"{'word' * 60}\n\n```\n{'x' * 300}\n```\n\n{rows}")
        metrics = {"width": 360, "height": 700, "deviceScaleFactor": 2, "mobile": True}
        page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        try:
            page.say("Hello")
            page.until("document.querySelector('.table')")
            sizes = page.run(
                "return [document.documentElement, document.getElementById('scroller')]"
                ".map(node => [node.scrollWidth, node.clientWidth])"
            )
            assert all(scrolled <= client for scrolled, client in sizes)
            page.until(
                "getComputedStyle(document.getElementById('sidebar')).visibility == 'hidden'"
            )
            page.click("#toggle-sidebar")
            page.until("getComputedStyle(document.getElementById('sidebar')).translate != '-100%'")
            assert page.find("#new-chat").is_displayed()
            page.keys("\ue00c")
            page.until("!document.body.classList.contains('sidebar-open')")
        finally:
            page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def test_the_theme_stays(self, server: StandIn, page: Page) -> None:
        names = []
        for _ in range(3):
            page.click("#theme")
            names.append(page.find("#theme").accessible_name)
        assert names == ["Theme: light", "Theme: dark", "Theme: as the system"]
        page.click("#theme")
        page.click("#theme")
        page.open(server.url)
        assert page.run("return getComputedStyle(document.body).colorScheme") == "dark"


class LongTasks:
    """The longest task of the page's thread, in CPU time.

    The browser tells durations by the clock. On a machine with other work to do most of that is
    waiting, so they are multiplied by the share of the CPU that the thread got while it had work.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.begin = browser.thread_times(page.driver)
        page.run(
            "window.longest = 0; new PerformanceObserver(list => { for (const { duration } of"
            " list.getEntries()) window.longest = Math.max(window.longest, duration) })"
            ".observe({ type: 'longtask', buffered: true })"
        )

    def longest_ms(self) -> float:
        cpu, clock = (
            now - then
            for now, then in zip(browser.thread_times(self.page.driver), self.begin, strict=True)
        )
        longest_ms = self.page.run("return window.longest")
        share = min(1.0, cpu / clock)
        print(f"longest task: {longest_ms:.0f} ms by the clock, {share:.2f} of that on the CPU")
        return float(longest_ms * share)


class TestLongAnswer:
    TOKENS = 10_000
    LONGEST_MS = 200

    def test_a_token_costs_the_same_at_the_end(self, server: StandIn, page: Page) -> None:
        """Every thousand has the same text; a machine with other work gets two more tries."""
        source = (ROOT / "docs" / "chat.md").read_text()
        thousand = source[: source.rindex("\n\n", 0, 4000)].ljust(4000, "\n")
        assert thousand.count("```") % 2 == 0  # no code goes on into the next thousand
        pieces = [thousand[at : at + 4] for at in range(0, 4000, 4)] * (self.TOKENS // 1000)
        sent = 0

        def answer(_: dict[str, Any]) -> Iterator[Step]:
            nonlocal sent
            sent = 0
            for piece in pieces:
                yield {"content": piece}
                yield 0.001
                sent += 1

        server.answer = answer
        for left in (2, 1, 0):
            page.click("#new-chat")
            tasks = LongTasks(page)
            page.send("Tell me everything")
            costs = []
            for mark in range(0, self.TOKENS + 1, 1000):
                while sent < mark:
                    time.sleep(0.002)
                costs.append(browser.thread_times(page.driver)[0])
            page.until_done(60)
            longest_ms = tasks.longest_ms()
            shown = len(page.texts(".assistant > .markdown")[0])
            assert shown > 0.8 * 4 * self.TOKENS
            spent = [round(1000 * (after - before)) for before, after in pairwise(costs)]
            print("CPU ms per 1,000 tokens:", spent)
            if left == 0 or (spent[-1] <= 2 * spent[0] and longest_ms <= self.LONGEST_MS):
                break
        assert spent[-1] <= 2 * spent[0]
        assert longest_ms <= self.LONGEST_MS

        def all_at_once() -> float:
            page.reload()
            tasks = LongTasks(page)
            page.until("document.querySelector('.assistant .stats')?.textContent", 60)
            return tasks.longest_ms()

        assert any(all_at_once() <= self.LONGEST_MS for _ in range(3))

    @pytest.mark.parametrize(
        ("begin", "piece"),
        [
            pytest.param("", "word and *more* ", id="one paragraph"),
            pytest.param("", "- an item with `code`\n", id="one list"),
            pytest.param("```python\n", "x = f(1)  # why\n", id="one block of code"),
            pytest.param("| a | b |\n|---|---|\n", "| one | two |\n", id="one table"),
        ],
    )
    def test_one_block_that_does_not_end(
        self, server: StandIn, page: Page, begin: str, piece: str
    ) -> None:
        steps = [*text(begin), *(step for _ in range(2500) for step in (*text(piece), 0.0005))]
        server.answer = lambda _: steps

        def longest_ms() -> float:
            page.click("#new-chat")
            tasks = LongTasks(page)
            page.send("Go on")
            page.until_done(60)
            return tasks.longest_ms()

        assert any(longest_ms() <= self.LONGEST_MS for _ in range(3))
