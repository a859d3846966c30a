//! Which WAL the kept backups need.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};

use super::backups::{self, Branches, Chosen, Entry};
use super::{Policy, Situation, Verdict, WalFiles, WalVerdict};
use crate::catalog::leftover::{LeftoverKind, Unrecorded};
use crate::catalog::wal::{Gap, Interval};
use crate::catalog::{BackupInfo, BackupName, Catalog, WalArchive};
use crate::pg::{SegmentName, SegmentSize, SystemIdentifier, Timeline, WalFileName};

/// How far the WAL of a kept backup is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// From where it starts to where it stops: it can be restored to when it ended.
    ToItsStop,
    /// From where it starts on: it can be restored to any later time.
    Onward,
}

/// The WAL of one cluster that is of use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalNeed {
    segment_size: SegmentSize,
    stretches: Vec<Stretch>,
}

/// Segments that something needs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stretch {
    /// `None` is any.
    timelines: Option<BTreeSet<Timeline>>,
    first: u64,
    /// `None` is without end.
    last: Option<u64>,
    reason: String,
}

impl Stretch {
    fn has(&self, segment: SegmentName) -> bool {
        self.first <= segment.number
            && self.last.is_none_or(|last| segment.number <= last)
            && self.timelines.as_ref().is_none_or(|timelines| timelines.contains(&segment.timeline))
    }
}

impl WalNeed {
    /// All WAL from this segment on.
    pub fn since(segment: SegmentName, segment_size: SegmentSize) -> Self {
        let stretch = Stretch { timelines: None, first: segment.number, last: None, reason: String::new() };
        Self { segment_size, stretches: vec![stretch] }
    }

    /// Whether a file is of use. A history always is, and so may be what has an impossible name.
    pub fn has(&self, name: &WalFileName) -> bool {
        let segment = name.segment(self.segment_size);
        segment.is_none_or(|segment| self.stretch_of(segment).is_some())
    }

    /// Whether any segment of these numbers is of use, on whatever timeline.
    pub fn has_any(&self, gap: Gap) -> bool {
        let (first, last) = (gap.first.number, gap.last.number);
        self.stretches
            .iter()
            .any(|stretch| stretch.first <= last && stretch.last.is_none_or(|end| first <= end))
    }

    fn stretch_of(&self, segment: SegmentName) -> Option<&Stretch> {
        self.stretches.iter().find(|stretch| stretch.has(segment))
    }

    /// What the kept backups of one cluster need; `None` without one.
    fn of(chosen: &Chosen<'_>, system: SystemIdentifier, archive: Option<&WalArchive>) -> Option<Self> {
        let of_system = |entry: &&Entry<'_>| entry.info.system_identifier == system && entry.is_kept();
        let kept = || chosen.entries.iter().filter(of_system);
        let segment_size = kept().next()?.info.wal_segment_size;
        let number_of_start = |info: &BackupInfo| info.start_lsn.0 / segment_size.bytes();
        let onward = kept().filter(|entry| entry.reach == Reach::Onward).map(|entry| entry.info);
        let mut stretches = Vec::new();
        if let Some(oldest) = onward.min_by_key(|info| number_of_start(info)) {
            let reason = format!("since {} began", oldest.name);
            stretches.push(Stretch { timelines: None, first: number_of_start(oldest), last: None, reason });
        }
        for entry in kept() {
            let info = entry.info;
            let timelines = lineage(archive, info.timeline);
            let last = SegmentName::ending(info.stop_lsn, info.timeline, segment_size).number;
            stretches.push(Stretch {
                timelines: Some(timelines),
                first: number_of_start(info),
                last: Some(last.max(number_of_start(info))),
                reason: format!("{} needs it to be consistent", info.name),
            });
        }
        Some(Self { segment_size, stretches })
    }
}

/// A timeline and its ancestors. Where they are not known, each older one may be.
fn lineage(archive: Option<&WalArchive>, timeline: Timeline) -> BTreeSet<Timeline> {
    let is_known = archive.is_some_and(|archive| archive.histories().contains_key(&timeline));
    match is_known || timeline == Timeline::FIRST {
        true => backups::history(archive, timeline).spans().map(|span| span.timeline).collect(),
        false => {
            let older = archive.map(WalArchive::timelines).unwrap_or_default();
            older.into_iter().filter(|older| *older < timeline).chain([timeline]).collect()
        }
    }
}

