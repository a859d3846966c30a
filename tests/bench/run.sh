#!/usr/bin/env bash
# How fast pgbak is, beside what else does the same job: pg_basebackup, tar and pgBackRest.
#
#     tests/bench/run.sh                          everything, about ten minutes
#     ONLY=wal tests/bench/run.sh                 one of: backup, restore, verify, wal, stream, ssh, start
#     PGBAK=target/release/pgbak tests/bench/run.sh
#
# All run in turn on the same cluster, half of it incompressible, in memory (/dev/shm), so that neither the disk nor
# a busy minute favours one of them; a first round is not counted; the median of RUNS rounds is. Where a tool has a
# choice it gets zstd level 3, two processes, a fast checkpoint. Prints Markdown tables; the last column is the
# ratio to pgbak's time and the goal it is held against.
#
#     SIZE_MB=2500   of the cluster's data
#     RUNS=5         rounds that count
#     SSH_RUNS=3     the same for what goes over SSH, which takes the longest
#     MEMORY=/dev/shm, DISK=/var/tmp              where to work; DISK is for wal-push alone
set -euo pipefail
cd "$(dirname "$0")/../.."

SIZE_MB=${SIZE_MB:-2500}
RUNS=${RUNS:-5}
SSH_RUNS=${SSH_RUNS:-3}
ONLY=${ONLY:-backup restore verify wal stream ssh start}
MEMORY=${MEMORY:-/dev/shm}
DISK=${DISK:-/var/tmp}

# shellcheck source=tests/packages.sh
source tests/packages.sh
say() { echo "bench: $*" >&2; }

# --- as whom, and where -------------------------------------------------------------------------------------------

# PostgreSQL refuses to run as root, so all of them run as the user `postgres` then.
as_postgres() {
    if [[ $(id -u) -eq 0 ]]; then
        setpriv --reuid=postgres --regid=postgres --clear-groups -- env HOME="$work" "$@"
    else
        env HOME="$work" "$@"
    fi
}

make_directory() {
    mkdir -p "$1"
    chmod 0700 "$1"
    [[ $(id -u) -ne 0 ]] || chown postgres:postgres "$1"
}

# --- the cluster ----------------------------------------------------------------------------------------------

make_cluster() {
    say "making a cluster of $SIZE_MB MB in $work"
    as_postgres "$bin/initdb" -D "$work/data" -U postgres -A trust --no-sync --data-checksums >/dev/null
    as_postgres tee -a "$work/data/postgresql.conf" >/dev/null <<-END
	listen_addresses = ''
	unix_socket_directories = '$work'
	fsync = off
	shared_buffers = 256MB
	max_wal_size = 8GB
	wal_keep_size = 1GB
	archive_mode = on
	archive_command = 'true'
	autovacuum = off
	END
    as_postgres "$bin/pg_ctl" -D "$work/data" -l "$work/server.log" -w start >/dev/null
    export PGHOST="$work" PGUSER=postgres PGDATABASE=postgres
    local half=$((SIZE_MB / 2))
    # Chunks of 64 kB, stored as they are.
    as_postgres sh -c "head -c ${half}M /dev/urandom >'$work/random'"
    psql -q -v ON_ERROR_STOP=1 <<-END
	CREATE TABLE noise (id int, bytes bytea);
	ALTER TABLE noise ALTER bytes SET STORAGE EXTERNAL;
	INSERT INTO noise SELECT n, pg_read_binary_file('$work/random', n * 65536::bigint, 65536)
	  FROM generate_series(0, $half * 16 - 1) AS n;
	END
    rm "$work/random"
    # A scale of 1 is about 15 MB.
    "$bin/pgbench" --quiet --initialize --init-steps=dtGvp --scale=$((half / 15)) 2>"$work/pgbench.log"
    "$bin/pgbench" --client=4 --jobs=2 --time=10 >"$work/pgbench.log" 2>&1
    psql -q -c 'SELECT pg_switch_wal()' -c CHECKPOINT >/dev/null
}

