//! Several repositories, some of them far and slow, over storage that lives in memory.

use std::io::{Read, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use super::*;
use crate::pipe::FRAME_SIZE;
use crate::repo::lease::Holder;
use crate::storage::{Entry, Local, Memory, Storage};

/// Far storage whose uploads wait at a gate.
struct Slow {
    memory: Memory,
    gate: Arc<Mutex<Receiver<()>>>,
}

struct SlowUpload {
    upload: Box<dyn Upload>,
    gate: Arc<Mutex<Receiver<()>>>,
}

impl Slow {
    /// It is closed as long as the second value lives.
    fn new(memory: &Memory) -> (Self, Sender<()>) {
        let (open, gate) = channel();
        (Self { memory: memory.clone(), gate: Arc::new(Mutex::new(gate)) }, open)
    }
}

impl std::fmt::Display for Slow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("slow")
    }
}

impl Storage for Slow {
    fn list(&self, directory: &str) -> storage::Result<Vec<Entry>> {
        self.memory.list(directory)
    }

    fn sync(&self, path: &str) -> storage::Result<()> {
        self.memory.sync(path)
    }

    fn open(&self, key: &str) -> storage::Result<Box<dyn Read + Send>> {
        self.memory.open(key)
    }

    fn create(&self, key: &str) -> storage::Result<Box<dyn Upload>> {
        let upload = self.memory.create(key)?;
        Ok(Box::new(SlowUpload { upload, gate: Arc::clone(&self.gate) }))
    }

    fn delete(&self, key: &str) -> storage::Result<()> {
        self.memory.delete(key)
    }
}

impl Write for SlowUpload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.gate.lock().unwrap().recv();
        self.upload.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.upload.flush()
    }
}

impl Upload for SlowUpload {
    fn commit(&mut self) -> storage::Result<()> {
        self.upload.commit()
    }
}

struct Quiet;

impl Pulse for Quiet {
    fn now(&self) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH
    }

    fn passed(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
}

fn observer() -> Observer<'static> {
    let holder = Holder { host: "here".into(), pid: 1, pid_scope: "boot".into() };
    Observer { holder, is_running: &|_| false }
}

fn workers() -> Arc<Workers> {
    Arc::new(Workers::new(2).unwrap())
}

fn none() -> Compression {
    "none".parse().unwrap()
}

fn near(name: &str, memory: &Memory) -> Repository {
    Repository::new(name, Arc::new(memory.clone()), Distance::Near)
}

fn far(name: &str, storage: impl Storage + 'static) -> Repository {
    Repository::new(name, Arc::new(storage), Distance::Far)
}

fn info(name: BackupName) -> BackupInfo {
    BackupInfo { name, ..BackupInfo::example(DateTime::UNIX_EPOCH) }
}

/// Writes a backup of two large files, and says how each repository fared.
fn take(repositories: &[Repository], between: impl FnOnce()) -> Result<Vec<Option<String>>> {
    let mut writer = BackupWriter::begin(repositories, &workers(), &observer(), DateTime::UNIX_EPOCH)?;
    for name in ["base.tar", "pg_wal.tar"] {
        let mut archive = writer.create(name, none())?;
        for frame in 0..80_u8 {
            archive.put(&vec![frame; FRAME_SIZE]);
        }
        writer.commit(archive)?;
    }
    between();
    let name = writer.name();
    let (_, outcomes) = writer.finish(info(name), &Quiet);
    Ok(outcomes.into_iter().map(|outcome| outcome.result.err().map(|error| error.to_string())).collect())
}

/// What a storage holds: each key with its content. Nothing in it is unfinished.
fn content(memory: &Memory) -> Vec<(String, Vec<u8>)> {
    let found = storage::walk(memory, "").unwrap();
    let read = |(key, entry): (String, Entry)| {
        assert!(!entry.is_unfinished(), "{key}");
        let mut bytes = Vec::new();
        memory.open(&key).unwrap().read_to_end(&mut bytes).unwrap();
        (key, bytes)
    };
    found.into_iter().map(read).collect()
}

