#!/usr/bin/env bash
# What only tests need, after setup.sh: the peers that cannot be locked with the rest, and a browser.
# Best effort: what cannot be had is said loudly, and the tests that need it skip with the same words.
set -uo pipefail
cd "$(dirname "$0")/.."
unset PYTHONDONTWRITEBYTECODE
warn() { printf '\n!!! setup: %s\n\n' "$*" >&2; }

install_peers() {
    compgen -G '.venv/lib/python3*/site-packages/torchscale' >/dev/null && return
    # Without dependencies: torchscale asks for a timm that open_clip refuses, yet runs beside the current one.
    local options=(--no-deps --no-build-isolation --require-hashes -r requirements-peers.lock)
    if [ -x .venv/bin/uv ]; then
        .venv/bin/uv pip install --quiet --python .venv/bin/python --compile-bytecode "${options[@]}"
    else
        PIP_CONFIG_FILE=/dev/null .venv/bin/python -m pip install --quiet "${options[@]}"
    fi || warn "torchscale and fairscale could not be installed; the parity tests against them will skip"
}

install_chromium() {
    local name as_root=()
    for name in chromium chromium-browser google-chrome; do
        command -v "$name" >/dev/null && return
    done
    if [ "$(id -u)" != 0 ]; then
        as_root=(sudo -n)
    fi
    printf 'setup: installing chromium for the tests of the page\n' >&2
    { command -v apt-get && "${as_root[@]}" apt-get update -qq &&
        DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends chromium; } >/dev/null ||
        warn "chromium is not here and could not be installed; the tests of the page will skip"
}

install_peers
install_chromium
