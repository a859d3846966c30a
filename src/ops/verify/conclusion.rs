//! From problems to findings: what is lost because of each, and what to do about it.
//!
//! This waits until every repository was looked at, as the remedy is often a good copy in another one.

use std::collections::HashMap;

use super::Checked;
use super::loss;
use super::problem::{Problem, Subject};
use super::report::{Finding, LostInterval, Unrestorable};
use crate::catalog::Catalog;
use crate::catalog::wal::Gap;
use crate::pg::{SegmentName, SystemIdentifier, WalFileName};
use crate::plan::recoverable::{self, RecoverableInterval};
use crate::repo::layout;

/// The findings of all repositories, in the order of the configuration and of the keys.
pub fn findings(checked: &[Checked]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, own) in checked.iter().enumerate() {
        let others =
            || checked.iter().enumerate().filter(move |(other, _)| *other != number).map(|(_, other)| other);
        let mut losses = Losses::of(own);
        let mut problems: Vec<&Problem> = own.problems.iter().collect();
        problems.sort_by(|one, other| (&one.object, &one.inside).cmp(&(&other.object, &other.inside)));
        for problem in problems {
            let good = others().find(|other| other.has_good_copy_of(own, problem));
            findings.push(Finding {
                code: problem.code,
                repository: Some(own.repository.name().to_owned()),
                object: Some(problem.object.clone()),
                inside: problem.inside.clone(),
                expected: problem.expected.clone(),
                found: problem.found.clone(),
                unrestorable: losses.of_subject(&problem.subject),
                hint: hint(own, problem, good),
            });
        }
    }
    findings
}

/// What each subject's loss costs; many problems may have one subject.
struct Losses<'a> {
    own: &'a Checked,
    now: Vec<RecoverableInterval>,
    known: HashMap<Subject, Unrestorable>,
}

impl<'a> Losses<'a> {
    fn of(own: &'a Checked) -> Self {
        Self { own, now: recoverable::intervals(&own.catalog), known: HashMap::new() }
    }

    fn of_subject(&mut self, subject: &Subject) -> Unrestorable {
        if let Some(known) = self.known.get(subject) {
            return known.clone();
        }
        let unrestorable = self.find(subject);
        self.known.insert(subject.clone(), unrestorable.clone());
        unrestorable
    }

    fn find(&self, subject: &Subject) -> Unrestorable {
        let catalog = &self.own.catalog;
        let without = |after: Catalog| loss::lost(&self.now, &recoverable::intervals(&after));
        let instants = |instants: Vec<LostInterval>| Unrestorable { instants, words: None };
        let words = |words: String| Unrestorable { instants: Vec::new(), words: Some(words) };
        match subject {
            Subject::Backup(name) => instants(without(catalog.without_backup(*name))),
            Subject::Segment(system, segment) => match catalog.archive(*system) {
                Some(archive) => {
                    let torn = archive.without_segment(*segment, self.own.stored_before(*system, *segment));
                    instants(without(catalog.with_archive(*system, torn)))
                }
                None => Unrestorable::default(),
            },
            Subject::Gap(system, gap) => match catalog.archive(*system) {
                Some(archive) => {
                    let stored_at = self.own.started_at;
                    let mended = catalog.with_archive(*system, archive.with_segments(*gap, stored_at));
                    instants(loss::lost(&recoverable::intervals(&mended), &self.now))
                }
                None => Unrestorable::default(),
            },
            Subject::History(_, timeline) => {
                words(format!("what only timeline {timeline} holds, from any backup of an older timeline"))
            }
            Subject::PagesOf(name) => words(format!("{name} can be restored, with this page as it is")),
            Subject::UnknownBackup(name) => {
                words(format!("{name}, and what can be restored from no older backup"))
            }
            Subject::SomeWal => words("what needs the WAL in it".to_owned()),
            Subject::Nothing => Unrestorable::default(),
        }
    }
}

