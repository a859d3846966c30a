//! What `verify` finds in a repository, and what it leaves alone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::support::{Outcome, Repository, Site, process, wait_until};
use crate::{pair, site};

/// `code object`, with the object's last name, for each finding; in order.
fn findings(outcome: &Outcome) -> Vec<String> {
    let report = outcome.json();
    let words = |finding: &serde_json::Value| {
        let object = finding["object"].as_str().unwrap_or_default();
        format!("{} {}", finding["code"].as_str().unwrap(), object.rsplit('/').next().unwrap())
    };
    report["findings"].as_array().unwrap().iter().map(words).collect()
}

fn codes(outcome: &Outcome, list: &str) -> Vec<String> {
    let report = outcome.json();
    let code = |entry: &serde_json::Value| entry["code"].as_str().unwrap().to_owned();
    report[list].as_array().unwrap().iter().map(code).collect()
}

/// Commits something and has it archived; returns the segment it is in.
fn archive_a_segment(site: &Site) -> String {
    site.cluster().sql("SELECT pg_logical_emit_message(true, 'test', md5(random()::text))");
    let segment = site.cluster().switch_wal();
    wait_until("the segment to be archived", || site.repository().holds(&segment));
    segment
}

/// Ends the cluster's timeline and begins the next one, without a restore.
fn promote(site: &mut Site) {
    site.cluster_mut().stop();
    site.write("data/recovery.signal", "");
    site.cluster_mut().set("restore_command", "false");
    site.cluster_mut().start();
    wait_until("the promotion", || site.cluster().sql("SELECT pg_is_in_recovery()") == "f");
    archive_a_segment(site);
}

#[test]
fn a_healthy_site_is_sound_at_every_depth_and_a_second_look_reads_only_what_is_new() {
    let mut site = site!(repositories(2), tablespaces(1), initdb("--wal-segsize=1"));
    site.cluster().sql(
        "CREATE TABLE t AS SELECT id, md5(id::text) FROM generate_series(1, 20000) AS id;
         CREATE TABLE u TABLESPACE space1 AS SELECT * FROM t; CREATE INDEX ON u (id); CHECKPOINT",
    );
    site.pgbak("base-backup").succeeds();
    promote(&mut site);
    site.pgbak("base-backup").succeeds();
    archive_a_segment(&site);
    site.pgbak("wal-sync").succeeds();

    site.pgbak("verify --quick").succeeds().says("").stdout_has("No findings");
    let read = |outcome: Outcome| {
        let report = outcome.json();
        let numbers = |field: &str| -> Vec<u64> {
            let all = report["repositories"].as_array().unwrap();
            all.iter().map(|repository| repository[field].as_u64().unwrap()).collect()
        };
        (numbers("files_read"), numbers("files_passed_over"))
    };
    let (files, passed_over) = read(site.pgbak("verify --json").succeeds());
    assert!(files.iter().all(|files| *files > 10), "{files:?}");
    assert_eq!(passed_over, [0, 0]);
    assert_eq!(read(site.pgbak("verify --json").succeeds()), (vec![0, 0], files.clone()));
    let all_of = |depth: &str| read(site.pgbak(&format!("verify --json {depth}")).succeeds()).0;
    assert_eq!(all_of("--again-after 0s"), files, "what is too long ago is read again");

    // Of the WAL nothing more can be known.
    let backups = 2 * 4;
    assert_eq!(all_of("--full"), [backups, backups]);
    assert_eq!(all_of("--full"), [0, 0]);
    assert_eq!(all_of(""), [0, 0], "what was proven deeper is proven");
    archive_a_segment(&site);
    assert_eq!(all_of("--repository first"), [1]);
    let only = all_of("--repository first --again-after 0s --backup latest");
    assert!(4 < only[0] && only[0] < files[0], "{only:?} of {files:?}");
}

// --- the mutilation table -----------------------------------------------------------------------------------------

/// What is done to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutilation {
    Deleted,
    Truncated,
    Flipped,
    Replaced,
    Emptied,
    Unreadable,
}

