//! The pair that users run: a site whose history is kept in a local repository and in one on an SSH server.
//!
//! pgbak reaches the server through a proxy, so that the network between the two can be made bad.

use std::fs;
use std::path::PathBuf;

use rustix::process::Signal;

use super::{
    Account, Cluster, Identity, Outcome, Proxy, Repository, Running, Site, SiteBuilder, SshAccount, Sshd,
};
use super::{process, wait_until};
use pgbak::pg::SegmentSize;

/// The names of the two repositories.
pub const BOTH: [&str; 2] = ["first", "remote"];

const SEGMENT_NAME_LENGTH: usize = 24;

pub struct Pair {
    // Dropped in this order: the site proves what the server's directory holds.
    pub site: Site,
    pub proxy: Proxy,
    pub sshd: Sshd,
}

impl Pair {
    /// `None`, with the test noted as skipped, where it cannot be had.
    pub fn build(account: SshAccount, site: SiteBuilder) -> Option<Self> {
        Self::over(Sshd::start(&Identity::ordinary(), account)?, site)
    }

    /// The same with a server of one's own.
    pub fn over(sshd: Sshd, site: SiteBuilder) -> Option<Self> {
        let proxy = Proxy::to(sshd.port());
        let mut site = site.build()?;
        site.add_remote(&sshd, "remote", proxy.port());
        Some(Self { site, proxy, sshd })
    }

    pub fn local(&self) -> &Repository {
        &self.site.repositories()[0]
    }

    pub fn remote(&self) -> &Repository {
        &self.site.repositories()[1]
    }

    /// Where pgbak finds the server's host key.
    pub fn known_hosts(&self) -> PathBuf {
        let config: toml::Table = self.site.config().parse().expect("the configuration is TOML");
        let remote = &config["repository"].as_array().expect("a list")[1];
        remote["known_hosts"].as_str().expect("a path").into()
    }

    /// Ends the segment in use and waits until it is in the local repository.
    pub fn archive_a_segment(&self) -> String {
        self.site.cluster().sql("SELECT pg_logical_emit_message(true, 'test', md5(random()::text))");
        let segment = self.site.cluster().switch_wal();
        wait_until(&format!("{segment} to be archived"), || self.local().holds(&segment));
        segment
    }

    /// Starts pgbak and waits until it has uploaded so many bytes and then met with silence; `None` when it ended
    /// without.
    pub fn stop_in_the_middle(&self, arguments: &str, bytes: u64) -> Option<Running> {
        self.proxy.stall_after(bytes);
        let mut running = self.site.call(arguments).start();
        wait_until("the upload to be in its middle", || running.has_ended() || self.proxy.is_stalled());
        self.proxy.is_stalled().then_some(running)
    }

    /// Kills pgbak once it has uploaded so many bytes; returns whether it had not ended before.
    pub fn kill_in_the_middle(&self, arguments: &str, bytes: u64) -> bool {
        let Some(running) = self.stop_in_the_middle(arguments, bytes) else { return false };
        running.signal(Signal::KILL);
        running.finish().exits(128 + 9);
        true
    }

    /// Asserts that whatever either repository shows is whole: each WAL file is what the server wrote, each backup has
    /// all that its record names.
    #[track_caller]
    pub fn assert_nothing_is_half(&self) {
        for repository in self.site.repositories() {
            for name in repository.archived().iter().filter(|name| name.len() == SEGMENT_NAME_LENGTH) {
                let path = repository.wal_file(name).expect("just listed");
                let stored = zstd::decode_all(&fs::read(&path).expect("it is readable")[..]);
                let stored = stored.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                let written = self.site.cluster().data.join("pg_wal").join(name);
                let written = fs::read(&written).expect("the server keeps its WAL");
                assert!(stored == written, "{} is not what the server wrote", path.display());
            }
            for backup in repository.backups() {
                let mut sums = self.site.identity().command("sha256sum", "KILL");
                sums.args(["--check", "--strict", "--quiet", "SHA256SUMS"]);
                process::run(sums.current_dir(repository.backup(&backup)));
            }
        }
    }

    /// Asserts that all WAL since the oldest backup is in both places.
    #[track_caller]
    pub fn assert_both_have_the_wal(&self) {
        let oldest = self.local().backups().into_iter().next().expect("there is a backup");
        let first = self.local().first_segment(&oldest, SegmentSize::from_bytes(1 << 20).expect("1 MiB"));
        let [local, remote] = [self.local(), self.remote()].map(|repository| {
            let mut names = repository.archived();
            names.retain(|name| *name >= first);
            names
        });
        assert_eq!(local, remote, "in the local repository and in the remote one, from {first} on");
    }

    /// Asserts that `base-backup --json` told the truth: a repository has the backup if and only if it has no error.
    #[track_caller]
    pub fn assert_report_is_true(&self, outcome: &Outcome) {
        let report = outcome.json();
        let name = report["name"].as_str().expect("a backup has a name");
        let told = report["repositories"].as_array().expect("a list");
        for (repository, told) in self.site.repositories().iter().zip(told) {
            let has = repository.backups().iter().any(|backup| backup == name);
            assert_eq!(has, told["error"].is_null(), "{}\n{outcome}", repository.name);
        }
        let failed = told.iter().any(|told| !told["error"].is_null());
        assert_eq!(outcome.code, if failed { 3 } else { 0 }, "exit code\n{outcome}");
    }

    /// What repairs: `base-backup --copy-missing` and `wal-sync`, both without a complaint.
    pub fn repair(&self) {
        self.site.pgbak("base-backup --copy-missing").succeeds();
        self.site.pgbak("wal-sync").succeeds();
        assert_eq!(self.local().backups(), self.remote().backups());
        self.assert_both_have_the_wal();
        self.assert_nothing_is_half();
    }

    /// Restores from one repository while the other one is away.
    pub fn restore_from(&mut self, name: &str) -> Cluster {
        let away = self.site.path("away");
        match name {
            "first" => self.sshd.kill(),
            _ => fs::rename(&self.local().path, &away).expect("the local repository is there"),
        }
        let restored = self.site.restore(&format!("--repository {name}"));
        match name {
            "first" => self.sshd.start_again(),
            _ => fs::rename(&away, &self.local().path).expect("nobody made another"),
        }
        restored
    }

    /// Asserts that each repository alone gives back all that was committed.
    pub fn assert_both_restore(&mut self, account: &Account) {
        for name in BOTH {
            let restored = self.restore_from(name);
            account.assert_holds_exactly(&restored, &account.history.commits);
        }
    }
}
