//! gzip members, as RFC 1952 describes them, with an extra field that says where the member ends.
//!
//! ```text
//! member: 1f 8b 08 FLG MTIME(4) XFL OS [XLEN(2) field...] [name] [comment] [crc] deflate... CRC32(4) ISIZE(4)
//! ours:   1f 8b 08 04  00000000 00 FF  08 00  'P' 'B' 04 00 SIZE(4)              deflate... CRC32(4) ISIZE(4)
//! ```
//!
//! SIZE counts the whole member. The idea is that of the BGZF format, whose field is too small for our frames.

use std::io::{self, Read};

use flate2::bufread::GzDecoder;
use flate2::{Compress, Crc, Decompress, FlushCompress, FlushDecompress, Status};

use super::super::buffer::Buffer;
use super::super::error::Error;
use super::super::source::Source;
use super::super::trailer;
use super::{BadFrame, FRAME_SIZE_MAX, Foreign, STORED_SIZE_MAX, Split, check_trailer, truncated, u32_at};

const HEADER: [u8; 16] = [0x1F, 0x8B, 8, 4, 0, 0, 0, 0, 0, 255, 8, 0, b'P', b'B', 4, 0];
const HEADER_SIZE: usize = HEADER.len() + 4;
const TRAILER_SIZE: usize = 8;

#[derive(Default)]
pub(super) struct Scratch {
    compressor: Option<(i32, Compress)>,
    decompressor: Option<Decompress>,
}

impl Scratch {
    pub fn compress(&mut self, level: i32, input: &[u8], output: &mut Buffer) -> Result<(), BadFrame> {
        let start = output.len();
        output.append(&HEADER);
        output.append(&[0; 4]);
        self.deflate(level, input, output)?;
        let mut crc = Crc::new();
        crc.update(input);
        output.append(&crc.sum().to_le_bytes());
        output.append(&(input.len() as u32).to_le_bytes());
        let size = (output.len() - start) as u32;
        output.filled_mut()[start + HEADER.len()..][..4].copy_from_slice(&size.to_le_bytes());
        Ok(())
    }

    fn deflate(&mut self, level: i32, input: &[u8], output: &mut Buffer) -> Result<(), BadFrame> {
        if self.compressor.as_ref().is_none_or(|&(of_level, _)| of_level != level) {
            self.compressor = Some((level, Compress::new(flate2::Compression::new(level as u32), false)));
        }
        let (_, compressor) = self.compressor.as_mut().expect("was just made");
        compressor.reset();
        loop {
            output.reserve(input.len() / 64 + 4096);
            let (read, written) = (compressor.total_in() as usize, compressor.total_out());
            let status = compressor.compress(&input[read..], output.spare(), FlushCompress::Finish);
            output.advance((compressor.total_out() - written) as usize);
            match status.map_err(BadFrame::new)? {
                Status::StreamEnd => return Ok(()),
                Status::Ok | Status::BufError => {} // there was not enough room
            }
        }
    }

    pub fn decompress(&mut self, stored: &[u8], output: &mut Buffer) -> Result<(), BadFrame> {
        let deflated = stored.get(HEADER_SIZE..stored.len().saturating_sub(TRAILER_SIZE));
        let deflated = deflated.ok_or_else(|| BadFrame::new("gzip: the member is too short"))?;
        let trailer = &stored[stored.len() - TRAILER_SIZE..];
        let size = u32_at(trailer, 4) as usize;
        if size > FRAME_SIZE_MAX {
            return Err(BadFrame::new("gzip: the member's content is too long"));
        }
        output.reserve(size);
        let content = &mut output.spare()[..size];
        let decompressor = self.decompressor.get_or_insert_with(|| Decompress::new(false));
        decompressor.reset(false);
        let status = decompressor.decompress(deflated, content, FlushDecompress::Finish);
        let status = status.map_err(|error| BadFrame(format!("gzip: {error}")))?;
        let is_whole =
            decompressor.total_in() == deflated.len() as u64 && decompressor.total_out() == size as u64;
        if status != Status::StreamEnd || !is_whole {
            return Err(BadFrame::new("gzip: the member's content is not as long as it says"));
        }
        let mut crc = Crc::new();
        crc.update(content);
        if crc.sum() != u32_at(trailer, 0) {
            return Err(BadFrame::new("gzip: the content does not match its CRC32"));
        }
        output.advance(size);
        Ok(())
    }
}

/// Reads a member in one piece when it is ours, and leaves any other to the sequential decoder; a trailer is checked.
pub(super) fn next(source: &mut Source<'_>, stored: &mut Buffer) -> Result<Split, Error> {
    let start = loop {
        if source.is_at_end()? {
            return Ok(Split::End);
        }
        let (start, before) = (source.offset_bytes(), source.digester());
        stored.clear();
        // No member is shorter: header 10, the shortest deflate 2, trailer 8.
        source.read_exact_into(stored, HEADER_SIZE)?;
        if stored[..3] != HEADER[..3] {
            return Err(BadFrame::new("no gzip member begins here").at(start));
        }
        if !trailer::begins_member(stored) {
            break start;
        }
        source.read_exact_into(stored, trailer::MEMBER_SIZE - HEADER_SIZE)?;
        check_trailer(trailer::judge_member(stored), before, start)?;
    };
    if stored[..HEADER.len()] != HEADER {
        source.put_back(stored);
        return Ok(Split::Foreign);
    }
    let size = u32_at(stored, HEADER.len()) as usize;
    if !(HEADER_SIZE + TRAILER_SIZE..=STORED_SIZE_MAX).contains(&size) {
        return Err(BadFrame::new("gzip: a member cannot have the size that it says").at(start));
    }
    source.read_exact_into(stored, size - HEADER_SIZE)?;
    Ok(Split::Frame)
}

pub(super) struct Stream<'a>(GzDecoder<Source<'a>>);

impl<'a> Stream<'a> {
    pub fn new(source: Source<'a>) -> Self {
        Self(GzDecoder::new(source))
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into).map_err(|error| truncated(error, self.0.get_ref()))
    }
}

impl<'a> Foreign<'a> for Stream<'a> {
    fn into_source(self: Box<Self>) -> Source<'a> {
        self.0.into_inner()
    }
}
