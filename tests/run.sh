#!/usr/bin/env bash
# The one command that passes the tests on a Debian or Ubuntu machine with Rust:
#
#     tests/run.sh                             everything; what may differ between versions with PostgreSQL 13 to 18
#     tests/run.sh --quick                     with one version of PostgreSQL
#     tests/run.sh --torture                   the campaigns of tests/torture in full, which takes an hour or so
#     tests/run.sh ARGUMENT OF CARGO TEST...   the same as --quick, a part of it
#
# It installs what is missing (as root, or with sudo), starts no system service, and ends with a line such as
# `212 passed, 0 failed, 1 skipped`. With CI=true, whatever cannot be tested here is a failure, not a skip.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tests/packages.sh
source tests/packages.sh
# shellcheck source=tests/versions.sh
source tests/versions.sh

# Adds up cargo's `test result: ok. 5 passed; 0 failed; 1 ignored; …`. A test that found at run time that it cannot
# be made here counts as passed there, and is a line of the file $1.
total() {
    awk -v skips="$(wc -l <"$1")" '
        /^test result: / { passed += $4; failed += $6; ignored += $8 }
        END { printf "%d passed, %d failed, %d skipped\n", passed - skips, failed, ignored + skips }'
}

# The stories of each version but the one that all tests ran with.
test_versions() {
    local version bin failed=0
    install_missing pip3:python3-pip unzip:unzip
    while read -r version bin; do
        if [[ -z $bin ]]; then
            echo "skipped: the stories of PostgreSQL $version: its programs could not be fetched"
            echo "test result: skipped. 0 passed; 0 failed; 1 ignored;"
            continue
        fi
        echo "PostgreSQL $version, from $bin"
        PGBAK_TEST_PG_BIN=$bin cargo test --locked --no-fail-fast --test stories -- versions:: </dev/null || failed=1
    done < <(fetch_versions)
    return "$failed"
}

# What reads bytes from elsewhere and is nobody's outside of its module: its own properties, a hundred times as often.
torture_the_private() {
    PROPTEST_CASES=25600 cargo test --locked --no-fail-fast --lib -- server:: storage::sftp:: catalog:: config::
}

check_rust
install_missing cc:build-essential pkg-config:pkg-config openssl:openssl openssl/libssl-dev postgresql \
    sshd ssh:openssh-client sftp:openssh-client tar:tar zstd:zstd lz4:lz4 gzip:gzip sha256sum:coreutils setpriv:util-linux mount:mount \
    groff:groff-base systemd-analyze:systemd zsh:zsh fish:fish strace:strace faketime:faketime

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
: >"$scratch/skipped"
export PGBAK_TEST_SKIPPED="$scratch/skipped"
status=0
more=()
case ${1:-} in
'') more=(test_versions) ;;
--quick) shift ;;
--torture)
    shift
    export PGBAK_TORTURE=1
    set -- --test torture "$@" -- --nocapture
    more=(torture_the_private)
    ;;
esac
# Most tests wait for servers most of the time.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$(($(nproc) + 1))}
cargo test --locked --no-fail-fast "$@" 2>&1 | tee "$scratch/output" || status=$?
"${more[@]:-true}" 2>&1 | tee -a "$scratch/output" || status=$?

sort -u "$scratch/skipped" | sed 's/^/skipped: /'
total "$scratch/skipped" <"$scratch/output"
exit "$status"
