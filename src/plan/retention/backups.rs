//! Which backups are kept, and how far their WAL reaches.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Datelike, Utc};

use super::wal::{Reach, shown_span};
use super::window::Window;
use super::{BackupVerdict, DAY, Policy, RetentionError, Situation, Verdict};
use crate::catalog::{BackupInfo, WalArchive};
use crate::pg::history::TimelineHistory;
use crate::pg::{SystemIdentifier, Timeline};

/// Every backup with what was decided, the newest first.
pub struct Chosen<'a> {
    pub entries: Vec<Entry<'a>>,
}

pub struct Entry<'a> {
    pub info: &'a BackupInfo,
    pub damage: Option<String>,
    /// Why it is kept, by the first rule that says so.
    kept: Option<String>,
    /// How far its WAL is needed, if it is kept.
    pub reach: Reach,
}

/// Which timelines are thought to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Branches {
    /// Those of which something was stored since the window began, and the latest of the current cluster.
    Alive,
    /// Each that is known: nothing is known of what was stored when.
    All,
}

impl Entry<'_> {
    pub fn is_good(&self) -> bool {
        self.damage.is_none()
    }

    pub fn is_kept(&self) -> bool {
        self.kept.is_some()
    }

    fn keep(&mut self, reason: impl FnOnce() -> String) {
        self.kept.get_or_insert_with(reason);
    }

    fn keep_onward(&mut self, reason: impl FnOnce() -> String) {
        self.keep(reason);
        self.reach = Reach::Onward;
    }
}

pub fn choose<'a>(situation: &Situation<'a>, policy: &Policy) -> Result<Chosen<'a>, RetentionError> {
    choose_among(situation, policy, Branches::Alive)
}

pub fn choose_among<'a>(
    situation: &Situation<'a>,
    policy: &Policy,
    branches: Branches,
) -> Result<Chosen<'a>, RetentionError> {
    let mut chosen = Chosen::of(situation);
    if !chosen.entries.iter().any(Entry::is_good) {
        let damaged = chosen.entries.len();
        return Err(RetentionError::NoGoodBackup { damaged });
    }
    chosen.keep_by_count(policy);
    chosen.keep_by_age(policy, situation.now);
    chosen.keep_by_calendar(policy);
    chosen.keep_what_is_used(situation);
    chosen.keep_the_last_ones(situation);
    match policy.pitr_window {
        Some(span) => {
            let begin = situation.now - span;
            chosen.keep_window(situation, begin, branches, &shown_span(span));
        }
        None => chosen.entries.iter_mut().for_each(|entry| entry.reach = Reach::Onward),
    }
    Ok(chosen)
}

