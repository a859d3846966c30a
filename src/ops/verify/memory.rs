//! What `verify` remembers of one repository from run to run; see [`proofs`](crate::ops::proofs).
//!
//! Damage that a deeper look has found is not forgotten because a shallower one does not see it: the object is as it
//! was, and so it is told again until it changes or a look as deep finds it sound.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::Checked;
use super::problem::{Problem, Subject};
use super::task::{self, Task, Trust, What};
use crate::catalog::wal::StoredAs;
use crate::catalog::{BackupInfo, BackupName};
use crate::ops::proofs::{Depth, Proof, Proofs, Recorder, backup_key};
use crate::ops::{Context, Error};
use crate::repo::inventory::BackupDirectory;
use crate::repo::layout;

pub struct Memory {
    recorder: Recorder,
    trust: Trust,
}

impl Memory {
    /// Opens the memory for more. Of what is not there any more nothing is kept.
    pub fn open(context: &Context<'_>, own: &Checked, trust: Trust) -> Result<Self, Error> {
        Ok(Self { recorder: recorder(context, own)?, trust })
    }

    pub fn proofs(&self) -> &Proofs {
        self.recorder.proofs()
    }

    /// Remembers what was found in the objects of `task`, and adds what was found in them before and is still there.
    pub fn remember(
        &mut self,
        task: &Task<'_>,
        found: Vec<Problem>,
        now: DateTime<Utc>,
    ) -> Result<Vec<Problem>, Error> {
        let depth = if matches!(task.what, What::Backup(_)) { self.trust.depth } else { Depth::Read };
        let mut problems = found;
        for object in &task.objects {
            let damage = problems.iter().find(|problem| problem.object == object.key).map(Problem::in_words);
            let old = self
                .proofs()
                .of(&object.key)
                .filter(|old| old.damage.is_some() && depth < old.depth && task::is_of(old, object.stored));
            if let (None, Some(old)) = (&damage, old) {
                let subject = task.backup().map_or(Subject::Nothing, Subject::PagesOf);
                problems.push(known(&object.key, subject, old));
                continue;
            }
            self.record(&object.key, object.stored, depth, now, damage)?;
        }
        Ok(problems)
    }

    /// Remembers how each backup came out as a whole.
    pub fn conclude(&mut self, own: &mut Checked) -> Result<(), Error> {
        let mut known_of_backups = Vec::new();
        for directory in own.backups_in_scope() {
            let Some((info, stored)) = whole(directory) else { continue };
            let key = backup_key(info.name);
            if let Some(damage) = own.damage_of(info.name) {
                self.record(&key, stored, self.trust.depth, self.trust.now, Some(damage))?;
                continue;
            }
            let old = self.proofs().of(&key).filter(|old| task::is_of(old, stored)).cloned();
            let Some((depth, proven_at)) = self.of_all_files(info) else { continue };
            match old {
                Some(old)
                    if old.damage.is_some()
                        && depth < old.depth
                        && !is_mended_since(directory, old.proven_at) =>
                {
                    known_of_backups.push(known(&key, Subject::PagesOf(info.name), &old));
                }
                Some(old) if depth < old.depth && self.trust.is_enough(&old, stored) => {}
                _ => self.record(&key, stored, depth, proven_at, None)?,
            }
        }
        own.problems.extend(known_of_backups);
        Ok(())
    }

    /// How deep, and since when, every file of a backup is known to be sound.
    fn of_all_files(&self, info: &BackupInfo) -> Option<(Depth, DateTime<Utc>)> {
        let mut all = info.files.iter().map(|file| {
            let proof = self.proofs().of(&layout::backup_file(info.name, &file.name))?;
            proof.damage.is_none().then_some((proof.depth, proof.proven_at))
        });
        let first = all.next()??;
        all.try_fold(first, |(depth, at), proof| {
            proof.map(|(other_depth, other_at)| (depth.min(other_depth), at.min(other_at)))
        })
    }

