//! A dirty source for a hypervisor that is not ours, in about forty lines, and the round loop that
//! every consumer runs over it.
//!
//! The hypervisor here is a toy with a way of its own: it keeps a version number a page, which the
//! vCPU raises with every store. A real one has a bitmap behind a call; the shape is the same.
//! `main` copies its guest while a vCPU stores, and ends by comparing every page.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use vellum_memory::{
    AddressSpace, DirtySource, Gfn, GfnRange, Layout, LayoutError, PageSet, Region, SlotId,
};

const PAGES: usize = 1000;

/// The toy: a page is one word, and beside it the number of its last store.
struct Hypervisor {
    words: Vec<AtomicU64>,
    versions: Vec<AtomicU64>,
    stores: AtomicU64,
}

impl Hypervisor {
    /// The store first, its trace after it: whoever sees the new version sees the store.
    fn store(&self, page: usize, value: u64) {
        self.words[page].store(value, Ordering::Relaxed);
        self.versions[page].fetch_add(1, Ordering::Release);
        self.stores.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until the guest has stored a few hundred times more.
    fn let_it_run(&self) {
        let enough = self.stores.load(Ordering::Relaxed) + 300;
        while self.stores.load(Ordering::Relaxed) < enough {
            thread::yield_now();
        }
    }
}

// --- The adapter: all that a hypervisor's author writes. ---------------------------------------

/// What the consumers of [`Hypervisor`] see: a page is dirty if its version is not the one seen last.
struct Versions<'h> {
    hypervisor: &'h Hypervisor,
    layout: Layout,
    seen: Vec<u64>,
}

impl DirtySource for Versions<'_> {
    type Error = Infallible;

    fn method(&self) -> &'static str {
        "versions"
    }

    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn start(&mut self) -> Result<(), Infallible> {
        let versions = self.hypervisor.versions.iter();
        self.seen = versions.map(|version| version.load(Ordering::Acquire)).collect();
        Ok(())
    }

    fn stop(&mut self) -> Result<(), Infallible> {
        self.seen.clear();
        Ok(())
    }

    /// Versions only rise, so a store after this look is found by the next: nothing needs to be
    /// protected, and `protect` stays as it is.
    fn collect(&mut self, round: &mut PageSet) -> Result<(), Infallible> {
        let pages = self.hypervisor.versions.iter().zip(&mut self.seen);
        for (page, (version, seen)) in (0..).zip(pages) {
            let now = version.load(Ordering::Acquire);
            if core::mem::replace(seen, now) != now {
                round.regions_mut()[0].insert(page);
            }
        }
        Ok(())
    }

    /// A version that no page has: it differs whatever happens.
    fn owe(&mut self, pages: &PageSet) {
        for page in pages.regions()[0].pages() {
            if let Some(seen) = usize::try_from(page).ok().and_then(|page| self.seen.get_mut(page))
            {
                *seen = u64::MAX;
            }
        }
    }
}

// --- A consumer: it names nothing but the contract. --------------------------------------------

/// Copies the pages of one round; every third time the copy fails half-way, and the round is owed.
fn round<S: DirtySource>(
    source: &mut S,
    set: &mut PageSet,
    number: u32,
    mut copy: impl FnMut(u64),
) -> Result<(), S::Error> {
    set.clear();
    source.collect(set)?;
    for index in 0..set.regions().len() {
        let range = set.regions()[index].region().range;
        source.protect(index, range, set)?;
    }
    let half = set.count() / 2;
    let delivered = if number.is_multiple_of(3) { half } else { set.count() };
    set.regions()[0].pages().take(usize::try_from(delivered).unwrap_or(PAGES)).for_each(&mut copy);
    if delivered < set.count() {
        source.owe(set);
    }
    Ok(())
}

/// Rounds while the guest runs, and then until a paused guest has nothing left.
fn copy_all<S: DirtySource>(
    source: &mut S,
    from: &Hypervisor,
    pause: impl FnOnce(),
) -> Result<Vec<u64>, S::Error> {
    let mut there: Vec<u64> = vec![0; PAGES];
    let mut copy = |page: u64| {
        let page = usize::try_from(page).unwrap_or(0);
        there[page] = from.words[page].load(Ordering::Acquire);
    };
    source.start()?;
    // What was written before is in no round.
    (0..PAGES as u64).for_each(&mut copy);
    let mut set = PageSet::new(source.layout());
    for number in 1..=20 {
        from.let_it_run();
        round(source, &mut set, number, &mut copy)?;
    }
    from.let_it_run();
    pause();
    let mut number = 21;
    loop {
        round(source, &mut set, number, &mut copy)?;
        if set.is_empty() {
            break;
        }
        number += 1;
    }
    source.stop()?;
    Ok(there)
}

/// A vCPU that stores to random pages until it is told to stop.
fn run_vcpu(hypervisor: &Hypervisor, paused: &AtomicBool) {
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    while !paused.load(Ordering::Acquire) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        hypervisor.store((random >> 20) as usize % PAGES, random);
    }
}

fn layout() -> Result<Layout, LayoutError> {
    let range = GfnRange::new(Gfn::new(0), PAGES as u64).ok_or(LayoutError::Empty(0))?;
    Layout::new(vec![Region { slot: SlotId(0), space: AddressSpace::NORMAL, range }])
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let fresh = || (0..PAGES).map(|_| AtomicU64::new(0)).collect();
    let hypervisor = Hypervisor { words: fresh(), versions: fresh(), stores: AtomicU64::new(0) };
    let mut source = Versions { hypervisor: &hypervisor, layout: layout()?, seen: Vec::new() };
    let paused = AtomicBool::new(false);
    let there = thread::scope(|scope| {
        let vcpu = scope.spawn(|| run_vcpu(&hypervisor, &paused));
        copy_all(&mut source, &hypervisor, || {
            paused.store(true, Ordering::Release);
            // Paused means: no vCPU is in a store any more.
            while !vcpu.is_finished() {
                thread::yield_now();
            }
        })
    })?;
    let here = hypervisor.words.iter().map(|word| word.load(Ordering::Acquire));
    let lost = here.zip(&there).filter(|(here, there)| here != *there).count();
    println!("{PAGES} pages by {}: {lost} lost", source.method());
    if lost == 0 { Ok(()) } else { Err("pages were lost".into()) }
}
