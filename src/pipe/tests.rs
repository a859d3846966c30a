//! Archives from end to end: written, read by the field's own tools, damaged, cut, unpacked.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::seek_table::{FOOTER_SIZE, SeekTable};
use super::*;

const COMPRESSIONS: [&str; 4] = ["zstd:3", "gzip:6", "lz4", "none"];

/// Text like that of database pages and bytes that do not shrink, in turns.
fn sample(size: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = Vec::with_capacity(size + 8192);
    while bytes.len() < size {
        let page = bytes.len() / 8192;
        for i in 0..1024_u64 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            match page / 64 % 2 {
                0 => bytes.extend_from_slice(format!("{:08}", i * (state >> 61)).as_bytes()),
                _ => bytes.extend_from_slice(&(state ^ state >> 29).to_le_bytes()),
            }
        }
    }
    bytes.truncate(size);
    bytes
}

fn workers() -> Arc<Workers> {
    Arc::new(Workers::new(2).unwrap())
}

fn compression(text: &str) -> Compression {
    text.parse().unwrap()
}

fn store(compression: Compression, content: &[u8]) -> Finished<Vec<u8>> {
    let mut writer = ArchiveWriter::new(&workers(), compression, vec![Vec::new()]).unwrap();
    writer.write_all(content).unwrap();
    writer.finish()
}

fn stored(compression: Compression, content: &[u8]) -> Vec<u8> {
    store(compression, content).sinks.pop().unwrap().unwrap()
}

fn digest(stored: &[u8]) -> StoredDigest {
    let mut digester = Digester::default();
    digester.update(stored);
    digester.finish()
}

fn read(codec: Codec, stored: &[u8], expected: Option<StoredDigest>) -> Result<Vec<u8>, Error> {
    let mut reader = ArchiveReader::new(&workers(), codec, Box::new(stored), expected);
    let mut content = Vec::new();
    while let Some(frame) = reader.next_frame()? {
        content.extend_from_slice(&frame);
    }
    Ok(content)
}

/// What a command makes of `input`.
fn filter(command: &str, input: &[u8]) -> Vec<u8> {
    let mut words = command.split(' ');
    let mut child = Command::new(words.next().unwrap())
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feed = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    feed.join().unwrap().unwrap();
    assert!(output.status.success(), "{command}");
    output.stdout
}

mod round_trips {
    use super::*;

    #[test]
    fn the_usual_tools_read_what_is_written() {
        let content = sample(3 * FRAME_SIZE + 12_345);
        for (codec, command) in
            [("zstd:3", "zstd -dc"), ("gzip:1", "gzip -dc"), ("lz4", "lz4 -dc"), ("none", "cat")]
        {
            for size in [0, 1, FRAME_SIZE, content.len()] {
                let stored = stored(compression(codec), &content[..size]);
                assert!(filter(command, &stored) == content[..size], "{command} of {size} bytes");
            }
        }
    }

    #[test]
    fn what_is_written_is_read_again_at_every_level() {
        let content = sample(FRAME_SIZE + 4321);
        let levels = ["zstd:1", "zstd:2", "zstd:3", "zstd:4", "zstd:19", "gzip:1", "gzip:9", "lz4", "none"];
        for compression in levels.map(compression) {
            let stored = stored(compression, &content);
            let read = read(compression.codec(), &stored, Some(digest(&stored))).unwrap();
            assert!(read == content, "{compression}");
        }
    }

