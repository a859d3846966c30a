//! WAL as it is written: streamed from a slot, down to the last commit, whatever dies on the way.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread::{self, JoinHandle};

use rustix::process::Signal;

use crate::support::{
    Cluster, Ending, Outcome, Proxy, Repository, Running, Site, SiteBuilder, Workload, wait_until,
};
use pgbak::pg::Lsn;

fn streaming() -> SiteBuilder {
    Site::with().without_archiving().config("[wal]\nsource = \"stream\"")
}

/// A site with a base backup, and a ledger in which nobody has written yet.
fn site(builder: SiteBuilder) -> Option<Site> {
    let site = builder.build()?;
    site.cluster().sql("CREATE TABLE diary (id bigint PRIMARY KEY)");
    site.pgbak("base-backup").succeeds();
    Some(site)
}

/// Whoever has written `id` and heard of it wants to see it again, and all before it.
struct Ledger {
    done: Arc<AtomicBool>,
    acknowledged: Arc<AtomicI64>,
    writer: Option<JoinHandle<()>>,
}

impl Ledger {
    /// Goes on behind what is there.
    fn write(cluster: &Cluster) -> Self {
        let mut client = cluster.connect().unwrap();
        let next: i64 = client.query_one("SELECT coalesce(max(id), 0) FROM diary", &[]).unwrap().get(0);
        let (done, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(next)));
        let (until, heard) = (Arc::clone(&done), Arc::clone(&acknowledged));
        let writer = thread::spawn(move || {
            for id in next + 1.. {
                // The test may kill the server under it.
                if until.load(Ordering::Relaxed)
                    || client.execute("INSERT INTO diary VALUES ($1)", &[&id]).is_err()
                {
                    return;
                }
                heard.store(id, Ordering::Relaxed);
            }
        });
        Self { done, acknowledged, writer: Some(writer) }
    }

    fn wait_for_more(&self, rows: i64) {
        let enough = self.acknowledged.load(Ordering::Relaxed) + rows;
        wait_until("the ledger to grow", || self.acknowledged.load(Ordering::Relaxed) >= enough);
    }

    /// The last one that was acknowledged.
    fn finish(mut self) -> i64 {
        self.done.store(true, Ordering::Relaxed);
        self.writer.take().unwrap().join().unwrap();
        self.acknowledged.load(Ordering::Relaxed)
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
    }
}

#[track_caller]
fn assert_has_all_up_to(restored: &Cluster, id: i64) {
    let [count, max] = ["count(*)", "coalesce(max(id), 0)"]
        .map(|what| restored.sql(&format!("SELECT {what} FROM diary")).parse::<i64>().unwrap());
    assert_eq!(count, max, "something in the middle is missing");
    assert!(max >= id, "{id} was acknowledged, and {max} is the last that is there");
}

fn follow(site: &Site) -> Running {
    let running = site.call("wal-sync --follow --interval 1").start();
    wait_until_streaming(site.cluster());
    running
}

fn wait_until_streaming(cluster: &Cluster) {
    let sql =
        "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'pgbak' AND state = 'streaming'";
    wait_until("pgbak to stream", || cluster.try_sql(sql).is_ok_and(|count| count == "1"));
}

/// Waits until the server has heard that everything up to `lsn` is safe.
fn wait_until_flushed(cluster: &Cluster, lsn: Lsn) {
    let sql =
        format!("SELECT flush_lsn >= '{lsn}' FROM pg_stat_replication WHERE application_name = 'pgbak'");
    wait_until(&format!("{lsn} to be flushed"), || cluster.try_sql(&sql).is_ok_and(|flushed| flushed == "t"));
}

/// Where what the server has made durable itself ends.
fn end_of_wal(cluster: &Cluster) -> Lsn {
    cluster.sql("SELECT pg_current_wal_flush_lsn()").parse().unwrap()
}

fn wait_until_all_is_flushed(cluster: &Cluster) {
    wait_until_flushed(cluster, end_of_wal(cluster));
}

/// Ends a follower as systemd would.
fn stop(follower: Running) -> Outcome {
    follower.signal(Signal::TERM);
    follower.finish().exits(143)
}

/// Of the segment that is being written; in order.
fn parts(repository: &Repository) -> Vec<String> {
    let mut names: Vec<String> = repository
        .files()
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.retain(|name| name.contains(".partial."));
    names.sort();
    names
}

