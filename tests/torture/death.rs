//! SIGKILL at every call that changes something.
//!
//! An undisturbed run of a command is traced, and then killed at each of its calls, by the kernel itself: the call is
//! not made. After each death everything that was acknowledged is there, everything that has a name is whole, and the
//! next run goes through without help.

use std::iter;

use super::campaign::Campaign;
use super::deed::{Command, Deed};
use super::length;
use super::strace::{self, Point};

const KILLED: i32 = 128 + 9;

/// In full.
const DEATHS_MIN: usize = 200;

fn dies_everywhere(deed: &mut Deed<'_>) {
    if !strace::is_permitted(deed.site.identity()) {
        return;
    }
    let mut campaign = Campaign::begin(&format!("death/{}", deed.command.name()));
    let points = strace::changes(&deed.record(strace::CHANGES));
    // The threads of a run get on otherwise each time, so that a call again is another moment.
    let again = length::of(1, DEATHS_MIN.div_ceil(points.len()));
    let points = campaign.some_of(iter::repeat_n(points, again).flatten().collect(), length::of(8, 300));
    let (count, mut killed) = (points.len(), 0);
    // A point of one thread may be beyond the end of a run that shares its work out otherwise.
    let earlier = |point: &Point| (point.nth > 1).then(|| Point { nth: point.nth / 2, ..point.clone() });
    for point in points {
        killed += usize::from(iter::successors(Some(point), earlier).any(|point| dies_at(deed, &point)));
    }
    assert!(killed * 2 > count, "{killed} of {count}");
    campaign.end(&format!("{count} points, {killed} deaths, 0 lost"));
}

/// Whether a run came to this point, and so died there.
fn dies_at(deed: &mut Deed<'_>, point: &Point) -> bool {
    let arguments = deed.prepare();
    println!("killed at {point}: {arguments}");
    let log = deed.site.fresh("home/trace");
    let outcome = strace::run(deed.site, &strace::killing(&log, point), &arguments);
    assert!([0, KILLED].contains(&outcome.code), "{outcome}");
    deed.assert_law(&outcome);
    deed.assert_next_run_succeeds();
    strace::has_killed(&log)
}

#[test]
fn a_base_backup_may_die_at_any_change() {
    Command::BaseBackup.meets(dies_everywhere);
}

#[test]
fn a_wal_push_may_die_at_any_change() {
    Command::WalPush.meets(dies_everywhere);
}

#[test]
fn a_wal_sync_may_die_at_any_change() {
    Command::WalSync.meets(dies_everywhere);
}

#[test]
fn streaming_may_die_at_any_change() {
    Command::Streaming.meets(dies_everywhere);
}

#[test]
fn a_prune_may_die_at_any_change() {
    Command::Prune.meets(dies_everywhere);
}

#[test]
fn a_restore_may_die_at_any_change() {
    Command::Restore.meets(dies_everywhere);
}

#[test]
fn a_wal_fetch_may_die_at_any_change() {
    Command::WalFetch.meets(dies_everywhere);
}
