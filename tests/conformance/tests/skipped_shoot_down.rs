//! Each shoot-down that the library makes is needed: if a hypervisor's n-th does nothing, a store
//! goes on unnoticed, and the suite says where.

use vellum_conformance::hypervisor::{Cpu, Hypervisor, Plenty, Refused, VirtualCpu};
use vellum_memory::{Layout, PageSet, Region};
use vellum_mmu::{Config, Initial, LogMode, Mmu, Protect, SlotAccess, SlotSpec};
use vellum_pte::{AddressSpace, Ept, Format, Gfn, GfnRange, Gpa, Npt, SlotId};

const SLOT: SlotId = SlotId(7);
const PAGE: u64 = 5;

/// Which operation let a store through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    StartLog,
    HarvestByPages,
    WriteProtectAll,
    DeleteSlot,
}

struct Guest<'m, F: Format> {
    mmu: &'m Mmu<F, Hypervisor>,
    cpu: VirtualCpu<'m, F, Plenty>,
    layout: Layout,
}

fn region() -> Region {
    let range = GfnRange::new(Gfn::new(11), 100).expect("in range");
    Region { slot: SLOT, space: AddressSpace::NORMAL, range }
}

fn at() -> Gpa {
    Gfn::new(11 + PAGE).gpa()
}

impl<F: Format> Guest<'_, F> {
    /// A store through whatever is cached.
    fn store(&mut self) {
        self.cpu.store(at(), 1).expect("the slot is there");
    }

    fn harvest(&self, protect: Protect) -> Vec<u64> {
        let mut round = PageSet::new(&self.layout);
        let taken = self.mmu.take_dirty(SLOT, protect, &mut round.regions_mut()[0]);
        taken.expect("it is logged");
        round.regions()[0].pages().collect()
    }

    /// Stores, and objects to `path` unless the store is logged.
    fn expect_logged(&mut self, protect: Protect, path: Fault) -> Result<(), Fault> {
        self.store();
        if self.harvest(protect) == [PAGE] { Ok(()) } else { Err(path) }
    }

    /// Every path that shoots down, each followed by a store that must not slip through.
    fn all_paths(&mut self) -> Result<(), Fault> {
        self.store();
        self.mmu.start_log(SLOT, Initial::Clean).expect("memory");
        self.expect_logged(Protect::Pages, Fault::StartLog)?;
        self.expect_logged(Protect::Pages, Fault::HarvestByPages)?;
        self.expect_logged(Protect::Nothing, Fault::HarvestByPages)?;
        self.mmu.write_protect_all();
        self.expect_logged(Protect::Nothing, Fault::WriteProtectAll)?;
        self.mmu.write_protect_all();
        self.expect_logged(Protect::Pages, Fault::WriteProtectAll)?;
        self.expect_logged(Protect::Pages, Fault::HarvestByPages)?;
        self.expect_logged(Protect::Nothing, Fault::HarvestByPages)?;
        self.mmu.delete_slot(SLOT).expect("it is there");
        let refused = self.cpu.store(at(), 2) == Err(Refused::Unmapped);
        let intact = self.mmu.embedder().peek(at()) == 1;
        if refused && intact { Ok(()) } else { Err(Fault::DeleteSlot) }
    }
}

/// Runs all paths with the `forgotten`-th shoot-down doing nothing; also how many were asked for.
fn run<F: Format>(forgotten: u64) -> (Result<(), Fault>, u64) {
    let hypervisor = Hypervisor::with_memory(Plenty);
    hypervisor.forget_shoot_down(forgotten);
    let mmu = Mmu::<F, _>::new(hypervisor, Config::default()).expect("memory");
    let Region { slot: id, space, range } = region();
    let (access, log) = (SlotAccess::ReadWrite, LogMode::Off);
    mmu.create_slot(SlotSpec { access, log, ..SlotSpec::new(id, space, range) }).expect("memory");
    let cpu = VirtualCpu::new(&mmu, 0, space).expect("memory");
    let layout = Layout::new(vec![region()]).expect("one region");
    let verdict = Guest { mmu: &mmu, cpu, layout }.all_paths();
    (verdict, mmu.embedder().shoot_downs())
}

fn each_is_missed<F: Format>() {
    const PATHS: [Fault; 8] = [
        Fault::StartLog,
        Fault::HarvestByPages,
        Fault::HarvestByPages,
        Fault::WriteProtectAll,
        Fault::WriteProtectAll,
        Fault::HarvestByPages,
        Fault::HarvestByPages,
        Fault::DeleteSlot,
    ];
    const NEVER: u64 = 0;
    assert_eq!(run::<F>(NEVER), (Ok(()), PATHS.len() as u64), "nothing is forgotten");
    for (number, path) in (1..).zip(PATHS) {
        assert_eq!(run::<F>(number).0, Err(path), "the shoot-down {number} was forgotten");
    }
}

#[test]
fn a_shoot_down_skipped_on_any_path_is_found() {
    each_is_missed::<Ept>();
    each_is_missed::<Npt>();
}