/// What is of use of each cluster's WAL if nothing is known but the backups, of whatever repositories, and the
/// histories: at least what [`plan`](super::plan) would keep for them. A cluster that is not named has no kept backup.
///
/// `None` where nothing can be said, so that all of it may be.
pub fn wal_of_use(
    backups: &[BackupInfo],
    histories: &BTreeMap<SystemIdentifier, BTreeMap<Timeline, Vec<u8>>>,
    damage: BTreeMap<BackupName, String>,
    policy: &Policy,
    now: DateTime<Utc>,
) -> Option<BTreeMap<SystemIdentifier, WalNeed>> {
    let mut known = backups.to_vec();
    known.sort_by_key(|info| (info.name, info.started_at));
    known.dedup_by_key(|info| info.name);
    let mut archives = BTreeMap::new();
    for info in &known {
        let system = info.system_identifier;
        let archive = archives.entry(system).or_insert_with(|| WalArchive::new(info.wal_segment_size));
        for (timeline, content) in histories.get(&system).into_iter().flatten() {
            archive.add_history(*timeline, content);
        }
    }
    wal_of_use_in(&Catalog::new(known, Vec::new(), archives), damage, policy, now)
}

/// The same of what one repository holds.
pub fn wal_of_use_in(
    catalog: &Catalog,
    damage: BTreeMap<BackupName, String>,
    policy: &Policy,
    now: DateTime<Utc>,
) -> Option<BTreeMap<SystemIdentifier, WalNeed>> {
    let situation = Situation {
        catalog,
        cluster: None,
        damage,
        in_use: BTreeMap::new(),
        leftovers: Vec::new(),
        newest_object_at: None,
        now,
    };
    let chosen = backups::choose_among(&situation, policy, Branches::All).ok()?;
    let systems = catalog.archives();
    let need = |(&system, archive)| Some((system, WalNeed::of(&chosen, system, Some(archive))?));
    Some(systems.iter().filter_map(need).collect())
}

/// What becomes of every archived file.
pub fn verdicts(situation: &Situation<'_>, chosen: &Chosen<'_>) -> Vec<WalVerdict> {
    let mut verdicts = Vec::new();
    for (&system, archive) in situation.catalog.archives() {
        let judge = Judge::new(situation, chosen, system, archive);
        for timeline in archive.timelines() {
            judge.judge_timeline(timeline, &mut verdicts);
        }
        for name in archive.misfits() {
            let verdict = Verdict::keep("no segment of this cluster has such a name");
            judge.push(&mut verdicts, WalFiles::Named(name.clone()), verdict);
        }
    }
    verdicts
}

/// Decides about the WAL of one cluster.
struct Judge<'a> {
    system: SystemIdentifier,
    archive: &'a WalArchive,
    /// Why all of it is kept.
    all: Option<String>,
    need: Option<WalNeed>,
}

impl<'a> Judge<'a> {
    fn new(
        situation: &Situation<'_>,
        chosen: &Chosen<'_>,
        system: SystemIdentifier,
        archive: &'a WalArchive,
    ) -> Self {
        let need = WalNeed::of(chosen, system, Some(archive));
        let all = in_progress(situation).or_else(|| match need {
            Some(_) => None,
            None => without_backups(situation, chosen, system, archive),
        });
        Self { system, archive, all, need }
    }

    fn push(&self, verdicts: &mut Vec<WalVerdict>, files: WalFiles, verdict: Verdict) {
        let (system_identifier, segment_size) = (self.system, self.archive.segment_size());
        verdicts.push(WalVerdict { system_identifier, segment_size, files, verdict });
    }

