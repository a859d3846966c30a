//! A base backup as a stream of events, the same for every version of the server.
//!
//! Follows PostgreSQL's documentation, "Streaming Replication Protocol" (`BASE_BACKUP`), and
//! `src/backend/backup/basebackup_copy.c`. What the server sends after the start location and the tablespaces:
//!
//! ```text
//! 13, 14:  { CopyOut, tar bytes, CopyDone }  one for each tablespace, the base directory's last
//!          CopyOut, manifest, CopyDone
//! from 15: CopyOut, { "n" archive's name, { "d" tar bytes } }, "m", { "d" manifest }, CopyDone
//!          with "p" (progress) anywhere in between
//! both:    stop location, then CommandComplete and ReadyForQuery, or an error
//! ```
//!
//! 13 and 14 leave the two blocks of zeros that end a tar archive to the client. They are added here, so that every
//! archive is whole.
//!
//! A page whose checksum fails does not fail the backup: the server sends everything, names the page in a warning,
//! and only after the stop location ends with an error. That error is part of [`BackupEnd`]; any other fails.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use super::connection::Connection;
use super::error::{Cause, Error, Result};
use super::messages::{Fields, ServerMessage};
use super::rows::Row;
use crate::pg::{Lsn, ServerVersion, Timeline};

const ATTEMPTED: &str = "take a base backup from";
/// Once the data flows. Before that, a checkpoint may take its time, and only TCP's keepalives watch the server.
const DATA_PATIENCE: Duration = Duration::from_secs(600);
const TAR_END: [u8; 1024] = [0; 1024];
const KIB: u64 = 1024;

#[derive(Debug, Clone)]
pub struct BaseBackupOptions {
    /// What `backup_label` will say; at most 1023 bytes.
    pub label: String,
    pub checkpoint: CheckpointMode,
    /// The server sends no faster; at least 32 KiB. More than 1 GiB counts as 1 GiB.
    pub max_rate_bytes_per_second: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointMode {
    /// At once.
    Fast,
    /// As slowly as the server's own.
    Spread,
}

/// A directory of the cluster that becomes one archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tablespace {
    /// `None` is the data directory itself.
    pub oid: Option<u32>,
    pub location: Option<PathBuf>,
    pub size_bytes_estimate: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupEvent<'a> {
    /// A tar archive begins: of the tablespace with this object identifier, or of the data directory.
    ArchiveStarts {
        tablespace: Option<u32>,
    },
    ArchiveData(&'a [u8]),
    ManifestStarts,
    ManifestData(&'a [u8]),
    Ends(BackupEnd),
}

/// The backup is complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupEnd {
    /// Recovery has to reach this location.
    pub stop_lsn: Lsn,
    pub timeline: Timeline,
    /// What the server had to say on the way; damaged pages are named here.
    pub notices: Vec<ServerMessage>,
    /// The server's words when pages failed their checksums.
    pub checksum_failure: Option<String>,
}

/// A base backup under way. Dropping it before the end breaks it off, and the connection with it.
#[must_use = "the server waits until its data is received"]
pub struct BaseBackup<'a> {
    connection: &'a mut Connection,
    start: Position,
    tablespaces: Vec<Tablespace>,
    has_typed_messages: bool,
    phase: Phase,
    part: Part,
    /// With a copy for each archive: how many have begun.
    archives_begun: usize,
    stop: Option<Position>,
    checksum_failure: Option<String>,
}

#[derive(Debug, Clone, Copy)]
struct Position {
    lsn: Lsn,
    timeline: Timeline,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Before, between and after copies.
    Between,
    InCopy,
    Ended,
}

/// What the bytes that come belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Nothing,
    Archive,
    Manifest,
}

impl<'a> BaseBackup<'a> {
    pub(super) fn begin(connection: &'a mut Connection, options: &BaseBackupOptions) -> Result<Self> {
        let version = connection.version();
        connection.take_notices();
        connection.begin(&command(version, options)?)?;
        let (start, tablespaces) = match receive_header(connection) {
            Ok(header) => header,
            Err(error) => {
                connection.recover(&error);
                return Err(error);
            }
        };
        Ok(Self {
            connection,
            start,
            tablespaces,
            has_typed_messages: version.major() >= 15,
            phase: Phase::Between,
            part: Part::Nothing,
            archives_begun: 0,
            stop: None,
            checksum_failure: None,
        })
    }

