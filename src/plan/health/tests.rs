//! Sites, well and unwell. Each test takes the one that is well and breaks one thing.

use chrono::{DateTime, TimeDelta, Utc};

use super::*;
use crate::catalog::wal::StoredAs;
use crate::catalog::{BackupInfo, Catalog, DamagedBackup, WalArchive};
use crate::pg::server_state::{ArchiveMethod, Archiver, ArchiverEvent, ServerState, Slot};
use crate::pg::{
    Lsn, SegmentName, SegmentPart, SegmentSize, ServerVersion, SystemIdentifier, Timeline, WalFileName,
};

const SYSTEM: SystemIdentifier = SystemIdentifier(7_439_122_314_155_001_234);
const SIZE: SegmentSize = SegmentSize::DEFAULT;
/// The segment that the server writes to; all before it are finished.
const CURRENT: u64 = 10;

/// So many minutes after the story begins; it is looked at after a thousand.
fn at(minute: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_305_600, 0).unwrap() + TimeDelta::minutes(minute)
}

const NOW: i64 = 1000;

fn timeline(number: u32) -> Timeline {
    Timeline::new(number).unwrap()
}

fn backup(minute: i64, segment: u64) -> BackupInfo {
    BackupInfo {
        system_identifier: SYSTEM,
        start_lsn: Lsn(segment * SIZE.bytes() + 40),
        stop_lsn: Lsn(segment * SIZE.bytes() + 400),
        wal_segment_size: SIZE,
        ..BackupInfo::example(at(minute))
    }
}

fn archive(segments: impl IntoIterator<Item = (u32, u64)>) -> WalArchive {
    let mut archive = WalArchive::new(SIZE);
    for (tli, number) in segments {
        let name = SegmentName { timeline: timeline(tli), number }.file_name(SIZE).to_string();
        let stored = StoredAs { size_bytes: 1, stored_at: at(10 * number as i64) };
        archive.add(&WalFileName::parse(&name).unwrap(), stored);
    }
    archive
}

fn catalog(backups: Vec<BackupInfo>, archive: WalArchive) -> Catalog {
    Catalog::new(backups, vec![], [(SYSTEM, archive)].into())
}

/// Backups in segments 2 and 6, and all finished WAL.
fn well() -> Catalog {
    catalog(vec![backup(20, 2), backup(60, 6)], archive((1..CURRENT).map(|number| (1, number))))
}

fn without_wal(missing: &[u64]) -> Catalog {
    let numbers = (1..CURRENT).filter(|number| !missing.contains(number));
    catalog(well().backups().to_vec(), archive(numbers.map(|number| (1, number))))
}

fn repository(name: &str, catalog: Catalog) -> Repository {
    Repository { name: name.into(), catalog: Ok(catalog), proofs: [].into(), damaged_wal: vec![] }
}

fn trouble() -> Trouble {
    Trouble { message: "it is away".into(), hint: Some("Look for it.".into()) }
}

fn event(number: u64, minute: i64) -> Option<ArchiverEvent> {
    let file_name = SegmentName { timeline: timeline(1), number }.file_name(SIZE).to_string();
    Some(ArchiverEvent { file_name, at: at(minute) })
}

fn state() -> ServerState {
    ServerState {
        version: ServerVersion(150_018),
        system_identifier: SYSTEM,
        timeline: timeline(1),
        wal_lsn: Lsn(CURRENT * SIZE.bytes() + 7),
        segment_size: SIZE,
        is_standby: false,
        role: "bak".into(),
        may_replicate: true,
        may_list_wal: true,
        full_page_writes: true,
        wal_senders_max: 10,
        wal_senders_used: 0,
        wal_kept_bytes: 1 << 30,
        archiver: Archiver {
            mode: "on".into(),
            method: ArchiveMethod::Command("pgbak wal-push %p".into()),
            wal_level: "replica".into(),
            archived_count: 9,
            last_archived: event(CURRENT - 1, 90),
            failed_count: 3,
            last_failed: event(3, 30),
        },
        slots: vec![],
    }
}

fn push() -> WalSource {
    WalSource::Push { archive_command: "/usr/local/bin/pgbak wal-push %p".into() }
}

