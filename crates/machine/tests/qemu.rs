//! Programs built by Debian's riscv gcc print the same on our harts and under QEMU.
//!
//! Needs the packages [`PACKAGES`]; a test fails, naming them, where they are not installed.
#![allow(clippy::cast_possible_truncation, reason = "values are small, and hosts have 64 bits")]

mod flat;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use flat::Flat;
use vellum_machine::elf::Image;
use vellum_machine::sbi::{self, After, HartStatus, Parameter, Platform, StartError};
use vellum_machine::vcpu::{Exit, Hart};
use vellum_pte::Gpa;

const PACKAGES: &str = "gcc-riscv64-linux-gnu qemu-system-misc opensbi";
const HARTS: usize = 4;
const RAM_BASE: u64 = 0x8000_0000;
const RAM: u64 = 16 << 20;
/// More than any program here needs, so that one that hangs fails and names itself. No verdict
/// depends on how long a program takes.
const QEMU_SECONDS: &str = "120";
/// Likewise, for each of our harts.
const MOST_INSTRUCTIONS: u64 = 20_000_000_000;
/// What `timeout` ends with if it had to stop its command.
const TIMED_OUT: i32 = 124;

/// Runs a tool of [`PACKAGES`] and returns what it printed.
fn run_tool<S: AsRef<OsStr>>(tool: &str, arguments: &[S]) -> Vec<u8> {
    let output = output_of(Command::new(tool).args(arguments));
    check(tool, &output);
    output.stdout
}

fn output_of(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| {
        panic!("cannot run {command:?} ({error}): install the packages {PACKAGES}")
    })
}

fn check(tool: &str, output: &Output) {
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool} failed; are {PACKAGES} installed?\n{complaint}");
}

fn build(program: Program) -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs");
    let image = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{program}.elf"));
    let flags = "-march=rv64ima_zicsr_zifencei -mabi=lp64 -mcmodel=medany -O2 -Wall -Wextra -Werror \
                 -ffreestanding -fno-builtin -fno-pic -fno-stack-protector -nostdlib -static -no-pie \
                 -Wl,--build-id=none -Wl,--no-warn-rwx-segments";
    let mut arguments: Vec<_> = flags.split_whitespace().map(Into::into).collect();
    arguments.extend([PathBuf::from("-T"), sources.join("guest.ld"), sources.join("start.S")]);
    arguments.extend([sources.join("guest.c"), sources.join(format!("{program}.c"))]);
    arguments.extend([PathBuf::from("-o"), image.clone()]);
    run_tool("riscv64-linux-gnu-gcc", &arguments);
    image
}

/// What a program says between its marks: firmware speaks on the same console.
fn between_marks(console: &[u8]) -> String {
    let text = String::from_utf8_lossy(console).replace('\r', "");
    let said = text.split_once("\n<begin>\n").and_then(|(_, rest)| rest.split_once("<end>\n"));
    said.unwrap_or_else(|| panic!("the program did not finish:\n{text}")).0.to_owned()
}

const QEMU: &str = "qemu-system-riscv64";

fn under_qemu(program: Program, image: &Path) -> String {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", QEMU_SECONDS, QEMU, "-machine", "virt", "-m", "64M"]);
    command.args(["-smp", &HARTS.to_string(), "-nographic", "-bios", "default", "-kernel"]);
    let output = output_of(command.arg(image));
    let said = String::from_utf8_lossy(&output.stdout);
    let ended = output.status.code() != Some(TIMED_OUT);
    assert!(ended, "{program}: QEMU did not end within {QEMU_SECONDS} seconds; it said:\n{said}");
    check(QEMU, &output);
    between_marks(&output.stdout)
}

/// The name of a file in `tests/programs`.
type Program = &'static str;

/// The part of a machine that its harts, each on a thread of its own, share.
struct Shared {
    program: Program,
    console: Mutex<Vec<u8>>,
    starts: Mutex<[Start; HARTS]>,
    off: AtomicBool,
}

#[derive(Clone, Copy, Default)]
enum Start {
    #[default]
    Stopped,
    Due(Gpa, u64),
    Started,
}

impl Platform for &Shared {
    fn write_console(&mut self, bytes: &[u8]) {
        self.console.lock().expect("no thread panics").extend_from_slice(bytes);
    }

    fn time_ns(&mut self) -> u64 {
        0
    }

    fn progress(&mut self, _: u64, _: u64) {}

    fn parameter(&mut self, _: Parameter) -> u64 {
        0
    }

