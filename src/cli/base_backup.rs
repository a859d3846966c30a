//! `pgbak base-backup`: flags in, one operation, report out.

use std::time::Duration;

use super::copy_missing;
use super::exit::{self, Exit};
use super::failure::Failure;
use super::output::ReportFlag;
use super::session::{Session, check_repositories};
use super::table::{self, Align};
use super::time::Zone;
use super::units;
use crate::config::{self, Config};
use crate::ops;
use crate::ops::base_backup::{self, Report, Request};
use crate::pg::ServerVersion;
use crate::pipe::Compression;

/// Take a base backup and store it in every repository
///
/// Streams the whole cluster from the server once, over the replication protocol, and writes it to all repositories
/// at the same time, with the WAL that makes it consistent. Each backup can be restored on its own, also by hand.
///
/// A repository that fails does not stop the others, and one at the other end of a slow link does not slow them: what
/// it could not take in time is copied to it afterwards. `--copy-missing` makes up for one that was away.
///
/// Nothing is left behind by a run that is interrupted, but
/// what the next run cleans up.
#[derive(Debug, clap::Args)]
#[command(after_long_help = help())]
pub struct BaseBackup {
    /// Describe the backup, for those who choose one later
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,

    /// Store in this repository only (repeatable) [default: all]
    #[arg(long = "repository", value_name = "NAME")]
    repositories: Vec<String>,

    /// Read no faster than this per second, such as 200MB
    #[arg(long, value_name = "RATE")]
    max_rate: Option<config::Rate>,

    /// zstd, gzip, lz4 or none, with a level if wanted, such as zstd:6
    #[arg(long, value_name = "CODEC[:LEVEL]")]
    compression: Option<Compression>,

    /// How the server makes its checkpoint first
    #[arg(long, value_name = "MODE")]
    checkpoint: Option<Checkpoint>,

    /// Take no new backup, but copy to each repository the backups that it lacks
    #[arg(long, conflicts_with_all = ["label", "max_rate", "compression", "checkpoint"])]
    copy_missing: bool,

    #[command(flatten)]
    report: ReportFlag,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Checkpoint {
    /// At once, at the price of a burst of writes
    Fast,
    /// Over some minutes, as the server's own checkpoints
    Spread,
}

fn help() -> String {
    exit::help(
        "  pgbak base-backup --label \"before the upgrade\"",
        &[
            ("0", "done: the backup is safe in every repository"),
            exit::FAILED,
            exit::USAGE,
            ("3", "done, but a repository failed or pages are damaged"),
            exit::LOCKED,
            exit::INTERRUPTED,
        ],
    )
}

impl BaseBackup {
    pub fn run(self, session: &mut Session<'_>) -> Result<Exit, Failure> {
        let format = self.report.format();
        if self.copy_missing {
            check_repositories(&self.repositories, session.context.config)?;
            let request = ops::copy_missing::Request { repositories: self.repositories };
            return copy_missing::run(session, &request, format);
        }
        let request = self.request(session.context.config)?;
        let report = session.with_progress("base backup", |context| base_backup::run(context, &request))?;
        let exit = if report.has_findings() { Exit::FINDINGS } else { Exit::DONE };
        session.report(&report, format, exit, render)
    }

