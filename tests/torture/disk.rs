//! The disk fails: no space, a quota, an error of the device, a call that a signal interrupts.
//!
//! A run is traced, and then one of its calls is answered with an error, each in turn, reads and opens included. Then
//! either the run has come to its end all the same, and everything that it acknowledged is there and whole; or it says
//! what is wrong, in one line that names a file, with an exit code that is not success. It never panics, and once the
//! disk is well the next run goes through.

use std::fs;

use super::campaign::Campaign;
use super::deed::{Command, Deed};
use super::interposer::{Interposer, Orders};
use super::strace::{self, Call, Point};
use super::{length, scene};
use crate::support::{
    Identity, Outcome, Site, SmallDisk, SshAccount, Sshd, has_separate_sftp_server, skip, wait_for,
};

/// What the kernel may say; the second tells whether it is an error at all, or only a call to be made again.
const ERRORS: [(&str, bool); 4] = [("ENOSPC", true), ("EIO", true), ("EDQUOT", true), ("EINTR", false)];

/// Calls that fail without having been tried. Of a `close` nothing is asked.
const CALLS: &str = "write,pwrite64,fsync,fdatasync,syncfs,rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,\
     mkdirat,openat,ftruncate,read,pread64,getdents64,copy_file_range";

/// The exit code of a program that never began.
const LINKER_FAILED: i32 = 127;

fn meets_every_error(deed: &mut Deed<'_>) {
    if !strace::is_permitted(deed.site.identity()) {
        return;
    }
    let mut campaign = Campaign::begin(&format!("disk/{}", deed.command.name()));
    let site = deed.site;
    let points = strace::points(&deed.record(CALLS), is_of_the_disk);
    let all = points.into_iter().flat_map(|point| ERRORS.map(|error| (point.clone(), error))).collect();
    let points = campaign.some_of(all, length::of(6, 1200));
    let (count, mut told) = (points.len(), 0);
    for (point, (error, is_failure)) in points {
        let arguments = deed.prepare();
        println!("{error} at {point}: {arguments}");
        let log = site.fresh("home/trace");
        let outcome = strace::run(site, &strace::failing(&log, &point, error), &arguments);
        if outcome.code != 0 {
            told += 1;
            assert!(is_failure || point.call != "write", "an interrupted write is written on\n{outcome}");
            // Of each thread the same call fails, and in one of them that may be the one that tells of it.
            let is_speechless = fs::read_to_string(&log)
                .unwrap()
                .lines()
                .any(|line| line.contains("(INJECTED)") && line.contains("write(2,"));
            // The dynamic linker's own errors have its own words.
            let is_told = outcome.code == LINKER_FAILED || is_speechless || is_told(&outcome);
            assert!(is_told, "{error} at {point}, and not a word\n{outcome}");
        }
        let may_fail = outcome.code == LINKER_FAILED || deed.command.failures().contains(&outcome.code);
        assert!(outcome.code == 0 || may_fail, "{outcome}");
        deed.assert_law(&outcome);
        deed.assert_next_run_succeeds();
    }
    campaign.end(&format!("{count} errors, {told} of them told, 0 acknowledged in vain"));
}

const SFTP_SERVER: &str = "sftp-server";

/// Before the program begins there are the libraries, with whose errors it never meets.
fn is_of_the_disk(call: &Call) -> bool {
    call.result >= 0
}

/// Whether one line says what went wrong.
fn is_told(outcome: &Outcome) -> bool {
    let said = format!("{}{}", outcome.stdout, outcome.stderr).to_lowercase();
    ["error: ", "\"error\": \"", "warning: ", "failed: ", "could not "].iter().any(|word| said.contains(word))
}

#[test]
fn a_base_backup_meets_every_error_of_the_disk() {
    Command::BaseBackup.meets(meets_every_error);
}

#[test]
fn a_wal_push_meets_every_error_of_the_disk() {
    Command::WalPush.meets(meets_every_error);
}

#[test]
fn a_wal_sync_meets_every_error_of_the_disk() {
    Command::WalSync.meets(meets_every_error);
}

#[test]
fn a_prune_meets_every_error_of_the_disk() {
    Command::Prune.meets(meets_every_error);
}

#[test]
fn a_restore_meets_every_error_of_the_disk() {
    Command::Restore.meets(meets_every_error);
}

#[test]
fn a_wal_fetch_meets_every_error_of_the_disk() {
    Command::WalFetch.meets(meets_every_error);
}

