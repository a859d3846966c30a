//! A disk that keeps what it must, and of the rest whatever hurts most.
//!
//! POSIX promises: after `fsync` of a file its content survives; after `fsync` of a directory its names do, and what
//! was removed from it stays removed. Everything else may survive or not, each change on its own and in any order. A
//! rename within a directory is one change, and so is either done or not.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::recording::{Inode, Recording, Step};

type Names = BTreeMap<Inode, BTreeMap<String, Inode>>;

/// What becomes of a file's bytes that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bytes {
    Lost,
    /// The file has its length, and nothing in it.
    Zeros,
    Kept,
}

/// Who decides what survives beyond what must.
pub trait Fate {
    /// Of a change to a directory's names; `number` counts those that are undecided, from 0.
    fn keeps_name(&mut self, number: usize) -> bool;
    fn bytes(&mut self) -> Bytes;
}

/// The same for everything.
#[derive(Debug, Clone, Copy)]
pub struct All {
    pub names: bool,
    pub bytes: Bytes,
    /// But for this change.
    pub but: Option<usize>,
}

impl Fate for All {
    fn keeps_name(&mut self, number: usize) -> bool {
        self.names != (self.but == Some(number))
    }

    fn bytes(&mut self) -> Bytes {
        self.bytes
    }
}

/// A disk, some steps into a recording.
#[derive(Clone)]
pub struct Disk<'a> {
    recording: &'a Recording,
    durable: Names,
    /// In the order in which they were made.
    undecided: Vec<Step>,
    written: Vec<u64>,
    synced: Vec<u64>,
}

/// What is found after the power came back.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Found {
    pub inode: Inode,
    pub length_bytes: u64,
    /// How many bytes from its start are what was written.
    pub sound_bytes: u64,
    pub is_directory: bool,
    /// Whether it holds all that the program wrote to it in the end, and nothing else.
    pub is_whole: bool,
}

pub type Tree = BTreeMap<PathBuf, Found>;

impl<'a> Disk<'a> {
    pub fn before(recording: &'a Recording) -> Self {
        let old = |node: &super::recording::Node| {
            if node.is_old { node.content.as_ref().map_or(0, |content| content.len() as u64) } else { 0 }
        };
        let written: Vec<u64> = recording.nodes.iter().map(old).collect();
        let synced = written.clone();
        Self { recording, durable: recording.before.clone(), undecided: Vec::new(), written, synced }
    }

    pub fn undecided(&self) -> usize {
        self.undecided.len()
    }

    /// Whether a power failure would leave the same.
    pub fn is_like(&self, other: &Self) -> bool {
        self.undecided == other.undecided
            && self.synced == other.synced
            && self.written == other.written
            && self.durable == other.durable
    }

    pub fn take(&mut self, step: &Step) {
        match step {
            Step::Write { file, bytes } => self.written[*file] += bytes,
            Step::Sync(inode) if self.recording.nodes[*inode].is_directory => self.sync_directory(*inode),
            Step::Sync(inode) => self.synced[*inode] = self.written[*inode],
            Step::SyncAll => {
                self.synced.clone_from(&self.written);
                let undecided = std::mem::take(&mut self.undecided);
                undecided.iter().for_each(|step| apply(&mut self.durable, step));
            }
            Step::Name { .. } | Step::Unname { .. } | Step::Rename { .. } => {
                self.undecided.push(step.clone())
            }
        }
    }

    fn sync_directory(&mut self, directory: Inode) {
        let undecided = std::mem::take(&mut self.undecided);
        for step in undecided {
            let concerns = match &step {
                Step::Name { directory: of, .. } | Step::Unname { directory: of, .. } => *of == directory,
                // Between two directories it is durable when the one that it went to is.
                Step::Rename { to, .. } => to.0 == directory,
                _ => false,
            };
            if concerns { apply(&mut self.durable, &step) } else { self.undecided.push(step) }
        }
    }

    /// The power fails.
    pub fn survivors(&self, fate: &mut dyn Fate) -> Tree {
        let mut names = self.durable.clone();
        for (number, step) in self.undecided.iter().enumerate() {
            if fate.keeps_name(number) {
                apply(&mut names, step);
            }
        }
        let paths = self.recording.paths(&names);
        paths.into_iter().map(|(path, inode)| (path, self.found(inode, fate))).collect()
    }

    fn found(&self, inode: Inode, fate: &mut dyn Fate) -> Found {
        let node = &self.recording.nodes[inode];
        let (written, synced) = (self.written[inode], self.synced[inode]);
        let bytes = if written == synced { Bytes::Kept } else { fate.bytes() };
        let (length_bytes, sound_bytes) = match bytes {
            Bytes::Lost => (synced, synced),
            Bytes::Zeros => (written, synced),
            Bytes::Kept => (written, written),
        };
        let is_whole = (length_bytes, sound_bytes) == (node.size_bytes, node.size_bytes);
        Found { inode, length_bytes, sound_bytes, is_directory: node.is_directory, is_whole }
    }
}

fn apply(names: &mut Names, step: &Step) {
    match step {
        Step::Name { directory, name, inode } => {
            names.entry(*directory).or_default().insert(name.clone(), *inode);
        }
        Step::Unname { directory, name } => {
            names.entry(*directory).or_default().remove(name);
        }
        Step::Rename { from, to, inode } => {
            names.entry(from.0).or_default().remove(&from.1);
            names.entry(to.0).or_default().insert(to.1.clone(), *inode);
        }
        Step::Write { .. } | Step::Sync(_) | Step::SyncAll => {}
    }
}
