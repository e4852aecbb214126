//! The oracles' guest as a native x86-64 program on the kernel's hypervisor: real vCPUs make the
//! stores, and everything that host and guest tell each other lies in guest memory.
//!
//! A pause stops a vCPU at any instruction, also between the fault that marks a page and the store. So
//! the program writes down which page it is about to store to, before it reads the number to store.

use crate::backend::{Backend, Begins, Guest, PAGES, Plan};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use vellum_kvm::{Break, KvmError, RingSize, Way};
use vellum_memory::guest::{Bytes, GuestAddress, GuestMemoryMmap};
use vellum_memory::{DirtySource, GfnRange, Layout, PAGE_SIZE, PageSet};
use vellum_pte::Gfn;
use vellum_vmm::{
    Backing, Config, GuestLog, Machine, MachineError, Program, RAM, RAM_BASE, RESERVED_PAGES,
    Status,
};

/// The page whose first word is the number to store.
const NUMBER_PAGE: u64 = 48;
/// The first page of the plan's table, as addresses.
const TABLE_PAGE: u64 = 16;
/// The first of a page a vCPU: its random number, the number it stores, its stores, and where it stores.
const VCPU_PAGE: u64 = 64;
const VCPU_RANDOM: u64 = 0;
const VCPU_NUMBER: u64 = 8;
const VCPU_STORES: u64 = 16;
const VCPU_PLACE: u64 = 24;

const _: () = assert!(RESERVED_PAGES == crate::backend::RESERVED);
const _: () = assert!(Plan::TABLE == 0x1fff + 1, "the program's mask");

/// `rdi` is the address of RAM and `rdx` the vCPU's number. From then on `rbx` is the vCPU's page, `rbp`
/// the table, `r12` the page of the number, `r13` the random number, `r14` stores so far. It does other work
/// between stores: a guest that does nothing but store writes all of its pages while they are harvested
/// once, and an oracle that sees each of them named sees nothing.
#[rustfmt::skip]
const PROGRAM: [u8; 112] = [
    0xc1, 0xe2, 0x0c,                               //       shl edx, 12
    0x48, 0x8d, 0x9c, 0x17, 0x00, 0x00, 0x04, 0x00, //       lea rbx, [rdi + rdx + 0x40000]
    0x48, 0x8d, 0xaf, 0x00, 0x00, 0x01, 0x00,       //       lea rbp, [rdi + 0x10000]
    0x4c, 0x8d, 0xa7, 0x00, 0x00, 0x03, 0x00,       //       lea r12, [rdi + 0x30000]
    0x4c, 0x8b, 0x2b,                               //       mov r13, [rbx]
    0x4c, 0x8b, 0x73, 0x10,                         //       mov r14, [rbx + 16]
    0x4c, 0x89, 0xe8,                               // next: mov rax, r13     as Random::step draws
    0x48, 0xc1, 0xe0, 0x0d,                         //       shl rax, 13
    0x49, 0x31, 0xc5,                               //       xor r13, rax
    0x4c, 0x89, 0xe8,                               //       mov rax, r13
    0x48, 0xc1, 0xe8, 0x07,                         //       shr rax, 7
    0x49, 0x31, 0xc5,                               //       xor r13, rax
    0x4c, 0x89, 0xe8,                               //       mov rax, r13
    0x48, 0xc1, 0xe0, 0x11,                         //       shl rax, 17
    0x49, 0x31, 0xc5,                               //       xor r13, rax
    0x4c, 0x89, 0xe8,                               //       mov rax, r13
    0x48, 0xc1, 0xe8, 0x14,                         //       shr rax, 20
    0x25, 0xff, 0x1f, 0x00, 0x00,                   //       and eax, 0x1fff
    0x48, 0x8b, 0x74, 0xc5, 0x00,                   //       mov rsi, [rbp + rax * 8]
    0x48, 0x89, 0x73, 0x18,                         //       mov [rbx + 24], rsi  where it will store
    0x49, 0x8b, 0x04, 0x24,                         //       mov rax, [r12]       and only then what
    0x48, 0x89, 0x43, 0x08,                         //       mov [rbx + 8], rax
    0x48, 0x89, 0x06,                               //       mov [rsi], rax       the store
    0x49, 0xff, 0xc6,                               //       inc r14
    0x4c, 0x89, 0x73, 0x10,                         //       mov [rbx + 16], r14
    0xb9, 0xd0, 0x07, 0x00, 0x00,                   //       mov ecx, 2000        other work
    0xff, 0xc9,                                     // work: dec ecx
    0x75, 0xfc,                                     //       jnz work
    0xeb, 0xb0,                                     //       jmp next
];

/// Native vCPUs, and the kernel's log.
#[derive(Clone, Copy, Debug)]
pub struct Native {
    /// How the kernel keeps the log.
    pub way: Way,
    /// What is behind RAM.
    pub backing: Backing,
    /// How large rings are.
    pub ring: RingSize,
    /// A deliberate bug.
    pub broken: Option<Break>,
}

impl Native {
    /// With the largest rings.
    #[must_use]
    pub fn new(way: Way, backing: Backing) -> Self {
        Self { way, backing, ring: RingSize::default(), broken: None }
    }

    /// With rings of this size.
    #[must_use]
    pub const fn with_rings(self, ring: RingSize) -> Self {
        Self { ring, ..self }
    }

    /// With a deliberate bug.
    #[must_use]
    pub const fn broken(self, broken: Break) -> Self {
        Self { broken: Some(broken), ..self }
    }

