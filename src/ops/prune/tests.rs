//! Repositories in memory, pruned by runs that die at any change, meet others at work, and find damage.

use std::cell::Cell;
use std::sync::Arc;

use super::*;
use crate::catalog::backup::StoredFile;
use crate::catalog::{BackupInfo, Catalog};
use crate::pg::{Lsn, SegmentName, SegmentSize, Timeline, WalFileName};
use crate::pipe::Codec;
use crate::repo::lease::{HeldLease, Holder};
use crate::repo::{Distance, layout};
use crate::storage::{Memory, Storage};

const SYSTEM: SystemIdentifier = SystemIdentifier(7_711_059_041_355_033_155);
const SIZE: SegmentSize = SegmentSize::DEFAULT;

fn hour(hour: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_305_600 + 3600 * hour, 0).unwrap()
}

/// A repository with a backup every ten hours, and a segment every hour.
struct Place {
    memory: Memory,
    now: Cell<DateTime<Utc>>,
    policy: Policy,
    known: Vec<(BackupName, String)>,
}

fn keep_last(count: u32) -> Policy {
    Policy::from(&config::Retention { keep_last: count, ..config::Retention::default() })
}

fn holder(host: &str, pid: u32) -> Holder {
    Holder { host: host.into(), pid, pid_scope: "boot".into() }
}

/// The name of the backup that began in this hour.
fn name(start: i64) -> BackupName {
    BackupName::of(hour(start))
}

fn segment(number: u64) -> String {
    SegmentName { timeline: Timeline::FIRST, number }.file_name(SIZE).to_string()
}

impl Place {
    fn new(hours: i64) -> Self {
        let memory = Memory::default();
        memory.set_time(hour(0));
        put(&memory, layout::RESTORE_MD, b"x");
        for number in 0..hours {
            memory.set_time(hour(number));
            put_wal(&memory, &segment(number as u64));
            if number % 10 == 1 {
                put_backup(&memory, number);
                put_wal(&memory, &format!("{}.00000028.backup", segment(number as u64)));
            }
        }
        put_wal(&memory, "00000002.history");
        let place = Self { memory, now: Cell::new(hour(hours)), policy: keep_last(1), known: vec![] };
        place.memory.set_time(hour(hours));
        place
    }

    fn repository(&self) -> Repository {
        Repository::new("first", Arc::new(self.memory.clone()), Distance::Near)
    }

    fn try_prune_as(&self, dry_run: bool) -> Result<RepositoryReport, Error> {
        let now = self.now.get();
        let pruner = Pruner {
            observer: Observer { holder: holder("here", 1), is_running: &|_| false },
            cluster: Some(SYSTEM),
            clock: &move || now,
            check: &|| Ok(()),
            known_damage: &|_, _| Ok(self.known.clone()),
            policy: self.policy.clone(),
            dry_run,
        };
        let repository = self.repository();
        let mut report = RepositoryReport::new(&repository);
        pruner.prune(&repository, &mut report).map(|()| report)
    }

    fn try_prune(&self) -> Result<RepositoryReport, Error> {
        self.try_prune_as(false)
    }

    #[track_caller]
    fn prune(&self) -> RepositoryReport {
        self.try_prune().unwrap()
    }

    fn backups(&self) -> Vec<BackupName> {
        self.catalog().backups().iter().map(|backup| backup.name).collect()
    }

    fn catalog(&self) -> Catalog {
        self.repository().catalog().unwrap()
    }

    /// Everything but what makes it a repository.
    fn keys(&self) -> Vec<String> {
        let keys = crate::storage::walk(&self.memory, "").unwrap().into_iter().map(|(key, _)| key);
        keys.filter(|key| key != layout::RESTORE_MD).collect()
    }

    /// What is there when nothing but these backups, and WAL from this segment to the last, is.
    fn expected(&self, starts: &[i64], first: u64, hours: u64) -> Vec<String> {
        let memory = Memory::default();
        for &start in starts {
            put_backup(&memory, start);
            put_wal(&memory, &format!("{}.00000028.backup", segment(start as u64)));
        }
        (first..hours).for_each(|number| put_wal(&memory, &segment(number)));
        put_wal(&memory, "00000002.history");
        memory.keys()
    }

    #[track_caller]
    fn every_recorded_backup_is_whole(&self) {
        for backup in self.catalog().backups() {
            for file in &backup.files {
                let bytes = self.memory.bytes(&layout::backup_file(backup.name, &file.name));
                assert_eq!(bytes.map(|bytes| bytes.len() as u64), Some(file.size_bytes), "{}", backup.name);
            }
        }
    }
}

