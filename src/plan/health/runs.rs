//! How the last run of each command ended.
//!
//! Only of those that a timer runs: a restore that was refused last month says nothing about the site.

use super::{Finding, Observations, Run, RunEnd, span};

const BY_HAND: [&str; 1] = ["restore"];

pub fn look(observations: &Observations, findings: &mut Vec<Finding>) {
    for run in observations.runs.iter().filter(|run| !BY_HAND.contains(&run.command.as_str())) {
        findings.extend(failed(observations, run));
        findings.extend(killed(observations, run));
    }
}

fn failed(observations: &Observations, run: &Run) -> Option<Finding> {
    let failed = run.failed.as_ref()?;
    if run.done.as_ref().is_some_and(|done| done.ended_at >= failed.ended_at) {
        return None;
    }
    let code = if run.command == "base-backup" { "backup-failed" } else { "run-failed" };
    let said = match &failed.message {
        Some(message) => format!(": {message}"),
        None => format!(" with exit code {}", failed.exit_code),
    };
    let message = format!(
        "the last {} failed {} ago{said}{}",
        run.command,
        span(observations.age_seconds(failed.ended_at)),
        success(observations, run.done.as_ref())
    );
    let hint = format!("Run `pgbak {}` and see.", run.command);
    Some(Finding::warning(code, message).hint(hint))
}

fn success(observations: &Observations, done: Option<&RunEnd>) -> String {
    match done {
        Some(done) => {
            format!("; the last good one ended {} ago", span(observations.age_seconds(done.ended_at)))
        }
        None => "; none has succeeded yet".to_owned(),
    }
}

fn killed(observations: &Observations, run: &Run) -> Option<Finding> {
    let killed = run.killed?;
    let ends = run.done.iter().chain(&run.failed).map(|end| end.ended_at);
    if ends.chain(run.at_work.iter().copied()).any(|later| later >= killed) {
        return None;
    }
    let message = format!(
        "the last {} was killed; it had begun {} ago",
        run.command,
        span(observations.age_seconds(killed))
    );
    let hint = format!(
        "See the machine's log for a shortage of memory or a restart, and run `pgbak {}` again.",
        run.command
    );
    Some(Finding::warning("run-killed", message).hint(hint))
}
