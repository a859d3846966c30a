//! SIGKILL at every call that changes something.
//!
//! An undisturbed run of a command is traced, and then killed at each of its calls, by the kernel itself: the call is
//! not made. After each death everything that was acknowledged is there, everything that has a name is whole, and the
//! next run goes through without help.

use std::cell::{Cell, RefCell};
use std::fs;

use super::campaign::Campaign;
use super::scene::{self, assert_whole};
use super::{length, strace};
use crate::scene;
use crate::support::{Outcome, Site};
use pgbak::pg::Lsn;

const KILLED: i32 = 128 + 9;

/// A command under which the ground is pulled away.
struct Deed<'a> {
    name: &'a str,
    site: &'a Site,
    /// Makes a run necessary, and says with which arguments.
    prepare: &'a mut dyn FnMut() -> String,
    /// How the next run is to be called.
    again: &'a dyn Fn(&str) -> String,
    /// What holds after each run, be it killed or not.
    law: &'a mut dyn FnMut(&Outcome),
}

impl Deed<'_> {
    fn dies_everywhere(self) {
        let mut campaign = Campaign::begin(&format!("death/{}", self.name));
        let arguments = (self.prepare)();
        let log = self.site.fresh("home/trace");
        let recorded = strace::recording(&log, strace::CHANGES);
        (self.law)(
            &self.site.call_under(&recorded, &arguments).expect("strace was looked for").run().succeeds(),
        );
        let points = campaign.some_of(strace::changes(&strace::read(&log)), length::of(8, 300));
        let (count, mut killed) = (points.len(), 0);
        for point in points {
            let arguments = (self.prepare)();
            println!("killed at {point}: {arguments}");
            let log = self.site.fresh("home/trace");
            let outcome = self
                .site
                .call_under(&strace::killing(&log, &point), &arguments)
                .expect("strace was looked for")
                .run();
            assert!([0, KILLED].contains(&outcome.code), "{outcome}");
            killed += usize::from(strace::has_killed(&log));
            (self.law)(&outcome);
            (self.law)(&self.site.pgbak(&(self.again)(&arguments)).succeeds());
        }
        // A point of one thread may be beyond the end of a run that shares its work out otherwise.
        assert!(killed * 2 > count, "{killed} of {count}");
        campaign.end(&format!("{count} points, {killed} deaths, 0 lost"));
    }
}

fn the_same(arguments: &str) -> String {
    arguments.to_owned()
}

#[test]
fn a_base_backup_may_die_at_any_change() {
    let site = scene!(repositories(2), config("[retention]\nkeep_last = 2\n"));
    let account = scene::committed(&site, || {});
    let mut runs = 0;
    let deed = Deed {
        name: "base-backup",
        site: &site,
        prepare: &mut || {
            runs += 1;
            if runs % 5 == 0 {
                site.pgbak("prune").succeeds();
            }
            "base-backup".to_owned()
        },
        again: &the_same,
        law: &mut |_| assert_whole(&site),
    };
    deed.dies_everywhere();
    scene::assert_restores_after_sync(&site, &account);
}

#[test]
fn a_wal_push_may_die_at_any_change() {
    let site = scene!();
    let account = scene::committed(&site, || drop(site.pgbak("base-backup").succeeds()));
    let mut acknowledged = Vec::new();
    let deed = Deed {
        name: "wal-push",
        site: &site,
        prepare: &mut || scene::push(&site, &scene::new_segment(&site)),
        again: &the_same,
        law: &mut |outcome| {
            if outcome.code == 0 {
                acknowledged.push(outcome.arguments.rsplit_once('/').unwrap().1.to_owned());
            }
            // What was acknowledged long ago is looked at again in the end.
            if let Some(name) = acknowledged.last() {
                scene::assert_segment(&site, site.repository(), name);
            }
        },
    };
    deed.dies_everywhere();
    acknowledged.iter().for_each(|name| scene::assert_segment(&site, site.repository(), name));
    assert_whole(&site);
    scene::assert_restores(&site, &account);
}

