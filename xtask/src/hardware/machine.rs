//! The machines: a hypervisor, an emulator, and the processor that it plays.

use super::arm_toolchain::ArmToolchain;
use super::bochs::{self, Model};
use super::build::Image;
use super::expected;
use super::kvm;
use super::linux;
use super::qemu;
use crate::failure::Failure;
use crate::tool::{self, Missing};
use clap::ValueEnum;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A machine that a hypervisor is proven on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Machine {
    /// AMD's SVM and nested page tables, by QEMU (`-cpu max`).
    SvmNptQemu,
    /// The same, by Bochs (Ryzen).
    SvmNptBochs,
    /// Intel's VMX and EPT with all that this project uses, on two CPUs, by Bochs (Ice Lake).
    VmxEptIcelake,
    /// The same without page-modification logging and sub-page permissions, on one CPU (Cannon Lake).
    VmxEptCannonlake,
    /// The same without A and D bits in EPT (Sandy Bridge).
    VmxEptSandybridge,
    /// Arm's EL2 and stage 2 with access flag and dirty state by hardware, on two CPUs, by QEMU
    /// (`-cpu max`).
    El2Stage2Max,
    /// The same without (Cortex-A57).
    El2Stage2A57,
    /// Arm's EL2 and stage 2 under Debian's kernel, by QEMU (Cortex-A57 and A76).
    El2Linux,
    /// The tests of native guests on Linux's own hypervisor, on AMD's SVM, under Debian's kernel, by QEMU
    /// (`-cpu max`).
    KvmSvm,
    /// The same on Intel's VMX and EPT, by Bochs (Ice Lake).
    KvmVmx,
    /// The tests of the kernel's log on Linux's own hypervisor, on Arm's EL2, under Debian's kernel, by
    /// QEMU (Cortex-A76).
    KvmArm,
}

impl Machine {
    /// Each.
    pub(crate) fn all() -> &'static [Self] {
        Self::value_variants()
    }

    /// What it is called.
    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// What runs on it.
    pub(crate) fn image(self) -> Image {
        match self {
            Self::SvmNptQemu | Self::SvmNptBochs => Image::SvmNpt,
            Self::VmxEptIcelake | Self::VmxEptCannonlake | Self::VmxEptSandybridge => Image::VmxEpt,
            Self::El2Stage2Max | Self::El2Stage2A57 => Image::El2Stage2,
            Self::El2Linux => Image::El2Linux,
            Self::KvmSvm | Self::KvmVmx => Image::KvmTests,
            Self::KvmArm => Image::KvmTestsForArm,
        }
    }

    /// What has to be met, by name and in order.
    pub(crate) fn checks(self) -> Vec<&'static str> {
        use expected::{DIRTY_BITS, EPT, NO_DIRTY_BITS, PAGE_LOG, SUB_PAGE_TABLES};
        use expected::{PARALLEL, PARALLEL_DIRTY_BITS, PARALLEL_ICE_LAKE};
        use expected::{STAGE_2, WALKS_READ, WALKS_SET_FLAGS, WALKS_WRITE, with};
        match self {
            Self::SvmNptQemu | Self::SvmNptBochs => {
                with(&[DIRTY_BITS, WALKS_WRITE, PARALLEL, PARALLEL_DIRTY_BITS])
            }
            Self::VmxEptIcelake => with(&[
                DIRTY_BITS,
                EPT,
                WALKS_WRITE,
                PAGE_LOG,
                SUB_PAGE_TABLES,
                PARALLEL,
                PARALLEL_DIRTY_BITS,
                PARALLEL_ICE_LAKE,
            ]),
            Self::VmxEptCannonlake => with(&[DIRTY_BITS, EPT, WALKS_WRITE]),
            Self::VmxEptSandybridge => with(&[NO_DIRTY_BITS, EPT, WALKS_READ]),
            Self::El2Stage2Max => {
                let own = [STAGE_2, WALKS_READ, WALKS_SET_FLAGS];
                with(&[DIRTY_BITS, &own.concat(), PARALLEL, PARALLEL_DIRTY_BITS])
            }
            Self::El2Stage2A57 => with(&[NO_DIRTY_BITS, STAGE_2, WALKS_READ, PARALLEL]),
            Self::El2Linux => linux::CHECKS.to_vec(),
            Self::KvmSvm => kvm::svm::HOST.checks(),
            Self::KvmVmx => kvm::vmx::HOST.checks(),
            Self::KvmArm => kvm::arm::HOST.checks(),
        }
    }

    /// Its emulator, with `image` in it: writes the serial line to the file `serial`, may use `folder`
    /// for what else it wants, and ends by itself.
    pub(crate) fn start(
        self,
        image: &Path,
        folder: &Path,
        serial: &Path,
    ) -> Result<Command, Failure> {
        let bochs = |model| bochs::machine(model, image, folder, serial);
        match self {
            Self::SvmNptQemu => Ok(qemu::x86(image, serial)),
            Self::SvmNptBochs => bochs(Model::Ryzen),
            Self::VmxEptIcelake => bochs(Model::IceLake),
            Self::VmxEptCannonlake => bochs(Model::CannonLake),
            Self::VmxEptSandybridge => bochs(Model::SandyBridge),
            Self::El2Stage2Max => Ok(qemu::arm("max", image, serial)),
            Self::El2Stage2A57 => Ok(qemu::arm("cortex-a57", image, serial)),
            Self::El2Linux => linux::boots(image, folder, serial),
            Self::KvmSvm => kvm::svm::HOST.boot(image, folder, serial),
            Self::KvmVmx => kvm::vmx::HOST.boot(image, folder, serial),
            Self::KvmArm => kvm::arm::HOST.boot(image, folder, serial),
        }
    }

    /// How long it may take. Far more than it does: whoever takes so long hangs.
    pub(crate) fn patience(self) -> Duration {
        match self {
            Self::SvmNptQemu
            | Self::SvmNptBochs
            | Self::VmxEptIcelake
            | Self::VmxEptCannonlake
            | Self::VmxEptSandybridge
            | Self::El2Stage2Max
            | Self::El2Stage2A57 => Duration::from_secs(240),
            Self::El2Linux | Self::KvmSvm | Self::KvmVmx | Self::KvmArm => Duration::from_secs(900),
        }
    }

    /// Sees to it that its emulator is there, and what builds its image.
    pub(crate) fn require(self, missing: Missing) -> Result<(), Failure> {
        tool::require(self.packages(), missing)?;
        if self.image().is_for_arm() {
            ArmToolchain::at_hand(missing)?;
        }
        match self {
            Self::El2Linux => linux::require(missing),
            Self::KvmSvm => kvm::svm::HOST.require(missing),
            Self::KvmVmx => kvm::vmx::HOST.require(missing),
            Self::KvmArm => kvm::arm::HOST.require(missing),
            _ => Ok(()),
        }
    }

    fn packages(self) -> &'static [&'static str] {
        match self {
            Self::SvmNptQemu | Self::KvmSvm => &["qemu-system-x86"],
            Self::SvmNptBochs
            | Self::VmxEptIcelake
            | Self::VmxEptCannonlake
            | Self::VmxEptSandybridge
            | Self::KvmVmx => bochs::PACKAGES,
            Self::El2Stage2Max | Self::El2Stage2A57 | Self::El2Linux | Self::KvmArm => {
                &["qemu-system-arm"]
            }
        }
    }
}
