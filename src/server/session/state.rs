//! What the server says of itself.
//!
//! Every question can be asked by a role that may only log in, on PostgreSQL 13 to 18; only the list of WAL files needs
//! `pg_monitor`. Follows PostgreSQL's documentation, "The Statistics Collector", "System Administration Functions".

use chrono::{DateTime, TimeDelta};
use postgres::Row;

use super::super::error::Result;
use super::{Session, failed};
use crate::pg::server_state::{ArchiveMethod, Archiver, ArchiverEvent, ServerState, Slot};
use crate::pg::{Lsn, SegmentName, SegmentSize, SystemIdentifier, Timeline};

/// More than a server keeps that archives them in time.
const SEGMENTS_MAX: i64 = 10_000;

impl Session {
    pub fn state(&mut self) -> Result<ServerState> {
        let wal_lsn = self.current_wal_lsn()?;
        let archiver = self.archiver()?;
        let slots = self.slots(wal_lsn)?;
        // An expression of a CASE is evaluated only where it applies: the name of a WAL file is refused on a standby.
        let sql = "SELECT pg_is_in_recovery() AS is_standby, \
             session_user::text AS role, \
             coalesce((SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = session_user), false) \
                 AS may_replicate, \
             has_function_privilege('pg_ls_waldir()', 'EXECUTE') AS may_list_wal, \
             (SELECT system_identifier FROM pg_control_system()) AS system_identifier, \
             (SELECT timeline_id::int8 FROM pg_control_checkpoint()) AS checkpoint_timeline, \
             CASE WHEN NOT pg_is_in_recovery() THEN pg_walfile_name(pg_current_wal_lsn()) END AS wal_file, \
             pg_size_bytes(current_setting('wal_segment_size')) AS segment_size, \
             current_setting('full_page_writes')::bool AS full_page_writes, \
             current_setting('max_wal_senders')::int8 AS wal_senders_max, \
             (SELECT count(*) FROM pg_stat_replication) AS wal_senders_used, \
             pg_size_bytes(current_setting('max_wal_size')) + pg_size_bytes(current_setting('wal_keep_size')) \
                 AS wal_kept_bytes";
        let row = self.client.query_one(sql, &[]).map_err(|error| failed(error, &self.server))?;
        let senders = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        let segment_size = self.count(&row, "segment_size")?;
        Ok(ServerState {
            version: self.version,
            system_identifier: SystemIdentifier(
                self.column::<i64>(&row, "system_identifier")?.cast_unsigned(),
            ),
            timeline: self.timeline(&row)?,
            wal_lsn,
            segment_size: SegmentSize::from_bytes(segment_size)
                .ok_or_else(|| self.protocol(format!("{segment_size} as wal_segment_size")))?,
            is_standby: self.column(&row, "is_standby")?,
            role: self.column(&row, "role")?,
            may_replicate: self.column(&row, "may_replicate")?,
            may_list_wal: self.column(&row, "may_list_wal")?,
            full_page_writes: self.column(&row, "full_page_writes")?,
            wal_senders_max: senders(self.count(&row, "wal_senders_max")?),
            wal_senders_used: senders(self.count(&row, "wal_senders_used")?),
            wal_kept_bytes: self.count(&row, "wal_kept_bytes")?,
            archiver,
            slots,
        })
    }

    /// A primary's is in the name of the file that it writes to; a checkpoint, which comes later, names a standby's.
    fn timeline(&self, row: &Row) -> Result<Timeline> {
        let wal_file: Option<String> = self.column(row, "wal_file")?;
        let of_file = wal_file.as_deref().and_then(|name| u32::from_str_radix(name.get(..8)?, 16).ok());
        let of_checkpoint = u32::try_from(self.count(row, "checkpoint_timeline")?).ok();
        let timeline = of_file.or(of_checkpoint).and_then(Timeline::new);
        timeline.ok_or_else(|| self.protocol("no timeline".to_owned()))
    }

    /// A slot by its name, and the location from which on the server keeps WAL for it; `None` when it keeps none.
    pub fn slot(&mut self, name: &str) -> Result<Option<(Slot, Option<Lsn>)>> {
        let wal_lsn = self.current_wal_lsn()?;
        let Some(slot) = self.slots(wal_lsn)?.into_iter().find(|slot| slot.name == name) else {
            return Ok(None);
        };
        let restart_lsn = slot.retained_bytes.map(|bytes| Lsn(wal_lsn.0.saturating_sub(bytes)));
        Ok(Some((slot, restart_lsn)))
    }

