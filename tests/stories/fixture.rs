//! The fixture's own test: what it says of a point in time is where PostgreSQL's own recovery lands.

use std::process::Command;

use crate::site;
use crate::support::{Workload, process};
use pgbak::pg::Lsn;

#[test]
fn the_history_tells_where_postgresql_stops() {
    let site = site!(without_archiving());
    let mut workload = Workload::start(site.cluster());
    workload.wait_for_more(20);
    let backup = site.path("plain");
    let mut other = site.cluster().client("pg_basebackup");
    process::run(other.args(["--checkpoint=fast", "--pgdata"]).arg(&backup));
    workload.is_backed_up(site.cluster());
    workload.wait_for_more(1000);
    let account = workload.finish(site.cluster());

    let (history, middle) = (&account.history, account.history.middle());
    let (xid, lsn) = (middle.xid.to_string(), middle.lsn.to_string());
    for (setting, target, inclusive, expected) in [
        ("recovery_target_time", &middle.time, "on", history.up_to_time(&middle.time)),
        ("recovery_target_time", &middle.time, "off", history.before_time(&middle.time)),
        ("recovery_target_xid", &xid, "on", history.up_to_xid(middle.xid)),
        ("recovery_target_xid", &xid, "off", history.before_xid(middle.xid)),
        ("recovery_target_lsn", &lsn, "on", history.before_lsn(Lsn(middle.lsn.0 + 1))),
        ("recovery_target_lsn", &lsn, "off", history.before_lsn(middle.lsn)),
    ] {
        let directory = site.fresh("recovered");
        process::run(Command::new("cp").arg("-a").arg(&backup).arg(&directory));
        let signal = format!("{}/recovery.signal", directory.file_name().unwrap().to_str().unwrap());
        site.write(&signal, "");
        let mut recovered = site.restored_in(&directory);
        recovered.set(setting, target);
        recovered.set("recovery_target_inclusive", inclusive);
        recovered.set("restore_command", &format!("cp {}/pg_wal/%f %p", site.cluster().data.display()));
        recovered.launch();
        recovered.wait_until_recovered();
        account.assert_holds_exactly(&recovered, expected);
    }
}
