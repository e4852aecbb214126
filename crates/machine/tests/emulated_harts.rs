//! Harts on tracked and restricted pages: the instruction is finished in their place, or they stand at
//! it.

use std::sync::{Arc, Mutex};
use vellum_machine::board::SubPageHardware;
use vellum_machine::elf::Image;
use vellum_machine::embedder::BoardEmbedder;
use vellum_machine::emulation::EmulatedStore;
use vellum_machine::guests::assembler::Assembler;
use vellum_machine::guests::image::elf;
use vellum_machine::machine::{DeniedStore, Machine, MachineConfig, MachineState, Status};
use vellum_machine::sbi::ShutdownReason;
use vellum_machine::vcpu::Reg;
use vellum_machine::walker::WalkedFormat;
use vellum_memory::guest::{Bytes, GuestAddress, PAGE_BYTES, read_page, write_page};
use vellum_mmu::{Call, Mmu, Origin, SubPageRange, TrackMode, WriteListener, Written};
use vellum_pte::{AddressSpace, Ept, Gpa, Npt, Stage2, SubPageMap};

const BASE: u64 = 0x8000_0000;
const MEMORY: u64 = 16 << 20;
/// A page that programs store to.
const DATA: u64 = BASE + 0x10_0000;
const SPACE: AddressSpace = AddressSpace::NORMAL;
const FINISHED: Status = Status::ShutDown(ShutdownReason::Finished);

/// Runs a test on each format, on EPT with sub-page permissions in hardware and without.
macro_rules! on_each_form {
    ($test:ident()) => {{
        $test::<Ept>(SubPageHardware::Present);
        $test::<Ept>(SubPageHardware::Absent);
        $test::<Npt>(SubPageHardware::Present);
        $test::<Stage2>(SubPageHardware::Present);
    }};
}

fn machine<F: WalkedFormat>(
    sub_pages: SubPageHardware,
    vcpus: usize,
    program: Assembler,
) -> Machine<F> {
    let words = program.finish().expect("it assembles");
    let image = Image::parse(&elf(Gpa::new(BASE), &words)).expect("a good image");
    let config = MachineConfig { sub_pages, ..MachineConfig::new(MEMORY, vcpus) };
    Machine::new(&config, &image, Box::new(|_: &[u8]| {})).expect("the host can")
}

fn shut_down(program: &mut Assembler) {
    program.li(Reg::A7, 8);
    program.ecall();
}

/// Waits for something that must come; a machine that stands still hangs the test.
fn wait_for_end<F: WalkedFormat>(machine: &Machine<F>) -> Status {
    while machine.status() == Status::Running {
        std::thread::yield_now();
    }
    machine.status()
}

fn double<F: WalkedFormat>(machine: &Machine<F>, at: u64) -> u64 {
    machine.board().memory().read_obj(GuestAddress(at)).expect("RAM")
}

fn restrict<F: WalkedFormat>(machine: &Machine<F>, bits: u32) {
    let range = SubPageRange::new(SPACE, Gpa::new(DATA).gfn());
    let done = machine.board().mmu().set_sub_pages(range, &[SubPageMap::new(bits)]);
    assert_eq!(done, Ok(1));
}

fn track<F: WalkedFormat>(machine: &Machine<F>) {
    let mmu = machine.board().mmu();
    mmu.track(SPACE, Gpa::new(DATA).gfn(), TrackMode::Write).expect("a slot has it");
}

/// What was stored, by which hart, by which instruction.
type Told = (u64, Vec<u8>, Origin, u64);

#[derive(Default)]
struct Notes(Mutex<Vec<Told>>);

impl<F: WalkedFormat> WriteListener<F, BoardEmbedder> for Notes {
    fn write(&self, _: &Call<'_, F, BoardEmbedder>, written: &Written<'_>) {
        let EmulatedStore { hart, pc } = EmulatedStore::current().expect("a hart's thread");
        assert_eq!(written.origin, Origin::Vcpu(hart));
        let told = (written.gpa.get(), written.bytes.to_vec(), written.origin, pc.get());
        self.0.lock().expect("nobody panics").push(told);
    }
}

