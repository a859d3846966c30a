//! `pgbak status`: one operation, report out.

use std::collections::BTreeSet;

use super::exit::{self, Exit};
use super::failure::Failure;
use super::output::{ReportFlag, ReportFormat};
use super::session::Session;
use super::table::{self, Align};
use super::time::Zone;
use super::units;
use crate::ops::status::{self, BackupStatus, Report, RepositoryStatus, WalStatus};

/// Show what can be restored, and what is wrong
///
/// For each repository its backups and the WAL that is there without a gap, and every finding with what to do
/// about it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = help())]
pub struct Status {
    /// How to print the report
    #[arg(long, default_value = "text", conflicts_with = "json")]
    format: Format,

    #[command(flatten)]
    report: ReportFlag,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Format {
    /// To read
    Text,
    /// For programs, as --json does
    Json,
}

fn help() -> String {
    exit::help(
        "  pgbak status",
        &[("0", "all is well"), exit::FAILED, exit::USAGE, ("3", "there are findings"), exit::INTERRUPTED],
    )
}

impl Status {
    pub fn run(self, session: &mut Session<'_>) -> Result<Exit, Failure> {
        let report = status::run(&session.context)?;
        let exit = if report.findings.is_empty() { Exit::DONE } else { Exit::FINDINGS };
        session.report(&report, self.format(), exit, render)
    }

