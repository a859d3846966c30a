//! Rounds over repositories in memory: what they cost, what they find, and that nothing they do is ever half done.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::Read;

use chrono::TimeDelta;

use super::*;
use crate::catalog::{BackupInfo, BackupName};
use crate::pg::{Lsn, SegmentSize};
use crate::repo::{Distance, layout};
use crate::storage::{self, Entry, Memory, Storage, Upload};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

const SYSTEM: SystemIdentifier = SystemIdentifier(7_711_059_041_355_033_155);
const SEGMENT_BYTES: usize = 1 << 20;
/// Segments of 1 MiB.
const PER_LOG: u64 = 4096;

/// A storage that counts its calls, and can be told to fail.
#[derive(Clone, Default)]
struct Observed {
    memory: Memory,
    calls: Arc<Mutex<BTreeMap<&'static str, u64>>>,
    is_away: Arc<AtomicBool>,
    is_full: Arc<AtomicBool>,
    name: &'static str,
}

impl Observed {
    fn call(&self, verb: &'static str, key: &str) -> storage::Result<()> {
        *self.calls.lock().unwrap().entry(verb).or_default() += 1;
        if self.is_away.load(Ordering::Relaxed) {
            return Err(storage::Error::new(storage::ErrorKind::Other, verb, key, self, "it is away"));
        }
        if verb == "create" && self.is_full.load(Ordering::Relaxed) {
            return Err(storage::Error::new(storage::ErrorKind::NoSpace, verb, key, self, "it is full"));
        }
        Ok(())
    }

    fn wal(&self) -> Vec<String> {
        let keys = self.memory.keys().into_iter().filter(|key| key.starts_with(layout::WAL_ARCHIVE));
        keys.map(|key| key.rsplit('/').next().unwrap().to_owned()).collect()
    }

    fn put(&self, name: &str, content: &[u8]) {
        let name = WalFileName::parse(name).unwrap();
        self.memory.replace(&layout::wal_file(SYSTEM, &name, Codec::None), content);
    }
}

use crate::pg::WalFileName;
use crate::pipe::Codec;

impl fmt::Display for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/memory/{}", self.name)
    }
}

impl Storage for Observed {
    fn list(&self, directory: &str) -> storage::Result<Vec<Entry>> {
        self.call("list", directory).and_then(|()| self.memory.list(directory))
    }

    fn sync(&self, path: &str) -> storage::Result<()> {
        self.call("sync", path).and_then(|()| self.memory.sync(path))
    }

    fn open(&self, key: &str) -> storage::Result<Box<dyn Read + Send>> {
        self.call("open", key).and_then(|()| self.memory.open(key))
    }

    fn create(&self, key: &str) -> storage::Result<Box<dyn Upload>> {
        self.call("create", key).and_then(|()| self.memory.create(key))
    }

    fn delete(&self, key: &str) -> storage::Result<()> {
        panic!("wal-sync deleted {key}")
    }
}

/// Repositories in memory, a state directory, and perhaps a directory that PostgreSQL fills.
struct Stage {
    places: Vec<Observed>,
    scratch: tempfile::TempDir,
    source: Source,
    policy: Policy,
    interrupt: Interrupt,
    meter: Meter,
}

