//! Stores that a processor does not make by itself: somebody who decoded the instruction makes them,
//! as a hypervisor's emulator does.
//!
//! Two things go with such a store on its thread: whose instruction it is, for listeners that ask
//! while they are called, and, for an atomic, what memory must hold for it to be made.

use std::cell::Cell;
use vellum_pte::Gpa;

/// The instruction whose store is being emulated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EmulatedStore {
    /// The hart, which is the vCPU's number: listeners are told of
    /// [`Origin::Vcpu`](vellum_mmu::Origin::Vcpu) with it.
    pub hart: u32,
    /// Where its instruction is.
    pub pc: Gpa,
}

thread_local! {
    static CURRENT: Cell<Option<EmulatedStore>> = const { Cell::new(None) };
    static EXCHANGE: Cell<Exchange> = const { Cell::new(Exchange::None) };
}

impl EmulatedStore {
    /// The one that this thread is emulating. For listeners: they are called by the thread of the
    /// hart, before its instruction is finished.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.get()
    }

    /// Makes the store, with this as [`current`](Self::current) meanwhile.
    pub(crate) fn during<T>(self, store: impl FnOnce() -> T) -> T {
        let _outer = Restore { cell: &CURRENT, value: CURRENT.replace(Some(self)) };
        store()
    }
}

/// How far an emulated compare-exchange has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Exchange {
    /// There is none: what is written is written.
    None,
    /// The next write is one: it happens if memory holds this.
    Wanted(u64),
    /// It has been made or refused: memory held this.
    Held(u64),
}

/// Runs `write`, whose first write to guest memory on this thread is a compare-exchange with
/// `expected`. Also says what memory held, if it came to that.
pub(crate) fn exchanging<T>(expected: u64, write: impl FnOnce() -> T) -> (T, Option<u64>) {
    let value = EXCHANGE.replace(Exchange::Wanted(expected));
    let _outer = Restore { cell: &EXCHANGE, value };
    let result = write();
    let held = if let Exchange::Held(held) = EXCHANGE.get() { Some(held) } else { None };
    (result, held)
}

/// What memory must hold for the write at hand, if it is the first of an exchange.
pub(crate) fn expected() -> Option<u64> {
    if let Exchange::Wanted(expected) = EXCHANGE.get() { Some(expected) } else { None }
}

/// What memory held. Writes that follow, those of a listener, are writes again.
pub(crate) fn found(held: u64) {
    EXCHANGE.set(Exchange::Held(held));
}

/// A listener may emulate a store of its own, and may panic: what was before comes back.
struct Restore<T: Copy + 'static> {
    cell: &'static std::thread::LocalKey<Cell<T>>,
    value: T,
}

impl<T: Copy> Drop for Restore<T> {
    fn drop(&mut self) {
        self.cell.set(self.value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: EmulatedStore = EmulatedStore { hart: 1, pc: Gpa::new(4) };
    const OTHER: EmulatedStore = EmulatedStore { hart: 2, pc: Gpa::new(8) };

    #[test]
    fn a_store_is_current_while_it_is_made_and_a_nested_one_gives_it_back() {
        assert_eq!(EmulatedStore::current(), None);
        ONE.during(|| {
            OTHER.during(|| assert_eq!(EmulatedStore::current(), Some(OTHER)));
            assert_eq!(EmulatedStore::current(), Some(ONE));
        });
        assert_eq!(EmulatedStore::current(), None);
    }

    #[test]
    fn a_listener_that_panics_leaves_nothing_behind() {
        let panics = || ONE.during(|| exchanging(3, || panic!("as a listener might")));
        assert!(std::panic::catch_unwind(panics).is_err());
        assert_eq!((EmulatedStore::current(), expected()), (None, None));
    }

    #[test]
    fn only_the_first_write_of_an_exchange_compares() {
        let ((), held) = exchanging(3, || {
            assert_eq!(expected(), Some(3));
            found(5);
            assert_eq!(expected(), None, "a listener's write");
            let ((), nested) = exchanging(7, || found(9));
            assert_eq!(nested, Some(9));
        });
        assert_eq!((held, expected()), (Some(5), None));
        let ((), held) = exchanging(3, || ());
        assert_eq!(held, None, "it did not come to that");
    }
}
