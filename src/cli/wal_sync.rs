//! `pgbak wal-sync`: one round, or round after round; a report for each.

use std::ops::ControlFlow;
use std::time::Duration;

use super::exit::{self, Exit};
use super::failure::{self, Failure};
use super::output::{ReportFlag, ReportFormat, printable};
use super::session::{Session, Volume};
use super::systemd::Systemd;
use super::time::Zone;
use super::units;
use crate::ops;
use crate::ops::wal_sync::{self, Finding, Missing, Report, RepositoryReport, StreamReport};

/// Between two rounds, unless something else is said.
const INTERVAL_DEFAULT_SECONDS: u32 = 60;
/// What says so where the configuration comes from environment variables.
const INTERVAL_VARIABLE: &str = "WAL_SYNC_INTERVAL";

/// Bring every repository up to date with the WAL
///
/// Collects what archive_command has put into wal.directory, if wal.source is "directory"; receives what the server
/// has written up to now, if it is "stream", through a replication slot that it makes; and copies between the
/// repositories until each has every segment and every history. What is copied is checked on the way, and the server
/// need not run for that.
///
/// The segment that the server is still writing is streamed, too, and stored in parts, which go when the segment is
/// whole. With --follow, what is committed is durable in the repositories of wal.push_to a few milliseconds later, and
/// only that is confirmed to the server: pgbak can be a synchronous standby, by the name in application_name.
///
/// A file that is still being copied into the directory is left for the next run. A repository that fails does not
/// stop the others; the next run brings it up to date.
#[derive(Debug, clap::Args)]
#[command(after_long_help = help())]
pub struct WalSync {
    /// Go on until interrupted, stream all the time, and report each round that did something or found something new
    #[arg(long)]
    follow: bool,

    /// Seconds from the end of a round to the next [default: 60]
    #[arg(long, value_name = "SECONDS", requires = "follow", value_parser = clap::value_parser!(u32).range(1..))]
    interval: Option<u32>,

    #[command(flatten)]
    report: ReportFlag,
}

fn help() -> String {
    exit::help(
        "  pgbak wal-sync --follow --interval 30",
        &[
            ("0", "done: every repository is up to date"),
            ("1", "failed: nothing could be done"),
            exit::USAGE,
            ("3", "done, but a repository failed, or WAL is missing, damaged or not what its name says"),
            exit::LOCKED,
            exit::INTERRUPTED,
        ],
    )
}

impl WalSync {
    pub fn run(self, session: &mut Session<'_>) -> Result<Exit, Failure> {
        let format = self.report.format();
        if self.follow {
            let interval = self.interval(session)?;
            return follow(session, interval, format);
        }
        let report = session.with_progress("wal-sync", wal_sync::run)?;
        let exit = if report.has_findings() { Exit::FINDINGS } else { Exit::DONE };
        session.report(&report, format, exit, render)
    }

    fn interval(&self, session: &Session<'_>) -> Result<Duration, Failure> {
        let context = &session.context;
        let variable = (context.environment)(INTERVAL_VARIABLE).filter(|value| !value.is_empty());
        let seconds = match (self.interval, variable) {
            (Some(seconds), _) => seconds,
            (None, Some(text)) if context.config.file.is_none() => {
                text.parse().ok().filter(|&seconds| seconds > 0).ok_or_else(|| {
                    let message = format!(
                        "environment variable {INTERVAL_VARIABLE}: \"{text}\" is not a number of seconds"
                    );
                    Failure::usage(message, "Set it to a whole number from 1 on, such as 60.")
                })?
            }
            _ => INTERVAL_DEFAULT_SECONDS,
        };
        Ok(Duration::from_secs(seconds.into()))
    }
}

