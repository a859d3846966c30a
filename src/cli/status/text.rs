//! The report to read, in 80 columns. The answer comes first: is all well, what can be restored, what is wrong and what
//! to do; then what it rests on.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::cli::output::printable;
use crate::cli::table::{self, Align};
use crate::cli::time::Zone;
use crate::cli::units;
use crate::ops::proofs::Depth;
use crate::ops::status::{
    BackupStatus, EventStatus, Finding, InProgressStatus, ProofStatus, Report, RepositoryStatus,
    RunEndStatus, RunStatus, ServerStatus, Severity, State, WalStatus,
};
use crate::pg::ServerVersion;

const WIDTH: usize = 80;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ink {
    Plain,
    Coloured,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tone {
    Good,
    Uneasy,
    Bad,
    Heading,
}

/// One line, of which a part may be set off.
pub struct Line {
    text: String,
    tone: Option<(Range<usize>, Tone)>,
}

impl Line {
    fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), tone: None }
    }

    fn heading(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { tone: Some((0..text.len(), Tone::Heading)), text }
    }
}

/// The page as it goes to the terminal, or to a file. What is not ours to print is made harmless here.
pub fn show(page: &[Line], ink: Ink) -> String {
    let one_line = |text: &str| printable(text).replace('\n', " ");
    let show = |line: &Line| match (&line.tone, ink) {
        (Some((range, tone)), Ink::Coloured) => {
            let (before, rest) = line.text.split_at(range.start);
            let (toned, after) = rest.split_at(range.len());
            let code = match tone {
                Tone::Good => 32,
                Tone::Uneasy => 33,
                Tone::Bad => 31,
                Tone::Heading => 1,
            };
            format!("{}\u{1b}[{code}m{}\u{1b}[0m{}\n", one_line(before), one_line(toned), one_line(after))
        }
        _ => format!("{}\n", one_line(&line.text)),
    };
    page.iter().map(show).collect()
}

pub fn render(report: &Report, zone: &dyn Zone) -> Vec<Line> {
    let mut sections = vec![headline(report), restorable(report, zone), findings(report)];
    sections
        .extend(report.repositories.iter().map(|repository| repository_section(repository, report, zone)));
    sections.push(server(&report.server, report));
    sections.push(runs(report));
    sections.retain(|section| !section.is_empty());
    let mut page = Vec::new();
    for section in sections {
        if !page.is_empty() {
            page.push(Line::plain(""));
        }
        page.extend(section);
    }
    page
}

fn headline(report: &Report) -> Vec<Line> {
    let (word, tone) = match report.state {
        State::Ok => ("OK", Tone::Good),
        State::Warning => ("WARNING", Tone::Uneasy),
        State::Critical => ("CRITICAL", Tone::Bad),
        State::Unknown => ("UNKNOWN", Tone::Bad),
    };
    let counts: Vec<String> = [Severity::Critical, Severity::Warning, Severity::Info]
        .into_iter()
        .filter_map(|severity| {
            let number = report.findings.iter().filter(|finding| finding.severity == severity).count();
            (number > 0).then(|| match severity {
                Severity::Warning => units::count(number as u64, "warning"),
                Severity::Critical | Severity::Info => format!("{number} {}", severity.name()),
            })
        })
        .collect();
    let text = match counts.is_empty() {
        true if report.state == State::Unknown => format!("{word}: nothing could be looked at"),
        true => format!("{word}: nothing is wrong"),
        false => format!("{word}: {}", counts.join(", ")),
    };
    vec![Line { tone: Some((0..word.len(), tone)), text }]
}

