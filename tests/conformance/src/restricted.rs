//! Guests of the oracles some of whose pages are tracked and some restricted, all to what they store:
//! the oracles must not notice.

use crate::backend::Plan;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use vellum_machine::board::Board;
use vellum_machine::embedder::BoardEmbedder;
use vellum_machine::walker::WalkedFormat;
use vellum_mmu::{Call, Mmu, Registration, SubPageRange, TrackMode, WriteListener, Written};
use vellum_pte::{AddressSpace, Gfn, SubPageMap};

/// Which pages of a guest are tracked and restricted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Restrictions {
    /// None.
    None,
    /// Some, most of those that are written often. A few change with each number that the guest is
    /// given.
    Some,
}

const SPACE: AddressSpace = AddressSpace::NORMAL;
/// How often a page occurs in a plan that occurs often.
const OFTEN: usize = 8;
/// How many pages change.
const TURNING: usize = 12;
/// The guest stores to the first sub-page; the second map lets it as the first does.
const MAPS: [SubPageMap; 2] = [SubPageMap::new(0b01), SubPageMap::new(0b11)];

/// The restrictions of one guest, and a listener.
pub struct Restricted<F: WalkedFormat> {
    mmu: Arc<Mmu<F, BoardEmbedder>>,
    tracked: Vec<Gfn>,
    sub_paged: Vec<Gfn>,
    /// Whether those that change are not tracked, and the second map holds.
    turned: AtomicBool,
    heard: Arc<Heard>,
    _registration: Registration<Arc<Mmu<F, BoardEmbedder>>>,
}

/// How many writes there were.
#[derive(Debug, Default)]
struct Heard(AtomicU64);

impl<F: WalkedFormat> WriteListener<F, BoardEmbedder> for Heard {
    fn write(&self, _: &Call<'_, F, BoardEmbedder>, written: &Written<'_>) {
        assert_eq!(written.bytes.len(), 8, "{:?}", written.origin);
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl<F: WalkedFormat> Restricted<F> {
    /// Restricts pages of a guest that has not run yet and will follow `plan` from the page `first`.
    #[must_use]
    pub fn new(board: &Board<F>, first: Gfn, plan: &Plan) -> Self {
        let mmu = board.shared_mmu();
        let pages = chosen(plan);
        let among = |which: [u64; 2]| {
            let there = pages.iter().filter(|page| which.contains(&(**page % 4)));
            there.map(|page| Gfn::new(first.get() + page)).collect()
        };
        let heard = Arc::<Heard>::default();
        let listener: Arc<dyn WriteListener<F, BoardEmbedder>> = heard.clone();
        let registration = Mmu::listen(Arc::clone(&mmu), listener).expect("there is memory");
        mmu.activate_sub_pages().expect("there is memory");
        let (tracked, sub_paged) = (among([0, 2]), among([1, 2]));
        let turned = AtomicBool::new(false);
        let this = Self { mmu, tracked, sub_paged, turned, heard, _registration: registration };
        this.tracked.iter().for_each(|gfn| this.track(*gfn));
        this.sub_paged.iter().for_each(|gfn| this.map(*gfn, MAPS[0]));
        this
    }

    /// Every other time some of the tracked pages are not, and some maps are others.
    pub fn turn(&self) {
        let turned = self.turned.fetch_xor(true, Ordering::Relaxed);
        for gfn in self.tracked.iter().step_by(2).take(TURNING) {
            match turned {
                true => self.track(*gfn),
                false => self.mmu.untrack(SPACE, *gfn, TrackMode::Write).expect("it is tracked"),
            }
        }
        let map = MAPS[usize::from(!turned)];
        self.sub_paged.iter().step_by(2).take(TURNING).for_each(|gfn| self.map(*gfn, map));
    }

    fn track(&self, gfn: Gfn) {
        self.mmu.track(SPACE, gfn, TrackMode::Write).expect("there is memory");
    }

    fn map(&self, gfn: Gfn, map: SubPageMap) {
        let set = self.mmu.set_sub_pages(SubPageRange::new(SPACE, gfn), &[map]);
        assert_eq!(set, Ok(1), "{gfn}");
    }
}

/// The pages that are written often, and a few others behind them.
fn chosen(plan: &Plan) -> Vec<u64> {
    let often = |page: &u64| plan.table.iter().filter(|other| *other == page).count() > OFTEN;
    let (mut pages, others): (Vec<u64>, Vec<u64>) = plan.pages().into_iter().partition(often);
    pages.extend(others.into_iter().filter(|page| page % 64 < 4));
    pages
}

/// A guest that nobody had to emulate proves nothing.
impl<F: WalkedFormat> Drop for Restricted<F> {
    fn drop(&mut self) {
        let heard = self.heard.0.load(Ordering::Relaxed);
        assert!(std::thread::panicking() || heard > 0, "no store was emulated");
    }
}
