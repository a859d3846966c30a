//! Everything that reads bytes from elsewhere, fed with real files that were damaged: flipped bits, cuts, splices,
//! huge numbers, repeated pieces. Most mutations get the checksum that belongs to them, so that they are looked at.
//!
//! Of each input: no panic, no loop without an end, and never more memory than a bound that grows with its length.

use std::io::Read;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use chrono::DateTime;
use pgbak::catalog::{BackupInfo, BackupName};
use pgbak::config::Config;
use pgbak::pg::backup_label::BackupLabel;
use pgbak::pg::control_file::ControlFile;
use pgbak::pg::history::TimelineHistory;
use pgbak::pg::manifest::{self, Manifest, ManifestError};
use pgbak::pg::wal_page::{Expected, LongHeader, PageCheck};
use pgbak::pg::wal_records::RecordWalk;
use pgbak::pg::{
    Lsn, SegmentName, SegmentSize, ServerVersion, Timeline, WalFileName, page_checksum, settings_file,
    tablespace_map,
};
use pgbak::pipe::seek_table::{FOOTER_SIZE, SeekTable};
use pgbak::pipe::tar::Scanner;
use pgbak::pipe::{ArchiveReader, Codec, Compression, Workers};
use pgbak::repo::lease::{self, Holder, Observer};
use pgbak::server::ConnectionSettings;
use pgbak::storage::{Memory, Storage};

use super::corpus::{self, Corpus};
use super::dice::{Dice, mutation};
use super::length;
use super::pretender::{self, Pretender};

/// How often more is tried in full.
const FULL: u64 = 20;

/// After so long one input is taken for one that is never done with.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// A fixed part of what parsing may take: buffers that do not depend on the input.
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

struct Parser<'a> {
    name: &'static str,
    /// How many inputs there are in a shortened run.
    cases: u64,
    corpus: Vec<Vec<u8>>,
    /// Gives an input the checksum that belongs to it, where the format has one.
    mend: fn(&mut Vec<u8>),
    /// What may be allocated at a time: so much, and so many times the input.
    bytes_max: u64,
    bytes_per_byte: u64,
    parse: &'a (dyn Fn(&[u8]) + 'a),
}

impl Parser<'_> {
    fn torture(&self) {
        let (seed, cases) = (length::seed(), length::of(self.cases, self.cases * FULL));
        let begun = Instant::now();
        let watch = Watch::start(self.name, seed);
        (self.parse)(&self.corpus[0]); // what is made once is made now
        let (mut peak, mut longest) = (0, Duration::ZERO);
        for case in 0..cases {
            watch.case.store(case, Ordering::Relaxed);
            let mut dice = Dice::new(seed, self.name, case);
            let mut input = mutation(&mut dice, &self.corpus);
            if dice.below(8) > 0 {
                (self.mend)(&mut input);
            }
            let started = Instant::now();
            let run = || allocation_counter::measure(|| (self.parse)(&input));
            let which =
                || format!("{}: seed {seed}, case {case}: {:?}", self.name, input.escape_ascii().to_string());
            let allocated =
                panic::catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| panic!("{}", which()));
            longest = longest.max(started.elapsed());
            peak = peak.max(allocated.bytes_max);
            let allowed = self.bytes_max + self.bytes_per_byte * input.len() as u64;
            assert!(
                allocated.bytes_max <= allowed,
                "{} bytes allocated for {}, by {}",
                allocated.bytes_max,
                input.len(),
                which()
            );
        }
        let took = begun.elapsed();
        eprintln!(
            "{}: seed {seed}, {cases} cases in {took:.1?}, at most {} KiB and {longest:.1?} for one",
            self.name,
            peak / KIB
        );
    }
}

/// Ends the process with the seed and the case when one takes too long.
struct Watch {
    case: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
}

