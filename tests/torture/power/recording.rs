//! What a program did to a part of the file system, read from a trace of its calls.
//!
//! Only names and lengths are followed; what the files hold is looked up afterwards, where they still are, or comes
//! from the trace itself, where it was short.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use super::super::strace::Call;

pub type Inode = usize;

/// One change that the program made, or one time that it asked for durability.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A new name for a new file or directory, or a second name for one.
    Name {
        directory: Inode,
        name: String,
        inode: Inode,
    },
    Unname {
        directory: Inode,
        name: String,
    },
    Rename {
        from: (Inode, String),
        to: (Inode, String),
        inode: Inode,
    },
    Write {
        file: Inode,
        bytes: u64,
    },
    Sync(Inode),
    SyncAll,
}

/// A file or directory, whatever its names.
#[derive(Debug, Clone)]
pub struct Node {
    pub is_directory: bool,
    /// Its first path, below the root.
    pub path: PathBuf,
    /// How much was written to it, before the recording or in it.
    pub size_bytes: u64,
    /// Whether it was there before.
    pub is_old: bool,
    /// `None` when that cannot be known.
    pub content: Option<Vec<u8>>,
}

pub struct Recording {
    pub nodes: Vec<Node>,
    /// The names before the first step; all of them are durable.
    pub before: BTreeMap<Inode, BTreeMap<String, Inode>>,
    pub before_paths: BTreeMap<PathBuf, Inode>,
    pub steps: Vec<Step>,
    root: PathBuf,
    /// The names after the last step.
    pub after: BTreeMap<Inode, BTreeMap<String, Inode>>,
    /// What must never be lost again, and from how many steps on.
    pub acknowledged: BTreeMap<PathBuf, usize>,
    /// What a server was told to be flushed, in order: after how many steps, and up to which LSN.
    flushed: Vec<(usize, u64)>,
    /// How many steps were taken when each run ended well.
    pub ended: Vec<usize>,
    /// What each process has open under its numbers.
    open: BTreeMap<(u32, i64), Inode>,
}

/// Whose numbers for open files are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Descriptors {
    /// Of all threads: they are one process.
    Shared,
    /// Each thread is a process.
    OfEachThread,
}

pub const ROOT: Inode = 0;

impl Recording {
    /// Everything below `root`, as it is now.
    pub fn begin(root: &Path) -> Self {
        let mut recording = Self {
            nodes: Vec::new(),
            before: BTreeMap::new(),
            before_paths: BTreeMap::new(),
            steps: Vec::new(),
            root: root.to_owned(),
            after: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            flushed: Vec::new(),
            ended: Vec::new(),
            open: BTreeMap::new(),
        };
        recording.take_in(root, PathBuf::new());
        recording.before = recording.after.clone();
        recording.before_paths = recording.paths(&recording.before);
        recording
    }

    fn take_in(&mut self, path: &Path, below: PathBuf) -> Inode {
        let is_directory = path.is_dir();
        let content = (!is_directory).then(|| fs::read(path).expect("the tests may read everything"));
        let size_bytes = content.as_ref().map_or(0, |content| content.len() as u64);
        let inode = self.nodes.len();
        self.nodes.push(Node { is_directory, path: below.clone(), size_bytes, is_old: true, content });
        if is_directory {
            self.after.insert(inode, BTreeMap::new());
            for entry in fs::read_dir(path).unwrap().flatten() {
                let name = entry.file_name().into_string().unwrap();
                let child = self.take_in(&entry.path(), below.join(&name));
                self.after.get_mut(&inode).unwrap().insert(name, child);
            }
        }
        inode
    }

    /// Follows a run that has ended. Its calls name things as it sees them: below `seen_as`.
    pub fn follow(&mut self, calls: &[Call], seen_as: &Path, descriptors: Descriptors) {
        self.open.clear();
        for call in calls.iter().filter(|call| call.result >= 0) {
            let process = if descriptors == Descriptors::Shared { 0 } else { call.thread };
            self.follow_call(call, process, seen_as);
        }
        self.look_at_content();
    }

