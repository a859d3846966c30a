//! What `status` found, as it is printed. Field names are part of the contract: programs read them.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::repositories::{Look, end_of};
use crate::catalog::backup::BackupKind;
use crate::catalog::{BackupInfo, Catalog, WalArchive};
use crate::ops::journal::Journal;
use crate::ops::proofs::{Depth, Proof};
use crate::pg::SystemIdentifier;
use crate::pg::server_state::{ArchiveMethod, Archiver, ArchiverEvent, ServerState, Slot};
use crate::plan::health::{self, Finding, Observations, Run, RunEnd, Severity};
use crate::plan::recoverable::{self, RecoverableInterval};
use crate::repo::InProgress;

/// Everything that was found. Times are RFC 3339 in UTC; sizes are bytes, spans seconds. What is not known, or does not
/// apply, is `null`.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// When this was looked at.
    pub at: DateTime<Utc>,
    /// The worst of the findings, in a word.
    pub state: State,
    /// What is wrong, the worst first.
    pub findings: Vec<Finding>,
    /// In the order of the configuration.
    pub repositories: Vec<RepositoryStatus>,
    pub server: ServerStatus,
    /// What is known of each command's runs on this machine, by command.
    pub runs: Vec<RunStatus>,
    pub thresholds: ThresholdStatus,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nothing worse than an info.
    Ok,
    Warning,
    Critical,
    /// Neither the server nor any repository could be looked at.
    Unknown,
}

#[derive(Debug, Clone, Serialize)]
pub struct RepositoryStatus {
    pub name: String,
    pub place: String,
    /// Why it could not be read; then the lists are empty.
    pub error: Option<String>,
    /// What can be restored from it, by cluster, timeline and location.
    pub recoverable: Vec<RecoverableStatus>,
    /// Oldest first.
    pub backups: Vec<BackupStatus>,
    /// Backups that are being written into it, also from other machines.
    pub in_progress: Vec<InProgressStatus>,
    /// The archived segments, as runs without a gap.
    pub wal: Vec<WalStatus>,
    /// How many segments that the server has finished are not here; without the server, that other repositories have.
    pub wal_lag_segments: Option<u64>,
    /// How long ago the first of them was finished; 0 where none is missing.
    pub wal_lag_seconds: Option<u64>,
    /// How much of the server's WAL is not here, the segment that is being written included; only where WAL is streamed.
    pub wal_at_risk_bytes: Option<u64>,
    /// How far back commits would be lost from here if the server vanished now: at most so many seconds.
    pub wal_at_risk_seconds: Option<u64>,
}

