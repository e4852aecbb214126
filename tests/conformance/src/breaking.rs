//! Backends that are wrong on purpose, around sound ones: what an oracle does not find here, it does not
//! find.

use crate::backend::{Backend, Begins, Guest, Plan, RESERVED};
use vellum_memory::guest::GuestMemoryMmap;
use vellum_memory::{DirtySource, GfnRange, Layout, PageSet};
use vellum_pte::Gfn;

/// What a source does wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wrong {
    /// It leaves one page out of each round, another one each time.
    DropsAPage,
    /// Its `protect` does nothing: nothing is cleared, no ring is reset, and what it would have added to
    /// the round is not.
    ProtectsNothing,
    /// It protects a round's pages only when it is asked for the next one: what was written to them after
    /// they were read has lost its mark.
    ProtectsLate,
    /// After so many rounds it names nothing any more.
    FallsSilent(usize),
}

/// A backend whose guests' logs are wrong.
#[derive(Clone, Copy, Debug)]
pub struct Broken<B> {
    /// The sound one.
    pub sound: B,
    /// What is wrong.
    pub wrong: Wrong,
}

impl<B: Backend> Backend for Broken<B> {
    type Guest = BrokenGuest<B::Guest>;

    fn name(&self) -> String {
        format!("{} that {:?}", self.sound.name(), self.wrong)
    }

    fn begins(&self) -> Begins {
        self.sound.begins()
    }

    fn guest(&self, plan: Plan) -> Self::Guest {
        BrokenGuest { sound: self.sound.guest(plan), wrong: self.wrong }
    }
}

/// Its guest, which is sound itself.
pub struct BrokenGuest<G> {
    sound: G,
    wrong: Wrong,
}

impl<G: Guest> Guest for BrokenGuest<G> {
    type Source<'g>
        = BrokenSource<G::Source<'g>>
    where
        G: 'g;

    fn source(&self) -> Self::Source<'_> {
        let sound = self.sound.source();
        let kept = PageSet::new(sound.layout());
        BrokenSource { sound, wrong: self.wrong, slot: self.sound.region(), kept, rounds: 0 }
    }

    fn region(&self) -> usize {
        self.sound.region()
    }

    fn set_number(&self, number: u64) {
        self.sound.set_number(number);
    }

    fn resume(&self) {
        self.sound.resume();
    }

    fn pause(&self) {
        self.sound.pause();
    }

    fn oldest_number(&self) -> u64 {
        self.sound.oldest_number()
    }

    fn stores(&self) -> Vec<u64> {
        self.sound.stores()
    }

    fn pending(&self) -> Vec<u64> {
        self.sound.pending()
    }

    fn memory(&self) -> &GuestMemoryMmap {
        self.sound.memory()
    }

    fn base(&self) -> Gfn {
        self.sound.base()
    }
}

/// A sound source, made wrong.
pub struct BrokenSource<S> {
    sound: S,
    wrong: Wrong,
    slot: usize,
    kept: PageSet,
    rounds: usize,
}

impl<S> BrokenSource<S> {
    /// Takes one of the guest's pages out, each time another.
    fn drop_one(&mut self, taken: &mut PageSet) {
        let slot = &mut taken.regions_mut()[self.slot];
        let pages: Vec<u64> = slot.pages().filter(|page| *page >= RESERVED).collect();
        if let Some(page) = pages.get(self.rounds * 37 % pages.len().max(1)) {
            slot.remove(*page);
        }
    }

    fn is_silent(&self) -> bool {
        matches!(self.wrong, Wrong::FallsSilent(after) if self.rounds > after)
    }

    /// Takes out what the last round had.
    fn drop_the_last(&mut self, taken: &mut PageSet) {
        let last = std::mem::replace(&mut self.kept, taken.clone());
        let slots = taken.regions_mut().iter_mut().zip(last.regions());
        slots.for_each(|(slot, last)| last.pages().for_each(|page| slot.remove(page)));
    }
}

impl<S: DirtySource> DirtySource for BrokenSource<S> {
    type Error = S::Error;

    fn method(&self) -> &'static str {
        "broken"
    }

    fn layout(&self) -> &Layout {
        self.sound.layout()
    }

    fn start(&mut self) -> Result<(), S::Error> {
        self.sound.start()
    }

    fn stop(&mut self) -> Result<(), S::Error> {
        self.sound.stop()
    }

    fn collect(&mut self, round: &mut PageSet) -> Result<(), S::Error> {
        let mut taken = PageSet::new(self.sound.layout());
        self.sound.collect(&mut taken)?;
        self.rounds += 1;
        match self.wrong {
            Wrong::DropsAPage => self.drop_one(&mut taken),
            Wrong::ProtectsNothing => {}
            Wrong::ProtectsLate => self.drop_the_last(&mut taken),
            Wrong::FallsSilent(_) if self.is_silent() => taken.clear(),
            Wrong::FallsSilent(_) => {}
        }
        round.merge(&taken);
        Ok(())
    }

    fn protect(&mut self, at: usize, range: GfnRange, round: &mut PageSet) -> Result<(), S::Error> {
        match self.wrong {
            Wrong::ProtectsNothing => Ok(()),
            Wrong::FallsSilent(_) if self.is_silent() => {
                self.sound.protect(at, range, &mut PageSet::new(self.sound.layout()))
            }
            Wrong::DropsAPage | Wrong::ProtectsLate | Wrong::FallsSilent(_) => {
                self.sound.protect(at, range, round)
            }
        }
    }

    fn owe(&mut self, pages: &PageSet) {
        self.sound.owe(pages);
    }
}