use Mutilation::{Deleted, Emptied, Flipped, Replaced, Truncated, Unreadable};

/// What can still be had of what was mutilated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Restore {
    /// The backup, or the file of the archive, as it was.
    Works,
    /// Nothing of it, and that is said; other backups can be restored.
    Refused,
    /// Nothing of the repository.
    AllRefused,
}

use Restore::{AllRefused, Refused, Works};

/// Which object, by a name for the table; what was done to it; what `verify --quick`, `verify` and `verify --full` find
/// (a note is in parentheses); and what a restore does.
type Row = (&'static str, Mutilation, [&'static str; 3], Restore);

const TABLE: &[Row] = &[
    ("base.tar.zst", Deleted, ["missing", "missing", "missing"], Refused),
    ("base.tar.zst", Truncated, ["size-differs", "size-differs", "size-differs"], Refused),
    ("base.tar.zst", Flipped, ["", "damaged", "damaged"], Refused),
    ("base.tar.zst", Replaced, ["size-differs", "size-differs", "size-differs"], Refused),
    ("base.tar.zst", Emptied, ["size-differs", "size-differs", "size-differs"], Refused),
    ("base.tar.zst", Unreadable, ["", "unreadable", "unreadable"], Refused),
    ("tablespace", Deleted, ["missing", "missing", "missing"], Refused),
    ("tablespace", Truncated, ["size-differs", "size-differs", "size-differs"], Refused),
    ("tablespace", Flipped, ["", "damaged", "damaged"], Refused),
    ("tablespace", Replaced, ["size-differs", "size-differs", "size-differs"], Refused),
    ("tablespace", Emptied, ["size-differs", "size-differs", "size-differs"], Refused),
    ("tablespace", Unreadable, ["", "unreadable", "unreadable"], Refused),
    ("pg_wal.tar.zst", Deleted, ["missing", "missing", "missing"], Refused),
    ("pg_wal.tar.zst", Truncated, ["size-differs", "size-differs", "size-differs"], Refused),
    ("pg_wal.tar.zst", Flipped, ["", "damaged", "damaged"], Refused),
    ("pg_wal.tar.zst", Replaced, ["size-differs", "size-differs", "size-differs"], Refused),
    ("pg_wal.tar.zst", Emptied, ["size-differs", "size-differs", "size-differs"], Refused),
    ("pg_wal.tar.zst", Unreadable, ["", "unreadable", "unreadable"], Refused),
    ("backup_manifest", Deleted, ["missing", "missing", "missing"], Refused),
    ("backup_manifest", Truncated, ["size-differs", "size-differs", "size-differs"], Refused),
    ("backup_manifest", Flipped, ["", "digest-differs", "manifest-damaged"], Refused),
    ("backup_manifest", Replaced, ["size-differs", "size-differs", "size-differs"], Refused),
    ("backup_manifest", Emptied, ["size-differs", "size-differs", "size-differs"], Refused),
    ("backup_manifest", Unreadable, ["", "unreadable", "unreadable"], Refused),
    ("SHA256SUMS", Deleted, ["missing", "missing", "missing"], Refused),
    ("SHA256SUMS", Truncated, ["checksums-differ", "checksums-differ", "checksums-differ"], Refused),
    ("SHA256SUMS", Flipped, ["checksums-differ", "checksums-differ", "checksums-differ"], Refused),
    ("SHA256SUMS", Replaced, ["checksums-differ", "checksums-differ", "checksums-differ"], Refused),
    ("SHA256SUMS", Emptied, ["checksums-differ", "checksums-differ", "checksums-differ"], Refused),
    ("SHA256SUMS", Unreadable, ["unreadable", "unreadable", "unreadable"], Refused),
    // Without a record there is no backup; what is left of it cannot be told from an unfinished one.
    ("backup_info.toml", Deleted, ["(garbage)", "(garbage)", "(garbage)"], Refused),
    ("backup_info.toml", Truncated, ["record-damaged", "record-damaged", "record-damaged"], Refused),
    ("backup_info.toml", Flipped, ["record-damaged", "record-damaged", "record-damaged"], Refused),
    ("backup_info.toml", Replaced, ["record-damaged", "record-damaged", "record-damaged"], Refused),
    ("backup_info.toml", Emptied, ["record-damaged", "record-damaged", "record-damaged"], Refused),
    ("backup_info.toml", Unreadable, ["unreadable", "unreadable", "unreadable"], Refused),
    // Its presence is what tells a repository from a disk that is not mounted.
    ("RESTORE.md", Deleted, ["fails", "fails", "fails"], AllRefused),
    ("RESTORE.md", Truncated, ["guide-damaged", "guide-damaged", "guide-damaged"], Works),
    ("RESTORE.md", Flipped, ["guide-damaged", "guide-damaged", "guide-damaged"], Works),
    ("RESTORE.md", Replaced, ["guide-damaged", "guide-damaged", "guide-damaged"], Works),
    ("RESTORE.md", Emptied, ["guide-damaged", "guide-damaged", "guide-damaged"], Works),
    ("RESTORE.md", Unreadable, ["fails", "fails", "fails"], AllRefused),
    ("segment", Deleted, ["wal-missing", "wal-missing", "wal-missing"], Refused),
    ("segment", Truncated, ["", "damaged", "damaged"], Refused),
    ("segment", Flipped, ["", "damaged", "damaged"], Refused),
    ("segment", Replaced, ["", "wal-damaged", "wal-damaged"], Refused),
    ("segment", Emptied, ["", "damaged", "damaged"], Refused),
    ("segment", Unreadable, ["", "unreadable", "unreadable"], Refused),
    ("history", Deleted, ["history-missing", "history-missing", "history-missing"], Refused),
    ("history", Truncated, ["history-damaged", "history-damaged", "history-damaged"], Refused),
    ("history", Flipped, ["history-damaged", "history-damaged", "history-damaged"], Refused),
    ("history", Replaced, ["history-damaged", "history-damaged", "history-damaged"], Refused),
    ("history", Emptied, ["history-damaged", "history-damaged", "history-damaged"], Refused),
    ("history", Unreadable, ["history-damaged", "history-damaged", "history-damaged"], Refused),
    ("lease", Deleted, ["", "", ""], Works),
    ("lease", Truncated, ["(lease-left)", "(lease-left)", "(lease-left)"], Works),
    ("lease", Flipped, ["(lease-left)", "(lease-left)", "(lease-left)"], Works),
    ("lease", Replaced, ["(lease-left)", "(lease-left)", "(lease-left)"], Works),
    ("lease", Emptied, ["(lease-left)", "(lease-left)", "(lease-left)"], Works),
    ("lease", Unreadable, ["(lease-left)", "(lease-left)", "(lease-left)"], Works),
];

