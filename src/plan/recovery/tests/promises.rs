//! What every plan promises, held against random clusters of which everything is known.

use chrono::TimeDelta;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::pg::history::Span;
use crate::plan::recoverable::{self, RecoverableInterval};

/// A timeline as it really was, in quarters.
#[derive(Debug, Clone)]
pub struct Branch {
    /// Ancestors and where they were left.
    pub switches: Vec<(u32, u64)>,
    pub begin: u64,
    pub end: u64,
    /// How much later than `at(quarter)` a quarter was written.
    pub delay: u64,
}

/// A catalog, and the truth behind it.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Timeline 1 first.
    pub branches: Vec<Branch>,
    pub world: World,
    /// Timeline and number of the whole segments in the archive.
    pub segments: BTreeSet<(u32, u64)>,
}

impl Cluster {
    /// Timelines that grew from each other, as parent, where it was left, length and delay.
    fn grow(trunk: u64, forks: Vec<(Index, Index, u64, u64)>) -> Vec<Branch> {
        let mut branches = vec![Branch { switches: vec![], begin: 0, end: trunk, delay: 0 }];
        for (parent, left, length, delay) in forks {
            let number = parent.index(branches.len());
            let parent = &branches[number];
            let begin = parent.begin + left.index((parent.end - parent.begin + 1) as usize) as u64;
            let mut switches = parent.switches.clone();
            switches.push((number as u32 + 1, begin));
            let delay = parent.delay + delay;
            branches.push(Branch { switches, begin, end: begin + length, delay });
        }
        branches
    }

    /// Archives everything but what is `lost`.
    fn archive(branches: Vec<Branch>, lost: &[(u32, u64)]) -> Self {
        let mut cluster = Self { branches, world: World::new(), segments: BTreeSet::new() };
        for (tli, branch) in (1..).zip(&cluster.branches) {
            let mut world = std::mem::replace(&mut cluster.world, World::new());
            if tli > 1 {
                world = world.history(tli, &branch.switches);
            }
            let kept = (branch.begin / 4..branch.end / 4).filter(|number| !lost.contains(&(tli, *number)));
            let kept: Vec<u64> = kept.collect();
            cluster.segments.extend(kept.iter().map(|number| (tli, *number)));
            for number in kept {
                world.file(&segment_name(tli, number), 4 * (number + 1) + branch.delay);
            }
            world.file(&format!("{}.partial", segment_name(tli, branch.end / 4)), branch.end + branch.delay);
            cluster.world = world;
        }
        cluster
    }

    /// Takes a backup somewhere on some timeline; on a standby it stops later than its WAL says.
    fn back_up(&mut self, branch: Index, start: Index, length: u64, lag: u64, damaged: bool) {
        let number = branch.index(self.branches.len());
        let branch = &self.branches[number];
        let start = branch.begin + start.index((branch.end - branch.begin + 1) as usize) as u64;
        let stop = (start + length).min(branch.end);
        let apart = TimeDelta::seconds(self.world.backups.len() as i64);
        let (started_at, stopped_at) = (at(start + branch.delay), at(stop + branch.delay + lag));
        let mut backup = backup(number as u32 + 1, start, stop);
        backup.name = BackupName::of(started_at + apart);
        (backup.started_at, backup.stopped_at) = (started_at + apart, stopped_at + apart);
        backup.source = if lag > 0 { BackupSource::Standby } else { BackupSource::Primary };
        backup.damaged_pages = if damaged { vec!["block 7".to_owned()] } else { vec![] };
        self.world.backups.push(backup);
    }

    fn found(&self, plan: &RecoveryPlan) -> &BackupInfo {
        self.world.backups.iter().find(|backup| backup.name == plan.backup).unwrap()
    }

    /// Whether a segment has this quarter of the history: of the timeline that wrote it, or of one with a copy.
    fn is_archived(&self, history: &TimelineHistory, quarter: u64) -> bool {
        let wrote = history.timeline_holding(lsn(quarter));
        let mut heirs = history.spans().filter(|span| span.timeline >= wrote && starts_by(span, quarter / 4));
        heirs.any(|span| self.segments.contains(&(span.timeline.get(), quarter / 4)))
    }

