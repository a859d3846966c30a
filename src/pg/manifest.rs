//! `backup_manifest`: which files a base backup has, how long they are, and their checksums.
//!
//! Follows PostgreSQL `src/backend/backup/backup_manifest.c`, which writes it, and `src/common/parse_manifest.c`,
//! which reads it. It is JSON; version 1 is of PostgreSQL 13 to 16, version 2 (with System-Identifier) of 17 on:
//!
//! ```text
//! { "PostgreSQL-Backup-Manifest-Version": 2,
//! "System-Identifier": 7575537142311570123,
//! "Files": [
//! { "Path": "backup_label", "Size": 227, "Last-Modified": "2026-11-22 17:59:04 GMT",
//!   "Checksum-Algorithm": "CRC32C", "Checksum": "a8ef0c4c" },
//! { "Encoded-Path": "62617365…", … }
//! ],
//! "WAL-Ranges": [
//! { "Timeline": 1, "Start-LSN": "0/12000028", "End-LSN": "0/12000100" }
//! ],
//! "Manifest-Checksum": "2709c526…"}
//! ```
//!
//! (Each file is one line there.) A path that is not UTF-8 is given in hexadecimal. Manifest-Checksum is last, and is
//! the SHA-256 of every line but the last.
//!
//! What holds for every [`ManifestFile`]: its path is relative, and none of its components is empty, `.` or `..`, so
//! that it cannot lead out of a data directory.

use std::cell::Cell;
use std::collections::HashMap;
use std::collections::hash_map;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, BufReader, Read};
use std::mem;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use sha2::{Digest, Sha256};

use super::manifest_checksum::{Checksum, ChecksumAlgorithm, bytes_of_hex};
use super::{Lsn, SystemIdentifier, Timeline};

/// More than any file's or WAL range's entry has: a path of 4096 bytes in hexadecimal takes 8 KiB.
const ENTRY_BYTES_MAX: usize = 64 << 10;

/// More than any backup has: a timeline for each promotion that it saw.
const WAL_RANGES_MAX: usize = 10_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestFile {
    /// Below the data directory; a tablespace's files are below `pg_tblspc/OID`.
    pub path: OsString,
    pub size_bytes: u64,
    /// `None` when the backup was taken without checksums.
    pub checksum: Option<Checksum>,
}

impl ManifestFile {
    /// The file's CRC-32C, if that is the checksum that its manifest gives.
    pub fn crc32c(&self) -> Option<u32> {
        self.checksum.as_ref()?.crc32c()
    }
}

/// The WAL that the backup needs: from `start` to `end` on `timeline`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalRange {
    pub timeline: Timeline,
    pub start: Lsn,
    pub end: Lsn,
}

/// What a manifest says beside its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestEnd {
    pub version: u64,
    /// From version 2 on.
    pub system_identifier: Option<SystemIdentifier>,
    /// The newest timeline first, as the server writes them.
    pub wal_ranges: Vec<WalRange>,
}

/// A whole manifest in memory.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// By path.
    pub files: HashMap<OsString, ManifestFile>,
    pub end: ManifestEnd,
}

#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("could not read the backup manifest: {0}")]
    Io(#[source] io::Error),

    #[error("the backup manifest ends in the middle: {0}")]
    Truncated(#[source] serde_json::Error),

    #[error("the backup manifest is malformed: {0}")]
    Malformed(#[source] serde_json::Error),

    #[error("the backup manifest has an entry of more than {ENTRY_BYTES_MAX} bytes")]
    EntryTooLong,

    #[error("the backup manifest's last line does not end, or is its only one")]
    NoLastLine,

    #[error("the backup manifest's checksum is {found}, but the manifest says {expected}")]
    WrongChecksum { expected: String, found: String },

    #[error("the backup manifest names {} twice", .0.display())]
    Duplicate(OsString),
}

impl ManifestError {
    /// What the user can do about it: one or more full sentences.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Io(_) => None,
            _ => Some(
                "The file was damaged or changed after the server wrote it. Use another copy of this backup, or \
                 another backup."
                    .into(),
            ),
        }
    }
}

