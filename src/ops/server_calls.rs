//! The commands by which PostgreSQL calls this binary with this configuration.
//!
//! With its full path: a server has the search path of whoever started it, and Debian's has none but the system's own
//! directories.

use std::path::Path;

use super::Context;

/// The `archive_command` that pushes each segment.
pub fn archive_command(context: &Context<'_>) -> String {
    call(context, ["wal-push".to_owned(), "%p".to_owned()])
}

/// The `restore_command`. `repositories` names those that recovery may read, unless these are all: one that is empty
/// or away could not tell the end of the archive from its own absence.
pub fn restore_command(context: &Context<'_>, repositories: &[String]) -> String {
    let repositories = repositories.iter().flat_map(|name| ["--repository".to_owned(), name.clone()]);
    let command = std::iter::once("wal-fetch".to_owned()).chain(repositories);
    call(context, command.chain(["%f".to_owned(), "\"%p\"".to_owned()]))
}

fn call(context: &Context<'_>, command: impl IntoIterator<Item = String>) -> String {
    let mut words = vec![quoted(&context.program)];
    if let Some(file) = &context.config.file {
        words.extend(["--config".to_owned(), quoted(file)]);
    }
    words.extend(command);
    words.join(" ")
}

/// A path as a word of the shell, inside a setting in which PostgreSQL expands `%`.
pub fn quoted(path: &Path) -> String {
    let text = path.display().to_string().replace('%', "%%");
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@=,%".contains(c);
    match text.chars().all(is_plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}
