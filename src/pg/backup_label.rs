//! `backup_label`: where the recovery of a base backup begins.
//!
//! Follows PostgreSQL `src/backend/access/transam/xlogbackup.c` (`build_backup_content`):
//!
//! ```text
//! START WAL LOCATION: 0/12000028 (file 000000010000000000000012)
//! CHECKPOINT LOCATION: 0/12000060
//! BACKUP METHOD: streamed
//! BACKUP FROM: primary                        or standby; PostgreSQL 13 writes master for primary
//! START TIME: 2026-11-22 17:59:04 UTC         in the server's log_timezone
//! LABEL: nightly                              in the server's encoding
//! START TIMELINE: 1
//! INCREMENTAL FROM LSN: 0/2000028             both, or neither: PostgreSQL 17 on
//! INCREMENTAL FROM TLI: 1
//! ```
//!
//! The order of the lines is not relied upon, and a line that is not known is passed over, as the server does.

use super::segment::is_segment_shaped;
use super::{Lsn, Timeline};

/// The file's name in the data directory.
pub const FILE_NAME: &str = "backup_label";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupLabel {
    /// The first WAL that recovery reads.
    pub start_lsn: Lsn,
    /// The name of the segment that holds it.
    pub start_segment: String,
    pub checkpoint_lsn: Lsn,
    /// `streamed`, but for exclusive backups of PostgreSQL 13 and 14.
    pub method: String,
    pub source: BackupSource,
    /// As the server wrote it, with its time zone's abbreviation.
    pub start_time: String,
    /// What the backup was called; bytes that are not UTF-8 are shown as `�`.
    pub label: String,
    pub timeline: Timeline,
    /// Where the backup that this increment builds on began.
    pub incremental_from: Option<(Lsn, Timeline)>,
}