/// Reads a manifest of any size and hands each file to `on_file` as it goes by, without keeping it.
///
/// Only the `Ok` at the end says that the manifest is whole and as the server wrote it: until then, what was handed
/// over may be damaged. That no path comes twice is for the caller to see, who knows which are still to come.
/// The first error that `on_file` returns ends the reading.
pub fn read<E: From<ManifestError>>(
    reader: &mut dyn Read,
    on_file: &mut dyn FnMut(ManifestFile) -> Result<(), E>,
) -> Result<ManifestEnd, E> {
    let mut lines = LineDigest::new(reader);
    let budget_bytes = Cell::new(ENTRY_BYTES_MAX);
    let mut refusal = None;
    let mut on_file = |file| {
        on_file(file).map_err(|error| {
            refusal = Some(error);
            serde_json::Error::custom("refused by the caller")
        })
    };
    let mut parse = || {
        let reader =
            Bounded { reader: BufReader::with_capacity(64 << 10, &mut lines), budget_bytes: &budget_bytes };
        let mut json = serde_json::Deserializer::from_reader(reader);
        let document = Document { on_file: &mut on_file, budget_bytes: &budget_bytes };
        let parsed = json.deserialize_map(document)?;
        json.end()?;
        Ok(parsed)
    };
    let parsed: Result<_, serde_json::Error> = parse();
    if let Some(refusal) = refusal {
        return Err(refusal);
    }
    let (end, expected) = parsed.map_err(|error| match () {
        () if budget_bytes.get() == 0 => ManifestError::EntryTooLong,
        () if error.is_io() => ManifestError::Io(error.into()),
        () if error.is_eof() => ManifestError::Truncated(error),
        () => ManifestError::Malformed(error),
    })?;
    let found = lines.finish()?;
    if bytes_of_hex(&expected).is_none_or(|bytes| bytes != found) {
        let found = found.iter().map(|byte| format!("{byte:02x}")).collect();
        return Err(ManifestError::WrongChecksum { expected, found }.into());
    }
    Ok(end)
}

impl Manifest {
    pub fn parse(mut bytes: &[u8]) -> Result<Self, ManifestError> {
        let mut files = HashMap::new();
        let end = read(&mut bytes, &mut |file: ManifestFile| match files.entry(file.path.clone()) {
            hash_map::Entry::Occupied(_) => Err(ManifestError::Duplicate(file.path)),
            hash_map::Entry::Vacant(vacant) => {
                vacant.insert(file);
                Ok(())
            }
        })?;
        Ok(Self { files, end })
    }
}

type OnFile<'a> = &'a mut dyn FnMut(ManifestFile) -> Result<(), serde_json::Error>;

/// The manifest as a whole; yields what it says beside its files, and its own checksum.
struct Document<'a> {
    on_file: OnFile<'a>,
    budget_bytes: &'a Cell<usize>,
}