/// The write that meets the end of the space is short, and the next one fails.
#[test]
fn the_space_ends_anywhere_in_what_is_written() {
    let Some(site) = scene::build(Site::with().config(scene::RETENTION)) else { return };
    let Some(disk) = SmallDisk::mount(&site.repository().path, "256M", site.identity()) else { return };
    let account = scene::committed(&site, || drop(site.pgbak("base-backup").succeeds()));
    for command in [Command::BaseBackup, Command::WalPush] {
        let mut campaign = Campaign::begin(&format!("disk/space/{}", command.name()));
        let mut deed = command.on(&site, site.repository());
        let used_before_bytes = disk.used_bytes();
        deed.prepare();
        deed.assert_next_run_succeeds();
        let needed_bytes = disk.used_bytes() - used_before_bytes;
        let (rounds, mut told) = (length::of(4, 100), 0);
        for _ in 0..rounds {
            let arguments = deed.prepare();
            let free_bytes = campaign.number() % needed_bytes;
            println!("{free_bytes} of {needed_bytes} bytes: {arguments}");
            disk.fill_up_to(free_bytes);
            let outcome = site.pgbak(&arguments);
            if outcome.code != 0 {
                told += 1;
                assert!(command.failures().contains(&outcome.code) && is_told(&outcome), "{outcome}");
            }
            deed.assert_law(&outcome);
            disk.remove_ballast();
            deed.assert_next_run_succeeds();
        }
        assert!(told > 0, "the space was always enough");
        campaign.end(&format!("{rounds} sizes, {told} of them too small, 0 acknowledged in vain"));
    }
    scene::assert_restores(&site, &account);
}

/// The server's disk fails under sftp-server, or moves fewer bytes than asked; what is said there arrives here.
#[test]
fn the_disk_of_the_server_fails_at_any_call() {
    if !has_separate_sftp_server() {
        skip("sftp-server is built into sshd here, and starts without a library of ours");
        return;
    }
    let identity = Identity::ordinary();
    let Some(interposer) = Interposer::build(&identity) else { return };
    let environment = format!("SetEnv {}", interposer.environment().join(" "));
    let Some(sshd) = Sshd::with(&identity, SshAccount::Shell).config(&environment).start() else { return };
    let Some(mut pair) = scene::build_pair(sshd) else { return };
    let site = &pair.site;
    let account = scene::committed(site, || drop(site.pgbak("base-backup").succeeds()));
    for command in [
        Command::BaseBackup,
        Command::WalSync,
        Command::Restore,
        Command::WalFetch,
        Command::Verify,
        Command::Prune,
    ] {
        let mut campaign = Campaign::begin(&format!("disk/sftp/{}", command.name()));
        let mut deed = command.on(site, pair.remote());
        let mut run_with = |orders: &Orders| {
            let arguments = deed.prepare();
            println!("{orders:?}: {arguments}");
            interposer.take_counts();
            interposer.order(SFTP_SERVER, orders);
            let outcome = site.pgbak(&arguments);
            interposer.order(SFTP_SERVER, &Orders::Nothing);
            if command == Command::BaseBackup {
                pair.assert_report_is_true(&outcome);
            }
            deed.assert_law(&outcome);
            if outcome.code != 0 {
                assert!(command.failures().contains(&outcome.code) && is_told(&outcome), "{outcome}");
                deed.assert_next_run_succeeds();
            }
            outcome.code == 0
        };
        assert!(run_with(&Orders::Nothing));
        // It says so when it ends, and that is after pgbak has.
        let counts = wait_for("sftp-server to say what it has called", || {
            let counts = interposer.take_counts();
            (!counts.is_empty()).then_some(counts)
        });
        let points = counts
            .iter()
            .flat_map(|(call, (most, _))| (1..=*most).map(|nth| Point { call: call.clone(), nth }));
        let fail = |point: Point| ERRORS.map(|(error, _)| Orders::Fail { point: point.clone(), error });
        let mut all = campaign.some_of(points.flat_map(fail).collect(), length::of(1, 100));
        all.extend(
            (0..length::of(1, 20)).map(|_| Orders::ShortenFiles { seed: campaign.number(), one_in: 20 }),
        );
        let told = all.iter().filter(|orders| !run_with(orders)).count();
        campaign.end(&format!("{} errors, {told} of them told, 0 acknowledged in vain", all.len()));
    }
    pair.repair();
    pair.assert_both_restore(&account);
}
