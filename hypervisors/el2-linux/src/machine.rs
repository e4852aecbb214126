//! The exit handler: drives the guest until it ends, and harvests whenever it is time.

use crate::blocks::blocks_of_2_mib;
use crate::clock::Clock;
use crate::exit::Exit;
use crate::firmware::{self, Ended};
use crate::guest::Guest;
use crate::handover::Handover;
use crate::host::{Host, memory_at};
use crate::oracle::Oracle;
use crate::pace::Pace;
use crate::record::Record;
use crate::trapped;
use crate::way::Way;
use vellum_memory::{Layout, PageSet, Region};
use vellum_mmu::{Access, Initial, LogMode, Mmu, Outcome, SlotSpec, Vcpu};
use vellum_pte::{AddressSpace, Gfn, GfnRange, Gpa, PAGE_SIZE, Pfn, SlotId, Stage2};

const SPACE: AddressSpace = AddressSpace::NORMAL;
const MEMORY: SlotId = SlotId(0);
const DEVICES: SlotId = SlotId(1);
/// The interrupt controller and the serial line, where QEMU's `virt` has them.
const DEVICES_FIRST: u64 = 0x0800_0000;
const DEVICES_BYTES: u64 = 0x0200_0000;

/// The second stage of the VM that `handover` describes: its memory, logged, and its devices.
pub(crate) fn second_stage(handover: &Handover) -> Mmu<Stage2, Host> {
    let mmu = Mmu::new(Host::new(handover), handover.way.config()).expect("memory for a VM");
    let devices = SlotSpec {
        memory: memory_at(DEVICES_FIRST),
        ..SlotSpec::new(DEVICES, SPACE, range(DEVICES_FIRST, DEVICES_BYTES))
    };
    let memory = SlotSpec {
        memory: memory_at(handover.host_first),
        log: LogMode::On,
        ..SlotSpec::new(MEMORY, SPACE, range(handover.guest_first, handover.guest_bytes))
    };
    mmu.create_slot(devices).expect("the first slot");
    mmu.create_slot(memory).expect("the second slot");
    mmu
}

fn range(first: u64, bytes: u64) -> GfnRange {
    GfnRange::new(Gfn::new(first / PAGE_SIZE), bytes / PAGE_SIZE).expect("in range")
}

/// Whether the guest's writes are logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Log {
    /// They are.
    On,
    /// They are not, until the next look.
    Off,
}

/// A guest that runs, and what is looked at meanwhile.
pub(crate) struct Machine<'m> {
    mmu: &'m Mmu<Stage2, Host>,
    vcpu: Vcpu<'m, Stage2, Host>,
    guest: Guest,
    root: Pfn,
    guest_first: u64,
    way: Way,
    log: Log,
    pace: Pace,
    round: PageSet,
    oracle: Oracle,
    clock: Clock,
    /// What the harvests had.
    pub(crate) record: Record,
}

impl<'m> Machine<'m> {
    /// A guest that has not begun.
    pub(crate) fn new(mmu: &'m Mmu<Stage2, Host>, handover: &Handover) -> Self {
        let root = mmu.root(SPACE).expect("every VM has its first space");
        let updates = handover.way.leaf_updates();
        let range = range(handover.guest_first, handover.guest_bytes);
        let layout = Layout::new(alloc::vec![Region { slot: MEMORY, space: SPACE, range }]);
        Self {
            mmu,
            vcpu: mmu.vcpu().expect("memory for a vCPU"),
            guest: Guest::new(handover, root, mmu.root_shape(), updates),
            root,
            guest_first: handover.guest_first,
            way: handover.way,
            log: Log::On,
            pace: Pace::new(handover.mistake),
            round: PageSet::new(&layout.expect("one region")),
            oracle: Oracle::new(handover.host_first, range.pages()),
            clock: Clock::start(),
            record: Record::default(),
        }
    }

    /// Runs the guest to its end, or until `enough` says so after a harvest.
    pub(crate) fn run(&mut self, enough: impl Fn(&Record) -> bool) -> Option<Ended> {
        loop {
            let exit = self.guest.enter();
            let ended = self.handle(exit).err();
            if self.pace.is_time(exit) || ended.is_some() {
                self.look();
            }
            if ended.is_some() || enough(&self.record) {
                return ended;
            }
        }
    }

    fn handle(&mut self, exit: Exit) -> Result<(), Ended> {
        match exit {
            Exit::Fault { gpa, access } => self.fault(gpa, access),
            Exit::FaultThatMoved => {}
            Exit::RegisterWrite { register, from } => self.write_register(register, from),
            Exit::Wait => {
                crate::guest::wait_for_interrupt();
                self.guest.skip();
            }
            Exit::Call => {
                let (function, argument) = (self.guest.register(0), self.guest.register(1));
                self.guest.set_register(0, firmware::call(function, argument)?);
            }
            Exit::Unknown(_) => panic!("at {:#x}: {exit:#x?}", self.guest.pc()),
        }
        Ok(())
    }

    fn fault(&mut self, gpa: Gpa, access: Access) {
        self.record.faults += 1;
        match self.vcpu.fault(SPACE, gpa, access) {
            Outcome::Mapped | Outcome::Spurious | Outcome::Retry => {}
            refused => {
                panic!("{access:?} of {gpa:?} from {:#x}: {refused:?}", self.guest.pc())
            }
        }
    }

    fn write_register(&mut self, register: u64, from: usize) {
        self.record.register_writes += 1;
        let value = self.guest.register(from);
        trapped::write(register, value).expect("a register whose writes are trapped");
        self.guest.skip();
    }

    /// The guest's clock stands still meanwhile.
    fn look(&mut self) {
        self.clock.stop();
        self.pace.harvested();
        match self.log {
            Log::On => self.harvest(),
            Log::Off => self.begin_log(),
        }
        self.clock.resume();
        self.record.stopped = self.clock.milliseconds_stopped();
    }

    /// What was written is taken, and compared with what has changed.
    fn harvest(&mut self) {
        let taken = &mut self.round.regions_mut()[0];
        taken.clear();
        self.way.harvest(self.mmu, MEMORY, taken).expect("a logged slot");
        let seen = self.oracle.judge(taken);
        self.record.add(self.clock.milliseconds(), seen);
        let harvests = self.record.harvests.len();
        if self.way.harvests_of_a_log().is_some_and(|some| harvests.is_multiple_of(some)) {
            self.mmu.stop_log(MEMORY).expect("a logged slot");
            self.log = Log::Off;
        }
    }

    /// Nothing of what was written while the log was off is in a harvest: the oracle begins anew, too.
    fn begin_log(&mut self) {
        self.record.blocks.push(blocks_of_2_mib(self.root, self.guest_first));
        self.mmu.start_log(MEMORY, Initial::Clean).expect("memory for a log");
        self.oracle.begin();
        self.log = Log::On;
    }
}
