//! The power fails: whatever was not synced is lost, or is there and should not be, in any order.
//!
//! A run of the real program is recorded as the calls it makes, and played back on a model of a disk that promises no
//! more than POSIX does. After every step the power fails, in many ways; what the disk then holds must keep the law.
//! Some of these disks are made real, and the next run of the program must go through on them.
//!
//! Then the same recording is played back with syncs left out, which is the same as taking them out of the program:
//! each kind of sync that there is must be missed by the law. A single one that is not missed must be explained.

mod disk;
mod recording;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use self::disk::{All, Bytes, Disk, Fate, Tree};
use self::recording::{Descriptors, Recording, Step};
use super::campaign::Campaign;
use super::length;
use super::scene::{self, assert_whole};
use super::strace::{self, Point};
use crate::scene;
use crate::support::{Identity, Pair, Site, SshAccount, Sshd, wait_until};

const RECORD: &str = "backup_info.toml";
const UNFINISHED: &str = ".unfinished";
/// Up to so many undecided changes, each is tried on its own.
const EACH_ALONE_MAX: usize = 24;

/// Says what is wrong with a disk on which the power failed after so many steps.
type Law = fn(&Recording, &Tree, usize) -> Result<(), String>;

/// Why there is a sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Purpose {
    /// A file's content.
    Content,
    /// The name of a file.
    Name,
    /// The name of a directory.
    Directory,
    /// That names are gone.
    Removal,
    Everything,
    /// Nothing had changed in that directory since it was synced last.
    Nothing,
}

impl Recording {
    /// What each sync among the steps is for.
    fn purposes(&self) -> BTreeMap<usize, Purpose> {
        let mut purposes = BTreeMap::new();
        for (index, step) in self.steps.iter().enumerate() {
            let purpose = match step {
                Step::SyncAll => Purpose::Everything,
                Step::Sync(inode) if self.nodes[*inode].is_directory => self.purpose_of(*inode, index),
                Step::Sync(_) => Purpose::Content,
                _ => continue,
            };
            purposes.insert(index, purpose);
        }
        purposes
    }

    fn purpose_of(&self, synced: usize, end: usize) -> Purpose {
        let before = |step: &&Step| **step != Step::Sync(synced);
        let since = self.steps[..end].iter().rev().take_while(before).filter_map(|step| match step {
            Step::Name { directory, inode, name } if *directory == synced && !name.ends_with(UNFINISHED) => {
                Some(if self.nodes[*inode].is_directory { Purpose::Directory } else { Purpose::Name })
            }
            Step::Rename { to, .. } if to.0 == synced => Some(Purpose::Name),
            Step::Unname { directory, .. } if *directory == synced => Some(Purpose::Removal),
            _ => None,
        });
        since.min().unwrap_or(Purpose::Nothing)
    }

    fn describe(&self, index: usize) -> String {
        match &self.steps[index] {
            Step::Sync(inode) => format!("sync {} of /{}", index, self.nodes[*inode].path.display()),
            step => format!("step {index}, {step:?}"),
        }
    }
}

/// Chance decides.
struct Chance<'a>(&'a mut Campaign);

impl Fate for Chance<'_> {
    fn keeps_name(&mut self, _: usize) -> bool {
        self.0.flips()
    }

    fn bytes(&mut self) -> Bytes {
        [Bytes::Lost, Bytes::Zeros, Bytes::Kept][self.0.below(3)]
    }
}

/// Plays a recording back, and lets the power fail after every step, in `chances` ways beside the obvious ones. Each
/// disk that is found is shown to `look`, with the number of steps that were taken.
fn power_fails(
    recording: &Recording,
    campaign: &mut Campaign,
    chances: usize,
    ignored: &dyn Fn(usize) -> bool,
    look: &mut dyn FnMut(&Tree, usize) -> Result<(), String>,
) -> Result<usize, String> {
    let mut disk = Disk::before(recording);
    let mut found = 0;
    for after in 0..=recording.steps.len() {
        if let Some(step) = after.checked_sub(1).filter(|step| !ignored(*step)) {
            disk.take(&recording.steps[step]);
        }
        if is_one_of_many(recording, after) && campaign.below(length::of(recording.steps.len() / 30, 8)) > 0 {
            continue;
        }
        let mut fail = |fate: &mut dyn Fate| {
            found += 1;
            look(&disk.survivors(fate), after)
        };
        for (names, bytes) in [false, true]
            .into_iter()
            .flat_map(|names| [Bytes::Lost, Bytes::Zeros, Bytes::Kept].map(|bytes| (names, bytes)))
        {
            let alone = (0..disk.undecided()).filter(|_| disk.undecided() <= EACH_ALONE_MAX);
            for but in std::iter::once(None).chain(alone.map(Some)) {
                fail(&mut All { names, bytes, but })?;
            }
        }
        for _ in 0..chances {
            fail(&mut Chance(campaign))?;
        }
    }
    Ok(found)
}

