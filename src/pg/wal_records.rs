//! The chain of records in a WAL segment: whether the zeros at its end belong there.
//!
//! Follows PostgreSQL `src/include/access/xlogrecord.h` (`XLogRecord`), `src/include/access/xlog_internal.h` (page
//! headers) and `CopyXLogRecordToWAL` in `src/backend/access/transam/xlog.c`:
//!
//! ```text
//! page    = header { record | rest of a record } ; a header has 24 bytes, 40 with the flag 0x0002
//! header  = u16 magic, u16 flags, u32 timeline, u64 address, u32 bytes left of a record from the page before …
//! record  = u32 length of all of it, u32 transaction, u64 previous, u8 info, u8 resource manager, 2 bytes, u32 CRC,
//!           data; it begins at a multiple of 8 and goes on behind the header of the next page
//! ```
//!
//! A segment ends in zeros for one of two reasons. Its last record is a switch (resource manager 0, info `0x4_`):
//! the server then fills the rest of the segment with zeros, page headers too, and it is complete. Or it is not
//! complete: its end was never copied, or not yet.
//!
//! Only lengths are looked at, no CRC and no content; a [`RecordWalk`] is fed page by page and keeps one record's
//! header. It does not know whether the segment is the right one: see [`wal_page`](super::wal_page).

use super::Lsn;

const PAGE_HEADER_BYTES: usize = 24;
const LONG_PAGE_HEADER_BYTES: usize = 40;
const FLAG_CONTINUES_RECORD: u16 = 0x0001;
const FLAG_LONG_HEADER: u16 = 0x0002;

const RECORD_HEADER_BYTES: usize = 24;
const RECORD_ALIGNMENT: usize = 8;
/// Where the header has `xl_info`; `xl_rmid` is behind it, and 8 bytes are left from here on.
const INFO_AT: usize = 16;
/// `RM_XLOG_ID` and `XLOG_SWITCH`, of which the low half of `xl_info` is no part.
const XLOG_RESOURCE_MANAGER: u8 = 0;
const SWITCH_INFO: u8 = 0x40;

/// How a segment's records end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordsEnd {
    /// They go on to the last byte, and perhaps into the next segment.
    Full,
    /// With a switch, and nothing but zeros behind it.
    Switch,
    /// Where a record should begin or go on there are zeros, and no switch before them.
    Zeros { at: Lsn },
    /// What is there is no chain of records.
    Broken { at: Lsn },
}

/// Follows the records of one segment.
#[derive(Debug)]
pub struct RecordWalk {
    /// Where the next page is.
    at: Lsn,
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Before the first page.
    Beginning,
    /// A record begins next.
    Between,
    InRecord(Record),
    Switched,
    Ended(RecordsEnd),
}

/// A record of which some has been passed.
#[derive(Debug, Clone, Copy)]
struct Record {
    left_bytes: u32,
    /// As much of the header as was seen, up to its last byte.
    header: [u8; RECORD_HEADER_BYTES],
    header_seen: usize,
}

impl RecordWalk {
    /// A walk through the segment that begins at `start`.
    pub fn new(start: Lsn) -> Self {
        Self { at: start, state: State::Beginning }
    }

    /// Takes in the next page, whole: as many bytes as the segment's first page says that a page has.
    pub fn feed_page(&mut self, page: &[u8]) {
        let at = self.at;
        self.at = Lsn(at.0.saturating_add(page.len() as u64));
        self.state = match self.state {
            State::Ended(_) => return,
            State::Switched if is_zero(page) => State::Switched,
            State::Switched => State::Ended(RecordsEnd::Broken { at }),
            _ if page.len() < LONG_PAGE_HEADER_BYTES || !page.len().is_multiple_of(RECORD_ALIGNMENT) => {
                State::Ended(RecordsEnd::Broken { at })
            }
            _ if is_zero(&page[..PAGE_HEADER_BYTES]) => State::Ended(RecordsEnd::Zeros { at }),
            before => walk_page(before, page, at),
        };
    }

