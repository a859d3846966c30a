//! When the server, the network or the disk fails.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use pgbak::interrupt::Interrupt;
use pgbak::storage::{ErrorKind, Patience, Retry, Sftp, SftpSettings, Storage, Upload};

use crate::server;
use crate::server::{Server, get, noise, open, put};
use crate::support::{Direction, Ending, Identity, Proxy, SmallDisk, SshAccount, process, wait_until};

/// The process of the server that has an upload open.
fn who_holds_a_file_in(directory: &Path) -> i32 {
    let holds = |pid: &i32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let mut targets = files.filter_map(|file| fs::read_link(file.path()).ok());
        targets.any(|target| target.starts_with(directory))
    };
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.find(holds).expect("somebody writes the upload")
}

fn patient(settings: SftpSettings) -> Retry {
    Retry::new(Arc::new(open(settings)), Patience::USUAL, Interrupt::default())
}

/// For a link that fails for a moment.
fn quick(settings: SftpSettings) -> Retry {
    let patience = Patience {
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(1),
        pauses_total: Duration::from_millis(50),
        time_limit: Duration::MAX,
    };
    Retry::new(Arc::new(open(settings)), patience, Interrupt::default())
}

#[test]
fn an_upload_outlasts_the_death_of_the_server() {
    let mut server = server!(SshAccount::Shell, "");
    let storage = patient(server.settings());
    let bytes = noise(60 << 20);
    let mut upload = storage.create("a/large").unwrap();
    let (first, rest) = bytes.split_at(35 << 20);
    upload.write_all(first).unwrap();
    server.sshd.kill();
    thread::scope(|threads| {
        let rest = threads.spawn(move || {
            upload.write_all(rest).unwrap();
            upload.commit().unwrap();
        });
        server.sshd.start_again();
        rest.join().unwrap();
    });
    assert!(fs::read(server.directory.join("a/large")).unwrap() == bytes);
    assert_eq!(storage.list("a").unwrap().len(), 1, "no unfinished file is left");
}

#[test]
fn a_download_outlasts_the_death_of_the_server() {
    let mut server = server!(SshAccount::Shell, "");
    let storage = patient(server.settings());
    let bytes = noise(40 << 20);
    put(&storage, "large", &bytes).unwrap();
    let mut reader = storage.open("large").unwrap();
    let mut found = vec![0; 10 << 20];
    reader.read_exact(&mut found).unwrap();
    server.sshd.kill();
    thread::scope(|threads| {
        let rest = threads.spawn(move || {
            reader.read_to_end(&mut found).unwrap();
            found
        });
        server.sshd.start_again();
        assert!(rest.join().unwrap() == bytes);
    });
}

#[test]
fn the_loss_of_one_session_is_made_good_by_the_other() {
    let server = server!(SshAccount::Shell, "");
    let storage = patient(server.settings());
    let bytes = noise(80 << 20);
    let mut upload = storage.create("large").unwrap();
    for (i, piece) in bytes.chunks(1 << 20).enumerate() {
        if i == 30 || i == 60 {
            server.sshd.kill_connections();
        }
        upload.write_all(piece).unwrap();
    }
    upload.commit().unwrap();
    assert!(fs::read(server.directory.join("large")).unwrap() == bytes);
}

#[test]
fn a_link_that_is_cut_again_and_again_costs_time_and_nothing_else() {
    let server = server!(SshAccount::Chrooted, "");
    let proxy = Proxy::to(server.sshd.port());
    let settings = server.settings_at(proxy.port());
    let quick = Patience {
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(1),
        pauses_total: Duration::from_secs(1),
        time_limit: Duration::MAX,
    };
    for (ending, sessions) in [(Ending::Reset, 1), (Ending::Close, 2)] {
        proxy.cut_every(3_333_333, ending);
        let sftp = open(SftpSettings { sessions, ..settings.clone() });
        let storage = Retry::new(Arc::new(sftp), quick, Interrupt::default());
        let bytes = noise(25 << 20);
        put(&storage, "a/large", &bytes).unwrap_or_else(|error| panic!("{error}"));
        assert!(get(&storage, "a/large") == bytes);
        proxy.heal();
        assert_eq!(storage.list("a").unwrap().len(), 1, "nothing unfinished is left");
        storage.delete("a/large").unwrap();
    }
    assert!(proxy.cuts() >= 10, "{} cuts", proxy.cuts());
}