/// Any commit between `from_lsn` and `to_lsn` can be restored, and is refused as a target outside of any interval.
#[derive(Debug, Clone, Serialize)]
pub struct RecoverableStatus {
    pub system_identifier: String,
    /// The timeline to restore along. The interval may begin on one of its ancestors.
    pub timeline: u32,
    /// The oldest backup to begin with.
    pub backup: String,
    pub from_at: DateTime<Utc>,
    pub from_lsn: String,
    /// When the last segment was stored in the first repository that has it: all commits in it are older. `null` when
    /// there is no WAL behind the backup, so that it can be restored only as it is.
    pub to_at: Option<DateTime<Utc>>,
    /// Where the contiguous WAL ends: the first location that can be no target.
    pub to_lsn: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct BackupStatus {
    pub name: String,
    /// `full`.
    pub kind: &'static str,
    pub label: String,
    pub system_identifier: String,
    pub timeline: u32,
    pub started_at: DateTime<Utc>,
    pub stopped_at: DateTime<Utc>,
    pub start_lsn: String,
    pub stop_lsn: String,
    /// Of what the server sent.
    pub size_bytes: u64,
    /// Of what is stored.
    pub stored_bytes: u64,
    /// The former by the latter; `null` where nothing is stored.
    pub compression_ratio: Option<f64>,
    /// Since it was finished.
    pub age_seconds: u64,
    /// How many messages about damaged pages the server had.
    pub damaged_pages: usize,
    /// What `verify` found last; `null` when it never looked.
    pub proof: Option<ProofStatus>,
}

#[derive(Debug, Clone, Serialize)]
pub struct ProofStatus {
    /// `read`, `full` or `drill`.
    pub depth: Depth,
    pub proven_at: DateTime<Utc>,
    /// What was wrong; `null` when nothing was.
    pub damage: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct InProgressStatus {
    pub name: String,
    pub host: Option<String>,
    pub pid: Option<u32>,
    pub started_at: Option<DateTime<Utc>>,
}

/// One contiguous run of segments on one timeline.
#[derive(Debug, Clone, Serialize)]
pub struct WalStatus {
    pub system_identifier: String,
    pub timeline: u32,
    pub first_segment: String,
    pub last_segment: String,
    pub segments: u64,
    pub stored_bytes: u64,
    /// When the last segment was stored.
    pub last_stored_at: DateTime<Utc>,
}

/// All but `error` is `null` for what the server did not say.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ServerStatus {
    /// Why it could not be asked.
    pub error: Option<String>,
    pub system_identifier: Option<String>,
    pub timeline: Option<u32>,
    pub wal_lsn: Option<String>,
    /// As `server_version_num` counts: 150018 is 15.18.
    pub version: Option<u32>,
    pub is_standby: Option<bool>,
    pub wal_senders_max: Option<u32>,
    pub wal_senders_used: Option<u32>,
    pub archiving: Option<ArchivingStatus>,
    pub slots: Vec<SlotStatus>,
}

/// `pg_stat_archiver`, and the settings.
#[derive(Debug, Clone, Serialize)]
pub struct ArchivingStatus {
    /// `off`, `on` or `always`.
    pub mode: String,
    pub command: Option<String>,
    pub library: Option<String>,
    pub wal_level: String,
    pub archived_count: u64,
    pub last_archived: Option<EventStatus>,
    pub failed_count: u64,
    pub last_failed: Option<EventStatus>,
}

#[derive(Debug, Clone, Serialize)]
pub struct EventStatus {
    pub file_name: String,
    pub at: DateTime<Utc>,
}

#[derive(Debug, Clone, Serialize)]
pub struct SlotStatus {
    pub name: String,
    pub is_active: bool,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    pub retained_bytes: Option<u64>,
}

#[derive(Debug, Clone, Serialize)]
pub struct RunStatus {
    pub command: String,
    pub at_work: Vec<RunningStatus>,
    /// The last one that ended with 0 or 3.
    pub last_done: Option<RunEndStatus>,
    pub last_failed: Option<RunEndStatus>,
    /// When the last one began that was killed.
    pub killed_started_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, Serialize)]
pub struct RunningStatus {
    pub pid: u32,
    pub started_at: DateTime<Utc>,
}

#[derive(Debug, Clone, Serialize)]
pub struct RunEndStatus {
    pub started_at: DateTime<Utc>,
    pub ended_at: DateTime<Utc>,
    pub exit_code: u8,
    pub message: Option<String>,
}

/// As configured in `[status]`.
#[derive(Debug, Clone, Serialize)]
pub struct ThresholdStatus {
    pub backup_age_max_seconds: u64,
    pub wal_lag_max_seconds: u64,
}

