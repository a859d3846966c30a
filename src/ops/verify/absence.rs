//! What is not there: damage, or deleted while it was looked for.
//!
//! Listings of many directories and hours of reading are no snapshot, and `prune` may be at work, also on another
//! machine. It deletes a record before the data and backups before their WAL, so whoever begins to look after something
//! was found absent does not find that anybody needs it. So an absence counts only when two looks in a row agree on it.

use std::collections::BTreeSet;

use super::problem::Problem;
use super::{Checked, Request, look_through};
use crate::ops::{Context, Error};

/// The codes of problems that are nothing but an absence.
const ABSENCES: [&str; 3] = ["missing", "wal-missing", "history-missing"];

/// With a prune between any two, looking ends with what was seen last.
const LOOKS_MAX: usize = 5;

pub fn is_absence(problem: &Problem) -> bool {
    ABSENCES.contains(&problem.code)
}

impl Checked {
    /// Looks again for what is absent, and keeps what is absent still.
    pub(super) fn look_again(&mut self, context: &Context<'_>, request: &Request) -> Result<(), Error> {
        let mut absent: Vec<Problem> = self.problems.extract_if(.., |problem| is_absence(problem)).collect();
        for _ in 0..LOOKS_MAX {
            if absent.is_empty() {
                break;
            }
            context.interrupt.check()?;
            let now = (context.clock)();
            let seen = match look_through(context, request, &self.repository, self.report.clone(), now) {
                Ok(seen) => seen.map(|seen| seen.problems).unwrap_or_default(),
                Err(error) => {
                    tracing::warn!("{error}");
                    break;
                }
            };
            let again: Vec<Problem> = seen.into_iter().filter(is_absence).collect();
            let is_settled = keys(&again) == keys(&absent);
            absent = again;
            if is_settled {
                break;
            }
        }
        self.problems.extend(absent);
        Ok(())
    }
}

fn keys(problems: &[Problem]) -> BTreeSet<(&str, &str)> {
    problems.iter().map(|problem| (problem.code, problem.object.as_str())).collect()
}
