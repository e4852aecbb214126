use super::*;
use core::ptr::without_provenance_mut;
use vellum_memory::Gfn;

fn slot(first: u64, pages: u64, host: usize) -> Result<Memslot, SlotError> {
    let range = GfnRange::new(Gfn::new(first), pages).expect("a range");
    let host = without_provenance_mut(host);
    Memslot::new(SlotId(3), AddressSpace(1), range, host, SlotAccess::ReadOnly)
}

#[test]
fn a_slot_is_told_to_the_kernel_as_it_is_and_with_its_address_space() {
    let slot = slot(0x100, 3, 0x7000).expect("a slot");
    let logged = slot.with(Logging::On);
    assert_eq!((logged.slot, logged.flags), (1 << 16 | 3, 3));
    assert_eq!((logged.guest_phys_addr, logged.memory_size), (0x10_0000, 0x3000));
    assert_eq!((slot.as_kvm().flags, slot.as_kvm().userspace_addr), (2, 0x7000));
}

#[test]
fn what_the_kernel_would_not_take_is_refused() {
    assert_eq!(slot(0, 1, 0x7001), Err(SlotError::Unaligned(0x7001)));
    assert_eq!(slot(0, 1 << 31, 0x7000), Err(SlotError::TooManyPages(1 << 31)));
    assert!(slot(0, (1 << 31) - 1, 0x7000).is_ok());
}
