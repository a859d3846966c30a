//! Frames: the independent pieces of at most [`FRAME_SIZE_MAX`] bytes of input that an archive is made of.
//!
//! Each is complete for its codec (a zstd frame, a gzip member, an LZ4 frame) with its content's size and
//! checksum. A plain decoder reads an archive as one stream, because each of these formats says what several in a
//! row mean; pgbak works on many at a time. For that it must find where a frame ends without decoding it, which is
//! what [`next`] does. Frames that others wrote may be larger, or hide their end: these are [`Split::Foreign`] and
//! are decoded one after the other.

mod gzip;
mod lz4;
mod text;
mod zstd;

use std::io::{self, Read};

use super::buffer::Buffer;
use super::codec::{Codec, Compression};
use super::digest::Digester;
use super::error::Error;
use super::seek_table::SeekTable;
use super::source::{Source, must_equal};
use super::trailer::{self, Trailer};

/// How much input we put into a frame.
pub const FRAME_SIZE: usize = 1 << 20;

/// How much input a frame may hold to be decoded in one piece.
pub const FRAME_SIZE_MAX: usize = 4 << 20;

/// What a frame of [`FRAME_SIZE_MAX`] can take when stored: no codec adds more than a 64th.
const STORED_SIZE_MAX: usize = FRAME_SIZE_MAX + FRAME_SIZE_MAX / 64;

/// What a worker keeps from frame to frame: setting a codec up costs more than some frames.
#[derive(Default)]
pub struct Scratch {
    zstd: zstd::Scratch,
    gzip: gzip::Scratch,
}

/// What comes next in the stored bytes.
pub(super) enum Split {
    /// A whole frame, whose stored bytes are in the buffer that was given.
    Frame,
    /// A frame that must be decoded as a stream, from the source's present position.
    Foreign,
    End,
}

/// The zstd frames that a seek table has to list: those since the last one. `None` where one was decoded as a stream, so
/// that nobody knows its sizes.
pub(super) struct Passed(Option<SeekTable>);

impl Default for Passed {
    fn default() -> Self {
        Self(Some(SeekTable::default()))
    }
}

/// Why a frame cannot be decoded, in words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct BadFrame(String);

impl BadFrame {
    fn new(reason: impl std::fmt::Display) -> Self {
        Self(reason.to_string())
    }

    pub(super) fn at(self, offset_bytes: u64) -> Error {
        Error::Damaged { offset_bytes, reason: self.0 }
    }
}

/// Appends `input` as one frame to `output`.
pub(super) fn compress(
    scratch: &mut Scratch,
    compression: Compression,
    input: &[u8],
    output: &mut Buffer,
) -> Result<(), BadFrame> {
    assert!(input.len() <= FRAME_SIZE_MAX, "the input was not cut into frames");
    match compression.codec() {
        Codec::Zstd => scratch.zstd.compress(compression.level(), input, output),
        Codec::Gzip => scratch.gzip.compress(compression.level(), input, output),
        Codec::Lz4 => lz4::compress(input, output),
        Codec::None | Codec::Text => {
            output.append(input);
            Ok(())
        }
    }
}

/// Appends the content of one frame, as [`next`] found it, to `output`.
pub(super) fn decompress(
    scratch: &mut Scratch,
    codec: Codec,
    stored: &[u8],
    output: &mut Buffer,
) -> Result<(), BadFrame> {
    match codec {
        Codec::Zstd => scratch.zstd.decompress(stored, output),
        Codec::Gzip => scratch.gzip.decompress(stored, output),
        Codec::Lz4 => lz4::decompress(stored, output),
        Codec::None | Codec::Text => {
            output.append(stored);
            Ok(())
        }
    }
}

/// Moves the next frame from `source` into the empty buffer `stored`. `passed` is what came before.
pub(super) fn next(
    codec: Codec,
    source: &mut Source<'_>,
    stored: &mut Buffer,
    passed: &mut Passed,
) -> Result<Split, Error> {
    match codec {
        Codec::Zstd => zstd::next(source, stored, passed),
        Codec::Gzip => gzip::next(source, stored),
        Codec::Lz4 => lz4::next(source, stored),
        Codec::None => match source.read_up_to(stored, FRAME_SIZE)? {
            0 => Ok(Split::End),
            _ => Ok(Split::Frame),
        },
        Codec::Text => text::next(source, stored),
    }
}

/// The first of the sixteen magic numbers of the frames that zstd and LZ4 pass over.
const SKIPPABLE_MAGIC: u32 = 0x184D_2A50;

/// Checks what a trailer says of the bytes `before` it, which are `None` where nothing is to be compared.
fn check_trailer(trailer: Trailer, before: Option<Digester>, start: u64) -> Result<(), Error> {
    match (trailer, before) {
        (Trailer::Digest(expected), Some(before)) => must_equal(before.finish().sha256, expected),
        (Trailer::Damaged, _) => Err(BadFrame::new("the frame with the archive's own digest").at(start)),
        (Trailer::Digest(_), None) | (Trailer::SomethingElse, _) => Ok(()),
    }
}

/// Passes over a skippable frame, of which the magic number and the size were read.
type PassOver<'f> = &'f mut dyn FnMut(&mut Source<'_>, &mut Buffer) -> Result<(), Error>;

/// Moves the magic number of the next frame of `format` into `stored`, and says where it begins; `None` at the end. A
/// trailer is checked, and other skippable frames are left to `pass_over`.
fn begin(
    source: &mut Source<'_>,
    stored: &mut Buffer,
    magic: u32,
    format: &str,
    pass_over: PassOver<'_>,
) -> Result<Option<u64>, Error> {
    while !source.is_at_end()? {
        let start = source.offset_bytes();
        let before = source.digester();
        stored.clear();
        source.read_exact_into(stored, 4)?;
        match u32_at(stored, 0) {
            found if found == magic => return Ok(Some(start)),
            skippable if skippable & !0xF == SKIPPABLE_MAGIC => {
                source.read_exact_into(stored, 4)?;
                if u32_at(stored, 4) as usize == trailer::SKIPPABLE_CONTENT_SIZE {
                    source.read_exact_into(stored, trailer::SKIPPABLE_CONTENT_SIZE)?;
                    check_trailer(trailer::judge_skippable(stored), before, start)?;
                } else {
                    pass_over(source, stored)?;
                }
            }
            _ => return Err(BadFrame(format!("no {format} frame begins here")).at(start)),
        }
    }
    Ok(None)
}

/// The content of one foreign frame; it ends where the frame ends.
pub(super) trait Foreign<'a>: Read + Send {
    /// Gives back the source, which is then at the frame's end.
    fn into_source(self: Box<Self>) -> Source<'a>;
}

/// Decodes the foreign frame at the source's position.
pub(super) fn decode_foreign<'a>(
    codec: Codec,
    source: Source<'a>,
) -> Result<Box<dyn Foreign<'a> + 'a>, Error> {
    Ok(match codec {
        Codec::Zstd => Box::new(zstd::Stream::new(source)?),
        Codec::Gzip => Box::new(gzip::Stream::new(source)),
        Codec::Lz4 => Box::new(lz4::Stream::new(source)),
        Codec::None | Codec::Text => unreachable!("without a codec every piece is a frame"),
    })
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"))
}

/// Gives a decoder's complaint about the end of its input the name and place that ours have.
fn truncated(error: io::Error, source: &Source<'_>) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            io::Error::other(Error::Truncated { offset_bytes: source.offset_bytes() })
        }
        _ => error,
    }
}
