//! The runs that the journal knows of, by command.

use std::collections::BTreeMap;

use crate::ops::journal::{Ended, Journal};
use crate::plan::health::{Run, RunEnd};

pub fn observed(journal: &Journal) -> Vec<Run> {
    let mut runs: BTreeMap<&str, Run> = BTreeMap::new();
    let commands = journal.at_work.iter().chain(&journal.killed).map(|run| run.command.as_str());
    let ended = journal.done.iter().chain(&journal.failed).map(|run| run.command.as_str());
    for command in commands.chain(ended) {
        runs.insert(command, Run { command: command.to_owned(), ..Run::default() });
    }
    let mut run = |command: &str, change: &dyn Fn(&mut Run)| {
        runs.get_mut(command).into_iter().for_each(change);
    };
    for running in &journal.at_work {
        run(&running.command, &|run| run.at_work.push(running.started_at));
    }
    for killed in &journal.killed {
        run(&killed.command, &|run| run.killed = Some(killed.started_at));
    }
    for done in &journal.done {
        run(&done.command, &|run| run.done = Some(end(done)));
    }
    for failed in &journal.failed {
        run(&failed.command, &|run| run.failed = Some(end(failed)));
    }
    runs.into_values().collect()
}

fn end(ended: &Ended) -> RunEnd {
    RunEnd {
        started_at: ended.started_at,
        ended_at: ended.ended_at,
        exit_code: ended.exit_code,
        message: ended.message.clone(),
    }
}
