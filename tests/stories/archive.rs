//! Archiving WAL and fetching it back: durable, checked, and never silently wrong.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::site;
use crate::support::{Outcome, Repository, Site, Workload, process, wait_until};

/// Ends the segment in use, waits until it is archived, and returns its name.
fn archive_a_segment(site: &Site) -> String {
    site.cluster().sql("SELECT pg_logical_emit_message(true, 'test', md5(random()::text))");
    let segment = site.cluster().switch_wal();
    wait_until(&format!("{segment} to be archived"), || site.repository().holds(&segment));
    segment
}

/// What the server wrote: the content of a file in its `pg_wal`.
fn in_pg_wal(site: &Site, name: &str) -> Vec<u8> {
    fs::read(site.cluster().data.join("pg_wal").join(name)).unwrap()
}

/// A file to push, named `name`.
fn incoming(site: &Site, name: &str, content: &[u8]) -> PathBuf {
    let directory = site.path("incoming");
    if !directory.exists() {
        site.make_directory("incoming");
    }
    site.write(&format!("incoming/{name}"), content)
}

fn push(site: &Site, path: &Path) -> Outcome {
    site.pgbak(&format!("wal-push {}", path.display()))
}

fn fetch(site: &Site, name: &str) -> (Outcome, PathBuf) {
    let destination = site.fresh("fetched");
    (site.pgbak(&format!("wal-fetch {name} {}", destination.display())), destination)
}

/// What tells whether a stored file was touched.
fn identity_of(path: &Path) -> (u64, i64, i64, u64) {
    let metadata = fs::metadata(path).unwrap();
    (metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.len())
}

