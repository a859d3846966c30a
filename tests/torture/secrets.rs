//! Passwords and passphrases, looked for where they must not be: in what is said, in the arguments of processes, in
//! anything that is written. And the modes of what is written, from the moment at which it is made.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use crate::support::{KeyType, Outcome, Site, wait_until};
use crate::{pair, site};

/// The password of the server, which is right where a command shall succeed; and the key's.
const PASSWORD: &str = "sEsame-of-the-server";
const WRONG: &str = "sEsame-that-is-wrong";
const PASSPHRASE: &str = "sEsame-of-the-key";

/// What all three have in common.
const SECRET: &str = "sEsame";

/// Every command, in an order in which each has something to do. `@` is a place of its own for each.
const COMMANDS: &[&str] = &[
    "base-backup",
    "wal-sync",
    "base-backup --copy-missing",
    "base-backup --json",
    "verify --json",
    "verify --full",
    "status",
    "status --format json",
    "status --format prometheus",
    "status --format nagios",
    "wal-push pg_wal/00000009.history",
    "wal-fetch 000000010000000000000008 @",
    "wal-fetch 00000001000000000000000A @",
    "restore --target-immediate -D @ --dry-run",
    "restore --target-immediate -D @",
    "restore --target-time '2001-01-01 00:00' -D @",
    "prune --keep-last 1",
    "verify --drill",
];

/// Where the server's password comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    ConnectionString,
    Uri,
    Environment,
    PassFile,
}

#[test]
fn no_secret_is_said_passed_on_or_written_and_all_files_are_private_from_the_first_moment() {
    let mut pair = pair!(Shell);
    let key = pair.sshd.new_key(KeyType::Ed25519, PASSPHRASE);
    pair.sshd.authorize(&key);
    let plain_key = pair.sshd.key().display().to_string();
    pair.site.change_config(&plain_key, &key.display().to_string());
    let site = &mut pair.site;
    site.cluster().sql(&format!("CREATE ROLE keeper LOGIN SUPERUSER PASSWORD '{PASSWORD}'"));
    let trusted = "local all postgres trust\nlocal all,replication keeper scram-sha-256\n";
    site.write("data/pg_hba.conf", trusted);
    site.cluster().sql("SELECT pg_reload_conf()");
    let config = site.config();

    let mut processes = 0;
    for (from, password) in [
        (From::ConnectionString, PASSWORD),
        (From::Uri, PASSWORD),
        (From::Environment, PASSWORD),
        (From::PassFile, PASSWORD),
        (From::ConnectionString, WRONG),
        (From::Environment, WRONG),
    ] {
        use_password(site, &config, from, password);
        let commands = if from == From::ConnectionString { COMMANDS } else { &COMMANDS[..2] };
        for command in commands {
            let Some(outcome) = run(site, command, from, password) else { return };
            processes += check_trace(site, &outcome);
            let name = command.split(' ').next().unwrap();
            let is_drill = command.contains("drill");
            if password == PASSWORD
                && !is_drill
                && ["base-backup", "wal-sync", "status", "verify"].contains(&name)
            {
                assert!([0, 3].contains(&outcome.code), "{from:?}\n{outcome}");
            }
        }
    }
    assert!(processes >= COMMANDS.len(), "{processes}");
    site.cluster_mut().stop();
    use_password(site, &config, From::ConnectionString, PASSWORD);
    let Some(outcome) = run(site, "base-backup", From::ConnectionString, PASSWORD) else { return };
    check_trace(site, &outcome.exits(1));
    // What holds them on purpose, and what this test itself has written.
    let known = ["pgbak.toml", "home/.pgpass"].map(|name| site.path(name));
    assert_nothing_holds_a_secret(site.path("").as_path(), &known);
    for place in [site.path("home/.local"), site.repository().path.clone(), pair.remote().path.clone()] {
        assert_private(&place);
    }
}

