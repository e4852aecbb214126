//! A native guest that stores to its pages when it is told to.

use super::{Error, index};
use crate::bench::rival::Rival;
use crate::bench::sample::time;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use vellum_kvm::Way;
use vellum_memory::guest::{Bytes, GuestAddress};
use vellum_memory::{DirtySource, PageSet};
use vellum_pte::PAGE_SIZE;
use vellum_vmm::{Config, GuestLog, Machine, Program, RAM_BASE, RESERVED_PAGES, Status};

/// How often a guest that stores is looked at.
const TICK: Duration = Duration::from_micros(50);

/// Where a vCPU finds what to do: a number, which it does not do twice, then the first address, the
/// end, and the step between two stores. 64 bytes each, from the first page of RAM on.
const ORDERS: u64 = 64;

#[rustfmt::skip]
const PROGRAM: [u8; 51] = [
    0x48, 0xc1, 0xe2, 0x06, //        shl rdx, 6
    0x48, 0x01, 0xfa,       //        add rdx, rdi
    0x31, 0xc0,             //        xor eax, eax
    0xf3, 0x90,             // again: pause
    0x4c, 0x8b, 0x02,       //        mov r8, [rdx]
    0x49, 0x39, 0xc0,       //        cmp r8, rax
    0x74, 0xf6,             //        je again
    0x4c, 0x89, 0xc0,       //        mov rax, r8
    0x4c, 0x8b, 0x4a, 0x08, //        mov r9, [rdx + 8]
    0x4c, 0x8b, 0x52, 0x10, //        mov r10, [rdx + 16]
    0x4c, 0x8b, 0x5a, 0x18, //        mov r11, [rdx + 24]
    0x4d, 0x39, 0xd1,       // next:  cmp r9, r10
    0x73, 0x08,             //        jae done
    0x49, 0x89, 0x01,       //        mov [r9], rax
    0x4d, 0x01, 0xd9,       //        add r9, r11
    0xeb, 0xf3,             //        jmp next
    0xe7, 0x10,             // done:  out 0x10, eax
    0xeb, 0xd6,             //        jmp again
];

/// The guest, its log, which is on, and a round of it.
pub(super) struct Native {
    pub(super) machine: Machine,
    pub(super) log: GuestLog,
    pub(super) round: PageSet,
    vcpus: u64,
    pages: u64,
    orders: u64,
}

impl Native {
    /// A guest with so many pages to store to, all there, on so many vCPUs.
    pub(super) fn new(way: Way, pages: u64, vcpus: u64) -> Result<Self, Error> {
        let memory = (pages + RESERVED_PAGES) * PAGE_SIZE;
        let program = Program::new(&PROGRAM)?;
        let config = Config { way, ..Config::new(memory, index(vcpus)) };
        let (machine, log) = Machine::new(&config, &program)?;
        let round = PageSet::new(log.layout());
        let mut this = Self { machine, log, round, vcpus, pages, orders: 0 };
        this.log.start()?;
        this.store_to(pages)?;
        this.take()?;
        Ok(this)
    }

    /// One store each to so many pages, as far from each other as may be. The guest stands before and
    /// after.
    pub(super) fn store_to(&mut self, pages: u64) -> Result<Duration, Error> {
        if pages == 0 {
            return Ok(Duration::ZERO);
        }
        self.orders += 1;
        (0..self.vcpus).try_for_each(|vcpu| self.order(vcpu, pages))?;
        let begin = Instant::now();
        self.machine.resume();
        while self.machine.passes().iter().any(|done| *done != self.orders) {
            match self.machine.status() {
                Status::Running => std::thread::sleep(TICK),
                stopped => return Err(Error::Stopped(stopped)),
            }
        }
        let elapsed = begin.elapsed();
        self.machine.pause();
        Ok(elapsed)
    }

    /// Collects and protects everything.
    pub(super) fn take(&mut self) -> Result<(), Error> {
        self.round.clear();
        self.log.collect(&mut self.round)?;
        for index in 0..self.round.regions().len() {
            let range = self.round.regions()[index].region().range;
            self.log.protect(index, range, &mut self.round)?;
        }
        Ok(())
    }

    fn order(&self, vcpu: u64, pages: u64) -> Result<(), Error> {
        let step = self.pages / pages * PAGE_SIZE;
        let first = (RAM_BASE.get() + RESERVED_PAGES) * PAGE_SIZE;
        let bound = |part: u64| first + pages * part / self.vcpus * step;
        let at = |word: u64| GuestAddress(RAM_BASE.gpa().get() + vcpu * ORDERS + word * 8);
        let memory = self.machine.memory();
        for (word, value) in (1..).zip([bound(vcpu), bound(vcpu + 1), step]) {
            memory.write_obj(value, at(word))?;
        }
        Ok(memory.store(self.orders, at(0), Ordering::Release)?)
    }
}

impl Rival for Native {
    fn harvest(&mut self) -> Result<Duration, Error> {
        let (taken, elapsed) = time(|| self.take());
        taken.map(|()| elapsed)
    }

    fn rewrite(&mut self) -> Result<Duration, Error> {
        self.store_to(self.pages)
    }
}
