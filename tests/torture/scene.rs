//! What the campaigns are about: a cluster with committed rows whose WAL is archived by hand, so that nothing happens
//! by itself, and the laws that hold whatever dies.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{
    Account, Installation, Outcome, Pair, Repository, Site, SiteBuilder, Sshd, Workload, process, wait_until,
};
use chrono::DateTime;
use pgbak::catalog::WalArchive;
use pgbak::catalog::wal::StoredAs;
use pgbak::pg::{Lsn, SegmentSize, Timeline, WalFileName};

const SEGMENT_NAME_LENGTH: usize = 24;

/// What `prune` keeps.
pub const RETENTION: &str = "[retention]\nkeep_last = 1\n";

/// A [`Site`] with segments of 1 MiB and without archiving; where it cannot be had, the test ends here.
#[macro_export]
macro_rules! scene {
    ($($option:ident($($value:expr),*)),* $(,)?) => {{
        let site = $crate::support::Site::with()$(.$option($($value),*))*;
        let Some(site) = $crate::torture::scene::build(site) else { return };
        if !$crate::torture::strace::is_permitted(site.identity()) {
            return;
        }
        site
    }};
}

/// Such a site; `None`, with the test noted as skipped, where it cannot be had.
pub fn build(site: SiteBuilder) -> Option<Site> {
    let site = site.initdb("--wal-segsize=1").without_archiving().build()?;
    forget(&site);
    Some(site)
}

/// The same with a second repository, on this SSH server.
pub fn build_pair(sshd: Sshd) -> Option<Pair> {
    let site = Site::with().initdb("--wal-segsize=1").without_archiving();
    let pair = Pair::over(sshd, site.config(RETENTION))?;
    forget(&pair.site);
    Some(pair)
}

/// The digests are checked all the time; to verify each backup file by file would take too long.
fn forget(site: &Site) {
    site.repositories().iter().for_each(|repository| repository.forget());
}

/// Writers for a moment, with `meanwhile` in the middle of it.
pub fn committed(site: &Site, meanwhile: impl FnOnce()) -> Account {
    let workload = Workload::start(site.cluster());
    workload.wait_for_more(100);
    meanwhile();
    workload.wait_for_more(100);
    workload.finish(site.cluster())
}

/// Ends the segment in use; returns its name. It is not archived.
pub fn new_segment(site: &Site) -> String {
    write_wal(site);
    site.cluster().switch_wal()
}

/// Writes some WAL.
pub fn write_wal(site: &Site) {
    site.cluster().sql("SELECT pg_logical_emit_message(true, 'test', repeat(md5(random()::text), 500))");
}

/// The segments that the server has finished.
fn finished_segments(site: &Site) -> Vec<String> {
    let current = site.cluster().sql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    let entries = fs::read_dir(site.cluster().data.join("pg_wal")).unwrap().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.retain(|name| name.len() == SEGMENT_NAME_LENGTH && *name < current);
    names.sort();
    names
}

/// Archives everything that the server has written so far.
pub fn archive_all(site: &Site) {
    new_segment(site);
    let held: BTreeSet<String> = site.repository().archived().into_iter().collect();
    for name in finished_segments(site).iter().filter(|name| !held.contains(*name)) {
        site.pgbak(&push(site, name)).succeeds();
    }
}

/// What PostgreSQL would call for a segment.
pub fn push(site: &Site, name: &str) -> String {
    format!("wal-push {}", site.cluster().data.join("pg_wal").join(name).display())
}

/// Asserts that everything that a repository shows under its own name is whole.
#[track_caller]
pub fn assert_whole(site: &Site) {
    site.repositories().iter().for_each(|repository| assert_repository_whole(site, repository));
}

#[track_caller]
pub fn assert_repository_whole(site: &Site, repository: &Repository) {
    for name in repository.archived().iter().filter(|name| name.len() == SEGMENT_NAME_LENGTH) {
        assert_segment(site, repository, name);
    }
    for backup in repository.backups() {
        let mut sums = site.identity().command("sha256sum", "KILL");
        sums.args(["--check", "--strict", "--quiet", "SHA256SUMS"]);
        process::run(sums.current_dir(repository.backup(&backup)));
        for file in repository.record(&backup)["files"].as_array().expect("a list") {
            let stored = repository.backup(&backup).join(file["name"].as_str().expect("a name"));
            let size_bytes =
                fs::metadata(&stored).unwrap_or_else(|e| panic!("{}: {e}", stored.display())).len();
            assert_eq!(
                i64::try_from(size_bytes).ok(),
                file["size_bytes"].as_integer(),
                "{}",
                stored.display()
            );
        }
    }
}