/// Two repositories, both with everything.
fn site() -> Observations {
    let identity = Identity { system_identifier: SYSTEM, timeline: timeline(1), wal_lsn: state().wal_lsn };
    Observations {
        now: at(NOW),
        thresholds: Thresholds { backup_age_max: TimeDelta::hours(26), wal_lag_max: TimeDelta::minutes(5) },
        source: push(),
        repositories: vec![repository("local", well()), repository("remote", well())],
        server: Server { identity: Some(identity), state: Ok(state()), replication: Ok(()) },
        finished_at: (1..CURRENT).map(|number| (number, at(10 * number as i64))).collect(),
        runs: vec![],
        caught_up_at: None,
    }
}

/// As `severity code repository`.
fn found(observations: &Observations) -> Vec<String> {
    let show = |finding: &Finding| {
        let repository = finding.repository.as_deref().unwrap_or_default();
        format!("{} {} {repository}", finding.severity.name(), finding.code).trim_end().to_owned()
    };
    findings(observations).iter().map(show).collect()
}

/// The site after a change to what its server says.
fn with_server(change: impl FnOnce(&mut ServerState)) -> Observations {
    let mut site = site();
    change(site.server.state.as_mut().unwrap());
    site
}

fn with_catalogs(local: Catalog, remote: Catalog) -> Observations {
    Observations { repositories: vec![repository("local", local), repository("remote", remote)], ..site() }
}

#[test]
fn a_site_that_is_well_has_no_finding_however_young_or_idle() {
    assert_eq!(found(&site()), [""; 0]);
    let fresh = catalog(vec![backup(NOW - 1, 9)], archive([]));
    let mut young = with_catalogs(fresh.clone(), fresh);
    // Finished a moment ago, with nobody having had the time to archive it.
    young.finished_at = [(9, at(NOW))].into();
    assert_eq!(found(&young), [""; 0]);
    let boundary = Observations { now: at(NOW), ..site() };
    let mut idle = boundary;
    idle.server.identity.as_mut().unwrap().wal_lsn = Lsn(CURRENT * SIZE.bytes());
    assert_eq!(found(&idle), [""; 0], "a segment in which nothing was written yet is not awaited");
}

#[test]
fn every_code_is_documented_and_every_finding_says_what_to_do() {
    let page = include_str!("mod.rs");
    for unwell in all_unwell() {
        for finding in findings(&unwell) {
            assert!(page.contains(&format!("//! | `{}` | ", finding.code)), "{}", finding.code);
            assert!(finding.hint.as_ref().is_some_and(|hint| hint.ends_with(['.', '?'])), "{finding:?}");
            assert!(!finding.message.ends_with('.'), "{finding:?}");
        }
    }
    let documented = page.lines().filter(|line| line.starts_with("//! | `")).count();
    let mut codes: Vec<_> = all_unwell().iter().flat_map(findings).map(|finding| finding.code).collect();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), documented, "each has an example here: {codes:?}");
}

/// An example of everything that is told.
fn all_unwell() -> Vec<Observations> {
    let mut all = vec![
        with_catalogs(Catalog::default(), catalog(vec![], archive([(1, 1)]))),
        with_catalogs(without_wal(&[7]), without_wal(&[4, 7])),
        with_catalogs(without_wal(&[9]), without_wal(&[9])),
        with_catalogs(without_wal(&[8, 9]), well()),
        Observations {
            thresholds: Thresholds { backup_age_max: TimeDelta::zero(), ..site().thresholds },
            ..site()
        },
        with_server(|state| {
            state.archiver.wal_level = "minimal".into();
            state.full_page_writes = false;
            state.may_list_wal = false;
            state.archiver.last_failed = event(9, 95);
            state.archiver.method = ArchiveMethod::Command("cp %p /a/%f".into());
            state.wal_senders_used = 9;
            state.slots = vec![slot("old", "lost", 0), slot("big", "extended", 3 << 30)];
        }),
        with_server(|state| state.archiver.method = ArchiveMethod::Missing),
        with_server(|state| {
            (state.archiver.mode, state.archiver.method) = ("off".into(), ArchiveMethod::Off)
        }),
        on_timeline(2, well()),
        on_timeline(1, promoted()),
        streaming(vec![]),
        streaming(vec![slot("pgbak", "reserved", 0)]),
    ];
    let mut away = site();
    away.repositories[0].catalog = Err(trouble());
    away.server.identity.as_mut().unwrap().system_identifier = SystemIdentifier(1);
    away.server.replication = Err(ReplicationTrouble::NotPermitted(trouble()));
    all.push(away.clone());
    away.server.replication = Err(ReplicationTrouble::Other(trouble()));
    all.push(away.clone());
    away.server.state = Err(trouble());
    all.push(away);
    let mut damaged = with_catalogs(damaged_catalog(), damaged_catalog());
    damaged.repositories[0].proofs = [(backup(20, 2).name, proof(0, Some("a block")))].into();
    damaged.repositories[0].damaged_wal = vec![("wal-archive/1".into(), proof(0, Some("a byte")))];
    damaged.repositories[1].proofs = [(backup(20, 2).name, proof(-60 * 24 * 60, None))].into();
    all.push(damaged);
    all.push(Observations { now: at(NOW * 2), thresholds: lenient(), ..site() });
    all.push(with_runs(Some(50), Some(60), None));
    let mut failed = with_runs(Some(50), Some(60), Some(70));
    failed.runs[0].command = "wal-sync".into();
    all.push(failed);
    all
}