    /// Says how the records ended, when all pages were fed.
    pub fn finish(self) -> RecordsEnd {
        match self.state {
            State::Ended(end) => end,
            State::Switched => RecordsEnd::Switch,
            State::Beginning => RecordsEnd::Zeros { at: self.at },
            State::Between | State::InRecord(_) => RecordsEnd::Full,
        }
    }
}

/// Follows the records on one page that has a header.
fn walk_page(before: State, page: &[u8], at: Lsn) -> State {
    let broken = State::Ended(RecordsEnd::Broken { at });
    let flags = u16::from_le_bytes([page[2], page[3]]);
    let left_bytes = u32_at(page, 16);
    let mut state = match (before, flags & FLAG_CONTINUES_RECORD != 0) {
        (State::InRecord(record), true) if record.left_bytes == left_bytes => before,
        (State::Beginning, true) if left_bytes > 0 => State::InRecord(Record::from_page_before(left_bytes)),
        (_, true) => return broken,
        // A crash cut a record short, and the server went on without the rest of it.
        (_, false) => State::Between,
    };
    let mut position = if flags & FLAG_LONG_HEADER != 0 { LONG_PAGE_HEADER_BYTES } else { PAGE_HEADER_BYTES };
    while position < page.len() {
        state = match state {
            State::InRecord(mut record) => {
                position += record.pass(&page[position..]);
                if record.left_bytes > 0 {
                    return State::InRecord(record);
                }
                position = position.next_multiple_of(RECORD_ALIGNMENT);
                if record.is_switch() { State::Switched } else { State::Between }
            }
            State::Switched => {
                return if is_zero(&page[position..]) { State::Switched } else { broken };
            }
            _ => match u32_at(page, position) {
                0 => {
                    return State::Ended(RecordsEnd::Zeros { at: Lsn(at.0.saturating_add(position as u64)) });
                }
                length if (length as usize) < RECORD_HEADER_BYTES => return broken,
                length => State::InRecord(Record::new(length)),
            },
        };
    }
    state
}

impl Record {
    fn new(length_bytes: u32) -> Self {
        Self { left_bytes: length_bytes, header: [0; RECORD_HEADER_BYTES], header_seen: 0 }
    }

    /// A record that began in the segment before. Only a switch is all header, so if it is one, what is left is the
    /// header's end.
    fn from_page_before(left_bytes: u32) -> Self {
        let header_left = (left_bytes as usize).min(RECORD_HEADER_BYTES);
        // Never a switch, whatever its header would be: too much or too little is left.
        let is_end_of_header = matches!(header_left, 8 | INFO_AT);
        let header_seen =
            if is_end_of_header { RECORD_HEADER_BYTES - header_left } else { RECORD_HEADER_BYTES };
        Self { left_bytes, header: [0xFF; RECORD_HEADER_BYTES], header_seen }
    }