/// Words without a name in the assembler.
const SH_A1: u32 = 0x00b5_1023; // sh a1, 0(a0)
const LR_D: u32 = 0x1005_362f; // lr.d a2, (a0)
const SC_D: u32 = 0x18b5_36af; // sc.d a3, a1, (a0)
const AMOSWAP_W: u32 = 0x08b5_272f; // amoswap.w a4, a1, (a0)

/// Every kind of store, to the start of a page that is tracked. What was loaded goes to the next one.
fn each_kind() -> Assembler {
    let mut program = Assembler::new();
    program.li(Reg::A0, DATA.cast_signed());
    program.li(Reg::A1, 0x1122_3344_5566_7788);
    program.li(Reg::A5, DATA.cast_signed() + 4096);
    program
}

fn finishes_what_it_emulates<F: WalkedFormat>(hardware: SubPageHardware) {
    let mut program = each_kind();
    program.sd(Reg::A1, 0, Reg::A0);
    program.sw(Reg::A1, 8, Reg::A0);
    program.sb(Reg::A1, 13, Reg::A0);
    program.word(SH_A1);
    program.amoadd_d(Reg::A6, Reg::A1, Reg::A0);
    program.sd(Reg::A6, 0, Reg::A5);
    program.word(LR_D);
    program.sd(Reg::A2, 8, Reg::A5);
    program.word(SC_D);
    program.sd(Reg::A3, 16, Reg::A5);
    program.word(AMOSWAP_W);
    program.sd(Reg::A4, 24, Reg::A5);
    shut_down(&mut program);
    let value: u64 = 0x1122_3344_5566_7788;
    let bytes = value.to_le_bytes();
    let sum = value.wrapping_add(value);
    let stored = [
        (DATA, bytes.to_vec()),
        (DATA + 8, bytes[..4].to_vec()),
        (DATA + 13, bytes[..1].to_vec()),
        (DATA, bytes[..2].to_vec()),
        (DATA, sum.to_le_bytes().to_vec()),
        (DATA, bytes.to_vec()),
        (DATA, bytes[..4].to_vec()),
    ];
    let machine = machine::<F>(hardware, 1, program);
    let notes = Arc::new(Notes::default());
    let listener: Arc<Notes> = Arc::clone(&notes);
    let registration = Mmu::listen(machine.board().mmu(), listener).expect("it is ours");
    track(&machine);
    machine.resume();
    assert_eq!(wait_for_end(&machine), FINISHED);
    registration.unregister();
    let told = std::mem::take(&mut *notes.0.lock().expect("nobody panics"));
    let what: Vec<_> = told.iter().map(|(gpa, bytes, ..)| (*gpa, bytes.clone())).collect();
    assert_eq!(what, stored, "{}", F::NAME);
    assert!(told.iter().all(|(.., origin, _)| *origin == Origin::Vcpu(0)));
    check_instructions(&machine, &told);
    assert_eq!(total(&machine), instructions(&machine), "each retired, and once");
    let loaded = [0, 8, 16, 24].map(|offset| double(&machine, DATA + 4096 + offset));
    assert_eq!(loaded, [value, sum, 0, 0x5566_7788], "{}: what atomics returned", F::NAME);
}

/// How many instructions there are up to the first `ecall`, with it.
fn instructions<F: WalkedFormat>(machine: &Machine<F>) -> u64 {
    let word = |at| machine.board().memory().read_obj::<u32>(GuestAddress(at)).expect("RAM");
    let call = (BASE..).step_by(4).find(|&at| word(at) == 0x73).expect("there is one");
    (call - BASE) / 4 + 1
}

/// The instructions that listeners were told of are in order, and are stores.
fn check_instructions<F: WalkedFormat>(machine: &Machine<F>, told: &[Told]) {
    assert!(told.windows(2).all(|pair| pair[0].3 < pair[1].3));
    for (.., pc) in told {
        let word: u32 = machine.board().memory().read_obj(GuestAddress(*pc)).expect("RAM");
        let opcode = word & 0x7f;
        assert!(matches!(opcode, 0x23 | 0x2f), "{word:#010x} at {pc:#x}");
    }
}

#[test]
fn every_kind_of_store_is_finished_and_heard_with_its_instruction() {
    on_each_form!(finishes_what_it_emulates());
}

