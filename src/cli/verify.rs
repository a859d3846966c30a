//! `pgbak verify`: one operation, and a report that names everything that is wrong.

use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::exit::{self, Exit};
use super::failure::Failure;
use super::output::ReportFlag;
use super::session::{Session, check_repositories};
use super::time::Zone;
use super::units;
use crate::config::{self, Config};
use crate::ops::verify::report::{DrillCheck, DrillReport, Unrestorable};
use crate::ops::verify::{self, Finding, LostInterval, Mode, Note, Report, RepositoryReport, Request};

/// Prove that what is stored can be restored
///
/// Reads every stored byte, and checks digests, frames, WAL page headers, records, and that the WAL is contiguous from
/// each backup on. What was found sound is remembered, so that the next run reads only what is new, or was read too
/// long ago; what is damaged is read each time. Nothing is changed in any repository.
///
/// Each finding names the object, what was expected and found, which instants can no longer be restored because of it,
/// and what to do. Notes are about what may lie there, such as what a killed run left.
#[derive(Debug, clap::Args)]
#[command(after_long_help = help())]
pub struct Verify {
    /// Only this backup, or the latest, and the WAL from its start on [default: all]
    #[arg(long, value_name = "NAME|latest")]
    backup: Option<String>,

    /// Only this repository (repeatable) [default: all; with --drill: any]
    #[arg(long = "repository", value_name = "NAME")]
    repositories: Vec<String>,

    #[command(flatten)]
    depth: DepthFlags,

    /// Read again what was proven longer ago than this
    #[arg(long, value_name = "SPAN", default_value = "30d", conflicts_with_all = ["quick", "drill"])]
    again_after: config::Span,

    /// Where --drill restores to, in a directory of its own [default: $TMPDIR, else /tmp]
    #[arg(long, value_name = "DIR", requires = "drill")]
    drill_directory: Option<PathBuf>,

    /// Where --drill finds the programs of PostgreSQL [default: where packages put them]
    #[arg(long, value_name = "DIR", requires = "drill")]
    bin_directory: Option<PathBuf>,

    /// SQL to run in the restored cluster; an error in it is a finding
    #[arg(long, value_name = "FILE", requires = "drill")]
    check_sql: Option<PathBuf>,

    #[command(flatten)]
    report: ReportFlag,
}

/// How deep to look: one of these.
#[derive(Debug, clap::Args)]
#[group(id = "depth", multiple = false)]
struct DepthFlags {
    /// Look at names, sizes, records and contiguity alone, and read no data
    #[arg(long)]
    quick: bool,

    /// Also check each file of each backup against its manifest, and each page against its checksum
    #[arg(long)]
    full: bool,

    /// Restore a backup, start a server from it, replay all WAL, run pg_amcheck, and remove it all
    #[arg(long)]
    drill: bool,
}

fn help() -> String {
    exit::help(
        "  pgbak verify --full --again-after 14d",
        &[
            ("0", "done: everything that was looked at is sound"),
            ("1", "failed: no repository could be read, or the drill could not be made"),
            exit::USAGE,
            ("3", "done, with findings"),
            exit::LOCKED,
            exit::INTERRUPTED,
        ],
    )
}

impl Verify {
    pub fn run(self, session: &mut Session<'_>) -> Result<Exit, Failure> {
        let format = self.report.format();
        let request = self.request(session.context.config)?;
        let report = session.with_progress("verifying", |context| verify::run(context, &request))?;
        let exit = if report.has_findings() { Exit::FINDINGS } else { Exit::DONE };
        session.report(&report, format, exit, render)
    }

    fn request(self, config: &Config) -> Result<Request, Failure> {
        check_repositories(&self.repositories, config)?;
        let mode = match self.depth {
            DepthFlags { quick: true, .. } => Mode::Quick,
            DepthFlags { full: true, .. } => Mode::Full,
            DepthFlags { drill: true, .. } => Mode::Drill(verify::drill::Options {
                directory: self.drill_directory,
                bin_directory: self.bin_directory,
                check_sql: self.check_sql,
            }),
            DepthFlags { .. } => Mode::Default,
        };
        let Self { backup, repositories, again_after, .. } = self;
        Ok(Request { backup, repositories, mode, again_after: again_after.0 })
    }
}

/// So many lost intervals of one finding are shown.
const LOST_SHOWN: usize = 3;