    /// Where the WAL was, on this history, when the clock showed `time`.
    fn position(&self, history: &TimelineHistory, time: DateTime<Utc>) -> Lsn {
        let was_written = |&(span, quarter): &(Span, u64)| {
            let branch = &self.branches[span.timeline.get() as usize - 1];
            span.begin <= lsn(quarter)
                && span.end.is_none_or(|end| lsn(quarter) < end)
                && quarter < branch.end
                && at(quarter + branch.delay) < time
        };
        let quarters = history.spans().flat_map(|span| (0..200).map(move |quarter| (span, quarter)));
        lsn(quarters.filter(was_written).map(|(_, quarter)| quarter + 1).max().unwrap_or(0))
    }
}

fn starts_by(span: &Span, number: u64) -> bool {
    span.begin.0 / SIZE.bytes() <= number
}

prop_compose! {
    fn branches()(
        trunk in 8u64..60,
        forks in prop::collection::vec((any::<Index>(), any::<Index>(), 0u64..40, 0u64..20), 0..5),
    ) -> Vec<Branch> {
        Cluster::grow(trunk, forks)
    }
}

prop_compose! {
    pub fn clusters(lost_max: usize)(
        branches in branches(),
        lost in prop::collection::vec((1u32..6, 0u64..20), 0..=lost_max),
        backups in prop::collection::vec(
            (any::<Index>(), any::<Index>(), 0u64..6, prop_oneof![3 => Just(0), 1 => 1u64..10], prop::bool::weighted(0.2)),
            1..6,
        ),
    ) -> Cluster {
        let mut cluster = Cluster::archive(branches, &lost);
        for (branch, start, length, lag, damaged) in backups {
            cluster.back_up(branch, start, length, lag, damaged);
        }
        cluster
    }
}

fn requests() -> impl Strategy<Value = RecoveryRequest> {
    let target = prop_oneof![
        Just(Target::End),
        Just(Target::Immediate),
        (0u64..120).prop_map(|quarter| Target::Time(at(quarter))),
        (0u64..100).prop_map(|quarter| Target::Lsn(lsn(quarter))),
        Just(Target::Xid(735)),
        Just(Target::Name("before".to_owned())),
    ];
    let timeline = prop_oneof![
        4 => Just(TargetTimeline::Latest),
        1 => Just(TargetTimeline::Current),
        2 => (1u32..6).prop_map(number),
    ];
    (target, timeline, any::<bool>(), any::<bool>()).prop_map(|(target, timeline, exclusive, standby)| {
        RecoveryRequest { exclusive, standby, ..to(target).on(timeline) }
    })
}