#[test]
fn whatever_is_done_to_an_object_is_found_and_the_rest_can_be_restored() {
    let mut site = site!(tablespaces(1), initdb("--wal-segsize=1"));
    let objects = Objects::make(&mut site, 0);
    objects.hold(&site, TABLE.iter());
    site.pgbak("verify --full").succeeds();
}

#[test]
fn whatever_is_done_to_an_object_at_the_other_end_of_a_link_is_found() {
    let mut pair = pair!(Shell, tablespaces(1));
    let objects = Objects::make(&mut pair.site, 1);
    objects.hold(&pair.site, TABLE.iter());
    pair.site.pgbak("verify --full").succeeds();
}

/// The objects of one repository, one of each kind.
struct Objects {
    /// Which of the site's repositories.
    repository: usize,
    /// The backup that is mutilated, and a later one on the next timeline.
    backups: [String; 2],
    /// Archived between the two.
    segments: [String; 2],
}

impl Objects {
    fn make(site: &mut Site, repository: usize) -> Self {
        site.cluster().sql("CREATE TABLE t TABLESPACE space1 AS SELECT generate_series(1, 1000) AS id");
        site.pgbak("base-backup").succeeds();
        let segments = [(); 2].map(|()| archive_a_segment(site));
        site.cluster().sql("CREATE TABLE u TABLESPACE space1 AS SELECT md5(id::text) FROM t");
        promote(site);
        site.pgbak("base-backup").succeeds();
        archive_a_segment(site);
        if repository > 0 {
            site.pgbak("wal-sync").succeeds();
        }
        let backups = site.repository().backups().try_into().expect("two backups");
        site.pgbak("verify --full").succeeds();
        Self { repository, backups, segments }
    }

