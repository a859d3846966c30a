//! The power fails: whatever was not synced is lost, or is there and should not be, in any order.
//!
//! A run of the real program is recorded as the calls it makes, and played back on a model of a disk that promises no
//! more than POSIX does. After every step the power fails, in many ways; what the disk then holds must keep the law.
//! Some of these disks are made real, and the next run of the program must go through on them.
//!
//! Then the same recording is played back with syncs left out, which is the same as taking them out of the program:
//! each kind of sync that there is must be missed by the law. A single one that is not missed must be explained.
//!
//! [`recording`] is what the program did, [`disk`] what is left of it, [`failure`] when and how the power fails, [`law`]
//! what must hold then, [`mutants`] the same without a sync, and [`real`] takes disks out of the model. [`again`] has
//! the runs that go on where a killed one has ended.
//!
//! `wal-fetch` has no campaign: PostgreSQL makes durable what it is given, or asks for it again.

mod again;
mod disk;
mod failure;
mod law;
mod mutants;
mod real;
mod recording;

use std::cell::Cell;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use self::failure::assert_survives;
use self::mutants::{Purpose, assert_no_sync_is_idle};
use self::real::real_disks;
use self::recording::{Descriptors, Recording};
use super::campaign::Campaign;
use super::length;
use super::scene::{self, assert_whole};
use super::strace::{self, Call};
use crate::scene;
use crate::support::{Cluster, Identity, Pair, Site, SshAccount, Sshd, process, wait_until};
use pgbak::pg::Lsn;

const UNFINISHED: &str = ".unfinished";

/// Runs pgbak and follows what it does below `root`.
fn record(site: &Site, recording: &mut Recording, root: &Path, arguments: &str) {
    let (outcome, calls) = strace::run_recorded(site, strace::FILES, arguments);
    outcome.succeeds();
    recording.follow(&calls, root, Descriptors::Shared);
    acknowledge(recording);
}

/// Success was said: everything new must stay from now on.
fn acknowledge(recording: &mut Recording) {
    for path in new_objects(recording) {
        recording.acknowledged.entry(path).or_insert(recording.steps.len());
    }
}

/// The paths of everything that is in the repositories now and was not before.
fn new_objects(recording: &Recording) -> Vec<PathBuf> {
    let after = recording.paths(&recording.after).into_iter();
    let is_new = |(path, inode): &(PathBuf, usize)| {
        let path_text = path.to_str().unwrap();
        let is_lasting = !path_text.contains("lease") && !path_text.ends_with(UNFINISHED);
        is_lasting && !recording.before_paths.contains_key(path) && !recording.nodes[*inode].is_directory
    };
    after.filter(is_new).map(|(path, _)| path).collect()
}

/// Where the repositories of a site lie.
fn repositories_of(site: &Site) -> PathBuf {
    site.path("repositories")
}

const PUBLISHING: [Purpose; 3] = [Purpose::Content, Purpose::Name, Purpose::Directory];

#[test]
fn a_base_backup_survives_a_power_failure_at_any_step() {
    let mut campaign = Campaign::begin("power/base-backup");
    let site = scene!(repositories(2));
    if !strace::may_record(site.identity()) {
        return;
    }
    let account = scene::committed(&site, || {});
    let root = repositories_of(&site);
    let mut recording = Recording::begin(&root);
    record(&site, &mut recording, &root, "base-backup");
    assert!(recording.acknowledged.len() >= 2 * 5, "{:?}", recording.acknowledged);
    let looked_at = assert_survives(&recording, &mut campaign, law::of_repositories);
    let syncs = assert_no_sync_is_idle(&recording, &mut campaign, law::of_repositories, &PUBLISHING);
    let real = real_disks(length::of(5, 150), &recording, &mut campaign, &site, &root, &mut |_| {
        assert_whole(&site);
        site.pgbak("base-backup").succeeds();
        assert_whole(&site);
        assert!(site.repositories().iter().all(|repository| !repository.backups().is_empty()));
    });
    campaign.end(&format!("{looked_at} disks, {real} of them real, 0 lost; {syncs}"));
    scene::assert_restores_after_sync(&site, &account);
}

