use super::*;
use vellum_memory::guest::GuestMemoryMmap;
use vellum_memory::{AddressSpace, Gfn, GfnRange};

const PAGES: u64 = 3 * CHUNK + 7;

fn region() -> Region {
    let range = GfnRange::new(Gfn::new(0x100), PAGES).expect("in range");
    Region { slot: SlotId(4), space: AddressSpace::NORMAL, range }
}

fn memory() -> GuestMemoryMmap {
    let start = region().range.first().gpa().get();
    let memory =
        GuestMemoryMmap::from_ranges(&[(GuestAddress(start), (PAGES * PAGE_SIZE) as usize)])
            .expect("memory for a test");
    let bytes: Vec<u8> = (0..PAGES * PAGE_SIZE).map(|i| (i % 251) as u8).collect();
    memory.write_slice(&bytes, GuestAddress(start)).expect("in memory");
    memory
}

fn all(memory: &GuestMemoryMmap) -> Vec<Hash> {
    groups(region())
        .flat_map(|(first, count)| hash_chunks(memory, region(), first, count).expect("in memory"))
        .collect()
}

#[test]
fn every_byte_counts_and_the_difference_is_named() {
    let (ours, theirs) = (memory(), memory());
    let before = all(&ours);
    assert_eq!(before.len(), 4);
    assert_eq!(difference(region(), &before, &all(&theirs)), None);
    for page in [0, CHUNK - 1, CHUNK, PAGES - 1] {
        let address = GuestAddress(region().range.first().gpa().get() + page * PAGE_SIZE + 4095);
        let byte: u8 = theirs.read_obj(address).expect("in memory");
        theirs.write_obj(byte ^ 1, address).expect("in memory");
        let first = page / CHUNK * CHUNK;
        let pages = CHUNK.min(PAGES - first);
        let found = difference(region(), &before, &all(&theirs));
        assert_eq!(found, Some(Difference { slot: SlotId(4), first, pages }));
        assert_ne!(Digest::of(&before), Digest::of(&all(&theirs)));
        theirs.write_obj(byte, address).expect("in memory");
    }
    assert_eq!(Digest::of(&before), Digest::of(&all(&theirs)));
}

#[test]
fn a_chunk_is_hashed_as_the_bytes_it_holds() {
    let memory = memory();
    let bytes: Vec<u8> =
        (3 * CHUNK * PAGE_SIZE..PAGES * PAGE_SIZE).map(|i| (i % 251) as u8).collect();
    assert_eq!(all(&memory)[3], *blake3::hash(&bytes).as_bytes());
}

#[test]
fn groups_cover_a_region_once() {
    let range = GfnRange::new(Gfn::new(0), (2 * GROUP + 1) * CHUNK + 1).expect("in range");
    let region = Region { range, ..region() };
    let found: Vec<_> = groups(region).collect();
    assert_eq!(found, [(0, GROUP), (GROUP, GROUP), (2 * GROUP, 2)]);
}
