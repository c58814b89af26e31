#!/bin/sh
# Make the virtual environment $1 with the locked dependencies and this checkout in it.
set -eu
venv=$1
python=${PYTHON:-python3}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "shoal: $python is older than Python 3.11" >&2
    echo "hint: make PYTHON=python3.11 ..." >&2
    exit 1
}
if ! "$python" -m venv --clear "$venv" 2>/dev/null; then
    # Debian keeps ensurepip in a package of its own.
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null &&
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null
    "$python" -m venv --clear "$venv" || {
        echo "hint: install the package that holds the venv module (Debian: python3-venv)" >&2
        exit 1
    }
fi
"$venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