    fn judge_timeline(&self, timeline: Timeline, verdicts: &mut Vec<WalVerdict>) {
        for interval in self.archive.intervals(timeline) {
            self.judge_interval(interval, verdicts);
        }
        for partial in self.archive.partials().keys().filter(|partial| partial.timeline == timeline) {
            self.push(verdicts, WalFiles::Partial(*partial), self.verdict(*partial));
        }
        let notes = self.archive.backup_notes().iter().filter_map(|name| {
            let note = WalFileName::parse(name).ok()?;
            (note.timeline() == timeline).then_some((name, note.segment(self.archive.segment_size())?))
        });
        for (name, segment) in notes {
            self.push(verdicts, WalFiles::Named(name.clone()), self.verdict(segment));
        }
    }

    /// Cuts an interval into pieces about which the same is decided.
    fn judge_interval(&self, interval: &Interval, verdicts: &mut Vec<WalVerdict>) {
        let stretches = self.need.iter().flat_map(|need| &need.stretches);
        let edges = stretches.flat_map(|stretch| [Some(stretch.first), stretch.last.map(|last| last + 1)]);
        let mut edges: BTreeSet<u64> = edges.flatten().collect();
        edges.retain(|edge| interval.first.number < *edge && *edge <= interval.last.number);
        let starts: Vec<u64> = std::iter::once(interval.first.number).chain(edges).collect();
        let mut pieces: Vec<(SegmentName, SegmentName, Verdict)> = Vec::new();
        for (index, &number) in starts.iter().enumerate() {
            let first = SegmentName { number, ..interval.first };
            let next = starts.get(index + 1).copied().unwrap_or(interval.last.number + 1);
            let last = SegmentName { number: next - 1, ..interval.first };
            let verdict = self.verdict(first);
            match pieces.last_mut() {
                Some((_, end, before)) if *before == verdict => *end = last,
                _ => pieces.push((first, last, verdict)),
            }
        }
        for (first, last, verdict) in pieces {
            self.push(verdicts, WalFiles::Segments { first, last }, verdict);
        }
    }

    fn verdict(&self, segment: SegmentName) -> Verdict {
        if let Some(reason) = &self.all {
            return Verdict::keep(reason.clone());
        }
        match &self.need {
            None => Verdict::delete("no backup of this cluster is kept"),
            Some(need) => match need.stretch_of(segment) {
                Some(stretch) => Verdict::keep(stretch.reason.clone()),
                None => Verdict::delete("no kept backup needs it"),
            },
        }
    }
}

/// Nobody knows yet which WAL a backup in progress needs.
fn in_progress(situation: &Situation<'_>) -> Option<String> {
    situation.leftovers.iter().find_map(|leftover| match &leftover.kind {
        LeftoverKind::Unrecorded(Unrecorded::Held(_)) => {
            let name = leftover.key.rsplit('/').next().unwrap_or_default();
            Some(format!("{name} is being written, and may need it"))
        }
        _ => None,
    })
}

/// Why WAL of a cluster without a kept backup is kept: it is not a former cluster, but one whose first backup is yet
/// to come.
fn without_backups(
    situation: &Situation<'_>,
    chosen: &Chosen<'_>,
    system: SystemIdentifier,
    archive: &WalArchive,
) -> Option<String> {
    if situation.cluster == Some(system) {
        return Some("it is of the configured cluster".to_owned());
    }
    let newest_backup = chosen.entries.iter().filter(|entry| entry.is_good() && entry.is_kept());
    let newest_backup = newest_backup.map(|entry| entry.info.stopped_at).max()?;
    let timelines = archive.timelines();
    let stored = timelines.iter().flat_map(|timeline| archive.intervals(*timeline));
    let newest_wal = stored.map(|interval| interval.last_stored_at).max()?;
    (newest_wal > newest_backup).then(|| "newer than every backup".to_owned())
}

/// `7 days`, `36 hours`; as many as there are, in the largest unit that leaves no rest.
pub fn shown_span(span: TimeDelta) -> String {
    let seconds = span.num_seconds();
    let units = [(86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")];
    let (unit, name) = units.into_iter().find(|(unit, _)| seconds % unit == 0).unwrap_or((1, "second"));
    match seconds / unit {
        1 => format!("1 {name}"),
        count => format!("{count} {name}s"),
    }
}
