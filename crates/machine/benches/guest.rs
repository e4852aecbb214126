//! Our interpreter against ckb-vm's fastest portable one (`TraceMachine`), through the same memory
//! port: a guest that stores to every word of 1 MiB, by `sd`, `addi` and `bltu`.
//!
//! Elements are instructions. Both run the same words on a board of their own, fetch them through
//! the port and retire as many, which is checked; the tables are filled by the first pass, during
//! the warm-up. The mark is twice as many instructions a second.

use ckb_vm::machine::VERSION2;
use ckb_vm::machine::trace::TraceMachine;
use ckb_vm::memory::Memory;
use ckb_vm::{
    Bytes, CoreMachine, DefaultCoreMachine, DefaultMachineBuilder, DefaultMachineRunner, Error,
    ISA_A, ISA_IMC, SupportMachine,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use vellum_machine::board::{Board, BoardConfig};
use vellum_machine::bus::{Bus, Width};
use vellum_machine::guests::assembler::Assembler;
use vellum_machine::port::Port;
use vellum_machine::vcpu::{Exit, Hart, Reg};
use vellum_pte::{Ept, Gpa};

const CODE: u64 = 0x8000_0000;
const DATA: u64 = CODE + (1 << 20);
const BYTES: u64 = 1 << 20;
const END: u64 = DATA + BYTES;
const PASSES: u64 = 4;
/// A pass: the loop, and what is around it. The `ecall` does not retire.
const INSTRUCTIONS: u64 = PASSES * (3 * BYTES / 8 + 3) + 1;
/// ckb-vm's call to exit.
const EXIT: i64 = 93;

/// `a0` to `a1` is stored to `a2` times.
fn program() -> Vec<u32> {
    let mut asm = Assembler::new();
    let pass = asm.here();
    asm.mv(Reg::T0, Reg::A0);
    let next = asm.here();
    asm.sd(Reg::T0, 0, Reg::T0);
    asm.addi(Reg::T0, Reg::T0, 8);
    asm.bltu(Reg::T0, Reg::A1, next);
    asm.addi(Reg::A2, Reg::A2, -1);
    asm.bnez(Reg::A2, pass);
    asm.li(Reg::A7, EXIT);
    asm.ecall();
    asm.finish().expect("it assembles")
}

const ARGUMENTS: [(Reg, u64); 3] = [(Reg::A0, DATA), (Reg::A1, END), (Reg::A2, PASSES)];

/// A port on a board of its own, which lives as long as the benchmark, with the program in place.
fn port() -> Port<'static, Ept> {
    let config = BoardConfig::with_memory(END - CODE).expect("in range");
    let board: &Board<Ept> = Box::leak(Box::new(Board::new(&config).expect("the host has memory")));
    let mut port = board.port().expect("the host has memory");
    for (word, at) in program().into_iter().zip((CODE..).step_by(4)) {
        port.store(Gpa::new(at), Width::Word, word.into()).expect("RAM");
    }
    port
}

/// Runs the program once, on a hart that has decoded nothing yet, and returns what retired.
fn run_ours(port: &mut Port<'static, Ept>) -> u64 {
    let mut hart = Hart::new(0, Gpa::new(CODE), 0);
    for (reg, value) in ARGUMENTS {
        hart.set_x(reg, value);
    }
    assert_eq!(hart.run(port, u64::MAX), Exit::Ecall);
    hart.instret()
}

/// The port as ckb-vm's memory. What the program does not use is out of bounds.
struct PortMemory {
    port: Port<'static, Ept>,
    reservation: u64,
}

impl PortMemory {
    fn load(&mut self, at: u64, width: Width) -> Result<u64, Error> {
        self.port.load(Gpa::new(at), width).map_err(|_| Error::MemOutOfBound)
    }

    fn store(&mut self, at: u64, width: Width, value: u64) -> Result<(), Error> {
        self.port.store(Gpa::new(at), width, value).map_err(|_| Error::MemOutOfBound)
    }
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "loads are as wide as asked; hosts have 64 bits"
)]
impl Memory for PortMemory {
    type REG = u64;

    fn new() -> Self {
        Self { port: port(), reservation: u64::MAX }
    }

