//! One read, whatever signals do.

use std::io::{self, Read};

/// Reads what comes at once; 0 bytes are the end.
///
/// A signal may interrupt a read before anything came, also of a file on a disk behind a network. That says nothing
/// about the source, and the read is made again.
pub fn read_some(source: &mut (impl Read + ?Sized), into: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(into) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
