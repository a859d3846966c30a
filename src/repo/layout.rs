//! What keys mean. This is the only place that builds or parses one.
//!
//! ```text
//! RESTORE.md
//! base-backups/base_backup_20261122_020000/lease-0001.toml       while it is written
//!                                         /lease-HOST-PID-0001.toml    while it is restored
//!                                         /base.tar.zst          and 16401.tar.zst for tablespace 16401
//!                                         /pg_wal.tar.zst
//!                                         /backup_manifest
//!                                         /SHA256SUMS
//!                                         /backup_info.toml      last: it is what makes a backup exist
//! wal-archive/7439122314155001234/0000000100000000/000000010000000000000001.zst
//!                                                 /000000010000000000000002.partial.00000000-0001C000.zst
//!                                /00000002.history
//! ```

use crate::catalog::BackupName;
use crate::pg::{SystemIdentifier, Timeline, WalFileName};
use crate::pipe::Codec;
use crate::storage;

/// Says how to restore by hand. Its presence is what tells a repository from an empty or unmounted directory.
pub const RESTORE_MD: &str = "RESTORE.md";
pub const BASE_BACKUPS: &str = "base-backups";
pub const WAL_ARCHIVE: &str = "wal-archive";

/// The files of a backup that are not archives.
pub const RECORD: &str = "backup_info.toml";
pub const MANIFEST: &str = "backup_manifest";
pub const CHECKSUMS: &str = "SHA256SUMS";

/// What an archive of a backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ArchiveContent {
    Base,
    /// A tablespace, by its object identifier.
    Tablespace(u32),
    Wal,
}

impl ArchiveContent {
    /// The archive's file name inside the backup: `base.tar.zst`.
    pub fn file_name(self, codec: Codec) -> String {
        let suffix = codec.suffix();
        match self {
            Self::Base => format!("base.tar{suffix}"),
            Self::Tablespace(oid) => format!("{oid}.tar{suffix}"),
            Self::Wal => format!("pg_wal.tar{suffix}"),
        }
    }
}

pub fn backup_directory(backup: BackupName) -> String {
    storage::join(BASE_BACKUPS, &backup.to_string())
}

pub fn backup_file(backup: BackupName, file_name: &str) -> String {
    storage::join(&backup_directory(backup), file_name)
}

/// The file name of a writer's `number`-th lease inside the backup's directory. There is one writer.
pub fn lease(number: u32) -> String {
    format!("lease-{number:04}.toml")
}

/// The file name of a reader's `number`-th lease; there may be many readers, each with a tag of letters, digits, dots
/// and dashes.
pub fn reader_lease(tag: &str, number: u32) -> String {
    format!("lease-{tag}-{number:04}.toml")
}

/// Whether a file is a lease, of a writer or a reader.
pub fn is_lease(file_name: &str) -> bool {
    let Some(rest) = lease_of(file_name) else { return false };
    let (tag, number) = rest.rsplit_once('-').unwrap_or(("-", rest));
    let is_tag = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    !tag.is_empty() && tag.chars().all(is_tag) && is_lease_number(number)
}

pub fn is_writer_lease(file_name: &str) -> bool {
    lease_of(file_name).is_some_and(is_lease_number)
}

fn lease_of(file_name: &str) -> Option<&str> {
    file_name.strip_prefix("lease-")?.strip_suffix(".toml")
}

