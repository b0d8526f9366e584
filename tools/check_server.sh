#!/usr/bin/env bash
# Clients that others have made, unchanged, against `gptoss serve demo`; then whatever Schemathesis
# makes of its /openapi.json. Needs a network for their packages, and a Python with
# gptoss-native[server]: .venv, or the one that PYTHON names.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-$PWD/.venv/bin/python}
clients=$PWD/tests/clients
scratch=$(mktemp -d)
server=
end() {
  [ -z "$server" ] || kill "$server" 2>/dev/null || true
  wait
  rm -rf "$scratch"
}
trap end EXIT

step() { printf -- '-- %s (%ds)\n' "$1" "$SECONDS"; }

# Starts a server with these options; sets `server` and OPENAI_BASE_URL.
serve() {
  "$python" -m gptoss serve demo --port 0 "$@" 2>"$scratch/log" &
  server=$!
  for _ in $(seq 300); do
    grep -q " is ready$" "$scratch/log" && break
    kill -0 "$server" || break
    sleep 0.1
  done
  OPENAI_BASE_URL=$(grep -oE "http://[^ ]+/v1" "$scratch/log" | head -1) || {
    cat "$scratch/log" >&2
    exit 1
  }
  export OPENAI_BASE_URL OPENAI_API_KEY=none
}

# Ends it; what it could not answer fails the check.
finish() {
  kill "$server"
  wait "$server" || {
    tail -20 "$scratch/log" >&2
    exit 1
  }
  server=
  if grep -E '" 5[0-9][0-9] |Traceback' "$scratch/log"; then
    exit 1
  fi
}

# An environment of its own with what a file lists.
environment() {
  "$scratch/uv/bin/uv" venv -q --python "$python" "$scratch/$1"
  "$scratch/uv/bin/uv" pip install -q --python "$scratch/$1/bin/python" -r "$2"
}

step "packages"
"$python" -m venv "$scratch/uv"
"$scratch/uv/bin/pip" install -q --disable-pip-version-check uv==0.13.9
environment clients "$clients/requirements.txt"
environment instructor "$clients/requirements-instructor.txt"
environment schemathesis "$clients/requirements-schemathesis.txt"

serve --context-length 4096
for name in openai openai_agents langchain_openai pydantic_ai litellm llm instructor; do
  step "$name"
  where=clients
  [ "$name" != instructor ] || where=instructor
  "$scratch/$where/bin/python" -m pytest -q -c "$clients/pytest.ini" "$clients/client_$name.py"
done

step "openai (npm)"
if command -v npm >/dev/null; then
  mkdir "$scratch/npm"
  cp "$clients/client_openai.mjs" "$scratch/npm/"
  npm install --silent --no-audit --no-fund --prefix "$scratch/npm" openai@7.55.0
  (cd "$scratch/npm" && node --test client_openai.mjs)
else
  echo "skipped: openai (npm) needs npm"
fi
finish

step "schemathesis"
serve --context-length 256 --max-sequences 4 --max-waiting 12
SCHEMATHESIS_HOOKS=$clients/conformance.py "$scratch/schemathesis/bin/schemathesis" \
  run "${OPENAI_BASE_URL%/v1}/openapi.json" --seed 1 --max-examples 10 --workers 2 \
  --phases examples,coverage,fuzzing --request-timeout 30 --continue-on-failure --warnings off \
  --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,unsupported_method,negative_data_rejection,openai_types
finish
step "done"
