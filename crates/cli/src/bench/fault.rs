//! One write fault: the fast path, and with the push-downs after a write-protect-all.

use super::result::{BenchResult, Target};
use super::rival::{Counted, Match, OF_A_PROCESS};
use super::sample::{Sample, in_turns};
use super::{announce, page_at};
use crate::failure::Failure;
use std::sync::Barrier;
use std::time::{Duration, Instant};
use vellum_machine::board::{Board, BoardConfig};
use vellum_machine::embedder::BoardEmbedder;
use vellum_memory::PageSet;
use vellum_mmu::{Access, Initial, Outcome, Protect, Vcpu};
use vellum_pte::{AddressSpace, Ept, PAGE_SIZE, SlotId};

const SLOT: SlotId = SlotId(0);

/// Pages that each vCPU faults on in a round: 256 MiB.
const PAGES: u64 = (256 << 20) / PAGE_SIZE;

/// How often each way is timed.
const PAIRS: usize = 31;

/// The same where a fault takes microseconds.
const FEWER: usize = 5;

/// Which pages a vCPU meets, in which order.
#[derive(Clone, Copy)]
enum Order {
    /// A region of its own, upwards.
    Sequential,
    /// A region of its own, in no order.
    Random,
    /// Every other page: two vCPUs share tables and words of the log all the time.
    Adjacent,
}

impl Order {
    fn name(self) -> &'static str {
        match self {
            Self::Sequential => "sequential",
            Self::Random => "random",
            Self::Adjacent => "adjacent pages",
        }
    }

    /// The pages of vCPU `number` of `vcpus`, each once.
    fn pages(self, number: u64, vcpus: u64) -> Vec<u64> {
        let mut pages: Vec<u64> = (0..PAGES).map(|page| number * PAGES + page).collect();
        match self {
            Self::Sequential => {}
            Self::Random => shuffle(&mut pages),
            Self::Adjacent => pages = (0..PAGES).map(|page| page * vcpus + number).collect(),
        }
        pages
    }
}

/// Fisher and Yates, by a generator of Marsaglia's: the same order in every run.
fn shuffle(pages: &mut [u64]) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for last in (1..pages.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let chosen = ((state >> 32) * (last as u64 + 1)) >> 32;
        pages.swap(last, usize::try_from(chosen).unwrap_or(last));
    }
}

/// The whole table.
pub(super) fn run() -> Result<BenchResult, Failure> {
    let mut result = BenchResult::new("fault");
    result.parameter("pages-per-vcpu", PAGES);
    for order in [Order::Sequential, Order::Random] {
        let one = measure(&mut result, 1, order)?;
        let two = measure(&mut result, 2, order)?;
        for (way, one, two) in [("fast path", one[0], two[0]), ("push-down", one[1], two[1])] {
            let label = format!("2 vCPUs against 1, {}, {way}", order.name());
            result.mark(label, Target::AtLeast(1.8), one / two);
        }
        if matches!(order, Order::Sequential) {
            result.mark("1 vCPU, sequential, fast path, ns", Target::AtMost(60.0), one[0]);
        }
    }
    measure(&mut result, 2, Order::Adjacent)?;
    (1..=2).try_for_each(|vcpus| beside_others(&mut result, vcpus))?;
    Ok(result)
}

/// The fast path against what else tells a process of its writes.
fn beside_others(result: &mut BenchResult, vcpus: u64) -> Result<(), Failure> {
    let label = format!("{vcpus} vCPU, sequential");
    let pages = vcpus * PAGES;
    let board = mapped(pages)?;
    let parts: Vec<_> = (0..vcpus).map(|number| Order::Sequential.pages(number, vcpus)).collect();
    let beside = Match { label: &label, pages, vcpus, counted: Counted::Rewrite, times: FEWER };
    let mut cheapest = f64::INFINITY;
    for candidate in OF_A_PROCESS {
        let ours = &mut || {
            harvest(&board, Protect::Pages)?;
            fault_all(&board, &parts)
        };
        let ratio = beside.against(candidate, ours, result)?;
        cheapest = cheapest.min(ratio.unwrap_or(f64::INFINITY));
    }
    if vcpus == 1 && cheapest.is_finite() {
        result.mark("1 vCPU, sequential: the cheapest of them", Target::AtLeast(12.0), cheapest);
    }
    Ok(())
}