fn follow(session: &mut Session<'_>, interval: Duration, format: ReportFormat) -> Result<Exit, Failure> {
    let Session { context, output, volume, log, zone, .. } = session;
    let mut before = Told::Nothing;
    let mut broken: Option<Failure> = None;
    let systemd = Systemd::find(context.environment, context.meter);
    systemd.is_ready();
    wal_sync::follow(context, interval, &mut |round| {
        let now = Told::of(&round);
        let is_news = now != before || round.as_ref().is_ok_and(|report| report.files_copied() > 0);
        let printed = match &round {
            _ if !is_news => Ok(()),
            Err(error) => {
                let failure = failure::one_line(error);
                log.error(&failure, error.hint().as_deref());
                Ok(())
            }
            Ok(report) => match format {
                ReportFormat::Json => print_line(output, &serde_json::to_string(report)),
                ReportFormat::Text if *volume == Volume::Quiet && !report.has_findings() => Ok(()),
                ReportFormat::Text => output.print(&printable(&line(report, *zone))),
            },
        };
        before = now;
        systemd.rests(interval, &status_line(&round));
        match printed {
            Ok(()) => ControlFlow::Continue(()),
            Err(failure) => {
                broken = Some(failure);
                ControlFlow::Break(())
            }
        }
    })?;
    broken.map_or(Ok(Exit::DONE), Err)
}

/// What `systemctl status` shows.
fn status_line(round: &Result<Report, ops::Error>) -> String {
    match round {
        Err(error) => failure::one_line(error),
        Ok(report) if report.has_findings() => "the last round had findings".to_owned(),
        Ok(report) => format!(
            "every repository was up to date at {}",
            report.started_at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
        ),
    }
}

fn print_line(
    output: &mut super::output::Output<'_>,
    text: &Result<String, serde_json::Error>,
) -> Result<(), Failure> {
    match text {
        Ok(text) => output.print(&format!("{text}\n")),
        Err(error) => Err(Failure::Output(std::io::Error::other(error.to_string()))),
    }
}

/// What a round had to say, to see whether the next says anything else.
#[derive(PartialEq)]
enum Told {
    Nothing,
    Findings(Vec<Finding>, Vec<Missing>),
    Failure(String),
}

impl Told {
    fn of(round: &Result<Report, ops::Error>) -> Self {
        match round {
            Err(error) => Self::Failure(error.to_string()),
            Ok(report) if !report.has_findings() => Self::Nothing,
            Ok(report) => {
                let missing = report.repositories.iter().flat_map(|repository| &repository.missing);
                Self::Findings(report.findings.clone(), missing.cloned().collect())
            }
        }
    }
}

fn render(report: &Report, _zone: &dyn Zone) -> String {
    let mut text = String::new();
    if report.files_copied() == 0 && !report.has_findings() {
        text.push_str("every repository is up to date\n");
    }
    if let Some(StreamReport { durable_lsn: Some(lsn), timeline: Some(timeline), segments_stored, .. }) =
        &report.stream
    {
        let segments = units::count(*segments_stored, "segment");
        text.push_str(&format!("streamed: up to {lsn} on timeline {timeline}, {segments} finished\n"));
    }
    for repository in &report.repositories {
        if repository.files_copied > 0 {
            text.push_str(&format!("{}: {}\n", repository.name, copied(repository)));
        }
        for missing in &repository.missing {
            text.push_str(&format!("{}: MISSING {}\n", repository.name, missing_in_words(missing)));
        }
    }
    for waiting in &report.waiting {
        text.push_str(&format!("waiting for {}: {}\n", waiting.name, waiting.reason));
    }
    if !report.findings.is_empty() {
        text.push_str(&format!("{}:\n", units::count(report.findings.len() as u64, "finding")));
    }
    for finding in &report.findings {
        text.push_str(&format!("  {}\n", finding_in_words(finding)));
        if let Some(hint) = &finding.hint {
            text.push_str(&format!("    hint: {hint}\n"));
        }
    }
    text
}

/// A whole round on one line, for those who follow.
fn line(report: &Report, zone: &dyn Zone) -> String {
    let mut parts = Vec::new();
    for repository in &report.repositories {
        if repository.files_copied > 0 {
            parts.push(format!("{}: {}", repository.name, copied(repository)));
        }
        let missing = repository.missing.iter();
        parts.extend(
            missing.map(|missing| format!("{}: MISSING {}", repository.name, missing_in_words(missing))),
        );
    }
    parts.extend(report.findings.iter().map(finding_in_words));
    if parts.is_empty() {
        parts.push("every repository is up to date".to_owned());
    }
    format!("{} {}\n", zone.show_seconds(report.started_at), parts.join("; ").replace('\n', " "))
}