    #[test]
    fn what_the_usual_tools_write_is_read() {
        let content = sample(9 << 20);
        let commands = [
            "zstd -3 -c",
            "zstd -3 -c --no-check --no-content-size",
            "gzip -1 -c",
            "lz4 -1 -q -c",
            "lz4 -1 -q -c -BD --content-size",
            "lz4 -1 -q -c -B4 -BX",
        ];
        for command in commands {
            let codec = command.split(' ').next().unwrap().parse().unwrap();
            let foreign = filter(command, &content);
            assert!(read(codec, &foreign, Some(digest(&foreign))).unwrap() == content, "{command}");
            // By hand, an operator may also join archives of both origins.
            let ours = stored(Compression::new(codec, None).unwrap(), b"ours");
            let joined = [&ours[..], &foreign, &ours].concat();
            let expected = [b"ours", &content[..], b"ours"].concat();
            assert!(read(codec, &joined, Some(digest(&joined))).unwrap() == expected, "{command}");
            for cut in [1, 5, foreign.len() / 2, foreign.len() - 1] {
                assert!(read(codec, &foreign[..cut], None).is_err(), "{command}, cut at {cut}");
            }
        }
    }

    #[test]
    fn the_report_tells_what_was_stored() {
        let content = sample(2 * FRAME_SIZE + 1);
        for compression in COMPRESSIONS.map(compression) {
            let mut finished = store(compression, &content);
            let stored = finished.sinks.pop().unwrap().unwrap();
            assert_eq!(finished.input_bytes, content.len() as u64);
            assert_eq!(
                StoredDigest { sha256: finished.sha256, size_bytes: finished.stored_bytes },
                digest(&stored)
            );
        }
    }

    #[test]
    fn the_seek_table_tells_where_each_frame_is() {
        let content = sample(2 * FRAME_SIZE + 777);
        let stored = stored(compression("zstd:3"), &content);
        assert_eq!(filter("zstd -t -q", &stored), b"");
        let size = SeekTable::size_bytes(stored.last_chunk::<FOOTER_SIZE>().unwrap()).unwrap() as usize;
        let table = SeekTable::parse(&stored[stored.len() - size..]).unwrap();
        assert_eq!(table.content_bytes(), content.len() as u64);
        assert_eq!(table.stored_bytes(), (stored.len() - size - 48) as u64, "the trailer is not listed");
        let first = table.entries()[0].stored_bytes as usize;
        let second = first + table.entries()[1].stored_bytes as usize;
        let read = read(Codec::Zstd, &stored[first..second], None).unwrap();
        assert!(read == content[FRAME_SIZE..2 * FRAME_SIZE]);
    }

    #[test]
    fn filling_in_place_and_copying_write_the_same_as_writing() {
        let content = sample(2 * FRAME_SIZE + 99);
        let mut writer = ArchiveWriter::new(&workers(), Compression::default(), vec![Vec::new()]).unwrap();
        let spare = writer.spare();
        assert_eq!(spare.len(), FRAME_SIZE);
        spare[..5000].copy_from_slice(&content[..5000]);
        writer.advance(5000).unwrap();
        assert_eq!(writer.copy_from(&mut &content[5000..]).unwrap(), content.len() as u64 - 5000);
        assert!(writer.finish().sinks[0].as_ref().unwrap() == &stored(Compression::default(), &content));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn the_sizes_of_writes_and_reads_do_not_matter(
            size in 0usize..3 * FRAME_SIZE,
            writes in prop::collection::vec(1usize..2 * FRAME_SIZE, 1..4),
            reads in prop::collection::vec(1usize..2 * FRAME_SIZE, 1..4),
            text in prop::sample::select(&COMPRESSIONS),
        ) {
            let (content, workers) = (sample(size), workers());
            let mut writer = ArchiveWriter::new(&workers, compression(text), vec![Vec::new()]).unwrap();
            let mut rest = &content[..];
            for size in writes.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let piece;
                (piece, rest) = rest.split_at((*size).min(rest.len()));
                writer.write_all(piece).unwrap();
            }
            let stored = writer.finish().sinks.pop().unwrap().unwrap();
            let codec = compression(text).codec();
            let mut reader = ArchiveReader::new(&workers, codec, Box::new(&stored[..]), Some(digest(&stored)));
            let mut found = Vec::new();
            for size in reads.iter().cycle() {
                let before = found.len();
                found.resize(before + size, 0);
                let count = reader.read(&mut found[before..]).unwrap();
                found.truncate(before + count);
                if count == 0 {
                    break;
                }
            }
            prop_assert!(found == content);
        }
    }
}

