//! A text, in one piece: a timeline's history, or a note about a backup. See [`crate::digest_line`].

use super::super::buffer::Buffer;
use super::super::error::Error;
use super::super::source::Source;
use super::{BadFrame, FRAME_SIZE, Split};
use crate::digest_line::{self, Checked};

/// Moves the whole text into `stored`, without its last line, which is checked.
pub(super) fn next(source: &mut Source<'_>, stored: &mut Buffer) -> Result<Split, Error> {
    if source.read_up_to(stored, FRAME_SIZE)? == 0 {
        return Ok(Split::End);
    }
    if !source.is_at_end()? {
        return Err(BadFrame(format!("a text of more than {FRAME_SIZE} bytes")).at(0));
    }
    match digest_line::check(stored) {
        Checked::WithoutDigest => Ok(Split::Frame),
        Checked::Whole(lines) => {
            let length = lines.len();
            stored.truncate(length);
            Ok(Split::Frame)
        }
        Checked::Altered { sha256 } => {
            Err(BadFrame(format!("the SHA-256 of its lines is {sha256}, and its last line tells another"))
                .at(0))
        }
    }
}