fn codes(outcome: &Outcome) -> Vec<String> {
    let report = outcome.json();
    let findings = report["findings"].as_array().unwrap().iter();
    findings.map(|finding| finding["code"].as_str().unwrap().to_owned()).collect()
}

/// The server and all that it had are gone.
fn lose_the_server(site: &mut Site) {
    site.cluster_mut().crash();
    fs::remove_dir_all(&site.cluster().data).unwrap();
}

#[test]
fn a_run_from_a_timer_brings_everything_that_was_committed_before_it() {
    let Some(mut site) = site(streaming().repositories(2)) else { return };
    let shop = site.cluster();
    // From the backup on the server keeps what the first run will ask for.
    assert_eq!(shop.sql("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'pgbak'"), "1");
    site.pgbak("wal-sync").succeeds();
    shop.sql("INSERT INTO diary SELECT generate_series(1, 1000)");
    let report = site.pgbak("wal-sync --json").succeeds().json();
    assert_eq!(report["source"], "stream");
    assert_eq!(report["stream"]["received_lsn"], report["stream"]["durable_lsn"]);
    let tip = parts(site.repository());
    assert_eq!(tip.len(), 1, "{tip:?}");
    assert_eq!(parts(&site.repositories()[1]), tip);

    // A longer one takes its place, everywhere; and the whole segment takes that one's.
    shop.sql("INSERT INTO diary SELECT generate_series(1001, 2000)");
    site.pgbak("wal-sync").succeeds();
    let longer = parts(site.repository());
    assert_eq!((longer.len(), parts(&site.repositories()[1])), (1, longer.clone()));
    assert_ne!(longer, tip);
    let segment = shop.switch_wal();
    shop.sql("INSERT INTO diary SELECT generate_series(2001, 3000)");
    site.pgbak("wal-sync").succeeds();
    for repository in site.repositories() {
        assert!(repository.holds(&segment));
        assert!(parts(repository).iter().all(|name| !name.starts_with(&segment)), "{:?}", parts(repository));
    }
    site.pgbak("status").succeeds().stdout_has("vanished now");

    lose_the_server(&mut site);
    for name in ["first", "second"] {
        assert_has_all_up_to(&site.restore(&format!("--repository {name}")), 3000);
    }
    site.pgbak("verify").succeeds();
}

#[test]
fn what_a_synchronous_commit_has_acknowledged_survives_the_server_and_pgbak() {
    let Some(mut site) =
        site(streaming().settings("synchronous_standby_names = 'pgbak'\nsynchronous_commit = local"))
    else {
        return;
    };
    let follower = follow(&site);
    site.cluster().sql("ALTER SYSTEM SET synchronous_commit = on");
    site.cluster().sql("SELECT pg_reload_conf()");
    let ledger = Ledger::write(site.cluster());
    ledger.wait_for_more(300);
    // Neither has a chance to say good-bye.
    follower.signal(Signal::KILL);
    lose_the_server(&mut site);
    drop(follower.finish());
    let acknowledged = ledger.finish();
    assert!(acknowledged >= 300);
    assert_has_all_up_to(&site.restore(""), acknowledged);
}

#[test]
fn when_it_is_told_to_stop_everything_received_is_durable_and_confirmed() {
    let Some(mut site) = site(streaming()) else { return };
    let follower = follow(&site);
    let workload = Workload::start(site.cluster());
    workload.wait_for_more(500);
    let account = workload.finish(site.cluster());
    let end = end_of_wal(site.cluster());
    wait_until_flushed(site.cluster(), end);
    site.cluster().sql("INSERT INTO diary VALUES (1)");
    stop(follower);
    assert_eq!(parts(site.repository()).len(), 1, "{:?}", parts(site.repository()));
    let confirmed =
        format!("SELECT restart_lsn >= '{end}' FROM pg_replication_slots WHERE slot_name = 'pgbak'");
    assert_eq!(site.cluster().sql(&confirmed), "t");
    lose_the_server(&mut site);
    account.assert_holds_exactly(&site.restore(""), &account.history.commits);
}

