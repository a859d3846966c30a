//! `pgbak base-backup --copy-missing`: its operation, and how its report reads.

use std::time::Duration;

use super::exit::Exit;
use super::failure::Failure;
use super::output::ReportFormat;
use super::session::Session;
use super::time::Zone;
use super::units;
use crate::ops::copy_missing::{self, Report, Request};

pub fn run(session: &mut Session<'_>, request: &Request, format: ReportFormat) -> Result<Exit, Failure> {
    let report = session.with_progress("copying backups", |context| copy_missing::run(context, request))?;
    let exit = if report.has_findings() { Exit::FINDINGS } else { Exit::DONE };
    session.report(&report, format, exit, render)
}

fn render(report: &Report, _zone: &dyn Zone) -> String {
    let mut text = String::new();
    for copied in &report.copied {
        let size = units::size(copied.stored_bytes);
        text.push_str(&format!("{}: copied to {}, {size}\n", copied.backup, copied.repository));
    }
    for failed in &report.failed {
        match &failed.backup {
            Some(backup) => {
                text.push_str(&format!("{backup}: NOT COPIED to {}: {}\n", failed.repository, failed.error));
            }
            None => text.push_str(&format!("{}: FAILED: {}\n", failed.repository, failed.error)),
        }
        if let Some(hint) = &failed.hint {
            text.push_str(&format!("  hint: {hint}\n"));
        }
    }
    let duration = Duration::try_from_secs_f64(report.duration_seconds).unwrap_or_default();
    match (report.copied.len() as u64, report.failed.is_empty()) {
        (0, true) => text.push_str("every repository has every backup\n"),
        (0, false) => {}
        (copied, _) => {
            let copies = if copied == 1 { "1 copy".to_owned() } else { format!("{copied} copies") };
            text.push_str(&format!("{copies} in {}\n", units::span(duration)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use chrono::FixedOffset;

    use super::*;
    use crate::ops::copy_missing::{Copied, Failed};

    fn rendered(report: &Report) -> String {
        render(report, &FixedOffset::east_opt(0).unwrap())
    }

    #[test]
    fn nothing_to_do_is_said_in_a_line() {
        assert_eq!(rendered(&Report::default()), "every repository has every backup\n");
    }

    #[test]
    fn copies_and_failures_are_listed() {
        let backup = || "base_backup_20261122_020000".to_owned();
        let report = Report {
            copied: vec![Copied { backup: backup(), repository: "remote".into(), stored_bytes: 3_400_000 }],
            failed: vec![
                Failed {
                    backup: Some(backup()),
                    repository: "far".into(),
                    error: "no space left on device".into(),
                    hint: Some("Free space.".into()),
                },
                Failed { backup: None, repository: "gone".into(), error: "timed out".into(), hint: None },
            ],
            duration_seconds: 2.0,
        };
        let text = "\
base_backup_20261122_020000: copied to remote, 3.40 MB
base_backup_20261122_020000: NOT COPIED to far: no space left on device
  hint: Free space.
gone: FAILED: timed out
1 copy in 2.0 s
";
        assert_eq!(rendered(&report), text);
    }
}