psql() { "$bin/psql" --no-psqlrc "$@"; }

# --- measuring ------------------------------------------------------------------------------------------------

declare -A times=() memory=() processor=()

# measure NAME COMMAND…: notes how long the command took and how much of the processors, in microseconds, and its peak
# memory in kB.
measure() {
    local name=$1 begin end
    shift
    begin=${EPOCHREALTIME/[.,]/}
    as_postgres /usr/bin/time -f '%U %S %M' -o "$work/peak" "$@" >"$work/output" 2>&1 || {
        say "$name failed: $*"
        tail -n 20 "$work/output" >&2
        return 1
    }
    end=${EPOCHREALTIME/[.,]/}
    if ((round > 0)); then
        times[$name]+="$((end - begin)) "
        memory[$name]+="$(tail -n 1 "$work/peak" | cut -d ' ' -f 3) "
        processor[$name]+="$(tail -n 1 "$work/peak" | awk '{ printf "%d", ($1 + $2) * 1e6 }') "
    fi
}

# rounds FUNCTION: calls it once to warm up and then RUNS times.
rounds() {
    for ((round = 0; round <= RUNS; round++)); do
        "$1"
    done
}

median() { tr ' ' '\n' <<<"$1" | sed '/^$/d' | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

heading() { printf '\n| %s | median | all, in order | peak memory | pgbak takes |\n|---|--:|---|--:|---|\n' "$1"; }

# row NAME TITLE [GOAL]: a line of the table; GOAL is the most of this one's time that pgbak may take.
row() {
    local own other peak all ratio=''
    own=$(median "${times[${1%%:*}:pgbak]}")
    other=$(median "${times[$1]}")
    peak=$(tr ' ' '\n' <<<"${memory[$1]}" | sort -n | tail -n 1)
    all=$(awk '{ for (i = 1; i <= NF; i++) printf "%.3f ", $i / 1e6 }' <<<"${times[$1]}")
    if [[ -n ${3:-} ]]; then
        ratio=$(awk -v own="$own" -v other="$other" -v goal="$3" 'BEGIN {
            printf "%.2f × this (goal: %.2f%s)", own / other, goal, own / other <= goal ? "" : ", MISSED" }')
    fi
    printf '| %s | %.3f s | %s | %d MiB | %s |\n' "$2" "$(awk -v t="$other" 'BEGIN { print t / 1e6 }')" \
        "$all" $((peak / 1024)) "$ratio"
}

# --- the contestants ------------------------------------------------------------------------------------------

write_configurations() {
    as_postgres tee "$work/pgbak.toml" >/dev/null <<-END
	[postgres]
	connection = "host=$work user=postgres"
	data_directory = "$work/data"
	[backup]
	workers = 2
	[[repository]]
	name = "memory"
	path = "$work/pgbak"
	END
    as_postgres sed "s,$work/pgbak,$disk/pgbak,; s,memory,disk," "$work/pgbak.toml" |
        as_postgres tee "$work/pgbak-disk.toml" >/dev/null
    as_postgres tee "$work/pgbackrest.conf" >/dev/null <<-END
	[global]
	repo1-path=$work/pgbackrest
	process-max=2
	compress-type=zst
	compress-level=3
	start-fast=y
	archive-check=n
	log-level-console=error
	log-level-file=off
	lock-path=$work/lock
	spool-path=$work/spool
	[bench]
	pg1-path=$work/data
	pg1-socket-path=$work
	pg1-user=postgres
	END
}

# A copy with another name for the repository, as its only option for it is on the command line.
pgbackrest_on() {
    local repository=$1
    shift
    echo pgbackrest --config="$work/pgbackrest.conf" --stanza=bench --repo1-path="$repository" "$@"
}

new_stanza() {
    rm -rf "$1"
    # shellcheck disable=SC2046
    as_postgres $(pgbackrest_on "$1" stanza-create)
}

backup_round() {
    rm -rf "$work/pgbak" "$work/basebackup"
    measure backup:pgbak "$pgbak" --config "$work/pgbak.toml" base-backup --compression zstd:3 --checkpoint fast
    measure backup:pg_basebackup "$bin/pg_basebackup" -D "$work/basebackup" -Ft -X stream --checkpoint=fast \
        --compress=client-zstd:level=3,workers=2
    new_stanza "$work/pgbackrest"
    # shellcheck disable=SC2046
    measure backup:pgbackrest $(pgbackrest_on "$work/pgbackrest" backup --type=full)
}

backup_table() {
    heading "base backup, zstd:3"
    row backup:pgbak "pgbak base-backup"
    row backup:pg_basebackup "pg_basebackup -Ft, client-zstd:level=3,workers=2" 0.70
    row backup:pgbackrest "pgbackrest backup --type=full, process-max=2" 0.80
    echo
    echo "Stored: pgbak $(du -sm "$work/pgbak" | cut -f 1) MB," \
        "pg_basebackup $(du -sm "$work/basebackup" | cut -f 1) MB," \
        "pgBackRest $(du -sm "$work/pgbackrest" | cut -f 1) MB."
}

restore_round() {
    local stored
    stored=$(echo "$work"/pgbak/base-backups/*)
    rm -rf "$work/basebackup"
    # Each makes room for the next: memory is what the disk is made of here.
    measure restore:pgbak "$pgbak" --config "$work/pgbak.toml" restore -D "$work/restored-pgbak" --target-immediate
    rm -rf "$work/restored-pgbak"
    make_directory "$work/restored-tar"
    make_directory "$work/restored-tar/pg_wal"
    measure restore:tar sh -c "tar --zstd -xf '$stored/base.tar.zst' -C '$work/restored-tar' &&
        tar --zstd -xf '$stored/pg_wal.tar.zst' -C '$work/restored-tar/pg_wal'"
    rm -rf "$work/restored-tar"
    make_directory "$work/restored-pgbackrest"
    # shellcheck disable=SC2046
    measure restore:pgbackrest $(pgbackrest_on "$work/pgbackrest" restore --pg1-path="$work/restored-pgbackrest")
    rm -rf "$work/restored-pgbackrest"
}

restore_table() {
    heading "restore"
    row restore:pgbak "pgbak restore, every file checked"
    row restore:tar "tar --zstd -xf of the same archives" 0.90
    row restore:pgbackrest "pgbackrest restore, process-max=2" 0.80
}

# Two backups and the WAL between them. pgbak remembers nothing from round to round; sha256sum gets the same files, the
# largest first, on two processes.
verify_setup() {
    rm -rf "$work/pgbak" "$work/pgbackrest" "$work/basebackup"
    local segment
    new_stanza "$work/pgbackrest"
    for segment in "$work"/data/pg_wal/0000000100000*; do
        [[ $segment != *.* && -e $work/data/pg_wal/archive_status/${segment##*/}.done ]] || continue
        as_postgres "$pgbak" -q --config "$work/pgbak.toml" wal-push "$segment"
        # shellcheck disable=SC2046
        as_postgres $(pgbackrest_on "$work/pgbackrest" archive-push "$segment")
    done
    for _ in 1 2; do
        as_postgres "$pgbak" -q --config "$work/pgbak.toml" base-backup --compression zstd:3 >/dev/null
        # shellcheck disable=SC2046
        as_postgres $(pgbackrest_on "$work/pgbackrest" backup --type=full)
    done
}

