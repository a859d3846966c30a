//! zstd frames, as RFC 8878 describes them.
//!
//! ```text
//! frame:     magic(4) descriptor(1) [window(1)] [dictionary(0,1,2,4)] [content size(0,1,2,4,8)] block... [checksum(4)]
//! block:     header(3) data; the header is, from the lowest bit: last(1) type(2) size(21)
//! skippable: magic(4) size(4) data
//! ```

use std::io::{self, Read};

use zstd::zstd_safe::{self, CCtx, CParameter, DCtx, SafeResult, Strategy};

use super::super::buffer::Buffer;
use super::super::error::Error;
use super::super::seek_table::{self, Entry, SEEKABLE_MAGIC, SeekTable};
use super::super::source::Source;
use super::{BadFrame, FRAME_SIZE_MAX, Foreign, Passed, STORED_SIZE_MAX, Split, begin, truncated, u32_at};

const MAGIC: u32 = 0xFD2F_B528;

/// Of more frames than this nobody checks the seek table; what it would have to say is not kept for ever.
const FRAMES_LISTED_MAX: usize = 1 << 22;

/// In a frame's descriptor.
const UNUSED_BIT: u8 = 0x10;

#[derive(Default)]
pub(super) struct Scratch {
    compressor: Option<Compressor>,
    decompressor: Option<DCtx<'static>>,
}

impl Scratch {
    pub fn compress(&mut self, level: i32, input: &[u8], output: &mut Buffer) -> Result<(), BadFrame> {
        if self.compressor.as_ref().is_none_or(|compressor| compressor.level != level) {
            self.compressor = Some(Compressor::new(level)?);
        }
        let compressor = self.compressor.as_mut().expect("was just made");
        output.reserve(zstd_safe::compress_bound(input.len()));
        let size = compressor.compress(input, output.spare())?;
        output.advance(size);
        Ok(())
    }

    pub fn decompress(&mut self, stored: &[u8], output: &mut Buffer) -> Result<(), BadFrame> {
        let size = content_size(stored).ok_or_else(|| BadFrame::new("zstd: no content size"))?;
        output.reserve(size);
        let decompressor = self.decompressor.get_or_insert_with(DCtx::create);
        let found = checked(decompressor.decompress(&mut output.spare()[..size], stored))?;
        output.advance(found);
        Ok(())
    }
}

/// Compresses at one level.
///
/// At level 3, the usual one, it chooses among three searches by trying them on a sample of each frame. Heap pages
/// of PostgreSQL shrink as much, or more, by a quick search for long matches as by level 3 itself; pages of
/// B-trees and WAL by a quick search for short ones. Only where level 3 gains more than a hundredth over both does
/// it get the time that it takes. A whole cluster becomes as small as with `zstd -3`, for about half the time; of
/// the kinds of data measured, machine code lost the most against level 3 in frames of the same size: 2.6 %. The
/// choice depends on nothing but the frame, so that the same input is always stored alike.
struct Compressor {
    level: i32,
    /// From the quickest on.
    searches: Vec<CCtx<'static>>,
}

/// Of each frame: four pages, as smaller samples do not show the matches between pages.
const SAMPLE_SIZE: usize = 32 * 1024;

impl Compressor {
    fn new(level: i32) -> Result<Self, BadFrame> {
        let quick = |min_match| {
            let strategy = CParameter::Strategy(Strategy::ZSTD_fast);
            search(1, &[strategy, CParameter::HashLog(14), CParameter::MinMatch(min_match)])
        };
        let searches = match level {
            3 => vec![quick(7)?, quick(5)?, search(3, &[])?],
            _ => vec![search(level, &[])?],
        };
        Ok(Self { level, searches })
    }

    fn compress(&mut self, input: &[u8], output: &mut [u8]) -> Result<usize, BadFrame> {
        let chosen = match self.searches.len() {
            1 => 0,
            last if input.len() < 4 * SAMPLE_SIZE => last - 1,
            _ => self.choose(input, output)?,
        };
        checked(self.searches[chosen].compress2(output, input))
    }

    /// Tries the searches on a sample, and says which one to use; `output` is overwritten.
    fn choose(&mut self, input: &[u8], output: &mut [u8]) -> Result<usize, BadFrame> {
        let middle = (input.len() - SAMPLE_SIZE) / 2;
        let sample = &input[middle..][..SAMPLE_SIZE];
        let (mut chosen, mut size) = (0, usize::MAX);
        for (i, search) in self.searches.iter_mut().enumerate() {
            let with_this = checked(search.compress2(output, sample))?;
            if i == 0 || with_this + with_this / 100 < size {
                (chosen, size) = (i, with_this);
            }
            if size > SAMPLE_SIZE / 10 * 9 {
                break; // nothing will make it much smaller
            }
        }
        Ok(chosen)
    }
}