impl Watch {
    fn start(name: &'static str, seed: u64) -> Self {
        let (case, is_over): (Arc<AtomicU64>, Arc<AtomicBool>) = (Arc::default(), Arc::default());
        let (seen, ended) = (Arc::clone(&case), Arc::clone(&is_over));
        thread::spawn(move || {
            let mut last = (u64::MAX, Instant::now());
            while !ended.load(Ordering::Relaxed) {
                thread::park_timeout(Duration::from_millis(500));
                let now = seen.load(Ordering::Relaxed);
                if now != last.0 {
                    last = (now, Instant::now());
                } else if last.1.elapsed() > STUCK_AFTER {
                    eprintln!("{name}: seed {seed}, case {now} takes more than {STUCK_AFTER:?}");
                    std::process::abort();
                }
            }
        });
        Self { case, is_over }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

fn leave_it(_: &mut Vec<u8>) {}

/// A parser of short texts and small files, whose memory is a small multiple of its input.
fn plain<'a>(name: &'static str, cases: u64, corpus: Vec<Vec<u8>>, parse: &'a dyn Fn(&[u8])) -> Parser<'a> {
    Parser { name, cases, corpus, mend: leave_it, bytes_max: 64 * KIB, bytes_per_byte: 32, parse }
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

// --- what PostgreSQL writes ---------------------------------------------------------------------------------------

#[test]
fn postgresql_s_small_files() {
    let Some(corpus) = corpus::get() else { return };
    let control_file = |bytes: &[u8]| drop(ControlFile::parse(bytes));
    let mend = |bytes: &mut Vec<u8>| corpus::mend_control_file(bytes);
    Parser { mend, ..plain("control file", 50_000, vec![corpus.control_file.clone()], &control_file) }
        .torture();

    let label = |bytes: &[u8]| drop(BackupLabel::parse(bytes));
    plain("backup label", 80_000, vec![corpus.backup_label.clone()], &label).torture();

    let map = |bytes: &[u8]| {
        for version in [130_000, 150_000, 180_000].map(ServerVersion) {
            if let Ok(tablespaces) = tablespace_map::parse(bytes, version) {
                let written = tablespace_map::write(&tablespaces, version);
                assert_eq!(tablespace_map::parse(&written, version).unwrap(), tablespaces);
            }
        }
    };
    let escaped = b"16401 /srv/a\\\nb\\\\c\n16402 /srv/d e\n".to_vec();
    plain("tablespace map", 80_000, vec![corpus.tablespace_map.clone(), escaped], &map).torture();

    let long = b"1\t0/3000000\tno recovery target specified\n\n2\t0/5000000\tbefore 2026-11-22 02:00:00+00\n"
        .to_vec();
    let history = |bytes: &[u8]| {
        for timeline in [2, 3, u32::MAX].map(|number| Timeline::new(number).unwrap()) {
            let Ok(history) = TimelineHistory::parse(timeline, bytes) else { continue };
            for span in history.spans() {
                assert!(span.end.is_none_or(|end| span.begin <= end));
                history.timeline_holding(span.begin);
            }
        }
    };
    plain("timeline history", 80_000, vec![corpus.history.clone(), long], &history).torture();

    let settings = |bytes: &[u8]| {
        let neutral = settings_file::neutralise(bytes, &settings_file::RECOVERY_SETTINGS);
        assert_eq!(settings_file::value(&neutral, "restore_command"), None);
        let added = [("restore_command".to_owned(), "a 'b' \\c\n".to_owned())];
        let appended = settings_file::append(&neutral, &added).unwrap();
        assert_eq!(settings_file::value(&appended, "RESTORE_command").unwrap(), b"a 'b' \\c\n");
    };
    let stale = b"restore_command = 'cp \"/x/%f\" %p'\nRecovery_Target_Time='it''s \\n'  # when\n".to_vec();
    let files = [corpus.settings.clone(), vec![stale]].concat();
    plain("settings file", 60_000, files, &settings).torture();

    let names = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        let size = SegmentSize::from_bytes(1 << 20).unwrap();
        if let Ok(name) = WalFileName::parse(&text) {
            assert_eq!(name.to_string(), text);
            name.segment(size);
            name.place();
        }
        let _ = (SegmentName::parse(&text, size), text.parse::<Lsn>(), text.parse::<Timeline>());
        let _ = (text.parse::<BackupName>(), text.parse::<Compression>(), Codec::of_file(&text));
        let _ = (ServerVersion::from_parameter(&text), page_checksum::relation_file(bytes));
    };
    let known = texts(&[
        "000000010000000000000001",
        "0000000100000000000000A3.partial",
        "00000002.history",
        "000000010000000000000002.00000028.backup",
        "0/16B3748",
        "base_backup_20261122_020000",
        "zstd:3",
        "base/5/16384_fsm.1",
        "pg_tblspc/16401/PG_15_202209061/5/16402",
        "15.4 (Debian 15.4-1)",
    ]);
    plain("names", 100_000, known, &names).torture();
}

#[test]
fn postgresql_s_manifest() {
    let Some(corpus) = corpus::get() else { return };
    let parse = |bytes: &[u8]| {
        let mut files = 0;
        let mut keep = |_| {
            files += 1;
            Ok::<(), ManifestError>(())
        };
        let streamed = manifest::read(&mut &bytes[..], &mut keep);
        if let Ok(whole) = Manifest::parse(bytes) {
            assert_eq!(whole.end, streamed.unwrap());
            assert_eq!(whole.files.len(), files);
            assert!(whole.files.values().all(|file| stays_inside(&file.path)));
        }
    };
    let encoded =
        b"{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": 7439122314155001234,\n\
        \"Files\": [\n{ \"Encoded-Path\": \"626173652fff\", \"Size\": 8192, \
        \"Last-Modified\": \"2026-11-22 02:00:00 GMT\", \"Checksum-Algorithm\": \"SHA256\", \"Checksum\": \
        \"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\" }\n],\n\"WAL-Ranges\": [\n\
        { \"Timeline\": 2, \"Start-LSN\": \"0/2000028\", \"End-LSN\": \"0/2000100\" }\n],\n\
        \"Manifest-Checksum\": \"\"}\n"
            .to_vec();
    let files = vec![corpus.manifest.clone(), encoded];
    let manifest = plain("manifest", 40_000, files, &parse);
    let (mend, bytes_max) = (corpus::mend_manifest, 512 * KIB);
    Parser { mend, bytes_max, ..manifest }.torture();
}

/// In memory, where there is such a place: most of a case would be the writing of its file.
fn scratch() -> tempfile::TempDir {
    let fast = std::path::Path::new("/dev/shm");
    tempfile::tempdir_in(fast).or_else(|_| tempfile::tempdir()).unwrap()
}

/// No path of a manifest may lead out of a directory.
fn stays_inside(path: &std::ffi::OsStr) -> bool {
    use std::path::Component;
    PathBuf::from(path).components().all(|component| matches!(component, Component::Normal(_)))
}

#[test]
fn wal_pages_and_records() {
    let Some(corpus) = corpus::get() else { return };
    let parse = |bytes: &[u8]| {
        let Ok(first) = LongHeader::parse(bytes) else { return };
        let number = first.page.address.0 / first.segment_size.bytes();
        let segment = SegmentName { timeline: first.page.timeline, number };
        let (segment_size, system_identifier) = (first.segment_size, first.system_identifier);
        let mut check = PageCheck::new(Expected { segment, segment_size, system_identifier });
        let _ = bytes.chunks(1000).try_for_each(|piece| check.feed(piece));
        let _ = check.finish();
        let mut walk = RecordWalk::new(first.page.address);
        bytes.chunks(first.page_bytes as usize).for_each(|page| walk.feed_page(page));
        walk.finish();
    };
    plain("WAL pages and records", 60_000, corpus.wal.clone(), &parse).torture();
}

// --- archives -----------------------------------------------------------------------------------------------------

#[test]
fn tar_and_seek_table() {
    let Some(corpus) = corpus::get() else { return };
    let tar = |bytes: &[u8]| {
        let mut scanner = Scanner::default();
        for piece in bytes.chunks(700) {
            let mut rest = piece;
            loop {
                match scanner.next(&mut rest) {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => return,
                }
            }
        }
        let _ = scanner.finish();
    };
    // Its longest entries are pages, which nobody looks at here.
    let parser = plain("tar", 80_000, vec![corpus.tar[..corpus.tar.len().min(6 << 10)].to_vec()], &tar);
    Parser { mend: |bytes| corpus::mend_tar(bytes), ..parser }.torture();

    let table = |bytes: &[u8]| {
        if let Some(footer) = bytes.last_chunk::<FOOTER_SIZE>() {
            SeekTable::size_bytes(footer);
        }
        if let Ok(table) = SeekTable::parse(bytes) {
            assert!(table.entries().len() * 8 <= bytes.len());
            let _ = (table.content_bytes(), table.stored_bytes());
        }
    };
    let mut real = SeekTable::default();
    for number in 1..20 {
        real.push(pgbak::pipe::seek_table::Entry { stored_bytes: number * 1000, content_bytes: 1 << 20 });
    }
    let real: Vec<u8> = real.encode().flatten().collect();
    plain("seek table", 100_000, vec![real], &table).torture();
}

#[test]
fn frames_of_every_codec() {
    let Some(corpus) = corpus::get() else { return };
    let workers = Arc::new(Workers::new(1).unwrap());
    let content = &corpus.tar[..corpus.tar.len().min(20 << 10)];
    for codec in Codec::ALL.into_iter().chain([Codec::Text]) {
        let parse = |bytes: &[u8]| {
            let source = Box::new(std::io::Cursor::new(bytes.to_vec()));
            let mut reader = ArchiveReader::new(&workers, codec, source, None);
            let (mut piece, mut left_bytes) = (vec![0; 64 << 10], 64 << 20);
            while let Ok(count @ 1..) = reader.read(&mut piece) {
                left_bytes -= count as i64;
                if left_bytes < 0 {
                    return; // what is stored is little, and what it stands for is much: that is no error
                }
            }
        };
        let ours = corpus::archived(codec, content);
        let joined = [ours.clone(), corpus::archived(codec, &content[..3000])].concat();
        let mut known = vec![ours, joined];
        // Of other programs: frames that do not say how long they are.
        known.extend(by_the_codec_s_program(codec, content));
        let cases = if codec.compresses() { 40_000 } else { 2_000 };
        // A frame at a time is read into a buffer for it; of these there are as many as are in flight.
        Parser { bytes_max: 48 * MIB, ..plain(codec.name(), cases, known, &parse) }.torture();
    }
}

fn by_the_codec_s_program(codec: Codec, content: &[u8]) -> Option<Vec<u8>> {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let program = match codec {
        Codec::Zstd => "zstd",
        Codec::Gzip => "gzip",
        Codec::Lz4 => "lz4",
        Codec::None | Codec::Text => return None,
    };
    let mut child =
        Command::new(program).arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(content).unwrap();
    Some(child.wait_with_output().unwrap().stdout)
}

// --- what people write --------------------------------------------------------------------------------------------

/// Every key that there is, and a mistake or two.
const CONFIGURATION: &str = r#"
[postgres]
connection = "host=/var/run/postgresql user=postgres"
data_directory = "/var/lib/postgresql/15/main"
[wal]
source = "stream"
directory = "/var/lib/postgresql/wal-archive"
slot = "pgbak"
push_to = ["local", "remote"]
[backup]
compression = "zstd"
level = 3
workers = 0
max_rate = "200MB"
checkpoint = "fast"
[retention]
keep_last = 10
keep_within = "14d"
keep_daily = 1
keep_weekly = 2
keep_monthly = 3
pitr_window = "7d 3h"
[status]
backup_age_max = "26h"
wal_lag_max = "5m"
[[repository]]
name = "local"
path = "/var/lib/postgresql/backups"
[[repository]]
name = "remote"
url = "ssh://rcadmin@[fe80::1%eth0]:22/home/rcadmin/postgres-backups"
ssh_key = "/etc/pgbak/id_ed25519"
known_hosts = "/etc/pgbak/known_hosts"
sessions = 2
durable = true
"#;

const ENVIRONMENT: &str = "POSTGRES_DB=shop
POSTGRES_USER=keeper
POSTGRES_PASSWORD=it's \\secret
POSTGRES_HOST=db.example.com
BACKUP_RETENTION_DAYS=10
BACKUP_SCHEDULE=0 2 * * *
WAL_SYNC_INTERVAL=60
REMOTE_BACKUP_HOST=192.168.1.246
REMOTE_BACKUP_USER=rcadmin
REMOTE_BACKUP_PATH=/home/rcadmin/postgres-backups
REMOTE_SSH_KEY_PATH=/backup-keys/id_rsa
LOCAL_BACKUP_PATH=/var/lib/postgresql/backups
WAL_ARCHIVE_PATH=/var/lib/postgresql/wal-archive
";

#[test]
fn configuration() {
    let directory = scratch();
    let file = directory.path().join("pgbak.toml");
    let from_file = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        if let Err(error) = Config::load(Some(&file), &|_| None) {
            let _ = (error.to_string(), error.hint());
        }
    };
    // The TOML parser keeps the text's pieces with their places, and an error a copy of it.
    let parser = plain("configuration file", 25_000, texts(&[CONFIGURATION]), &from_file);
    Parser { bytes_per_byte: 256, ..parser }.torture();

    let from_environment = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        let value = |name: &str| {
            let mut lines = text.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
        };
        if let Ok(config) = Config::load(None, &value) {
            let _ = ConnectionSettings::resolve(&config.postgres.connection, &|_| None);
        }
    };
    plain("configuration by environment", 30_000, texts(&[ENVIRONMENT]), &from_environment).torture();
}

