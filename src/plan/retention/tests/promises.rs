//! What every plan promises, held against random clusters with promotions, gaps, standbys and damage.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::plan::recovery::tests::promises::{Cluster, by_name, clusters};
use crate::plan::recovery::tests::{at, number, to_lsn, to_time};
use crate::plan::recovery::{self, RecoveryRequest, TargetTimeline};

fn quarters(count: u64) -> TimeDelta {
    TimeDelta::seconds(900 * count as i64)
}

prop_compose! {
    fn policies()(
        keep_last in 0u32..4,
        within in prop::option::weighted(0.3, 0u64..80),
        keep_daily in prop_oneof![3 => Just(0u32), 1 => 1u32..4],
        keep_weekly in prop_oneof![5 => Just(0u32), 1 => 1u32..3],
        keep_monthly in prop_oneof![5 => Just(0u32), 1 => 1u32..3],
        window in prop::option::weighted(0.7, 0u64..120),
    ) -> Policy {
        let (keep_within, pitr_window) = (within.map(quarters), window.map(quarters));
        Policy { keep_last, keep_within, keep_daily, keep_weekly, keep_monthly, pitr_window }
    }
}

/// A cluster with a note for each backup, and a time at which somebody prunes it.
fn pruned() -> impl Strategy<Value = (Cluster, DateTime<Utc>)> {
    (clusters(6), 0u64..90).prop_map(|(mut cluster, later)| {
        let backups = cluster.world.backups.clone();
        for info in &backups {
            cluster.world.file(&note_of(info), 0);
        }
        let ends = cluster.branches.iter().map(|branch| at(branch.end + branch.delay));
        let newest = ends.chain(backups.iter().map(|backup| backup.stopped_at)).max().unwrap();
        (cluster, newest + quarters(later))
    })
}

fn note_of(info: &BackupInfo) -> String {
    let first = SegmentName::holding(info.start_lsn, info.timeline, info.wal_segment_size);
    format!("{}.00000028.backup", first.file_name(info.wal_segment_size))
}

