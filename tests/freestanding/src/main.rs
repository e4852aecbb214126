//! A hypervisor's second stage in a program with neither std nor libc.
//!
//! It maps a page, logs a write to it, protects everything and logs the next write. The process
//! ends with 0, or with the number of the first step that went wrong.
#![no_std]
#![no_main]
#![deny(unsafe_code)]

mod hypervisor;
mod runtime;

use hypervisor::Bare;
use vellum_mmu::{
    Access, Config, DirtyPages, LogMode, Mmu, Outcome, Protect, SlotAccess, SlotSpec, Vcpu,
};
use vellum_pte::{AddressSpace, Ept, Gfn, GfnRange, Gpa, SlotId};

const SLOT: SlotId = SlotId::new(0);
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
    let mmu: Mmu<Ept, Bare> = Mmu::new(Bare, Config::default()).map_err(|_| Step(1))?;
    mmu.create_slot(slot()).map_err(|_| Step(2))?;
    let mut vcpu = mmu.vcpu().map_err(|_| Step(3))?;
    write(&mut vcpu, Step(4))?;
    mmu.start_log(SLOT).map_err(|_| Step(5))?;
    write(&mut vcpu, Step(6))?;
    expect_dirty(&mmu, Protect::Pages, Step(7))?;
    write(&mut vcpu, Step(8))?;
    mmu.write_protect_all();
    write(&mut vcpu, Step(9))?;
    expect_dirty(&mmu, Protect::Nothing, Step(10))
}

fn slot() -> SlotSpec {
    SlotSpec {
        id: SLOT,
        space: SPACE,
        range: GfnRange::new(Gfn::new(0), 64),
        access: SlotAccess::ReadWrite,
        log: LogMode::Off,
    }
}

/// A vCPU without translations to go stale: each write walks, and the first walk must fault.
fn write(vcpu: &mut Vcpu<'_, Ept, Bare>, step: Step) -> Result<(), Step> {
    match vcpu.fault(SPACE, PAGE, Access::Write) {
        Outcome::Mapped => Ok(()),
        _ => Err(step),
    }
}

fn expect_dirty(mmu: &Mmu<Ept, Bare>, protect: Protect, step: Step) -> Result<(), Step> {
    let mut pages = DirtyPages::default();
    if mmu.take_dirty(SLOT, protect, &mut pages).is_err() {
        return Err(step);
    }
    let mut words = pages.words();
    match (words.next(), words.next()) {
        (Some((0, mask)), None) if mask == 1 << PAGE.gfn().get() => Ok(()),
        _ => Err(step),
    }
}