#[test]
fn a_link_that_lives_for_a_few_kilobytes_gets_an_object_through() {
    let server = server!(SshAccount::Shell, "");
    let proxy = Proxy::to(server.sshd.port());
    let settings = server.settings_at(proxy.port());
    let bytes = noise(1 << 20);
    // So slow that acknowledgements come back before the next cut.
    proxy.throttle(10_000_000);
    proxy.cut_every(100_000, Ending::Close);
    let storage = patient(SftpSettings { sessions: 1, ..settings });
    put(&storage, "x", &bytes).unwrap();
    assert!(fs::read(server.directory.join("x")).unwrap() == bytes);
    assert!(proxy.cuts() >= 10, "{} cuts", proxy.cuts());
    assert!(get(&storage, "x") == bytes);
}

/// An upload whose name was published, and whose link was cut before the answer came back.
fn unanswered_commit(server: &Server, proxy: &Proxy) -> (Sftp, Box<dyn Upload>, PathBuf) {
    let storage = open(SftpSettings { sessions: 1, ..server.settings_at(proxy.port()) });
    let mut upload = storage.create("a/x").unwrap();
    upload.write_all(b"ours").unwrap();
    let unfinished = server.directory.join("a").join(&storage.list("a").unwrap()[0].name);
    let target = server.directory.join("a/x");
    proxy.delay(Duration::from_millis(200));
    let upload = thread::scope(|threads| {
        let commit = threads.spawn(move || {
            let error = upload.commit().expect_err("the answer is lost");
            assert_eq!(error.kind, ErrorKind::Transient, "{error}");
            upload
        });
        wait_until("the name to be there", || target.exists());
        proxy.cut_now(Ending::Reset);
        commit.join().unwrap()
    });
    proxy.heal();
    assert!(!unfinished.exists());
    (storage, upload, unfinished)
}

#[test]
fn a_commit_whose_answer_was_lost_is_judged_by_what_is_there() {
    let server = server!(SshAccount::Shell, "");
    let proxy = Proxy::to(server.sshd.port());
    let target = server.directory.join("a/x");
    let names =
        |storage: &Sftp| storage.list("a").unwrap().into_iter().map(|entry| entry.name).collect::<Vec<_>>();

    let (storage, mut upload, _) = unanswered_commit(&server, &proxy);
    upload.commit().expect("it was published");
    drop(upload);
    assert_eq!((get(&storage, "a/x"), names(&storage)), (b"ours".to_vec(), vec!["x".to_owned()]));
    storage.delete("a/x").unwrap();

    let (storage, mut upload, unfinished) = unanswered_commit(&server, &proxy);
    fs::hard_link(&target, &unfinished).unwrap();
    upload.commit().expect("it was published, though not to the end");
    assert_eq!(names(&storage), ["x"]);
    storage.delete("a/x").unwrap();

    let (storage, mut upload, unfinished) = unanswered_commit(&server, &proxy);
    fs::rename(&target, &unfinished).unwrap();
    upload.commit().expect("it was not published, and can be");
    assert_eq!((get(&storage, "a/x"), names(&storage)), (b"ours".to_vec(), vec!["x".to_owned()]));
    storage.delete("a/x").unwrap();

    let (storage, mut upload, unfinished) = unanswered_commit(&server, &proxy);
    let modified_at = fs::metadata(&target).unwrap().modified().unwrap();
    fs::rename(&target, &unfinished).unwrap();
    fs::write(&target, b"them").unwrap();
    fs::File::options().write(true).open(&target).unwrap().set_modified(modified_at).unwrap();
    let clash = upload.commit().expect_err("another was faster");
    assert_eq!(clash.kind, ErrorKind::AlreadyExists, "{clash}");
    drop(upload);
    assert_eq!((get(&storage, "a/x"), names(&storage)), (b"them".to_vec(), vec!["x".to_owned()]));
    storage.delete("a/x").unwrap();

    let (_, mut upload, _) = unanswered_commit(&server, &proxy);
    fs::remove_file(&target).unwrap();
    let gone = upload.commit().expect_err("it was published and deleted, or never published and deleted");
    assert_eq!(gone.kind, ErrorKind::Other, "{gone}");
}

