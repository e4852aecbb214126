//! Our harts against `ckb-vm`'s: random programs leave equal registers and equal memory.
//!
//! What is kept out of the programs, because the architecture leaves it open or the other
//! implementation lacks it: CSR reads, misaligned atomics, SC after a store of one's own to the
//! reserved bytes, and SC of another width than its LR.
#![allow(clippy::cast_possible_truncation, reason = "values are small, and hosts have 64 bits")]

mod flat;

use ckb_vm::decoder::{Decoder, build_decoder};
use ckb_vm::machine::VERSION2;
use ckb_vm::memory::flat::FlatMemory;
use ckb_vm::{
    CoreMachine, DefaultCoreMachine, DefaultMachine, DefaultMachineBuilder, ISA_A, ISA_IMC, Memory,
    SupportMachine,
};
use flat::Flat;
use proptest::prelude::*;
use vellum_machine::vcpu::{Exit, Hart, Reg};
use vellum_pte::Gpa;

const SIZE: u64 = 0x40000;
const CODE: u64 = 0x10000;
/// Straddles a page, as loads and stores reach 2 KiB to both sides of its middle.
const DATA: u64 = 0x20800;
/// Registers from here on hold addresses and are not written.
const FIRST_FIXED: u32 = 27;
const HALF_ALIGNED: u32 = 27;
const MIDDLE: u32 = 28;
const ALIGNED: [u32; 2] = [29, 30];
const BASE_OF_CODE: u32 = 31;

type Theirs = DefaultMachine<DefaultCoreMachine<u64, FlatMemory<u64>>>;

/// Some words that belong together; a jump lands only between items.
#[derive(Clone, Debug)]
enum Item {
    Words(Vec<u32>),
    /// A conditional branch over so many items: funct3, rs1, rs2.
    Branch(u32, u32, u32, usize),
    /// `jal` over so many items.
    Jump(u32, usize),
    /// `jalr` to the item so many further on, by the fixed register, with a lowest bit that does
    /// not count.
    JumpThrough(u32, usize, i32),
}

impl Item {
    fn len(&self) -> usize {
        match self {
            Self::Words(words) => words.len(),
            _ => 1,
        }
    }
}

fn form_r(opcode: u32, funct3: u32, funct7: u32, [rd, rs1, rs2]: [u32; 3]) -> u32 {
    opcode | rd << 7 | funct3 << 12 | rs1 << 15 | rs2 << 20 | funct7 << 25
}

fn form_i(opcode: u32, funct3: u32, rd: u32, rs1: u32, imm: i32) -> u32 {
    opcode | rd << 7 | funct3 << 12 | rs1 << 15 | (imm as u32) << 20
}

fn form_s(funct3: u32, rs1: u32, rs2: u32, imm: i32) -> u32 {
    let imm = imm as u32;
    form_r(0x23, funct3, imm >> 5 & 0x7f, [imm & 31, rs1, rs2])
}

fn form_b(funct3: u32, rs1: u32, rs2: u32, offset: u32) -> u32 {
    let low = offset >> 1 & 15;
    form_r(0x63, funct3, offset >> 5 & 63, [low << 1 | offset >> 11 & 1, rs1, rs2])
}

fn form_j(rd: u32, offset: u32) -> u32 {
    let (middle, upper) = (offset >> 11 & 1, offset >> 12 & 255);
    0x6f | rd << 7 | (offset >> 1 & 0x3ff) << 21 | middle << 20 | upper << 12
}

fn rd() -> impl Strategy<Value = u32> {
    0..FIRST_FIXED
}

fn registers() -> impl Strategy<Value = [u32; 3]> {
    (rd(), 0u32..32, 0u32..32).prop_map(|(rd, rs1, rs2)| [rd, rs1, rs2])
}

/// Register and immediate forms that compute.
fn compute() -> impl Strategy<Value = u32> {
    let register = (0u32..8, prop::sample::select(vec![0u32, 1]), registers())
        .prop_map(|(funct3, funct7, regs)| form_r(0x33, funct3, funct7, regs));
    let negative = (prop::sample::select(vec![0u32, 5]), registers())
        .prop_map(|(funct3, regs)| form_r(0x33, funct3, 0x20, regs));
    let words =
        vec![(0, 0), (1, 0), (5, 0), (0, 32), (5, 32), (0, 1), (4, 1), (5, 1), (6, 1), (7, 1)];
    let word = (prop::sample::select(words), registers())
        .prop_map(|((funct3, funct7), regs)| form_r(0x3b, funct3, funct7, regs));
    let immediates = prop::sample::select(vec![0u32, 2, 3, 4, 6, 7]);
    let immediate = (immediates, registers(), -2048..2048)
        .prop_map(|(funct3, [rd, rs1, _], imm)| form_i(0x13, funct3, rd, rs1, imm));
    let addiw =
        (registers(), -2048..2048).prop_map(|([rd, rs1, _], imm)| form_i(0x1b, 0, rd, rs1, imm));
    let upper = (prop::sample::select(vec![0x17, 0x37]), rd(), any::<u32>())
        .prop_map(|(opcode, rd, imm)| opcode | rd << 7 | imm & 0xffff_f000);
    prop_oneof![3 => register, 1 => negative, 3 => word, 2 => immediate, 1 => addiw, 1 => upper, 2 => shift()]
}