fn put(memory: &Memory, key: &str, bytes: &[u8]) {
    let mut upload = memory.create(key).unwrap();
    std::io::Write::write_all(&mut upload, bytes).unwrap();
    upload.commit().unwrap();
}

fn put_wal(memory: &Memory, name: &str) {
    let name = WalFileName::parse(name).unwrap();
    let content: &[u8] = if matches!(name, WalFileName::History(_)) { b"1\t0/AF000000\n" } else { b"wal" };
    put(memory, &layout::wal_file(SYSTEM, &name, Codec::Zstd), content);
}

fn put_backup(memory: &Memory, start: i64) {
    let backup = name(start);
    let lsn = Lsn(start as u64 * SIZE.bytes() + 40);
    let names = ["base.tar.zst", "pg_wal.tar.zst", layout::MANIFEST];
    let file = |name: &&str| StoredFile { name: (*name).into(), size_bytes: 4, sha256: "a".repeat(64) };
    let info = BackupInfo {
        system_identifier: SYSTEM,
        start_lsn: lsn,
        stop_lsn: lsn,
        wal_segment_size: SIZE,
        size_bytes: 12,
        stored_bytes: 12,
        files: names.iter().map(file).collect(),
        ..BackupInfo::example(hour(start))
    };
    for name in names.iter().chain([&layout::CHECKSUMS]) {
        put(memory, &layout::backup_file(backup, name), b"data");
    }
    put(memory, &layout::backup_file(backup, layout::RECORD), info.to_toml().as_bytes());
}

#[test]
fn what_is_planned_is_what_is_gone() {
    let place = Place::new(35);
    let before = place.keys();
    let planned = place.try_prune_as(true).unwrap();
    assert_eq!(place.keys(), before, "a dry run changes nothing");
    let report = place.prune();
    assert_eq!(place.keys(), place.expected(&[31], 31, 35));
    assert_eq!((&report.backups, &report.wal), (&planned.backups, &planned.wal));
    assert_eq!(report.deleted, planned.deleted);
    assert_eq!((report.deleted.backups, report.deleted.wal_files), (3, 31 + 3));
    assert_eq!(report.deleted.bytes, 3 * 12 + 34 * 3);
    let again = place.prune();
    assert_eq!(again.deleted, Deleted::default());
}

#[test]
fn dying_anywhere_never_tears_a_recorded_backup_and_the_next_run_finishes() {
    for change in 0.. {
        let place = Place::new(35);
        put(&place.memory, "base-backups/base_backup_20261101_020000/base.tar.zst.1", b"x");
        place.memory.dies_at(change);
        let died = place.try_prune().is_err();
        place.memory.revive();
        place.every_recorded_backup_is_whole();
        assert_eq!(place.backups().last(), Some(&name(31)));
        let archived = place.catalog().archive(SYSTEM).unwrap().intervals(Timeline::FIRST).last().copied();
        let archived = archived.unwrap();
        assert!(archived.first.number <= 31 && archived.last.number == 34, "no gap in what is needed");
        place.now.set(hour(36));
        place.prune();
        let mut left = place.keys();
        // Never recorded, and written less than a day ago.
        left.retain(|key| !key.contains("20261101"));
        assert_eq!(left, place.expected(&[31], 31, 35), "after change {change}");
        if !died {
            assert_eq!(change, 3 * 5 + 31 + 3, "three backups, their notes, and 31 segments");
            return;
        }
    }
}

#[test]
fn what_a_dead_writer_left_goes_after_a_day_and_a_living_one_keeps_its_own_and_all_wal() {
    let place = Place::new(35);
    let directory = "base-backups/base_backup_20261123_120000";
    let _lease = HeldLease::take(&place.memory, directory, &holder("there", 7), hour(35)).unwrap();
    put(&place.memory, &format!("{directory}/pg_wal.tar.zst"), b"half");
    let report = place.prune();
    assert_eq!(place.backups(), [name(31)]);
    assert_eq!(report.deleted.wal_files, 0, "who knows what it needs");
    assert!(report.leftovers[0].decision.reason.contains("being written by process 7 on there"));

    // Its host is never heard of again.
    place.now.set(hour(38));
    assert_eq!(place.prune().deleted.wal_files, 31 + 3);
    assert!(place.keys().iter().any(|key| key.starts_with(directory)), "not yet a day");
    place.memory.set_time(hour(60));
    place.now.set(hour(60));
    put_wal(&place.memory, &segment(35));
    assert_eq!(place.prune().deleted.leftovers, 1);
    assert_eq!(place.keys(), place.expected(&[31], 31, 36));
}