/// Wherever the link is cut in the life of a small object.
#[test]
fn a_small_object_is_stored_once_wherever_its_link_is_cut() {
    let server = server!(SshAccount::Shell, "");
    let proxy = Proxy::to(server.sshd.port());
    let settings = SftpSettings { sessions: 1, ..server.settings_at(proxy.port()) };
    let bytes = noise(2000);
    let before = proxy.uploaded_bytes();
    let whole = {
        let storage = open(settings.clone());
        put(&storage, "measure", &bytes).unwrap();
        storage.delete("measure").unwrap();
        drop(storage);
        proxy.uploaded_bytes() - before
    };
    // From the moment of the login on, which takes about three kilobytes.
    for (round, after_bytes) in (3000..whole + 200).step_by(60).enumerate() {
        proxy.heal();
        let key = format!("{round}/x");
        let storage = quick(settings.clone());
        proxy.cut_times(after_bytes, Ending::Close, 1);
        let outcome = put(&storage, &key, &bytes);
        proxy.heal();
        outcome.unwrap_or_else(|error| panic!("cut after {after_bytes}: {error}"));
        assert!(get(&storage, &key) == bytes, "cut after {after_bytes}");
        let again = put(&storage, &key, &bytes).unwrap_err();
        assert_eq!(again.kind, ErrorKind::AlreadyExists, "cut after {after_bytes}: {again}");
        assert!(fs::read(server.directory.join(&key)).unwrap() == bytes);
    }
}

/// A key whose answer never came was not rejected.
#[test]
fn a_login_that_is_cut_while_it_waits_for_an_answer_is_repeated() {
    let server = server!(SshAccount::Shell, "");
    let proxy = Proxy::to(server.sshd.port());
    let settings = SftpSettings { sessions: 1, ..server.settings_at(proxy.port()) };
    fs::write(server.directory.join("x"), b"x").unwrap();
    let measured = open(settings.clone());
    assert_eq!(get(&measured, "x"), b"x");
    let messages = proxy.uploaded_pieces().remove(0);
    drop(measured);
    assert!(messages.len() > 5, "a login takes some messages: {messages:?}");
    for (after_bytes, ending) in messages.iter().flat_map(|at| [(*at, Ending::Reset), (*at, Ending::Close)]) {
        proxy.stall_one_way_after(after_bytes, Direction::Down);
        let storage = quick(settings.clone());
        thread::scope(|threads| {
            let reader = threads.spawn(|| get(&storage, "x"));
            wait_until("the answers to be held up", || proxy.is_stalled());
            // Long enough for the answer to be on its way, and not a condition of anything.
            thread::sleep(Duration::from_millis(20));
            proxy.cut_now(ending);
            proxy.heal();
            assert_eq!(reader.join().unwrap(), b"x", "{ending:?} after {after_bytes}");
        });
    }
}

#[test]
fn a_stall_without_a_reset_ends() {
    let server = server!(SshAccount::Shell, "");
    let proxy = Proxy::to(server.sshd.port());
    let storage = open(server.settings_at(proxy.port()));
    put(&storage, "x", b"x").unwrap();
    let mut upload = storage.create("y").unwrap();
    upload.write_all(b"y").unwrap();
    proxy.stall();
    // With a sync among what the server owes.
    let error = upload.commit().expect_err("nobody answers");
    assert_eq!(error.kind, ErrorKind::Transient, "{error}");
    assert!(error.to_string().contains("silent"), "{error}");
    proxy.heal();
    upload.commit().unwrap();
    assert_eq!((get(&storage, "x"), get(&storage, "y")), (b"x".to_vec(), b"y".to_vec()));
}

