//! What a local repository holds, seen with a file manager's eyes and restored with a file manager's hands.
//!
//! Nothing here uses pgbak: `tar`, `zstd`, `sha256sum`, `pg_verifybackup` and the layout of RESTORE.md must do.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use walkdir::WalkDir;

use super::{Identity, Installation, process};
use pgbak::digest_line::{self, Checked};
use pgbak::pg::{Lsn, SegmentSize, WalFileName};

/// The suffixes of compressed files, and what makes `tar` read them.
const CODECS: [(&str, &[&str]); 4] =
    [(".zst", &["--zstd"]), (".gz", &["--gzip"]), (".lz4", &["--use-compress-program=lz4"]), ("", &[])];

pub struct Repository {
    pub name: String,
    pub path: PathBuf,
    identity: Identity,
    /// Set when a test has damaged it on purpose.
    altered: AtomicBool,
}

impl Repository {
    pub fn new(name: &str, path: &Path, identity: &Identity) -> Self {
        let altered = AtomicBool::new(false);
        Self { name: name.to_owned(), path: path.to_owned(), identity: identity.clone(), altered }
    }

    /// The backups that exist: those with a record, oldest first.
    pub fn backups(&self) -> Vec<String> {
        let mut backups = self.directories_of_backups();
        backups.retain(|name| self.backup(name).join("backup_info.toml").exists());
        backups
    }

    /// The name of the one backup there is.
    pub fn the_backup(&self) -> String {
        let backups = self.backups();
        let [name] = &backups[..] else { panic!("not one backup but {backups:?}") };
        name.clone()
    }

    /// Whole backups, unfinished ones and leftovers.
    pub fn directories_of_backups(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path.join("base-backups")).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    pub fn backup(&self, name: &str) -> PathBuf {
        self.path.join("base-backups").join(name)
    }

