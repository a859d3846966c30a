//! The server: does it archive, and could a backup be taken of it tomorrow.

use super::{Finding, Observations, ReplicationTrouble, Severity, Trouble, WalSource, count, span};
use crate::pg::server_state::{ArchiveMethod, Archiver, ServerState, Slot};
use crate::pg::{SegmentName, SegmentSize};

/// A base backup streams data on one connection, and WAL on another.
const WAL_SENDERS_NEEDED: u32 = 2;

pub fn look(observations: &Observations, findings: &mut Vec<Finding>) {
    let server = &observations.server;
    match (&server.state, &server.replication) {
        (Err(trouble), Err(ReplicationTrouble::Other(_))) => {
            findings.push(from_trouble("server-unreachable", Severity::Warning, trouble));
            return;
        }
        (Err(trouble), _) => {
            findings.push(from_trouble("server-restricted", Severity::Warning, trouble));
        }
        (Ok(state), _) => look_at(observations, state, findings),
    }
    findings.extend(replication(observations));
    findings.extend(system(observations));
}

fn from_trouble(code: &'static str, severity: Severity, trouble: &Trouble) -> Finding {
    Finding { hint: trouble.hint.clone(), ..Finding::new(code, severity, &trouble.message) }
}

fn look_at(observations: &Observations, state: &ServerState, findings: &mut Vec<Finding>) {
    let archiver = &state.archiver;
    if archiver.wal_level == "minimal" {
        let message = "wal_level is minimal: the server's WAL does not hold enough to restore from";
        let hint = "Run `ALTER SYSTEM SET wal_level = 'replica';` on the server, and restart it.";
        findings.push(Finding::critical("wal-level-minimal", message).hint(hint));
    }
    // A standby archives only with `always`; otherwise its primary does.
    if !state.is_standby || archiver.mode == "always" {
        findings.extend(archiving(observations, archiver));
        findings.extend(failing(observations, state));
    }
    if !state.full_page_writes {
        let severity = if state.is_standby { Severity::Warning } else { Severity::Info };
        let message = "full_page_writes is off: a page that a crash tore cannot be repaired from the WAL";
        let hint =
            "Run `ALTER SYSTEM SET full_page_writes = on;` and `SELECT pg_reload_conf();` on the server.";
        findings.push(Finding::new("full-page-writes-off", severity, message).hint(hint));
    }
    if !state.may_list_wal {
        let message =
            format!("role {} may not list the server's WAL, so that a lag in time may go unseen", state.role);
        let hint = format!("Run `GRANT pg_monitor TO \"{}\";` on the server.", state.role);
        findings.push(Finding::info("server-restricted", message).hint(hint));
    }
    findings.extend(own_slot(observations, state));
    let is_own =
        |slot: &Slot| matches!(&observations.source, WalSource::Stream { slot: own } if *own == slot.name);
    let is_lost = |slot: &Slot| slot.wal_status.as_deref() == Some("lost");
    let others = state.slots.iter().filter(|slot| !(is_own(slot) && is_lost(slot)));
    findings.extend(others.filter_map(|slot| retaining(slot, state)));
}

fn archiving(observations: &Observations, archiver: &Archiver) -> Option<Finding> {
    let command = match &observations.source {
        WalSource::Stream { .. } => return None,
        WalSource::Push { archive_command } | WalSource::Directory { archive_command } => archive_command,
    };
    let set = format!("ALTER SYSTEM SET archive_command = '{}';", command.replace('\'', "''"));
    let is_push = matches!(observations.source, WalSource::Push { .. });
    match &archiver.method {
        ArchiveMethod::Off => {
            let hint = format!(
                "Run `ALTER SYSTEM SET archive_mode = on;` and `{set}` on the server, and restart it."
            );
            let message = "archive_mode is off: the server archives no WAL";
            Some(Finding::critical("archive-mode-off", message).hint(hint))
        }
        ArchiveMethod::Missing => {
            let message = "archive_mode is on, but archive_command is empty: WAL piles up on the server";
            let hint = format!("Run `{set}` and `SELECT pg_reload_conf();` on the server.");
            Some(Finding::critical("archive-command-missing", message).hint(hint))
        }
        ArchiveMethod::Command(own) if is_push => {
            (!own.contains("wal-push")).then(|| {
                let message = format!("archive_command is \"{own}\", and does not call `pgbak wal-push`");
                Finding::warning("archive-command-other", message).hint(format!(
                    "Run `{set}` and `SELECT pg_reload_conf();` on the server, or set `source` in [wal] to what it does."
                ))
            })
        }
        ArchiveMethod::Library(library) if is_push => {
            let message = format!("archive_library is \"{library}\", and `pgbak wal-push` is not called");
            Some(Finding::warning("archive-command-other", message).hint(format!(
                "Run `ALTER SYSTEM SET archive_library = '';`, `{set}` and `SELECT pg_reload_conf();` on the server."
            )))
        }
        ArchiveMethod::Command(_) | ArchiveMethod::Library(_) => None,
    }
}

/// Failures since the last success. One alone may be a passing trouble, which the server tries again.
fn failing(observations: &Observations, state: &ServerState) -> Option<Finding> {
    let archiver = &state.archiver;
    let failed = archiver.last_failed.as_ref().filter(|_| archiver.mode != "off")?;
    if archiver.last_archived.as_ref().is_some_and(|archived| archived.at >= failed.at) {
        return None;
    }
    let since = finished_at(observations, &failed.file_name, state.segment_size);
    let is_late = since.is_some_and(|since| observations.now - since > observations.thresholds.wal_lag_max);
    let severity = if is_late { Severity::Critical } else { Severity::Warning };
    let success = match &archiver.last_archived {
        Some(archived) => {
            format!(
                "the last success was {} ago, {}",
                span(observations.age_seconds(archived.at)),
                archived.file_name
            )
        }
        None => "it never succeeded".to_owned(),
    };
    let message = format!(
        "the server could not archive {} {} ago; {success} ({} in all)",
        failed.file_name,
        span(observations.age_seconds(failed.at)),
        count(archiver.failed_count, "failure")
    );
    let hint = "See the server's log for what the command said. WAL piles up in pg_wal until it succeeds.";
    Some(Finding::new("archiver-failing", severity, message).hint(hint))
}