/// Stores a double word to sub-page 1. Also says where.
fn one_store() -> (Assembler, u64) {
    let mut program = Assembler::new();
    program.li(Reg::A1, 7);
    program.li(Reg::A0, DATA.cast_signed());
    program.sd(Reg::A1, 128, Reg::A0);
    shut_down(&mut program);
    (program, DATA + 128)
}

/// Where the only store of a program is.
fn store_at<F: WalkedFormat>(machine: &Machine<F>) -> u64 {
    let is_store = |at: &u64| {
        let word: u32 = machine.board().memory().read_obj(GuestAddress(*at)).expect("RAM");
        word & 0x7f == 0x23
    };
    (BASE..).step_by(4).find(is_store).expect("there is one")
}

fn stands_at_a_denied_store<F: WalkedFormat>(hardware: SubPageHardware) {
    let (program, target) = one_store();
    let machine = machine::<F>(hardware, 1, program);
    machine.board().mmu().activate_sub_pages().expect("memory");
    let pc = Gpa::new(store_at(&machine));
    for bits in [0, 1, 0xffff_fffd] {
        restrict(&machine, bits);
        machine.resume();
        let map = SubPageMap::new(bits);
        let store = DeniedStore { hart: 0, pc, length: 4, gpa: Gpa::new(target), map };
        assert_eq!(wait_for_end(&machine), Status::Denied(store), "{}", F::NAME);
        assert_eq!(double(&machine, target), 0);
        machine.pause();
        assert_eq!(machine.status(), Status::Denied(store), "until it is resumed");
        assert_eq!(total(&machine), (pc.get() - BASE) / 4, "the store has not retired");
    }
    restrict(&machine, 2);
    machine.resume();
    assert_eq!(wait_for_end(&machine), FINISHED, "{}: the same store", F::NAME);
    assert_eq!(double(&machine, target), 7);
}

fn total<F: WalkedFormat>(machine: &Machine<F>) -> u64 {
    machine.instructions().sum()
}

#[test]
fn a_machine_stands_at_a_denied_store_and_goes_on_with_it() {
    on_each_form!(stands_at_a_denied_store());
}

fn resumed_without_a_pause<F: WalkedFormat>(hardware: SubPageHardware) {
    let (program, target) = one_store();
    let machine = machine::<F>(hardware, 1, program);
    machine.board().mmu().activate_sub_pages().expect("memory");
    restrict(&machine, 0);
    machine.resume();
    for _ in 0..3 {
        assert!(matches!(wait_for_end(&machine), Status::Denied(_)), "{}", F::NAME);
        machine.resume();
    }
    assert!(matches!(wait_for_end(&machine), Status::Denied(_)));
    restrict(&machine, u32::MAX);
    machine.resume();
    assert_eq!(wait_for_end(&machine), FINISHED);
    assert_eq!(double(&machine, target), 7);
}

#[test]
fn a_denied_store_is_tried_again_by_each_resume() {
    on_each_form!(resumed_without_a_pause());
}

fn moves_at_a_denied_store<F: WalkedFormat>(hardware: SubPageHardware) {
    let (program, target) = one_store();
    let machine = machine::<F>(hardware, 1, program);
    machine.board().mmu().activate_sub_pages().expect("memory");
    restrict(&machine, 0);
    machine.resume();
    assert!(matches!(wait_for_end(&machine), Status::Denied(_)));
    machine.pause();
    let state = machine.save().expect("paused").to_bytes();
    let elsewhere = Machine::<F>::vacant(machine.config(), Box::new(|_: &[u8]| {}));
    let elsewhere = elsewhere.expect("the host can");
    let range = machine.board().layout().regions()[0].range;
    let mut page = [0; PAGE_BYTES];
    for offset in 0..range.pages() {
        let gfn = range.first().checked_add(offset).expect("in range");
        read_page(machine.board().memory(), gfn, &mut page).expect("RAM");
        write_page(elsewhere.board().memory(), gfn, &page).expect("RAM");
    }
    elsewhere.restore(&MachineState::from_bytes(&state).expect("saved")).expect("the same shape");
    assert_eq!(elsewhere.status(), Status::Paused);
    elsewhere.resume();
    assert_eq!(wait_for_end(&elsewhere), FINISHED, "{}: no map forbids it there", F::NAME);
    assert_eq!(double(&elsewhere, target), 7);
}

