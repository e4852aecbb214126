//! The first CPU: runs the guest until it ends, and looks at its memory whenever it is time.

use crate::blocks::blocks_of_2_mib;
use crate::clock::Clock;
use crate::cpu::Cpu;
use crate::firmware::Ended;
use crate::guest::Start;
use crate::handover::Handover;
use crate::oracle::Oracle;
use crate::pace::Pace;
use crate::record::Record;
use crate::vm::{MEMORY, SPACE, Vm};
use vellum_memory::{Layout, PageSet, Region};
use vellum_mmu::Initial;
use vellum_pte::PAGE_SIZE;

/// Whether the guest's writes are logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Log {
    /// They are.
    On,
    /// They are not, until the next look.
    Off,
}

/// So many harvests are made while the second CPU runs before one is compared with the oracle: for
/// that it is halted.
const HARVESTS_UNDER_WAY: u64 = 3;

/// A guest that runs, and what is looked at meanwhile.
pub(crate) struct Machine<'m> {
    vm: &'m Vm,
    cpu: Cpu<'m>,
    log: Log,
    /// How many harvests there were when it ended last.
    log_ended: usize,
    pace: Pace,
    /// What was harvested since the oracle was asked.
    round: PageSet,
    /// Harvests since then.
    under_way: u64,
    oracle: Oracle,
    clock: Clock,
    /// What the harvests had.
    pub(crate) record: Record,
}

impl<'m> Machine<'m> {
    /// A guest that has not begun.
    pub(crate) fn new(vm: &'m Vm, handover: &Handover) -> Self {
        let region = Region { slot: MEMORY, space: SPACE, range: vm.pages };
        let layout = Layout::new(alloc::vec![region]).expect("one region");
        let oracle = Oracle::new(handover.host_first, vm.pages.pages());
        let cpu = Cpu::new(vm, Start { entry: handover.entry, argument: handover.tree });
        let clock = Clock::start();
        vm.second.keep_time(clock.offset());
        Self {
            vm,
            cpu,
            log: Log::On,
            log_ended: 0,
            pace: Pace::new(handover.mistake, handover.cpus),
            round: PageSet::new(&layout),
            under_way: 0,
            oracle,
            clock,
            record: Record::default(),
        }
    }

    /// Runs the guest to its end, or until `enough` says so after a harvest.
    pub(crate) fn run(&mut self, enough: impl Fn(&Record) -> bool) -> Option<Ended> {
        loop {
            let exit = self.cpu.enter();
            let ended = self.cpu.handle(exit).err();
            if ended.is_some() {
                while !self.look() {}
            } else if self.pace.is_time(exit) {
                self.glance();
            }
            if ended.is_some() || enough(&self.record) {
                self.vm.second.end();
                return ended;
            }
        }
    }

    /// While the second CPU runs, a harvest; now and then it is halted, and the oracle is asked.
    fn glance(&mut self) {
        self.pace.harvested();
        let runs = self.vm.second.has_begun();
        if runs && self.log == Log::On && self.under_way < HARVESTS_UNDER_WAY {
            self.under_way += 1;
            self.record.under_way += 1;
            self.take();
        } else {
            self.look();
        }
    }

    /// Halts the guest, and looks. Its clock stands still meanwhile. `false`: it does not halt now.
    fn look(&mut self) -> bool {
        let Some(halted) = self.vm.second.halt() else {
            self.record.not_halted += 1;
            return false;
        };
        self.clock.stop();
        match self.log {
            Log::On => self.harvest(),
            Log::Off => self.begin_log(),
        }
        self.clock.resume();
        halted.release(self.clock.offset());
        self.record.stopped = self.clock.milliseconds_stopped();
        self.under_way = 0;
        self.end_log();
        true
    }

    /// Every now and then, in the way that is about it, the log ends: while the second CPU runs, huge
    /// leaves come back.
    fn end_log(&mut self) {
        let harvests = self.record.harvests.len();
        let is_time = |some| harvests.is_multiple_of(some) && harvests > self.log_ended;
        if self.vm.way.harvests_of_a_log().is_some_and(is_time) {
            self.vm.mmu.stop_log(MEMORY).expect("a logged slot");
            self.log = Log::Off;
            self.log_ended = harvests;
        }
    }

    fn take(&mut self) {
        let taken = &mut self.round.regions_mut()[0];
        self.vm.way.harvest(&self.vm.mmu, MEMORY, taken).expect("a logged slot");
    }

    /// What was written is taken, and compared with what has changed.
    fn harvest(&mut self) {
        self.take();
        let seen = self.oracle.judge(&self.round.regions()[0]);
        self.round.clear();
        self.record.add(self.clock.milliseconds(), seen);
    }

    /// Nothing of what was written while the log was off is in a harvest: the oracle begins anew, too.
    fn begin_log(&mut self) {
        let first = self.vm.pages.first().get() * PAGE_SIZE;
        self.record.blocks.push(blocks_of_2_mib(self.vm.root(), first));
        self.vm.mmu.start_log(MEMORY, Initial::Clean).expect("memory for a log");
        self.oracle.begin();
        self.log = Log::On;
    }
}
