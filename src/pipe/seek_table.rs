//! The seek table of the zstd seekable format: a last, skippable frame that lists the frames before it.
//!
//! Follows zstd `contrib/seekable_format/zstd_seekable_compression_format.md`. All numbers are little-endian.
//!
//! ```text
//! table:  0x184D2A5E(4) size(4) entry... count(4) descriptor(1) 0x8F92EAB1(4)
//! entry:  stored size(4) content size(4) [checksum(4)], the checksum if the descriptor's highest bit is set
//! ```
//!
//! The table tells how large the content is, and where in it a frame begins, without decoding anything. The
//! frames have checksums of their own, so ours leaves these out.

pub const SKIPPABLE_MAGIC: u32 = 0x184D_2A5E;
pub const SEEKABLE_MAGIC: u32 = 0x8F92_EAB1;
const HEADER_SIZE: usize = 8;

/// How many bytes at the end of an archive say whether there is a table, and how long it is.
pub const FOOTER_SIZE: usize = 9;

/// The format allows no more; an archive of more frames goes without a table.
const FRAMES_MAX: usize = 0x0800_0000;

const HAS_CHECKSUMS: u8 = 0x80;
const RESERVED_BITS: u8 = 0x7C;

/// One frame, and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub stored_bytes: u32,
    pub content_bytes: u32,
}