impl Report {
    pub(super) fn new(observations: &Observations, looks: &[Look<'_>], journal: &Journal) -> Self {
        let findings = health::findings(observations);
        let seconds = |delta: chrono::TimeDelta| delta.num_seconds().try_into().unwrap_or(0);
        Self {
            at: observations.now,
            state: state(observations, &findings),
            findings,
            repositories: looks.iter().map(|look| RepositoryStatus::of(look, looks, observations)).collect(),
            server: ServerStatus::of(&observations.server),
            runs: observations.runs.iter().map(|run| RunStatus::of(run, journal)).collect(),
            thresholds: ThresholdStatus {
                backup_age_max_seconds: seconds(observations.thresholds.backup_age_max),
                wal_lag_max_seconds: seconds(observations.thresholds.wal_lag_max),
            },
        }
    }
}

fn state(observations: &Observations, findings: &[Finding]) -> State {
    let is_blind = observations.repositories.iter().all(|repository| repository.catalog.is_err());
    let server = &observations.server;
    match findings.iter().map(|finding| finding.severity).max() {
        _ if is_blind && server.identity.is_none() && server.state.is_err() => State::Unknown,
        Some(Severity::Critical) => State::Critical,
        Some(Severity::Warning) => State::Warning,
        Some(Severity::Info) | None => State::Ok,
    }
}

impl RepositoryStatus {
    fn of(look: &Look<'_>, looks: &[Look<'_>], observations: &Observations) -> Self {
        let mut status = Self {
            name: look.repository.name().to_owned(),
            place: look.repository.place(),
            error: None,
            recoverable: Vec::new(),
            backups: Vec::new(),
            in_progress: look.in_progress.iter().map(InProgressStatus::of).collect(),
            wal: Vec::new(),
            wal_lag_segments: None,
            wal_lag_seconds: None,
            wal_at_risk_bytes: None,
            wal_at_risk_seconds: None,
        };
        match &look.observed.catalog {
            Ok(catalog) => {
                let intervals = recoverable::intervals(catalog);
                let recoverable = |interval: &RecoverableInterval| {
                    RecoverableStatus::of(interval, end_of(interval, look, looks))
                };
                status.recoverable = intervals.iter().map(recoverable).collect();
                status.describe(catalog, look, observations);
            }
            Err(trouble) => status.error = Some(trouble.message.clone()),
        }
        status
    }

    fn describe(&mut self, catalog: &Catalog, look: &Look<'_>, observations: &Observations) {
        let backup =
            |backup: &BackupInfo| BackupStatus::of(backup, look.proofs.get(&backup.name), observations.now);
        self.backups = catalog.backups().iter().map(backup).collect();
        self.wal =
            catalog.archives().iter().flat_map(|(system, archive)| runs_of_wal(*system, archive)).collect();
        if let Some(risk) = health::at_risk(observations, catalog) {
            self.wal_at_risk_bytes = Some(risk.bytes);
            let seconds = |since| age_seconds(observations.now, since);
            self.wal_at_risk_seconds = if risk.bytes == 0 { Some(0) } else { risk.since.map(seconds) };
        }
        if let Some(lag) = health::lag(observations, catalog) {
            let seconds = |since| age_seconds(observations.now, since);
            self.wal_lag_segments = Some(lag.segments);
            self.wal_lag_seconds = if lag.segments == 0 { Some(0) } else { lag.since.map(seconds) };
        }
    }
}

fn age_seconds(now: DateTime<Utc>, then: DateTime<Utc>) -> u64 {
    (now - then).num_seconds().try_into().unwrap_or(0)
}

impl RecoverableStatus {
    fn of(interval: &RecoverableInterval, to_at: Option<DateTime<Utc>>) -> Self {
        Self {
            system_identifier: interval.system_identifier.to_string(),
            timeline: interval.timeline.get(),
            backup: interval.backup.to_string(),
            from_at: interval.from_at,
            from_lsn: interval.from_lsn.to_string(),
            to_at,
            to_lsn: interval.to_lsn.to_string(),
        }
    }
}

impl BackupStatus {
    fn of(backup: &BackupInfo, proof: Option<&Proof>, now: DateTime<Utc>) -> Self {
        let ratio = backup.size_bytes as f64 / backup.stored_bytes as f64;
        Self {
            name: backup.name.to_string(),
            kind: match backup.kind {
                BackupKind::Full => "full",
            },
            label: backup.label.clone(),
            system_identifier: backup.system_identifier.to_string(),
            timeline: backup.timeline.get(),
            started_at: backup.started_at,
            stopped_at: backup.stopped_at,
            start_lsn: backup.start_lsn.to_string(),
            stop_lsn: backup.stop_lsn.to_string(),
            size_bytes: backup.size_bytes,
            stored_bytes: backup.stored_bytes,
            compression_ratio: (backup.stored_bytes > 0).then(|| (ratio * 100.0).round() / 100.0),
            age_seconds: age_seconds(now, backup.stopped_at),
            damaged_pages: backup.damaged_pages.len(),
            proof: proof.map(|proof| ProofStatus {
                depth: proof.depth,
                proven_at: proof.proven_at,
                damage: proof.damage.clone(),
            }),
        }
    }
}

