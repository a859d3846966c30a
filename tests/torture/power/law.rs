//! What must be true of a disk, however the power failed.

use std::collections::BTreeMap;
use std::path::Path;

use super::UNFINISHED;
use super::disk::Tree;
use super::recording::Recording;

/// A backup's record, which comes last.
pub const RECORD: &str = "backup_info.toml";

/// Lies in a data directory while it is being restored.
const MARKER: &str = "data/pgbak_restore_in_progress";

/// The repositories that are streamed to; others are copied to.
pub const STREAMED_TO: [&str; 2] = ["first", "second"];
/// Of the clusters in these campaigns.
const SEGMENT_BYTES: u64 = 1 << 20;
const SEGMENT_NAME_LENGTH: usize = 24;

/// What has a name in a repository is whole, a recorded backup has all its files, and what was acknowledged is there.
pub fn of_repositories(recording: &Recording, tree: &Tree, after: usize) -> Result<(), String> {
    what_has_a_name_is_whole(recording, tree)?;
    let mut acknowledged = recording.acknowledged.iter().filter(|(_, since)| **since <= after);
    match acknowledged.find(|(path, _)| !tree.contains_key(*path)) {
        Some((missing, _)) => Err(format!("{} was acknowledged, and is lost", missing.display())),
        None => Ok(()),
    }
}

/// The same, and there is a backup: the old one, or the one that it made way for.
pub fn of_a_pruned_repository(recording: &Recording, tree: &Tree, after: usize) -> Result<(), String> {
    of_repositories(recording, tree, after)?;
    match tree.keys().any(|path| path.ends_with(RECORD)) {
        true => Ok(()),
        false => Err("no backup is left".into()),
    }
}

fn what_has_a_name_is_whole(recording: &Recording, tree: &Tree) -> Result<(), String> {
    for (path, found) in tree {
        let name = path.file_name().unwrap().to_str().unwrap();
        if !found.is_directory && !name.ends_with(UNFINISHED) && !found.is_whole {
            return Err(format!("{} is torn", path.display()));
        }
        if name == RECORD {
            let record = recording.nodes[found.inode].content.as_ref().expect("a record is short");
            let record: toml::Table = std::str::from_utf8(record).unwrap().parse().unwrap();
            let files = record["files"].as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap());
            if let Some(missing) =
                files.chain(["SHA256SUMS"]).find(|file| !tree.contains_key(&path.with_file_name(file)))
            {
                return Err(format!("{} is recorded without {missing}", path.display()));
            }
        }
    }
    Ok(())
}

/// Whatever the server was told to be flushed is there, in each repository that is streamed to, without a hole since the
/// first segment; in one that is copied to, what had been flushed when the last run said success. What has a name is
/// whole.
pub fn of_streaming(recording: &Recording, tree: &Tree, after: usize) -> Result<(), String> {
    what_has_a_name_is_whole(recording, tree)?;
    let copied = recording.ended.iter().rev().find(|end| **end <= after);
    let repositories = recording.after[&super::recording::ROOT].keys();
    for repository in repositories {
        let acknowledged = match STREAMED_TO.contains(&repository.as_str()) {
            true => recording.flushed_up_to(after),
            false => copied.map_or(0, |end| recording.flushed_up_to(*end)),
        };
        let reached = wal_reaches(recording, tree, repository);
        if reached < acknowledged {
            return Err(format!("{acknowledged:X} was acknowledged, and {repository} ends at {reached:X}"));
        }
    }
    Ok(())
}

/// What there is of a segment: whether it is whole, and its parts, each by where it begins and ends.
#[derive(Default)]
struct Held {
    is_whole: bool,
    parts: Vec<(u64, u64)>,
}

/// Where the WAL of a repository ends, without a hole since the first segment that it had before.
fn wal_reaches(recording: &Recording, tree: &Tree, repository: &str) -> u64 {
    let archive = Path::new(repository).join("wal-archive");
    let before = recording.before_paths.keys().filter(|path| path.starts_with(&archive));
    let first = before.filter_map(|path| Some(wal_object(path)?.0)).min();
    let mut held: BTreeMap<u64, Held> = BTreeMap::new();
    for (path, _) in tree.range(archive.clone()..).take_while(|(path, _)| path.starts_with(&archive)) {
        let Some((number, part)) = wal_object(path) else { continue };
        let segment = held.entry(number).or_default();
        match part {
            None => segment.is_whole = true,
            Some(part) => segment.parts.push(part),
        }
    }
    let mut number = first.expect("a base backup has stored its WAL");
    while held.get(&number).is_some_and(|segment| segment.is_whole) {
        number += 1;
    }
    let mut reached = 0;
    let parts = held.remove(&number).map(|segment| segment.parts).unwrap_or_default();
    while let Some((_, end)) = parts.iter().find(|(begin, end)| *begin <= reached && *end > reached) {
        reached = *end;
    }
    number * SEGMENT_BYTES + reached
}

