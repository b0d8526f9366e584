#!/usr/bin/env python3
"""Take the pictures of the chat page for the documents: the demo in both themes.

    python tools/page_screenshots.py [--out docs/images]

Needs chromium, chromedriver and the extra `page-test`; tools/check_page.sh installs them.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support import browser  # noqa: E402

QUESTIONS = ("What is 1234 + 4321?", "And what is 20 + 22?")
MAX_BYTES = 150_000
WAIT_S = 120.0


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def take(url: str, out: Path) -> None:
    """Hold the conversation and write page-light.png and page-dark.png."""
    with tempfile.TemporaryDirectory() as folder, browser.browser(Path(folder)) as driver:
        metrics = {"width": 1200, "height": 760, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

        def until(condition: str) -> None:
            end = time.monotonic() + WAIT_S
            while not driver.execute_script(f"return Boolean({condition})"):
                if time.monotonic() > end:
                    raise TimeoutError(f"the page never got to: {condition}")
                time.sleep(0.1)

        driver.get(url)
        until("document.getElementById('model').value")
        for count, question in enumerate(QUESTIONS, 1):
            driver.find_element("id", "message").send_keys(question + "\n")
            until(f"document.querySelectorAll('.assistant:not(.running) .stats').length == {count}")
            until("document.getElementById('stop').hidden")
        driver.find_element("css selector", ".reasoning summary").click()
        script = "document.getElementById('scroller').scrollTop = 0; document.activeElement.blur()"
        driver.execute_script(script)
        for theme in ("light", "dark"):
            driver.execute_script(f"document.documentElement.dataset.theme = '{theme}'")
            time.sleep(0.5)
            path = out / f"page-{theme}.png"
            driver.save_screenshot(str(path))
            size = path.stat().st_size
            if size > MAX_BYTES:
                raise ValueError(f"{path.name} has {size} bytes, at most {MAX_BYTES} are wanted")


def main() -> int:
    """Take both pictures; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    out = parser.parse_args().out
    if missing := browser.missing():
        print(missing, file=sys.stderr)
        return 1
    out.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [sys.executable, "-m", "gptoss", "serve", "demo", "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            if not any("ready" in line for line in server.stderr):
                raise RuntimeError("the server ended before the model was ready")
            take(f"http://127.0.0.1:{port}/", out)
        finally:
            server.terminate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
