//! What starting a log costs a guest of huge leaves, and what splitting and recovering them does.

use super::announce;
use super::result::{BenchResult, Target};
use super::sample::{Sample, in_turns, time};
use crate::failure::Failure;
use crate::quantity::Size;
use std::cell::RefCell;
use std::time::Duration;
use vellum_machine::board::{Board, BoardConfig, PageSize};
use vellum_mmu::{Access, Initial, Outcome};
use vellum_pte::{AddressSpace, Ept, Gfn, SlotId};

const SLOT: SlotId = SlotId(0);
const SPACE: AddressSpace = AddressSpace::NORMAL;

/// Pages of a leaf of 2 MiB.
const LEAF: u64 = 512;

/// The guest that a log is started on: tables of 2 MiB leaves, no memory behind them in use.
const LARGE: u64 = 1 << 40;

/// How often each way is timed.
const PAIRS: usize = 9;

/// The whole table.
pub(super) fn run(memory: Size) -> Result<BenchResult, Failure> {
    let mut result = BenchResult::new("log");
    result.parameter("memory", memory.bytes());
    starting(&mut result)?;
    splitting(memory, &mut result)?;
    Ok(result)
}

/// Nothing protected against everything protected, in turns.
fn starting(result: &mut BenchResult) -> Result<(), Failure> {
    announce("starting a log on 1 TiB of huge leaves");
    let guest = Guest::new(LARGE)?;
    let way = |initial| {
        guest.touch_leaves()?;
        let started = guest.start(initial)?;
        guest.stop().map(|_| started)
    };
    let [all_set, clean] =
        in_turns(PAIRS, [&mut || way(Initial::AllSet), &mut || way(Initial::Clean)])?;
    let (all_set, clean) = (Sample::of(&all_set, 1), Sample::of(&clean, 1));
    let ratio = clean.median / all_set.median;
    result.mark("start all set on 1 TiB, ms", Target::AtMost(1.0), all_set.median / 1e6);
    result.sample("start a log on 1 TiB, all set", all_set);
    result.sample("start a log on 1 TiB, everything protected", clean);
    result.ratio("all set against everything protected", ratio);
    Ok(())
}

/// Ahead of the writes against by the first write to each leaf, in turns; and back.
fn splitting(memory: Size, result: &mut BenchResult) -> Result<(), Failure> {
    announce("splitting and recovering huge leaves");
    let guest = Guest::new(memory.bytes())?;
    let pages = guest.board.layout().pages();
    let recovered = RefCell::new(Vec::new());
    let way = |split: &dyn Fn(&Guest) -> Result<Duration, Failure>| {
        guest.touch_leaves()?;
        guest.start(Initial::Clean)?;
        let split = split(&guest)?;
        recovered.borrow_mut().push(guest.stop()?);
        Ok::<_, Failure>(split)
    };
    let [ahead, by_writes] =
        in_turns(PAIRS, [&mut || way(&Guest::split_ahead), &mut || way(&Guest::split_by_writes)])?;
    let (ahead, by_writes) = (Sample::of(&ahead, pages), Sample::of(&by_writes, pages));
    result.mark("split ahead of the writes, ns a page", Target::AtMost(100.0), ahead.median);
    result.ratio("by the first write against ahead", by_writes.median / ahead.median);
    result.sample("split ahead of the writes, a page", ahead);
    result.sample("split by the first write, a page", by_writes);
    result.sample("stop the log and recover, a page", Sample::of(&recovered.into_inner(), pages));
    Ok(())
}

/// A board whose memory is mapped by leaves of 2 MiB.
struct Guest {
    board: Board<Ept>,
}

impl Guest {
    fn new(bytes: u64) -> Result<Self, Failure> {
        let config = BoardConfig::with_memory(bytes).ok_or(Failure::TooMuchMemory(bytes))?;
        let board = Board::new(&BoardConfig { pages: PageSize::Huge2M, ..config })?;
        Ok(Self { board })
    }

    fn start(&self, initial: Initial) -> Result<Duration, Failure> {
        let (started, elapsed) = time(|| self.board.mmu().start_log(SLOT, initial));
        Ok(started.map(|()| elapsed)?)
    }

    fn stop(&self) -> Result<Duration, Failure> {
        let (stopped, elapsed) = time(|| self.board.mmu().stop_log(SLOT));
        Ok(stopped.map(|()| elapsed)?)
    }

    fn split_ahead(&self) -> Result<Duration, Failure> {
        let (split, elapsed) = time(|| self.board.mmu().split_huge(SLOT, u64::MAX));
        Ok(split.map(|_| elapsed)?)
    }

    fn split_by_writes(&self) -> Result<Duration, Failure> {
        let (split, elapsed) = time(|| self.touch_leaves());
        split.map(|()| elapsed)
    }

    /// A write fault on each leaf: without a log it makes or opens the leaf, with one it splits it.
    fn touch_leaves(&self) -> Result<(), Failure> {
        let range = self.board.layout().regions()[0].range;
        let mut vcpu = self.board.mmu().vcpu()?;
        for leaf in 0..range.pages().div_ceil(LEAF) {
            let gfn = Gfn::new(range.first().get() + leaf * LEAF);
            match vcpu.fault(SPACE, gfn.gpa(), Access::Write) {
                Outcome::Mapped | Outcome::Spurious => {}
                refused => return Err(Failure::NoFault(refused)),
            }
        }
        Ok(())
    }
}