impl<'de> Visitor<'de> for Document<'_> {
    type Value = (ManifestEnd, String);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a backup manifest")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let version_key = "PostgreSQL-Backup-Manifest-Version";
        if map.next_key::<String>()?.as_deref() != Some(version_key) {
            return Err(A::Error::custom(format!("it does not begin with \"{version_key}\"")));
        }
        let version = map.next_value()?;
        if !matches!(version, 1 | 2) {
            return Err(A::Error::custom(format!("it has version {version}, and only 1 and 2 are known")));
        }
        let (mut system_identifier, mut files, mut wal_ranges, mut checksum) = (None, None, None, None);
        while let Some(key) = map.next_key::<String>()? {
            let again = match key.as_str() {
                _ if checksum.is_some() => return Err(A::Error::custom("Manifest-Checksum is not last")),
                "System-Identifier" => system_identifier.replace(map.next_value()?).is_some(),
                "Files" => {
                    let each = Each { on_entry: &mut *self.on_file, budget_bytes: self.budget_bytes };
                    files.replace(map.next_value_seed(each)?).is_some()
                }
                "WAL-Ranges" => wal_ranges.replace(self.wal_ranges(&mut map)?).is_some(),
                "Manifest-Checksum" => checksum.replace(map.next_value()?).is_some(),
                _ => return Err(A::Error::custom(format!("unknown field {key:?}"))),
            };
            if again {
                return Err(A::Error::custom(format!("{key} is there twice")));
            }
        }
        let missing = |field| move || A::Error::custom(format!("{field} is missing"));
        files.ok_or_else(missing("Files"))?;
        if version >= 2 && system_identifier.is_none() {
            return Err(missing("System-Identifier")());
        }
        let end = ManifestEnd {
            version,
            system_identifier: system_identifier.map(SystemIdentifier),
            wal_ranges: wal_ranges.ok_or_else(missing("WAL-Ranges"))?,
        };
        Ok((end, checksum.ok_or_else(missing("Manifest-Checksum"))?))
    }
}

impl Document<'_> {
    fn wal_ranges<'de, A: MapAccess<'de>>(&self, map: &mut A) -> Result<Vec<WalRange>, A::Error> {
        let mut ranges = Vec::new();
        let mut keep = |range| {
            if ranges.len() == WAL_RANGES_MAX {
                return Err(serde_json::Error::custom("too many WAL ranges"));
            }
            ranges.push(range);
            Ok(())
        };
        map.next_value_seed(Each { on_entry: &mut keep, budget_bytes: self.budget_bytes })?;
        Ok(ranges)
    }
}

/// A list whose entries are handed over one by one; each has its own budget of bytes.
struct Each<'a, T> {
    on_entry: &'a mut dyn FnMut(T) -> Result<(), serde_json::Error>,
    budget_bytes: &'a Cell<usize>,
}

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for Each<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Each<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(entry) = seq.next_element()? {
            (self.on_entry)(entry).map_err(A::Error::custom)?;
            self.budget_bytes.set(ENTRY_BYTES_MAX);
        }
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct FileEntry {
    path: Option<String>,
    #[serde(rename = "Encoded-Path")]
    encoded_path: Option<String>,
    size: u64,
    #[serde(rename = "Last-Modified")]
    _last_modified: Option<IgnoredAny>,
    #[serde(rename = "Checksum-Algorithm")]
    algorithm: Option<String>,
    checksum: Option<String>,
}

impl<'de> Deserialize<'de> for ManifestFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        FileEntry::deserialize(deserializer)?.check().map_err(D::Error::custom)
    }
}

impl FileEntry {
    fn check(self) -> Result<ManifestFile, String> {
        let path = match (self.path, self.encoded_path) {
            (Some(path), None) => OsString::from(path),
            (None, Some(digits)) => {
                let bytes = bytes_of_hex(&digits);
                OsString::from_vec(bytes.ok_or_else(|| format!("{digits:?} is not a path in hexadecimal"))?)
            }
            (None, None) => return Err("a file without a path".into()),
            (Some(path), Some(_)) => return Err(format!("file {path:?} has two paths")),
        };
        if !stays_inside(&path) {
            return Err(format!("file {path:?} does not have a plain relative path"));
        }
        let checksum = match (self.algorithm.as_deref(), self.checksum.as_deref()) {
            (None, None) => None,
            (Some(none), None | Some("")) if none.eq_ignore_ascii_case("NONE") => None,
            (Some(name), Some(digits)) => {
                let algorithm: ChecksumAlgorithm =
                    name.parse().map_err(|error| format!("file {path:?}: {error}"))?;
                let checksum = Checksum::from_hex(algorithm, digits);
                Some(checksum.ok_or_else(|| format!("file {path:?}: {digits:?} is not a {name} checksum"))?)
            }
            _ => {
                return Err(format!(
                    "file {path:?} has a checksum without its algorithm, or the other way round"
                ));
            }
        };
        Ok(ManifestFile { path, size_bytes: self.size, checksum })
    }
}