verify_round() {
    local depth
    for depth in default full; do
        rm -rf "$work/state"
        measure "verify:pgbak-$depth" env PGBAK_STATE_DIRECTORY="$work/state" \
            "$pgbak" --config "$work/pgbak.toml" verify $([[ $depth == default ]] || echo --full)
    done
    measure verify:sha256sum sh -c "find '$work/pgbak' -type f -printf '%s %p\n' | sort -rn | cut -d ' ' -f 2- |
        tr '\n' '\0' | xargs -0 -n 1 -P 2 sha256sum"
    # shellcheck disable=SC2046
    measure verify:pgbackrest $(pgbackrest_on "$work/pgbackrest" verify)
    times[verify:pgbak]=${times[verify:pgbak-default]:-}
    memory[verify:pgbak]=${memory[verify:pgbak-default]:-}
}

bench_verify() {
    verify_setup
    rounds verify_round
    heading "verify, $(du -sm "$work/pgbak" | cut -f 1) MB stored"
    row verify:pgbak "pgbak verify: digests, frames, WAL pages"
    row verify:pgbak-full "pgbak verify --full: also the manifest and page checksums"
    row verify:sha256sum "sha256sum of the same files, two at a time" 1.00
    row verify:pgbackrest "pgbackrest verify, process-max=2" 1.00
}