impl InProgressStatus {
    fn of(in_progress: &InProgress) -> Self {
        let lease = in_progress.lease.as_ref();
        Self {
            name: in_progress.backup.to_string(),
            host: lease.map(|lease| lease.holder.host.clone()),
            pid: lease.map(|lease| lease.holder.pid),
            started_at: lease.map(|lease| lease.started_at),
        }
    }
}

fn runs_of_wal(system: SystemIdentifier, archive: &WalArchive) -> Vec<WalStatus> {
    let size = archive.segment_size();
    let describe = |timeline| {
        archive.intervals(timeline).map(move |interval| WalStatus {
            system_identifier: system.to_string(),
            timeline: interval.first.timeline.get(),
            first_segment: interval.first.file_name(size).to_string(),
            last_segment: interval.last.file_name(size).to_string(),
            segments: interval.segments(),
            stored_bytes: interval.stored_bytes,
            last_stored_at: interval.last_stored_at,
        })
    };
    archive.timelines().into_iter().flat_map(describe).collect()
}

impl ServerStatus {
    fn of(server: &health::Server) -> Self {
        let mut status = Self {
            error: server.state.as_ref().err().map(|trouble| trouble.message.clone()),
            ..Self::default()
        };
        if let Some(identity) = server.identity {
            status.system_identifier = Some(identity.system_identifier.to_string());
            status.timeline = Some(identity.timeline.get());
            status.wal_lsn = Some(identity.wal_lsn.to_string());
        }
        if let Ok(state) = &server.state {
            status.describe(state);
        }
        status
    }

    fn describe(&mut self, state: &ServerState) {
        self.version = Some(state.version.0);
        self.is_standby = Some(state.is_standby);
        self.wal_senders_max = Some(state.wal_senders_max);
        self.wal_senders_used = Some(state.wal_senders_used);
        self.archiving = Some(ArchivingStatus::of(&state.archiver));
        self.slots = state.slots.iter().map(SlotStatus::of).collect();
    }
}

impl ArchivingStatus {
    fn of(archiver: &Archiver) -> Self {
        let (command, library) = match &archiver.method {
            ArchiveMethod::Command(command) => (Some(command.clone()), None),
            ArchiveMethod::Library(library) => (None, Some(library.clone())),
            ArchiveMethod::Missing | ArchiveMethod::Off => (None, None),
        };
        let event = |event: &ArchiverEvent| EventStatus { file_name: event.file_name.clone(), at: event.at };
        Self {
            mode: archiver.mode.clone(),
            command,
            library,
            wal_level: archiver.wal_level.clone(),
            archived_count: archiver.archived_count,
            last_archived: archiver.last_archived.as_ref().map(event),
            failed_count: archiver.failed_count,
            last_failed: archiver.last_failed.as_ref().map(event),
        }
    }
}

impl SlotStatus {
    fn of(slot: &Slot) -> Self {
        Self {
            name: slot.name.clone(),
            is_active: slot.is_active,
            wal_status: slot.wal_status.clone(),
            retained_bytes: slot.retained_bytes,
        }
    }
}

impl RunStatus {
    fn of(run: &Run, journal: &Journal) -> Self {
        let at_work = journal.at_work.iter().filter(|running| running.command == run.command);
        Self {
            command: run.command.clone(),
            at_work: at_work
                .map(|running| RunningStatus { pid: running.pid, started_at: running.started_at })
                .collect(),
            last_done: run.done.as_ref().map(RunEndStatus::of),
            last_failed: run.failed.as_ref().map(RunEndStatus::of),
            killed_started_at: run.killed,
        }
    }
}

impl RunEndStatus {
    fn of(end: &RunEnd) -> Self {
        Self {
            started_at: end.started_at,
            ended_at: end.ended_at,
            exit_code: end.exit_code,
            message: end.message.clone(),
        }
    }
}