fn hint(own: &Checked, problem: &Problem, good: Option<&Checked>) -> Option<String> {
    if problem.hint.is_some() {
        return problem.hint.clone();
    }
    let name = own.repository.name();
    let copy = good.map(|good| good.repository.name());
    Some(match (&problem.subject, copy) {
        (Subject::Backup(backup) | Subject::UnknownBackup(backup), Some(copy)) => {
            let directory = layout::backup_directory(*backup);
            format!(
                "Repository {copy} has a good copy: {}, then run `pgbak base-backup --copy-missing --repository \
                 {name}`.",
                own.removal(&directory, "rm -r"),
            )
        }
        (Subject::Backup(_) | Subject::UnknownBackup(_), None) => {
            "Take a new backup now: `pgbak base-backup`. Until then restore from another one with `--backup NAME`."
                .to_owned()
        }
        (Subject::PagesOf(_), _) => {
            "Check the server's disks and memory, and the relation itself with pg_amcheck. Keep the older backups, \
             which may have the page as it was."
                .to_owned()
        }
        (Subject::Segment(..) | Subject::History(..), Some(copy)) if problem.code.ends_with("-missing") => {
            format!("Repository {copy} has it: run `pgbak wal-sync`.")
        }
        (Subject::Gap(..), Some(copy)) => format!("Repository {copy} has it: run `pgbak wal-sync`."),
        (Subject::Segment(..) | Subject::History(..), Some(copy)) => format!(
            "Repository {copy} has a good copy: {}, then run `pgbak wal-sync`.",
            own.removal(&problem.object, "rm"),
        ),
        (Subject::Segment(..) | Subject::Gap(..), None) => {
            "Take a base backup now, so that what comes can be restored: `pgbak base-backup`. If the server still has \
             the segment in pg_wal, `pgbak wal-push` brings it here."
                .to_owned()
        }
        (Subject::History(..), None) => {
            "If the server still has the file in pg_wal, `pgbak wal-push` brings it here. Otherwise take a base \
             backup now: `pgbak base-backup`."
                .to_owned()
        }
        (Subject::SomeWal | Subject::Nothing, _) => return None,
    })
}

impl Checked {
    /// Whether this repository has soundly what `problem` makes of no use in `own`.
    fn has_good_copy_of(&self, own: &Self, problem: &Problem) -> bool {
        let is_sound = |is_it: &dyn Fn(&Problem) -> bool| !self.problems.iter().any(is_it);
        match &problem.subject {
            Subject::Backup(name) => {
                let (ours, theirs) = (own.catalog.backup(*name), self.catalog.backup(*name));
                let is_same = ours.zip(theirs).is_some_and(|(ours, theirs)| ours.files == theirs.files);
                is_same && is_sound(&|problem| problem.subject == Subject::Backup(*name))
            }
            Subject::UnknownBackup(name) => {
                let has_it = self.catalog.backup(*name).is_some();
                has_it && is_sound(&|problem| problem.subject.backup() == Some(*name))
            }
            Subject::Segment(system, segment) => self.has_segments(*system, *segment, *segment),
            Subject::Gap(system, Gap { first, last }) => self.has_segments(*system, *first, *last),
            Subject::History(system, timeline) => self
                .catalog
                .archive(*system)
                .is_some_and(|archive| matches!(archive.histories().get(timeline), Some(Ok(_)))),
            Subject::PagesOf(_) | Subject::SomeWal | Subject::Nothing => false,
        }
    }

    fn has_segments(&self, system: SystemIdentifier, first: SegmentName, last: SegmentName) -> bool {
        let Some(archive) = self.catalog.archive(system) else { return false };
        let mut intervals = archive.intervals(first.timeline);
        let has_all = intervals.any(|interval| interval.first <= first && last <= interval.last);
        let is_damaged = |problem: &Problem| match &problem.subject {
            Subject::Segment(of, segment) => *of == system && (first..=last).contains(segment),
            _ => false,
        };
        has_all && !self.problems.iter().any(is_damaged)
    }

    /// When the segment before was stored.
    fn stored_before(
        &self,
        system: SystemIdentifier,
        segment: SegmentName,
    ) -> Option<chrono::DateTime<chrono::Utc>> {
        let size = self.catalog.archive(system)?.segment_size();
        let before = SegmentName { number: segment.number.checked_sub(1)?, ..segment };
        let name = WalFileName::Segment(before.file_name(size).to_string());
        let of_any_codec = crate::pipe::Codec::ALL.map(|codec| layout::wal_file(system, &name, codec));
        of_any_codec.iter().find_map(|key| Some(self.inventory.wal.get(key)?.stored.stored_at))
    }

    /// How to remove an object by hand: in a sentence, after a colon.
    fn removal(&self, key: &str, command: &str) -> String {
        let place = self.repository.place();
        match place.starts_with('/') {
            true => format!("remove this one with `{command} '{place}/{key}'`"),
            false => format!("remove \"{key}\" from {place}"),
        }
    }
}
