//! Backends that are wrong on purpose, around sound ones: what an oracle or a scene does not find here, it
//! does not find.

use crate::backend::{Backend, Begins, Guest, Plan};
use crate::oracle::harvest;
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
    /// Each round has the slot's first page, which no vCPU writes.
    NamesTheFirst,
    /// Each round has that of the last one again.
    NamesTwice,
    /// Its `protect` clears the marks of pages that were written since they were collected, and does not
    /// name them.
    ProtectsTheUntaken,
    /// What it is owed is in no round.
    ForgetsTheOwed,
    /// What it is owed is in every round from then on.
    OwesForever,
    /// What was before a start is in the round after it.
    KeepsAcrossAStart,
    /// It refuses no round: it leaves it empty.
    NeverRefuses,
    /// What there was to take when it refused a round is in no later one.
    LosesWhatItRefuses,
    /// What it had put into a round that failed is in no later one.
    LosesWhatFailed,
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
        BrokenSource::new(sound, self.wrong, &self.sound)
    }

    fn region(&self) -> usize {
        self.sound.region()
    }

    fn kept(&self) -> u64 {
        self.sound.kept()
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

    fn devices_memory(&self) -> GuestMemoryMmap {
        self.sound.devices_memory()
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
    /// The first page of the slot that is not the guest's own.
    first: u64,
    kept: PageSet,
    rounds: usize,
}

impl<S: DirtySource> BrokenSource<S> {
    /// A source that is `wrong` about the slot of `guest`.
    pub fn new<G: Guest>(sound: S, wrong: Wrong, guest: &G) -> Self {
        let kept = PageSet::new(sound.layout());
        let (slot, first) = (guest.region(), guest.kept());
        Self { sound, wrong, slot, first, kept, rounds: 0 }
    }

    /// Makes what was taken wrong.
    fn spoil(&mut self, taken: &mut PageSet) {
        self.rounds += 1;
        match self.wrong {
            Wrong::DropsAPage => {
                self.kept.clear();
                self.drop_one(taken);
            }
            Wrong::ProtectsLate => {
                let last = std::mem::replace(&mut self.kept, taken.clone());
                remove(taken, &last);
            }
            Wrong::FallsSilent(_) if self.is_silent() => taken.clear(),
            Wrong::NamesTwice => {
                let last = std::mem::replace(&mut self.kept, taken.clone());
                taken.merge(&last);
            }
            Wrong::NamesTheFirst => taken.regions_mut()[self.slot].insert(0),
            Wrong::OwesForever => taken.merge(&self.kept),
            Wrong::KeepsAcrossAStart => self.kept.merge(taken),
            Wrong::LosesWhatFailed => {
                remove(taken, &self.kept);
                self.kept.clear();
            }
            Wrong::FallsSilent(_)
            | Wrong::ProtectsNothing
            | Wrong::ProtectsTheUntaken
            | Wrong::ForgetsTheOwed
            | Wrong::NeverRefuses
            | Wrong::LosesWhatItRefuses => {}
        }
    }

    /// Takes one of the guest's pages out, each time another, and keeps it.
    fn drop_one(&mut self, taken: &mut PageSet) {
        let slot = &mut taken.regions_mut()[self.slot];
        let pages: Vec<u64> = slot.pages().filter(|page| *page >= self.first).collect();
        if let Some(page) = pages.get(self.rounds * 37 % pages.len().max(1)) {
            slot.remove(*page);
            self.kept.regions_mut()[self.slot].insert(*page);
        }
    }

    fn is_silent(&self) -> bool {
        matches!(self.wrong, Wrong::FallsSilent(after) if self.rounds > after)
    }

    /// A round that the sound source refuses, because of the set's layout.
    fn refuse(&mut self, round: &mut PageSet) -> Result<(), S::Error> {
        if self.wrong == Wrong::LosesWhatItRefuses {
            let mut lost = PageSet::new(self.sound.layout());
            harvest(&mut self.sound, &mut lost);
        }
        self.sound.collect(round)
    }
}

fn remove(from: &mut PageSet, pages: &PageSet) {
    let slots = from.regions_mut().iter_mut().zip(pages.regions());
    slots.for_each(|(slot, gone)| gone.pages().for_each(|page| slot.remove(page)));
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
        if self.wrong != Wrong::KeepsAcrossAStart {
            return self.sound.start();
        }
        // Off, it has nothing to give.
        let _ = self.sound.collect(&mut self.kept);
        self.sound.start()?;
        self.sound.owe(&self.kept);
        Ok(())
    }

    fn stop(&mut self) -> Result<(), S::Error> {
        self.sound.stop()
    }

    fn collect(&mut self, round: &mut PageSet) -> Result<(), S::Error> {
        let mut taken = PageSet::new(self.sound.layout());
        let answer = match round.is_over(self.sound.layout()) {
            true => self.sound.collect(&mut taken),
            false => self.refuse(round),
        };
        match answer {
            Ok(()) => self.spoil(&mut taken),
            Err(_) if self.wrong == Wrong::NeverRefuses => return Ok(()),
            Err(error) => {
                if self.wrong == Wrong::LosesWhatFailed {
                    self.kept.merge(&taken);
                }
                return Err(error);
            }
        }
        round.merge(&taken);
        Ok(())
    }

    fn protect(&mut self, at: usize, range: GfnRange, round: &mut PageSet) -> Result<(), S::Error> {
        let mut unnamed = PageSet::new(self.sound.layout());
        match self.wrong {
            Wrong::ProtectsNothing => Ok(()),
            Wrong::ProtectsTheUntaken => {
                self.sound.collect(&mut unnamed)?;
                self.sound.protect(at, range, &mut unnamed)
            }
            Wrong::FallsSilent(_) if self.is_silent() => {
                self.sound.protect(at, range, &mut unnamed)
            }
            // What is to be lost is protected like the rest: a page that is not in the round any more
            // may keep its mark.
            Wrong::DropsAPage => {
                round.merge(&self.kept);
                let answer = self.sound.protect(at, range, round);
                remove(round, &self.kept);
                answer
            }
            _ => self.sound.protect(at, range, round),
        }
    }

    fn owe(&mut self, pages: &PageSet) {
        match self.wrong {
            Wrong::ForgetsTheOwed => {}
            Wrong::OwesForever => {
                self.kept.merge(pages);
                self.sound.owe(pages);
            }
            _ => self.sound.owe(pages),
        }
    }
}
