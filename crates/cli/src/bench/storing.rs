//! Other vCPUs, that store or rest.

use super::page_at;
use crate::failure::Failure;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Scope;
use std::time::Duration;
use vellum_machine::board::Board;
use vellum_machine::bus::{Bus, Width};
use vellum_machine::port::Port;
use vellum_pte::{Ept, Gpa};

/// How often a resting vCPU looks up.
const REST: Duration = Duration::from_micros(200);

/// A crowd of vCPUs. Dropped, they end.
pub(super) struct Storing {
    shared: Arc<Shared>,
    crowd: usize,
}

#[derive(Default)]
struct Shared {
    storing: AtomicBool,
    ended: AtomicBool,
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
        self.shared.storing.store(true, Ordering::Relaxed);
        while self.shared.awake.load(Ordering::Relaxed) < self.crowd {
            std::thread::sleep(REST);
        }
    }

    /// Lets them rest; returns when all do.
    pub(super) fn pause(&self) {
        self.shared.storing.store(false, Ordering::Relaxed);
        while self.shared.awake.load(Ordering::Relaxed) > 0 {
            std::thread::sleep(REST);
        }
    }
}

impl Drop for Storing {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        self.shared.storing.store(false, Ordering::Relaxed);
    }
}

/// Each vCPU stores to a page of its own: contention for a page is not what is measured.
fn live(mut port: Port<'_, Ept>, page: Gpa, shared: &Shared) {
    while !shared.ended.load(Ordering::Relaxed) {
        if shared.storing.load(Ordering::Relaxed) {
            shared.awake.fetch_add(1, Ordering::Relaxed);
            store_on(&mut port, page, shared);
            shared.awake.fetch_sub(1, Ordering::Relaxed);
        }
        std::thread::sleep(REST);
    }
}

fn store_on(port: &mut Port<'_, Ept>, page: Gpa, shared: &Shared) {
    while shared.storing.load(Ordering::Relaxed) {
        // The page is RAM: a store is refused only where tables find no memory, and then the next
        // one asks again.
        let _ = port.store(page, Width::Double, 1);
    }
}
