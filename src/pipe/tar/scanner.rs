//! Finding the entries in the bytes of a tar, in whatever pieces these come.

use super::{BLOCK_SIZE, checksum, padding};

/// Larger than any file; a size above it is damage.
const SIZE_MAX: u64 = i64::MAX as u64;

/// More than any tar pads its end with; a compressed one could go on for as long as anybody likes.
const ZEROS_AFTER_END_MAX: u64 = 1 << 20;

/// Reads a tar that is pushed into it piece by piece. It keeps at most one block.
#[derive(Debug)]
pub struct Scanner {
    state: State,
    /// A header that has come in part.
    block: [u8; BLOCK_SIZE],
    block_len: usize,
    offset_bytes: u64,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// At a block that is a header, or a zero block.
    Header,
    Contents {
        left: u64,
        padding: usize,
    },
    Padding(usize),
    /// After one zero block.
    HalfEnded,
    Ended {
        zeros: u64,
    },
}

/// What the next bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<'a> {
    Entry(EntryHeader),
    /// The next piece of the entry's contents; never empty.
    Data(&'a [u8]),
    /// The contents are complete. Each entry has one of these, whatever its kind.
    EntryEnd,
    /// Both zero blocks have come.
    ArchiveEnd,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryHeader {
    /// As it is in the archive, without the slash that ends a directory's. It may lead anywhere.
    pub path: Vec<u8>,
    pub kind: EntryKind,
    /// Of the contents; only files have any.
    pub size_bytes: u64,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    /// Seconds since 1970.
    pub mtime: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    File,
    Directory,
    Symlink { target: Vec<u8> },
}

/// How an archive ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Complete,
    /// After a whole entry, but without the zero blocks that should follow.
    WithoutZeroBlocks,
}

/// What is wrong with a tar, and where in the uncompressed bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the tar is damaged at byte {offset_bytes}: a header's {what}")]
    Header { offset_bytes: u64, what: &'static str },

    #[error("the tar has \"{path}\" as {kind}, at byte {offset_bytes}, which PostgreSQL never writes")]
    Unsupported { offset_bytes: u64, path: String, kind: &'static str },

    #[error("the tar is damaged at byte {offset_bytes}: expected only zeros after its end, and few")]
    AfterEnd { offset_bytes: u64 },

    #[error("the tar is cut short: it ends at byte {offset_bytes}, in the middle of an entry")]
    Truncated { offset_bytes: u64 },
}

impl Default for Scanner {
    fn default() -> Self {
        Self { state: State::Header, block: [0; BLOCK_SIZE], block_len: 0, offset_bytes: 0 }
    }
}

impl Scanner {
    /// Takes what belongs to the next event from the front of `input`. `None`: all of it was taken.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, Error> {
        loop {
            match self.state {
                State::Contents { left: 0, padding } => {
                    self.state = State::Padding(padding);
                    return Ok(Some(Event::EntryEnd));
                }
                State::Padding(0) => self.state = State::Header,
                _ if input.is_empty() => return Ok(None),
                State::Contents { left, padding } => {
                    let data = self.take(input, left);
                    self.state = State::Contents { left: left - data.len() as u64, padding };
                    return Ok(Some(Event::Data(data)));
                }
                State::Padding(left) => {
                    let zeros = self.take(input, left as u64).len();
                    self.state = State::Padding(left - zeros);
                }
                State::Header | State::HalfEnded => {
                    if let Some(event) = self.take_block(input)? {
                        return Ok(Some(event));
                    }
                }
                State::Ended { zeros } => self.take_zeros(input, zeros)?,
            }
        }
    }

    /// Says, after the last byte, whether the archive was complete.
    pub fn finish(&self) -> Result<Ending, Error> {
        match self.state {
            State::Ended { .. } => Ok(Ending::Complete),
            State::Header | State::HalfEnded | State::Padding(0) if self.block_len == 0 => {
                Ok(Ending::WithoutZeroBlocks)
            }
            _ => Err(Error::Truncated { offset_bytes: self.offset_bytes }),
        }
    }

    fn take<'a>(&mut self, input: &mut &'a [u8], count_max: u64) -> &'a [u8] {
        let count = usize::try_from(count_max).map_or(input.len(), |count| count.min(input.len()));
        let (taken, rest) = input.split_at(count);
        *input = rest;
        self.offset_bytes += count as u64;
        taken
    }

    /// Takes a header, or a zero block, as soon as it is complete.
    fn take_block<'a>(&mut self, input: &mut &[u8]) -> Result<Option<Event<'a>>, Error> {
        let part = self.take(input, (BLOCK_SIZE - self.block_len) as u64);
        self.block[self.block_len..][..part.len()].copy_from_slice(part);
        self.block_len += part.len();
        if self.block_len < BLOCK_SIZE {
            return Ok(None);
        }
        self.block_len = 0;
        let offset_bytes = self.offset_bytes - BLOCK_SIZE as u64;
        let is_zero = self.block.iter().all(|&byte| byte == 0);
        match (self.state, is_zero) {
            (State::HalfEnded, true) => {
                self.state = State::Ended { zeros: 0 };
                Ok(Some(Event::ArchiveEnd))
            }
            (State::HalfEnded, false) => Err(Error::AfterEnd { offset_bytes }),
            (_, true) => {
                self.state = State::HalfEnded;
                Ok(None)
            }
            (_, false) => {
                let header = EntryHeader::parse(&self.block, offset_bytes)?;
                let padding = padding(header.size_bytes);
                self.state = State::Contents { left: header.size_bytes, padding };
                Ok(Some(Event::Entry(header)))
            }
        }
    }

    /// GNU tar fills the last of its records of 20 blocks.
    fn take_zeros(&mut self, input: &mut &[u8], before: u64) -> Result<(), Error> {
        let offset_bytes = self.offset_bytes;
        let rest = self.take(input, u64::MAX);
        let zeros = before + rest.len() as u64;
        self.state = State::Ended { zeros };
        match rest.iter().position(|&byte| byte != 0) {
            None if zeros <= ZEROS_AFTER_END_MAX => Ok(()),
            None => Err(Error::AfterEnd { offset_bytes }),
            Some(at) => Err(Error::AfterEnd { offset_bytes: offset_bytes + at as u64 }),
        }
    }
}

