//! The small hypervisors, on emulators that nobody here wrote.

mod arm_packages;
pub(crate) mod arm_toolchain;
