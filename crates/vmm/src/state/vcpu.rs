//! One vCPU's state, out of KVM and into it.

use super::msrs::{self, Msrs};
use super::{CpuidWord, Part, RestoreError, features, xsave};
use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2, kvm_debugregs, kvm_mp_state, kvm_msr_entry,
    kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};
use kvm_ioctls::{Error, VcpuFd, VmFd};
use std::io;

/// One vCPU between two instructions.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct SavedVcpu {
    /// The number of the pass that it has last reported.
    pub(crate) passes: u64,
    pub(crate) cpuid: Vec<kvm_cpuid_entry2>,
    pub(crate) mp_state: kvm_mp_state,
    pub(crate) regs: kvm_regs,
    pub(crate) sregs: kvm_sregs,
    pub(crate) xcrs: kvm_xcrs,
    pub(crate) xsave: Vec<u8>,
    pub(crate) debug: kvm_debugregs,
    pub(crate) msrs: Vec<kvm_msr_entry>,
    pub(crate) events: kvm_vcpu_events,
}

/// What KVM would not take, or must not be given.
#[derive(Debug)]
pub(crate) enum Refusal {
    Part(Part, io::Error),
    /// A register, and what it was to hold.
    Msr(u32, u64),
    /// Found, and room for.
    Xsave(usize, usize),
    /// Of which word of CPUID, and which bits.
    Features(CpuidWord, u32),
}

impl Refusal {
    pub(super) fn part(part: Part, error: Error) -> Self {
        Self::Part(part, error.into())
    }

    /// It as an error of the vCPU with this number.
    pub(crate) fn of(self, vcpu: usize) -> RestoreError {
        match self {
            Self::Part(part, source) => RestoreError::Refused { vcpu, part, source },
            Self::Msr(index, value) => RestoreError::Msr { vcpu, index, value },
            Self::Xsave(found, room) => RestoreError::Xsave { vcpu, found, room },
            Self::Features(word, bits) => RestoreError::Features { vcpu, word, bits },
        }
    }
}

impl SavedVcpu {
    /// What `fd` is now.
    pub(crate) fn of(
        vm: &VmFd,
        fd: &VcpuFd,
        msrs: &Msrs,
        passes: u64,
    ) -> Result<Self, (Part, io::Error)> {
        let of = |part| move |error: Error| (part, error.into());
        let cpuid = fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES).map_err(of(Part::Cpuid))?;
        Ok(Self {
            passes,
            cpuid: cpuid.as_slice().to_vec(),
            mp_state: fd.get_mp_state().map_err(of(Part::MpState))?,
            regs: fd.get_regs().map_err(of(Part::Registers))?,
            sregs: fd.get_sregs().map_err(of(Part::SystemRegisters))?,
            xcrs: fd.get_xcrs().map_err(of(Part::ExtendedControl))?,
            xsave: xsave::read(vm, fd).map_err(of(Part::Xsave))?,
            debug: fd.get_debug_regs().map_err(of(Part::DebugRegisters))?,
            msrs: msrs.read(fd).map_err(of(Part::Msrs))?,
            events: fd.get_vcpu_events().map_err(of(Part::Events))?,
        })
    }

    /// Before the first vCPU of a machine is made another: its time-stamp counter goes where no saved one
    /// can be. KVM takes a counter within a second of what it expects for an attempt to bring the vCPUs
    /// together, and keeps its own; for the others that is wanted.
    pub(crate) fn lose_time(fd: &VcpuFd) -> Result<(), Refusal> {
        msrs::lose_time(fd)
    }

    /// Whether a host that supports these features has all that this was given. KVM would take the others
    /// too, and the guest would find out when it uses them.
    pub(crate) fn check(&self, host: &[kvm_cpuid_entry2]) -> Result<(), Refusal> {
        let lacking = features::lacking(&self.cpuid, host);
        lacking.map_or(Ok(()), |(word, bits)| Err(Refusal::Features(word, bits)))
    }

    /// Makes `fd` this.
    pub(crate) fn put(&self, vm: &VmFd, fd: &VcpuFd) -> Result<(), Refusal> {
        Part::ALL.into_iter().try_for_each(|part| self.put_part(part, vm, fd))
    }

    fn put_part(&self, part: Part, vm: &VmFd, fd: &VcpuFd) -> Result<(), Refusal> {
        let done = match part {
            Part::Cpuid => self.put_cpuid(fd),
            Part::MpState => fd.set_mp_state(self.mp_state),
            Part::Registers => fd.set_regs(&self.regs),
            Part::SystemRegisters => fd.set_sregs(&self.sregs),
            Part::ExtendedControl => fd.set_xcrs(&self.xcrs),
            Part::Xsave => return self.put_xsave(vm, fd),
            Part::DebugRegisters => fd.set_debug_regs(&self.debug),
            Part::Msrs => return msrs::write(fd, &self.msrs),
            Part::Events => fd.set_vcpu_events(&self.events),
        };
        done.map_err(|error| Refusal::part(part, error))
    }

    /// A vCPU that has run takes no other, and on some kernels not even its own.
    fn put_cpuid(&self, fd: &VcpuFd) -> Result<(), Error> {
        if fd.get_cpuid2(KVM_MAX_CPUID_ENTRIES)?.as_slice() == self.cpuid {
            return Ok(());
        }
        let cpuid = CpuId::from_entries(&self.cpuid).map_err(|_| Error::new(libc::E2BIG))?;
        fd.set_cpuid2(&cpuid)
    }

    fn put_xsave(&self, vm: &VmFd, fd: &VcpuFd) -> Result<(), Refusal> {
        let (found, room) = (self.xsave.len(), xsave::room(vm));
        if found > room {
            return Err(Refusal::Xsave(found, room));
        }
        xsave::write(vm, fd, &self.xsave).map_err(|error| Refusal::part(Part::Xsave, error))
    }
}
