//! The drill: a backup restored into a directory of its own, and a server started from it.
//!
//! It goes the way that a real restore goes, with [`restore`] itself and the `restore_command`
//! that this writes, replays to the end of the archive, and lets the server end recovery. So it also proves what no
//! reading of bytes can: that the programs are there, that the WAL can be replayed, how long all of it takes. Then the
//! cluster is looked through with `pg_amcheck`, which may make its extension there, or asked whatever the operator
//! wrote.
//!
//! It touches nothing but its own directory: tablespaces are mapped into it, nothing is archived, the socket is
//! private. And it leaves nothing behind, however it ends: see [`scratch`] and [`server`].

mod checks;
mod programs;
mod scratch;
mod server;

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use chrono::{DateTime, Utc};

use self::checks::{Outcome, Script};
use self::programs::Programs;
use self::scratch::Scratch;
use self::server::{NotStarted, Server};
use super::problem::{Problem, Subject};
use super::report::{DrillCheck, DrillReport, Note, Report};
use super::{Checked, Request, conclusion, memory, survey};
use crate::catalog::BackupInfo;
use crate::ops::data_directory::control_file;
use crate::ops::restore::{self, Target, TargetAction, TargetTimeline};
use crate::ops::{Context, Error};
use crate::plan::recovery::{self, RecoveryRequest};
use crate::repo::{self, layout};
use crate::server::{ConnectionSettings, Session};

#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where the scratch directory is made.
    pub directory: Option<PathBuf>,
    /// Where the programs of PostgreSQL are.
    pub bin_directory: Option<PathBuf>,
    pub check_sql: Option<PathBuf>,
}

/// One drill for each repository that was named, or one with the first that can give a backup.
pub fn run(
    context: &Context<'_>,
    request: &Request,
    options: &Options,
    report: &mut Report,
) -> Result<(), Error> {
    let script = options.check_sql.as_deref().map(Script::read).transpose()?;
    let mut checked = survey(context, request, report)?;
    let mut is_done = false;
    for own in &mut checked {
        context.interrupt.check()?;
        if is_done && request.repositories.is_empty() {
            break;
        }
        let backup = match plan(own, request, report.started_at) {
            Ok(backup) => backup,
            Err(problem) => {
                own.problems.push(*problem);
                continue;
            }
        };
        let drill = Drill { context, options, script: script.as_ref(), backup: &backup };
        let drilled = drill.run(own)?;
        is_done = true;
        let damage = drilled.problems.iter().find(|problem| problem.subject.backup() == Some(backup.name));
        let damage = damage.map(Problem::in_words);
        // What says nothing of the backup is no proof of it either.
        if damage.is_some() || drilled.problems.is_empty() {
            memory::remember_drill(context, own, backup.name, (context.clock)(), damage)?;
        }
        own.problems.extend(drilled.problems);
        own.notes.extend(drilled.notes);
        report.drills.extend(drilled.report);
    }
    report.findings.extend(conclusion::findings(&checked));
    report.notes.extend(checked.into_iter().flat_map(|own| own.notes));
    Ok(())
}

/// The backup that a restore to the end of the archive would take.
fn plan(own: &Checked, request: &Request, now: DateTime<Utc>) -> Result<BackupInfo, Box<Problem>> {
    let wanted = RecoveryRequest {
        backup: request.backup.clone().filter(|name| name != "latest"),
        target: Target::End,
        exclusive: false,
        timeline: TargetTimeline::Latest,
        action: TargetAction::Promote,
        standby: false,
    };
    match recovery::plan(&own.catalog, &wanted, now) {
        Ok(plan) => Ok(own.catalog.backup(plan.backup).expect("a plan is of the catalog's backups").clone()),
        Err(error) => {
            let hint = error.hint();
            let problem =
                Problem::new("not-restorable", layout::BASE_BACKUPS, Subject::Nothing, error.to_string());
            Err(Box::new(problem.with_hint(hint)))
        }
    }
}

struct Drill<'a> {
    context: &'a Context<'a>,
    options: &'a Options,
    script: Option<&'a Script>,
    backup: &'a BackupInfo,
}

#[derive(Default)]
struct Drilled {
    report: Option<DrillReport>,
    problems: Vec<Problem>,
    notes: Vec<Note>,
}

