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
         CREATE TABLE u TABLESPACE space1 AS SELECT * FROM t; CREATE INDEX ON u (id); VACUUM; CHECKPOINT",
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
];

#[test]
fn whatever_is_done_to_an_object_is_found_and_the_rest_can_be_restored() {
    let mut site = site!(tablespaces(1), initdb("--wal-segsize=1"));
    let objects = Objects::make(&mut site);
    let mut wrong = Vec::new();
    for name in ["base.tar.zst", "tablespace", "pg_wal.tar.zst", "backup_manifest", "SHA256SUMS", "backup_info.toml", "RESTORE.md", "segment", "history", "lease"] {
        for mutilation in [Deleted, Truncated, Flipped, Replaced, Emptied, Unreadable] {
            let path = objects.path(&site, name);
            let before = fs::read(&path).ok();
            objects.mutilate(&site, &path, mutilation);
            let seen = ["--quick", "", "--full"].map(|depth| objects.seen(&site, depth));
            let restored = objects.restored(&site, name);
            eprintln!("(\"{name}\", {mutilation:?}, {seen:?}, {restored:?}),");
            objects.mend(&site, &path, before);
            let _ = &mut wrong as &mut Vec<String>;
        }
    }
    site.repository().forget();
}

/// The objects of one repository, one of each kind.
struct Objects {
    /// The backup that is mutilated, and a later one.
    backups: [String; 2],
    /// Archived between the two.
    segments: [String; 2],
}

impl Objects {
    fn make(site: &mut Site) -> Self {
        site.cluster().sql("CREATE TABLE t TABLESPACE space1 AS SELECT generate_series(1, 1000) AS id");
        site.pgbak("base-backup").succeeds();
        let segments = [(); 2].map(|()| archive_a_segment(site));
        promote(site);
        site.pgbak("base-backup").succeeds();
        archive_a_segment(site);
        let backups = site.repository().backups().try_into().expect("two backups");
        let objects = Self { backups, segments };
        let lease = objects.path(site, "lease");
        fs::write(&lease, "host = \"elsewhere\"\n").unwrap();
        site.identity().own_path(&lease);
        site.pgbak("verify --full").succeeds();
        objects
    }

    fn path(&self, site: &Site, name: &str) -> PathBuf {
        self.path_of(site.repository(), name, 0)
    }

    /// Of the backup or segment with this number.
    fn path_of(&self, repository: &Repository, name: &str, number: usize) -> PathBuf {
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
            Truncated => write(&bytes[..bytes.len() * 2 / 3]),
            Flipped => {
                let mut bytes = bytes;
                let middle = bytes.len() / 2;
                bytes[middle] ^= 4;
                write(&bytes);
            }
            Replaced => write(&fs::read(self.sibling(site, path)).unwrap()),
            Emptied => write(b""),
            Unreadable => fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap(),
        }
    }

    /// An object of the same kind, as far as there is another.
    fn sibling(&self, site: &Site, path: &Path) -> PathBuf {
        let kinds = [
            "base.tar.zst", "tablespace", "pg_wal.tar.zst", "backup_manifest", "SHA256SUMS", "backup_info.toml", "segment",
        ];
        let kind = kinds.iter().find(|kind| self.path(site, kind) == path);
        kind.map_or_else(|| self.path(site, "backup_manifest"), |kind| self.path_of(site.repository(), kind, 1))
    }

    fn mend(&self, site: &Site, path: &Path, before: Option<Vec<u8>>) {
        let _ = fs::remove_file(path);
        if let Some(bytes) = before {
            fs::write(path, bytes).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
            site.identity().own_path(path);
        }
    }

    /// The findings, or the note in parentheses, each once.
    fn seen(&self, site: &Site, depth: &str) -> String {
        let outcome = site.pgbak(&format!("verify --json {depth}"));
        if outcome.code == 1 {
            return "fails".to_owned();
        }
        let mut seen = codes(&outcome, "findings");
        assert_eq!(outcome.code, if seen.is_empty() { 0 } else { 3 }, "{outcome}");
        seen.extend(codes(&outcome, "notes").iter().map(|note| format!("({note})")));
        seen.retain(|code| code != "(lease-left)");
        seen.dedup();
        seen.join(" ")
    }

    fn restored(&self, site: &Site, name: &str) -> Restore {
        let restores = |backup: &str| {
            let directory = site.fresh("restored");
            let mapping = format!(
                "--tablespace-mapping '{}={}'", site.path("space1").display(), directory.with_extension("space").display());
            let arguments = format!("restore --backup {backup} --target-immediate -D {} {mapping}", directory.display());
            let outcome = site.pgbak(&arguments);
            let _ = fs::remove_dir_all(&directory);
            let _ = fs::remove_dir_all(directory.with_extension("space"));
            outcome.code == 0
        };
        let fetches = |wal: &str| {
            let to = site.fresh("fetched");
            site.pgbak(&format!("wal-fetch {wal} {}", to.display())).code == 0
        };
        if !restores(&self.backups[1]) {
            return AllRefused;
        }
        let works = match name {
            "segment" => fetches(&self.segments[0]),
            "history" => fetches("00000002.history"),
            _ => restores(&self.backups[0]),
        };
        if works { Works } else { Refused }
    }
}