fn has_backup(memory: &Memory) -> bool {
    storage::walk(memory, "").unwrap().iter().any(|(key, _)| key.ends_with(layout::RECORD))
}

#[test]
fn a_slow_repository_is_completed_from_a_near_one_that_never_waited_for_it() {
    let (disk, remote) = (Memory::default(), Memory::default());
    let (slow, gate) = Slow::new(&remote);
    // Every write to it blocks until all has been streamed to the other.
    let outcomes = take(&[near("disk", &disk), far("remote", slow)], || drop(gate)).unwrap();
    assert_eq!(outcomes, [None, None]);
    assert!(has_backup(&disk));
    assert!(content(&disk) == content(&remote), "both hold the same, byte for byte");
}

#[test]
fn a_far_repository_that_keeps_up_needs_no_other() {
    let (disk, remote) = (Memory::default(), Memory::default());
    let outcomes = take(&[far("remote", remote.clone()), near("disk", &disk)], || ()).unwrap();
    assert_eq!(outcomes, [None, None]);
    assert!(content(&disk) == content(&remote));
    let alone = Memory::default();
    assert_eq!(take(&[far("remote", alone.clone())], || ()).unwrap(), [None]);
    assert!(content(&disk) == content(&alone));
}

#[test]
fn a_far_repository_that_dies_at_any_change_costs_nothing_but_itself() {
    let mut failed = 0;
    for change in 0..12 {
        let (disk, remote) = (Memory::default(), Memory::default());
        remote.dies_at(change);
        let outcomes = take(&[near("disk", &disk), far("remote", remote.clone())], || ()).unwrap();
        assert_eq!(outcomes[0], None, "change {change}");
        assert!(has_backup(&disk), "change {change}");
        failed += u32::from(outcomes[1].is_some());
    }
    assert!(failed > 5, "the fuse did burn in {failed} runs");
}

/// Takes a small backup; `Ok` when it is in every repository.
fn take_small(repositories: &[Repository], now: DateTime<Utc>) -> Result<()> {
    let mut writer = BackupWriter::begin(repositories, &workers(), &observer(), now)?;
    for name in ["base.tar", "pg_wal.tar"] {
        let mut archive = writer.create(name, none())?;
        archive.put(name.as_bytes());
        writer.commit(archive)?;
    }
    let name = writer.name();
    let (_, outcomes) = writer.finish(info(name), &Quiet);
    outcomes.into_iter().try_for_each(|outcome| outcome.result)
}

#[test]
fn dying_at_any_change_leaves_a_whole_backup_or_none_and_the_next_run_clears_up() {
    for change in 0.. {
        let memories = [Memory::default(), Memory::default(), Memory::default()];
        let [disk, other, remote] = &memories;
        let repositories = [near("disk", disk), near("other", other), far("remote", remote.clone())];
        memories.iter().for_each(|memory| memory.dies_at(change));
        let died = take_small(&repositories, DateTime::UNIX_EPOCH).is_err();
        memories.iter().for_each(Memory::revive);
        let both = || memories.iter().zip(&repositories);
        for (memory, repository) in both().filter(|(_, repository)| repository.exists().unwrap()) {
            for backup in repository.catalog().unwrap().backups() {
                let whole = |file: &StoredFile| {
                    memory
                        .bytes(&layout::backup_file(backup.name, &file.name))
                        .map(|bytes| bytes.len() as u64)
                        == Some(file.size_bytes)
                };
                assert!(backup.files.iter().all(whole), "after change {change}");
            }
        }
        take_small(&repositories, DateTime::UNIX_EPOCH + chrono::TimeDelta::minutes(1)).unwrap();
        for (memory, repository) in both() {
            let catalog = repository.catalog().unwrap();
            let recorded: Vec<String> =
                catalog.backups().iter().map(|backup| layout::backup_directory(backup.name)).collect();
            assert!(!recorded.is_empty(), "after change {change}");
            let mut found = storage::walk(memory, layout::BASE_BACKUPS).unwrap().into_iter();
            let stray = found.find(|(key, _)| !recorded.iter().any(|own| key.starts_with(own)));
            assert_eq!(stray, None, "after change {change}");
        }
        if !died {
            assert!(change >= 6, "the guide, the lease, two archives, the sums, the record: {change}");
            return;
        }
    }
}

