//! The disk fails: no space, a quota, an error of the device, a call that a signal interrupts.
//!
//! A run is traced, and then one of its calls is answered with an error, each in turn, reads and opens included. Then
//! either the run has come to its end all the same, and everything that it acknowledged is there and whole; or it says
//! what is wrong, in one line that names a file, with an exit code that is not success. It never panics, and once the
//! disk is well the next run goes through.

use std::cell::RefCell;
use std::fs;

use super::campaign::Campaign;
use super::scene::{self, assert_whole};
use super::strace::{self, Point};
use super::{length, strace::Call};
use crate::scene;
use crate::support::{Identity, Outcome, Pair, Site, SshAccount, skip};

/// What the kernel may say; the second tells whether it is an error at all, or only a call to be made again.
const ERRORS: [(&str, bool); 4] = [("ENOSPC", true), ("EIO", true), ("EDQUOT", true), ("EINTR", false)];

/// Calls that fail without having been tried. Of a `close` nothing is asked.
const CALLS: &str = "write,pwrite64,fsync,fdatasync,syncfs,rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,\
     mkdirat,openat,ftruncate,read,pread64,getdents64,copy_file_range";

struct Deed<'a> {
    name: &'a str,
    site: &'a Site,
    prepare: &'a mut dyn FnMut() -> String,
    again: &'a dyn Fn(&str) -> String,
    /// What holds after each run.
    law: &'a mut dyn FnMut(&Outcome),
    /// The exit codes with which it may fail.
    failures: &'a [i32],
}

impl Deed<'_> {
    fn meets_every_error(self) {
        let mut campaign = Campaign::begin(&format!("disk/{}", self.name));
        let arguments = (self.prepare)();
        let log = self.site.fresh("home/trace");
        let undisturbed = self
            .site
            .call_under(&strace::recording(&log, CALLS), &arguments)
            .expect("strace was looked for")
            .run();
        (self.law)(&undisturbed.succeeds());
        let points = strace::points(&strace::read(&log), is_of_the_disk);
        let all = points.into_iter().flat_map(|point| ERRORS.map(|error| (point.clone(), error))).collect();
        let points = campaign.some_of(all, length::of(6, 1200));
        let (count, mut told) = (points.len(), 0);
        for (point, (error, is_failure)) in points {
            let arguments = (self.prepare)();
            println!("{error} at {point}: {arguments}");
            let log = self.site.fresh("home/trace");
            let outcome = self
                .site
                .call_under(&strace::failing(&log, &point, error), &arguments)
                .expect("strace was looked for")
                .run();
            assert!(outcome.code == 0 || self.failures.contains(&outcome.code), "{outcome}");
            assert!(!outcome.stderr.contains("panicked"), "{outcome}");
            if outcome.code != 0 {
                told += 1;
                // Of each thread the same call fails, and in one of them that may be the one that tells of it.
                let is_speechless = fs::read_to_string(&log)
                    .unwrap()
                    .lines()
                    .any(|line| line.contains("(INJECTED)") && line.contains("write(2,"));
                assert!(is_speechless || is_told(&outcome), "{error} at {point}, and not a word\n{outcome}");
                assert!(is_failure || point.call != "write", "an interrupted write is written on\n{outcome}");
            }
            (self.law)(&outcome);
            (self.law)(&self.site.pgbak(&(self.again)(&arguments)).succeeds());
        }
        campaign.end(&format!("{count} errors, {told} of them told, 0 acknowledged in vain"));
    }
}

/// Before the program begins there are the libraries, with whose errors it never meets.
fn is_of_the_disk(call: &Call) -> bool {
    call.result >= 0
}

/// Whether one line says what went wrong.
fn is_told(outcome: &Outcome) -> bool {
    // The dynamic linker's own errors have its own words, and code 127.
    let said = format!("{}{}", outcome.stdout, outcome.stderr).to_lowercase();
    outcome.code == 127
        || ["error: ", "warning: ", "failed: ", "could not "].iter().any(|word| said.contains(word))
}

fn the_same(arguments: &str) -> String {
    arguments.to_owned()
}

#[test]
fn a_base_backup_meets_every_error_of_the_disk() {
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
        law: &mut |outcome| {
            assert_whole(&site);
            let counts = site.repositories().iter().map(|repository| repository.backups().len());
            assert!(outcome.code != 0 || counts.min() > Some(0), "{outcome}");
        },
        failures: &[1, 2, 3, 127],
    };
    deed.meets_every_error();
    scene::assert_restores_after_sync(&site, &account);
}

