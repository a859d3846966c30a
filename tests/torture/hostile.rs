//! A repository that somebody else has written: every digest, size and checksum in it is right, and what they vouch for
//! is hostile. `restore` must refuse it, write nothing outside of its target, and stop before it fills the disk.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use pgbak::catalog::BackupInfo;
use pgbak::pipe::Codec;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use sha2::{Digest, Sha256};
use walkdir::WalkDir;

use super::corpus;
use crate::site;
use crate::support::{Outcome, Site, process, wait_until};

/// No file of the small cluster is nearly as large, nor is what a run may take of memory.
const FILE_BYTES_MAX: u64 = 256 << 20;
const ADDRESS_BYTES_MAX: u64 = 3 << 30;

/// Reading a bomb to its end would take longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the bombs unpack to.
const BOMB_BYTES: u64 = 1 << 40;

/// A backup that is rewritten, with all that vouches for it.
struct Forgery<'a> {
    site: &'a Site,
    directory: PathBuf,
    info: BackupInfo,
    manifest: Vec<u8>,
}

type Case = (&'static str, fn(&mut Forgery<'_>));

/// Each must be refused.
const CASES: &[Case] = &[
    ("a file above the target", |forgery| forgery.file("base.tar.zst", "../escape")),
    ("a file above the target, by a detour", |forgery| forgery.file("base.tar.zst", "base/../../escape")),
    ("a file above the target, from the directory itself", |forgery| {
        forgery.file("base.tar.zst", "./../escape")
    }),
    ("a file at an absolute path", |forgery| {
        let path = forgery.outside("escape");
        forgery.file("base.tar.zst", &path);
    }),
    ("a file above a tablespace", |forgery| {
        let archive = forgery.tablespace();
        forgery.file(&archive, "../escape");
    }),
    ("a tablespace's file at an absolute path", |forgery| {
        let (archive, path) = (forgery.tablespace(), forgery.outside("escape"));
        forgery.file(&archive, &path);
    }),
    ("a file of a tablespace that there is not", |forgery| {
        forgery.file("base.tar.zst", "pg_tblspc/1/escape")
    }),
    ("WAL above the target", |forgery| forgery.file("pg_wal.tar.zst", "../../escape")),
    ("WAL of a name that is a detour", |forgery| {
        forgery.file("pg_wal.tar.zst", "archive_status/../../../escape.done");
    }),
    ("a file that the manifest does not name", |forgery| {
        forgery.entry("base.tar.zst", &header_of("base/1/stranger", b'0', 4, ""), b"text");
    }),
    ("a manifest that names a file above", |forgery| {
        forgery.promise("../escape", 4, b"text");
    }),
    ("a manifest that names a file at an absolute path", |forgery| {
        let path = forgery.outside("escape");
        forgery.promise(&path, 4, b"text");
    }),
    ("a directory above the target", |forgery| {
        forgery.entry("base.tar.zst", &header_of("../escape/", b'5', 0, ""), b"");
    }),
    ("a directory at an absolute path", |forgery| {
        let path = forgery.outside("escape/");
        forgery.entry("base.tar.zst", &header_of(&path, b'5', 0, ""), b"");
    }),
    ("a directory that another's becomes", |forgery| {
        let path = forgery.outside("");
        forgery.entry("base.tar.zst", &header_of(&path, b'5', 0, ""), b"");
    }),
    ("a file by way of a symbolic link", |forgery| {
        let outside = forgery.outside("");
        forgery.entry("base.tar.zst", &header_of("base/link", b'2', 0, &outside), b"");
        forgery.file("base.tar.zst", "base/link/escape");
    }),
    ("a file by way of a link that is no tablespace's", |forgery| {
        let outside = forgery.outside("");
        forgery.entry("base.tar.zst", &header_of("pg_tblspc/link", b'2', 0, &outside), b"");
        forgery.file("base.tar.zst", "pg_tblspc/link/escape");
    }),
    ("a directory by way of a tablespace's link", |forgery| {
        let outside = forgery.outside("");
        forgery.entry("base.tar.zst", &header_of("pg_tblspc/7", b'2', 0, &outside), b"");
        forgery.entry("base.tar.zst", &header_of("pg_tblspc/7/escape/", b'5', 0, ""), b"");
    }),
    ("a hard link", |forgery| {
        let canary = forgery.outside("canary");
        forgery.entry("base.tar.zst", &header_of("base/hard", b'1', 0, &canary), b"");
    }),
    ("a device", |forgery| forgery.entry("base.tar.zst", &header_of("base/device", b'3', 0, ""), b"")),
    ("a disk", |forgery| forgery.entry("base.tar.zst", &header_of("base/disk", b'4', 0, ""), b"")),
    ("a named pipe", |forgery| forgery.entry("base.tar.zst", &header_of("base/pipe", b'6', 0, ""), b"")),
    ("a long name of GNU tar", |forgery| {
        forgery.entry("base.tar.zst", &header_of("././@LongLink", b'L', 10, ""), b"../escape\0");
    }),
    ("an extended header of pax", |forgery| {
        forgery.entry("base.tar.zst", &header_of("x", b'x', 18, ""), b"18 path=../escape\n");
    }),
    ("a tablespace in the system's directory", |forgery| {
        forgery.info.tablespaces[0].location = "/etc".to_owned();
    }),
    ("a tablespace in the root", |forgery| forgery.info.tablespaces[0].location = "/".to_owned()),
    ("a record that names a file above", |forgery| forgery.info.files[0].name = "../escape".to_owned()),
    // Bombs: little that is stored, and a terabyte that it stands for.
    ("a bomb that the manifest does not name", |forgery| {
        forgery.bomb("base.tar.zst", "base/1/bomb", BOMB_BYTES);
    }),
    ("a bomb that the manifest says is small", |forgery| {
        forgery.promise("base/1/bomb", 8192, &[0; 8192]);
        forgery.bomb("base.tar.zst", "base/1/bomb", BOMB_BYTES);
    }),
    ("a bomb behind a file's header that says it is small", |forgery| {
        forgery.promise("base/1/bomb", 8192, &[0; 8192]);
        forgery.bomb("base.tar.zst", "base/1/bomb", 8192);
    }),
    ("a bomb that is a segment", |forgery| {
        let segment = forgery.first_segment();
        forgery.bomb("pg_wal.tar.zst", &segment, BOMB_BYTES);
    }),
    ("a bomb behind a segment's size", |forgery| {
        let segment = forgery.first_segment();
        forgery.bomb("pg_wal.tar.zst", &segment, 1 << 20);
    }),
    ("a bomb that is a segment's status", |forgery| {
        forgery.bomb("pg_wal.tar.zst", "archive_status/000000010000000000000001.done", BOMB_BYTES);
    }),
    ("a bomb behind the end of an archive", |forgery| {
        let whole = fs::read(forgery.directory.join("base.tar.zst")).unwrap();
        forgery.store("base.tar.zst", &[whole, frame_of_zeros(BOMB_BYTES)].concat());
    }),
    ("segments without end", |forgery| forgery.endless_segments()),
    // Numbers.
    ("a file of more bytes than there are", |forgery| forgery.promise("base/1/huge", u64::MAX, b"")),
    ("a manifest that nests", |forgery| {
        let nested =
            [b"{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": ", "[".repeat(1 << 20).as_bytes()]
                .concat();
        forgery.manifest = nested;
    }),
    ("a record of a size that no backup has", |forgery| forgery.info.label = "x".repeat(17 << 20)),
];

#[test]
fn a_hostile_repository_is_refused_and_writes_nothing_outside_of_the_target() {
    let site = site!(tablespaces(1), initdb("--wal-segsize=1"), in_memory());
    site.cluster().sql("CREATE TABLE t TABLESPACE space1 AS SELECT 1 AS id");
    site.pgbak("base-backup").succeeds();
    let begun = Instant::now();
    let arena = Arena::make(&site);
    // What is only rewritten is as good as before.
    Forgery::with(&site, |forgery| forgery.file("base.tar.zst", "base/1/promised"));
    arena.restore(&site).succeeds();
    arena.clear();
    for (what, forge) in CASES {
        let before = arena.others();
        let started = Instant::now();
        let outcome = Forgery::with_case(&site, *forge, || arena.restore(&site));
        eprintln!(
            "hostile: {what}: {:.1?}, {}",
            started.elapsed(),
            outcome.stderr.lines().next().unwrap_or_default()
        );
        // A location that is not the one to map is a mistake of usage.
        assert!([1, 2].contains(&outcome.code), "{what}\n{outcome}");
        assert_eq!(arena.others(), before, "{what}\n{outcome}");
        assert!(
            !arena.target.join("global/pg_control").exists(),
            "{what}: what is refused must not start\n{outcome}"
        );
        assert!(outcome.duration < PATIENCE, "{what}\n{outcome}");
        assert!(!outcome.stderr.contains("internal error"), "{what}\n{outcome}");
        arena.clear();
    }
    site.repository().forget();
    eprintln!("hostile: {} repositories in {:.1?}", CASES.len(), begun.elapsed());
}

#[test]
fn a_hostile_segment_does_not_fill_the_disk() {
    let site = site!(initdb("--wal-segsize=1"));
    site.pgbak("base-backup").succeeds();
    let segment = site.cluster().switch_wal();
    wait_until("the segment to be archived", || site.repository().holds(&segment));
    let path = site.repository().wal_file(&segment).unwrap();
    let zeros = frame_of_zeros(BOMB_BYTES);
    for bomb in [zeros.clone(), [fs::read(&path).unwrap(), zeros].concat()] {
        site.repository().alter(&path, |bytes| *bytes = bomb);
        let to = site.fresh("fetched");
        let outcome = limited(site.call(&format!("wal-fetch {segment} {}", to.display())).start());
        assert_eq!(outcome.code, 200, "{outcome}");
        assert!(outcome.duration < PATIENCE, "{outcome}");
        assert!(!to.exists());
        let outcome = limited(site.call("verify --json").start());
        assert!(outcome.exits(3).duration < PATIENCE);
    }
}

/// Where it is restored to, and what lies beside.
struct Arena {
    root: PathBuf,
    target: PathBuf,
    space: PathBuf,
}

impl Arena {
    fn make(site: &Site) -> Self {
        let root = site.make_directory("arena");
        site.make_directory("arena/outside");
        site.write("arena/outside/canary", "untouched");
        let (target, space) = (root.join("target"), root.join("space"));
        Self { root, target, space }
    }

    fn restore(&self, site: &Site) -> Outcome {
        let location = site.path("space1");
        limited(
            site.call(&format!(
                "restore --target-immediate -D {} --tablespace-mapping '{}={}'",
                self.target.display(),
                location.display(),
                self.space.display()
            ))
            .start(),
        )
    }

    /// Everything but what a restore is for.
    fn others(&self) -> Vec<(PathBuf, String)> {
        let entries = WalkDir::new(self.root.parent().unwrap()).sort_by_file_name().into_iter();
        let entries = entries.filter_entry(|entry| {
            let own = [&self.target, &self.space].iter().any(|own| entry.path() == own.as_path());
            // The server and pgbak themselves go on writing there.
            let name = entry.file_name().to_string_lossy();
            let is_busy = entry.depth() == 1 && ["home", "data", "repositories", "sockets"].contains(&&*name);
            !own && !is_busy && name != "server.log"
        });
        let entry = |entry: walkdir::DirEntry| {
            let metadata = entry.metadata().unwrap();
            let look = format!("{:?} {:?} {}", metadata.permissions(), metadata.file_type(), metadata.len());
            (entry.into_path(), look)
        };
        entries.map(|found| entry(found.unwrap())).filter(|(path, _)| path != &self.root).collect()
    }

    fn clear(&self) {
        for place in [&self.target, &self.space] {
            let _ = fs::remove_dir_all(place);
        }
    }
}

/// Runs with bounds on what it may write and allocate.
fn limited(running: crate::support::Running) -> Outcome {
    let pid = Pid::from_raw(i32::try_from(running.process_id()).unwrap()).unwrap();
    for (resource, bytes) in [(Resource::Fsize, FILE_BYTES_MAX), (Resource::As, ADDRESS_BYTES_MAX)] {
        // It may have ended already.
        let _ = prlimit(Some(pid), resource, Rlimit { current: Some(bytes), maximum: Some(bytes) });
    }
    running.finish()
}

impl<'a> Forgery<'a> {
    /// Rewrites the one backup of the site's repository.
    fn with(site: &'a Site, forge: impl FnOnce(&mut Self)) {
        let repository = site.repository();
        repository.forget();
        let name = repository.the_backup();
        let directory = repository.backup(&name);
        let text = fs::read_to_string(directory.join("backup_info.toml")).unwrap();
        let info = BackupInfo::from_toml(text.as_bytes(), name.parse().unwrap()).unwrap();
        let manifest = fs::read(directory.join("backup_manifest")).unwrap();
        let mut forgery = Self { site, directory, info, manifest };
        forge(&mut forgery);
        forgery.vouch();
    }

    /// The same for as long as `meanwhile` takes.
    fn with_case<T>(site: &'a Site, forge: fn(&mut Self), meanwhile: impl FnOnce() -> T) -> T {
        let directory = site.repository().backup(&site.repository().the_backup());
        let kept = site.fresh("kept");
        process::run(Command::new("cp").arg("-a").arg(&directory).arg(&kept));
        Self::with(site, forge);
        let result = meanwhile();
        fs::remove_dir_all(&directory).unwrap();
        fs::rename(&kept, &directory).unwrap();
        result
    }

    /// A path beside the target.
    fn outside(&self, name: &str) -> String {
        self.site.path("arena/outside").join(name).display().to_string()
    }

    fn first_segment(&self) -> String {
        self.site.repository().first_segment(&self.info.name.to_string(), self.info.wal_segment_size)
    }

    fn tablespace(&self) -> String {
        format!("{}.tar.zst", self.info.tablespaces[0].oid)
    }

    /// Adds a file that the manifest promises, to an archive.
    fn file(&mut self, archive: &str, path: &str) {
        let content = b"escaped";
        let promised = match archive {
            "base.tar.zst" | "pg_wal.tar.zst" => path.to_owned(),
            _ => format!("pg_tblspc/{}/{path}", self.info.tablespaces[0].oid),
        };
        // A manifest with such a path is refused as a whole, which is another case.
        let is_plain =
            Path::new(&promised).components().all(|c| matches!(c, std::path::Component::Normal(_)));
        if is_plain && archive != "pg_wal.tar.zst" {
            self.promise(&promised, content.len() as u64, content);
        }
        self.entry(archive, &header_of(path, b'0', content.len() as u64, ""), content);
    }

    /// Puts an entry at the beginning of an archive.
    fn entry(&mut self, archive: &str, header: &[u8; 512], content: &[u8]) {
        let padding = vec![0; content.len().next_multiple_of(512) - content.len()];
        let directories = match archive {
            "base.tar.zst" => ["base/", "base/1/"].map(|path| header_of(path, b'5', 0, "")).concat(),
            _ => Vec::new(),
        };
        let whole = [&directories, &header[..], content, &padding, &self.unpacked(archive)].concat();
        self.store(archive, &corpus::archived(Codec::Zstd, &whole));
    }

    /// The same with a content of a terabyte of zeros, whatever its header says, and then the rest.
    fn bomb(&mut self, archive: &str, path: &str, says_bytes: u64) {
        let directory = ["base/", "base/1/"].map(|path| header_of(path, b'5', 0, "")).concat();
        let directory = if archive == "base.tar.zst" { &directory[..] } else { &[] };
        let front = [directory, &header_of(path, b'0', says_bytes, "")].concat();
        let front = corpus::archived(Codec::Zstd, &front);
        let rest = fs::read(self.directory.join(archive)).unwrap();
        self.store(archive, &[front, frame_of_zeros(BOMB_BYTES), rest].concat());
    }

    /// Ever more WAL, each segment of the right size.
    fn endless_segments(&mut self) {
        let mut archive = Vec::new();
        let zeros = frame_of_zeros(1 << 20);
        for number in 1..2048 {
            let name = format!("{:08X}{:08X}{:08X}", 1, number / 4096, number % 4096);
            archive.extend(corpus::archived(Codec::Zstd, &header_of(&name, b'0', 1 << 20, "")));
            archive.extend(&zeros);
        }
        archive.extend(fs::read(self.directory.join("pg_wal.tar.zst")).unwrap());
        self.store("pg_wal.tar.zst", &archive);
    }

    /// Has the manifest name a file of this content.
    fn promise(&mut self, path: &str, size_bytes: u64, content: &[u8]) {
        let crc = crc32c::crc32c(content).to_le_bytes();
        let crc: String = crc.iter().map(|byte| format!("{byte:02x}")).collect();
        let line = format!(
            "{{ \"Path\": \"{path}\", \"Size\": {size_bytes}, \"Last-Modified\": \"2026-11-22 02:00:00 GMT\", \
             \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"{crc}\" }},\n"
        );
        let files = b"\"Files\": [\n";
        let at = self.manifest.windows(files.len()).position(|window| window == files).unwrap() + files.len();
        self.manifest.splice(at..at, line.into_bytes());
    }

    fn unpacked(&self, archive: &str) -> Vec<u8> {
        Command::new("zstd").arg("-dc").arg(self.directory.join(archive)).output().unwrap().stdout
    }

    fn store(&mut self, name: &str, bytes: &[u8]) {
        let path = self.directory.join(name);
        fs::write(&path, bytes).unwrap();
        if let Some(file) = self.info.files.iter_mut().find(|file| file.name == name) {
            file.size_bytes = bytes.len() as u64;
            file.sha256 = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        }
    }

    /// Makes manifest, checksums and record agree with all that was changed.
    fn vouch(&mut self) {
        let mut manifest = std::mem::take(&mut self.manifest);
        corpus::mend_manifest(&mut manifest);
        self.store("backup_manifest", &manifest);
        let mut sums = Vec::new();
        for file in &self.info.files {
            writeln!(sums, "{}  {}", file.sha256, file.name).unwrap();
        }
        self.store("SHA256SUMS", &sums);
        fs::write(self.directory.join("backup_info.toml"), self.info.to_toml()).unwrap();
    }
}

/// A header of ustar, with a name that no library would write.
fn header_of(path: &str, kind: u8, size_bytes: u64, target: &str) -> [u8; 512] {
    let mut header = tar::Header::new_ustar();
    header.set_mode(if kind == b'5' { 0o700 } else { 0o600 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size_bytes);
    let bytes: &mut [u8; 512] = header.as_mut_bytes();
    // The longest paths are those below the site, which is in the system's directory for such things.
    assert!(path.len() <= 100 && target.len() <= 100, "{path} {target}");
    bytes[..path.len()].copy_from_slice(path.as_bytes());
    bytes[156] = kind;
    bytes[157..157 + target.len()].copy_from_slice(target.as_bytes());
    header.set_cksum();
    *header.as_bytes()
}

/// One zstd frame of so many zeros, about 128 KiB for every four bytes of it. It does not say how long it is.
fn frame_of_zeros(size_bytes: u64) -> Vec<u8> {
    const BLOCK_BYTES: u64 = 128 << 10;
    // Magic number; no content size, no checksum; a window of 128 KiB.
    let mut frame = vec![0x28, 0xB5, 0x2F, 0xFD, 0x00, 0x38];
    let blocks = size_bytes / BLOCK_BYTES;
    for number in 1..=blocks {
        let (is_last, repeated) = (u32::from(number == blocks), 1 << 1);
        let head = (BLOCK_BYTES as u32) << 3 | repeated | is_last;
        frame.extend_from_slice(&head.to_le_bytes()[..3]);
        frame.push(0);
    }
    frame
}
