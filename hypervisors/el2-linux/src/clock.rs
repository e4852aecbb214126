//! The guest's clock, which stands still while the guest is looked at.

use crate::registers;

/// Counts the guest's time.
pub(crate) struct Clock {
    /// Ticks of the physical counter at which the guest's was 0.
    zero: u64,
    /// When the guest was stopped.
    stopped: u64,
    /// Ticks that it was stopped for, in all.
    lost: u64,
}

impl Clock {
    /// The guest's time begins.
    pub(crate) fn start() -> Self {
        let clock = Self { zero: counter(), stopped: 0, lost: 0 };
        registers::set_cntvoff_el2(clock.zero);
        clock
    }

    /// The guest's clock stands still from now on.
    pub(crate) fn stop(&mut self) {
        self.stopped = counter();
    }

    /// And goes on.
    pub(crate) fn resume(&mut self) {
        let looked = counter() - self.stopped;
        self.lost += looked;
        self.zero += looked;
        registers::set_cntvoff_el2(self.zero);
    }

    /// What a virtual counter is behind the physical one.
    pub(crate) fn offset(&self) -> u64 {
        self.zero
    }

    /// The guest's time, while it stands still.
    pub(crate) fn milliseconds(&self) -> u64 {
        (self.stopped - self.zero) * 1000 / frequency()
    }

    /// How many milliseconds it stood still so far.
    pub(crate) fn milliseconds_stopped(&self) -> u64 {
        self.lost * 1000 / frequency()
    }
}

fn counter() -> u64 {
    registers::cntpct_el0()
}

fn frequency() -> u64 {
    registers::cntfrq_el0()
}
