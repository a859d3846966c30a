//! `status`: what can be restored right now, and what is wrong.
//!
//! Looks at the repositories, the server and the state directory, all at once and with little patience, and has
//! [`health`] judge what was seen. What is away is a finding, not a failure: this is asked most urgently when something
//! is. Nothing is written anywhere.

mod report;
mod repositories;
mod runs;
mod server;

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

pub use report::{
    ArchivingStatus, BackupStatus, EventStatus, InProgressStatus, ProofStatus, RecoverableStatus, Report,
    RepositoryStatus, RunEndStatus, RunStatus, RunningStatus, ServerStatus, SlotStatus, State,
    ThresholdStatus, WalStatus,
};

use self::server::Inquiry;
use super::wal_sync::Caught;
use super::{Context, Error, server_calls};
use crate::config::{Config, WalSource};
use crate::plan::health::{self, Observations};
use crate::storage::Patience;

pub use crate::plan::health::{Finding, Severity};

/// Looks at everything.
///
/// # Errors
/// When the configuration does not say where to look, or the run is interrupted.
pub fn run(context: &Context<'_>) -> Result<Report, Error> {
    let now = (context.clock)();
    let repositories = context.repositories_with(&[], Patience::SHORT)?;
    let inquiry = Inquiry::begin(context)?;
    let looks = repositories::look(context, &repositories, now);
    let answer = inquiry.finish(context)?;
    context.interrupt.check()?;
    let journal = context.journal();

    let mut observations = Observations {
        now,
        thresholds: thresholds(context.config),
        source: source(context),
        repositories: looks.iter().map(|look| look.observed.clone()).collect(),
        server: answer.server,
        finished_at: BTreeMap::new(),
        runs: runs::observed(&journal),
        caught_up_at: None,
    };
    let system = observations.server.identity.map(|identity| identity.system_identifier);
    let caught = Caught::load(context).filter(|caught| system.is_some_and(|system| caught.is_of(system)));
    observations.caught_up_at = caught.map(|caught| caught.at);
    for (number, age) in answer.finished {
        // Two timelines may have a segment of one number: the later one is the one that is awaited.
        let at = observations.finished_at.entry(number).or_insert(DateTime::<Utc>::MIN_UTC);
        *at = (*at).max(now - age);
    }
    // What the server has removed already, another repository knows.
    observations.finished_at.extend(repositories::when_stored(&observations, &looks));
    context.interrupt.check()?;
    Ok(Report::new(&observations, &looks, &journal))
}

fn thresholds(config: &Config) -> health::Thresholds {
    let delta = |duration| TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX);
    health::Thresholds {
        backup_age_max: delta(config.status.backup_age_max),
        wal_lag_max: delta(config.status.wal_lag_max),
    }
}

/// The `archive_command` that fills the directory, with the path that pgbak knows it by.
fn copying(config: &Config) -> String {
    let directory =
        config.wal.directory.as_deref().map_or_else(|| "DIRECTORY".to_owned(), server_calls::quoted);
    format!("test ! -f {directory}/%f && cp %p {directory}/%f")
}

fn source(context: &Context<'_>) -> health::WalSource {
    let config = context.config;
    match config.wal.source {
        WalSource::Push => {
            health::WalSource::Push { archive_command: server_calls::archive_command(context) }
        }
        WalSource::Directory => health::WalSource::Directory { archive_command: copying(config) },
        WalSource::Stream => health::WalSource::Stream { slot: config.wal.slot.clone() },
    }
}