impl Stage {
    fn new(names: &[&'static str]) -> Self {
        let place = |&name| Observed { name, ..Observed::default() };
        let places: Vec<Observed> = names.iter().map(place).collect();
        places.iter().for_each(|place| place.memory.replace(layout::RESTORE_MD, *b"x"));
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir(scratch.path().join("archive")).unwrap();
        Self {
            places,
            scratch,
            source: Source::Push,
            policy: Policy::from(&crate::config::Retention::default()),
            interrupt: Interrupt::default(),
            meter: Meter::default(),
        }
    }

    fn with_directory(names: &[&'static str]) -> Self {
        let stage = Self::new(names);
        let directory = stage.scratch.path().join("archive");
        Self { source: Source::Directory(directory), ..stage }
    }

    fn archive(&self, name: &str, content: &[u8]) {
        fs::write(self.scratch.path().join("archive").join(name), content).unwrap();
    }

    fn try_round(&self) -> Result<Report, Error> {
        let workers = Arc::new(Workers::new(2).unwrap());
        let repository =
            |place: &Observed| Repository::new(place.name, Arc::new(place.clone()), Distance::Near);
        let repositories: Vec<Repository> = self.places.iter().map(repository).collect();
        let places = repositories.iter().map(Repository::place).collect();
        let job = Job {
            repositories,
            source: self.source.clone(),
            cluster: None,
            compression: Compression::new(Codec::Lz4, None).unwrap(),
            workers: Arc::clone(&workers),
            decoders: workers,
            memory: MemoryFile::of(&self.scratch.path().join("state"), places),
            policy: self.policy.clone(),
            known_damage: &|_| BTreeMap::new(),
            interrupt: &self.interrupt,
            meter: &self.meter,
            clock: &|| "2026-11-22T03:00:00Z".parse().unwrap(),
        };
        job.round(None)
    }

    fn round(&self) -> Report {
        self.try_round().unwrap()
    }

    #[track_caller]
    fn quiet_round(&self) -> Report {
        let report = self.round();
        assert!(!report.has_findings(), "{report:#?}");
        report
    }

    /// What one more round asks of each place.
    fn cost(&self) -> Vec<BTreeMap<&'static str, u64>> {
        self.places.iter().for_each(|place| place.calls.lock().unwrap().clear());
        let report = self.quiet_round();
        assert_eq!(report.files_copied(), 0, "there was something new");
        self.places.iter().map(|place| place.calls.lock().unwrap().clone()).collect()
    }

    fn forget(&self) {
        fs::remove_dir_all(self.scratch.path().join("state")).unwrap();
    }
}

fn name(timeline: u32, number: u64) -> String {
    format!("{timeline:08X}{:08X}{:08X}", number / PER_LOG, number % PER_LOG)
}

/// A segment of 1 MiB that is full of something.
fn segment(timeline: u32, number: u64) -> Vec<u8> {
    let mut bytes = vec![number as u8 | 1; SEGMENT_BYTES];
    for (i, page) in bytes.chunks_mut(8192).enumerate() {
        page[..40].fill(0);
        page[..4].copy_from_slice(&[0x18, 0xD1, if i == 0 { 2 } else { 0 }, 0]);
        page[4..8].copy_from_slice(&timeline.to_le_bytes());
        let address = number * SEGMENT_BYTES as u64 + (i * 8192) as u64;
        page[8..16].copy_from_slice(&address.to_le_bytes());
    }
    bytes[24..32].copy_from_slice(&SYSTEM.0.to_le_bytes());
    bytes[32..36].copy_from_slice(&(SEGMENT_BYTES as u32).to_le_bytes());
    bytes[36..40].copy_from_slice(&8192_u32.to_le_bytes());
    bytes
}

fn put_segments(place: &Observed, timeline: u32, numbers: impl IntoIterator<Item = u64>) {
    numbers.into_iter().for_each(|number| place.put(&name(timeline, number), &segment(timeline, number)));
}

fn put_backup(place: &Observed, start: u64, second: u32) {
    let started_at: DateTime<Utc> = format!("2026-11-22T02:00:{second:02}Z").parse().unwrap();
    let backup = BackupName::of(started_at);
    let lsn = Lsn(start * SEGMENT_BYTES as u64 + 40);
    let info = BackupInfo {
        system_identifier: SYSTEM,
        start_lsn: lsn,
        stop_lsn: lsn,
        wal_segment_size: SegmentSize::from_bytes(SEGMENT_BYTES as u64).unwrap(),
        ..BackupInfo::example(started_at)
    };
    place.memory.replace(&layout::backup_file(backup, layout::RECORD), info.to_toml());
}

fn codes(report: &Report) -> Vec<&'static str> {
    report.findings.iter().map(|finding| finding.code).collect()
}

