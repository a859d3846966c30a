//! What names, sizes, records and checksum lists tell, without a byte of data.

use super::problem::{Problem, Subject};
use super::report::Note;
use super::scope::Scope;
use crate::catalog::{BackupInfo, RecordError};
use crate::repo::inventory::{BackupDirectory, BackupState, Inventory};
use crate::repo::restore_md::Guide;
use crate::repo::{self, BackupReader, Repository, layout};
use crate::storage::Entry;

/// Looks through everything that is in `scope`.
pub fn check(
    repository: &Repository,
    inventory: &Inventory,
    scope: &Scope,
) -> repo::Result<(Vec<Problem>, Vec<Note>)> {
    let mut structure = Structure { repository, problems: Vec::new(), notes: Vec::new() };
    for directory in inventory.backups.iter().filter(|directory| scope.has_backup(directory.name)) {
        structure.backup(directory)?;
    }
    structure.wal(inventory, scope);
    if scope.is_everything() {
        structure.strangers(inventory);
    }
    for closed in &inventory.closed {
        let subject = match closed.key.starts_with(layout::WAL_ARCHIVE) {
            true => Subject::SomeWal,
            false => Subject::Nothing,
        };
        let problem = Problem::new("unreadable", &closed.key, subject, closed.error.to_string());
        structure.problems.push(problem.with_hint(closed.error.hint()));
    }
    Ok((structure.problems, structure.notes))
}

struct Structure<'a> {
    repository: &'a Repository,
    problems: Vec<Problem>,
    notes: Vec<Note>,
}

impl Structure<'_> {
    fn note(&mut self, code: &'static str, object: &str, message: impl Into<String>) {
        let repository = Some(self.repository.name().to_owned());
        self.notes.push(Note { code, repository, object: Some(object.to_owned()), message: message.into() });
    }

    fn backup(&mut self, directory: &BackupDirectory) -> repo::Result<()> {
        let name = directory.name;
        let record = layout::backup_file(name, layout::RECORD);
        match &directory.state {
            BackupState::Recorded(info) => self.recorded(directory, info)?,
            BackupState::Damaged(error) => {
                let found = error.to_string();
                let hint = matches!(error, RecordError::UnknownFormat { .. }).then(|| error.hint()).flatten();
                let problem = Problem::new("record-damaged", record, Subject::UnknownBackup(name), found);
                self.problems.push(problem.with_hint(hint));
            }
            BackupState::Closed(error) => {
                let problem =
                    Problem::new("unreadable", record, Subject::UnknownBackup(name), error.to_string());
                self.problems.push(problem.with_hint(error.hint()));
            }
            BackupState::InProgress => {
                self.note("in-progress", &layout::backup_directory(name), "another run is writing it");
            }
            BackupState::Garbage => self.note(
                "garbage",
                &layout::backup_directory(name),
                "it has no record, so that it is no backup; `pgbak prune` removes it",
            ),
        }
        Ok(())
    }

    fn recorded(&mut self, directory: &BackupDirectory, info: &BackupInfo) -> repo::Result<()> {
        let name = info.name;
        let key = |file: &str| layout::backup_file(name, file);
        let subject = Subject::Backup(name);
        for file in &info.files {
            let found = directory.entry(&file.name).and_then(Entry::size_bytes);
            let problem = match found {
                Some(size_bytes) if size_bytes == file.size_bytes => continue,
                Some(size_bytes) => {
                    let found = format!("{size_bytes} bytes");
                    Problem::new("size-differs", key(&file.name), subject.clone(), found)
                }
                None => Problem::new("missing", key(&file.name), subject.clone(), "nothing"),
            };
            self.problems.push(problem.expecting(format!("{} bytes", file.size_bytes)));
        }
        let reader = BackupReader::new(self.repository, info);
        for error in reader.contents().into_iter().filter_map(|content| reader.archive_key(content).err()) {
            self.problems.push(Problem::new(
                "record-damaged",
                key(layout::RECORD),
                subject.clone(),
                error.to_string(),
            ));
        }
        self.checksums(&reader, &key(layout::CHECKSUMS), &subject)?;
        for message in &info.damaged_pages {
            // What the server said while the backup was taken.
            let subject = Subject::PagesOf(name);
            self.problems.push(Problem::new("pages-damaged", key(layout::RECORD), subject, message));
        }
        for entry in &directory.entries {
            let is_known = [layout::RECORD, layout::CHECKSUMS].contains(&entry.name.as_str())
                || info.files.iter().any(|file| file.name == entry.name);
            match () {
                () if is_known => {}
                () if entry.is_unfinished() => self.note(
                    "unfinished",
                    &key(&entry.name),
                    "an upload that was never committed; `pgbak prune` removes it",
                ),
                () if layout::is_lease(&entry.name) => {
                    self.note("lease-left", &key(&entry.name), "its run has ended, or is about to");
                }
                () => self.note("stranger", &key(&entry.name), "its record does not name it"),
            }
        }
        Ok(())
    }

    /// A restore asks for `SHA256SUMS` too, as it is what those have who restore by hand.
    fn checksums(&mut self, reader: &BackupReader<'_>, key: &str, subject: &Subject) -> repo::Result<()> {
        let problem = match reader.check_sums() {
            Ok(()) => return Ok(()),
            Err(repo::Error::Damaged { reason, .. }) => {
                Problem::new("checksums-differ", key, subject.clone(), reason)
            }
            Err(repo::Error::Missing { .. }) => Problem::new("missing", key, subject.clone(), "nothing"),
            Err(error) => {
                let error = repo::inventory::must_stay(error)?;
                Problem::new("unreadable", key, subject.clone(), error.to_string()).with_hint(error.hint())
            }
        };
        self.problems.push(problem);
        Ok(())
    }

    fn wal(&mut self, inventory: &Inventory, scope: &Scope) {
        for bad in &inventory.bad_histories {
            let subject = Subject::History(bad.system, bad.timeline);
            self.problems.push(Problem::new("history-damaged", &bad.key, subject, &bad.reason));
        }
        let catalog = inventory.catalog();
        for (system, archive) in catalog.archives() {
            for name in archive.misfits() {
                let (directory, size) = (layout::wal_of(*system), archive.segment_size().bytes());
                let message = format!("{name} cannot be: no segment of {size} bytes has this name");
                self.note("stranger", &directory, message);
            }
        }
        self.problems.extend(super::coverage::check(&catalog, scope));
    }

    fn strangers(&mut self, inventory: &Inventory) {
        match inventory.guide {
            Guide::Usual => {}
            Guide::Other => self.note(
                "guide-differs",
                layout::RESTORE_MD,
                "it is not the text that this version of pgbak writes",
            ),
            Guide::Damaged => {
                let found = "not the text that its last line vouches for";
                let problem = Problem::new("guide-damaged", layout::RESTORE_MD, Subject::Nothing, found);
                let hint = "Delete it: the next `pgbak base-backup` or `pgbak wal-push` writes it anew.";
                self.problems.push(problem.with_hint(Some(hint.to_owned())));
            }
        }
        for key in &inventory.strangers {
            self.note("stranger", key, "pgbak knows nothing of this name and leaves it alone");
        }
        for key in &inventory.unfinished {
            self.note("unfinished", key, "an upload that was never committed, or is under way");
        }
    }
}