    fn follow_call(&mut self, call: &Call, process: u32, seen_as: &Path) {
        let paths: Vec<_> = match call.name.as_str() {
            "write" | "pwrite64" | "sendto" => Vec::new(),
            _ => call.strings().iter().map(|path| self.split(path, seen_as)).collect(),
        };
        let words = call.words();
        let descriptor = || words[0].parse::<i64>().ok().map(|number| (process, number));
        match (call.name.as_str(), &paths[..]) {
            // A file without a name goes with its process.
            ("open" | "openat", [Some(_)]) if call.arguments.contains("O_TMPFILE") => {
                self.open.remove(&(process, call.result));
            }
            ("open" | "openat", [Some(path)]) => self.opened(path, &call.arguments, (process, call.result)),
            ("open" | "openat", _) => drop(self.open.remove(&(process, call.result))),
            ("close", _) => drop(descriptor().and_then(|number| self.open.remove(&number))),
            ("fcntl" | "dup" | "dup2" | "dup3", _) => {
                let duplicates = call.name != "fcntl" || call.arguments.contains("F_DUPFD");
                if duplicates && let Some(&inode) = descriptor().and_then(|number| self.open.get(&number)) {
                    self.open.insert((process, call.result), inode);
                }
            }
            ("write" | "pwrite64", _) => {
                if let Some(&file) = descriptor().and_then(|number| self.open.get(&number)) {
                    self.wrote(file, call);
                }
            }
            ("sendto", _) => {
                let told = call.strings().first().and_then(|message| flushed_in(message));
                self.flushed.extend(told.map(|lsn| (self.steps.len(), lsn)));
            }
            ("fsync" | "fdatasync", _) => {
                let synced = descriptor().and_then(|number| self.open.get(&number));
                self.steps.extend(synced.map(|&inode| Step::Sync(inode)));
            }
            ("syncfs", _) if descriptor().is_some_and(|number| self.open.contains_key(&number)) => {
                self.steps.push(Step::SyncAll);
            }
            ("syncfs", _) => {}
            ("mkdir" | "mkdirat", [Some((directory, name))]) => {
                let inode = self.new_node(*directory, name, true);
                self.name(*directory, name, inode);
            }
            ("link" | "linkat", [Some((from, old)), Some((to, new))]) => {
                let inode = self.after[from][old];
                self.name(*to, new, inode);
            }
            ("unlink" | "unlinkat" | "rmdir", [Some((directory, name))]) => {
                self.after.get_mut(directory).unwrap().remove(name);
                self.steps.push(Step::Unname { directory: *directory, name: name.clone() });
            }
            ("rename" | "renameat" | "renameat2", [Some(from), Some(to)]) => {
                let inode = self.after.get_mut(&from.0).unwrap().remove(&from.1).expect("it was there");
                self.after.get_mut(&to.0).unwrap().insert(to.1.clone(), inode);
                self.steps.push(Step::Rename { from: from.clone(), to: to.clone(), inode });
            }
            _ => {}
        }
    }

    /// The directory that holds a path, and the name in it; `None` for what lies elsewhere.
    fn split(&self, path: &[u8], seen_as: &Path) -> Option<(Inode, String)> {
        let path = Path::new(std::str::from_utf8(path).ok()?);
        let below = path.strip_prefix(seen_as).ok()?;
        let Some(name) = below.file_name() else { return Some((ROOT, ".".to_owned())) };
        let mut directory = ROOT;
        for component in below.parent()?.components() {
            let Component::Normal(name) = component else { return None };
            directory = *self.after.get(&directory)?.get(name.to_str()?)?;
        }
        Some((directory, name.to_str()?.to_owned()))
    }

