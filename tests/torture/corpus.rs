//! Real files to mutate: what a server and pgbak wrote, cut to a size that can be parsed a million times.

use std::fs;
use std::io::{Cursor, Write};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use pgbak::pipe::{ArchiveWriter, Codec, Compression, Workers};
use sha2::{Digest, Sha256};

use super::pretender;
use crate::site;
use crate::support::{process, wait_until};

/// The beginnings of two segments are enough: after that all pages are alike.
const WAL_BYTES: usize = 4 * 8192;

pub struct Corpus {
    pub control_file: Vec<u8>,
    pub backup_label: Vec<u8>,
    pub tablespace_map: Vec<u8>,
    pub manifest: Vec<u8>,
    pub history: Vec<u8>,
    pub wal: Vec<Vec<u8>>,
    pub settings: Vec<Vec<u8>>,
    pub record: Vec<u8>,
    /// The name of the backup that the record is of.
    pub backup: String,
    pub tar: Vec<u8>,
    /// The server's side of a base backup, and of a stream of WAL.
    pub base_backup: Vec<u8>,
    pub wal_stream: Vec<u8>,
}

/// Made once; `None` where there is no PostgreSQL, which is then noted as skipped.
pub fn get() -> Option<&'static Corpus> {
    static MADE: OnceLock<Option<Corpus>> = OnceLock::new();
    MADE.get_or_init(make).as_ref()
}

fn make() -> Option<Corpus> {
    let mut made = None;
    fill(&mut made);
    made
}

fn fill(made: &mut Option<Corpus>) {
    let mut site = site!(tablespaces(1), initdb("--wal-segsize=1"));
    site.cluster().sql("CREATE TABLE t TABLESPACE space1 AS SELECT 1 AS id; CHECKPOINT");
    site.pgbak("base-backup").succeeds();
    let first = site.cluster().switch_wal();
    wait_until("the segment to be archived", || site.repository().holds(&first));
    let wal_stream = pretender::record_wal_stream(site.cluster());
    let base_backup = pretender::record_base_backup(site.cluster());

    // The next timeline, for its history.
    site.cluster_mut().stop();
    site.write("data/recovery.signal", "");
    site.cluster_mut().set("restore_command", "false");
    site.cluster_mut().start();
    wait_until("the promotion", || site.repository().holds("00000002.history"));
    site.cluster().sql("ALTER SYSTEM SET work_mem = '8MB'");

    let backup = site.repository().the_backup();
    let by_hand = site.path("by-hand");
    site.repository().restore_by_hand(&backup, &by_hand);
    let read = |path: &Path| fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let stored = site.repository().backup(&backup);
    let tar = fs::read_dir(&stored)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.file_name().unwrap().to_string_lossy().starts_with(|c: char| c.is_ascii_digit()));
    let tar = Command::new("zstd").arg("-dc").arg(tar.unwrap()).output().unwrap().stdout;
    let mut settings = vec![read(&site.cluster().data.join("postgresql.auto.conf"))];
    let whole = read(&site.cluster().data.join("postgresql.conf"));
    settings.push(whole[whole.len() - 1500..].to_vec());
    let mut wal: Vec<Vec<u8>> = Vec::new();
    for name in site.repository().archived().iter().filter(|name| name.len() == 24) {
        let mut content = site.repository().wal_content(name);
        content.truncate(WAL_BYTES);
        wal.push(content);
    }
    *made = Some(Corpus {
        control_file: read(&by_hand.join("global/pg_control")),
        backup_label: read(&by_hand.join("backup_label")),
        tablespace_map: read(&by_hand.join("tablespace_map")),
        manifest: shortened(&read(&stored.join("backup_manifest"))),
        history: site.repository().wal_content("00000002.history"),
        wal,
        settings,
        record: read(&stored.join("backup_info.toml")),
        backup,
        tar,
        base_backup,
        wal_stream,
    });
    let by_hand = by_hand.display();
    process::run(Command::new("sh").arg("-c").arg(format!("rm -r {by_hand} {by_hand}.*")));
}

/// A real manifest with a dozen of its files, and the checksum that belongs to it.
fn shortened(manifest: &[u8]) -> Vec<u8> {
    let lines: Vec<&[u8]> = manifest.split_inclusive(|&byte| byte == b'\n').collect();
    let end = lines.iter().position(|line| line.starts_with(b"],")).unwrap();
    let mut short: Vec<u8> = [&lines[..12], &lines[end - 1..]].concat().concat();
    mend_manifest(&mut short);
    short
}

/// Gives a manifest the checksum that belongs to it.
pub fn mend_manifest(manifest: &mut Vec<u8>) {
    let key = b"\"Manifest-Checksum\": \"";
    let Some(at) = manifest.windows(key.len()).rposition(|window| window == key) else { return };
    let digest = Sha256::digest(&manifest[..at]);
    manifest.truncate(at + key.len());
    for byte in digest {
        write!(manifest, "{byte:02x}").unwrap();
    }
    manifest.extend_from_slice(b"\"}\n");
}

/// Gives a control file the CRC that belongs to it.
pub fn mend_control_file(bytes: &mut [u8]) {
    const CRC_AT: usize = 288;
    if bytes.len() >= CRC_AT + 4 {
        let crc = crc32c::crc32c(&bytes[..CRC_AT]);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    }
}

/// Gives each header of a tar the checksum that belongs to it.
pub fn mend_tar(bytes: &mut [u8]) {
    for header in bytes.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

/// `content` as pgbak stores it, in frames.
pub fn archived(codec: Codec, content: &[u8]) -> Vec<u8> {
    let workers = std::sync::Arc::new(Workers::new(1).unwrap());
    let compression = Compression::new(codec, None).unwrap();
    let mut writer = ArchiveWriter::new(&workers, compression, vec![Vec::new()]).unwrap();
    writer.copy_from(&mut Cursor::new(content)).unwrap();
    let mut finished = writer.finish();
    finished.sinks.remove(0).unwrap()
}
