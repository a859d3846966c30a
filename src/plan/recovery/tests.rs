//! Worlds to plan recovery in.
//!
//! A world is written down in quarters of segments: quarter 22 is the middle of segment 5. Each quarter takes
//! fifteen minutes, so a segment is an hour of work, and is archived when the hour is over.

mod intervals;
pub mod promises;
mod stories;

use std::collections::BTreeMap;

use super::*;
use crate::catalog::DamagedBackup;
use crate::catalog::wal::StoredAs;
use crate::pg::{SegmentName, SegmentPart, SegmentSize, WalFileName};

pub const SYSTEM: SystemIdentifier = SystemIdentifier(7_439_122_314_155_001_234);
pub const SIZE: SegmentSize = SegmentSize::DEFAULT;
pub const QUARTER: u64 = 4 << 20;

/// When the WAL of that quarter begins to be written.
pub fn at(quarter: u64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_305_600 + 900 * quarter as i64, 0).unwrap()
}

pub fn lsn(quarter: u64) -> Lsn {
    Lsn(quarter * QUARTER)
}

pub fn timeline(number: u32) -> Timeline {
    Timeline::new(number).unwrap()
}

/// A whole backup, taken on a primary, named after its start.
pub fn backup(tli: u32, start: u64, stop: u64) -> BackupInfo {
    BackupInfo {
        system_identifier: SYSTEM,
        timeline: timeline(tli),
        start_lsn: lsn(start),
        stop_lsn: lsn(stop),
        stopped_at: at(stop),
        wal_segment_size: SIZE,
        ..BackupInfo::example(at(start))
    }
}

/// A catalog in the making.
#[derive(Debug, Clone)]
pub struct World {
    pub backups: Vec<BackupInfo>,
    pub damaged: Vec<DamagedBackup>,
    pub archive: WalArchive,
}

impl World {
    pub fn new() -> Self {
        Self { backups: vec![], damaged: vec![], archive: WalArchive::new(SIZE) }
    }

    pub fn backup(mut self, tli: u32, start: u64, stop: u64) -> Self {
        self.backups.push(backup(tli, start, stop));
        self
    }

    pub fn wal(mut self, tli: u32, numbers: impl IntoIterator<Item = u64>) -> Self {
        for number in numbers {
            self.file(&segment_name(tli, number), 4 * (number + 1));
        }
        self
    }

    pub fn partial(mut self, tli: u32, number: u64) -> Self {
        self.file(&format!("{}.partial", segment_name(tli, number)), 4 * (number + 1));
        self
    }

    /// What lies between two quarters of one segment, streamed.
    pub fn part(mut self, tli: u32, begin: u64, end: u64) -> Self {
        let quarter_bytes = SIZE.bytes() / 4;
        let offset = |quarter: u64| (quarter - begin / 4 * 4) * quarter_bytes;
        let part = SegmentPart { begin: offset(begin), end: offset(end) };
        let name = WalFileName::of_part(&segment_name(tli, begin / 4), part);
        self.file(&name.to_string(), end);
        self
    }

    /// Timelines and the quarters at which they were left, oldest first.
    pub fn history(mut self, tli: u32, switches: &[(u32, u64)]) -> Self {
        let line = |(tli, quarter): &(u32, u64)| format!("{tli}\t{}\tpromoted\n", lsn(*quarter));
        let content: String = switches.iter().map(line).collect();
        self.archive.add_history(timeline(tli), content.as_bytes());
        self
    }

    pub fn file(&mut self, name: &str, quarter: u64) {
        let stored = StoredAs { size_bytes: 1, stored_at: at(quarter) };
        self.archive.add(&WalFileName::parse_stored(name).unwrap(), stored);
    }

    pub fn catalog(&self) -> Catalog {
        let archives = BTreeMap::from([(SYSTEM, self.archive.clone())]);
        Catalog::new(self.backups.clone(), self.damaged.clone(), archives)
    }

    pub fn plan(&self, request: &RecoveryRequest) -> Result<RecoveryPlan, RecoveryError> {
        plan(&self.catalog(), request, at(1000))
    }

    /// The names of the backups that started at these quarters, and of the one that the plan chose.
    pub fn chooses(&self, request: &RecoveryRequest) -> BackupName {
        self.plan(request).unwrap().backup
    }

    /// The refusal and its hint, as shown.
    pub fn refuses(&self, request: &RecoveryRequest) -> String {
        let error = self.plan(request).unwrap_err();
        format!("{error}\n{}", error.hint().unwrap_or_default())
    }
}

pub fn segment_name(tli: u32, number: u64) -> String {
    SegmentName { timeline: timeline(tli), number }.file_name(SIZE).to_string()
}

pub fn name(start: u64) -> BackupName {
    BackupName::of(at(start))
}

pub fn to(target: Target) -> RecoveryRequest {
    RecoveryRequest {
        backup: None,
        target,
        exclusive: false,
        timeline: TargetTimeline::Latest,
        action: TargetAction::Promote,
        standby: false,
    }
}

pub fn to_time(quarter: u64) -> RecoveryRequest {
    to(Target::Time(at(quarter)))
}

pub fn to_lsn(quarter: u64) -> RecoveryRequest {
    to(Target::Lsn(lsn(quarter)))
}

impl RecoveryRequest {
    pub fn from(self, start: u64) -> Self {
        Self { backup: Some(name(start).to_string()), ..self }
    }

    pub fn on(self, timeline: TargetTimeline) -> Self {
        Self { timeline, ..self }
    }
}

pub fn number(tli: u32) -> TargetTimeline {
    TargetTimeline::Number(timeline(tli))
}

fn setting<'a>(plan: &'a RecoveryPlan, name: &str) -> Option<&'a str> {
    plan.settings.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())
}