fn lenient() -> Thresholds {
    Thresholds { backup_age_max: TimeDelta::days(9), wal_lag_max: TimeDelta::days(9) }
}

fn slot(name: &str, wal_status: &str, retained_bytes: u64) -> Slot {
    Slot {
        name: name.into(),
        is_active: false,
        wal_status: Some(wal_status.into()),
        retained_bytes: Some(retained_bytes),
    }
}

fn streaming(slots: Vec<Slot>) -> Observations {
    let site = with_server(|state| {
        state.slots = slots;
        (state.archiver.mode, state.archiver.method) = ("off".into(), ArchiveMethod::Off);
    });
    Observations { source: WalSource::Stream { slot: "pgbak".into() }, ..site }
}

fn proof(minute: i64, damage: Option<&str>) -> Proof {
    Proof { proven_at: at(minute), damage: damage.map(str::to_owned) }
}

fn damaged_catalog() -> Catalog {
    let mut newest = backup(60, 6);
    newest.damaged_pages = vec!["block 7 of base/5/1".into(), "block 8".into()];
    let record = DamagedBackup { name: "base_backup_x".into(), reason: "it is torn".into(), hint: None };
    let mut archive = archive((1..CURRENT).map(|number| (1, number)));
    archive.add_history(timeline(1), b"what is this");
    Catalog::new(vec![backup(20, 2), newest], vec![record], [(SYSTEM, archive)].into())
}

fn promoted() -> Catalog {
    let mut archive = archive((1..CURRENT).map(|number| (1, number)).chain([(2, 9)]));
    archive.add_history(timeline(2), format!("1\t{}\n", Lsn(9 * SIZE.bytes() + 9)).as_bytes());
    catalog(well().backups().to_vec(), archive)
}

fn on_timeline(number: u32, catalog: Catalog) -> Observations {
    let mut site = with_catalogs(catalog.clone(), catalog);
    site.server.identity.as_mut().unwrap().timeline = timeline(number);
    site
}

/// What is known of `base-backup`: minutes at which it was done, failed and killed.
fn with_runs(done: Option<i64>, failed: Option<i64>, killed: Option<i64>) -> Observations {
    let end = |minute: i64| RunEnd {
        started_at: at(minute - 1),
        ended_at: at(minute),
        exit_code: 1,
        message: None,
    };
    let run = Run {
        command: "base-backup".into(),
        at_work: vec![],
        killed: killed.map(at),
        done: done.map(end),
        failed: failed.map(end),
    };
    Observations { runs: vec![run], ..site() }
}

#[test]
fn what_one_repository_lacks_is_a_warning_while_another_has_it() {
    let empty = with_catalogs(well(), Catalog::default());
    assert_eq!(found(&empty), ["warning repository-empty remote"]);
    let neither = with_catalogs(catalog(vec![], archive([(1, 9)])), Catalog::default());
    assert_eq!(found(&neither), ["critical no-backup local", "critical repository-empty remote"]);
    let old = catalog(vec![backup(20, 2)], archive((1..CURRENT).map(|number| (1, number))));
    let mut site = with_catalogs(old.clone(), well());
    site.thresholds.backup_age_max = TimeDelta::minutes(NOW - 60);
    assert_eq!(found(&site), ["warning backup-too-old local"]);
    let mut site = with_catalogs(old.clone(), old);
    site.thresholds.backup_age_max = TimeDelta::minutes(NOW - 60);
    assert_eq!(found(&site), ["critical backup-too-old local", "critical backup-too-old remote"]);
    assert!(
        findings(&site)[0]
            .message
            .starts_with("the newest backup is 16 h 20 min old, expected at most 15 h 40")
    );
}