    fn record(
        &mut self,
        key: &str,
        stored: StoredAs,
        depth: Depth,
        proven_at: DateTime<Utc>,
        damage: Option<String>,
    ) -> Result<(), Error> {
        let (size_bytes, modified_at) = (stored.size_bytes, stored.stored_at);
        self.recorder.record(key, Proof { size_bytes, modified_at, depth, proven_at, damage })
    }
}

/// After a look at nothing but names and sizes: remembers what is wrong, and takes nothing for proven.
pub fn remember_damage(context: &Context<'_>, own: &Checked) -> Result<(), Error> {
    let damaged: BTreeMap<BackupName, String> = own
        .backups_in_scope()
        .filter_map(|directory| Some((directory.name, own.damage_of(directory.name)?)))
        .collect();
    if damaged.is_empty() {
        return Ok(());
    }
    let mut recorder = recorder(context, own)?;
    for directory in own.backups_in_scope() {
        let Some((info, StoredAs { size_bytes, stored_at })) = whole(directory) else { continue };
        let Some(damage) = damaged.get(&info.name).cloned() else { continue };
        let (depth, proven_at) = (Depth::Read, own.started_at);
        let proof = Proof { size_bytes, modified_at: stored_at, depth, proven_at, damage: Some(damage) };
        recorder.record(&backup_key(info.name), proof)?;
    }
    Ok(())
}

/// What a drill came to. A failure of the backup itself is damage.
pub fn remember_drill(
    context: &Context<'_>,
    own: &Checked,
    name: BackupName,
    now: DateTime<Utc>,
    damage: Option<String>,
) -> Result<(), Error> {
    let directory = own.inventory.backups.iter().find(|directory| directory.name == name);
    let Some((_, StoredAs { size_bytes, stored_at })) = directory.and_then(whole) else { return Ok(()) };
    let proof = Proof { size_bytes, modified_at: stored_at, depth: Depth::Drill, proven_at: now, damage };
    recorder(context, own)?.record(&backup_key(name), proof)
}

fn recorder(context: &Context<'_>, own: &Checked) -> Result<Recorder, Error> {
    let objects = own.inventory.objects();
    let backups: Vec<String> =
        own.inventory.backups.iter().map(|directory| backup_key(directory.name)).collect();
    let is_there = |key: &str| objects.contains_key(key) || backups.iter().any(|backup| backup == key);
    Proofs::load(context, &own.repository)?.recorder(context, &own.repository, &is_there)
}

/// A backup with a record, how large all its files are, and when the record was stored.
fn whole(directory: &BackupDirectory) -> Option<(&BackupInfo, StoredAs)> {
    let info = directory.info()?;
    let stored_at = directory.entry(layout::RECORD)?.modified_at;
    let sizes = info.files.iter().filter_map(|file| directory.entry(&file.name)?.size_bytes());
    Some((info, StoredAs { size_bytes: sizes.sum(), stored_at }))
}

/// Whether something of the backup was stored later than that: put there in place of what was damaged.
fn is_mended_since(directory: &BackupDirectory, proven_at: DateTime<Utc>) -> bool {
    directory.entries.iter().any(|entry| proven_at < entry.modified_at)
}

fn known(object: &str, subject: Subject, old: &Proof) -> Problem {
    let damage = old.damage.as_deref().unwrap_or_default();
    let at = old.proven_at.format("%Y-%m-%d %H:%M:%S%:z");
    let how = match old.depth {
        Depth::Read => "verify",
        Depth::Full => "verify --full",
        Depth::Drill => "verify --drill",
    };
    Problem::new("known-damage", object, subject, format!("as `pgbak {how}` found at {at}: {damage}"))
}

impl Checked {
    fn backups_in_scope(&self) -> impl Iterator<Item = &BackupDirectory> {
        self.inventory.backups.iter().filter(|directory| self.scope.has_backup(directory.name))
    }

    /// What is wrong with a backup, in words.
    fn damage_of(&self, name: BackupName) -> Option<String> {
        let mut problems = self.problems.iter().filter(|problem| problem.subject.backup() == Some(name));
        let first = problems.next()?.in_words();
        Some(match problems.count() {
            0 => first,
            more => format!("{first}; and {more} more"),
        })
    }
}
