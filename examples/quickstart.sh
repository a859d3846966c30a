#!/usr/bin/env bash
# A base backup, archived WAL, a table lost and brought back to the second before: pgbak's main job, end to end.
#
#     examples/quickstart.sh
#
# Needs a Debian or Ubuntu machine with Rust. Installs what else is missing (as root, or with sudo), builds pgbak,
# and does everything else in a throw-away cluster in a temporary directory, which is gone at the end; no system
# service is touched. Each line that begins with `$` is a command as you would type it.
set -euo pipefail
cd "$(dirname "$0")/.."
source tests/packages.sh

# --- telling what is done, and how long it took ---------------------------------------------------------------

step() { printf '\n\033[1m%s\033[0m\n' "$*"; }
note() { printf '    %s\n' "$*"; }

# Prints a command, runs it in the work directory as the user that PostgreSQL runs as, and prints what it took.
run() {
    printf '  $ %s\n' "$*"
    local begin=$EPOCHREALTIME
    as_postgres "$@" 2>&1 | sed 's/^/    /'
    awk -v begin="$begin" -v end="$EPOCHREALTIME" 'BEGIN { printf "    [%.1f s]\n", end - begin }'
}

# PostgreSQL refuses to run as root; everything is done by the user `postgres` then.
as_postgres() {
    local as=()
    if [[ $(id -u) -eq 0 ]]; then
        as=(setpriv --reuid=postgres --regid=postgres --clear-groups --)
    fi
    (cd "$work" && "${as[@]}" env HOME="$work" "$@")
}

sql() { as_postgres psql --no-psqlrc --quiet --tuples-only --no-align --set=ON_ERROR_STOP=1 --command="$1"; }

wait_until() {
    local deadline=$((SECONDS + 60))
    until "$@"; do
        if ((SECONDS > deadline)); then
            echo "waited for a minute in vain: $*" >&2
            return 1
        fi
        sleep 0.1
    done
}

# --- what is needed -------------------------------------------------------------------------------------------

step "1. Install what is missing, and build"
check_rust
install_missing cc:build-essential pkg-config:pkg-config openssl/libssl-dev postgresql setpriv:util-linux
built_from=$EPOCHREALTIME
cargo build --release --locked --quiet
target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
awk -v begin="$built_from" -v end="$EPOCHREALTIME" 'BEGIN { printf "    built in %.0f s\n", end - begin }'

work=$(mktemp -d "${TMPDIR:-/tmp}/pgbak-quickstart.XXXXXX")
clean_up() {
    [[ -z ${workload:-} ]] || kill "$workload" 2>/dev/null || true
    for data in "$work"/restored "$work"/data; do
        as_postgres pg_ctl --pgdata="$data" --mode=immediate stop >/dev/null 2>&1 || true
    done
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

mkdir "$work/bin"
install -m 0755 "$target/release/pgbak" "$work/bin/pgbak"
[[ $(id -u) -ne 0 ]] || chown -R postgres:postgres "$work"
postgresql_bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort --version-sort | tail -n 1 || true)
export PATH="$work/bin:${PGBAK_TEST_PG_BIN:-$postgresql_bin}:$PATH"
export PGHOST="$work" PGPORT=5432 PGUSER=postgres PGDATABASE=postgres

# --- a server with a workload ---------------------------------------------------------------------------------

step "2. Make a cluster that archives its WAL with pgbak"
as_postgres tee "$work/pgbak.toml" >/dev/null <<END
[postgres]
connection = "host=$work user=postgres"
data_directory = "$work/data"

[[repository]]
name = "local"
path = "$work/backups"
END
note "pgbak.toml, which names the cluster and where its backups go:"
sed 's/^/      /' "$work/pgbak.toml"
export PGBAK_CONFIG="$work/pgbak.toml"