# One segment a round, the same for each, and never one that a repository has already.
wal_round() {
    local segment=${segments[$round]}
    measure memory:pgbak "$pgbak" --config "$work/pgbak.toml" wal-push "$segment"
    # shellcheck disable=SC2046
    measure memory:pgbackrest $(pgbackrest_on "$work/pgbackrest" archive-push "$segment")
    measure disk:pgbak "$pgbak" --config "$work/pgbak-disk.toml" wal-push "$segment"
    # shellcheck disable=SC2046
    measure disk:pgbackrest $(pgbackrest_on "$disk/pgbackrest" archive-push "$segment")
}

wal_table() {
    heading "wal-push of a segment of 16 MiB, in memory"
    row memory:pgbak "pgbak wal-push"
    row memory:pgbackrest "pgbackrest archive-push" 0.60
    heading "wal-push of a segment of 16 MiB, on disk"
    row disk:pgbak "pgbak wal-push"
    row disk:pgbackrest "pgbackrest archive-push" 0.60
}

bench_wal() {
    # The newest of those that the workload wrote, without the one in use.
    mapfile -t segments < <(ls "$work"/data/pg_wal/0000000100000* | grep -v backup | head -n $((RUNS + 1)))
    rm -rf "$work/pgbak" "$disk/pgbak"
    new_stanza "$work/pgbackrest"
    new_stanza "$disk/pgbackrest"
    rounds wal_round
    wal_table
}

# A backlog, received from its slot into an archive that ends where it begins. Both write to the same disk in memory.
stream_round() {
    local level
    for level in 3 1; do
        rm -rf "$work/pgbak" "$work/state"
        as_postgres cp -r "$work/before" "$work/pgbak"
        sed "s/^workers.*/&\nlevel = $level/" "$work/pgbak-stream.toml" | as_postgres tee "$work/pgbak-level.toml" >/dev/null
        measure "stream:pgbak-$level" env PGBAK_STATE_DIRECTORY="$work/state" \
            "$pgbak" --config "$work/pgbak-level.toml" wal-sync
    done
    times[stream:pgbak]=${times[stream:pgbak-3]:-}
    memory[stream:pgbak]=${memory[stream:pgbak-3]:-}
    rm -rf "$work/received"
    make_directory "$work/received"
    as_postgres cp "$before" "$work/received/"
    measure stream:pg_receivewal "$bin/pg_receivewal" -D "$work/received" --slot=received --compress=lz4 --no-loop \
        --endpos="$backlog_end"
}

