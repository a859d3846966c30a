//! What is wrong with a site: from what was observed to findings, each with what to do about it.
//!
//! The rule behind the severities: **critical** is what an operator has to get up for, because nothing recent can be
//! restored, or soon could not; **warning** is what has to be put right, but while another repository is well, or
//! with time left; **info** is what is worth knowing, and wakes nobody. A site that is well has no finding, however
//! young or idle it is.
//!
//! What is not known is no finding of its own kind: an unreachable server is told once, and nothing is concluded from
//! what it did not say.
//!
//! | code | what it says |
//! |---|---|
//! | `repository-unreadable` | a repository could not be read; critical when none could |
//! | `repository-empty` | a repository holds neither a backup nor WAL |
//! | `no-backup` | there is WAL, but no backup that it could be applied to |
//! | `backup-too-old` | the newest backup is older than `backup_age_max` |
//! | `backup-damaged` | a backup's record cannot be used |
//! | `backup-with-damaged-pages` | the server read pages with a wrong checksum while a backup was taken |
//! | `backup-damage-found` | `verify` found a backup damaged |
//! | `wal-damage-found` | `verify` found a WAL file damaged |
//! | `backup-unproven` | backups are there for more than a day, and `verify` never read one (info) |
//! | `verify-old` | `verify` has read no backup for more than 35 days |
//! | `wal-gap` | segments are missing; info when a later backup does without them |
//! | `history-unreadable` | a timeline's history is not one, so that nothing can be restored along it |
//! | `wal-behind` | WAL that was finished longer than `wal_lag_max` ago is in no repository |
//! | `wal-not-synced` | a repository lacks WAL that another has had for longer than `wal_lag_max` |
//! | `timeline-not-archived` | the server is on a timeline of which no repository knows |
//! | `timeline-left-behind` | the server is on an older timeline than the newest one archived |
//! | `system-identifier-changed` | the server is not the cluster that the newest backup is of |
//! | `server-unreachable` | nothing could be learned from the server |
//! | `server-restricted` | the server let the role see only a part |
//! | `archive-mode-off` | the server archives nothing |
//! | `archive-command-missing` | archiving is on and has nothing to call |
//! | `archive-command-other` | archiving does not call `pgbak wal-push` |
//! | `archiver-failing` | the archiver's last attempt failed |
//! | `wal-level-minimal` | the WAL does not hold enough to restore from |
//! | `no-replication-role` | the role may not take backups |
//! | `no-replication-connection` | the server refuses replication connections |
//! | `no-walsender-free` | there are fewer than the two WAL senders that a backup needs |
//! | `full-page-writes-off` | a page torn by a crash cannot be repaired from the WAL (info; warning on a standby) |
//! | `slot-missing` | the slot to stream from does not exist |
//! | `slot-inactive` | nobody streams from the slot |
//! | `slot-lost` | the server has removed WAL that a slot was to keep, or is about to |
//! | `slot-retains-wal` | a slot holds back more WAL than the server would keep by itself |
//! | `backup-failed` | the last `base-backup` failed |
//! | `run-failed` | the last run of another command failed |
//! | `run-killed` | the last run of a command was killed |

mod backups;
mod lag;
mod observed;
mod runs;
mod server;
#[cfg(test)]
mod tests;
mod wal;

use std::cmp::Reverse;

pub use lag::{AtRisk, Lag, at_risk, first_missing, lag};
pub use observed::{
    Identity, Observations, Proof, ReplicationTrouble, Repository, Run, RunEnd, Server, Thresholds, Trouble,
    WalSource,
};

/// Something that is wrong, or worth knowing.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// For scripts; see the list above.
    pub code: &'static str,
    pub severity: Severity,
    /// The repository that it is about; `null` when it is about the server, or about all of them.
    pub repository: Option<String>,
    /// Without a final period.
    pub message: String,
    /// What to do: one or more full sentences.
    pub hint: Option<String>,
}

/// How urgent a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Info,
    Warning,
    Critical,
}

impl Severity {
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// All that is wrong, the worst first.
pub fn findings(observations: &Observations) -> Vec<Finding> {
    let mut findings = Vec::new();
    backups::look(observations, &mut findings);
    wal::look(observations, &mut findings);
    server::look(observations, &mut findings);
    runs::look(observations, &mut findings);
    findings.sort_by_key(|finding| Reverse(finding.severity));
    findings
}

impl Finding {
    fn new(code: &'static str, severity: Severity, message: impl Into<String>) -> Self {
        Self { code, severity, repository: None, message: message.into(), hint: None }
    }

    fn critical(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(code, Severity::Critical, message)
    }

    fn warning(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(code, Severity::Warning, message)
    }

    fn info(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(code, Severity::Info, message)
    }

    fn of(self, repository: &Repository) -> Self {
        Self { repository: Some(repository.name.clone()), ..self }
    }

    fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// A time span as findings tell it: the two largest units, so that it can be compared with a threshold.
fn span(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let pair = |large: i64, unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{large} {unit}"),
        _ => format!("{large} {unit} {small} {small_unit}"),
    };
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => pair(seconds / 60, "min", seconds % 60, "s"),
        3_600..86_400 => pair(seconds / 3_600, "h", seconds % 3_600 / 60, "min"),
        _ => pair(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

/// `1 segment`, `2 segments`.
fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
