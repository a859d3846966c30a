//! What an archive ends with, but for a seek table: the SHA-256 of all stored bytes before it.
//!
//! ```text
//! zstd, lz4: a skippable frame: 0x184D2A5D(4) 40(4) "pgbak256" digest(32)
//! gzip:      an empty member:   1f 8b 08 04 00000000 00 FF 24 00 'P' 'D' 20 00 digest(32) 03 00 00000000 00000000
//! text:      a last line, see [`crate::digest_line`]
//! ```
//!
//! Plain decoders pass over it. The checksums of the frames guard what is in them, and this one also the bits that
//! no decoder looks at, such as the padding behind a compressed block: so a flipped bit is found wherever it is, even
//! where nothing else recorded a digest. It is missing from archives that others wrote, and pgbak's own first ones.
//! What is stored without a codec has no place for it.

use super::codec::Codec;
use super::digest::Sha256;
use crate::digest_line::{self, is_near};

/// How many bytes of a skippable frame come after its magic number and its size.
pub const SKIPPABLE_CONTENT_SIZE: usize = 40;
pub const MEMBER_SIZE: usize = MEMBER_BEGIN.len() + DIGEST_SIZE + MEMBER_END.len();

const DIGEST_SIZE: usize = 32;
const SKIPPABLE_BEGIN: [u8; 16] = *b"\x5D\x2A\x4D\x18\x28\0\0\0pgbak256";
const MEMBER_BEGIN: [u8; 16] = *b"\x1F\x8B\x08\x04\0\0\0\0\0\xFF\x24\0PD\x20\0";
const MEMBER_END: [u8; 10] = *b"\x03\0\0\0\0\0\0\0\0\0";

/// What a frame turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trailer {
    Digest(Sha256),
    Damaged,
    SomethingElse,
}

/// The trailer of an archive whose stored bytes so far have this digest; empty where the codec has no place for it.
pub fn encode(codec: Codec, before: Sha256) -> Vec<u8> {
    match codec {
        Codec::Zstd | Codec::Lz4 => [&SKIPPABLE_BEGIN[..], &before.0].concat(),
        Codec::Gzip => [&MEMBER_BEGIN[..], &before.0, &MEMBER_END].concat(),
        Codec::Text => digest_line::saying(&before).into_bytes(),
        Codec::None => Vec::new(),
    }
}

/// Judges a skippable frame with [`SKIPPABLE_CONTENT_SIZE`] bytes of content.
pub fn judge_skippable(stored: &[u8]) -> Trailer {
    judge(stored, &SKIPPABLE_BEGIN, &[])
}

/// Whether a gzip member that begins like this is, or was, a trailer of [`MEMBER_SIZE`] bytes. No other member is as
/// near: pgbak's own differ in seven bits, those by others in more.
pub fn begins_member(stored: &[u8]) -> bool {
    is_near(stored, &MEMBER_BEGIN)
}

pub fn judge_member(stored: &[u8]) -> Trailer {
    judge(stored, &MEMBER_BEGIN, &MEMBER_END)
}

fn judge(stored: &[u8], begin: &[u8], end: &[u8]) -> Trailer {
    let digest = stored.strip_prefix(begin).and_then(|rest| rest.strip_suffix(end));
    match digest.and_then(|digest| digest.try_into().ok()) {
        Some(digest) => Trailer::Digest(Sha256(digest)),
        None if is_near(stored, begin) => Trailer::Damaged,
        None => Trailer::SomethingElse,
    }
}
