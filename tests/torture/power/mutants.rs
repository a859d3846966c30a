//! Syncs left out: a recording played back without one of them is what the program would do if it were not in the code.
//!
//! All syncs of each kind are left out together, and then each alone. One that nobody misses must be explained.

use std::collections::BTreeMap;

use super::super::campaign::Campaign;
use super::disk::{Disk, Tree};
use super::failure::{Law, power_fails, survives_without};
use super::law::RECORD;
use super::recording::{Recording, Step};
use crate::torture::power::UNFINISHED;

/// Why there is a sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// A file's content.
    Content,
    /// The name of a file.
    Name,
    /// The name of a directory.
    Directory,
    /// That names are gone.
    Removal,
    Everything,
    /// Nothing had changed there since it was synced last.
    Nothing,
}

impl Recording {
    /// What each sync among the steps is for.
    fn purposes(&self) -> BTreeMap<usize, Purpose> {
        let mut purposes = BTreeMap::new();
        for (index, step) in self.steps.iter().enumerate() {
            let purpose = match step {
                Step::SyncAll => Purpose::Everything,
                Step::Sync(inode) if self.nodes[*inode].is_directory => self.purpose_of(*inode, index),
                Step::Sync(file) if self.was_written(*file, index) => Purpose::Content,
                Step::Sync(_) => Purpose::Nothing,
                _ => continue,
            };
            purposes.insert(index, purpose);
        }
        purposes
    }

    fn was_written(&self, synced: usize, end: usize) -> bool {
        let mut since = self.steps[..end].iter().rev().take_while(|step| **step != Step::Sync(synced));
        since.any(|step| matches!(step, Step::Write { file, .. } if *file == synced))
    }

    fn purpose_of(&self, synced: usize, end: usize) -> Purpose {
        let before = |step: &&Step| **step != Step::Sync(synced);
        let since = self.steps[..end].iter().rev().take_while(before).filter_map(|step| match step {
            Step::Name { directory, inode, name } if *directory == synced && !name.ends_with(UNFINISHED) => {
                Some(if self.nodes[*inode].is_directory { Purpose::Directory } else { Purpose::Name })
            }
            Step::Rename { to, .. } if to.0 == synced => Some(Purpose::Name),
            Step::Unname { directory, .. } if *directory == synced => Some(Purpose::Removal),
            _ => None,
        });
        since.min().unwrap_or(Purpose::Nothing)
    }

    pub fn describe(&self, index: usize) -> String {
        match &self.steps[index] {
            Step::Sync(inode) => format!("sync {} of /{}", index, self.nodes[*inode].path.display()),
            step => format!("step {index}, {step:?}"),
        }
    }
}

/// Leaves syncs out: all of each kind in `vital`, which must be missed, and then each alone. Returns those that are not
/// missed alone, with their purpose.
fn unmissed(
    recording: &Recording,
    campaign: &mut Campaign,
    law: Law,
    vital: &[Purpose],
) -> Vec<(usize, Purpose)> {
    let purposes = recording.purposes();
    for kind in vital {
        assert!(
            purposes.values().any(|purpose| purpose == kind),
            "{kind:?} is not synced at all: {purposes:?}"
        );
        let ignored = |step: usize| purposes.get(&step) == Some(kind);
        let mut look = |tree: &Tree, after: usize| law(recording, tree, after);
        let survived = power_fails(recording, campaign, 0, &ignored, &mut look).is_ok();
        assert!(!survived, "nobody misses the syncs of {kind:?}");
    }
    let mut disk = Disk::before(recording);
    let mut unmissed = Vec::new();
    for (index, step) in recording.steps.iter().enumerate() {
        if let Some(&purpose) = purposes.get(&index)
            && survives_without(index, &disk, recording, campaign, law)
        {
            unmissed.push((index, purpose));
        }
        disk.take(step);
    }
    unmissed
}

/// Why nobody misses one sync alone; `None` when that is not known, and so a hole in the law or a sync too many.
fn explanation(recording: &Recording, step_number: usize, purpose: Purpose) -> Option<&'static str> {
    let same_again = || {
        let later = &recording.steps[step_number + 1..];
        let relied_on = later.iter().position(|step| match (step, &recording.steps[step_number]) {
            (Step::Rename { to, .. }, Step::Sync(synced)) => to.0 == *synced && to.1 == RECORD,
            (Step::Name { directory, name, .. } | Step::Unname { directory, name }, Step::Sync(synced)) => {
                directory == synced && name == RECORD
            }
            _ => false,
        });
        later[..relied_on.unwrap_or(later.len())].contains(&recording.steps[step_number])
    };
    let is_one_of_two = || {
        let (before, after) = (step_number.saturating_sub(1), step_number + 1);
        [before, after].iter().any(|near| recording.steps.get(*near) == Some(&Step::SyncAll))
    };
    let is_named_later = || {
        recording.steps[step_number..].iter().any(|step| match (step, &recording.steps[step_number]) {
            (Step::Rename { inode, .. } | Step::Name { inode, .. }, Step::Sync(synced)) => inode == synced,
            _ => false,
        })
    };
    match purpose {
        Purpose::Content if !is_named_later() => Some("another process was faster, and its object stays"),
        // Storage does not know what an earlier process, which may have been killed, has synced.
        Purpose::Nothing => Some("it had been durable before"),
        // Storage promises durability object by object; a backup needs it before its record, and before its end. Of two
        // threads that make the same directory durable, either would do.
        Purpose::Name | Purpose::Removal | Purpose::Directory if same_again() => {
            Some("the same directory is synced again in time")
        }
        // Data and WAL may lie on two file systems; here they do not.
        Purpose::Everything if is_one_of_two() => Some("the same file system is synced twice"),
        // A lease of a process that is gone, a file of a backup without a record, a half-deleted directory.
        Purpose::Removal => Some("what comes back is garbage, and known for it"),
        _ => None,
    }
}

/// Asserts that each kind of sync is needed, and that each single one that is not can be explained.
#[track_caller]
pub fn assert_no_sync_is_idle(
    recording: &Recording,
    campaign: &mut Campaign,
    law: Law,
    vital: &[Purpose],
) -> String {
    let unmissed = unmissed(recording, campaign, law, vital);
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for &(step, purpose) in &unmissed {
        let reason = explanation(recording, step, purpose);
        let reason =
            reason.unwrap_or_else(|| panic!("nobody misses {}, for {purpose:?}", recording.describe(step)));
        *reasons.entry(reason).or_default() += 1;
    }
    let all = recording.purposes().len();
    println!("not missed alone: {reasons:?}");
    format!("{} of {all} syncs missed alone, {} kinds together", all - unmissed.len(), vital.len())
}
