//! Native writers on the software machine's memory ports.

use crate::backend::{Backend, Guest, PAGES, Plan};
use crate::crew::{Crew, Ground};
use crate::restricted::{Restricted, Restrictions};
use std::marker::PhantomData;
use vellum_machine::board::{Board, BoardConfig, SubPageHardware};
use vellum_machine::bus::{Bus, BusError, Width};
use vellum_machine::emulation::EmulatedStore;
use vellum_machine::log::{BoardLog, Track};
use vellum_machine::port::{Port, ShootDown};
use vellum_machine::walker::WalkedFormat;
use vellum_machine::{Logging, PageSize, RAM_BASE};
use vellum_memory::guest::GuestMemoryMmap;
use vellum_mmu::Break;
use vellum_pte::{Gfn, Gpa, PAGE_SIZE};

/// The memory ports of format `F`.
#[derive(Clone, Copy, Debug)]
pub struct Ports<F> {
    /// How the log is kept.
    pub track: Track,
    /// How shoot-downs are made.
    pub shoot_down: ShootDown,
    /// The largest pages of its RAM.
    pub pages: PageSize,
    /// Which pages are tracked and restricted.
    pub restrictions: Restrictions,
    /// Whether its processors have sub-page permissions, where the format has.
    pub sub_pages: SubPageHardware,
    /// A deliberate bug.
    pub broken: Option<Break>,
    format: PhantomData<F>,
}

impl<F> Ports<F> {
    /// Sound, over small pages, with this host's best shoot-down.
    #[must_use]
    pub fn new(track: Track) -> Self {
        Self {
            track,
            shoot_down: ShootDown::best(),
            pages: PageSize::Small,
            restrictions: Restrictions::None,
            sub_pages: SubPageHardware::Present,
            broken: None,
            format: PhantomData,
        }
    }

    /// Over pages of this size.
    #[must_use]
    pub const fn over(self, pages: PageSize) -> Self {
        Self { pages, ..self }
    }

    /// With some pages tracked and restricted, on processors of this kind.
    #[must_use]
    pub const fn restricted(self, sub_pages: SubPageHardware) -> Self {
        Self { restrictions: Restrictions::Some, sub_pages, ..self }
    }

    /// With a deliberate bug.
    #[must_use]
    pub const fn broken(self, broken: Break) -> Self {
        Self { broken: Some(broken), ..self }
    }

    /// With a shoot-down of this kind.
    #[must_use]
    pub const fn shot_down_by(self, shoot_down: ShootDown) -> Self {
        Self { shoot_down, ..self }
    }
}

impl<F: WalkedFormat> Backend for Ports<F> {
    type Guest = PortGuest<F>;

    fn name(&self) -> String {
        let Self { track, shoot_down, pages, restrictions, sub_pages, broken, .. } = self;
        let restricted = format!("{restrictions:?} {sub_pages:?}");
        format!("ports {} {track:?} {shoot_down:?} {pages:?} {restricted} {broken:?}", F::NAME)
    }

    fn guest(&self, plan: Plan) -> PortGuest<F> {
        let config = BoardConfig {
            shoot_down: self.shoot_down,
            pages: self.pages,
            sub_pages: self.sub_pages,
            logging: Logging::of(self.track),
            broken: self.broken,
            ..BoardConfig::with_memory(PAGES * PAGE_SIZE).expect("it fits an address")
        };
        let board = Board::new(&config).expect("sparse memory is to be had");
        let restricted = match self.restrictions {
            Restrictions::None => None,
            Restrictions::Some => Some(Restricted::new(&board, RAM_BASE, &plan)),
        };
        let crew = Crew::new(OnBoard(board), plan);
        PortGuest { crew, track: self.track, restricted }
    }
}

/// A board and a thread for each vCPU.
pub struct PortGuest<F: WalkedFormat> {
    crew: Crew<OnBoard<F>>,
    track: Track,
    restricted: Option<Restricted<F>>,
}

/// Stores through a port of each thread's own.
struct OnBoard<F: WalkedFormat>(Board<F>);

impl<F: WalkedFormat> Ground for OnBoard<F> {
    type Hand<'s> = (usize, Port<'s, F>);

    fn hand(&self, index: usize) -> Self::Hand<'_> {
        (index, self.0.port().expect("there is memory for a port"))
    }

    fn store<'s>(&'s self, (index, port): &mut Self::Hand<'s>, page: u64, number: u64) {
        let at = address_of(page);
        let stored = port.store(at, Width::Double, number).or_else(|error| match error {
            BusError::Emulate(_) => {
                let hart = u32::try_from(*index).expect("few");
                let by = EmulatedStore { hart, pc: Gpa::new(0) };
                port.emulate_store(by, at, Width::Double, number)
            }
            error => Err(error),
        });
        stored.expect("the page is RAM");
    }
}

impl<F: WalkedFormat> Guest for PortGuest<F> {
    type Source<'g> = BoardLog<'g, F>;

    fn source(&self) -> BoardLog<'_, F> {
        BoardLog::new(&self.crew.ground().0, self.track)
    }

    fn set_number(&self, number: u64) {
        self.restricted.iter().for_each(Restricted::turn);
        self.crew.set_number(number);
    }

    fn resume(&self) {
        self.crew.resume();
    }

    fn pause(&self) {
        self.crew.pause();
    }

    fn oldest_number(&self) -> u64 {
        self.crew.oldest_number()
    }

    fn stores(&self) -> Vec<u64> {
        self.crew.stores()
    }

    fn memory(&self) -> &GuestMemoryMmap {
        self.crew.ground().0.memory()
    }

    fn base(&self) -> Gfn {
        RAM_BASE
    }
}

/// The address of a page of the slot.
#[must_use]
pub fn address_of(page: u64) -> Gpa {
    Gpa::new(RAM_BASE.gpa().get() + page * PAGE_SIZE)
}