/// Whether the last step was like thousands of others of a restore, so that a sample of them will do.
fn is_one_of_many(recording: &Recording, after: usize) -> bool {
    let last = after.checked_sub(1).map(|step| &recording.steps[step]);
    recording.steps.len() > 500
        && after < recording.steps.len()
        && matches!(last, Some(Step::Name { .. } | Step::Write { .. } | Step::Unname { .. }))
}

/// Asserts that the law holds however the power fails; returns how many disks were looked at.
#[track_caller]
fn assert_survives(recording: &Recording, campaign: &mut Campaign, law: Law) -> usize {
    let chances = length::of(4, 100);
    let mut look = |tree: &Tree, after: usize| {
        law(recording, tree, after).map_err(|broken| {
            let last = after.checked_sub(1).map(|step| recording.describe(step));
            format!("{broken}\nafter {last:?}; then there was {tree:#?}")
        })
    };
    power_fails(recording, campaign, chances, &|_| false, &mut look)
        .unwrap_or_else(|broken| panic!("{broken}"))
}

/// Leaves syncs out: all of each kind in `vital`, which must be missed, and then each alone. Returns those that are not
/// missed alone, with their purpose.
fn mutants(
    recording: &Recording,
    campaign: &mut Campaign,
    law: Law,
    vital: &[Purpose],
) -> Vec<(usize, Purpose)> {
    let purposes = recording.purposes();
    let mut survives = |ignored: &dyn Fn(usize) -> bool| {
        let mut look = |tree: &Tree, after| law(recording, tree, after);
        power_fails(recording, campaign, 0, ignored, &mut look).is_ok()
    };
    for kind in vital {
        assert!(
            purposes.values().any(|purpose| purpose == kind),
            "{kind:?} is not synced at all: {purposes:?}"
        );
        let ignored = |step: usize| purposes.get(&step) == Some(kind);
        assert!(!survives(&ignored), "nobody misses the syncs of {kind:?}");
    }
    let alone = purposes.iter().filter(|(step, _)| survives(&|other| other == **step));
    alone.map(|(&step, &purpose)| (step, purpose)).collect()
}

/// What has a name in a repository is whole, a recorded backup has all its files, and what was acknowledged is there.
fn law_of_repositories(recording: &Recording, tree: &Tree, after: usize) -> Result<(), String> {
    for (path, found) in tree {
        let name = path.file_name().unwrap().to_str().unwrap();
        if !found.is_directory && !name.ends_with(UNFINISHED) && !found.is_whole {
            return Err(format!("{} is torn", path.display()));
        }
        if name == RECORD {
            let record = recording.nodes[found.inode].content.as_ref().expect("a record is short");
            let record: toml::Table = std::str::from_utf8(record).unwrap().parse().unwrap();
            let files = record["files"].as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap());
            if let Some(missing) =
                files.chain(["SHA256SUMS"]).find(|file| !tree.contains_key(&path.with_file_name(file)))
            {
                return Err(format!("{} is recorded without {missing}", path.display()));
            }
        }
    }
    let mut acknowledged = recording.acknowledged.iter().filter(|(_, since)| **since <= after);
    match acknowledged.find(|(path, _)| !tree.contains_key(*path)) {
        Some((missing, _)) => Err(format!("{} was acknowledged, and is lost", missing.display())),
        None => Ok(()),
    }
}

/// Runs pgbak and follows what it does below `root`.
fn record(site: &Site, recording: &mut Recording, root: &Path, arguments: &str) {
    let log = site.fresh("home/trace");
    site.call_under(&strace::recording(&log, strace::FILES), arguments)
        .expect("strace was looked for")
        .run()
        .succeeds();
    recording.follow(&strace::read(&log), root, Descriptors::Shared);
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
    let before = recording.paths(&recording.before);
    let after = recording.paths(&recording.after).into_iter();
    let is_new = |(path, inode): &(PathBuf, usize)| {
        let path_text = path.to_str().unwrap();
        let is_lasting = !path_text.contains("lease") && !path_text.ends_with(UNFINISHED);
        is_lasting && !before.contains_key(path) && !recording.nodes[*inode].is_directory
    };
    after.filter(is_new).map(|(path, _)| path).collect()
}

