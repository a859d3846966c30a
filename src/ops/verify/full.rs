//! All of a backup, as a restore would see it: every file of every archive against the manifest, and every page
//! against its checksum.

use std::io;
use std::sync::Arc;

use super::archive;
use super::lanes::{Reading, Stop};
use super::pages::{self, FileCheck, Page, Results};
use super::problem::{Problem, Subject};
use crate::catalog::BackupInfo;
use crate::interrupt::Interrupt;
use crate::ops::backup_files::{self, Expected};
use crate::pg::control_file::{self, ControlFile};
use crate::pipe::tar::{EntryHeader, EntryKind};
use crate::pipe::{self, EntrySink, Stopped, Unpack};
use crate::repo::layout::{self, ArchiveContent};
use crate::repo::{self, BackupReader};

/// So many files are told one by one, and so many pages.
const TOLD_MAX: usize = 1000;

pub fn check_backup(reading: &Reading<'_>, backup: &BackupInfo) -> Result<Vec<Problem>, Stop> {
    let mut problems = Vec::new();
    let reader = BackupReader::new(reading.repository, backup);
    let expected = match reader.manifest() {
        Ok((manifest, _)) => Expected::from_manifest(&manifest),
        Err(error) => {
            problems.push(bad_manifest(reading, backup, error)?);
            Err(String::new())
        }
    };
    let expected = match expected {
        Ok(expected) => expected,
        // Without a manifest there is nothing to hold the files against; their bytes are looked at all the same.
        Err(reason) => {
            if !reason.is_empty() {
                let key = layout::backup_file(backup.name, layout::MANIFEST);
                problems.push(Problem::new("manifest-damaged", key, Subject::Backup(backup.name), reason));
            }
            for file in backup.files.iter().filter(|file| file.name != layout::MANIFEST) {
                problems.extend(archive::check_file(reading, backup, &file.name)?);
            }
            return Ok(problems);
        }
    };
    let mut full = Full { reading, backup, expected, results: Arc::default(), is_whole: true };
    for file in &backup.files {
        problems.extend(match archive::content_of(&file.name) {
            None if file.name == layout::MANIFEST => Vec::new(),
            None | Some((ArchiveContent::Wal, _)) => archive::check_file(reading, backup, &file.name)?,
            Some((content, codec)) => full.unpack(&file.name, content, codec)?,
        });
    }
    problems.extend(full.finish());
    Ok(problems)
}

fn bad_manifest(reading: &Reading<'_>, backup: &BackupInfo, error: repo::Error) -> Result<Problem, Stop> {
    let subject = Subject::Backup(backup.name);
    let key = layout::backup_file(backup.name, layout::MANIFEST);
    Ok(match error {
        repo::Error::Damaged { key, reason, .. } => Problem::new("manifest-damaged", key, subject, reason),
        repo::Error::Missing { key, .. } => Problem::new("missing", key, subject, "nothing"),
        error => reading.unreadable(&key, &subject, error)?,
    })
}

struct Full<'a> {
    reading: &'a Reading<'a>,
    backup: &'a BackupInfo,
    expected: Expected,
    results: Arc<Results>,
    /// Every archive was read to its end.
    is_whole: bool,
}

