//! `pgbak prune`: one operation, and the plan with its reasons.

use super::exit::{self, Exit};
use super::failure::Failure;
use super::output::ReportFlag;
use super::session::{self, Session};
use super::time::Zone;
use super::units;
use crate::config;
use crate::ops::prune::{
    self, BackupItem, Decision, Deleted, DirectoryReport, LeftoverItem, Report, RepositoryReport, Request,
    WalItem,
};

/// Within which every line stays that is made of words.
const COLUMNS: usize = 80;
/// As many items of the same fate and reason as this are shown one by one; more as a run.
const SHOWN_MAX: usize = 3;

/// Delete what the retention policy no longer needs
///
/// Prints what is kept and what is deleted, each with its reason. The policy is that of [retention] in the
/// configuration; a flag takes the place of its key.
///
/// Whatever the policy says, these stay: the newest good backup, one that is being written or restored, WAL that a kept
/// backup or the PITR window needs, all WAL behind the newest backup, and every history. A damaged backup does not count.
/// Nothing is deleted from a repository that cannot be read whole, or while the clock cannot be believed.
///
/// What an interrupted run leaves is finished by the next one. With wal.source = "directory", files that every
/// repository holds are deleted from wal.directory, too.
#[derive(Debug, clap::Args)]
#[command(after_long_help = help())]
pub struct Prune {
    /// Print what would be deleted, and delete nothing
    #[arg(long)]
    dry_run: bool,

    /// Keep the newest COUNT good backups
    #[arg(long, value_name = "COUNT")]
    keep_last: Option<u32>,

    /// Keep every backup that is not older than this, such as 14d
    #[arg(long, value_name = "SPAN")]
    keep_within: Option<config::Span>,

    /// Keep the newest of each of the last COUNT days that have one
    #[arg(long, value_name = "COUNT")]
    keep_daily: Option<u32>,

    /// Keep the newest of each of the last COUNT weeks that have one
    #[arg(long, value_name = "COUNT")]
    keep_weekly: Option<u32>,

    /// Keep the newest of each of the last COUNT months that have one
    #[arg(long, value_name = "COUNT")]
    keep_monthly: Option<u32>,

    /// Keep what it takes to restore to every instant that is not older than this, such as 7d
    #[arg(long, value_name = "SPAN")]
    pitr_window: Option<config::Span>,

    /// Prune this repository only (repeatable) [default: all]
    #[arg(long = "repository", value_name = "NAME")]
    repositories: Vec<String>,

    #[command(flatten)]
    report: ReportFlag,
}

fn help() -> String {
    exit::help(
        "  pgbak base-backup && pgbak prune",
        &[
            ("0", "done, or nothing to delete"),
            ("1", "failed: no repository was pruned"),
            exit::USAGE,
            ("3", "done, but not in every repository"),
            exit::LOCKED,
            ("130, 143", "interrupted by SIGINT or SIGTERM; the next run goes on"),
        ],
    )
}

impl Prune {
    pub fn run(self, session: &mut Session<'_>) -> Result<Exit, Failure> {
        session::check_repositories(&self.repositories, session.context.config)?;
        let format = self.report.format();
        let request = self.request(&session.context.config.retention);
        let report = session.with_progress("pruning", |context| prune::run(context, &request))?;
        let exit = if report.has_findings() { Exit::FINDINGS } else { Exit::DONE };
        session.report(&report, format, exit, render)
    }

    fn request(self, configured: &config::Retention) -> Request {
        let retention = config::Retention {
            keep_last: self.keep_last.unwrap_or(configured.keep_last),
            keep_within: self.keep_within.map(|span| span.0).or(configured.keep_within),
            keep_daily: self.keep_daily.unwrap_or(configured.keep_daily),
            keep_weekly: self.keep_weekly.unwrap_or(configured.keep_weekly),
            keep_monthly: self.keep_monthly.unwrap_or(configured.keep_monthly),
            pitr_window: self.pitr_window.map(|span| span.0).or(configured.pitr_window),
        };
        Request { repositories: self.repositories, retention, dry_run: self.dry_run }
    }
}

fn render(report: &Report, _zone: &dyn Zone) -> String {
    let tense = if report.dry_run { Tense::Future } else { Tense::Past };
    let mut sections: Vec<String> =
        report.repositories.iter().map(|repository| repository_section(repository, tense)).collect();
    sections.extend(report.directory.as_ref().map(|directory| directory_section(directory, tense)));
    sections.join("\n")
}