    /// Passes as much of the record as is in `bytes`, and says how much that was.
    fn pass(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.left_bytes as usize);
        let of_header = count.min(RECORD_HEADER_BYTES - self.header_seen);
        self.header[self.header_seen..][..of_header].copy_from_slice(&bytes[..of_header]);
        self.header_seen += of_header;
        self.left_bytes -= count as u32;
        count
    }

    fn is_switch(&self) -> bool {
        let [info, resource_manager] = [self.header[INFO_AT], self.header[INFO_AT + 1]];
        resource_manager == XLOG_RESOURCE_MANAGER && info & 0xF0 == SWITCH_INFO
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("records and their lengths are aligned"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: usize = 1024;
    const PAGES: usize = 16;
    const START: Lsn = Lsn(0x500_0000);
    const SWITCH: (usize, u8, u8) = (RECORD_HEADER_BYTES, SWITCH_INFO, XLOG_RESOURCE_MANAGER);

    /// Writes a segment as the server does, from records of a length, `xl_info` and resource manager each.
    struct Writer {
        pages: Vec<u8>,
    }

    impl Writer {
        /// `left`: of a record from the segment before.
        fn new(left: &[u8]) -> Self {
            let mut writer = Self { pages: Vec::new() };
            writer.put(left, 0);
            writer
        }

        fn record(&mut self, (length, info, manager): (usize, u8, u8)) {
            let mut record = vec![0xAB; length];
            record[..4].copy_from_slice(&(length as u32).to_le_bytes());
            (record[INFO_AT], record[INFO_AT + 1]) = (info, manager);
            self.put(&record, length);
        }

        /// Writes a record, which begins here if it has `new` bytes, and otherwise in the segment before.
        fn put(&mut self, bytes: &[u8], new: usize) {
            for (i, &byte) in bytes.iter().enumerate() {
                let left = bytes.len() - i;
                self.begin_page(if left == new { 0 } else { left });
                self.pages.push(byte);
            }
            while !self.pages.len().is_multiple_of(RECORD_ALIGNMENT) {
                self.pages.push(0);
            }
        }

        /// `left` of a record that goes on here.
        fn begin_page(&mut self, left: usize) {
            if !self.pages.len().is_multiple_of(PAGE) {
                return;
            }
            let is_first = self.pages.is_empty();
            let mut header = vec![0; if is_first { LONG_PAGE_HEADER_BYTES } else { PAGE_HEADER_BYTES }];
            header[0] = 0x10;
            header[1] = 0xD1;
            header[2] = u8::from(left > 0) | if is_first { 2 } else { 0 };
            header[16..20].copy_from_slice(&(left as u32).to_le_bytes());
            self.pages.append(&mut header);
        }

        fn with_zeros(mut self) -> Vec<u8> {
            assert!(self.pages.len() <= PAGE * PAGES, "the records fit");
            self.pages.resize(PAGE * PAGES, 0);
            self.pages
        }

        /// A segment of ordinary records, of which the last goes on in the next segment.
        fn full(mut self) -> Vec<u8> {
            while self.pages.len() < PAGE * PAGES {
                self.record((300, 0x00, 10));
            }
            self.pages.truncate(PAGE * PAGES);
            self.pages
        }
    }

    fn end_of(segment: &[u8]) -> RecordsEnd {
        let mut walk = RecordWalk::new(START);
        segment.chunks(PAGE).for_each(|page| walk.feed_page(page));
        walk.finish()
    }

    #[test]
    fn a_full_segment_is_told_from_one_that_was_switched_and_one_that_was_cut() {
        assert_eq!(end_of(&Writer::new(&[]).full()), RecordsEnd::Full);
        let mut writer = Writer::new(&[7; 2000]);
        [30, 100, 3000, 41].into_iter().for_each(|length| writer.record((length, 0x00, 10)));
        let end = writer.pages.len() as u64;
        assert_eq!(
            end_of(&Writer { pages: writer.pages.clone() }.with_zeros()),
            RecordsEnd::Zeros { at: START + end }
        );
        writer.record(SWITCH);
        assert_eq!(end_of(&writer.with_zeros()), RecordsEnd::Switch);
    }

    #[test]
    fn what_looks_like_a_switch_but_is_another_record_is_none() {
        for (info, manager) in [(0x30, 0), (0x50, 0), (0x40, 1)] {
            let mut writer = Writer::new(&[]);
            writer.record((RECORD_HEADER_BYTES, info, manager));
            assert!(matches!(end_of(&writer.with_zeros()), RecordsEnd::Zeros { .. }), "{info:x} {manager}");
        }
        let mut writer = Writer::new(&[]);
        writer.record((RECORD_HEADER_BYTES, SWITCH_INFO | 0x01, 0));
        assert_eq!(end_of(&writer.with_zeros()), RecordsEnd::Switch, "the low half is not its kind");
    }

    #[test]
    fn a_switch_may_go_on_in_the_segment_that_it_ends() {
        let mut header = [0; RECORD_HEADER_BYTES];
        (header[INFO_AT], header[INFO_AT + 1]) = (SWITCH_INFO, XLOG_RESOURCE_MANAGER);
        for seen_before in [8, 16] {
            let segment = Writer::new(&header[seen_before..]).with_zeros();
            assert_eq!(end_of(&segment), RecordsEnd::Switch, "{seen_before}");
        }
        header[INFO_AT] = 0;
        for seen_before in [8, 16] {
            let segment = Writer::new(&header[seen_before..]).with_zeros();
            assert!(matches!(end_of(&segment), RecordsEnd::Zeros { .. }), "{seen_before}");
        }
    }

    #[test]
    fn a_record_that_a_crash_cut_short_is_left_behind() {
        let mut writer = Writer::new(&[]);
        writer.record((3 * PAGE, 0x00, 10));
        writer.pages.truncate(2 * PAGE);
        writer.record((100, 0x00, 10));
        writer.record(SWITCH);
        assert_eq!(end_of(&writer.with_zeros()), RecordsEnd::Switch);
    }

    #[test]
    fn data_behind_a_switch_and_wrong_lengths_are_broken() {
        let switched = || {
            let mut writer = Writer::new(&[]);
            writer.record((900, 0x00, 10));
            writer.record(SWITCH);
            let end = writer.pages.len();
            (writer.with_zeros(), end)
        };
        for behind in [0, PAGE] {
            let (mut segment, end) = switched();
            segment[end + behind] = 1;
            assert!(matches!(end_of(&segment), RecordsEnd::Broken { .. }), "{behind} bytes behind");
        }
        let mut short = Writer::new(&[]).full();
        short[LONG_PAGE_HEADER_BYTES] = 23;
        short[LONG_PAGE_HEADER_BYTES + 1] = 0;
        assert_eq!(end_of(&short), RecordsEnd::Broken { at: START });
        let mut left = Writer::new(&[]).full();
        left[PAGE + 16] ^= 1;
        assert_eq!(end_of(&left), RecordsEnd::Broken { at: START + PAGE as u64 });
    }

    #[test]
    fn nothing_and_nothing_but_zeros_are_not_complete() {
        assert_eq!(end_of(&[]), RecordsEnd::Zeros { at: START });
        assert_eq!(end_of(&[0; PAGE * PAGES]), RecordsEnd::Zeros { at: START });
    }

    fn records() -> impl Strategy<Value = Vec<(usize, u8, u8)>> {
        prop::collection::vec((24usize..1500, any::<u8>(), 1u8..22), 0..9)
    }

    proptest! {
        #[test]
        fn a_switched_segment_is_whole_and_its_beginning_alone_is_not(
            left in prop::collection::vec(any::<u8>(), 17..300), records in records(), cut in any::<prop::sample::Index>(),
        ) {
            let mut writer = Writer::new(&left);
            records.into_iter().for_each(|record| writer.record(record));
            writer.record(SWITCH);
            let written = writer.pages.len();
            let segment = writer.with_zeros();
            prop_assert_eq!(end_of(&segment), RecordsEnd::Switch);
            // Whatever was copied of it so far, at least the end of the switch record is not there yet.
            let mut copied = segment;
            let end = cut.index(written - 8);
            copied[end..].fill(0);
            prop_assert_ne!(end_of(&copied), RecordsEnd::Full);
            prop_assert_ne!(end_of(&copied), RecordsEnd::Switch);
        }

        #[test]
        fn whatever_is_fed_it_comes_to_an_end(
            pages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
        ) {
            let mut walk = RecordWalk::new(Lsn(u64::MAX - 100));
            pages.iter().for_each(|page| walk.feed_page(page));
            walk.finish();
            let mut segment = Writer::new(&[1; 999]).full();
            for (at, byte) in damage {
                let at = at.index(segment.len());
                segment[at] = byte;
            }
            end_of(&segment);
        }
    }
}
