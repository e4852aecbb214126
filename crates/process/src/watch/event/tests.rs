use super::{BYTES, Whole, WriteEvent};
use crate::Mapping;
use vellum_memory::{AddressSpace, Gfn, GfnRange, Gpa, SlotId};

/// 64 KiB at an address of the host's, as the guest's memory from `first` on.
fn mapping(host: usize, first: u64) -> Whole {
    let range = GfnRange::new(Gfn::new(first), 16).expect("a range");
    let host = core::ptr::without_provenance_mut(host);
    let mapping = Mapping::new(SlotId(0), AddressSpace::NORMAL, range, host);
    Whole { mapping: mapping.expect("whole pages"), page: 4096 }
}

fn message(event: u8, address: u64, thread: u32) -> [u8; BYTES] {
    let mut message = [0; BYTES];
    message[0] = event;
    message[16..24].copy_from_slice(&address.to_ne_bytes());
    message[24..28].copy_from_slice(&thread.to_ne_bytes());
    message
}

#[test]
fn a_fault_is_named_as_the_guest_knows_its_address() {
    let mappings = [mapping(0x10000, 5), mapping(0x30000, 0x100)];
    let event = WriteEvent::read(&message(0x12, 0x3_2345, 77), &mappings);
    let page = GfnRange::new(Gfn::new(0x102), 1).expect("a range");
    let expected = WriteEvent { region: 1, page, gpa: Gpa::new(0x10_2345), thread: 77 };
    assert_eq!(event, Some(expected));
}

#[test]
fn what_is_no_fault_or_not_ours_is_no_event() {
    let mappings = [mapping(0x10000, 5)];
    assert_eq!(WriteEvent::read(&message(0x13, 0x1_0000, 1), &mappings), None, "a fork");
    assert_eq!(WriteEvent::read(&message(0x12, 0x2_0000, 1), &mappings), None, "past the end");
    assert_eq!(WriteEvent::read(&message(0x12, 0xffff, 1), &mappings), None, "before it");
}