#[test]
fn connections() {
    let known = texts(&[
        "host=/var/run/postgresql,db port=5432,5433 user='it\\'s me' dbname=shop sslmode=verify-full",
        "postgresql://me:p%40ss@[::1]:5432,db:5433/shop?sslmode=prefer&connect_timeout=10&target_session_attrs=any",
        "host = db hostaddr=10.0.0.1 options='-c x=y' keepalives=1 keepalives_idle=30 tcp_user_timeout=1000",
        "postgres://%2Ftmp/db?channel_binding=require&ssl_min_protocol_version=TLSv1.2",
    ]);
    let nothing = |name: &str| (name == "PGPASSFILE").then(|| "/nonexistent".to_owned());
    let resolve = |bytes: &[u8]| {
        if let Err(error) = ConnectionSettings::resolve(&String::from_utf8_lossy(bytes), &nothing) {
            let _ = (error.to_string(), error.hint());
        }
    };
    plain("connection string", 100_000, known, &resolve).torture();

    let directory = scratch();
    let path = directory.path().join("pg_service.conf");
    let environment = |name: &str| match name {
        "PGSERVICEFILE" => Some(path.display().to_string()),
        "PGPASSFILE" => Some("/nonexistent".to_owned()),
        _ => None,
    };
    let service = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let _ = ConnectionSettings::resolve("service=shop", &environment);
    };
    let known = texts(&["# services\n[other]\nhost=x\n[shop]\nhost=db\nport=5433\nuser=me\npassword=a b\n"]);
    plain("service file", 30_000, known, &service).torture();
}