# flush_lag PID: the median over ten seconds of how long the server waited to hear that WAL is durable, in milliseconds.
flush_lag() {
    local pid=$1
    "$bin/pgbench" --client=4 --jobs=2 --time=11 >"$work/pgbench.log" 2>&1 &
    sleep 1
    for _ in {1..100}; do
        psql -Atc "SELECT extract(epoch FROM flush_lag) * 1000 FROM pg_stat_replication WHERE pid = $pid"
        sleep 0.1
    done | sort -n | awk 'NF { v[++n] = $1 } END { printf "%.1f ms, 95 %% within %.1f ms", v[int((n + 1) / 2)], v[int(n * 0.95)] }'
    wait $!
}

# Commits to durable, on a real disk, with a flush for each.
follow_delay() {
    local name=$1 pid=''
    shift
    as_postgres "$@" >"$work/output" 2>&1 &
    local follower=$!
    until [[ -n $pid ]]; do
        sleep 0.1
        pid=$(psql -Atc "SELECT pid FROM pg_stat_replication WHERE application_name = '$name' AND state = 'streaming'")
    done
    flush_lag "$pid"
    pkill -TERM -P "$follower" || kill "$follower"
    wait "$follower" || true
}

bench_stream() {
    local name
    for name in memory disk; do
        local directory=$work file=$work/pgbak-stream.toml
        [[ $name == memory ]] || { directory=$disk file=$work/pgbak-follow.toml; }
        as_postgres tee "$file" >/dev/null <<-END
	[postgres]
	connection = "host=$work user=postgres"
	[wal]
	source = "stream"
	slot = "pgbak_$name"
	[backup]
	workers = 2
	[[repository]]
	name = "$name"
	path = "$directory/pgbak"
	END
    done
    rm -rf "$work/pgbak" "$work/before" "$disk/pgbak"
    as_postgres "$pgbak" -q --config "$work/pgbak-stream.toml" base-backup >/dev/null
    psql -qc 'SELECT pg_switch_wal()' >/dev/null
    as_postgres env PGBAK_STATE_DIRECTORY="$work/state" "$pgbak" -q --config "$work/pgbak-stream.toml" wal-sync
    as_postgres mv "$work/pgbak" "$work/before"
    backlog_begin=$(psql -Atc 'SELECT pg_current_wal_flush_lsn()')
    before=$(psql -Atc 'SELECT pg_walfile_name(pg_current_wal_lsn() - 16777216)')
    before=$work/data/pg_wal/$before
    psql -Atqc "SELECT pg_create_physical_replication_slot('received', true)" >/dev/null
    psql -qc "ALTER SYSTEM SET wal_keep_size = '4GB'" -c 'SELECT pg_reload_conf()' >/dev/null
    "$bin/pgbench" --quiet --initialize --init-steps=dtGvp --scale=50 2>"$work/pgbench.log"
    "$bin/pgbench" --client=4 --jobs=2 --time=20 >"$work/pgbench.log" 2>&1
    psql -qc 'SELECT pg_switch_wal()' >/dev/null
    backlog_end=$(psql -Atc 'SELECT pg_current_wal_flush_lsn()')
    rounds stream_round
    heading "$(psql -Atc "SELECT pg_size_pretty(pg_lsn '$backlog_end' - pg_lsn '$backlog_begin')") of WAL, from a slot"
    row stream:pgbak "pgbak wal-sync, zstd:3"
    row stream:pgbak-1 "pgbak wal-sync, zstd:1"
    row stream:pg_receivewal "pg_receivewal --compress=lz4" 1.00
    awk -v own="$(median "${processor[stream:pgbak-3]}")" -v fast="$(median "${processor[stream:pgbak-1]}")" \
        -v other="$(median "${processor[stream:pg_receivewal]}")" 'BEGIN {
        printf "\nProcessor time: pgbak zstd:3 %.2f s, zstd:1 %.2f s, pg_receivewal %.2f s: %.2f and %.2f times (goal: 1.50).\n",
            own / 1e6, fast / 1e6, other / 1e6, own / other, fast / other }'

    psql -qc 'ALTER SYSTEM SET fsync = on' -c 'SELECT pg_reload_conf()' >/dev/null
    printf '\nFrom commit to durable on disk, under pgbench, the median: pgbak wal-sync --follow %s (goal: 50 ms);' \
        "$(follow_delay pgbak env PGBAK_STATE_DIRECTORY="$work/state-follow" "$pgbak" --config "$work/pgbak-follow.toml" wal-sync --follow)"
    make_directory "$disk/received"
    printf ' pg_receivewal --synchronous %s.\n' \
        "$(follow_delay pg_receivewal "$bin/pg_receivewal" -D "$disk/received" --synchronous --compress=lz4 --no-loop)"
}

