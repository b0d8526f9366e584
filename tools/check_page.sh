#!/usr/bin/env bash
# The chat page in Debian's Chromium, which is installed if it is not there: a minute or two.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}

if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then
  if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    echo "skipped: needs chromium and chromedriver, or root and apt-get to install them"
    exit 0
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    chromium chromium-driver fonts-dejavu-core >/dev/null
fi
"$python" -m pip install -q 'gptoss-native[page-test]'
# Here the tests must run: a skip would pass for a success.
PYTHONPATH=tests "$python" -c 'import sys; from support import browser; sys.exit(browser.missing() or 0)'
# A browser on a busy machine can miss a deadline: what failed must pass when it is tried once more.
"$python" -m pytest -q tests/server/test_page.py tests/server/test_page_browser.py ||
  "$python" -m pytest -q --last-failed tests/server/test_page.py tests/server/test_page_browser.py
