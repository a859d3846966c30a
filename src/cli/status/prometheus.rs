//! The report in Prometheus' text format, for the node exporter's textfile collector.
//!
//! ```text
//! file   = { "# HELP" name text "\n" "# TYPE" name "gauge" "\n" { sample } }
//! sample = name [ "{" label { "," label } "}" ] " " number "\n"
//! label  = name "=\"" text "\""          in text, \ " and the end of a line are escaped
//! ```
//!
//! Follows Prometheus' "Exposition formats" and its naming practice: base units, the unit last. What is not known has
//! no sample, and a metric without a sample is left out. Nothing here counts up, so all are gauges.

use std::collections::BTreeMap;
use std::fmt::Write;

use chrono::{DateTime, Utc};

use crate::ops::status::{Report, RepositoryStatus, RunStatus, State};

/// Labels, as name and value.
type Labels<'a> = Vec<(&'static str, &'a str)>;

struct Page {
    text: String,
}

pub fn render(report: &Report) -> String {
    let mut page = Page { text: String::new() };
    page.add("pgbak_status_timestamp_seconds", "When this was looked at.", [(vec![], seconds(report.at))]);
    let state = match report.state {
        State::Ok => 0.0,
        State::Warning => 1.0,
        State::Critical => 2.0,
        State::Unknown => 3.0,
    };
    let meaning =
        "0: nothing worse than an info, 1: warnings, 2: critical findings, 3: nothing could be looked at.";
    page.add("pgbak_status_state", meaning, [(vec![], state)]);
    findings(&mut page, report);
    repositories(&mut page, report);
    recoverable(&mut page, report);
    server(&mut page, report);
    runs(&mut page, report);
    page.text
}

fn findings(page: &mut Page, report: &Report) {
    let mut counts: BTreeMap<_, f64> = BTreeMap::new();
    for finding in &report.findings {
        let repository = finding.repository.as_deref().unwrap_or_default();
        *counts.entry((finding.code, repository, finding.severity)).or_default() += 1.0;
    }
    let samples = counts.iter().map(|((code, repository, severity), count)| {
        (vec![("code", *code), ("repository", *repository), ("severity", severity.name())], *count)
    });
    page.add("pgbak_finding", "How many findings there are of this kind.", samples);
}

fn repositories(page: &mut Page, report: &Report) {
    let is_up = |repository: &RepositoryStatus| Some(if repository.error.is_none() { 1.0 } else { 0.0 });
    page.per_repository(report, "pgbak_repository_up", "Whether the repository could be read.", &is_up);
    let newest = |repository: &RepositoryStatus| repository.backups.last().cloned();
    page.per_repository(report, "pgbak_backups", "How many backups it holds.", &|repository| {
        repository.error.is_none().then_some(repository.backups.len() as f64)
    });
    page.per_repository(report, "pgbak_backups_in_progress", "How many are being taken.", &|repository| {
        repository.error.is_none().then_some(repository.in_progress.len() as f64)
    });
    page.per_repository(
        report,
        "pgbak_newest_backup_timestamp_seconds",
        "When the newest backup was finished.",
        &|repository| Some(seconds(newest(repository)?.stopped_at)),
    );
    page.per_repository(report, "pgbak_newest_backup_age_seconds", "How old that is.", &|repository| {
        Some(newest(repository)?.age_seconds as f64)
    });
    page.per_repository(
        report,
        "pgbak_newest_backup_size_bytes",
        "What the server sent for it.",
        &|repository| Some(newest(repository)?.size_bytes as f64),
    );
    page.per_repository(report, "pgbak_newest_backup_stored_bytes", "What is stored of it.", &|repository| {
        Some(newest(repository)?.stored_bytes as f64)
    });
    page.per_repository(report, "pgbak_backups_stored_bytes", "What all backups take.", &|repository| {
        let stored: u64 = repository.backups.iter().map(|backup| backup.stored_bytes).sum();
        repository.error.is_none().then_some(stored as f64)
    });
    page.per_repository(report, "pgbak_wal_stored_bytes", "What all archived WAL takes.", &|repository| {
        let stored: u64 = repository.wal.iter().map(|wal| wal.stored_bytes).sum();
        repository.error.is_none().then_some(stored as f64)
    });
    page.per_repository(
        report,
        "pgbak_wal_last_stored_timestamp_seconds",
        "When the newest segment was stored.",
        &|repository| repository.wal.iter().map(|wal| seconds(wal.last_stored_at)).reduce(f64::max),
    );
    page.per_repository(
        report,
        "pgbak_wal_lag_segments",
        "How many finished segments it lacks.",
        &|repository| Some(repository.wal_lag_segments? as f64),
    );
    page.per_repository(
        report,
        "pgbak_wal_lag_seconds",
        "How long ago the first of them was finished.",
        &|repository| Some(repository.wal_lag_seconds? as f64),
    );
    page.per_repository(
        report,
        "pgbak_wal_at_risk_bytes",
        "How much of the server's WAL it lacks, where WAL is streamed.",
        &|repository| Some(repository.wal_at_risk_bytes? as f64),
    );
    page.per_repository(
        report,
        "pgbak_wal_at_risk_seconds",
        "How far back commits would be lost if the server vanished, where WAL is streamed.",
        &|repository| Some(repository.wal_at_risk_seconds? as f64),
    );
    page.per_repository(
        report,
        "pgbak_last_proof_timestamp_seconds",
        "When a backup was last proven by verify.",
        &|repository| {
            let proofs = repository.backups.iter().filter_map(|backup| backup.proof.as_ref());
            proofs.map(|proof| seconds(proof.proven_at)).reduce(f64::max)
        },
    );
}