#[test]
fn a_repository_that_is_away_is_critical_only_when_none_can_be_read() {
    let mut site = site();
    site.repositories[1].catalog = Err(trouble());
    assert_eq!(found(&site), ["warning repository-unreadable remote"]);
    site.repositories[0].catalog = Err(trouble());
    assert_eq!(
        found(&site),
        ["critical repository-unreadable local", "critical repository-unreadable remote"]
    );
}

#[test]
fn a_gap_matters_from_the_newest_backup_on() {
    let gap = |missing: &[u64]| with_catalogs(without_wal(missing), without_wal(missing));
    assert_eq!(found(&gap(&[7])), ["critical wal-gap local", "critical wal-gap remote"]);
    assert!(
        findings(&gap(&[7, 8]))[0]
            .message
            .starts_with("2 segments are missing, 000000010000000000000007 to 0")
    );
    assert_eq!(found(&gap(&[4])), ["info wal-gap local", "info wal-gap remote"]);
    let before_all =
        catalog(vec![backup(60, 6)], archive([1, 2, 4, 5, 6, 7, 8, 9].map(|number| (1, number))));
    assert_eq!(found(&with_catalogs(before_all.clone(), before_all)), [""; 0]);
    assert_eq!(
        found(&with_catalogs(without_wal(&[7]), well())),
        ["warning wal-gap local"],
        "wal-sync repairs it"
    );
}

#[test]
fn a_gap_between_two_timelines_is_one_too() {
    let lacking = |missing: (u32, u64)| {
        let all = (1..=8).map(|number| (1, number)).chain((8..=12).map(|number| (2, number)));
        let mut archive = archive(all.filter(|segment| *segment != missing && *segment != (1, 8)));
        archive.add_history(timeline(2), format!("1\t{}\n", Lsn(8 * SIZE.bytes() + 9)).as_bytes());
        let mut site = on_timeline(2, catalog(vec![backup(60, 6)], archive));
        site.server.identity.as_mut().unwrap().wal_lsn = Lsn(13 * SIZE.bytes() + 1);
        site.repositories.truncate(1);
        site
    };
    assert_eq!(found(&lacking((9, 9))), [""; 0]);
    assert_eq!(found(&lacking((2, 8))), ["critical wal-gap local"]);
    assert!(findings(&lacking((2, 8)))[0].message.starts_with("000000020000000000000008 is missing"));
    assert_eq!(found(&lacking((1, 7))), ["critical wal-gap local"]);
}

#[test]
fn lag_counts_from_when_the_first_missing_segment_was_finished() {
    let behind = || with_catalogs(without_wal(&[8, 9]), without_wal(&[8, 9]));
    assert_eq!(found(&behind()), ["critical wal-behind"], "once for all of them");
    let mut just_now = behind();
    just_now.finished_at = [(8, at(NOW - 4)), (9, at(NOW))].into();
    assert_eq!(found(&just_now), [""; 0]);
    just_now.finished_at = [(8, at(NOW - 6)), (9, at(NOW))].into();
    assert_eq!(found(&just_now), ["critical wal-behind"]);
    just_now.finished_at = [].into();
    assert_eq!(found(&just_now), [""; 0], "nobody knows since when");
    let told = lag(&behind(), behind().repositories[0].catalog.as_ref().unwrap()).unwrap();
    assert_eq!(told, Lag { segments: 2, since: Some(at(80)) });
}

#[test]
fn a_repository_behind_another_is_told_also_without_the_server() {
    let mut site = with_catalogs(well(), without_wal(&[9]));
    assert_eq!(found(&site), ["warning wal-not-synced remote"]);
    site.server = Server {
        identity: None,
        state: Err(trouble()),
        replication: Err(ReplicationTrouble::Other(trouble())),
    };
    assert_eq!(found(&site), ["warning wal-not-synced remote", "warning server-unreachable"]);
    let (system, number) = first_missing(&site, site.repositories[1].catalog.as_ref().unwrap()).unwrap();
    assert_eq!((system, number), (SYSTEM, 9));
}

#[test]
fn a_repository_without_any_wal_lags_from_its_backup_on() {
    let site = with_catalogs(well(), catalog(vec![backup(60, 6)], WalArchive::new(SIZE)));
    let remote = site.repositories[1].catalog.as_ref().unwrap();
    assert_eq!(lag(&site, remote), Some(Lag { segments: 4, since: Some(at(60)) }));
}

