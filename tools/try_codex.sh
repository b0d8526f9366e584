#!/usr/bin/env bash
# OpenAI's codex, unchanged, against a local server: tools/try_codex.sh [PROMPT]
# Fetches 424 MB from npm, so no check runs it. Needs npm, bash, and gptoss-native[server] in .venv or
# in the Python that PYTHON names. MODEL is the demo unless it says something else: the demo answers,
# a large model also works.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-$PWD/.venv/bin/python}
model=${MODEL:-demo}
scratch=$(mktemp -d)
server=
end() {
  [ -z "$server" ] || kill "$server" 2>/dev/null || true
  wait
  rm -rf "$scratch"
}
trap end EXIT

"$python" -m gptoss serve "$model" --port 0 2>"$scratch/log" &
server=$!
npm install --silent --no-audit --no-fund --prefix "$scratch" @openai/codex@0.171.0
until grep -q " is ready$" "$scratch/log"; do
  kill -0 "$server" || { cat "$scratch/log" >&2; exit 1; }
  sleep 0.2
done

mkdir "$scratch/home" "$scratch/work"
cat >"$scratch/home/config.toml" <<TOML
model = "$model"
model_provider = "local"

[model_providers.local]
name = "gptoss"
base_url = "$(grep -oE "http://[^ ]+/v1" "$scratch/log" | head -1)"
env_key = "LOCAL_KEY"
wire_api = "responses"
TOML
cd "$scratch/work"
CODEX_HOME=$scratch/home LOCAL_KEY=none "$scratch/node_modules/.bin/codex" \
  exec --skip-git-repo-check "${1:-What is 17 + 25?}" </dev/null
grep -E "POST /v1/responses.* 200 " "$scratch/log"