#[test]
fn a_backup_that_is_restored_stays_with_its_wal() {
    let place = Place::new(35);
    let reading = place.repository().hold_to_read(name(11), &holder("there", 7), hour(35)).unwrap();
    let report = place.prune();
    assert_eq!(place.backups(), [name(11), name(31)]);
    assert_eq!(report.deleted.wal_files, 11 + 1);
    let kept = &report.backups[1].decision;
    assert!(kept.reason.starts_with("in use by process 7 on there since"), "{}", kept.reason);
    reading.release();
    place.prune();
    assert_eq!(place.keys(), place.expected(&[31], 31, 35));
}

#[test]
fn a_restore_that_dies_at_any_change_holds_nothing_for_long() {
    for change in 0.. {
        let place = Place::new(35);
        place.memory.dies_at(change);
        if let Ok(mut reading) = place.repository().hold_to_read(name(11), &holder("here", 7), hour(35)) {
            reading.keep(hour(36));
            reading.release();
        }
        let died = place.memory.list("").is_err();
        place.memory.revive();
        place.every_recorded_backup_is_whole();
        place.prune();
        assert_eq!(place.keys(), place.expected(&[31], 31, 35), "after change {change}");
        if !died {
            assert_eq!(change, 4, "the lease, its renewal, and that both go");
            return;
        }
    }
}

