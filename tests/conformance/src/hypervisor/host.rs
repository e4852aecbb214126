//! Host memory: which frame is behind a page of a slot, what it holds, and who may not go there any
//! more.

use super::pages_of;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use vellum_memory::guest::{PAGE_BYTES, Page};
use vellum_mmu::{Backing, BackingWrite, NoBacking};
use vellum_pte::{Level, Pfn};

/// A page of a slot's memory: the slot's name for its memory, and the page's place in it. It stays
/// the same when the slot moves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Home(pub u64);

/// How large the leaves are that the host's memory allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Backings {
    /// 4 KiB.
    #[default]
    Small,
    /// 2 MiB.
    Large,
    /// 1 GiB.
    Huge,
    /// 4 KiB and 2 MiB in turns.
    Mixed,
}

impl Backings {
    /// Pages of the largest leaf that there may be.
    #[must_use]
    pub fn grain(self) -> u64 {
        pages_of(match self {
            Self::Small => Level::L1,
            Self::Large | Self::Mixed => Level::L2,
            Self::Huge => Level::L3,
        })
    }

    fn largest(self, frame: u64) -> Level {
        match self {
            Self::Small => Level::L1,
            Self::Large => Level::L2,
            Self::Huge => Level::L3,
            Self::Mixed if (frame / 512).is_multiple_of(2) => Level::L1,
            Self::Mixed => Level::L2,
        }
    }
}

/// Which frames are behind memory that never changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rule {
    /// How large leaves may be.
    pub backings: Backings,
    /// How many frames further up than its home a page lies. Unless it is a multiple of a leaf's
    /// pages, guest and host are not aligned alike.
    pub skew: u64,
}

/// What becomes of some pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Nothing after all.
    Nothing,
    /// They move to other frames, with what they hold, and may be written there.
    Migrate,
    /// They lose what they hold, and have new frames of zeros.
    Discard,
    /// They lose what they hold, and have no frames.
    Withhold,
    /// They may not be written where they are.
    Seal,
}

/// What is behind consecutive pages.
#[derive(Clone, Copy, Debug)]
struct Behind {
    /// The first page's frame; the others' follow.
    frame: Option<u64>,
    write: BackingWrite,
}

/// Consecutive pages that changed together.
#[derive(Clone, Copy, Debug)]
struct Extent {
    /// The page after the last.
    end: u64,
    behind: Behind,
}

/// All of it.
#[derive(Debug, Default)]
pub struct HostMemory {
    rule: Rule,
    /// By first page; what is in none is as the rule says.
    extents: BTreeMap<u64, Extent>,
    /// What was ever written, by frame.
    pages: BTreeMap<u64, Box<Page>>,
    /// Frames that nothing is behind any more.
    poisoned: BTreeSet<u64>,
    sealed: BTreeSet<u64>,
    /// How many aligned gibibytes of new frames were begun.
    issued: u64,
}

impl HostMemory {
    /// Where new frames begin: far from the guest's and below the tables'.
    const NEW: u64 = 1 << 34;
    const GIB: u64 = 1 << 18;

    /// As `rule` says, and all zero.
    #[must_use]
    pub fn new(rule: Rule) -> Self {
        Self { rule, ..Self::default() }
    }

    /// The longest stretch of pages around `home` whose frames follow each other, and what is
    /// behind it.
    fn run(&self, home: u64) -> (Range<u64>, Behind) {
        let below = self.extents.range(..=home).next_back();
        if let Some((first, extent)) = below
            && home < extent.end
        {
            return (*first..extent.end, extent.behind);
        }
        let first = below.map_or(0, |(_, extent)| extent.end);
        let end =
            self.extents.range(home..).next().map_or(Self::NEW - self.rule.skew, |next| *next.0);
        let frame = Some(first + self.rule.skew);
        (first..end, Behind { frame, write: BackingWrite::Allowed })
    }

    fn frame(&self, home: u64) -> Option<u64> {
        let (run, behind) = self.run(home);
        Some(behind.frame? + (home - run.start))
    }

    /// The answer to the library.
    pub(super) fn resolve(&self, Home(home): Home) -> Option<Backing> {
        let (run, behind) = self.run(home);
        let frame = behind.frame? + (home - run.start);
        let fits = |level: &Level| {
            let within = frame & (pages_of(*level) - 1);
            let first = home.checked_sub(within).filter(|first| *first >= run.start);
            first.is_some_and(|first| first + pages_of(*level) <= run.end)
        };
        let allowed = self.rule.backings.largest(frame);
        let largest =
            [Level::L3, Level::L2].into_iter().filter(|level| *level <= allowed).find(fits);
        let largest = largest.unwrap_or(Level::L1);
        Some(Backing { frame: Pfn::new(frame), write: behind.write, largest })
    }

