//! What the campaigns do over and over: a command, what makes a run of it necessary, and the law that holds after
//! each run, however it ended. A campaign adds its fault.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::rc::Rc;

use super::scene;
use super::strace::{self, Call};
use crate::support::{Account, Outcome, Repository, Site};
use pgbak::pg::Lsn;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    BaseBackup,
    WalPush,
    WalSync,
    /// `wal-sync` with `source = "stream"`.
    Streaming,
    Prune,
    Restore,
    Verify,
    WalFetch,
}

/// A command that is done again and again on one site.
pub struct Deed<'a> {
    pub command: Command,
    pub site: &'a Site,
    prepare: Box<dyn FnMut() -> String + 'a>,
    law: Box<dyn FnMut(&Outcome) + 'a>,
    /// Of the last run that was prepared.
    arguments: String,
}

impl Command {
    /// Does `campaign` on a site of its own, after which each repository has all that was committed.
    pub fn meets(self, campaign: impl FnOnce(&mut Deed<'_>)) {
        let site = Site::with();
        let site = match self {
            Self::BaseBackup => site.repositories(2).config(scene::RETENTION),
            Self::WalSync => site.repositories(2),
            Self::Streaming => site.repositories(2).config("[wal]\nsource = \"stream\"\n"),
            Self::Prune => site.config(scene::RETENTION),
            Self::WalPush | Self::Restore | Self::Verify | Self::WalFetch => site,
        };
        let Some(site) = scene::build(site) else { return };
        let account = scene::committed(&site, || drop(site.pgbak("base-backup").succeeds()));
        let mut deed = self.on(&site, site.repository());
        campaign(&mut deed);
        deed.assert_nothing_is_lost(&account);
    }

    /// The deed on a site with a base backup; what it does with one repository alone, it does with `repository`.
    pub fn on<'a>(self, site: &'a Site, repository: &'a Repository) -> Deed<'a> {
        match self {
            Self::BaseBackup => base_backup(site),
            Self::WalPush => wal_push(site, repository),
            Self::WalSync => wal_sync(site),
            Self::Streaming => streaming(site),
            Self::Prune => prune(site, repository),
            Self::Restore => restore(site, repository),
            Self::Verify => verify(site, repository),
            Self::WalFetch => wal_fetch(site, repository),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::BaseBackup => "base-backup",
            Self::WalPush => "wal-push",
            Self::WalSync => "wal-sync",
            Self::Streaming => "wal-sync, streaming",
            Self::Prune => "prune",
            Self::Restore => "restore",
            Self::Verify => "verify",
            Self::WalFetch => "wal-fetch",
        }
    }

    /// The exit codes with which it may fail. A `wal-fetch` that ends with 1 says that the archive ends here, and a
    /// server would promote itself.
    pub fn failures(self) -> &'static [i32] {
        match self {
            Self::WalFetch => &[2, 200],
            Self::WalPush => &[1, 2],
            _ => &[1, 2, 3],
        }
    }

    /// Whether it leaves all repositories as they are.
    pub fn only_reads(self) -> bool {
        matches!(self, Self::Restore | Self::Verify | Self::WalFetch)
    }

    /// Whether PostgreSQL calls it, again and again until it succeeds.
    pub fn is_called_by_the_server(self) -> bool {
        matches!(self, Self::WalPush | Self::WalFetch)
    }
}

impl<'a> Deed<'a> {
    fn new(
        command: Command,
        site: &'a Site,
        prepare: impl FnMut() -> String + 'a,
        law: impl FnMut(&Outcome) + 'a,
    ) -> Self {
        Self { command, site, prepare: Box::new(prepare), law: Box::new(law), arguments: String::new() }
    }

    /// Makes a run necessary, and says with which arguments.
    pub fn prepare(&mut self) -> String {
        self.arguments = (self.prepare)();
        self.arguments.clone()
    }

    /// Does it undisturbed, and tells which of these calls that took.
    pub fn record(&mut self, calls: &str) -> Vec<Call> {
        let arguments = self.prepare();
        let (outcome, calls) = strace::run_recorded(self.site, calls, &arguments);
        self.assert_law(&outcome.succeeds());
        calls
    }

    /// Asserts what holds after each run.
    #[track_caller]
    pub fn assert_law(&mut self, outcome: &Outcome) {
        assert!(!outcome.stderr.contains("panicked"), "{outcome}");
        (self.law)(outcome);
    }

    /// Asserts that the next run goes through without help.
    #[track_caller]
    pub fn assert_next_run_succeeds(&mut self) {
        let delta = if self.command == Command::Restore { " --delta" } else { "" };
        let outcome = self.site.pgbak(&format!("{}{delta}", self.arguments)).succeeds();
        self.assert_law(&outcome);
    }

    /// Asserts that each repository of the site gives back all that was committed.
    #[track_caller]
    fn assert_nothing_is_lost(self, account: &Account) {
        let site = self.site;
        scene::assert_whole(site);
        match self.command {
            Command::Restore => self.assert_last_restored(account),
            Command::Streaming => scene::assert_each_restores(site, account),
            _ if site.repositories().len() > 1 => scene::assert_restores_after_sync(site, account),
            _ => scene::assert_restores(site, account),
        }
    }

    /// Asserts that what the last run restored is a server with all that was committed.
    #[track_caller]
    pub fn assert_last_restored(&self, account: &Account) {
        let mut restored = self.site.restored_in(directory_of(&self.arguments));
        restored.launch();
        restored.wait_until_recovered();
        account.assert_holds_exactly(&restored, &account.history.commits);
    }
}

