//! Page tracking: stores that the hypervisor makes in the guest's place, and who is told of them.
//!
//! The library does not decode instructions. What a processor here decodes is a store of eight bytes
//! from a register, `mov [reg], reg` or `str`; see each [`Processor::store`].

use crate::Check;
use crate::lab::{Lab, done, page};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use vellum_mmu::{Call, Embedder, Mmu, Protect, TrackMode, WriteListener, Written};
use vellum_pte::Format;
use vm::{Processor, Ran, SPACE};

pub(crate) fn checks<P: Processor>() -> Vec<Check<P>> {
    vec![Check::new("tracked-write", tracked_write), Check::new("tracked-and-logged", logged)]
}

/// What a listener heard last, and how often it heard.
#[derive(Default)]
struct Heard {
    calls: AtomicU64,
    gpa: AtomicU64,
    value: AtomicU64,
}

impl<F: Format, E: Embedder> WriteListener<F, E> for Heard {
    fn write(&self, _: &Call<'_, F, E>, written: &Written<'_>) {
        let mut value = [0; 8];
        value[..written.bytes.len()].copy_from_slice(written.bytes);
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.gpa.store(written.gpa.get(), Ordering::Relaxed);
        self.value.store(u64::from_le_bytes(value), Ordering::Relaxed);
    }
}

/// A store to a tracked page is emulated and told of; its neighbours' are not.
fn tracked_write<P: Processor>(lab: &Lab<P>) -> String {
    let vm = lab.logged();
    let mut guest = vm.guest();
    let heard = Arc::new(Heard::default());
    let listening = Mmu::listen(&vm.mmu, heard.clone()).expect("memory for a listener");
    done(guest.store_pages(page(0), 8, 1));
    vm.mmu.track(SPACE, page(5).gfn(), TrackMode::Write).expect("a page of a slot");
    done(guest.store_pages(page(0), 8, 0x0123_4567_89ab_cdef));
    assert_eq!(guest.exits().emulated, 1, "the one store to the tracked page");
    assert_eq!(heard.calls.load(Ordering::Relaxed), 1);
    assert_eq!(heard.gpa.load(Ordering::Relaxed), page(5).get());
    assert_eq!(heard.value.load(Ordering::Relaxed), 0x0123_4567_89ab_cdef);
    assert_eq!(guest.load(page(5)), Ran::Done(0x0123_4567_89ab_cdef));
    vm.mmu.untrack(SPACE, page(5).gfn(), TrackMode::Write).expect("it is tracked");
    done(guest.store(page(5), 3));
    assert_eq!(guest.exits().emulated, 1, "not tracked any more");
    assert_eq!(vm.read(page(5)), 3);
    drop(listening);
    String::from("1 of 8 stores emulated and told of")
}

/// An emulated store is in the log like any other, under both ways to protect.
fn logged<P: Processor>(lab: &Lab<P>) -> String {
    let vm = lab.logged();
    let mut guest = vm.guest();
    vm.mmu.enable_tracking().expect("memory for tracking");
    vm.mmu.track(SPACE, page(1).gfn(), TrackMode::Write).expect("a page of a slot");
    done(guest.store_pages(page(0), 3, 1));
    assert_eq!(vm.harvest(Protect::Pages), [0, 1, 2]);
    done(guest.store(page(1), 2));
    assert_eq!(vm.harvest(Protect::Nothing), [1]);
    vm.mmu.write_protect_all();
    done(guest.store_pages(page(1), 2, 3));
    assert_eq!(vm.harvest(Protect::Nothing), [1, 2]);
    assert_eq!(guest.exits().emulated, 3);
    String::from("3 emulated stores in 3 harvests")
}