fn search(level: i32, parameters: &[CParameter]) -> Result<CCtx<'static>, BadFrame> {
    let mut context = CCtx::create();
    checked(context.set_parameter(CParameter::CompressionLevel(level)))?;
    checked(context.set_parameter(CParameter::ChecksumFlag(true)))?;
    for &parameter in parameters {
        checked(context.set_parameter(parameter))?;
    }
    Ok(context)
}

fn checked(result: SafeResult) -> Result<usize, BadFrame> {
    result.map_err(|code| BadFrame(format!("zstd: {}", zstd_safe::get_error_name(code))))
}

/// The content's size, where the frame names one that may be decoded in one piece.
fn content_size(stored: &[u8]) -> Option<usize> {
    let size = zstd_safe::get_frame_content_size(stored).ok().flatten()?;
    usize::try_from(size).ok().filter(|&size| size <= FRAME_SIZE_MAX)
}

/// Walks from block to block, reading exactly what the frame takes; skippable frames are passed over, of which a seek
/// table must be right.
pub(super) fn next(
    source: &mut Source<'_>,
    stored: &mut Buffer,
    passed: &mut Passed,
) -> Result<Split, Error> {
    let pass_over = &mut |source: &mut Source<'_>, stored: &mut Buffer| pass_over(source, stored, passed);
    let Some(start) = begin(source, stored, MAGIC, "zstd", pass_over)? else { return Ok(Split::End) };
    let has_checksum = read_header(source, stored)?;
    // Decoders must not look at it, so no checksum guards it.
    if stored[4] & UNUSED_BIT != 0 {
        return Err(BadFrame::new("zstd: the header has a bit that no encoder sets").at(start));
    }
    let Some(content_bytes) = content_size(stored) else {
        passed.0 = None;
        source.put_back(stored);
        return Ok(Split::Foreign);
    };
    source.read_exact_into(stored, 3)?;
    loop {
        let block = stored.last_chunk::<3>().expect("a block header was read");
        let header = u32::from_le_bytes([block[0], block[1], block[2], 0]);
        let (is_last, kind, size) = (header & 1 == 1, header >> 1 & 3, (header >> 3) as usize);
        let size = match kind {
            0 | 2 => size, // as it is, or compressed
            1 => 1,        // a byte to repeat
            _ => return Err(BadFrame::new("zstd: there is no such type of block").at(start)),
        };
        if stored.len() + size > STORED_SIZE_MAX {
            passed.0 = None;
            source.put_back(stored);
            return Ok(Split::Foreign);
        }
        let after = match (is_last, has_checksum) {
            (false, _) => 3,
            (true, true) => 4,
            (true, false) => 0,
        };
        source.read_exact_into(stored, size + after)?;
        if is_last {
            passed.0 = passed.0.take().filter(|table| table.entries().len() < FRAMES_LISTED_MAX);
            if let Some(table) = &mut passed.0 {
                // Both are within the bounds of a frame.
                table.push(Entry { stored_bytes: stored.len() as u32, content_bytes: content_bytes as u32 });
            }
            return Ok(Split::Frame);
        }
    }
}

/// Passes over a skippable frame, whose magic number and size are in `stored`. What is, or was, the seek table of the
/// frames before it must be as we write it: no checksum guards it, and pgbak itself does without.
fn pass_over(source: &mut Source<'_>, stored: &mut Buffer, passed: &mut Passed) -> Result<(), Error> {
    let start = source.offset_bytes() - stored.len() as u64;
    let (magic, size_bytes) = (u32_at(stored, 0), u32_at(stored, 4) as usize);
    let Some(expected) = passed.0.replace(SeekTable::default()) else {
        return source.skip(size_bytes as u64);
    };
    let wrong = || Err(BadFrame::new("zstd: the seek table does not list the frames before it").at(start));
    let is_table = magic == seek_table::SKIPPABLE_MAGIC;
    if !expected.possible_sizes_bytes().contains(&(stored.len() + size_bytes)) {
        if is_table {
            return wrong();
        }
        passed.0 = Some(expected);
        return source.skip(size_bytes as u64);
    }
    source.read_exact_into(stored, size_bytes)?;
    let has_footer = stored.last_chunk() == Some(&SEEKABLE_MAGIC.to_le_bytes());
    match is_table {
        true if expected.is_stored_as(stored) => Ok(()),
        // One whose magic number was changed to another skippable frame's.
        false if !has_footer => {
            passed.0 = Some(expected);
            Ok(())
        }
        _ => wrong(),
    }
}

/// Reads the rest of a frame's header after the magic number, and says whether a checksum ends the frame.
fn read_header(source: &mut Source<'_>, stored: &mut Buffer) -> Result<bool, Error> {
    source.read_exact_into(stored, 1)?;
    let descriptor = stored[4];
    let is_single_segment = descriptor & 0x20 != 0;
    let window_size = usize::from(!is_single_segment);
    let dictionary_size = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let content_size_size = match descriptor >> 6 {
        0 => usize::from(is_single_segment),
        1 => 2,
        2 => 4,
        _ => 8,
    };
    source.read_exact_into(stored, window_size + dictionary_size + content_size_size)?;
    Ok(descriptor & 4 != 0)
}

