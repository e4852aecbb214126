//! What was decided about each migration, once and for all.

use crate::identity::MigrationId;
use crate::wire::Answer;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// More promises than this are not given: whoever connects may ask for one.
const MOST_PROMISES: usize = 1 << 16;

/// The decisions. Each is made once, under one lock, and never changed.
#[derive(Debug, Default)]
pub(super) struct Decisions(Mutex<HashMap<MigrationId, Decision>>);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Decision {
    /// The guest runs, or ran, here.
    Taken,
    /// It never will.
    Promised,
}

/// It was promised that the guest would not run here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Promised;

impl Decisions {
    /// Takes the guest, unless it was promised never to.
    pub(super) fn take(&self, migration: MigrationId) -> Result<(), Promised> {
        match self.lock().entry(migration).or_insert(Decision::Taken) {
            Decision::Taken => Ok(()),
            Decision::Promised => Err(Promised),
        }
    }

    /// Whether the guest was taken; if not, it is promised that it never will be. None if no more
    /// promises can be kept.
    pub(super) fn ask(&self, migration: MigrationId) -> Option<Answer> {
        let mut decisions = self.lock();
        if decisions.len() >= MOST_PROMISES && !decisions.contains_key(&migration) {
            return None;
        }
        Some(match decisions.entry(migration).or_insert(Decision::Promised) {
            Decision::Taken => Answer::Taken,
            Decision::Promised => Answer::Never,
        })
    }

    /// Whether anything was decided about it.
    pub(super) fn knows(&self, migration: MigrationId) -> bool {
        self.lock().contains_key(&migration)
    }

    /// A map is whole between any two of its own operations, panics elsewhere or not.
    fn lock(&self) -> MutexGuard<'_, HashMap<MigrationId, Decision>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taken_and_promised_exclude_each_other() {
        for round in 0..2000 {
            let decisions = Decisions::default();
            let id = MigrationId(round);
            let (taken, answer) = std::thread::scope(|scope| {
                let taker = scope.spawn(|| decisions.take(id).is_ok());
                let answer = decisions.ask(id).expect("far below the limit");
                (taker.join().expect("no panic"), answer)
            });
            assert_eq!(taken, answer == Answer::Taken);
            assert_eq!(decisions.ask(id), Some(answer), "a decision stays");
        }
    }

    #[test]
    fn promises_are_bounded_and_old_ones_are_kept() {
        let decisions = Decisions::default();
        for id in 0..MOST_PROMISES as u128 {
            assert_eq!(decisions.ask(MigrationId(id)), Some(Answer::Never));
        }
        assert_eq!(decisions.ask(MigrationId(u128::MAX)), None);
        assert_eq!(decisions.ask(MigrationId(7)), Some(Answer::Never));
        assert_eq!(decisions.take(MigrationId(7)), Err(Promised));
        assert_eq!(decisions.take(MigrationId(u128::MAX)), Ok(()));
    }
}
