//! One file of a cluster while its pieces go by: its checksum, and those of its pages.
//!
//! Pieces end where the frames of the archive do, in the middle of pages. A page that lies in one piece is checked
//! there; of the others the halves are kept until they meet. There are no more of these than pieces on their way.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::ops::backup_files::{Facts, Pieces, Unexpected, shown};
use crate::pg::Lsn;
use crate::pg::control_file::{self, ControlFile};
use crate::pg::page_checksum::{self, RelationFile, WrongChecksum};
use crate::pipe::EntrySink;

/// What every server has that was not configured otherwise when it was built.
const PAGE_BYTES: usize = 8192;
const PAGES_PER_FILE: u64 = 131_072;

/// So many pages are remembered; the others are counted.
const PAGES_MAX: usize = 1000;
/// `pg_control` is 8 KiB on every supported version.
const CONTROL_FILE_SIZE_MAX_BYTES: u64 = 64 << 10;

/// What was found in the files of one backup.
#[derive(Debug, Default)]
pub struct Results {
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    files: Vec<Unexpected>,
    pages: Vec<Page>,
    more_pages: u64,
    control_file: Vec<u8>,
}

/// A page with a wrong checksum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub path: String,
    /// Counts from the beginning of the file's fork, over all its segments.
    pub block: u64,
    pub wrong: WrongChecksum,
}

impl Results {
    /// The files that were not as the manifest has them, since this was asked last.
    pub fn take_files(&self) -> Vec<Unexpected> {
        std::mem::take(&mut self.found().files)
    }

    /// The pages with a wrong checksum, in order, and how many more there are.
    pub fn take_pages(&self) -> (Vec<Page>, u64) {
        let mut found = self.found();
        let mut pages = std::mem::take(&mut found.pages);
        pages.sort_by(|one, other| (&one.path, one.block).cmp(&(&other.path, other.block)));
        (pages, found.more_pages)
    }

    pub fn control_file(&self) -> Vec<u8> {
        self.found().control_file.clone()
    }

    fn add_page(&self, page: Page) {
        let mut found = self.found();
        match found.pages.len() < PAGES_MAX {
            true => found.pages.push(page),
            false => found.more_pages += 1,
        }
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().expect("no thread panics while it holds this")
    }
}

/// Whether the cluster's pages are what was taken for granted: `pg_control`, which says so, comes last.
pub fn are_usual(control: &ControlFile) -> bool {
    (control.page_bytes as usize, u64::from(control.pages_per_file)) == (PAGE_BYTES, PAGES_PER_FILE)
}

/// Checks one file.
pub struct FileCheck {
    path: Vec<u8>,
    facts: Facts,
    size_bytes: u64,
    /// Where the backup started.
    start: Lsn,
    relation: Option<RelationFile>,
    results: Arc<Results>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    pieces: Pieces,
    /// Pages of which some is still to come, by their number in the file.
    halves: HashMap<u64, Half>,
}

struct Half {
    page: Vec<u8>,
    filled: usize,
}

impl FileCheck {
    pub fn new(path: Vec<u8>, facts: Facts, size_bytes: u64, start: Lsn, results: Arc<Results>) -> Self {
        let relation = page_checksum::relation_file(&path);
        Self { path, facts, size_bytes, start, relation, results, open: Mutex::default() }
    }

    fn check_pages(&self, relation: RelationFile, offset_bytes: u64, bytes: &[u8]) {
        let (mut offset_bytes, mut rest) = (offset_bytes, bytes);
        while !rest.is_empty() {
            let number = offset_bytes / PAGE_BYTES as u64;
            let at = (offset_bytes % PAGE_BYTES as u64) as usize;
            let (piece, behind) = rest.split_at(rest.len().min(PAGE_BYTES - at));
            match piece.len() == PAGE_BYTES {
                true => self.check_page(relation, number, piece),
                false => self.check_half(relation, number, at, piece),
            }
            offset_bytes += piece.len() as u64;
            rest = behind;
        }
    }

    fn check_half(&self, relation: RelationFile, number: u64, at: usize, piece: &[u8]) {
        let is_whole_in_file = (number + 1) * PAGE_BYTES as u64 <= self.size_bytes;
        // The server was writing it; there is no page yet.
        if !is_whole_in_file {
            return;
        }
        let page = {
            let mut open = self.open();
            let half =
                open.halves.entry(number).or_insert_with(|| Half { page: vec![0; PAGE_BYTES], filled: 0 });
            half.page[at..at + piece.len()].copy_from_slice(piece);
            half.filled += piece.len();
            match half.filled == PAGE_BYTES {
                true => open.halves.remove(&number).map(|half| half.page),
                false => None,
            }
        };
        if let Some(page) = page {
            self.check_page(relation, number, &page);
        }
    }

