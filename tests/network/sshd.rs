//! The server as OpenSSH's own clients see it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::support::{Ending, Identity, KeyType, Proxy, SshAccount, Sshd, process, wait_until};

/// A command line of OpenSSH's clients without the user's own settings.
fn client(sshd: &Sshd, program: &str, port: u16) -> Command {
    let known_hosts = sshd.known_hosts_at(port);
    let mut command = Identity::ordinary().command(program, "KILL");
    command.args(["-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"]);
    command.arg("-o").arg(format!("UserKnownHostsFile={}", known_hosts.display()));
    command.args(["-o", "StrictHostKeyChecking=yes", "-o", "GlobalKnownHostsFile=/dev/null"]);
    command.arg("-o").arg(format!("Port={port}"));
    command.current_dir("/").stdin(Stdio::null());
    command
}

fn with_key(mut command: Command, key: &Path) -> Command {
    command.arg("-o").arg(format!("IdentityFile={}", key.display()));
    command
}

fn destination(sshd: &Sshd) -> String {
    format!("{}@127.0.0.1", sshd.user())
}

/// What `sftp` says to `commands`, one a line.
fn sftp(sshd: &Sshd, port: u16, commands: &str) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let batch = directory.path().join("batch");
    fs::write(&batch, commands).unwrap();
    Identity::ordinary().own_path(directory.path());
    let mut command = with_key(client(sshd, "sftp", port), &sshd.key());
    command.arg("-b").arg(&batch).arg(destination(sshd));
    command.output().unwrap()
}

fn ssh(sshd: &Sshd, key: &Path, port: u16) -> Output {
    with_key(client(sshd, "ssh", port), key).arg(destination(sshd)).arg("echo welcome").output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A file put and fetched again, by the paths that clients see.
fn a_file_goes_there_and_comes_back(sshd: &Sshd, port: u16) {
    let site = tempfile::tempdir().unwrap();
    let identity = Identity::ordinary();
    identity.own_path(site.path());
    let (here, back) = (site.path().join("here"), site.path().join("back"));
    fs::write(&here, vec![7; 100_000]).unwrap();
    let repository = sshd.make_repository("files");
    let there = sshd.root_path().join("files/there");
    let (here, there, back_again) = (here.display(), there.display(), back.display());
    let commands = format!("put {here} {there}\nget {there} {back_again}\n");
    let output = sftp(sshd, port, &commands);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(fs::read(&back).unwrap(), [7; 100_000]);
    assert_eq!(fs::read(repository.path.join("there")).unwrap(), [7; 100_000], "it is the same directory");
    fs::remove_dir_all(&repository.path).unwrap();
}

#[test]
fn a_shell_account_runs_commands_and_keeps_files() {
    let Some(sshd) = Sshd::start(&Identity::ordinary(), SshAccount::Shell) else { return };
    assert_eq!(said(&ssh(&sshd, &sshd.key(), sshd.port())), "welcome\n");
    a_file_goes_there_and_comes_back(&sshd, sshd.port());
}

#[test]
fn a_chrooted_account_has_files_and_neither_a_shell_nor_the_rest_of_the_machine() {
    let Some(sshd) = Sshd::start(&Identity::ordinary(), SshAccount::Chrooted) else { return };
    a_file_goes_there_and_comes_back(&sshd, sshd.port());
    assert!(!said(&ssh(&sshd, &sshd.key(), sshd.port())).contains("welcome"));
    let everything = sftp(&sshd, sshd.port(), "ls /\n");
    assert_eq!(said(&everything).trim_end(), "sftp> ls /\n/repositories");
    assert!(!sftp(&sshd, sshd.port(), "get /etc/passwd\n").status.success());
}

#[test]
fn a_server_that_was_killed_comes_back_as_itself() {
    let Some(mut sshd) = Sshd::start(&Identity::ordinary(), SshAccount::Shell) else { return };
    let port = sshd.port();
    let mut waiting = with_key(client(&sshd, "ssh", port), &sshd.key());
    let mut waiting = waiting
        .arg(destination(&sshd))
        .arg("echo there; exec sleep 1000")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(waiting.stdout.take().unwrap()), &mut line)
        .unwrap();
    assert_eq!((line.as_str(), sshd.connections()), ("there\n", 1));
    sshd.kill();
    assert!(!process::wait_for_exit(&mut waiting, "ssh").success(), "its session is gone too");
    assert!(!ssh(&sshd, &sshd.key(), port).status.success());
    sshd.start_again();
    a_file_goes_there_and_comes_back(&sshd, port);
    sshd.stop();
    sshd.start_again();
    assert_eq!(said(&ssh(&sshd, &sshd.key(), port)), "welcome\n");
}

#[test]
fn only_authorized_keys_and_known_host_keys_get_through() {
    let identity = Identity::ordinary();
    let server = Sshd::with(&identity, SshAccount::Shell).host_keys(&[KeyType::Rsa, KeyType::Ecdsa]);
    let Some(mut sshd) = server.start() else { return };
    for key_type in [KeyType::Ed25519, KeyType::Rsa, KeyType::Ecdsa] {
        let key = sshd.new_key(key_type, "");
        let refused = said(&ssh(&sshd, &key, sshd.port()));
        assert!(refused.contains("Permission denied"), "{refused}");
        sshd.authorize(&key);
        assert_eq!(said(&ssh(&sshd, &key, sshd.port())), "welcome\n");
    }
    let known_hosts = sshd.known_hosts();
    let before = fs::read(&known_hosts).unwrap();
    sshd.stop();
    sshd.change_host_keys();
    sshd.start_again();
    assert_eq!(fs::read(&known_hosts).unwrap(), before);
    assert_eq!(said(&ssh(&sshd, &sshd.key(), sshd.port())), "welcome\n", "known again");
    sshd.refuse_keys();
    assert!(said(&ssh(&sshd, &sshd.key(), sshd.port())).contains("Permission denied"));
}

#[test]
fn through_a_proxy_the_server_is_known_by_the_proxys_port() {
    let Some(sshd) = Sshd::start(&Identity::ordinary(), SshAccount::Shell) else { return };
    let proxy = Proxy::to(sshd.port());
    a_file_goes_there_and_comes_back(&sshd, proxy.port());
    // A login takes a few kilobytes.
    proxy.cut_every(50_000, Ending::Reset);
    let large = sshd.local_path().join("large");
    fs::write(&large, vec![7; 100_000]).unwrap();
    Identity::ordinary().own_path(&large);
    let cut = sftp(&sshd, proxy.port(), &format!("put {} {0}-uploaded\n", large.display()));
    assert!(!cut.status.success(), "{}", said(&cut));
    // It is counted a moment after the client has felt it; what the connection before still says may count as well.
    wait_until("the cut to be counted", || proxy.cuts() >= 1);
    proxy.heal();
    a_file_goes_there_and_comes_back(&sshd, proxy.port());
    sshd.kill_connections();
    wait_until("the sessions to be gone", || sshd.connections() == 0);
}

#[test]
fn nothing_of_a_server_stays() {
    let Some(sshd) = Sshd::start(&Identity::ordinary(), SshAccount::Shell) else { return };
    let (home, port) = (sshd.key().parent().unwrap().parent().unwrap().to_owned(), sshd.port());
    assert!(home.exists());
    drop(sshd);
    assert!(!home.exists());
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
}