    /// Mutilates, looks, and mends, row by row.
    fn hold<'t>(&self, site: &Site, rows: impl Iterator<Item = &'t Row>) {
        let mut wrong = Vec::new();
        for (name, mutilation, expected, expected_restore) in rows {
            if *name == "lease" {
                self.leave_a_lease(site);
            }
            let path = self.path(site, name, 0);
            let before = fs::read(&path).unwrap();
            self.mutilate(site, &path, *mutilation);
            let seen = ["--quick", "", "--full"].map(|depth| self.seen(site, depth));
            let restored = self.restored(site, name);
            let _ = fs::remove_file(&path);
            if *name != "lease" {
                fs::write(&path, before).unwrap();
                site.identity().own_path(&path);
            }
            if seen != *expected || restored != *expected_restore {
                wrong.push(format!("    (\"{name}\", {mutilation:?}, {seen:?}, {restored:?}),"));
            }
        }
        assert!(wrong.is_empty(), "seen otherwise than the table says:\n{}", wrong.join("\n"));
    }

    /// What a run leaves that dies between its last two steps.
    fn leave_a_lease(&self, site: &Site) {
        let path = self.path(site, "lease", 0);
        fs::write(
            &path,
            "host = \"elsewhere\"\npid = 7\npid_scope = \"gone\"\n\
             started_at = \"2026-11-22T02:00:00Z\"\nexpires_at = \"2026-11-22T04:00:00Z\"\n",
        )
        .unwrap();
        site.identity().own_path(&path);
    }

    /// Of the backup or segment with this number.
    fn path(&self, site: &Site, name: &str, number: usize) -> PathBuf {
        let repository = &site.repositories()[self.repository];
        let backup = repository.backup(&self.backups[number]);
        match name {
            "RESTORE.md" => repository.path.join(name),
            "segment" => repository.wal_file(&self.segments[number]).unwrap(),
            "history" => repository.wal_file("00000002.history").unwrap(),
            "lease" => backup.join("lease-0001.toml"),
            "tablespace" => {
                let files = fs::read_dir(&backup).unwrap().map(|entry| entry.unwrap().path());
                let is_it = |path: &PathBuf| {
                    path.file_name().unwrap().to_string_lossy().starts_with(|c: char| c.is_ascii_digit())
                };
                files.into_iter().find(is_it).expect("the tablespace's archive")
            }
            _ => backup.join(name),
        }
    }

    fn mutilate(&self, site: &Site, path: &Path, mutilation: Mutilation) {
        let bytes = fs::read(path).unwrap();
        let write = |bytes: &[u8]| fs::write(path, bytes).unwrap();
        match mutilation {
            Deleted => fs::remove_file(path).unwrap(),
            Truncated => write(&bytes[..bytes.len() / 5]),
            Flipped => {
                let mut bytes = bytes;
                // In the middle; of a history, the switch point's high half.
                let at = if path.extension().is_some_and(|suffix| suffix == "history") {
                    2
                } else {
                    bytes.len() / 2
                };
                bytes[at] ^= 1;
                write(&bytes);
            }
            Replaced => write(&fs::read(self.sibling(site, path)).unwrap()),
            Emptied => write(b""),
            Unreadable => fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap(),
        }
    }

    /// An object of the same kind, where there is another.
    fn sibling(&self, site: &Site, path: &Path) -> PathBuf {
        let kinds = [
            "base.tar.zst",
            "tablespace",
            "pg_wal.tar.zst",
            "backup_manifest",
            "SHA256SUMS",
            "backup_info.toml",
            "segment",
        ];
        let kind = kinds.iter().find(|kind| self.path(site, kind, 0) == path);
        kind.map_or_else(|| self.path(site, "backup_manifest", 0), |kind| self.path(site, kind, 1))
    }

    fn only(&self, site: &Site) -> String {
        format!("--repository {}", site.repositories()[self.repository].name)
    }

    /// The findings and, in parentheses, the notes, each once.
    fn seen(&self, site: &Site, depth: &str) -> String {
        let outcome = site.pgbak(&format!("verify --json {depth} {}", self.only(site)));
        if outcome.code == 1 {
            return "fails".to_owned();
        }
        let mut seen = codes(&outcome, "findings");
        assert_eq!(outcome.code, if seen.is_empty() { 0 } else { 3 }, "{outcome}");
        seen.extend(codes(&outcome, "notes").iter().map(|note| format!("({note})")));
        seen.dedup();
        seen.join(" ")
    }

    fn restored(&self, site: &Site, name: &str) -> Restore {
        let (thing, other) = if name == "history" { (1, 0) } else { (0, 1) };
        if !self.restores(site, &self.backups[other], "--dry-run") {
            return AllRefused;
        }
        let works = match name {
            "segment" => self.fetches(site, &self.segments[0]),
            "history" => self.follows(site, "--target-timeline 2"),
            _ => {
                let backup = &self.backups[thing];
                self.restores(site, backup, "--dry-run") && self.restores(site, backup, "")
            }
        };
        if works { Works } else { Refused }
    }

    fn restores(&self, site: &Site, backup: &str, how: &str) -> bool {
        let directory = site.fresh("restored");
        let (space, moved) = (site.path("space1"), directory.with_extension("space"));
        let outcome = site.pgbak(&format!(
            "restore --backup {backup} --target-immediate -D {} {how} --tablespace-mapping '{}={}' {}",
            directory.display(),
            space.display(),
            moved.display(),
            self.only(site),
        ));
        let _ = fs::remove_dir_all(&directory);
        let _ = fs::remove_dir_all(&moved);
        outcome.code == 0
    }

    /// Whether the older backup can be restored along a timeline.
    fn follows(&self, site: &Site, timeline: &str) -> bool {
        let (directory, backup) = (site.fresh("restored"), &self.backups[0]);
        let (space, moved) = (site.path("space1"), directory.with_extension("space"));
        let arguments = format!(
            "restore --dry-run --backup {backup} -D {} {timeline} --tablespace-mapping '{}={}' {}",
            directory.display(),
            space.display(),
            moved.display(),
            self.only(site),
        );
        site.pgbak(&arguments).code == 0
    }

    fn fetches(&self, site: &Site, wal: &str) -> bool {
        let to = site.fresh("fetched");
        site.pgbak(&format!("wal-fetch {wal} {} {}", to.display(), self.only(site))).code == 0
    }
}

