//! Logs are made with their memory: neither a mark nor a round allocates (M1).

use std::sync::atomic::{AtomicU64, Ordering};
use vellum_counting::{Counting, allocations_of};
use vellum_memory::{
    AddressSpace, AlwaysLogs, DeviceLog, DirtySource, ForeignLog, Gfn, GfnRange, Layout, Mark,
    PageSet, Region, SlotId, Sources,
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SPACE: AddressSpace = AddressSpace::NORMAL;

#[test]
fn neither_a_mark_nor_a_round_of_a_union_allocates() {
    let range = GfnRange::new(Gfn::new(3), 5000).expect("in range");
    let layout = Layout::new(vec![Region { slot: SlotId(0), space: SPACE, range }]);
    let layout = layout.expect("one region");
    let bits: Vec<_> = (0..100).map(|_| AtomicU64::new(0)).collect();
    let devices = DeviceLog::new(&layout).expect("memory");
    let marker = devices.marker();
    let foreign =
        ForeignLog::new(&layout, SPACE, bits.as_slice(), AlwaysLogs).expect("long enough");
    let mut union = Sources::new(devices).expect("memory");
    union.add(foreign).expect("the same layout");
    let mut round = PageSet::new(&layout);
    let used = allocations_of(|| {
        union.start().expect("it starts");
        marker.mark(SPACE, range);
        bits[7].store(u64::MAX, Ordering::Relaxed);
        union.collect(&mut round).expect("it is on");
        union.protect(0, range, &mut round).expect("it is on");
        union.owe(&round);
        union.stop().expect("it stops");
        marker.mark(SPACE, range);
    });
    assert_eq!(round.count(), 5000);
    assert_eq!(used, 0);
    assert_eq!(allocations_of(|| drop(std::hint::black_box(Box::new(7)))), 2, "the count counts");
}
