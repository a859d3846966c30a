//! `man/pgbak*.1`: what clap knows of a command, then its prose.

use std::fs;
use std::io::Write;
use std::path::Path;

use clap::Command;
use clap_mangen::Man;

use crate::prose::escape;
use crate::{files_in, must_be};

/// The pages that no command describes.
const WRITTEN_BY_HAND: [&str; 2] = ["pgbak.toml.5", "pgbak-runbook.7"];

fn page_name(command: &Command) -> String {
    command.get_display_name().unwrap_or_else(|| command.get_name()).replace(' ', "-")
}

fn page(command: &Command, see_also: &[String]) -> String {
    let name = page_name(command);
    let source = format!("pgbak {}", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone().version(env!("CARGO_PKG_VERSION")))
        .title(name.to_uppercase())
        .section("1")
        .date("")
        .source(source)
        .manual("pgbak");
    let mut text = Vec::new();
    man.render_title(&mut text).unwrap();
    man.render_name_section(&mut text).unwrap();
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim();
    writeln!(text, ".SH SYNOPSIS\n\\fB{}\\fR", escape(usage)).unwrap();
    man.render_description_section(&mut text).unwrap();
    man.render_options_section(&mut text).unwrap();
    if command.has_subcommands() {
        man.render_subcommands_section(&mut text).unwrap();
    }
    write!(text, "{}", end_of_help(command)).unwrap();
    let prose = Path::new("man/prose").join(format!("{name}.roff"));
    text.extend(fs::read(prose).unwrap_or_default());
    text.extend(crate::json::sections(&name).into_bytes());
    let others = see_also.iter().filter(|other| **other != format!("{name}(1)"));
    let others: Vec<String> = others.map(|other| other.replace('-', "\\-")).collect();
    writeln!(text, ".SH \"SEE ALSO\"\n{}", others.join(", ")).unwrap();
    String::from_utf8(text).unwrap()
}

/// The example and the exit codes, which stand in columns.
fn end_of_help(command: &Command) -> String {
    let help = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    let sections = help.split("\n\n").filter_map(|section| section.split_once(":\n"));
    sections
        .map(|(heading, lines)| {
            let heading = if heading == "Exit codes" { "EXIT STATUS" } else { heading };
            let lines: Vec<String> = lines.lines().map(escape).collect();
            format!(".SH \"{}\"\n.nf\n{}\n.fi\n", heading.to_uppercase(), lines.join("\n"))
        })
        .collect()
}

fn pages() -> Vec<(String, String)> {
    let root = pgbak::cli::description();
    let commands: Vec<Command> =
        std::iter::once(root.clone()).chain(root.get_subcommands().cloned()).collect();
    let of_commands = commands.iter().map(|command| format!("{}(1)", page_name(command)));
    let others = ["pgbak.toml(5)", "pgbak-runbook(7)"].map(str::to_owned);
    let see_also: Vec<String> = of_commands.chain(others).collect();
    commands.iter().map(|command| (format!("{}.1", page_name(command)), page(command, &see_also))).collect()
}

#[test]
fn each_command_has_a_page_that_says_what_its_help_says() {
    let pages = pages();
    for (name, text) in &pages {
        must_be(&Path::new("man").join(name), text);
    }
    let mut expected: Vec<String> = pages.into_iter().map(|(name, _)| name).collect();
    expected.extend(WRITTEN_BY_HAND.map(str::to_owned));
    expected.sort();
    assert_eq!(files_in("man", ""), expected);
}

#[test]
fn no_prose_belongs_to_nothing() {
    let pages = pages();
    for prose in files_in("man/prose", "") {
        let page = prose.replace(".roff", ".1");
        assert!(pages.iter().any(|(name, _)| *name == page), "man/prose/{prose} is in no page");
    }
}

/// A page that groff complains of does not look as it was meant to.
#[test]
fn every_page_is_clean_roff() {
    let Ok(version) = std::process::Command::new("groff").arg("--version").output() else {
        crate::support::skip("there is no groff to read the pages with");
        return;
    };
    assert!(version.status.success());
    for name in files_in("man", "") {
        let path = Path::new("man").join(&name);
        let read = std::process::Command::new("groff")
            .args(["-man", "-Tutf8", "-ww", "-rLL=78n", "-K", "utf8"])
            .arg(&path)
            .output()
            .unwrap();
        assert!(read.stderr.is_empty(), "{name}: {}", String::from_utf8_lossy(&read.stderr));
        assert!(read.stdout.len() > 500, "{name} is nearly empty");
    }
}
