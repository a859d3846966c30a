//! What has to work on every version of PostgreSQL. `tests/run.sh` runs these with each that is supported.

use std::fs;

use crate::site;
use crate::support::{Cluster, Repository, Site, SiteBuilder, wait_until};

/// Everything that a cluster may have: tablespaces, large segments, compressed full-page images.
fn rich(builder: SiteBuilder) -> Option<Site> {
    let site = builder.tablespaces(2).repositories(2).initdb("--wal-segsize=64");
    let site = site.settings("wal_compression = on").config("[backup]\nworkers = 2").build()?;
    let sql = "CREATE TABLE orders (id int, item text) TABLESPACE space1;
               CREATE INDEX ON orders (id) TABLESPACE space2;
               INSERT INTO orders SELECT n, md5(n::text) FROM generate_series(1, 20000) AS n;
               CREATE UNLOGGED TABLE carts AS SELECT 1 AS id";
    site.cluster().sql(sql);
    Some(site)
}

/// So that a restored cluster's tablespaces do not lie where the other's are.
fn mapping(site: &Site) -> String {
    let elsewhere = site.fresh("spaces");
    let of = |name: &str| {
        format!("--tablespace-mapping {}={}", site.path(name).display(), elsewhere.join(name).display())
    };
    format!("{} {}", of("space1"), of("space2"))
}

fn orders(cluster: &Cluster) -> String {
    cluster.sql("SELECT count(*) || ' ' || md5(string_agg(id || item, ',' ORDER BY id)) FROM orders")
}

#[test]
fn a_cluster_with_everything_comes_back_to_the_second_before_the_mistake() {
    let Some(site) = rich(Site::with()) else { return };
    let shop = site.cluster();
    site.pgbak("base-backup").succeeds();
    shop.sql("INSERT INTO orders SELECT n, md5(n::text) FROM generate_series(20001, 30000) AS n");
    let (before, expected) = (shop.now(), orders(shop));
    shop.sql("DELETE FROM orders WHERE id % 2 = 0");
    site.wait_until_archived();
    site.pgbak("wal-sync").succeeds();

    for repository in ["first", "second"] {
        let arguments = format!(
            "--repository {repository} --target-time '{before}' --target-action promote {}",
            mapping(&site)
        );
        let restored = site.restore(&arguments);
        assert_eq!(orders(&restored), expected, "from {repository}");
        assert_eq!(restored.sql("SELECT count(*) FROM carts"), "0", "unlogged tables come back empty");
        restored.sql("INSERT INTO orders VALUES (0, 'new')");
    }
}

#[test]
fn what_was_streamed_comes_back_to_the_second_before_the_mistake_and_to_the_last_commit() {
    let streaming = Site::with().without_archiving().config("[wal]\nsource = \"stream\"");
    let Some(site) = rich(streaming) else { return };
    let shop = site.cluster();
    site.pgbak("base-backup").succeeds();
    site.pgbak("wal-sync").succeeds();
    shop.sql("INSERT INTO orders SELECT n, md5(n::text) FROM generate_series(20001, 30000) AS n");
    let (before, expected) = (shop.now(), orders(shop));
    shop.sql("DELETE FROM orders WHERE id % 2 = 0");
    shop.switch_wal();
    shop.sql("INSERT INTO orders VALUES (30001, 'the last')");
    let last = orders(shop);
    site.pgbak("wal-sync").succeeds();
    site.pgbak("status").succeeds().stdout_has("vanished now");

    let arguments = format!("--target-time '{before}' --target-action promote {}", mapping(&site));
    assert_eq!(orders(&site.restore(&arguments)), expected);
    let restored = site.restore(&format!("--repository second {}", mapping(&site)));
    assert_eq!(orders(&restored), last);
    site.pgbak("verify").succeeds();
}

#[test]
fn streaming_follows_a_standby_through_its_promotion() {
    let streaming = Site::with().without_archiving().config("[wal]\nsource = \"stream\"");
    let Some(mut site) = streaming.build() else { return };
    site.cluster().sql("CREATE TABLE orders AS SELECT 1 AS id, 'one' AS item");
    site.pgbak("base-backup").succeeds();
    site.pgbak("wal-sync").succeeds();
    let standby = site.restore_streaming_standby();
    site.change_config(&site.cluster().connection("postgres"), &standby.connection("postgres"));
    let follower = site.call("wal-sync --follow --interval 1").start();
    let streams = "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'pgbak'";
    wait_until("pgbak to stream from the standby", || standby.sql(streams) == "1");
    site.cluster().sql("INSERT INTO orders VALUES (2, 'before')");
    let end = site.cluster().lsn();
    let has_it = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'");
    wait_until("the standby to have it", || standby.sql(&has_it) == "t");
    site.cluster_mut().crash();
    standby.sql("SELECT pg_promote()");
    wait_until("the history to be stored", || site.repository().holds("00000002.history"));
    standby.sql("INSERT INTO orders VALUES (3, 'after')");
    let end = standby.sql("SELECT pg_current_wal_flush_lsn()");
    let flushed =
        format!("SELECT flush_lsn >= '{end}' FROM pg_stat_replication WHERE application_name = 'pgbak'");
    wait_until("it to be flushed", || standby.sql(&flushed) == "t");
    follower.signal(rustix::process::Signal::TERM);
    follower.finish().exits(143);
    assert_eq!(site.restore("").sql("SELECT count(*) FROM orders"), "3");
    assert_eq!(site.restore("--target-timeline 1").sql("SELECT count(*) FROM orders"), "2");
}