    fn format(&self) -> ReportFormat {
        match self.format {
            Format::Json => ReportFormat::Json,
            Format::Text => self.report.format(),
        }
    }
}

fn render(report: &Report, zone: &dyn Zone) -> String {
    let mut sections: Vec<String> =
        report.repositories.iter().map(|repository| repository_section(repository, report, zone)).collect();
    sections.push(findings(report));
    sections.join("\n")
}

fn repository_section(repository: &RepositoryStatus, report: &Report, zone: &dyn Zone) -> String {
    let mut text = format!("{}: {}\n", repository.name, repository.place);
    if let Some(error) = &repository.error {
        text.push_str(&format!("  UNREADABLE: {error}\n"));
        return text;
    }
    let backups = repository.backups.iter().map(|backup| &backup.system_identifier);
    let wal = repository.wal.iter().map(|wal| &wal.system_identifier);
    let clusters: BTreeSet<&String> = backups.chain(wal).collect();
    if clusters.is_empty() {
        text.push_str("  empty\n");
    }
    for cluster in clusters {
        text.push_str(&format!("  cluster {cluster}\n"));
        let of_cluster = repository.backups.iter().filter(|backup| backup.system_identifier == *cluster);
        text.push_str(&backup_table(&of_cluster.collect::<Vec<_>>(), zone));
        let of_cluster = repository.wal.iter().filter(|wal| wal.system_identifier == *cluster);
        text.extend(of_cluster.map(|wal| wal_lines(wal, report, zone)));
    }
    text
}

fn backup_table(backups: &[&BackupStatus], zone: &dyn Zone) -> String {
    let mut rows = vec![["backup", "finished", "age", "size", "stored"].map(str::to_owned)];
    rows.extend(backups.iter().map(|backup| {
        let size = |bytes| units::size(bytes).replace(' ', "");
        [
            backup.name.clone(),
            zone.show_seconds(backup.stopped_at),
            units::age(backup.age_seconds),
            size(backup.size_bytes),
            size(backup.stored_bytes),
        ]
    }));
    if rows.len() == 1 {
        return "  no backups\n".to_owned();
    }
    use Align::{Left, Right};
    let table = table::lines("  ", [Left, Left, Right, Right, Right], &rows);
    let labels = std::iter::once(None).chain(backups.iter().map(|backup| label(backup)));
    table
        .lines()
        .zip(labels)
        .map(|(line, label)| match label {
            Some(label) => format!("{line}\n    \"{label}\"\n"),
            None => format!("{line}\n"),
        })
        .collect()
}

/// What somebody wrote; a label that only repeats the name tells nothing.
fn label(backup: &BackupStatus) -> Option<&str> {
    Some(backup.label.as_str()).filter(|label| !label.is_empty() && !label.contains(&backup.name))
}

fn wal_lines(wal: &WalStatus, report: &Report, zone: &dyn Zone) -> String {
    let age_seconds = (report.at - wal.last_stored_at).num_seconds().max(0) as u64;
    format!(
        "  WAL on timeline {}: {} to {}\n    {}, {}, the last stored {} ({} ago)\n",
        wal.timeline,
        wal.first_segment,
        wal.last_segment,
        units::count(wal.segments, "segment"),
        units::size(wal.stored_bytes),
        zone.show_seconds(wal.last_stored_at),
        units::age(age_seconds),
    )
}

fn findings(report: &Report) -> String {
    if report.findings.is_empty() {
        return "No findings.\n".to_owned();
    }
    let mut text = format!("{}:\n", units::count(report.findings.len() as u64, "finding"));
    for finding in &report.findings {
        let whose = finding.repository.as_ref().map(|name| format!("{name}: ")).unwrap_or_default();
        text.push_str(&format!("  {whose}{} [{}]\n", finding.message, finding.code));
        if let Some(hint) = &finding.hint {
            text.push_str(&format!("    hint: {hint}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, FixedOffset, Utc};

    use super::*;
    use crate::ops::status::Finding;

    fn at(text: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(text).unwrap().into()
    }

    fn backup(name: &str, label: &str, stopped_at: &str, age_seconds: u64) -> BackupStatus {
        BackupStatus {
            name: name.into(),
            label: label.into(),
            system_identifier: "7439122314155001234".into(),
            timeline: 1,
            started_at: at(stopped_at),
            stopped_at: at(stopped_at),
            start_lsn: "0/2000028".into(),
            stop_lsn: "0/2000138".into(),
            size_bytes: 12_345_678_901,
            stored_bytes: 987_654_321,
            age_seconds,
        }
    }

    fn report() -> Report {
        Report {
            at: at("2026-11-22T12:05:00Z"),
            repositories: vec![
                RepositoryStatus {
                    name: "local".into(),
                    place: "/var/lib/postgresql/backups".into(),
                    error: None,
                    backups: vec![
                        backup(
                            "base_backup_20261012_020000",
                            "before the upgrade",
                            "2026-10-12T02:01:02Z",
                            41 * 86_400,
                        ),
                        backup("base_backup_20261122_020000", "", "2026-11-22T02:01:02.5Z", 36_238),
                    ],
                    wal: vec![WalStatus {
                        system_identifier: "7439122314155001234".into(),
                        timeline: 1,
                        first_segment: "000000010000000000000001".into(),
                        last_segment: "000000010000000000000042".into(),
                        segments: 66,
                        stored_bytes: 210_000_000,
                        last_stored_at: at("2026-11-22T12:03:40Z"),
                    }],
                },
                RepositoryStatus {
                    name: "remote".into(),
                    place: "ssh://vault/pg".into(),
                    error: Some("connection refused".into()),
                    backups: vec![],
                    wal: vec![],
                },
                RepositoryStatus {
                    name: "new".into(),
                    place: "/new".into(),
                    error: None,
                    backups: vec![],
                    wal: vec![],
                },
            ],
            findings: vec![Finding {
                code: "repository-unreadable",
                repository: Some("remote".into()),
                message: "connection refused".into(),
                hint: Some("Check the network.".into()),
            }],
        }
    }

    #[test]
    fn a_report_is_readable_in_80_columns() {
        let text = render(&report(), &FixedOffset::east_opt(3600).unwrap());
        assert_eq!(
            text,
            "\
local: /var/lib/postgresql/backups
  cluster 7439122314155001234
  backup                       finished                   age    size  stored
  base_backup_20261012_020000  2026-10-12 03:01:02+01:00  41d  12.3GB   988MB
    \"before the upgrade\"
  base_backup_20261122_020000  2026-11-22 03:01:02+01:00  10h  12.3GB   988MB
  WAL on timeline 1: 000000010000000000000001 to 000000010000000000000042
    66 segments, 210 MB, the last stored 2026-11-22 13:03:40+01:00 (1m ago)

remote: ssh://vault/pg
  UNREADABLE: connection refused

new: /new
  empty

1 finding:
  remote: connection refused [repository-unreadable]
    hint: Check the network.
"
        );
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }

    #[test]
    fn all_well_is_said() {
        let report = Report { findings: vec![], repositories: vec![], ..report() };
        assert_eq!(render(&report, &Utc), "No findings.\n");
    }
}
