//! `pgbak restore`: flags in, one operation, report out.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::exit::{self, Exit};
use super::failure::Failure;
use super::output::ReportFlag;
use super::session::{Session, check_repositories};
use super::table::{self, Align};
use super::time::{self, ReadAs, Zone};
use super::units;
use crate::config::Config;
use crate::ops::restore::{
    self, Report, Request, Setting, TablespacePlace, Target, TargetAction, TargetTimeline,
};
use crate::pg::Lsn;

/// Put a data directory back, at any point in time
///
/// Before the first byte is written, the plan is proven: the backup is whole and ended before the target, the
/// target's timeline can be reached, and no WAL is missing on the way. Then every file is checked while it is
/// written. Starting the restored server is left to you; the report gives the command.
///
/// The directory must be empty or new. It is refused if a server runs in it or if it belongs to another cluster.
///
/// Without a --target option, recovery goes to the end of the archived WAL.
#[derive(Debug, clap::Args)]
#[command(after_long_help = help())]
pub struct Restore {
    /// The data directory to fill [default: postgres.data_directory of the configuration]
    #[arg(short = 'D', value_name = "DIR")]
    directory: Option<PathBuf>,

    /// A backup's name; "latest" is the newest one that reaches the target
    #[arg(long, value_name = "NAME", default_value = "latest")]
    backup: String,

    #[command(flatten)]
    target: TargetFlags,

    /// Stop just before the target (a time, LSN or transaction) instead of just after it
    #[arg(long)]
    target_exclusive: bool,

    /// The timeline to follow: "latest", "current" (the backup's own) or a number
    #[arg(long, value_name = "TIMELINE", default_value = "latest", value_parser = timeline)]
    target_timeline: TargetTimeline,

    /// What the server does at the target
    #[arg(long, value_name = "ACTION", default_value = "pause")]
    target_action: Action,

    /// Put the tablespace that was in OLD into NEW (repeatable; write "\=" for a "=" in a path)
    #[arg(long, value_name = "OLD=NEW", value_parser = tablespace_mapping)]
    tablespace_mapping: Vec<(PathBuf, PathBuf)>,

    /// Restore a standby, which stays in recovery and follows the archive
    #[arg(long)]
    standby: bool,

    /// Keep the files in the directory that are already right, and remove those that do not belong
    #[arg(long)]
    delta: bool,

    /// Restore from this repository [default: any, in the order of the configuration]
    #[arg(long, value_name = "NAME")]
    repository: Option<String>,

    /// Prove and print the plan, and write nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    report: ReportFlag,
}

/// Where recovery stops: one of these.
#[derive(Debug, clap::Args)]
#[group(id = "target", multiple = false)]
struct TargetFlags {
    /// Stop at this time, local unless it has an offset: "2026-11-22 02:00:00+01:00"
    #[arg(long, value_name = "TIME")]
    target_time: Option<String>,

    /// Stop at this WAL location: 16/B374D848
    #[arg(long, value_name = "LSN")]
    target_lsn: Option<Lsn>,

    /// Stop at the end of this transaction
    #[arg(long, value_name = "XID", value_parser = transaction)]
    target_xid: Option<u32>,

    /// Stop at this restore point, which pg_create_restore_point() made
    #[arg(long, value_name = "NAME", value_parser = restore_point)]
    target_name: Option<String>,

    /// Stop as soon as the backup is consistent
    #[arg(long)]
    target_immediate: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Action {
    /// Wait, readable, until you call pg_wal_replay_resume()
    Pause,
    /// Become a writable server on a new timeline
    Promote,
    /// Stop the server
    Shutdown,
}

fn help() -> String {
    exit::help(
        "  pgbak restore -D /var/lib/postgresql/15/restored --target-time \"2026-11-22 02:00\" --dry-run",
        &[exit::DONE, exit::FAILED, exit::USAGE, exit::LOCKED, exit::INTERRUPTED],
    )
}

impl Restore {
    pub fn run(self, session: &mut Session<'_>) -> Result<Exit, Failure> {
        let format = self.report.format();
        let request = self.request(session)?;
        let report = session.with_progress("restore", |context| restore::run(context, &request))?;
        session.report(&report, format, Exit::DONE, render)
    }

