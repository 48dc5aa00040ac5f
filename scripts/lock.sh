#!/usr/bin/env bash
# Writes requirements.in from pyproject.toml, and from it the lock: versions and hashes for every platform, no addresses.
set -euo pipefail
cd "$(dirname "$0")/.."
.venv/bin/python - <<'PYTHON' >requirements.in
import tomllib

project = tomllib.load(open("pyproject.toml", "rb"))["project"]
extras = project["optional-dependencies"]
print("\n".join([*project["dependencies"], *extras["test"], *extras["dev"]]))
PYTHON
compile=(.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes
    --no-emit-index-url --no-annotate --no-header "$@")
"${compile[@]}" requirements.in -o requirements.lock
printf 'uv==0.13.9\n' | "${compile[@]}" - -o requirements-uv.lock
printf 'torchscale==0.3.0\nfairscale==0.4.0\n' | "${compile[@]}" --no-deps - -o requirements-peers.lock