#[test]
fn a_server_that_restarts_or_crashes_is_waited_for() {
    let Some(mut site) = site(streaming()) else { return };
    let follower = follow(&site);
    let mut acknowledged = 0;
    for round in 0..4 {
        let ledger = Ledger::write(site.cluster());
        ledger.wait_for_more(100);
        match round % 2 {
            0 => site.cluster_mut().crash(),
            _ => site.cluster_mut().stop(),
        }
        acknowledged = ledger.finish();
        site.cluster_mut().start();
        wait_until_streaming(site.cluster());
    }
    wait_until_all_is_flushed(site.cluster());
    stop(follower).stdout_has("stream-failed");
    lose_the_server(&mut site);
    assert_has_all_up_to(&site.restore(""), acknowledged);
}

#[test]
fn pgbak_killed_anywhere_goes_on_where_it_was() {
    let Some(mut site) = site(streaming().repositories(2).initdb("--wal-segsize=1")) else { return };
    let ledger = Ledger::write(site.cluster());
    for round in 0..12 {
        let follower = follow(&site);
        ledger.wait_for_more(1 + 40 * (round % 4));
        if round % 3 == 0 {
            site.cluster().switch_wal();
        }
        follower.signal(Signal::KILL);
        drop(follower.finish());
    }
    let acknowledged = ledger.finish();
    site.pgbak("wal-sync").succeeds();
    site.pgbak("verify").succeeds();
    lose_the_server(&mut site);
    assert_has_all_up_to(&site.restore("--repository first"), acknowledged);
    assert_has_all_up_to(&site.restore("--repository second"), acknowledged);
}

/// Reaches the cluster by TCP, through a proxy.
fn through_a_proxy(site: &Site) -> Proxy {
    let proxy = Proxy::to(site.cluster().port());
    let sockets = format!("host='{}' port={}", site.cluster().sockets().display(), site.cluster().port());
    site.change_config(&sockets, &format!("host=127.0.0.1 port={}", proxy.port()));
    proxy
}

/// Writes on while `harm` is done to the connection or the slot, and follows until everything is safe; nothing may be
/// lost.
fn survives(mut site: Site, harm: impl Fn(&Cluster, &Ledger)) {
    let follower = follow(&site);
    let ledger = Ledger::write(site.cluster());
    harm(site.cluster(), &ledger);
    ledger.wait_for_more(50);
    let acknowledged = ledger.finish();
    wait_until_all_is_flushed(site.cluster());
    stop(follower);
    lose_the_server(&mut site);
    assert_has_all_up_to(&site.restore(""), acknowledged);
}

#[test]
fn a_connection_that_is_cut_is_made_again() {
    let Some(site) = site(streaming().settings("listen_addresses = '127.0.0.1'")) else { return };
    let proxy = through_a_proxy(&site);
    survives(site, |_, ledger| {
        for ending in [Ending::Reset, Ending::Close, Ending::Reset] {
            ledger.wait_for_more(50);
            let before = proxy.accepted();
            proxy.cut_now(ending);
            wait_until("another connection", || proxy.accepted() > before);
        }
    });
}

#[test]
fn a_connection_on_which_nothing_arrives_any_more_is_given_up_and_made_again() {
    let settings = "listen_addresses = '127.0.0.1'\nwal_sender_timeout = 10s";
    let Some(site) = site(streaming().settings(settings)) else { return };
    let proxy = through_a_proxy(&site);
    survives(site, |_, ledger| {
        ledger.wait_for_more(50);
        let before = proxy.accepted();
        proxy.strand();
        wait_until("the silence to be long enough", || proxy.accepted() > before);
    });
}