/// Asserts that a segment is archived as the server wrote it.
#[track_caller]
pub fn assert_segment(site: &Site, repository: &Repository, name: &str) {
    let path = repository.wal_file(name).unwrap_or_else(|| panic!("{name} is not in {}", repository.name));
    let stored = zstd::decode_all(&fs::read(&path).unwrap()[..]);
    let stored = stored.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_same(site, name, &stored, &path);
}

/// Where the WAL ends that was streamed into a repository, without a gap since the newest backup; what is there of the
/// last segment is as the server wrote it.
#[track_caller]
pub fn streamed_up_to(site: &Site, repository: &Repository) -> Lsn {
    let size = SegmentSize::from_bytes(1 << 20).expect("1 MiB");
    let mut archive = WalArchive::new(size);
    for path in repository.files().iter().filter(|path| path.starts_with("wal-archive")) {
        let object = path.file_name().unwrap().to_str().unwrap();
        let Ok(name) = WalFileName::parse_stored(object.trim_end_matches(".zst")) else { continue };
        archive.add(&name, StoredAs { size_bytes: 1, stored_at: DateTime::UNIX_EPOCH });
        if let Some(part) = name.part() {
            // It may have been put together with others since it was listed.
            let Ok(stored) = fs::read(repository.path.join(path)) else { continue };
            let written =
                fs::read(site.cluster().data.join("pg_wal").join(&object[..SEGMENT_NAME_LENGTH])).unwrap();
            let range = usize::try_from(part.begin).unwrap()..usize::try_from(part.end).unwrap();
            assert!(
                zstd::decode_all(&stored[..]).unwrap() == written[range],
                "{object} is not what the server wrote"
            );
        }
    }
    assert_eq!(archive.gaps(Timeline::FIRST).next(), None);
    archive.end_of_timeline(Timeline::FIRST).expect("something was streamed").lsn
}

/// Asserts that `bytes`, found at `path`, are what the server wrote as this segment.
#[track_caller]
pub fn assert_same(site: &Site, name: &str, bytes: &[u8], path: &Path) {
    let written = fs::read(site.cluster().data.join("pg_wal").join(name)).expect("the server keeps its WAL");
    assert!(bytes == written, "{} is not what the server wrote", path.display());
}

/// Asserts that the newest backup and all WAL since give back exactly what was committed.
#[track_caller]
pub fn assert_restores(site: &Site, account: &Account) {
    archive_all(site);
    assert_each_restores(site, account);
}

#[track_caller]
pub fn assert_each_restores(site: &Site, account: &Account) {
    for repository in site.repositories() {
        let restored = site.restore(&format!("--repository {}", repository.name));
        account.assert_holds_exactly(&restored, &account.history.commits);
    }
}

/// Where the newest backup begins.
pub fn first_segment(repository: &Repository) -> String {
    let newest = repository.backups().pop().expect("there is a backup");
    repository.first_segment(&newest, SegmentSize::from_bytes(1 << 20).expect("1 MiB"))
}

/// Asserts that all WAL from the newest backup on is there, without a gap.
#[track_caller]
pub fn assert_newest_has_its_wal(repository: &Repository, last: &str) {
    let first = first_segment(repository);
    let held = repository.archived();
    assert!(held.contains(&first) && held.iter().any(|name| name == last), "{first}..{last} in {held:?}");
    let number = |name: &str| {
        u64::from_str_radix(&name[8..16], 16).unwrap() * 4096 + u64::from_str_radix(&name[16..], 16).unwrap()
    };
    let since = held.iter().filter(|name| **name >= first && name.len() == SEGMENT_NAME_LENGTH).count();
    assert_eq!(since as u64, number(last) - number(&first) + 1, "a gap between {first} and {last}");
}

/// The same after `wal-sync`, from each repository.
#[track_caller]
pub fn assert_restores_after_sync(site: &Site, account: &Account) {
    archive_all(site);
    site.pgbak("base-backup --copy-missing").succeeds();
    site.pgbak("wal-sync").succeeds();
    assert_whole(site);
    assert_restores(site, account);
}

/// Asserts that the second repository has all that the first one has since `oldest`, if a `wal-sync` says so, and that
/// what it has of the newest is right.
#[track_caller]
pub fn assert_synced(site: &Site, oldest: &str, outcome: &Outcome) {
    let [first, second] = site.repositories() else { panic!("two repositories") };
    let [newest, held] = [first, second].map(|repository| {
        let mut names = repository.archived();
        names.retain(|name| name.as_str() >= oldest);
        names
    });
    for name in newest.iter().rev().take(6).filter(|name| held.contains(name)) {
        assert_segment(site, second, name);
    }
    assert!(outcome.code != 0 || held == newest, "{held:?} instead of {newest:?}\n{outcome}");
}

