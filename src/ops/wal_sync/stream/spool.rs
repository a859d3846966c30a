//! A segment on its way: a file without a name, which goes with the process.
//!
//! Files are used again, as writing over a page costs half of what it takes to get a new one and to give it back. Behind
//! what a segment has filled so far there may be another one's bytes, which nobody reads.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::ops::Error;
use crate::pg::{Lsn, SegmentName, SegmentSize};

#[derive(Debug, Clone)]
pub struct Spool {
    pub segment: SegmentName,
    pub file: Arc<File>,
    size: SegmentSize,
    /// How much of the segment's beginning is in it.
    pub filled_bytes: u64,
}

/// The files that are free, all of them as long as a segment. There are never more than were in use at a time.
#[derive(Debug, Default)]
pub struct Spools(Mutex<Vec<Arc<File>>>);

impl Spools {
    pub fn begin(&self, directory: &Path, segment: SegmentName, size: SegmentSize) -> Result<Spool, Error> {
        let io = |source| Error::Io { action: "create a file in", path: directory.to_owned(), source };
        let free = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let file = match free {
            Some(file) => file,
            None => Arc::new(tempfile::tempfile_in(directory).map_err(io)?),
        };
        Ok(Spool { segment, file, size, filled_bytes: 0 })
    }

    /// Takes back the file of a whole segment, unless somebody else still reads it.
    pub fn end(&self, spool: Spool) {
        let is_alone = Arc::strong_count(&spool.file) == 1;
        if spool.is_whole() && is_alone {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(spool.file);
        }
    }
}

impl Spool {
    /// Takes as much of `bytes` as the segment has room for, and returns the rest.
    pub fn fill<'b>(&mut self, directory: &Path, bytes: &'b [u8]) -> Result<&'b [u8], Error> {
        let room = self.size.bytes() - self.filled_bytes;
        let (now, later) = bytes.split_at(bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
        let io = |source| Error::Io { action: "write to a file in", path: directory.to_owned(), source };
        self.file.write_all_at(now, self.filled_bytes).map_err(io)?;
        self.filled_bytes += now.len() as u64;
        Ok(later)
    }

    pub fn is_whole(&self) -> bool {
        self.filled_bytes == self.size.bytes()
    }

    pub fn end(&self) -> Lsn {
        self.segment.start(self.size) + self.filled_bytes
    }

    pub fn name(&self) -> String {
        self.segment.file_name(self.size).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::Timeline;

    #[test]
    fn a_segment_takes_what_is_its_own_and_leaves_nothing_behind() {
        let scratch = tempfile::tempdir().unwrap();
        let size = SegmentSize::from_bytes(1 << 20).unwrap();
        let segment = SegmentName { timeline: Timeline::FIRST, number: 3 };
        let spools = Spools::default();
        let mut spool = spools.begin(scratch.path(), segment, size).unwrap();
        let bytes = vec![7; (1 << 20) + 10];
        assert!(spool.fill(scratch.path(), &bytes[..100]).unwrap().is_empty());
        assert_eq!((spool.end(), spool.is_whole()), (Lsn((3 << 20) + 100), false));
        assert_eq!(spool.fill(scratch.path(), &bytes).unwrap().len(), 110);
        assert_eq!((spool.end(), spool.is_whole()), (Lsn(4 << 20), true));
        assert_eq!(spool.file.metadata().unwrap().len(), 1 << 20);
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);

        // The next one gets the same file, as soon as nobody needs it any more.
        let reader = spool.clone();
        spools.end(spool);
        assert!(spools.0.lock().unwrap().is_empty());
        spools.end(reader);
        let mut next = spools.begin(scratch.path(), segment.next(), size).unwrap();
        assert!(spools.0.lock().unwrap().is_empty() && next.filled_bytes == 0);
        next.fill(scratch.path(), b"next").unwrap();
        let mut beginning = [0; 5];
        next.file.read_exact_at(&mut beginning, 0).unwrap();
        assert_eq!(&beginning, b"next\x07");
        spools.end(next);
        assert!(spools.0.lock().unwrap().is_empty(), "one that is not whole may be shorter");
    }
}