#[test]
fn archived_wal_survives_a_power_failure_at_any_step() {
    let mut campaign = Campaign::begin("power/wal-push");
    let site = scene!(repositories(2));
    if !strace::may_record(site.identity()) {
        return;
    }
    let account = scene::committed(&site, || {});
    let root = repositories_of(&site);
    let mut recording = Recording::begin(&root);
    let mut looked_at = 0;
    let segments = [(); 2].map(|()| scene::new_segment(&site));
    // One that makes all directories, one that finds them, and then a copy of both.
    for arguments in
        [scene::push(&site, &segments[0]), scene::push(&site, &segments[1]), "wal-sync".to_owned()]
    {
        record(&site, &mut recording, &root, &arguments);
        looked_at += assert_survives(&recording, &mut campaign, law::of_repositories);
    }
    let twice = |name: &String| {
        let held = recording.acknowledged.keys().filter(|path| path.to_str().unwrap().contains(name));
        held.count() == 2
    };
    assert!(segments.iter().all(twice), "{:?}", recording.acknowledged);
    let syncs = assert_no_sync_is_idle(&recording, &mut campaign, law::of_repositories, &PUBLISHING);
    let real = real_disks(length::of(5, 150), &recording, &mut campaign, &site, &root, &mut |_| {
        assert_whole(&site);
        segments.iter().for_each(|name| drop(site.pgbak(&scene::push(&site, name)).succeeds()));
        site.pgbak("wal-sync").succeeds();
        assert_whole(&site);
        for (repository, name) in
            site.repositories().iter().flat_map(|of| segments.iter().map(move |name| (of, name)))
        {
            scene::assert_segment(&site, repository, name);
        }
    });
    campaign.end(&format!("{looked_at} disks, {real} of them real, 0 lost; {syncs}"));
    site.pgbak("base-backup").succeeds();
    scene::assert_restores_after_sync(&site, &account);
}

#[test]
fn a_prune_survives_a_power_failure_at_any_step() {
    let mut campaign = Campaign::begin("power/prune");
    let site = scene!(config("[retention]\nkeep_last = 1\n"));
    if !strace::may_record(site.identity()) {
        return;
    }
    let account = scene::committed(&site, || drop(site.pgbak("base-backup").succeeds()));
    for _ in 0..2 {
        scene::archive_all(&site);
        site.pgbak("base-backup").succeeds();
    }
    scene::archive_all(&site);
    let newest = site.repository().backups().pop().unwrap();
    let last = site.repository().archived().pop().unwrap();
    let root = repositories_of(&site);
    let mut recording = Recording::begin(&root);
    record(&site, &mut recording, &root, "prune");
    assert_eq!(site.repository().directories_of_backups().len(), 1);
    recording.keeps_what_is_left();
    let looked_at = assert_survives(&recording, &mut campaign, law::of_repositories);
    // What it is all about: the record is gone for good before the first byte of the data goes.
    let syncs = assert_no_sync_is_idle(&recording, &mut campaign, law::of_repositories, &[Purpose::Removal]);
    let real = real_disks(length::of(5, 150), &recording, &mut campaign, &site, &root, &mut |_| {
        assert_whole(&site);
        site.pgbak("prune").succeeds();
        assert_whole(&site);
        assert_eq!(site.repository().backups(), [newest.as_str()]);
        scene::assert_newest_has_its_wal(site.repository(), &last);
    });
    campaign.end(&format!("{looked_at} disks, {real} of them real, 0 lost; {syncs}"));
    scene::assert_restores(&site, &account);
}