// --- what follows from a finding ------------------------------------------------------------------------------

/// Runs the commands between backquotes in a hint, in their order, as the one who reads it would.
fn follow(site: &Site, hint: &str) {
    let commands: Vec<&str> = hint.split('`').skip(1).step_by(2).collect();
    assert!(!commands.is_empty(), "no command in \"{hint}\"");
    let mut shell = site.identity().command("sh", "KILL");
    let path = format!("{}:/usr/bin:/bin", site.path("bin").display());
    shell.args(["-e", "-c", &commands.join("\n")]).current_dir("/").env("HOME", site.path("home"));
    process::run(shell.env("PATH", path).env("PGBAK_CONFIG", site.path("pgbak.toml")));
}

#[test]
fn what_another_repository_has_is_mended_by_following_the_hints() {
    let site = site!(repositories(2), initdb("--wal-segsize=1"));
    site.pgbak("base-backup").succeeds();
    let segments = [(); 3].map(|()| archive_a_segment(&site));
    site.pgbak("wal-sync").succeeds();
    let [first, second] = site.repositories() else { panic!("two repositories") };
    let flip = |repository: &Repository, path: &Path| {
        repository.alter(path, |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        });
    };
    flip(first, &first.wal_file(&segments[0]).unwrap());
    first.remove(&first.wal_file(&segments[2]).unwrap());
    second.remove(&second.wal_file(&segments[1]).unwrap());
    flip(second, &second.backup(&second.the_backup()).join("base.tar.zst"));

    let outcome = site.pgbak("verify --json").exits(3);
    let expected = [
        format!("damaged {}.zst", segments[0]),
        "damaged base.tar.zst".to_owned(),
        format!("wal-missing {}", segments[1]),
    ];
    assert_eq!(findings(&outcome), expected, "what is missing at the end is for wal-sync to know");
    for finding in outcome.json()["findings"].as_array().unwrap() {
        follow(&site, finding["hint"].as_str().unwrap());
    }
    assert_eq!(site.pgbak("verify --full").succeeds().code, 0);
    assert!(first.holds(&segments[2]) && second.holds(&segments[1]));
}