/// The frames of an archive, from the first on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeekTable {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a seek table: {0}")]
pub struct NotASeekTable(&'static str);

impl SeekTable {
    pub fn push(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// How large the content is that all frames hold together.
    pub fn content_bytes(&self) -> u64 {
        self.entries.iter().map(|entry| u64::from(entry.content_bytes)).sum()
    }

    /// How much all frames take, without the table itself.
    pub fn stored_bytes(&self) -> u64 {
        self.entries.iter().map(|entry| u64::from(entry.stored_bytes)).sum()
    }

    /// The table as it is stored, in pieces of a few KiB; nothing when there are more frames than it can list.
    pub fn encode(&self) -> impl Iterator<Item = Vec<u8>> {
        let entry =
            |entry: &Entry| [entry.stored_bytes.to_le_bytes(), entry.content_bytes.to_le_bytes()].concat();
        let count = self.entries.len() as u32;
        let size = 8 * count + FOOTER_SIZE as u32;
        let header = [SKIPPABLE_MAGIC.to_le_bytes(), size.to_le_bytes()].concat();
        let footer = [&count.to_le_bytes()[..], &[0], &SEEKABLE_MAGIC.to_le_bytes()].concat();
        let entries = self.entries.chunks(512).map(move |some| some.iter().flat_map(entry).collect());
        let all = std::iter::once(header).chain(entries).chain([footer]);
        all.take(if self.entries.len() <= FRAMES_MAX { usize::MAX } else { 0 })
    }

    /// Whether `stored`, a whole skippable frame, is this table: as we write it, or with checksums.
    pub fn is_stored_as(&self, stored: &[u8]) -> bool {
        let plain = self.encode().flatten().eq(stored.iter().copied());
        plain
            || stored.last_chunk::<FOOTER_SIZE>().is_some_and(|footer| footer[4] == HAS_CHECKSUMS)
                && Self::parse(stored).is_ok_and(|found| found == *self)
    }

    /// How many bytes it may take when it is stored.
    pub fn possible_sizes_bytes(&self) -> [usize; 2] {
        [0, HAS_CHECKSUMS].map(|kind| HEADER_SIZE + FOOTER_SIZE + self.entries.len() * entry_size(kind))
    }

    /// How many bytes the whole table takes, by the last [`FOOTER_SIZE`] bytes of an archive; `None`: it has none.
    pub fn size_bytes(footer: &[u8; FOOTER_SIZE]) -> Option<u64> {
        let (count, descriptor) = parse_footer(footer).ok()?;
        Some((HEADER_SIZE + FOOTER_SIZE) as u64 + count as u64 * entry_size(descriptor) as u64)
    }

    /// Reads a whole table, from its skippable frame's magic number to its end.
    pub fn parse(bytes: &[u8]) -> Result<Self, NotASeekTable> {
        let (header, rest) = bytes.split_first_chunk::<HEADER_SIZE>().ok_or(NotASeekTable("too short"))?;
        let (entries, footer) = rest.split_last_chunk::<FOOTER_SIZE>().ok_or(NotASeekTable("too short"))?;
        let (count, descriptor) = parse_footer(footer)?;
        if u32_at(header, 0) != SKIPPABLE_MAGIC || u32_at(header, 4) as usize != rest.len() {
            return Err(NotASeekTable("it is not a skippable frame of its own"));
        }
        let size = entry_size(descriptor);
        if entries.len() != count * size {
            return Err(NotASeekTable("it does not hold as many entries as it says"));
        }
        let entry = |bytes: &[u8]| Entry { stored_bytes: u32_at(bytes, 0), content_bytes: u32_at(bytes, 4) };
        Ok(Self { entries: entries.chunks_exact(size).map(entry).collect() })
    }
}

/// The number of entries, and the descriptor.
fn parse_footer(footer: &[u8; FOOTER_SIZE]) -> Result<(usize, u8), NotASeekTable> {
    let (count, descriptor) = (u32_at(footer, 0) as usize, footer[4]);
    if u32_at(footer, 5) != SEEKABLE_MAGIC {
        return Err(NotASeekTable("the magic number is another"));
    }
    if descriptor & RESERVED_BITS != 0 || count > FRAMES_MAX {
        return Err(NotASeekTable("it is of an unknown version"));
    }
    Ok((count, descriptor))
}

fn entry_size(descriptor: u8) -> usize {
    if descriptor & HAS_CHECKSUMS != 0 { 12 } else { 8 }
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(sizes: &[(u32, u32)]) -> SeekTable {
        let entry = |&(stored_bytes, content_bytes)| Entry { stored_bytes, content_bytes };
        SeekTable { entries: sizes.iter().map(entry).collect() }
    }

    fn encoded(table: &SeekTable) -> Vec<u8> {
        table.encode().flatten().collect()
    }

    #[test]
    fn is_written_as_the_format_says() {
        let bytes = encoded(&table(&[(0x0102, 0x100000)]));
        let expected = [
            &[0x5E, 0x2A, 0x4D, 0x18, 17, 0, 0, 0][..],
            &[2, 1, 0, 0, 0, 0, 0x10, 0],
            &[1, 0, 0, 0, 0, 0xB1, 0xEA, 0x92, 0x8F],
        ];
        assert_eq!(bytes, expected.concat());
    }

    #[test]
    fn reads_a_table_with_checksums() {
        let mut bytes = vec![0x5E, 0x2A, 0x4D, 0x18, 21, 0, 0, 0];
        bytes.extend([9, 0, 0, 0, 7, 0, 0, 0, 1, 2, 3, 4]);
        bytes.extend([1, 0, 0, 0, 0x80, 0xB1, 0xEA, 0x92, 0x8F]);
        assert_eq!(SeekTable::parse(&bytes), Ok(table(&[(9, 7)])));
    }

    proptest! {
        #[test]
        fn round_trips(sizes in prop::collection::vec(any::<(u32, u32)>(), 0..1500)) {
            let table = table(&sizes);
            let bytes = encoded(&table);
            let footer = bytes.last_chunk().unwrap();
            prop_assert_eq!(SeekTable::size_bytes(footer), Some(bytes.len() as u64));
            prop_assert_eq!(SeekTable::parse(&bytes), Ok(table));
        }

        #[test]
        fn nonsense_is_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..64), cut in 0usize..33) {
            prop_assert!(SeekTable::parse(&bytes).is_err());
            let whole = encoded(&table(&[(1, 2), (3, 4)]));
            bytes.clear();
            bytes.extend(&whole[..cut.min(whole.len() - 1)]);
            prop_assert!(SeekTable::parse(&bytes).is_err());
        }
    }
}
