//! The standard output: results, and nothing else.

use std::io::{self, Write};

use serde::Serialize;

use super::failure::Failure;

/// How a command reports what it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportFormat {
    Text,
    Json,
}

/// The flag that every command with a report has.
#[derive(Debug, clap::Args)]
pub struct ReportFlag {
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

impl ReportFlag {
    pub fn format(&self) -> ReportFormat {
        if self.json { ReportFormat::Json } else { ReportFormat::Text }
    }
}

pub struct Output<'a> {
    stdout: &'a mut dyn Write,
}

impl<'a> Output<'a> {
    pub fn new(stdout: &'a mut dyn Write) -> Self {
        Self { stdout }
    }

    /// Prints `text`. A reader that has seen enough and closed its end (`| head`) is no failure.
    pub fn print(&mut self, text: &str) -> Result<(), Failure> {
        match self.stdout.write_all(text.as_bytes()).and_then(|()| self.stdout.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Output(error)),
            _ => Ok(()),
        }
    }

    pub fn print_json(&mut self, report: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(report).map_err(|error| Failure::Output(error.into()))?;
        self.print(&format!("{text}\n"))
    }
}

/// Replaces what a terminal would obey instead of show: a label or a server's message may hold anything.
pub fn printable(text: &str) -> String {
    let shown = |c: char| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken(io::ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_closed_pipe_is_no_failure_but_a_full_disk_is() {
        assert!(Output::new(&mut Broken(io::ErrorKind::BrokenPipe)).print("x").is_ok());
        assert!(Output::new(&mut Broken(io::ErrorKind::StorageFull)).print("x").is_err());
    }

    #[test]
    fn a_terminal_is_not_commanded() {
        assert_eq!(printable("red \u{1b}[31m\nalert\u{7}"), "red \u{fffd}[31m\nalert\u{fffd}");
    }
}
