# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_pgbak_global_optspecs
    string join \n config= v/verbose q/quiet log-format= h/help V/version
end

function __fish_pgbak_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_pgbak_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_pgbak_using_subcommand
    set -l cmd (__fish_pgbak_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c pgbak -n "__fish_pgbak_needs_command" -l config -d 'The configuration [default: $PGBAK_CONFIG, else /etc/pgbak/pgbak.toml]' -r -F
complete -c pgbak -n "__fish_pgbak_needs_command" -l log-format -d 'How messages are written to the standard error' -r -f -a "text\t'Lines to read'
json\t'An object per line'"
complete -c pgbak -n "__fish_pgbak_needs_command" -s v -l verbose -d 'Say more of what is being done (twice: much more)'
complete -c pgbak -n "__fish_pgbak_needs_command" -s q -l quiet -d 'Say nothing when all is well'
complete -c pgbak -n "__fish_pgbak_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pgbak -n "__fish_pgbak_needs_command" -s V -l version -d 'Print version'
complete -c pgbak -n "__fish_pgbak_needs_command" -f -a "base-backup" -d 'Take a base backup and store it in every repository'
complete -c pgbak -n "__fish_pgbak_needs_command" -f -a "wal-sync" -d 'Bring every repository up to date with the WAL'
complete -c pgbak -n "__fish_pgbak_needs_command" -f -a "prune" -d 'Delete what the retention policy no longer needs'
complete -c pgbak -n "__fish_pgbak_needs_command" -f -a "restore" -d 'Put a data directory back, at any point in time'
complete -c pgbak -n "__fish_pgbak_needs_command" -f -a "verify" -d 'Prove that what is stored can be restored'
complete -c pgbak -n "__fish_pgbak_needs_command" -f -a "status" -d 'Show what can be restored, and what is wrong'
complete -c pgbak -n "__fish_pgbak_needs_command" -f -a "wal-push" -d 'Store one WAL file durably (for archive_command)'
complete -c pgbak -n "__fish_pgbak_needs_command" -f -a "wal-fetch" -d 'Bring one WAL file back (for restore_command)'
complete -c pgbak -n "__fish_pgbak_using_subcommand base-backup" -l label -d 'Describe the backup, for those who choose one later' -r
complete -c pgbak -n "__fish_pgbak_using_subcommand base-backup" -l repository -d 'Store in this repository only (repeatable) [default: all]' -r
complete -c pgbak -n "__fish_pgbak_using_subcommand base-backup" -l max-rate -d 'Read no faster than this per second, such as 200MB' -r
complete -c pgbak -n "__fish_pgbak_using_subcommand base-backup" -l compression -d 'zstd, gzip, lz4 or none, with a level if wanted, such as zstd:6' -r
complete -c pgbak -n "__fish_pgbak_using_subcommand base-backup" -l checkpoint -d 'How the server makes its checkpoint first' -r -f -a "fast\t'At once, at the price of a burst of writes'
spread\t'Over some minutes, as the server\'s own checkpoints'"
complete -c pgbak -n "__fish_pgbak_using_subcommand base-backup" -l config -d 'The configuration [default: $PGBAK_CONFIG, else /etc/pgbak/pgbak.toml]' -r -F
complete -c pgbak -n "__fish_pgbak_using_subcommand base-backup" -l log-format -d 'How messages are written to the standard error' -r -f -a "text\t'Lines to read'
json\t'An object per line'"
complete -c pgbak -n "__fish_pgbak_using_subcommand base-backup" -l copy-missing -d 'Take no new backup, but copy to each repository the backups that it lacks'
complete -c pgbak -n "__fish_pgbak_using_subcommand base-backup" -l json -d 'Print the report as JSON'
complete -c pgbak -n "__fish_pgbak_using_subcommand base-backup" -s v -l verbose -d 'Say more of what is being done (twice: much more)'
complete -c pgbak -n "__fish_pgbak_using_subcommand base-backup" -s q -l quiet -d 'Say nothing when all is well'
complete -c pgbak -n "__fish_pgbak_using_subcommand base-backup" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pgbak -n "__fish_pgbak_using_subcommand wal-sync" -l interval -d 'Seconds from the end of a round to the next [default: 60]' -r
complete -c pgbak -n "__fish_pgbak_using_subcommand wal-sync" -l config -d 'The configuration [default: $PGBAK_CONFIG, else /etc/pgbak/pgbak.toml]' -r -F
complete -c pgbak -n "__fish_pgbak_using_subcommand wal-sync" -l log-format -d 'How messages are written to the standard error' -r -f -a "text\t'Lines to read'
json\t'An object per line'"
complete -c pgbak -n "__fish_pgbak_using_subcommand wal-sync" -l follow -d 'Go on until interrupted, stream all the time, and report each round that did something or found something new'
complete -c pgbak -n "__fish_pgbak_using_subcommand wal-sync" -l json -d 'Print the report as JSON'
complete -c pgbak -n "__fish_pgbak_using_subcommand wal-sync" -s v -l verbose -d 'Say more of what is being done (twice: much more)'
complete -c pgbak -n "__fish_pgbak_using_subcommand wal-sync" -s q -l quiet -d 'Say nothing when all is well'
complete -c pgbak -n "__fish_pgbak_using_subcommand wal-sync" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pgbak -n "__fish_pgbak_using_subcommand prune" -l keep-last -d 'Keep the newest COUNT good backups' -r
complete -c pgbak -n "__fish_pgbak_using_subcommand prune" -l keep-within -d 'Keep every backup that is not older than this, such as 14d' -r
complete -c pgbak -n "__fish_pgbak_using_subcommand prune" -l keep-daily -d 'Keep the newest of each of the last COUNT days that have one' -r
complete -c pgbak -n "__fish_pgbak_using_subcommand prune" -l keep-weekly -d 'Keep the newest of each of the last COUNT weeks that have one' -r
complete -c pgbak -n "__fish_pgbak_using_subcommand prune" -l keep-monthly -d 'Keep the newest of each of the last COUNT months that have one' -r
complete -c pgbak -n "__fish_pgbak_using_subcommand prune" -l pitr-window -d 'Keep what it takes to restore to every instant that is not older than this, such as 7d' -r
complete -c pgbak -n "__fish_pgbak_using_subcommand prune" -l repository -d 'Prune this repository only (repeatable) [default: all]' -r
complete -c pgbak -n "__fish_pgbak_using_subcommand prune" -l config -d 'The configuration [default: $PGBAK_CONFIG, else /etc/pgbak/pgbak.toml]' -r -F
complete -c pgbak -n "__fish_pgbak_using_subcommand prune" -l log-format -d 'How messages are written to the standard error' -r -f -a "text\t'Lines to read'
json\t'An object per line'"
complete -c pgbak -n "__fish_pgbak_using_subcommand prune" -l dry-run -d 'Print what would be deleted, and delete nothing'
complete -c pgbak -n "__fish_pgbak_using_subcommand prune" -l json -d 'Print the report as JSON'
complete -c pgbak -n "__fish_pgbak_using_subcommand prune" -s v -l verbose -d 'Say more of what is being done (twice: much more)'
complete -c pgbak -n "__fish_pgbak_using_subcommand prune" -s q -l quiet -d 'Say nothing when all is well'
complete -c pgbak -n "__fish_pgbak_using_subcommand prune" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pgbak -n "__fish_pgbak_using_subcommand restore" -s D -d 'The data directory to fill [default: postgres.data_directory of the configuration]' -r -F
complete -c pgbak -n "__fish_pgbak_using_subcommand restore" -l backup -d 'A backup\'s name; "latest" is the newest one that reaches the target' -r
complete -c pgbak -n "__fish_pgbak_using_subcommand restore" -l target-time -d 'Stop at this time, local unless it has an offset: "2026-11-22 02:00:00+01:00"' -r
complete -c pgbak -n "__fish_pgbak_using_subcommand restore" -l target-lsn -d 'Stop at this WAL location: 16/B374D848' -r
complete -c pgbak -n "__fish_pgbak_using_subcommand restore" -l target-xid -d 'Stop at the end of this transaction' -r
complete -c pgbak -n "__fish_pgbak_using_subcommand restore" -l target-name -d 'Stop at this restore point, which pg_create_restore_point() made' -r
complete -c pgbak -n "__fish_pgbak_using_subcommand restore" -l target-timeline -d 'The timeline to follow: "latest", "current" (the backup\'s own) or a number' -r
complete -c pgbak -n "__fish_pgbak_using_subcommand restore" -l target-action -d 'What the server does at the target' -r -f -a "pause\t'Wait, readable, until you call pg_wal_replay_resume()'
promote\t'Become a writable server on a new timeline'
shutdown\t'Stop the server'"
complete -c pgbak -n "__fish_pgbak_using_subcommand restore" -l tablespace-mapping -d 'Put the tablespace that was in OLD into NEW (repeatable; write "\\=" for a "=" in a path)' -r
complete -c pgbak -n "__fish_pgbak_using_subcommand restore" -l repository -d 'Restore from this repository [default: any, in the order of the configuration]' -r
complete -c pgbak -n "__fish_pgbak_using_subcommand restore" -l config -d 'The configuration [default: $PGBAK_CONFIG, else /etc/pgbak/pgbak.toml]' -r -F
complete -c pgbak -n "__fish_pgbak_using_subcommand restore" -l log-format -d 'How messages are written to the standard error' -r -f -a "text\t'Lines to read'
json\t'An object per line'"
complete -c pgbak -n "__fish_pgbak_using_subcommand restore" -l target-immediate -d 'Stop as soon as the backup is consistent'
complete -c pgbak -n "__fish_pgbak_using_subcommand restore" -l target-exclusive -d 'Stop just before the target (a time, LSN or transaction) instead of just after it'
complete -c pgbak -n "__fish_pgbak_using_subcommand restore" -l standby -d 'Restore a standby, which stays in recovery and follows the archive'
complete -c pgbak -n "__fish_pgbak_using_subcommand restore" -l delta -d 'Keep the files in the directory that are already right, and remove those that do not belong'
complete -c pgbak -n "__fish_pgbak_using_subcommand restore" -l dry-run -d 'Prove and print the plan, and write nothing'
complete -c pgbak -n "__fish_pgbak_using_subcommand restore" -l json -d 'Print the report as JSON'
complete -c pgbak -n "__fish_pgbak_using_subcommand restore" -s v -l verbose -d 'Say more of what is being done (twice: much more)'
complete -c pgbak -n "__fish_pgbak_using_subcommand restore" -s q -l quiet -d 'Say nothing when all is well'
complete -c pgbak -n "__fish_pgbak_using_subcommand restore" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pgbak -n "__fish_pgbak_using_subcommand verify" -l backup -d 'Only this backup, or the latest, and the WAL from its start on [default: all]' -r
complete -c pgbak -n "__fish_pgbak_using_subcommand verify" -l repository -d 'Only this repository (repeatable) [default: all; with --drill: any]' -r
complete -c pgbak -n "__fish_pgbak_using_subcommand verify" -l again-after -d 'Read again what was proven longer ago than this' -r
complete -c pgbak -n "__fish_pgbak_using_subcommand verify" -l drill-directory -d 'Where --drill restores to, in a directory of its own [default: $TMPDIR, else /tmp]' -r -F
complete -c pgbak -n "__fish_pgbak_using_subcommand verify" -l bin-directory -d 'Where --drill finds the programs of PostgreSQL [default: where packages put them]' -r -F
complete -c pgbak -n "__fish_pgbak_using_subcommand verify" -l check-sql -d 'SQL to run in the restored cluster; an error in it is a finding' -r -F
complete -c pgbak -n "__fish_pgbak_using_subcommand verify" -l config -d 'The configuration [default: $PGBAK_CONFIG, else /etc/pgbak/pgbak.toml]' -r -F
complete -c pgbak -n "__fish_pgbak_using_subcommand verify" -l log-format -d 'How messages are written to the standard error' -r -f -a "text\t'Lines to read'
json\t'An object per line'"
complete -c pgbak -n "__fish_pgbak_using_subcommand verify" -l quick -d 'Look at names, sizes, records and contiguity alone, and read no data'
complete -c pgbak -n "__fish_pgbak_using_subcommand verify" -l full -d 'Also check each file of each backup against its manifest, and each page against its checksum'
complete -c pgbak -n "__fish_pgbak_using_subcommand verify" -l drill -d 'Restore a backup, start a server from it, replay all WAL, run pg_amcheck, and remove it all'
complete -c pgbak -n "__fish_pgbak_using_subcommand verify" -l json -d 'Print the report as JSON'
complete -c pgbak -n "__fish_pgbak_using_subcommand verify" -s v -l verbose -d 'Say more of what is being done (twice: much more)'
complete -c pgbak -n "__fish_pgbak_using_subcommand verify" -s q -l quiet -d 'Say nothing when all is well'
complete -c pgbak -n "__fish_pgbak_using_subcommand verify" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pgbak -n "__fish_pgbak_using_subcommand status" -l format -d 'How to print the report' -r -f -a "text\t'To read'
json\t'For programs, as --json does'
prometheus\t'For the node exporter\'s textfile collector'
nagios\t'One line, as a monitoring plugin of Nagios, Icinga and their kin'"
complete -c pgbak -n "__fish_pgbak_using_subcommand status" -l config -d 'The configuration [default: $PGBAK_CONFIG, else /etc/pgbak/pgbak.toml]' -r -F
complete -c pgbak -n "__fish_pgbak_using_subcommand status" -l log-format -d 'How messages are written to the standard error' -r -f -a "text\t'Lines to read'
json\t'An object per line'"
complete -c pgbak -n "__fish_pgbak_using_subcommand status" -l json -d 'Print the report as JSON'
complete -c pgbak -n "__fish_pgbak_using_subcommand status" -s v -l verbose -d 'Say more of what is being done (twice: much more)'
complete -c pgbak -n "__fish_pgbak_using_subcommand status" -s q -l quiet -d 'Say nothing when all is well'
complete -c pgbak -n "__fish_pgbak_using_subcommand status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pgbak -n "__fish_pgbak_using_subcommand wal-push" -l config -d 'The configuration [default: $PGBAK_CONFIG, else /etc/pgbak/pgbak.toml]' -r -F
complete -c pgbak -n "__fish_pgbak_using_subcommand wal-push" -l log-format -d 'How messages are written to the standard error' -r -f -a "text\t'Lines to read'
json\t'An object per line'"
complete -c pgbak -n "__fish_pgbak_using_subcommand wal-push" -s v -l verbose -d 'Say more of what is being done (twice: much more)'
complete -c pgbak -n "__fish_pgbak_using_subcommand wal-push" -s q -l quiet -d 'Say nothing when all is well'
complete -c pgbak -n "__fish_pgbak_using_subcommand wal-push" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c pgbak -n "__fish_pgbak_using_subcommand wal-fetch" -l repository -d 'Ask only this repository, and no other; may be given several times' -r
complete -c pgbak -n "__fish_pgbak_using_subcommand wal-fetch" -l config -d 'The configuration [default: $PGBAK_CONFIG, else /etc/pgbak/pgbak.toml]' -r -F
complete -c pgbak -n "__fish_pgbak_using_subcommand wal-fetch" -l log-format -d 'How messages are written to the standard error' -r -f -a "text\t'Lines to read'
json\t'An object per line'"
complete -c pgbak -n "__fish_pgbak_using_subcommand wal-fetch" -s v -l verbose -d 'Say more of what is being done (twice: much more)'
complete -c pgbak -n "__fish_pgbak_using_subcommand wal-fetch" -s q -l quiet -d 'Say nothing when all is well'
complete -c pgbak -n "__fish_pgbak_using_subcommand wal-fetch" -s h -l help -d 'Print help (see more with \'--help\')'