#[test]
fn a_server_under_load_archives_every_segment_byte_for_byte() {
    let mut site = site!(initdb("--wal-segsize=1"));
    let workload = Workload::start(site.cluster());
    wait_until("ten segments to be archived", || {
        workload.wait_for_more(50);
        site.repository().archived().len() >= 10
    });
    let account = workload.finish(site.cluster());
    assert!(account.history.commits.len() > 100);
    site.cluster_mut().stop();

    let archived = site.repository().archived();
    for segment in &archived {
        assert_eq!(site.repository().wal_content(segment), in_pg_wal(&site, segment), "{segment}");
    }
    let numbers: Vec<u64> =
        archived.iter().map(|name| u64::from_str_radix(&name[8..], 16).unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{archived:?}");
}

#[test]
fn archiving_the_same_again_succeeds_and_touches_nothing() {
    let site = site!();
    let segment = archive_a_segment(&site);
    let stored = site.repository().wal_file(&segment).unwrap();
    let before = identity_of(&stored);
    push(&site, &site.cluster().data.join("pg_wal").join(&segment)).succeeds().says("");
    push(&site, &incoming(&site, &segment, &in_pg_wal(&site, &segment))).succeeds().says("");
    assert_eq!(identity_of(&stored), before);
}

#[test]
fn another_content_under_the_same_name_is_refused_and_touches_nothing() {
    let site = site!();
    let segment = archive_a_segment(&site);
    let stored = site.repository().wal_file(&segment).unwrap();
    let before = (identity_of(&stored), site.repository().files());
    let mut content = in_pg_wal(&site, &segment);
    content[100_000] ^= 1;
    push(&site, &incoming(&site, &segment, &content))
        .exits(1)
        .refuses(&[&segment, "first", "different content"], &["Nothing was overwritten"]);
    assert_eq!((identity_of(&stored), site.repository().files()), before);
}

#[test]
fn what_is_not_the_segment_that_it_says_is_refused() {
    let site = site!();
    let segment = archive_a_segment(&site);
    let content = in_pg_wal(&site, &segment);
    let next = format!("{}{:08X}", &segment[..16], u32::from_str_radix(&segment[16..], 16).unwrap() + 20);
    let half = &content[..content.len() / 2];
    let before = site.repository().files();
    for (name, content) in
        [(&next, &content[..]), (&segment, half), (&next, &[]), (&next, &vec![0; content.len()])]
    {
        push(&site, &incoming(&site, name, content))
            .exits(1)
            .refuses(&[name, "is not what its name says"], &["Nothing was stored"]);
    }
    assert_eq!(site.repository().files(), before, "nothing was stored or left half-way");
}

#[test]
fn wal_of_another_cluster_is_refused() {
    let site = site!();
    archive_a_segment(&site);
    let other = site!(of_another_system(), without_archiving());
    let segment = other.cluster().switch_wal();
    let (own, foreign) = (site.cluster().system_identifier(), other.cluster().system_identifier());
    assert_ne!(own, foreign);
    let before = site.repository().files();
    push(&site, &incoming(&site, &segment, &in_pg_wal(&other, &segment))).exits(1).refuses(
        &[&own, &foreign, &segment],
        &["Give each cluster a configuration and repositories of its own"],
    );
    assert_eq!(site.repository().files(), before);
}

#[test]
fn histories_notes_and_partial_segments_have_places_of_their_own() {
    let site = site!();
    let segment = archive_a_segment(&site);
    let content = in_pg_wal(&site, &segment);
    let system = site.cluster().system_identifier();

    let history = "1\t0/3000000\tno recovery target specified\n";
    let path = incoming(&site, "00000002.history", history.as_bytes());
    push(&site, &path).succeeds();
    push(&site, &path).succeeds();
    let below = site.repository().path.join("wal-archive").join(system);
    let stored = site.repository().wal_file("00000002.history").unwrap();
    assert_eq!(stored.parent().unwrap(), below, "a history lies beside the segments' directories");
    let other = incoming(&site, "00000002.history", b"1\t0/4000000\tno recovery target specified\n");
    push(&site, &other)
        .exits(1)
        .refuses(&["00000002.history", "different content"], &["Nothing was overwritten"]);
    push(&site, &incoming(&site, "00000003.history", b"nonsense\n")).exits(1);
    assert!(!site.repository().holds("00000003.history"));

    let note = format!("{segment}.00000028.backup");
    push(&site, &incoming(&site, &note, b"START WAL LOCATION: 0/2000028\n")).succeeds();
    assert!(site.repository().holds(&note));

    // The tip that a promotion left: stored beside the whole segment, and given in its stead at the archive's end alone.
    let partial = format!("{segment}.partial");
    push(&site, &incoming(&site, &partial, &content)).succeeds();
    assert_eq!(site.repository().wal_content(&partial), content);
    let whole = site.repository().wal_file(&segment).unwrap();
    site.repository().remove(&whole);
    let (outcome, destination) = fetch(&site, &segment);
    outcome.succeeds();
    assert_eq!(fs::read(&destination).unwrap(), content);
    let own = site.cluster().data.join("pg_wal").join(&segment);
    let beside = site.make_directory("pg_wal");
    fs::copy(&own, beside.join(&segment)).unwrap();
    let beside = format!("wal-fetch {segment} {}", beside.join("RECOVERYXLOG").display());
    site.pgbak(&beside).exits(1);
    site.wait_until_archived();
    fetch(&site, &segment).0.exits(200);

    for name in ["postgresql.conf", "0000000100000000000000ZZ", "00000002.history.zst"] {
        push(&site, &incoming(&site, name, &content)).exits(1).refuses(&[name], &["archive_command"]);
    }
}

#[test]
fn a_base_backup_of_another_tool_leaves_its_note_in_the_archive() {
    let site = site!();
    let mut other = site.cluster().client("pg_basebackup");
    let options = ["--checkpoint=fast", "--wal-method=none", "--pgdata"];
    process::run(other.args(options).arg(site.path("by-the-other-tool")));
    let noted = || site.repository().archived().iter().any(|name| name.ends_with(".backup"));
    wait_until("the note to be archived", noted);
}

#[test]
fn with_push_to_two_repositories_both_must_have_it() {
    let site = site!(repositories(2), config("[wal]\npush_to = [\"first\", \"second\"]"));
    let segment = archive_a_segment(&site);
    let [first, second] = site.repositories() else { panic!("two repositories") };
    wait_until("the second to have it", || second.holds(&segment));
    assert_eq!(first.wal_content(&segment), second.wal_content(&segment));

    fs::rename(&second.path, site.path("gone")).unwrap();
    fs::write(&second.path, "").unwrap();
    site.cluster().sql("SELECT pg_logical_emit_message(false, 'test', 'something to switch from')");
    let next = site.cluster().switch_wal();
    let path = site.cluster().data.join("pg_wal").join(next);
    push(&site, &path).exits(1).stderr_has("second");
    fs::remove_file(&second.path).unwrap();
    fs::rename(site.path("gone"), &second.path).unwrap();
    push(&site, &path).succeeds();
}

#[test]
fn a_fetched_file_is_what_was_archived() {
    let site = site!();
    let segment = archive_a_segment(&site);
    let (outcome, destination) = fetch(&site, &segment);
    outcome.succeeds().says("");
    assert_eq!(fs::read(&destination).unwrap(), in_pg_wal(&site, &segment));
    assert_eq!(fs::metadata(&destination).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn only_the_end_of_the_archive_is_1_and_everything_else_is_200() {
    let site = site!();
    let segments = [(); 4].map(|()| archive_a_segment(&site));
    let repository = site.repository();
    let end = fetch_code(&site, "0000000100000000000000F0");
    assert_eq!(end, 1, "after the last segment");
    assert_eq!(fetch_code(&site, "00000002.history"), 1, "PostgreSQL looks for newer timelines");

    repository.remove(&repository.wal_file(&segments[1]).unwrap());
    assert_eq!(fetch_code(&site, &segments[1]), 200, "missing in the middle");
    let damaged = repository.wal_file(&segments[2]).unwrap();
    let middle = fs::metadata(&damaged).unwrap().len() as usize / 2;
    repository.alter(&damaged, |bytes| bytes[middle] ^= 1);
    assert_eq!(fetch_code(&site, &segments[2]), 200, "a damaged object");
    repository.alter(&damaged, |bytes| bytes.truncate(middle));
    assert_eq!(fetch_code(&site, &segments[2]), 200, "a truncated object");
    repository.alter(&damaged, Vec::clear);
    assert_eq!(fetch_code(&site, &segments[2]), 200, "an empty object");

    assert_eq!(fetch_code(&site, "nonsense"), 200, "not a WAL file's name");
    assert_eq!(site.pgbak("wal-fetch").exits(200).stdout, "", "wrong usage");
    let unknown_key = site.config() + "\n[colour]\nblue = 1\n";
    site.write("unknown.toml", unknown_key);
    let config = site.path("unknown.toml");
    site.pgbak(&format!("--config {} wal-fetch {} x", config.display(), segments[0]))
        .exits(200)
        .stderr_has("colour");

    let archive = repository.path.join("wal-archive");
    fs::set_permissions(&archive, fs::Permissions::from_mode(0o000)).unwrap();
    assert_eq!(fetch_code(&site, &segments[3]), 200, "an unreadable repository");
    fs::set_permissions(&archive, fs::Permissions::from_mode(0o700)).unwrap();
    fs::rename(&repository.path, site.path("unmounted")).unwrap();
    assert_eq!(fetch_code(&site, &segments[3]), 200, "a repository that is not there");
    fs::create_dir(&repository.path).unwrap();
    site.identity().own_path(&repository.path);
    assert_eq!(fetch_code(&site, &segments[3]), 200, "an empty directory where the repository was");
    fs::remove_dir(&repository.path).unwrap();
    fs::rename(site.path("unmounted"), &repository.path).unwrap();
    assert_eq!(fetch_code(&site, &segments[3]), 0, "and all is well again");
}

/// The exit code; when that is not 0, nothing was left at the destination or beside it.
fn fetch_code(site: &Site, name: &str) -> i32 {
    let (outcome, destination) = fetch(site, name);
    if outcome.code != 0 {
        let stem = destination.file_name().unwrap().to_string_lossy().into_owned();
        let beside = fs::read_dir(destination.parent().unwrap()).unwrap().flatten();
        let left: Vec<_> =
            beside.filter(|entry| entry.file_name().to_string_lossy().starts_with(&stem)).collect();
        assert!(left.is_empty(), "{left:?}\n{outcome}");
    }
    outcome.code
}

#[test]
fn the_next_repository_gives_what_the_first_has_damaged() {
    let site = site!(repositories(2), config("[wal]\npush_to = [\"first\", \"second\"]"));
    let segment = archive_a_segment(&site);
    let [first, second] = site.repositories() else { panic!("two repositories") };
    wait_until("the second to have it", || second.holds(&segment));
    first.alter(&first.wal_file(&segment).unwrap(), |bytes| bytes[40] ^= 1);
    let (outcome, destination) = fetch(&site, &segment);
    outcome.exits(0).stderr_has(&segment);
    assert_eq!(fs::read(destination).unwrap(), in_pg_wal(&site, &segment));
}

#[test]
fn the_next_segments_are_fetched_ahead_and_checked() {
    let site = site!();
    let segments = [(); 4].map(|()| archive_a_segment(&site));
    fetch(&site, &segments[0]).0.succeeds();
    let ready = |name: &str| site.files_elsewhere().into_iter().find(|path| path.ends_with(name));
    wait_until("the next segments to be there", || segments[1..].iter().all(|name| ready(name).is_some()));
    for segment in &segments[1..] {
        assert_eq!(fs::read(ready(segment).unwrap()).unwrap(), in_pg_wal(&site, segment));
    }
    let (outcome, destination) = fetch(&site, &segments[1]);
    outcome.succeeds();
    assert_eq!(fs::read(destination).unwrap(), in_pg_wal(&site, &segments[1]));
    assert!(ready(&segments[1]).is_none(), "it was moved, not copied");
}

#[test]
fn recovery_leaves_pg_wal_to_postgresql() {
    let site = site!(initdb("--wal-segsize=1"));
    site.pgbak("base-backup").succeeds();
    for _ in 0..20 {
        archive_a_segment(&site);
    }
    let restored = site.restore("");
    let names = fs::read_dir(restored.data.join("pg_wal")).unwrap().flatten();
    let names: Vec<String> = names.map(|entry| entry.file_name().into_string().unwrap()).collect();
    let belongs = |name: &&String| {
        let is_segment = name.len() == 24 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        // Both are the server's own; the second is so from 17 on.
        let is_directory = ["archive_status", "summaries"].contains(&name.as_str());
        is_segment || is_directory || name.ends_with(".history")
    };
    assert!(names.iter().all(|name| belongs(&name)), "{names:?}");
    assert!(restored.log().matches("restored log file").count() >= 20, "{}", restored.log());
}

#[test]
fn an_archive_that_fails_keeps_the_wal_and_goes_on_when_it_works_again() {
    let site = site!();
    archive_a_segment(&site);
    let repository: &Repository = site.repository();
    fs::set_permissions(repository.path.join("wal-archive"), fs::Permissions::from_mode(0o500)).unwrap();
    let directory =
        fs::read_dir(repository.path.join("wal-archive")).unwrap().next().unwrap().unwrap().path();
    let deeper = fs::read_dir(&directory).unwrap().next().unwrap().unwrap().path();
    fs::set_permissions(&deeper, fs::Permissions::from_mode(0o500)).unwrap();
    site.cluster().sql("SELECT pg_logical_emit_message(true, 'test', 'x')");
    let segment = site.cluster().switch_wal();
    let failed = || site.cluster().sql("SELECT failed_count > 0 FROM pg_stat_archiver") == "t";
    wait_until("the server to notice", failed);
    assert!(!repository.holds(&segment));
    fs::set_permissions(&deeper, fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(repository.path.join("wal-archive"), fs::Permissions::from_mode(0o700)).unwrap();
    wait_until("the server to try again", || {
        // More to archive wakes the archiver, which waits a minute after three failures.
        site.cluster().sql("SELECT pg_logical_emit_message(true, 'test', 'x')");
        site.cluster().switch_wal();
        repository.holds(&segment)
    });
    assert_eq!(repository.wal_content(&segment), in_pg_wal(&site, &segment));
}