#[test]
fn a_full_disk_confirms_nothing_and_loses_nothing() {
    let Some(mut site) = site(streaming().repositories(2).initdb("--wal-segsize=1")) else { return };
    let Some(disk) = site.small_disk("64m") else { return };
    let first = site.repository().path.display().to_string();
    site.change_config(&first, &disk.path.join("repository").display().to_string());
    site.pgbak("base-backup").succeeds();
    let follower = follow(&site);
    let ledger = Ledger::write(site.cluster());
    ledger.wait_for_more(100);
    disk.fill_up_to(64 << 10);
    wait_until("the full disk to be told", || {
        site.cluster().sql(
            "INSERT INTO diary SELECT -g FROM generate_series(1, 5000) AS g; DELETE FROM diary WHERE id < 0",
        );
        follower.stderr_so_far().contains("stream-not-stored")
            || fs::read_to_string(follower.stdout()).unwrap().contains("stream-not-stored")
    });
    let behind = end_of_wal(site.cluster());
    let confirmed =
        format!("SELECT restart_lsn < '{behind}' FROM pg_replication_slots WHERE slot_name = 'pgbak'");
    assert_eq!(site.cluster().sql(&confirmed), "t");
    disk.remove_ballast();
    let acknowledged = ledger.finish();
    wait_until_streaming(site.cluster());
    wait_until_all_is_flushed(site.cluster());
    stop(follower);
    lose_the_server(&mut site);
    assert_has_all_up_to(&site.restore("--repository first"), acknowledged);
}

#[test]
fn wal_that_the_server_has_removed_is_told_until_there_is_a_new_base_backup() {
    let settings = "wal_keep_size = 0\nmax_wal_size = 2MB\nmin_wal_size = 2MB";
    let Some(site) = site(streaming().initdb("--wal-segsize=1").settings(settings)) else { return };
    site.pgbak("wal-sync").succeeds();
    site.cluster().sql("SELECT pg_drop_replication_slot('pgbak')");
    site.cluster().sql("INSERT INTO diary VALUES (1)");
    for _ in 0..3 {
        site.cluster().switch_wal();
        site.cluster().sql("INSERT INTO diary SELECT coalesce(max(id), 0) + 1 FROM diary; CHECKPOINT");
    }
    site.pgbak("status").exits(3).stdout_has("slot-missing");
    let outcome = site.pgbak("wal-sync --json").exits(3);
    assert!(codes(&outcome).contains(&"wal-lost".to_owned()), "{outcome}");
    assert!(outcome.stdout.contains("pgbak base-backup"), "{outcome}");
    site.cluster().sql("INSERT INTO diary SELECT coalesce(max(id), 0) + 1 FROM diary");
    site.cluster().switch_wal();
    // Recorded: whoever comes later sees it, too.
    let later = site.pgbak("wal-sync --json").exits(3);
    assert_eq!(codes(&later), ["wal-gap"]);
    site.pgbak("status").exits(3).stdout_has("wal-gap");
    site.pgbak(&format!("restore -D {} --target-lsn {}", site.fresh("late").display(), site.cluster().lsn()))
        .exits(1);

    site.pgbak("base-backup").succeeds();
    site.cluster().sql("INSERT INTO diary SELECT coalesce(max(id), 0) + 1 FROM diary");
    site.pgbak("wal-sync").succeeds();
    let last = site.cluster().sql("SELECT max(id) FROM diary").parse().unwrap();
    assert_has_all_up_to(&site.restore(""), last);
}

#[test]
fn a_slot_that_lost_its_wal_is_made_anew_and_the_loss_is_told() {
    let settings = "wal_keep_size = 0\nmax_wal_size = 2MB\nmin_wal_size = 2MB\nmax_slot_wal_keep_size = 2MB";
    let Some(site) = site(streaming().initdb("--wal-segsize=1").settings(settings)) else { return };
    site.pgbak("wal-sync").succeeds();
    let status = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'pgbak'";
    wait_until("the slot to be lost", || {
        site.cluster().sql("INSERT INTO diary SELECT coalesce(max(id), 0) + 1 FROM diary");
        site.cluster().switch_wal();
        site.cluster().sql("CHECKPOINT");
        site.cluster().sql(status) == "lost"
    });
    site.pgbak("status").exits(3).stdout_has("slot-lost").stdout_has("pgbak base-backup");
    let outcome = site.pgbak("wal-sync --json").exits(3);
    assert!(codes(&outcome).contains(&"wal-lost".to_owned()), "{outcome}");
    assert_eq!(site.cluster().sql(status), "reserved");
    site.pgbak("base-backup").succeeds();
    site.cluster().sql("INSERT INTO diary SELECT coalesce(max(id), 0) + 1 FROM diary");
    site.pgbak("wal-sync").succeeds();
}

