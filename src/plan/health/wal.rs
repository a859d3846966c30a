//! WAL in the repositories: is it unbroken, is it recent, is it of the server's timeline.

use std::collections::BTreeSet;

use super::{AtRisk, Finding, Lag, Observations, Repository, Severity, at_risk, count, lag, span};
use crate::catalog::wal::Gap;
use crate::catalog::{BackupInfo, Catalog, WalArchive};
use crate::pg::history::TimelineHistory;
use crate::pg::{SegmentName, SegmentSize, SystemIdentifier, Timeline};

pub fn look(observations: &Observations, findings: &mut Vec<Finding>) {
    for (repository, catalog) in observations.readable() {
        for (&system, archive) in catalog.archives() {
            let gaps = Gaps { observations, system, archive, catalog };
            findings.extend(gaps.findings().into_iter().map(|finding| finding.of(repository)));
            findings.extend(unreadable_histories(archive).map(|finding| finding.of(repository)));
        }
    }
    lags(observations, findings);
    findings.extend(timeline(observations));
}

/// What is missing of one cluster in one repository.
struct Gaps<'a> {
    observations: &'a Observations,
    system: SystemIdentifier,
    archive: &'a WalArchive,
    catalog: &'a Catalog,
}

impl Gaps<'_> {
    fn findings(&self) -> Vec<Finding> {
        let size = self.archive.segment_size();
        let needed_from = |backup: &BackupInfo| backup.start_lsn.0 / size.bytes();
        // What lies before every backup could not be restored anyway.
        let Some(oldest) = self.catalog.backups_of(self.system).map(needed_from).min() else { return vec![] };
        let newest = self.catalog.backups_of(self.system).next_back();
        let timelines = self.archive.timelines();
        let gaps = timelines.iter().flat_map(|timeline| self.archive.gaps(*timeline));
        let gaps: BTreeSet<(SegmentName, SegmentName)> = gaps
            .chain(newest.and_then(|newest| self.behind(newest)))
            .filter(|gap| gap.last.number >= oldest)
            .map(|gap| (gap.first, gap.last))
            .collect();
        let is_open = |last: SegmentName| newest.is_some_and(|newest| last.number >= needed_from(newest));
        gaps.into_iter().map(|(first, last)| self.finding(first, last, is_open(last), size)).collect()
    }

    /// Where recovery of `newest` along the newest timeline comes to a segment that is missing, with others behind it
    /// that the same timeline does not have.
    fn behind(&self, newest: &BackupInfo) -> Option<Gap> {
        let timeline = self.archive.timelines().last().copied()?;
        let history = match self.archive.histories().get(&timeline) {
            Some(history) => history.clone().ok()?,
            None => TimelineHistory::of(timeline),
        };
        if !history.contains(newest.timeline, newest.stop_lsn) {
            return None;
        }
        let end = self.archive.contiguous_from(newest.stop_lsn, &history);
        let later = end.later?;
        let is_known = self
            .archive
            .gaps(end.missing.timeline)
            .any(|gap| (gap.first.number..=gap.last.number).contains(&end.missing.number));
        let last = SegmentName { timeline: end.missing.timeline, number: later.number - 1 };
        (!is_known).then_some(Gap { first: end.missing, last: last.max(end.missing) })
    }

    fn finding(&self, first: SegmentName, last: SegmentName, is_open: bool, size: SegmentSize) -> Finding {
        let (first_name, last_name) = (first.file_name(size), last.file_name(size));
        let what = match last.number - first.number {
            0 => format!("{first_name} is missing"),
            1.. => {
                let segments = count(last.number - first.number + 1, "segment");
                format!("{segments} are missing, {first_name} to {last_name}")
            }
        };
        if let Some(holder) = self.elsewhere(first, last) {
            let severity = if is_open { Severity::Warning } else { Severity::Info };
            let hint = format!("Repository {} has what is missing: run `pgbak wal-sync`.", holder.name);
            return Finding::new("wal-gap", severity, what).hint(hint);
        }
        match is_open {
            true => Finding::critical("wal-gap", format!("{what}: nothing behind that can be restored"))
                .hint("Take a base backup now with `pgbak base-backup`. The times in the gap are lost."),
            false => Finding::info("wal-gap", format!("{what}; a later backup does without that"))
                .hint("Nothing is to be done. The times in the gap cannot be restored."),
        }
    }

    fn elsewhere(&self, first: SegmentName, last: SegmentName) -> Option<&Repository> {
        let has_all = |catalog: &Catalog| {
            catalog.archive(self.system).is_some_and(|archive| {
                archive
                    .intervals(first.timeline)
                    .any(|interval| interval.first <= first && last <= interval.last)
            })
        };
        self.observations.readable().find(|(_, catalog)| has_all(catalog)).map(|(repository, _)| repository)
    }
}

fn unreadable_histories(archive: &WalArchive) -> impl Iterator<Item = Finding> {
    archive.histories().iter().filter_map(|(timeline, history)| {
        let reason = history.as_ref().err()?;
        let message = format!("the history of timeline {timeline} cannot be used: {reason}");
        let hint = "Delete it in this repository and run `pgbak wal-sync` if another one has it whole; or archive \
                    it again from the server's pg_wal.";
        Some(Finding::critical("history-unreadable", message).hint(hint))
    })
}

