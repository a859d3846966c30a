//! What every [`Storage`] must do. Each implementation's tests call [`check`] on an empty instance.
//!
//! Not only for this crate's own tests: what lives outside it, behind a server, runs the same suite from there.

use std::io::{Read, Write};
use std::thread;

use super::{Entry, EntryKind, Error, ErrorKind, Result, Storage, UNFINISHED, join};

/// Tries all promises; panics with the reason at the first that is broken. Leaves `storage` empty.
pub fn check(storage: &dyn Storage) {
    assert_eq!(list(storage, ""), [], "the suite wants an empty storage");
    an_upload_is_invisible_until_committed(storage);
    an_upload_that_was_deleted_is_never_published(storage);
    objects_of_every_size_come_back_as_they_were(storage);
    names_of_every_legal_kind_are_kept(storage);
    names_that_lead_elsewhere_are_refused(storage);
    a_committed_object_is_never_replaced(storage);
    one_of_many_concurrent_commits_wins(storage);
    what_was_never_there_is_missing(storage);
    deleting_removes_what_it_leaves_empty(storage);
    directories_may_be_emptied_and_filled_at_once(storage);
    a_listing_is_of_one_directory_in_byte_order(storage);
    what_is_there_can_be_synced(storage);
    an_object_is_not_a_directory(storage);
    assert_eq!(list(storage, ""), [], "everything was deleted");
}

fn an_upload_is_invisible_until_committed(storage: &dyn Storage) {
    let mut upload = create(storage, "a/b/half");
    upload.write_all(b"half").expect("there is room");
    let entries = list(storage, "a/b");
    assert_eq!(kinds(&entries), [EntryKind::Unfinished], "an upload in progress is marked as such");
    assert!(entries[0].name.ends_with(UNFINISHED), "{entries:?}");
    assert_eq!(failure(storage.open("a/b/half")).kind, ErrorKind::NotFound);
    let by_name = join("a/b", &entries[0].name);
    assert_ne!(
        failure(storage.open(&by_name)).kind,
        ErrorKind::NotFound,
        "it is there, but not to be opened"
    );
    drop(upload);
    assert_eq!(list(storage, "a/b"), [], "a dropped upload leaves nothing");
    assert_eq!(list(storage, ""), [], "not even the directories made for it");

    let mut upload = create(storage, "a/b/whole");
    upload.write_all(b"who").expect("there is room");
    upload.write_all(b"le").expect("there is room");
    upload.commit().expect("nothing is in its way");
    assert_eq!(kinds(&list(storage, "a/b")), [EntryKind::Object { size_bytes: 5 }]);
    assert_eq!(get(storage, "a/b/whole"), b"whole");
    delete(storage, "a/b/whole");
}

fn an_upload_that_was_deleted_is_never_published(storage: &dyn Storage) {
    let mut upload = create(storage, "a/x");
    upload.write_all(b"too late").expect("there is room");
    for entry in list(storage, "a") {
        delete(storage, &join("a", &entry.name));
    }
    assert_eq!(list(storage, "a"), [], "an unfinished upload is deleted by the name that the listing gave");
    assert!(upload.commit().is_err(), "what was deleted is not committed");
    assert_eq!(list(storage, ""), []);
}

fn objects_of_every_size_come_back_as_they_were(storage: &dyn Storage) {
    for size_bytes in [0, 1, 4095, 4096, (64 << 10) + 1, (9 << 20) + 3] {
        let bytes: Vec<u8> =
            (0..size_bytes).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let mut upload = create(storage, "sized");
        for (piece, length) in pieces(&bytes) {
            upload.write_all(piece).unwrap_or_else(|error| panic!("{length} bytes: {error}"));
        }
        upload.commit().expect("nothing is in its way");
        assert!(get(storage, "sized") == bytes, "{size_bytes} bytes come back changed");
        let size_bytes = u64::from(size_bytes);
        assert_eq!(kinds(&list(storage, "")), [EntryKind::Object { size_bytes }]);
        delete(storage, "sized");
    }
}

/// A few bytes, then a lot, then few again: buffers are filled, passed by, and filled again.
fn pieces(bytes: &[u8]) -> impl Iterator<Item = (&[u8], usize)> {
    let mut rest = bytes;
    let mut lengths = [1, 7, 70_000, 13, 4 << 20, 4096].into_iter().cycle();
    std::iter::from_fn(move || {
        let length = lengths.next()?.min(rest.len());
        let (piece, behind) = rest.split_at(length);
        rest = behind;
        (length > 0).then_some((piece, length))
    })
}

