//! The command line as scripts and people meet it: words, exit codes, streams. No cluster is needed here.

#![allow(clippy::unwrap_used, reason = "all of this is tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::{Pid, Signal, kill_process};

const COMMANDS: [&str; 7] =
    ["base-backup", "wal-sync", "restore", "verify", "status", "wal-push", "wal-fetch"];

/// Central European time, spelt out so that no time zone files are needed.
const BERLIN: &str = "CET-1CEST,M3.5.0,M10.5.0/3";

/// An empty directory to run in, with a configuration.
struct Desk {
    directory: tempfile::TempDir,
}

struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Desk {
    fn new() -> Self {
        let desk = Self { directory: tempfile::tempdir().unwrap() };
        fs::create_dir(desk.path("repository")).unwrap();
        let repository = desk.path("repository");
        desk.write(
            "pgbak.toml",
            &format!("[[repository]]\nname = \"local\"\npath = \"{}\"\n", repository.display()),
        );
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Nothing of the tester's environment gets in.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgbak"));
        command
            .args(arguments)
            .env_clear()
            .env("TZ", BERLIN)
            .env("PGBAK_STATE_DIRECTORY", self.path("state"))
            .current_dir(self.directory.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs with the desk's configuration.
    fn pgbak(&self, arguments: &[&str]) -> Ended {
        end(self.command(arguments).env("PGBAK_CONFIG", self.path("pgbak.toml")))
    }
}

fn end(command: &mut Command) -> Ended {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

impl Ended {
    #[track_caller]
    fn exits(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// The whole of the standard error.
    #[track_caller]
    fn says(&self, stderr: &str) -> &Self {
        assert_eq!(self.stderr, stderr, "stdout: {}", self.stdout);
        self
    }

    #[track_caller]
    fn mentions(&self, words: &str) -> &Self {
        assert!(self.stderr.contains(words), "{words}\nis not in:\n{}", self.stderr);
        self
    }
}

#[test]
fn each_command_s_help_has_an_example_and_the_exit_codes() {
    let desk = Desk::new();
    for command in COMMANDS {
        let help = desk.pgbak(&[command, "--help"]);
        help.exits(0).says("");
        let (_, example) = help.stdout.split_once("\nExample:\n").expect("an example");
        assert!(example.lines().next().unwrap().contains(&format!("pgbak {command}")), "{example}");
        let (_, codes) = example.split_once("\nExit codes:\n").expect("exit codes");
        assert!(codes.contains("  0        "), "{codes}");
        let error = if command == "wal-fetch" { "  200      " } else { "  2        wrong usage" };
        assert!(codes.contains(error), "{codes}");
    }
}

#[test]
fn the_program_s_help_lists_the_commands_of_people_before_those_of_postgresql() {
    let desk = Desk::new();
    let help = desk.pgbak(&["--help"]);
    help.exits(0);
    let places: Vec<_> =
        COMMANDS.iter().map(|name| help.stdout.find(&format!("\n  {name} ")).expect(name)).collect();
    assert!(places.is_sorted(), "{}", help.stdout);
    assert!(help.stdout.contains("\nExit codes:\n"));
    assert!(!help.stdout.contains("wal-fetch-ahead"), "what is internal is not shown");

    let bare = desk.pgbak(&[]);
    bare.exits(2).mentions("\n  base-backup ");
    assert_eq!(bare.stdout, "");
}

#[test]
fn the_version_is_told_without_a_configuration() {
    let version = end(Desk::new().command(&["--version"]).env("PGBAK_CONFIG", "/nowhere"));
    version.exits(0).says("");
    assert_eq!(version.stdout, format!("pgbak {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_is_one_line_and_a_hint() {
    let desk = Desk::new();
    desk.pgbak(&["restore", "--dryrun"]).exits(2).says(
        "pgbak: error: unexpected argument '--dryrun' found\n\
         hint: A similar argument exists: '--dry-run'. See `pgbak restore --help`.\n",
    );
    desk.pgbak(&["wal-push"]).exits(2).says(
        "pgbak: error: the following required arguments were not provided: <PATH>\n\
         hint: See `pgbak wal-push --help`.\n",
    );
    desk.pgbak(&["restore", "--target-xid", "7", "--target-immediate"]).exits(2).says(
        "pgbak: error: the argument '--target-xid <XID>' cannot be used with '--target-immediate'\n\
         hint: See `pgbak restore --help`.\n",
    );
    desk.pgbak(&["restore", "--target-lsn", "16"]).exits(2).mentions("\"16\" is not a WAL location");
    desk.pgbak(&["base-backup", "--max-rate", "fast"]).exits(2).mentions("\"fast\" is not a rate");
    desk.pgbak(&["base-backup", "--compression", "zstd:99"]).exits(2).mentions("is not a compression");
    desk.pgbak(&["statsu"]).exits(2).mentions("hint: A similar subcommand exists: 'status'.");
    let hint = "hint: A similar value exists: 'nagios'. See `pgbak status --help`.";
    desk.pgbak(&["status", "--format", "nagois"]).exits(2).mentions(hint);
    desk.pgbak(&["-q", "-v", "status"]).exits(2);
    desk.pgbak(&["prune", "--pitr-window", "7"]).exits(2).mentions("\"7\" is not a span of time");
    desk.pgbak(&["shred"]).exits(2);
}

#[test]
fn wrong_usage_can_be_told_as_json() {
    let ended = Desk::new().pgbak(&["--log-format", "json", "status", "--bogus"]);
    let line: serde_json::Value = serde_json::from_str(&ended.exits(2).stderr).unwrap();
    assert_eq!(line["level"], "error");
    assert_eq!(line["message"], "unexpected argument '--bogus' found");
    assert_eq!(line["hint"], "See `pgbak status --help`.");
}

#[test]
fn what_the_flags_mean_is_checked_against_the_configuration() {
    let desk = Desk::new();
    for command in ["base-backup", "restore", "verify"] {
        desk.pgbak(&[command, "--repository", "far"]).exits(2).says(
            "pgbak: error: --repository: no repository is named \"far\"\nhint: The repositories are: local.\n",
        );
    }
    desk.pgbak(&["restore"]).exits(2).says(
        "pgbak: error: no directory to restore into is given\n\
         hint: Use -D DIR, or set postgres.data_directory in the configuration.\n",
    );
    desk.pgbak(&["restore", "-D", "x", "--target-exclusive"]).exits(2).mentions("nothing to exclude");
}

#[test]
fn an_unknown_key_in_the_configuration_is_named_with_its_line() {
    let desk = Desk::new();
    desk.write("pgbak.toml", "[retention]\nkeep_last = 3\nkeep_dayly = 7\n");
    let file = desk.path("pgbak.toml");
    desk.pgbak(&["status"]).exits(2).says(&format!(
        "pgbak: error: {}, line 3: unknown key \"keep_dayly\" in [retention]\n\
         hint: Did you mean \"keep_daily\"?\n",
        file.display()
    ));
}

#[test]
fn a_configuration_that_cannot_be_read_is_wrong_usage() {
    let desk = Desk::new();
    desk.pgbak(&["--config", "gone.toml", "status"])
        .exits(2)
        .mentions("gone.toml: No such file or directory");
    desk.pgbak(&["status", "--config", "/"]).exits(2).mentions("could not read the configuration /: ");
}

#[test]
fn without_a_configuration_the_hint_shows_one() {
    // Whether the machine has one of its own is not ours to say.
    if Path::new("/etc/pgbak/pgbak.toml").exists() {
        return;
    }
    let ended = end(&mut Desk::new().command(&["status"]));
    ended.exits(2).mentions("pgbak: error: there is no configuration: ").mentions("\n[[repository]]\n");
}

#[test]
fn nothing_wrong_with_a_fetch_looks_like_the_end_of_the_archive() {
    let desk = Desk::new();
    for arguments in [
        &["wal-fetch"][..],
        &["wal-fetch", "000000010000000000000001"],
        &["wal-fetch", "--bogus", "000000010000000000000001", "x"],
        &["--bogus", "wal-fetch", "000000010000000000000001", "x"],
        &["--config", "wal-fetch", "000000010000000000000001", "x"],
        &["wal-fetch", "a", "b", "c"],
        &["--config", "gone.toml", "wal-fetch", "000000010000000000000001", "x"],
        // Misspelt in postgresql.conf.
        &["walfetch", "000000010000000000000001", "x"],
        &["wal_fetch", "000000010000000000000001", "x"],
    ] {
        let ended = desk.pgbak(arguments);
        ended.exits(200).mentions("pgbak: error: ");
        assert!(!desk.path("x").exists());
    }
    desk.write("pgbak.toml", "nonsense");
    desk.pgbak(&["wal-fetch", "000000010000000000000001", "x"])
        .exits(200)
        .mentions("pgbak.toml, line 1, column ");
}

#[test]
fn a_monitoring_system_is_told_on_stdout_that_nothing_is_known() {
    let desk = Desk::new();
    for arguments in [
        &["status", "--format", "nagios", "--bogus"][..],
        &["status", "--format=nagios", "--json"],
        &["status", "--format=nagios", "--config", "gone.toml"],
    ] {
        let ended = desk.pgbak(arguments);
        ended.exits(3).mentions("pgbak: error: ");
        assert!(ended.stdout.starts_with("PGBAK UNKNOWN - "), "{}", ended.stdout);
        assert_eq!(ended.stdout.lines().count(), 1);
    }
    desk.pgbak(&["status", "--format", "prometheus", "--config", "gone.toml"]).exits(2);
}

#[test]
fn a_target_time_without_offset_is_local_and_echoed_with_its_offset() {
    let desk = Desk::new();
    let restore = |time| desk.pgbak(&["restore", "-D", "x", "--dry-run", "--target-time", time]);
    restore("2026-11-22 02:00").mentions("the target time is 2026-11-22 02:00:00+01:00\n");
    restore("2026-07-22T02:00:00.123456").mentions("the target time is 2026-07-22 02:00:00.123456+02:00\n");
    assert!(!restore("2026-11-22 02:00Z").stderr.contains("the target time is"));
}

#[test]
fn a_target_time_that_was_twice_or_never_is_refused() {
    let desk = Desk::new();
    let restore = |time| desk.pgbak(&["restore", "-D", "x", "--dry-run", "--target-time", time]);
    restore("2026-10-25 02:30").exits(2).says(
        "pgbak: error: --target-time: \"2026-10-25 02:30\" was twice on the clock here, as it was set back: \
         at 2026-10-25 02:30:00+02:00 and at 2026-10-25 02:30:00+01:00\n\
         hint: Give the offset: \"2026-10-25 02:30:00+02:00\" or \"2026-10-25 02:30:00+01:00\".\n",
    );
    restore("2026-03-29 02:30").exits(2).mentions("was never on the clock here");
    restore("yesterday").exits(2).mentions("\"yesterday\" is not a time\nhint: Write it as");
}

#[test]
fn a_second_signal_ends_the_run_at_once() {
    let desk = Desk::new();
    // A configuration that is a pipe: opening its other end waits until pgbak has begun to read it.
    let pipe = desk.path("pipe");
    mkfifoat(CWD, &pipe, Mode::RWXU).unwrap();
    let mut pgbak = desk.command(&["status", "--config", "pipe"]).stderr(Stdio::piped()).spawn().unwrap();
    let writer = fs::File::options().write(true).open(&pipe).unwrap();
    // Two kinds, as two of one kind may arrive as one.
    for signal in [Signal::INT, Signal::TERM] {
        kill_process(Pid::from_child(&pgbak), signal).unwrap();
    }
    // If the signals did not end it, an empty configuration would: with 2.
    drop(writer);
    let code = pgbak.wait().unwrap().code();
    assert!(matches!(code, Some(130 | 143)), "{code:?}");
}

#[test]
fn a_reader_that_has_seen_enough_ends_nothing_badly() {
    let desk = Desk::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = desk.command(&["--help"]).stdout(writer).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}
