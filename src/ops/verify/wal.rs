//! One file of the WAL archive. Nothing recorded says what its bytes should be, so it is read as PostgreSQL would: each
//! frame's checksum, the exact size, and the header of every page, which say whose it is and where it belongs.

use super::lanes::{Reading, Stop};
use super::problem::{Problem, Subject};
use crate::ops::wal_file;
use crate::pg::wal_page::{Expected, PageCheck};
use crate::pg::{SegmentSize, SystemIdentifier, WalFileName};
use crate::pipe::Codec;
use crate::repo::wal::FILE_SIZE_MAX_BYTES;

pub fn check(
    reading: &Reading<'_>,
    key: &str,
    system: SystemIdentifier,
    name: &WalFileName,
    codec: Codec,
    segment_size: SegmentSize,
) -> Result<Vec<Problem>, Stop> {
    let subject = match (name, name.segment(segment_size)) {
        (WalFileName::Segment(_), Some(segment)) => Subject::Segment(system, segment),
        (WalFileName::History(timeline), _) => Subject::History(system, *timeline),
        _ => Subject::Nothing,
    };
    let object = match reading.open(key, &subject)? {
        Ok(object) => object,
        Err(problem) => return Ok(vec![problem]),
    };
    let mut archive = reading.archive(codec, object, None);
    let mut pages = match &subject {
        Subject::Segment(system_identifier, segment) => Some(PageCheck::new(Expected {
            segment: *segment,
            segment_size,
            system_identifier: *system_identifier,
        })),
        _ => None,
    };
    let mut beginning = Vec::new();
    let (mut size_bytes, mut mismatch) = (0, None);
    loop {
        let frame = match archive.next_frame() {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            Err(error) => return Ok(vec![reading.failed(key, &subject, error)?]),
        };
        size_bytes += frame.len() as u64;
        if size_bytes > FILE_SIZE_MAX_BYTES {
            let found = format!("more than {FILE_SIZE_MAX_BYTES} bytes");
            return Ok(vec![Problem::new("wal-damaged", key, subject, found)]);
        }
        let room_bytes = (wal_file::BEGINNING_BYTES - beginning.len()) as u64;
        beginning.extend(frame.iter().take(room_bytes as usize));
        // Read on after a mismatch: where a frame is damaged too, that is the cause.
        if mismatch.is_none() {
            mismatch = pages.as_mut().and_then(|pages| pages.feed(&frame).err());
        }
    }
    let mismatch = mismatch.or_else(|| pages.and_then(|pages| pages.finish().err()));
    let found = match mismatch {
        Some(mismatch) => Some(mismatch.to_string()),
        // A first page of a segment that has none after it, a history, a note.
        None => match wal_file::check(name, &beginning, size_bytes) {
            Ok(Some(found)) if found != system => Some(format!("it is WAL of system {found}")),
            Ok(_) => None,
            Err(wrong) => Some(wrong.to_string()),
        },
    };
    Ok(found.map(|found| Problem::new("wal-damaged", key, subject, found)).into_iter().collect())
}