#[test]
fn ten_thousand_segments_cost_no_more_than_ten_when_nothing_is_new() {
    let cost_of = |segments: u64| {
        let stage = Stage::new(&["first", "second"]);
        for place in &stage.places {
            // Of 16 MiB, by their names; nobody opens any but the first.
            for number in 0..segments {
                let name = format!("00000001{:08X}{:08X}", number / 256, number % 256);
                place.put(&name, b"");
            }
            let first = format!("00000001{:08X}{:08X}", 0, 0);
            let mut content = segment(1, 0);
            content[32..36].copy_from_slice(&(16_u32 << 20).to_le_bytes());
            place.put(&first, &content);
        }
        stage.quiet_round();
        stage.cost()
    };
    let few = cost_of(10);
    assert_eq!(few, cost_of(10_000));
    let total: u64 = few.iter().flat_map(BTreeMap::values).sum();
    assert_eq!(
        total,
        2 * 5,
        "for each: is it there, which systems, which directories, the newest one, which stays: {few:?}"
    );
}

#[test]
fn what_was_just_copied_is_not_listed_again_either() {
    let stage = Stage::new(&["first", "second"]);
    put_segments(&stage.places[0], 1, [PER_LOG - 2, PER_LOG - 1]);
    put_segments(&stage.places[0], 1, (PER_LOG..2 * PER_LOG).step_by(1000));
    put_segments(&stage.places[1], 1, [2 * PER_LOG + 5]);
    // The gaps are in the way of forgetting about it, so a backup makes them unimportant.
    put_backup(&stage.places[1], 2 * PER_LOG + 5, 0);
    let floor = stage.round();
    assert_eq!(floor.files_copied(), 1, "only the segment that the backup needs: {floor:#?}");
    let list = stage.cost().iter().map(|calls| calls["list"]).sum::<u64>();
    assert_eq!(list, 2 * 3);

    let stage = Stage::new(&["first", "second"]);
    put_segments(&stage.places[0], 1, PER_LOG - 2..PER_LOG + 2);
    stage.places[0].memory.set_time("2026-11-22T02:00:00Z".parse().unwrap());
    let report = stage.quiet_round();
    assert_eq!(report.repositories[1].files_copied, 4);
    assert_eq!(
        stage.cost().iter().map(|calls| calls["list"]).sum::<u64>(),
        2 * 3,
        "the older directory is settled"
    );
}

#[test]
fn a_segment_missing_in_an_old_directory_is_found_by_a_round_that_remembers_nothing() {
    let stage = Stage::new(&["first", "second"]);
    let all: Vec<u64> = (PER_LOG - 3..PER_LOG + 3).collect();
    put_segments(&stage.places[0], 1, all.iter().copied().filter(|&number| number != PER_LOG + 1));
    put_segments(&stage.places[1], 1, all.iter().copied().filter(|&number| number != PER_LOG - 2));
    let report = stage.quiet_round();
    assert_eq!((report.repositories[0].files_copied, report.repositories[1].files_copied), (1, 1));
    assert_eq!(stage.places[0].wal(), stage.places[1].wal());
    assert_eq!(stage.places[0].wal().len(), all.len());
}

#[test]
fn a_directory_that_was_changed_or_lost_is_looked_at_again() {
    let stage = Stage::new(&["first", "second"]);
    for place in &stage.places {
        put_segments(place, 1, PER_LOG - 3..PER_LOG + 2);
    }
    stage.quiet_round();
    let note = format!("{}.00000028.backup", name(1, PER_LOG - 3));
    stage.places[0].memory.set_time("2026-11-22T02:00:00Z".parse().unwrap());
    // The last in its directory, by name, gives the directory its time.
    stage.places[0].put(&note, b"START WAL LOCATION: 0/1\n");
    stage.places[0].put(&format!("{}.00000028.backup", name(1, PER_LOG - 1)), b"START WAL LOCATION: 0/1\n");
    assert_eq!(stage.quiet_round().repositories[1].files_copied, 2);

    let emptied = Observed { name: "second", ..Observed::default() };
    emptied.memory.replace(layout::RESTORE_MD, *b"x");
    let stage = Stage { places: vec![stage.places[0].clone(), emptied], ..stage };
    assert_eq!(stage.quiet_round().repositories[1].files_copied, 7);
}