/// Whether it has been done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tense {
    Past,
    Future,
}

impl Tense {
    fn of(self, decision: &Decision) -> &'static str {
        match (self, decision.deletes()) {
            (Self::Past, true) => "deleted",
            (Self::Past, false) => "kept   ",
            (Self::Future, true) => "delete ",
            (Self::Future, false) => "keep   ",
        }
    }

    fn total(self) -> &'static str {
        match self {
            Self::Past => "deleted",
            Self::Future => "would delete",
        }
    }
}

fn repository_section(repository: &RepositoryReport, tense: Tense) -> String {
    let mut text = format!("{}: {}\n", repository.name, repository.place);
    let mut clusters: Vec<&String> = Vec::new();
    let of_backups = repository.backups.iter().map(|backup| &backup.system_identifier);
    for cluster in of_backups.chain(repository.wal.iter().map(|wal| &wal.system_identifier)) {
        if !clusters.contains(&cluster) {
            clusters.push(cluster);
        }
    }
    for cluster in clusters {
        text.push_str(&format!("  cluster {cluster}\n"));
        let backups = repository.backups.iter().filter(|backup| backup.system_identifier == *cluster);
        let wal = repository.wal.iter().filter(|wal| wal.system_identifier == *cluster);
        items(&mut text, tense, backups.map(Item::of_backup).chain(wal.map(Item::of_wal)));
    }
    if !repository.leftovers.is_empty() {
        text.push_str("  what no record names\n");
        items(&mut text, tense, repository.leftovers.iter().map(Item::of_leftover));
    }
    for note in &repository.notes {
        text.push_str(&wrapped("  ", &format!("note: {note}")));
    }
    match &repository.error {
        Some(error) => {
            text.push_str(&wrapped("  ", &format!("FAILED: {error}")));
            text.push_str(&hint(repository.hint.as_deref()));
            if repository.deleted != Deleted::default() {
                text.push_str(&totals(repository.deleted, tense));
            }
        }
        None => text.push_str(&totals(repository.deleted, tense)),
    }
    text
}

fn directory_section(directory: &DirectoryReport, tense: Tense) -> String {
    let mut text = format!("wal.directory: {}\n", directory.path.display());
    let file = |file: &prune::DirectoryItem| Item {
        decision: file.decision.clone(),
        label: "",
        first: file.name.clone(),
        last: file.name.clone(),
        count: 1,
        bytes: file.bytes,
        noun: "file",
    };
    items(&mut text, tense, directory.files.iter().map(file));
    if let Some(error) = &directory.error {
        text.push_str(&wrapped("  ", &format!("FAILED: {error}")));
        text.push_str(&hint(directory.hint.as_deref()));
    }
    if directory.error.is_none() || directory.deleted != Deleted::default() {
        text.push_str(&totals(directory.deleted, tense));
    }
    text
}

fn hint(hint: Option<&str>) -> String {
    hint.map(|hint| wrapped("    ", &format!("hint: {hint}"))).unwrap_or_default()
}

/// `  deleted 3 backups, 15 WAL files and 1 leftover: 1.20 GB`
fn totals(deleted: Deleted, tense: Tense) -> String {
    let Deleted { backups, wal_files, leftovers, bytes } = deleted;
    let parts = [(backups, "backup"), (wal_files, "WAL file"), (leftovers, "leftover")];
    let parts: Vec<String> = parts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, noun)| units::count(*count, noun))
        .collect();
    match parts.split_last() {
        None => "  nothing to delete\n".to_owned(),
        Some((last, [])) => format!("  {} {last}: {}\n", tense.total(), units::size(bytes)),
        Some((last, rest)) => {
            format!("  {} {} and {last}: {}\n", tense.total(), rest.join(", "), units::size(bytes))
        }
    }
}

/// A thing, or several in a row of which the same is told.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    decision: Decision,
    label: &'static str,
    first: String,
    last: String,
    count: u64,
    bytes: u64,
    noun: &'static str,
}