    pub(super) fn change(&mut self, homes: Range<Home>, change: Change) {
        let homes = homes.start.0..homes.end.0;
        match change {
            Change::Nothing => {}
            Change::Seal => self.seal(homes),
            Change::Migrate => self.renew(homes, Keeps::Content),
            Change::Discard => self.renew(homes, Keeps::Nothing),
            Change::Withhold => {
                homes.clone().for_each(|home| drop(self.vacate(home)));
                self.put(homes, Behind { frame: None, write: BackingWrite::Allowed });
            }
        }
    }

    /// Gives pages new frames, aligned as the first page's was.
    fn renew(&mut self, homes: Range<u64>, keeps: Keeps) {
        let alike = self.frame(homes.start).unwrap_or(homes.start + self.rule.skew) % Self::GIB;
        let first = Self::NEW + self.issued * Self::GIB + alike;
        self.issued += (alike + homes.end - homes.start).div_ceil(Self::GIB);
        for (home, frame) in homes.clone().zip(first..) {
            let content = self.vacate(home).filter(|_| keeps == Keeps::Content);
            self.pages.extend(content.map(|content| (frame, content)));
        }
        self.put(homes, Behind { frame: Some(first), write: BackingWrite::Allowed });
    }

    /// Pages without a frame get one of zeros.
    fn seal(&mut self, homes: Range<u64>) {
        let mut at = homes.start;
        while at < homes.end {
            let (run, behind) = self.run(at);
            let here = at..run.end.min(homes.end);
            at = here.end;
            if behind.frame.is_none() {
                self.renew(here.clone(), Keeps::Nothing);
            }
            let frame = self.frame(here.start);
            let frames: Vec<u64> = here.clone().filter_map(|home| self.frame(home)).collect();
            self.sealed.extend(frames);
            self.put(here, Behind { frame, write: BackingWrite::Denied });
        }
    }

    /// Takes a page's frame away. What it held.
    fn vacate(&mut self, home: u64) -> Option<Box<Page>> {
        let frame = self.frame(home)?;
        self.poisoned.insert(frame);
        self.pages.remove(&frame)
    }

    fn put(&mut self, homes: Range<u64>, behind: Behind) {
        self.cut(homes.start);
        self.cut(homes.end);
        self.extents.retain(|first, _| !homes.contains(first));
        self.extents.insert(homes.start, Extent { end: homes.end, behind });
    }

    /// Makes two of an extent that goes on across `at`.
    fn cut(&mut self, at: u64) {
        let Some((&first, extent)) = self.extents.range_mut(..at).next_back() else { return };
        if extent.end > at {
            let Extent { end, behind } = *extent;
            extent.end = at;
            let frame = behind.frame.map(|frame| frame + (at - first));
            self.extents.insert(at, Extent { end, behind: Behind { frame, ..behind } });
        }
    }

    /// What a CPU finds in a frame.
    ///
    /// # Panics
    /// Nothing is behind the frame any more.
    pub(super) fn load(&self, frame: Pfn) -> Page {
        let frame = frame.get();
        assert!(!self.poisoned.contains(&frame), "a load from {frame:#x}, which went away");
        self.pages.get(&frame).map_or([0; PAGE_BYTES], |page| **page)
    }

    /// A CPU's store.
    ///
    /// # Panics
    /// Nothing is behind the frame any more, or it may not be written.
    pub(super) fn store(&mut self, frame: Pfn, offset: u64, bytes: &[u8]) {
        let frame = frame.get();
        assert!(!self.poisoned.contains(&frame), "a store to {frame:#x}, which went away");
        assert!(!self.sealed.contains(&frame), "a store to {frame:#x}, which is sealed");
        let page = self.pages.entry(frame).or_insert_with(|| Box::new([0; PAGE_BYTES]));
        let first = usize::try_from(offset).expect("in the page");
        page[first..first + bytes.len()].copy_from_slice(bytes);
    }

    /// A device's write.
    pub(super) fn write(
        &mut self,
        Home(home): Home,
        at: u64,
        bytes: &[u8],
    ) -> Result<(), NoBacking> {
        let (_, behind) = self.run(home);
        let writable = behind.write == BackingWrite::Allowed;
        let frame = self.frame(home).filter(|_| writable).ok_or(NoBacking)?;
        self.store(Pfn::new(frame), at, bytes);
        Ok(())
    }

    pub(super) fn page(&self, Home(home): Home) -> Page {
        let page = self.frame(home).and_then(|frame| self.pages.get(&frame));
        page.map_or([0; PAGE_BYTES], |page| **page)
    }

    /// Every page that has been written, by its home now.
    pub(super) fn written(&self) -> Vec<Home> {
        let moved = self.extents.iter().flat_map(|(first, extent)| {
            let frames = extent.behind.frame.map(|frame| frame..frame + (extent.end - first));
            let written = frames.into_iter().flat_map(|frames| self.pages.range(frames));
            let here = extent.behind.frame.unwrap_or(0);
            written.map(move |(frame, _)| Home(frame - here + first))
        });
        let by_rule = self.pages.range(..Self::NEW).map(|(frame, _)| Home(frame - self.rule.skew));
        moved.chain(by_rule).collect()
    }
}

/// What pages take with them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Keeps {
    Content,
    Nothing,
}
