//! A whole machine: a board, and a thread for each hart.
//!
//! It begins paused. Everything that running needs (threads, memory ports) is there before it is
//! handed out, so that [`Machine::resume`] cannot fail.

mod clock;
mod console;
mod drive;
mod gate;
mod state;
mod status;

pub use console::ConsoleSink;
pub use state::{MAX_HARTS, MachineState, MachineStateError};
pub use status::{DeniedStore, HartFailure, Status};

use crate::board::{Board, BoardConfig, SubPageHardware};
use crate::elf::{Image, PlaceError};
use crate::error::BoardError;
use crate::logging::Logging;
use crate::port::{PortError, ShootDown};
use crate::ram::{PageSize, RAM_BASE};
use crate::sbi::Parameter;
use crate::vcpu::{Hart, HartState};
use crate::walker::{AccessFlags, WalkedFormat};
use clock::Clock;
use gate::{Gate, Run, Start};
use state::{SavedHart, Started};
use status::Ended;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use vellum_memory::guest::{Bytes, GuestAddress};
#[cfg(feature = "breaks")]
use vellum_mmu::Break;
use vellum_pte::PAGE_SIZE;

/// What a machine is to have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MachineConfig {
    /// Bytes of RAM, rounded up to pages.
    pub memory: u64,
    /// Harts: 1 to [`MAX_HARTS`].
    pub vcpus: usize,
    /// What the guest makes its random numbers from.
    pub seed: u64,
    /// A number for the guest: see [`Builtin`](crate::guests::Builtin).
    pub word: u64,
    /// The largest pages of its RAM.
    pub pages: PageSize,
    /// Who sets A and D in the tables.
    pub flags: AccessFlags,
    /// How shoot-downs are made.
    pub shoot_down: ShootDown,
    /// Whether its processors have sub-page write permissions, where the format has tables for them.
    pub sub_pages: SubPageHardware,
    /// What logs writes, beside faults.
    pub logging: Logging,
    /// A deliberate bug.
    #[cfg(feature = "breaks")]
    pub broken: Option<Break>,
}

impl MachineConfig {
    /// With seed 0, word 0, small pages, A and D by hardware, this host's best shoot-down, and
    /// sub-page permissions where the format has them.
    #[must_use]
    pub fn new(memory: u64, vcpus: usize) -> Self {
        Self {
            memory,
            vcpus,
            seed: 0,
            word: 0,
            pages: PageSize::default(),
            flags: AccessFlags::default(),
            shoot_down: ShootDown::best(),
            sub_pages: SubPageHardware::Present,
            logging: Logging::default(),
            #[cfg(feature = "breaks")]
            broken: None,
        }
    }
}

