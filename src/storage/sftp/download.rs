//! Reading an object, over as many connections as it takes: each goes on where the last one was lost. As long as
//! each brings something, that happens within the call.

use std::io::{self, Read};

use super::super::{Error, ErrorKind};
use super::Sftp;
use super::failure::{Attempt, Expect, Failure};
use super::packet::{Attributes, FileType, Malformed, Mode, Request};
use super::range::Range;
use super::waiting::Waiting;

pub struct Download {
    storage: Sftp,
    key: String,
    size_bytes: u64,
    read_bytes: u64,
    /// `None` after the connection was lost, and at the end.
    range: Option<Range>,
    /// Something was read since the last connection was lost.
    has_progress: bool,
}

impl Download {
    pub fn open(storage: &Sftp, key: &str) -> Attempt<Self> {
        let mut download = Self {
            storage: storage.clone(),
            key: key.to_owned(),
            size_bytes: 0,
            read_bytes: 0,
            range: None,
            has_progress: false,
        };
        let (range, size_bytes) = download.open_range()?;
        (download.range, download.size_bytes) = (Some(range), size_bytes);
        Ok(download)
    }

    fn waiting(&self) -> Waiting {
        Waiting::new(self.storage.interrupt())
    }

    /// In one round trip. A link that is followed by that, or a pipe, is noticed before anything is read of it.
    fn open_range(&self) -> Attempt<(Range, u64)> {
        let waiting = self.waiting();
        let connection = self.storage.connection(&waiting)?;
        let path = &self.storage.path(&self.key);
        let [found, opened] =
            connection.ask([Request::Lstat { path }, Request::Open { path, mode: Mode::Read }], &waiting)?;
        let handle = opened.handle();
        let size_bytes = match found.attributes().and_then(|found| size_of(&found)) {
            Ok(size_bytes) => size_bytes,
            Err(failure) => {
                if let Ok(handle) = &handle {
                    connection.mention(&Request::Close { handle });
                }
                return Err(failure);
            }
        };
        Ok((Range::new(connection, handle?, self.read_bytes, size_bytes, &waiting)?, size_bytes))
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Attempt<usize> {
        if self.read_bytes == self.size_bytes || buffer.is_empty() {
            // Nothing to keep open.
            self.range = None;
            return Ok(0);
        }
        let waiting = self.waiting();
        waiting.check()?;
        if self.range.is_none() {
            let (range, size_bytes) = self.open_range()?;
            if size_bytes != self.size_bytes {
                let reason = format!("it had {} bytes and now has {size_bytes}", self.size_bytes);
                return Err(Failure::found(ErrorKind::Other, reason));
            }
            self.range = Some(range);
        }
        let range = self.range.as_mut().expect("it was opened just now");
        let found = range.next(&waiting)?;
        let count = found.len().min(buffer.len());
        buffer[..count].copy_from_slice(&found[..count]);
        range.take(count);
        self.read_bytes += count as u64;
        self.has_progress = true;
        Ok(count)
    }

    fn persist(&mut self, buffer: &mut [u8]) -> Attempt<usize> {
        loop {
            match self.read_some(buffer) {
                Err(failure) if failure.is_lost() && std::mem::take(&mut self.has_progress) => {
                    tracing::debug!("{} goes on by another connection: {failure}", self.key);
                    self.range = None;
                }
                outcome => return outcome,
            }
        }
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.persist(buffer).map_err(|failure| {
            // Whatever it was, what is under way is of no more use.
            self.range = None;
            let error: Error = failure.of("read", &self.key, &self.storage);
            error.into()
        })
    }
}

/// Of a regular file; anything else is no object.
fn size_of(found: &Attributes) -> Attempt<u64> {
    match (found.file_type(), found.size_bytes) {
        (Some(FileType::Regular), Some(size_bytes)) => Ok(size_bytes),
        (Some(_), _) => Err(Failure::found(ErrorKind::Other, "it is not a regular file")),
        (None, _) => Err(Malformed.into()),
    }
}