fn names_of_every_legal_kind_are_kept(storage: &dyn Storage) {
    let names = [
        "-dash",
        ".hidden",
        "...",
        "a b",
        "a'b\"c",
        "a\\b",
        "a*?[b]",
        "x.partial",
        "x.tmp",
        "~",
        "ünï",
        "x:1",
    ];
    for name in names {
        let key = format!("{name}/{name}");
        put(storage, &key, name.as_bytes()).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(names_of(&list(storage, name)), [name]);
        assert_eq!(get(storage, &key), name.as_bytes());
    }
    assert_eq!(list(storage, "").len(), names.len());
    for name in names {
        delete(storage, &format!("{name}/{name}"));
    }
    assert_eq!(list(storage, ""), []);
}

fn names_that_lead_elsewhere_are_refused(storage: &dyn Storage) {
    let unfinished = format!("x{UNFINISHED}");
    let names = ["/", "/x", "x/", "a//x", ".", "..", "../x", "a/../x", "a/./x", "./x", "a/..", "x\0", "\0"];
    for name in names.into_iter().chain(["", &unfinished]) {
        assert_eq!(failure(storage.create(name)).kind, ErrorKind::Other, "{name:?}");
        assert_eq!(failure(storage.open(name)).kind, ErrorKind::Other, "{name:?}");
    }
    for name in names {
        assert_eq!(failure(storage.list(name)).kind, ErrorKind::Other, "{name:?}");
        assert_eq!(failure(storage.sync(name)).kind, ErrorKind::Other, "{name:?}");
        assert_eq!(failure(storage.delete(name)).kind, ErrorKind::Other, "{name:?}");
    }
    assert_eq!(failure(storage.delete("")).kind, ErrorKind::Other, "the root is not an object");
    let in_unfinished = format!("x{UNFINISHED}/x");
    assert_eq!(failure(storage.delete(&in_unfinished)).kind, ErrorKind::Other, "{in_unfinished}");
    assert_eq!(list(storage, ""), []);
}

fn a_committed_object_is_never_replaced(storage: &dyn Storage) {
    put(storage, "b/x", b"first").expect("nothing is in its way");
    let clash = failure(put(storage, "b/x", b"second, and longer"));
    assert_eq!(clash.kind, ErrorKind::AlreadyExists);
    assert!(clash.to_string().contains("b/x"), "an error names its object: {clash}");
    assert!(clash.to_string().contains(&storage.to_string()), "an error names its storage: {clash}");
    assert_eq!(get(storage, "b/x"), b"first");
    assert_eq!(names_of(&list(storage, "b")), ["x"], "the refused upload leaves nothing");
    delete(storage, "b/x");
    put(storage, "b/x", b"third").expect("its name is free again");
    assert_eq!(get(storage, "b/x"), b"third");
    delete(storage, "b/x");
}

fn one_of_many_concurrent_commits_wins(storage: &dyn Storage) {
    for round in 0..8 {
        let key = format!("c/{round}");
        let outcomes: Vec<(u8, Result<()>)> = thread::scope(|threads| {
            let key = &key;
            let writers: Vec<_> = (0..4u8)
                .map(|writer| threads.spawn(move || (writer, put(storage, key, &[writer; 20_000]))))
                .collect();
            writers.into_iter().map(|writer| writer.join().expect("no writer panics")).collect()
        });
        let mut winners = outcomes.iter().filter(|(_, outcome)| outcome.is_ok());
        let (winner, _) = winners.next().expect("one writer wins");
        assert!(winners.next().is_none(), "only one writer wins: {outcomes:?}");
        for error in outcomes.iter().filter_map(|(_, outcome)| outcome.as_ref().err()) {
            assert_eq!(error.kind, ErrorKind::AlreadyExists, "{error}");
        }
        assert_eq!(get(storage, &key), [*winner; 20_000], "what the winner wrote, whole");
        assert_eq!(list(storage, "c").len(), 1, "the losers leave nothing");
        delete(storage, &key);
    }
}

fn what_was_never_there_is_missing(storage: &dyn Storage) {
    assert_eq!(list(storage, "no/such/directory"), []);
    let missing = failure(storage.open("no/such/object"));
    assert_eq!(missing.kind, ErrorKind::NotFound, "{missing}");
    assert!(missing.to_string().contains("no/such/object"), "an error names its object: {missing}");
    delete(storage, "no/such/object");
}

fn deleting_removes_what_it_leaves_empty(storage: &dyn Storage) {
    for key in ["d/e/f/x", "d/e/f/y", "d/z"] {
        put(storage, key, b"").expect("nothing is in its way");
    }
    delete(storage, "d/e/f/x");
    assert_eq!(names_of(&list(storage, "d/e/f")), ["y"]);
    delete(storage, "d/e/f/x");
    assert_eq!(names_of(&list(storage, "d/e/f")), ["y"], "deleting twice is fine, and deletes nothing else");
    delete(storage, "d/e/f/y");
    assert_eq!(names_of(&list(storage, "d")), ["z"], "directories go with their last object");
    delete(storage, "d/z");
    assert_eq!(list(storage, ""), []);
}