fn render(report: &Report, zone: &dyn Zone) -> String {
    let mut text: String =
        report.repositories.iter().map(|repository| repository_line(repository, report)).collect();
    text.extend(report.drills.iter().map(|drill| drill_lines(drill, zone)));
    if !report.notes.is_empty() {
        text.push_str(&format!("{}:\n", units::count(report.notes.len() as u64, "note")));
        text.extend(report.notes.iter().map(note_line));
    }
    match report.findings.len() as u64 {
        0 => text.push_str("No findings.\n"),
        count => {
            text.push_str(&format!("{}:\n", units::count(count, "finding")));
            text.extend(report.findings.iter().map(|finding| finding_lines(finding, zone)));
        }
    }
    text
}

fn repository_line(repository: &RepositoryReport, report: &Report) -> String {
    let RepositoryReport { name, error, backups, wal_files, .. } = repository;
    let looked_at = format!("{}, {}", units::count(*backups, "backup"), units::count(*wal_files, "WAL file"));
    if let Some(error) = error {
        return format!("{name}: UNREADABLE: {error}\n");
    }
    let mut parts = vec![looked_at];
    if !matches!(report.mode, "quick" | "drill") {
        let read = format!(
            "{} ({}) read",
            units::count(repository.files_read, "file"),
            units::size(repository.bytes_read)
        );
        parts.push(read);
    }
    if repository.files_passed_over > 0 {
        let (files, bytes) = (repository.files_passed_over, repository.bytes_passed_over);
        parts.push(format!(
            "{} ({}) passed over as proven before",
            units::count(files, "file"),
            units::size(bytes)
        ));
    }
    format!("{name}: {}\n", parts.join("; "))
}

fn drill_lines(drill: &DrillReport, zone: &dyn Zone) -> String {
    let span = |seconds: f64| units::span(Duration::try_from_secs_f64(seconds).unwrap_or_default());
    let mut text = format!(
        "drill: {} of {}, {} restored in {}\n",
        drill.backup,
        drill.repository,
        units::size(drill.size_bytes),
        span(drill.restore_seconds)
    );
    if let Some(seconds) = drill.replay_seconds {
        let to = drill.replayed_to_lsn.as_deref().unwrap_or("the backup's end");
        text.push_str(&format!("  replayed to {to} in {} by {}\n", span(seconds), drill.server));
        text.push_str(&match drill.last_transaction_at {
            Some(at) => format!("  the last transaction was committed at {}\n", zone.show(at)),
            None => "  no transaction was replayed\n".to_owned(),
        });
    }
    for DrillCheck { name, passed, seconds } in &drill.checks {
        let outcome = if *passed { "passed" } else { "FAILED" };
        text.push_str(&format!("  {name}: {outcome} in {}\n", span(*seconds)));
    }
    text
}

fn note_line(note: &Note) -> String {
    let whose = note.repository.as_ref().map(|name| format!("{name}: ")).unwrap_or_default();
    let object = note.object.as_ref().map(|object| format!("{object}: ")).unwrap_or_default();
    format!("  {whose}{object}{} [{}]\n", note.message, note.code)
}

fn finding_lines(finding: &Finding, zone: &dyn Zone) -> String {
    let Finding { code, repository, object, inside, expected, found, unrestorable, hint } = finding;
    let place: Vec<&str> = [repository, object, inside].into_iter().flatten().map(String::as_str).collect();
    let mut text = format!("  {} [{code}]\n", place.join(": "));
    text.push_str(&match expected {
        Some(expected) => format!("    expected {expected}, found {found}\n"),
        None => format!("    {found}\n"),
    });
    text.extend(lost_lines(unrestorable, zone));
    if let Some(hint) = hint {
        text.push_str(&format!("    hint: {hint}\n"));
    }
    text
}

fn lost_lines(unrestorable: &Unrestorable, zone: &dyn Zone) -> Vec<String> {
    let line = |words: &str| format!("    cannot be restored: {words}\n");
    if let Some(words) = &unrestorable.words {
        return vec![line(words)];
    }
    let lost = &unrestorable.instants;
    let mut lines: Vec<String> =
        lost.iter().take(LOST_SHOWN).map(|lost| line(&lost_in_words(lost, zone))).collect();
    if let Some(more @ 1..) = lost.len().checked_sub(LOST_SHOWN) {
        lines.push(line(&format!("and {}, which --json lists", units::count(more as u64, "interval more"))));
    }
    lines
}

fn lost_in_words(lost: &LostInterval, zone: &dyn Zone) -> String {
    let LostInterval { timeline, from_at, to_at, .. } = lost;
    let shown = |at: DateTime<Utc>| zone.show_seconds(at);
    match to_at {
        Some(to_at) => format!("{} to {}, on timeline {timeline}", shown(*from_at), shown(*to_at)),
        None => format!("{}, on timeline {timeline}", shown(*from_at)),
    }
}

