//! Who judges stores that maps of sub-pages forbid is told all of them, and is obeyed.

#[macro_use]
mod storm;

use std::sync::{Arc, Mutex};
use storm::at;
use vellum_machine::board::{Board, BoardConfig, SubPageHardware};
use vellum_machine::bus::{Bus, BusError, Width};
use vellum_machine::denial::{DenialJudge, ForbiddenStore, Verdict};
use vellum_machine::embedder::BoardEmbedder;
use vellum_machine::emulation::EmulatedStore;
use vellum_machine::walker::WalkedFormat;
use vellum_memory::guest::{Bytes, GuestAddress};
use vellum_mmu::{Call, Mmu, SubPageRange, WriteListener, Written};
use vellum_pte::{AddressSpace, Gpa, PAGE_SIZE, SubPageMap};

const SPACE: AddressSpace = AddressSpace::NORMAL;
/// All but the second sub-page.
const MAP: SubPageMap = SubPageMap::new(!0b10);
const BY: EmulatedStore = EmulatedStore { hart: 3, pc: Gpa::new(0x8000_0004) };

/// What a judge was told: who, where, what, and the first byte that is denied.
type Told = (EmulatedStore, Gpa, Vec<u8>, Gpa);

/// Says one thing, and notes what it was told.
struct Same(Verdict, Mutex<Vec<Told>>);

impl DenialJudge for Same {
    fn judge(&self, store: &ForbiddenStore<'_>) -> Verdict {
        let ForbiddenStore { by, gpa, bytes, denial } = *store;
        self.1.lock().expect("nobody panics").push((by, gpa, bytes.to_vec(), denial.gpa));
        self.0
    }
}

#[derive(Default)]
struct Heard(Mutex<Vec<(Gpa, Vec<u8>)>>);

impl<F: WalkedFormat> WriteListener<F, BoardEmbedder> for Heard {
    fn write(&self, _: &Call<'_, F, BoardEmbedder>, written: &Written<'_>) {
        self.0.lock().expect("nobody panics").push((written.gpa, written.bytes.to_vec()));
    }
}

/// Page 1 has the map.
fn board<F: WalkedFormat>(sub_pages: SubPageHardware) -> Board<F> {
    let config = BoardConfig::with_memory(8 * PAGE_SIZE).expect("in range");
    let board = Board::new(&BoardConfig { sub_pages, ..config }).expect("the host has memory");
    board.mmu().activate_sub_pages().expect("no nested guests");
    let range = SubPageRange::new(SPACE, at(1, 0).gfn());
    board.mmu().set_sub_pages(range, &[MAP]).expect("it has a slot");
    board
}

fn memory<F: WalkedFormat>(board: &Board<F>, gpa: Gpa) -> u64 {
    board.memory().read_obj(GuestAddress(gpa.get())).expect("RAM")
}

fn lets_through<F: WalkedFormat>(sub_pages: SubPageHardware) {
    let board = board::<F>(sub_pages);
    let (judge, heard) = (Arc::new(Same(Verdict::LetThrough, Mutex::default())), Arc::default());
    board.judge_denials(Some(judge.clone()));
    let listener: Arc<Heard> = Arc::clone(&heard);
    let _registered = Mmu::listen(board.mmu(), listener).expect("tracking is possible");
    let mut port = board.port().expect("memory");
    // Begins in the first sub-page, which is permitted, and ends in the second.
    let across = at(1, 124);
    assert_eq!(port.store(across, Width::Double, 7), Err(BusError::Emulate(across)));
    assert_eq!(port.emulate_store(BY, across, Width::Double, 7), Ok(()));
    let inside = at(1, 136);
    assert_eq!(port.compare_exchange(inside, Width::Double, 0, 9), Err(BusError::Emulate(inside)));
    assert_eq!(port.emulate_compare_exchange(BY, inside, Width::Double, (5, 9)), Ok(0));
    assert_eq!(memory(&board, inside), 0, "it held something else");
    assert_eq!(port.emulate_compare_exchange(BY, inside, Width::Double, (0, 9)), Ok(0));
    assert_eq!((memory(&board, across), memory(&board, inside)), (7, 9));
    let told = [(across, 7_u64, at(1, 128)), (inside, 9, inside), (inside, 9, inside)];
    let told = told.map(|(gpa, value, denied)| (BY, gpa, value.to_le_bytes().to_vec(), denied));
    assert_eq!(*judge.1.lock().expect("nobody panics"), told);
    let made =
        [(across, 7_u64), (inside, 9)].map(|(gpa, value)| (gpa, value.to_le_bytes().to_vec()));
    assert_eq!(*heard.0.lock().expect("nobody panics"), made);
    let mut maps = [SubPageMap::ALL];
    board.mmu().sub_pages(SubPageRange::new(SPACE, at(1, 0).gfn()), &mut maps).expect("a slot");
    assert_eq!(maps, [MAP]);
}

#[test]
fn a_store_that_is_let_through_is_in_memory_and_heard_of_and_the_map_stays() {
    on_each_format!(lets_through(SubPageHardware::Present));
    on_each_format!(lets_through(SubPageHardware::Absent));
}

fn stops<F: WalkedFormat>(sub_pages: SubPageHardware) {
    let board = board::<F>(sub_pages);
    board.judge_denials(Some(Arc::new(Same(Verdict::Stop, Mutex::default()))));
    let mut port = board.port().expect("memory");
    let inside = at(1, 136);
    assert_eq!(port.store(inside, Width::Double, 7), Err(BusError::Emulate(inside)));
    let stopped = port.emulate_store(BY, inside, Width::Double, 7);
    assert!(matches!(stopped, Err(BusError::Denied(denial)) if denial.gpa == inside));
    assert_eq!(memory(&board, inside), 0);
    board.judge_denials(None);
    assert!(matches!(port.store(inside, Width::Double, 7), Err(BusError::Denied(_))));
}

#[test]
fn a_store_that_is_stopped_is_not_made_and_without_a_judge_none_is() {
    on_each_format!(stops(SubPageHardware::Present));
    on_each_format!(stops(SubPageHardware::Absent));
}