#[test]
fn a_lost_segment_costs_the_instants_up_to_the_next_backup() {
    let site = site!(initdb("--wal-segsize=1"));
    site.pgbak("base-backup").succeeds();
    let segments = [(); 3].map(|()| archive_a_segment(&site));
    site.pgbak("base-backup").succeeds();
    archive_a_segment(&site);
    let repository = site.repository();
    let lost = |outcome: &Outcome| {
        let finding = outcome.json()["findings"][0].clone();
        let lost = finding["unrestorable"]["instants"].as_array().unwrap().clone();
        assert_eq!(lost.len(), 1, "{outcome}");
        (lost[0]["from_lsn"].as_str().unwrap().to_owned(), lost[0]["to_lsn"].as_str().unwrap().to_owned())
    };
    let segment = repository.wal_file(&segments[1]).unwrap();
    repository.alter(&segment, |bytes| bytes.truncate(100));
    let damaged = lost(&site.pgbak("verify --json").exits(3));
    let until = repository.record(&repository.backups()[1])["stop_lsn"].as_str().unwrap().to_owned();
    assert_eq!(damaged.1, until, "the next backup begins anew");
    repository.remove(&segment);
    assert_eq!(
        lost(&site.pgbak("verify --quick --json").exits(3)),
        damaged,
        "missing or damaged is the same"
    );
    let outcome = site.pgbak("verify --quick").exits(3).stdout_has("cannot be restored: ");
    assert!(outcome.stdout.contains("+00:00 to "), "{outcome}");
    assert!(outcome.stdout.contains("`pgbak base-backup`"), "{outcome}");
}

#[test]
fn a_page_that_was_damaged_before_the_backup_is_named_with_its_relation_and_block() {
    let mut site = site!(tablespaces(1));
    site.cluster().sql(
        "CREATE TABLE t AS SELECT md5(id::text) FROM generate_series(1, 5000) AS id;
         CREATE TABLE u TABLESPACE space1 AS SELECT * FROM t; CHECKPOINT",
    );
    let files =
        ["t", "u"].map(|table| site.cluster().sql(&format!("SELECT pg_relation_filepath('{table}')")));
    site.cluster_mut().stop();
    for (file, block) in files.iter().zip([3, 5]) {
        let path = site.cluster().data.join(file);
        let mut bytes = fs::read(&path).unwrap();
        bytes[block * 8192 + 100] ^= 0xFF;
        fs::write(&path, bytes).unwrap();
    }
    site.cluster_mut().start();
    site.pgbak("base-backup").exits(3);

    site.pgbak("verify").exits(3).stdout_has("[pages-damaged]");
    let report = site.pgbak("verify --full --json").exits(3).json();
    let inside: Vec<_> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| finding["inside"].as_str().unwrap())
        .collect();
    let mut expected = [format!("{}, block 3", files[0]), format!("{}, block 5", files[1])];
    expected.sort_by_key(|place| !place.starts_with("pg_tblspc"));
    assert_eq!(inside, expected, "{report}");
    // It is known from now on, whoever looks.
    let outcome = site.pgbak("verify").exits(3).stdout_has("[known-damage]");
    assert!(outcome.stdout.contains("block 3"), "{outcome}");
}

