//! `examples/`, each held to what it is an example of.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::files_in;
use crate::prose::words;
use crate::support::{skip, wait_until};

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Refuses a call of pgbak that pgbak would refuse.
fn must_parse(place: &str, call: &str) {
    let arguments = words(call);
    assert!(arguments[0].ends_with("pgbak"), "{place}: {call}");
    if let Err(error) = pgbak::cli::description().try_get_matches_from(&arguments) {
        panic!("{place}: `{call}`: {error}");
    }
}

#[test]
fn each_line_of_the_crontab_is_a_time_and_commands_that_pgbak_takes() {
    let mut commands = 0;
    let text = read("examples/crontab");
    let is_entry = |line: &&str| !line.is_empty() && !line.starts_with('#') && !is_assignment(line);
    for line in text.lines().filter(is_entry) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let is_time = |field: &&&str| field.chars().all(|c| c.is_ascii_digit() || "*/,-".contains(c));
        assert_eq!(fields.iter().take_while(is_time).count(), 5, "{line}");
        for call in fields[5..].join(" ").split(';') {
            must_parse("crontab", call.trim());
            commands += 1;
        }
    }
    assert!(commands >= 6);
}

fn is_assignment(line: &str) -> bool {
    let name = line.split('=').next().unwrap();
    line.contains('=') && name.chars().all(|c| c.is_ascii_uppercase())
}

/// The units of the instance `main`, with pgbak where it was built, as systemd will see them.
struct Units {
    directory: tempfile::TempDir,
    names: Vec<String>,
}

impl Units {
    fn instantiated() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut names = Vec::new();
        for template in files_in("examples/systemd", "") {
            let text = read(&format!("examples/systemd/{template}"));
            let text = text.replace("/usr/bin/pgbak", env!("CARGO_BIN_EXE_pgbak"));
            // Both: `OnFailure=` names an instance of a template.
            let name = template.replace("@.", "@main.");
            fs::write(directory.path().join(&template), &text).unwrap();
            fs::write(directory.path().join(&name), &text).unwrap();
            names.push(name);
        }
        Self { directory, names }
    }

    fn verify(&self) -> Output {
        let paths = self.names.iter().map(|name| self.directory.path().join(name));
        Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .args(paths)
            .env("SYSTEMD_UNIT_PATH", format!("{}:", self.directory.path().display()))
            .output()
            .unwrap()
    }
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        skip("there is no systemd-analyze");
        return;
    }
    let units = Units::instantiated();
    let verified = units.verify();
    let complaints = String::from_utf8_lossy(&verified.stderr);
    // What it says of units that are not ours is not ours to mend.
    let ours: Vec<_> = complaints.lines().filter(|line| line.contains("pgbak")).collect();
    assert!(ours.is_empty() && verified.status.success(), "{complaints}");
}

#[test]
fn the_units_are_hardened_call_what_pgbak_has_and_tell_of_failures() {
    for name in files_in("examples/systemd", ".service") {
        let text = read(&format!("examples/systemd/{name}"));
        if name == "pgbak-failed@.service" {
            continue;
        }
        let call = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
        must_parse(&name, call);
        for line in [
            "User=postgres",
            "OnFailure=pgbak-failed@%n.service",
            "ProtectSystem=strict",
            "NoNewPrivileges=yes",
            "StateDirectory=pgbak",
            "UMask=0077",
        ] {
            assert!(text.lines().any(|found| found == line), "{name} lacks {line}");
        }
        let timer = Path::new("examples/systemd").join(name.replace(".service", ".timer"));
        assert!(timer.exists() || name.contains("-follow"), "{name} has no timer");
    }
    let daily = read("examples/systemd/pgbak-base-backup@.timer");
    assert!(daily.contains("\nPersistent=true\n") && daily.contains("\nRandomizedDelaySec="), "{daily}");
    let follow = read("examples/systemd/pgbak-wal-follow@.service");
    assert!(follow.contains("\nType=notify\n") && follow.contains("\nWatchdogSec="), "{follow}");
}

