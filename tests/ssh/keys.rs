//! Who we prove to be.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use pgbak::storage::{ErrorKind, Secret, SftpSettings, Storage};

use crate::server;
use crate::server::{Server, open, refusal};
use crate::support::{Identity, KeyType, SshAccount, process};

fn with_key(server: &Server, key: PathBuf) -> SftpSettings {
    SftpSettings { key: Some(key), ..server.settings() }
}

/// Ended when dropped.
struct Agent {
    child: Child,
    socket: PathBuf,
    _directory: tempfile::TempDir,
}

impl Agent {
    fn start(keys: &[(&Path, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent");
        let mut command = Identity::own().command("ssh-agent", "KILL");
        let mut child = command.arg("-D").arg("-a").arg(&socket).stdout(Stdio::piped()).spawn().unwrap();
        // It tells its socket when it listens.
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let answer = directory.path().join("answer");
        for (key, passphrase) in keys {
            fs::write(&answer, format!("#!/bin/sh\necho '{passphrase}'\n")).unwrap();
            fs::set_permissions(&answer, PermissionsExt::from_mode(0o700)).unwrap();
            let mut add = Command::new("ssh-add");
            add.arg(key).env("SSH_AUTH_SOCK", &socket).env("SSH_ASKPASS", &answer);
            process::run(add.env("SSH_ASKPASS_REQUIRE", "force").stdin(Stdio::null()));
        }
        Self { child, socket, _directory: directory }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn keys_of_each_type_are_let_in_with_and_without_passphrase() {
    let server = server!(SshAccount::Shell, "");
    for key_type in [KeyType::Ed25519, KeyType::Ecdsa, KeyType::Rsa] {
        for passphrase in ["", "open, sesame"] {
            let key = server.sshd.new_key(key_type, passphrase);
            server.sshd.authorize(&key);
            let passphrase = Some(Secret::new("open, sesame".into()));
            let settings = SftpSettings { passphrase, ..with_key(&server, key) };
            open(settings).list("").unwrap_or_else(|error| panic!("{key_type:?}: {error}"));
        }
    }
}

#[test]
fn a_key_whose_passphrase_is_missing_or_wrong_is_told_as_that() {
    let server = server!(SshAccount::Shell, "");
    for key_type in [KeyType::Ed25519, KeyType::Ecdsa, KeyType::Rsa] {
        let key = server.sshd.new_key(key_type, "open, sesame");
        server.sshd.authorize(&key);
        let error = refusal(with_key(&server, key.clone()));
        assert_eq!(error.kind, ErrorKind::Denied);
        assert!(error.to_string().contains("has a passphrase, which is not known"), "{error}");
        assert!(error.hint().unwrap().contains("PGBAK_SSH_PASSPHRASE"));
        let passphrase = Some(Secret::new("open, says me".into()));
        let error = refusal(SftpSettings { passphrase, ..with_key(&server, key.clone()) });
        assert!(error.to_string().contains("passphrase of the key"), "{error}");
        assert!(error.to_string().contains("is wrong"), "{error}");
        assert!(!format!("{error:?}").contains("says me"), "{error:?}");
    }
}

#[test]
fn an_agent_opens_a_locked_key_and_serves_where_no_key_is_named() {
    let server = server!(SshAccount::Shell, "");
    let other = server.sshd.new_key(KeyType::Ed25519, "");
    let key = server.sshd.new_key(KeyType::Ed25519, "open, sesame");
    server.sshd.authorize(&key);
    let agent = Agent::start(&[(&other, ""), (&key, "open, sesame")]);
    let agent = Some(agent).inspect(|agent| assert!(agent.socket.exists()));
    let socket = agent.as_ref().map(|agent| agent.socket.clone());
    let locked = SftpSettings { agent: socket.clone(), ..with_key(&server, key) };
    assert_eq!(open(locked).list("").unwrap(), []);
    let unnamed = SftpSettings { key: None, agent: socket, ..server.settings() };
    assert_eq!(open(unnamed).list("").unwrap(), []);
}

#[test]
fn a_named_key_is_the_only_one_that_is_tried() {
    let server = server!(SshAccount::Shell, "");
    let stranger = server.sshd.new_key(KeyType::Rsa, "");
    let agent = Agent::start(&[(&server.sshd.key(), "")]);
    let settings = with_key(&server, stranger.clone());
    let error = refusal(SftpSettings { agent: Some(agent.socket.clone()), ..settings });
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(error.to_string().contains("does not let"), "{error}");
    assert!(error.to_string().contains(stranger.to_str().unwrap()), "{error}");
    let hint = error.hint().unwrap();
    let public = fs::read_to_string(stranger.with_extension("pub")).unwrap();
    let line = public.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    assert!(hint.contains("ssh-copy-id") && hint.contains(&format!("`{line}`")), "{hint}");
}

#[test]
fn the_usual_files_are_tried_where_no_key_is_named() {
    let server = server!(SshAccount::Shell, "");
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join(".ssh")).unwrap();
    let settings = SftpSettings { key: None, home: Some(home.path().to_owned()), ..server.settings() };
    let error = refusal(settings.clone());
    assert!(error.to_string().contains("there is no key"), "{error}");
    symlink(server.sshd.new_key(KeyType::Ed25519, ""), home.path().join(".ssh/id_ed25519")).unwrap();
    assert!(refusal(settings.clone()).to_string().contains("id_ed25519"));
    symlink(server.sshd.key(), home.path().join(".ssh/id_rsa")).unwrap();
    assert_eq!(open(settings).list("").unwrap(), []);
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let server = server!(SshAccount::Shell, "");
    let scratch = tempfile::tempdir().unwrap();
    let key = scratch.path().join("key");
    fs::copy(server.sshd.key(), &key).unwrap();
    fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
    let error = refusal(with_key(&server, key.clone()));
    assert_eq!(error.kind, ErrorKind::Denied);
    let hint = error.hint().unwrap();
    process::run(Command::new("sh").arg("-c").arg(hint.split('`').nth(1).unwrap()));
    assert_eq!(open(with_key(&server, key.clone())).list("").unwrap(), []);
    fs::write(&key, "not a key").unwrap();
    assert!(refusal(with_key(&server, key)).to_string().contains("is not a private key"));
}