fn shift() -> impl Strategy<Value = u32> {
    let kinds = prop::sample::select(vec![(1u32, 0), (5, 0), (5, 0x400)]);
    (kinds, any::<bool>(), registers(), 0i32..64).prop_map(
        |((funct3, kind), wide, [rd, rs1, _], by)| {
            let (opcode, by) = if wide { (0x13, by) } else { (0x1b, by & 31) };
            form_i(opcode, funct3, rd, rs1, kind | by)
        },
    )
}

/// Loads and stores of all widths, misaligned and across a page.
fn access() -> impl Strategy<Value = u32> {
    let load = (0u32..7, rd(), -2048i32..2040)
        .prop_map(|(funct3, rd, imm)| form_i(0x03, funct3, rd, MIDDLE, imm));
    let store = (0u32..4, 0u32..32, -2048i32..2040)
        .prop_map(|(funct3, rs2, imm)| form_s(funct3, MIDDLE, rs2, imm));
    prop_oneof![load, store]
}

/// An address register and a width, as `funct3`, that it is aligned for.
fn aligned() -> impl Strategy<Value = (u32, u32)> {
    prop::sample::select(vec![
        (HALF_ALIGNED, 2),
        (ALIGNED[0], 2),
        (ALIGNED[1], 2),
        (ALIGNED[0], 3),
        (ALIGNED[1], 3),
    ])
}

fn amo() -> impl Strategy<Value = u32> {
    let functions = prop::sample::select(vec![0u32, 1, 4, 8, 12, 16, 20, 24, 28]);
    (functions, 0u32..4, aligned(), rd(), 0u32..32).prop_map(
        |(funct5, order, (at, width), rd, rs2)| {
            form_r(0x2f, width, funct5 << 2 | order, [rd, at, rs2])
        },
    )
}

/// LR, something in between, SC: at the same address or another.
fn reserve() -> impl Strategy<Value = Vec<u32>> {
    (aligned(), any::<bool>(), registers(), rd(), compute()).prop_map(
        |((at, width), same, [rd, _, rs2], rd_lr, between)| {
            let other = if at == ALIGNED[0] { ALIGNED[1] } else { ALIGNED[0] };
            let to = if same { at } else { other };
            let lr = form_r(0x2f, width, 2 << 2, [rd_lr, at, 0]);
            vec![lr, between, form_r(0x2f, width, 3 << 2, [rd, to, rs2])]
        },
    )
}

fn item() -> impl Strategy<Value = Item> {
    let one = |word| Item::Words(vec![word]);
    let branches = prop::sample::select(vec![0u32, 1, 4, 5, 6, 7]);
    prop_oneof![
        8 => compute().prop_map(one),
        4 => access().prop_map(one),
        2 => amo().prop_map(one),
        1 => reserve().prop_map(Item::Words),
        1 => Just(Item::Words(vec![0x0ff0_000f])),
        2 => (branches, 0u32..32, 0u32..32, 0usize..9).prop_map(|(f, a, b, n)| Item::Branch(f, a, b, n)),
        1 => (rd(), 0usize..9).prop_map(|(rd, over)| Item::Jump(rd, over)),
        1 => (rd(), 0usize..9, 0..2).prop_map(|(rd, over, low)| Item::JumpThrough(rd, over, low)),
    ]
}

/// Words of a program, jumps resolved, with an `ecall` at the end.
fn assemble(items: &[Item]) -> Vec<u32> {
    let mut starts = vec![0];
    for item in items {
        starts.push(starts[starts.len() - 1] + item.len());
    }
    let place = |item: usize| starts[item.min(items.len())];
    let mut words = Vec::new();
    for (number, item) in items.iter().enumerate() {
        let to = |over: usize| place(number + 1 + over);
        let offset = |over: usize| 4 * (to(over) - starts[number]) as u32;
        match item {
            Item::Words(some) => words.extend_from_slice(some),
            Item::Branch(f, a, b, over) => words.push(form_b(*f, *a, *b, offset(*over))),
            Item::Jump(rd, over) => words.push(form_j(*rd, offset(*over))),
            Item::JumpThrough(rd, over, low) => {
                let imm = 4 * to(*over) as i32 + low;
                words.push(form_i(0x67, 0, *rd, BASE_OF_CODE, imm));
            }
        }
    }
    words.push(0x73);
    words
}

/// Numbers that division, comparison and shifts care about, and any others.
fn number() -> impl Strategy<Value = u64> {
    let edges = vec![
        0,
        1,
        u64::MAX,
        i64::MIN as u64,
        i64::MAX as u64,
        i32::MIN as u64,
        i32::MAX as u64,
        0xffff_ffff,
        0x8000_0000,
        63,
    ];
    prop_oneof![prop::sample::select(edges), any::<u64>(), any::<i32>().prop_map(|n| n as u64)]
}

