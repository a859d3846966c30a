//! `base-backup`: one stream from the server, written to every repository.
//!
//! Two connections. The first streams the data directory and every tablespace, each into an archive of its own; what
//! passes is checksummed, and held against the server's manifest before anything is recorded. The second streams the
//! WAL from the backup's start to its stop into `pg_wal.tar`, so that the backup restores on its own. Nothing is
//! staged: memory holds a few frames, whatever the size of the cluster.

mod contents;
mod wal;

use std::io::{self, Read};

use chrono::{DateTime, Utc};
use crossbeam_channel::{Receiver, Sender, bounded};

use self::contents::{Contents, Received};
use self::wal::WalCopy;
use super::process::Lock;
use super::{Context, Error};
use crate::catalog::BackupInfo;
use crate::catalog::backup::{self, BackupKind, BackupSource};
use crate::config::{Checkpoint, WalSource};
use crate::pg::backup_label::{self, BackupLabel};
use crate::pg::{Lsn, SegmentSize, Timeline};
use crate::pipe::{Codec, Compression};
use crate::repo::layout::{self, ArchiveContent};
use crate::repo::{Archive, BackupWriter, CopyOutcome};
use crate::server::{
    BackupEnd, BackupEvent, BaseBackup, BaseBackupOptions, Cause, CheckpointMode, ConnectionSettings,
    ReplicationClient, SystemIdentity,
};

/// How many pieces of the manifest wait for the thread that reads it.
const MANIFEST_QUEUE: usize = 16;

#[derive(Debug)]
pub struct Request {
    pub label: Option<String>,
    /// Only these repositories; empty is all.
    pub repositories: Vec<String>,
    /// Bytes per second; `None` is unlimited.
    pub max_rate: Option<u64>,
    pub compression: Compression,
    pub checkpoint: Checkpoint,
}

/// The backup as it was taken, and how each repository fared. Serialized by `--json`.
#[derive(Debug, serde::Serialize)]
pub struct Report {
    pub name: String,
    pub label: String,
    pub system_identifier: String,
    pub server_version: u32,
    pub timeline: u32,
    pub start_lsn: String,
    pub stop_lsn: String,
    pub started_at: DateTime<Utc>,
    pub stopped_at: DateTime<Utc>,
    pub size_bytes: u64,
    pub stored_bytes: u64,
    pub duration_seconds: f64,
    pub repositories: Vec<RepositoryOutcome>,
    /// What the server said about pages whose checksum failed; empty when all is well.
    pub damaged_pages: Vec<String>,
}

#[derive(Debug, serde::Serialize)]
pub struct RepositoryOutcome {
    pub repository: String,
    /// Why this repository has no copy of the backup; `None` when it has.
    pub error: Option<String>,
    pub hint: Option<String>,
}

impl Report {
    /// Whether the run ended with something to look at (exit code 3).
    pub fn has_findings(&self) -> bool {
        !self.damaged_pages.is_empty() || self.repositories.iter().any(|outcome| outcome.error.is_some())
    }
}

/// What came through the first connection.
struct Streamed {
    end: BackupEnd,
    /// Of all files in the archives.
    size_bytes: u64,
    backup_label: BackupLabel,
}

/// What a backup is taken with.
struct Run<'a> {
    context: &'a Context<'a>,
    request: &'a Request,
    identity: SystemIdentity,
    segment_size: SegmentSize,
}

/// Takes a backup.
///
/// # Errors
/// When no repository has it in the end. When only some have not, the report says which.
pub fn run(context: &Context<'_>, request: &Request) -> Result<Report, Error> {
    let began_at = (context.clock)();
    let repositories = context.repositories(&request.repositories)?;
    let settings = ConnectionSettings::resolve(&context.config.postgres.connection, context.environment)?;
    let mut data = ReplicationClient::connect(&settings, context.interrupt)?;
    let mut wal = ReplicationClient::connect(&settings, context.interrupt)?;
    let identity = data.identify_system()?;
    // A connection string with several hosts may lead to several servers. And a standby before 15 wants to be asked.
    let of_wal = wal.identify_system()?.system_identifier;
    if of_wal != identity.system_identifier {
        let reason = format!(
            "its data comes from system {}, its WAL from {of_wal}: the connection leads to two servers",
            identity.system_identifier
        );
        return Err(Error::UnsoundStream { reason });
    }
    let segment_size = data.segment_size()?;
    let _lock: Lock = context.lock("base-backup", &identity.system_identifier.to_string())?;

    if context.config.wal.source == WalSource::Stream {
        keep_wal_from_now_on(&mut wal, &context.config.wal.slot);
    }
    let workers = context.workers()?;
    let mut writer = BackupWriter::begin(&repositories, &workers, &context.observer(), began_at)?;
    let run = Run { context, request, identity, segment_size };
    let info = run.take(&mut writer, &mut data, &mut wal)?;
    // What a slow repository still lacks comes from another one, and holds nothing back on the server.
    drop((data, wal));
    let (info, outcomes) = writer.finish(info, context);
    context.interrupt.check()?;
    report(info, outcomes, began_at, (context.clock)())
}