mod damage {
    use super::*;

    /// The checksums and the trailer find the damage wherever it is; without a codec, only a recorded digest does.
    fn altered(codec: Codec, stored: &[u8], at: usize, bit: u8) {
        let mut altered = stored.to_vec();
        altered[at] ^= 1 << bit;
        assert!(read(codec, &altered, Some(digest(stored))).is_err(), "{codec:?}: bit {bit} of byte {at}");
        let is_found = read(codec, &altered, None).is_err();
        assert!(codec == Codec::None || is_found, "{codec:?}: bit {bit} of byte {at}");
    }

    #[test]
    fn a_flipped_bit_in_a_header_or_at_the_end_is_found() {
        let content = sample(700);
        for compression in COMPRESSIONS.map(compression) {
            let stored = stored(compression, &content);
            for at in (0..40).chain(stored.len() - 100..stored.len()) {
                (0..8).for_each(|bit| altered(compression.codec(), &stored, at, bit));
            }
        }
    }

    #[test]
    fn the_error_names_the_damaged_frame() {
        let content = sample(5 * FRAME_SIZE);
        let mut stored = stored(compression("zstd:3"), &content);
        let size = SeekTable::size_bytes(stored.last_chunk().unwrap()).unwrap() as usize;
        let table = SeekTable::parse(&stored[stored.len() - size..]).unwrap();
        let start: u32 = table.entries()[..3].iter().map(|entry| entry.stored_bytes).sum();
        let length = table.entries()[3].stored_bytes;
        stored[(start + length - 2) as usize] ^= 1; // in the checksum
        let says = read(Codec::Zstd, &stored, None).unwrap_err().to_string();
        let expected = format!("damaged at byte {start}: zstd: Restored data doesn't match checksum");
        assert_eq!(says, expected);
    }

    #[test]
    fn every_truncation_is_found() {
        let content = sample(2 * FRAME_SIZE + 10);
        for compression in COMPRESSIONS.map(compression) {
            let (codec, stored) = (compression.codec(), stored(compression, &content));
            let expected = Some(digest(&stored));
            let step = stored.len() / 50;
            for cut in (0..stored.len()).step_by(step).chain(stored.len() - 30..stored.len()) {
                assert!(read(codec, &stored[..cut], expected).is_err(), "{compression} cut at {cut}");
                let is_found = read(codec, &stored[..cut], None).is_err();
                assert!(codec == Codec::None || is_found, "{compression} cut at {cut}, without a digest");
            }
        }
    }

    #[test]
    fn what_goes_on_after_its_end_is_found() {
        let content = sample(1000);
        for compression in COMPRESSIONS.map(compression) {
            let stored = stored(compression, &content);
            let joined = [&stored[..], &stored].concat();
            let error = read(compression.codec(), &joined, Some(digest(&stored))).unwrap_err();
            let expected_bytes = stored.len() as u64;
            assert!(matches!(error, Error::TooLong { expected_bytes: e } if e == expected_bytes), "{error}");
        }
    }

