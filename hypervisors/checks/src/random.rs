//! Everything mixed, in an order that nobody thought of, held to a model that cannot be wrong: what
//! memory holds, what was stored to since the last harvest, and who is tracked or restricted.

mod model;

use crate::Check;
use crate::draw::Draw;
use crate::lab::{DATA, Lab, Vm, data, page};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use model::{Model, Place};
use vellum_mmu::{
    Config, DirtyBits, Initial, LogMode, Origin, Outcome, Protect, SlotSpec, SubPageRange,
    TrackMode, WriteError,
};
use vellum_pte::{GfnRange, Level, SubPageMap};
use vm::{Guest, Processor, Ran, SPACE};

pub(crate) fn checks<P: Processor>() -> Vec<Check<P>> {
    let mut all = vec![
        Check::new("random-operations", in_small_leaves),
        Check::new("random-operations-huge", in_huge_leaves),
    ];
    if P::features().accessed_dirty {
        all.push(Check::new("random-operations-dirty-bits", by_dirty_bits));
    }
    if P::features().page_log {
        all.push(Check::new("random-operations-page-log", by_the_page_log));
    }
    all
}

const STEPS: u64 = 3000;
/// Pages that are stored to: some in each table of leaves, so that each step meets what others left.
const PAGES: u64 = 48;
const TABLES: u64 = 4;

fn in_small_leaves<P: Processor>(lab: &Lab<P>) -> String {
    walk(&lab.logged(), 0x243f_6a88_85a3_08d3)
}

fn in_huge_leaves<P: Processor>(lab: &Lab<P>) -> String {
    walk(&lab.huge(LogMode::On), 0x1319_8a2e_0370_7344)
}

fn by_dirty_bits<P: Processor>(lab: &Lab<P>) -> String {
    by_hardware(lab, DirtyBits::Scanned, 0xa409_3822_299f_31d0)
}

fn by_the_page_log<P: Processor>(lab: &Lab<P>) -> String {
    by_hardware(lab, DirtyBits::Logged, 0x082e_fa98_ec4e_6c89)
}

fn by_hardware<P: Processor>(lab: &Lab<P>, dirty_bits: DirtyBits, seed: u64) -> String {
    let config = Config { dirty_bits, ..lab.config() };
    let vm = Vm::new(lab.host().with_leaves(Level::L2), config, LogMode::On);
    walk(&vm, seed)
}

/// A page of those that are stored to.
const fn any_page(draw: &mut Draw) -> u64 {
    let number = draw.below(PAGES);
    number / TABLES + (number % TABLES) * 512
}

const fn any_place(draw: &mut Draw) -> Place {
    Place { index: any_page(draw), sub_page: draw.below(32) }
}

struct Walk<'m, P: Processor> {
    vm: &'m Vm<P>,
    guest: Guest<'m, P>,
    draw: Draw,
    model: Model,
}

fn walk<P: Processor>(vm: &Vm<P>, seed: u64) -> String {
    vm.mmu.enable_tracking().expect("memory for counts");
    vm.mmu.activate_sub_pages().expect("memory for sub-page tables");
    let mut guest = vm.guest();
    guest.load_sub_pages();
    let mut walk = Walk { vm, guest, draw: Draw::new(seed), model: Model::new() };
    for step in 1..=STEPS {
        walk.step(step);
    }
    walk.harvest(Protect::Pages);
    let exits = walk.guest.exits();
    format!("{STEPS} steps, {} faults, {} emulated stores", exits.faults, exits.emulated)
}