fn directories_may_be_emptied_and_filled_at_once(storage: &dyn Storage) {
    thread::scope(|threads| {
        for writer in 0..3 {
            threads.spawn(move || {
                for round in 0..10 {
                    let key = format!("g/h/{writer}-{round}");
                    put(storage, &key, b"there").unwrap_or_else(|error| panic!("{error}"));
                    assert_eq!(get(storage, &key), b"there");
                    delete(storage, &key);
                }
            });
        }
    });
    assert_eq!(list(storage, ""), []);
}

fn a_listing_is_of_one_directory_in_byte_order(storage: &dyn Storage) {
    let keys = ["a.b", "a/deep/er", "a/x", "a0", "B", "ä", "a-", "a.partial"];
    for key in keys {
        put(storage, key, key.as_bytes()).expect("nothing is in its way");
    }
    let entries = list(storage, "");
    assert_eq!(names_of(&entries), ["B", "a", "a-", "a.b", "a.partial", "a0", "ä"]);
    assert!(entries[1].is_directory() && entries[1].size_bytes().is_none());
    assert_eq!(entries[2].size_bytes(), Some(2));
    let below = list(storage, "a");
    assert_eq!(names_of(&below), ["deep", "x"]);
    assert_eq!(kinds(&below), [EntryKind::Directory, EntryKind::Object { size_bytes: 3 }]);
    for key in keys {
        delete(storage, key);
    }
}

/// What a crash leaves is for other tests: here nothing crashes.
fn what_is_there_can_be_synced(storage: &dyn Storage) {
    put(storage, "s/t/x", b"x").expect("nothing is in its way");
    for path in ["", "s", "s/t", "s/t/x"] {
        storage.sync(path).unwrap_or_else(|error| panic!("{error}"));
    }
    for path in ["never", "s/never", "s/t/never/there"] {
        assert_eq!(failure(storage.sync(path)).kind, ErrorKind::NotFound, "{path}");
    }
    assert!(storage.sync("s/t/x/below").is_err(), "there is nothing below an object");
    assert_eq!(get(storage, "s/t/x"), b"x");
    delete(storage, "s/t/x");
}

fn an_object_is_not_a_directory(storage: &dyn Storage) {
    put(storage, "o/x", b"object").expect("nothing is in its way");
    let refused = failure(put(storage, "o/x/below", b""));
    assert_eq!(refused.kind, ErrorKind::Other, "{refused}");
    let refused = failure(put(storage, "o", b""));
    assert!(matches!(refused.kind, ErrorKind::Other | ErrorKind::AlreadyExists), "{refused}");
    assert_eq!(failure(storage.list("o/x")).kind, ErrorKind::Other, "an object is not an empty directory");
    assert_eq!(
        failure(storage.delete("o")).kind,
        ErrorKind::Other,
        "a directory is not deleted as an object"
    );
    delete(storage, "o/x/below");
    let read = storage.open("o").map_err(|_| ()).and_then(|mut reader| reader.read(&mut [0]).map_err(|_| ()));
    assert_eq!(read, Err(()), "a directory is not read as an object");
    assert_eq!(get(storage, "o/x"), b"object");
    delete(storage, "o/x");
}

fn create(storage: &dyn Storage, key: &str) -> Box<dyn super::Upload> {
    storage.create(key).unwrap_or_else(|error| panic!("{error}"))
}

fn put(storage: &dyn Storage, key: &str, bytes: &[u8]) -> Result<()> {
    let mut upload = storage.create(key)?;
    upload.write_all(bytes).map_err(|error| Error::from_io("write", key, &storage, error))?;
    upload.commit()
}

fn get(storage: &dyn Storage, key: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut reader = storage.open(key).unwrap_or_else(|error| panic!("{error}"));
    reader.read_to_end(&mut bytes).unwrap_or_else(|error| panic!("{key}: {error}"));
    bytes
}

fn list(storage: &dyn Storage, directory: &str) -> Vec<Entry> {
    storage.list(directory).unwrap_or_else(|error| panic!("{error}"))
}

fn delete(storage: &dyn Storage, key: &str) {
    storage.delete(key).unwrap_or_else(|error| panic!("{error}"));
}

fn failure<T>(outcome: Result<T>) -> Error {
    outcome.err().expect("this must be refused")
}

fn names_of(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.name.as_str()).collect()
}

fn kinds(entries: &[Entry]) -> Vec<EntryKind> {
    entries.iter().map(|entry| entry.kind).collect()
}