// --- what pgbak writes --------------------------------------------------------------------------------------------

#[test]
fn records_and_leases() {
    let Some(corpus) = corpus::get() else { return };
    let name: BackupName = corpus.backup.parse().unwrap();
    let record = |bytes: &[u8]| match BackupInfo::from_toml(bytes, name) {
        Ok(info) => {
            assert!(info.files.iter().all(|file| !file.name.contains('/') && file.name != ".."));
            assert_eq!(BackupInfo::from_toml(info.to_toml().as_bytes(), name).unwrap(), info);
        }
        Err(error) => drop((error.to_string(), error.hint())),
    };
    let parser = plain("record", 25_000, vec![corpus.record.clone()], &record);
    Parser { bytes_per_byte: 256, ..parser }.torture();

    let lease = |bytes: &[u8]| {
        let storage = Memory::default();
        let mut upload = storage.create("d/lease-0001.toml").unwrap();
        upload.write_all(bytes).unwrap();
        upload.commit().unwrap();
        let entries = storage.list("d").unwrap();
        let holder = Holder { host: "here".to_owned(), pid: 1, pid_scope: "boot".to_owned() };
        let observer = Observer { holder, is_running: &|pid| pid % 2 == 0 };
        for now in [0, 1_795_000_000, 8_000_000_000_000].map(|s| DateTime::from_timestamp(s, 0).unwrap()) {
            let live = lease::live(&storage, "d", &entries, now, &observer).unwrap();
            let _ = live.map(|live| live.to_string());
        }
    };
    let known = texts(&["host = \"elsewhere\"\npid = 7\npid_scope = \"gone\"\n\
        started_at = \"2026-11-22T02:00:00Z\"\nexpires_at = \"2026-11-22T04:00:00Z\"\n"]);
    let parser = plain("lease", 30_000, known, &lease);
    Parser { bytes_per_byte: 256, ..parser }.torture();
}

