//! Building the hypervisors from the library's packages.

use super::arm_toolchain::{self, ArmToolchain};
use super::kvm::programs;
use super::package::Packages;
use crate::cargo::run_aside;
use crate::failure::Failure;
use crate::hypervisors::inside;
use crate::tool::Missing;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What runs on a machine: a hypervisor of ours, or tests under somebody else's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Image {
    /// On AMD's SVM.
    SvmNpt,
    /// On Intel's VMX.
    VmxEpt,
    /// At Arm's EL2.
    El2Stage2,
    /// At Arm's EL2, under an operating system.
    El2Linux,
    /// The tests of native guests, under Linux's hypervisor.
    KvmTests,
    /// The tests of the kernel's log, under Linux's hypervisor on Arm.
    KvmTestsForArm,
}

const X86: &str = "x86_64-unknown-linux-gnu";

impl Image {
    /// Its package, and its program; or the folder of its programs.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::SvmNpt => "svm-npt",
            Self::VmxEpt => "vmx-ept",
            Self::El2Stage2 => "el2-stage2",
            Self::El2Linux => "el2-linux",
            Self::KvmTests => "kvm-tests",
            Self::KvmTestsForArm => "kvm-tests-for-arm",
        }
    }

    pub(crate) const fn is_for_arm(self) -> bool {
        match self {
            Self::SvmNpt | Self::VmxEpt | Self::KvmTests => false,
            Self::El2Stage2 | Self::El2Linux | Self::KvmTestsForArm => true,
        }
    }

    const fn target(self) -> &'static str {
        if self.is_for_arm() { arm_toolchain::TARGET } else { X86 }
    }

    /// Where it is put, with everything that is built under `folder`.
    pub(crate) fn path(self, folder: &Path) -> PathBuf {
        match self {
            Self::KvmTests | Self::KvmTestsForArm => folder.join(self.name()),
            _ => builds(folder).join(self.target()).join("release").join(self.name()),
        }
    }
}

/// Builds `images` from `packages`, all of one architecture at once.
pub(crate) fn build(folder: &Path, packages: &Packages, images: &[Image]) -> Result<(), Failure> {
    let mut hypervisors = Vec::new();
    for image in images {
        match image {
            Image::KvmTests => programs::build(&image.path(folder))?,
            Image::KvmTestsForArm => programs::build_for_arm(&image.path(folder))?,
            hypervisor => hypervisors.push(*hypervisor),
        }
    }
    let (arm, x86): (Vec<Image>, Vec<Image>) =
        hypervisors.into_iter().partition(|image| image.is_for_arm());
    if !x86.is_empty() {
        run_aside(command(folder, packages, &x86, X86))?;
    }
    if !arm.is_empty() {
        let mut command = command(folder, packages, &arm, arm_toolchain::TARGET);
        ArmToolchain::at_hand(Missing::Name)?.build_with(&mut command);
        run_aside(command)?;
    }
    Ok(())
}

fn command(folder: &Path, packages: &Packages, images: &[Image], target: &str) -> Command {
    let mut command = inside("build --quiet --release --locked --target");
    command.arg(target);
    command.args(images.iter().flat_map(|image| ["--package", image.name()]));
    packages.patch(&mut command);
    command.env("CARGO_TARGET_DIR", builds(folder));
    command
}

fn builds(folder: &Path) -> PathBuf {
    folder.join("builds")
}