    fn request(self, session: &Session<'_>) -> Result<Request, Failure> {
        let config = session.context.config;
        check_repositories(&self.repository, config)?;
        check_mappings(&self.tablespace_mapping)?;
        let target = self.target.target(session)?;
        let can_exclude = matches!(target, Target::Time(_) | Target::Lsn(_) | Target::Xid(_));
        if self.target_exclusive && !can_exclude {
            return Err(Failure::usage(
                "--target-exclusive has nothing to exclude",
                "Use it with --target-time, --target-lsn or --target-xid.",
            ));
        }
        Ok(Request {
            directory: directory(self.directory, config)?,
            backup: Some(self.backup).filter(|name| name != "latest"),
            target,
            exclusive: self.target_exclusive,
            timeline: self.target_timeline,
            action: self.target_action.into(),
            tablespace_mapping: self.tablespace_mapping,
            standby: self.standby,
            delta: self.delta,
            repository: self.repository,
            dry_run: self.dry_run,
        })
    }
}

impl TargetFlags {
    /// A time that was read as local is told at once with its offset: the report may come an hour later.
    fn target(self, session: &Session<'_>) -> Result<Target, Failure> {
        if let Some(text) = &self.target_time {
            let given = time::parse(text, session.zone)
                .map_err(|error| Failure::usage(format!("--target-time: {error}"), error.hint()))?;
            if given.read_as == ReadAs::Local {
                let shown = session.zone.show(given.instant);
                session.log.notice(&format!("the target time is {shown}"), &[]);
            }
            return Ok(Target::Time(given.instant));
        }
        let lsn = self.target_lsn.map(Target::Lsn);
        let xid = || self.target_xid.map(Target::Xid);
        let name = || self.target_name.map(Target::Name);
        let immediate = || self.target_immediate.then_some(Target::Immediate);
        Ok(lsn.or_else(xid).or_else(name).or_else(immediate).unwrap_or(Target::End))
    }
}

impl From<Action> for TargetAction {
    fn from(action: Action) -> Self {
        match action {
            Action::Pause => Self::Pause,
            Action::Promote => Self::Promote,
            Action::Shutdown => Self::Shutdown,
        }
    }
}

fn directory(flag: Option<PathBuf>, config: &Config) -> Result<PathBuf, Failure> {
    let directory = flag.as_ref().or(config.postgres.data_directory.as_ref());
    let Some(directory) = directory else {
        return Err(Failure::usage(
            "no directory to restore into is given",
            "Use -D DIR, or set postgres.data_directory in the configuration.",
        ));
    };
    std::path::absolute(directory).map_err(|error| {
        Failure::usage(format!("-D \"{}\": {error}", directory.display()), "Give an absolute path.")
    })
}

fn check_mappings(mappings: &[(PathBuf, PathBuf)]) -> Result<(), Failure> {
    for (i, (old, new)) in mappings.iter().enumerate() {
        let earlier = &mappings[..i];
        if earlier.iter().any(|(other, _)| other == old) {
            let message = format!("--tablespace-mapping: \"{}\" is mapped twice", old.display());
            return Err(Failure::usage(message, "Map each tablespace once."));
        }
        if earlier.iter().any(|(_, other)| other == new) {
            let message =
                format!("--tablespace-mapping: two tablespaces are mapped to \"{}\"", new.display());
            return Err(Failure::usage(message, "Give each tablespace a directory of its own."));
        }
    }
    Ok(())
}

fn timeline(text: &str) -> Result<TargetTimeline, String> {
    match text {
        "latest" => Ok(TargetTimeline::Latest),
        "current" => Ok(TargetTimeline::Current),
        number => number
            .parse()
            .map(TargetTimeline::Number)
            .map_err(|_| "it is neither \"latest\" nor \"current\" nor a number above 0".to_owned()),
    }
}

/// Follows PostgreSQL's `check_recovery_target_xid`: of the 64 bits that `pg_current_xact_id()` shows, the WAL
/// knows the lower 32. Those below 3 are no ordinary transactions.
fn transaction(text: &str) -> Result<u32, String> {
    let number: u64 = text.parse().map_err(|_| "a transaction is a whole number".to_owned())?;
    match number as u32 {
        0..3 => Err("no ordinary transaction has this number".to_owned()),
        xid => Ok(xid),
    }
}

/// PostgreSQL keeps no longer name (`MAXFNAMELEN`).
fn restore_point(text: &str) -> Result<String, String> {
    let valid = (1..=63).contains(&text.len());
    valid.then(|| text.to_owned()).ok_or_else(|| "a restore point's name has 1 to 63 bytes".to_owned())
}

/// `OLD=NEW`, in which `\=` is a `=`. Follows PostgreSQL's `tablespace_list_append` in
/// `src/bin/pg_basebackup/pg_basebackup.c`.
fn tablespace_mapping(text: &str) -> Result<(PathBuf, PathBuf), String> {
    let mut parts = vec![String::new()];
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let last = parts.last_mut().expect("there is always one");
        match character {
            '\\' if characters.peek() == Some(&'=') => last.extend(characters.next()),
            '=' => parts.push(String::new()),
            other => last.push(other),
        }
    }
    let [old, new] = <[String; 2]>::try_from(parts)
        .map_err(|_| "it needs exactly one \"=\" that is not written \"\\=\"".to_owned())?;
    let absolute = |path: &str| {
        let is_absolute = Path::new(path).is_absolute();
        is_absolute.then(|| PathBuf::from(path)).ok_or_else(|| format!("\"{path}\" is not an absolute path"))
    };
    Ok((absolute(&old)?, absolute(&new)?))
}

