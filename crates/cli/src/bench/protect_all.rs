//! Time until every store traps again: page by page against by generation, on the same tables.

use super::result::{BenchResult, Target};
use super::rival::{OF_A_GUEST, harvests};
use super::sample::{Sample, in_turns, time};
use super::storing::Storing;
use super::{announce, page_at};
use crate::failure::Failure;
use crate::quantity::Size;
use std::cell::RefCell;
use std::time::Duration;
use vellum_machine::board::{Board, BoardConfig};
use vellum_machine::bus::{Bus, Width};
use vellum_machine::port::Port;
use vellum_memory::PageSet;
use vellum_mmu::{Event, Initial, Protect};
use vellum_pte::{Ept, GfnRange, PAGE_SIZE, SlotId};

const SLOT: SlotId = SlotId(0);

/// How many vCPUs there are beside the one that rewrites.
const CROWDS: [usize; 4] = [1, 2, 12, 64];

/// How often each way is timed.
const PAIRS: usize = 15;

/// The same where rewriting takes seconds.
const FEW: usize = 5;

/// What the other vCPUs do meanwhile.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meanwhile {
    Paused,
    Storing,
}

impl Meanwhile {
    fn name(self) -> &'static str {
        match self {
            Self::Paused => "paused",
            Self::Storing => "storing",
        }
    }
}

/// Medians of one setting, in nanoseconds.
struct Medians {
    per_page: f64,
    take: f64,
    generation: f64,
    per_page_round: f64,
    generation_round: f64,
}

/// The whole table.
pub(super) fn run(memory: Size) -> Result<BenchResult, Failure> {
    let mut result = BenchResult::new("protect-all");
    result.parameter("memory", memory.bytes());
    let board = board(memory.bytes())?;
    let mut one_storing = f64::NAN;
    for vcpus in CROWDS {
        for meanwhile in [Meanwhile::Paused, Meanwhile::Storing] {
            let medians = measure(&board, vcpus, meanwhile, &mut result)?;
            marks(&mut result, vcpus, meanwhile, &medians);
            match (vcpus, meanwhile) {
                (1, Meanwhile::Storing) => one_storing = medians.generation,
                (12, Meanwhile::Storing) => {
                    let growth = medians.generation / one_storing;
                    result.mark("12 storing vCPUs against 1", Target::AtMost(5.0), growth);
                }
                _ => {}
            }
        }
    }
    drop(board);
    sizes(&mut result)?;
    // For orientation: what the kernel needs for as many pages of a native guest.
    let pages = memory.bytes() / PAGE_SIZE;
    OF_A_GUEST.into_iter().take(1).try_for_each(|get| harvests(get, pages, FEW, &mut result))?;
    Ok(result)
}

fn board(bytes: u64) -> Result<Board<Ept>, Failure> {
    let config = BoardConfig::with_memory(bytes).ok_or(Failure::TooMuchMemory(bytes))?;
    let board = Board::new(&config)?;
    board.mmu().start_log(SLOT, Initial::Clean)?;
    Ok(board)
}

/// Both ways in turns, everything dirty before each.
fn measure(
    board: &Board<Ept>,
    vcpus: usize,
    meanwhile: Meanwhile,
    result: &mut BenchResult,
) -> Result<Medians, Failure> {
    let setting = format!("{vcpus} {}", meanwhile.name());
    announce(&setting);
    let rest = RefCell::new([Vec::new(), Vec::new(), Vec::new()]);
    let times = std::thread::scope(|scope| {
        let storing = Storing::start(scope, board, vcpus)?;
        let rig = RefCell::new(Rig::new(board, meanwhile, &storing)?);
        in_turns(
            PAIRS,
            [
                &mut || {
                    let (protect, rewrite) = rig.borrow_mut().per_page()?;
                    rest.borrow_mut()[0].push(protect + rewrite);
                    Ok::<_, Failure>(protect)
                },
                &mut || {
                    let (take, protect, rewrite) = rig.borrow_mut().by_generation()?;
                    rest.borrow_mut()[1].push(take);
                    rest.borrow_mut()[2].push(take + protect + rewrite);
                    Ok(protect)
                },
            ],
        )
    })?;
    Ok(samples(result, &setting, &times, &rest.into_inner()))
}

fn samples(
    result: &mut BenchResult,
    setting: &str,
    [per_page, generation]: &[Vec<Duration>; 2],
    [per_page_round, take, generation_round]: &[Vec<Duration>; 3],
) -> Medians {
    let mut keep = |label: &str, times: &[Duration]| {
        let sample = Sample::of(times, 1);
        let median = sample.median;
        result.sample(format!("{setting}: {label}"), sample);
        median
    };
    Medians {
        per_page: keep("take and protect per page", per_page),
        take: keep("take", take),
        generation: keep("protect by generation", generation),
        per_page_round: keep("per page, with the rewriting", per_page_round),
        generation_round: keep("by generation, with the rewriting", generation_round),
    }
}

