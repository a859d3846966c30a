//! A base backup's record: `backup_info.toml`, written last, so that a backup exists if and only if it does.
//!
//! The record is TOML, and its first key is `format`. A reader looks at that key before any other: a record of
//! another format is refused by its number, whatever else it says. Within one format later versions of pgbak
//! only add keys, so a key that is not known is passed over.
//!
//! Its last line is a remark with the SHA-256 of the lines above: every other file of a backup is vouched for by the
//! record, and the record by nothing else.
//!
//! What always holds in a [`BackupInfo`] that was read:
//! * it is what was written, byte for byte;
//! * its name is that of the directory it was read from;
//! * `stop_lsn` is at or after `start_lsn`;
//! * files have plain names, each its own, and a SHA-256; tablespaces have each their own number and an absolute
//!   location.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{BackupName, fields};
use crate::digest_line::{self, Checked};
use crate::pg::{Lsn, SegmentSize, ServerVersion, SystemIdentifier, Timeline};

pub const FILE_NAME: &str = "backup_info.toml";

/// The format this version writes, and the only one it reads.
pub const FORMAT: i64 = 1;

/// More than any record needs; a reader need not read further.
pub const MAX_BYTES: usize = 16 << 20;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupInfo {
    #[serde(with = "fields::text")]
    pub name: BackupName,
    pub kind: BackupKind,
    pub label: String,
    #[serde(with = "fields::text")]
    pub system_identifier: SystemIdentifier,
    /// As `server_version_num` counts: 150018 is 15.18.
    #[serde(with = "fields::server_version")]
    pub server_version: ServerVersion,
    pub source: BackupSource,
    #[serde(with = "fields::timeline")]
    pub timeline: Timeline,
    /// Where recovery of this backup begins to read WAL.
    #[serde(with = "fields::text")]
    pub start_lsn: Lsn,
    /// Where the backup is consistent; recovery cannot stop earlier.
    #[serde(with = "fields::text")]
    pub stop_lsn: Lsn,
    pub started_at: DateTime<Utc>,
    /// By the server's clock, which also dates its commits; to the microsecond, or rounded up, never down:
    /// nothing that the backup holds may have been committed later.
    pub stopped_at: DateTime<Utc>,
    #[serde(with = "fields::segment_size", rename = "wal_segment_size_bytes")]
    pub wal_segment_size: SegmentSize,
    /// Codec and level, as in the configuration: `zstd:3`.
    pub compression: String,
    /// Of what the server sent, uncompressed.
    pub size_bytes: u64,
    /// Of what is stored.
    pub stored_bytes: u64,
    pub pgbak_version: String,
    /// What the server said about pages whose checksum failed; empty when all is well.
    #[serde(default)]
    pub damaged_pages: Vec<String>,
    /// What the backup consists of, except for this record.
    #[serde(default)]
    pub files: Vec<StoredFile>,
    /// Apart from the data directory itself.
    #[serde(default)]
    pub tablespaces: Vec<Tablespace>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupKind {
    Full,
}

/// The server that the backup was taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupSource {
    /// At `stop_lsn` its WAL held everything committed until `stopped_at`.
    Primary,
    /// Its WAL may have lagged behind the primary's by any time.
    Standby,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredFile {
    pub name: String,
    /// As stored.
    pub size_bytes: u64,
    /// Of the bytes as stored: 64 lower-case hexadecimal digits.
    pub sha256: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tablespace {
    pub oid: u32,
    /// Where it was on the server.
    pub location: String,
}

/// Why a record cannot be used. The caller knows which backup it is about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("{FILE_NAME} has {size_bytes} bytes, more than any real one")]
    TooLong { size_bytes: usize },

    #[error("{FILE_NAME} has format {format}; this pgbak reads format {FORMAT}")]
    UnknownFormat { format: i64 },

    #[error("{FILE_NAME} is not a record that pgbak wrote: line {line}: {message}")]
    Malformed { line: usize, message: String },

    #[error("{FILE_NAME} is the record of {found}, but lies in {directory}")]
    OtherBackup { directory: BackupName, found: BackupName },

    #[error("{FILE_NAME} says that the backup stopped at {stop_lsn}, before it started at {start_lsn}")]
    StopsBeforeStart { start_lsn: Lsn, stop_lsn: Lsn },

    #[error("{FILE_NAME} names a file {name:?}, which is not a plain file name")]
    NotAPlainName { name: String },

    #[error("{FILE_NAME} names the file \"{name}\" twice")]
    FileTwice { name: String },

    #[error(
        "{FILE_NAME} gives {found:?} as SHA-256 of \"{name}\", expected 64 lower-case hexadecimal digits"
    )]
    NotASha256 { name: String, found: String },

    #[error(
        "{FILE_NAME} is not as it was written: its last line does not give {sha256} as SHA-256 of the lines above"
    )]
    Altered { sha256: String },

    #[error("{FILE_NAME} names the tablespace {oid} twice")]
    TablespaceTwice { oid: u32 },

    #[error("{FILE_NAME} places the tablespace {oid} at {location:?}, which is not an absolute path")]
    NotALocation { oid: u32, location: String },
}

