//! The Debian package, as `[package.metadata.deb]` describes it to `cargo deb`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::files_in;

struct Asset {
    source: String,
    destination: String,
    mode: String,
}

fn assets() -> Vec<Asset> {
    let manifest: toml::Table = fs::read_to_string("Cargo.toml").unwrap().parse().unwrap();
    let assets = manifest["package"]["metadata"]["deb"]["assets"].as_array().unwrap();
    let text = |value: &toml::Value| value.as_str().unwrap().to_owned();
    assets
        .iter()
        .map(|asset| Asset { source: text(&asset[0]), destination: text(&asset[1]), mode: text(&asset[2]) })
        .collect()
}

/// Each file that the package will have, by its path there: where it comes from.
fn content() -> BTreeMap<String, String> {
    let mut content = BTreeMap::new();
    for Asset { source, destination, .. } in assets() {
        let sources = match source.split_once('*') {
            Some((directory, ending)) => {
                let files = files_in(directory, ending).into_iter();
                files.map(|name| format!("{directory}{name}")).collect()
            }
            None => vec![source.clone()],
        };
        assert!(!sources.is_empty(), "{source} is nothing");
        for source in sources {
            let name = Path::new(&source).file_name().unwrap().to_str().unwrap();
            let path = match destination.strip_suffix('/') {
                Some(directory) => format!("{directory}/{name}"),
                None => destination.clone(),
            };
            assert!(content.insert(path.clone(), source).is_none(), "{path} is there twice");
        }
    }
    content
}

#[test]
fn everything_is_where_debian_expects_it() {
    let content = content();
    for (path, source) in [
        ("usr/bin/pgbak", "target/release/pgbak"),
        ("etc/pgbak/pgbak.toml", "examples/pgbak.toml"),
        ("usr/share/man/man1/pgbak-restore.1", "man/pgbak-restore.1"),
        ("usr/share/man/man5/pgbak.toml.5", "man/pgbak.toml.5"),
        ("usr/share/man/man7/pgbak-runbook.7", "man/pgbak-runbook.7"),
        ("usr/share/bash-completion/completions/pgbak", "completions/pgbak.bash"),
        ("usr/lib/systemd/system/pgbak-base-backup@.timer", "examples/systemd/pgbak-base-backup@.timer"),
    ] {
        assert_eq!(content.get(path).map(String::as_str), Some(source), "{path}");
    }
    for source in content.values().filter(|source| !source.starts_with("target/")) {
        assert!(Path::new(source).is_file(), "{source}");
    }
    let executable: Vec<_> =
        assets().into_iter().filter(|asset| asset.mode == "755").map(|a| a.source).collect();
    assert_eq!(executable, ["target/release/pgbak"]);
}

#[test]
fn no_page_completion_or_example_is_left_out() {
    let sources: Vec<String> = content().into_values().collect();
    let not_shipped = ["examples/quickstart.sh"];
    for directory in
        ["man", "completions", "examples", "examples/systemd", "examples/docker", "examples/prometheus"]
    {
        for name in files_in(directory, "") {
            let path = format!("{directory}/{name}");
            assert!(sources.contains(&path) || not_shipped.contains(&path.as_str()), "{path}");
        }
    }
}