    /// Where recovery from this backup has to start.
    pub fn start_lsn(&self) -> Lsn {
        self.start.lsn
    }

    pub fn timeline(&self) -> Timeline {
        self.start.timeline
    }

    /// In the order of their archives: the data directory comes last.
    pub fn tablespaces(&self) -> &[Tablespace] {
        &self.tablespaces
    }

    /// What comes next; after [`BackupEvent::Ends`] nothing does, and it is a mistake to ask.
    #[expect(
        clippy::should_implement_trait,
        reason = "an event borrows from the stream, an iterator's item cannot"
    )]
    pub fn next(&mut self) -> Result<BackupEvent<'_>> {
        assert!(self.phase != Phase::Ended, "a base backup that has ended has no more events");
        loop {
            let message = match self.connection.expect(ATTEMPTED, Some(DATA_PATIENCE)) {
                Ok(message) => message,
                Err(error) => {
                    self.keep_checksum_failure(error)?;
                    continue;
                }
            };
            match (self.phase, message.tag) {
                (Phase::InCopy, b'd') => {
                    let Some(event) = self.copied(self.connection.body(&message))? else { continue };
                    let (part, skipped) = match event {
                        Copied::Data { skipped } => (self.part, skipped),
                        Copied::ArchiveStarts { tablespace } => {
                            self.part = Part::Archive;
                            return Ok(BackupEvent::ArchiveStarts { tablespace });
                        }
                        Copied::ManifestStarts => {
                            self.part = Part::Manifest;
                            return Ok(BackupEvent::ManifestStarts);
                        }
                    };
                    let data = &self.connection.body(&message)[skipped..];
                    return match part {
                        Part::Archive => Ok(BackupEvent::ArchiveData(data)),
                        Part::Manifest => Ok(BackupEvent::ManifestData(data)),
                        Part::Nothing => Err(self.connection.protocol("data that belongs to no archive")),
                    };
                }
                (Phase::InCopy, b'c') => {
                    self.phase = Phase::Between;
                    if self.part == Part::Archive && !self.has_typed_messages {
                        return Ok(BackupEvent::ArchiveData(&TAR_END));
                    }
                }
                (Phase::Between, b'H') => {
                    self.phase = Phase::InCopy;
                    if !self.has_typed_messages {
                        return Ok(self.begin_copy());
                    }
                }
                (Phase::Between, b'D') => {
                    let row = Row::read(self.connection.body(&message), self.connection.server())?;
                    self.stop = Some(position(&row)?);
                }
                (Phase::Between, b'T' | b'C') => {}
                (Phase::Between, b'Z') => return self.end(),
                (_, tag) => return Err(self.connection.unexpected(tag)),
            }
        }
    }

    /// With a copy for each archive: which one begins.
    fn begin_copy(&mut self) -> BackupEvent<'static> {
        match self.tablespaces.get(self.archives_begun) {
            Some(tablespace) => {
                self.archives_begun += 1;
                self.part = Part::Archive;
                BackupEvent::ArchiveStarts { tablespace: tablespace.oid }
            }
            None => {
                self.part = Part::Manifest;
                BackupEvent::ManifestStarts
            }
        }
    }

    fn copied(&self, body: &[u8]) -> Result<Option<Copied>> {
        match self.has_typed_messages {
            true => typed(body).map_err(|found| self.connection.protocol(found)),
            false => Ok(Some(Copied::Data { skipped: 0 })),
        }
    }

    /// Lets the one error pass that is a finding: everything was sent, and some pages are damaged.
    fn keep_checksum_failure(&mut self, error: Error) -> Result<()> {
        match error {
            Error::Rejected { cause: Cause::PageChecksum, message, .. } if self.stop.is_some() => {
                self.checksum_failure = Some(message.message);
                Ok(())
            }
            error => {
                self.connection.recover(&error);
                Err(error)
            }
        }
    }

    fn end(&mut self) -> Result<BackupEvent<'static>> {
        let Some(stop) = self.stop else {
            return Err(self.connection.protocol("a backup's end without its stop location"));
        };
        self.phase = Phase::Ended;
        self.connection.done();
        Ok(BackupEvent::Ends(BackupEnd {
            stop_lsn: stop.lsn,
            timeline: stop.timeline,
            notices: self.connection.take_notices(),
            checksum_failure: self.checksum_failure.take(),
        }))
    }
}

