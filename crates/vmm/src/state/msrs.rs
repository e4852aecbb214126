//! Model-specific registers.

use super::vcpu::Refusal;
use kvm_bindings::{KVM_MAX_MSR_ENTRIES, Msrs as Call, kvm_msr_entry};
use kvm_ioctls::{Error, Kvm, VcpuFd};

/// `IA32_TIME_STAMP_COUNTER`.
const TIME_STAMP_COUNTER: u32 = 0x10;
/// Years, in ticks of any processor.
const FAR: u64 = 1 << 60;

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

/// Makes `fd` hold all of `entries`. There are registers that KVM hands out and does not take back, not even
/// with what they hold: those of a feature that the vCPU's CPUID does not have. They are passed over where
/// they hold it already.
pub(super) fn write(fd: &VcpuFd, entries: &[kvm_msr_entry]) -> Result<(), Refusal> {
    let mut left = entries;
    while !left.is_empty() {
        let asked = &left[..left.len().min(KVM_MAX_MSR_ENTRIES)];
        let done = wrapped(asked).and_then(|call| fd.set_msrs(&call));
        let done = done.map_err(|error| Refusal::part(super::Part::Msrs, error))?.min(asked.len());
        if let Some(entry) =
            asked.get(done).filter(|entry| held(fd, entry.index) != Some(entry.data))
        {
            return Err(Refusal::Msr(entry.index, entry.data));
        }
        left = &left[past(done, asked.len())..];
    }
    Ok(())
}

/// Puts the time-stamp counter far ahead.
pub(super) fn lose_time(fd: &VcpuFd) -> Result<(), Refusal> {
    let Some(now) = held(fd, TIME_STAMP_COUNTER) else { return Ok(()) };
    let data = now.wrapping_add(FAR);
    write(fd, &[kvm_msr_entry { index: TIME_STAMP_COUNTER, data, ..Default::default() }])
}

/// What a register holds, if there is one.
fn held(fd: &VcpuFd, index: u32) -> Option<u64> {
    let mut call = wrapped(&[kvm_msr_entry { index, ..Default::default() }]).ok()?;
    let done = fd.get_msrs(&mut call).ok()?;
    call.as_slice().get(..done)?.first().map(|entry| entry.data)
}

fn wrapped(entries: &[kvm_msr_entry]) -> Result<Call, Error> {
    Call::from_entries(entries).map_err(|_| Error::new(libc::E2BIG))
}