fn stays_inside(path: &OsStr) -> bool {
    path.as_bytes()
        .split(|&byte| byte == b'/')
        .all(|component| !matches!(component, b"" | b"." | b"..") && !component.contains(&0))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WalRangeEntry {
    #[serde(rename = "Timeline")]
    timeline: u32,
    #[serde(rename = "Start-LSN")]
    start: String,
    #[serde(rename = "End-LSN")]
    end: String,
}

impl<'de> Deserialize<'de> for WalRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let entry = WalRangeEntry::deserialize(deserializer)?;
        let timeline = Timeline::new(entry.timeline).ok_or_else(|| D::Error::custom("a timeline 0"))?;
        let start = entry.start.parse().map_err(D::Error::custom)?;
        let end = entry.end.parse().map_err(D::Error::custom)?;
        if start > end {
            return Err(D::Error::custom(format!(
                "a WAL range that ends at {end}, before its start {start}"
            )));
        }
        Ok(Self { timeline, start, end })
    }
}

/// Ends the reading when an entry takes more bytes than it can need, so that no string grows without a bound.
struct Bounded<'a, R> {
    reader: R,
    budget_bytes: &'a Cell<usize>,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let budget = self.budget_bytes.get();
        if budget == 0 {
            return Err(io::Error::other("an entry without an end"));
        }
        let allowed = buffer.len().min(budget);
        let count = self.reader.read(&mut buffer[..allowed])?;
        self.budget_bytes.set(budget - count);
        Ok(count)
    }
}

/// The SHA-256 of all lines but the last, whichever that will turn out to be.
struct LineDigest<'a> {
    reader: &'a mut dyn Read,
    so_far: Sha256,
    /// Up to the last newline, and up to the one before it.
    newest: Sha256,
    before_newest: Sha256,
    lines: u64,
    ends_in_newline: bool,
}

impl<'a> LineDigest<'a> {
    fn new(reader: &'a mut dyn Read) -> Self {
        let empty = Sha256::new;
        let (so_far, newest, before_newest) = (empty(), empty(), empty());
        Self { reader, so_far, newest, before_newest, lines: 0, ends_in_newline: false }
    }

    fn finish(self) -> Result<Vec<u8>, ManifestError> {
        match self.lines >= 2 && self.ends_in_newline {
            true => Ok(self.before_newest.finalize().to_vec()),
            false => Err(ManifestError::NoLastLine),
        }
    }
}

impl Read for LineDigest<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        for line in buffer[..count].split_inclusive(|&byte| byte == b'\n') {
            self.so_far.update(line);
            self.ends_in_newline = line.ends_with(b"\n");
            if self.ends_in_newline {
                self.lines += 1;
                self.before_newest = mem::replace(&mut self.newest, self.so_far.clone());
            }
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Written by PostgreSQL 15.18 and 18.6 (`pg_basebackup -Ft -X fetch`); the encoded one with
    /// `--manifest-force-encode`.
    fn real(name: &str) -> Vec<u8> {
        let compressed: &[u8] = match name {
            "15" => include_bytes!("testdata/backup_manifest-15.zst"),
            "15-encoded" => include_bytes!("testdata/backup_manifest-15-encoded.zst"),
            "18" => include_bytes!("testdata/backup_manifest-18.zst"),
            _ => panic!("no fixture {name}"),
        };
        zstd::decode_all(compressed).unwrap()
    }