#[test]
fn the_slot_dropped_under_it_costs_nothing_as_long_as_the_server_has_the_wal() {
    let Some(site) = site(streaming()) else { return };
    survives(site, |cluster, ledger| {
        ledger.wait_for_more(50);
        wait_until("the slot to be dropped", || {
            cluster.sql("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active");
            cluster.try_sql("SELECT pg_drop_replication_slot('pgbak')").is_ok()
        });
        wait_until_streaming(cluster);
    });
}

#[test]
fn a_second_one_on_the_same_slot_is_refused() {
    let Some(site) = site(streaming()) else { return };
    let follower = follow(&site);
    // On the same machine a lock tells them of each other; on another, the server does.
    site.pgbak("wal-sync --follow").exits(4);
    let elsewhere = site.make_directory("elsewhere");
    for arguments in ["wal-sync --follow", "wal-sync"] {
        let other = site.call(arguments).env("PGBAK_STATE_DIRECTORY", elsewhere.to_str().unwrap()).run();
        other
            .exits(4)
            .stderr_has("replication slot \"pgbak\" is another's")
            .stderr_has("pg_replication_slots");
    }
    stop(follower);
}

#[test]
fn a_standby_is_streamed_from_and_followed_through_two_promotions() {
    let Some(mut site) = site(streaming()) else { return };
    site.pgbak("wal-sync").succeeds();
    site.cluster().sql("INSERT INTO diary VALUES (1)");
    let mut standby = site.restore_streaming_standby();
    site.change_config(&site.cluster().connection("postgres"), &standby.connection("postgres"));
    let follower = site.call("wal-sync --follow --interval 1").start();
    wait_until_streaming(&standby);
    site.cluster().sql("INSERT INTO diary VALUES (2)");
    let end = end_of_wal(site.cluster());
    wait_until_flushed(&standby, end);

    site.cluster_mut().crash();
    standby.sql("SELECT pg_promote()");
    wait_until("the history to be stored", || site.repository().holds("00000002.history"));
    standby.sql("INSERT INTO diary VALUES (3)");
    wait_until_all_is_flushed(&standby);
    assert_has_all_up_to(&site.restore(""), 3);
    assert_has_all_up_to(&site.restore("--target-timeline 1"), 2);

    // And once more, from a standby of that one.
    stop(follower);
    let mut next = site.restore_standby();
    next.stop();
    next.set("primary_conninfo", &standby.connection("postgres"));
    next.start();
    wait_until("the next standby to stream", || {
        standby.sql("SELECT count(*) FROM pg_stat_replication WHERE application_name <> 'pgbak'") == "1"
    });
    standby.sql("INSERT INTO diary VALUES (4)");
    let end = standby.lsn();
    wait_until("the next standby to have it", || {
        next.sql(&format!("SELECT pg_last_wal_replay_lsn() >= '{end}'")) == "t"
    });
    standby.crash();
    next.sql("SELECT pg_promote()");
    next.sql("INSERT INTO diary VALUES (5)");
    site.change_config(&standby.connection("postgres"), &next.connection("postgres"));
    site.pgbak("wal-sync").succeeds();
    assert!(site.repository().holds("00000003.history"));
    assert_has_all_up_to(&site.restore(""), 5);
    // From one backup, along each branch.
    for (timeline, id) in [(1, 2), (2, 4), (3, 5)] {
        let restored = site.restore(&format!("--target-timeline {timeline}"));
        assert_eq!(restored.sql("SELECT max(id) FROM diary"), id.to_string(), "timeline {timeline}");
    }
    site.pgbak("verify").succeeds();
}

