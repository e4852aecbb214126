//! The exit handler: one CPU of the guest's, and what is done for it.

use crate::exit::Exit;
use crate::firmware::{self, Answer, Ended};
use crate::guest::{Guest, Start};
use crate::host::Host;
use crate::trapped;
use crate::vm::{SPACE, Vm};
use core::sync::atomic::Ordering;
use vellum_mmu::{Access, Outcome, Vcpu};
use vellum_pte::{Gpa, Stage2};

/// A CPU of the guest's: the one that this is called on.
pub(crate) struct Cpu<'m> {
    vm: &'m Vm,
    vcpu: Vcpu<'m, Stage2, Host>,
    guest: Guest,
}

impl<'m> Cpu<'m> {
    /// One that is about to begin with `start`.
    pub(crate) fn new(vm: &'m Vm, start: Start) -> Self {
        let (root, shape) = (vm.root(), vm.mmu.root_shape());
        let guest = Guest::new(start, root, shape, vm.way.leaf_updates());
        Self { vm, vcpu: vm.mmu.vcpu().expect("memory for a vCPU"), guest }
    }

    /// Runs the guest until something is for the hypervisor to see.
    pub(crate) fn enter(&mut self) -> Exit {
        self.guest.enter()
    }

    /// Does what the exit asks for.
    ///
    /// # Errors
    /// The guest has ended.
    pub(crate) fn handle(&mut self, exit: Exit) -> Result<(), Ended> {
        match exit {
            Exit::Fault { gpa, access } => self.fault(gpa, access),
            Exit::FaultThatMoved => {}
            Exit::RegisterWrite { register, from } => self.write_register(register, from),
            Exit::Yield => self.guest.skip(),
            Exit::Wait => {
                crate::guest::wait_for_interrupt();
                self.guest.skip();
            }
            Exit::Call => self.call()?,
            Exit::Unknown(_) => panic!("at {:#x}: {exit:#x?}", self.guest.pc()),
        }
        Ok(())
    }

    /// Takes the guest past an instruction that was done in its place.
    pub(crate) fn skip(&mut self) {
        self.guest.skip();
    }

    fn fault(&mut self, gpa: Gpa, access: Access) {
        self.vm.faults.fetch_add(1, Ordering::Relaxed);
        match self.vcpu.fault(SPACE, gpa, access) {
            Outcome::Mapped | Outcome::Spurious | Outcome::Retry => {}
            refused => {
                panic!("{access:?} of {gpa:?} from {:#x}: {refused:?}", self.guest.pc())
            }
        }
    }

    fn write_register(&mut self, register: u64, from: usize) {
        self.vm.register_writes.fetch_add(1, Ordering::Relaxed);
        let value = self.guest.register(from);
        trapped::write(register, value).expect("a register whose writes are trapped");
        self.guest.skip();
    }

    fn call(&mut self) -> Result<(), Ended> {
        let words = [0, 1, 2, 3].map(|number| self.guest.register(number));
        let result = match firmware::call(words) {
            Answer::Returns(value) => value,
            Answer::Ends(ended) => return Err(ended),
            Answer::Starts { cpu, start } => self.vm.second.start(cpu, start),
        };
        self.guest.set_register(0, result);
        Ok(())
    }
}
