//! Every call that moves bytes may move fewer than it was asked to, or be interrupted before it moves any: files,
//! pipes and sockets alike. No command so much as notices.

use std::thread;
use std::time::Duration;

use super::campaign::Campaign;
use super::deed::{Command, Deed};
use super::interposer::{Interposer, Orders};
use super::{length, scene};
use crate::support::{Direction, Identity, SshAccount, Sshd, wait_until};

fn goes_through(deed: &mut Deed<'_>) {
    let Some(interposer) = Interposer::build(deed.site.identity()) else { return };
    let mut campaign = Campaign::begin(&format!("short/{}", deed.command.name()));
    let rounds = length::of(1, 100);
    for _ in 0..rounds {
        let arguments = deed.prepare();
        let orders = Orders::Shorten { seed: campaign.number(), one_in: 2 };
        println!("{orders:?}: {arguments}");
        interposer.order("pgbak", &orders);
        let outcome = deed.site.call_under(&interposer.tool(), &arguments).expect("env is everywhere").run();
        deed.assert_law(&outcome.succeeds());
    }
    let counts = interposer.take_counts();
    let [shortened, interrupted] = ["shortened", "interrupted"].map(|what| counts[what].1);
    campaign
        .end(&format!("{rounds} runs, {shortened} calls shortened, {interrupted} interrupted, 0 noticed"));
}

#[test]
fn every_command_goes_through_with_short_calls() {
    let Some(sshd) = Sshd::start(&Identity::ordinary(), SshAccount::Shell) else { return };
    let Some(mut pair) = scene::build_pair(sshd) else { return };
    let account = scene::committed(&pair.site, || drop(pair.site.pgbak("base-backup").succeeds()));
    for (command, repository) in [
        (Command::BaseBackup, pair.local()),
        (Command::WalPush, pair.local()),
        (Command::WalSync, pair.local()),
        (Command::Restore, pair.remote()),
        (Command::Verify, pair.local()),
        (Command::WalFetch, pair.remote()),
        // It puts a repository back to what it was.
        (Command::Prune, pair.local()),
    ] {
        let mut deed = command.on(&pair.site, repository);
        goes_through(&mut deed);
        if command == Command::Restore {
            deed.assert_last_restored(&account);
        }
    }
    scene::archive_all(&pair.site);
    pair.repair();
    pair.assert_both_restore(&account);
}

/// Half a keep-alive would stand before everything that is sent after it, for ever.
#[test]
fn a_keep_alive_that_is_cut_short_costs_a_session_and_nothing_else() {
    let Some(sshd) = Sshd::start(&Identity::ordinary(), SshAccount::Shell) else { return };
    let Some(pair) = scene::build_pair(sshd) else { return };
    let Some(interposer) = Interposer::build(pair.site.identity()) else { return };
    let mut campaign = Campaign::begin("short/keep-alive");
    let rounds = length::of(2, 30);
    for _ in 0..rounds {
        interposer.order("pgbak", &Orders::Shorten { seed: campaign.number(), one_in: 2 });
        pair.proxy.stall_one_way_after(100_000, Direction::Down);
        let mut running =
            pair.site.call_under(&interposer.tool(), "base-backup").expect("env is everywhere").start();
        wait_until("the answers to be held up", || running.has_ended() || pair.proxy.is_stalled());
        // Time itself is the condition: a reply is late after a second.
        thread::sleep(Duration::from_secs(3));
        pair.proxy.heal();
        running.finish().succeeds();
    }
    scene::assert_whole(&pair.site);
    campaign.end(&format!("{rounds} rounds, {} calls shortened", interposer.take_counts()["shortened"].1));
}

#[test]
fn streaming_goes_through_with_short_calls() {
    Command::Streaming.meets(goes_through);
}
