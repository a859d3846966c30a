//! Data pages: the checksum that each carries, and which files consist of pages.
//!
//! Follows PostgreSQL `src/include/storage/checksum_impl.h` (`pg_checksum_page`), `src/include/storage/bufpage.h`
//! (`PageHeaderData`), `src/common/relpath.c` for the names of files, and, for which pages of a backup can be held
//! against their checksum, `sendFile` in `src/backend/backup/basebackup.c`.
//!
//! ```text
//! page = u32 LSN's high half, u32 LSN's low half, u16 checksum, u16 flags, u16 lower, u16 upper, …
//! file = NUMBER[_FORK][.SEGMENT] ; forks are fsm, vm and init, the main one has no name
//! ```
//!
//! A backup is a copy of files that are written to meanwhile, so a page in it may be new (`upper` is 0), or half of
//! one version and half of another. The second kind was written after the backup began, and recovery puts it right
//! from the WAL. So only a page that is older than the backup's start has to have a right checksum.

use super::Lsn;

/// As many bytes of a page as [`check`] reads before it looks at the rest.
const HEADER_BYTES: usize = 24;
const CHECKSUM_AT: usize = 8;
const UPPER_AT: usize = 14;

/// How many sums run beside each other, each over every 32nd word.
const SUMS: usize = 32;
const PRIME: u32 = 16_777_619;
const BASE_OFFSETS: [u32; SUMS] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// A page whose checksum is not the one that it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its checksum is {found:04x}, but it says {expected:04x}")]
pub struct WrongChecksum {
    pub expected: u16,
    pub found: u16,
}

/// Which part of a relation a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelationFile {
    /// The how-manieth file of its fork: each but the last is full.
    pub segment: u32,
}

/// Checks a page of a backup that began at `start`. `block` counts from the beginning of the relation's fork.
///
/// # Panics
/// When `page` is not a whole page: a power of two from 1 to 32 KiB.
pub fn check(page: &[u8], block: u32, start: Lsn) -> Result<(), WrongChecksum> {
    assert!(page.len().is_power_of_two() && page.len() >= 1024, "{} bytes are no page", page.len());
    let is_new = u16_at(page, UPPER_AT) == 0;
    if is_new || lsn(page) >= start {
        return Ok(());
    }
    let (expected, found) = (u16_at(page, CHECKSUM_AT), checksum(page, block));
    if expected == found { Ok(()) } else { Err(WrongChecksum { expected, found }) }
}

/// The checksum that the page should carry as block `block` of its fork; never 0.
pub fn checksum(page: &[u8], block: u32) -> u16 {
    let mut sums = BASE_OFFSETS;
    let mut add_row = |row: &[u8]| {
        for (sum, word) in sums.iter_mut().zip(row.chunks_exact(4)) {
            *sum = mixed(*sum, u32::from_le_bytes(word.try_into().expect("4 bytes are 4 bytes")));
        }
    };
    let (first, rest) = page.split_at(4 * SUMS);
    // The checksum itself counts as zero.
    let mut first: [u8; 4 * SUMS] = first.try_into().expect("it was split off so");
    first[CHECKSUM_AT..CHECKSUM_AT + 2].fill(0);
    add_row(&first);
    rest.chunks_exact(4 * SUMS).for_each(&mut add_row);
    // Two rounds of zeros, so that the last words spread too.
    add_row(&[0; 4 * SUMS]);
    add_row(&[0; 4 * SUMS]);
    let sum = sums.into_iter().fold(0, |all, sum| all ^ sum) ^ block;
    (sum % 65535 + 1) as u16
}

fn mixed(sum: u32, word: u32) -> u32 {
    let mixed = sum ^ word;
    mixed.wrapping_mul(PRIME) ^ (mixed >> 17)
}

/// Where the WAL record ends that changed the page last.
fn lsn(page: &[u8]) -> Lsn {
    debug_assert!(page.len() >= HEADER_BYTES);
    let half = |at: usize| u64::from(u32::from_le_bytes(page[at..at + 4].try_into().expect("4 bytes")));
    Lsn(half(0) << 32 | half(4))
}

fn u16_at(page: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([page[at], page[at + 1]])
}

