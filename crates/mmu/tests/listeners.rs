//! Who is told of a write when listeners come during it.
#![cfg(not(loom))]
#![allow(unsafe_code, reason = "an embedder lends out frames")]

mod lender;

use lender::Lender;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use vellum_mmu::*;
use vellum_pte::{AddressSpace, Gfn, GfnRange, Npt, SlotId};

const SPACE: AddressSpace = AddressSpace::NORMAL;
/// So that a library that tells whoever it has does come to an end.
const MOST: usize = 100;

/// Registers another of its kind in each call.
struct Breeder {
    calls: Arc<AtomicUsize>,
}

impl WriteListener<Npt, Lender> for Breeder {
    fn write(&self, call: &Call<'_, Npt, Lender>, _: &Written<'_>) {
        if self.calls.fetch_add(1, Ordering::Relaxed) < MOST {
            let another = Arc::new(Self { calls: Arc::clone(&self.calls) });
            std::mem::forget(Mmu::listen(call.mmu(), another).expect("memory"));
        }
    }
}

#[test]
fn a_listener_that_comes_during_a_write_is_told_of_the_next() {
    let mmu = Mmu::new(Lender::default(), Config::default()).expect("memory");
    let range = GfnRange::new(Gfn::new(0), 1).expect("in range");
    mmu.create_slot(SlotSpec::new(SlotId(0), SPACE, range)).expect("fits");
    let calls = Arc::new(AtomicUsize::new(0));
    let first = Arc::new(Breeder { calls: Arc::clone(&calls) });
    std::mem::forget(Mmu::listen(&mmu, first).expect("memory"));
    let writer = mmu.guest_writer(Origin::Device);
    let told = [1, 2, 4, 8].map(|listeners| {
        let before = calls.load(Ordering::Relaxed);
        writer.write(SPACE, Gfn::new(0).gpa(), &[1]).expect("there");
        (listeners, calls.load(Ordering::Relaxed) - before)
    });
    assert_eq!(told, [(1, 1), (2, 2), (4, 4), (8, 8)]);
}
