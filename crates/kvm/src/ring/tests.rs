use super::*;

const ENTRIES: u32 = 256;

fn ring() -> Ring {
    Ring::new(Mapping::anonymous(ENTRIES).expect("memory for a ring"))
}

/// Writes an entry as the kernel does.
fn push(ring: &Ring, at: usize, offset: u64) {
    let entry = &ring.mapping.entries()[at % ENTRIES as usize];
    entry.slot.store(7, Ordering::Relaxed);
    entry.offset.store(offset, Ordering::Relaxed);
    entry.flags.store(DIRTY, Ordering::Release);
}

fn flags(ring: &Ring, at: usize) -> u32 {
    ring.mapping.entries()[at].flags.load(Ordering::Acquire)
}

fn harvest(ring: &mut Ring) -> Vec<(u32, u64)> {
    let mut found = Vec::new();
    let taken = ring.harvest(|slot, offset| found.push((slot, offset)));
    assert_eq!(taken, found.len() as u64);
    found
}

#[test]
fn entries_are_read_in_order_and_once_and_marked() {
    let mut ring = ring();
    (0..5).for_each(|at| push(&ring, at, 100 + at as u64));
    assert_eq!(harvest(&mut ring), (0..5).map(|at| (7, 100 + at)).collect::<Vec<_>>());
    assert_eq!((flags(&ring, 4), flags(&ring, 5)), (HARVESTED, 0));
    assert_eq!(harvest(&mut ring), []);
}

#[test]
fn reading_goes_on_past_the_end_of_the_ring() {
    let mut ring = ring();
    for at in 0..3 * ENTRIES as usize + 5 {
        push(&ring, at, at as u64);
        assert_eq!(harvest(&mut ring), [(7, at as u64)]);
    }
}

#[test]
fn an_entry_after_one_that_is_not_dirty_waits() {
    let mut ring = ring();
    push(&ring, 1, 11);
    assert_eq!(harvest(&mut ring), []);
    push(&ring, 0, 10);
    assert_eq!(harvest(&mut ring), [(7, 10), (7, 11)]);
}

#[test]
fn a_full_ring_is_read_once_around() {
    let mut ring = ring();
    (0..ENTRIES as usize).for_each(|at| push(&ring, at + 9, at as u64));
    assert_eq!(harvest(&mut ring).len(), ENTRIES as usize);
    assert_eq!(harvest(&mut ring), []);
}

#[test]
fn any_flags_with_the_dirty_bit_are_dirty_and_any_others_are_not() {
    let mut ring = ring();
    push(&ring, 0, 1);
    ring.mapping.entries()[0].flags.store(u32::MAX, Ordering::Release);
    ring.mapping.entries()[1].flags.store(u32::MAX - DIRTY, Ordering::Release);
    assert_eq!(harvest(&mut ring), [(7, 1)]);
}

#[test]
fn a_reader_that_has_lost_its_place_finds_it_again() {
    let mut ring = ring();
    push(&ring, 200, 1);
    push(&ring, 201, 2);
    assert_eq!(harvest(&mut ring), []);
    ring.place = Place::Lost;
    assert_eq!(harvest(&mut ring), [(7, 1), (7, 2)]);
    assert_eq!(harvest(&mut ring), []);
}
