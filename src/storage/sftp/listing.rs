//! What is in a directory, with its attributes, in few round trips.

use chrono::{DateTime, Utc};

use super::super::{Entry, EntryKind, ErrorKind, UNFINISHED};
use super::Sftp;
use super::connection::Connection;
use super::failure::{Attempt, Expect, Failure, unexpected};
use super::packet::{FileType, Malformed, Name, Reply, Request, Status};
use super::waiting::Waiting;

/// How many READDIRs are sent together. OpenSSH gives 100 names in each.
const AHEAD: usize = 4;

/// A directory with more is not one of ours.
const NAMES_MAX: usize = 2_000_000;

impl Sftp {
    pub(super) fn entries(&self, directory: &str) -> Attempt<Vec<Entry>> {
        let waiting = Waiting::either(self.interrupt());
        let connection = self.connection(&waiting)?;
        let path = &self.path(directory);
        let [found, opened] =
            connection.ask([look_at(directory, path), Request::OpenDirectory { path }], &waiting)?;
        let found = match found.attributes() {
            Err(missing) if missing.is_status(Status::NO_SUCH_FILE) => None,
            found => Some(found?),
        };
        let is_directory = found.as_ref().is_some_and(|found| found.file_type() == Some(FileType::Directory));
        match opened.handle() {
            Ok(handle) if is_directory => {
                let names = read_names(&connection, &handle, &waiting);
                connection.mention(&Request::Close { handle: &handle });
                entries_of(names?)
            }
            Ok(handle) => {
                connection.mention(&Request::Close { handle: &handle });
                found.map_or(Ok(Vec::new()), |_| Err(not_a_directory()))
            }
            Err(gone) if gone.is_status(Status::NO_SUCH_FILE) && (found.is_none() || is_directory) => {
                self.above_is_a_directory(&connection, directory, &waiting)
            }
            Err(_) if found.is_some() && !is_directory => Err(not_a_directory()),
            Err(failure) => Err(failure),
        }
    }

    /// "No such file" is also what the server says below a file.
    fn above_is_a_directory(
        &self,
        connection: &Connection,
        directory: &str,
        waiting: &Waiting,
    ) -> Attempt<Vec<Entry>> {
        let slashes = directory.match_indices('/').map(|(at, _)| &directory[..at]);
        let paths: Vec<_> = slashes.map(|above| self.path(above)).collect();
        let requests: Vec<_> = paths.iter().map(|path| Request::Lstat { path }).collect();
        for reply in connection.ask_all(&requests, waiting)? {
            match reply.attributes() {
                Ok(found) if found.file_type() != Some(FileType::Directory) => return Err(not_a_directory()),
                Err(missing) if !missing.is_status(Status::NO_SUCH_FILE) => return Err(missing),
                _ => {}
            }
        }
        Ok(Vec::new())
    }
}

/// Asks what is at `path`, which is that of `key`. Only the root may be a link.
pub fn look_at<'a>(key: &str, path: &'a str) -> Request<'a> {
    match key {
        "" => Request::Stat { path },
        _ => Request::Lstat { path },
    }
}

fn not_a_directory() -> Failure {
    Failure::found(ErrorKind::Other, "it is not a directory")
}

fn read_names(connection: &Connection, handle: &[u8], waiting: &Waiting) -> Attempt<Vec<Name>> {
    let mut names: Vec<Name> = Vec::new();
    loop {
        let replies = connection.ask([Request::ReadDirectory { handle }; AHEAD], waiting)?;
        let mut is_at_end = false;
        for reply in replies {
            match reply {
                Reply::Names(more) if more.is_empty() => return Err(Malformed.into()),
                Reply::Names(more) => names.extend(more),
                Reply::Status(status) if status.code == Status::EOF => is_at_end = true,
                other => return Err(unexpected(other)),
            }
        }
        if is_at_end {
            return Ok(names);
        }
        if names.len() > NAMES_MAX {
            let reason = format!("it holds more than {NAMES_MAX} names");
            return Err(Failure::found(ErrorKind::Other, reason));
        }
    }
}

fn entries_of(names: Vec<Name>) -> Attempt<Vec<Entry>> {
    let mut entries = Vec::new();
    for name in names {
        entries.extend(entry_of(name)?);
    }
    entries.sort();
    Ok(entries)
}

/// `None` for what cannot be an object.
fn entry_of(found: Name) -> Attempt<Option<Entry>> {
    if [&b"."[..], b".."].contains(&&found.name[..]) {
        return Ok(None);
    }
    if found.name.is_empty() || found.name.iter().any(|byte| [b'/', 0].contains(byte)) {
        return Err(Malformed.into());
    }
    let Ok(name) = String::from_utf8(found.name) else { return Ok(None) };
    let attributes = found.attributes;
    let kind = match (attributes.file_type().ok_or(Malformed)?, attributes.size_bytes) {
        (FileType::Directory, _) => EntryKind::Directory,
        (FileType::Regular, _) if name.ends_with(UNFINISHED) => EntryKind::Unfinished,
        (FileType::Regular, Some(size_bytes)) => EntryKind::Object { size_bytes },
        (FileType::Regular, None) => return Err(Malformed.into()),
        (FileType::Other, _) => return Ok(None),
    };
    let seconds = i64::from(attributes.modified_at.ok_or(Malformed)?);
    let modified_at = DateTime::<Utc>::from_timestamp(seconds, 0).expect("32 bits of seconds are a time");
    Ok(Some(Entry { name, kind, modified_at }))
}

#[cfg(test)]
mod tests {
    use super::super::packet::Attributes;
    use super::*;

    fn name(name: &[u8], permissions: u32) -> Name {
        let attributes =
            Attributes { size_bytes: Some(7), permissions: Some(permissions), modified_at: Some(1) };
        Name { name: name.to_vec(), attributes }
    }

    #[test]
    fn only_files_and_directories_are_listed_in_byte_order() {
        let found = entries_of(vec![
            name(b"b", 0o100_600),
            name(b"a.12.unfinished", 0o100_600),
            name(b".", 0o040_700),
            name(b"..", 0o040_700),
            name(b"B", 0o040_700),
            name(b"link", 0o120_777),
            name(b"pipe", 0o010_600),
            name(b"\xFF", 0o100_600),
        ])
        .unwrap();
        let names: Vec<_> = found.iter().map(|entry| (entry.name.as_str(), entry.kind)).collect();
        let expected = [
            ("B", EntryKind::Directory),
            ("a.12.unfinished", EntryKind::Unfinished),
            ("b", EntryKind::Object { size_bytes: 7 }),
        ];
        assert_eq!(names, expected);
        assert_eq!(found[0].modified_at.timestamp(), 1);
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_an_error() {
        for bad in [&b"../x"[..], b"/etc", b"", b"x\0"] {
            assert!(entries_of(vec![name(bad, 0o100_600)]).is_err(), "{bad:?}");
        }
    }
}
