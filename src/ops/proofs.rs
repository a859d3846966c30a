//! What was proven of a repository, and when: the memory of `verify`, so that it need not read again tonight what it
//! read last night.
//!
//! One file for each repository in the state directory, a line of JSON for each proof; a later line about the same
//! key takes the place of an earlier one. Lines are appended while `verify` works, so that a run that was killed is
//! not done again from the beginning. It is a memory, not a promise: where the file is lost, or a line cannot be
//! understood, things are merely proven again. It never says that an object is sound which has another size or time
//! than the one that was read.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::process::make_private_directory;
use super::{Context, Error};
use crate::catalog::BackupName;
use crate::repo::{Repository, layout};

/// How much was looked at. A greater depth includes the lesser ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Depth {
    /// Every stored byte was read.
    Read,
    /// Every file was compared with the manifest, and every page with its checksum.
    Full,
    /// A server was started from it.
    Drill,
}

/// What came out when an object, or a whole backup, was proven last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Of the object as stored; of all of a backup's files together.
    pub size_bytes: u64,
    /// When the object was stored; for a backup, when its record was.
    pub modified_at: DateTime<Utc>,
    pub depth: Depth,
    pub proven_at: DateTime<Utc>,
    /// What was wrong, in words; `None` when nothing was.
    pub damage: Option<String>,
}

/// What is known of one repository.
#[derive(Debug)]
pub struct Proofs {
    path: PathBuf,
    by_key: BTreeMap<String, Proof>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    #[serde(flatten)]
    proof: Proof,
}

/// The key under which a backup as a whole is remembered.
pub fn backup_key(name: BackupName) -> String {
    layout::backup_directory(name)
}