# --- over SSH ---------------------------------------------------------------------------------------------------

# An sshd of our own, as the user that everything else runs as, and a link to it that is 10 ms long each way.
start_sshd() {
    local ssh=$work/ssh
    ssh_port=$((20000 + RANDOM % 10000))
    long_port=$((ssh_port + 1))
    make_directory "$ssh"
    as_postgres ssh-keygen -q -t ed25519 -N '' -f "$ssh/host"
    as_postgres ssh-keygen -q -t ed25519 -N '' -f "$ssh/key"
    as_postgres tee "$ssh/sshd_config" >/dev/null <<-END
	Port $ssh_port
	ListenAddress 127.0.0.1
	HostKey $ssh/host
	PidFile $ssh/pid
	AuthorizedKeysFile $ssh/key.pub
	StrictModes no
	UsePAM no
	MaxStartups 100
	Subsystem sftp internal-sftp
	END
    for port in "$ssh_port" "$long_port"; do
        echo "[127.0.0.1]:$port $(cut -d ' ' -f 1,2 "$ssh/host.pub")"
    done | as_postgres tee "$ssh/known_hosts" >/dev/null
    as_postgres tee "$ssh/config" >/dev/null <<-END
	Host *
	IdentityFile $ssh/key
	UserKnownHostsFile $ssh/known_hosts
	END
    printf '#!/bin/sh\nexec ssh -F %s "$@"\n' "$ssh/config" | as_postgres tee "$ssh/ssh" >/dev/null
    chmod +x "$ssh/ssh"
    as_postgres /usr/sbin/sshd -f "$ssh/sshd_config"
    rustc -O -o "$work/delay" tests/bench/delay.rs
    "$work/delay" "$long_port" "$ssh_port" 10 &
    delay_pid=$!
}

stop_sshd() {
    [[ -z ${delay_pid:-} ]] || kill "$delay_pid" 2>/dev/null || true
    [[ ! -e $work/ssh/pid ]] || kill "$(<"$work/ssh/pid")" 2>/dev/null || true
}

# remote_config FILE PORT SESSIONS LOCAL: a configuration with the repository LOCAL and a remote one.
remote_config() {
    as_postgres tee "$1" >/dev/null <<-END
	[postgres]
	connection = "host=$work user=postgres"
	data_directory = "$work/data"
	[backup]
	workers = 2
	[[repository]]
	name = "local"
	path = "$4"
	[[repository]]
	name = "remote"
	url = "ssh://$user@127.0.0.1:$2$work/remote"
	ssh_key = "$work/ssh/key"
	known_hosts = "$work/ssh/known_hosts"
	sessions = $3
	END
}