/// Has pgbak find the password at one place and at no other.
fn use_password(site: &Site, config: &str, from: From, password: &str) {
    let (plain, sockets) = (site.cluster().connection("postgres"), site.cluster().sockets());
    let mine = site.cluster().connection("keeper");
    let connection = match from {
        From::ConnectionString => format!("{mine} password='{password}'"),
        From::Uri => {
            let host = sockets.display().to_string().replace('/', "%2F");
            format!("postgresql://keeper:{password}@{host}:{}/postgres", site.cluster().port())
        }
        From::Environment | From::PassFile => mine,
    };
    site.write("pgbak.toml", config.replace(&plain, &connection));
    let pass_file = site.write(
        "home/.pgpass",
        match from {
            From::PassFile => format!("*:*:*:keeper:{password}\n"),
            _ => String::new(),
        },
    );
    fs::set_permissions(&pass_file, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Runs a command as talkative as it can be, under strace, with a umask that hides nothing; and looks through all that
/// it says. `None` without strace.
fn run(site: &Site, command: &str, from: From, password: &str) -> Option<Outcome> {
    let place = site.fresh("place").display().to_string();
    let trace = site.path("home/trace").display().to_string();
    let tool = [
        "strace",
        "-f",
        "-qq",
        "-s",
        "4096",
        "-o",
        &trace,
        "-e",
        "trace=execve,umask,open,openat,openat2,creat,mkdir,mkdirat,chmod,fchmod,fchmodat,mknod,mknodat",
        "sh",
        "-c",
        "umask 000; exec \"$@\"",
        "sh",
    ];
    let mut call = site.call_under(&tool, &format!("-vvv {}", command.replace('@', &place)))?;
    call = call.env("PGBAK_SSH_PASSPHRASE", PASSPHRASE).env("RUST_BACKTRACE", "1");
    if from == From::Environment {
        call = call.env("PGPASSWORD", password);
    }
    let outcome = call.run();
    assert!(!outcome.stdout.contains(SECRET) && !outcome.stderr.contains(SECRET), "{from:?}\n{outcome}");
    Some(outcome)
}

/// Whether a process was given a secret, or made something that others might have opened; how many there were.
fn check_trace(site: &Site, outcome: &Outcome) -> usize {
    let programs = site.path("bin");
    wait_until("what was left in the background to end", || {
        crate::support::process::running_from(&programs).is_empty()
    });
    let trace = fs::read_to_string(site.path("home/trace")).unwrap();
    assert!(!trace.contains(SECRET), "{outcome}");
    if outcome.arguments.contains("drill") {
        return 0; // the server's own programs make files of their own
    }
    let is_restore = outcome.arguments.contains("restore");
    let program = format!("execve(\"{}\"", programs.join("pgbak").display());
    let mut own: Vec<&str> = Vec::new();
    let (mut private, mut count) = (Vec::new(), 0);
    for line in trace.lines() {
        let (process, call) = line.split_once(' ').unwrap();
        let call = call.trim_start();
        if call.starts_with("execve(") && call.ends_with(" = 0") {
            own.retain(|other| *other != process);
            if call.starts_with(&program) {
                own.push(process);
                count += 1;
            }
        }
        // Threads of pgbak come without an execve, and with the umask of all.
        let is_foreign = !own.contains(&process) && own.is_empty();
        if is_foreign {
            continue;
        }
        if call.starts_with("umask(") {
            assert!(call.starts_with("umask(077)"), "{line}\n{outcome}");
            private.push(process);
        }
        let creates = call.contains("O_CREAT") || call.starts_with("mkdir") || call.starts_with("creat");
        assert!(!creates || !private.is_empty(), "made before the umask: {line}\n{outcome}");
        // What is restored gets the modes that the server gave it, which are a directory's 0700 or 0750.
        let opens = call.contains("chmod") && !is_restore;
        assert!(!opens || mode(call).is_none_or(|mode| mode & 0o077 == 0), "{line}\n{outcome}");
    }
    count
}

/// The last octal number among a call's arguments.
fn mode(call: &str) -> Option<u32> {
    let arguments = call.split(" = ").next()?.trim_end_matches(')');
    u32::from_str_radix(arguments.rsplit(", ").next()?, 8).ok()
}

fn assert_nothing_holds_a_secret(root: &Path, known: &[PathBuf]) {
    let mut looked_at = 0;
    for entry in
        WalkDir::new(root).into_iter().map(Result::unwrap).filter(|entry| entry.file_type().is_file())
    {
        if known.iter().any(|path| path == entry.path()) {
            continue;
        }
        let content = fs::read(entry.path()).unwrap();
        let found = content.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
        assert!(!found, "{} holds a secret", entry.path().display());
        looked_at += 1;
    }
    assert!(looked_at > 100, "{looked_at}");
}

fn assert_private(root: &Path) {
    for entry in WalkDir::new(root).min_depth(1).into_iter().map(Result::unwrap) {
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", entry.path().display());
    }
}

#[test]
fn what_a_process_knows_is_not_for_its_neighbours_nor_for_a_core_dump() {
    let site = site!(config("[wal]\nsource = \"directory\"\ndirectory = \"/nonexistent/archive\"\n"));
    let running = site.call("status --format json").env("PGPASSWORD", PASSWORD).start();
    drop(running);
    let running = site.call("wal-sync --follow --interval 60").env("PGPASSWORD", PASSWORD).start();
    let environment = format!("/proc/{}/environ", running.process_id());
    // The kernel gives the files of a process that may not be dumped to root.
    let is_closed = || {
        let mut reader = site.identity().command("cat", "KILL");
        !reader.arg(&environment).output().unwrap().status.success()
    };
    wait_until("the environment to be closed", is_closed);
    assert!(Path::new(&environment).exists(), "it runs");
    running.signal(rustix::process::Signal::TERM);
    let _ = running.finish();
}