    /// Bytes of RAM: the oracles' slot, and of huge pages whole ones.
    #[must_use]
    pub fn memory(&self) -> u64 {
        match self.backing {
            Backing::Small | Backing::Transparent => PAGES * PAGE_SIZE,
            Backing::Huge => (PAGES * PAGE_SIZE).next_multiple_of(2 << 20),
        }
    }

    /// A paused guest that follows `plan`.
    ///
    /// # Errors
    /// This machine cannot have it.
    ///
    /// # Panics
    /// Never: the program is short.
    pub fn try_guest(&self, plan: &Plan) -> Result<NativeGuest, MachineError> {
        let program = Program::new(&PROGRAM).expect("a page holds it");
        let mut config = Config::new(self.memory(), plan.vcpus);
        (config.way, config.backing, config.ring) = (self.way, self.backing, self.ring);
        let (machine, mut log) = Machine::new(&config, &program)?;
        self.broken.iter().for_each(|bug| log.break_with(*bug));
        let guest = NativeGuest { machine, log: Mutex::new(Some(log)), vcpus: plan.vcpus as u64 };
        guest.place(plan);
        Ok(guest)
    }
}

impl Backend for Native {
    type Guest = NativeGuest;

    fn name(&self) -> String {
        format!("kvm {} {} {:?} {:?}", self.way, self.backing, self.ring, self.broken)
    }

    fn begins(&self) -> Begins {
        match self.way {
            Way::ManualAllSet => Begins::AllSet,
            Way::ClearingGet | Way::Manual | Way::Ring | Way::RingWithBitmap => Begins::Clean,
        }
    }

    fn guest(&self, plan: Plan) -> NativeGuest {
        self.try_guest(&plan).expect("the gate has seen to it that this machine can have it")
    }
}

/// A machine that runs the program.
pub struct NativeGuest {
    machine: Machine,
    log: Mutex<Option<GuestLog>>,
    vcpus: u64,
}

impl NativeGuest {
    /// The machine.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    fn place(&self, plan: &Plan) {
        self.set_number(1);
        for (entry, page) in (0..).zip(&plan.table) {
            self.put(TABLE_PAGE, 8 * entry, self.address(*page).0);
        }
        for vcpu in 0..plan.vcpus {
            self.put(VCPU_PAGE + vcpu as u64, VCPU_RANDOM, plan.seed_of(vcpu).0);
        }
    }

    fn put(&self, page: u64, offset: u64, word: u64) {
        let at = GuestAddress(self.address(page).0 + offset);
        self.memory().store(word, at, Ordering::Release).expect("RAM");
    }

    fn of_vcpus(&self, offset: u64) -> impl Iterator<Item = u64> + '_ {
        let status = self.machine.status();
        assert!(matches!(status, Status::Running | Status::Paused), "the guest: {status:?}");
        (0..self.vcpus).map(move |vcpu| {
            let at = GuestAddress(self.address(VCPU_PAGE + vcpu).0 + offset);
            self.memory().load(at, Ordering::Acquire).expect("RAM")
        })
    }
}

impl Guest for NativeGuest {
    type Source<'g> = Log<'g>;

    fn source(&self) -> Log<'_> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner).take();
        Log { log: log.expect("it is asked for once"), machine: &self.machine }
    }

    fn region(&self) -> usize {
        RAM
    }

    fn kept(&self) -> u64 {
        RESERVED_PAGES
    }

    fn set_number(&self, number: u64) {
        self.put(NUMBER_PAGE, 0, number);
    }

    fn resume(&self) {
        self.machine.resume();
    }

    fn pause(&self) {
        self.machine.pause();
    }

    fn oldest_number(&self) -> u64 {
        self.of_vcpus(VCPU_NUMBER).min().unwrap_or(0)
    }

    fn stores(&self) -> Vec<u64> {
        self.of_vcpus(VCPU_STORES).collect()
    }

    fn pending(&self) -> Vec<u64> {
        let base = self.address(0).0;
        let places = self.of_vcpus(VCPU_PLACE).filter(|place| *place != 0);
        places.map(|place| (place - base) / PAGE_SIZE).collect()
    }

    fn memory(&self) -> &GuestMemoryMmap {
        self.machine.memory()
    }

    fn base(&self) -> Gfn {
        RAM_BASE
    }
}

/// The kernel's log of it. With rings every vCPU leaves the guest before they are collected: a processor
/// with a page-modification log keeps pages until then, and the oracles want them in the round that
/// comes next.
pub struct Log<'g> {
    log: GuestLog,
    machine: &'g Machine,
}

impl Log<'_> {
    fn let_each_leave(&self) {
        let has_rings = matches!(self.log.way(), Way::Ring | Way::RingWithBitmap);
        if has_rings && matches!(self.machine.status(), Status::Running) {
            self.machine.pause();
            self.machine.resume();
        }
    }
}

impl DirtySource for Log<'_> {
    type Error = KvmError;

    fn method(&self) -> &'static str {
        self.log.method()
    }

    fn layout(&self) -> &Layout {
        self.log.layout()
    }

    fn start(&mut self) -> Result<(), KvmError> {
        self.log.start()
    }

    fn stop(&mut self) -> Result<(), KvmError> {
        self.log.stop()
    }

    fn collect(&mut self, round: &mut PageSet) -> Result<(), KvmError> {
        self.let_each_leave();
        self.log.collect(round)
    }

    fn protect(&mut self, at: usize, range: GfnRange, round: &mut PageSet) -> Result<(), KvmError> {
        self.log.protect(at, range, round)
    }

    fn owe(&mut self, pages: &PageSet) {
        self.log.owe(pages);
    }
}