    fn new_with_memory(_: usize) -> Self {
        Self::new()
    }

    fn init_pages(&mut self, _: u64, _: u64, _: u8, _: Option<Bytes>, _: u64) -> Result<(), Error> {
        Err(Error::MemOutOfBound)
    }

    fn fetch_flag(&mut self, _: u64) -> Result<u8, Error> {
        Ok(0)
    }

    fn set_flag(&mut self, _: u64, _: u8) -> Result<(), Error> {
        Ok(())
    }

    fn clear_flag(&mut self, _: u64, _: u8) -> Result<(), Error> {
        Ok(())
    }

    fn memory_size(&self) -> usize {
        END as usize
    }

    fn store_byte(&mut self, _: u64, _: u64, _: u8) -> Result<(), Error> {
        Err(Error::MemOutOfBound)
    }

    fn store_bytes(&mut self, _: u64, _: &[u8]) -> Result<(), Error> {
        Err(Error::MemOutOfBound)
    }

    fn load_bytes(&mut self, _: u64, _: u64) -> Result<Bytes, Error> {
        Err(Error::MemOutOfBound)
    }

    fn execute_load16(&mut self, at: u64) -> Result<u16, Error> {
        Ok(self.load(at, Width::Half)? as u16)
    }

    fn execute_load32(&mut self, at: u64) -> Result<u32, Error> {
        Ok(self.load(at, Width::Word)? as u32)
    }

    fn load8(&mut self, at: &u64) -> Result<u64, Error> {
        self.load(*at, Width::Byte)
    }

    fn load16(&mut self, at: &u64) -> Result<u64, Error> {
        self.load(*at, Width::Half)
    }

    fn load32(&mut self, at: &u64) -> Result<u64, Error> {
        self.load(*at, Width::Word)
    }

    fn load64(&mut self, at: &u64) -> Result<u64, Error> {
        self.load(*at, Width::Double)
    }

    fn store8(&mut self, at: &u64, value: &u64) -> Result<(), Error> {
        self.store(*at, Width::Byte, *value)
    }

    fn store16(&mut self, at: &u64, value: &u64) -> Result<(), Error> {
        self.store(*at, Width::Half, *value)
    }

    fn store32(&mut self, at: &u64, value: &u64) -> Result<(), Error> {
        self.store(*at, Width::Word, *value)
    }

    fn store64(&mut self, at: &u64, value: &u64) -> Result<(), Error> {
        self.store(*at, Width::Double, *value)
    }

    fn lr(&self) -> &u64 {
        &self.reservation
    }

    fn set_lr(&mut self, value: &u64) {
        self.reservation = *value;
    }
}

struct Theirs(TraceMachine<DefaultCoreMachine<u64, PortMemory>>);

impl Theirs {
    fn new() -> Self {
        let core = DefaultCoreMachine::new_with_memory(ISA_IMC | ISA_A, VERSION2, u64::MAX, 0);
        let counted = Box::new(|_| 1);
        let machine = DefaultMachineBuilder::new(core).instruction_cycle_func(counted).build();
        Self(TraceMachine::new(machine))
    }

    /// Runs the program once and returns what retired before the `ecall`.
    fn run(&mut self) -> u64 {
        for (reg, value) in ARGUMENTS {
            self.0.set_register(usize::from(reg.number()), value);
        }
        self.0.update_pc(CODE);
        self.0.commit_pc();
        self.0.inner_mut().set_cycles(0);
        self.0.run().expect("the program is legal");
        self.0.inner_mut().cycles() - 1
    }
}

fn stores(criterion: &mut Criterion) {
    let (mut port, mut theirs) = (port(), Theirs::new());
    assert_eq!((run_ours(&mut port), theirs.run()), (INSTRUCTIONS, INSTRUCTIONS));
    let mut group = criterion.benchmark_group("guest");
    group.throughput(Throughput::Elements(INSTRUCTIONS));
    group.bench_function("vellum", |bencher| bencher.iter(|| run_ours(&mut port)));
    group.bench_function("ckb-vm", |bencher| bencher.iter(|| theirs.run()));
    group.finish();
}

criterion_group!(benches, stores);
criterion_main!(benches);