#[test]
fn an_empty_place_that_was_a_repository_is_not_made_anew() {
    let stage = Stage::new(&["first", "second"]);
    put_segments(&stage.places[0], 1, 1..4);
    stage.quiet_round();
    let unmounted = Observed { name: "second", ..Observed::default() };
    let stage = Stage { places: vec![stage.places[0].clone(), unmounted], ..stage };
    let report = stage.round();
    assert_eq!(codes(&report), ["repository-failed"]);
    assert!(report.repositories[1].hint.as_ref().unwrap().contains("mounted"), "{report:#?}");
    assert_eq!(stage.places[1].memory.keys(), [] as [&str; 0]);
    // Without any memory it is a new one, and is filled.
    stage.forget();
    assert_eq!(stage.quiet_round().repositories[1].files_copied, 3);
    assert!(stage.places[1].memory.keys().contains(&layout::RESTORE_MD.to_owned()));
}

#[test]
fn histories_come_before_segments_and_a_timeline_without_its_history_waits() {
    let stage = Stage::new(&["first", "second"]);
    put_segments(&stage.places[0], 1, 1..4);
    put_segments(&stage.places[0], 2, 3..6);
    stage.places[0].put("00000002.history", b"nonsense\n");
    let report = stage.round();
    assert_eq!(codes(&report), ["wal-damaged"]);
    assert_eq!(stage.places[1].wal(), [1, 2, 3].map(|number| name(1, number)));
    let missing: Vec<_> =
        report.repositories[1].missing.iter().map(|missing| (missing.first.clone(), missing.files)).collect();
    assert_eq!(missing, [("00000002.history".to_owned(), 1), (name(2, 3), 3)]);

    stage.places[0].put("00000002.history", b"1\t0/300100\treason\n");
    for change in 0.. {
        stage.places[1].memory.dies_at(change);
        let died = !matches!(stage.try_round(), Ok(report) if !report.has_findings());
        stage.places[1].memory.revive();
        let held = stage.places[1].wal();
        let is_second = |name: &String| name.starts_with("00000002000");
        assert!(!held.iter().any(is_second) || held.contains(&"00000002.history".to_owned()), "{held:?}");
        if !died {
            break;
        }
    }
    assert_eq!(stage.places[0].wal(), stage.places[1].wal());
}

#[test]
fn segments_of_a_timeline_whose_history_nobody_has_are_copied_and_that_is_told() {
    let stage = Stage::new(&["first", "second"]);
    put_segments(&stage.places[0], 2, 3..6);
    assert_eq!(codes(&stage.round()), ["history-missing"]);
    assert_eq!(stage.places[1].wal().len(), 3);
}

#[test]
fn damage_does_not_spread_and_another_repository_gives_what_one_has_damaged() {
    let stage = Stage::new(&["first", "second", "third"]);
    put_segments(&stage.places[0], 1, 1..4);
    put_segments(&stage.places[2], 1, [2]);
    let mut damaged = segment(1, 2);
    damaged.truncate(5000);
    stage.places[0].put(&name(1, 2), &damaged);
    stage.places[0].put(&name(1, 3), &segment(1, 4));
    let report = stage.round();
    assert_eq!(codes(&report), ["wal-damaged", "wal-damaged"], "{report:#?}");
    assert_eq!(stage.places[1].wal(), [name(1, 1), name(1, 2)]);
    let key = layout::wal_file(SYSTEM, &WalFileName::parse(&name(1, 2)).unwrap(), Codec::None);
    assert!(stage.places[1].memory.bytes(&key).unwrap() == segment(1, 2));
    assert_eq!(report.repositories[1].missing.len(), 1);
    assert!(report.repositories[1].missing[0].reason.contains("is damaged"), "{report:#?}");
}