/// Taking the log costs the same either way; what is left is the protecting.
fn marks(result: &mut BenchResult, vcpus: usize, meanwhile: Meanwhile, medians: &Medians) {
    let setting = format!("{vcpus} {}", meanwhile.name());
    let protecting = (medians.per_page - medians.take) / medians.generation;
    let whole = medians.per_page / (medians.take + medians.generation);
    let round = medians.per_page_round / medians.generation_round;
    result.ratio(format!("{setting}: protecting"), protecting);
    result.ratio(format!("{setting}: taking and protecting"), whole);
    result.ratio(format!("{setting}: with the rewriting"), round);
    let target = match meanwhile {
        Meanwhile::Paused => Target::AtLeast(1000.0),
        Meanwhile::Storing => Target::AtLeast(60.0),
    };
    result.mark(format!("{setting}: protecting"), target, protecting);
}

/// One vCPU that rewrites all of memory, and a harvester.
struct Rig<'b> {
    board: &'b Board<Ept>,
    port: Port<'b, Ept>,
    round: PageSet,
    meanwhile: Meanwhile,
    storing: &'b Storing,
}

impl<'b> Rig<'b> {
    fn new(
        board: &'b Board<Ept>,
        meanwhile: Meanwhile,
        storing: &'b Storing,
    ) -> Result<Self, Failure> {
        let round = PageSet::new(board.layout());
        let mut this = Self { board, port: board.port()?, round, meanwhile, storing };
        this.rewrite()?;
        Ok(this)
    }

    /// How long taking and protecting took, and rewriting everything after it.
    fn per_page(&mut self) -> Result<(Duration, Duration), Failure> {
        self.crowd();
        let resting = self.port.rest();
        let (taken, protect) = time(|| take(self.board, Protect::Pages, &mut self.round));
        drop(resting);
        self.storing.pause();
        taken?;
        Ok((protect, self.rewrite()?))
    }

    /// How long taking took, protecting, and rewriting everything after it.
    fn by_generation(&mut self) -> Result<(Duration, Duration, Duration), Failure> {
        self.crowd();
        let resting = self.port.rest();
        let (taken, take) = time(|| take(self.board, Protect::Nothing, &mut self.round));
        let ((), protect) = time(|| self.board.mmu().write_protect_all());
        drop(resting);
        self.storing.pause();
        taken?;
        Ok((take, protect, self.rewrite()?))
    }

    fn crowd(&mut self) {
        self.round.clear();
        if self.meanwhile == Meanwhile::Storing {
            self.storing.resume();
        }
    }

    /// One store to every page.
    fn rewrite(&mut self) -> Result<Duration, Failure> {
        let range = self.board.layout().regions()[0].range;
        let (done, elapsed) = time(|| store_each(&mut self.port, range, 1));
        done.map(|()| elapsed)
    }
}

fn take(board: &Board<Ept>, protect: Protect, round: &mut PageSet) -> Result<(), Failure> {
    Ok(board.mmu().take_dirty(SLOT, protect, &mut round.regions_mut()[0])?)
}

/// A store to every `step`th page.
fn store_each(port: &mut Port<'_, Ept>, range: GfnRange, step: u64) -> Result<(), Failure> {
    for page in (0..range.pages().div_ceil(step)).map(|index| index * step) {
        port.store(page_at(page), Width::Double, page)?;
    }
    Ok(())
}

/// The same operation on guests of other sizes, a page every 64 MiB in use.
fn sizes(result: &mut BenchResult) -> Result<(), Failure> {
    let mut medians = Vec::new();
    for (name, bytes) in [("64 MiB", 64 << 20), ("1 GiB", 1 << 30), ("1 TiB", 1 << 40)] {
        let (median, tables, shoot_downs) = sparse(name, bytes, result)?;
        result.mark(format!("{name}: tables settled"), Target::AtMost(1.0), tables);
        result.mark(format!("{name}: shoot-downs"), Target::AtMost(1.0), shoot_downs);
        medians.push(median);
    }
    if let [_, gib, tib] = medians[..] {
        result.mark("1 TiB against 1 GiB", Target::AtMost(2.0), tib / gib);
    }
    Ok(())
}

/// The median time, and per call the tables settled and the shoot-downs made.
fn sparse(name: &str, bytes: u64, result: &mut BenchResult) -> Result<(f64, f64, f64), Failure> {
    const CALLS: u32 = 200;
    const STRIDE: u64 = (64 << 20) / PAGE_SIZE;
    let board = board(bytes)?;
    let mut port = board.port()?;
    store_each(&mut port, board.layout().regions()[0].range, STRIDE)?;
    let before = board.mmu().counters();
    let times: Vec<Duration> =
        (0..CALLS).map(|_| time(|| board.mmu().write_protect_all()).1).collect();
    let after = board.mmu().counters();
    let sample = Sample::of(&times, 1);
    let median = sample.median;
    result.sample(format!("{name}: protect by generation"), sample);
    let per_call = |event| after.since(&before, event) as f64 / f64::from(CALLS);
    Ok((median, per_call(Event::Settled), per_call(Event::ShootDown)))
}
