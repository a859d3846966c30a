#!/usr/bin/env bash
# The one command that passes the tests on a Debian or Ubuntu machine with Rust:
#
#     tests/run.sh [ARGUMENT OF CARGO TEST]...
#
# It installs what is missing (as root, or with sudo), starts no system service, and ends with a line such as
# `212 passed, 0 failed, 1 skipped`. With CI=true, whatever cannot be tested here is a failure, not a skip.
set -euo pipefail
cd "$(dirname "$0")/.."

# --- what the tests need -------------------------------------------------------------------------------------

# Each command, and the package that brings it.
needs=(
    cc:build-essential pkg-config:pkg-config openssl:openssl
    tar:tar zstd:zstd lz4:lz4 gzip:gzip sha256sum:coreutils setpriv:util-linux mount:mount
)

have_postgresql() {
    [[ -n ${PGBAK_TEST_PG_BIN:-} ]] || compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null ||
        command -v postgres >/dev/null
}

missing_packages() {
    local need
    for need in "${needs[@]}"; do
        command -v "${need%%:*}" >/dev/null || echo "${need#*:}"
    done
    pkg-config --exists openssl 2>/dev/null || echo libssl-dev
    have_postgresql || echo postgresql
}

as_root() {
    if [[ $(id -u) -eq 0 ]]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        echo "tests/run.sh: \"$*\" needs root: run it yourself, or install sudo" >&2
        return 1
    fi
}

apt_install() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
}

# Debian's package makes and starts a cluster of its own, which nobody here asked for. Where the package is new,
# it is told not to, for as long as the installation takes.
install_postgresql() {
    local settings=/etc/postgresql-common/createcluster.conf
    if [[ -e $settings ]]; then
        apt_install postgresql
        return
    fi
    apt_install postgresql-common
    as_root cp --preserve "$settings" "$settings.before-pgbak"
    as_root sh -c "echo 'create_main_cluster = false' >>'$settings'"
    local installed=0
    apt_install postgresql || installed=$?
    as_root mv "$settings.before-pgbak" "$settings"
    return "$installed"
}

install_what_is_missing() {
    local packages
    mapfile -t packages < <(missing_packages | sort -u)
    ((${#packages[@]})) || return 0
    echo "tests/run.sh: installing ${packages[*]}" >&2
    if ! command -v apt-get >/dev/null; then
        echo "tests/run.sh: there is no apt-get here: install ${packages[*]} (or what brings the same)" >&2
        return 1
    fi
    as_root apt-get update
    if [[ " ${packages[*]} " == *" postgresql "* ]]; then
        install_postgresql
    fi
    apt_install "${packages[@]}"
}

check_rust() {
    if ! command -v cargo >/dev/null; then
        echo "tests/run.sh: there is no cargo: install Rust first, see https://rustup.rs" >&2
        return 1
    fi
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    found=$(rustc --version | cut -d ' ' -f 2)
    if [[ $(printf '%s\n' "$wanted" "${found%%-*}" | sort --version-sort | head -n 1) != "$wanted" ]]; then
        echo "tests/run.sh: Rust $found is older than $wanted: run \`rustup update\`" >&2
        return 1
    fi
}

# --- the tests ------------------------------------------------------------------------------------------------

# Adds up cargo's `test result: ok. 5 passed; 0 failed; 1 ignored; …`. A test that found at run time that it cannot
# be made here counts as passed there, and is a line of the file $1.
total() {
    awk -v skips="$(wc -l <"$1")" '
        /^test result: / { passed += $4; failed += $6; ignored += $8 }
        END { printf "%d passed, %d failed, %d skipped\n", passed - skips, failed, ignored + skips }'
}

check_rust
install_what_is_missing

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
: >"$scratch/skipped"
status=0
PGBAK_TEST_SKIPPED="$scratch/skipped" cargo test --locked --no-fail-fast "$@" 2>&1 | tee "$scratch/output" ||
    status=$?

sort -u "$scratch/skipped" | sed 's/^/skipped: /'
total "$scratch/skipped" <"$scratch/output"
exit "$status"