/// Makes the slot that `wal-sync` will stream from, if there is none: what the server removes between the backup and the
/// first run would be missing behind the backup for ever. The backup itself does not need it.
fn keep_wal_from_now_on(client: &mut ReplicationClient, slot: &str) {
    match client.create_slot(slot) {
        Ok(()) => tracing::info!("made replication slot \"{slot}\" for wal-sync to stream from"),
        Err(error) if error.cause() == Some(&Cause::SlotExists) => {}
        Err(error) => tracing::warn!("replication slot \"{slot}\" could not be made: {error}"),
    }
}

impl Run<'_> {
    fn take(
        &self,
        writer: &mut BackupWriter,
        data: &mut ReplicationClient,
        wal: &mut ReplicationClient,
    ) -> Result<BackupInfo, Error> {
        let started_at = (self.context.clock)();
        let server_version = data.server_version();
        let label = self.request.label.clone().unwrap_or_else(|| format!("pgbak {}", writer.name()));
        // The slot comes first: from here on the server keeps the WAL that the backup will need.
        wal.create_temporary_slot(&slot_name(writer))?;
        let mut backup = data.base_backup(&BaseBackupOptions {
            label: label.clone(),
            checkpoint: match self.request.checkpoint {
                Checkpoint::Fast => CheckpointMode::Fast,
                Checkpoint::Spread => CheckpointMode::Spread,
            },
            max_rate_bytes_per_second: self.request.max_rate,
        })?;
        let (start_lsn, timeline) = (backup.start_lsn(), backup.timeline());
        let tablespaces = tablespaces(&backup)?;
        self.context.meter.expect(
            backup.tablespaces().iter().filter_map(|tablespace| tablespace.size_bytes_estimate).sum(),
        );

        let wal_archive =
            writer.create(&ArchiveContent::Wal.file_name(self.codec()), self.request.compression)?;
        let (stop_sender, stop_receiver) = bounded(1);
        let (streamed, wal_copy) = std::thread::scope(|scope| {
            let slot = slot_name(writer);
            let copying = scope.spawn(|| {
                let copy =
                    WalCopy { client: wal, slot, timeline, start_lsn, segment_size: self.segment_size };
                copy.run(wal_archive, &stop_receiver, self.context.interrupt)
            });
            let streamed = self.stream(writer, &mut backup, &|| copying.is_finished());
            // Dropping the sender tells the other thread to give up.
            let stop = streamed.as_ref().ok().map(|streamed| streamed.end.stop_lsn);
            stop.map(|lsn| stop_sender.send(lsn));
            drop(stop_sender);
            let copied = copying.join().expect("the thread that copies the WAL does not panic");
            match (streamed, copied) {
                (Ok(streamed), Ok(wal_copy)) => Ok((streamed, wal_copy)),
                // The data stream breaks off when the WAL stream has; then the latter is the reason.
                (_, Err(Some(error))) | (Err(error), Err(None)) => Err(error),
                (Err(_), Ok(copied)) if copied.archive.is_lost() => {
                    Err(writer.commit(copied.archive).expect_err("a lost archive cannot be committed").into())
                }
                (Err(error), Ok(_)) => Err(error),
                (Ok(_), Err(None)) => unreachable!("it was not told to give up"),
            }
        })?;
        writer.commit(wal_copy.archive)?;
        let Streamed { end, size_bytes, backup_label: label_file } = streamed;
        check_label(&label_file, start_lsn, timeline)?;

        Ok(BackupInfo {
            name: writer.name(),
            kind: BackupKind::Full,
            label,
            system_identifier: self.identity.system_identifier,
            server_version,
            timeline,
            start_lsn,
            stop_lsn: end.stop_lsn,
            started_at,
            // By the server's clock, because recovery compares it with the server's commit times.
            stopped_at: wal_copy.stopped_at,
            wal_segment_size: self.segment_size,
            source: match label_file.source {
                backup_label::BackupSource::Primary => BackupSource::Primary,
                backup_label::BackupSource::Standby => BackupSource::Standby,
            },
            tablespaces,
            size_bytes,
            stored_bytes: 0,
            compression: self.request.compression.to_string(),
            damaged_pages: damaged_pages(end),
            pgbak_version: env!("CARGO_PKG_VERSION").to_owned(),
            files: Vec::new(),
        })
    }

    fn codec(&self) -> Codec {
        self.request.compression.codec()
    }

    /// Brings the archives and the manifest to the repositories.
    fn stream(
        &self,
        writer: &mut BackupWriter,
        backup: &mut BaseBackup<'_>,
        wal_has_ended: &dyn Fn() -> bool,
    ) -> Result<Streamed, Error> {
        let mut received = Received::default();
        let mut current: Option<(Archive, Contents)> = None;
        loop {
            self.context.interrupt.check()?;
            if wal_has_ended() {
                return Err(Error::UnsoundStream { reason: "the WAL stream ended before the data".into() });
            }
            match backup.next()? {
                BackupEvent::ArchiveStarts { tablespace } => {
                    self.end_archive(writer, current.take())?;
                    let content = tablespace.map_or(ArchiveContent::Base, ArchiveContent::Tablespace);
                    let archive =
                        writer.create(&content.file_name(self.codec()), self.request.compression)?;
                    current = Some((archive, Contents::of(content)));
                    writer.keep_alive((self.context.clock)());
                }
                BackupEvent::ArchiveData(bytes) => {
                    let (archive, contents) =
                        current.as_mut().ok_or_else(|| unsound("data before an archive"))?;
                    contents.feed(bytes, &mut received)?;
                    archive.put(bytes);
                    if archive.is_lost() {
                        self.end_archive(writer, current.take())?;
                        continue;
                    }
                    self.context.meter.add(bytes.len() as u64);
                    writer.keep_alive((self.context.clock)());
                }
                BackupEvent::ManifestStarts => {
                    self.end_archive(writer, current.take())?;
                    break;
                }
                BackupEvent::ManifestData(_) | BackupEvent::Ends(_) => {
                    return Err(unsound("the archives ended without a manifest"));
                }
            }
        }
        let (size_bytes, backup_label) = (received.size_bytes(), received.backup_label()?);
        let end = self.stream_manifest(writer, backup, received)?;
        Ok(Streamed { end, size_bytes, backup_label })
    }

    fn end_archive(
        &self,
        writer: &mut BackupWriter,
        ended: Option<(Archive, Contents)>,
    ) -> Result<(), Error> {
        let Some((archive, contents)) = ended else { return Ok(()) };
        let is_whole = if archive.is_lost() { Ok(()) } else { contents.finish() };
        is_whole?;
        Ok(writer.commit(archive)?)
    }

    /// Stores the manifest while another thread holds it against what was received.
    fn stream_manifest(
        &self,
        writer: &mut BackupWriter,
        backup: &mut BaseBackup<'_>,
        received: Received,
    ) -> Result<BackupEnd, Error> {
        let none = Compression::new(Codec::None, None).expect("no compression has no level to be wrong");
        let mut archive = writer.create(layout::MANIFEST, none)?;
        let (sender, receiver) = bounded(MANIFEST_QUEUE);
        let end = std::thread::scope(|scope| {
            let checking = scope.spawn(|| received.check(ChannelReader::new(receiver)));
            let streamed = self.copy_manifest(backup, &mut archive, sender);
            let checked = checking.join().expect("the thread that reads the manifest does not panic");
            // A stream that broke off is the reason why its manifest does not check.
            streamed.and_then(|end| checked.map(|()| end))
        })?;
        writer.commit(archive)?;
        Ok(end)
    }

    fn copy_manifest(
        &self,
        backup: &mut BaseBackup<'_>,
        archive: &mut Archive,
        checker: Sender<Vec<u8>>,
    ) -> Result<BackupEnd, Error> {
        loop {
            self.context.interrupt.check()?;
            match backup.next()? {
                BackupEvent::ManifestData(bytes) => {
                    archive.put(bytes);
                    // A checker that has found a fault reads no further, and says so when it is joined.
                    let _ = checker.send(bytes.to_vec());
                }
                BackupEvent::Ends(end) => return Ok(end),
                BackupEvent::ArchiveStarts { .. }
                | BackupEvent::ArchiveData(_)
                | BackupEvent::ManifestStarts => return Err(unsound("data after the manifest")),
            }
        }
    }
}