impl EntryHeader {
    fn parse(block: &[u8; BLOCK_SIZE], offset_bytes: u64) -> Result<Self, Error> {
        let bad = |what| Error::Header { offset_bytes, what };
        let header = tar::Header::from_byte_slice(block);
        if header.cksum().ok() != Some(checksum(block)) {
            return Err(bad("checksum does not match"));
        }
        let mut path = header.path_bytes().into_owned();
        if path.is_empty() {
            return Err(bad("path is empty"));
        }
        let named_as_directory = path.len() > 1 && path.ends_with(b"/");
        let kind = match block[156] {
            b'0' | b'7' | 0 if !named_as_directory => EntryKind::File,
            b'5' | 0 => EntryKind::Directory,
            b'2' => match header.link_name_bytes() {
                Some(target) => EntryKind::Symlink { target: target.into_owned() },
                None => return Err(bad("link target is empty")),
            },
            other => {
                let path = String::from_utf8_lossy(&path).into_owned();
                return Err(Error::Unsupported { offset_bytes, path, kind: kind_name(other) });
            }
        };
        if named_as_directory {
            path.pop();
        }
        let size_bytes = header.entry_size().map_err(|_| bad("size is not a number"))?;
        if size_bytes > if kind == EntryKind::File { SIZE_MAX } else { 0 } {
            return Err(bad("size is impossible"));
        }
        Ok(Self {
            path,
            kind,
            size_bytes,
            mode: header.mode().map_err(|_| bad("mode is not a number"))?,
            uid: header.uid().map_err(|_| bad("user is not a number"))?,
            gid: header.gid().map_err(|_| bad("group is not a number"))?,
            mtime: header.mtime().map_err(|_| bad("time is not a number"))?,
        })
    }
}

