//! Bytes through stages: digest, framed parallel compression, tar framing, fan-out.
//!
//! ```text
//! bytes ─► ArchiveWriter ─► stored bytes, at several places
//! stored bytes ─► ArchiveReader ─► bytes, or unpack ─► the files of a tar
//! ```
//!
//! Knows nothing of where things are stored, nor of PostgreSQL. Compressing, decompressing, checking and writing
//! happen on the threads of [`Workers`]; every queue is bounded, and the memory of its buffers goes round.

mod archive_reader;
mod archive_writer;
mod buffer;
mod codec;
mod digest;
mod error;
mod fan_out;
mod frame;
mod read;
pub mod seek_table;
mod source;
pub mod tar;
#[cfg(test)]
mod tests;
mod trailer;
mod unpack;
mod workers;

pub use archive_reader::ArchiveReader;
pub use archive_writer::{ArchiveWriter, Finished};
pub use buffer::Buffer;
pub use codec::{Codec, Compression, NotACompression};
pub use digest::{Digester, NotASha256, Sha256, StoredDigest};
pub use error::Error;
pub use fan_out::Follower;
pub use frame::{FRAME_SIZE, FRAME_SIZE_MAX, Scratch};
pub use read::read_some;
pub use unpack::{EntrySink, Stopped, Unpack, Unpacked, unpack};
pub use workers::{Panicked, Pending, Workers};