fn render(report: &Report, zone: &dyn Zone) -> String {
    let mut text = match report.dry_run {
        true => "This is the plan. Nothing was written.\n".to_owned(),
        false => format!("{} is restored.\n", report.directory.display()),
    };
    text.push_str(&table::lines("  ", [Align::Left, Align::Left], &facts(report, zone)));
    if !report.settings.is_empty() {
        text.push_str("Settings in postgresql.auto.conf:\n");
        for Setting { name, value } in &report.settings {
            text.push_str(&format!("  {name} = '{}'\n", value.replace('\'', "''")));
        }
    }
    for note in &report.notes {
        text.push_str(&format!("Note: {note}\n"));
    }
    if !report.commands.is_empty() {
        text.push_str(match report.dry_run {
            true => "Run the same without --dry-run, and then:\n",
            false => "Now run:\n",
        });
        for command in &report.commands {
            text.push_str(&format!("  {command}\n"));
        }
    }
    text
}

fn facts(report: &Report, zone: &dyn Zone) -> Vec<[String; 2]> {
    let fact = |name: &str, value: String| [name.to_owned(), value];
    let wal = match (&report.wal_from, &report.wal_to) {
        (Some(from), Some(to)) => format!("{from} to {to}"),
        _ => "only what is in the backup".to_owned(),
    };
    let mut facts = vec![
        fact("backup", format!("{} from {}", report.backup, report.repository)),
        fact("", format!("which ended {}", zone.show_seconds(report.backup_stopped_at))),
        fact("target", format!("{} on timeline {}", report.target, report.timeline)),
        fact("WAL", wal),
        fact("directory", report.directory.display().to_string()),
        fact("size", units::size(report.size_bytes)),
    ];
    for (i, TablespacePlace { oid, directory }) in report.tablespaces.iter().enumerate() {
        let name = if i == 0 { "tablespaces" } else { "" };
        facts.push(fact(name, format!("{oid} in {}", directory.display())));
    }
    if !report.dry_run {
        let duration = Duration::try_from_secs_f64(report.duration_seconds).unwrap_or_default();
        facts.push(fact("written", format!("{}, in {}", files(report), units::span(duration))));
    }
    facts
}