#[test]
fn a_wal_sync_may_die_at_any_change() {
    let site = scene!(repositories(2));
    let account = scene::committed(&site, || drop(site.pgbak("base-backup").succeeds()));
    scene::archive_all(&site);
    site.pgbak("wal-sync").succeeds();
    let oldest = scene::first_segment(site.repository());
    let deed = Deed {
        name: "wal-sync",
        site: &site,
        prepare: &mut || {
            (0..3).for_each(|_| drop(site.pgbak(&scene::push(&site, &scene::new_segment(&site))).succeeds()));
            "wal-sync".to_owned()
        },
        again: &the_same,
        law: &mut |outcome| scene::assert_synced(&site, &oldest, outcome),
    };
    deed.dies_everywhere();
    assert_whole(&site);
    scene::assert_restores_after_sync(&site, &account);
}

#[test]
fn streaming_may_die_at_any_change() {
    let site = scene!(repositories(2), config("[wal]\nsource = \"stream\"\n"));
    let account = scene::committed(&site, || drop(site.pgbak("base-backup").succeeds()));
    site.pgbak("wal-sync").succeeds();
    let written = Cell::new(Lsn(0));
    let deed = Deed {
        name: "wal-sync, streaming",
        site: &site,
        prepare: &mut || {
            // A segment that is finished, and the beginning of another one.
            scene::new_segment(&site);
            site.cluster()
                .sql("SELECT pg_logical_emit_message(true, 'test', repeat(md5(random()::text), 500))");
            written.set(site.cluster().sql("SELECT pg_current_wal_flush_lsn()").parse().unwrap());
            "wal-sync".to_owned()
        },
        again: &the_same,
        law: &mut |outcome| {
            assert_whole(&site);
            // Whatever dies, the server was told no more than what is there.
            let slot = "SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = 'pgbak'";
            let confirmed: Lsn = site.cluster().sql(slot).parse().unwrap();
            assert!(scene::streamed_up_to(&site, site.repository()) >= confirmed);
            if outcome.code == 0 {
                let ends =
                    site.repositories().iter().map(|repository| scene::streamed_up_to(&site, repository));
                assert!(ends.min() >= Some(written.get()));
            }
        },
    };
    deed.dies_everywhere();
    for repository in site.repositories() {
        let restored = site.restore(&format!("--repository {}", repository.name));
        account.assert_holds_exactly(&restored, &account.history.commits);
    }
}

#[test]
fn a_prune_may_die_at_any_change() {
    let site = scene!(config("[retention]\nkeep_last = 1\n"));
    let account = scene::committed(&site, || drop(site.pgbak("base-backup").succeeds()));
    let store = scene::Store::with_garbage(&site);
    let deed = Deed {
        name: "prune",
        site: &site,
        prepare: &mut || {
            store.put_back(&site);
            "prune".to_owned()
        },
        again: &the_same,
        law: &mut |outcome| store.assert_kept(&site, outcome),
    };
    deed.dies_everywhere();
    scene::assert_restores(&site, &account);
}

#[test]
fn a_restore_may_die_at_any_change() {
    let site = scene!();
    let account = scene::committed(&site, || drop(site.pgbak("base-backup").succeeds()));
    scene::archive_all(&site);
    let here = RefCell::new(site.fresh("restored"));
    let deed = Deed {
        name: "restore",
        site: &site,
        prepare: &mut || {
            let _ = fs::remove_dir_all(&*here.borrow());
            here.replace(site.fresh("restored"));
            format!("restore -D {}", here.borrow().display())
        },
        again: &|arguments| format!("{arguments} --delta"),
        law: &mut |outcome| scene::assert_restored(&site, &here.borrow(), outcome),
    };
    deed.dies_everywhere();
    // The last one was killed and finished by the next run; it is the one to start.
    let directory = here.into_inner();
    let mut restored = site.restored_in(&directory);
    restored.launch();
    restored.wait_until_recovered();
    account.assert_holds_exactly(&restored, &account.history.commits);
}

#[test]
fn a_wal_fetch_may_die_at_any_change() {
    let site = scene!();
    let account = scene::committed(&site, || drop(site.pgbak("base-backup").succeeds()));
    (0..30).for_each(|_| drop(scene::new_segment(&site)));
    scene::archive_all(&site);
    let fetches = scene::Fetches::of(&site);
    let deed = Deed {
        name: "wal-fetch",
        site: &site,
        prepare: &mut || fetches.next(&site),
        again: &the_same,
        law: &mut |outcome| fetches.assert_right(&site, outcome),
    };
    deed.dies_everywhere();
    scene::assert_restores(&site, &account);
}