/// The plan, unless there is nothing that could be kept.
fn planned(catalog: &Catalog, policy: &Policy, now: DateTime<Utc>) -> Option<RetentionPlan> {
    match plan(&situation(catalog, now), policy) {
        Ok(plan) => Some(plan),
        Err(RetentionError::NoGoodBackup { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

fn can_restore(catalog: &Catalog, request: &RecoveryRequest) -> bool {
    recovery::plan(catalog, request, DateTime::<Utc>::MAX_UTC).is_ok()
}

/// The world's only archive.
fn archive(catalog: &Catalog) -> (SystemIdentifier, &WalArchive) {
    let (system, archive) = catalog.archives().iter().next().unwrap();
    (*system, archive)
}

fn deleted_wal(plan: &RetentionPlan) -> Vec<WalFiles> {
    let deleted = plan.wal.iter().filter(|wal| wal.verdict.deletes());
    let mut files: Vec<_> = deleted.map(|wal| wal.files.clone()).collect();
    files.sort_by_key(|files| format!("{files:?}"));
    files
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn no_instant_of_the_window_stops_being_restorable((cluster, now) in pruned(), policy in policies()) {
        let Some(window) = policy.pitr_window else { return Ok(()) };
        let before = cluster.world.catalog();
        let Some(plan) = planned(&before, &policy, now) else { return Ok(()) };
        let after = after(&before, &plan);
        for (tli, branch) in (1..).zip(&cluster.branches) {
            let is_latest = cluster.branches.len() as u32 == tli;
            // An abandoned branch has no later instants.
            let end = if is_latest { now } else { at(branch.end + branch.delay).min(now) };
            for quarter in (0..300).filter(|quarter| (now - window..=end).contains(&at(*quarter))) {
                let latest = is_latest.then_some(TargetTimeline::Latest);
                for timeline in latest.into_iter().chain([number(tli)]) {
                    let request = to_time(quarter).on(timeline);
                    let lost = can_restore(&before, &request) && !can_restore(&after, &request);
                    prop_assert!(!lost, "{:?}\n{:#?}", request, plan);
                }
            }
        }
    }

    #[test]
    fn a_kept_backup_keeps_its_wal_from_start_to_stop((cluster, now) in pruned(), policy in policies()) {
        let before = cluster.world.catalog();
        let Some(plan) = planned(&before, &policy, now) else { return Ok(()) };
        let after = after(&before, &plan);
        for info in after.backups() {
            let (size, system) = (info.wal_segment_size, info.system_identifier);
            let (was, is) = (before.archive(system).unwrap(), after.archive(system).unwrap());
            let history = backups::history(Some(was), info.timeline);
            let first = info.start_lsn.0 / size.bytes();
            let last = SegmentName::ending(info.stop_lsn, info.timeline, size).number.max(first);
            for segment in segments(was) {
                let is_own = history.span(segment.timeline).is_some() && (first..=last).contains(&segment.number);
                prop_assert!(!is_own || is.has(segment), "{:?}", segment);
            }
            prop_assert!(is.backup_notes().contains(&note_of(info)));
        }
    }

    #[test]
    fn without_a_window_every_kept_backup_leads_as_far_as_before(
        (cluster, now) in pruned(), policy in policies(), quarter in 0u64..100,
    ) {
        let policy = Policy { pitr_window: None, ..policy };
        let before = cluster.world.catalog();
        let Some(plan) = planned(&before, &policy, now) else { return Ok(()) };
        let after = after(&before, &plan);
        for info in after.backups() {
            for tli in 1..=cluster.branches.len() as u32 {
                let request = by_name(&to_lsn(quarter).on(number(tli)), info);
                prop_assert_eq!(can_restore(&before, &request), can_restore(&after, &request));
            }
        }
    }

    #[test]
    fn once_carried_out_there_is_nothing_more_to_delete((cluster, now) in pruned(), policy in policies()) {
        let before = cluster.world.catalog();
        let Some(first) = planned(&before, &policy, now) else { return Ok(()) };
        let left = after(&before, &first);
        let second = planned(&left, &policy, now).unwrap();
        prop_assert!(!second.deletes_anything(), "{:#?}\n{:#?}", first, second);
    }

    #[test]
    fn a_name_decides_nothing((cluster, now) in pruned(), policy in policies(), turn: Index) {
        let before = cluster.world.catalog();
        let Some(plan) = planned(&before, &policy, now) else { return Ok(()) };
        let names: Vec<BackupName> = cluster.world.backups.iter().map(|backup| backup.name).collect();
        let (mut renamed, mut others) = (cluster.world.clone(), BTreeMap::new());
        for (index, backup) in renamed.backups.iter_mut().enumerate() {
            let other = names[(2 * names.len() - index + turn.index(names.len())) % names.len()];
            others.insert(backup.name, other);
            backup.name = other;
        }
        let other = planned(&renamed.catalog(), &policy, now).unwrap();
        let expected: BTreeSet<_> = kept(&plan).iter().map(|name| others[name]).collect();
        prop_assert_eq!(kept(&other).into_iter().collect::<BTreeSet<_>>(), expected);
        prop_assert_eq!(deleted_wal(&other), deleted_wal(&plan));
    }

    #[test]
    fn a_damaged_backup_never_costs_a_good_one((cluster, now) in pruned(), policy in policies()) {
        let before = cluster.world.catalog();
        let Some(plan) = planned(&before, &policy, now) else { return Ok(()) };
        let mut sound = cluster.world.clone();
        sound.backups.retain(|backup| backup.damaged_pages.is_empty());
        let without = planned(&sound.catalog(), &policy, now).unwrap();
        let with = kept(&plan);
        for name in kept(&without) {
            prop_assert!(with.contains(&name), "{}", name);
        }
        let is_good = |name: &&BackupName| sound.backups.iter().any(|backup| backup.name == **name);
        let good = with.iter().filter(is_good).count();
        prop_assert!(good >= 1 && good >= sound.backups.len().min(policy.keep_last as usize));
    }

    #[test]
    fn the_newest_wal_stays((cluster, now) in pruned(), policy in policies()) {
        let before = cluster.world.catalog();
        let Some(plan) = planned(&before, &policy, now) else { return Ok(()) };
        let after = after(&before, &plan);
        let (system, archive) = archive(&before);
        let starts = before.backups().iter().map(|info| info.start_lsn.0 / info.wal_segment_size.bytes());
        let newest = starts.max().unwrap();
        for segment in segments(archive).into_iter().filter(|segment| segment.number >= newest) {
            prop_assert!(after.archive(system).unwrap().has(segment), "{:?}", segment);
        }
    }

    /// What `wal-sync` thinks of use, who knows less, is at least what is kept.
    #[test]
    fn what_is_kept_is_of_use((cluster, now) in pruned(), policy in policies()) {
        let before = cluster.world.catalog();
        let Some(plan) = planned(&before, &policy, now) else { return Ok(()) };
        let (system, archive) = archive(&before);
        let histories = archive.histories().iter().map(|(timeline, history)| {
            (*timeline, content_of(history.as_ref().unwrap()).into_bytes())
        });
        let histories = BTreeMap::from([(system, histories.collect())]);
        let need = wal_of_use(before.backups(), &histories, BTreeMap::new(), &policy, now).unwrap();
        for segment in segments(archive) {
            let name = segment.file_name(archive.segment_size()).to_string();
            let name = WalFileName::parse(&name).unwrap();
            prop_assert!(plan.deletes_wal(system, &name) || need[&system].has(&name), "{}", name);
        }
    }
}
