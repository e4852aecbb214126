//! Taking pages back out of a dirty ring: protecting each, against write-protect-all.
//!
//! The reset alone is cheaper the second way from a few pages on. What it defers comes back in the
//! stores after it, which find closed tables on their way: so a round is the reset and the same stores
//! again, spread over all of memory.

use super::result::BenchResult;
use super::sample::{Sample, in_turns, time};
use super::{Share, announce, page_at};
use crate::failure::Failure;
use crate::quantity::Size;
use std::cell::RefCell;
use std::time::Duration;
use vellum_machine::Logging;
use vellum_machine::board::{Board, BoardConfig};
use vellum_machine::bus::{Bus, Width};
use vellum_machine::log::Track;
use vellum_machine::port::Port;
use vellum_mmu::{Again, Initial, RingSize};
use vellum_pte::{Ept, SlotId};

/// How often each way is timed.
const PAIRS: usize = 15;

pub(super) fn run(memory: Size) -> Result<BenchResult, Failure> {
    let mut result = BenchResult::new("ring-reset");
    let bytes = memory.bytes().min(u64::from(RingSize::MOST / 2) * vellum_pte::PAGE_SIZE);
    result.parameter("memory", bytes);
    let board = board(bytes)?;
    board.mmu().start_log(SlotId(0), Initial::Clean)?;
    let rig = RefCell::new(Rig { port: board.port()?, board: &board });
    rig.borrow_mut().store(1, board.layout().pages())?;
    rig.borrow_mut().harvest();
    board.mmu().reset_rings(Again::Pages);
    for share in Share::LESS.into_iter().chain([Share::ALL]) {
        measure(&rig, share, &mut result)?;
    }
    Ok(result)
}

/// All of its memory fits into the ring.
fn board(bytes: u64) -> Result<Board<Ept>, Failure> {
    let config = BoardConfig::with_memory(bytes).ok_or(Failure::TooMuchMemory(bytes))?;
    let ring = RingSize::new(RingSize::MOST, 0).ok();
    let logging = Logging { ring, ..Logging::of(Track::Ring) };
    Ok(Board::new(&BoardConfig { logging, ..config })?)
}

fn measure(rig: &RefCell<Rig<'_>>, share: Share, result: &mut BenchResult) -> Result<(), Failure> {
    let label = share.label;
    announce(label);
    let rest = RefCell::new([Vec::new(), Vec::new()]);
    let way = |again: Again, place: usize| {
        let (reset, stores) = rig.borrow_mut().round(share, again)?;
        rest.borrow_mut()[place].push(reset + stores);
        Ok::<_, Failure>(reset)
    };
    let [pages, everything] =
        in_turns(PAIRS, [&mut || way(Again::Pages, 0), &mut || way(Again::Everything, 1)])?;
    let [pages_round, everything_round] = rest.into_inner();
    let mut keep = |what: &str, times: &[Duration]| {
        let sample = Sample::of(times, 1);
        let median = sample.median;
        result.sample(format!("{label}: {what}"), sample);
        median
    };
    let reset = keep("reset each", &pages) / keep("reset by generation", &everything);
    let round = keep("each, with the stores after it", &pages_round)
        / keep("by generation, with the stores after it", &everything_round);
    result.ratio(format!("{label}: the reset, each against generation"), reset);
    result.ratio(format!("{label}: the round, each against generation"), round);
    Ok(())
}

struct Rig<'b> {
    port: Port<'b, Ept>,
    board: &'b Board<Ept>,
}

impl Rig<'_> {
    /// How long the reset took, and the stores after it.
    fn round(&mut self, share: Share, again: Again) -> Result<(Duration, Duration), Failure> {
        let dirty = share.of(self.board.layout().pages());
        self.store(1, dirty)?;
        self.harvest();
        let resting = self.port.rest();
        let (_, reset) = time(|| self.board.mmu().reset_rings(again));
        drop(resting);
        let (stored, stores) = time(|| self.store(2, dirty));
        stored?;
        self.harvest();
        self.board.mmu().reset_rings(Again::Pages);
        Ok((reset, stores))
    }

    /// To so many pages, as far from each other as may be.
    fn store(&mut self, value: u64, pages: u64) -> Result<(), Failure> {
        let apart = self.board.layout().pages() / pages;
        (0..pages).try_for_each(|number| {
            self.port.store(page_at(number * apart), Width::Double, value)
        })?;
        Ok(())
    }

    fn harvest(&self) {
        self.board.mmu().harvest_rings(|_| {});
    }
}
