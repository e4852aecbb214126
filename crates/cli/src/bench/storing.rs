//! Other vCPUs, that store or rest.

use super::page_at;
use crate::failure::Failure;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::Scope;
use std::time::Duration;
use vellum_machine::board::Board;
use vellum_machine::bus::{Bus, Width};
use vellum_machine::port::Port;
use vellum_pte::{Ept, Gpa};

/// How often the harvester looks whether all have followed.
const LOOK: Duration = Duration::from_micros(200);

/// A crowd of vCPUs. Dropped, they end.
pub(super) struct Storing {
    shared: Arc<Shared>,
    crowd: usize,
}

/// What the crowd is to do.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Order {
    #[default]
    Rest,
    Store,
    End,
}

#[derive(Default)]
struct Shared {
    order: Mutex<Order>,
    ordered: Condvar,
    /// Whether the order is to store, for those who do.
    storing: AtomicBool,
    /// How many are storing just now.
    awake: AtomicUsize,
}

impl Storing {
    /// `crowd` vCPUs of `board`, resting.
    pub(super) fn start<'scope, 'env: 'scope>(
        scope: &'scope Scope<'scope, 'env>,
        board: &'env Board<Ept>,
        crowd: usize,
    ) -> Result<Self, Failure> {
        let this = Self { shared: Arc::default(), crowd };
        for number in 0..crowd as u64 {
            let (port, shared) = (board.port()?, this.shared.clone());
            scope.spawn(move || live(port, page_at(number), &shared));
        }
        Ok(this)
    }

    /// Lets them store; returns when all do.
    pub(super) fn resume(&self) {
        self.shared.give(Order::Store);
        while self.shared.awake.load(Ordering::Relaxed) < self.crowd {
            std::thread::sleep(LOOK);
        }
    }

    /// Lets them rest; returns when all do.
    pub(super) fn pause(&self) {
        self.shared.give(Order::Rest);
        while self.shared.awake.load(Ordering::Relaxed) > 0 {
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Storing {
    fn drop(&mut self) {
        self.shared.give(Order::End);
    }
}

impl Shared {
    fn give(&self, order: Order) {
        *self.order.lock().unwrap_or_else(PoisonError::into_inner) = order;
        self.storing.store(order == Order::Store, Ordering::Relaxed);
        self.ordered.notify_all();
    }

    /// Sleeps while the order is to rest: a resting vCPU takes no time from anybody.
    fn next_order(&self) -> Order {
        let order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let order = self.ordered.wait_while(order, |order| *order == Order::Rest);
        *order.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Each vCPU stores to a page of its own: contention for a page is not what is measured.
fn live(mut port: Port<'_, Ept>, page: Gpa, shared: &Shared) {
    while wait(&mut port, shared) == Order::Store {
        shared.awake.fetch_add(1, Ordering::Relaxed);
        store_on(&mut port, page, shared);
        shared.awake.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The next order; the port rests until then, as a vCPU does that is not in its guest.
fn wait(port: &mut Port<'_, Ept>, shared: &Shared) -> Order {
    let _resting = port.rest();
    shared.next_order()
}

fn store_on(port: &mut Port<'_, Ept>, page: Gpa, shared: &Shared) {
    while shared.storing.load(Ordering::Relaxed) {
        // The page is RAM: a store is refused only where tables find no memory, and then the next
        // one asks again.
        let _ = port.store(page, Width::Double, 1);
    }
}
