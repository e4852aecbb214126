//! The guest's second CPU: off until the guest switches it on, and halted while its memory is compared.

use crate::cpu::Cpu;
use crate::exit::Exit;
use crate::firmware;
use crate::guest::Start;
use crate::registers;
use crate::vm::Vm;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What the first CPU tells the second. All of it is ordered by `asked`, `begun` and `over`.
#[derive(Default)]
pub(crate) struct Second {
    /// Whether the machine has it.
    present: bool,
    entry: AtomicU64,
    argument: AtomicU64,
    begun: AtomicBool,
    /// Odd: it is to halt. A number is used once, so that no old answer is taken for a new one.
    asked: AtomicU64,
    /// The last odd number that it has halted for.
    halted: AtomicU64,
    /// What its virtual counter is behind the physical one.
    offset: AtomicU64,
    /// The guest has ended.
    over: AtomicBool,
}

/// The second CPU does not run the guest as long as this is there.
#[must_use]
pub(crate) struct Halted<'s> {
    second: &'s Second,
    asked: u64,
}

impl Second {
    /// One that is off, if the machine has it.
    pub(crate) fn new(cpus: u64) -> Self {
        Self { present: cpus > 1, ..Self::default() }
    }

    /// Whether the machine has it.
    pub(crate) fn is_present(&self) -> bool {
        self.present
    }

    /// Whether the guest has switched it on.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// Switches `cpu` on for the guest, and says what its firmware says of that.
    pub(crate) fn start(&self, cpu: u64, Start { entry, argument }: Start) -> u64 {
        if cpu != 1 || !self.present || self.has_begun() {
            return firmware::INVALID_PARAMETERS;
        }
        self.entry.store(entry, Ordering::Relaxed);
        self.argument.store(argument, Ordering::Relaxed);
        self.begun.store(true, Ordering::Release);
        firmware::SUCCESS
    }

    /// Sets what its virtual counter is behind the physical one when it begins.
    pub(crate) fn keep_time(&self, offset: u64) {
        self.offset.store(offset, Ordering::Relaxed);
    }

    /// Halts it, or gives up: it may wait in the guest for something that the first CPU has.
    pub(crate) fn halt(&self) -> Option<Halted<'_>> {
        const TURNS: u32 = 10_000_000;
        let asked = self.asked.load(Ordering::Relaxed) + 1;
        let halted = Halted { second: self, asked };
        self.asked.store(asked, Ordering::Release);
        let is_halted = || !self.has_begun() || self.halted.load(Ordering::Acquire) == asked;
        for _ in 0..TURNS {
            if is_halted() {
                return Some(halted);
            }
            spin_loop();
        }
        self.asked.store(asked + 1, Ordering::Release);
        None
    }

    /// Lets it go home.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Release);
    }

    /// Runs the guest on it, from when that is asked for until the guest has ended.
    pub(crate) fn run(&self, vm: &Vm) {
        while !self.has_begun() {
            if self.over.load(Ordering::Acquire) {
                return;
            }
            rest();
        }
        let entry = self.entry.load(Ordering::Relaxed);
        let argument = self.argument.load(Ordering::Relaxed);
        let mut cpu = Cpu::new(vm, Start { entry, argument });
        registers::set_cntvoff_el2(self.offset.load(Ordering::Relaxed));
        while !self.over.load(Ordering::Acquire) {
            if let Some(asked) = self.asked() {
                self.stand_still(asked);
                continue;
            }
            match cpu.enter() {
                Exit::Wait => {
                    self.wait_for_interrupt();
                    cpu.skip();
                }
                exit => cpu.handle(exit).expect("a guest that ends on its first CPU"),
            }
        }
    }

    /// The number that it is to halt for, if it is.
    fn asked(&self) -> Option<u64> {
        Some(self.asked.load(Ordering::Acquire)).filter(|asked| asked % 2 == 1)
    }

    fn stand_still(&self, asked: u64) {
        self.halted.store(asked, Ordering::Release);
        while self.asked.load(Ordering::Acquire) == asked && !self.over.load(Ordering::Acquire) {
            rest();
        }
        registers::set_cntvoff_el2(self.offset.load(Ordering::Relaxed));
    }

    /// Until one is there, or the first CPU wants something.
    fn wait_for_interrupt(&self) {
        while registers::isr_el1() == 0
            && self.asked().is_none()
            && !self.over.load(Ordering::Acquire)
        {
            rest();
        }
    }
}

impl Halted<'_> {
    /// Lets it run again, its virtual counter so far behind the physical one.
    pub(crate) fn release(self, offset: u64) {
        self.second.offset.store(offset, Ordering::Relaxed);
        self.second.asked.store(self.asked + 1, Ordering::Release);
    }
}

/// An emulator gives the time to another CPU.
fn rest() {
    crate::guest::wait_for_event();
}
