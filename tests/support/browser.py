"""Debian's Chromium without a window, driven through its own driver."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")


def missing() -> str:
    """What keeps the browser from being driven here; empty if nothing does."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "needs selenium: pip install 'gptoss-native[page-test]'"
    if CHROMIUM is None or DRIVER is None:
        return "needs chromium and chromedriver: apt-get install chromium chromium-driver"
    return ""


@contextmanager
def browser(downloads: Path, *, size: tuple[int, int] = (1200, 800)) -> Iterator[Chrome]:
    """Start a browser that finds no host but 127.0.0.1."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in (
        "--headless=new",
        "--no-sandbox",  # else it does not run as root
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--force-color-profile=srgb",
        f"--window-size={size[0]},{size[1]}",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    preferences = {"download.default_directory": str(downloads)}
    options.add_experimental_option("prefs", preferences)
    driver = webdriver.Chrome(options, Service(str(DRIVER)))
    try:
        yield driver
    finally:
        driver.quit()


def requested(driver: Chrome) -> list[str]:
    """Addresses of all requests since this was last asked."""
    return [
        params["request"]["url"]
        for method, params in _events(driver)
        if method == "Network.requestWillBeSent"
    ]


def thread_times(driver: Chrome) -> tuple[float, float]:
    """Seconds so far in tasks of the page's main thread: of its CPU time, and by the clock."""
    driver.execute_cdp_cmd("Performance.enable", {})
    metrics = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    values = {metric["name"]: metric["value"] for metric in metrics}
    return values["ThreadTime"], values["TaskDuration"]


def _events(driver: Chrome) -> Iterator[tuple[str, dict[str, Any]]]:
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        yield message["method"], message["params"]
