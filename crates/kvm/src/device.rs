//! Opening `/dev/kvm`, and saying why not.

use kvm_ioctls::Kvm;
use std::io;

/// The version of KVM's interface that has not changed since 2007, as `KVM_GET_API_VERSION` says it.
const API: i32 = 12;

/// Why there is no KVM to run a guest with. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The device is not there.
    #[error(
        "there is no /dev/kvm: load kvm_intel or kvm_amd, switch virtualization on in the \
         firmware, or let the host of this machine nest guests"
    )]
    NoDevice,
    /// The device is there, and not for us.
    #[error("/dev/kvm may not be opened: join the group that owns it (often kvm), or run as root")]
    NotPermitted,
    /// The device speaks another language.
    #[error("/dev/kvm has version {0} of its interface, and 12 is needed: take a newer kernel")]
    OtherVersion(i32),
    /// What is there is no KVM.
    #[error("/dev/kvm is something else than the kernel's KVM: somebody has put it there")]
    NotKvm,
    /// The kernel said something else.
    #[error("/dev/kvm could not be opened")]
    Kernel(#[source] io::Error),
}

/// Opens `/dev/kvm`.
///
/// # Errors
/// [`OpenError`], which says what to do.
pub fn open() -> Result<Kvm, OpenError> {
    let kvm = Kvm::new().map_err(|errno| refused(errno.into()))?;
    match kvm.get_api_version() {
        API => Ok(kvm),
        // A failed call, and no version.
        ..0 => Err(OpenError::NotKvm),
        other => Err(OpenError::OtherVersion(other)),
    }
}

fn refused(error: io::Error) -> OpenError {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => OpenError::NoDevice,
        Some(libc::EACCES | libc::EPERM) => OpenError::NotPermitted,
        _ => OpenError::Kernel(error),
    }
}

#[cfg(test)]
mod tests;
