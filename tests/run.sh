#!/usr/bin/env bash
# The one command that passes the tests on a Debian or Ubuntu machine with Rust:
#
#     tests/run.sh [ARGUMENT OF CARGO TEST]...
#
# It installs what is missing (as root, or with sudo), starts no system service, and ends with a line such as
# `212 passed, 0 failed, 1 skipped`. With CI=true, whatever cannot be tested here is a failure, not a skip.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tests/packages.sh
source tests/packages.sh

# Adds up cargo's `test result: ok. 5 passed; 0 failed; 1 ignored; …`. A test that found at run time that it cannot
# be made here counts as passed there, and is a line of the file $1.
total() {
    awk -v skips="$(wc -l <"$1")" '
        /^test result: / { passed += $4; failed += $6; ignored += $8 }
        END { printf "%d passed, %d failed, %d skipped\n", passed - skips, failed, ignored + skips }'
}

check_rust
install_missing cc:build-essential pkg-config:pkg-config openssl:openssl openssl/libssl-dev postgresql \
    sshd ssh:openssh-client sftp:openssh-client tar:tar zstd:zstd lz4:lz4 gzip:gzip sha256sum:coreutils setpriv:util-linux mount:mount

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
: >"$scratch/skipped"
status=0
PGBAK_TEST_SKIPPED="$scratch/skipped" cargo test --locked --no-fail-fast "$@" 2>&1 |
    tee "$scratch/output" || status=$?

sort -u "$scratch/skipped" | sed 's/^/skipped: /'
total "$scratch/skipped" <"$scratch/output"
exit "$status"
