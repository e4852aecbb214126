//! The machines: a hypervisor, an emulator, and the processor that it plays.

use super::arm_toolchain::ArmToolchain;
use super::build::Image;
use super::expected;
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
    QemuSvm,
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
            Self::QemuSvm => Image::SvmNpt,
        }
    }

    /// What has to be met, by name and in order.
    pub(crate) fn checks(self) -> Vec<&'static str> {
        match self {
            Self::QemuSvm => expected::with(&expected::NESTED_PAGING),
        }
    }

    /// Its emulator, with `image` in it: writes the serial line to the file `serial`, may use `folder`
    /// for what else it wants, and ends by itself.
    pub(crate) fn start(
        self,
        image: &Path,
        _folder: &Path,
        serial: &Path,
    ) -> Result<Command, Failure> {
        match self {
            Self::QemuSvm => Ok(qemu::x86(image, serial)),
        }
    }

    /// How long it may take. Far more than it does: whoever takes so long hangs.
    pub(crate) fn patience(self) -> Duration {
        match self {
            Self::QemuSvm => Duration::from_secs(120),
        }
    }

    /// Sees to it that its emulator is there, and what builds its image.
    pub(crate) fn require(self, missing: Missing) -> Result<(), Failure> {
        tool::require(self.packages(), missing)?;
        if self.image().is_for_arm() {
            ArmToolchain::at_hand(missing)?;
        }
        Ok(())
    }

    fn packages(self) -> &'static [&'static str] {
        match self {
            Self::QemuSvm => &["qemu-system-x86"],
        }
    }
}