fn finished_at(
    observations: &Observations,
    file_name: &str,
    size: SegmentSize,
) -> Option<chrono::DateTime<chrono::Utc>> {
    observations.finished_at.get(&SegmentName::parse(file_name, size).ok()?.number).copied()
}

/// What would stop the next base backup.
fn replication(observations: &Observations) -> Option<Finding> {
    let server = &observations.server;
    let state = server.state.as_ref().ok();
    match &server.replication {
        Err(ReplicationTrouble::NotPermitted(trouble)) => {
            Some(from_trouble("no-replication-role", Severity::Critical, trouble))
        }
        Err(ReplicationTrouble::NoWalSenderFree(trouble)) => {
            Some(from_trouble("no-walsender-free", Severity::Critical, trouble))
        }
        Err(ReplicationTrouble::Other(trouble)) => {
            Some(from_trouble("no-replication-connection", Severity::Critical, trouble))
        }
        Ok(()) => few_wal_senders(observations, state?),
    }
}

fn few_wal_senders(observations: &Observations, state: &ServerState) -> Option<Finding> {
    let is_backing_up =
        observations.runs.iter().any(|run| run.command == "base-backup" && !run.at_work.is_empty());
    let free = state.wal_senders_max.saturating_sub(state.wal_senders_used);
    if is_backing_up || free >= WAL_SENDERS_NEEDED {
        return None;
    }
    let message = format!(
        "{free} of max_wal_senders = {} {} free, and a base backup needs {WAL_SENDERS_NEEDED}",
        state.wal_senders_max,
        if free == 1 { "is" } else { "are" }
    );
    let hint = "Raise max_wal_senders on the server and restart it, or end another replication connection.";
    Some(Finding::critical("no-walsender-free", message).hint(hint))
}

fn system(observations: &Observations) -> Option<Finding> {
    let newest = observations.newest_backup()?;
    let server = observations.server.identity?.system_identifier;
    (newest.system_identifier != server).then(|| {
        let message = format!(
            "the server is system {server}, but the newest backup, {}, is of system {}",
            newest.name, newest.system_identifier
        );
        Finding::critical("system-identifier-changed", message).hint(
            "After pg_upgrade or initdb take a base backup now: `pgbak base-backup`. Otherwise check `connection` in \
             [postgres]: it leads to another cluster.",
        )
    })
}

fn own_slot(observations: &Observations, state: &ServerState) -> Option<Finding> {
    let WalSource::Stream { slot: name } = &observations.source else { return None };
    let Some(slot) = state.slots.iter().find(|slot| slot.name == *name) else {
        let message = format!("there is no replication slot \"{name}\" to stream WAL from");
        let hint = "Run `pgbak wal-sync`, which makes it; if it tells of lost WAL, take a base backup with `pgbak \
                    base-backup`.";
        return Some(Finding::critical("slot-missing", message).hint(hint));
    };
    if slot.wal_status.as_deref() == Some("lost") {
        let message =
            format!("the server has removed WAL that nobody had streamed from replication slot \"{name}\"");
        let hint = "Run `pgbak wal-sync`, which makes the slot anew, and take a base backup now: `pgbak base-backup`. \
                    Raise max_slot_wal_keep_size on the server, or let wal-sync run more often.";
        return Some(Finding::critical("slot-lost", message).hint(hint));
    }
    // Between two runs of a timer nobody streams.
    let is_late =
        |since: chrono::DateTime<chrono::Utc>| observations.now - since > observations.thresholds.wal_lag_max;
    (!slot.is_active && observations.caught_up_at.is_none_or(is_late)).then(|| {
        let message = format!("nobody streams from the replication slot \"{name}\"");
        let hint = "See why `pgbak wal-sync` does not run, from a timer or with --follow.";
        Finding::warning("slot-inactive", message).hint(hint)
    })
}

/// Slots, whoever they belong to: one that is forgotten fills the server's disk.
fn retaining(slot: &Slot, state: &ServerState) -> Option<Finding> {
    let name = &slot.name;
    let drop_it = format!(
        "If nobody needs it any more, run `SELECT pg_drop_replication_slot('{name}');` on the server."
    );
    match slot.wal_status.as_deref() {
        Some("lost") => {
            let message = format!("the server has removed WAL that the replication slot \"{name}\" needed");
            return Some(Finding::warning("slot-lost", message).hint(drop_it));
        }
        Some("unreserved") => {
            let message =
                format!("the server is about to remove WAL that the replication slot \"{name}\" needs");
            return Some(Finding::warning("slot-lost", message).hint(drop_it));
        }
        _ => {}
    }
    let retained = slot.retained_bytes.filter(|bytes| *bytes > state.wal_kept_bytes.saturating_mul(2))?;
    let message = format!(
        "the replication slot \"{name}\" holds back {} MB of WAL, more than twice what the server keeps by itself",
        retained / 1_000_000
    );
    let hint = format!("See who should read from it in `pg_replication_slots`. {drop_it}");
    Some(Finding::warning("slot-retains-wal", message).hint(hint))
}
