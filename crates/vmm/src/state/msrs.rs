//! Model-specific registers.

use super::vcpu::Refusal;
use kvm_bindings::{KVM_MAX_MSR_ENTRIES, Msrs as Call, kvm_msr_entry};
use kvm_ioctls::{Error, Kvm, VcpuFd};

/// Which there are to save (`KVM_GET_MSR_INDEX_LIST`).
pub(crate) struct Msrs(Vec<u32>);

impl Msrs {
    pub(crate) fn of(kvm: &Kvm) -> Result<Self, Error> {
        Ok(Self(kvm.get_msr_index_list()?.as_slice().to_vec()))
    }

    /// Reads all that this vCPU has. The list is the kernel's, for any vCPU; one that this vCPU's CPUID
    /// does not have is refused, and skipped.
    pub(super) fn read(&self, fd: &VcpuFd) -> Result<Vec<kvm_msr_entry>, Error> {
        let mut read = Vec::with_capacity(self.0.len());
        let mut left = self.0.as_slice();
        while !left.is_empty() {
            let asked = &left[..left.len().min(KVM_MAX_MSR_ENTRIES)];
            let entries = asked.iter().map(|&index| kvm_msr_entry { index, ..Default::default() });
            let mut call = wrapped(&entries.collect::<Vec<_>>())?;
            let done = fd.get_msrs(&mut call)?.min(asked.len());
            read.extend_from_slice(&call.as_slice()[..done]);
            left = &left[past(done, asked.len())..];
        }
        Ok(read)
    }
}

/// How many are done with: those that were taken, and the one after them that was refused.
fn past(done: usize, asked: usize) -> usize {
    if done == asked { done } else { done + 1 }
}

/// Writes all of `entries`. There are registers that KVM hands out and does not take back, not even with
/// what they hold: those of a feature that the vCPU's CPUID does not have. They are passed over where
/// they hold it already.
pub(super) fn write(fd: &VcpuFd, entries: &[kvm_msr_entry]) -> Result<(), Refusal> {
    let refused = |error| Refusal::part(super::Part::Msrs, error);
    let mut left = entries;
    while !left.is_empty() {
        let asked = &left[..left.len().min(KVM_MAX_MSR_ENTRIES)];
        let call = wrapped(asked).map_err(refused)?;
        let done = fd.set_msrs(&call).map_err(refused)?.min(asked.len());
        match asked.get(done) {
            Some(entry) if !holds(fd, entry).map_err(refused)? => {
                return Err(Refusal::Msr(entry.index, entry.data));
            }
            _ => left = &left[past(done, asked.len())..],
        }
    }
    Ok(())
}

/// Whether a register holds this already.
fn holds(fd: &VcpuFd, entry: &kvm_msr_entry) -> Result<bool, Error> {
    let mut call = wrapped(&[kvm_msr_entry { index: entry.index, ..Default::default() }])?;
    let read = fd.get_msrs(&mut call)?;
    Ok(read == 1 && call.as_slice()[0].data == entry.data)
}

fn wrapped(entries: &[kvm_msr_entry]) -> Result<Call, Error> {
    Call::from_entries(entries).map_err(|_| Error::new(libc::E2BIG))
}
