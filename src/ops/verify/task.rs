//! What is read: the objects of one repository, each as often as is needed, and no more.
//!
//! With `--full` a backup is one task, as what its archives hold is held against one manifest, and whether its pages
//! have checksums is said by `pg_control`, which the server sends last. Otherwise each object is one.

use chrono::{DateTime, TimeDelta, Utc};

use super::scope::Scope;
use crate::catalog::wal::StoredAs;
use crate::catalog::{BackupInfo, BackupName, Catalog};
use crate::ops::proofs::{Depth, Proof, Proofs};
use crate::pg::{SegmentSize, SystemIdentifier, WalFileName};
use crate::pipe::Codec;
use crate::repo::inventory::{Inventory, WalObject};
use crate::repo::layout;

/// One thing to read, and what it is.
#[derive(Debug)]
pub struct Task<'a> {
    pub objects: Vec<Object>,
    pub what: What<'a>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    pub key: String,
    pub stored: StoredAs,
}

#[derive(Debug)]
pub enum What<'a> {
    /// One file of a backup, by its name.
    File {
        backup: &'a BackupInfo,
        file_name: &'a str,
    },
    /// All of a backup.
    Backup(&'a BackupInfo),
    Wal {
        system: SystemIdentifier,
        name: &'a WalFileName,
        codec: Codec,
        segment_size: SegmentSize,
    },
}

/// Which objects need not be read again.
#[derive(Debug, Clone, Copy)]
pub struct Trust {
    pub depth: Depth,
    pub now: DateTime<Utc>,
    pub again_after: TimeDelta,
}

/// What is to be done, and what has been done before.
#[derive(Debug, Default)]
pub struct Tasks<'a> {
    /// The largest first, so that none is left to run alone at the end.
    pub to_do: Vec<Task<'a>>,
    pub passed_over: Vec<Object>,
}

impl Task<'_> {
    pub fn size_bytes(&self) -> u64 {
        self.objects.iter().map(|object| object.stored.size_bytes).sum()
    }

    pub fn backup(&self) -> Option<BackupName> {
        match self.what {
            What::File { backup, .. } | What::Backup(backup) => Some(backup.name),
            What::Wal { .. } => None,
        }
    }
}

impl Trust {
    /// Whether `proof` says enough of an object that is stored as `stored`.
    pub fn is_enough(self, proof: &Proof, stored: StoredAs) -> bool {
        let age = self.now - proof.proven_at;
        let is_recent = TimeDelta::zero() <= age && age < self.again_after;
        is_of(proof, stored) && proof.damage.is_none() && self.depth <= proof.depth && is_recent
    }
}

/// Whether the proof is of the object as it is now.
pub fn is_of(proof: &Proof, stored: StoredAs) -> bool {
    (proof.size_bytes, proof.modified_at) == (stored.size_bytes, stored.stored_at)
}

/// Collects what is in `scope`. What `is_wrong` names needs no reading to know that it is damaged.
pub fn collect<'a>(
    inventory: &'a Inventory,
    catalog: &Catalog,
    scope: &Scope,
    proofs: &Proofs,
    trust: Trust,
    is_wrong: &dyn Fn(&str) -> bool,
) -> Tasks<'a> {
    let mut all: Vec<Task<'a>> = Vec::new();
    for directory in inventory.backups.iter().filter(|directory| scope.has_backup(directory.name)) {
        let Some(info) = directory.info() else { continue };
        let object = |file_name: &str| {
            let entry = directory.entry(file_name)?;
            let key = layout::backup_file(info.name, file_name);
            let stored = StoredAs { size_bytes: entry.size_bytes()?, stored_at: entry.modified_at };
            Some(Object { key, stored })
        };
        let files = info.files.iter().filter_map(|file| Some((object(&file.name)?, file.name.as_str())));
        let readable: Vec<_> = files.filter(|(object, _)| !is_wrong(&object.key)).collect();
        // Of half a backup the halves can still be read.
        if trust.depth >= Depth::Full && readable.len() == info.files.len() {
            let objects = readable.into_iter().map(|(object, _)| object).collect();
            all.push(Task { objects, what: What::Backup(info) });
        } else {
            all.extend(readable.into_iter().map(|(object, file_name)| Task {
                objects: vec![object],
                what: What::File { backup: info, file_name },
            }));
        }
    }
    for (key, object) in &inventory.wal {
        let WalObject { system, name, codec, stored } = object;
        let archive = catalog.archive(*system).expect("each cluster that has WAL has an archive");
        let segment_size = archive.segment_size();
        if !is_wrong(key) && scope.has_wal(*system, name, segment_size) {
            let what = What::Wal { system: *system, name, codec: *codec, segment_size };
            all.push(Task { objects: vec![Object { key: key.clone(), stored: *stored }], what });
        }
    }
    let mut tasks = Tasks::default();
    for task in all {
        // There is no more to be known of WAL, and of a file by itself, than its bytes tell.
        let depth = if matches!(task.what, What::Backup(_)) { trust.depth } else { Depth::Read };
        let trust = Trust { depth, ..trust };
        let is_proven = |object: &Object| {
            proofs.of(&object.key).is_some_and(|proof| trust.is_enough(proof, object.stored))
        };
        match task.objects.iter().all(is_proven) {
            true => tasks.passed_over.extend(task.objects),
            false => tasks.to_do.push(task),
        }
    }
    tasks.to_do.sort_by_key(|task| std::cmp::Reverse(task.size_bytes()));
    tasks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(depth: Depth, day: i64, damage: Option<&str>) -> Proof {
        Proof {
            size_bytes: 7,
            modified_at: DateTime::UNIX_EPOCH,
            depth,
            proven_at: DateTime::UNIX_EPOCH + TimeDelta::days(day),
            damage: damage.map(str::to_owned),
        }
    }

    #[test]
    fn only_a_sound_unchanged_recent_and_deep_enough_proof_is_enough() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(100);
        let trust = Trust { depth: Depth::Full, now, again_after: TimeDelta::days(30) };
        let stored = StoredAs { size_bytes: 7, stored_at: DateTime::UNIX_EPOCH };
        let later = StoredAs { stored_at: now, ..stored };
        let longer = StoredAs { size_bytes: 8, ..stored };
        for (proof, stored, enough) in [
            (proof(Depth::Full, 71, None), stored, true),
            (proof(Depth::Drill, 100, None), stored, true),
            (proof(Depth::Full, 70, None), stored, false),
            // A clock that was set back proves nothing.
            (proof(Depth::Full, 101, None), stored, false),
            (proof(Depth::Read, 99, None), stored, false),
            (proof(Depth::Full, 99, Some("bad")), stored, false),
            (proof(Depth::Full, 99, None), later, false),
            (proof(Depth::Full, 99, None), longer, false),
        ] {
            assert_eq!(trust.is_enough(&proof, stored), enough, "{proof:?} {stored:?}");
        }
    }
}