fn restorable(report: &Report, zone: &dyn Zone) -> Vec<Line> {
    let intervals = || report.repositories.iter().flat_map(|repository| &repository.recoverable);
    let clusters: BTreeSet<&String> = intervals().map(|interval| &interval.system_identifier).collect();
    if clusters.is_empty() {
        return vec![Line::heading("Nothing can be restored")];
    }
    let mut lines = Vec::new();
    for cluster in &clusters {
        let mut rows = vec![["repository", "timeline", "from", "until"].map(str::to_owned)];
        for repository in &report.repositories {
            let of_cluster =
                repository.recoverable.iter().filter(|interval| interval.system_identifier == **cluster);
            rows.extend(of_cluster.map(|interval| {
                let until = match interval.to_at {
                    Some(to_at) => zone.show_seconds(to_at.max(interval.from_at)),
                    None => "only as it is then".to_owned(),
                };
                let from = zone.show_seconds(interval.from_at);
                [repository.name.clone(), interval.timeline.to_string(), from, until]
            }));
            if repository.error.is_some() {
                let words = "could not be read".to_owned();
                rows.push([repository.name.clone(), String::new(), words, String::new()]);
            }
        }
        lines.push(Line::heading(match clusters.len() {
            1 => "Can be restored".to_owned(),
            _ => format!("Can be restored, of cluster {cluster}"),
        }));
        lines.extend(plain_lines(&table::lines("  ", [Align::Left; 4], &rows)));
    }
    lines
}

fn plain_lines(text: &str) -> impl Iterator<Item = Line> {
    text.lines().map(Line::plain)
}

fn findings(report: &Report) -> Vec<Line> {
    if report.findings.is_empty() {
        return vec![];
    }
    let mut lines = vec![Line::heading("Findings")];
    report.findings.iter().for_each(|finding| lines.extend(finding_lines(finding)));
    lines
}

fn finding_lines(finding: &Finding) -> Vec<Line> {
    let severity = finding.severity.name();
    let tone = match finding.severity {
        Severity::Critical => Tone::Bad,
        Severity::Warning => Tone::Uneasy,
        Severity::Info => Tone::Good,
    };
    let whose = finding.repository.as_ref().map(|name| format!(", repository {name}")).unwrap_or_default();
    let mut lines = vec![Line {
        tone: Some((2..2 + severity.len(), tone)),
        text: format!("  {severity}: {}{whose}", finding.code),
    }];
    lines.extend(wrapped("    ", &finding.message));
    lines.extend(finding.hint.iter().flat_map(|hint| wrapped("    ", &format!("hint: {hint}"))));
    lines
}

/// Breaks `text` into lines. A command between backquotes stays in one piece, so that it can be copied.
fn wrapped(indent: &str, text: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in words(text) {
        let length = line.chars().count() + 1 + word.chars().count();
        if !line.is_empty() && indent.len() + length > WIDTH {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&word);
    }
    lines.push(line);
    lines.into_iter().map(|line| Line::plain(format!("{indent}{line}"))).collect()
}

fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut is_quoted) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        is_quoted ^= c == '`';
        match c.is_whitespace() && !is_quoted {
            true if word.is_empty() => {}
            true => words.push(std::mem::take(&mut word)),
            false => word.push(c),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

fn repository_section(repository: &RepositoryStatus, report: &Report, zone: &dyn Zone) -> Vec<Line> {
    let mut lines = vec![Line::heading(format!("Repository {}: {}", repository.name, repository.place))];
    if repository.error.is_some() {
        lines.push(Line::plain("  could not be read"));
        return lines;
    }
    let backups = repository.backups.iter().map(|backup| &backup.system_identifier);
    let wal = repository.wal.iter().map(|wal| &wal.system_identifier);
    let clusters: BTreeSet<&String> = backups.chain(wal).collect();
    if clusters.is_empty() {
        lines.push(Line::plain("  empty"));
    }
    for cluster in clusters {
        lines.push(Line::plain(format!("  cluster {cluster}")));
        let of_cluster = repository.backups.iter().filter(|backup| backup.system_identifier == *cluster);
        lines.extend(backup_table(&of_cluster.collect::<Vec<_>>(), report));
        let of_cluster = repository.wal.iter().filter(|wal| wal.system_identifier == *cluster);
        lines.extend(of_cluster.flat_map(|wal| wal_lines(wal, report, zone)));
        let of_cluster =
            repository.recoverable.iter().filter(|interval| interval.system_identifier == *cluster);
        lines.extend(of_cluster.map(|interval| {
            let (timeline, from, to) = (interval.timeline, &interval.from_lsn, &interval.to_lsn);
            Line::plain(format!("  restorable on timeline {timeline}: {from} to {to}"))
        }));
    }
    lines.extend(at_risk(repository).or_else(|| lag(repository)));
    lines.extend(repository.in_progress.iter().flat_map(|run| in_progress(run, zone)));
    lines
}

/// `if the server vanished now, at most the last 12 s would be lost (18.0 kB of WAL)`
fn at_risk(repository: &RepositoryStatus) -> Option<Line> {
    let bytes = repository.wal_at_risk_bytes?;
    Some(Line::plain(match repository.wal_at_risk_seconds {
        _ if bytes == 0 => {
            "  has all of the server's WAL: nothing would be lost if it vanished now".to_owned()
        }
        Some(seconds) => format!(
            "  if the server vanished now, at most the last {} would be lost ({} of WAL)",
            units::age(seconds),
            units::size(bytes)
        ),
        None => format!("  if the server vanished now, {} of WAL would be lost", units::size(bytes)),
    }))
}

fn lag(repository: &RepositoryStatus) -> Option<Line> {
    let since = repository
        .wal_lag_seconds
        .map(|seconds| format!(", the oldest finished {} ago", units::age(seconds)));
    Some(Line::plain(match repository.wal_lag_segments? {
        0 => "  up to date with the finished WAL".to_owned(),
        number => format!("  {} behind{}", units::count(number, "segment"), since.unwrap_or_default()),
    }))
}

fn in_progress(run: &InProgressStatus, zone: &dyn Zone) -> Vec<Line> {
    let by = run.host.as_ref().zip(run.pid).map(|(host, pid)| format!(" by process {pid} on {host}"));
    let since = run.started_at.map(|at| format!(", since {}", zone.show_seconds(at)));
    let text = format!("in progress: {}{}{}", run.name, by.unwrap_or_default(), since.unwrap_or_default());
    wrapped("  ", &text)
}

fn backup_table(backups: &[&BackupStatus], report: &Report) -> Vec<Line> {
    let mut rows = vec![["backup", "kind", "age", "size", "stored", "ratio", "proven"].map(str::to_owned)];
    rows.extend(backups.iter().map(|backup| {
        let size = |bytes| units::size(bytes).replace(' ', "");
        [
            backup.name.clone(),
            backup.kind.to_owned(),
            units::age(backup.age_seconds),
            size(backup.size_bytes),
            size(backup.stored_bytes),
            backup.compression_ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.1}")),
            backup.proof.as_ref().map_or_else(|| "never".to_owned(), |proof| proven(proof, report)),
        ]
    }));
    if rows.len() == 1 {
        return vec![Line::plain("  no backups")];
    }
    use Align::{Left, Right};
    let table = table::lines("  ", [Left, Left, Right, Right, Right, Right, Left], &rows);
    let labels = std::iter::once(None).chain(backups.iter().map(|backup| label(backup)));
    let with_label = |(line, label): (Line, Option<&str>)| {
        let label = label.map(|label| Line::plain(format!("    \"{label}\"")));
        std::iter::once(line).chain(label)
    };
    plain_lines(&table).zip(labels).flat_map(with_label).collect()
}

fn proven(proof: &ProofStatus, report: &Report) -> String {
    match &proof.damage {
        Some(_) => "DAMAGED".to_owned(),
        None => {
            let age = (report.at - proof.proven_at).num_seconds().max(0) as u64;
            let depth = match proof.depth {
                Depth::Read => "read",
                Depth::Full => "full",
                Depth::Drill => "drill",
            };
            format!("{depth}, {} ago", units::age(age))
        }
    }
}

