//! LZ4 frames, as the format's document `lz4_Frame_format.md` describes them.
//!
//! ```text
//! frame:     magic(4) FLG(1) BD(1) [content size(8)] [dictionary(4)] HC(1) block... 00000000 [checksum(4)]
//! block:     size(4), of which the highest bit says that it is stored as it is; data; [checksum(4)]
//! skippable: magic(4) size(4) data
//! ```

use std::io::{self, Read, Write};

use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};

use super::super::buffer::Buffer;
use super::super::error::Error;
use super::super::source::Source;
use super::{BadFrame, FRAME_SIZE_MAX, Foreign, STORED_SIZE_MAX, Split, begin, truncated, u32_at};

const MAGIC: u32 = 0x184D_2204;

pub(super) fn compress(input: &[u8], output: &mut Buffer) -> Result<(), BadFrame> {
    let info = FrameInfo::new()
        .content_size(Some(input.len() as u64))
        .content_checksum(true)
        .block_size(BlockSize::Max256KB)
        .block_mode(BlockMode::Independent);
    let mut encoder = FrameEncoder::with_frame_info(info, Appending(output));
    encoder.write_all(input).map_err(BadFrame::new)?;
    encoder.finish().map_err(BadFrame::new)?;
    Ok(())
}

struct Appending<'b>(&'b mut Buffer);

impl Write for Appending<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.append(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn decompress(stored: &[u8], output: &mut Buffer) -> Result<(), BadFrame> {
    let size = content_size(stored).ok_or_else(|| BadFrame::new("lz4: no content size"))?;
    output.reserve(size);
    let mut decoder = FrameDecoder::new(stored);
    let bad = |error: io::Error| BadFrame(format!("lz4: {error}"));
    decoder.read_exact(&mut output.spare()[..size]).map_err(bad)?;
    // Only now does the decoder see the end mark and check the content.
    let more = decoder.read(&mut [0]).map_err(bad)?;
    if more > 0 || !decoder.get_ref().is_empty() {
        return Err(BadFrame::new("lz4: the frame's content is not as long as it says"));
    }
    output.advance(size);
    Ok(())
}

/// The content's size, where the frame names one that may be decoded in one piece.
fn content_size(stored: &[u8]) -> Option<usize> {
    let is_named = stored.get(4)? & 8 != 0;
    let size = u64::from_le_bytes(stored.get(6..14)?.try_into().expect("eight bytes"));
    usize::try_from(size).ok().filter(|&size| is_named && size <= FRAME_SIZE_MAX)
}

/// Walks from block to block, reading exactly what the frame takes; skippable frames are passed over.
pub(super) fn next(source: &mut Source<'_>, stored: &mut Buffer) -> Result<Split, Error> {
    let skip = &mut |source: &mut Source<'_>, stored: &mut Buffer| source.skip(u32_at(stored, 4).into());
    if begin(source, stored, MAGIC, "LZ4", skip)?.is_none() {
        return Ok(Split::End);
    }
    source.read_exact_into(stored, 2)?;
    let flags = stored[4];
    let optional = if flags & 8 != 0 { 8 } else { 0 } + if flags & 1 != 0 { 4 } else { 0 };
    source.read_exact_into(stored, optional + 1)?;
    if content_size(stored).is_none() {
        source.put_back(stored);
        return Ok(Split::Foreign);
    }
    let block_checksum_size = if flags & 0x10 != 0 { 4 } else { 0 };
    source.read_exact_into(stored, 4)?;
    loop {
        let size = u32_at(stored, stored.len() - 4);
        if size == 0 {
            let checksum_size = if flags & 4 != 0 { 4 } else { 0 };
            source.read_exact_into(stored, checksum_size)?;
            return Ok(Split::Frame);
        }
        let size = (size & 0x7FFF_FFFF) as usize;
        if stored.len() + size > STORED_SIZE_MAX {
            source.put_back(stored);
            return Ok(Split::Foreign);
        }
        source.read_exact_into(stored, size + block_checksum_size + 4)?;
    }
}

pub(super) struct Stream<'a>(FrameDecoder<Source<'a>>);

impl<'a> Stream<'a> {
    pub fn new(source: Source<'a>) -> Self {
        Self(FrameDecoder::new(source))
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(into).map_err(|error| truncated(error, self.0.get_ref()))?;
        // The decoder takes the end of its input between two blocks for the end of the frame.
        if count == 0 && !into.is_empty() && self.0.get_ref().has_ended() {
            return Err(truncated(io::ErrorKind::UnexpectedEof.into(), self.0.get_ref()));
        }
        Ok(count)
    }
}

impl<'a> Foreign<'a> for Stream<'a> {
    fn into_source(self: Box<Self>) -> Source<'a> {
        self.0.into_inner()
    }
}