#[test]
fn the_tip_is_served_filled_up_at_the_end_of_the_archive_and_nowhere_else() {
    let Some(site) = site(streaming()) else { return };
    site.cluster().sql("INSERT INTO diary SELECT generate_series(1, 100)");
    site.pgbak("wal-sync").succeeds();
    let [part] = &parts(site.repository())[..] else { panic!("{:?}", parts(site.repository())) };
    let segment = part[..24].to_owned();
    let end = usize::from_str_radix(&part[42..50], 16).unwrap();
    let fetched = site.path("home/fetched");
    let fetch = |name: &str| site.pgbak(&format!("wal-fetch {name} {}", fetched.display()));
    fetch(&segment).succeeds();
    let content = fs::read(&fetched).unwrap();
    let own = fs::read(site.cluster().data.join("pg_wal").join(&segment)).unwrap();
    assert_eq!(content.len(), own.len());
    assert!(content[..end] == own[..end] && content[end..].iter().all(|&byte| byte == 0));
    // What comes behind it does not exist.
    let next = format!("{}{:08X}", &segment[..16], u32::from_str_radix(&segment[16..], 16).unwrap() + 1);
    fetch(&next).exits(1);

    // With something behind it, a part would be a hole.
    let kept = site.repository().path.join("kept");
    let stored = site
        .repository()
        .files()
        .into_iter()
        .find(|path| path.to_str().unwrap().contains(".partial."))
        .unwrap();
    fs::copy(site.repository().path.join(&stored), &kept).unwrap();
    site.cluster().switch_wal();
    site.cluster().sql("INSERT INTO diary VALUES (101)");
    site.cluster().switch_wal();
    site.cluster().sql("INSERT INTO diary VALUES (102)");
    site.pgbak("wal-sync").succeeds();
    site.repository().remove(&site.repository().wal_file(&segment).unwrap());
    fs::rename(&kept, site.repository().path.join(&stored)).unwrap();
    fetch(&segment).exits(200);
    site.pgbak(&format!("restore -D {}", site.fresh("gap").display())).exits(1);
    site.repository().forget();
}

#[test]
fn nothing_is_served_in_the_place_of_a_file_that_has_more() {
    let Some(site) = site(streaming()) else { return };
    site.cluster().sql("INSERT INTO diary SELECT generate_series(1, 100)");
    site.pgbak("wal-sync").succeeds();
    let segment = parts(site.repository())[0][..24].to_owned();
    let directory = site.make_directory("pg_wal");
    let own = fs::read(site.cluster().data.join("pg_wal").join(&segment)).unwrap();
    let fetch = || site.pgbak(&format!("wal-fetch {segment} {}", directory.join("RECOVERYXLOG").display()));
    // A standby has flushed more than anybody has stored, and its primary counts on that.
    site.write(&format!("pg_wal/{segment}"), &own);
    fetch().exits(1);
    // A base backup has brought the beginning; or a file was made ready for WAL to come.
    for used in [own.len() / 1000, 0] {
        let mut beginning = own[..used].to_vec();
        beginning.resize(own.len(), 0);
        site.write(&format!("pg_wal/{segment}"), &beginning);
        fetch().succeeds();
        fs::remove_file(directory.join("RECOVERYXLOG")).unwrap();
    }
}

/// The lines of RESTORE.md from the one that begins so to the one that ends the block, as a script.
fn commands(text: &str, first: &str) -> String {
    let lines = text.lines().skip_while(|line| !line.trim_start().starts_with(first));
    lines.take_while(|line| line.starts_with("    ")).map(|line| format!("{}\n", line.trim_start())).collect()
}

#[test]
fn a_stranger_s_hand_follows_the_archive_down_to_the_last_commit() {
    let Some(mut site) = site(streaming()) else { return };
    let follower = follow(&site);
    let ledger = Ledger::write(site.cluster());
    ledger.wait_for_more(100);
    site.cluster().switch_wal();
    ledger.wait_for_more(100);
    // In the middle of a segment, when its parts are far from becoming one again.
    let repository = site.repository();
    wait_until("the tip to be in a few parts", || {
        let some = parts(repository);
        (2..8).contains(&some.len()) && some.iter().all(|part| part[..24] == some[0][..24])
    });
    follower.signal(Signal::KILL);
    drop(follower.finish());
    let system = site.cluster().system_identifier();
    let some = parts(repository);
    assert!(some.len() > 1, "{some:?}");
    let durable =
        site.cluster().sql("SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = 'pgbak'");
    let durable: Lsn = durable.parse().unwrap();
    ledger.finish();

    let directory = site.fresh("by-hand");
    repository.restore_by_hand(&repository.the_backup(), &directory);
    let manual = fs::read_to_string(repository.path.join("RESTORE.md")).unwrap();
    let [settings, tip] = ["cat >> \"$DATA/postgresql.auto.conf\"", "cd \"/THIS/REPOSITORY/wal-archive"]
        .map(|first| commands(&manual, first).replace("0000000100000000000000A3", &some[0][..24]));
    assert!(settings.contains("restore_command") && tip.contains("truncate"), "{manual}");
    let script = format!("set -e\nDATA={}\n{settings}\n{tip}", directory.display());
    let script =
        script.replace("/THIS/REPOSITORY", repository.path.to_str().unwrap()).replace("SYSTEM", &system);
    let script: String = script
        .lines()
        .filter(|line| !line.starts_with("recovery_target"))
        .map(|l| format!("{l}\n"))
        .collect();
    let script = site.write("by-hand.sh", script);
    fs::write(directory.join("recovery.signal"), "").unwrap();
    site.identity().own_path(&directory.join("recovery.signal"));
    crate::support::process::run(site.identity().command("sh", "KILL").arg(&script));

    let mut restored = site.restored_in(&directory);
    restored.launch();
    restored.wait_until_recovered();
    let expected = commits_before(&site, durable);
    assert_has_all_up_to(&restored, expected);
    site.cluster_mut().stop();
}

