//! Leases on the backup that is being restored, in each repository that it is read from.
//!
//! They are renewed by a thread of their own, whatever the restore is waiting for. A repository that this user cannot
//! write to is read without one.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::{Context, Error};
use crate::catalog::BackupName;
use crate::repo::prune::Reading;
use crate::repo::{self, Repository};

/// How often it is looked whether a lease is to be renewed.
const PAUSE: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub struct Holds {
    readings: Mutex<Vec<Reading>>,
}

impl Holds {
    /// Holds a backup from now on. Fails only when it was deleted meanwhile.
    pub fn add(
        &self,
        context: &Context<'_>,
        repository: &Repository,
        backup: BackupName,
    ) -> Result<(), Error> {
        match repository.hold_to_read(backup, &context.holder(), (context.clock)()) {
            Ok(reading) => self.readings().push(reading),
            Err(error @ repo::Error::Missing { .. }) => return Err(error.into()),
            Err(error) => {
                tracing::info!("a prune of repository {} will not wait: {error}", repository.name())
            }
        }
        Ok(())
    }

    /// Renews what is held while `act` goes on, and then gives it back.
    pub fn keep_while(
        &self,
        context: &Context<'_>,
        act: &mut dyn FnMut() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (act_goes_on, has_ended) = mpsc::channel::<()>();
        thread::scope(|scope| {
            scope.spawn(move || {
                while has_ended.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
                    let now = (context.clock)();
                    self.readings().iter_mut().for_each(|reading| reading.keep(now));
                }
                self.readings().drain(..).for_each(Reading::release);
            });
            let acted = act();
            drop(act_goes_on);
            acted
        })
    }

    fn readings(&self) -> MutexGuard<'_, Vec<Reading>> {
        self.readings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