#[test]
fn a_restore_that_begins_while_its_backup_is_deleted_is_seen_or_sees_it() {
    for deletes in 0..5 {
        let place = Place::new(35);
        let repository = place.repository();
        // Stopped between two deletes, as by somebody who looks the other way.
        place.memory.dies_at(deletes);
        let observer = Observer { holder: holder("here", 1), is_running: &|_| false };
        let died = repository.delete_backup(name(11), hour(35), &observer);
        assert!(died.is_err());
        place.memory.revive();
        match repository.hold_to_read(name(11), &holder("there", 7), hour(35)) {
            Ok(_) => {
                assert_eq!(deletes, 0);
                let seen = repository.delete_backup(name(11), hour(35), &observer).unwrap();
                assert!(matches!(seen, Deletion::InUse(_)));
                place.every_recorded_backup_is_whole();
            }
            Err(crate::repo::Error::Missing { .. }) => {
                let leases = place.keys().into_iter().filter(|key| key.contains("lease"));
                assert_eq!(leases.count(), 0, "it is given back");
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_lease_that_appears_during_the_run_stops_the_deletion_of_its_wal_too() {
    let place = Place::new(35);
    let repository = place.repository();
    let survey_then_hold = |_: &Repository, _: &Survey| {
        // The survey is done; the deletions are to come.
        let held = repository.hold_to_read(name(11), &holder("there", 7), hour(35)).unwrap();
        std::mem::forget(held);
        Ok(Vec::new())
    };
    let pruner = Pruner {
        observer: Observer { holder: holder("here", 1), is_running: &|_| false },
        cluster: Some(SYSTEM),
        clock: &|| hour(35),
        check: &|| Ok(()),
        known_damage: &survey_then_hold,
        policy: keep_last(1),
        dry_run: false,
    };
    let mut report = RepositoryReport::new(&repository);
    pruner.prune(&repository, &mut report).unwrap();
    assert_eq!(place.backups(), [name(11), name(31)]);
    let archive = place.catalog();
    let first = archive.archive(SYSTEM).unwrap().intervals(Timeline::FIRST).next().unwrap().first.number;
    assert_eq!((first, report.deleted.backups), (11, 2));
    assert_eq!(report.backups[1].decision.action, "keep");
}

#[test]
fn a_gutted_backup_and_one_that_verify_found_damaged_do_not_count() {
    let mut place = Place::new(35);
    place.memory.delete(&layout::backup_file(name(31), "base.tar.zst")).unwrap();
    place.known.push((name(21), "page 7 of base/5/1249 has a wrong checksum".to_owned()));
    let report = place.prune();
    assert_eq!(place.backups(), [name(11), name(21), name(31)]);
    assert_eq!(report.backups[3].damage.as_deref(), Some("base.tar.zst is missing"));
    assert_eq!(report.backups[2].damage.as_deref(), Some("page 7 of base/5/1249 has a wrong checksum"));
    assert_eq!(report.backups[1].decision.reason, "the newest good one");
    let mut forged = place.memory.bytes(&layout::backup_file(name(11), layout::MANIFEST)).unwrap();
    forged.push(0);
    place.memory.replace(&layout::backup_file(name(11), layout::MANIFEST), forged);
    let error = place.try_prune().unwrap_err();
    assert!(error.to_string().contains("it holds no good backup (3 damaged)"), "{error}");
}

#[test]
fn an_unreadable_record_keeps_everything() {
    let place = Place::new(35);
    let before = place.keys();
    place.memory.replace(&layout::backup_file(name(11), layout::RECORD), *b"format = 7\n");
    let error = place.try_prune().unwrap_err();
    assert!(error.to_string().starts_with("nothing was deleted from repository first: "), "{error}");
    assert!(error.hint().unwrap().contains("upgrade this one"), "{:?}", error.hint());
    assert_eq!(place.keys(), before);
}

#[test]
fn an_interrupted_run_stops_between_two_deletions() {
    let place = Place::new(35);
    let left = std::sync::atomic::AtomicI64::new(5);
    let check = || match left.fetch_sub(1, Ordering::Relaxed) {
        ..=0 => Err(crate::interrupt::Interrupted { signal: 15 }.into()),
        _ => Ok(()),
    };
    let pruner = Pruner {
        observer: Observer { holder: holder("here", 1), is_running: &|_| false },
        cluster: None,
        clock: &|| hour(35),
        check: &check,
        known_damage: &|_, _| Ok(Vec::new()),
        policy: keep_last(1),
        dry_run: false,
    };
    let repository = place.repository();
    let mut report = RepositoryReport::new(&repository);
    assert_eq!(pruner.prune(&repository, &mut report).unwrap_err().exit_code(), 143);
    assert_eq!(report.deleted.backups, 3);
    assert!((1..31).contains(&report.deleted.wal_files), "{}", report.deleted.wal_files);
    assert!(place.keys().iter().any(|key| key.contains(&segment(30))), "the oldest go first");
}

#[test]
fn abandoned_uploads_and_leases_go_after_a_day() {
    let place = Place::new(35);
    let (memory, repository) = (&place.memory, place.repository());
    for key in ["RESTORE.md", "wal-archive/7/x", &layout::backup_file(name(31), "x")] {
        std::mem::forget(memory.create(key).unwrap());
    }
    std::mem::forget(repository.hold_to_read(name(31), &holder("there", 9), hour(35)).unwrap());
    place.prune();
    assert_eq!(place.keys().len(), place.expected(&[31], 31, 35).len() + 4, "three uploads and a lease");
    memory.set_time(hour(60));
    place.now.set(hour(60));
    put_wal(memory, &segment(35));
    let report = place.prune();
    assert_eq!(report.deleted.leftovers, 4, "{report:#?}");
    assert_eq!(place.keys(), place.expected(&[31], 31, 36));
}

#[test]
fn each_directory_is_listed_once() {
    let place = Place::new(35);
    let listed = std::sync::Mutex::new(Vec::new());
    struct Listed<'a>(&'a Memory, &'a std::sync::Mutex<Vec<String>>);
    impl std::fmt::Display for Listed<'_> {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("listed")
        }
    }
    impl Storage for Listed<'_> {
        fn list(&self, directory: &str) -> crate::storage::Result<Vec<crate::storage::Entry>> {
            self.1.lock().unwrap().push(directory.to_owned());
            self.0.list(directory)
        }
        fn sync(&self, path: &str) -> crate::storage::Result<()> {
            self.0.sync(path)
        }
        fn open(&self, key: &str) -> crate::storage::Result<Box<dyn std::io::Read + Send>> {
            self.0.open(key)
        }
        fn create(&self, key: &str) -> crate::storage::Result<Box<dyn crate::storage::Upload>> {
            self.0.create(key)
        }
        fn delete(&self, key: &str) -> crate::storage::Result<()> {
            self.0.delete(key)
        }
    }
    let listed: &'static _ = Box::leak(Box::new(listed));
    let memory: &'static _ = Box::leak(Box::new(place.memory.clone()));
    let repository = Repository::new("first", Arc::new(Listed(memory, listed)), Distance::Near);
    let observer = Observer { holder: holder("here", 1), is_running: &|_| false };
    repository.survey(hour(35), &observer).unwrap();
    let mut listed = listed.lock().unwrap().clone();
    listed.sort();
    let count = listed.len();
    listed.dedup();
    assert_eq!(listed.len(), count, "{listed:?}");
    assert_eq!(count, 4 + 1 + 1 + 1 + 1 + 1, "{listed:?}");
}
