//! Which backups it takes so that every instant since a time can still be restored along one history.
//!
//! A restore to an instant begins with a backup that had stopped by then, and goes on through WAL without a gap (see
//! [`recovery`](super::super::recovery)). So, where no WAL is missing, the last backup that stopped before the window
//! begins is enough. But WAL may be missing, and backups of a standby may be older than their time says. In general a
//! backup *does for* another one if it began and stopped no later, by the clock and in the WAL, and the WAL leads
//! without a gap from its stop to the other's. A backup for which none of those taken does is taken, too; which leaves, for every
//! instant of the window, one from which it could be restored before and can be afterwards.
//!
//! Those known to be damaged are taken where no good one does for them, and never do for a good one.
//!
//! Before a gap, an instant can be promised only as long as a later backup shows that the gap lies behind it: such a
//! *witness* is kept, too.

use chrono::{DateTime, Utc};

use crate::catalog::backup::BackupSource;
use crate::catalog::{BackupInfo, WalArchive};
use crate::pg::Lsn;
use crate::pg::history::TimelineHistory;

/// A time from which on every instant is to stay what it is, and the history along which.
pub struct Window<'a> {
    pub begin: DateTime<Utc>,
    pub archive: Option<&'a WalArchive>,
    pub history: &'a TimelineHistory,
}

/// The backups that a window takes.
#[derive(Debug, Default)]
pub struct Cover<'a> {
    /// Those from which to restore: they need all WAL from their start on.
    pub anchors: Vec<Anchor<'a>>,
    /// Those that show where a gap is not.
    pub witnesses: Vec<&'a BackupInfo>,
}

#[derive(Debug)]
pub struct Anchor<'a> {
    pub backup: &'a BackupInfo,
    /// How far recovery from it can go.
    reach: Lsn,
    has_gap: bool,
}

impl Window<'_> {
    /// Of `good` and `damaged` backups those that are needed.
    pub fn cover<'b>(&self, good: &[&'b BackupInfo], damaged: &[&'b BackupInfo]) -> Cover<'b> {
        let is_on = |backup: &&&BackupInfo| self.history.contains(backup.timeline, backup.stop_lsn);
        let good: Vec<&BackupInfo> = good.iter().filter(is_on).copied().collect();
        let all: Vec<&BackupInfo> =
            good.iter().copied().chain(damaged.iter().filter(is_on).copied()).collect();
        let mut anchors = Vec::new();
        self.extend(&mut anchors, &good);
        self.extend(&mut anchors, &all);
        let gaps = anchors.iter().filter(|anchor: &&Anchor<'_>| anchor.has_gap);
        let witnesses = gaps.flat_map(|anchor| [self.witness(anchor, &good), self.witness(anchor, &all)]);
        let witnesses = witnesses.flatten().collect();
        Cover { anchors, witnesses }
    }

    fn extend<'b>(&self, anchors: &mut Vec<Anchor<'b>>, backups: &[&'b BackupInfo]) {
        let (before, mut inside): (Vec<&BackupInfo>, Vec<&BackupInfo>) =
            backups.iter().copied().partition(|backup| backup.stopped_at <= self.begin);
        // Whatever can be restored from one of these, can be from the one that is furthest in the WAL.
        let last_before = before.into_iter().max_by_key(|backup| (backup.stop_lsn, backup.stopped_at));
        inside.sort_by_key(|backup| (backup.stopped_at, backup.stop_lsn));
        for backup in last_before.into_iter().chain(inside) {
            if !anchors.iter().any(|anchor| self.does_for(anchor, backup)) {
                anchors.push(self.anchor(backup));
            }
        }
    }

    fn anchor<'b>(&self, backup: &'b BackupInfo) -> Anchor<'b> {
        let Some(archive) = self.archive else {
            return Anchor { backup, reach: backup.stop_lsn, has_gap: false };
        };
        let end = archive.contiguous_from(backup.stop_lsn, self.history);
        let reach = match end.stray {
            Some(stray) => stray.start(archive.segment_size()).max(backup.stop_lsn),
            None => end.lsn,
        };
        Anchor { backup, reach, has_gap: end.later.is_some() || end.stray.is_some() }
    }

    fn does_for(&self, anchor: &Anchor<'_>, backup: &BackupInfo) -> bool {
        // Before the window, it does not matter when.
        let since = |backup: &BackupInfo| backup.stopped_at.max(self.begin);
        since(anchor.backup) <= since(backup)
            && anchor.backup.start_lsn <= backup.start_lsn
            && anchor.backup.stop_lsn <= backup.stop_lsn
            && backup.stop_lsn <= anchor.reach
    }

    fn witness<'b>(&self, anchor: &Anchor<'_>, backups: &[&'b BackupInfo]) -> Option<&'b BackupInfo> {
        let shows = |backup: &&&BackupInfo| {
            backup.source == BackupSource::Primary
                && backup.stopped_at >= self.begin
                && backup.stop_lsn <= anchor.reach
        };
        backups.iter().filter(shows).max_by_key(|backup| backup.stopped_at).copied()
    }
}