#[test]
fn a_server_whose_disk_takes_long_is_waited_for() {
    let server = server!(SshAccount::Shell, "");
    let storage = server.storage();
    let mut upload = storage.create("x").unwrap();
    upload.write_all(b"x").unwrap();
    // As if its disk did not answer, while sshd does.
    let worker = who_holds_a_file_in(&server.directory);
    process::send(worker, Signal::STOP);
    thread::scope(|threads| {
        let commit = threads.spawn(move || upload.commit());
        // Time itself is the condition: longer than a link may be silent.
        thread::sleep(Duration::from_secs(35));
        process::send(worker, Signal::CONT);
        commit.join().unwrap().unwrap();
    });
    assert_eq!(get(&storage, "x"), b"x");
}

#[test]
fn an_interrupt_ends_a_wait_at_once_and_leaves_time_to_discard() {
    let server = server!(SshAccount::Shell, "");
    let proxy = Proxy::to(server.sshd.port());
    let interrupt = Interrupt::default();
    let storage = Sftp::new(server.settings_at(proxy.port()), interrupt.clone());
    put(&storage, "x", b"x").unwrap();
    let upload = storage.create("a/unfinished").unwrap();
    proxy.stall();
    thread::scope(|threads| {
        let waiting = threads.spawn(|| storage.open("x").err().expect("nobody answers"));
        interrupt.cell().store(2, Ordering::Relaxed);
        let error = waiting.join().unwrap();
        assert_eq!(error.interrupted().unwrap().signal, 2, "{error}");
    });
    proxy.heal();
    drop(upload);
    assert_eq!(storage.list("a").unwrap(), [], "an unfinished upload goes even then");
    storage.delete("x").unwrap();
    assert_eq!(storage.list("").unwrap(), []);
    assert!(storage.create("y").is_err());
}

#[test]
fn a_full_disk_is_told_as_that_and_the_upload_leaves_nothing() {
    let server = server!(SshAccount::Shell, "");
    let mount = server.directory.join("disk");
    let Some(disk) = SmallDisk::mount(&mount, "8m", &Identity::ordinary()) else { return };
    let settings = server.settings();
    let storage = open(SftpSettings { path: format!("{}/disk", settings.path), ..settings });
    let error = put(&storage, "a/large", &noise(20 << 20)).unwrap_err();
    assert_eq!(error.kind, ErrorKind::NoSpace, "{error}");
    assert!(error.hint().unwrap().contains("pgbak prune"));
    assert_eq!(storage.list("").unwrap(), []);
    put(&storage, "a/small", &noise(1 << 20)).unwrap();
    drop(storage);
    wait_until("the server to let go of the disk", || server.sshd.connections() == 0);
    drop(disk);
}

#[test]
fn a_server_that_is_away_is_a_transient_failure_that_names_it() {
    let mut server = server!(SshAccount::Shell, "");
    let storage = server.storage();
    put(&storage, "x", b"x").unwrap();
    server.sshd.stop();
    for _ in 0..2 {
        let error = storage.list("").unwrap_err();
        assert_eq!(error.kind, ErrorKind::Transient, "{error}");
        assert!(error.to_string().contains(&storage.to_string()), "{error}");
    }
    server.sshd.start_again();
    assert_eq!(storage.list("").unwrap().len(), 1);
}

#[test]
fn an_upload_that_its_server_lost_bytes_of_is_not_committed() {
    let server = server!(SshAccount::Shell, "");
    let storage = open(SftpSettings { sessions: 1, ..server.settings() });
    let bytes = noise(12 << 20);
    let mut upload = storage.create("x").unwrap();
    upload.write_all(&bytes).unwrap();
    let unfinished = server.directory.join(&storage.list("").unwrap()[0].name);
    server.sshd.kill_connections();
    wait_until("the connection to be gone", || server.sshd.connections() == 0);
    // As after a crash of the server: acknowledged, but never on its disk.
    let file = fs::OpenOptions::new().write(true).open(unfinished).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0; 4096], 1 << 20).unwrap();
    let mut error = upload.commit().unwrap_err();
    while error.kind == ErrorKind::Transient {
        error = upload.commit().unwrap_err();
    }
    assert_eq!(error.kind, ErrorKind::Other);
    assert!(error.to_string().contains("lost what it had acknowledged"), "{error}");
    drop(upload);
    assert_eq!(storage.list("").unwrap(), []);
}