#[test]
fn one_repository_that_is_away_is_a_finding_and_all_are_a_failure() {
    let site = site!(repositories(2));
    site.pgbak("base-backup").succeeds();
    let away = |repository: &Repository| fs::rename(&repository.path, site.fresh("away")).unwrap();
    away(&site.repositories()[0]);
    let outcome = site.pgbak("verify").exits(3).stdout_has("first: UNREADABLE");
    assert!(outcome.stdout.contains("[repository-unreadable]"), "{outcome}");
    away(&site.repositories()[1]);
    site.pgbak("verify").exits(1).refuses(&["first"], &["mounted"]);
}

#[test]
fn an_interrupted_run_is_not_done_again_from_the_beginning() {
    let pair = pair!(Shell);
    pair.site.pgbak("base-backup").succeeds();
    for _ in 0..20 {
        pair.archive_a_segment();
    }
    pair.site.pgbak("wal-sync").succeeds();
    let proven = || {
        let below = walkdir::WalkDir::new(pair.site.path("home")).into_iter().flatten();
        let mut memories = below.filter(|entry| entry.file_name() == "proofs-remote.jsonl");
        let memory = memories.next().map(|entry| fs::read_to_string(entry.path()).unwrap());
        memory.map_or(0, |memory| memory.lines().count().saturating_sub(1))
    };
    pair.proxy.throttle(400_000);
    let mut running = pair.site.call("verify --repository remote").start();
    wait_until("some objects to be proven", || {
        assert!(!running.has_ended(), "it ended: {}", running.stderr_so_far());
        proven() >= 3
    });
    running.signal(Signal::TERM);
    running.finish().exits(143);
    let kept = proven();
    pair.proxy.heal();
    let report = pair.site.pgbak("verify --repository remote --json").succeeds().json();
    let number = |field: &str| report["repositories"][0][field].as_u64().unwrap();
    assert_eq!(number("files_passed_over"), kept as u64, "{report}");
    assert!(number("files_read") > 0, "{report}");
}

// --- the drill ------------------------------------------------------------------------------------------------

/// A drill in a directory of the site.
fn drill(site: &Site) -> String {
    format!("verify --drill --drill-directory {}", site.path("drills").display())
}

fn assert_nothing_is_left(site: &Site) {
    let left: Vec<_> =
        fs::read_dir(site.path("drills")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left, [] as [PathBuf; 0]);
}

/// With a table in a tablespace, a backup, and a last transaction behind it.
fn site_to_drill(site: Site) -> Site {
    site.make_directory("drills");
    site.cluster().sql("CREATE TABLE u TABLESPACE space1 AS SELECT generate_series(1, 1000) AS id");
    site.pgbak("base-backup").succeeds();
    site.cluster().sql("INSERT INTO u VALUES (1001)");
    archive_a_segment(&site);
    site
}

#[test]
fn a_drill_replays_all_there_is_and_leaves_nothing() {
    let site = site_to_drill(site!(tablespaces(1)));
    let sql = site.write("check.sql", "SELECT 1 / (count(*) = 1001)::int FROM u;\nSELECT 'well';\n");
    let before = site.repository().files();
    let outcome = site.pgbak(&format!("{} --json --check-sql {}", drill(&site), sql.display())).succeeds();
    let report = outcome.json();
    let drilled = &report["drills"][0];
    assert_eq!(drilled["repository"], "first", "{outcome}");
    assert_eq!(drilled["backup"], site.repository().the_backup());
    assert!(
        drilled["restore_seconds"].as_f64().unwrap() > 0.0 && drilled["replay_seconds"].is_f64(),
        "{outcome}"
    );
    assert!(drilled["last_transaction_at"].is_string(), "{outcome}");
    let checks: Vec<_> = drilled["checks"].as_array().unwrap().iter().map(|check| &check["name"]).collect();
    assert_eq!(checks, ["pg_amcheck", sql.to_str().unwrap()], "{outcome}");
    assert_nothing_is_left(&site);
    assert_eq!(site.repository().files(), before, "a drill archives nothing");
    assert_eq!(site.cluster().sql("SELECT count(*) FROM u"), "1001", "the live tablespace is as it was");
    site.pgbak(&drill(&site)).succeeds().says("").stdout_has("pg_amcheck: passed");
}