impl<'a> Chosen<'a> {
    fn of(situation: &Situation<'a>) -> Self {
        let entry = |info: &'a BackupInfo| {
            let by_record = info.damaged_pages.first().map(|page| match info.damaged_pages.len() {
                1 => page.clone(),
                count => format!("{page}, and {} more", count - 1),
            });
            let damage = situation.damage.get(&info.name).cloned().or(by_record);
            Entry { info, damage, kept: None, reach: Reach::ToItsStop }
        };
        let mut entries: Vec<Entry<'a>> = situation.catalog.backups().iter().map(entry).collect();
        // Not by name: two clusters' backups may have any.
        entries.sort_by_key(|entry| {
            let info = entry.info;
            (info.started_at, info.stopped_at, info.system_identifier, info.stop_lsn)
        });
        entries.reverse();
        Self { entries }
    }

    fn good(&mut self) -> impl Iterator<Item = &mut Entry<'a>> {
        self.entries.iter_mut().filter(|entry| entry.is_good())
    }

    fn keep_by_count(&mut self, policy: &Policy) {
        let count = policy.keep_last;
        let mut newer_good = 0;
        for entry in &mut self.entries {
            match (newer_good < count, entry.is_good()) {
                (true, true) => entry.keep(|| match count {
                    1 => "the newest good one".to_owned(),
                    _ => format!("one of the newest {count}"),
                }),
                (true, false) => entry.keep(|| format!("fewer than {count} good ones are newer")),
                (false, _) => return,
            }
            newer_good += u32::from(entry.is_good());
        }
    }

    fn keep_by_age(&mut self, policy: &Policy, now: DateTime<Utc>) {
        let Some(span) = policy.keep_within else { return };
        for entry in self.entries.iter_mut().filter(|entry| now - entry.info.stopped_at <= span) {
            entry.keep(|| format!("not older than {}", shown_span(span)));
        }
    }

    fn keep_by_calendar(&mut self, policy: &Policy) {
        let day = |at: DateTime<Utc>| at.format("%Y-%m-%d").to_string();
        let week = |at: DateTime<Utc>| {
            let week = at.iso_week();
            format!("week {} of {}", week.week(), week.year())
        };
        let month = |at: DateTime<Utc>| at.format("%B %Y").to_string();
        self.keep_newest_of_each(policy.keep_daily, &day);
        self.keep_newest_of_each(policy.keep_weekly, &week);
        self.keep_newest_of_each(policy.keep_monthly, &month);
    }

    /// Of the last `count` periods that have a good backup, the newest of each.
    fn keep_newest_of_each(&mut self, count: u32, period: &dyn Fn(DateTime<Utc>) -> String) {
        let mut seen = BTreeSet::new();
        for entry in self.good() {
            let period = period(entry.info.started_at);
            if seen.contains(&period) {
                continue;
            }
            if seen.len() as u64 >= u64::from(count) {
                return;
            }
            entry.keep(|| format!("the newest of {period} (UTC)"));
            seen.insert(period);
        }
    }

    fn keep_what_is_used(&mut self, situation: &Situation<'_>) {
        for entry in &mut self.entries {
            if let Some(by) = situation.in_use.get(&entry.info.name) {
                entry.keep_onward(|| format!("in use by {by}"));
            }
        }
    }

    /// The newest good backup, of all and of the configured cluster, and the newest from which each current cluster's
    /// latest timeline can be restored.
    fn keep_the_last_ones(&mut self, situation: &Situation<'_>) {
        if let Some(newest) = self.good().next() {
            newest.keep_onward(|| "the last good one".to_owned());
        }
        for system in self.current_systems(situation) {
            let of_system = |entry: &&mut Entry<'_>| entry.info.system_identifier == system;
            if let Some(newest) = self.good().find(of_system) {
                newest.keep_onward(|| "the last good one of the configured cluster".to_owned());
            }
            let Some(latest) = self.timelines(situation, system).last().copied() else { continue };
            let history = history(situation.catalog.archive(system), latest);
            let is_on = |entry: &&mut Entry<'_>| {
                let info = entry.info;
                info.system_identifier == system && history.contains(info.timeline, info.stop_lsn)
            };
            if let Some(newest) = self.good().find(is_on) {
                newest.keep_onward(|| format!("the last good one that leads to timeline {latest}"));
            }
        }
    }

    /// The configured cluster, and that of the newest good backup.
    fn current_systems(&self, situation: &Situation<'_>) -> BTreeSet<SystemIdentifier> {
        let newest = self.entries.iter().find(|entry| entry.is_good());
        let newest = newest.map(|entry| entry.info.system_identifier);
        situation.cluster.into_iter().chain(newest).collect()
    }

    /// Each timeline of a cluster of which there is a backup, WAL or a history.
    fn timelines(&self, situation: &Situation<'_>, system: SystemIdentifier) -> BTreeSet<Timeline> {
        let archive = situation.catalog.archive(system);
        let mut timelines = archive.map(WalArchive::timelines).unwrap_or_default();
        let of_system = self.entries.iter().filter(|entry| entry.info.system_identifier == system);
        timelines.extend(of_system.map(|entry| entry.info.timeline));
        timelines
    }

    /// Keeps what the window takes, of each cluster and along each of its branches.
    fn keep_window(
        &mut self,
        situation: &Situation<'_>,
        begin: DateTime<Utc>,
        branches: Branches,
        span: &str,
    ) {
        let current = self.current_systems(situation);
        let systems: BTreeSet<_> = self.entries.iter().map(|entry| entry.info.system_identifier).collect();
        let mut needed: BTreeMap<crate::catalog::BackupName, (Reach, String)> = BTreeMap::new();
        for system in systems {
            let archive = situation.catalog.archive(system);
            let timelines = self.timelines(situation, system);
            let latest = timelines.last().copied().filter(|_| current.contains(&system));
            let of_system = || self.entries.iter().filter(|entry| entry.info.system_identifier == system);
            let part = |good: bool| -> Vec<&BackupInfo> {
                of_system().filter(|entry| entry.is_good() == good).map(|entry| entry.info).collect()
            };
            let (good, damaged) = (part(true), part(false));
            let is_alive = |timeline: &Timeline| {
                branches == Branches::All
                    || Some(*timeline) == latest
                    || last_stored_at(archive, *timeline).is_some_and(|at| at > begin - DAY)
                    || of_system()
                        .any(|entry| entry.info.timeline == *timeline && entry.info.stopped_at > begin)
            };
            for timeline in timelines.iter().copied().filter(is_alive) {
                let history = history(archive, timeline);
                let cover = Window { begin, archive, history: &history }.cover(&good, &damaged);
                for anchor in cover.anchors {
                    let reason = match anchor.backup.stopped_at <= begin {
                        true => format!("the last {span} begin with it"),
                        false => format!("part of the last {span} can be restored from no older one"),
                    };
                    needed.insert(anchor.backup.name, (Reach::Onward, reason));
                }
                for witness in cover.witnesses {
                    let reason = format!("it shows where WAL of the last {span} is not missing");
                    needed.entry(witness.name).or_insert((Reach::ToItsStop, reason));
                }
            }
        }
        for entry in &mut self.entries {
            match needed.remove(&entry.info.name) {
                Some((Reach::Onward, reason)) => entry.keep_onward(|| reason),
                Some((Reach::ToItsStop, reason)) => entry.keep(|| reason),
                None => {}
            }
        }
    }

    /// Oldest first.
    pub fn into_verdicts(self) -> Vec<BackupVerdict> {
        let verdict = |entry: Entry<'_>| {
            let verdict = match (entry.kept, &entry.damage) {
                (Some(reason), _) => Verdict::keep(reason),
                (None, Some(_)) => Verdict::delete("damaged, and no rule keeps it"),
                (None, None) => Verdict::delete("no rule keeps it"),
            };
            BackupVerdict {
                name: entry.info.name,
                system_identifier: entry.info.system_identifier,
                stopped_at: entry.info.stopped_at,
                stored_bytes: entry.info.stored_bytes,
                damage: entry.damage,
                reach: (!verdict.deletes()).then_some(entry.reach),
                verdict,
            }
        };
        self.entries.into_iter().rev().map(verdict).collect()
    }
}

/// A timeline and its ancestors, as far as the archive knows them; what cannot be read was refused before.
pub fn history(archive: Option<&WalArchive>, timeline: Timeline) -> TimelineHistory {
    let known = archive.and_then(|archive| archive.histories().get(&timeline)?.as_ref().ok());
    known.cloned().unwrap_or_else(|| TimelineHistory::of(timeline))
}

/// When something of this timeline was stored last.
fn last_stored_at(archive: Option<&WalArchive>, timeline: Timeline) -> Option<DateTime<Utc>> {
    let archive = archive?;
    let whole = archive.intervals(timeline).map(|interval| interval.last_stored_at);
    let partials = archive.partials().iter().filter(|(segment, _)| segment.timeline == timeline);
    whole.chain(partials.map(|(_, stored)| stored.stored_at)).max()
}