#[test]
fn what_prune_deleted_in_one_repository_does_not_come_back_from_the_other() {
    let stage = Stage::new(&["first", "second"]);
    put_segments(&stage.places[0], 1, 1..9);
    put_segments(&stage.places[1], 1, 5..7);
    put_backup(&stage.places[1], 5, 0);
    put_backup(&stage.places[1], 6, 1);
    let report = stage.quiet_round();
    assert_eq!(stage.places[1].wal(), (5..9).map(|number| name(1, number)).collect::<Vec<_>>());
    assert_eq!(report.files_copied(), 2);
    // Without any backup, everything may be of use.
    let stage = Stage::new(&["first", "second"]);
    put_segments(&stage.places[0], 1, 1..9);
    put_segments(&stage.places[1], 1, 5..7);
    assert_eq!(stage.quiet_round().files_copied(), 6);
}

#[test]
fn what_a_repository_that_was_away_still_has_does_not_come_back_from_it() {
    let mut stage = Stage::new(&["first", "second"]);
    stage.policy.keep_last = 2;
    put_segments(&stage.places[0], 1, 5..9);
    put_segments(&stage.places[1], 1, 1..8);
    for (number, start) in (1..8).enumerate() {
        put_backup(&stage.places[1], start, number as u32);
    }
    put_backup(&stage.places[0], 5, 4);
    put_backup(&stage.places[0], 6, 5);
    put_backup(&stage.places[0], 7, 6);
    let report = stage.quiet_round();
    assert_eq!(stage.places[0].wal(), (5..9).map(|number| name(1, number)).collect::<Vec<_>>());
    assert_eq!(report.files_copied(), 1);
}

#[test]
fn what_retention_would_give_up_is_copied_as_long_as_nobody_has_pruned_it() {
    let mut stage = Stage::new(&["first", "second"]);
    stage.policy.keep_last = 1;
    put_segments(&stage.places[0], 1, 1..9);
    put_segments(&stage.places[1], 1, 7..9);
    for place in &stage.places {
        put_backup(place, 3, 0);
        put_backup(place, 7, 1);
    }
    stage.quiet_round();
    assert_eq!(stage.places[1].wal(), (3..9).map(|number| name(1, number)).collect::<Vec<_>>());
}

#[test]
fn the_holes_before_a_window_are_not_filled_again() {
    let mut stage = Stage::new(&["first", "second"]);
    stage.policy.pitr_window = Some(TimeDelta::minutes(59) + TimeDelta::seconds(58));
    // The window begins two seconds after two.
    let kept: Vec<u64> = [2].into_iter().chain(6..12).collect();
    put_segments(&stage.places[0], 1, kept.iter().copied());
    put_segments(&stage.places[1], 1, 1..12);
    for place in &stage.places {
        put_backup(place, 2, 0);
        put_backup(place, 6, 1);
        put_backup(place, 8, 3);
    }
    stage.quiet_round();
    assert_eq!(stage.places[0].wal(), kept.iter().map(|number| name(1, *number)).collect::<Vec<_>>());
    // What is needed is brought all the same, and what is new.
    let key = layout::wal_file(SYSTEM, &WalFileName::parse(&name(1, 7)).unwrap(), Codec::None);
    stage.places[0].memory.delete(&key).unwrap();
    put_segments(&stage.places[1], 1, [12]);
    assert_eq!(stage.quiet_round().files_copied(), 2);
    // A repository that is made anew gets no more than that, either.
    let mut all = kept.clone();
    all.push(12);
    let empty = Stage { policy: stage.policy.clone(), ..Stage::new(&["first", "second"]) };
    put_segments(&empty.places[1], 1, 1..13);
    put_backup(&empty.places[1], 2, 0);
    put_backup(&empty.places[1], 6, 1);
    put_backup(&empty.places[1], 8, 3);
    empty.quiet_round();
    assert_eq!(empty.places[0].wal(), all.iter().map(|number| name(1, *number)).collect::<Vec<_>>());
}

#[test]
fn backups_are_not_read_when_only_the_newest_segment_is_copied() {
    let stage = Stage::new(&["first", "second"]);
    put_backup(&stage.places[0], 1, 0);
    for place in &stage.places {
        put_segments(place, 1, 1..9);
    }
    stage.quiet_round();
    put_segments(&stage.places[0], 1, [9]);
    stage.places.iter().for_each(|place| place.calls.lock().unwrap().clear());
    assert_eq!(stage.quiet_round().files_copied(), 1);
    let opened = |place: &Observed| place.calls.lock().unwrap()["open"];
    assert_eq!((opened(&stage.places[0]), opened(&stage.places[1])), (2, 1));
}