impl<P: Processor> Walk<'_, P> {
    fn step(&mut self, step: u64) {
        match self.draw.below(100) {
            0..45 => self.store(step),
            45..60 => self.load(),
            60..68 => self.write(step),
            68..73 => self.harvest(Protect::Pages),
            73..78 => self.protect_all(),
            78..80 => self.vm.mmu.write_protect_all_off(),
            80..85 => self.track(),
            85..91 => self.restrict(),
            91..94 => self.invalidate(),
            94..96 => drop(self.vm.aged()),
            96..98 => self.switch_log(),
            98 => self.replace_slot(),
            _ => self.lift_all(),
        }
    }

    /// By the guest.
    fn store(&mut self, value: u64) {
        let place = any_place(&mut self.draw);
        let ran = self.guest.store(place.gpa(), value);
        if self.model.store(place, value) {
            assert!(matches!(ran, Ran::Done(_)), "a store to {place:?} ended with {ran:?}");
        } else {
            let denied = matches!(ran, Ran::Stopped(Outcome::Denied(_)));
            assert!(denied, "a store to {place:?} was to be denied, and ended with {ran:?}");
        }
        assert_eq!(self.vm.read(place.gpa()), self.model.at(place), "{place:?} after a store");
    }

    fn load(&mut self) {
        let place = any_place(&mut self.draw);
        assert_eq!(self.guest.load(place.gpa()), Ran::Done(self.model.at(place)), "{place:?}");
    }

    /// By a device.
    fn write(&mut self, value: u64) {
        let place = any_place(&mut self.draw);
        let writer = self.vm.mmu.guest_writer(Origin::Device);
        let written = writer.write(SPACE, place.gpa(), &value.to_le_bytes());
        if self.model.store(place, value) {
            assert_eq!(written, Ok(()), "a device's write to {place:?}");
        } else {
            let denied = matches!(written, Err(WriteError::Denied(_)));
            assert!(denied, "a device's write to {place:?} ended with {written:?}");
        }
    }

    /// Exactly what was stored to.
    fn harvest(&mut self, protect: Protect) {
        if let Some(stored) = self.model.harvest() {
            assert_eq!(self.vm.harvest(protect), stored);
        }
    }

    fn protect_all(&mut self) {
        self.harvest(Protect::Nothing);
        self.vm.mmu.write_protect_all();
    }

    fn track(&mut self) {
        let index = any_page(&mut self.draw);
        let gfn = page(index).gfn();
        if self.model.tracked.remove(&index) {
            self.vm.mmu.untrack(SPACE, gfn, TrackMode::Write).expect("it is tracked");
        } else {
            self.vm.mmu.track(SPACE, gfn, TrackMode::Write).expect("a page of a slot");
            self.model.tracked.insert(index);
        }
    }

    fn restrict(&mut self) {
        let (high, low) = (self.draw.below(1 << 16), self.draw.below(1 << 16));
        let bits = u32::try_from(high << 16 | low).expect("32 bits");
        let index = any_page(&mut self.draw);
        self.set_map(index, SubPageMap::new(bits));
    }

    fn set_map(&mut self, index: u64, map: SubPageMap) {
        let range = SubPageRange::new(SPACE, page(index).gfn());
        assert_eq!(self.vm.mmu.set_sub_pages(range, &[map]), Ok(1));
        self.model.restrict(index, map);
    }

    /// Nobody restricts anything any more: huge leaves may come back.
    fn lift_all(&mut self) {
        for index in self.model.restricted() {
            self.set_map(index, SubPageMap::ALL);
        }
    }

    fn invalidate(&mut self) {
        let first = page(any_page(&mut self.draw)).gfn();
        let pages = 1 + self.draw.below(16);
        let range = GfnRange::new(first, pages).expect("in range");
        drop(self.vm.mmu.invalidate(SPACE, range));
    }

    fn switch_log(&mut self) {
        if self.model.is_logged() {
            self.vm.mmu.stop_log(DATA).expect("a logged slot");
            self.model.stop_log();
        } else {
            self.vm.mmu.start_log(DATA, Initial::Clean).expect("memory for a log");
            self.model.start_log();
        }
    }

    /// Another slot with the same memory knows nothing of what was asked of the old one.
    fn replace_slot(&mut self) {
        self.vm.mmu.delete_slot(DATA).expect("a slot");
        assert_eq!(self.guest.load(page(0)), Ran::Stopped(Outcome::Mmio));
        self.vm.mmu.create_slot(SlotSpec { log: LogMode::On, ..data() }).expect("room for a slot");
        self.model.forget();
    }
}
