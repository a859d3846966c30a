//! The power fails: at which moments, and in which ways.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::super::campaign::Campaign;
use super::super::length;
use super::disk::{All, Bytes, Disk, Fate, Tree};
use super::recording::{Recording, Step};

/// Up to so many undecided changes, each is tried on its own.
const EACH_ALONE_MAX: usize = 24;
/// In a longer recording, not every name and every write is a moment of its own.
const MANY_STEPS: usize = 500;

/// Says what is wrong with a disk on which the power failed after so many steps.
pub type Law = fn(&Recording, &Tree, usize) -> Result<(), String>;

/// Is shown a disk, and how many steps were taken before the power failed.
pub type Look<'a> = dyn FnMut(&Tree, usize) -> Result<(), String> + 'a;

/// Chance decides.
struct Chance<'a>(&'a mut Campaign);

impl Fate for Chance<'_> {
    fn keeps_name(&mut self, _: usize) -> bool {
        self.0.flips()
    }

    fn bytes(&mut self) -> Bytes {
        [Bytes::Lost, Bytes::Zeros, Bytes::Kept][self.0.below(3)]
    }
}

/// Plays a recording back but for what is `ignored`, and lets the power fail after every step, in `chances` ways beside
/// the obvious ones. Says how many disks were found.
pub fn power_fails(
    recording: &Recording,
    campaign: &mut Campaign,
    chances: usize,
    ignored: &dyn Fn(usize) -> bool,
    look: &mut Look<'_>,
) -> Result<usize, String> {
    let mut disk = Disk::before(recording);
    let mut found = 0;
    for after in 0..=recording.steps.len() {
        if let Some(step) = after.checked_sub(1).filter(|step| !ignored(*step)) {
            disk.take(&recording.steps[step]);
        }
        found += fails_now(&disk, recording, campaign, chances, after, look)?;
    }
    Ok(found)
}

/// Whether the law would hold without this one sync. `disk` is as it was before.
pub fn survives_without(
    sync: usize,
    disk: &Disk<'_>,
    recording: &Recording,
    campaign: &mut Campaign,
    law: Law,
) -> bool {
    let (mut with, mut without) = (disk.clone(), disk.clone());
    with.take(&recording.steps[sync]);
    for after in sync + 1..=recording.steps.len() {
        // From there on, it is no other disk than the one on which the law was seen to hold.
        if without.is_like(&with) {
            return true;
        }
        let mut look = |tree: &Tree, after: usize| law(recording, tree, after);
        if fails_now(&without, recording, campaign, 0, after, &mut look).is_err() {
            return false;
        }
        if let Some(step) = recording.steps.get(after) {
            with.take(step);
            without.take(step);
        }
    }
    true
}

/// The power fails now. Says how many disks were found.
fn fails_now(
    disk: &Disk<'_>,
    recording: &Recording,
    campaign: &mut Campaign,
    chances: usize,
    after: usize,
    look: &mut Look<'_>,
) -> Result<usize, String> {
    if is_one_of_many(recording, after) && campaign.below(length::of(recording.steps.len() / 30, 8)) > 0 {
        return Ok(0);
    }
    let mut found = 0;
    let mut fail = |fate: &mut dyn Fate| {
        found += 1;
        look(&disk.survivors(fate), after)
    };
    for (names, bytes) in [false, true]
        .into_iter()
        .flat_map(|names| [Bytes::Lost, Bytes::Zeros, Bytes::Kept].map(|bytes| (names, bytes)))
    {
        let alone = (0..disk.undecided()).filter(|_| disk.undecided() <= EACH_ALONE_MAX);
        for but in std::iter::once(None).chain(alone.map(Some)) {
            fail(&mut All { names, bytes, but })?;
        }
    }
    for _ in 0..chances {
        fail(&mut Chance(campaign))?;
    }
    Ok(found)
}

/// Whether the last step was like thousands of others of a restore, so that a sample of them will do.
fn is_one_of_many(recording: &Recording, after: usize) -> bool {
    let last = after.checked_sub(1).map(|step| &recording.steps[step]);
    recording.steps.len() > MANY_STEPS
        && after < recording.steps.len()
        && matches!(last, Some(Step::Name { .. } | Step::Write { .. } | Step::Unname { .. }))
}

/// Asserts that the law holds however the power fails; returns how many disks were looked at.
#[track_caller]
pub fn assert_survives(recording: &Recording, campaign: &mut Campaign, law: Law) -> usize {
    let chances = length::of(4, 100);
    let mut look = |tree: &Tree, after: usize| {
        law(recording, tree, after).map_err(|broken| {
            let last = after.checked_sub(1).map(|step| recording.describe(step));
            format!("{broken}\nafter {last:?}; then there was {tree:#?}")
        })
    };
    power_fails(recording, campaign, chances, &|_| false, &mut look)
        .unwrap_or_else(|broken| panic!("{broken}"))
}

/// At most `count` of the disks that may be found, no two alike, each with the number of steps that were taken.
pub fn some_disks(recording: &Recording, campaign: &mut Campaign, count: usize) -> Vec<(Tree, usize)> {
    let salt = campaign.number();
    // Those whose digests are least: a sample, without keeping all of them.
    let mut least: BTreeMap<u64, (Tree, usize)> = BTreeMap::new();
    let mut look = |tree: &Tree, after: usize| {
        let mut hasher = DefaultHasher::new();
        (salt, tree).hash(&mut hasher);
        let digest = hasher.finish();
        if !least.contains_key(&digest)
            && (least.len() < count || least.last_key_value().is_some_and(|(last, _)| digest < *last))
        {
            least.insert(digest, (tree.clone(), after));
        } else if let Some((_, latest)) = least.get_mut(&digest) {
            // The same disk, found later: more was acknowledged by then.
            *latest = after;
        }
        if least.len() > count {
            least.pop_last();
        }
        Ok(())
    };
    power_fails(recording, campaign, 2, &|_| false, &mut look).expect("nothing is asked of them");
    least.into_values().collect()
}
