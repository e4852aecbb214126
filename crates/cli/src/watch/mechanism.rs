//! How stores are caught.

use super::ear::Ear;
use super::range::{Grain, Watched};
use crate::args::{Format, SubPages, Watch};
use std::sync::Arc;
use vellum_machine::board::Board;
use vellum_machine::walker::WalkedFormat;
use vellum_mmu::{
    ActivateError, ListenError, MAX_SUB_PAGE_MAPS, SubPageError, SubPageForm, SubPageRange,
    TrackError, TrackMode,
};
use vellum_pte::{AddressSpace, Gpa, PAGE_SIZE, SubPageMap};

/// Why a range cannot be watched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchError {
    /// Nobody can be told of writes.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A page cannot be tracked.
    #[error(transparent)]
    Track(#[from] TrackError),
    /// There are no maps of sub-pages.
    #[error(transparent)]
    Activate(#[from] ActivateError),
    /// A map cannot be set.
    #[error(transparent)]
    SubPages(#[from] SubPageError),
}

/// How stores are caught.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mechanism {
    /// Pages are write-protected, and each store to them is emulated.
    PageTracking,
    /// The processor looks each store up in tables of sub-page permissions.
    SppTables,
    /// Pages with a map are write-protected; what the map permits is emulated.
    SubPageEmulation,
}

impl Mechanism {
    /// What `args` ask for, where maps are enforced as `form` says.
    pub(crate) fn choose(args: &Watch, form: SubPageForm) -> Self {
        match (args.deny, args.grain, form) {
            (false, Grain::Page, _) => Self::PageTracking,
            (_, _, SubPageForm::ByTables) => Self::SppTables,
            (_, _, SubPageForm::ByEmulation) => Self::SubPageEmulation,
        }
    }

    /// Its name in JSON.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::PageTracking => "page-tracking",
            Self::SppTables => "spp-tables",
            Self::SubPageEmulation => "sub-page-emulation",
        }
    }

    /// What it is, for a person.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::PageTracking => "page tracking",
            Self::SppTables => "tables of sub-page permissions",
            Self::SubPageEmulation => "sub-page permissions by emulation",
        }
    }

    /// Why it is this one, and what it does.
    pub(crate) fn why(self, args: &Watch) -> String {
        let asked = if args.deny { "stores are to be denied" } else { "the grain is 128 bytes" };
        let format = args.machine.format().name();
        match (self, args.sub_pages, args.machine.format()) {
            (Self::PageTracking, ..) => {
                "the grain is the page: the pages are write-protected, and each store to them is \
                 emulated and heard of"
                    .to_owned()
            }
            (Self::SppTables, ..) => format!(
                "{asked}, and processors with {format} have them: a store beside the range is the \
                 processor's own business, one into it exits"
            ),
            (Self::SubPageEmulation, SubPages::Emulated, Format::Ept) => format!(
                "{asked}, and tables of them were not wanted: the pages are write-protected, and a \
                 store beside the range is emulated"
            ),
            (Self::SubPageEmulation, ..) => format!(
                "{asked}, and {format} has no tables of them: the pages are write-protected, and a \
                 store beside the range is emulated"
            ),
        }
    }

    /// Catches every store to `watched` that comes from now on.
    pub(crate) fn begin<F: WalkedFormat>(
        self,
        board: &Board<F>,
        watched: &Watched,
        ear: &Arc<Ear>,
    ) -> Result<(), WatchError> {
        match self {
            Self::PageTracking => watched.pages().try_for_each(|page| {
                Ok(board.mmu().track(AddressSpace::NORMAL, page.gfn(), TrackMode::Write)?)
            }),
            Self::SppTables | Self::SubPageEmulation => {
                let judge: Arc<Ear> = Arc::clone(ear);
                board.judge_denials(Some(judge));
                board.mmu().activate_sub_pages()?;
                restrict(board, watched)
            }
        }
    }
}

/// Denies what is watched: as many pages at once as one call takes.
fn restrict<F: WalkedFormat>(board: &Board<F>, watched: &Watched) -> Result<(), WatchError> {
    let mut run = Run::default();
    for page in watched.pages() {
        if !run.takes(page) {
            run.set(board)?;
        }
        run.first.get_or_insert(page);
        run.maps.push(watched.map(page));
    }
    run.set(board)
}

/// Maps of pages side by side.
#[derive(Default)]
struct Run {
    first: Option<Gpa>,
    maps: Vec<SubPageMap>,
}

impl Run {
    /// Whether `page` is the next one, and there is room.
    fn takes(&self, page: Gpa) -> bool {
        let next = |first: Gpa| first.get() + self.maps.len() as u64 * PAGE_SIZE;
        let is_next = self.first.is_none_or(|first| next(first) == page.get());
        is_next && self.maps.len() < MAX_SUB_PAGE_MAPS
    }

    /// Sets them, and is empty again.
    fn set<F: WalkedFormat>(&mut self, board: &Board<F>) -> Result<(), WatchError> {
        if let Some(first) = self.first.take() {
            let range = SubPageRange::new(AddressSpace::NORMAL, first.gfn());
            board.mmu().set_sub_pages(range, &self.maps)?;
            self.maps.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vellum_machine::board::BoardConfig;
    use vellum_machine::denial::Verdict;
    use vellum_pte::Ept;

    use super::super::tally::{Printing, Tally};

    #[test]
    fn every_watched_page_gets_its_map_and_no_other_one_does() {
        let config = BoardConfig::with_memory(1100 * PAGE_SIZE).expect("in range");
        let board = Board::<Ept>::new(&config).expect("the host has memory");
        let base = vellum_machine::RAM_BASE;
        let page = |page: u64| base.gpa().get() + page * PAGE_SIZE;
        // More than one call takes, a gap, and a part of a page.
        let asked = [(page(1), 1030 * PAGE_SIZE), (page(1040) + 0x80, 0x80)];
        let asked = asked.map(|(start, length)| format!("{start}+{length}").parse().expect("one"));
        let watched = Watched::new(Grain::SubPage, &asked);
        let tally = Arc::new(Tally::new(watched.clone(), None, Printing::Sums));
        let ear = Arc::new(Ear::new(tally, Verdict::LetThrough));
        Mechanism::SppTables.begin(&board, &watched, &ear).expect("it can be watched");
        let map = |page: u64| {
            let gfn = vellum_pte::Gfn::new(base.get() + page);
            let mut maps = [SubPageMap::ALL];
            let range = SubPageRange::new(AddressSpace::NORMAL, gfn);
            board.mmu().sub_pages(range, &mut maps).expect("a slot");
            maps[0].bits()
        };
        let restricted = (0..1100).filter(|page| map(*page) != u32::MAX).collect::<Vec<_>>();
        assert_eq!(restricted, (1..1031).chain([1040]).collect::<Vec<_>>());
        assert_eq!((map(1), map(1030), map(1040)), (0, 0, !0b10));
    }
}
