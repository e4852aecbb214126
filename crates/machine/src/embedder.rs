//! What the software machine brings as the library's embedder.

use crate::denial::Bench;
use crate::emulation;
use crate::frames::{self, Frames};
use crate::page_log::PageLogs;
use crate::port::{self, Hub};
use crate::ram::{HostPage, Ram};
use crate::rings::Reaped;
use crate::rseq::membarrier;
use std::num::NonZeroU64;
use vellum_mmu::{Backing, BackingWrite, CallerId, Embedder, Frame, GuestPage, NoBacking, Scope};
use vellum_pte::{AddressSpace, Gfn, Gpa};

thread_local! {
    /// Of no value: its address tells one thread from the others that run.
    static CALLER: u8 = const { 0 };
}

/// RAM, frames and shoot-down of one board.
#[derive(Debug)]
pub struct BoardEmbedder {
    ram: Ram,
    frames: Frames,
    hub: Hub,
    bench: Bench,
    page_logs: PageLogs,
    reaped: Option<Reaped>,
}

impl BoardEmbedder {
    pub(crate) fn new(ram: Ram, frames: Frames, hub: Hub, reaped: Option<Reaped>) -> Self {
        let (bench, page_logs) = (Bench::default(), PageLogs::default());
        Self { ram, frames, hub, bench, page_logs, reaped }
    }

    /// The table frames, for tests that count them or let them run out.
    #[must_use]
    pub fn frames(&self) -> &Frames {
        &self.frames
    }

    pub(crate) fn ram(&self) -> &Ram {
        &self.ram
    }

    pub(crate) fn hub(&self) -> &Hub {
        &self.hub
    }

    pub(crate) fn page_logs(&self) -> &PageLogs {
        &self.page_logs
    }

    /// What was taken out of dirty rings, if there are some.
    pub(crate) fn reaped(&self) -> Option<&Reaped> {
        self.reaped.as_ref()
    }

    pub(crate) fn bench(&self) -> &Bench {
        &self.bench
    }
}

impl Embedder for BoardEmbedder {
    fn allocate_frame(&self) -> Option<Frame> {
        let frame = self.frames.allocate(&self.hub)?;
        frames::for_tables(frame)
    }

    fn release_frame(&self, frame: Frame) {
        self.frames.release(frame.pfn(), &self.hub);
    }

    fn allocate_roots(&self, tables: u32) -> Option<Frame> {
        let first = self.frames.allocate_run(tables, &self.hub)?;
        frames::for_tables(first)
    }

    fn release_roots(&self, first: Frame, tables: u32) {
        self.frames.release_run(first.pfn(), tables, &self.hub);
    }

    fn shoot_down(&self, _scope: Scope) {
        self.hub.shoot_down();
    }

    fn has_barrier_all(&self) -> bool {
        *membarrier::BARRIERS
    }

    fn barrier_all(&self) {
        membarrier::barrier();
    }

    fn relax(&self) {
        std::thread::yield_now();
    }

    fn flush_local(&self, gpa: Gpa) {
        port::flush_local(gpa);
    }

    /// RAM alone is here; the memslots say what of it a space shows.
    fn resolve(&self, page: GuestPage) -> Option<Backing> {
        let HostPage { frame, largest } = self.ram.page(home(page))?;
        Some(Backing { frame, write: BackingWrite::Allowed, largest })
    }

    /// Where an emulated compare-exchange is under way, this is its moment. One that memory refuses
    /// has written nothing, which the library knows under one name only.
    fn write(&self, page: GuestPage, offset: u64, bytes: &[u8]) -> Result<(), NoBacking> {
        let Some(expected) = emulation::expected() else {
            return self.ram.write(home(page), offset, bytes).map_err(|_| NoBacking);
        };
        let held = self.ram.compare_exchange(home(page), offset, expected, bytes);
        let held = held.map_err(|_| NoBacking)?;
        emulation::found(held);
        if held == expected { Ok(()) } else { Err(NoBacking) }
    }

    fn drain_logs(&self, log: &mut dyn FnMut(AddressSpace, u64)) {
        self.page_logs.drain(log);
    }

    fn caller(&self) -> Option<CallerId> {
        CALLER.with(|mine| NonZeroU64::new(std::ptr::from_ref(mine).addr() as u64).map(CallerId))
    }
}

/// Where in RAM a slot's page is: a slot's memory is named by its first page there.
fn home(page: GuestPage) -> Gfn {
    Gfn::new(page.memory.0 + page.index)
}

#[cfg(test)]
mod tests {
    use crate::board::{Board, BoardConfig};
    use vellum_mmu::Embedder;
    use vellum_pte::Npt;

    #[test]
    fn each_thread_that_runs_is_a_caller_of_its_own() {
        let config = BoardConfig::with_memory(4096).expect("in range");
        let board = Board::<Npt>::new(&config).expect("the host has memory");
        let caller = || board.embedder().caller().expect("threads have numbers");
        let (here, there) = (caller(), std::thread::scope(|scope| scope.spawn(caller).join()));
        assert_eq!(here, caller());
        assert_ne!(here, there.expect("it does not panic"));
    }
}