impl Full<'_> {
    fn unpack(
        &mut self,
        file_name: &str,
        content: ArchiveContent,
        codec: pipe::Codec,
    ) -> Result<Vec<Problem>, Stop> {
        let key = layout::backup_file(self.backup.name, file_name);
        let subject = Subject::Backup(self.backup.name);
        let file = self.backup.files.iter().find(|file| file.name == file_name);
        let digest = archive::recorded_digest(file.expect("it was named by the record"));
        let reading = self.reading;
        let object = match reading.open(&key, &subject)? {
            Ok(object) => object,
            Err(problem) => {
                self.is_whole = false;
                return Ok(vec![problem]);
            }
        };
        let archive = reading.archive(codec, object, Some(digest));
        let mut walk = Walk {
            key: &key,
            content,
            backup: self.backup,
            expected: &mut self.expected,
            results: &self.results,
            interrupt: reading.context.interrupt,
            problems: Vec::new(),
        };
        let unpacked = pipe::unpack(archive, &mut walk);
        let mut problems = walk.problems;
        if let Err(stopped) = unpacked {
            self.is_whole = false;
            problems.push(match stopped {
                Stopped::Archive(error) => reading.failed(&key, &subject, error)?,
                Stopped::Entry(error) | Stopped::Sink(error) => {
                    reading.failed_to_read(&key, &subject, error)?
                }
            });
        }
        for wrong in self.results.take_files().into_iter().take(TOLD_MAX) {
            let problem = Problem::new("file-differs", &key, subject.clone(), wrong.what);
            problems.push(problem.inside(wrong.path));
        }
        Ok(problems)
    }

    /// What can be said only when everything was seen.
    fn finish(self) -> Vec<Problem> {
        let backup = self.backup;
        let base = archive_name(backup, ArchiveContent::Base);
        let subject = Subject::Backup(backup.name);
        let mut problems = Vec::new();
        if self.is_whole {
            let mut missing: Vec<String> = self.expected.missing().collect();
            missing.sort();
            problems.extend(missing.into_iter().take(TOLD_MAX).map(|path| {
                Problem::new("file-missing", &base, subject.clone(), "nothing")
                    .inside(path)
                    .expecting("a file that its manifest names")
            }));
        }
        let control = self.results.control_file();
        match ControlFile::parse(&control) {
            Ok(control) if control.system_identifier != backup.system_identifier => problems.push(
                Problem::new("file-differs", &base, subject, format!("system {}", control.system_identifier))
                    .inside(control_file::PATH)
                    .expecting(format!("system {}", backup.system_identifier)),
            ),
            Ok(control) if !control.data_checksums => {}
            Ok(control) if !pages::are_usual(&control) => {
                tracing::warn!(
                    "{base}: page checksums are not checked: this server was built with pages of {} bytes",
                    control.page_bytes
                );
            }
            Ok(_) => problems.extend(self.pages()),
            Err(_) if !self.is_whole => {}
            Err(error) => problems.push(
                Problem::new("file-differs", &base, subject, error.to_string()).inside(control_file::PATH),
            ),
        }
        problems
    }

    fn pages(&self) -> Vec<Problem> {
        let (pages, more) = self.results.take_pages();
        let of_page = |page: Page| {
            let content = match page.path.strip_prefix("pg_tblspc/").and_then(|path| path.split_once('/')) {
                Some((oid, _)) => oid.parse().map_or(ArchiveContent::Base, ArchiveContent::Tablespace),
                None => ArchiveContent::Base,
            };
            let object = archive_name(self.backup, content);
            let place = format!("{}, block {}", page.path, page.block);
            let found = format!("checksum {:04x}", page.wrong.found);
            Problem::new("page-checksum", object, Subject::PagesOf(self.backup.name), found)
                .inside(place)
                .expecting(format!("checksum {:04x}, as the page says itself", page.wrong.expected))
        };
        let mut problems: Vec<Problem> = pages.into_iter().map(of_page).collect();
        if more > 0 {
            let object = layout::backup_directory(self.backup.name);
            let found = format!("{more} more pages with a wrong checksum");
            problems.push(Problem::new("page-checksum", object, Subject::PagesOf(self.backup.name), found));
        }
        problems
    }
}

fn archive_name(backup: &BackupInfo, content: ArchiveContent) -> String {
    let names = backup.files.iter().map(|file| file.name.as_str());
    let is_it = |name: &&str| archive::content_of(name).is_some_and(|(found, _)| found == content);
    layout::backup_file(backup.name, names.into_iter().find(is_it).unwrap_or(layout::RECORD))
}

/// Goes through one archive.
struct Walk<'a> {
    key: &'a str,
    content: ArchiveContent,
    backup: &'a BackupInfo,
    expected: &'a mut Expected,
    results: &'a Arc<Results>,
    interrupt: &'a Interrupt,
    problems: Vec<Problem>,
}

impl Unpack for Walk<'_> {
    type Error = io::Error;

    fn entry(&mut self, header: &EntryHeader) -> io::Result<Option<Arc<dyn EntrySink>>> {
        self.interrupt.check()?;
        let path = match backup_files::path_in_cluster(self.content, header) {
            Ok(path) => path,
            Err(unexpected) => return Ok(self.problem("file-unexpected", unexpected)),
        };
        match &header.kind {
            EntryKind::Directory => return Ok(None),
            EntryKind::Symlink { .. } if path.starts_with(b"pg_tblspc/") => return Ok(None),
            EntryKind::Symlink { .. } => {
                let what = "a link, where no server makes one";
                return Ok(self.problem("file-unexpected", backup_files::Unexpected::new(&path, what)));
            }
            EntryKind::File => {}
        }
        let facts = match self.expected.take(&path) {
            Ok(facts) => facts,
            Err(unexpected) => return Ok(self.problem("file-unexpected", unexpected)),
        };
        if let Err(unexpected) = facts.must_have_size(&path, header.size_bytes) {
            return Ok(self.problem("file-differs", unexpected));
        }
        let start = self.backup.start_lsn;
        Ok(Some(Arc::new(FileCheck::new(path, facts, header.size_bytes, start, Arc::clone(self.results)))))
    }
}

impl Walk<'_> {
    fn problem(
        &mut self,
        code: &'static str,
        unexpected: backup_files::Unexpected,
    ) -> Option<Arc<dyn EntrySink>> {
        if self.problems.len() < TOLD_MAX {
            let problem = Problem::new(code, self.key, Subject::Backup(self.backup.name), unexpected.what);
            self.problems.push(problem.inside(unexpected.path));
        }
        None
    }
}