/// Only what must be understood before anything else.
#[derive(Deserialize)]
struct FormatOnly {
    format: i64,
}

#[derive(Serialize)]
struct Record<'a> {
    format: i64,
    #[serde(flatten)]
    info: &'a BackupInfo,
}

impl BackupInfo {
    pub fn to_toml(&self) -> String {
        let text = toml::to_string(&Record { format: FORMAT, info: self })
            .expect("the only values TOML cannot hold are sizes of 8 EiB and more");
        with_digest(&text)
    }

    /// Reads the record found in the directory of that name.
    pub fn from_toml(stored: &[u8], directory: BackupName) -> Result<Self, RecordError> {
        if stored.len() > MAX_BYTES {
            return Err(RecordError::TooLong { size_bytes: stored.len() });
        }
        // What is not UTF-8 is not as it was written, and may be TOML all the same.
        let text = String::from_utf8_lossy(stored);
        let malformed = |error: toml::de::Error| RecordError::malformed(&text, &error);
        let FormatOnly { format } = toml::from_str(&text).map_err(malformed)?;
        if format != FORMAT {
            return Err(RecordError::UnknownFormat { format });
        }
        let info: Self = toml::from_str(&text).map_err(malformed)?;
        if info.name != directory {
            return Err(RecordError::OtherBackup { directory, found: info.name });
        }
        info.check()?;
        match digest_line::check(stored) {
            // The first repositories have records without.
            Checked::Whole(_) | Checked::WithoutDigest => Ok(info),
            Checked::Altered { sha256 } => Err(RecordError::Altered { sha256 }),
        }
    }

    fn check(&self) -> Result<(), RecordError> {
        let (start_lsn, stop_lsn) = (self.start_lsn, self.stop_lsn);
        if stop_lsn < start_lsn {
            return Err(RecordError::StopsBeforeStart { start_lsn, stop_lsn });
        }
        let mut names = BTreeSet::new();
        for StoredFile { name, sha256, .. } in &self.files {
            if !is_plain_name(name) {
                return Err(RecordError::NotAPlainName { name: name.clone() });
            }
            if !is_sha256(sha256) {
                return Err(RecordError::NotASha256 { name: name.clone(), found: sha256.clone() });
            }
            if !names.insert(name) {
                return Err(RecordError::FileTwice { name: name.clone() });
            }
        }
        let mut oids = BTreeSet::new();
        for Tablespace { oid, location } in &self.tablespaces {
            if !location.starts_with('/') || location.contains('\0') {
                return Err(RecordError::NotALocation { oid: *oid, location: location.clone() });
            }
            if !oids.insert(oid) {
                return Err(RecordError::TablespaceTwice { oid: *oid });
            }
        }
        Ok(())
    }
}

/// The lines of a record, and the last one, which vouches for them.
pub fn with_digest(lines: &str) -> String {
    lines.to_owned() + &digest_line::of(lines.as_bytes())
}

impl RecordError {
    fn malformed(text: &str, error: &toml::de::Error) -> Self {
        let start = error.span().map_or(0, |span| span.start);
        let line = 1 + text.bytes().take(start).filter(|&byte| byte == b'\n').count();
        Self::Malformed { line, message: error.message().replace('\n', " ") }
    }

