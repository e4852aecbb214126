//! Those without a seat against a writer, where the barrier is for seats alone.

use super::*;
use crate::embedder::{Backing, GuestPage, NoBacking, Scope};
use crate::frame::Frame;
use loom::sync::Arc;

/// No CPU runs a fault, so its barrier has nobody to reach.
struct NoFaults;

impl Embedder for NoFaults {
    fn allocate_frame(&self) -> Option<Frame> {
        None
    }
    fn release_frame(&self, _: Frame) {}
    fn shoot_down(&self, _: Scope) {}
    fn has_barrier_all(&self) -> bool {
        true
    }
    fn barrier_all(&self) {}
    fn relax(&self) {
        loom::thread::yield_now();
    }
    fn resolve(&self, _: GuestPage) -> Option<Backing> {
        None
    }
    fn write(&self, _: GuestPage, _: u64, _: &[u8]) -> Result<(), NoBacking> {
        Err(NoBacking)
    }
}

/// Loom objects where a reader and a writer have the value at the same time.
#[test]
fn a_reader_without_a_seat_keeps_the_writer_out() {
    loom::model(|| {
        let side = Arc::new(ReadSide::new(0, &NoFaults, Breaks::default()));
        let other = side.clone();
        let writer = loom::thread::spawn(move || *other.exclude(&NoFaults) = 1);
        let seen = *side.enter_unseated(&NoFaults);
        assert!(seen == 0 || seen == 1);
        writer.join().expect("no panic");
        assert_eq!(*side.enter_unseated(&NoFaults), 1);
    });
}