// --- the wire protocol --------------------------------------------------------------------------------------------

#[test]
fn servers_that_talk_nonsense() {
    let Some(Corpus { base_backup, wal_stream, .. }) = corpus::get() else { return };
    let pretender = Pretender::start();
    let settings = pretender.settings();
    // A message may take 8 MiB, which is then the buffer's size.
    let bytes_max = 24 * MIB;
    let backup = |bytes: &[u8]| {
        pretender.says(bytes);
        let _ = pretender::take_base_backup(&settings).map_err(|error| (error.to_string(), error.hint()));
    };
    let old = pretender::as_version_14(base_backup);
    for script in [base_backup, &old] {
        pretender.says(script);
        pretender::take_base_backup(&settings).unwrap();
    }
    let known = vec![base_backup.clone(), old];
    Parser { bytes_max, ..plain("base backup over the wire", 12_000, known, &backup) }.torture();

    let stream = |bytes: &[u8]| {
        pretender.says(bytes);
        let streamed = pretender::stream_wal(&settings, pretender::WAL_START, 10_000);
        let _ = streamed.map_err(|error| (error.to_string(), error.hint()));
    };
    let known = vec![wal_stream.clone()];
    Parser { bytes_max, ..plain("WAL over the wire", 8_000, known, &stream) }.torture();

    // The password file is searched when a server asks for a password.
    pretender.says(b"R\0\0\0\x08\0\0\0\x03R\0\0\0\x08\0\0\0\0");
    let path = pretender.directory.path().join("pgpass");
    let connection = format!(
        "host={} user='it:s\\\\me' passfile={}",
        pretender.directory.path().display(),
        path.display()
    );
    let pass_file = |bytes: &[u8]| {
        use std::os::unix::fs::OpenOptionsExt;
        let options = &mut std::fs::File::options();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&path).unwrap();
        std::io::Write::write_all(&mut file, bytes).unwrap();
        let settings = ConnectionSettings::resolve(&connection, &|_| None).unwrap();
        let _ = pretender::take_base_backup(&settings);
    };
    let known = texts(&["# mine\n*:*:*:it\\:s\\\\me:secret\\:word\nlocalhost:5432:*:me:other\n"]);
    Parser { bytes_max, ..plain("password file", 4_000, known, &pass_file) }.torture();
}