/// `5 files from first (16.2 MB), 1 file from directory (3.1 MB)`
fn copied(repository: &RepositoryReport) -> String {
    let part = |part: &wal_sync::CopiedFrom| {
        let origin = if part.from == "directory" { "the directory" } else { &part.from };
        format!("{} from {origin} ({})", units::count(part.files, "file"), units::size(part.bytes))
    };
    repository.copied_from.iter().map(part).collect::<Vec<_>>().join(", ")
}

fn missing_in_words(missing: &Missing) -> String {
    let Missing { first, last, files, reason, .. } = missing;
    match files {
        1 => format!("{first}: {reason}"),
        _ => format!("{first} to {last} ({files} files): {reason}"),
    }
}

fn finding_in_words(finding: &Finding) -> String {
    let whose = finding.repository.as_ref().map(|name| format!("{name}: ")).unwrap_or_default();
    format!("{whose}{} [{}]", finding.message, finding.code)
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, FixedOffset};

    use super::*;
    use crate::ops::wal_sync::{CopiedFrom, Waiting};

    fn repository(name: &str, parts: &[(&str, u64, u64)]) -> RepositoryReport {
        let part = |&(from, files, bytes): &(&str, u64, u64)| CopiedFrom { from: from.into(), files, bytes };
        RepositoryReport {
            name: name.into(),
            place: format!("/{name}"),
            error: None,
            hint: None,
            files_copied: parts.iter().map(|part| part.1).sum(),
            bytes_copied: parts.iter().map(|part| part.2).sum(),
            copied_from: parts.iter().map(part).collect(),
            missing: Vec::new(),
        }
    }

    fn report(repositories: Vec<RepositoryReport>) -> Report {
        Report {
            started_at: DateTime::parse_from_rfc3339("2026-11-22T02:00:00Z").unwrap().into(),
            duration_seconds: 0.5,
            source: "push",
            stream: None,
            repositories,
            waiting: vec![],
            findings: vec![],
        }
    }

    fn zone() -> FixedOffset {
        FixedOffset::east_opt(3600).unwrap()
    }

    fn with_findings() -> Report {
        let mut report = report(vec![
            repository("first", &[("directory", 2, 9_810_000)]),
            repository("second", &[("first", 1, 3_000_000)]),
        ]);
        report.repositories[1].missing.push(Missing {
            system_identifier: "7".into(),
            first: "000000010000000000000002".into(),
            last: "000000010000000000000003".into(),
            files: 2,
            reason: "the repository dropped out".into(),
        });
        report.findings.push(Finding {
            code: "repository-failed",
            repository: Some("second".into()),
            message: "could not commit \"x\" in /second: no space left on device".into(),
            hint: Some("Free space.".into()),
        });
        report
    }

    #[test]
    fn all_is_well_in_one_line() {
        let report = report(vec![repository("first", &[]), repository("second", &[])]);
        assert_eq!(render(&report, &zone()), "every repository is up to date\n");
        assert_eq!(line(&report, &zone()), "2026-11-22 03:00:00+01:00 every repository is up to date\n");
    }

    #[test]
    fn what_was_copied_and_what_is_missing_is_told_with_the_reason() {
        let mut report = with_findings();
        report
            .waiting
            .push(Waiting { name: "000000010000000000000009".into(), reason: "it is short".into() });
        assert_eq!(
            render(&report, &zone()),
            "first: 2 files from the directory (9.81 MB)\n\
             second: 1 file from first (3.00 MB)\n\
             second: MISSING 000000010000000000000002 to 000000010000000000000003 (2 files): the repository dropped out\n\
             waiting for 000000010000000000000009: it is short\n\
             1 finding:\n  \
               second: could not commit \"x\" in /second: no space left on device [repository-failed]\n    \
                 hint: Free space.\n"
        );
    }

    #[test]
    fn a_round_that_is_followed_is_one_line() {
        let text = line(&with_findings(), &zone());
        assert_eq!(text.lines().count(), 1);
        assert!(text.starts_with(
            "2026-11-22 03:00:00+01:00 first: 2 files from the directory (9.81 MB); second: 1 file"
        ));
        assert!(text.ends_with("[repository-failed]\n"), "{text}");
    }

    #[test]
    fn only_what_is_new_is_news() {
        let told = |report: Report| Told::of(&Ok(report));
        assert!(told(report(vec![])) == Told::Nothing);
        assert!(told(with_findings()) == told(with_findings()));
        assert!(told(with_findings()) != Told::Nothing);
    }
}