/// How many rows the diary had when the WAL ended there, if each commit is one row.
fn commits_before(site: &Site, end: Lsn) -> i64 {
    let start = site.repository().record(&site.repository().the_backup())["stop_lsn"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let commits = site.cluster().commits_since(start);
    commits.iter().filter(|commit| commit.lsn < end).count() as i64
}

#[test]
fn a_damaged_part_is_found_and_never_served() {
    let Some(site) = site(streaming()) else { return };
    site.cluster().sql("INSERT INTO diary SELECT generate_series(1, 100)");
    site.pgbak("wal-sync").succeeds();
    let part = site
        .repository()
        .files()
        .into_iter()
        .find(|path| path.to_str().unwrap().contains(".partial."))
        .unwrap();
    site.repository().alter(&part, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });
    site.pgbak("verify").exits(3).stdout_has(".partial.");
    let fetched = site.path("home/fetched");
    let segment = &part.file_name().unwrap().to_str().unwrap()[..24];
    site.pgbak(&format!("wal-fetch {segment} {}", fetched.display())).exits(200);
    assert!(!fetched.exists());
}

#[test]
fn a_server_put_back_to_an_older_state_is_refused() {
    let Some(mut site) = site(streaming()) else { return };
    site.cluster_mut().stop();
    let (data, copy) = (site.cluster().data.clone(), site.path("snapshot"));
    let copied = std::process::Command::new("cp").arg("-a").arg(&data).arg(&copy).status().unwrap();
    assert!(copied.success());
    site.cluster_mut().start();
    site.cluster().sql("INSERT INTO diary SELECT generate_series(1, 10000)");
    site.pgbak("wal-sync").succeeds();
    let before = site.repository().files();
    site.cluster_mut().stop();
    fs::remove_dir_all(&data).unwrap();
    fs::rename(&copy, &data).unwrap();
    site.cluster_mut().start();
    let outcome = site.pgbak("wal-sync").exits(1);
    outcome.stderr_has("the server's WAL ends at").stderr_has("base backup");
    assert_eq!(site.repository().files(), before);
}

#[test]
fn status_says_how_much_would_be_lost() {
    let Some(site) = site(streaming().config("[status]\nwal_lag_max = \"1s\"")) else { return };
    let of_first = |outcome: &Outcome| outcome.json()["repositories"][0].clone();
    // The server notes something by itself now and then.
    wait_until("nothing to be at risk", || {
        site.pgbak("wal-sync").succeeds();
        let well = of_first(&site.pgbak("status --json").succeeds());
        (&well["wal_at_risk_bytes"], &well["wal_at_risk_seconds"]) == (&0.into(), &0.into())
    });
    site.cluster().sql("INSERT INTO diary SELECT generate_series(1, 1000)");
    let mut last = None;
    wait_until("the loss to be as old as it may not get", || {
        let outcome = site.pgbak("status --json");
        let seconds = of_first(&outcome)["wal_at_risk_seconds"].as_u64().unwrap();
        last = Some(outcome);
        seconds > 1
    });
    let late = last.unwrap().exits(3);
    assert!(of_first(&late)["wal_at_risk_bytes"].as_u64().unwrap() > 10_000);
    assert!(codes(&late).contains(&"wal-behind".to_owned()), "{late}");
    site.pgbak("status").exits(3).stdout_has("would be lost");
    site.pgbak("wal-sync").succeeds();
    site.pgbak("status").succeeds();
}
