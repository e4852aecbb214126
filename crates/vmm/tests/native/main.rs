//! Guests that run natively on this host's KVM.
//!
//! Where there is no `/dev/kvm`, or the kernel lacks something, a test says `not run` and why.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod backing;
mod logged;
mod presence;
mod running;
mod selfcheck;
mod waiting;
mod writers;

use vellum_memory::guest::{Bytes, GuestAddress, PAGE_BYTES, read_page};
use vellum_memory::{Gfn, PAGE_SIZE};
use vellum_vmm::{Config, Guest, Machine, RAM_BASE};
use waiting::{until_ended, until_more, until_passes, wait};

/// 16 MiB and two vCPUs.
fn config() -> Config {
    Config::new(16 << 20, 2)
}

/// Every guest, with a machine that is at its beginning.
fn each_guest(test: impl Fn(Guest, Machine)) {
    for guest in Guest::ALL {
        if let Some((machine, _log)) = presence::machine(&config(), &guest.program()) {
            test(guest, machine);
        }
    }
}

/// A word of a page of RAM.
fn word(machine: &Machine, page: u64, at: u64) -> u64 {
    let address = RAM_BASE.gpa().get() + page * PAGE_SIZE + at * 8;
    machine.memory().read_obj(GuestAddress(address)).expect("in memory")
}

fn is_zero(machine: &Machine, page: u64) -> bool {
    let mut bytes = [0; PAGE_BYTES];
    let gfn = Gfn::new(RAM_BASE.get() + page);
    read_page(machine.memory(), gfn, &mut bytes).expect("in memory");
    bytes == [0; PAGE_BYTES]
}