    /// pgbak's record of a backup.
    pub fn record(&self, backup: &str) -> toml::Table {
        let path = self.backup(backup).join("backup_info.toml");
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        text.parse().unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// The segment that a backup starts in.
    pub fn first_segment(&self, backup: &str, size: SegmentSize) -> String {
        let record = self.record(backup);
        let start: Lsn = record["start_lsn"].as_str().expect("a text").parse().expect("an LSN");
        let timeline = record["timeline"].as_integer().expect("a number");
        let number = start.0 / size.bytes();
        let per_log = (1 << 32) / size.bytes();
        format!("{timeline:08X}{:08X}{:08X}", number / per_log, number % per_log)
    }

    /// The names of all archived WAL files, without the codec's suffix, in order.
    pub fn archived(&self) -> Vec<String> {
        let mut names: Vec<String> = self.wal_objects().map(|path| wal_name(&path)).collect();
        names.sort();
        names
    }

    pub fn holds(&self, wal_name: &str) -> bool {
        self.wal_file(wal_name).is_some()
    }

    /// Where a WAL file is stored; `None` when it is not.
    pub fn wal_file(&self, name: &str) -> Option<PathBuf> {
        self.wal_objects().find(|path| wal_name(path) == name)
    }

    /// A WAL file's content, read with the codec's own program.
    pub fn wal_content(&self, name: &str) -> Vec<u8> {
        let path = self.wal_file(name).unwrap_or_else(|| panic!("{name} is not archived"));
        let decoder = match path.extension().and_then(|suffix| suffix.to_str()) {
            Some("zst") => "zstd",
            Some("gz") => "gzip",
            Some("lz4") => "lz4",
            _ => {
                let stored = fs::read(&path).expect("an archived file is readable");
                return match digest_line::check(&stored) {
                    Checked::Whole(lines) => lines.to_vec(),
                    _ => stored,
                };
            }
        };
        let output = self.identity.command(decoder, "KILL").arg("-dc").arg(&path).output();
        let output = output.expect("the decoder is installed");
        assert!(output.status.success(), "{decoder} -dc {}", path.display());
        output.stdout
    }

    fn wal_objects(&self) -> impl Iterator<Item = PathBuf> {
        // An unfinished upload has a name that is no WAL file's.
        let is_object = |path: &PathBuf| WalFileName::parse(&wal_name(path)).is_ok();
        files_below(&self.path.join("wal-archive")).into_iter().filter(is_object)
    }

    /// Every file, relative to the repository, in order.
    pub fn files(&self) -> Vec<PathBuf> {
        let relative = |path: &Path| path.strip_prefix(&self.path).expect("found below it").to_owned();
        let mut files: Vec<PathBuf> = files_below(&self.path).iter().map(|path| relative(path)).collect();
        files.sort();
        files
    }

    /// What this repository holds is not proven when the test ends.
    pub fn forget(&self) {
        self.altered.store(true, Ordering::Relaxed);
    }

    /// Damages a stored file in place. What this repository holds is not proven when the test ends.
    pub fn alter(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        self.altered.store(true, Ordering::Relaxed);
        let path = self.path.join(path);
        let mut bytes = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        change(&mut bytes);
        fs::write(&path, bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }

    /// Removes a stored file behind pgbak's back.
    pub fn remove(&self, path: &Path) {
        self.altered.store(true, Ordering::Relaxed);
        fs::remove_file(self.path.join(path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }

    /// Restores a backup by hand into `directory`, as RESTORE.md says, with tablespaces beside it.
    pub fn restore_by_hand(&self, backup: &str, directory: &Path) {
        let stored = self.backup(backup);
        let mkdir = |path: &Path| {
            let mut mkdir = self.identity.command("mkdir", "KILL");
            process::run(mkdir.args(["--parents", "--mode=0700"]).arg(path));
        };
        mkdir(directory);
        for file in files_below(&stored) {
            let name = file.file_name().expect("a file has a name").to_string_lossy().into_owned();
            let Some((archive, tar_options)) = archive_of(&name) else { continue };
            let target = match archive {
                "base" => directory.to_owned(),
                "pg_wal" => directory.join("pg_wal"),
                tablespace => PathBuf::from(format!("{}.{tablespace}", directory.display())),
            };
            mkdir(&target);
            let mut tar = self.identity.command("tar", "KILL");
            tar.args(tar_options).arg("--extract").arg("--file").arg(&file).arg("--directory").arg(&target);
            process::run(&mut tar);
        }
        fs::copy(stored.join("backup_manifest"), directory.join("backup_manifest"))
            .expect("the manifest is stored");
        self.identity.own_path(&directory.join("backup_manifest"));
        self.link_tablespaces(directory);
    }

    fn link_tablespaces(&self, directory: &Path) {
        let map = fs::read_to_string(directory.join("tablespace_map")).unwrap_or_default();
        for (tablespace, _) in map.lines().filter_map(|line| line.split_once(' ')) {
            let beside = format!("{}.{tablespace}", directory.display());
            symlink(&beside, directory.join("pg_tblspc").join(tablespace)).expect("pg_tblspc is empty");
        }
    }

    /// Points the map of a backup that was restored by hand at the tablespaces beside it, so that it can start.
    pub fn remap_tablespaces(directory: &Path) {
        let path = directory.join("tablespace_map");
        let Ok(map) = fs::read_to_string(&path) else { return };
        let beside = |line: &str| {
            let (tablespace, _) = line.split_once(' ').expect("an identifier and a location");
            format!("{tablespace} {}.{tablespace}\n", directory.display())
        };
        fs::write(&path, map.lines().map(beside).collect::<String>()).expect("the map is writable");
    }

    /// Proves that a backup is whole without pgbak: `sha256sum -c`, extraction, `pg_verifybackup`.
    pub fn prove(&self, backup: &str, scratch: &Path) {
        let mut sums = self.identity.command("sha256sum", "KILL");
        process::run(sums.args(["--check", "--strict", "SHA256SUMS"]).current_dir(self.backup(backup)));
        let directory = scratch.join(format!("by-hand-{}-{backup}", self.name));
        self.restore_by_hand(backup, &directory);
        let installation = Installation::find().expect("a backup is made only where PostgreSQL is");
        let program = installation.program("pg_verifybackup");
        // The binaries of 13 that there are for tests come without it; a backup of 13 is not for another version's.
        if program.exists() || installation.major > 13 {
            let mut verify = self.identity.command(program, "KILL");
            verify.current_dir(scratch);
            process::run(verify.arg("--exit-on-error").arg(&directory));
        }
        fs::remove_dir_all(&directory).expect("it was just made");
    }

    /// Proves every backup that no test has damaged on purpose.
    pub fn prove_all(&self, scratch: &Path) {
        if !self.altered.load(Ordering::Relaxed) {
            self.backups().iter().for_each(|backup| self.prove(backup, scratch));
        }
    }
}

/// `16401.tar.zst` holds the archive `16401`, for `tar --zstd`.
fn archive_of(file_name: &str) -> Option<(&str, &'static [&'static str])> {
    CODECS.iter().find_map(|(suffix, options)| {
        let name = file_name.strip_suffix(suffix)?.strip_suffix(".tar")?;
        Some((name, *options))
    })
}

fn wal_name(path: &Path) -> String {
    let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
    let (suffix, _) = CODECS.iter().find(|(suffix, _)| name.ends_with(suffix)).expect("the last is empty");
    name[..name.len() - suffix.len()].to_owned()
}

pub fn files_below(directory: &Path) -> Vec<PathBuf> {
    // What vanishes while we look was temporary.
    let entries = WalkDir::new(directory).into_iter().flatten();
    entries.filter(|entry| entry.file_type().is_file()).map(|entry| entry.into_path()).collect()
}
