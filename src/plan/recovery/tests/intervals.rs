//! What `recoverable` shows of one cluster, told step by step. The promises are held beside those of the plans.

use chrono::TimeDelta;

use super::*;
use crate::plan::recoverable;

/// Timeline, the backup that begins it, from where to where, and when the last segment was stored.
type Shown = (u32, BackupName, Lsn, Lsn, Option<DateTime<Utc>>);

fn shown(world: &World) -> Vec<Shown> {
    let intervals = recoverable::intervals(&world.catalog());
    let show =
        |i: &recoverable::RecoverableInterval| (i.timeline.get(), i.backup, i.from_lsn, i.to_lsn, i.to_at);
    intervals.iter().map(show).collect()
}

fn interval(tli: u32, backup: u64, from: u64, to: u64, to_at: u64) -> Shown {
    (tli, name(backup), lsn(from), lsn(to), Some(at(to_at)))
}

#[test]
fn backups_with_unbroken_wal_between_them_share_one_interval() {
    let world = World::new().backup(1, 4, 5).backup(1, 20, 22).wal(1, 1..=9);
    assert_eq!(shown(&world), [interval(1, 4, 5, 40, 40)]);
    let first = &recoverable::intervals(&world.catalog())[0];
    assert_eq!((first.system_identifier, first.from_at), (SYSTEM, at(5)));
}

#[test]
fn a_gap_ends_an_interval_and_the_next_backup_begins_another() {
    let world = World::new().backup(1, 4, 5).backup(1, 20, 22).wal(1, [1, 2, 3, 5, 6]);
    assert_eq!(shown(&world), [interval(1, 4, 5, 16, 16), interval(1, 20, 22, 28, 28)]);
}

#[test]
fn a_backup_whose_stop_is_not_archived_can_only_be_restored_as_it_is() {
    let world = World::new().backup(1, 4, 5).wal(1, [7]);
    assert_eq!(shown(&world), [(1, name(4), lsn(5), lsn(5), None)]);
    let mut without_archive = world.catalog();
    without_archive = Catalog::new(without_archive.backups().to_vec(), vec![], BTreeMap::new());
    assert_eq!(recoverable::intervals(&without_archive)[0].to_at, None);
}

#[test]
fn a_promotion_shows_both_timelines_and_the_new_one_begins_with_the_old_ones_backup() {
    let world = World::new().backup(1, 4, 5).wal(1, 1..=4).partial(1, 5).wal(2, 5..=8).history(2, &[(1, 22)]);
    assert_eq!(shown(&world), [interval(1, 4, 5, 20, 20), interval(2, 4, 5, 36, 36)]);
}

#[test]
fn a_backup_taken_behind_the_switch_point_is_of_the_branch_that_was_left() {
    let world =
        World::new().backup(1, 23, 24).wal(1, 1..=8).wal(2, 5..=8).history(2, &[(1, 22)]).backup(2, 28, 29);
    assert_eq!(shown(&world), [interval(1, 23, 24, 36, 36), interval(2, 28, 29, 36, 36)]);
}

#[test]
fn a_segment_of_the_abandoned_branch_ends_an_interval_where_it_begins() {
    let world = World::new().backup(1, 4, 5).wal(1, 1..=7).history(2, &[(1, 22)]);
    assert_eq!(
        shown(&world)[1],
        interval(2, 4, 5, 20, 32),
        "when the segment before was stored is not known"
    );
}

#[test]
fn a_timeline_whose_history_cannot_be_read_has_no_interval() {
    let world = World::new().backup(1, 4, 5).wal(1, 1..=4).wal(2, 5..=8);
    let mut unreadable = world.history(2, &[]);
    unreadable.archive.add_history(timeline(2), b"what is this");
    assert_eq!(shown(&unreadable), [interval(1, 4, 5, 20, 20)]);
}

#[test]
fn clusters_are_kept_apart() {
    let older = World::new().backup(1, 4, 5).wal(1, 1..=9);
    let mut other = backup(1, 60, 61);
    other.system_identifier = SystemIdentifier(1);
    other.stopped_at = at(61) + TimeDelta::seconds(1);
    let backups = [older.backups.clone(), vec![other]].concat();
    let archives = BTreeMap::from([(SYSTEM, older.archive.clone())]);
    let intervals = recoverable::intervals(&Catalog::new(backups, vec![], archives));
    let systems: Vec<_> = intervals.iter().map(|i| (i.system_identifier, i.to_at)).collect();
    assert_eq!(systems, [(SystemIdentifier(1), None), (SYSTEM, Some(at(40)))]);
}
