#!/usr/bin/env bash
# What `make test` runs: style, types, import contracts, generated code, then every test against a
# private RabbitMQ that is ended again, also after a failure or an interrupt. `make lint`: LINT_ONLY=1.
set -uo pipefail
cd "$(dirname "$0")/.."
bin=$(cd "${BIN:-.venv/bin}" && pwd)
workers=${WORKERS:-2}
read -r -a wanted <<<"${SOURCES:-cli.py bench console dht identity peer queueing rpc simulation transfer tools tests}"
sources=()
for name in "${wanted[@]}"; do [ -e "$name" ] && sources+=("$name"); done
# Tests are typed where it helps, but not held to strict types.
packages=()
for name in "${sources[@]}"; do [ "$name" = tests ] || packages+=("$name"); done

failed=()
step() {
    local title=$1 began=$SECONDS
    shift
    echo "== $title"
    if "$@"; then
        echo "== $title: ok, $((SECONDS - began)) s"
    else
        echo "== $title: FAILED, $((SECONDS - began)) s" >&2
        failed+=("$title")
    fi
}

finish() {
    if [ "${#failed[@]}" -gt 0 ]; then
        (IFS=,; echo "failed: ${failed[*]} (after $SECONDS s)" >&2)
        exit 1
    fi
    echo "all passed in $SECONDS s"
    exit 0
}

step "ruff check" "$bin/ruff" check --quiet "${sources[@]}"
step "ruff format" "$bin/ruff" format --check "${sources[@]}"
step "mypy" "$bin/mypy" --no-error-summary "${packages[@]}"
step "import contracts" "$bin/lint-imports" --no-logo
step "protos current" "$bin/python" tools/protos.py --check
[ -n "${LINT_ONLY:-}" ] && finish

# Debian's packages, without what they recommend; false where they cannot be had.
apt_install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; } >/dev/null 2>&1
}

server=/usr/lib/rabbitmq/bin/rabbitmq-server
install_rabbitmq() {
    [ -x "$server" ] && return 0
    [ "$(id -u)" = 0 ] || return 1
    # apt would start the system's own broker and leave it running: policy-rc.d says no meanwhile.
    local policy=/usr/sbin/policy-rc.d made=""
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy" && made=1
    fi
    apt_install rabbitmq-server
    [ -n "$made" ] && rm -f "$policy"
    [ -x "$server" ]
}

# Hosts of their own, cut off and healed: network namespaces and nftables, for root on Linux alone.
has_host_tools() {
    command -v ip >/dev/null && command -v nft >/dev/null
}
if [ "$(uname)" = Linux ] && [ "$(id -u)" = 0 ] && ! has_host_tools; then
    apt_install iproute2 nftables
    if ! has_host_tools; then
        echo "== hosts of their own: iproute2 or nftables is absent and cannot be installed" >&2
        [ "${CI:-}" = true ] && failed+=("hosts of their own")
    fi
fi

broker_folder=""
end_broker() {
    local status=$?
    trap - EXIT
    if [ -n "$broker_folder" ]; then
        "$bin/python" -m tests.support.broker stop "$broker_folder" || echo "the private RabbitMQ did not end cleanly" >&2
        rm -rf "$broker_folder"
        broker_folder=""
    fi
    exit "$status"
}
trap end_broker EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

start_broker() {
    broker_folder=$(mktemp -d "${TMPDIR:-/tmp}/shoal-rabbit.XXXXXX")
    SHOAL_TEST_AMQP=$("$bin/python" -m tests.support.broker start "$broker_folder") || return 1
    export SHOAL_TEST_AMQP
}

if [ -n "${SHOAL_TEST_AMQP:-}" ]; then
    echo "== RabbitMQ: the one in SHOAL_TEST_AMQP"
elif install_rabbitmq; then
    step "private RabbitMQ" start_broker
elif [ "${CI:-}" = true ]; then
    echo "== RabbitMQ: absent, and it cannot be installed: a failure, since CI=true" >&2
    failed+=("private RabbitMQ")
else
    echo "== RabbitMQ: absent, its tests are skipped (Debian: apt-get install rabbitmq-server)" >&2
fi

# loadfile: a file's tests stay on one worker and share its costly fixtures (brokers, processes).
step "tests" "$bin/python" -m pytest -q -n "$workers" --dist loadfile --durations 10
finish