#[test]
fn a_drill_whose_sql_fails_is_a_finding() {
    let site = site_to_drill(site!(tablespaces(1)));
    let sql = site.write("check.sql", "SELECT 1 / (count(*) = 7)::int FROM u");
    let outcome = site.pgbak(&format!("{} --check-sql {}", drill(&site), sql.display())).exits(3);
    assert!(
        outcome.stdout.contains("[check-sql]") && outcome.stdout.contains("division by zero"),
        "{outcome}"
    );
    assert_nothing_is_left(&site);
    site.pgbak(&format!("{} --check-sql /nowhere.sql", drill(&site))).exits(1).stderr_has("/nowhere.sql");
}

#[test]
fn a_drill_of_a_damaged_backup_is_a_finding_and_leaves_nothing() {
    let site = site_to_drill(site!(tablespaces(1)));
    let repository = site.repository();
    let base = repository.backup(&repository.the_backup()).join("base.tar.zst");
    repository.alter(&base, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });
    site.pgbak(&drill(&site)).exits(3).stdout_has("[not-restorable]");
    assert_nothing_is_left(&site);
}

#[test]
fn a_killed_drill_leaves_nothing_running_and_the_next_one_cleans_up() {
    let site = site_to_drill(site!(tablespaces(1)));
    let sql = site.write("check.sql", "SELECT pg_sleep(600)");
    for signal in [Signal::KILL, Signal::TERM] {
        let mut running = site.call(&format!("{} --check-sql {}", drill(&site), sql.display())).start();
        let server = process::wait_for("the drill's server", || {
            assert!(!running.has_ended(), "it ended: {}", running.stderr_so_far());
            let root = fs::read_dir(site.path("drills")).unwrap().next()?.unwrap().path();
            // This is made when recovery has ended.
            root.join("run/amcheck").exists().then_some(())?;
            let pid = fs::read_to_string(root.join("data/postmaster.pid")).ok()?;
            pid.lines().next()?.parse::<i32>().ok()
        });
        running.signal(signal);
        running.finish().exits(128 + signal.as_raw());
        wait_until("the drill's server to end", || !process::is_alive(server));
        if signal == Signal::KILL {
            assert_eq!(fs::read_dir(site.path("drills")).unwrap().count(), 1, "a killed run cannot clean up");
            site.pgbak(&drill(&site)).succeeds();
        }
        assert_nothing_is_left(&site);
    }
}

#[test]
fn a_drill_needs_room_and_the_right_programs() {
    let site = site_to_drill(site!(tablespaces(1)));
    let outcome = site.pgbak(&format!("{} --bin-directory /usr/bin", drill(&site))).exits(2);
    outcome.refuses(&["postgres"], &["--bin-directory"]);
    let Some(disk) = site.small_disk("16M") else { return };
    let outcome = site.pgbak(&format!("verify --drill --drill-directory {}", disk.path.display())).exits(1);
    outcome.refuses(&["free space"], &["--drill-directory"]);
    assert_nothing_is_left(&site);
}

#[test]
fn root_drills_as_the_server_s_user() {
    let site = site_to_drill(site!(tablespaces(1)));
    let Some(call) = site.call_as_root(&drill(&site)) else { return };
    let state = tempfile::tempdir().unwrap();
    call.env("PGBAK_STATE_DIRECTORY", state.path().to_str().unwrap()).run().succeeds();
    assert_nothing_is_left(&site);
}