#[test]
fn a_gap_is_a_finding_until_a_newer_backup_makes_it_harmless() {
    let stage = Stage::new(&["first", "second"]);
    for place in &stage.places {
        put_segments(place, 1, [1, 2, 5, 6]);
        put_backup(place, 1, 0);
    }
    for _ in 0..2 {
        let report = stage.round();
        assert_eq!(codes(&report), ["wal-gap"]);
        let message = &report.findings[0].message;
        assert!(message.contains(&name(1, 3)) && message.ends_with(&name(1, 4)), "{message}");
    }
    put_backup(&stage.places[0], 5, 1);
    stage.quiet_round();
}

#[test]
fn a_gap_between_two_directories_is_seen_also_when_both_are_settled() {
    let stage = Stage::new(&["first", "second"]);
    for place in &stage.places {
        put_segments(place, 1, PER_LOG - 3..PER_LOG + 2);
        put_segments(place, 1, [2 * PER_LOG, 3 * PER_LOG]);
    }
    for _ in 0..2 {
        let report = stage.round();
        assert_eq!(codes(&report), ["wal-gap", "wal-gap"], "{report:#?}");
    }
}

#[test]
fn a_repository_that_is_away_or_full_does_not_stop_the_others() {
    let stage = Stage::with_directory(&["first", "second", "third"]);
    (1..8).for_each(|number| stage.archive(&name(1, number), &segment(1, number)));
    stage.places[0].is_away.store(true, Ordering::Relaxed);
    stage.places[2].is_full.store(true, Ordering::Relaxed);
    let report = stage.round();
    assert_eq!(stage.places[1].wal().len(), 7);
    assert_eq!(codes(&report), ["repository-failed", "repository-failed"]);
    assert!(report.repositories[2].hint.as_ref().unwrap().contains("prune"), "{report:#?}");
    assert_eq!(report.repositories[2].missing.iter().map(|missing| missing.files).sum::<u64>(), 7);
    assert!(stage.places[2].calls.lock().unwrap()["create"] < 20);

    stage.places[0].is_away.store(false, Ordering::Relaxed);
    stage.places[2].is_full.store(false, Ordering::Relaxed);
    stage.quiet_round();
    for place in &stage.places {
        assert_eq!(place.wal().len(), 7);
    }
    stage.places.iter().for_each(|place| place.is_away.store(true, Ordering::Relaxed));
    assert_eq!(stage.try_round().unwrap_err().exit_code(), 1, "nothing could be done");
}

#[test]
fn the_directory_is_collected_once_and_then_known_by_name() {
    let stage = Stage::with_directory(&["first", "second"]);
    for number in PER_LOG - 2..PER_LOG + 2 {
        stage.archive(&name(1, number), &segment(1, number));
    }
    stage.archive("00000001.tmp", b"");
    let report = stage.quiet_round();
    let from = |number: usize| report.repositories[number].copied_from[0].from.clone();
    assert_eq!((from(0), from(1)), ("directory".to_owned(), "first".to_owned()));
    assert_eq!(stage.places[0].wal().len(), 4);
    // As it is stored, byte for byte.
    let bytes = |place: &Observed| {
        place
            .memory
            .keys()
            .iter()
            .filter(|key| key.contains("0000"))
            .map(|key| place.memory.bytes(key))
            .collect::<Vec<_>>()
    };
    assert_eq!(bytes(&stage.places[0]), bytes(&stage.places[1]));
    assert_eq!(stage.cost().iter().map(|calls| calls["list"]).sum::<u64>(), 2 * 3);
    // Nobody reads it again, whatever is in it now.
    stage.archive(&name(1, PER_LOG), b"");
    stage.quiet_round();
    // A late file in a settled directory is noticed.
    stage.archive(&format!("{}.00000028.backup", name(1, PER_LOG - 2)), b"START WAL LOCATION: 0/1\n");
    assert_eq!(stage.quiet_round().files_copied(), 2);
}