/// The environment variables that the manual lists as configuring pgbak without a file.
fn documented_variables() -> BTreeSet<String> {
    let page = read("man/prose/pgbak.roff");
    let is_variable =
        |word: &str| word.contains('_') && word.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    let mut words: BTreeSet<String> =
        page.split([' ', '\n', '"', ',']).filter(|word| is_variable(word)).map(str::to_owned).collect();
    words.insert("TZ".to_owned());
    words
}

#[test]
fn the_containers_set_only_variables_that_mean_something() {
    let compose = read("examples/docker/docker-compose.db.yml");
    let (_, backup) = compose.split_once("\n  postgres-backup:\n").unwrap();
    let (_, environment) = backup.split_once("    environment:\n").unwrap();
    let settings = environment.lines().take_while(|line| line.starts_with("      "));
    let set: BTreeSet<String> =
        settings.map(|line| line.trim().split(':').next().unwrap().to_owned()).collect();
    let documented = documented_variables();
    assert!(set.is_subset(&documented), "{set:?} {documented:?}");
    for name in ["POSTGRES_HOST", "LOCAL_BACKUP_PATH", "REMOTE_SSH_KEY_PATH", "BACKUP_SCHEDULE"] {
        assert!(set.contains(name), "{name}");
    }
    for line in read("examples/docker/env.example").lines().filter(|line| line.contains('=')) {
        let name = line.split('=').next().unwrap();
        assert!(compose.contains(&format!("${{{name}")), "nothing uses {name}");
    }
    for needed in ["/backup-keys/id_rsa", "test ! -f /archive/%f && cp %p /archive/%f", "  postgres:\n"] {
        assert!(compose.contains(needed), "{needed}");
    }
}

/// A directory whose programs note how they were called.
struct Pretenders {
    directory: tempfile::TempDir,
}

