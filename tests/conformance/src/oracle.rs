//! The two oracles. Both are naive: a number in a page, and whether a harvest named the page.

use crate::backend::{Backend, Begins, Guest, PAGES, Plan};
use std::collections::BTreeMap;
use vellum_memory::{DirtySource, PageSet, RegionSet};

/// What an oracle objects to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Objection {
    /// A harvest named a page in iteration `n`, and the page holds an older number (or a newer).
    NotWritten {
        /// The page.
        page: u64,
        /// The iteration.
        n: u64,
        /// What the page holds.
        held: u64,
    },
    /// No harvest that should have named a page did.
    Lost {
        /// The page.
        page: u64,
        /// The iteration in which it was missed.
        n: u64,
        /// What the page holds.
        held: u64,
    },
    /// A harvest named a page that no vCPU writes.
    Stray {
        /// The page.
        page: u64,
        /// The iteration.
        n: u64,
    },
}

/// How long an oracle looks.
#[derive(Clone, Copy, Debug)]
pub struct Length {
    /// Iterations.
    pub iterations: u64,
    /// Stores, by all vCPUs together, before each harvest.
    pub stores: u64,
}

/// The guest stores its iteration number N. A harvest while it runs, one after it has stopped:
/// what either names holds N, what neither names holds less.
///
/// The log is started in iteration 1 while the guest runs, so what the guest has mapped and cached
/// by then is part of the proof.
///
/// # Errors
/// The first objection.
pub fn stopped<B: Backend>(backend: &B, plan: Plan, length: Length) -> Result<(), Objection> {
    let pages = plan.pages();
    let guest = backend.guest(plan);
    let mut source = started(&guest, length);
    let mut round = PageSet::new(source.layout());
    guest.pause();
    // What iteration 1 still wrote after the start is nobody's question, nor are all pages of a log that
    // begins all set.
    harvest(&mut source, &mut round);
    let mut held_up = HeldUp { before: Vec::new(), now: guest.pending() };
    for n in 2..2 + length.iterations {
        round.clear();
        guest.set_number(n);
        guest.resume();
        run_for(&guest, length.stores);
        harvest(&mut source, &mut round);
        run_for(&guest, length.stores);
        guest.pause();
        harvest(&mut source, &mut round);
        held_up = held_up.then(guest.pending());
        let slot = &round.regions()[guest.region()];
        let judge = |page: &u64| judge_stopped(&guest, slot, *page, n, &held_up);
        pages.iter().try_for_each(judge)?;
        no_strays(&guest, slot, &pages, n)?;
    }
    source.stop().expect("it is on");
    Ok(())
}

/// The stores that a pause came before, as the guest says itself: one a vCPU. Of these pages alone a
/// round may say something else than the rule: a fault has marked the page, and the store was not made.
struct HeldUp {
    /// At the last pause. Made in this iteration, with the number of the last.
    before: Vec<u64>,
    /// At this one. Not made, or made: the guest cannot know.
    now: Vec<u64>,
}

impl HeldUp {
    fn then(self, now: Vec<u64>) -> Self {
        Self { before: self.now, now }
    }

    /// Whether a page that is named in iteration `n` may hold this.
    fn explains(&self, page: u64, held: u64, n: u64) -> bool {
        (self.now.contains(&page) && held < n) || (self.before.contains(&page) && held + 1 == n)
    }
}

fn judge_stopped<G: Guest>(
    guest: &G,
    slot: &RegionSet,
    page: u64,
    n: u64,
    held_up: &HeldUp,
) -> Result<(), Objection> {
    let held = guest.number_in(page);
    match slot.contains(page) {
        true if held != n && !held_up.explains(page, held, n) => {
            Err(Objection::NotWritten { page, n, held })
        }
        false if held >= n => Err(Objection::Lost { page, n, held }),
        _ => Ok(()),
    }
}

