//! Whom the server proves to be: nothing is sent to one that is not known.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use pgbak::storage::{Error, ErrorKind, SftpSettings, Storage};

use crate::server;
use crate::server::{Server, open, refusal};
use crate::support::{Identity, KeyType, SshAccount, Sshd, process};

/// The command between the backquotes of a hint that begins with `program`, run by a shell.
fn run_hinted(error: &Error, program: &str) {
    let hint = error.hint().expect("there is a remedy");
    let command = hint.split('`').find(|word| word.starts_with(program));
    process::run(Command::new("sh").arg("-c").arg(command.unwrap_or_else(|| panic!("{hint}"))));
}

fn known_hosts(settings: &SftpSettings, file: &Path) -> SftpSettings {
    SftpSettings { known_hosts: Some(file.to_owned()), ..settings.clone() }
}

fn fingerprint(server: &Server) -> String {
    let listed = process::run(Command::new("ssh-keygen").arg("-lf").arg(server.sshd.known_hosts()));
    listed.split(' ').nth(1).unwrap().to_owned()
}

#[test]
fn an_unknown_server_is_refused_until_the_hint_is_followed() {
    let server = server!(SshAccount::Shell, "");
    let scratch = tempfile::tempdir().unwrap();
    let settings = known_hosts(&server.settings(), &scratch.path().join("known hosts"));
    let error = refusal(settings.clone());
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(error.to_string().contains("is not known"), "{error}");
    assert!(error.to_string().contains(&fingerprint(&server)), "{error}");
    run_hinted(&error, "ssh-keyscan");
    assert_eq!(open(settings).list("").unwrap(), []);
}

#[test]
fn a_server_whose_key_changed_is_refused_until_the_hint_is_followed() {
    let mut server = server!(SshAccount::Shell, "");
    let settings = server.settings();
    open(settings.clone()).list("").unwrap();
    server.sshd.stop();
    server.sshd.change_host_keys();
    server.sshd.start_again();
    let error = refusal(settings.clone());
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(error.to_string().contains("has changed"), "{error}");
    run_hinted(&error, "ssh-keygen -R");
    assert!(refusal(settings.clone()).to_string().contains("is not known"));
    run_hinted(&error, "ssh-keyscan");
    assert_eq!(open(settings).list("").unwrap(), []);
}

#[test]
fn a_revoked_key_is_refused() {
    let server = server!(SshAccount::Shell, "");
    let settings = server.settings();
    let file = settings.known_hosts.clone().unwrap();
    let line = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{line}@revoked {line}")).unwrap();
    assert!(refusal(settings).to_string().contains("revoked"));
}

#[test]
fn hashed_names_are_known() {
    let server = server!(SshAccount::Shell, "");
    let settings = server.settings();
    let file = settings.known_hosts.clone().unwrap();
    process::run(Command::new("ssh-keygen").arg("-H").arg("-f").arg(&file));
    assert!(fs::read_to_string(&file).unwrap().starts_with("|1|"));
    assert_eq!(open(settings).list("").unwrap(), []);
}

#[test]
fn a_server_with_several_keys_is_asked_for_one_that_is_on_file() {
    let types = [KeyType::Ed25519, KeyType::Ecdsa, KeyType::Rsa];
    let Some(sshd) = Sshd::with(&Identity::ordinary(), SshAccount::Shell).host_keys(&types).start() else {
        return;
    };
    sshd.make_repository("remote");
    let server = Server { directory: sshd.local_path().join("remote"), sshd };
    let settings = server.settings();
    let all = fs::read_to_string(settings.known_hosts.as_ref().unwrap()).unwrap();
    assert_eq!(all.lines().count(), 3);
    for line in all.lines() {
        let scratch = tempfile::tempdir().unwrap();
        let file: PathBuf = scratch.path().join("one");
        fs::write(&file, line).unwrap();
        assert_eq!(open(known_hosts(&settings, &file)).list("").unwrap(), [], "{line}");
    }
}