/// What somebody wrote; a label that only repeats the name tells nothing.
fn label(backup: &BackupStatus) -> Option<&str> {
    Some(backup.label.as_str()).filter(|label| !label.is_empty() && !label.contains(&backup.name))
}

fn wal_lines(wal: &WalStatus, report: &Report, zone: &dyn Zone) -> [Line; 2] {
    let (timeline, first, last) = (wal.timeline, &wal.first_segment, &wal.last_segment);
    let stored = format!(
        "    {}, {}, the last stored {} ({} ago)",
        units::count(wal.segments, "segment"),
        units::size(wal.stored_bytes),
        zone.show_seconds(wal.last_stored_at),
        ago(report, wal.last_stored_at),
    );
    [Line::plain(format!("  WAL on timeline {timeline}: {first} to {last}")), Line::plain(stored)]
}

fn ago(report: &Report, then: chrono::DateTime<chrono::Utc>) -> String {
    units::age((report.at - then).num_seconds().max(0) as u64)
}

fn server(server: &ServerStatus, report: &Report) -> Vec<Line> {
    let mut lines = vec![Line::heading("Server")];
    if let (Some(system), Some(timeline), Some(lsn)) =
        (&server.system_identifier, server.timeline, &server.wal_lsn)
    {
        let version = server.version.map(|version| format!("PostgreSQL {}, ", ServerVersion(version)));
        let kind = if server.is_standby == Some(true) { "standby of " } else { "" };
        let version = version.unwrap_or_default();
        lines.push(Line::plain(format!("  {version}{kind}cluster {system}, timeline {timeline}, at {lsn}")));
    }
    if server.error.is_some() {
        lines.push(Line::plain("  could not be asked"));
    }
    if let Some(archiving) = &server.archiving {
        let event = |event: &EventStatus| format!("{} {} ago", event.file_name, ago(report, event.at));
        let archived =
            archiving.last_archived.as_ref().map(|last| format!(", last archived {}", event(last)));
        let mode = &archiving.mode;
        lines.extend(wrapped("  ", &format!("archive_mode {mode}{}", archived.unwrap_or_default())));
        if let Some(failed) = &archiving.last_failed {
            lines.push(Line::plain(format!("  last failed to archive {}", event(failed))));
        }
    }
    for slot in &server.slots {
        let active = if slot.is_active { "active" } else { "inactive" };
        let retained = slot.retained_bytes.map(|bytes| format!(", holds back {}", units::size(bytes)));
        lines.push(Line::plain(format!("  slot {}: {active}{}", slot.name, retained.unwrap_or_default())));
    }
    lines
}

fn runs(report: &Report) -> Vec<Line> {
    if report.runs.is_empty() {
        return vec![];
    }
    let mut rows = vec![["command", "last good", "last failed", "now"].map(str::to_owned)];
    rows.extend(report.runs.iter().map(|run| run_row(run, report)));
    let mut lines = vec![Line::heading("Runs on this machine")];
    lines.extend(plain_lines(&table::lines("  ", [Align::Left; 4], &rows)));
    lines
}

fn run_row(run: &RunStatus, report: &Report) -> [String; 4] {
    let ended = |end: Option<&RunEndStatus>| {
        end.map_or_else(|| "never".to_owned(), |end| format!("{} ago", ago(report, end.ended_at)))
    };
    let at_work: Vec<String> = run
        .at_work
        .iter()
        .map(|now| format!("process {} since {}", now.pid, ago(report, now.started_at)))
        .collect();
    let last_end = run.last_done.iter().chain(&run.last_failed).map(|end| end.ended_at).max();
    let killed = run.killed_started_at.filter(|at| last_end.is_none_or(|end| end < *at));
    let killed = killed.map(|at| format!("killed, begun {} ago", ago(report, at)));
    let now = match at_work.is_empty() {
        true => killed.unwrap_or_default(),
        false => at_work.join(", "),
    };
    [run.command.clone(), ended(run.last_done.as_ref()), ended(run.last_failed.as_ref()), now]
}