    fn slots(&mut self, wal_lsn: Lsn) -> Result<Vec<Slot>> {
        let sql = "SELECT slot_name::text AS name, active, wal_status, \
             greatest(pg_wal_lsn_diff($1::text::pg_lsn, restart_lsn), 0)::int8 AS retained_bytes, \
             restart_lsn IS NULL AS retains_nothing \
             FROM pg_replication_slots WHERE NOT temporary ORDER BY slot_name";
        let rows = self.client.query(sql, &[&wal_lsn.to_string()]);
        let rows = rows.map_err(|error| failed(error, &self.server))?;
        let slot = |row: &Row| {
            let retains_nothing: bool = self.column(row, "retains_nothing")?;
            let retained: Option<i64> = self.column(row, "retained_bytes")?;
            Ok(Slot {
                name: self.column(row, "name")?,
                is_active: self.column(row, "active")?,
                wal_status: self.column(row, "wal_status")?,
                retained_bytes: retained
                    .filter(|_| !retains_nothing)
                    .map(|bytes| u64::try_from(bytes).unwrap_or(0)),
            })
        };
        rows.iter().map(slot).collect()
    }

    /// How long ago the segments in `pg_wal` that are finished by now were written to last, by their numbers; not all where
    /// there are very many. The role must be allowed to list them.
    pub fn finished_segments(&mut self, state: &ServerState) -> Result<Vec<(u64, TimeDelta)>> {
        let size = state.segment_size;
        let current = SegmentName::holding(state.wal_lsn, state.timeline, size).file_name(size).to_string();
        // Behind their timelines, names are in the order of the WAL; files that are kept for later come last.
        let sql = "SELECT name, (extract(epoch FROM clock_timestamp() - modification) * 1000000)::int8 AS age \
             FROM pg_ls_waldir() \
             WHERE length(name) = 24 AND substr(name, 9) COLLATE \"C\" < substr($1, 9) \
             ORDER BY substr(name, 9) COLLATE \"C\" DESC LIMIT $2";
        let rows = self.client.query(sql, &[&current, &SEGMENTS_MAX]);
        let rows = rows.map_err(|error| failed(error, &self.server))?;
        let mut segments = Vec::new();
        for row in &rows {
            let name: String = self.column(row, "name")?;
            if let Ok(segment) = SegmentName::parse(&name, size) {
                segments.push((segment.number, TimeDelta::microseconds(self.column(row, "age")?)));
            }
        }
        Ok(segments)
    }

    pub fn archiver(&mut self) -> Result<Archiver> {
        // archive_library exists from 15 on.
        let sql = "SELECT archived_count, last_archived_wal, \
             (extract(epoch FROM last_archived_time) * 1000000)::int8 AS last_archived_at, \
             failed_count, last_failed_wal, \
             (extract(epoch FROM last_failed_time) * 1000000)::int8 AS last_failed_at, \
             current_setting('archive_mode') AS mode, \
             current_setting('wal_level') AS wal_level, \
             current_setting('archive_command') AS command, \
             current_setting('archive_library', true) AS library \
             FROM pg_stat_archiver";
        let row = self.client.query_one(sql, &[]).map_err(|error| failed(error, &self.server))?;
        let mode: String = self.column(&row, "mode")?;
        Ok(Archiver {
            method: archive_method(&mode, self.column(&row, "command")?, self.column(&row, "library")?),
            mode,
            wal_level: self.column(&row, "wal_level")?,
            archived_count: self.count(&row, "archived_count")?,
            last_archived: self.event(&row, "last_archived_wal", "last_archived_at")?,
            failed_count: self.count(&row, "failed_count")?,
            last_failed: self.event(&row, "last_failed_wal", "last_failed_at")?,
        })
    }

    fn column<'r, T: postgres::types::FromSql<'r>>(&self, row: &'r Row, name: &str) -> Result<T> {
        row.try_get(name).map_err(|error| failed(error, &self.server))
    }

    fn count(&self, row: &Row, name: &str) -> Result<u64> {
        self.column::<i64>(row, name).map(|count| u64::try_from(count).unwrap_or(0))
    }

    fn event(&self, row: &Row, file_name: &str, at: &str) -> Result<Option<ArchiverEvent>> {
        let file_name: Option<String> = self.column(row, file_name)?;
        let at = self.column::<Option<i64>>(row, at)?.and_then(DateTime::from_timestamp_micros);
        Ok(file_name.zip(at).map(|(file_name, at)| ArchiverEvent { file_name, at }))
    }
}

fn archive_method(mode: &str, command: String, library: Option<String>) -> ArchiveMethod {
    match (mode, command, library) {
        ("off", ..) => ArchiveMethod::Off,
        (_, _, Some(library)) if !library.is_empty() => ArchiveMethod::Library(library),
        (_, command, _) if !command.is_empty() => ArchiveMethod::Command(command),
        _ => ArchiveMethod::Missing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archiving_without_anything_to_call_is_seen() {
        let method = |mode, command: &str, library: Option<&str>| {
            archive_method(mode, command.to_owned(), library.map(str::to_owned))
        };
        assert_eq!(method("off", "(disabled)", Some("")), ArchiveMethod::Off);
        assert_eq!(method("on", "", Some("")), ArchiveMethod::Missing);
        assert_eq!(method("on", "", None), ArchiveMethod::Missing);
        assert_eq!(method("on", "cp", None), ArchiveMethod::Command("cp".to_owned()));
        assert_eq!(method("on", "", Some("lib")), ArchiveMethod::Library("lib".to_owned()));
    }
}
