//! The XSAVE area, whose size is the host's.
#![allow(unsafe_code)]

use kvm_bindings::{Xsave, kvm_xsave, kvm_xsave2};
use kvm_ioctls::{Cap, Error, VcpuFd, VmFd};
use zerocopy::IntoBytes;

/// What every host has room for.
pub(crate) const LEAST: usize = size_of::<kvm_xsave>();
/// More than any processor has: with AMX it is 11 KiB.
pub(crate) const MOST: usize = 64 << 10;

/// Bytes that this host reads and writes.
pub(super) fn room(vm: &VmFd) -> usize {
    extended(vm).unwrap_or(LEAST)
}

/// The same, if the host has the calls for it (Linux 5.17); before, there were always [`LEAST`].
fn extended(vm: &VmFd) -> Option<usize> {
    let room = usize::try_from(vm.check_extension_int(Cap::Xsave2)).ok()?;
    (room > 0).then(|| room.max(LEAST))
}

pub(super) fn read(vm: &VmFd, fd: &VcpuFd) -> Result<Vec<u8>, Error> {
    let Some(room) = extended(vm) else { return Ok(fd.get_xsave()?.as_bytes().to_vec()) };
    let mut area = empty(room)?;
    // SAFETY: K: the area has at least as many bytes as the kernel says that it writes, and nothing in
    // this process asks for more units meanwhile (`arch_prctl`).
    unsafe { fd.get_xsave2(&mut area)? };
    let mut bytes = area.as_fam_struct_ref().xsave.as_bytes().to_vec();
    bytes.extend_from_slice(area.as_slice().as_bytes());
    bytes.truncate(room);
    Ok(bytes)
}

/// `bytes` are at most [`room`].
pub(super) fn write(vm: &VmFd, fd: &VcpuFd, bytes: &[u8]) -> Result<(), Error> {
    let mut area = empty(room(vm))?;
    let (first, rest) = bytes.split_at(bytes.len().min(LEAST));
    // SAFETY: the area's length stays as it is.
    let header = unsafe { area.as_mut_fam_struct() };
    header.xsave.as_mut_bytes()[..first.len()].copy_from_slice(first);
    area.as_mut_slice().as_mut_bytes()[..rest.len()].copy_from_slice(rest);
    // SAFETY: K: the kernel reads as many bytes as it says, and the area has at least as many.
    unsafe { fd.set_xsave2(&area) }
}

fn empty(room: usize) -> Result<Xsave, Error> {
    let entry = size_of::<<kvm_xsave2 as vmm_sys_util::fam::FamStruct>::Entry>();
    Xsave::new((room - LEAST).div_ceil(entry)).map_err(|_| Error::new(libc::ENOMEM))
}
