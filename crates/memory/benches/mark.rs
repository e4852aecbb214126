//! What logging costs a device: an eight-byte write through `vm-memory`, unlogged, through a logged view
//! with its log off and on, and through vm-memory's own `AtomicBitmap`, which is always on.
//!
//! `same page`: a ring's page, written again and again between two rounds. `next page`: a buffer's, each
//! for the first time since a round. The elements are writes.

use criterion::measurement::WallTime;
use criterion::{
    BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main,
};
use std::hint::black_box;
use vellum_memory::guest::{Logged, logged_view};
use vellum_memory::{
    AddressSpace, DeviceLog, DirtySource, Gfn, GfnRange, Layout, Marker, PageSet, Region, SlotId,
};
use vm_memory::bitmap::AtomicBitmap;
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryBackend, GuestMemoryMmap};

const PAGE: u64 = 4096;
/// Few enough that the pages themselves stay in the cache.
const PAGES: u64 = 64;
const SPACE: AddressSpace = AddressSpace::NORMAL;

fn bytes() -> usize {
    usize::try_from(PAGES * PAGE).expect("a size")
}

fn log() -> DeviceLog {
    let range = GfnRange::new(Gfn::new(0), PAGES).expect("in range");
    let layout = Layout::new(vec![Region { slot: SlotId(0), space: SPACE, range }]);
    DeviceLog::new(&layout.expect("one region")).expect("memory")
}

fn view(log: &DeviceLog) -> GuestMemoryMmap<Logged<Marker>> {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), bytes())]).expect("memory");
    logged_view(&memory, SPACE, &log.marker()).expect("a view")
}

fn write<M: GuestMemory>(memory: &M, page: u64) {
    memory.write_obj(black_box(page), GuestAddress(page * PAGE)).expect("in memory");
}

fn same_page<M: GuestMemory>(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, memory: &M) {
    group.bench_function(format!("{name}, same page"), |bench| bench.iter(|| write(memory, 7)));
}

/// `take` makes a round.
fn next_page<M: GuestMemory>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    memory: &M,
    mut take: impl FnMut(),
) {
    group.throughput(Throughput::Elements(PAGES));
    group.bench_function(format!("{name}, next page"), |bench| {
        bench.iter_batched(
            &mut take,
            |()| (0..PAGES).for_each(|page| write(memory, page)),
            BatchSize::PerIteration,
        );
    });
    group.throughput(Throughput::Elements(1));
}

fn writes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("a device's write");
    group.throughput(Throughput::Elements(1));
    let plain: GuestMemoryMmap =
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), bytes())]).expect("memory");
    same_page(&mut group, "unlogged", &plain);
    next_page(&mut group, "unlogged", &plain, || ());

    let mut log = log();
    let view = view(&log);
    same_page(&mut group, "log off", &view);
    log.start().expect("it starts");
    same_page(&mut group, "log on", &view);
    let mut round = PageSet::new(log.layout());
    next_page(&mut group, "log on", &view, || {
        round.clear();
        log.collect(&mut round).expect("it is on");
    });

    let peer: GuestMemoryMmap<AtomicBitmap> =
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), bytes())]).expect("memory");
    same_page(&mut group, "AtomicBitmap", &peer);
    next_page(&mut group, "AtomicBitmap", &peer, || {
        peer.iter().for_each(|region| region.bitmap().reset());
    });
    group.finish();
}

criterion_group!(benches, writes);
criterion_main!(benches);
