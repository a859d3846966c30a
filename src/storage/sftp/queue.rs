//! What callers hand to the thread that owns a session: bounded, and closed from either end.
//!
//! Once the thread has closed it, whatever was in it is dropped and nothing gets in, under one lock: no request is
//! left behind for which nobody will answer. (A bounded channel keeps what is in it as long as there is a sender,
//! and here each sender waits for the answer.)

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::failure::Attempt;
use super::waiting::{SLICE, Waiting};

/// Whoever has one more waits until there is room.
const LENGTH_MAX: usize = 256;

pub struct Queue<T> {
    state: Mutex<State<T>>,
    room: Condvar,
}

struct State<T> {
    items: VecDeque<T>,
    end: Option<End>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// What is in it is still wanted.
    NoMoreComes,
    NobodyTakes,
}

/// What [`Queue::push`] did not take.
pub struct Refused<T> {
    pub item: T,
    /// Why it did not wait any longer; `None` where nobody takes anything any more.
    pub failure: Option<super::failure::Failure>,
}

/// What [`Queue::pop`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Popped<T> {
    Item(T),
    Nothing,
    /// And nothing will come.
    End,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        let state = State { items: VecDeque::new(), end: None };
        Self { state: Mutex::new(state), room: Condvar::new() }
    }
}

impl<T> Queue<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room.
    pub fn push(&self, item: T, waiting: &mut Waiting) -> Result<(), Refused<T>> {
        let mut state = self.lock();
        while state.end.is_none() && state.items.len() >= LENGTH_MAX {
            let (again, waited) =
                self.room.wait_timeout(state, SLICE).unwrap_or_else(PoisonError::into_inner);
            state = again;
            let patience: Attempt<()> = if waited.timed_out() { waiting.waited() } else { Ok(()) };
            if let Err(failure) = patience {
                return Err(Refused { item, failure: Some(failure) });
            }
        }
        state.insert(item)
    }

    /// Only if there is room.
    pub fn try_push(&self, item: T) -> Result<(), Refused<T>> {
        let mut state = self.lock();
        match state.items.len() < LENGTH_MAX {
            true => state.insert(item),
            false => Err(Refused { item, failure: None }),
        }
    }

    pub fn pop(&self) -> Popped<T> {
        let mut state = self.lock();
        match (state.items.pop_front(), state.end) {
            (Some(item), _) => {
                self.room.notify_one();
                Popped::Item(item)
            }
            (None, None) => Popped::Nothing,
            (None, Some(_)) => Popped::End,
        }
    }

    /// No more will come.
    pub fn finish(&self) {
        self.lock().end.get_or_insert(End::NoMoreComes);
    }

    /// Nobody takes anything any more: drops what is in it.
    pub fn close(&self) {
        let mut state = self.lock();
        state.end = Some(End::NobodyTakes);
        let items = std::mem::take(&mut state.items);
        drop(state);
        self.room.notify_all();
        // Not under the lock: dropping an item tells somebody.
        drop(items);
    }
}

impl<T> State<T> {
    fn insert(&mut self, item: T) -> Result<(), Refused<T>> {
        if self.end.is_some() {
            return Err(Refused { item, failure: None });
        }
        self.items.push_back(item);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    fn push(queue: &Queue<Arc<()>>, item: &Arc<()>) -> bool {
        queue.push(Arc::clone(item), &mut Waiting::cleanup()).is_ok()
    }

    #[test]
    fn what_comes_in_comes_out_in_order_until_the_end() {
        let queue = Queue::default();
        assert_eq!(queue.pop(), Popped::Nothing);
        for i in 0..3 {
            assert!(queue.try_push(i).is_ok());
        }
        queue.finish();
        assert!(queue.try_push(3).is_err());
        assert_eq!((0..3).map(|_| queue.pop()).collect::<Vec<_>>(), [0, 1, 2].map(Popped::Item));
        assert_eq!(queue.pop(), Popped::End);
    }

    #[test]
    fn a_full_queue_makes_wait_and_room_ends_the_wait() {
        let (queue, item) = (Queue::default(), Arc::new(()));
        (0..LENGTH_MAX).for_each(|_| assert!(push(&queue, &item)));
        assert!(queue.try_push(Arc::clone(&item)).is_err());
        thread::scope(|threads| {
            let late = threads.spawn(|| push(&queue, &item));
            assert!(matches!(queue.pop(), Popped::Item(_)));
            assert!(late.join().unwrap());
        });
        let refused = queue.push(item, &mut Waiting::cleanup().at_most(SLICE)).err().unwrap();
        assert!(refused.failure.unwrap().is_lost(), "patience ends");
    }

    #[test]
    fn nothing_stays_in_a_closed_queue_whoever_was_faster() {
        for _ in 0..200 {
            let (queue, item) = (Queue::default(), Arc::new(()));
            thread::scope(|threads| {
                for _ in 0..3 {
                    threads.spawn(|| (0..100).filter(|_| push(&queue, &item)).count());
                }
                threads.spawn(|| queue.close());
            });
            assert_eq!(Arc::strong_count(&item), 1);
        }
    }
}