    fn start_hart(&mut self, hart: u64, entry: Gpa, opaque: u64) -> Result<(), StartError> {
        let mut starts = self.starts.lock().expect("no thread panics");
        match starts.get_mut(hart as usize) {
            None => Err(StartError::NoSuchHart),
            Some(start @ Start::Stopped) => {
                *start = Start::Due(entry, opaque);
                Ok(())
            }
            Some(_) => Err(StartError::AlreadyAvailable),
        }
    }

    fn hart_status(&mut self, _: u64) -> Option<HartStatus> {
        None
    }
}

/// Stops all harts when a thread ends, however it does.
struct StopAll<'a>(&'a AtomicBool);

impl Drop for StopAll<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Shared {
    fn new(program: Program) -> Self {
        let (console, starts) = (Mutex::default(), Mutex::default());
        Self { program, console, starts, off: AtomicBool::new(false) }
    }

    /// What hart `id` was told to start with, once.
    fn due(&self, id: usize) -> Option<(Gpa, u64)> {
        let mut starts = self.starts.lock().expect("no thread panics");
        let Start::Due(entry, opaque) = starts[id] else { return None };
        starts[id] = Start::Started;
        Some((entry, opaque))
    }

    fn stop(&self, id: usize) {
        let mut starts = self.starts.lock().expect("no thread panics");
        starts[id] = Start::Stopped;
        let stuck = starts.iter().all(|start| matches!(start, Start::Stopped));
        drop(starts);
        assert!(!stuck, "{}: all harts have stopped, and none can start another", self.program);
    }

    fn is_on(&self) -> bool {
        !self.off.load(Ordering::Acquire)
    }

    fn run_hart(&self, id: usize, mut memory: Flat) {
        let _stop = StopAll(&self.off);
        while self.is_on() {
            match self.due(id) {
                Some((entry, opaque)) => {
                    self.run_started(Hart::new(id as u64, entry, opaque), &mut memory);
                }
                None => std::thread::yield_now(),
            }
        }
    }

    fn run_started(&self, mut hart: Hart, memory: &mut Flat) {
        while self.is_on() {
            let (id, program) = (hart.id(), self.program);
            match hart.run(memory, 10_000) {
                Exit::Budget | Exit::Wfi => {}
                Exit::Ecall => match sbi::call(&mut hart, memory, &mut &*self) {
                    After::Resume => {}
                    After::StopHart => return self.stop(id as usize),
                    After::Shutdown(_) => self.off.store(true, Ordering::Release),
                    After::Fault(error) => panic!("{program}: a call of hart {id}: {error}"),
                },
                exit => panic!("{program}: hart {id} at {}: {exit:?}", hart.pc()),
            }
            let count = hart.instret();
            assert!(count < MOST_INSTRUCTIONS, "{program}: hart {id} did not end in {count} steps");
        }
    }
}

fn on_our_harts(program: Program, file: &Path) -> String {
    let bytes = std::fs::read(file).expect("gcc has written it");
    let image = Image::parse(&bytes).expect("gcc's image is sound");
    let memory = Flat::new(RAM_BASE, RAM);
    memory.place(&image);
    let shared = Shared::new(program);
    (&shared).start_hart(0, image.entry(), 0).expect("hart 0 is stopped");
    std::thread::scope(|scope| {
        for id in 0..HARTS {
            let (shared, memory) = (&shared, memory.clone());
            scope.spawn(move || shared.run_hart(id, memory));
        }
    });
    between_marks(&shared.console.into_inner().expect("no thread panics"))
}

fn same_under_qemu(program: Program) -> String {
    let image = build(program);
    let ours = on_our_harts(program, &image);
    assert_eq!(ours, under_qemu(program, &image), "{program}: ours, then QEMU's");
    ours
}

#[test]
fn a_sieve_prints_what_it_prints_under_qemu() {
    let said = same_under_qemu("sieve");
    assert!(said.starts_with("primes 0000000000004640\n"), "17984 primes below 200000: {said}");
}

#[test]
fn digests_are_those_under_qemu_and_of_the_standard() {
    let said = same_under_qemu("sha256");
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(said.lines().nth(1), Some(abc));
}

#[test]
fn sorting_through_a_function_pointer_ends_as_under_qemu() {
    assert!(!same_under_qemu("sort").contains("out of order"));
}

#[test]
fn arithmetic_and_its_edges_are_those_under_qemu() {
    let said = same_under_qemu("arithmetic");
    assert!(said.contains("div by zero ffffffffffffffff\n"), "{said}");
}

#[test]
fn four_harts_lose_no_update_as_under_qemu() {
    let said = same_under_qemu("harts");
    assert!(said.contains("lr/sc 0000000000013880\n"), "4 times 20000: {said}");
}

#[test]
fn misaligned_accesses_and_written_code_work_as_under_qemu() {
    assert!(same_under_qemu("memory").ends_with("code done\n"));
}