/// Reads `TTTTTTTTLLLLLLLLSSSSSSSS.zst` and `….partial.BEGIN-END.zst`: the number of the segment, and the part.
fn wal_object(path: &Path) -> Option<(u64, Option<(u64, u64)>)> {
    let name = path.file_name()?.to_str()?.strip_suffix(".zst")?;
    let (segment, rest) = name.split_at_checked(SEGMENT_NAME_LENGTH)?;
    let hexadecimal = |digits: &str| u64::from_str_radix(digits, 16).ok();
    let number = (hexadecimal(&segment[8..16])? << 32) / SEGMENT_BYTES + hexadecimal(&segment[16..])?;
    let Some(part) = rest.strip_prefix(".partial.") else { return rest.is_empty().then_some((number, None)) };
    let (begin, end) = part.split_once('-')?;
    Some((number, Some((hexadecimal(begin)?, hexadecimal(end)?))))
}

/// What `verify` had found before it stays known: the file that says so is the old one, or the new one with all of that.
pub fn of_proofs(recording: &Recording, tree: &Tree, _: usize) -> Result<(), String> {
    for (path, inode) in recording.before_paths.iter().filter(|(path, _)| is_memory_of_proofs(path)) {
        let old = recording.nodes[*inode].content.as_deref().unwrap_or_default();
        let Some(found) = tree.get(path) else { return Err(format!("{} is gone", path.display())) };
        let node = &recording.nodes[found.inode];
        let content = node.content.as_deref().expect("it is still there");
        let sound = &content[..content.len().min(usize::try_from(found.sound_bytes).unwrap())];
        let is_known = |line: &[u8]| sound.split(|byte| *byte == b'\n').any(|other| other == line);
        if let Some(lost) = old.split(|byte| *byte == b'\n').find(|line| !line.is_empty() && !is_known(line))
        {
            return Err(format!("{} has forgotten {}", path.display(), String::from_utf8_lossy(lost)));
        }
    }
    Ok(())
}

fn is_memory_of_proofs(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("proofs-"))
}

/// A data directory that could be started holds what was restored, all of it, or the old copy as it was.
pub fn of_restore(recording: &Recording, tree: &Tree, steps_taken: usize) -> Result<(), String> {
    let control = Path::new("data/global/pg_control");
    if steps_taken == recording.steps.len() && tree.contains_key(Path::new(MARKER)) {
        return Err("success was said, and the directory is marked as unfinished".into());
    }
    let (before, after) = (&recording.before_paths, recording.paths(&recording.after));
    let expected = match tree.get(control) {
        Some(found) if Some(&found.inode) == after.get(control) => &after,
        Some(found) if Some(&found.inode) == before.get(control) => before,
        Some(_) => return Err("there is a pg_control that is neither old nor new".into()),
        None if steps_taken == recording.steps.len() => {
            return Err("success was said, and there is no pg_control".into());
        }
        // It cannot be started; but `restore --delta` has to find what it may finish.
        None => return what_is_left_is_marked(tree),
    };
    for (path, inode) in expected {
        match tree.get(path) {
            None => return Err(format!("{} is missing, beside a pg_control", path.display())),
            Some(found) if found.inode != *inode => {
                return Err(format!("{} is of another life than pg_control", path.display()));
            }
            Some(found) if !found.is_directory && !found.is_whole => {
                return Err(format!("{} is torn, beside a pg_control", path.display()));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn what_is_left_is_marked(tree: &Tree) -> Result<(), String> {
    let marker = Path::new(MARKER);
    let is_marked = tree.get(marker).is_some_and(|found| found.is_whole);
    match tree.iter().find(|(path, found)| !found.is_directory && path.as_path() != marker) {
        Some((left, _)) if !is_marked => {
            Err(format!("{} is there, and neither a pg_control nor a mark", left.display()))
        }
        _ => Ok(()),
    }
}
