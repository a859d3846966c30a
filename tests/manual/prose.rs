//! What was written by hand, held to the program: every command that the texts show is one that pgbak takes.

use std::collections::BTreeSet;
use std::fs;

use crate::files_in;

/// Text as roff takes it for itself.
pub fn escape(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    if text.starts_with('.') { format!("\\&{text}") } else { text }
}

/// The words of a command, as a shell splits them. Ends at a pipe, a list operator, a redirection or a comment.
pub fn words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in command.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '|' | '&' | ';' | '>' | '<' | '`' | ')') => break,
            (None, '#') if word.is_none() => break,
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// Each call of pgbak in a text, where one begins a line of it or follows a prompt, `sudo`, `&&` and the like.
fn calls(text: &str) -> Vec<Vec<String>> {
    let joined = text.replace("\\\n", " ").replace("\\e\n", " ");
    let mut calls = Vec::new();
    for line in joined.lines() {
        let line = line.replace("\\-", "-").replace("\\(aq", "'").replace("\\&", "");
        let mut rest = line.as_str();
        while let Some(at) = rest.find("pgbak ") {
            let before = &rest[..at];
            let from = &rest[at..];
            rest = &from["pgbak ".len()..];
            let begins = before.trim_start().is_empty()
                || [" ", "/", "&& ", "; ", "'", "`", "=", "("].iter().any(|end| before.ends_with(end));
            let next = words(rest);
            let is_command = next.iter().any(|word| is_subcommand(word));
            if begins && is_command {
                calls.push(next);
            }
        }
    }
    calls
}

fn is_subcommand(word: &str) -> bool {
    pgbak::cli::description().get_subcommands().any(|command| command.get_name() == word)
}

/// Calls that only stand for others: `pgbak wal-push`, in a sentence, without its path.
fn is_only_named(call: &[String]) -> bool {
    let (Some(command), true) = (call.first(), call.len() == 1) else { return false };
    ["wal-push", "wal-fetch", "restore"].contains(&command.as_str())
}

fn check(name: &str, text: &str, found: &mut BTreeSet<String>) {
    for call in calls(text) {
        if is_only_named(&call) {
            continue;
        }
        // In running text a command ends where the sentence goes on.
        let in_code = |call: &[String]| {
            let arguments = std::iter::once("pgbak".to_owned()).chain(call.iter().cloned());
            pgbak::cli::description().try_get_matches_from(arguments)
        };
        if let Err(error) = in_code(&call) {
            panic!("{name}: `pgbak {}`: {error}", call.join(" "));
        }
        found.extend(call.into_iter().filter(|word| is_subcommand(word)));
    }
}

/// The code blocks of a Markdown text.
fn code_blocks(markdown: &str) -> String {
    let blocks = markdown.split("```").skip(1).step_by(2);
    blocks.filter_map(|block| block.split_once('\n')).map(|(_, code)| format!("{code}\n")).collect()
}

/// What a manual page shows as it is to be typed.
fn examples(roff: &str) -> String {
    let blocks = roff.split(".EX\n").skip(1);
    blocks.filter_map(|block| block.split_once(".EE")).map(|(code, _)| code.to_owned()).collect()
}

#[test]
fn every_command_that_is_shown_is_one_that_pgbak_takes() {
    let mut found = BTreeSet::new();
    check("README.md", &code_blocks(&fs::read_to_string("README.md").unwrap()), &mut found);
    for name in files_in("man", "") {
        let page = fs::read_to_string(format!("man/{name}")).unwrap();
        check(&name, &examples(&page), &mut found);
    }
    for command in ["base-backup", "wal-sync", "prune", "restore", "verify", "status"] {
        assert!(found.contains(command), "no example shows `pgbak {command}`: {found:?}");
    }
}

#[test]
fn each_command_s_own_example_works() {
    for command in pgbak::cli::description().get_subcommands() {
        let help = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
        let example = help.split("Exit codes:").next().unwrap();
        let mut found = BTreeSet::new();
        check(command.get_name(), example, &mut found);
        assert!(found.contains(command.get_name()), "the help of {} has no example", command.get_name());
    }
}

#[test]
fn a_call_is_found_wherever_it_stands() {
    let text = "0 2 * * *  pgbak -q base-backup && /usr/bin/pgbak prune | mail x\nmypgbak status\n\
                archive_command = 'pgbak wal-push %p'\npgbak is a tool\n";
    let calls: Vec<String> = calls(text).iter().map(|call| call.join(" ")).collect();
    assert_eq!(calls, ["-q base-backup", "prune", "wal-push %p"].map(str::to_owned));
}
