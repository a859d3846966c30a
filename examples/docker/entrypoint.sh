#!/bin/sh
# What the container does: base backups by BACKUP_SCHEDULE, called by cron, and WAL all the time. pgbak itself has no
# scheduler. Everything that it says goes to the container's log.
#
#     pgbak-entrypoint run        what the container starts with
#     pgbak-entrypoint backup     what cron calls
#     pgbak-entrypoint healthy    the health check
#     pgbak-entrypoint pgbak …    anything else is run as it is: docker compose run postgres-backup pgbak status
set -eu

: "${BACKUP_SCHEDULE:=0 2 * * *}"
: "${WAL_SYNC_INTERVAL:=60}"
: "${PGBAK_CRON_FILE:=/etc/cron.d/pgbak}"
: "${PGBAK_ENVIRONMENT_FILE:=/run/pgbak.env}"
export BACKUP_SCHEDULE WAL_SYNC_INTERVAL PGBAK_CRON_FILE PGBAK_ENVIRONMENT_FILE

# cron and the health check run as root in the container; pgbak as the user that the repositories belong to. In place
# of this process, or of the subshell or job that it is called in, so that a signal reaches pgbak itself.
become_postgres() {
    if [ "$(id -u)" -eq 0 ]; then
        HOME=/var/lib/postgresql
        export HOME
        exec setpriv --reuid=postgres --regid=postgres --init-groups -- "$@"
    fi
    exec "$@"
}

# cron gives its jobs none of the container's variables, and their output to nobody.
write_crontab() {
    (umask 077 && export -p >"$PGBAK_ENVIRONMENT_FILE")
    printf '%s root . %s; %s backup >/proc/1/fd/1 2>/proc/1/fd/2\n' \
        "$BACKUP_SCHEDULE" "$PGBAK_ENVIRONMENT_FILE" "$0" >"$PGBAK_CRON_FILE"
    chmod 0644 "$PGBAK_CRON_FILE"
}

# What comes later is done whatever came before; the last exit code that was not 0 is told.
backup() {
    status=0
    (become_postgres pgbak --quiet base-backup) || status=$?
    (become_postgres pgbak --quiet prune) || status=$?
    (become_postgres pgbak --quiet verify --quick) || status=$?
    return "$status"
}

run() {
    write_crontab
    cron='' sync=''
    # shellcheck disable=SC2086  # either may not be there yet
    trap 'kill $cron $sync 2>/dev/null; wait; exit 143' TERM INT
    cron -f &
    cron=$!
    become_postgres pgbak wal-sync --follow --interval "$WAL_SYNC_INTERVAL" &
    sync=$!
    # Where either ends, so does the container, to be started again.
    while kill -0 "$cron" 2>/dev/null && kill -0 "$sync" 2>/dev/null; do
        sleep 1 &
        wait $! || true
    done
    kill "$cron" "$sync" 2>/dev/null || true
    wait
    exit 1
}

case ${1:-run} in
run) run ;;
backup) backup ;;
healthy) become_postgres pgbak status --format nagios ;;
*) become_postgres "$@" ;;
esac