#[test]
fn a_promoted_cluster_goes_on_in_the_same_repository_and_comes_back() {
    let mut site = site!();
    site.cluster().sql(
        "CREATE TABLE orders AS SELECT n AS id, md5(n::text) AS item FROM generate_series(1, 1000) AS n",
    );
    site.pgbak("base-backup").succeeds();
    site.cluster().sql("INSERT INTO orders VALUES (1001, 'archived')");
    site.wait_until_archived();

    // The server is lost; what was restored takes its place, and archives a timeline of its own.
    site.cluster_mut().stop();
    fs::remove_dir_all(&site.cluster().data).unwrap();
    site.pgbak(&format!("restore -D {}", site.cluster().data.display())).succeeds();
    site.cluster_mut().launch();
    site.cluster_mut().wait_until_recovered();
    site.cluster().sql("INSERT INTO orders VALUES (1002, 'on timeline 2')");
    let expected = orders(site.cluster());
    site.wait_until_archived();
    assert!(site.repository().holds("00000002.history"));

    // From the backup of timeline 1, and from one of timeline 2.
    assert_eq!(orders(&site.restore("")), expected);
    site.pgbak("base-backup").succeeds();
    assert_eq!(orders(&site.restore("--target-immediate --target-action promote")), expected);
}

#[test]
fn a_standby_is_backed_up_as_a_primary_is() {
    let site = site!();
    site.cluster().sql("CREATE TABLE orders AS SELECT 1 AS id, 'one' AS item");
    site.pgbak("base-backup").succeeds();
    let standby = site.restore_streaming_standby();
    site.change_config(&site.cluster().connection("postgres"), &standby.connection("postgres"));
    site.pgbak("base-backup").succeeds();
    assert_eq!(site.repository().backups().len(), 2);
    // What the standby's data directory says of itself does not make a standby of what is restored.
    let restored = site.restore("");
    assert_eq!(restored.sql("SELECT pg_is_in_recovery()"), "f");
    assert_eq!(orders(&restored), orders(site.cluster()));
}

#[test]
fn a_standby_promoted_during_its_base_backup_ends_it_with_a_clear_error() {
    let site = site!();
    site.pgbak("base-backup").succeeds();
    let standby = site.restore_streaming_standby();
    site.change_config(&site.cluster().connection("postgres"), &standby.connection("postgres"));
    let running = site.call("base-backup --max-rate 2MB").start();
    let copies = "SELECT count(*) FROM pg_stat_replication WHERE state IN ('backup', 'streaming')";
    wait_until("the backup to be under way", || standby.sql(copies) == "2");
    standby.sql("SELECT pg_promote()");
    let outcome = running.finish().exits(1);
    assert!(outcome.stderr.contains("promoted"), "{outcome}");
    assert_eq!(site.repository().backups().len(), 1);
}

#[test]
fn pages_without_checksums_are_no_obstacle() {
    let site = site!(initdb("--no-data-checksums"));
    assert_eq!(site.cluster().sql("SHOW data_checksums"), "off");
    site.cluster().sql("CREATE TABLE orders AS SELECT 1 AS id, 'one' AS item");
    site.pgbak("base-backup").succeeds();
    let expected = orders(site.cluster());
    assert_eq!(orders(&site.restore("--target-immediate --target-action promote")), expected);
}

#[test]
fn a_stranger_s_hand_restores_it_and_the_server_accepts_it() {
    let Some(site) = rich(Site::with()) else { return };
    site.pgbak("base-backup").succeeds();
    let expected = orders(site.cluster());
    let repository: &Repository = site.repository();
    let directory = site.fresh("by-hand");
    repository.restore_by_hand(&repository.the_backup(), &directory);
    Repository::remap_tablespaces(&directory);
    let mut restored = site.restored_in(&directory);
    restored.start();
    assert_eq!(orders(&restored), expected);
}