pub fn by_name(request: &RecoveryRequest, backup: &BackupInfo) -> RecoveryRequest {
    RecoveryRequest { backup: Some(backup.name.to_string()), ..request.clone() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_backup_is_before_the_target_and_on_its_history(
        cluster in clusters(6), request in requests(), named in prop::option::of(any::<Index>()),
    ) {
        let request = match named {
            Some(index) => by_name(&request, index.get(&cluster.world.backups)),
            None => request,
        };
        let Ok(plan) = cluster.world.plan(&request) else { return Ok(()) };
        let backup = cluster.found(&plan);
        match request.target {
            Target::Time(time) if request.exclusive => prop_assert!(backup.stopped_at < time),
            Target::Time(time) => prop_assert!(backup.stopped_at <= time),
            Target::Lsn(lsn) => prop_assert!(backup.stop_lsn <= lsn),
            _ => {}
        }
        if let Some(name) = &request.backup {
            prop_assert_eq!(name, &plan.backup.to_string());
        }

        // The truth: the planned timeline's branch goes through the backup's stop.
        let branch = &cluster.branches[plan.history.timeline().get() as usize - 1];
        let own = plan.history.timeline() == backup.timeline;
        let left = branch.switches.iter().find(|(tli, _)| *tli == backup.timeline.get());
        prop_assert!(own || left.is_some_and(|(_, quarter)| backup.stop_lsn <= lsn(*quarter)));
        match request.timeline {
            _ if request.target == Target::Immediate => prop_assert!(own),
            TargetTimeline::Latest => {
                prop_assert_eq!(plan.history.timeline().get() as usize, cluster.branches.len());
            }
            TargetTimeline::Current => prop_assert!(own),
            TargetTimeline::Number(timeline) => prop_assert_eq!(plan.history.timeline(), timeline),
        }
    }

    #[test]
    fn no_plan_crosses_a_gap_or_leaves_its_history(cluster in clusters(6), request in requests()) {
        let Ok(plan) = cluster.world.plan(&request) else { return Ok(()) };
        let (backup, history) = (cluster.found(&plan), &plan.history);
        let end = plan.wal.map_or(backup.stop_lsn, |wal| wal.to);
        if let Some(wal) = plan.wal {
            prop_assert_eq!(wal.from, backup.stop_lsn);
            for quarter in wal.from.0 / QUARTER..wal.to.0 / QUARTER {
                prop_assert!(cluster.is_archived(history, quarter), "quarter {} is missing", quarter);
            }
        }

        let is_behind = |quarter: &u64| end < lsn(*quarter) && cluster.is_archived(history, *quarter);
        let has_gap = (0..100).any(|quarter| is_behind(&quarter));
        match request.target {
            Target::Immediate => return Ok(()),
            Target::Lsn(lsn) => {
                prop_assert!(lsn < end);
                return Ok(());
            }
            Target::Time(time) => prop_assert!(!has_gap || cluster.position(history, time) <= end),
            Target::End => {
                let mut others = cluster.world.backups.iter();
                let is_behind = |other: &BackupInfo| {
                    end < other.stop_lsn && history.contains(other.timeline, other.stop_lsn)
                };
                prop_assert!(!has_gap && !others.any(is_behind));
            }
            Target::Xid(_) | Target::Name(_) => prop_assert!(!has_gap && plan.wal.is_some()),
        }

        // What PostgreSQL asks for next is not there, on any timeline that it would take it from.
        let number = end.0 / SIZE.bytes();
        let read_last = history.timeline_holding(Lsn(end.0.saturating_sub(1)));
        let mut asked_for = history.spans().filter(|span| span.timeline >= read_last && starts_by(span, number));
        prop_assert!(!asked_for.any(|span| cluster.segments.contains(&(span.timeline.get(), number))));
    }

    #[test]
    fn each_segment_up_to_the_target_is_needed(cluster in clusters(2), quarter in 0u64..60, lost in any::<Index>()) {
        let Ok(plan) = cluster.world.plan(&to_lsn(quarter)) else { return Ok(()) };
        let backup = cluster.found(&plan);
        let first = backup.stop_lsn.0 / SIZE.bytes();
        let lost = first + lost.index((quarter / 4 - first + 1) as usize) as u64;
        let lost: Vec<(u32, u64)> = (1..6).map(|tli| (tli, lost)).collect();

        let kept: Vec<_> = cluster.segments.iter().copied().filter(|segment| !lost.contains(segment)).collect();
        let mut without = World { archive: WalArchive::new(SIZE), ..cluster.world.clone() };
        for (tli, branch) in (2..).zip(&cluster.branches[1..]) {
            without = without.history(tli, &branch.switches);
        }
        for (tli, number) in kept {
            without = without.wal(tli, [number]);
        }
        let refused = without.plan(&by_name(&to_lsn(quarter), backup));
        prop_assert!(refused.is_err(), "{:?}", refused);
        let error = refused.unwrap_err();
        let is_about_wal = matches!(
            error,
            RecoveryError::WalMissing { .. }
                | RecoveryError::WalOfOtherBranch { .. }
                | RecoveryError::NothingArchived { .. }
        );
        prop_assert!(is_about_wal, "{}", error);
    }

    #[test]
    fn no_better_backup_was_overlooked(cluster in clusters(3), request in requests()) {
        prop_assume!(request.target != Target::Immediate);
        let plan = cluster.world.plan(&request);
        let chosen = plan.as_ref().ok().map(|plan| cluster.found(plan));
        let rank = |backup: &BackupInfo| (backup.damaged_pages.is_empty(), backup.started_at);
        for backup in &cluster.world.backups {
            let would_do = cluster.world.plan(&by_name(&request, backup)).is_ok();
            prop_assert!(!would_do || chosen.is_some_and(|chosen| rank(backup) <= rank(chosen)));
        }
    }

    #[test]
    fn with_all_wal_archived_every_location_after_a_backup_can_be_restored(
        cluster in clusters(0), target: Index,
    ) {
        let tip = cluster.branches.last().unwrap();
        let archived_end = tip.end / 4 * 4;
        if archived_end <= tip.begin {
            return Ok(()); // A promotion whose first segment has not been archived yet.
        }
        let quarter = target.index(archived_end as usize) as u64;
        let latest = cluster.branches.len() as u32;
        let is_usable = |backup: &&BackupInfo| {
            let own = backup.timeline.get() == latest;
            let left = tip.switches.iter().find(|(tli, _)| *tli == backup.timeline.get());
            let is_on = own || left.is_some_and(|(_, left)| backup.stop_lsn <= lsn(*left));
            is_on && backup.stop_lsn <= lsn(quarter)
        };
        let usable = cluster.world.backups.iter().any(|backup| is_usable(&backup));
        let plan = cluster.world.plan(&to_lsn(quarter));
        prop_assert_eq!(plan.is_ok(), usable, "{:?}", plan);
    }

    /// `recoverable` shows nothing that would be refused, and hides nothing that would not.
    #[test]
    fn a_location_can_be_restored_if_and_only_if_it_is_in_a_recoverable_interval(
        cluster in clusters(6), tli in 1u32..7, quarter in 0u64..100, byte in -1i64..=1,
    ) {
        let lsn = Lsn(lsn(quarter).0.saturating_add_signed(byte));
        let intervals = recoverable::intervals(&cluster.world.catalog());
        let holds = |interval: &&RecoverableInterval| {
            interval.timeline == timeline(tli) && (interval.from_lsn..interval.to_lsn).contains(&lsn)
        };
        let holding: Vec<_> = intervals.iter().filter(holds).collect();
        let plan = cluster.world.plan(&to(Target::Lsn(lsn)).on(number(tli)));
        prop_assert_eq!(holding.len(), usize::from(plan.is_ok()), "{:?} {:?}", plan, holding);
        if let Some(interval) = holding.first() {
            let from_its_backup = RecoveryRequest {
                backup: Some(interval.backup.to_string()),
                ..to(Target::Lsn(lsn)).on(number(tli))
            };
            prop_assert!(cluster.world.plan(&from_its_backup).is_ok());
        }
    }

    #[test]
    fn recoverable_intervals_of_a_timeline_are_in_order_and_apart(cluster in clusters(6)) {
        let intervals = recoverable::intervals(&cluster.world.catalog());
        for interval in &intervals {
            prop_assert!(interval.from_lsn <= interval.to_lsn);
            prop_assert!(interval.to_at.is_some() || interval.from_lsn == interval.to_lsn, "{:?}", interval);
        }
        for (before, after) in intervals.iter().zip(&intervals[1.min(intervals.len())..]) {
            let apart = before.timeline < after.timeline || before.to_lsn < after.from_lsn;
            prop_assert!(apart, "{:?} {:?}", before, after);
        }
    }

    #[test]
    fn every_refusal_says_what_to_do(cluster in clusters(6), request in requests()) {
        if let Err(error) = cluster.world.plan(&request) {
            prop_assert!(error.hint().is_some_and(|hint| hint.ends_with('.')), "{}", error);
            prop_assert!(!error.to_string().ends_with('.'));
        }
    }

    #[test]
    fn a_hint_with_a_location_keeps_its_word(cluster in clusters(6), request in requests()) {
        let error = match cluster.world.plan(&request) {
            Err(error) => error,
            Ok(_) => return Ok(()),
        };
        if let RecoveryError::WalMissing { reachable: Some(lsn), .. }
            | RecoveryError::WalOfOtherBranch { reachable: Some(lsn), .. } = error
        {
            let instead = RecoveryRequest { target: Target::Lsn(lsn), ..request };
            let plan = cluster.world.plan(&instead);
            prop_assert!(plan.is_ok(), "{:?}", plan);
        }
    }
}