fn kind_name(flag: u8) -> &'static str {
    match flag {
        b'0' | b'7' => "a file with the name of a directory",
        b'1' => "a hard link",
        b'3' | b'4' => "a device",
        b'6' => "a named pipe",
        b'L' | b'K' => "a long name of GNU tar",
        b'x' | b'g' => "an extended header of pax",
        b'S' => "a sparse file of GNU tar",
        _ => "an entry of unknown type",
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    type Entry = (EntryHeader, Vec<u8>);

    /// Everything in a tar that is pushed in pieces of these sizes, again and again.
    fn scan(archive: &[u8], piece_sizes: &[usize]) -> Result<(Vec<Entry>, Ending), Error> {
        let mut scanner = Scanner::default();
        let mut entries = Vec::new();
        let mut open = None;
        let mut rest = archive;
        for size in piece_sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let mut piece;
            (piece, rest) = rest.split_at((*size).min(rest.len()));
            while let Some(event) = scanner.next(&mut piece)? {
                match event {
                    Event::Entry(header) => open = Some((header, Vec::new())),
                    Event::Data(data) => open.as_mut().unwrap().1.extend_from_slice(data),
                    Event::EntryEnd => entries.push(open.take().unwrap()),
                    Event::ArchiveEnd => assert!(open.is_none()),
                }
            }
        }
        Ok((entries, scanner.finish()?))
    }

    fn paths(entries: &[Entry]) -> Vec<&str> {
        entries.iter().map(|(header, _)| std::str::from_utf8(&header.path).unwrap()).collect()
    }

    fn gnu_tar(directory: &Path, options: &[&str]) -> Vec<u8> {
        let output =
            Command::new("tar").args(["-c", "--sort=name", "-C"]).arg(directory).args(options).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn tree() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path);
        fs::create_dir_all(at("base/5")).unwrap();
        fs::write(at("base/5/2619"), vec![7; 8192]).unwrap();
        fs::write(at("base/5/2619_fsm"), b"").unwrap();
        fs::write(at("postgresql.conf"), b"port = 5432\n").unwrap();
        std::os::unix::fs::symlink("/srv/space", at("link")).unwrap();
        directory
    }

    #[test]
    fn reads_what_gnu_tar_writes() {
        let tree = tree();
        for format in ["gnu", "ustar", "v7"] {
            let archive =
                gnu_tar(tree.path(), &[&format!("--format={format}"), "--mode=0640", "--mtime=@77", "."]);
            for piece_sizes in [&[archive.len()][..], &[1], &[512], &[511, 513], &[1000]] {
                let (entries, ending) = scan(&archive, piece_sizes).unwrap();
                let expected = [
                    ".",
                    "./base",
                    "./base/5",
                    "./base/5/2619",
                    "./base/5/2619_fsm",
                    "./link",
                    "./postgresql.conf",
                ];
                assert_eq!(paths(&entries), expected);
                assert_eq!(ending, Ending::Complete);
                assert_eq!(entries[1].0.kind, EntryKind::Directory);
                assert_eq!(entries[3].1, vec![7; 8192]);
                assert_eq!((entries[3].0.mode & 0o7777, entries[3].0.mtime), (0o640, 77));
                assert_eq!(entries[5].0.kind, EntryKind::Symlink { target: b"/srv/space".to_vec() });
                assert_eq!(entries[6].1, b"port = 5432\n");
            }
        }
    }

    #[test]
    fn reads_long_paths_that_are_split_into_prefix_and_name() {
        let mut header = tar::Header::new_ustar();
        let path = format!("{}/{}", "d".repeat(90), "f".repeat(90));
        header.set_path(&path).unwrap();
        header.set_size(0);
        header.set_mode(0o600);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        let (entries, ending) = scan(header.as_bytes(), &[512]).unwrap();
        assert_eq!((paths(&entries), ending), (vec![path.as_str()], Ending::WithoutZeroBlocks));
    }

    #[test]
    fn reads_a_size_of_eight_gibibytes_as_postgresql_writes_it() {
        let mut archive = gnu_tar(tree().path(), &["--format=ustar", "postgresql.conf"]);
        let size: u64 = (9 << 30) + 5;
        archive[124] = 0x80;
        archive[125..128].fill(0);
        archive[128..136].copy_from_slice(&size.to_be_bytes());
        let sum = checksum(archive[..512].try_into().unwrap());
        archive[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let mut scanner = Scanner::default();
        let Ok(Some(Event::Entry(header))) = scanner.next(&mut &archive[..512]) else { panic!("no entry") };
        assert_eq!(header.size_bytes, size);
    }

    #[test]
    fn a_tar_without_its_zero_blocks_is_reported_not_refused() {
        let archive = gnu_tar(tree().path(), &["postgresql.conf"]);
        for (length, ending) in
            [(1024, Ending::WithoutZeroBlocks), (1536, Ending::WithoutZeroBlocks), (2048, Ending::Complete)]
        {
            assert_eq!(scan(&archive[..length], &[100]).unwrap().1, ending, "{length}");
        }
    }

    #[test]
    fn zeros_after_the_end_are_few() {
        let archive = gnu_tar(tree().path(), &["--blocking-factor=2048", "postgresql.conf"]);
        assert_eq!(archive.len(), 1 << 20);
        assert_eq!(scan(&archive, &[8192]).unwrap().1, Ending::Complete);
        let endless = [archive, vec![0; 1 << 20]].concat();
        assert!(matches!(scan(&endless, &[8192]), Err(Error::AfterEnd { .. })));
    }

    #[test]
    fn what_postgresql_never_writes_is_refused_by_name() {
        let tree = tree();
        fs::hard_link(tree.path().join("postgresql.conf"), tree.path().join("same")).unwrap();
        fs::write(tree.path().join("n".repeat(120)), b"").unwrap();
        let refused =
            |options: &[&str]| scan(&gnu_tar(tree.path(), options), &[512]).unwrap_err().to_string();
        let says = refused(&["postgresql.conf", "same"]);
        assert!(says.contains("\"same\" as a hard link, at byte 1024"), "{says}");
        let long = "n".repeat(120);
        assert!(refused(&["--format=gnu", &long]).contains("a long name of GNU tar"));
        assert!(refused(&["--format=pax", &long]).contains("an extended header of pax"));
    }

    #[test]
    fn a_header_that_was_altered_is_refused() {
        let archive = gnu_tar(tree().path(), &["postgresql.conf"]);
        for at in (0..512).filter(|at| !(154..156).contains(at)) {
            let mut altered = archive.clone();
            altered[at] ^= 1;
            assert!(scan(&altered, &[4096]).is_err(), "byte {at}");
        }
        let mut trailing = archive.clone();
        *trailing.last_mut().unwrap() = 1;
        let offset_bytes = archive.len() as u64 - 1;
        assert_eq!(scan(&trailing, &[700]).unwrap_err(), Error::AfterEnd { offset_bytes });
    }

    proptest! {
        #[test]
        fn the_pieces_do_not_matter(
            files in prop::collection::vec(("[a-z]{1,40}", prop::collection::vec(any::<u8>(), 0..2000)), 0..5),
            piece_sizes in prop::collection::vec(1usize..3000, 1..5),
        ) {
            let mut writer = super::super::TarWriter::new(Vec::new());
            for (path, contents) in &files {
                writer.begin_file(path, contents.len() as u64, 0o600, 0).unwrap();
                std::io::Write::write_all(&mut writer, contents).unwrap();
            }
            let archive = writer.finish().unwrap();
            let (entries, ending) = scan(&archive, &piece_sizes).unwrap();
            prop_assert_eq!(ending, Ending::Complete);
            let found: Vec<_> = paths(&entries).into_iter().map(str::to_owned).zip(entries.iter().map(|e| e.1.clone())).collect();
            prop_assert_eq!(found, files);
        }

        #[test]
        fn cutting_it_anywhere_else_is_an_error(length in 0usize..2048) {
            let archive = gnu_tar(tree().path(), &["postgresql.conf"]);
            let is_between = [0, 1024, 1536].contains(&length);
            // The padding is cut too: what comes after the contents is part of the entry.
            prop_assert_eq!(scan(&archive[..length], &[512]).is_ok(), is_between, "{}", length);
        }

        #[test]
        fn nonsense_does_no_harm(mut bytes in prop::collection::vec(any::<u8>(), 512..3000), piece_size in 1usize..3000) {
            let header: &mut [u8; BLOCK_SIZE] = bytes.first_chunk_mut().unwrap();
            let sum = checksum(header);
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            let _ = scan(&bytes, &[piece_size]);
        }
    }
}
