//! Native writers on the software machine's memory ports.

use crate::backend::{Backend, Guest, PAGES, Plan};
use crate::restricted::{Restricted, Restrictions};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use vellum_machine::board::{Board, BoardConfig, SubPageHardware};
use vellum_machine::bus::{Bus, BusError, Width};
use vellum_machine::emulation::EmulatedStore;
use vellum_machine::log::{BoardLog, Track};
use vellum_machine::port::ShootDown;
use vellum_machine::walker::WalkedFormat;
use vellum_machine::{Logging, PageSize, RAM_BASE};
use vellum_memory::guest::{Bytes, GuestAddress};
use vellum_mmu::Break;
use vellum_pte::{Gpa, PAGE_SIZE};

/// Stores between two looks at whether to pause.
const BATCH: u32 = 16;

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
        let shared = Arc::new(Shared::new(board, plan));
        let spawn = |index| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || write(&shared, index))
        };
        let writers = (0..shared.vcpus.len()).map(spawn).collect();
        PortGuest { shared, writers, track: self.track, restricted }
    }
}

/// A board and a thread for each vCPU.
pub struct PortGuest<F: WalkedFormat> {
    shared: Arc<Shared<F>>,
    writers: Vec<JoinHandle<()>>,
    track: Track,
    restricted: Option<Restricted<F>>,
}

struct Shared<F: WalkedFormat> {
    board: Board<F>,
    plan: Plan,
    number: AtomicU64,
    vcpus: Vec<VcpuState>,
    phase: Mutex<Phase>,
    changed: Condvar,
    failed: AtomicBool,
}

#[derive(Default)]
struct VcpuState {
    /// Held for a batch of stores.
    turn: Mutex<()>,
    /// It stores nothing older any more.
    number: AtomicU64,
    stores: AtomicU64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Paused,
    Running,
    Over,
}

impl<F: WalkedFormat> Shared<F> {
    fn new(board: Board<F>, plan: Plan) -> Self {
        let vcpus = (0..plan.vcpus).map(|_| VcpuState::default()).collect();
        Self {
            board,
            plan,
            number: AtomicU64::new(1),
            vcpus,
            phase: Mutex::new(Phase::Paused),
            changed: Condvar::new(),
            failed: AtomicBool::new(false),
        }
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn_to(&self, phase: Phase) {
        *self.phase() = phase;
        self.changed.notify_all();
    }

    /// Waits while paused.
    fn may_go_on(&self) -> bool {
        let guard = self.changed.wait_while(self.phase(), |phase| *phase == Phase::Paused);
        *guard.unwrap_or_else(PoisonError::into_inner) == Phase::Running
    }

    fn check(&self) {
        assert!(!self.failed.load(Ordering::Relaxed), "a writer failed");
    }
}

impl<F: WalkedFormat> Guest for PortGuest<F> {
    type Source<'g> = BoardLog<'g, F>;

    fn source(&self) -> BoardLog<'_, F> {
        BoardLog::new(&self.shared.board, self.track)
    }

    fn set_number(&self, number: u64) {
        self.restricted.iter().for_each(Restricted::turn);
        self.shared.number.store(number, Ordering::Release);
    }

    fn resume(&self) {
        self.shared.turn_to(Phase::Running);
    }

    fn pause(&self) {
        self.shared.turn_to(Phase::Paused);
        for vcpu in &self.shared.vcpus {
            drop(vcpu.turn.lock());
        }
    }

    fn oldest_number(&self) -> u64 {
        self.shared.check();
        let numbers = self.shared.vcpus.iter().map(|vcpu| vcpu.number.load(Ordering::Acquire));
        numbers.min().unwrap_or(0)
    }

    fn stores(&self) -> Vec<u64> {
        self.shared.check();
        self.shared.vcpus.iter().map(|vcpu| vcpu.stores.load(Ordering::Acquire)).collect()
    }

    fn number_in(&self, page: u64) -> u64 {
        let at = GuestAddress(address_of(page).get());
        self.shared.board.memory().load(at, Ordering::Acquire).expect("the page is RAM")
    }
}

impl<F: WalkedFormat> Drop for PortGuest<F> {
    fn drop(&mut self) {
        self.shared.turn_to(Phase::Over);
        for writer in self.writers.drain(..) {
            let _ = writer.join();
        }
    }
}

/// The address of a page of the slot.
#[must_use]
pub fn address_of(page: u64) -> Gpa {
    Gpa::new(RAM_BASE.gpa().get() + page * PAGE_SIZE)
}

/// Says so if its thread panics.
struct Alarm<'s>(&'s AtomicBool);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

fn write<F: WalkedFormat>(shared: &Shared<F>, index: usize) {
    let _alarm = Alarm(&shared.failed);
    let mut port = shared.board.port().expect("there is memory for a port");
    let mut random = shared.plan.seed_of(index);
    while shared.may_go_on() {
        let turn = shared.vcpus[index].turn.lock();
        if *shared.phase() == Phase::Running {
            for _ in 0..BATCH {
                store_one(shared, index, &mut port, random.step());
            }
        }
        drop(turn);
    }
}

fn store_one<F: WalkedFormat>(shared: &Shared<F>, index: usize, port: &mut impl Bus, random: u64) {
    let vcpu = &shared.vcpus[index];
    let number = shared.number.load(Ordering::Acquire);
    vcpu.number.store(number, Ordering::Release);
    let entry = (random >> 20) % Plan::TABLE as u64;
    let page = shared.plan.table[usize::try_from(entry).expect("below TABLE")];
    let at = address_of(page);
    let stored = port.store(at, Width::Double, number).or_else(|error| match error {
        BusError::Emulate(_) => {
            let by = EmulatedStore { hart: u32::try_from(index).expect("few"), pc: Gpa::new(0) };
            port.emulate_store(by, at, Width::Double, number)
        }
        error => Err(error),
    });
    stored.expect("the page is RAM");
    vcpu.stores.fetch_add(1, Ordering::Release);
}
