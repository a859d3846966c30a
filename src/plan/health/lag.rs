//! How far a repository is behind the WAL that is finished.
//!
//! A segment is finished when the server has begun the next one; only then can it be archived, so an idle server has
//! no lag, however long it has been writing into its current segment. Where the server cannot be asked, what is
//! finished is what any repository has.

use chrono::{DateTime, Utc};

use super::{Identity, Observations, WalSource};
use crate::catalog::wal::Tip;
use crate::catalog::{Catalog, WalArchive};
use crate::pg::{SegmentName, SystemIdentifier};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lag {
    /// Finished, and not stored.
    pub segments: u64,
    /// When the first of them was finished, or later; `None` when that is not known, or none is missing.
    pub since: Option<DateTime<Utc>>,
}

/// WAL that would be lost if the server vanished now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AtRisk {
    pub bytes: u64,
    /// Since when; `None` where nothing is at risk, or that is not known.
    pub since: Option<DateTime<Utc>>,
}

/// What of the server's WAL a repository lacks, down to the byte. Only streaming brings the segment that is being written.
///
/// Whatever is missing was written after the last part of the tip was stored, and after streaming last found that it had
/// everything.
pub fn at_risk(observations: &Observations, catalog: &Catalog) -> Option<AtRisk> {
    let WalSource::Stream { .. } = observations.source else { return None };
    let Identity { system_identifier: system, timeline, wal_lsn } = observations.server.identity?;
    let backup = || {
        let newest = catalog.backups_of(system).next_back()?;
        Some(Tip { lsn: newest.stop_lsn, stored_at: newest.stopped_at })
    };
    let end =
        catalog.archive(system).and_then(|archive| archive.end_of_timeline(timeline)).or_else(backup)?;
    let bytes = wal_lsn.0.saturating_sub(end.lsn.0);
    let since = observations.caught_up_at.max(Some(end.stored_at));
    Some(AtRisk { bytes, since: since.filter(|_| bytes > 0) })
}

/// Where finished WAL ends.
struct FinishedEnd {
    system: SystemIdentifier,
    /// The number of the first segment that is not finished.
    number: u64,
}

/// `None` when it cannot be told: the repository could not be read, or nothing is known to compare it with.
pub fn lag(observations: &Observations, catalog: &Catalog) -> Option<Lag> {
    let end = finished_end(observations)?;
    let next = next_wanted(catalog, end.system)?;
    let segments = end.number.saturating_sub(next);
    let missing = next..end.number.max(next);
    let since = observations.finished_at.range(missing).map(|(_, at)| *at).min();
    Some(Lag { segments, since: since.filter(|_| segments > 0) })
}

/// The number of the first finished segment that the repository lacks, and of which cluster.
pub fn first_missing(observations: &Observations, catalog: &Catalog) -> Option<(SystemIdentifier, u64)> {
    let end = finished_end(observations)?;
    let next = next_wanted(catalog, end.system).filter(|next| *next < end.number)?;
    Some((end.system, next))
}

fn finished_end(observations: &Observations) -> Option<FinishedEnd> {
    let size = |system| {
        let sizes =
            observations.readable().find_map(|(_, catalog)| Some(catalog.archive(system)?.segment_size()));
        let of_server = observations.server.state.as_ref().ok().map(|state| state.segment_size);
        of_server.or(sizes)
    };
    if let Some(Identity { system_identifier: system, wal_lsn, .. }) = observations.server.identity {
        return Some(FinishedEnd { system, number: wal_lsn.0 / size(system)?.bytes() });
    }
    let system = observations.newest_backup()?.system_identifier;
    let archives = observations.readable().filter_map(|(_, catalog)| catalog.archive(system));
    let newest = archives.filter_map(newest_segment).max()?;
    Some(FinishedEnd { system, number: newest.number + 1 })
}

/// Of the newest timeline that has any.
fn newest_segment(archive: &WalArchive) -> Option<SegmentName> {
    let newest = |timeline| archive.intervals(timeline).next_back().map(|interval| interval.last);
    archive.timelines().into_iter().rev().find_map(newest)
}

/// The number of the segment that comes next: behind the newest one stored, else the one that the newest backup
/// stopped in.
fn next_wanted(catalog: &Catalog, system: SystemIdentifier) -> Option<u64> {
    let stored = catalog.archive(system).and_then(newest_segment).map(|newest| newest.number + 1);
    stored.or_else(|| {
        let backup = catalog.backups_of(system).next_back()?;
        Some(SegmentName::ending(backup.stop_lsn, backup.timeline, backup.wal_segment_size).number)
    })
}
