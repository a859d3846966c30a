//! What clap finds wrong with the arguments, in pgbak's form; and its help and version.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::exit::Rules;
use super::failure::Failure;
use super::log::LogFormat;

/// Whether this is an answer, for the standard output, and no error.
pub fn is_answer(error: &clap::Error) -> bool {
    matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion)
}

/// One line, and where to read on.
///
/// clap renders paragraphs: the error, perhaps over several lines, then tips, then usage.
pub fn failure(error: &clap::Error, arguments: &[OsString]) -> Failure {
    let rendered = error.render().to_string();
    let mut paragraphs = rendered.split("\n\n");
    let message = paragraphs.next().unwrap_or_default();
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let words: Vec<_> = message.split_whitespace().collect();
    let tips = rendered.lines().filter_map(|line| line.trim_start().strip_prefix("tip: "));
    let tips: String = tips.map(|tip| sentence(tip) + " ").collect();
    Failure::usage(words.join(" "), format!("{tips}See `{} --help`.", command(error, arguments)))
}

fn sentence(tip: &str) -> String {
    let mut letters = tip.chars();
    let first = letters.next().map(char::to_uppercase);
    first.into_iter().flatten().chain(letters).chain(['.']).collect()
}

/// The command that was called, as the usage line names it, `pgbak restore`; without such a line, as the arguments do.
fn command(error: &clap::Error, arguments: &[OsString]) -> String {
    let Some(ContextValue::StyledStr(usage)) = error.get(ContextKind::Usage) else {
        let described = super::description();
        let called = arguments.iter().find_map(|argument| described.find_subcommand(argument));
        return called.map_or_else(|| "pgbak".to_owned(), |command| format!("pgbak {}", command.get_name()));
    };
    let usage = usage.to_string();
    let words = usage.trim_start_matches("Usage:").split_whitespace();
    words.take_while(|word| word.starts_with(|c: char| c.is_ascii_lowercase())).collect::<Vec<_>>().join(" ")
}

/// By which rules a process ends whose arguments could not be parsed, or not yet.
///
/// Whoever may have meant `wal-fetch` gets its rules: in a `restore_command`, exit code 2 would promote a
/// cluster that is incomplete.
pub fn rules(arguments: &[OsString], error: Option<&clap::Error>) -> Rules {
    let is_named = arguments.iter().any(|argument| argument == "wal-fetch");
    let is_suggested =
        error.and_then(|error| error.get(ContextKind::SuggestedSubcommand)).is_some_and(|suggestions| {
            match suggestions {
                ContextValue::String(name) => name == "wal-fetch",
                ContextValue::Strings(names) => names.iter().any(|name| name == "wal-fetch"),
                _ => false,
            }
        });
    match is_named || is_suggested {
        true => Rules::WalFetch,
        false if wants_plugin(arguments) => Rules::Plugin,
        false => Rules::Usual,
    }
}

/// Whether a monitoring system may be asking: `status --format nagios`, however it is spelt.
fn wants_plugin(arguments: &[OsString]) -> bool {
    let is_pair = |pair: &[OsString]| pair[0] == "--format" && pair[1] == "nagios";
    arguments.windows(2).any(is_pair) || arguments.iter().any(|argument| argument == "--format=nagios")
}

/// The log's format, of arguments that could not be parsed.
pub fn log_format(arguments: &[OsString]) -> LogFormat {
    let is_json = arguments.windows(2).any(|pair| pair[0] == "--log-format" && pair[1] == "json")
        || arguments.iter().any(|argument| argument == "--log-format=json");
    if is_json { LogFormat::Json } else { LogFormat::Text }
}