/// Records `pgbak restore` with these options, in a directory that `prepare` has seen before.
fn restores(name: &str, options: &str, vital: &[Purpose], prepare: &dyn Fn(&Site, &Path)) {
    let mut campaign = Campaign::begin(&format!("power/{name}"));
    let site = scene!();
    if !strace::may_record(site.identity()) {
        return;
    }
    let account = scene::committed(&site, || drop(site.pgbak("base-backup").succeeds()));
    scene::archive_all(&site);
    let place = site.make_directory("place");
    let directory = place.join("data");
    prepare(&site, &directory);
    let mut recording = Recording::begin(&place);
    let restore = format!("restore -D {}", directory.display());
    record(&site, &mut recording, &place, &format!("{restore} {options}"));
    let looked_at = assert_survives(&recording, &mut campaign, law::of_restore);
    let syncs = assert_no_sync_is_idle(&recording, &mut campaign, law::of_restore, vital);
    let real = real_disks(length::of(2, 40), &recording, &mut campaign, &site, &place, &mut |_| {
        scene::assert_restored(&site, &directory, &site.pgbak(&format!("{restore} --delta")).succeeds());
    });
    campaign.end(&format!("{looked_at} disks, {real} of them real, 0 that start and are not whole; {syncs}"));
    account.assert_holds_exactly(&launched(&site, &directory), &account.history.commits);
}

/// Starts what was restored.
fn launched(site: &Site, directory: &Path) -> Cluster {
    let mut restored = site.restored_in(directory);
    restored.launch();
    restored.wait_until_recovered();
    restored
}

#[test]
fn a_restore_survives_a_power_failure_at_any_step() {
    restores("restore", "", &[Purpose::Everything], &|_, _| {});
}

/// The old `pg_control` must be gone for good before anything else of the old copy changes.
#[test]
fn an_old_copy_that_is_half_replaced_cannot_be_started_after_a_power_failure() {
    restores("restore-delta", "--delta", &[Purpose::Everything, Purpose::Removal], &|site, directory| {
        site.pgbak(&format!("restore -D {}", directory.display())).succeeds();
        launched(site, directory).sql("CREATE TABLE later AS SELECT 1 AS x");
    });
}

/// A table in which each row has a number, and what the server had to have flushed for it to be there.
struct Diary<'a> {
    cluster: &'a Cluster,
    ends: Vec<Lsn>,
}

impl<'a> Diary<'a> {
    fn begin(cluster: &'a Cluster) -> Self {
        cluster.sql("CREATE TABLE diary (id bigint PRIMARY KEY)");
        Self { cluster, ends: Vec::new() }
    }

    fn write(&mut self) {
        self.cluster.sql(&format!("INSERT INTO diary VALUES ({})", self.ends.len() + 1));
        self.ends.push(self.end());
    }

    fn end(&self) -> Lsn {
        self.cluster.sql("SELECT pg_current_wal_flush_lsn()").parse().unwrap()
    }

    /// Waits until pgbak has said that all of it is safe.
    fn wait_until_flushed(&self) {
        let told = format!(
            "SELECT flush_lsn >= '{}' FROM pg_stat_replication WHERE application_name = 'pgbak'",
            self.end()
        );
        wait_until("what was written to be safe", || {
            self.cluster.try_sql(&told).is_ok_and(|told| told == "t")
        });
    }

    /// Asserts that a copy has all that is safe when WAL is up to `flushed`, and nothing without what was before it.
    #[track_caller]
    fn assert_is_in(&self, copy: &Cluster, flushed: u64) {
        let [count, last] = ["count(*)", "coalesce(max(id), 0)"]
            .map(|what| copy.sql(&format!("SELECT {what} FROM diary")).parse::<usize>().unwrap());
        let safe = self.ends.iter().filter(|end| end.0 <= flushed).count();
        assert_eq!(count, last, "something in the middle is missing");
        assert!(last >= safe, "{safe} rows were safe, and {last} are there");
    }
}