/// Nanoseconds a fault, by wall time over all faults: the fast path, and with push-downs.
fn measure(result: &mut BenchResult, vcpus: u64, order: Order) -> Result<[f64; 2], Failure> {
    announce(&format!("{vcpus} vCPU, {}", order.name()));
    let faults = vcpus * PAGES;
    let board = mapped(faults)?;
    let pages: Vec<_> = (0..vcpus).map(|number| order.pages(number, vcpus)).collect();
    let times = in_turns(
        PAIRS,
        [
            &mut || {
                harvest(&board, Protect::Pages)?;
                fault_all(&board, &pages)
            },
            &mut || {
                harvest(&board, Protect::Nothing)?;
                board.mmu().write_protect_all();
                fault_all(&board, &pages)
            },
        ],
    )?;
    let samples = times.map(|times| Sample::of(&times, faults));
    let medians = [samples[0].median, samples[1].median];
    for (way, sample) in ["fast path", "push-down"].into_iter().zip(samples) {
        result.sample(format!("{vcpus} vCPU, {}, {way}", order.name()), sample);
    }
    let label = format!("{vcpus} vCPU, {}: push-down against fast path", order.name());
    result.ratio(label, medians[1] / medians[0]);
    Ok(medians)
}

/// A board of which every page is mapped and dirty.
fn mapped(pages: u64) -> Result<Board<Ept>, Failure> {
    let bytes = pages * PAGE_SIZE;
    let config = BoardConfig::with_memory(bytes).ok_or(Failure::TooMuchMemory(bytes))?;
    let board = Board::new(&config)?;
    board.mmu().start_log(SLOT, Initial::Clean)?;
    let mut vcpu = board.mmu().vcpu()?;
    (0..pages).try_for_each(|page| write_fault(&mut vcpu, page))?;
    drop(vcpu);
    Ok(board)
}

fn harvest(board: &Board<Ept>, protect: Protect) -> Result<(), Failure> {
    let mut round = PageSet::new(board.layout());
    Ok(board.mmu().take_dirty(SLOT, protect, &mut round.regions_mut()[0])?)
}

/// Wall time from the first vCPU's start to the last one's end.
fn fault_all(board: &Board<Ept>, pages: &[Vec<u64>]) -> Result<Duration, Failure> {
    let start = Barrier::new(pages.len());
    let spans = std::thread::scope(|scope| {
        let mut crowd = Vec::new();
        for pages in pages {
            let (vcpu, start) = (board.mmu().vcpu()?, &start);
            crowd.push(scope.spawn(move || {
                start.wait();
                fault_each(vcpu, pages)
            }));
        }
        let spans = crowd.into_iter().map(|thread| thread.join().map_err(|_| Failure::Panicked)?);
        spans.collect::<Result<Vec<_>, _>>()
    })?;
    let begin = spans.iter().map(|(begin, _)| *begin).min();
    let end = spans.iter().map(|(_, end)| *end).max();
    Ok(begin.zip(end).map_or(Duration::ZERO, |(begin, end)| end - begin))
}

/// When one vCPU began and ended.
fn fault_each(
    mut vcpu: Vcpu<'_, Ept, BoardEmbedder>,
    pages: &[u64],
) -> Result<(Instant, Instant), Failure> {
    let begin = Instant::now();
    pages.iter().try_for_each(|page| write_fault(&mut vcpu, *page))?;
    Ok((begin, Instant::now()))
}

fn write_fault(vcpu: &mut Vcpu<'_, Ept, BoardEmbedder>, page: u64) -> Result<(), Failure> {
    match vcpu.fault(AddressSpace::NORMAL, page_at(page), Access::Write) {
        Outcome::Mapped => Ok(()),
        other => Err(Failure::NoFault(other)),
    }
}
