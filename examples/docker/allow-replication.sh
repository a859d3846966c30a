#!/bin/sh
# Run once, when PostgreSQL's volume is new: base backups come over a replication connection, and PostgreSQL's image lets
# in only those to a database.
set -eu
echo "host replication $POSTGRES_USER all scram-sha-256" >>"$PGDATA/pg_hba.conf"