fn unsound(reason: &str) -> Error {
    Error::UnsoundStream { reason: reason.to_owned() }
}

fn slot_name(writer: &BackupWriter) -> String {
    format!("pgbak_{}_{}", std::process::id(), writer.name())
}

fn tablespaces(backup: &BaseBackup<'_>) -> Result<Vec<backup::Tablespace>, Error> {
    let listed = backup.tablespaces().iter();
    let own = listed.filter_map(|tablespace| Some((tablespace.oid?, &tablespace.location)));
    own.map(|(oid, location)| {
        let location = location.as_ref().and_then(|path| path.to_str()).map(str::to_owned);
        let location = location.ok_or_else(|| unsound("a tablespace without a location in UTF-8"))?;
        Ok(backup::Tablespace { oid, location })
    })
    .collect()
}

/// Recovery starts where `backup_label` says, so that has to be where the WAL was copied from.
fn check_label(label: &BackupLabel, start_lsn: Lsn, timeline: Timeline) -> Result<(), Error> {
    match label.start_lsn == start_lsn && label.timeline == timeline {
        true => Ok(()),
        false => Err(Error::UnsoundStream {
            reason: format!(
                "its backup_label starts at {} on timeline {}, but the server announced {start_lsn} on {timeline}",
                label.start_lsn, label.timeline
            ),
        }),
    }
}

