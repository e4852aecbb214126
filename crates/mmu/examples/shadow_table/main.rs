//! A device's page table in guest memory, shadowed live: what the model of a GPU or an IOMMU does with
//! [`WriteListener`](vellum_mmu::WriteListener).
//!
//! The guest's driver writes entries that name guest frames. The real device must walk a table that
//! names host frames, or must be told of changes: so somebody keeps a copy, the *shadow*, and changes it
//! with every write to the original. `device.rs` does, and is the part to learn from. `hypervisor.rs`
//! brings memory, faults, and a driver that writes in all the ways that drivers do: whole entries,
//! halves, single bytes, over the border of two entries and of two tables, and in bulk.
//!
//! After each stretch of it the shadow is compared with one that is built from scratch. Run it with
//! `cargo run --example shadow_table`.

mod device;
mod hypervisor;

use device::Shadow;
use hypervisor::{Driver, Host, Random, SPACE, Vm};
use std::error::Error;
use std::sync::Arc;
use vellum_mmu::{Config, Mmu, Origin, SlotSpec, TrackMode};
use vellum_pte::{Gfn, GfnRange, SlotId};

type Failure = Box<dyn Error>;

/// Where the device's directory is: what the driver writes to a register of the device.
const ROOT: Gfn = Gfn::new(16);
/// RAM of two memslots. Tables and data are in both.
const SLOTS: [(SlotId, u64, u64); 2] = [(SlotId(0), 0, 256), (SlotId(1), 256, 256)];

fn add_slot(mmu: &Vm, (id, first, pages): (SlotId, u64, u64)) -> Result<(), Failure> {
    let range = GfnRange::new(Gfn::new(first), pages).ok_or("it ends somewhere")?;
    mmu.create_slot(SlotSpec::new(id, SPACE, range))?;
    mmu.embedder().add_region(id, range);
    Ok(())
}

/// **The host's own memory map first**: whoever translates from now on finds nothing there, and what
/// has been translated before goes in `region_removed`, before this returns.
fn remove_slot(mmu: &Vm, id: SlotId) -> Result<(), Failure> {
    mmu.embedder().remove_region(id);
    Ok(mmu.delete_slot(id)?)
}

fn compare(shadow: &Shadow, mmu: &Vm, when: &str) -> Result<usize, Failure> {
    let (live, built) = (shadow.entries(), device::from_scratch(mmu.embedder(), ROOT));
    if live == built { Ok(live.len()) } else { Err(format!("they differ {when}").into()) }
}

fn drive(mmu: &Vm, shadow: &Shadow, random: &mut Random, when: &str) -> Result<(), Failure> {
    let mut driver = Driver::new(mmu)?;
    let mut entries = 0;
    for _ in 0..40 {
        (0..500).for_each(|_| driver.step(random));
        entries = compare(shadow, mmu, when)?;
    }
    println!("{when}: {entries} entries, {} tables tracked", shadow.tables());
    Ok(())
}

/// Two others write to the tables at once: what the listener is told of one may come after what it is
/// told of the other, the other way round than in memory.
fn write_together(mmu: &Vm, shadow: &Shadow) -> Result<(), Failure> {
    std::thread::scope(|scope| {
        for number in 1..3 {
            scope.spawn(move || {
                let mut random = Random::new(number);
                (0..5000).for_each(|_| hypervisor::write_as_device(mmu, &mut random));
            });
        }
    });
    let entries = compare(shadow, mmu, "after two devices have written together")?;
    println!("two devices at once: {entries} entries, {} tables tracked", shadow.tables());
    Ok(())
}

fn main() -> Result<(), Failure> {
    let mmu = Arc::new(Mmu::new(Host::new(512), Config::default())?);
    SLOTS.into_iter().try_for_each(|slot| add_slot(&mmu, slot))?;
    let mut random = Random::new(1);
    // The table is there before anybody shadows it.
    let mut driver = Driver::new(&mmu)?;
    (0..2000).for_each(|_| driver.step(&mut random));
    let (shadow, registration) = Shadow::attach(&mmu, ROOT)?;
    compare(&shadow, &mmu, "at first")?;
    drive(&mmu, &shadow, &mut random, "with all memory")?;
    remove_slot(&mmu, SlotId(1))?;
    compare(&shadow, &mmu, "after a memslot has gone")?;
    drive(&mmu, &shadow, &mut random, "without the second memslot")?;
    add_slot(&mmu, SLOTS[1])?;
    shadow.refresh(&mmu);
    drive(&mmu, &shadow, &mut random, "with all memory again")?;
    write_together(&mmu, &shadow)?;
    let told = shadow.told();
    println!("{} writes were told, {} of them of the table", told.all, told.ours);
    shadow.detach(&mmu);
    registration.unregister();
    let left = (0..512).filter(|page| mmu.is_tracked(SPACE, Gfn::new(*page), TrackMode::Write));
    assert_eq!(left.count(), 0, "whoever has gone tracks nothing");
    mmu.guest_writer(Origin::Device).write(SPACE, ROOT.gpa(), &[0; 8])?;
    Ok(())
}

#[test]
fn the_shadow_is_at_any_time_what_it_would_be_if_built_from_scratch() -> Result<(), Failure> {
    main()
}