/// What a message within a copy says.
#[derive(Debug, PartialEq, Eq)]
enum Copied {
    ArchiveStarts {
        tablespace: Option<u32>,
    },
    ManifestStarts,
    /// The body's bytes but the first `skipped`.
    Data {
        skipped: usize,
    },
}

/// Reads a message of 15's kind; `Ok(None)` is one that does not matter.
fn typed(body: &[u8]) -> std::result::Result<Option<Copied>, String> {
    let malformed = |_| "a malformed message within a base backup".to_owned();
    let mut fields = Fields::new(body);
    match fields.u8().map_err(malformed)? {
        b'd' => Ok(Some(Copied::Data { skipped: 1 })),
        b'n' => {
            let name = String::from_utf8_lossy(fields.text().map_err(malformed)?);
            let tablespace = match name.as_ref() {
                "base.tar" => None,
                name => {
                    let oid = name.strip_suffix(".tar").and_then(|oid| oid.parse().ok());
                    Some(oid.ok_or_else(|| format!("an archive of the name \"{name}\""))?)
                }
            };
            Ok(Some(Copied::ArchiveStarts { tablespace }))
        }
        b'm' => Ok(Some(Copied::ManifestStarts)),
        b'p' => Ok(None),
        kind => Err(format!("a message of the kind \"{}\" within a base backup", kind.escape_ascii())),
    }
}

/// The start location and the tablespaces: two results, up to the first copy.
fn receive_header(connection: &mut Connection) -> Result<(Position, Vec<Tablespace>)> {
    let mut results: Vec<Vec<Row>> = Vec::new();
    // Each result ends with CommandComplete, so the second one's end is the header's.
    let mut completed = 0;
    while completed < 2 {
        let message = connection.expect(ATTEMPTED, None)?;
        match (message.tag, results.last_mut()) {
            (b'T', _) => results.push(Vec::new()),
            (b'D', Some(rows)) => rows.push(Row::read(connection.body(&message), connection.server())?),
            (b'C', Some(_)) => completed += 1,
            (tag, _) => return Err(connection.unexpected(tag)),
        }
    }
    match &results[..] {
        [start, tablespaces] if start.len() == 1 && !tablespaces.is_empty() => {
            let tablespaces = tablespaces.iter().map(tablespace).collect::<Result<_>>()?;
            Ok((position(&start[0])?, tablespaces))
        }
        _ => Err(connection.protocol("a base backup without start location or tablespaces")),
    }
}

fn position(row: &Row) -> Result<Position> {
    Ok(Position { lsn: row.value(0, "WAL location")?, timeline: row.value(1, "timeline")? })
}

fn tablespace(row: &Row) -> Result<Tablespace> {
    let location = row.bytes(1)?.map(|bytes| PathBuf::from(OsStr::from_bytes(bytes)));
    let size_kib: Option<u64> = row.optional(2, "a tablespace's size")?;
    Ok(Tablespace {
        oid: row.optional(0, "a tablespace's object identifier")?,
        location,
        size_bytes_estimate: size_kib.map(|kib| kib.saturating_mul(KIB)),
    })
}

/// `BASE_BACKUP` as the server's version spells it.
fn command(version: ServerVersion, options: &BaseBackupOptions) -> Result<String> {
    let label = quoted_label(&options.label)?;
    let rate = options.max_rate_bytes_per_second.map(rate_kib).transpose()?;
    if version.major() >= 15 {
        let checkpoint = match options.checkpoint {
            CheckpointMode::Fast => "fast",
            CheckpointMode::Spread => "spread",
        };
        let rate = rate.map(|kib| format!("MAX_RATE {kib}, ")).unwrap_or_default();
        return Ok(format!(
            "BASE_BACKUP (LABEL {label}, PROGRESS, CHECKPOINT '{checkpoint}', WAIT false, {rate}TABLESPACE_MAP, \
             VERIFY_CHECKSUMS true, MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C')"
        ));
    }
    let checkpoint = match options.checkpoint {
        CheckpointMode::Fast => "FAST ",
        CheckpointMode::Spread => "",
    };
    let rate = rate.map(|kib| format!("MAX_RATE {kib} ")).unwrap_or_default();
    Ok(format!(
        "BASE_BACKUP LABEL {label} PROGRESS {checkpoint}NOWAIT {rate}TABLESPACE_MAP MANIFEST 'yes' \
         MANIFEST_CHECKSUMS 'CRC32C'"
    ))
}

