//! The oracles' guest as threads of this process that store to its memory, tracked by the kernel's
//! userfaultfd.

use crate::backend::{Backend, Guest, PAGES, Plan, Random};
use crate::crew::{Crew, Ground};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::fs::File;
use std::hint::black_box;
use std::sync::atomic::Ordering;
use vellum_memory::guest::{Bytes, GuestAddress, GuestMemoryMmap};
use vellum_memory::{AddressSpace, PAGE_SIZE};
use vellum_process::ProcessLog;
use vellum_pte::Gfn;
use vm_memory::FileOffset;

/// Where the slot begins.
const BASE: Gfn = Gfn::new(0x8_0000);

/// Steps of other work after a store. A guest that does nothing but store writes all of its pages while
/// they are harvested once, and an oracle that sees each of them named sees nothing.
const OTHER_WORK: u32 = 4000;

/// What is behind the memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Pages of this process alone.
    Private,
    /// A file without a name, as vhost-user shares it.
    Shared,
}

/// Threads of this process, and the kernel's log of its memory.
#[derive(Clone, Copy, Debug)]
pub struct Threads {
    /// What is behind the memory.
    pub kind: Kind,
}

impl Backend for Threads {
    type Guest = ThreadGuest;

    fn name(&self) -> String {
        format!("process {:?}", self.kind)
    }

    fn guest(&self, plan: Plan) -> ThreadGuest {
        let file = file(self.kind);
        ThreadGuest { crew: Crew::new(OnMemory(mapped(file.clone())), plan), file }
    }
}

fn bytes() -> usize {
    usize::try_from(PAGES * PAGE_SIZE).expect("a size")
}

fn file(kind: Kind) -> Option<FileOffset> {
    match kind {
        Kind::Private => None,
        Kind::Shared => {
            let file = memfd_create("guest", MemfdFlags::CLOEXEC).expect("a file in memory");
            ftruncate(&file, bytes() as u64).expect("it is sparse");
            Some(FileOffset::new(File::from(file), 0))
        }
    }
}

/// A mapping of its own.
fn mapped(file: Option<FileOffset>) -> GuestMemoryMmap {
    let range = (GuestAddress(BASE.gpa().get()), bytes(), file);
    GuestMemoryMmap::from_ranges_with_files([range]).expect("sparse memory is to be had")
}

/// Memory of this process, and threads that store to it.
pub struct ThreadGuest {
    crew: Crew<OnMemory>,
    file: Option<FileOffset>,
}

struct OnMemory(GuestMemoryMmap);

impl Ground for OnMemory {
    type Hand<'s> = ();

    fn hand(&self, _: usize) {}

    fn store(&self, (): &mut (), page: u64, number: u64) {
        let at = GuestAddress(BASE.gpa().get() + page * PAGE_SIZE);
        self.0.store(number, at, Ordering::Release).expect("the page is mapped");
        let mut work = Random::new(page);
        (0..OTHER_WORK).for_each(|_| {
            black_box(work.step());
        });
    }
}

impl Guest for ThreadGuest {
    type Source<'g> = ProcessLog;

    fn source(&self) -> ProcessLog {
        let log = ProcessLog::of_guest(self.memory(), AddressSpace::NORMAL);
        log.expect("the gate has seen to it that this process is given one")
    }

    fn set_number(&self, number: u64) {
        self.crew.set_number(number);
    }

    fn resume(&self) {
        self.crew.resume();
    }

    fn pause(&self) {
        self.crew.pause();
    }

    fn oldest_number(&self) -> u64 {
        self.crew.oldest_number()
    }

    fn stores(&self) -> Vec<u64> {
        self.crew.stores()
    }

    fn memory(&self) -> &GuestMemoryMmap {
        &self.crew.ground().0
    }

    /// Private memory has no second mapping.
    fn devices_memory(&self) -> GuestMemoryMmap {
        match &self.file {
            Some(file) => mapped(Some(file.clone())),
            None => self.memory().clone(),
        }
    }

    fn base(&self) -> Gfn {
        BASE
    }
}