fn base_backup(site: &Site) -> Deed<'_> {
    let before = Rc::new(RefCell::new(Vec::new()));
    let known = Rc::clone(&before);
    let prepare = move || {
        if site.repository().backups().len() > 5 {
            site.pgbak("prune").succeeds();
        }
        known.replace(site.repository().backups());
        "base-backup --json".to_owned()
    };
    let law = move |outcome: &Outcome| {
        scene::assert_whole(site);
        if outcome.code == 0 {
            let mut new = site.repository().backups();
            new.retain(|name| !before.borrow().contains(name));
            let is_everywhere = |name: &String| {
                site.repositories().iter().all(|repository| repository.backups().contains(name))
            };
            assert!(new.iter().any(is_everywhere), "{new:?}\n{outcome}");
        }
    };
    Deed::new(Command::BaseBackup, site, prepare, law)
}

fn wal_push<'a>(site: &'a Site, repository: &'a Repository) -> Deed<'a> {
    let prepare = move || scene::push(site, &scene::new_segment(site));
    let mut acknowledged = BTreeSet::new();
    let law = move |outcome: &Outcome| {
        let name = outcome.arguments.rsplit_once('/').unwrap().1;
        if outcome.code == 0 {
            acknowledged.insert(name.to_owned());
        }
        let held: BTreeSet<String> = repository.archived().into_iter().collect();
        assert!(acknowledged.is_subset(&held), "{acknowledged:?} in {held:?}\n{outcome}");
        if held.contains(name) {
            scene::assert_segment(site, repository, name);
        }
    };
    Deed::new(Command::WalPush, site, prepare, law)
}

fn wal_sync(site: &Site) -> Deed<'_> {
    scene::archive_all(site);
    site.pgbak("wal-sync").succeeds();
    let oldest = scene::first_segment(site.repository());
    let prepare = move || {
        (0..3).for_each(|_| drop(site.pgbak(&scene::push(site, &scene::new_segment(site))).succeeds()));
        "wal-sync".to_owned()
    };
    Deed::new(Command::WalSync, site, prepare, move |outcome| scene::assert_synced(site, &oldest, outcome))
}

fn streaming(site: &Site) -> Deed<'_> {
    site.pgbak("wal-sync").succeeds();
    let written = Rc::new(Cell::new(Lsn(0)));
    let end = Rc::clone(&written);
    let prepare = move || {
        // A segment that is finished, and the beginning of another one.
        scene::new_segment(site);
        scene::write_wal(site);
        end.set(site.cluster().sql("SELECT pg_current_wal_flush_lsn()").parse().unwrap());
        "wal-sync".to_owned()
    };
    let law = move |outcome: &Outcome| {
        scene::assert_whole(site);
        // Whatever happens, the server was told no more than what is there.
        let slot = "SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = 'pgbak'";
        let confirmed: Lsn = site.cluster().sql(slot).parse().unwrap();
        let ends = site.repositories().iter().map(|repository| scene::streamed_up_to(site, repository));
        let ends: Vec<Lsn> = ends.collect();
        assert!(ends[0] >= confirmed, "{ends:?}, {confirmed}\n{outcome}");
        assert!(outcome.code != 0 || ends.iter().all(|end| *end >= written.get()), "{ends:?}\n{outcome}");
    };
    Deed::new(Command::Streaming, site, prepare, law)
}

fn prune<'a>(site: &'a Site, repository: &'a Repository) -> Deed<'a> {
    let store = Rc::new(scene::Store::with_garbage(site, repository));
    let stored = Rc::clone(&store);
    let prepare = move || {
        stored.put_back();
        "prune".to_owned()
    };
    Deed::new(Command::Prune, site, prepare, move |outcome| store.assert_kept(outcome))
}

fn restore<'a>(site: &'a Site, repository: &'a Repository) -> Deed<'a> {
    scene::archive_all(site);
    let mut here = site.fresh("restored");
    let prepare = move || {
        let _ = fs::remove_dir_all(&here);
        here = site.fresh("restored");
        format!("restore -D {} --repository {}", here.display(), repository.name)
    };
    let law =
        move |outcome: &Outcome| scene::assert_restored(site, directory_of(&outcome.arguments), outcome);
    Deed::new(Command::Restore, site, prepare, law)
}

fn directory_of(restore: &str) -> &Path {
    Path::new(restore.split(' ').nth(2).expect("restore -D DIRECTORY"))
}

/// There is nothing wrong with what is stored, so it finds nothing.
fn verify<'a>(site: &'a Site, repository: &'a Repository) -> Deed<'a> {
    scene::archive_all(site);
    let prepare = move || format!("verify --full --again-after 0s --repository {}", repository.name);
    Deed::new(Command::Verify, site, prepare, |_| {})
}

fn wal_fetch<'a>(site: &'a Site, repository: &'a Repository) -> Deed<'a> {
    (0..30).for_each(|_| drop(scene::new_segment(site)));
    scene::archive_all(site);
    if repository.name != site.repository().name {
        site.pgbak("wal-sync").succeeds();
    }
    let fetches = Rc::new(scene::Fetches::of(site, repository));
    let served = Rc::clone(&fetches);
    let prepare = move || format!("wal-fetch --repository {} {}", repository.name, served.next(site));
    Deed::new(Command::WalFetch, site, prepare, move |outcome| fetches.assert_right(site, outcome))
}
