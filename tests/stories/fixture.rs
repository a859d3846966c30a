//! The fixture itself: the oracle for point-in-time recovery agrees with PostgreSQL's own recovery.

use crate::site;
use crate::support::{Cluster, Workload};

#[test]
fn the_history_says_where_postgresql_stops() {
    let site = site!(without_archiving());
    let workload = Workload::start(site.cluster());
    workload.wait_for_more(200);
    let backup = site.path("plain");
    let mut command = site.cluster().client("pg_basebackup");
    assert!(command.args(["-c", "fast", "-D"]).arg(&backup).status().unwrap().success());
    workload.wait_for_more(2000);
    let account = workload.finish(site.cluster());
    let history = &account.history;
    let middle = history.middle();
    let lsn = history.commits[history.commits.len() / 2 + 7].lsn;
    let xid = middle.xid;
    let time = middle.time.clone();
    let cases = [
        (format!("recovery_target_time={time}"), "on", account.history.up_to_time(&time)),
        (format!("recovery_target_time={time}"), "off", account.history.before_time(&time)),
        (format!("recovery_target_xid={xid}"), "on", account.history.up_to_xid(xid)),
        (format!("recovery_target_xid={xid}"), "off", account.history.before_xid(xid)),
        (format!("recovery_target_lsn={lsn}"), "off", account.history.before_lsn(lsn)),
        (format!("recovery_target_lsn={lsn}"), "on", account.history.before_lsn(pgbak::pg::Lsn(lsn.0 + 1))),
    ];
    for (i, (target, inclusive, expected)) in cases.into_iter().enumerate() {
        let dir = site.path(&format!("r{i}"));
        assert!(
            std::process::Command::new("cp").arg("-a").arg(&backup).arg(&dir).status().unwrap().success()
        );
        std::fs::write(dir.join("recovery.signal"), "").unwrap();
        site.identity().own_path(&dir.join("recovery.signal"));
        let sockets = site.make_directory(&format!("s{i}"));
        let restore = format!("restore_command=cp {}/pg_wal/%f %p", site.cluster().data.display());
        let inclusive = format!("recovery_target_inclusive={inclusive}");
        let mut restored = Cluster::new(
            &dir,
            &sockets,
            &site.path("r.log"),
            site.identity(),
            &[&target, &restore, &inclusive],
        );
        restored.launch();
        restored.wait_until_recovered();
        account.assert_holds_exactly(&restored, expected);
    }
}
