//! How long to wait, without reading a clock: the waits that ended in vain are counted.

use std::time::Duration;

use super::failure::{Attempt, Failure};
use crate::interrupt::Interrupt;

/// The longest wait in one piece, so that an interrupt is noticed soon.
pub const SLICE: Duration = Duration::from_millis(100);

/// How much time something has to begin after the wish to stop came, and what is discarded unasked.
const CLEANUP: Duration = Duration::from_secs(5);

/// What a call looks at while it waits.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// `None` once the wish to stop is known.
    interrupt: Option<Interrupt>,
    /// `None` leaves it to the connection, which bounds its silence.
    left: Option<Duration>,
    limit: Duration,
}

impl Waiting {
    /// For a call that is pointless when the run ends.
    pub fn new(interrupt: &Interrupt) -> Self {
        Self { interrupt: Some(interrupt.clone()), left: None, limit: Duration::ZERO }
    }

    /// For discarding what was begun: not ended by an interrupt, but by its own short patience.
    pub fn cleanup() -> Self {
        Self { interrupt: None, left: Some(CLEANUP), limit: CLEANUP }
    }

    /// For a call that both work and its discarding need: begun after an interrupt, it is the discarding.
    pub fn either(interrupt: &Interrupt) -> Self {
        match interrupt.check() {
            Ok(()) => Self::new(interrupt),
            Err(_) => Self::cleanup(),
        }
    }

    /// The same, with no more patience than `limit`.
    pub fn at_most(&self, limit: Duration) -> Self {
        let left = self.left.map_or(limit, |left| left.min(limit));
        Self { left: Some(left), limit: left, ..self.clone() }
    }

    pub fn check(&self) -> Attempt<()> {
        match &self.interrupt {
            Some(interrupt) => Ok(interrupt.check()?),
            None => Ok(()),
        }
    }

    /// Takes note that a wait of [`SLICE`] was in vain.
    pub fn waited(&mut self) -> Attempt<()> {
        self.check()?;
        let Some(left) = &mut self.left else { return Ok(()) };
        *left = left.saturating_sub(SLICE);
        match left.is_zero() {
            false => Ok(()),
            true => Err(Failure::lost(format!("no answer within {} s", self.limit.as_secs()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn patience_ends_and_an_interrupt_ends_it_at_once() {
        let interrupt = Interrupt::default();
        let mut waiting = Waiting::new(&interrupt).at_most(Duration::from_millis(250));
        assert!(waiting.waited().is_ok() && waiting.waited().is_ok());
        assert!(waiting.waited().unwrap_err().is_lost());
        interrupt.cell().store(2, Ordering::Relaxed);
        assert!(matches!(Waiting::new(&interrupt).check(), Err(Failure::Interrupted(_))));
        assert!(Waiting::either(&interrupt).check().is_ok(), "what was begun must be discarded");
        assert!((0..1000).any(|_| waiting.waited().is_err()));
    }
}
