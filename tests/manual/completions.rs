//! `completions/`: made by clap from the command's own definition.

use std::path::Path;
use std::process::{Command, Stdio};

use clap_complete::Shell;

use crate::support::skip;
use crate::{files_in, must_be};

const FILES: [(Shell, &str); 3] =
    [(Shell::Zsh, "_pgbak"), (Shell::Bash, "pgbak.bash"), (Shell::Fish, "pgbak.fish")];

#[test]
fn the_completions_are_those_of_the_command() {
    for (shell, file) in FILES {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut pgbak::cli::description(), "pgbak", &mut text);
        must_be(&Path::new("completions").join(file), &String::from_utf8(text).unwrap());
    }
    assert_eq!(files_in("completions", ""), FILES.map(|(_, file)| file.to_owned()));
}

/// What bash offers for the last of these words.
fn offered(words: &[&str]) -> String {
    let script = format!(
        "source completions/pgbak.bash; COMP_WORDS=({}); COMP_CWORD={}; COMPREPLY=(); \
         _pgbak pgbak \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; echo \"${{COMPREPLY[@]}}\"",
        words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" "),
        words.len() - 1,
    );
    let ended = Command::new("bash").args(["--norc", "-c", &script]).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    String::from_utf8(ended.stdout).unwrap().trim().to_owned()
}

#[test]
fn bash_completes_commands_flags_and_the_values_of_flags() {
    assert_eq!(offered(&["pgbak", "sta"]), "status");
    assert_eq!(offered(&["pgbak", "restore", "--target-ti"]), "--target-time --target-timeline");
    assert_eq!(offered(&["pgbak", "restore", "--target-action", "p"]), "pause promote");
    assert_eq!(offered(&["pgbak", "wal-fetch-a"]), "", "what only pgbak calls is nobody's business");
}

/// Whether this shell is here to be tried; where it is not, the test is noted as skipped.
fn have(shell: &str) -> bool {
    let is_there = Command::new(shell).arg("--version").output().is_ok();
    if !is_there {
        skip(&format!("there is no {shell} to complete with; tests/run.sh installs it"));
    }
    is_there
}

/// What a shell prints. It must neither complain nor wait for ever.
fn says(shell: &[&str], arguments: &[&str]) -> String {
    let ended = Command::new("timeout")
        .arg("60")
        .args(shell)
        .args(arguments)
        .env("TERM", "dumb")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let complaints = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && complaints.is_empty(), "{} {complaints}", ended.status);
    String::from_utf8(ended.stdout).unwrap()
}

/// A zsh at a terminal of its own, in which somebody types a line with a tab at its end. It prints what the tab made
/// of the terminal, and then the line that was run in the end.
const TYPED_INTO_ZSH: &str = r#"
zmodload zsh/zpty || exit
zpty shell zsh -f -i
zpty -w shell 'PS1=; fpath=(completions $fpath); autoload -Uz compinit; compinit -u -D'
zpty -w shell 'pgbak() { print -r -- "ran[pgbak $*]" }; print -r -- "rea""dy"'
zpty -r shell output $'*ready\r\n*'
zpty -w -n shell "$1"$'\t\n'
zpty -r shell output $'*ran\\[*\\]\r\n*'
print -r -- "$output"
zpty -d shell
"#;

fn typed_into_zsh(line: &str) -> (String, String) {
    let output = says(&["zsh", "-f", "-c", TYPED_INTO_ZSH, "zsh"], &[line]);
    let (terminal, run) = output.rsplit_once("ran[").unwrap_or_else(|| panic!("{line}: {output}"));
    (terminal.to_owned(), run.trim_end().trim_end_matches(']').to_owned())
}

#[test]
fn zsh_completes_commands_flags_and_the_values_of_flags() {
    if !have("zsh") {
        return;
    }
    for (typed, completed) in [
        ("pgbak sta", "pgbak status"),
        ("pgbak restore --tablesp", "pgbak restore --tablespace-mapping"),
        ("pgbak restore --target-action pa", "pgbak restore --target-action pause"),
        ("pgbak status --format prom", "pgbak status --format prometheus"),
        ("pgbak wal-fetch-a", "pgbak wal-fetch-a"),
    ] {
        assert_eq!(typed_into_zsh(typed).1, completed);
    }
    let (offered, _) = typed_into_zsh("pgbak restore --target-action ");
    for value in ["pause", "promote", "shutdown"] {
        assert!(offered.contains(&format!("{value} ")), "{offered}");
    }
}

/// What fish offers at the end of a line, without the descriptions.
fn offered_by_fish(line: &str) -> Vec<String> {
    let script = "source completions/pgbak.fish; complete --do-complete $argv[1]";
    let output = says(&["fish", "--no-config", "-c", script], &[line]);
    output.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect()
}

#[test]
fn fish_completes_commands_flags_and_the_values_of_flags() {
    if !have("fish") {
        return;
    }
    assert_eq!(offered_by_fish("pgbak sta"), ["status"]);
    assert_eq!(offered_by_fish("pgbak restore --target-ti"), ["--target-time", "--target-timeline"]);
    assert_eq!(offered_by_fish("pgbak restore --target-action "), ["pause", "promote", "shutdown"]);
    assert_eq!(offered_by_fish("pgbak status --format "), ["json", "nagios", "prometheus", "text"]);
    assert_eq!(offered_by_fish("pgbak wal-fetch-a"), [""; 0]);
}