/// Its memory is bounded by the window that the decoder accepts: 128 MiB, as for the `zstd` command.
pub(super) struct Stream<'a>(zstd::stream::read::Decoder<'static, Source<'a>>);

impl<'a> Stream<'a> {
    pub fn new(source: Source<'a>) -> Result<Self, Error> {
        let decoder = zstd::stream::read::Decoder::with_buffer(source).map_err(Error::Read)?;
        Ok(Self(decoder.single_frame()))
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into).map_err(|error| truncated(error, self.0.get_ref()))
    }
}

impl<'a> Foreign<'a> for Stream<'a> {
    fn into_source(self: Box<Self>) -> Source<'a> {
        self.0.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::FRAME_SIZE;
    use super::*;

    /// Frames of prose, of rows in heap pages, of sorted keys, and of what does not shrink.
    fn kinds() -> Vec<(&'static str, Vec<u8>)> {
        let mut state = 1_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let frame_of = |piece: &mut dyn FnMut(u64) -> Vec<u8>| {
            let mut frame: Vec<u8> = (0..).flat_map(piece).take(FRAME_SIZE + 8).collect();
            frame.truncate(FRAME_SIZE);
            frame
        };
        let row = |i, number: u64| {
            format!("\0\0\x02\x09{i:08}customer {i} of {}\0\0\0", number % 10_000).into_bytes()
        };
        // Few words are frequent, most are rare.
        let word = |number: u64| {
            let rank = number % (1 << ((number >> 32) % 12));
            let letters =
                (0..3 + rank % 7).map(|i| b'a' + (rank.wrapping_mul(0x9E37_79B9) >> (4 * i) & 15) as u8);
            letters.chain([b' ']).collect()
        };
        let prose = frame_of(&mut |_| word(random()));
        let rows = frame_of(&mut |i| row(i, random()));
        let keys = frame_of(&mut |i| [&[0, 16, 8, 0][..], &(3 * i as u32).to_le_bytes(), &[1, 0]].concat());
        let noise = frame_of(&mut |_| random().to_le_bytes().to_vec());
        vec![("prose", prose), ("rows", rows), ("keys", keys), ("noise", noise)]
    }

    fn compressed(scratch: &mut Scratch, input: &[u8]) -> Vec<u8> {
        let mut output = Buffer::default();
        scratch.compress(3, input, &mut output).unwrap();
        output.to_vec()
    }

    #[test]
    fn level_three_keeps_the_ratio_of_level_three() {
        for (kind, frame) in kinds() {
            let mut plain = vec![0; zstd_safe::compress_bound(FRAME_SIZE)];
            let plain_size = search(3, &[]).unwrap().compress2(&mut plain[..], &frame).unwrap();
            let size = compressed(&mut Scratch::default(), &frame).len();
            assert!(size <= plain_size + plain_size / 30, "{kind}: {size} bytes, {plain_size} by level 3");
        }
    }

    /// Whether what is stored is passed, frame by frame, to its end.
    fn passes(stored: &[u8]) -> bool {
        let (mut source, mut passed) = (Source::new(Box::new(stored), None), Passed::default());
        loop {
            let mut frame = Buffer::default();
            match next(&mut source, &mut frame, &mut passed) {
                Ok(Split::Frame) => {}
                Ok(Split::Foreign) => return false,
                Ok(Split::End) => return true,
                Err(_) => return false,
            }
        }
    }

    #[test]
    fn a_bit_that_no_decoder_looks_at_is_looked_at() {
        let frames =
            [&b"one"[..], b"and another"].map(|content| compressed(&mut Scratch::default(), content));
        let mut table = SeekTable::default();
        for (frame, content_bytes) in frames.iter().zip([3, 11]) {
            table.push(Entry { stored_bytes: frame.len() as u32, content_bytes });
        }
        let whole = [frames.concat(), table.encode().flatten().collect()].concat();
        assert!(passes(&whole));
        assert!(passes(&[whole.clone(), whole.clone()].concat()), "one archive behind the other");
        let other = b"\x50\x2A\x4D\x18\x04\0\0\0text";
        assert!(passes(&[&whole[..frames[0].len()], other, &whole[frames[0].len()..]].concat()));
        let mut unused = whole.clone();
        unused[4] ^= UNUSED_BIT;
        assert!(!passes(&unused));
        for at in frames.concat().len()..whole.len() {
            for bit in 0..8 {
                let mut flipped = whole.clone();
                flipped[at] ^= 1 << bit;
                assert!(!passes(&flipped), "bit {bit} of byte {at} of {}", whole.len());
            }
        }
    }

    #[test]
    fn a_frame_is_stored_alike_whatever_came_before() {
        let mut used = Scratch::default();
        for (kind, frame) in kinds().into_iter().chain(kinds()) {
            let fresh = compressed(&mut Scratch::default(), &frame);
            assert!(compressed(&mut used, &frame) == fresh, "{kind}");
        }
    }
}