impl Pretenders {
    /// Each is a name and what it does after noting its arguments.
    fn new(programs: &[(&str, &str)]) -> Self {
        let pretenders = Self { directory: tempfile::tempdir().unwrap() };
        for (name, script) in programs {
            let calls = pretenders.path("calls");
            let text = format!("#!/bin/sh\necho {name} \"$@\" >>{}\n{script}\n", calls.display());
            fs::write(pretenders.path(name), text).unwrap();
            fs::set_permissions(pretenders.path(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        pretenders
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn entrypoint(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("/bin/sh");
        command.arg("examples/docker/entrypoint.sh").args(arguments).env_clear();
        command.env("PATH", format!("{}:/usr/bin:/bin", self.directory.path().display()));
        command.env("PGBAK_CRON_FILE", self.path("cron.d"));
        command.env("PGBAK_ENVIRONMENT_FILE", self.path("environment"));
        command
    }

    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

/// Run as root, the entrypoint becomes another user by `setpriv`; here that only passes on.
const SETPRIV: (&str, &str) = ("setpriv", "while [ \"$1\" != -- ]; do shift; done; shift; exec \"$@\"");

fn calls_of_pgbak(pretenders: &Pretenders) -> Vec<String> {
    pretenders.calls().into_iter().filter(|call| call.starts_with("pgbak ")).collect()
}

#[test]
fn the_container_s_night_goes_on_after_findings_and_tells_of_them() {
    let pretenders = Pretenders::new(&[("pgbak", "[ \"$2\" != base-backup ] || exit 3"), SETPRIV]);
    let ended = pretenders.entrypoint(&["backup"]).output().unwrap();
    assert_eq!(ended.status.code(), Some(3));
    let calls = calls_of_pgbak(&pretenders);
    assert_eq!(
        calls,
        ["pgbak --quiet base-backup", "pgbak --quiet prune", "pgbak --quiet verify --quick"]
            .map(str::to_owned)
    );
    calls.iter().for_each(|call| must_parse("entrypoint.sh", call));
}

#[test]
fn the_container_follows_the_wal_leaves_the_schedule_to_cron_and_ends_when_either_does() {
    let pretenders = Pretenders::new(&[("pgbak", "exit 0"), ("cron", "exec sleep 60"), SETPRIV]);
    let mut command = pretenders.entrypoint(&["run"]);
    command.env("BACKUP_SCHEDULE", "5 1 * * 1-5").env("WAL_SYNC_INTERVAL", "7");
    command.env("POSTGRES_PASSWORD", "it's $ecret");
    let ended = command.output().unwrap();
    assert_eq!(ended.status.code(), Some(1), "{}", String::from_utf8_lossy(&ended.stderr));
    let calls = calls_of_pgbak(&pretenders);
    assert_eq!(calls, ["pgbak wal-sync --follow --interval 7"]);
    must_parse("entrypoint.sh", &calls[0]);
    assert!(pretenders.calls().contains(&"cron -f".to_owned()));

    let crontab = fs::read_to_string(pretenders.path("cron.d")).unwrap();
    assert!(crontab.starts_with("5 1 * * 1-5 root . "), "{crontab}");
    assert!(crontab.contains("entrypoint.sh backup >/proc/1/fd/1 2>/proc/1/fd/2\n"), "{crontab}");
    // The job has the container's variables, whatever they hold, and nobody else may read them.
    let mode = fs::metadata(pretenders.path("environment")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let script = format!(". {}; printf %s \"$POSTGRES_PASSWORD\"", pretenders.path("environment").display());
    let output = Command::new("/bin/sh").args(["-c", &script]).env_clear().output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "it's $ecret");
}

#[test]
fn a_container_that_is_stopped_passes_the_wish_on_to_pgbak() {
    let stops = "trap 'kill $!; echo pgbak was told >>${0%/*}/calls; exit 143' TERM\n\
                 sleep 60 & echo pgbak is ready >>${0%/*}/calls; wait";
    let pretenders = Pretenders::new(&[("pgbak", stops), ("cron", "exec sleep 60"), SETPRIV]);
    let mut container = pretenders.entrypoint(&["run"]).spawn().unwrap();
    wait_until("pgbak to work", || pretenders.calls().contains(&"pgbak is ready".to_owned()));
    let told = Command::new("kill").args(["-TERM", &container.id().to_string()]).status().unwrap();
    assert!(told.success());
    wait_until("the container to end", || container.try_wait().unwrap().is_some());
    assert_eq!(container.wait().unwrap().code(), Some(143));
    assert!(pretenders.calls().contains(&"pgbak was told".to_owned()), "{:?}", pretenders.calls());
}

#[test]
fn the_container_is_asked_for_its_health_and_takes_other_commands() {
    let pretenders = Pretenders::new(&[("pgbak", "exit 2"), SETPRIV]);
    assert_eq!(pretenders.entrypoint(&["healthy"]).output().unwrap().status.code(), Some(2));
    pretenders.entrypoint(&["pgbak", "status", "--json"]).output().unwrap();
    let calls = calls_of_pgbak(&pretenders);
    assert_eq!(calls, ["pgbak status --format nagios", "pgbak status --json"].map(str::to_owned));
    calls.iter().for_each(|call| must_parse("entrypoint.sh", call));
}

/// Everything that looks like a metric of ours in a text.
fn metrics(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_name(c)).filter(|word| word.starts_with("pgbak_"));
    words.map(str::to_owned).collect()
}

#[test]
fn alerts_and_dashboard_ask_for_metrics_that_status_gives() {
    let given = metrics(&read("src/cli/status/prometheus.rs"));
    for path in ["examples/prometheus/alerts.yml", "examples/prometheus/dashboard.json"] {
        let asked = metrics(&read(path));
        assert!(asked.len() >= 5, "{path}: {asked:?}");
        let unknown: Vec<_> = asked.difference(&given).collect();
        assert!(unknown.is_empty(), "{path} asks for {unknown:?}");
    }
    let dashboard: serde_json::Value =
        serde_json::from_str(&read("examples/prometheus/dashboard.json")).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() > 5);
    let alerts = read("examples/prometheus/alerts.yml");
    let each = |key: &str| alerts.lines().filter(|line| line.trim_start().starts_with(key)).count();
    assert!(each("- alert:") > 3 && each("- alert:") == each("expr:"));
    assert_eq!(each("- alert:"), each("summary:"));
}

#[test]
fn the_monitoring_calls_pgbak_as_it_can_be_called() {
    for (path, call) in [
        ("examples/nagios.cfg", "pgbak status --format nagios"),
        ("examples/prometheus/textfile.cron", "pgbak status --format prometheus"),
    ] {
        assert!(read(path).contains(call), "{path}");
        must_parse(path, call);
    }
}