/// Behind the server altogether is one finding; behind another repository is one for each.
fn lags(observations: &Observations, findings: &mut Vec<Finding>) {
    if observations.readable().any(|(_, catalog)| at_risk(observations, catalog).is_some()) {
        return risks(observations, findings);
    }
    let allowed = observations.thresholds.wal_lag_max;
    let readable: Vec<_> = observations.readable().collect();
    let lags: Vec<(&Repository, Lag)> = readable
        .iter()
        .filter_map(|(repository, catalog)| Some((*repository, lag(observations, catalog)?)))
        .collect();
    let Some(least) = lags.iter().map(|(_, lag)| lag.segments).min() else { return };
    let is_late = |lag: &Lag| lag.since.is_some_and(|since| observations.now - since > allowed);
    let late = lags.iter().filter(|(_, lag)| is_late(lag));
    let mut is_told = false;
    for (repository, lag) in late {
        let age = span(lag.since.map_or(0, |since| observations.age_seconds(since)));
        let expected = span(allowed.num_seconds());
        if lag.segments > least {
            let segments = count(lag.segments - least, "segment");
            let message = format!(
                "it lacks {segments} that another repository has; the first was finished {age} ago, expected at \
                 most {expected}"
            );
            let hint = "Run `pgbak wal-sync`, and see why the timer did not.";
            findings.push(Finding::warning("wal-not-synced", message).hint(hint).of(repository));
        } else if !is_told {
            is_told = true;
            let message = format!(
                "{} not stored anywhere; the first was finished {age} ago, expected at most {expected}",
                match lag.segments {
                    1 => "1 segment is".to_owned(),
                    number => format!("{number} segments are"),
                }
            );
            findings.push(Finding::critical("wal-behind", message).hint(behind_hint(observations)));
        }
    }
}

fn behind_hint(observations: &Observations) -> &'static str {
    match observations.source {
        super::WalSource::Push { .. } => {
            "See the server's log for what `pgbak wal-push` said. Where that is \"not found\", archive_command needs pgbak's \
             full path."
        }
        super::WalSource::Directory { .. } => {
            "Run `pgbak wal-sync`, and see the server's log for what archive_command said."
        }
        super::WalSource::Stream { .. } => {
            "Run `pgbak wal-sync`, and see why its timer, or `pgbak wal-sync --follow`, does not."
        }
    }
}

/// Streaming brings WAL long before its segment is finished.
fn risks(observations: &Observations, findings: &mut Vec<Finding>) {
    let allowed = observations.thresholds.wal_lag_max;
    let risks: Vec<(&Repository, AtRisk)> = observations
        .readable()
        .filter_map(|(repository, catalog)| Some((repository, at_risk(observations, catalog)?)))
        .collect();
    let Some(least) = risks.iter().map(|(_, risk)| risk.bytes).min() else { return };
    let is_late = |risk: &AtRisk| risk.since.is_some_and(|since| observations.now - since > allowed);
    let mut is_told = false;
    for (repository, risk) in risks.iter().filter(|(_, risk)| is_late(risk)) {
        let age = span(risk.since.map_or(0, |since| observations.age_seconds(since)));
        let expected = span(allowed.num_seconds());
        let kilobytes = (risk.bytes - if risk.bytes > least { least } else { 0 }).div_ceil(1000);
        if risk.bytes > least {
            let message = format!(
                "it lacks {kilobytes} kB of WAL that another repository has, of the last {age}, expected at most {expected}"
            );
            let hint = "Run `pgbak wal-sync`, and see why the timer or service did not.";
            findings.push(Finding::warning("wal-not-synced", message).hint(hint).of(repository));
        } else if !is_told {
            is_told = true;
            let message = format!(
                "{kilobytes} kB of the server's WAL are stored nowhere: if it vanished now, up to the last {age} would be \
                 lost, expected at most {expected}"
            );
            findings.push(Finding::critical("wal-behind", message).hint(behind_hint(observations)));
        }
    }
}

/// Whether the archive and the server agree on the timeline.
fn timeline(observations: &Observations) -> Option<Finding> {
    let identity = observations.server.identity?;
    let archives =
        || observations.readable().filter_map(|(_, catalog)| catalog.archive(identity.system_identifier));
    let newest = archives().flat_map(WalArchive::timelines).max()?;
    let (server, first) = (identity.timeline, Timeline::FIRST);
    if newest < server
        || !archives().any(|archive| server == first || archive.histories().contains_key(&server))
    {
        let message = format!("the server is on timeline {server}, whose history is in no repository");
        let history = format!("{:08X}.history", server.get());
        let hint = match observations.source {
            super::WalSource::Stream { .. } => "Run `pgbak wal-sync`, which fetches it.".to_owned(),
            _ => format!(
                "Run `pgbak wal-push pg_wal/{history}` in the server's data directory, and see why it was not archived."
            ),
        };
        return Some(Finding::warning("timeline-not-archived", message).hint(hint));
    }
    (server < newest).then(|| {
        let message = format!(
            "the server is on timeline {server}, but WAL of timeline {newest} is archived: another server was promoted"
        );
        Finding::warning("timeline-left-behind", message).hint(format!(
            "Is this the right server? If the promotion was only a test, restore with `--target-timeline {server}`, and \
             let no test write into these repositories."
        ))
    })
}
