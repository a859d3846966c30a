//! The suite that every storage passes, and what a look from the server's side shows.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use pgbak::storage::{Durability, ErrorKind, SftpSettings, Storage, contract};

use crate::server;
use crate::server::{open, put};
use crate::support::SshAccount;

#[test]
fn a_shell_account_keeps_the_contract() {
    let server = server!(SshAccount::Shell, "");
    for sessions in [1, 2] {
        contract::check(&open(SftpSettings { sessions, ..server.settings() }));
    }
}

#[test]
fn an_account_in_a_chroot_without_a_shell_keeps_the_contract() {
    let server = server!(SshAccount::Chrooted, "");
    for sessions in [1, 2] {
        contract::check(&open(SftpSettings { sessions, ..server.settings() }));
    }
}

#[test]
fn nobody_else_on_the_server_can_read_what_is_stored() {
    // As loose as a server can be.
    let server = server!(SshAccount::Chrooted, "ForceCommand internal-sftp -u 000");
    let settings = server.settings();
    let storage = open(SftpSettings { path: format!("{}/made", settings.path), ..settings });
    let mut upload = storage.create("a/x").unwrap();
    let root = server.directory.join("made");
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let unfinished = root.join("a").join(&storage.list("a").unwrap()[0].name);
    assert_eq!(mode(&unfinished), 0o600);
    upload.commit().unwrap();
    assert_eq!(mode(&root.join("a/x")), 0o600);
    assert_eq!((mode(&root), mode(&root.join("a"))), (0o700, 0o700));
}

#[test]
fn a_root_whose_own_directory_is_missing_is_not_made() {
    let server = server!(SshAccount::Shell, "");
    let settings = server.settings();
    let storage = open(SftpSettings { path: format!("{}/not-mounted/root", settings.path), ..settings });
    let error = storage.create("x").err().expect("there is nowhere to put it");
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
    assert!(error.hint().unwrap().contains("mount it"), "{error}");
    assert_eq!(storage.list("").unwrap(), []);
    assert_eq!(fs::read_dir(&server.directory).unwrap().count(), 0);
}

#[test]
fn what_is_neither_file_nor_directory_is_no_object() {
    let server = server!(SshAccount::Shell, "");
    let storage = server.storage();
    put(&storage, "a/x", b"x").unwrap();
    std::os::unix::fs::symlink("a", server.directory.join("link-to-directory")).unwrap();
    std::os::unix::fs::symlink("a/x", server.directory.join("link-to-file")).unwrap();
    let names: Vec<_> = storage.list("").unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, ["a"]);
    assert_eq!(storage.open("link-to-file").err().unwrap().kind, ErrorKind::Other);
    assert_eq!(storage.list("link-to-directory").err().unwrap().kind, ErrorKind::Other);
    let settings = server.settings();
    let linked = open(SftpSettings { path: format!("{}/link-to-directory", settings.path), ..settings });
    assert_eq!(linked.list("").unwrap().len(), 1, "the root itself may be a link");
}

#[test]
fn a_server_that_cannot_sync_is_used_only_by_consent() {
    let server = server!(SshAccount::Chrooted, "ForceCommand internal-sftp -P fsync");
    let error = server.storage().create("x").err().expect("what is stored could be lost");
    assert_eq!(error.kind, ErrorKind::Other);
    assert!(error.to_string().contains("fsync@openssh.com"), "{error}");
    assert!(error.hint().unwrap().contains("`durable = false`"), "{error}");
    assert_eq!(server.storage().list("").unwrap(), [], "to read from it is harmless");
    contract::check(&open(SftpSettings { durability: Durability::IfOffered, ..server.settings() }));
}

#[test]
fn a_place_that_belongs_to_another_is_refused_with_the_place() {
    let server = server!(SshAccount::Shell, "");
    let storage = server.storage();
    put(&storage, "a/x", b"x").unwrap();
    for mode in [0o500, 0o000] {
        fs::set_permissions(server.directory.join("a"), PermissionsExt::from_mode(mode)).unwrap();
        let error = put(&storage, "a/y", b"y").unwrap_err();
        assert_eq!(error.kind, ErrorKind::Denied, "{error}");
        let hint = error.hint().unwrap();
        let place = storage.to_string();
        let (_, path) = place.split_once('@').unwrap().1.split_once('/').unwrap();
        assert!(hint.contains("install -d -m 700 -o ") && hint.contains(&format!("/{path}`")), "{hint}");
        assert_eq!(storage.delete("a/x").unwrap_err().kind, ErrorKind::Denied);
    }
    assert_eq!(storage.list("a").unwrap_err().kind, ErrorKind::Denied);
    assert_eq!(storage.open("a/x").err().unwrap().kind, ErrorKind::Denied);
    fs::set_permissions(server.directory.join("a"), PermissionsExt::from_mode(0o700)).unwrap();
}
