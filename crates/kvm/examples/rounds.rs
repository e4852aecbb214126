//! A monitor of one page: runs a small guest on two vCPUs and prints how many pages each round has.
//!
//! ```text
//! cargo run --release -p vellum-kvm --example rounds [clearing-get|manual|manual-all-set|ring]
//! ```

#[path = "../tests/ways/native/mod.rs"]
mod native;

use native::{DATA, Machine, Runner, Unavailable};
use vellum_kvm::{Capabilities, KvmError, RingSize, Way, open};
use vellum_memory::{DirtySource, PageSet};

/// 64 MiB.
const PAGES: u64 = 16_384;
const ROUNDS: usize = 8;

fn main() -> Result<(), KvmError> {
    match way().and_then(guest) {
        Ok(machine) => rounds(machine),
        Err(reason) => {
            println!("not run: {reason}");
            Ok(())
        }
    }
}

/// The way that is named, or the best that the kernel has.
fn way() -> Result<Way, Unavailable> {
    let kvm = open()?;
    let capabilities = Capabilities::of(&kvm.create_vm()?);
    let Some(name) = std::env::args().nth(1) else { return Ok(capabilities.best()) };
    let named = Way::ALL.into_iter().find(|way| way.name() == name);
    named.ok_or_else(|| Unavailable::new(format!("there is no way called {name}")))
}

fn guest(way: Way) -> Result<Machine, Unavailable> {
    let half = PAGES / 2;
    let walks = [Machine::walk(1, 0, half, 1000), Machine::walk(2, half, half, 1000)];
    Machine::new(way, RingSize::default(), PAGES, &walks)
}

fn rounds(mut machine: Machine) -> Result<(), KvmError> {
    machine.log.start()?;
    let runner = Runner::start(core::mem::take(&mut machine.vcpus));
    let mut round = PageSet::new(machine.log.layout());
    println!("{}:", machine.log.method());
    for number in 1..=ROUNDS {
        runner.let_each_leave();
        take(&mut machine, &mut round)?;
        println!("round {number}: {:>6} pages", round.regions()[DATA].count());
    }
    machine.vcpus = runner.end();
    take(&mut machine, &mut round)?;
    println!("the rest: {:>5} pages, with the guest standing", round.regions()[DATA].count());
    machine.log.stop()
}

/// A round. Its pages would be copied here.
fn take(machine: &mut Machine, round: &mut PageSet) -> Result<(), KvmError> {
    round.clear();
    machine.log.collect(round)?;
    let regions = machine.log.layout().regions().to_vec();
    let mut regions = regions.iter().enumerate();
    regions.try_for_each(|(index, region)| machine.log.protect(index, region.range, round))
}