/// Streams into two repositories, and copies to the third; the server has heard of each step what is safe.
#[test]
fn what_the_server_was_told_to_be_flushed_survives_a_power_failure_at_any_step() {
    let mut campaign = Campaign::begin("power/wal-sync, streaming");
    let streaming = format!("[wal]\nsource = \"stream\"\npush_to = {:?}\n", law::STREAMED_TO);
    let site = scene!(repositories(3), config(&streaming));
    if !strace::may_record(site.identity()) {
        return;
    }
    let mut diary = Diary::begin(site.cluster());
    site.pgbak("base-backup").succeeds();
    site.pgbak("wal-sync").succeeds();
    let root = repositories_of(&site);
    let mut recording = Recording::begin(&root);
    // What the last run has left of the tip is covered by a longer part, and that one by the whole segment.
    diary.write();
    record_stream(&site, &mut recording, "wal-sync", &mut || {});
    scene::new_segment(&site);
    diary.write();
    record_stream(&site, &mut recording, "wal-sync", &mut || {});
    record_stream(&site, &mut recording, "wal-sync --follow --interval 3600", &mut || {
        // As many parts as are put together, and then some.
        for _ in 0..length::of(18, 40) {
            diary.write();
            diary.wait_until_flushed();
        }
        scene::new_segment(&site);
        for _ in 0..length::of(2, 20) {
            diary.write();
            diary.wait_until_flushed();
        }
        diary.write();
    });
    diary.write();
    record_stream(&site, &mut recording, "wal-sync", &mut || {});
    let end = diary.ends.last().unwrap().0;
    assert!(
        recording.flushed_up_to(recording.steps.len()) >= end,
        "the messages to the server were not seen"
    );
    let looked_at = assert_survives(&recording, &mut campaign, law::of_streaming);
    let vital = [Purpose::Content, Purpose::Name];
    let syncs = assert_no_sync_is_idle(&recording, &mut campaign, law::of_streaming, &vital);
    let restored = Cell::new(0);
    let count = length::of(2, 60);
    let real = real_disks(count, &recording, &mut campaign, &site, &root, &mut |after| {
        assert_whole(&site);
        // The server may be lost together with the power; nor is the state directory there any more.
        let repositories = site.repositories().iter().take(law::STREAMED_TO.len());
        for repository in repositories.take(length::of(1, 2)) {
            let copy = site.restore(&format!("--repository {}", repository.name));
            diary.assert_is_in(&copy, recording.flushed_up_to(after));
            restored.set(restored.get() + 1);
        }
        site.pgbak("wal-sync").succeeds();
        assert_whole(&site);
        for repository in site.repositories() {
            assert!(scene::streamed_up_to(&site, repository).0 >= end, "{}", repository.name);
        }
    });
    let restored = restored.get();
    campaign.end(&format!("{looked_at} disks, {real} of them real, {restored} restored, 0 lost; {syncs}"));
    diary.assert_is_in(&site.restore("--repository third"), end);
}

/// Follows a run of `wal-sync` from its beginning to its end: by itself, or when `meanwhile` is over.
fn record_stream(site: &Site, recording: &mut Recording, arguments: &str, meanwhile: &mut dyn FnMut()) {
    let log = site.fresh("home/trace");
    let call = site.call_under(&strace::recording_messages(&log), arguments).expect("strace was looked for");
    match arguments.contains("--follow") {
        false => drop(call.run().succeeds()),
        true => {
            let follower = call.start();
            let streams = "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'pgbak' AND state = 'streaming'";
            wait_until("pgbak to stream", || site.cluster().sql(streams) == "1");
            meanwhile();
            // strace keeps a signal to itself.
            process::running_from(&site.path("bin")).iter().for_each(|pid| process::send(*pid, Signal::TERM));
            drop(follower.finish().exits(128 + Signal::TERM.as_raw()));
        }
    }
    recording.follow(&strace::read(&log), &repositories_of(site), Descriptors::Shared);
    // One that was told to stop has said nothing of what it copied.
    recording.ended.extend((!arguments.contains("--follow")).then_some(recording.steps.len()));
}