upload_round() {
    local link port sessions stored
    stored=$(echo "$work"/pgbak/base-backups/*)
    for link in loopback long; do
        port=$ssh_port
        [[ $link == loopback ]] || port=$long_port
        for sessions in 1 2; do
            remote_config "$work/remote.toml" "$port" "$sessions" "$work/pgbak"
            rm -rf "$work/remote"
            measure "upload-$link-$sessions:pgbak" "$pgbak" --config "$work/remote.toml" base-backup --copy-missing
        done
        rm -rf "$work/remote"
        measure "upload-$link:scp" scp -q -r -F "$work/ssh/config" -P "$port" "$stored" "$user@127.0.0.1:$work/remote"
        times[upload-$link-1:scp]=${times[upload-$link:scp]:-}
        times[upload-$link-2:scp]=${times[upload-$link:scp]:-}
        memory[upload-$link-1:scp]=${memory[upload-$link:scp]:-}
        memory[upload-$link-2:scp]=${memory[upload-$link:scp]:-}
    done
    rm -rf "$work/remote"
}

upload_table() {
    local link title
    for link in loopback long; do
        title='over loopback'
        [[ $link == loopback ]] || title='over a link of 20 ms'
        heading "upload of a backup $title"
        row "upload-$link-1:pgbak" "pgbak base-backup --copy-missing, one session"
        row "upload-$link-2:pgbak" "the same, two sessions"
        # At least as fast as scp, or 0.95 and 1.7 times over a long link.
        if [[ $link == loopback ]]; then
            row "upload-$link-1:scp" "scp, beside one session" 1.00
            row "upload-$link-2:scp" "scp, beside two sessions" 1.00
        else
            row "upload-$link-1:scp" "scp, beside one session" 1.05
            row "upload-$link-2:scp" "scp, beside two sessions" 0.59
        fi
    done
}

# Each segment by a call of its own, as PostgreSQL's archiver makes them.
wal_sync_round() {
    local link port
    for link in loopback long; do
        port=$ssh_port
        [[ $link == loopback ]] || port=$long_port
        remote_config "$work/remote.toml" "$port" 2 "$work/hundred"
        rm -rf "$work/remote" "$work/remote-pgbackrest" "$work/state"
        measure "sync-$link:pgbak" env PGBAK_STATE_DIRECTORY="$work/state" \
            "$pgbak" --config "$work/remote.toml" wal-sync
        new_stanza "$work/remote-pgbackrest"
        measure "sync-$link:pgbackrest" sh -c 'for segment; do
            '"$(pgbackrest_on "$work/remote-pgbackrest")"' --repo1-host=127.0.0.1 --repo1-host-user='"$user"' \
                --repo1-host-port='"$port"' --repo1-host-config='"$work/pgbackrest.conf"' \
                --cmd-ssh='"$work/ssh/ssh"' archive-push "$segment" || exit
        done' sh "${hundred[@]}"
    done
    rm -rf "$work/remote" "$work/remote-pgbackrest"
}

wal_sync_table() {
    heading "${#hundred[@]} segments over loopback"
    row sync-loopback:pgbak "pgbak wal-sync, two sessions"
    row sync-loopback:pgbackrest "pgbackrest archive-push of each, repository host over SSH" 0.50
    heading "${#hundred[@]} segments over a link of 20 ms"
    row sync-long:pgbak "pgbak wal-sync, two sessions"
    row sync-long:pgbackrest "pgbackrest archive-push of each, repository host over SSH" 0.20
}

both_round() {
    rm -rf "$work/remote" "$work/both"
    remote_config "$work/remote.toml" "$ssh_port" 2 "$work/both"
    measure both:pgbak "$pgbak" --config "$work/remote.toml" base-backup --compression zstd:3
    rm -rf "$work/remote" "$work/both"
    measure both:local "$pgbak" --config "$work/remote.toml" base-backup --compression zstd:3 --repository local
    rm -rf "$work/remote" "$work/both"
}

both_table() {
    heading "base backup to two places"
    row both:pgbak "local and SSH over loopback, two sessions"
    row both:local "local alone" 1.25
}

bench_ssh() {
    install_missing /usr/sbin/sshd:openssh-server ssh:openssh-client
    user=$(as_postgres id -un)
    local RUNS=$SSH_RUNS segment current
    start_sshd
    rm -rf "$work/pgbak" "$work/pgbackrest" "$work/basebackup"
    as_postgres "$pgbak" -q --config "$work/pgbak.toml" base-backup --compression zstd:3 >/dev/null
    rounds upload_round
    upload_table
    rm -rf "$work/pgbak"
    rounds both_round
    both_table
    # Behind the one in use lie files that are kept for their room alone.
    current=$(psql -Atc 'SELECT pg_walfile_name(pg_current_wal_lsn())')
    mapfile -t hundred < <(ls "$work"/data/pg_wal/0000000100000* | grep -v backup |
        awk -v current="$work/data/pg_wal/$current" '$0 < current' | tail -n 100)
    remote_config "$work/remote.toml" "$ssh_port" 2 "$work/hundred"
    for segment in "${hundred[@]}"; do
        as_postgres "$pgbak" -q --config "$work/remote.toml" wal-push "$segment"
    done
    rounds wal_sync_round
    wal_sync_table
}

# The mean of 200 starts of a program, in milliseconds, the shell's fork included.
start_ms() {
    local begin end i
    for ((i = -20; i < 200; i++)); do
        ((i)) || begin=${EPOCHREALTIME/[.,]/}
        "$@" >/dev/null
    done
    end=${EPOCHREALTIME/[.,]/}
    awk -v t=$((end - begin)) 'BEGIN { printf "%.2f", t / 200 / 1000 }'
}

bench_start() {
    printf '\nProcess start: `pgbak --version` takes %s ms, the mean of 200, with the fork (goal: under 3 ms); %s\n' \
        "$(start_ms "$pgbak" --version)" "\`/bin/true\` takes $(start_ms /bin/true) ms."
}

# --- the run --------------------------------------------------------------------------------------------------

install_missing postgresql pgbackrest:pgbackrest zstd:zstd setpriv:util-linux
[[ -x /usr/bin/time ]] || apt_install time
bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
if [[ -z ${PGBAK:-} ]]; then
    check_rust
    install_missing cc:build-essential pkg-config:pkg-config openssl/libssl-dev
    cargo build --release --locked
    PGBAK=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release/pgbak
fi

available_mb=$(df --output=avail -m "$MEMORY" | tail -n 1)
if ((available_mb < 5 * SIZE_MB)); then
    say "$MEMORY has room for $available_mb MB, and $((5 * SIZE_MB)) MB are needed: give a smaller SIZE_MB"
    exit 1
fi
work=$(mktemp -d "$MEMORY/pgbak-bench.XXXXXX")
disk=$(mktemp -d "$DISK/pgbak-bench.XXXXXX")
clean_up() {
    stop_sshd
    as_postgres "$bin/pg_ctl" -D "$work/data" -m immediate stop >/dev/null 2>&1 || true
    rm -rf "$work" "$disk"
}
trap clean_up EXIT
trap 'exit 130' INT TERM
make_directory "$work"
make_directory "$disk"
# Where it was built, the user `postgres` may be unable to read it.
install -m 0755 "$PGBAK" "$work/bin-pgbak"
pgbak=$work/bin-pgbak

make_cluster
write_configurations

echo "$(nproc) cores; $("$pgbak" --version), $("$bin/postgres" --version), $(pgbackrest version)," \
    "$(zstd --version | grep -o 'v[0-9.]*'), $(tar --version | head -n 1);" \
    "a cluster of $(du -sm --exclude=pg_wal "$work/data" | cut -f 1) MB; $RUNS runs each."
if [[ $ONLY == *backup* || $ONLY == *restore* ]]; then rounds backup_round; fi
if [[ $ONLY == *backup* ]]; then backup_table; fi
if [[ $ONLY == *restore* ]]; then
    rounds restore_round
    restore_table
fi
if [[ $ONLY == *verify* ]]; then bench_verify; fi
if [[ $ONLY == *wal* ]]; then bench_wal; fi
if [[ $ONLY == *stream* ]]; then bench_stream; fi
if [[ $ONLY == *ssh* ]]; then bench_ssh; fi
if [[ $ONLY == *start* ]]; then bench_start; fi