#[test]
fn a_machine_that_stands_at_a_denied_store_can_move() {
    on_each_form!(moves_at_a_denied_store());
}

/// Hart 0 starts the others; each adds 1 to a double word `times` times and then 1 to the next one,
/// for which hart 0 waits.
fn adders(harts: i64, times: i64) -> Assembler {
    let mut program = Assembler::new();
    let work = program.label();
    program.mv(Reg::S0, Reg::A0);
    program.bnez(Reg::S0, work);
    program.li(Reg::S1, 1);
    let start = program.here();
    program.li(Reg::T0, harts);
    program.bgeu(Reg::S1, Reg::T0, work);
    program.li(Reg::A7, 0x48_534d);
    program.li(Reg::A6, 0);
    program.mv(Reg::A0, Reg::S1);
    program.li(Reg::A1, BASE.cast_signed());
    program.li(Reg::A2, 0);
    program.ecall();
    program.addi(Reg::S1, Reg::S1, 1);
    program.j(start);
    program.bind(work);
    program.li(Reg::T1, DATA.cast_signed());
    program.li(Reg::T2, times);
    program.li(Reg::T3, 1);
    let add = program.here();
    program.amoadd_d(Reg::ZERO, Reg::T3, Reg::T1);
    program.addi(Reg::T2, Reg::T2, -1);
    program.bnez(Reg::T2, add);
    program.addi(Reg::T1, Reg::T1, 8);
    program.amoadd_d(Reg::ZERO, Reg::T3, Reg::T1);
    let wait = program.here();
    program.bnez(Reg::S0, wait);
    program.ld(Reg::T4, 0, Reg::T1);
    program.li(Reg::T0, harts);
    program.bne(Reg::T4, Reg::T0, wait);
    shut_down(&mut program);
    program
}

fn count_together<F: WalkedFormat>(hardware: SubPageHardware) {
    let (harts, times) = (3, 20_000);
    let machine = machine::<F>(hardware, 3, adders(harts, times));
    let mmu = machine.board().mmu();
    mmu.enable_tracking().expect("nothing is confidential");
    mmu.activate_sub_pages().expect("memory");
    machine.resume();
    let gfn = Gpa::new(DATA).gfn();
    for round in 0.. {
        if machine.status() != Status::Running {
            break;
        }
        match round % 4 {
            0 => track(&machine),
            1 => restrict(&machine, 1),
            2 => mmu.untrack(SPACE, gfn, TrackMode::Write).expect("it is tracked"),
            _ => restrict(&machine, u32::MAX),
        }
        std::thread::yield_now();
    }
    assert_eq!(machine.status(), FINISHED, "{} {hardware:?}", F::NAME);
    let counted = double(&machine, DATA);
    assert_eq!(counted, (harts * times).cast_unsigned(), "{} {hardware:?}", F::NAME);
}

#[test]
fn harts_count_right_while_their_page_is_tracked_and_restricted() {
    on_each_form!(count_together());
}

fn several_stand<F: WalkedFormat>(hardware: SubPageHardware) {
    let (harts, times) = (3, 500);
    let machine = machine::<F>(hardware, 3, adders(harts, times));
    machine.board().mmu().activate_sub_pages().expect("memory");
    restrict(&machine, 0xffff_fffe);
    machine.resume();
    for _ in 0..20 {
        let Status::Denied(store) = wait_for_end(&machine) else { panic!("nothing permits it") };
        assert_eq!((store.gpa.get(), store.length), (DATA, 4), "{}", F::NAME);
        assert!(store.hart < harts.cast_unsigned());
        machine.resume();
    }
    assert!(matches!(wait_for_end(&machine), Status::Denied(_)));
    assert_eq!(double(&machine, DATA), 0, "no hart has counted");
    restrict(&machine, u32::MAX);
    machine.resume();
    // A hart that was on its way to the store may report it denied as it was.
    while let Status::Denied(_) = wait_for_end(&machine) {
        machine.resume();
    }
    assert_eq!(machine.status(), FINISHED, "{}", F::NAME);
    assert_eq!(double(&machine, DATA), (harts * times).cast_unsigned());
}

#[test]
fn several_harts_stand_at_denied_stores_and_go_on_with_them() {
    on_each_form!(several_stand());
}