/// `1273 files`, and with `--delta` also `, 968 kept as they were, 2 removed that did not belong`.
fn files(report: &Report) -> String {
    let mut text = units::count(report.files_written, "file");
    if report.files_kept > 0 {
        text.push_str(&format!(", {} kept as they were", report.files_kept));
    }
    if report.files_removed > 0 {
        text.push_str(&format!(", {} removed that did not belong", report.files_removed));
    }
    text
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, FixedOffset};

    use super::*;
    use crate::pg::Timeline;

    fn report() -> Report {
        Report {
            repository: "local".into(),
            backup: "base_backup_20261122_020000".into(),
            backup_stopped_at: DateTime::parse_from_rfc3339("2026-11-22T02:01:02Z").unwrap().into(),
            directory: "/var/lib/postgresql/15/restored".into(),
            target: "2026-11-22 11:59:59+01:00, inclusive".into(),
            timeline: 1,
            wal_from: Some("000000010000000000000002".into()),
            wal_to: Some("000000010000000000000042".into()),
            size_bytes: 12_345_678_901,
            tablespaces: vec![
                TablespacePlace { oid: 16_401, directory: "/fast/a".into() },
                TablespacePlace { oid: 16_402, directory: "/fast/b".into() },
            ],
            settings: vec![
                Setting { name: "restore_command".into(), value: "pgbak wal-fetch %f %p".into() },
                Setting { name: "recovery_target_name".into(), value: "it's".into() },
            ],
            commands: vec!["pg_ctl -D /var/lib/postgresql/15/restored start".into()],
            dry_run: true,
            files_written: 0,
            files_kept: 0,
            files_removed: 0,
            duration_seconds: 0.2,
            notes: vec!["postgresql.conf is not in the data directory.".into()],
        }
    }

    fn rendered(report: &Report) -> String {
        render(report, &FixedOffset::east_opt(3600).unwrap())
    }

    #[test]
    fn a_dry_run_shows_the_plan_and_says_that_nothing_was_written() {
        let text = "\
This is the plan. Nothing was written.
  backup       base_backup_20261122_020000 from local
               which ended 2026-11-22 03:01:02+01:00
  target       2026-11-22 11:59:59+01:00, inclusive on timeline 1
  WAL          000000010000000000000002 to 000000010000000000000042
  directory    /var/lib/postgresql/15/restored
  size         12.3 GB
  tablespaces  16401 in /fast/a
               16402 in /fast/b
Settings in postgresql.auto.conf:
  restore_command = 'pgbak wal-fetch %f %p'
  recovery_target_name = 'it''s'
Note: postgresql.conf is not in the data directory.
Run the same without --dry-run, and then:
  pg_ctl -D /var/lib/postgresql/15/restored start
";
        assert_eq!(rendered(&report()), text);
    }

    #[test]
    fn a_restore_says_what_it_did_and_what_comes_next() {
        let done = Report {
            dry_run: false,
            files_written: 1,
            files_kept: 968,
            files_removed: 2,
            duration_seconds: 41.6,
            wal_from: None,
            ..report()
        };
        let text = rendered(&done);
        assert!(text.starts_with("/var/lib/postgresql/15/restored is restored.\n"), "{text}");
        let written =
            "\n  written      1 file, 968 kept as they were, 2 removed that did not belong, in 42 s\n";
        assert!(text.contains(written), "{text}");
        assert!(text.contains("\n  WAL          only what is in the backup\n"), "{text}");
        assert!(text.ends_with("Now run:\n  pg_ctl -D /var/lib/postgresql/15/restored start\n"), "{text}");
    }

    #[test]
    fn a_mapping_is_split_at_its_one_bare_equals_sign() {
        let mapping = |text| tablespace_mapping(text).ok();
        assert_eq!(mapping("/a=/b"), Some(("/a".into(), "/b".into())));
        assert_eq!(mapping(r"/a\=1=/b\=2"), Some(("/a=1".into(), "/b=2".into())));
        assert_eq!(mapping(r"/a\b=/c\"), Some((r"/a\b".into(), r"/c\".into())));
        for text in ["", "/a", "/a=", "=/b", "a=/b", "/a=b", "/a=/b=/c", r"/a\=/b"] {
            assert_eq!(mapping(text), None, "{text}");
        }
    }

    #[test]
    fn a_tablespace_has_one_destination_and_shares_it_with_none() {
        let pair = |old: &str, new: &str| (PathBuf::from(old), PathBuf::from(new));
        assert!(check_mappings(&[pair("/a", "/x"), pair("/b", "/y")]).is_ok());
        assert!(check_mappings(&[pair("/a", "/x"), pair("/a", "/y")]).is_err());
        assert!(check_mappings(&[pair("/a", "/x"), pair("/b", "/x")]).is_err());
    }

    #[test]
    fn a_transaction_may_be_given_with_its_epoch() {
        assert_eq!(transaction("731"), Ok(731));
        assert_eq!(transaction("4294968027"), Ok(731));
        for text in ["", "-1", "0", "2", "4294967297", "x", "99999999999999999999"] {
            assert!(transaction(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_timeline_is_a_word_or_a_number() {
        assert_eq!(timeline("latest"), Ok(TargetTimeline::Latest));
        assert_eq!(timeline("current"), Ok(TargetTimeline::Current));
        assert_eq!(timeline("3"), Ok(TargetTimeline::Number(Timeline::new(3).unwrap())));
        assert!(timeline("0").is_err() && timeline("newest").is_err());
    }
}