/// What the backup was taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupSource {
    Primary,
    Standby,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupLabelError {
    #[error("backup_label has no line \"{0}\"")]
    Missing(&'static str),

    #[error("backup_label has two lines \"{0}\"")]
    Repeated(&'static str),

    #[error("backup_label says \"{field}: {found}\", which is not {expected}")]
    Malformed { field: &'static str, found: String, expected: &'static str },
}

impl BackupLabel {
    pub fn parse(bytes: &[u8]) -> Result<Self, BackupLabelError> {
        let lines = Lines::new(bytes);
        let (start_lsn, start_segment) =
            lines.required("START WAL LOCATION", "a location and a file", |text| {
                let (lsn, file) = text.split_once(" (file ")?;
                let file = file.strip_suffix(')').filter(|name| is_segment_shaped(name))?;
                Some((lsn.parse().ok()?, file.to_owned()))
            })?;
        let from_lsn = lines.optional("INCREMENTAL FROM LSN", "a location", |text| text.parse().ok())?;
        let from_timeline = lines.optional("INCREMENTAL FROM TLI", "a timeline", |text| text.parse().ok())?;
        let incremental_from = match (from_lsn, from_timeline) {
            (None, None) => None,
            (Some(lsn), Some(timeline)) => Some((lsn, timeline)),
            (None, Some(_)) => return Err(BackupLabelError::Missing("INCREMENTAL FROM LSN")),
            (Some(_), None) => return Err(BackupLabelError::Missing("INCREMENTAL FROM TLI")),
        };
        let as_written = |text: &str| Some(text.to_owned());
        Ok(Self {
            start_lsn,
            start_segment,
            checkpoint_lsn: lines.required("CHECKPOINT LOCATION", "a location", |text| text.parse().ok())?,
            method: lines.required("BACKUP METHOD", "text", as_written)?,
            source: lines.required("BACKUP FROM", "primary or standby", |text| match text {
                "primary" | "master" => Some(BackupSource::Primary),
                "standby" => Some(BackupSource::Standby),
                _ => None,
            })?,
            start_time: lines.required("START TIME", "text", as_written)?,
            label: lines.required("LABEL", "text", as_written)?,
            timeline: lines.required("START TIMELINE", "a timeline", |text| text.parse().ok())?,
            incremental_from,
        })
    }
}

struct Lines<'a>(Vec<&'a [u8]>);

impl<'a> Lines<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self(bytes.split(|&byte| byte == b'\n').collect())
    }

    fn optional<T>(
        &self,
        field: &'static str,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, BackupLabelError> {
        let value = |line: &&'a [u8]| line.strip_prefix(field.as_bytes())?.strip_prefix(b": ");
        let mut values = self.0.iter().filter_map(value);
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(BackupLabelError::Repeated(field));
        }
        let text = String::from_utf8_lossy(value);
        let malformed = || BackupLabelError::Malformed { field, found: text.to_string(), expected };
        parse(&text).map(Some).ok_or_else(malformed)
    }

    fn required<T>(
        &self,
        field: &'static str,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, BackupLabelError> {
        self.optional(field, expected, parse)?.ok_or(BackupLabelError::Missing(field))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REAL_15: &str = "START WAL LOCATION: 0/12000028 (file 000000010000000000000012)\n\
        CHECKPOINT LOCATION: 0/12000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
        START TIME: 2026-11-22 17:59:04 UTC\nLABEL: pg_basebackup base backup\nSTART TIMELINE: 1\n";

    fn replaced(from: &str, to: &str) -> Result<BackupLabel, BackupLabelError> {
        assert!(REAL_15.contains(from), "{from}");
        BackupLabel::parse(REAL_15.replace(from, to).as_bytes())
    }

    #[test]
    fn reads_what_the_server_writes() {
        let label = BackupLabel::parse(REAL_15.as_bytes()).unwrap();
        assert_eq!(label.start_lsn, Lsn(0x1200_0028));
        assert_eq!(label.start_segment, "000000010000000000000012");
        assert_eq!(label.checkpoint_lsn, Lsn(0x1200_0060));
        assert_eq!((label.method.as_str(), label.source), ("streamed", BackupSource::Primary));
        assert_eq!(label.start_time, "2026-11-22 17:59:04 UTC");
        assert_eq!(label.label, "pg_basebackup base backup");
        assert_eq!((label.timeline, label.incremental_from), (Timeline::FIRST, None));
    }

    #[test]
    fn knows_older_and_newer_servers_and_standbys() {
        assert_eq!(replaced("primary", "master").unwrap().source, BackupSource::Primary);
        assert_eq!(replaced("primary", "standby").unwrap().source, BackupSource::Standby);
        let increment = format!("{REAL_15}INCREMENTAL FROM LSN: 0/2000028\nINCREMENTAL FROM TLI: 3\n");
        let from = BackupLabel::parse(increment.as_bytes()).unwrap().incremental_from;
        assert_eq!(from, Some((Lsn(0x0200_0028), Timeline::new(3).unwrap())));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        assert_eq!(replaced("LABEL: ", "LABLE: "), Err(BackupLabelError::Missing("LABEL")));
        assert_eq!(replaced("START TIMELINE: 1\n", ""), Err(BackupLabelError::Missing("START TIMELINE")));
        let forged = replaced("LABEL: ", "LABEL: x\nSTART TIMELINE: 7\n");
        assert_eq!(forged, Err(BackupLabelError::Repeated("START TIMELINE")), "a label with a newline in it");
        let half = format!("{REAL_15}INCREMENTAL FROM LSN: 0/2000028\n");
        let half = BackupLabel::parse(half.as_bytes());
        assert_eq!(half, Err(BackupLabelError::Missing("INCREMENTAL FROM TLI")));
        for (from, to) in [
            ("0/12000028", "12000028"),
            (" (file 000000010000000000000012)", ""),
            ("000000010000000000000012)", "00000001000000000000001)"),
            ("primary", "elsewhere"),
            ("START TIMELINE: 1", "START TIMELINE: 0"),
        ] {
            let error = replaced(from, to).unwrap_err();
            assert!(matches!(error, BackupLabelError::Malformed { .. }), "{to}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>, at: prop::sample::Index) {
            let _ = BackupLabel::parse(&bytes);
            let mut label = REAL_15.as_bytes().to_vec();
            let at = at.index(label.len());
            label.splice(at..at, bytes);
            let _ = BackupLabel::parse(&label);
        }
    }
}