/// Makes some of the disks that a power failure leaves real, in the place of `root`; on each, `next` must go well.
fn real_disks(
    recording: &Recording,
    campaign: &mut Campaign,
    site: &Site,
    root: &Path,
    next: &mut dyn FnMut(),
) -> usize {
    let mut trees = Vec::new();
    let mut look = |tree: &Tree, _| {
        trees.push(tree.clone());
        Ok(())
    };
    power_fails(recording, campaign, 2, &|_| false, &mut look).unwrap();
    trees.sort_by_cached_key(|tree| format!("{tree:?}"));
    trees.dedup();
    let trees = campaign.some_of(trees, length::of(5, 150));
    let away = root.with_extension("away");
    fs::rename(root, &away).unwrap();
    for tree in &trees {
        materialise(recording, tree, root, site.identity());
        // What pgbak remembers is younger than this disk. It could not be, had the power really failed.
        let _ = fs::remove_dir_all(site.path("home/.local/state"));
        next();
        fs::remove_dir_all(root).unwrap();
    }
    fs::rename(&away, root).unwrap();
    trees.len()
}

fn materialise(recording: &Recording, tree: &Tree, root: &Path, owner: &Identity) {
    let own = |path: &Path, mode| {
        owner.own_path(path);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    fs::create_dir(root).unwrap();
    own(root, 0o700);
    for (path, found) in tree {
        let path = root.join(path);
        if found.is_directory {
            fs::create_dir(&path).unwrap();
            own(&path, 0o700);
            continue;
        }
        let sound = usize::try_from(found.sound_bytes).unwrap();
        let mut bytes = recording.nodes[found.inode].content.clone().unwrap_or_default();
        bytes.truncate(sound);
        bytes.resize(usize::try_from(found.length_bytes).unwrap(), 0);
        fs::write(&path, bytes).unwrap();
        own(&path, 0o600);
    }
}

/// Why nobody misses one sync alone; `None` when that is not known, and so a hole in the law or a sync too many.
fn explanation(recording: &Recording, step_number: usize, purpose: Purpose) -> Option<&'static str> {
    let same_again = || {
        let later = &recording.steps[step_number + 1..];
        let relied_on = later.iter().position(|step| match (step, &recording.steps[step_number]) {
            (Step::Rename { to, .. }, Step::Sync(synced)) => to.0 == *synced && to.1 == RECORD,
            (Step::Name { directory, name, .. } | Step::Unname { directory, name }, Step::Sync(synced)) => {
                directory == synced && name == RECORD
            }
            _ => false,
        });
        later[..relied_on.unwrap_or(later.len())].contains(&recording.steps[step_number])
    };
    match purpose {
        // Storage does not know what an earlier process, which may have been killed, has synced.
        Purpose::Nothing => Some("it had been durable before"),
        // Storage promises durability object by object; a backup needs it before its record, and before its end. Of two
        // threads that make the same directory durable, either would do.
        Purpose::Name | Purpose::Removal | Purpose::Directory if same_again() => {
            Some("the same directory is synced again in time")
        }
        // A lease of a process that is gone, a file of a backup without a record, a half-deleted directory.
        Purpose::Removal => Some("what comes back is garbage, and known for it"),
        _ => None,
    }
}