/// Nothing in the state directory is relied on; but damage that was found once stays known.
#[test]
fn what_pgbak_remembers_may_be_torn_and_known_damage_stays_known() {
    let mut campaign = Campaign::begin("power/state");
    let site = scene!(repositories(2));
    if !strace::may_record(site.identity()) {
        return;
    }
    site.pgbak("base-backup").succeeds();
    scene::archive_all(&site);
    let damaged = scene::new_segment(&site);
    site.pgbak(&scene::push(&site, &damaged)).succeeds();
    site.pgbak("wal-sync").succeeds();
    let second = &site.repositories()[1];
    second.alter(&second.wal_file(&damaged).unwrap(), |bytes| bytes.truncate(bytes.len() / 2));
    let verified = || drop(site.pgbak("verify").exits(3).stdout_has(&damaged));
    verified();
    let root = site.path("home/.local/state");
    let mut recording = Recording::begin(&root);
    for (arguments, code) in [("wal-sync", 0), ("verify", 3)] {
        let (outcome, calls) = strace::run_recorded(&site, strace::FILES, arguments);
        drop(outcome.exits(code));
        recording.follow(&calls, &root, Descriptors::Shared);
    }
    let looked_at = assert_survives(&recording, &mut campaign, law::of_proofs);
    let syncs = assert_no_sync_is_idle(&recording, &mut campaign, law::of_proofs, &[Purpose::Content]);
    let real = real_disks(length::of(2, 40), &recording, &mut campaign, &site, &root, &mut |_| {
        site.pgbak("status").stdout_has(&damaged);
        let segment = scene::new_segment(&site);
        site.pgbak(&scene::push(&site, &segment)).succeeds();
        site.pgbak("wal-sync").succeeds();
        site.repositories().iter().for_each(|repository| scene::assert_segment(&site, repository, &segment));
        verified();
    });
    campaign.end(&format!("{looked_at} disks, {real} of them real, nothing forgotten; {syncs}"));
}

/// A site whose second repository is on an SSH server that is recorded; `None`, with the test noted as skipped, where
/// it cannot be had.
fn recorded_pair(log: &Path) -> Option<Pair> {
    let identity = Identity::ordinary();
    // sftp-server hides from its own user as pgbak does.
    if !strace::may_record(&identity) {
        return None;
    }
    let server = Sshd::with(&identity, SshAccount::Shell).under(&strace::recording(log, strace::FILES));
    scene::build_pair(server.start()?)
}

/// Runs pgbak, and tells what its sessions have called on the server.
fn calls_of_the_server(pair: &Pair, log: &Path, arguments: &str) -> Vec<Call> {
    let seen = strace::read(log).len();
    pair.site.pgbak(arguments).succeeds();
    wait_until("the sessions to end", || pair.sshd.connections() == 1);
    strace::read(log).split_off(seen)
}

/// The same on the other side of an SSH connection, where `sftp-server` makes the calls.
#[test]
fn what_was_uploaded_survives_a_power_failure_of_the_server() {
    let mut campaign = Campaign::begin("power/sftp");
    let scratch = tempfile::tempdir().unwrap();
    let log = scratch.path().join("trace");
    let Some(pair) = recorded_pair(&log) else { return };
    let site = &pair.site;
    let root = pair.sshd.local_path();
    let mut looked_at = 0;
    let mut syncs = String::new();
    for arguments in ["base-backup", "wal-sync", "wal-sync", "base-backup", "prune"] {
        if arguments == "wal-sync" {
            scene::archive_all(site);
        }
        let mut recording = Recording::begin(&root);
        let calls = calls_of_the_server(&pair, &log, arguments);
        recording.follow(&calls, &pair.sshd.root_path(), Descriptors::OfEachThread);
        acknowledge(&mut recording);
        if arguments == "prune" {
            recording.keeps_what_is_left();
        }
        assert!(!recording.acknowledged.is_empty(), "nothing was seen of {arguments}");
        looked_at += assert_survives(&recording, &mut campaign, law::of_repositories);
        let vital = match arguments {
            "base-backup" if syncs.is_empty() => &PUBLISHING[..],
            "prune" => &[Purpose::Removal],
            _ => continue,
        };
        syncs += &assert_no_sync_is_idle(&recording, &mut campaign, law::of_repositories, vital);
        syncs += "; ";
    }
    scene::assert_repository_whole(site, pair.remote());
    campaign.end(&format!("{looked_at} disks, {syncs}0 lost"));
}