/// A repository with three backups of which one is to be kept, to be put back as often as one likes.
pub struct Store<'a> {
    site: &'a Site,
    repository: &'a Repository,
    stored: PathBuf,
    newest: String,
    last: String,
}

impl<'a> Store<'a> {
    pub fn with_garbage(site: &'a Site, repository: &'a Repository) -> Self {
        for _ in 0..2 {
            (0..4).for_each(|_| drop(new_segment(site)));
            archive_all(site);
            site.pgbak("base-backup").succeeds();
        }
        archive_all(site);
        if repository.name != site.repository().name {
            site.pgbak("wal-sync").succeeds();
        }
        let stored = site.fresh("stored");
        copy(&repository.path, &stored);
        let (newest, last) = (repository.backups().pop().unwrap(), repository.archived().pop().unwrap());
        Self { site, repository, stored, newest, last }
    }

    pub fn put_back(&self) {
        fs::remove_dir_all(&self.repository.path).unwrap();
        copy(&self.stored, &self.repository.path);
    }

    /// Asserts that all that the policy keeps is there, and the rest is not if a prune says so.
    #[track_caller]
    pub fn assert_kept(&self, outcome: &Outcome) {
        assert_whole(self.site);
        assert_eq!(self.repository.backups().last(), Some(&self.newest), "{outcome}");
        assert_newest_has_its_wal(self.repository, &self.last);
        if outcome.code == 0 {
            // An empty directory may stay: the next deletion in it, or the next day, takes it away.
            let stored = self.repository.files();
            let mut left = stored.iter().filter(|file| file.starts_with("base-backups"));
            let newest = Path::new("base-backups").join(&self.newest);
            assert!(left.all(|file| file.starts_with(&newest)), "{stored:?}\n{outcome}");
        }
    }
}

/// Asserts that what could be started is whole, and that it could be if a restore says so.
#[track_caller]
pub fn assert_restored(site: &Site, directory: &Path, outcome: &Outcome) {
    let could_start = directory.join("global/pg_control").exists();
    assert!(could_start || outcome.code != 0, "{outcome}");
    if !could_start || Installation::find().is_none_or(|installation| installation.major < 14) {
        return;
    }
    let mut verify = site.cluster().client("pg_verifybackup");
    verify.args(["--exit-on-error", "--no-parse-wal"]);
    // What restore writes itself.
    let own = ["postgresql.auto.conf", "recovery.signal", "pgbak_restore_in_progress"];
    verify.args(own.map(|name| format!("--ignore={name}")));
    process::run(verify.arg(directory));
}

/// One segment after the other, fetched as PostgreSQL would.
pub struct Fetches {
    names: Vec<String>,
    next: Cell<usize>,
    destination: PathBuf,
}

impl Fetches {
    pub fn of(site: &Site, repository: &Repository) -> Self {
        let destination = site.path("home/RECOVERYXLOG");
        Self { names: repository.archived(), next: Cell::new(0), destination }
    }

    /// What to fetch now, and to where.
    pub fn next(&self, site: &Site) -> String {
        // Nothing is fetched ahead yet, so that there is as much to do as in the first run.
        wait_until("the background to be quiet", || process::running_from(&site.path("bin")).is_empty());
        let _ = fs::remove_dir_all(site.path("home/.local/state/pgbak/fetched-ahead"));
        let _ = fs::remove_file(&self.destination);
        self.next.set((self.next.get() + 1) % self.names.len());
        format!("{} {}", self.names[self.next.get()], self.destination.display())
    }

    /// Asserts that what there is to be seen for PostgreSQL is right, and that there is something if success was said.
    #[track_caller]
    pub fn assert_right(&self, site: &Site, outcome: &Outcome) {
        let name = outcome.arguments.split(' ').rev().nth(1).unwrap();
        match fs::read(&self.destination) {
            Ok(bytes) => assert_same(site, name, &bytes, &self.destination),
            Err(_) => assert_ne!(outcome.code, 0, "{outcome}"),
        }
        let beside = fs::read_dir(self.destination.parent().unwrap()).unwrap();
        let names: Vec<_> = beside.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert!(!names.iter().any(|name| name.starts_with("RECOVERYXLOG.")), "{names:?} is left\n{outcome}");
    }
}

fn copy(from: &Path, to: &Path) {
    process::run(Command::new("cp").arg("-a").arg(from).arg(to));
}