impl Item {
    fn of_backup(backup: &BackupItem) -> Self {
        let mut decision = backup.decision.clone();
        if backup.wal == Some("to-its-stop") {
            decision.reason += "; to be restored to its end only";
        }
        if let Some(damage) = &backup.damage {
            decision.reason += &format!("; DAMAGED: {damage}");
        }
        let name = &backup.name;
        Self {
            decision,
            label: "",
            first: name.clone(),
            last: name.clone(),
            count: 1,
            bytes: backup.stored_bytes,
            noun: "backup",
        }
    }

    fn of_wal(wal: &WalItem) -> Self {
        let (first, last) = (wal.first.clone(), wal.last.clone());
        let noun = if wal.kind == "segments" { "segment" } else { "file" };
        Self {
            decision: wal.decision.clone(),
            label: "WAL ",
            first,
            last,
            count: wal.files,
            bytes: wal.stored_bytes,
            noun,
        }
    }

    fn of_leftover(leftover: &LeftoverItem) -> Self {
        let key = &leftover.key;
        Self {
            decision: leftover.decision.clone(),
            label: "",
            first: key.clone(),
            last: key.clone(),
            count: 1,
            bytes: leftover.stored_bytes,
            noun: "leftover",
        }
    }

    fn is_like(&self, other: &Self) -> bool {
        (&self.decision, self.noun) == (&other.decision, other.noun)
    }

    /// What it is on one line, and below it why.
    fn show(&self, tense: Tense) -> String {
        let Self { label, first, last, count, noun, .. } = self;
        let (action, size, reason) =
            (tense.of(&self.decision), units::size(self.bytes), &self.decision.reason);
        let (what, why) = match first == last {
            true => (format!("{label}{first}, {size}"), reason.clone()),
            false => {
                let why = format!("{}, {size}: {reason}", units::count(*count, noun));
                (format!("{label}{first} to {last}"), why)
            }
        };
        format!("  {action}  {what}\n{}", wrapped("           ", &why))
    }
}

/// Shows items; a long run of the same fate and reason as one.
fn items(text: &mut String, tense: Tense, items: impl Iterator<Item = Item>) {
    let items: Vec<Item> = items.collect();
    for run in items.chunk_by(Item::is_like) {
        if run.len() <= SHOWN_MAX {
            text.extend(run.iter().map(|item| item.show(tense)));
            continue;
        }
        let (first, last) = (run[0].clone(), &run[run.len() - 1]);
        let all = Item {
            last: last.last.clone(),
            count: run.iter().map(|item| item.count).sum(),
            bytes: run.iter().map(|item| item.bytes).sum(),
            ..first
        };
        text.push_str(&all.show(tense));
    }
}