#[cfg(test)]
mod tests {
    use chrono::FixedOffset;

    use super::*;

    fn at(minute: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_312_800 + minute * 60, 0).unwrap()
    }

    fn repository(name: &str) -> RepositoryReport {
        RepositoryReport {
            name: name.into(),
            place: format!("/{name}"),
            backups: 2,
            wal_files: 34,
            files_read: 30,
            bytes_read: 1_230_000_000,
            ..RepositoryReport::default()
        }
    }

    fn report() -> Report {
        Report {
            started_at: at(0),
            duration_seconds: 2.5,
            mode: "default",
            repositories: vec![repository("first")],
            drills: vec![],
            findings: vec![],
            notes: vec![],
        }
    }

    fn rendered(report: &Report) -> String {
        render(report, &FixedOffset::east_opt(3600).unwrap())
    }

    #[test]
    fn all_is_well_in_two_lines() {
        assert_eq!(
            rendered(&report()),
            "first: 2 backups, 34 WAL files; 30 files (1.23 GB) read\nNo findings.\n"
        );
    }

    #[test]
    fn a_quick_look_reads_nothing_and_what_was_proven_is_passed_over() {
        let quick = Report { mode: "quick", ..report() };
        assert_eq!(rendered(&quick), "first: 2 backups, 34 WAL files\nNo findings.\n");
        let mut again = report();
        again.repositories[0].files_passed_over = 5;
        again.repositories[0].bytes_passed_over = 2_000;
        assert!(rendered(&again).contains("read; 5 files (2.00 kB) passed over as proven before\n"));
    }

    #[test]
    fn a_finding_tells_place_expectation_loss_and_remedy() {
        let mut report = report();
        report.findings.push(Finding {
            code: "page-checksum",
            repository: Some("first".into()),
            object: Some("base-backups/b/base.tar.zst".into()),
            inside: Some("base/5/16384, block 7".into()),
            expected: Some("checksum 1a2b".into()),
            found: "checksum 3c4d".into(),
            unrestorable: Unrestorable {
                instants: vec![
                    LostInterval {
                        system_identifier: "7".into(),
                        timeline: 1,
                        from_lsn: "0/1".into(),
                        to_lsn: "0/2".into(),
                        from_at: at(0),
                        to_at: Some(at(10)),
                    };
                    4
                ],
                words: None,
            },
            hint: Some("Do something.".into()),
        });
        report.notes.push(Note {
            code: "garbage",
            repository: Some("first".into()),
            object: Some("base-backups/c".into()),
            message: "it has no record".into(),
        });
        let lost =
            "    cannot be restored: 2026-11-22 03:00:00+01:00 to 2026-11-22 03:10:00+01:00, on timeline 1\n";
        let expected = format!(
            "first: 2 backups, 34 WAL files; 30 files (1.23 GB) read\n\
             1 note:\n  \
               first: base-backups/c: it has no record [garbage]\n\
             1 finding:\n  \
               first: base-backups/b/base.tar.zst: base/5/16384, block 7 [page-checksum]\n    \
                 expected checksum 1a2b, found checksum 3c4d\n\
             {lost}{lost}{lost}    \
                 cannot be restored: and 1 interval more, which --json lists\n    \
                 hint: Do something.\n"
        );
        assert_eq!(rendered(&report), expected);
    }

    #[test]
    fn a_drill_tells_how_long_it_took_and_how_far_it_came() {
        let mut report = Report { mode: "drill", ..report() };
        report.drills.push(DrillReport {
            repository: "first".into(),
            backup: "base_backup_20261122_020000".into(),
            size_bytes: 5_000_000_000,
            restore_seconds: 12.0,
            replay_seconds: Some(90.0),
            replayed_to_lsn: Some("1/2000000".into()),
            last_transaction_at: Some(at(5)),
            server: "postgres (PostgreSQL) 15.14".into(),
            checks: vec![
                DrillCheck { name: "pg_amcheck".into(), passed: true, seconds: 3.0 },
                DrillCheck { name: "/etc/pgbak/check.sql".into(), passed: false, seconds: 0.1 },
            ],
        });
        let expected = "\
first: 2 backups, 34 WAL files
drill: base_backup_20261122_020000 of first, 5.00 GB restored in 12 s
  replayed to 1/2000000 in 1 min 30 s by postgres (PostgreSQL) 15.14
  the last transaction was committed at 2026-11-22 03:05:00+01:00
  pg_amcheck: passed in 3.0 s
  /etc/pgbak/check.sql: FAILED in 0.1 s
No findings.
";
        assert_eq!(rendered(&report), expected);
    }
}