    #[test]
    fn sizes_that_lie_are_refused_without_the_memory() {
        // The size of the content: 2^62 in a zstd frame, 2^62 in an LZ4 frame, 2^32-1 in a gzip member.
        let zstd =
            [&[0x28, 0xB5, 0x2F, 0xFD, 0xE4][..], &(1_u64 << 62).to_le_bytes(), &[1, 0, 0, 0, 0, 0, 0]];
        assert!(read(Codec::Zstd, &zstd.concat(), None).is_err());
        let mut lz4 =
            [&[0x04, 0x22, 0x4D, 0x18, 0x6C, 0x50][..], &(1_u64 << 62).to_le_bytes(), &[0; 9]].concat();
        assert!(read(Codec::Lz4, &lz4, None).is_err());
        lz4[15..19].fill(0x7F);
        assert!(read(Codec::Lz4, &lz4, None).is_err());
        let mut gzip = stored(compression("gzip:1"), b"content");
        let end = gzip.len();
        gzip[end - 4..].fill(0xFF);
        assert!(read(Codec::Gzip, &gzip, None).is_err());
        gzip[16..20].fill(0xFF); // the size of the member
        assert!(read(Codec::Gzip, &gzip, None).is_err());
        let mut skippable = [0x50, 0x2A, 0x4D, 0x18, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3];
        assert!(matches!(read(Codec::Zstd, &skippable, None), Err(Error::Truncated { offset_bytes: 11 })));
        skippable[0] = 0x5E; // a seek table, and of nothing
        assert!(matches!(read(Codec::Zstd, &skippable, None), Err(Error::Damaged { offset_bytes: 0, .. })));
    }

    #[test]
    fn a_source_that_fails_is_not_taken_for_damage() {
        struct Failing;
        impl Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::ConnectionReset.into())
            }
        }
        let content = sample(FRAME_SIZE);
        let ours = stored(compression("zstd:3"), &content);
        let foreign = filter("zstd -c --no-content-size", &content);
        for archive in [ours, foreign] {
            let source = Box::new(archive[..1000].chain(Failing));
            let mut reader = ArchiveReader::new(&workers(), Codec::Zstd, source, None);
            let error = io::copy(&mut reader, &mut io::sink()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn a_flipped_bit_anywhere_is_found(
            text in prop::sample::select(&COMPRESSIONS),
            at: prop::sample::Index,
            bit in 0u8..8,
        ) {
            let content = sample(20_000);
            let compression = compression(text);
            let stored = stored(compression, &content);
            altered(compression.codec(), &stored, at.index(stored.len()), bit);
        }

        #[test]
        fn nonsense_does_no_harm(
            text in prop::sample::select(&COMPRESSIONS),
            kept in 0usize..64,
            noise in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let compression = compression(text);
            let stored = stored(compression, b"a beginning");
            let bytes = [&stored[..kept.min(stored.len())], &noise].concat();
            let _ = read(compression.codec(), &bytes, None);
        }
    }
}

mod sinks {
    use super::*;

    /// Takes `room` bytes and then fails; says when it is dropped.
    struct Bounded {
        room: usize,
        stored: Vec<u8>,
        dropped: Arc<AtomicU32>,
    }