    /// What the flags leave open is as the configuration has it.
    fn request(self, config: &Config) -> Result<Request, Failure> {
        check_repositories(&self.repositories, config)?;
        if let Some(label) = self.label.as_ref().filter(|label| label.chars().any(char::is_control)) {
            return Err(Failure::usage(
                format!("the label {label:?} has control characters in it"),
                "A label is one line of text, as it becomes a line of the backup's backup_label file.",
            ));
        }
        Ok(Request {
            label: self.label,
            repositories: self.repositories,
            max_rate: self.max_rate.map(|rate| rate.0).or(config.backup.max_rate),
            compression: self.compression.unwrap_or(config.backup.compression),
            checkpoint: self.checkpoint.map_or(config.backup.checkpoint, Checkpoint::into),
        })
    }
}

impl From<Checkpoint> for config::Checkpoint {
    fn from(checkpoint: Checkpoint) -> Self {
        match checkpoint {
            Checkpoint::Fast => Self::Fast,
            Checkpoint::Spread => Self::Spread,
        }
    }
}

/// A checksum failure is reported for each page; so many are enough to see where the trouble is.
const DAMAGED_PAGES_SHOWN: usize = 10;

fn render(report: &Report, zone: &dyn Zone) -> String {
    let mut text = format!("{}: {}\n", report.name, summary(report));
    text.push_str(&table::lines("  ", [Align::Left, Align::Left], &facts(report, zone)));
    text.push_str(&outcomes(report));
    if !report.damaged_pages.is_empty() {
        let count = units::count(report.damaged_pages.len() as u64, "message");
        text.push_str(&format!("DAMAGED: the server found pages with a wrong checksum ({count})\n"));
        for message in report.damaged_pages.iter().take(DAMAGED_PAGES_SHOWN) {
            text.push_str(&format!("  {message}\n"));
        }
        if let Some(more @ 1..) = report.damaged_pages.len().checked_sub(DAMAGED_PAGES_SHOWN) {
            text.push_str(&format!("  and {more} more, which --json lists\n"));
        }
    }
    text
}

fn summary(report: &Report) -> String {
    let stored = report.repositories.iter().filter(|outcome| outcome.error.is_none()).count();
    match (stored, report.repositories.len()) {
        (stored, all) if stored == all => "stored in every repository".to_owned(),
        (stored, all) => format!("stored in {stored} of {all} repositories"),
    }
}

fn facts(report: &Report, zone: &dyn Zone) -> Vec<[String; 2]> {
    let duration = Duration::try_from_secs_f64(report.duration_seconds).unwrap_or_default();
    let rate = units::rate(report.size_bytes, duration).map(|rate| format!(", {rate}")).unwrap_or_default();
    let fact = |name: &str, value: String| [name.to_owned(), value];
    let mut facts = vec![
        fact("size", size(report)),
        fact("duration", format!("{}{rate}", units::span(duration))),
        fact("taken", format!("from {}", zone.show_seconds(report.started_at))),
        fact("", format!("to   {}", zone.show_seconds(report.stopped_at))),
        fact("WAL", format!("{} to {} on timeline {}", report.start_lsn, report.stop_lsn, report.timeline)),
        fact(
            "cluster",
            format!("{}, PostgreSQL {}", report.system_identifier, ServerVersion(report.server_version)),
        ),
    ];
    if !report.label.is_empty() {
        facts.push(fact("label", report.label.clone()));
    }
    facts
}

/// `12.3 GB, stored as 3.40 GB (28 %)`
fn size(report: &Report) -> String {
    let (size, stored) = (report.size_bytes, report.stored_bytes);
    let share = match size {
        0 => String::new(),
        _ => format!(" ({:.0} %)", stored as f64 / size as f64 * 100.0),
    };
    format!("{}, stored as {}{share}", units::size(size), units::size(stored))
}

fn outcomes(report: &Report) -> String {
    let mut text = String::new();
    for outcome in &report.repositories {
        match &outcome.error {
            None => text.push_str(&format!("{}: stored\n", outcome.repository)),
            Some(error) => text.push_str(&format!("{}: FAILED: {error}\n", outcome.repository)),
        }
        if let Some(hint) = &outcome.hint {
            text.push_str(&format!("  hint: {hint}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, FixedOffset};

    use super::*;
    use crate::ops::base_backup::RepositoryOutcome;

    fn report() -> Report {
        let at = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().into();
        let outcome =
            |repository: &str| RepositoryOutcome { repository: repository.into(), error: None, hint: None };
        Report {
            name: "base_backup_20261122_020000".into(),
            label: "nightly".into(),
            system_identifier: "7439122314155001234".into(),
            server_version: 150_018,
            timeline: 1,
            start_lsn: "0/2000028".into(),
            stop_lsn: "0/2000138".into(),
            started_at: at("2026-11-22T02:00:00Z"),
            stopped_at: at("2026-11-22T02:01:02.25Z"),
            size_bytes: 12_345_678_901,
            stored_bytes: 3_400_000_000,
            duration_seconds: 62.4,
            repositories: vec![outcome("local"), outcome("remote")],
            damaged_pages: vec![],
        }
    }

    fn rendered(report: &Report) -> String {
        render(report, &FixedOffset::east_opt(3600).unwrap())
    }

    #[test]
    fn a_good_backup_is_summed_up() {
        let text = "\
base_backup_20261122_020000: stored in every repository
  size      12.3 GB, stored as 3.40 GB (28 %)
  duration  1 min 2 s, 198 MB/s
  taken     from 2026-11-22 03:00:00+01:00
            to   2026-11-22 03:01:02+01:00
  WAL       0/2000028 to 0/2000138 on timeline 1
  cluster   7439122314155001234, PostgreSQL 15.18
  label     nightly
local: stored
remote: stored
";
        assert_eq!(rendered(&report()), text);
    }

    #[test]
    fn a_repository_that_failed_and_damaged_pages_stand_out() {
        let mut report = report();
        report.repositories[1].error = Some("could not commit \"x\": no space left on device".into());
        report.repositories[1].hint = Some("Free space.".into());
        report.damaged_pages = (0..12).map(|block| format!("checksum failure in block {block}")).collect();
        let text = rendered(&report);
        assert!(text.starts_with("base_backup_20261122_020000: stored in 1 of 2 repositories\n"), "{text}");
        assert!(
            text.contains(
                "\nremote: FAILED: could not commit \"x\": no space left on device\n  hint: Free space.\n"
            ),
            "{text}"
        );
        assert!(
            text.contains("\nDAMAGED: the server found pages with a wrong checksum (12 messages)\n"),
            "{text}"
        );
        assert!(
            text.ends_with("  checksum failure in block 9\n  and 2 more, which --json lists\n"),
            "{text}"
        );
    }

    #[test]
    fn an_empty_cluster_divides_nothing_by_zero() {
        let report = Report { size_bytes: 0, duration_seconds: 0.0, ..report() };
        assert!(rendered(&report).contains("  size      0 B, stored as 3.40 GB\n  duration  0.0 s\n"));
    }
}