/// Harvests while the vCPUs run, iteration after iteration. A page that iteration N's harvest
/// names holds N or N-1. One that it does not name holds at most N, and if it holds N, the next
/// harvest names it (the one after, if several vCPUs may have written it).
///
/// # Errors
/// The first objection.
pub fn running<B: Backend>(backend: &B, plan: Plan, length: Length) -> Result<(), Objection> {
    let pages = plan.pages();
    let patience = if plan.vcpus > 1 { 2 } else { 1 };
    let guest = backend.guest(plan);
    let mut source = started(&guest, length);
    let mut round = PageSet::new(source.layout());
    let mut due = Due { patience, pages: BTreeMap::new() };
    if backend.begins() == Begins::AllSet {
        harvest(&mut source, &mut round);
    }
    for n in 2..2 + length.iterations {
        guest.set_number(n);
        until(|| guest.oldest_number() >= n);
        run_for(&guest, length.stores);
        round.clear();
        harvest(&mut source, &mut round);
        // The store that each vCPU was about to make was of this iteration: now it is in memory.
        one_more_each(&guest);
        let slot = &round.regions()[guest.region()];
        pages.iter().try_for_each(|page| judge_running(&guest, slot, *page, n, &mut due))?;
        no_strays(&guest, slot, &pages, n)?;
    }
    guest.pause();
    round.clear();
    harvest(&mut source, &mut round);
    settle(&guest, &round.regions()[guest.region()], &due, 1 + length.iterations)?;
    source.stop().expect("it is on");
    Ok(())
}

/// Whether the last harvest, the one of `slot`, names all that is due.
fn settle<G: Guest>(guest: &G, slot: &RegionSet, due: &Due, n: u64) -> Result<(), Objection> {
    match due.pages.keys().find(|page| !slot.contains(**page)) {
        Some(&page) => Err(Objection::Lost { page, n, held: guest.number_in(page) }),
        None => Ok(()),
    }
}

/// Pages that a later harvest must name, and by which iteration.
struct Due {
    patience: u64,
    pages: BTreeMap<u64, u64>,
}

fn judge_running<G: Guest>(
    guest: &G,
    slot: &RegionSet,
    page: u64,
    n: u64,
    due: &mut Due,
) -> Result<(), Objection> {
    let held = guest.number_in(page);
    if slot.contains(page) {
        due.pages.remove(&page);
        let is_recent = held == n || held + 1 == n;
        return if is_recent { Ok(()) } else { Err(Objection::NotWritten { page, n, held }) };
    }
    let overdue = due.pages.get(&page).is_some_and(|by| *by <= n);
    if held > n || overdue {
        return Err(Objection::Lost { page, n, held });
    }
    if held == n {
        due.pages.entry(page).or_insert(n + due.patience);
    }
    Ok(())
}

/// Runs the guest for a while, then starts its log.
fn started<G: Guest>(guest: &G, length: Length) -> G::Source<'_> {
    guest.resume();
    run_for(guest, length.stores);
    let mut source = guest.source();
    source.start().expect("there is memory for a log");
    source
}

/// A whole round of the contract, before anything is read.
pub(crate) fn harvest<S: DirtySource>(source: &mut S, round: &mut PageSet) {
    source.collect(round).expect("the log is on");
    let ranges: Vec<_> = source.layout().regions().iter().map(|region| region.range).collect();
    for (region, range) in ranges.into_iter().enumerate() {
        source.protect(region, range, round).expect("the log is on");
    }
}

fn no_strays<G: Guest>(
    guest: &G,
    slot: &RegionSet,
    pages: &[u64],
    n: u64,
) -> Result<(), Objection> {
    let mut named = slot.pages().filter(|page| *page >= guest.kept());
    match named.find(|page| *page >= PAGES || pages.binary_search(page).is_err()) {
        Some(page) => Err(Objection::Stray { page, n }),
        None => Ok(()),
    }
}

/// Waits until the vCPUs together have made so many stores more.
pub(crate) fn run_for<G: Guest>(guest: &G, stores: u64) {
    let total = || guest.stores().iter().sum::<u64>();
    let before = total();
    until(|| total() >= before + stores);
}

fn one_more_each<G: Guest>(guest: &G) {
    let before = guest.stores();
    until(|| guest.stores().iter().zip(&before).all(|(now, before)| now > before));
}

/// Waits for something that must come.
pub(crate) fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        std::thread::yield_now();
    }
}