/// Reads the path of a file below the data directory, as a manifest has it; `None` for one that has no pages, as far
/// as its name tells.
pub fn relation_file(path: &[u8]) -> Option<RelationFile> {
    let text = std::str::from_utf8(path).ok()?;
    let mut components: Vec<&str> = text.split('/').collect();
    let name = components.pop()?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match components[..] {
        ["global"] => {}
        ["base", database] if is_number(database) => {}
        ["pg_tblspc", space, version, database]
            if is_number(space) && version.starts_with("PG_") && is_number(database) => {}
        _ => return None,
    }
    let (name, segment) = match name.split_once('.') {
        Some((name, segment)) if is_number(segment) => (name, segment.parse().ok()?),
        Some(_) => return None,
        None => (name, 0),
    };
    let number = match name.split_once('_') {
        Some((number, "fsm" | "vm" | "init")) => number,
        Some(_) => return None,
        None => name,
    };
    is_number(number).then_some(RelationFile { segment })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: usize = 8192;
    const END: Lsn = Lsn(u64::MAX);

    /// Block 5 of `pg_class` in a cluster of PostgreSQL 15.
    const REAL: (&[u8], u32) = (include_bytes!("testdata/page-15-block-5"), 5);

    /// A page full of whatever `seed` makes, older than any backup.
    fn page(seed: u32) -> Vec<u8> {
        let mut word = seed;
        let mut page = vec![0; PAGE];
        for chunk in page.chunks_exact_mut(4) {
            word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        page[..8].fill(0);
        page[UPPER_AT..UPPER_AT + 2].copy_from_slice(&[0, 0x10]);
        page
    }

    fn sealed(mut page: Vec<u8>, block: u32) -> Vec<u8> {
        let sum = checksum(&page, block);
        page[CHECKSUM_AT..CHECKSUM_AT + 2].copy_from_slice(&sum.to_le_bytes());
        page
    }

    #[test]
    fn a_page_that_a_server_wrote_is_right_where_it_was_and_nowhere_else() {
        let (page, block) = REAL;
        assert_eq!(check(page, block, END), Ok(()));
        assert!(check(page, block + 1, END).is_err());
        assert!(check(page, block, Lsn(0)).is_ok(), "as recovery will write it anew");
    }

    #[test]
    fn a_new_page_and_one_from_after_the_start_need_no_checksum() {
        assert_eq!(check(&[0; PAGE], 7, END), Ok(()));
        let mut page = page(1);
        assert!(check(&page, 7, END).is_err());
        page[4] = 16;
        assert!(check(&page, 7, Lsn(17)).is_err());
        assert_eq!(check(&page, 7, Lsn(16)), Ok(()));
    }

    #[test]
    fn files_with_pages_are_known_by_their_names() {
        let segment = |path: &str| relation_file(path.as_bytes()).map(|file| file.segment);
        for (path, expected) in [
            ("base/5/1259", Some(0)),
            ("base/5/1259.3", Some(3)),
            ("base/5/1259_fsm", Some(0)),
            ("base/5/16384_init", Some(0)),
            ("base/5/16384_vm.1", Some(1)),
            ("global/1262", Some(0)),
            ("pg_tblspc/16401/PG_15_202209061/5/16402.1", Some(1)),
            ("global/pg_control", None),
            ("base/5/PG_VERSION", None),
            ("base/5/pg_filenode.map", None),
            ("base/5/t3_16384", None),
            ("base/5/1259_fsm_vm", None),
            ("base/5/1259.x", None),
            ("base/5/1259.99999999999", None),
            ("base/pgsql_tmp/12", None),
            ("pg_xact/0000", None),
            ("pg_tblspc/16401/5/16402", None),
            ("1259", None),
            ("", None),
        ] {
            assert_eq!(segment(path), expected, "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_flipped_bit_and_another_block_are_noticed(seed: u32, block in 0u32..1 << 20, bit in 0..PAGE * 8) {
            let page = sealed(page(seed), block);
            prop_assert_eq!(check(&page, block, END), Ok(()));
            prop_assert!(check(&page, block + 1, END).is_err());
            let byte = bit / 8;
            // The page's age and whether it is new are not for this to see.
            prop_assume!(byte >= 8 && !(UPPER_AT..UPPER_AT + 2).contains(&byte));
            let mut flipped = page;
            flipped[byte] ^= 1 << (bit % 8);
            prop_assert!(check(&flipped, block, END).is_err());
        }

        #[test]
        fn no_path_makes_it_panic(path: Vec<u8>) {
            let _ = relation_file(&path);
        }
    }
}
