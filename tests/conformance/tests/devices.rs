//! A rust-vmm device beside vCPUs: in the MMU's own log, and in a log of its own in a union with it.

use std::sync::Arc;
use vellum_machine::board::{Board, BoardConfig};
use vellum_machine::bus::{Bus, Width};
use vellum_machine::log::{BoardLog, Track};
use vellum_machine::walker::WalkedFormat;
use vellum_memory::guest::{Bytes, GuestAddress, GuestMemory, logged_view};
use vellum_memory::{DeviceLog, DirtySource, Layout, Mark, Misuse, PageSet, Region, Sources};
use vellum_pte::{AddressSpace, Ept, Gfn, GfnRange, Gpa, Npt, SlotId, Stage2};

const SPACE: AddressSpace = AddressSpace::NORMAL;
const TRACKS: [Track; 3] = [Track::PerPage, Track::ProtectAll, Track::Manual];
/// First page and pages of each slot: neighbours, and nothing aligned.
const SLOTS: [(u64, u64); 3] = [(1001, 100), (1101, 700), (1801, 65)];
const ALL: GfnRange = GfnRange::new(Gfn::new(1001), 865).expect("in range");

fn board<F: WalkedFormat>() -> Arc<Board<F>> {
    let regions = (0..).zip(SLOTS).map(|(slot, (first, pages))| {
        let range = GfnRange::new(Gfn::new(first), pages).expect("in range");
        Region { slot: SlotId(slot), space: SPACE, range }
    });
    let config = BoardConfig::with_regions(regions.collect());
    Arc::new(Board::new(&config).expect("the host has memory"))
}

/// Device writes go into the MMU's log.
struct InTheMmu<F: WalkedFormat>(Arc<Board<F>>);

impl<F: WalkedFormat> Clone for InTheMmu<F> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<F: WalkedFormat> Mark for InTheMmu<F> {
    fn mark(&self, space: AddressSpace, range: GfnRange) {
        for page in range.first().get()..range.end().get() {
            self.0.mmu().mark_dirty(space, Gfn::new(page));
        }
    }
}

/// The frames that a round holds, protected.
fn round<S: DirtySource>(log: &mut S) -> Vec<u64> {
    let mut round = PageSet::new(log.layout());
    log.collect(&mut round).expect("it is on");
    for index in 0..round.regions().len() {
        let range = round.regions()[index].region().range;
        log.protect(index, range, &mut round).expect("it is on");
    }
    let frames = round.regions().iter().flat_map(|set| {
        let first = set.region().range.first().get();
        set.pages().map(move |page| first + page)
    });
    frames.collect()
}

/// A device that knows of no log writes over the end of the first slot.
fn device_write<M: GuestMemory>(memory: &M) {
    let at = Gpa::new(Gfn::new(1101).gpa().get() - 4).get();
    memory.write_slice(&[7; 8], GuestAddress(at)).expect("RAM");
}

/// A vCPU's store, to a page that the device does not touch.
fn store<F: WalkedFormat>(board: &Board<F>, page: u64) {
    let mut port = board.port().expect("memory");
    port.store(Gfn::new(page).gpa(), Width::Double, 1).expect("RAM");
}

/// Maps every page and empties the log, so that what follows is in it page by page.
fn touch_everything<F: WalkedFormat, S: DirtySource>(board: &Board<F>, log: &mut S) {
    (ALL.first().get()..ALL.end().get()).for_each(|page| store(board, page));
    assert_eq!(round(log).len(), 865);
}

/// What a device writes is in the log of `source`, with what vCPUs write, once.
fn both_are_logged<F: WalkedFormat, S: DirtySource, M: GuestMemory>(
    board: &Board<F>,
    source: &mut S,
    for_device: &M,
) {
    source.start().expect("memory");
    touch_everything(board, source);
    device_write(for_device);
    store(board, 1865);
    assert_eq!(round(source), [1100, 1101, 1865]);
    device_write(for_device);
    assert_eq!(round(source), [1100, 1101], "the next time as well");
    assert!(round(source).is_empty());
    source.stop().expect("it is on");
}

fn in_the_mmu<F: WalkedFormat>(track: Track) {
    let board = board::<F>();
    let view = logged_view(board.memory(), SPACE, &InTheMmu(board.clone())).expect("a view");
    both_are_logged(&*board, &mut BoardLog::new(&board, track), &view);
}

#[test]
fn a_rust_vmm_device_can_be_in_the_mmus_own_log() {
    TRACKS.into_iter().for_each(in_the_mmu::<Ept>);
    TRACKS.into_iter().for_each(in_the_mmu::<Npt>);
    TRACKS.into_iter().for_each(in_the_mmu::<Stage2>);
}

fn in_a_union<F: WalkedFormat>(track: Track) {
    let board = board::<F>();
    let devices = DeviceLog::new(board.layout()).expect("memory");
    let view = logged_view(board.memory(), SPACE, &devices.marker()).expect("a view");
    let mut union = Sources::new(BoardLog::new(&board, track)).expect("memory");
    union.add(devices).expect("the same layout");
    both_are_logged(&*board, &mut union, &view);
}

#[test]
fn a_rust_vmm_device_can_be_in_a_union_with_the_mmus_log() {
    TRACKS.into_iter().for_each(in_a_union::<Ept>);
    TRACKS.into_iter().for_each(in_a_union::<Npt>);
    TRACKS.into_iter().for_each(in_a_union::<Stage2>);
}

/// The control: what the two above would say of a device that nobody logs.
#[test]
fn a_device_that_nobody_logs_is_in_no_round() {
    for track in TRACKS {
        let board = board::<Ept>();
        let mut log = BoardLog::new(&board, track);
        log.start().expect("memory");
        touch_everything(&board, &mut log);
        device_write(board.memory());
        assert!(round(&mut log).is_empty());
    }
}

/// With the union's other member failing in the middle, what the MMU handed over comes back, although
/// the MMU has protected it and would not find it again.
#[test]
fn what_the_mmu_gave_to_a_round_that_failed_is_in_the_next() {
    for track in TRACKS {
        let board = board::<Ept>();
        let mut union = Sources::new(BoardLog::new(&board, track)).expect("memory");
        let log = DeviceLog::new(board.layout()).expect("memory");
        union.add(Sulking { log, collects: 0 }).expect("the same layout");
        union.start().expect("memory");
        touch_everything(&board, &mut union);
        store(&board, 1500);
        let mut lost = PageSet::new(board.layout());
        union.collect(&mut lost).expect_err("every second one fails");
        assert_eq!(round(&mut union), [1500]);
    }
}

/// A log whose every second `collect` fails.
struct Sulking {
    log: DeviceLog,
    collects: u32,
}

impl DirtySource for Sulking {
    type Error = Misuse;

    fn method(&self) -> &'static str {
        "sulking"
    }

    fn layout(&self) -> &Layout {
        self.log.layout()
    }

    fn start(&mut self) -> Result<(), Misuse> {
        self.log.start()
    }

    fn stop(&mut self) -> Result<(), Misuse> {
        self.log.stop()
    }

    fn collect(&mut self, round: &mut PageSet) -> Result<(), Misuse> {
        self.collects += 1;
        if self.collects.is_multiple_of(2) { Err(Misuse::Off) } else { self.log.collect(round) }
    }

    fn owe(&mut self, pages: &PageSet) {
        self.log.owe(pages);
    }
}
