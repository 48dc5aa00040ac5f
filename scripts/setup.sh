#!/usr/bin/env bash
# Makes .venv with everything in requirements.lock and the command `kosmos` in it. Needs Python 3.11 to 3.13 and about 6 GB.
# A second run with the same locks, Python and folder returns at once.
set -euo pipefail
cd "$(dirname "$0")/.."
unset PYTHONDONTWRITEBYTECODE
say() { printf '%s\n' "$*" >&2; }

suits='import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))'

find_python() {
    local name path
    for name in python3.13 python3.12 python3.11 python3 python; do
        # Every place on the path, as the first may be a shim that points nowhere.
        while read -r path; do
            if "$path" -c "$suits" >/dev/null 2>&1; then
                printf '%s\n' "$path"
                return
            fi
        done < <(type -aP "$name" || true)
    done
    say "setup: no Python 3.11, 3.12 or 3.13 with its venv module on the path; install one (on Debian: apt-get install python3-venv)"
    return 1
}

# Some machines cap versions for pip in a system-wide file; others need that file to reach a registry at all. Try both.
pip_install() {
    PIP_CONFIG_FILE=/dev/null .venv/bin/python -m pip install --quiet --disable-pip-version-check "$@" ||
        .venv/bin/python -m pip install --quiet --disable-pip-version-check "$@"
}

install_with_uv() {
    pip_install --require-hashes -r requirements-uv.lock &&
        .venv/bin/uv pip install --quiet --python .venv/bin/python --require-hashes --compile-bytecode -r requirements.lock &&
        .venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
}

install_with_pip() {
    pip_install --require-hashes -r requirements.lock
    pip_install --no-deps --no-build-isolation --editable .
}

stamp=.venv/.setup
if [ -f "$stamp" ] && [ "$(head -n 1 "$stamp")" != "$PWD" ]; then
    say "setup: .venv was made in another folder; making it again"
    rm -rf .venv
fi
if ! .venv/bin/python -c "$suits" >/dev/null 2>&1; then
    python=$(find_python)
    say "setup: making .venv with $python ($("$python" -V 2>&1))"
    "$python" -m venv --clear .venv
fi

key="$(.venv/bin/python -V) $(cat requirements.lock requirements-uv.lock pyproject.toml | .venv/bin/python -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')"
if [ -f "$stamp" ] && [ "$(sed -n 2p "$stamp")" = "$key" ]; then
    exit 0
fi
say "setup: installing the packages of requirements.lock (about 3 GB to fetch the first time)"
if ! install_with_uv; then
    say "setup: uv could not install them; going on with pip, which takes several minutes"
    install_with_pip
fi
printf '%s\n%s\n' "$PWD" "$key" >"$stamp"
say "setup: done; the command is .venv/bin/kosmos"
