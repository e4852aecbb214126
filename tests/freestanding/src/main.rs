//! A hypervisor's second stage in a program with neither std nor libc.
//!
//! It maps a page, logs a write to it, protects everything and logs the next write. The process
//! ends with 0, or with the number of the first step that went wrong.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

extern crate alloc;

mod hypervisor;
mod runtime;

use hypervisor::Bare;
use vellum_memory::{Layout, PageSet, Region};
use vellum_mmu::{Access, Config, Initial, Mmu, Outcome, Protect, SlotSpec, Vcpu};
use vellum_pte::{AddressSpace, Ept, Gfn, GfnRange, Gpa, SlotId};

const SLOT: SlotId = SlotId(0);
const SPACE: AddressSpace = AddressSpace::NORMAL;
const PAGE: Gpa = Gpa::new(0x3000);

/// The step that went wrong.
struct Step(i32);

fn main() -> i32 {
    match track() {
        Ok(()) => 0,
        Err(Step(number)) => number,
    }
}

fn track() -> Result<(), Step> {
    let range = GfnRange::new(Gfn::new(0), 64).ok_or(Step(1))?;
    let layout = layout(range).ok_or(Step(1))?;
    let mmu: Mmu<Ept, Bare> = Mmu::new(Bare, Config::default()).map_err(|_| Step(2))?;
    mmu.create_slot(SlotSpec::new(SLOT, SPACE, range)).map_err(|_| Step(3))?;
    let mut vcpu = mmu.vcpu().map_err(|_| Step(4))?;
    write(&mut vcpu, Step(5))?;
    mmu.start_log(SLOT, Initial::Clean).map_err(|_| Step(6))?;
    write(&mut vcpu, Step(7))?;
    expect_dirty(&mmu, &layout, Protect::Pages, Step(8))?;
    write(&mut vcpu, Step(9))?;
    mmu.write_protect_all();
    write(&mut vcpu, Step(10))?;
    expect_dirty(&mmu, &layout, Protect::Nothing, Step(11))
}

fn layout(range: GfnRange) -> Option<Layout> {
    Layout::new(alloc::vec![Region { slot: SLOT, space: SPACE, range }]).ok()
}

/// A vCPU without translations to go stale: each of these writes walks, and must fault.
fn write(vcpu: &mut Vcpu<'_, Ept, Bare>, step: Step) -> Result<(), Step> {
    match vcpu.fault(SPACE, PAGE, Access::Write) {
        Outcome::Mapped => Ok(()),
        _ => Err(step),
    }
}

/// The page, and no other, was written since the last time.
fn expect_dirty(
    mmu: &Mmu<Ept, Bare>,
    layout: &Layout,
    protect: Protect,
    step: Step,
) -> Result<(), Step> {
    let mut round = PageSet::new(layout);
    let taken = mmu.take_dirty(SLOT, protect, &mut round.regions_mut()[0]);
    let only = round.count() == 1 && round.regions()[0].contains(PAGE.gfn().get());
    if taken.is_ok() && only { Ok(()) } else { Err(step) }
}