fn is_lease_number(digits: &str) -> bool {
    digits.len() >= 4 && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// The directory of everything archived for one cluster.
pub fn wal_of(system: SystemIdentifier) -> String {
    storage::join(WAL_ARCHIVE, &system.to_string())
}

/// The directory in which a WAL file lies: a segment's is named by its first 16 digits, so that no directory grows
/// without bound and the newest are found without listing the others.
pub fn wal_directory(system: SystemIdentifier, name: &WalFileName) -> String {
    match name {
        WalFileName::Segment(text) | WalFileName::Partial(text) | WalFileName::BackupNote(text) => {
            storage::join(&wal_of(system), &text[..16])
        }
        WalFileName::History(_) => wal_of(system),
    }
}

/// The directory of the segments whose names begin with these 16 digits.
pub fn log_directory(system: SystemIdentifier, digits: &str) -> String {
    storage::join(&wal_of(system), digits)
}

pub fn wal_file(system: SystemIdentifier, name: &WalFileName, codec: Codec) -> String {
    storage::join(&wal_directory(system, name), &format!("{name}{}", codec.suffix()))
}

/// Whether a directory below [`wal_of`] holds segments, and of which timeline and log number.
pub fn parse_segment_directory(name: &str) -> Option<(Timeline, u32)> {
    let is_digits = name.len() == 16 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
    let field = |digits: &str| u32::from_str_radix(digits, 16).ok();
    is_digits.then_some(())?;
    Some((Timeline::new(field(&name[..8])?)?, field(&name[8..])?))
}

/// Splits an object's name into the WAL file that it holds and the codec that it is stored with.
pub fn parse_wal_file(object_name: &str) -> Option<(WalFileName, Codec)> {
    let (name, codec) = Codec::of_file(object_name);
    let name = WalFileName::parse_stored(name).ok()?;
    let codec = if codec == Codec::None { super::wal::uncompressed(&name) } else { codec };
    Some((name, codec))
}

/// The cluster and the WAL file that a key of [`wal_file`] is about.
pub fn parse_wal_key(key: &str) -> Option<(SystemIdentifier, WalFileName)> {
    let (system, rest) = key.strip_prefix(WAL_ARCHIVE)?.strip_prefix('/')?.split_once('/')?;
    let object_name = rest.rsplit('/').next()?;
    Some((system.parse().ok()?, parse_wal_file(object_name)?.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wal_file_is_found_again_by_its_key() {
        let system = SystemIdentifier(7_439_122_314_155_001_234);
        let names = [
            ("0000000100000002000000A3", "/0000000100000002/0000000100000002000000A3.zst"),
            ("0000000100000002000000A3.partial", "/0000000100000002/0000000100000002000000A3.partial.zst"),
            (
                "0000000100000002000000A3.partial.00000000-0001C000",
                "/0000000100000002/0000000100000002000000A3.partial.00000000-0001C000.zst",
            ),
            ("00000002.history", "/00000002.history.zst"),
        ];
        for (text, key) in names {
            let name = WalFileName::parse_stored(text).unwrap();
            assert_eq!(wal_file(system, &name, Codec::Zstd), format!("wal-archive/{system}{key}"));
            let object_name = key.rsplit('/').next().unwrap();
            assert_eq!(parse_wal_file(object_name), Some((name.clone(), Codec::Zstd)));
            assert_eq!(parse_wal_key(&wal_file(system, &name, Codec::Zstd)), Some((system, name)));
        }
    }

    #[test]
    fn other_keys_are_not_taken_for_wal() {
        for key in [
            "",
            "wal-archive",
            "wal-archive/1",
            "wal-archive/x/00000002.history",
            "base-backups/1/00000002.history",
        ] {
            assert_eq!(parse_wal_key(key), None, "{key}");
        }
    }

    #[test]
    fn segment_directories_and_leases_are_told_from_other_names() {
        assert_eq!(parse_segment_directory("0000000A00000002"), Some((Timeline::new(10).unwrap(), 2)));
        for name in ["", "0000000000000002", "0000000A0000000g", "0000000A000000020"] {
            assert_eq!(parse_segment_directory(name), None, "{name}");
        }
        assert!(is_lease(&lease(1)) && is_lease(&lease(123_456)));
        assert!(!is_lease("lease-1.toml") && !is_lease("lease-0001.toml.zst"));
        let reader = reader_lease("db-1.example-4711", 2);
        assert_eq!(reader, "lease-db-1.example-4711-0002.toml");
        assert!(is_lease(&reader) && !is_writer_lease(&reader) && is_writer_lease(&lease(1)));
        assert!(
            !is_lease("lease--0001.toml") && !is_lease("lease-a b-0001.toml") && !is_lease("lease-.toml")
        );
    }
}