/// What the server said about pages whose checksum failed. The backup is complete all the same.
fn damaged_pages(end: BackupEnd) -> Vec<String> {
    let Some(verdict) = end.checksum_failure else { return Vec::new() };
    let told = end.notices.iter().map(ToString::to_string).filter(|notice| notice.contains("checksum"));
    let told: Vec<_> = told.collect();
    if told.is_empty() { vec![verdict] } else { told }
}

fn report(
    info: BackupInfo,
    outcomes: Vec<CopyOutcome>,
    began_at: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<Report, Error> {
    if outcomes.iter().all(|outcome| outcome.result.is_err()) {
        let first = outcomes.into_iter().find_map(|outcome| outcome.result.err());
        return Err(first.expect("a backup goes to at least one repository").into());
    }
    let repositories = outcomes.into_iter().map(|outcome| {
        let error = outcome.result.err();
        RepositoryOutcome {
            repository: outcome.repository,
            hint: error.as_ref().and_then(crate::repo::Error::hint),
            error: error.map(|error| error.to_string()),
        }
    });
    Ok(Report {
        name: info.name.to_string(),
        label: info.label,
        system_identifier: info.system_identifier.to_string(),
        server_version: info.server_version.0,
        timeline: Timeline::get(info.timeline),
        start_lsn: info.start_lsn.to_string(),
        stop_lsn: info.stop_lsn.to_string(),
        started_at: info.started_at,
        stopped_at: info.stopped_at,
        size_bytes: info.size_bytes,
        stored_bytes: info.stored_bytes,
        duration_seconds: (now - began_at).as_seconds_f64(),
        repositories: repositories.collect(),
        damaged_pages: info.damaged_pages,
    })
}

/// The other end of a channel of byte pieces.
struct ChannelReader {
    receiver: Receiver<Vec<u8>>,
    piece: io::Cursor<Vec<u8>>,
}

impl ChannelReader {
    fn new(receiver: Receiver<Vec<u8>>) -> Self {
        Self { receiver, piece: io::Cursor::default() }
    }
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.piece.read(buffer)? {
                0 if buffer.is_empty() => return Ok(0),
                0 => match self.receiver.recv() {
                    Ok(piece) => self.piece = io::Cursor::new(piece),
                    // The sender is gone: this was the end.
                    Err(_) => return Ok(0),
                },
                length => return Ok(length),
            }
        }
    }
}