    fn check_page(&self, relation: RelationFile, number: u64, page: &[u8]) {
        let block = u64::from(relation.segment) * PAGES_PER_FILE + number;
        // No relation has more blocks than fit.
        let Ok(block_number) = u32::try_from(block) else { return };
        if let Err(wrong) = page_checksum::check(page, block_number, self.start) {
            self.results.add_page(Page { path: shown(&self.path), block, wrong });
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().expect("no thread panics while it holds this")
    }
}

impl EntrySink for FileCheck {
    fn write_at(&self, offset_bytes: u64, bytes: &[u8]) -> io::Result<()> {
        let crc32c = crc32c::crc32c(bytes);
        self.open().pieces.add(offset_bytes, bytes.len() as u64, crc32c);
        if let Some(relation) = self.relation {
            self.check_pages(relation, offset_bytes, bytes);
        }
        if self.path == control_file::PATH.as_bytes() && self.size_bytes <= CONTROL_FILE_SIZE_MAX_BYTES {
            let mut found = self.results.found();
            found.control_file.resize(self.size_bytes as usize, 0);
            found.control_file[offset_bytes as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        Ok(())
    }

    fn finish(&self) -> io::Result<()> {
        let pieces = std::mem::take(&mut self.open().pieces);
        if let Err(unexpected) = self.facts.must_have_crc32c(&self.path, pieces) {
            self.results.found().files.push(unexpected);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REAL: &[u8] = include_bytes!("../../pg/testdata/page-15-block-5");

    /// A file of empty pages with the real one as its sixth, which is where it is right.
    fn file() -> Vec<u8> {
        let mut bytes = vec![0; 9 * PAGE_BYTES + 100];
        bytes[5 * PAGE_BYTES..6 * PAGE_BYTES].copy_from_slice(REAL);
        bytes
    }

    /// Checks `bytes` in pieces cut at `cuts`, the later ones first.
    fn check(path: &str, bytes: &[u8], cuts: &[usize], start: Lsn) -> (Vec<Unexpected>, Vec<Page>) {
        let facts = Facts { size_bytes: bytes.len() as u64, crc32c: crc32c::crc32c(bytes) };
        let results = Arc::<Results>::default();
        let file = FileCheck::new(path.into(), facts, facts.size_bytes, start, Arc::clone(&results));
        let mut cuts = [&[0, bytes.len()], cuts].concat();
        cuts.sort_unstable();
        for pair in cuts.windows(2).rev() {
            file.write_at(pair[0] as u64, &bytes[pair[0]..pair[1]]).unwrap();
        }
        file.finish().unwrap();
        assert!(file.open().halves.is_empty(), "all halves met");
        (results.take_files(), results.take_pages().0)
    }

    proptest! {
        #[test]
        fn a_page_is_found_to_be_wrong_however_the_file_is_cut(cuts: Vec<prop::sample::Index>) {
            let mut bytes = file();
            let cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
            let end = Lsn(u64::MAX);
            prop_assert_eq!(check("base/5/1259", &bytes, &cuts, end), (vec![], vec![]));
            bytes[5 * PAGE_BYTES + 4000] ^= 1;
            let (files, pages) = check("base/5/1259", &bytes, &cuts, end);
            prop_assert_eq!(files, vec![], "the manifest has it as it is");
            prop_assert_eq!(pages.iter().map(|page| page.block).collect::<Vec<_>>(), [5]);
            prop_assert_eq!(check("base/5/1259", &bytes, &cuts, Lsn(1)).1, vec![], "recovery writes it anew");
            prop_assert_eq!(check("base/5/pg_filenode.map", &bytes, &cuts, end).1, vec![]);
        }
    }

    #[test]
    fn a_later_file_of_a_relation_goes_on_counting() {
        let (_, pages) = check("base/5/1259.2", &file(), &[], Lsn(u64::MAX));
        assert_eq!(pages.iter().map(|page| page.block).collect::<Vec<_>>(), [2 * PAGES_PER_FILE + 5]);
    }

    #[test]
    fn a_file_that_is_not_what_the_manifest_says_is_told() {
        let facts = Facts { size_bytes: 3, crc32c: 1 };
        let results = Arc::<Results>::default();
        let file = FileCheck::new(b"PG_VERSION".into(), facts, 3, Lsn(0), Arc::clone(&results));
        file.write_at(0, b"15\n").unwrap();
        file.finish().unwrap();
        let found = results.take_files();
        assert_eq!(found.len(), 1);
        assert!(found[0].what.contains("expected 00000001 by its manifest"), "{found:?}");
    }
}