    /// What the user can do about it: one or more full sentences.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownFormat { .. } => {
                Some("It was written by a newer pgbak: upgrade this one to read it.".to_owned())
            }
            _ => None,
        }
    }
}

/// Whether `name` can only mean a file directly in the backup's directory, and is safe to print.
fn is_plain_name(name: &str) -> bool {
    let harmless = |c: char| c != '/' && !c.is_control();
    (1..=255).contains(&name.len()) && !matches!(name, "." | "..") && name.chars().all(harmless)
}

fn is_sha256(digest: &str) -> bool {
    digest.len() == 64 && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
impl BackupInfo {
    /// A backup without files, taken on a primary and named after its start; tests change what matters to them.
    pub fn example(started_at: DateTime<Utc>) -> Self {
        Self {
            name: BackupName::of(started_at),
            kind: BackupKind::Full,
            label: String::new(),
            system_identifier: SystemIdentifier(7_439_122_314_155_001_234),
            server_version: ServerVersion(150_018),
            source: BackupSource::Primary,
            timeline: Timeline::FIRST,
            start_lsn: Lsn(0x200_0028),
            stop_lsn: Lsn(0x200_0138),
            started_at,
            stopped_at: started_at,
            wal_segment_size: SegmentSize::DEFAULT,
            compression: "zstd:3".to_owned(),
            size_bytes: 1,
            stored_bytes: 1,
            pgbak_version: "0.1.0".to_owned(),
            damaged_pages: vec![],
            files: vec![],
            tablespaces: vec![],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RECORD: &str = r#"format = 1
name = "base_backup_20261122_020000"
kind = "full"
label = "before the \"migration\""
system_identifier = "17439122314155001234"
server_version = 150018
source = "primary"
timeline = 2
start_lsn = "0/3000028"
stop_lsn = "0/3000100"
started_at = "2026-11-22T02:00:00Z"
stopped_at = "2026-11-22T02:00:03.123456Z"
wal_segment_size_bytes = 16777216
compression = "zstd:3"
size_bytes = 32000000
stored_bytes = 4000000
pgbak_version = "0.1.0"
damaged_pages = []

[[files]]
name = "base.tar.zst"
size_bytes = 3999000
sha256 = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

[[tablespaces]]
oid = 16401
location = "/srv/fast disk"
# SHA-256 of the lines above: 8a1fae17be65219b11fa1373ca6c3d616ac1c7b2c780ddd462d97667a3552c6e
"#;

    fn directory() -> BackupName {
        "base_backup_20261122_020000".parse().unwrap()
    }

    fn read(text: &str) -> Result<BackupInfo, RecordError> {
        BackupInfo::from_toml(text.as_bytes(), directory())
    }

    /// The message for the record with one change made to it.
    fn refusal(from: &str, to: &str) -> String {
        assert!(RECORD.contains(from), "{from}");
        read(&RECORD.replacen(from, to, 1)).unwrap_err().to_string()
    }

    #[test]
    fn a_record_is_written_as_it_was_read() {
        let info = read(RECORD).unwrap();
        assert_eq!(info.system_identifier, SystemIdentifier(17_439_122_314_155_001_234));
        assert_eq!(info.timeline.get(), 2);
        assert_eq!(info.stop_lsn, Lsn(0x300_0100));
        assert_eq!(info.tablespaces[0].location, "/srv/fast disk");
        let lines = &RECORD[..RECORD.find("# SHA-256").unwrap()];
        let lines = lines.replace(r#""before the \"migration\"""#, r#"'before the "migration"'"#);
        assert_eq!(info.to_toml(), with_digest(&lines));
        assert_eq!(read(&info.to_toml()), Ok(info));
    }

    #[test]
    fn a_record_of_another_format_is_refused_by_its_number_whatever_else_it_says() {
        for text in ["format = 7\n", "name = [\"all\", \"new\"]\nformat = 7\n[lsn]\nstart = 3\n"] {
            let error = read(text).unwrap_err();
            assert_eq!(error.to_string(), "backup_info.toml has format 7; this pgbak reads format 1");
            assert!(error.hint().unwrap().contains("upgrade"));
        }
    }

    #[test]
    fn keys_that_later_versions_add_are_passed_over() {
        let text = RECORD.replace("[[tablespaces]]", "[[tablespaces]]\nsize_bytes = 3");
        let text = text.replace("kind =", "encrypted_to = [\"age1…\"]\nkind =");
        let lines = &text[..text.find("# SHA-256").unwrap()];
        assert_eq!(read(&with_digest(lines)).unwrap(), read(RECORD).unwrap());
    }

    #[test]
    fn a_flip_of_any_bit_is_refused() {
        for (at, bit) in (0..RECORD.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut bytes = RECORD.as_bytes().to_vec();
            bytes[at] ^= 1 << bit;
            assert!(BackupInfo::from_toml(&bytes, directory()).is_err(), "bit {bit} of byte {at}");
        }
        let message = refusal("0/3000100", "0/3000101");
        assert!(message.contains("is not as it was written"), "{message}");
        let beneath = format!("{RECORD}# more\n");
        assert!(matches!(read(&beneath), Err(RecordError::Altered { .. })));
    }

    #[test]
    fn a_record_from_before_there_was_a_digest_is_read() {
        let without = &RECORD[..RECORD.find("# SHA-256").unwrap()];
        assert_eq!(read(without).unwrap(), read(RECORD).unwrap());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let name = "\"base_backup_20261122_020000\"";
        for (from, to, message) in [
            (
                name,
                "\"base_backup_20261122_020001\"",
                "is the record of base_backup_20261122_020001, but lies in base_backup_20261122_020000",
            ),
            (name, "\"latest\"", "line 2: \"latest\" is not the name of a base backup"),
            ("0/3000100", "0/3000027", "stopped at 0/3000027, before it started at 0/3000028"),
            ("0/3000100", "3000100", "line 10: \"3000100\" is not a WAL location"),
            ("timeline = 2", "timeline = 0", "line 8: 0 is not a timeline"),
            ("timeline = 2", "timeline = -1", "line 8: "),
            ("= 16777216", "= 16777217", "line 13: 16777217 is not a WAL segment size"),
            (
                "\"base.tar.zst\"",
                "\"../base.tar.zst\"",
                "\"../base.tar.zst\", which is not a plain file name",
            ),
            ("\"base.tar.zst\"", "\"..\"", "\"..\", which is not a plain file name"),
            ("\"base.tar.zst\"", "\"\"", "\"\", which is not a plain file name"),
            ("\"base.tar.zst\"", "\"a\\u0000b\"", "which is not a plain file name"),
            ("\"aaaa", "\"aaa", "as SHA-256 of \"base.tar.zst\""),
            ("\"aaaa", "\"Aaaa", "as SHA-256 of \"base.tar.zst\""),
            ("\"/srv/fast disk\"", "\"srv\"", "places the tablespace 16401 at \"srv\""),
            ("\"full\"", "\"incremental\"", "line 3: unknown variant `incremental`"),
            ("stop_lsn = \"0/3000100\"\n", "", "missing field `stop_lsn`"),
            ("format = 1\n", "", "missing field `format`"),
            ("label = ", "label = = ", "line 4: "),
        ] {
            let found = refusal(from, to);
            assert!(found.contains(message), "{found}");
            assert!(!found.contains('\n'), "{found}");
        }
        let second = &RECORD[RECORD.find("[[files]]").unwrap()..];
        let second_file = &second[..second.find("[[tablespaces]]").unwrap()];
        assert!(refusal("[[files]]", &format!("{second_file}[[files]]")).contains("twice"));
        let second_space = &second[second.find("[[tablespaces]]").unwrap()..];
        assert!(refusal("[[tablespaces]]", &format!("{second_space}[[tablespaces]]")).contains("twice"));
    }

    proptest! {
        #[test]
        fn no_mutilation_makes_it_panic(at: prop::sample::Index, cut: bool, byte: char) {
            let at = at.index(RECORD.len());
            let tail = if cut { "" } else { &RECORD[at + 1..] };
            let _ = read(&format!("{}{byte}{tail}", &RECORD[..at]));
        }
    }
}