#[test]
fn a_wal_push_meets_every_error_of_the_disk() {
    let site = scene!();
    let account = scene::committed(&site, || drop(site.pgbak("base-backup").succeeds()));
    let deed = Deed {
        name: "wal-push",
        site: &site,
        prepare: &mut || scene::push(&site, &scene::new_segment(&site)),
        again: &the_same,
        law: &mut |outcome| {
            let name = outcome.arguments.rsplit_once('/').unwrap().1;
            if outcome.code == 0 || site.repository().holds(name) {
                scene::assert_segment(&site, site.repository(), name);
            }
        },
        failures: &[1, 2, 127],
    };
    deed.meets_every_error();
    assert_whole(&site);
    scene::assert_restores(&site, &account);
}

#[test]
fn a_wal_sync_meets_every_error_of_the_disk() {
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
        failures: &[1, 2, 3, 127],
    };
    deed.meets_every_error();
    assert_whole(&site);
    scene::assert_restores_after_sync(&site, &account);
}

#[test]
fn a_prune_meets_every_error_of_the_disk() {
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
        failures: &[1, 2, 3, 127],
    };
    deed.meets_every_error();
    scene::assert_restores(&site, &account);
}

#[test]
fn a_restore_meets_every_error_of_the_disk() {
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
        failures: &[1, 2, 3, 127],
    };
    deed.meets_every_error();
    let mut restored = site.restored_in(&here.into_inner());
    restored.launch();
    restored.wait_until_recovered();
    account.assert_holds_exactly(&restored, &account.history.commits);
}

#[test]
fn a_wal_fetch_meets_every_error_of_the_disk() {
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
        law: &mut |outcome| {
            // 1 would say that the archive ends here, and a server would promote itself.
            assert_ne!(outcome.code, 1, "{outcome}");
            fetches.assert_right(&site, outcome);
        },
        failures: &[200, 2, 127],
    };
    deed.meets_every_error();
    scene::assert_restores(&site, &account);
}

/// The server's disk fails under `sftp-server`; what is said there arrives here.
#[test]
fn the_disk_of_the_server_fails_at_any_call() {
    let mut campaign = Campaign::begin("disk/sftp");
    let identity = Identity::ordinary();
    if !strace::is_permitted(&identity) {
        return;
    }
    if !Identity::own().is_root() {
        skip("only root can trace sftp-server, which hides from its own user");
        return;
    }
    let Some(mut pair) = pair_without_archiving() else { return };
    let account = scene::committed(&pair.site, || drop(pair.site.pgbak("base-backup").succeeds()));
    let scratch = tempfile::tempdir().unwrap();
    let log = scratch.path().join("trace");
    let mut points = Vec::new();
    for (call, count) in [("fsync", 12), ("link", 6), ("mkdir", 3), ("unlink", 3)] {
        let nths = (1..=count).map(|nth| Point { call: call.to_owned(), nth });
        points.extend(nths.flat_map(|nth| ERRORS.map(|(error, _)| (nth.clone(), error))));
    }
    let points = campaign.some_of(points, length::of(3, 96));
    let (count, mut told) = (points.len(), 0);
    for (point, error) in points {
        scene::archive_all(&pair.site);
        println!("{error} at {point}");
        pair.sshd.stop();
        pair.sshd.run_under(&strace::failing(&log, &point, error));
        pair.sshd.start_again();
        for arguments in ["base-backup --json", "wal-sync"] {
            let outcome = pair.site.pgbak(arguments);
            assert!([0, 3].contains(&outcome.code), "{outcome}");
            told += usize::from(outcome.code == 3);
            if arguments != "wal-sync" {
                pair.assert_report_is_true(&outcome);
            }
            scene::assert_repository_whole(&pair.site, pair.remote());
        }
        pair.sshd.stop();
        pair.sshd.run_under(&[]);
        pair.sshd.start_again();
        pair.repair();
        pair.site.pgbak("prune").succeeds();
    }
    assert!(told > 0, "not one error arrived");
    campaign.end(&format!("{count} errors, {told} of them told, 0 acknowledged in vain"));
    scene::archive_all(&pair.site);
    pair.site.pgbak("wal-sync").succeeds();
    pair.assert_both_restore(&account);
}

fn pair_without_archiving() -> Option<Pair> {
    let retention = "[retention]\nkeep_last = 2\n";
    let site = Site::with().initdb("--wal-segsize=1").without_archiving().config(retention);
    let pair = Pair::build(SshAccount::Shell, site)?;
    pair.site.repositories().iter().for_each(|repository| repository.forget());
    Some(pair)
}