/// Asserts that each kind of sync is needed, and that each single one that is not can be explained.
#[track_caller]
fn assert_no_sync_is_idle(
    recording: &Recording,
    campaign: &mut Campaign,
    law: Law,
    vital: &[Purpose],
) -> String {
    let unmissed = mutants(recording, campaign, law, vital);
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for &(step, purpose) in &unmissed {
        let reason = explanation(recording, step, purpose);
        let reason =
            reason.unwrap_or_else(|| panic!("nobody misses {}, for {purpose:?}", recording.describe(step)));
        *reasons.entry(reason).or_default() += 1;
    }
    let all = recording.purposes().len();
    println!("not missed alone: {reasons:?}");
    format!("{} of {all} syncs missed alone, {} kinds together", all - unmissed.len(), vital.len())
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
    let looked_at = assert_survives(&recording, &mut campaign, law_of_repositories);
    let syncs = assert_no_sync_is_idle(&recording, &mut campaign, law_of_repositories, &PUBLISHING);
    let real = real_disks(&recording, &mut campaign, &site, &root, &mut || {
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
        looked_at += assert_survives(&recording, &mut campaign, law_of_repositories);
    }
    let twice = |name: &String| {
        let held = recording.acknowledged.keys().filter(|path| path.to_str().unwrap().contains(name));
        held.count() == 2
    };
    assert!(segments.iter().all(twice), "{:?}", recording.acknowledged);
    let syncs = assert_no_sync_is_idle(&recording, &mut campaign, law_of_repositories, &PUBLISHING);
    let real = real_disks(&recording, &mut campaign, &site, &root, &mut || {
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

/// The one that named the segment did not live to sync it; the next one finds it there, and says success for it.
#[test]
fn wal_that_a_killed_process_has_left_is_made_durable_before_it_is_acknowledged() {
    let mut campaign = Campaign::begin("power/wal-push-again");
    let site = scene!();
    if !strace::may_record(site.identity()) {
        return;
    }
    site.pgbak(&scene::push(&site, &scene::new_segment(&site))).succeeds();
    let root = repositories_of(&site);
    let segment = scene::new_segment(&site);
    let push = scene::push(&site, &segment);
    let log = site.fresh("home/trace");
    site.call_under(&strace::recording(&log, strace::CHANGES), &push)
        .expect("strace was looked for")
        .run()
        .succeeds();
    let syncs = strace::changes(&strace::read(&log));
    let last = syncs.into_iter().filter(|point| point.call == "fsync").max().unwrap();
    fs::remove_file(site.repository().wal_file(&segment).unwrap()).unwrap();

    let mut looked_at = 0;
    for earlier in 0..last.nth {
        let mut recording = Recording::begin(&root);
        let log = site.fresh("home/trace");
        let point = Point { nth: last.nth - earlier, ..last.clone() };
        let killed = site
            .call_under(&strace::recording_and_killing(&log, strace::FILES, &point), &push)
            .expect("strace was looked for")
            .run();
        recording.follow(&strace::read(&log), &root, Descriptors::Shared);
        if killed.code == 0 {
            panic!("it was not killed: {killed}");
        }
        record(&site, &mut recording, &root, &push);
        assert_eq!(recording.acknowledged.len(), 1, "{:?}", recording.acknowledged);
        looked_at += assert_survives(&recording, &mut campaign, law_of_repositories);
        fs::remove_file(site.repository().wal_file(&segment).unwrap()).unwrap();
    }
    campaign.end(&format!("{looked_at} disks after {} deaths, 0 lost", last.nth));
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
    let kept = recording.paths(&recording.after);
    recording.acknowledged.extend(kept.into_keys().map(|path| (path, 0)));
    let looked_at = assert_survives(&recording, &mut campaign, law_of_repositories);
    // What it is all about: the record is gone for good before the first byte of the data goes.
    let syncs = assert_no_sync_is_idle(&recording, &mut campaign, law_of_repositories, &[Purpose::Removal]);
    let real = real_disks(&recording, &mut campaign, &site, &root, &mut || {
        assert_whole(&site);
        site.pgbak("prune").succeeds();
        assert_whole(&site);
        assert_eq!(site.repository().backups(), [newest.as_str()]);
        scene::assert_newest_has_its_wal(site.repository(), &last);
    });
    campaign.end(&format!("{looked_at} disks, {real} of them real, 0 lost; {syncs}"));
    scene::assert_restores(&site, &account);
}

/// A data directory that could be started holds what was restored, all of it, or the old copy as it was.
fn law_of_restore(recording: &Recording, tree: &Tree, steps_taken: usize) -> Result<(), String> {
    let control = Path::new("data/global/pg_control");
    let (before, after) = (recording.paths(&recording.before), recording.paths(&recording.after));
    let expected = match tree.get(control) {
        Some(found) if Some(&found.inode) == after.get(control) => after,
        Some(found) if Some(&found.inode) == before.get(control) => before,
        Some(_) => return Err("there is a pg_control that is neither old nor new".into()),
        None if steps_taken == recording.steps.len() => {
            return Err("success was said, and there is no pg_control".into());
        }
        None => return Ok(()),
    };
    for (path, inode) in expected {
        match tree.get(&path) {
            None => return Err(format!("{} is missing, beside a pg_control", path.display())),
            Some(found) if found.inode != inode => {
                return Err(format!("{} is of another life than pg_control", path.display()));
            }
            Some(found) if !found.is_directory && !found.is_whole => {
                return Err(format!("{} is torn, beside a pg_control", path.display()));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

#[test]
fn a_restore_survives_a_power_failure_at_any_step() {
    let mut campaign = Campaign::begin("power/restore");
    let site = scene!();
    if !strace::may_record(site.identity()) {
        return;
    }
    let account = scene::committed(&site, || drop(site.pgbak("base-backup").succeeds()));
    scene::archive_all(&site);
    let place = site.make_directory("place");
    let directory = place.join("data");
    let restore = format!("restore -D {}", directory.display());
    let mut recording = Recording::begin(&place);
    record(&site, &mut recording, &place, &restore);
    let looked_at = assert_survives(&recording, &mut campaign, law_of_restore);
    mutants(&recording, &mut campaign, law_of_restore, &[Purpose::Everything]);
    campaign.end(&format!("{looked_at} disks, 0 that start and are not whole"));
    let mut restored = site.restored_in(&directory);
    restored.launch();
    restored.wait_until_recovered();
    account.assert_holds_exactly(&restored, &account.history.commits);
}

/// The old `pg_control` must be gone for good before anything else of the old copy changes.
#[test]
fn an_old_copy_that_is_half_replaced_cannot_be_started_after_a_power_failure() {
    let mut campaign = Campaign::begin("power/restore-delta");
    let site = scene!();
    if !strace::may_record(site.identity()) {
        return;
    }
    let account = scene::committed(&site, || drop(site.pgbak("base-backup").succeeds()));
    scene::archive_all(&site);
    let place = site.make_directory("place");
    let directory = place.join("data");
    let restore = format!("restore -D {}", directory.display());
    site.pgbak(&restore).succeeds();
    let mut restored = site.restored_in(&directory);
    restored.launch();
    restored.wait_until_recovered();
    restored.sql("CREATE TABLE later AS SELECT 1 AS x");
    drop(restored);
    let mut recording = Recording::begin(&place);
    record(&site, &mut recording, &place, &format!("{restore} --delta"));
    let looked_at = assert_survives(&recording, &mut campaign, law_of_restore);
    mutants(&recording, &mut campaign, law_of_restore, &[Purpose::Everything, Purpose::Removal]);
    campaign.end(&format!("{looked_at} disks, 0 that start and are not whole"));
    let mut restored = site.restored_in(&directory);
    restored.launch();
    restored.wait_until_recovered();
    account.assert_holds_exactly(&restored, &account.history.commits);
}

/// The same on the other side of an SSH connection, where `sftp-server` makes the calls.
#[test]
fn what_was_uploaded_survives_a_power_failure_of_the_server() {
    let mut campaign = Campaign::begin("power/sftp");
    let identity = Identity::ordinary();
    // sftp-server hides from its own user as pgbak does.
    if !strace::may_record(&identity) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let log = scratch.path().join("trace");
    let server = Sshd::with(&identity, SshAccount::Shell).under(&strace::recording(&log, strace::FILES));
    let Some(sshd) = server.start() else { return };
    let Some(pair) = Pair::over(sshd, Site::with().initdb("--wal-segsize=1").without_archiving()) else {
        return;
    };
    let site = &pair.site;
    site.repositories().iter().for_each(|repository| repository.forget());
    let root = pair.sshd.local_path();
    let mut looked_at = 0;
    let mut syncs = String::new();
    for arguments in ["base-backup", "wal-sync", "wal-sync"] {
        if arguments == "wal-sync" {
            scene::archive_all(site);
        }
        let mut recording = Recording::begin(&root);
        let seen = strace::read(&log).len();
        site.pgbak(arguments).succeeds();
        wait_until("the sessions to end", || pair.sshd.connections() == 1);
        recording.follow(&strace::read(&log)[seen..], &pair.sshd.root_path(), Descriptors::OfEachThread);
        acknowledge(&mut recording);
        assert!(!recording.acknowledged.is_empty(), "nothing was seen of {arguments}");
        looked_at += assert_survives(&recording, &mut campaign, law_of_repositories);
        if arguments == "base-backup" {
            syncs = assert_no_sync_is_idle(&recording, &mut campaign, law_of_repositories, &PUBLISHING);
        }
    }
    scene::assert_repository_whole(site, pair.remote());
    campaign.end(&format!("{looked_at} disks, 0 lost; {syncs}"));
}