#[test]
fn when_the_near_one_fails_a_far_one_that_kept_up_has_the_backup() {
    let (disk, remote) = (Memory::default(), Memory::default());
    let repositories = [near("disk", &disk), far("remote", remote.clone())];
    let mut writer =
        BackupWriter::begin(&repositories, &workers(), &observer(), DateTime::UNIX_EPOCH).unwrap();
    disk.dies_at(0);
    let mut archive = writer.create("base.tar", none()).unwrap();
    archive.put(b"base");
    writer.commit(archive).unwrap();
    let mut archive = writer.create("pg_wal.tar", none()).unwrap();
    archive.put(b"wal");
    writer.commit(archive).unwrap();
    let name = writer.name();
    let (_, outcomes) = writer.finish(info(name), &Quiet);
    assert!(outcomes[0].result.is_err());
    assert!(outcomes[1].result.is_ok());
    assert!(has_backup(&remote));
}

#[test]
fn a_backup_is_copied_to_a_repository_that_lacks_it() {
    let (disk, other, remote) = (Memory::default(), Memory::default(), Memory::default());
    take(&[near("disk", &disk), near("other", &other)], || ()).unwrap();
    let name = BackupName::of(DateTime::UNIX_EPOCH);
    let recorded = near("disk", &disk).catalog().unwrap().backup(name).unwrap().clone();
    // The first source is damaged: the copy comes from the second, and not a byte of the damage with it.
    let key = layout::backup_file(name, "pg_wal.tar");
    let mut damaged = disk.bytes(&key).unwrap();
    damaged[5_000_000] ^= 1;
    disk.replace(&key, damaged);
    let sources = [near("disk", &disk), near("other", &other)];
    copy_backup(&recorded, &sources, &far("remote", remote.clone()), &observer(), &Quiet).unwrap();
    assert!(content(&other) == content(&remote));

    let empty = Memory::default();
    let error = copy_backup(&recorded, &sources[..1], &far("empty", empty.clone()), &observer(), &Quiet);
    assert!(matches!(error, Err(Error::Damaged { .. })));
    assert!(!has_backup(&empty));
    assert_eq!(empty.list(layout::BASE_BACKUPS).unwrap(), [], "nothing of it is left");
}

#[test]
fn a_directory_that_another_run_fills_is_left_alone() {
    let (disk, remote) = (Memory::default(), Memory::default());
    take(&[near("disk", &disk)], || ()).unwrap();
    let name = BackupName::of(DateTime::UNIX_EPOCH);
    let recorded = near("disk", &disk).catalog().unwrap().backup(name).unwrap().clone();
    let remote_repository = far("remote", remote.clone());
    let elsewhere = Observer { holder: Holder { host: "there".into(), ..observer().holder }, ..observer() };
    let time = RunTime::new(DateTime::UNIX_EPOCH);
    let claim = Claim::new(&remote_repository, name, &elsewhere, &time);
    claim.hold().unwrap();
    let error = copy_backup(&recorded, &[near("disk", &disk)], &remote_repository, &observer(), &Quiet);
    assert!(matches!(error, Err(Error::BackupInProgress { .. })), "{error:?}");
    claim.hold().expect("its lease is still there");
    assert_eq!(remote.list(&layout::backup_directory(name)).unwrap().len(), 1);
}

#[test]
fn the_empty_directory_of_a_run_that_died_before_its_lease_goes() {
    let scratch = tempfile::tempdir().unwrap();
    let left = scratch.path().join("base-backups/base_backup_20200101_000000");
    std::fs::create_dir_all(&left).unwrap();
    let disk = Repository::new("disk", Arc::new(Local::new(scratch.path())), Distance::Near);
    assert_eq!(take(&[disk], || ()).unwrap(), [None]);
    assert!(!left.exists());
}