#[test]
fn the_archiver_fails_when_its_last_attempt_did() {
    let failing = |minute: i64, finished: i64| {
        let mut site = with_server(|state| state.archiver.last_failed = event(CURRENT, minute));
        site.finished_at.insert(CURRENT, at(finished));
        site
    };
    assert_eq!(found(&failing(89, NOW)), [""; 0], "it succeeded since");
    assert_eq!(found(&failing(NOW, NOW - 1)), ["warning archiver-failing"], "it will try again");
    assert_eq!(found(&failing(NOW, NOW - 6)), ["critical archiver-failing"]);
    assert!(findings(&failing(NOW, NOW - 6))[0].message.contains("00000001000000000000000A 0 s ago"));
    let mut off = failing(NOW, NOW - 6);
    off.server.state.as_mut().unwrap().archiver.mode = "off".into();
    assert_eq!(found(&off), [""; 0], "what once failed is nobody's business any more");
}

#[test]
fn a_standby_need_not_archive() {
    let standby = |mode: &str| {
        with_server(|state| {
            state.is_standby = true;
            (state.archiver.mode, state.archiver.method) = (mode.into(), ArchiveMethod::Missing);
        })
    };
    assert_eq!(found(&standby("on")), [""; 0]);
    assert_eq!(found(&standby("always")), ["critical archive-command-missing"]);
}

#[test]
fn the_settings_to_make_are_written_as_they_can_be_pasted() {
    let site = with_server(|state| state.archiver.method = ArchiveMethod::Off);
    let hint = findings(&site)[0].hint.clone().unwrap();
    assert!(
        hint.contains("`ALTER SYSTEM SET archive_command = '/usr/local/bin/pgbak wal-push %p';`"),
        "{hint}"
    );
    let source = WalSource::Push { archive_command: "'/o t/pgbak' wal-push %p".into() };
    let hint = findings(&Observations { source, ..site })[0].hint.clone().unwrap();
    assert!(hint.contains("archive_command = '''/o t/pgbak'' wal-push %p';"), "{hint}");
}

#[test]
fn how_wal_gets_here_decides_which_archive_command_is_right() {
    let command = |source: WalSource, command: &str| {
        let site = with_server(|state| state.archiver.method = ArchiveMethod::Command(command.into()));
        found(&Observations { source, ..site })
    };
    assert_eq!(command(push(), "/opt/pgbak --config /x wal-push %p"), [""; 0]);
    assert_eq!(command(push(), "cp %p /a/%f"), ["warning archive-command-other"]);
    assert_eq!(command(WalSource::Directory { archive_command: "cp".into() }, "cp %p /a/%f"), [""; 0]);
}

#[test]
fn streaming_is_judged_by_what_would_be_lost() {
    let caught_up =
        |minute: i64, slots: Vec<Slot>| Observations { caught_up_at: Some(at(minute)), ..streaming(slots) };
    let reserved = || vec![slot("pgbak", "reserved", 0)];
    // Between two runs of a timer nobody streams, and less than the threshold is at risk.
    assert_eq!(found(&caught_up(NOW, reserved())), [""; 0]);
    assert_eq!(found(&caught_up(NOW - 6, reserved())), ["critical wal-behind", "warning slot-inactive"]);
    assert_eq!(found(&streaming(reserved())), ["critical wal-behind", "warning slot-inactive"]);
    assert_eq!(found(&caught_up(NOW, vec![])), ["critical slot-missing"]);
    assert_eq!(found(&caught_up(NOW, vec![slot("pgbak", "lost", 0)])), ["critical slot-lost"]);
    // Somebody else's is only in the way.
    let others = vec![slot("other", "lost", 0), slot("pgbak", "reserved", 0)];
    assert_eq!(found(&caught_up(NOW, others)), ["warning slot-lost"]);
}

