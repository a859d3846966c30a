//! tar, as PostgreSQL and GNU tar write it.
//!
//! Follows PostgreSQL `src/port/tar.c` (`tarCreateHeader`) and `src/backend/backup/basebackup.c`, and POSIX `ustar`.
//!
//! ```text
//! archive: entry... zero block, zero block, [zero block...]
//! entry:   header block, contents, zeros up to the end of the block
//! ```
//!
//! A block has 512 bytes. Sizes of 8 GiB and more, and other numbers that do not fit their field in octal, are in
//! base 256 with the field's highest bit set. PostgreSQL 13 and 14 leave the final zero blocks to the client.

mod scanner;
mod writer;

pub use scanner::{Ending, EntryHeader, EntryKind, Error, Event, Scanner};
pub use writer::TarWriter;

const BLOCK_SIZE: usize = 512;

/// How many zeros follow contents of this size.
fn padding(size_bytes: u64) -> usize {
    let block_size = BLOCK_SIZE as u64;
    ((block_size - size_bytes % block_size) % block_size) as usize
}

/// The sum of a header's bytes, its own checksum field taken as blanks.
fn checksum(header: &[u8; BLOCK_SIZE]) -> u32 {
    let field = 148..156;
    let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
    sum(&header[..field.start]) + 8 * u32::from(b' ') + sum(&header[field.end..])
}