impl Drill<'_> {
    fn run(&self, own: &Checked) -> Result<Drilled, Error> {
        let major = self.backup.server_version.major();
        let programs = Programs::find(self.context, self.options.bin_directory.as_deref(), major)?;
        let scratch = Scratch::make(self.context, self.options.directory.as_deref())?;
        scratch.must_have_room_for(self.backup.size_bytes)?;
        self.context.meter.expect(self.backup.size_bytes);

        let mut drilled = Drilled::default();
        let restored = match self.restore(own, &scratch) {
            Ok(restored) => restored,
            Err(error) => {
                self.context.interrupt.check()?;
                drilled.problems.push(self.not_restored(error)?);
                return Ok(drilled);
            }
        };
        let report = drilled.report.insert(DrillReport {
            repository: restored.repository.clone(),
            backup: restored.backup.clone(),
            size_bytes: restored.size_bytes,
            restore_seconds: restored.duration_seconds,
            replay_seconds: None,
            replayed_to_lsn: None,
            last_transaction_at: None,
            server: programs.version.clone(),
            checks: Vec::new(),
        });
        let account = self.account(&scratch)?;
        scratch.make_for(account)?;
        let control = control_file(&scratch.data())?.expect("a restore ends with this file");
        let started_at = (self.context.clock)();
        let mut server = Server::start(&scratch, &programs, account, &control, &restored.settings)?;
        let (mut session, superuser) = match self.replayed(&scratch, &mut server) {
            Ok(replayed) => replayed,
            Err(NotStarted::Failed(error)) => return Err(error),
            Err(NotStarted::Ended(found)) => {
                drilled.problems.push(
                    self.problem("server-ended", Subject::Nothing, found).with_hint(Some(
                        "What the server says tells whether it is the backup, the WAL, or this machine."
                            .to_owned(),
                    )),
                );
                return Ok(drilled);
            }
            Err(NotStarted::Refused(found)) => {
                drilled.problems.push(self.problem("server-refused", Subject::Nothing, found));
                return Ok(drilled);
            }
        };
        report.replay_seconds = Some(self.seconds_since(started_at));
        (report.replayed_to_lsn, report.last_transaction_at) = how_far(&mut session)?;

        let began_at = (self.context.clock)();
        let outcome = checks::amcheck(self.context, &scratch, &programs, account, &superuser, &mut session)?;
        let finding = self.checked(report, "pg_amcheck", began_at, outcome, &mut drilled.notes, own);
        drilled
            .problems
            .extend(finding.map(|found| self.problem("amcheck", Subject::PagesOf(self.backup.name), found)));
        if let Some(script) = self.script {
            let began_at = (self.context.clock)();
            let name = script.path.display().to_string();
            let outcome = script.run(self.context, server, session)?;
            let finding = self.checked(report, &name, began_at, outcome, &mut drilled.notes, own);
            drilled.problems.extend(finding.map(|found| {
                self.problem("check-sql", Subject::Nothing, found).inside(name).with_hint(Some(
                    "The restored cluster does not hold what the SQL asks for; run it on the live one to compare."
                        .to_owned(),
                ))
            }));
        }
        Ok(drilled)
    }

    fn restore(&self, own: &Checked, scratch: &Scratch) -> Result<restore::Report, Error> {
        let tablespaces = self.backup.tablespaces.iter();
        let moved = tablespaces
            .map(|tablespace| (PathBuf::from(&tablespace.location), scratch.tablespace(tablespace.oid)));
        let request = restore::Request {
            directory: scratch.data(),
            backup: Some(self.backup.name.to_string()),
            target: Target::End,
            exclusive: false,
            timeline: TargetTimeline::Latest,
            action: TargetAction::Promote,
            tablespace_mapping: moved.collect(),
            standby: false,
            delta: false,
            repository: Some(own.repository.name().to_owned()),
            dry_run: false,
        };
        restore::run(self.context, &request)
    }

    /// What the backup is to blame for is a finding; all else ends the drill.
    fn not_restored(&self, error: Error) -> Result<Problem, Error> {
        let is_of_backup = match &error {
            Error::Unrestorable { .. } | Error::Recovery(_) => true,
            Error::Repository(error) => {
                matches!(error, repo::Error::Damaged { .. } | repo::Error::Missing { .. })
            }
            _ => false,
        };
        match is_of_backup {
            true => {
                let subject = Subject::Backup(self.backup.name);
                Ok(self.problem("not-restorable", subject, error.to_string()))
            }
            false => Err(error),
        }
    }

    /// As whom the server runs, which refuses to be root: the owner of what was restored.
    fn account(&self, scratch: &Scratch) -> Result<Option<(u32, u32)>, Error> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let path = scratch.data().join("PG_VERSION");
        let found = std::fs::metadata(&path);
        let found = found.map_err(|source| Error::Io { action: "look at", path, source })?;
        match found.uid() {
            0 => Err(Error::Usage {
                reason: "a server does not run as root, and nothing says as whom it should".to_owned(),
                hint: "Run pgbak as the user of the server, or set `data_directory` in [postgres] to a \
                       directory of that user's."
                    .to_owned(),
            }),
            uid => Ok(Some((uid, found.gid()))),
        }
    }

    /// Waits until all is replayed. The session is a superuser's, whose name is handed back too.
    fn replayed(&self, scratch: &Scratch, server: &mut Server) -> Result<(Session, String), NotStarted> {
        let configured =
            ConnectionSettings::resolve(&self.context.config.postgres.connection, self.context.environment);
        let configured = configured.map_err(Error::from)?;
        let settings = checks::connection(scratch, &configured.user, &configured.database)?;
        let usual = checks::connection(scratch, &configured.user, "postgres")?;
        let mut session = match server.wait(self.context, &settings) {
            // The role for backups need not have a database.
            Err(NotStarted::Refused(reason)) => {
                server.wait(self.context, &usual).map_err(|again| match again {
                    NotStarted::Refused(_) => NotStarted::Refused(reason),
                    other => other,
                })?
            }
            waited => waited?,
        };
        let superusers = session.rows(
            "SELECT rolname, current_database() FROM pg_roles WHERE rolsuper AND rolcanlogin ORDER BY oid",
        );
        let superusers = superusers.map_err(Error::from)?;
        let Some([Some(superuser), Some(database)]) = superusers.first().map(Vec::as_slice) else {
            return Err(NotStarted::Refused("it has no superuser that can log in".to_owned()));
        };
        let settings = checks::connection(scratch, superuser, database)?;
        Ok((server.wait(self.context, &settings)?, superuser.clone()))
    }

    /// Enters a check that was made into the report, and hands back what it found.
    fn checked(
        &self,
        report: &mut DrillReport,
        name: &str,
        began_at: DateTime<Utc>,
        outcome: Outcome,
        notes: &mut Vec<Note>,
        own: &Checked,
    ) -> Option<String> {
        let seconds = self.seconds_since(began_at);
        let (passed, found) = match outcome {
            Outcome::Passed => (true, None),
            Outcome::Failed(found) => (false, Some(found)),
            Outcome::NotMade(reason) => {
                let repository = Some(own.repository.name().to_owned());
                notes.push(Note { code: "not-checked", repository, object: None, message: reason });
                return None;
            }
        };
        report.checks.push(DrillCheck { name: name.to_owned(), passed, seconds });
        found
    }

    fn problem(&self, code: &'static str, subject: Subject, found: String) -> Problem {
        Problem::new(code, layout::backup_directory(self.backup.name), subject, found)
    }

    fn seconds_since(&self, began_at: DateTime<Utc>) -> f64 {
        ((self.context.clock)() - began_at).as_seconds_f64()
    }
}

/// Where replay ended, and when the last transaction that it met was committed.
fn how_far(session: &mut Session) -> Result<(Option<String>, Option<DateTime<Utc>>), Error> {
    let rows = session.rows(
        "SELECT pg_last_wal_replay_lsn(), \
         (extract(epoch FROM pg_last_xact_replay_timestamp()) * 1000000)::int8",
    )?;
    let Some([lsn, micros]) = rows.first().map(Vec::as_slice) else { return Ok((None, None)) };
    let at = micros.as_ref().and_then(|micros| DateTime::from_timestamp_micros(micros.parse().ok()?));
    Ok((lsn.clone(), at))
}
