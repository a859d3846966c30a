//! `completions/`: made by clap from the command's own definition.

use std::path::Path;
use std::process::Command;

use clap_complete::Shell;

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