#[test]
fn what_is_stored_in_parts_is_not_at_risk() {
    let mut site = streaming(vec![slot("pgbak", "reserved", 0)]);
    let identity = site.server.identity.as_mut().unwrap();
    identity.wal_lsn = Lsn((CURRENT << 24) + 0x1000);
    let at_risk = |site: &Observations| {
        let risk = super::at_risk(site, site.repositories[0].catalog.as_ref().unwrap()).unwrap();
        (risk.bytes, risk.since)
    };
    let (bytes, since) = at_risk(&site);
    assert!(bytes >= 0x1000 && since.is_some());
    let mut stored = archive((1..CURRENT).map(|number| (1, number)));
    for part in [SegmentPart { begin: 0, end: 0x800 }, SegmentPart { begin: 0x800, end: 0xC00 }] {
        let segment = SegmentName { timeline: Timeline::FIRST, number: CURRENT };
        let name = WalFileName::of_part(&segment.file_name(SegmentSize::DEFAULT).to_string(), part);
        stored.add(&name, StoredAs { size_bytes: 1, stored_at: at(NOW - 3) });
    }
    site.repositories[0].catalog = Ok(catalog(vec![backup(20, 2)], stored));
    assert_eq!(at_risk(&site), (0x400, Some(at(NOW - 3))));
    site.caught_up_at = Some(at(NOW - 1));
    assert_eq!(at_risk(&site), (0x400, Some(at(NOW - 1))));
    site.server.identity.as_mut().unwrap().wal_lsn = Lsn((CURRENT << 24) + 0xC00);
    assert_eq!(at_risk(&site), (0, None));
}

#[test]
fn wal_senders_that_a_running_backup_uses_are_no_finding() {
    let mut site = with_server(|state| state.wal_senders_used = 9);
    assert_eq!(found(&site), ["critical no-walsender-free"]);
    let run = Run { command: "base-backup".into(), at_work: vec![at(NOW)], ..Run::default() };
    site.runs = vec![run];
    assert_eq!(found(&site), [""; 0]);
}

#[test]
fn nothing_is_concluded_from_a_server_that_says_nothing() {
    let mut site = site();
    site.server.state = Err(trouble());
    assert_eq!(found(&site), ["warning server-restricted"], "backups go on");
    site.server.identity = None;
    site.server.replication = Err(ReplicationTrouble::Other(trouble()));
    assert_eq!(found(&site), ["warning server-unreachable"]);
}

#[test]
fn the_server_and_the_archive_must_be_of_one_timeline() {
    assert_eq!(found(&on_timeline(2, promoted())), [""; 0]);
    assert_eq!(found(&on_timeline(1, promoted())), ["warning timeline-left-behind"]);
    assert_eq!(found(&on_timeline(2, well())), ["warning timeline-not-archived"]);
}

#[test]
fn damage_that_verify_found_is_critical_and_old_proofs_are_told() {
    let mut site = site();
    let name = backup(20, 2).name;
    site.repositories[0].proofs = [(name, proof(NOW, Some("base.tar.zst: a frame is torn")))].into();
    assert_eq!(found(&site), ["critical backup-damage-found local"]);
    site.repositories[0].proofs = [(name, proof(NOW - 35 * 24 * 60, None))].into();
    assert_eq!(found(&site), [""; 0]);
    site.repositories[0].proofs = [(name, proof(NOW - 36 * 24 * 60, None))].into();
    assert_eq!(found(&site), ["warning verify-old local"]);
    let never = Observations { now: at(20 + 24 * 60 + 1), ..self::site() };
    assert_eq!(found(&never), ["info backup-unproven local", "info backup-unproven remote"]);
}

#[test]
fn a_failure_is_told_until_a_good_run_follows() {
    assert_eq!(found(&with_runs(Some(50), Some(60), None)), ["warning backup-failed"]);
    assert_eq!(found(&with_runs(Some(70), Some(60), Some(65))), [""; 0]);
    assert_eq!(found(&with_runs(None, None, Some(65))), ["warning run-killed"]);
    let mut again = with_runs(None, None, Some(65));
    again.runs[0].at_work = vec![at(66)];
    assert_eq!(found(&again), [""; 0], "the next one is at work");
    let mut by_hand = with_runs(None, Some(60), Some(65));
    by_hand.runs[0].command = "restore".into();
    assert_eq!(found(&by_hand), [""; 0]);
    assert_eq!(
        findings(&with_runs(Some(50), Some(60), None))[0].message,
        "the last base-backup failed 15 h 40 min ago with exit code 1; the last good one ended 15 h 50 min ago"
    );
}

#[test]
fn the_worst_comes_first() {
    let mut site = with_catalogs(without_wal(&[4, 7]), without_wal(&[4, 7]));
    site.runs = with_runs(None, Some(60), None).runs;
    let severities: Vec<_> = findings(&site).iter().map(|finding| finding.severity).collect();
    assert!(severities.is_sorted_by(|one, other| one >= other), "{severities:?}");
    assert_eq!(severities.len(), 5);
}