/// Why a machine could not be built.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// No machine has so many harts, or none.
    #[error("a machine has 1 to {MAX_HARTS} vCPUs, not {0}")]
    Harts(usize),
    /// No machine has so much memory.
    #[error("{0} bytes of memory end past the last address")]
    Memory(u64),
    /// The board.
    #[error(transparent)]
    Board(#[from] BoardError),
    /// A hart's memory port.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The host gives no thread.
    #[error("no thread for a vCPU")]
    Thread(#[source] std::io::Error),
    /// The image is not for this machine's RAM.
    #[error(transparent)]
    Image(#[from] PlaceError<vm_memory::GuestMemoryError>),
}

/// Why a machine's state could not be saved or restored. The machine is as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It is not paused.
    #[error("the machine is not paused")]
    NotPaused,
    /// It failed: there is nothing to go on with.
    #[error(transparent)]
    Failed(#[from] HartFailure),
    /// A hart's thread panicked.
    #[error("the thread of hart {hart} panicked")]
    Panicked {
        /// Its number.
        hart: u64,
    },
    /// The state is of a machine with another number of harts.
    #[error("a state of {state} harts for a machine of {machine}")]
    Harts {
        /// In the state.
        state: usize,
        /// In the machine.
        machine: usize,
    },
}

/// A hart and what others may see of it.
#[derive(Debug)]
struct HartCell {
    /// Locked by its thread for a turn.
    hart: Mutex<Hart>,
    instructions: AtomicU64,
    progress: AtomicU64,
}

impl HartCell {
    fn new(id: u64) -> Self {
        let hart = Hart::restore(&HartState::at(id, RAM_BASE.gpa()));
        let (instructions, progress) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { hart: Mutex::new(hart), instructions, progress }
    }

    fn lock(&self) -> MutexGuard<'_, Hart> {
        // A panic in a turn ends the machine; its registers are still worth looking at.
        self.hart.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the harts' threads share.
struct Shared<F: WalkedFormat> {
    board: Board<F>,
    harts: Vec<HartCell>,
    gate: Gate,
    clock: Clock,
    /// Pausing, resuming, saving and restoring take turns.
    turning: Mutex<()>,
    console: Mutex<Box<dyn ConsoleSink>>,
    config: MachineConfig,
}

impl<F: WalkedFormat> Shared<F> {
    fn console(&self) -> MutexGuard<'_, Box<dyn ConsoleSink>> {
        self.console.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn parameter(&self, parameter: Parameter) -> u64 {
        match parameter {
            Parameter::RamBase => RAM_BASE.gpa().get(),
            Parameter::RamSize => self.board.layout().pages() * PAGE_SIZE,
            Parameter::Harts => self.harts.len() as u64,
            Parameter::Seed => self.config.seed,
            Parameter::Word => self.config.word,
        }
    }
}

/// A machine whose second-stage tables are spelt as `F`. Dropping it stops it.
pub struct Machine<F: WalkedFormat> {
    shared: Arc<Shared<F>>,
    threads: Vec<JoinHandle<()>>,
}

impl<F: WalkedFormat> Machine<F> {
    /// A paused machine with `image` in its RAM and hart 0 at its entry.
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn new(
        config: &MachineConfig,
        image: &Image,
        console: Box<dyn ConsoleSink>,
    ) -> Result<Self, MachineError> {
        let machine = Self::vacant(config, console)?;
        machine.place(image)?;
        let start = Start { entry: image.entry(), opaque: 0 };
        // Hart 0 exists and is stopped: nobody has run yet.
        let _ = machine.shared.gate.start_hart(0, start);
        Ok(machine)
    }

    /// A paused machine with nothing in its RAM and all harts stopped, for
    /// [`restore`](Self::restore).
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn vacant(
        config: &MachineConfig,
        console: Box<dyn ConsoleSink>,
    ) -> Result<Self, MachineError> {
        if !(1..=MAX_HARTS).contains(&config.vcpus) {
            return Err(MachineError::Harts(config.vcpus));
        }
        let shared = Arc::new(Shared {
            board: Board::new(&board_config(config)?)?,
            harts: (0..config.vcpus as u64).map(HartCell::new).collect(),
            gate: Gate::new(config.vcpus),
            clock: Clock::new(),
            turning: Mutex::new(()),
            console: Mutex::new(console),
            config: config.clone(),
        });
        let mut machine = Self { shared, threads: Vec::new() };
        machine.start_threads()?;
        Ok(machine)
    }

    /// The board: its memory, its layout, its log.
    #[must_use]
    pub fn board(&self) -> &Board<F> {
        &self.shared.board
    }

    /// What it was built as.
    #[must_use]
    pub fn config(&self) -> &MachineConfig {
        &self.shared.config
    }

    /// Stops every hart between two instructions: on return none is in an access or a fault.
    pub fn pause(&self) {
        let _turning = self.turning();
        if !self.shared.gate.is_paused() {
            self.shared.gate.pause();
            self.shared.clock.pause();
        }
    }

    /// Starts the harts, or lets them run on; a hart whose store was denied tries it again.
    pub fn resume(&self) {
        let _turning = self.turning();
        if self.shared.gate.is_paused() {
            self.shared.clock.resume();
        }
        self.shared.gate.resume();
    }

    /// What it does now.
    #[must_use]
    pub fn status(&self) -> Status {
        match self.shared.gate.ended() {
            Some(ended) => ended.into(),
            None => self.standing(),
        }
    }

    /// What it does, if it has not ended.
    fn standing(&self) -> Status {
        match self.shared.gate.denied() {
            Some(store) => Status::Denied(store),
            None if self.shared.gate.is_paused() => Status::Paused,
            None => Status::Running,
        }
    }

    /// How many instructions each hart has retired, nearly: a running one tells now and then.
    pub fn instructions(&self) -> impl Iterator<Item = u64> + '_ {
        self.shared.harts.iter().map(|cell| cell.instructions.load(Ordering::Relaxed))
    }

    /// How many passes each hart has finished, by the guest's own count.
    pub fn progress(&self) -> impl Iterator<Item = u64> + '_ {
        self.shared.harts.iter().map(|cell| cell.progress.load(Ordering::Relaxed))
    }

    /// What has to move to another machine beside the memory.
    ///
    /// # Errors
    /// [`SnapshotError`]: it is not paused, or cannot go on.
    pub fn save(&self) -> Result<MachineState, SnapshotError> {
        let _turning = self.turning();
        self.check_paused()?;
        let shutdown = match self.shared.gate.ended() {
            None => None,
            Some(Ended::ShutDown(reason)) => Some(reason),
            Some(Ended::Failed(failure)) => return Err(failure.into()),
            Some(Ended::Panicked { hart }) => return Err(SnapshotError::Panicked { hart }),
        };
        let runs = self.shared.gate.runs();
        let harts = self.shared.harts.iter().zip(runs).map(|(cell, run)| saved(cell, run));
        let time_ns = self.shared.clock.paused_at();
        Ok(MachineState { time_ns, shutdown, harts: harts.collect() })
    }

    /// Makes this machine go on where another was saved, once its memory is here too and it is
    /// resumed.
    ///
    /// # Errors
    /// [`SnapshotError`]: it is not paused, or of another shape.
    pub fn restore(&self, state: &MachineState) -> Result<(), SnapshotError> {
        let _turning = self.turning();
        self.check_paused()?;
        let (machine, found) = (self.shared.harts.len(), state.harts.len());
        if machine != found {
            return Err(SnapshotError::Harts { state: found, machine });
        }
        for (cell, saved) in self.shared.harts.iter().zip(&state.harts) {
            *cell.lock() = Hart::restore(&saved.state);
            cell.instructions.store(saved.state.instret(), Ordering::Relaxed);
            cell.progress.store(saved.progress, Ordering::Relaxed);
        }
        let runs = state.harts.iter().map(|saved| run_of(saved.started)).collect();
        self.shared.gate.restore(runs, state.shutdown.map(Ended::ShutDown));
        self.shared.clock.set(state.time_ns);
        Ok(())
    }

    /// Held while the machine is turned on or off, or must stay off.
    fn turning(&self) -> MutexGuard<'_, ()> {
        self.shared.turning.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_paused(&self) -> Result<(), SnapshotError> {
        if self.shared.gate.is_paused() { Ok(()) } else { Err(SnapshotError::NotPaused) }
    }

    /// Writes the image behind the tables' back: nobody logs yet.
    fn place(&self, image: &Image) -> Result<(), PlaceError<vm_memory::GuestMemoryError>> {
        let board = self.board();
        let ram = board.layout().regions()[0].range;
        image.place(ram, |at, bytes| board.memory().write_slice(bytes, GuestAddress(at.get())))
    }

    /// A thread a hart; returns when each has its memory port.
    fn start_threads(&mut self) -> Result<(), MachineError> {
        let (ready, readiness) = channel();
        for hart in 0..self.shared.harts.len() {
            let thread = self.start_thread(hart, ready.clone()).map_err(MachineError::Thread)?;
            self.threads.push(thread);
        }
        drop(ready);
        all_ready(&readiness)
    }

    fn start_thread(
        &self,
        hart: usize,
        ready: Sender<Result<(), PortError>>,
    ) -> std::io::Result<JoinHandle<()>> {
        let shared = Arc::clone(&self.shared);
        std::thread::Builder::new()
            .name(format!("hart {hart}"))
            .spawn(move || start_driving(&shared, hart, ready))
    }
}

impl<F: WalkedFormat> Drop for Machine<F> {
    fn drop(&mut self) {
        self.shared.gate.close();
        for thread in self.threads.drain(..) {
            // A thread that panicked said so in the status.
            let _ = thread.join();
        }
    }
}

fn start_driving<F: WalkedFormat>(
    shared: &Shared<F>,
    hart: usize,
    ready: Sender<Result<(), PortError>>,
) {
    let port = shared.board.port();
    // Whoever listens does so until every thread has spoken and hung up.
    let _ = ready.send(port.as_ref().map(drop).map_err(Clone::clone));
    drop(ready);
    if let Ok(port) = port {
        drive::drive(shared, hart, port);
    }
}

fn all_ready(readiness: &Receiver<Result<(), PortError>>) -> Result<(), MachineError> {
    Ok(readiness.iter().collect::<Result<(), PortError>>()?)
}

fn saved(cell: &HartCell, run: Run) -> SavedHart {
    let hart = cell.lock();
    let (state, started) = match run {
        Run::Stopped => (hart.save(), Started::No),
        Run::Started => (hart.save(), Started::Yes),
        Run::Starting(Start { entry, opaque }) => {
            (Hart::new(hart.id(), entry, opaque).save(), Started::Yes)
        }
    };
    SavedHart { state, started, progress: cell.progress.load(Ordering::Relaxed) }
}

fn run_of(started: Started) -> Run {
    match started {
        Started::No => Run::Stopped,
        Started::Yes => Run::Started,
    }
}

fn board_config(config: &MachineConfig) -> Result<BoardConfig, MachineError> {
    let board = BoardConfig::with_memory(config.memory);
    let board = board.ok_or(MachineError::Memory(config.memory))?;
    Ok(BoardConfig {
        pages: config.pages,
        flags: config.flags,
        shoot_down: config.shoot_down,
        sub_pages: config.sub_pages,
        logging: config.logging,
        #[cfg(feature = "breaks")]
        broken: config.broken,
        ..board
    })
}