    /// Ends `lines` as the server does, with the checksum that makes them whole.
    fn signed(lines: &str) -> Vec<u8> {
        let digest: String = Sha256::digest(lines).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{lines}\"Manifest-Checksum\": \"{digest}\"}}\n").into_bytes()
    }

    fn with_files(files: &str) -> Vec<u8> {
        signed(&format!(
            "{{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n{files}],\n\"WAL-Ranges\": [\n\
             {{ \"Timeline\": 1, \"Start-LSN\": \"0/28\", \"End-LSN\": \"0/100\" }}\n],\n"
        ))
    }

    fn refusal(manifest: &[u8]) -> String {
        Manifest::parse(manifest).expect_err("this must be refused").to_string()
    }

    #[test]
    fn reads_what_servers_write() {
        let manifest = Manifest::parse(&real("15")).unwrap();
        assert_eq!(manifest.files.len(), 980);
        assert_eq!((manifest.end.version, manifest.end.system_identifier), (1, None));
        let range = WalRange { timeline: Timeline::FIRST, start: Lsn(0x1200_0028), end: Lsn(0x1200_0100) };
        assert_eq!(manifest.end.wal_ranges, [range]);
        let label = &manifest.files[OsStr::new("backup_label")];
        assert_eq!(label.size_bytes, 227);
        assert_eq!(label.checksum.as_ref().unwrap().to_string(), "CRC32C a8ef0c4c");

        let newer = Manifest::parse(&real("18")).unwrap();
        assert_eq!(newer.end.version, 2);
        assert_eq!(newer.end.system_identifier, Some(SystemIdentifier(7_711_059_041_355_033_155)));
    }

    #[test]
    fn encoded_paths_are_the_same_paths() {
        let (plain, encoded) =
            (Manifest::parse(&real("15")).unwrap(), Manifest::parse(&real("15-encoded")).unwrap());
        let table = OsStr::new("pg_tblspc/16384/PG_15_202209061/5/16385");
        assert_eq!(plain.files[table].checksum, encoded.files[table].checksum);
    }

    #[test]
    fn a_changed_byte_anywhere_is_noticed() {
        let whole = real("15");
        for position in (0..whole.len()).step_by(997).chain(whole.len() - 90..whole.len()) {
            let mut damaged = whole.clone();
            damaged[position] ^= 0x01;
            assert!(Manifest::parse(&damaged).is_err(), "byte {position}");
        }
        for length in (0..whole.len()).step_by(9973).chain([whole.len() - 1]) {
            assert!(Manifest::parse(&whole[..length]).is_err(), "cut at {length}");
        }
        assert!(matches!(Manifest::parse(&whole[..whole.len() / 2]), Err(ManifestError::Truncated(_))));
    }

    #[test]
    fn checksums_are_optional_and_of_any_algorithm() {
        let sha224 = "0".repeat(56);
        let manifest = Manifest::parse(&with_files(&format!(
            "{{ \"Path\": \"none\", \"Size\": 1, \"Last-Modified\": \"2026-11-22 17:59:04 GMT\" }},\n\
             {{ \"Path\": \"sha\", \"Size\": 2, \"Checksum-Algorithm\": \"SHA224\", \"Checksum\": \"{sha224}\" }}\n"
        )))
        .unwrap();
        assert_eq!(manifest.files[OsStr::new("none")].checksum, None);
        let checksum = manifest.files[OsStr::new("sha")].checksum.as_ref().unwrap();
        assert_eq!(checksum.algorithm(), ChecksumAlgorithm::Sha224);
    }

    #[test]
    fn what_no_server_writes_is_refused_by_name() {
        for (file, said) in [
            (r#"{ "Size": 1 }"#, "without a path"),
            (r#"{ "Path": "a" }"#, "missing field `Size`"),
            (r#"{ "Path": "a", "Size": -1 }"#, "invalid value"),
            (r#"{ "Path": "a", "Size": 1, "Colour": 2 }"#, "Colour"),
            (r#"{ "Path": "a", "Encoded-Path": "61", "Size": 1 }"#, "two paths"),
            (r#"{ "Encoded-Path": "6", "Size": 1 }"#, "hexadecimal"),
            (r#"{ "Path": "a", "Size": 1, "Checksum": "00000000" }"#, "without its algorithm"),
            (r#"{ "Path": "a", "Size": 1, "Checksum-Algorithm": "CRC32C" }"#, "without its algorithm"),
            (r#"{ "Path": "a", "Size": 1, "Checksum-Algorithm": "MD5", "Checksum": "00" }"#, "MD5"),
            (
                r#"{ "Path": "a", "Size": 1, "Checksum-Algorithm": "CRC32C", "Checksum": "00" }"#,
                "not a CRC32C",
            ),
            (r#"{ "Path": "a", "Size": 1 }, { "Path": "a", "Size": 1 }"#, "names a twice"),
            (r#"{ "Path": "a", "Size": 1 }, { "Encoded-Path": "61", "Size": 1 }"#, "names a twice"),
        ] {
            let refusal = refusal(&with_files(file));
            assert!(refusal.contains(said), "{file}: {refusal}");
        }
        let future =
            signed("{ \"PostgreSQL-Backup-Manifest-Version\": 3,\n\"Files\": [],\n\"WAL-Ranges\": [],\n");
        assert!(refusal(&future).contains("version 3"), "{}", refusal(&future));
        let partly = signed("{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [],\n");
        assert!(refusal(&partly).contains("WAL-Ranges is missing"), "{}", refusal(&partly));
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for path in ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "./a", "a/./b", "a\\u0000"] {
            let refusal = refusal(&with_files(&format!("{{ \"Path\": \"{path}\", \"Size\": 1 }}\n")));
            assert!(refusal.contains("plain relative path"), "{path}: {refusal}");
        }
    }

    #[test]
    fn an_entry_without_an_end_is_not_read_to_its_end() {
        let endless = with_files(&format!("{{ \"Path\": \"{}\", \"Size\": 1 }}\n", "x".repeat(1 << 20)));
        let mut reader = &endless[..];
        let outcome = read::<ManifestError>(&mut reader, &mut |_| Ok(()));
        assert!(matches!(outcome, Err(ManifestError::EntryTooLong)), "{outcome:?}");
        assert!(reader.len() > endless.len() / 2, "it stopped early");
    }

    #[test]
    fn the_callers_refusal_ends_the_reading() {
        let mut seen = 0;
        let outcome = read(&mut &real("15")[..], &mut |_| {
            seen += 1;
            if seen == 3 { Err(io::Error::other("enough").into()) } else { Ok(()) }
        });
        assert!(matches!(outcome, Err(Refused(error)) if error.to_string() == "enough"));
        assert_eq!(seen, 3);
    }

    #[derive(Debug)]
    struct Refused(io::Error);

    impl From<io::Error> for Refused {
        fn from(error: io::Error) -> Self {
            Self(error)
        }
    }

    impl From<ManifestError> for Refused {
        fn from(error: ManifestError) -> Self {
            panic!("{error}");
        }
    }

    fn paths() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec("[^/\0]{1,8}", 1..4)
            .prop_map(|components| components.join("/").into_bytes())
            .prop_filter("plain", |path| stays_inside(OsStr::from_bytes(path)))
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            prop_assert!(Manifest::parse(&bytes).is_err());
        }

        #[test]
        fn any_path_and_size_come_back(files in prop::collection::hash_map(paths(), any::<u64>(), 0..20)) {
            let lines: Vec<String> = files
                .iter()
                .enumerate()
                .map(|(i, (path, size))| {
                    let text = std::str::from_utf8(path).unwrap();
                    let path = match i % 2 {
                        0 => format!("\"Path\": {}", serde_json::to_string(text).unwrap()),
                        _ => format!("\"Encoded-Path\": \"{}\"", path.iter().map(|b| format!("{b:02x}")).collect::<String>()),
                    };
                    format!("{{ {path}, \"Size\": {size} }}")
                })
                .collect();
            let manifest = Manifest::parse(&with_files(&lines.join(",\n"))).unwrap();
            prop_assert_eq!(manifest.files.len(), files.len());
            for (path, size_bytes) in &files {
                prop_assert_eq!(manifest.files[OsStr::from_bytes(path)].size_bytes, *size_bytes);
            }
        }
    }
}