/// Kibibytes per second, as the protocol counts. Follows `MAX_RATE_LOWER` and `MAX_RATE_UPPER` in
/// `src/include/backup/basebackup.h`.
fn rate_kib(bytes_per_second: u64) -> Result<u64> {
    match bytes_per_second / KIB {
        0..32 => Err(Error::InvalidArgument {
            what: "the rate of a base backup",
            value: format!("{bytes_per_second} bytes per second"),
            expected: "it is at least 32768 bytes per second",
        }),
        kib => Ok(kib.min(1 << 20)),
    }
}

fn quoted_label(label: &str) -> Result<String> {
    // The label is a line of backup_label.
    if label.len() > 1023 || label.contains(['\0', '\n', '\r']) {
        return Err(Error::InvalidArgument {
            what: "the label of a base backup",
            value: format!("\"{}\"", label.escape_debug()),
            expected: "it is one line of at most 1023 bytes",
        });
    }
    Ok(format!("'{}'", label.replace('\'', "''")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn options() -> BaseBackupOptions {
        BaseBackupOptions {
            label: "it's".to_owned(),
            checkpoint: CheckpointMode::Fast,
            max_rate_bytes_per_second: Some(200_000_000),
        }
    }

    #[test]
    fn the_command_is_spelled_as_the_version_wants_it() {
        assert_eq!(
            command(ServerVersion(150_000), &options()).unwrap(),
            "BASE_BACKUP (LABEL 'it''s', PROGRESS, CHECKPOINT 'fast', WAIT false, MAX_RATE 195312, TABLESPACE_MAP, \
             VERIFY_CHECKSUMS true, MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C')"
        );
        assert_eq!(
            command(ServerVersion(140_020), &options()).unwrap(),
            "BASE_BACKUP LABEL 'it''s' PROGRESS FAST NOWAIT MAX_RATE 195312 TABLESPACE_MAP MANIFEST 'yes' \
             MANIFEST_CHECKSUMS 'CRC32C'"
        );
    }

    #[test]
    fn rates_are_kept_within_what_the_protocol_knows() {
        assert!(rate_kib(32 * KIB - 1).is_err());
        assert_eq!(rate_kib(32 * KIB).unwrap(), 32);
        assert_eq!(rate_kib(u64::MAX).unwrap(), 1 << 20);
    }

    #[test]
    fn typed_messages_are_told_apart() {
        let archive = |tablespace| Ok(Some(Copied::ArchiveStarts { tablespace }));
        assert_eq!(typed(b"nbase.tar\0\0"), archive(None));
        assert_eq!(typed(b"n16401.tar\0/srv/space\0"), archive(Some(16401)));
        assert_eq!(typed(b"m"), Ok(Some(Copied::ManifestStarts)));
        assert_eq!(typed(b"dxyz"), Ok(Some(Copied::Data { skipped: 1 })));
        assert_eq!(typed(b"p\0\0\0\0\0\0\0\0"), Ok(None));
        for wrong in [&b""[..], b"n", b"nbase.tar", b"n../../etc.tar\0\0", b"n16401.tar.gz\0\0", b"x"] {
            assert!(typed(wrong).is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn any_message_is_read_or_refused(body: Vec<u8>) {
            let _ = typed(&body);
        }

        #[test]
        fn a_label_cannot_end_its_quotes(label in "[^\0\n\r]{0,100}") {
            let quoted = quoted_label(&label).unwrap();
            let inner = quoted.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')).unwrap();
            prop_assert_eq!(inner.replace("''", "\u{1}").matches('\'').count(), 0);
            prop_assert_eq!(inner.replace("''", "'"), label);
        }
    }
}
