//! Large objects, many objects, and what the sessions have to do with it.

use std::io::Write;
use std::thread;

use pgbak::storage::{SftpSettings, Storage};

use crate::server;
use crate::server::{get, noise, open, put};
use crate::support::SshAccount;

#[test]
fn a_large_object_is_striped_and_comes_back_as_it_was() {
    let server = server!(SshAccount::Shell, "");
    let storage = server.storage();
    let bytes = noise(300 << 20);
    let mut upload = storage.create("large").unwrap();
    for piece in bytes.chunks(1_000_003) {
        upload.write_all(piece).unwrap();
    }
    assert_eq!(server.sshd.connections(), 2, "both sessions carry it");
    upload.commit().unwrap();
    assert!(
        std::fs::read(server.directory.join("large")).unwrap() == bytes,
        "what was stored is not what was sent"
    );
    assert!(get(&storage, "large") == bytes, "what came back is not what was stored");
}

#[test]
fn one_session_renews_its_keys_in_the_middle_of_a_transfer() {
    let server = server!(SshAccount::Shell, "RekeyLimit 16M");
    let storage = open(SftpSettings { sessions: 1, ..server.settings() });
    let bytes = noise(100 << 20);
    put(&storage, "large", &bytes).unwrap();
    assert!(get(&storage, "large") == bytes);
    assert_eq!(server.sshd.connections(), 1);
}

#[test]
fn many_small_objects_at_once_share_the_sessions() {
    let server = server!(SshAccount::Chrooted, "");
    let storage = server.storage();
    thread::scope(|threads| {
        for i in 0..100 {
            let storage = &storage;
            threads.spawn(move || {
                let bytes = noise(20_000 + i);
                put(storage, &format!("d/{}/{i}", i % 3), &bytes).unwrap();
                assert!(get(storage, &format!("d/{}/{i}", i % 3)) == bytes);
            });
        }
    });
    let listed: usize = (0..3).map(|i| storage.list(&format!("d/{i}")).unwrap().len()).sum();
    assert_eq!(listed, 100);
    assert!(server.sshd.connections() <= 2);
}

#[test]
fn a_directory_of_many_names_is_listed_whole() {
    let server = server!(SshAccount::Shell, "");
    let storage = server.storage();
    for i in 0..1111 {
        std::fs::write(server.directory.join(format!("{i:04}")), "").unwrap();
    }
    let names: Vec<_> = storage.list("").unwrap().into_iter().map(|entry| entry.name).collect();
    let expected: Vec<_> = (0..1111).map(|i| format!("{i:04}")).collect();
    assert_eq!(names, expected);
}