    impl Write for Bounded {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if bytes.len() > self.room {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.room -= bytes.len();
            self.stored.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Drop for Bounded {
        fn drop(&mut self) {
            self.dropped.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn bounded(rooms: &[usize]) -> (Vec<Bounded>, Arc<AtomicU32>) {
        let dropped = Arc::new(AtomicU32::new(0));
        let sink = |&room| Bounded { room, stored: Vec::new(), dropped: Arc::clone(&dropped) };
        (rooms.iter().map(sink).collect(), dropped)
    }

    #[test]
    fn a_sink_that_fails_does_not_stop_the_others() {
        let content = sample(12 * FRAME_SIZE);
        let (sinks, _) = bounded(&[usize::MAX, 2 * FRAME_SIZE, usize::MAX]);
        let mut writer = ArchiveWriter::new(&workers(), compression("none"), sinks).unwrap();
        writer.write_all(&content).unwrap();
        let finished = writer.finish();
        assert_eq!(finished.sinks[1].as_ref().err().map(io::Error::kind), Some(io::ErrorKind::StorageFull));
        for i in [0, 2] {
            assert!(finished.sinks[i].as_ref().ok().unwrap().stored == content);
        }
        assert_eq!(finished.sha256, digest(&content).sha256);
    }

    #[test]
    fn writing_fails_when_no_sink_is_left() {
        for rooms in [&[FRAME_SIZE][..], &[FRAME_SIZE, 0]] {
            let (sinks, _) = bounded(rooms);
            let mut writer = ArchiveWriter::new(&workers(), compression("none"), sinks).unwrap();
            let error = io::copy(&mut io::repeat(7), &mut writer).unwrap_err();
            assert!(error.to_string().starts_with("every output has failed: "), "{error}");
            assert!(writer.write_all(b"more").is_err());
            assert!(writer.finish().sinks.iter().all(Result::is_err));
        }
    }

    /// Writes nothing until its gate is gone.
    struct Gated {
        gate: crossbeam_channel::Receiver<()>,
        stored: Vec<u8>,
    }

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.gate.recv();
            self.stored.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated() -> (Gated, crossbeam_channel::Sender<()>) {
        let (open, gate) = crossbeam_channel::bounded(0);
        (Gated { gate, stored: Vec::new() }, open)
    }

    #[test]
    fn a_follower_that_falls_behind_holds_nobody_up_and_has_a_beginning() {
        let content = sample(100 * FRAME_SIZE);
        let ((slow, slow_gate), (leader, leader_gate)) = (gated(), gated());
        drop(leader_gate);
        let (leaders, followers) = (vec![leader], vec![slow]);
        let mut writer =
            ArchiveWriter::with_followers(&workers(), compression("none"), leaders, followers).unwrap();
        writer.write_all(&content).unwrap();
        let mut finished = writer.finish();
        assert!(finished.sinks[0].as_ref().ok().unwrap().stored == content, "although the gate is closed");
        let follower = finished.followers.pop().unwrap();
        let given_bytes = follower.given_bytes();
        assert!(given_bytes > 0 && given_bytes < finished.stored_bytes, "{given_bytes}");
        drop(slow_gate);
        let stored = follower.join().ok().unwrap().stored;
        assert!(stored == content[..given_bytes as usize]);
    }

    #[test]
    fn a_follower_whose_leaders_have_failed_is_waited_for() {
        let content = sample(100 * FRAME_SIZE);
        let (mut sinks, _) = bounded(&[2 * FRAME_SIZE, usize::MAX]);
        let followers = vec![sinks.pop().unwrap()];
        let mut writer =
            ArchiveWriter::with_followers(&workers(), compression("none"), sinks, followers).unwrap();
        writer.write_all(&content).unwrap();
        let mut finished = writer.finish();
        assert!(finished.sinks[0].is_err());
        let follower = finished.followers.pop().unwrap();
        assert_eq!(follower.given_bytes(), finished.stored_bytes);
        assert!(follower.join().ok().unwrap().stored == content);
    }

    #[test]
    fn writing_fails_when_the_leader_has_and_its_follower_is_behind() {
        let (slow, gate) = gated();
        let (room, _) = bounded(&[90 * FRAME_SIZE]);
        // Boxed, as they are of two kinds.
        let leaders: Vec<Box<dyn Write + Send>> =
            room.into_iter().map(|sink| Box::new(sink) as Box<dyn Write + Send>).collect();
        let followers: Vec<Box<dyn Write + Send>> = vec![Box::new(slow)];
        let mut writer =
            ArchiveWriter::with_followers(&workers(), compression("none"), leaders, followers).unwrap();
        assert!(io::copy(&mut io::repeat(7), &mut writer).is_err());
        drop(gate);
        assert!(writer.finish().sinks[0].is_err());
    }

    #[test]
    fn dropping_a_writer_drops_its_sinks_and_ends_its_threads() {
        for rooms in [&[usize::MAX][..], &[usize::MAX, usize::MAX]] {
            let (sinks, dropped) = bounded(rooms);
            let workers = workers();
            let mut writer = ArchiveWriter::new(&workers, compression("zstd:3"), sinks).unwrap();
            writer.write_all(&sample(9 * FRAME_SIZE)).unwrap();
            drop(writer);
            assert_eq!(dropped.load(Ordering::SeqCst), rooms.len() as u32);
        }
    }

    #[test]
    fn dropping_a_reader_early_leaves_nothing_running() {
        let stored = stored(compression("gzip:1"), &sample(20 * FRAME_SIZE));
        let workers = workers();
        let mut reader = ArchiveReader::new(&workers, Codec::Gzip, Box::new(&stored[..]), None);
        reader.read_exact(&mut [0; 10]).unwrap();
        drop(reader);
        drop(Arc::into_inner(workers).expect("nobody else holds the workers"));
    }
}

mod unpacking {
    use super::*;

    /// Writes files into a directory.
    struct Into {
        root: PathBuf,
        sinks: Vec<Arc<OneFile>>,
        /// An entry to pass over, and one whose sink fails.
        unwanted: Option<&'static str>,
        broken: Option<&'static str>,
    }

    struct OneFile {
        file: Mutex<Option<File>>,
        written: AtomicU64,
        size_bytes: u64,
        is_broken: bool,
    }

    impl EntrySink for OneFile {
        fn write_at(&self, offset_bytes: u64, bytes: &[u8]) -> io::Result<()> {
            if self.is_broken {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.written.fetch_add(bytes.len() as u64, Ordering::SeqCst);
            self.file.lock().unwrap().as_ref().unwrap().write_all_at(bytes, offset_bytes)
        }

        fn finish(&self) -> io::Result<()> {
            assert_eq!(self.written.load(Ordering::SeqCst), self.size_bytes);
            self.file.lock().unwrap().take().expect("is finished once");
            Ok(())
        }
    }

    impl Unpack for Into {
        type Error = io::Error;

        fn entry(&mut self, header: &tar::EntryHeader) -> io::Result<Option<Arc<dyn EntrySink>>> {
            let path = std::str::from_utf8(&header.path).unwrap();
            let target = self.root.join(path);
            match &header.kind {
                tar::EntryKind::Directory => {
                    fs::create_dir_all(target)?;
                    return Ok(None);
                }
                tar::EntryKind::Symlink { .. } => return Ok(None),
                tar::EntryKind::File if self.unwanted == Some(path) => return Ok(None),
                tar::EntryKind::File => {}
            }
            let sink = Arc::new(OneFile {
                file: Mutex::new(Some(File::create_new(target)?)),
                written: AtomicU64::new(0),
                size_bytes: header.size_bytes,
                is_broken: self.broken == Some(path),
            });
            self.sinks.push(Arc::clone(&sink));
            Ok(Some(sink))
        }
    }

    fn into(root: &Path) -> Into {
        Into { root: root.to_owned(), sinks: Vec::new(), unwanted: None, broken: None }
    }

    /// Many small files, an empty one, and some that span frames.
    fn tree(root: &Path) {
        let content = sample(3 * FRAME_SIZE + 5);
        fs::create_dir_all(root.join("base/5")).unwrap();
        for i in 0..300 {
            let start = i * 4099;
            fs::write(root.join(format!("base/5/{}", 1000 + i)), &content[start..start + i % 5 * 4096])
                .unwrap();
        }
        fs::write(root.join("base/5/16384"), &content).unwrap();
        fs::write(root.join("base/5/16384.1"), &content[7..]).unwrap();
        fs::write(root.join("PG_VERSION"), "15\n").unwrap();
    }

    fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
        let entries = walkdir::WalkDir::new(root).into_iter().map(Result::unwrap);
        let files = entries.filter(|entry| entry.file_type().is_file());
        files
            .map(|file| (file.path().strip_prefix(root).unwrap().to_owned(), fs::read(file.path()).unwrap()))
            .collect()
    }

    fn archive_of(root: &Path, compression: Compression) -> Vec<u8> {
        let tar =
            Command::new("tar").args(["-c", "--format=ustar", "-C"]).arg(root).arg(".").output().unwrap();
        stored(compression, &tar.stdout)
    }

    fn run(archive: &[u8], codec: Codec, into: &mut Into) -> Result<Unpacked, Stopped<io::Error>> {
        let workers = workers();
        unpack(ArchiveReader::new(&workers, codec, Box::new(archive), None), into)
    }

    #[test]
    fn an_unpacked_tree_equals_the_original() {
        let original = tempfile::tempdir().unwrap();
        tree(original.path());
        for compression in COMPRESSIONS.map(compression) {
            let archive = archive_of(original.path(), compression);
            let copy = tempfile::tempdir().unwrap();
            let mut into = into(copy.path());
            let unpacked = run(&archive, compression.codec(), &mut into).unwrap();
            assert!(files(copy.path()) == files(original.path()), "{compression}");
            assert_eq!((unpacked.entry_count, unpacked.ending), (303 + 3, tar::Ending::Complete));
            assert!(into.sinks.iter().all(|sink| sink.file.lock().unwrap().is_none()), "all were finished");
        }
    }

    #[test]
    fn gnu_tar_unpacks_it_too() {
        let original = tempfile::tempdir().unwrap();
        tree(original.path());
        for (codec, option) in
            [("zstd:3", "--zstd"), ("gzip:1", "-z"), ("lz4", "--use-compress-program=lz4"), ("none", "-v")]
        {
            let copy = tempfile::tempdir().unwrap();
            let directory = copy.path().to_str().unwrap();
            filter(
                &format!("tar {option} -x -C {directory} -f -"),
                &archive_of(original.path(), compression(codec)),
            );
            assert!(files(copy.path()) == files(original.path()), "{codec}");
        }
    }

    #[test]
    fn what_nobody_wants_is_passed_over() {
        let original = tempfile::tempdir().unwrap();
        tree(original.path());
        let copy = tempfile::tempdir().unwrap();
        let mut into = Into { unwanted: Some("./base/5/16384"), ..into(copy.path()) };
        run(&archive_of(original.path(), compression("zstd:1")), Codec::Zstd, &mut into).unwrap();
        fs::remove_file(original.path().join("base/5/16384")).unwrap();
        assert!(files(copy.path()) == files(original.path()));
    }

    #[test]
    fn the_first_error_of_a_sink_ends_the_run() {
        let original = tempfile::tempdir().unwrap();
        tree(original.path());
        let copy = tempfile::tempdir().unwrap();
        let mut into = Into { broken: Some("./base/5/16384"), ..into(copy.path()) };
        let stopped =
            run(&archive_of(original.path(), compression("lz4")), Codec::Lz4, &mut into).unwrap_err();
        assert!(matches!(&stopped, Stopped::Sink(error) if error.kind() == io::ErrorKind::StorageFull));
        assert!(into.sinks.iter().all(|sink| Arc::strong_count(sink) == 1), "nothing is still being written");
    }

    #[test]
    fn an_entry_that_is_refused_ends_the_run() {
        let original = tempfile::tempdir().unwrap();
        tree(original.path());
        let archive = archive_of(original.path(), compression("zstd:1"));
        let mut into = into(original.path()); // where every file exists already
        assert!(matches!(run(&archive, Codec::Zstd, &mut into), Err(Stopped::Entry(_))));
    }

    #[test]
    fn a_tar_that_is_cut_short_is_an_error() {
        let original = tempfile::tempdir().unwrap();
        tree(original.path());
        let archive = archive_of(original.path(), compression("none"));
        let copy = tempfile::tempdir().unwrap();
        let stopped =
            run(&archive[..archive.len() / 2 + 100], Codec::None, &mut into(copy.path())).unwrap_err();
        assert!(matches!(stopped, Stopped::Archive(Error::Tar(tar::Error::Truncated { .. }))), "{stopped}");
    }
}
