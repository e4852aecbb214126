//! A state as bytes, little-endian.
//!
//! ```text
//! version, vCPUs, end: 4 bytes each
//! of each vCPU: passes, 8 bytes; then each part, in its order: its length, 4 bytes, and what KVM gave
//! seal: 32 bytes, BLAKE3 of all before
//! ```
//!
//! The seal finds damage, not malice: whatever is sealed is looked at as if an enemy had written it.

use super::vcpu::SavedVcpu;
use super::{MachineState, Part, StateError, xsave};
use crate::config::MOST_VCPUS;
use crate::status::End;
use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use zerocopy::{FromBytes, Immutable, IntoBytes};

pub(super) const VERSION: u32 = 1;
/// More registers than KVM knows of.
const MOST_MSRS: usize = 4096;
const SEAL: usize = blake3::OUT_LEN;

pub(super) fn write(state: &MachineState) -> Vec<u8> {
    let end = match state.end {
        None => 0,
        Some(End::Finished) => 1,
        Some(End::Failed) => 2,
    };
    let mut bytes = Vec::new();
    put_number(&mut bytes, VERSION as usize);
    put_number(&mut bytes, state.vcpus.len());
    put_number(&mut bytes, end);
    state.vcpus.iter().for_each(|vcpu| write_vcpu(&mut bytes, vcpu));
    seal(bytes)
}

/// `bytes` with their seal.
pub(crate) fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    let seal = blake3::hash(&bytes);
    bytes.extend_from_slice(seal.as_bytes());
    bytes
}

/// A number that fits: there are far fewer vCPUs and bytes of a part.
fn put_number(bytes: &mut Vec<u8>, number: usize) {
    bytes.extend_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
}

fn write_vcpu(bytes: &mut Vec<u8>, vcpu: &SavedVcpu) {
    bytes.extend_from_slice(&vcpu.passes.to_le_bytes());
    for part in Part::ALL {
        let content = content(vcpu, part);
        put_number(bytes, content.len());
        bytes.extend_from_slice(content);
    }
}

/// What KVM gave.
pub(crate) fn content(vcpu: &SavedVcpu, part: Part) -> &[u8] {
    match part {
        Part::Cpuid => vcpu.cpuid.as_bytes(),
        Part::MpState => vcpu.mp_state.as_bytes(),
        Part::Registers => vcpu.regs.as_bytes(),
        Part::SystemRegisters => vcpu.sregs.as_bytes(),
        Part::ExtendedControl => vcpu.xcrs.as_bytes(),
        Part::Xsave => &vcpu.xsave,
        Part::DebugRegisters => vcpu.debug.as_bytes(),
        Part::Msrs => vcpu.msrs.as_bytes(),
        Part::Events => vcpu.events.as_bytes(),
    }
}

pub(super) fn read(bytes: &[u8]) -> Result<MachineState, StateError> {
    let mut reader = Reader(unsealed(bytes)?);
    let version = reader.number()?;
    if version != VERSION {
        return Err(StateError::Version(version));
    }
    let vcpus = reader.vcpus()?;
    let end = match reader.number()? {
        0 => None,
        1 => Some(End::Finished),
        2 => Some(End::Failed),
        other => return Err(StateError::Field(other)),
    };
    let vcpus = (0..vcpus).map(|_| reader.vcpu()).collect::<Result<_, _>>()?;
    match reader.0.len() {
        0 => Ok(MachineState { end, vcpus }),
        more => Err(StateError::TooLong(more)),
    }
}

fn unsealed(bytes: &[u8]) -> Result<&[u8], StateError> {
    let content = bytes.len().checked_sub(SEAL).ok_or(StateError::TooShort)?;
    let (content, seal) = bytes.split_at(content);
    if blake3::hash(content).as_bytes() == seal { Ok(content) } else { Err(StateError::Damaged) }
}

/// What is left to read.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, bytes: usize) -> Result<&'b [u8], StateError> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or(StateError::TooShort)?;
        self.0 = rest;
        Ok(taken)
    }

    fn word<const N: usize>(&mut self) -> Result<[u8; N], StateError> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| StateError::TooShort)
    }

    fn number(&mut self) -> Result<u32, StateError> {
        self.word().map(u32::from_le_bytes)
    }

    fn vcpus(&mut self) -> Result<usize, StateError> {
        let number = self.number()?;
        let vcpus = usize::try_from(number).ok().filter(|vcpus| (1..=MOST_VCPUS).contains(vcpus));
        vcpus.ok_or(StateError::Vcpus(number))
    }

    fn vcpu(&mut self) -> Result<SavedVcpu, StateError> {
        Ok(SavedVcpu {
            passes: u64::from_le_bytes(self.word()?),
            cpuid: self.list(Part::Cpuid, KVM_MAX_CPUID_ENTRIES)?,
            mp_state: self.whole(Part::MpState)?,
            regs: self.whole(Part::Registers)?,
            sregs: self.whole(Part::SystemRegisters)?,
            xcrs: self.whole(Part::ExtendedControl)?,
            xsave: self.xsave()?,
            debug: self.whole(Part::DebugRegisters)?,
            msrs: self.list(Part::Msrs, MOST_MSRS)?,
            events: self.whole(Part::Events)?,
        })
    }

    fn part(&mut self) -> Result<&'b [u8], StateError> {
        let length = self.number()?;
        self.take(usize::try_from(length).map_err(|_| StateError::TooShort)?)
    }

    fn whole<T: FromBytes>(&mut self, part: Part) -> Result<T, StateError> {
        let bytes = self.part()?;
        T::read_from_bytes(bytes).map_err(|_| StateError::Size { part, found: bytes.len() })
    }

    fn list<T: FromBytes + Immutable>(
        &mut self,
        part: Part,
        most: usize,
    ) -> Result<Vec<T>, StateError> {
        let bytes = self.part()?;
        let wrong = StateError::Size { part, found: bytes.len() };
        if bytes.len() > most * size_of::<T>() {
            return Err(wrong);
        }
        let entries = bytes.chunks(size_of::<T>()).map(|entry| T::read_from_bytes(entry));
        entries.collect::<Result<_, _>>().map_err(|_| wrong)
    }

    fn xsave(&mut self) -> Result<Vec<u8>, StateError> {
        let (bytes, part) = (self.part()?, Part::Xsave);
        match bytes.len() {
            xsave::LEAST..=xsave::MOST => Ok(bytes.to_vec()),
            found => Err(StateError::Size { part, found }),
        }
    }
}
