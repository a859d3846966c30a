//! A link that is too slow for a base backup: the copy on this machine does not wait for it, and the other one is
//! completed from it.

use std::fs;
use std::path::Path;

use rustix::process::Signal;

use crate::pair;
use crate::support::{Pair, Running, wait_until};

/// More than the queue before a slow repository holds, and hardly to be compressed.
const BALLAST: &str = "
    CREATE TABLE ballast (bytes bytea);
    ALTER TABLE ballast ALTER bytes SET STORAGE EXTERNAL;
    INSERT INTO ballast SELECT (SELECT string_agg(sha512(format('%s %s', i, j)::bytea), '')
        FROM generate_series(1, 1000) AS j) FROM generate_series(1, 900) AS i;
    CREATE TABLE t AS SELECT generate_series(1, 1000) AS id;
";
/// At this rate the ballast takes minutes.
const SLOW_BYTES_PER_SECOND: u64 = 300_000;

fn same_files(pair: &Pair, backup: &str) {
    let read = |directory: &Path| {
        let mut files: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .flatten()
            .map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap()))
            .collect();
        files.sort();
        files
    };
    assert!(read(&pair.local().backup(backup)) == read(&pair.remote().backup(backup)), "byte for byte");
}

/// A backup that is whole in the local repository, and still on its way to the remote one.
fn back_up_over_a_slow_link(pair: &Pair) -> Running {
    pair.site.cluster().sql(BALLAST);
    pair.proxy.throttle(SLOW_BYTES_PER_SECOND);
    let mut running = pair.site.call("base-backup").start();
    wait_until("the local backup", || {
        assert!(!running.has_ended(), "it ended: {}", running.stderr_so_far());
        pair.local().backups().len() == 1
    });
    running
}

#[test]
fn a_slow_link_does_not_hold_the_local_copy_up_and_has_it_all_in_the_end() {
    let pair = pair!(Shell);
    let running = back_up_over_a_slow_link(&pair);
    let backup = pair.local().the_backup();
    let size_bytes: u64 = fs::metadata(pair.local().backup(&backup).join("base.tar.zst")).unwrap().len();
    assert!(pair.proxy.uploaded_bytes() < size_bytes / 2, "the link was not slow enough to tell");
    assert_eq!(pair.remote().backups(), [] as [&str; 0]);
    assert_eq!(pair.site.cluster().sql("SELECT count(*) FROM pg_replication_slots"), "0");

    pair.proxy.heal();
    running.finish().succeeds();
    same_files(&pair, &backup);
}

#[test]
fn a_backup_whose_remote_half_was_interrupted_is_copied_later() {
    let pair = pair!(Chrooted);
    let running = back_up_over_a_slow_link(&pair);
    running.signal(Signal::TERM);
    running.finish().exits(143);
    assert_eq!((pair.local().backups().len(), pair.remote().backups().len()), (1, 0));

    pair.proxy.heal();
    pair.site.pgbak("base-backup --copy-missing").succeeds();
    same_files(&pair, &pair.local().the_backup());
}