/// Breaks a text between words into lines behind `indent`.
fn wrapped(indent: &str, text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if indent.len() + line.chars().count() + 1 + word.chars().count() <= COLUMNS => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.iter().map(|line| format!("{indent}{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};

    use super::*;
    use crate::ops::prune::DirectoryItem;

    const PLAN: &str = "\
first: /first
  cluster 7439122314155001234
  deleted  base_backup_20261102_020000 to base_backup_20261106_020000
           5 backups, 4.94 GB: no rule keeps it
  kept     base_backup_20261107_020000, 988 MB
           the last 7 days begin with it
  deleted  base_backup_20261108_020000, 988 MB
           damaged, and no rule keeps it; DAMAGED: base.tar.zst has 17 bytes
           instead of 987654321, and more is wrong with it
  kept     base_backup_20261109_020000, 988 MB
           one of the newest 10
  kept     base_backup_20261110_020000, 988 MB
           one of the newest 10; to be restored to its end only
  deleted  WAL 000000010000000000000002 to 000000010000000000000042
           65 segments, 195 MB: no kept backup needs it
  kept     WAL 000000010000000000000043 to 0000000100000000000000A1
           95 segments, 285 MB: since base_backup_20261107_020000 began
  deleted  WAL 000000010000000000000002.00000028.backup, 3.00 MB
           no kept backup needs it
  what no record names
  deleted  base-backups/base_backup_20261101_020000, 5 B
           its record is gone: an earlier prune began to delete it
  deleted 6 backups, 66 WAL files and 1 leftover: 6.12 GB

second: /second
  FAILED: it holds no good backup (0 damaged), so there is nothing that it could
  do without
    hint: Take one with `pgbak base-backup`.

wal.directory: /archive
  deleted  000000010000000000000001 to 000000010000000000000005
           5 files, 83.9 MB: every repository holds it
  deleted 5 WAL files: 83.9 MB
";

    fn backup(day: u32, decision: Decision, damage: Option<&str>) -> BackupItem {
        let wal = (!decision.deletes()).then_some("onward");
        BackupItem {
            decision,
            name: format!("base_backup_202611{day:02}_020000"),
            system_identifier: "7439122314155001234".into(),
            stopped_at: DateTime::UNIX_EPOCH,
            stored_bytes: 987_654_321,
            damage: damage.map(str::to_owned),
            wal,
        }
    }

    fn wal(decision: Decision, kind: &'static str, first: &str, last: &str, files: u64) -> WalItem {
        WalItem {
            decision,
            system_identifier: "7439122314155001234".into(),
            kind,
            timeline: Some(1),
            first: first.into(),
            last: last.into(),
            files,
            stored_bytes: 3_000_000 * files,
        }
    }

    fn repository(name: &str) -> RepositoryReport {
        RepositoryReport {
            name: name.into(),
            place: format!("/{name}"),
            error: None,
            hint: None,
            backups: vec![],
            wal: vec![],
            leftovers: vec![],
            notes: vec![],
            deleted: Deleted::default(),
        }
    }

    fn report() -> Report {
        let mut first = repository("first");
        let no_rule = || Decision::delete("no rule keeps it");
        let recent = || Decision::keep("one of the newest 10");
        first.backups = (2..7).map(|day| backup(day, no_rule(), None)).collect();
        let damage = Some("base.tar.zst has 17 bytes instead of 987654321, and more is wrong with it");
        first.backups.push(backup(7, Decision::keep("the last 7 days begin with it"), None));
        first.backups.push(backup(8, Decision::delete("damaged, and no rule keeps it"), damage));
        first.backups.extend((9..11).map(|day| backup(day, recent(), None)));
        first.backups[8].wal = Some("to-its-stop");
        let since = Decision::keep("since base_backup_20261107_020000 began");
        let unneeded = || Decision::delete("no kept backup needs it");
        let (a, b, c) = ("000000010000000000000002", "000000010000000000000042", "0000000100000000000000A1");
        first.wal = vec![
            wal(unneeded(), "segments", a, b, 65),
            wal(since, "segments", "000000010000000000000043", c, 95),
            wal(unneeded(), "other", &format!("{a}.00000028.backup"), &format!("{a}.00000028.backup"), 1),
        ];
        first.leftovers = vec![LeftoverItem {
            decision: Decision::delete("its record is gone: an earlier prune began to delete it"),
            key: "base-backups/base_backup_20261101_020000".into(),
            stored_bytes: 5,
        }];
        first.deleted = first.to_be_deleted();
        let mut second = repository("second");
        second.error =
            Some("it holds no good backup (0 damaged), so there is nothing that it could do without".into());
        second.hint = Some("Take one with `pgbak base-backup`.".into());
        let files = (1..6).map(|number| DirectoryItem {
            decision: Decision::delete("every repository holds it"),
            name: format!("00000001000000000000000{number}"),
            bytes: 16 << 20,
        });
        let directory = DirectoryReport {
            path: "/archive".into(),
            error: None,
            hint: None,
            files: files.collect(),
            deleted: Deleted { wal_files: 5, bytes: 5 * (16 << 20), ..Deleted::default() },
        };
        Report {
            started_at: DateTime::UNIX_EPOCH,
            duration_seconds: 1.0,
            dry_run: false,
            repositories: vec![first, second],
            directory: Some(directory),
        }
    }

    #[test]
    fn the_plan_is_readable_in_80_columns() {
        let text = render(&report(), &Utc);
        assert_eq!(text, PLAN);
        for line in text.lines() {
            assert!(line.chars().count() <= COLUMNS, "{line}");
        }
    }

    #[test]
    fn a_dry_run_says_the_same_in_the_future() {
        let past = render(&report(), &Utc);
        let future = render(&Report { dry_run: true, ..report() }, &Utc);
        let future = future.replace("  delete   ", "  deleted  ").replace("  keep     ", "  kept     ");
        assert_eq!(future.replace("  would delete ", "  deleted "), past);
    }

    #[test]
    fn nothing_to_do_is_said() {
        let report = Report { repositories: vec![repository("first")], directory: None, ..report() };
        assert_eq!(render(&report, &Utc), "first: /first\n  nothing to delete\n");
    }
}