#[test]
fn a_wrong_file_does_not_stop_the_others() {
    let stage = Stage::with_directory(&["first"]);
    stage.archive(&name(1, 1), &segment(1, 1));
    stage.archive(&name(1, 2), &segment(1, 7));
    stage.archive(&name(1, 3), &segment(1, 3)[..5000]);
    stage.archive(&name(1, 4), &segment(1, 4));
    let mut foreign = segment(1, 5);
    foreign[24] ^= 1;
    stage.archive(&name(1, 5), &foreign);
    stage.archive(&name(1, 6), &segment(1, 6));
    stage.archive(&name(1, 7), &segment(1, 7)[..50]);
    let mut report = stage.round();
    report.findings.sort_by_key(|finding| finding.message.clone());
    let mut codes = codes(&report);
    codes.sort_unstable();
    assert_eq!(codes, ["file-incomplete", "file-wrong", "wal-foreign", "wal-gap", "wal-gap"], "{report:#?}");
    assert_eq!(stage.places[0].wal(), [1, 4, 6].map(|number| name(1, number) + ".lz4"));
    assert_eq!(report.waiting.len(), 1, "{report:#?}");
    assert_eq!(report.waiting[0].name, name(1, 7));
    let missing: Vec<_> = report.repositories[0].missing.iter().map(|missing| &missing.first).collect();
    assert_eq!(missing, [&name(1, 3)], "nobody misses what is no WAL of this cluster");
}

#[test]
fn a_foreign_segment_that_is_the_last_does_not_turn_the_directory_over_to_another_cluster() {
    let stage = Stage::with_directory(&["first"]);
    (1..4).for_each(|number| stage.archive(&name(1, number), &segment(1, number)));
    stage.quiet_round();
    let mut foreign = segment(1, 9);
    foreign[24] ^= 1;
    stage.archive(&name(1, 9), &foreign);
    stage.archive(&name(1, 4), &segment(1, 4));
    let report = stage.round();
    assert_eq!(codes(&report).first(), Some(&"wal-foreign"), "{report:#?}");
    assert_eq!(stage.places[0].wal().len(), 4);
}

#[test]
fn dying_anywhere_leaves_nothing_half_done_and_the_next_round_repairs_it() {
    for change in 0.. {
        let stage = Stage::with_directory(&["first", "second"]);
        stage.archive("00000002.history", b"1\t0/300100\treason\n");
        (1..4).for_each(|number| stage.archive(&name(1, number), &segment(1, number)));
        (3..6).for_each(|number| stage.archive(&name(2, number), &segment(2, number)));
        stage.places.iter().for_each(|place| place.memory.dies_at(change));
        let died = !matches!(stage.try_round(), Ok(report) if !report.has_findings());
        stage.places.iter().for_each(|place| place.memory.revive());
        stage.quiet_round();
        for place in &stage.places {
            assert_eq!(place.wal().len(), 7, "after change {change}");
        }
        if !died {
            assert_eq!(change, 7, "as many commits at each place");
            return;
        }
    }
}

#[test]
fn an_interrupted_round_ends_and_says_so() {
    let stage = Stage::new(&["first", "second"]);
    put_segments(&stage.places[0], 1, 1..4);
    stage.interrupt.cell().store(15, Ordering::Relaxed);
    assert_eq!(stage.try_round().unwrap_err().exit_code(), 143);
    assert_eq!(stage.places[1].wal(), [] as [&str; 0]);
}

#[test]
fn wal_of_a_cluster_that_a_repository_does_not_know_stays_out_of_it() {
    let stage = Stage::new(&["first", "second"]);
    put_segments(&stage.places[0], 1, 1..4);
    stage.places[1].memory.replace("wal-archive/42/0000000100000000/000000010000000000000001", *b"x");
    let report = stage.round();
    assert_eq!(codes(&report), ["wal-foreign", "wal-foreign"], "each refuses the other's: {report:#?}");
    assert_eq!(report.files_copied(), 0);
    // After pg_upgrade there is a base backup of the new cluster.
    put_backup(&stage.places[1], 1, 0);
    assert_eq!(stage.round().repositories[1].files_copied, 3);
}
