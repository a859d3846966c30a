//! What the operator should know about a plan: facts and doubts that are no reason to refuse it.

use chrono::{DateTime, Utc};

use super::target::shown;
use super::{Candidate, Planner, Reach, RecoveryRequest, Target, TargetAction, TargetTimeline};
use crate::catalog::{BackupInfo, BackupName};
use crate::pg::{SegmentName, Timeline};

impl<'a> Planner<'a> {
    pub(super) fn notes(&self, candidate: &Candidate<'a>, reach: &Reach) -> Vec<String> {
        let mut notes = Vec::new();
        if self.named.is_none() {
            self.note_passed_over(candidate.backup, &mut notes);
        }
        if let [first, ..] = &candidate.backup.damaged_pages[..] {
            let name = candidate.backup.name;
            notes.push(format!(
                "When {name} was taken, the server reported damaged pages; the first: {first}."
            ));
        }
        self.note_unknown_timeline(candidate, &mut notes);
        self.note_doubts(candidate, reach, &mut notes);
        self.note_no_effect(&mut notes);
        notes
    }

    /// Newer backups that would have been before the target.
    fn note_passed_over(&self, chosen: &BackupInfo, notes: &mut Vec<String>) {
        let is_newer = |other: &&BackupInfo| other.started_at > chosen.started_at;
        for backup in
            self.backups.iter().copied().filter(is_newer).filter(|other| self.is_before_target(other))
        {
            let usable = self.candidate(backup).and_then(|candidate| self.prove(&candidate));
            notes.push(match usable {
                Err(error) => format!("A newer backup was passed over: {error}."),
                Ok(_) => format!("{} is newer, but was passed over: it holds damaged pages.", backup.name),
            });
        }
        // Of a damaged backup no more is known than when it began.
        let is_before_target = |name: BackupName| match self.request.target {
            Target::Time(time) => name.started_at() <= time,
            _ => true,
        };
        for damaged in self.catalog.damaged() {
            let name = damaged.name.parse();
            if name.is_ok_and(|name| name > chosen.name && is_before_target(name)) {
                notes.push(format!("{} was passed over: {}.", damaged.name, damaged.reason));
            }
        }
    }

    /// A timeline of which there is WAL, but no history: where it branched off is not known.
    fn note_unknown_timeline(&self, candidate: &Candidate<'_>, notes: &mut Vec<String>) {
        let newest = self.archive.and_then(|archive| archive.timelines().last().copied());
        let is_unknown = |newest: &Timeline| *newest > candidate.history.timeline();
        let follows_newest =
            self.request.timeline == TargetTimeline::Latest && self.request.target != Target::Immediate;
        if let Some(newest) = newest.filter(is_unknown).filter(|_| follows_newest) {
            notes.push(format!(
                "The archive has WAL of timeline {newest}, but not its history: it cannot be followed."
            ));
        }
    }

    /// What cannot be known before PostgreSQL has read the WAL.
    fn note_doubts(&self, candidate: &Candidate<'_>, reach: &Reach, notes: &mut Vec<String>) {
        let backup = candidate.backup;
        let last_stored_at = reach.coverage.and_then(|end| end.last_stored_at);
        match &self.request.target {
            Target::Immediate => {}
            Target::End if reach.lsn <= backup.stop_lsn => notes.push(
                "No WAL after the backup is archived: recovery ends where the backup stopped.".to_owned(),
            ),
            Target::End => {}
            Target::Lsn(lsn) => {
                let is_in_last_segment = reach.lsn - *lsn <= backup.wal_segment_size.bytes();
                if is_in_last_segment {
                    notes.push(format!(
                        "{lsn} is in the last segment of contiguous WAL: PostgreSQL will stop with an error if no \
                         record begins at or after it."
                    ));
                }
            }
            Target::Time(time) => {
                self.note_abandoned_branch(candidate, *time, notes);
                if let Some(stored_at) = last_stored_at.filter(|stored_at| stored_at < time) {
                    notes.push(format!(
                        "The newest WAL was archived at {}, before the target: PostgreSQL will stop with an error if \
                         nothing in it was committed after the target.",
                        shown(stored_at)
                    ));
                }
            }
            Target::Xid(_) | Target::Name(_) if self.named.is_none() => notes.push(format!(
                "Whether {} stopped before {} is known only to the WAL: if it did not, PostgreSQL will stop with an \
                 error, and an older backup must be named.",
                backup.name, self.request.target
            )),
            Target::Xid(_) | Target::Name(_) => {}
        }
    }

    /// A time may mean a state that only an abandoned branch was in. PostgreSQL would stop at the fork, silently.
    fn note_abandoned_branch(
        &self,
        Candidate { history, .. }: &Candidate<'_>,
        time: DateTime<Utc>,
        notes: &mut Vec<String>,
    ) {
        let Some(archive) = self.archive else { return };
        let on_history = || self.backups_on(history);
        for (span, switch_lsn) in history.spans().filter_map(|span| Some((span, span.end?))) {
            let timeline = span.timeline;
            let size = archive.segment_size();
            let went_on_in_others = archive
                .intervals(timeline)
                .any(|interval| switch_lsn <= interval.last.start(size) && time <= interval.last_stored_at);
            let tip = archive.tip(SegmentName::holding(switch_lsn, timeline, size));
            let went_on =
                went_on_in_others || tip.is_some_and(|tip| switch_lsn < tip.lsn && time <= tip.stored_at);
            let is_after_fork =
                on_history().any(|other| timeline < other.timeline && other.stopped_at <= time);
            let is_before_fork =
                on_history().any(|other| other.timeline <= timeline && time <= other.stopped_at);
            if went_on && !is_after_fork && !is_before_fork {
                notes.push(format!(
                    "Timeline {timeline} went on after the history of timeline {} left it at {switch_lsn}: what was \
                     committed there until {} comes back only with `--target-timeline {timeline}`.",
                    history.timeline(),
                    shown(time)
                ));
            }
        }
    }

    /// What was asked for, but does not go with the target.
    fn note_no_effect(&self, notes: &mut Vec<String>) {
        let RecoveryRequest { target, exclusive, action, standby, .. } = self.request;
        if *exclusive && !matches!(target, Target::Time(_) | Target::Lsn(_) | Target::Xid(_)) {
            notes.push(format!("There is nothing to exclude at {target}: recovery stops there."));
        }
        if *target == Target::End && *action != TargetAction::Promote && !standby {
            let action = action.name();
            notes.push(format!("There is no target at which to {action}: the server opens when WAL ends."));
        }
    }
}
