//! A plain machine for tests: flat memory, and harts that take turns.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vellum_machine::bus::{Bus, BusError, Width};
use vellum_machine::elf::Image;
use vellum_machine::sbi::{
    self, After, HartStatus, Parameter, Platform, ShutdownReason, StartError,
};
use vellum_machine::vcpu::{Exit, Hart};
use vellum_pte::{Gfn, GfnRange, Gpa};

/// Memory from `base` on. Clones share it.
#[derive(Clone)]
pub(crate) struct Flat {
    pub(crate) base: u64,
    words: Arc<[AtomicU64]>,
    pub(crate) epoch: u64,
}

impl Flat {
    pub(crate) fn new(base: u64, bytes: u64) -> Self {
        let words = (0..bytes / 8).map(|_| AtomicU64::new(0)).collect();
        Self { base, words, epoch: 0 }
    }

    pub(crate) fn range(&self) -> GfnRange {
        let pages = self.words.len() as u64 / 512;
        GfnRange::new(Gpa::new(self.base).gfn(), pages).expect("memory has an end")
    }

    pub(crate) fn word(&self, at: u64) -> u64 {
        self.words[((at - self.base) / 8) as usize].load(Ordering::SeqCst)
    }

    pub(crate) fn set_word(&self, at: u64, value: u64) {
        self.words[((at - self.base) / 8) as usize].store(value, Ordering::SeqCst);
    }

    pub(crate) fn page(&self, at: u64) -> Vec<u64> {
        (0..512).map(|word| self.word(at + 8 * word)).collect()
    }

    pub(crate) fn set_page(&self, at: u64, page: &[u64]) {
        for (word, value) in (0..).zip(page) {
            self.set_word(at + 8 * word, *value);
        }
    }

    pub(crate) fn place(&self, image: &Image) {
        let write = |at: Gpa, bytes: &[u8]| {
            bytes.iter().zip(at.get()..).try_for_each(|(byte, at)| self.put(at, 1, (*byte).into()))
        };
        image.place(self.range(), write).expect("the image fits");
    }

    pub(crate) fn place_words(&self, at: u64, words: &[u32]) {
        for (word, at) in words.iter().zip((at..).step_by(4)) {
            self.put(at, 4, (*word).into()).expect("the program fits");
        }
    }

    fn cell(&self, at: u64) -> Result<&AtomicU64, BusError> {
        let offset = at.checked_sub(self.base).map(|offset| (offset / 8) as usize);
        offset.and_then(|index| self.words.get(index)).ok_or(BusError::Unmapped(Gpa::new(at)))
    }

    fn get(&self, at: u64, bytes: u64) -> Result<u64, BusError> {
        if at % 8 + bytes <= 8 {
            let word = self.cell(at)?.load(Ordering::Relaxed) >> (8 * (at % 8));
            return Ok(word & mask(bytes));
        }
        let each = (0..bytes).map(|byte| Ok(self.get(at.wrapping_add(byte), 1)? << (8 * byte)));
        each.sum()
    }

    fn put(&self, at: u64, bytes: u64, value: u64) -> Result<(), BusError> {
        if at % 8 + bytes <= 8 {
            return self.swap_in(at, bytes, value);
        }
        self.cell(at)?;
        self.cell(at.wrapping_add(bytes - 1))?;
        (0..bytes).try_for_each(|byte| self.swap_in(at + byte, 1, value >> (8 * byte)))
    }

    fn swap_in(&self, at: u64, bytes: u64, value: u64) -> Result<(), BusError> {
        let cell = self.cell(at)?;
        if bytes == 8 {
            cell.store(value, Ordering::Relaxed);
            return Ok(());
        }
        let shift = 8 * (at % 8);
        let hole = !(mask(bytes) << shift);
        let put = |old| Some(old & hole | (value & mask(bytes)) << shift);
        cell.fetch_update(Ordering::SeqCst, Ordering::SeqCst, put)
            .map(|_| ())
            .map_err(|_| BusError::Unmapped(Gpa::new(at)))
    }
}

fn mask(bytes: u64) -> u64 {
    u64::MAX >> (64 - 8 * bytes)
}

impl Bus for Flat {
    fn load(&mut self, gpa: Gpa, width: Width) -> Result<u64, BusError> {
        self.get(gpa.get(), width.bytes())
    }

    fn store(&mut self, gpa: Gpa, width: Width, value: u64) -> Result<(), BusError> {
        self.put(gpa.get(), width.bytes(), value)
    }

    fn compare_exchange(
        &mut self,
        gpa: Gpa,
        width: Width,
        expected: u64,
        new: u64,
    ) -> Result<u64, BusError> {
        let cell = self.cell(gpa.get())?;
        let shift = 8 * (gpa.get() % 8);
        let field = mask(width.bytes()) << shift;
        assert_eq!((expected | new) & !mask(width.bytes()), 0, "values are zero-extended");
        loop {
            let whole = cell.load(Ordering::SeqCst);
            let found = (whole & field) >> shift;
            if found != expected {
                return Ok(found);
            }
            let next = whole & !field | new << shift;
            if cell.compare_exchange(whole, next, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                return Ok(found);
            }
        }
    }

