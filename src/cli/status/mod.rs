//! `pgbak status`: one operation, and its report in the form that was asked for.

mod nagios;
mod prometheus;
#[cfg(test)]
mod tests;
mod text;

use super::exit::{self, Exit, Rules};
use super::failure::Failure;
use super::log::Reader;
use super::output::{ReportFlag, ReportFormat};
use super::session::{Session, Volume};
use crate::ops::status::{self, Report, State};

pub use nagios::unknown;

/// Show what can be restored, and what is wrong
///
/// For each repository from when until when it can be restored, along each timeline; what is wrong, the worst first,
/// with what to do about it; then the backups, the WAL, the server and the last runs. Repositories and servers that
/// are away are findings, and the rest is shown all the same. Nothing is changed.
///
/// "until" is when the last segment was stored: the newest commit that can be restored is a little older. To get all
/// there is, restore without a target.
///
/// With --quiet nothing is printed unless there is a warning or worse.
#[derive(Debug, clap::Args)]
#[command(after_long_help = help())]
pub struct Status {
    /// How to print the report
    #[arg(long, default_value = "text", conflicts_with = "json")]
    format: Format,

    #[command(flatten)]
    report: ReportFlag,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// To read
    Text,
    /// For programs, as --json does
    Json,
    /// For the node exporter's textfile collector
    Prometheus,
    /// One line, as a monitoring plugin of Nagios, Icinga and their kin
    Nagios,
}

fn help() -> String {
    exit::help(
        "  pgbak status\n  \
         pgbak status --format prometheus > /var/lib/node_exporter/pgbak.prom.$$ &&\n    \
         mv /var/lib/node_exporter/pgbak.prom.$$ /var/lib/node_exporter/pgbak.prom",
        &[
            ("0", "nothing is wrong; with prometheus, the report was written"),
            exit::FAILED,
            exit::USAGE,
            ("3", "there is a warning, or worse"),
            exit::INTERRUPTED,
            ("", "with nagios: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN, also for wrong usage"),
        ],
    )
}

impl Status {
    pub fn rules(&self) -> Rules {
        if self.format() == Format::Nagios { Rules::Plugin } else { Rules::Usual }
    }

    pub fn run(self, session: &mut Session<'_>) -> Result<Exit, Failure> {
        let report = status::run(&session.context)?;
        let exit = exit_of(&report);
        match self.format() {
            Format::Text if session.volume == Volume::Quiet && exit == Exit::DONE => {}
            Format::Text => {
                let page = text::render(&report, session.zone);
                session.output.print(&text::show(&page, ink(session)))?;
            }
            Format::Json => session.output.print_json(&report)?,
            Format::Prometheus => {
                session.output.print(&prometheus::render(&report))?;
                return Ok(Exit::DONE);
            }
            Format::Nagios => {
                session.output.print(&nagios::render(&report, session.zone))?;
                return Ok(nagios::exit_of(report.state));
            }
        }
        Ok(exit)
    }

    fn format(&self) -> Format {
        match self.report.format() {
            ReportFormat::Json => Format::Json,
            ReportFormat::Text => self.format,
        }
    }
}

fn exit_of(report: &Report) -> Exit {
    if report.state == State::Ok { Exit::DONE } else { Exit::FINDINGS }
}

/// Colour is for a person's eyes, and only if they have not said no (<https://no-color.org>).
fn ink(session: &Session<'_>) -> text::Ink {
    let variable = |name: &str| (session.context.environment)(name).filter(|value| !value.is_empty());
    let is_plain = variable("NO_COLOR").is_some() || variable("TERM").is_some_and(|term| term == "dumb");
    match session.stdout_reader {
        Reader::Terminal if !is_plain => text::Ink::Coloured,
        Reader::Terminal | Reader::Collector => text::Ink::Plain,
    }
}