fn recoverable(page: &mut Page, report: &Report) {
    let timelines: BTreeMap<u32, String> = report
        .repositories
        .iter()
        .flat_map(|repository| &repository.recoverable)
        .map(|interval| (interval.timeline, interval.timeline.to_string()))
        .collect();
    let mut both = [Vec::new(), Vec::new()];
    for repository in &report.repositories {
        for interval in &repository.recoverable {
            let labels: Labels<'_> = vec![
                ("repository", &repository.name),
                ("system_identifier", &interval.system_identifier),
                ("timeline", &timelines[&interval.timeline]),
                ("backup", &interval.backup),
            ];
            both[0].push((labels.clone(), seconds(interval.from_at)));
            both[1].push((labels, seconds(interval.to_at.unwrap_or(interval.from_at).max(interval.from_at))));
        }
    }
    let [from, to] = both;
    let what = "of an interval that can be restored, named by its oldest backup.";
    page.add("pgbak_recoverable_from_timestamp_seconds", &format!("The beginning {what}"), from);
    page.add("pgbak_recoverable_to_timestamp_seconds", &format!("The end {what}"), to);
}

fn server(page: &mut Page, report: &Report) {
    let server = &report.server;
    let is_up = if server.error.is_none() { 1.0 } else { 0.0 };
    page.add("pgbak_server_up", "Whether the server could be asked.", [(vec![], is_up)]);
    let retained = server.slots.iter().filter_map(|slot| {
        let labels: Labels<'_> = vec![("slot", &slot.name)];
        Some((labels, slot.retained_bytes? as f64))
    });
    page.add("pgbak_slot_retained_bytes", "WAL that a replication slot holds back on the server.", retained);
}

fn runs(page: &mut Page, report: &Report) {
    let samples = |value: &dyn Fn(&RunStatus) -> Option<f64>| {
        let sample = |run| Some((run, value(run)?));
        let samples = report.runs.iter().filter_map(sample);
        samples.map(|(run, value)| (vec![("command", run.command.as_str())], value)).collect::<Vec<_>>()
    };
    let success = samples(&|run| Some(seconds(run.last_done.as_ref()?.ended_at)));
    page.add("pgbak_last_success_timestamp_seconds", "When the command last ended well.", success);
    let failure = samples(&|run| Some(seconds(run.last_failed.as_ref()?.ended_at)));
    page.add("pgbak_last_failure_timestamp_seconds", "When the command last failed.", failure);
    let at_work = samples(&|run| Some(run.at_work.len() as f64));
    page.add("pgbak_runs_at_work", "How many runs of the command are at work.", at_work);
}

impl Page {
    fn per_repository(
        &mut self,
        report: &Report,
        name: &str,
        help: &str,
        value: &dyn Fn(&RepositoryStatus) -> Option<f64>,
    ) {
        let sample = |repository| Some((repository, value(repository)?));
        let samples = report.repositories.iter().filter_map(sample);
        self.add(
            name,
            help,
            samples.map(|(repository, value)| (vec![("repository", repository.name.as_str())], value)),
        );
    }

    fn add<'a>(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = (Labels<'a>, f64)>) {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return;
        }
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (labels, value) in samples {
            let labels: Vec<String> =
                labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            let _ = writeln!(self.text, "{name}{labels} {value}");
        }
    }
}

fn seconds(instant: DateTime<Utc>) -> f64 {
    instant.timestamp_millis() as f64 / 1000.0
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