    fn fetch(&mut self, gfn: Gfn, into: &mut [u32; 1024]) -> Result<(), BusError> {
        for (word, at) in into.iter_mut().zip((gfn.gpa().get()..).step_by(4)) {
            *word = u32::try_from(self.get(at, 4)?).expect("four bytes were asked for");
        }
        Ok(())
    }

    fn epoch(&self) -> u64 {
        self.epoch
    }
}

/// Harts that take turns on one [`Flat`].
pub(crate) struct Machine {
    pub(crate) memory: Flat,
    pub(crate) harts: Vec<Option<Hart>>,
    pub(crate) board: Board,
}

/// What the harts share besides memory.
pub(crate) struct Board {
    pub(crate) console: Vec<u8>,
    pub(crate) passes: Vec<u64>,
    pub(crate) parameters: [u64; 5],
    pub(crate) running: Vec<bool>,
    pub(crate) starts: Vec<(u64, Gpa, u64)>,
    pub(crate) shutdown: Option<ShutdownReason>,
    pub(crate) waits: u64,
    pub(crate) turns: u64,
}

impl Platform for Board {
    fn write_console(&mut self, bytes: &[u8]) {
        self.console.extend_from_slice(bytes);
    }

    fn time_ns(&mut self) -> u64 {
        self.turns * 1000
    }

    fn progress(&mut self, hart: u64, passes: u64) {
        self.passes[hart as usize] = passes;
    }

    fn parameter(&mut self, parameter: Parameter) -> u64 {
        self.parameters[parameter as usize]
    }

    fn start_hart(&mut self, hart: u64, entry: Gpa, opaque: u64) -> Result<(), StartError> {
        match self.running.get_mut(hart as usize) {
            None => Err(StartError::NoSuchHart),
            Some(true) => Err(StartError::AlreadyAvailable),
            Some(running) => {
                *running = true;
                self.starts.push((hart, entry, opaque));
                Ok(())
            }
        }
    }

    fn hart_status(&mut self, hart: u64) -> Option<HartStatus> {
        let running = self.running.get(hart as usize)?;
        Some(if *running { HartStatus::Started } else { HartStatus::Stopped })
    }
}

impl Machine {
    /// Hart 0 at the image's entry, in so many bytes of RAM.
    pub(crate) fn new(image: &Image, bytes: u64, harts: usize, word: u64) -> Self {
        let base = 0x8000_0000;
        let memory = Flat::new(base, bytes);
        memory.place(image);
        let board = Board {
            console: Vec::new(),
            passes: vec![0; harts],
            parameters: [base, bytes, harts as u64, 7, word],
            running: vec![false; harts],
            starts: Vec::new(),
            shutdown: None,
            waits: 0,
            turns: 0,
        };
        let mut machine = Self { memory, harts: (0..harts).map(|_| None).collect(), board };
        machine.board.start_hart(0, image.entry(), 0).expect("hart 0 is stopped");
        machine
    }

    /// Lets every hart run for about so many instructions.
    pub(crate) fn turn(&mut self, budget: u64) {
        self.board.turns += 1;
        for (id, entry, opaque) in self.board.starts.drain(..) {
            self.harts[id as usize] = Some(Hart::new(id, entry, opaque));
        }
        for slot in &mut self.harts {
            let Some(hart) = slot else { continue };
            if self.board.shutdown.is_none() && !go(hart, &mut self.memory, &mut self.board, budget)
            {
                self.board.running[hart.id() as usize] = false;
                *slot = None;
            }
        }
    }

    /// Turns until every hart has finished `passes` passes or the guest has shut down.
    pub(crate) fn run_to_pass(&mut self, passes: u64) {
        while self.board.shutdown.is_none() && self.board.passes.iter().any(|done| *done < passes) {
            self.turn(20_000);
            assert!(self.board.turns < 1_000_000, "the guest makes no progress");
        }
    }

    pub(crate) fn run_to_shutdown(&mut self) -> ShutdownReason {
        loop {
            if let Some(reason) = self.board.shutdown {
                return reason;
            }
            self.turn(20_000);
            assert!(self.board.turns < 1_000_000, "the guest does not shut down");
        }
    }

    pub(crate) fn console(&self) -> String {
        String::from_utf8_lossy(&self.board.console).into_owned()
    }
}

/// Runs a hart for one turn; false if it stopped.
fn go(hart: &mut Hart, memory: &mut Flat, board: &mut Board, budget: u64) -> bool {
    let end = hart.instret() + budget;
    while hart.instret() < end {
        hart.set_time(board.turns * 1000);
        match hart.run(memory, end - hart.instret()) {
            Exit::Budget => {}
            Exit::Wfi => {
                board.waits += 1;
                return true;
            }
            Exit::Ecall => match sbi::call(hart, memory, board) {
                After::Resume => {}
                After::StopHart => return false,
                After::Shutdown(reason) => {
                    board.shutdown = Some(reason);
                    return true;
                }
                After::Fault(error) => panic!("hart {} at {}: {error}", hart.id(), hart.pc()),
            },
            exit => panic!("hart {} at {}: {exit:?}", hart.id(), hart.pc()),
        }
    }
    true
}
