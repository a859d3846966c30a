//! What every command of the command line works with: the operation's context, and the streams to report to.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::exit::Exit;
use super::failure::Failure;
use super::log::{Log, Reader};
use super::output::{Output, ReportFormat, printable};
use super::progress;
use super::time::Zone;
use crate::config::Config;
use crate::ops::{self, Context};

pub struct Session<'a> {
    pub context: Context<'a>,
    pub clock: fn() -> DateTime<Utc>,
    pub zone: &'a dyn Zone,
    pub log: Arc<Log>,
    pub output: Output<'a>,
    pub stdout_reader: Reader,
    pub volume: Volume,
}

/// How much is said when all is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Volume {
    Usual,
    Quiet,
}

impl Session<'_> {
    /// Runs an operation, with its progress shown.
    pub fn with_progress<T>(
        &self,
        task: &str,
        operation: impl FnOnce(&Context<'_>) -> Result<T, ops::Error>,
    ) -> Result<T, ops::Error> {
        match self.volume {
            Volume::Quiet => operation(&self.context),
            Volume::Usual => {
                progress::shown(task, &self.log, self.context.meter, self.clock, || operation(&self.context))
            }
        }
    }

    /// Prints a report, and ends the command with `exit`. Quiet commands print none when all is well, except for
    /// programs, which always want their JSON.
    pub fn report<R: Serialize>(
        &mut self,
        report: &R,
        format: ReportFormat,
        exit: Exit,
        render: fn(&R, &dyn Zone) -> String,
    ) -> Result<Exit, Failure> {
        match format {
            ReportFormat::Json => self.output.print_json(report)?,
            ReportFormat::Text if self.volume == Volume::Quiet && exit == Exit::DONE => {}
            ReportFormat::Text => self.output.print(&printable(&render(report, self.zone)))?,
        }
        Ok(exit)
    }
}

/// Refuses names of repositories that the configuration does not have.
pub fn check_repositories<'a>(
    names: impl IntoIterator<Item = &'a String>,
    config: &Config,
) -> Result<(), Failure> {
    let known = |name: &String| config.repositories.iter().any(|repository| repository.name == *name);
    match names.into_iter().find(|name| !known(name)) {
        Some(unknown) => {
            let names: Vec<_> =
                config.repositories.iter().map(|repository| repository.name.as_str()).collect();
            let message = format!("--repository: no repository is named \"{unknown}\"");
            Err(Failure::usage(message, format!("The repositories are: {}.", names.join(", "))))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tracing::level_filters::LevelFilter;

    use super::*;
    use crate::cli::log::LogFormat;
    use crate::interrupt::Interrupt;

    fn config() -> Config {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pgbak.toml");
        std::fs::write(&file, "[[repository]]\nname = \"local\"\npath = \"/b\"\n").unwrap();
        Config::load(Some(&file), &|_| None).unwrap()
    }

    /// What is printed of a report that is rendered as "text".
    fn printed(volume: Volume, format: ReportFormat, exit: Exit) -> String {
        let mut stdout = Vec::new();
        let clock: fn() -> DateTime<Utc> = || DateTime::UNIX_EPOCH;
        let log =
            Log::new(LogFormat::Text, LevelFilter::WARN, Reader::Collector, clock, Box::new(io::sink()));
        let mut session = Session {
            context: Context {
                config: &config(),
                environment: &|_| None,
                clock: &clock,
                interrupt: &Interrupt::default(),
                meter: &Arc::default(),
                program: "pgbak".into(),
                state_directory: "/s".into(),
            },
            clock,
            zone: &Utc,
            log: Arc::new(log),
            output: Output::new(&mut stdout),
            stdout_reader: Reader::Collector,
            volume,
        };
        let ended = session.report(&"report", format, exit, |_, _| "text\u{7}\n".to_owned()).unwrap();
        assert_eq!(ended, exit);
        String::from_utf8(stdout).unwrap()
    }

    #[test]
    fn quiet_prints_nothing_when_all_is_well_except_for_programs() {
        assert_eq!(printed(Volume::Usual, ReportFormat::Text, Exit::DONE), "text\u{fffd}\n");
        assert_eq!(printed(Volume::Quiet, ReportFormat::Text, Exit::DONE), "");
        assert_eq!(printed(Volume::Quiet, ReportFormat::Text, Exit::FINDINGS), "text\u{fffd}\n");
        assert_eq!(printed(Volume::Quiet, ReportFormat::Json, Exit::DONE), "\"report\"\n");
    }

    #[test]
    fn a_repository_must_be_configured() {
        assert!(check_repositories(&["local".to_owned()], &config()).is_ok());
        let failure = check_repositories(&["local".to_owned(), "far".to_owned()], &config()).unwrap_err();
        assert_eq!(failure.to_string(), "--repository: no repository is named \"far\"");
        assert_eq!(failure.hint().as_deref(), Some("The repositories are: local."));
    }
}