fn start_values() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(number(), 32).prop_map(|mut x| {
        x[0] = 0;
        x[HALF_ALIGNED as usize] = DATA + 1028;
        x[MIDDLE as usize] = DATA + 2048;
        x[ALIGNED[0] as usize] = DATA + 1024;
        x[ALIGNED[1] as usize] = DATA + 1032;
        x[BASE_OF_CODE as usize] = CODE;
        x
    })
}

fn theirs(x: &[u64], words: &[u32], data: &[u64]) -> Theirs {
    let core = DefaultCoreMachine::<u64, FlatMemory<u64>>::new_with_memory(
        ISA_IMC | ISA_A,
        VERSION2,
        u64::MAX,
        SIZE as usize,
    );
    let mut machine = DefaultMachineBuilder::new(core).build();
    for (number, value) in x.iter().enumerate() {
        machine.set_register(number, *value);
    }
    let memory = machine.memory_mut();
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    memory.store_bytes(CODE, &bytes).expect("the program fits");
    let bytes: Vec<u8> = data.iter().flat_map(|word| word.to_le_bytes()).collect();
    memory.store_bytes(DATA, &bytes).expect("the data fits");
    machine.update_pc(CODE);
    machine.commit_pc();
    machine
}

fn run_theirs(machine: &mut Theirs, end: u64) -> u64 {
    let mut decoder = build_decoder::<u64>(ISA_IMC | ISA_A, VERSION2);
    let mut steps = 0;
    while *machine.pc() != end {
        machine.step(&mut decoder).expect("the program is legal");
        steps += 1;
    }
    steps
}

fn ours(x: &[u64], words: &[u32], data: &[u64]) -> (Hart, Flat) {
    let memory = Flat::new(0, SIZE);
    memory.place_words(CODE, words);
    for (value, at) in data.iter().zip((DATA..).step_by(8)) {
        memory.set_word(at, *value);
    }
    let mut hart = Hart::new(0, Gpa::new(CODE), 0);
    for (number, value) in (0..).zip(x) {
        hart.set_x(Reg::new(number).expect("32 values"), *value);
    }
    (hart, memory)
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn random_programs_leave_equal_registers_and_memory(
        items in prop::collection::vec(item(), 1..120),
        x in start_values(),
        data in prop::collection::vec(number(), 512),
        budget in 1u64..100,
    ) {
        let words = assemble(&items);
        let end = CODE + 4 * (words.len() as u64 - 1);
        let mut theirs = theirs(&x, &words, &data);
        let steps = run_theirs(&mut theirs, end);

        let (mut hart, mut memory) = ours(&x, &words, &data);
        let exit = loop {
            match hart.run(&mut memory, budget) {
                Exit::Budget => {}
                exit => break exit,
            }
        };
        prop_assert_eq!(exit, Exit::Ecall);
        prop_assert_eq!(hart.pc(), Gpa::new(end));
        prop_assert_eq!(hart.instret(), steps);
        for number in 0..32 {
            let reg = Reg::new(number).expect("a register");
            prop_assert_eq!(hart.x(reg), theirs.registers()[usize::from(number)], "x{}", number);
        }
        let bytes = theirs.memory_mut().load_bytes(0, SIZE).expect("all of it");
        let (words, _) = bytes.as_chunks::<8>();
        for (word, at) in words.iter().zip((0..).step_by(8)) {
            prop_assert_eq!(memory.word(at), u64::from_le_bytes(*word), "at {:#x}", at);
        }
    }
}

fn legal_for_them(decoder: &mut Decoder, word: u32) -> bool {
    let mut memory = FlatMemory::<u64>::new_with_memory(4096);
    memory.store_bytes(0, &word.to_le_bytes()).expect("it fits");
    decoder.reset_instructions_cache();
    decoder.decode(&mut memory, 0).is_ok()
}

fn legal_for_us(word: u32) -> bool {
    let mut memory = Flat::new(0, 4096);
    memory.place_words(0, &[word]);
    let exit = Hart::new(0, Gpa::new(0), 0).run(&mut memory, 1);
    exit != Exit::Illegal { pc: Gpa::new(0), word }
}

/// Bits 6 to 2 of a word.
fn opcode() -> impl Strategy<Value = u32> {
    const FENCE: u32 = 0x03;
    const SYSTEM: u32 = 0x1c;
    prop::sample::select((0..32).filter(|code| ![FENCE, SYSTEM].contains(code)).collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(cases(20_000))]

    /// But for `fence`, whose fields they read less strictly, and SYSTEM, of which they have less.
    #[test]
    fn a_word_is_an_instruction_for_both_or_for_neither(word in any::<u32>(), opcode in opcode()) {
        let word = word & !0x7f | opcode << 2 | 3;
        let mut decoder = build_decoder::<u64>(ISA_IMC | ISA_A, VERSION2);
        prop_assert_eq!(legal_for_us(word), legal_for_them(&mut decoder, word), "{:#010x}", word);
    }
}