run initdb --pgdata=data --username=postgres --auth=trust --data-checksums --no-sync --no-instructions
note "and in postgresql.conf:"
as_postgres tee -a "$work/data/postgresql.conf" <<END | sed 's/^/      /'
archive_mode = on
archive_command = '$work/bin/pgbak --config $work/pgbak.toml wal-push %p'
END
as_postgres tee -a "$work/data/postgresql.conf" >/dev/null <<END
listen_addresses = ''
unix_socket_directories = '$work'
END
run pg_ctl --pgdata=data --log=server.log --wait start

step "3. Put it to work: pgbench writes all the time from here on"
run pgbench --initialize --scale=20 --quiet
as_postgres pgbench --client=4 --jobs=2 --rate=200 --time=3600 >"$work/pgbench.log" 2>&1 &
workload=$!
sql "CREATE TABLE orders AS SELECT id, md5(id::text) AS item FROM generate_series(1, 100000) AS id"
note "beside its tables there is one of ours, orders, with $(sql 'SELECT count(*) FROM orders') rows"

# --- the backup -----------------------------------------------------------------------------------------------

step "4. Take a base backup while it works"
run pgbak base-backup

step "5. Lose a table"
sql "INSERT INTO orders SELECT id, 'after the backup' FROM generate_series(100001, 100500) AS id"
rows=$(sql 'SELECT count(*) FROM orders')
checksum=$(sql "SELECT md5(string_agg(id || item, ',' ORDER BY id)) FROM orders")
payments=$(sql 'SELECT count(*) FROM pgbench_history')
second_before=$(sql 'SELECT now()')
note "it is $second_before; orders has $rows rows, pgbench has written $payments"
# As with any busy server, others go on working before somebody makes the mistake.
has_gone_on() { (($(sql 'SELECT count(*) FROM pgbench_history') > payments)); }
wait_until has_gone_on
run psql --command="DROP TABLE orders"

lost_in=$(sql 'SELECT pg_walfile_name(pg_switch_wal())')
is_archived() { [[ ! $(sql 'SELECT last_archived_wal FROM pg_stat_archiver') < $lost_in ]]; }
wait_until is_archived
note "$lost_in, the WAL with the mistake in it, is in the archive"

step "6. See what can be restored"
run pgbak status

# --- the way back ---------------------------------------------------------------------------------------------

step "7. Restore to the second before, beside the running cluster"
run pgbak restore -D "$work/restored" --target-time "$second_before"
restarted_from=$EPOCHREALTIME
# On a port of its own, and kept from archiving: this one is only for looking.
run pg_ctl --pgdata=restored --log=restored.log --wait --options="-p 5433 -c archive_mode=off" start
has_reached_the_target() { [[ $(PGPORT=5433 sql 'SELECT pg_is_wal_replay_paused()' 2>/dev/null) == t ]]; }
wait_until has_reached_the_target
awk -v begin="$restarted_from" -v end="$EPOCHREALTIME" 'BEGIN {
    printf "    recovered to the target in %.1f s, and waiting there to be looked at\n", end - begin }'

step "8. The rows are back"
restored_rows=$(PGPORT=5433 sql 'SELECT count(*) FROM orders')
restored_checksum=$(PGPORT=5433 sql "SELECT md5(string_agg(id || item, ',' ORDER BY id)) FROM orders")
restored_payments=$(PGPORT=5433 sql 'SELECT count(*) FROM pgbench_history')
note "orders has $restored_rows rows of $rows, with checksum $restored_checksum"
note "pgbench had written $restored_payments then, and $(sql 'SELECT count(*) FROM pgbench_history') by now"
[[ $restored_rows == "$rows" && $restored_checksum == "$checksum" ]] || {
    echo "quickstart: the rows that came back are not those that were lost" >&2
    exit 1
}
[[ $restored_payments -ge $payments ]] || {
    echo "quickstart: the workload's rows from before the mistake are missing" >&2
    exit 1
}
step "Done in $SECONDS s. To keep the restored cluster, you would now call pg_wal_replay_resume() in it."