    fn opened(&mut self, (directory, name): &(Inode, String), flags: &str, descriptor: (u32, i64)) {
        let known = match name.as_str() {
            "." => Some(*directory),
            _ => self.after[directory].get(name).copied(),
        };
        let inode = known.unwrap_or_else(|| {
            let inode = self.new_node(*directory, name, false);
            self.name(*directory, name, inode);
            inode
        });
        assert!(
            !flags.contains("O_TRUNC") || known.is_none() || self.nodes[inode].size_bytes == 0,
            "{} is cut short, which this model does not know",
            self.nodes[inode].path.display()
        );
        self.open.insert(descriptor, inode);
    }

    fn new_node(&mut self, directory: Inode, name: &str, is_directory: bool) -> Inode {
        let path = self.nodes[directory].path.join(name);
        let content = (!is_directory).then(Vec::new);
        self.nodes.push(Node { is_directory, path, size_bytes: 0, is_old: false, content });
        let inode = self.nodes.len() - 1;
        if is_directory {
            self.after.insert(inode, BTreeMap::new());
        }
        inode
    }

    fn name(&mut self, directory: Inode, name: &str, inode: Inode) {
        self.after.get_mut(&directory).unwrap().insert(name.to_owned(), inode);
        self.steps.push(Step::Name { directory, name: name.to_owned(), inode });
    }

    fn wrote(&mut self, file: Inode, call: &Call) {
        let bytes = u64::try_from(call.result).expect("it succeeded");
        let node = &mut self.nodes[file];
        let piece = call.strings().into_iter().next().unwrap_or_default();
        let is_whole = piece.len() as u64 == bytes && call.name == "write";
        match &mut node.content {
            Some(content) if is_whole => content.extend(piece),
            content => *content = None,
        }
        node.size_bytes += bytes;
        self.steps.push(Step::Write { file, bytes });
    }

    /// Nothing that is there in the end may ever have been lost.
    pub fn keeps_what_is_left(&mut self) {
        let kept = self.paths(&self.after);
        self.acknowledged.extend(kept.into_keys().map(|path| (path, 0)));
    }

    /// Up to where a server was told that WAL is flushed, by so many steps.
    pub fn flushed_up_to(&self, after: usize) -> u64 {
        let told = self.flushed.iter().take_while(|(since, _)| *since <= after);
        told.map(|(_, lsn)| *lsn).max().unwrap_or(0)
    }

    /// Files that are still there tell themselves what was written to them.
    fn look_at_content(&mut self) {
        let named: Vec<(Inode, PathBuf)> =
            self.paths(&self.after).into_iter().map(|(path, inode)| (inode, path)).collect();
        for (inode, path) in named {
            let node = &mut self.nodes[inode];
            if !node.is_directory && node.content.is_none() {
                node.content = fs::read(self.root.join(path)).ok();
            }
        }
    }

    /// Every path below the root.
    pub fn paths(&self, names: &BTreeMap<Inode, BTreeMap<String, Inode>>) -> BTreeMap<PathBuf, Inode> {
        let mut found = BTreeMap::new();
        let mut directories = vec![(ROOT, PathBuf::new())];
        while let Some((directory, path)) = directories.pop() {
            for (name, &inode) in names.get(&directory).into_iter().flatten() {
                let path = path.join(name);
                if self.nodes[inode].is_directory {
                    directories.push((inode, path.clone()));
                }
                found.insert(path, inode);
            }
        }
        found
    }
}

/// Reads a standby's status update (`r`): CopyData with the LSNs up to which WAL is written, flushed and applied, a time,
/// and whether an answer is wanted.
fn flushed_in(message: &[u8]) -> Option<u64> {
    let body = message.strip_prefix(b"d\0\0\0\x26r")?;
    let flushed = body.get(8..16).filter(|_| message.len() == 39)?;
    Some(u64::from_be_bytes(flushed.try_into().expect("eight bytes")))
}
