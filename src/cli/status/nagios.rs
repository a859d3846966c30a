//! The report as a monitoring plugin gives it: one line, and an exit code.
//!
//! ```text
//! line     = "PGBAK " state " - " text [ " | " perfdata ] "\n"
//! perfdata = "'" label "'=" number unit ";" warning ";" critical ";" minimum { " " perfdata }
//! ```
//!
//! Follows the Monitoring Plugins Development Guidelines. The text has no `|`, which would end it.

use crate::cli::exit::Exit;
use crate::cli::output::printable;
use crate::cli::time::Zone;
use crate::ops::status::{Report, RepositoryStatus, State};

pub fn exit_of(state: State) -> Exit {
    match state {
        State::Ok => Exit::DONE,
        State::Warning => Exit::PLUGIN_WARNING,
        State::Critical => Exit::PLUGIN_CRITICAL,
        State::Unknown => Exit::PLUGIN_UNKNOWN,
    }
}

/// What is said when nothing could be found out.
pub fn unknown(reason: &str) -> String {
    format!("PGBAK UNKNOWN - {}\n", plain(reason))
}

pub fn render(report: &Report, zone: &dyn Zone) -> String {
    let word = match report.state {
        State::Ok => "OK",
        State::Warning => "WARNING",
        State::Critical => "CRITICAL",
        State::Unknown => "UNKNOWN",
    };
    let perfdata: Vec<String> =
        report.repositories.iter().flat_map(|repository| perfdata(repository, report)).collect();
    let perfdata = if perfdata.is_empty() { String::new() } else { format!(" | {}", perfdata.join(" ")) };
    format!("PGBAK {word} - {}{perfdata}\n", plain(&summary(report, zone)))
}

/// The worst finding; where nothing is wrong, what can be restored.
fn summary(report: &Report, zone: &dyn Zone) -> String {
    if report.state == State::Ok {
        let intervals = report.repositories.iter().flat_map(|repository| &repository.recoverable);
        // Of the timeline that is written now, the one that is written to.
        let last = intervals.max_by_key(|interval| (interval.to_at, interval.timeline));
        return match last {
            Some(interval) => format!(
                "restorable from {} until {}",
                zone.show_seconds(interval.from_at),
                zone.show_seconds(interval.to_at.unwrap_or(interval.from_at).max(interval.from_at))
            ),
            None => "nothing is wrong".to_owned(),
        };
    }
    let Some(worst) = report.findings.first() else { return "nothing could be looked at".to_owned() };
    let whose = worst.repository.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
    let more = match report.findings.len() - 1 {
        0 => String::new(),
        1 => "; 1 more finding".to_owned(),
        more => format!("; {more} more findings"),
    };
    format!("{}{whose}: {}{more}", worst.code, worst.message)
}

fn plain(text: &str) -> String {
    let words: Vec<_> = printable(text).replace('|', "/").split_whitespace().map(str::to_owned).collect();
    words.join(" ")
}

fn perfdata(repository: &RepositoryStatus, report: &Report) -> Vec<String> {
    let name = &repository.name;
    let thresholds = &report.thresholds;
    let mut data = Vec::new();
    if let Some(newest) = repository.backups.last() {
        let (age, warning) = (newest.age_seconds, thresholds.backup_age_max_seconds);
        data.push(format!("'{name}_backup_age'={age}s;{warning};;0"));
        data.push(format!("'{name}_backup_stored'={}B;;;0", newest.stored_bytes));
    }
    if let Some(seconds) = repository.wal_lag_seconds {
        data.push(format!("'{name}_wal_lag'={seconds}s;;{};0", thresholds.wal_lag_max_seconds));
    }
    if let Some(segments) = repository.wal_lag_segments {
        data.push(format!("'{name}_wal_lag_segments'={segments};;;0"));
    }
    if let Some(seconds) = repository.wal_at_risk_seconds {
        data.push(format!("'{name}_wal_at_risk'={seconds}s;;{};0", thresholds.wal_lag_max_seconds));
    }
    data
}