impl Proofs {
    /// What is remembered of `repository`; nothing where nothing was ever proven.
    pub fn load(context: &Context<'_>, repository: &Repository) -> Result<Self, Error> {
        let path = context.configuration_state().join(format!("proofs-{}.jsonl", repository.name()));
        let by_key = match File::open(&path) {
            Ok(file) => read(BufReader::new(file), &repository.place()).map_err(|source| Error::Io {
                action: "read",
                path: path.clone(),
                source,
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => return Err(Error::Io { action: "open", path, source }),
        };
        Ok(Self { path, by_key })
    }

    /// The newest proof of an object.
    pub fn of(&self, key: &str) -> Option<&Proof> {
        self.by_key.get(key)
    }

    /// Everything whose newest proof found damage.
    pub fn damaged(&self) -> impl Iterator<Item = (&str, &Proof)> {
        let damaged = self.by_key.iter().filter(|(_, proof)| proof.damage.is_some());
        damaged.map(|(key, proof)| (key.as_str(), proof))
    }

    /// The newest proof of a backup as a whole.
    pub fn of_backup(&self, name: BackupName) -> Option<&Proof> {
        self.of(&backup_key(name))
    }

    /// The backups of which the newest proof says that something is wrong, and what.
    pub fn damaged_backups(&self) -> Vec<(BackupName, String)> {
        let damaged = self.by_key.iter().filter_map(|(key, proof)| {
            let name = key.strip_prefix(layout::BASE_BACKUPS)?.strip_prefix('/')?.parse().ok()?;
            Some((name, proof.damage.clone()?))
        });
        damaged.collect()
    }

    /// Forgets every key that is not `there` any more, and opens the memory for more.
    pub fn recorder(
        mut self,
        context: &Context<'_>,
        repository: &Repository,
        is_there: &dyn Fn(&str) -> bool,
    ) -> Result<Recorder, Error> {
        self.by_key.retain(|key, _| is_there(key));
        context.make_state_directory()?;
        make_private_directory(&context.configuration_state())?;
        let path = self.path.clone();
        let io = |source| Error::Io { action: "write", path: path.clone(), source };
        let file = self.rewrite(&repository.place()).map_err(io)?;
        Ok(Recorder { proofs: self, file })
    }

    /// Writes everything anew, and puts it into place whole.
    fn rewrite(&self, place: &str) -> io::Result<File> {
        let temporary = self.path.with_extension("new");
        let mut options = File::options();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        let mut writer = BufWriter::new(file);
        writeln!(writer, "{}", serde_json::to_string(place)?)?;
        for (key, proof) in &self.by_key {
            write_line(&mut writer, key, proof)?;
        }
        let file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        Ok(file)
    }
}

/// The memory of one repository, open for more. Only one run of `verify` may have it.
#[derive(Debug)]
pub struct Recorder {
    proofs: Proofs,
    file: File,
}

impl Recorder {
    pub fn proofs(&self) -> &Proofs {
        &self.proofs
    }

    /// Remembers what came out.
    pub fn record(&mut self, key: &str, proof: Proof) -> Result<(), Error> {
        let path = &self.proofs.path;
        let io = |source| Error::Io { action: "write", path: path.clone(), source };
        write_line(&mut self.file, key, &proof).map_err(io)?;
        self.proofs.by_key.insert(key.to_owned(), proof);
        Ok(())
    }
}

/// In one write: a line is there, or not.
fn write_line(writer: &mut dyn Write, key: &str, proof: &Proof) -> io::Result<()> {
    let mut line = serde_json::to_vec(&Line { key: key.to_owned(), proof: proof.clone() })?;
    line.push(b'\n');
    writer.write_all(&line)
}

/// The first line names the place: what was proven of another one says nothing here.
fn read(lines: impl BufRead, place: &str) -> io::Result<BTreeMap<String, Proof>> {
    let mut by_key = BTreeMap::new();
    let mut lines = lines.split(b'\n');
    let first = lines.next().transpose()?;
    if first.and_then(|first| serde_json::from_slice::<String>(&first).ok()).as_deref() != Some(place) {
        return Ok(by_key);
    }
    for line in lines {
        if let Ok(Line { key, proof }) = serde_json::from_slice(&line?) {
            by_key.insert(key, proof);
        }
    }
    Ok(by_key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(damage: Option<&str>) -> Proof {
        Proof {
            size_bytes: 7,
            modified_at: DateTime::UNIX_EPOCH,
            depth: Depth::Read,
            proven_at: DateTime::UNIX_EPOCH,
            damage: damage.map(str::to_owned),
        }
    }

    fn remembered(directory: &tempfile::TempDir, place: &str) -> Proofs {
        let path = directory.path().join("proofs.jsonl");
        let by_key = File::open(&path)
            .map_or_else(|_| BTreeMap::new(), |file| read(BufReader::new(file), place).unwrap());
        Proofs { path, by_key }
    }

    #[test]
    fn what_was_proven_is_known_to_the_next_run_and_the_last_word_counts() {
        let directory = tempfile::tempdir().unwrap();
        let proofs = remembered(&directory, "/b");
        let file = proofs.rewrite("/b").unwrap();
        let mut recorder = Recorder { proofs, file };
        recorder.record("a", proof(Some("bad"))).unwrap();
        recorder.record("b", proof(Some("worse"))).unwrap();
        recorder.record("a", proof(None)).unwrap();

        let known = remembered(&directory, "/b");
        assert_eq!(known.of("a"), Some(&proof(None)));
        assert_eq!(known.of("b").unwrap().damage.as_deref(), Some("worse"));
        assert_eq!(known.of("c"), None);
        assert!(remembered(&directory, "/elsewhere").by_key.is_empty());
    }

    #[test]
    fn a_line_that_was_cut_off_or_mangled_is_only_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let mut proofs = remembered(&directory, "/b");
        proofs.by_key.insert("a".into(), proof(None));
        proofs.by_key.insert("b".into(), proof(None));
        drop(proofs.rewrite("/b").unwrap());
        let path = directory.path().join("proofs.jsonl");
        let mut bytes = fs::read(&path).unwrap();
        bytes.truncate(bytes.len() - 5);
        bytes.extend(b"\xff\n{}\n");
        fs::write(&path, bytes).unwrap();
        let known = remembered(&directory, "/b");
        assert!(known.of("a").is_some() && known.of("b").is_none());
    }
}
