//! What a destination must know to build the same machine.

use crate::args::Format;
use crate::machine::{Movable, kvm, software};
use crate::show::Show;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use vellum_machine::RAM_BASE;
use vellum_machine::machine::MachineConfig;
use vellum_memory::Layout;
use vellum_migrate::{Refusal, RefusalKind};
use vellum_pte::{GfnRange, PAGE_SIZE};

/// The most vCPUs that a stranger may ask for.
const MOST_VCPUS: usize = 64;

/// A machine's description, as JSON on the wire. Each kind's name ends with the number of its
/// description's version.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", deny_unknown_fields)]
pub(crate) enum Identity {
    /// The machine in software.
    #[serde(rename = "vellum-rv64-1")]
    Software {
        /// How its second-stage entries are spelt.
        format: Format,
        /// Its virtual CPUs.
        vcpus: usize,
        /// Bytes of RAM.
        memory: u64,
        /// What the guest makes its random numbers from.
        seed: u64,
        /// A number for the guest.
        word: u64,
    },
    /// A native machine on `/dev/kvm`. All that its guest was given is in its memory and its state.
    #[serde(rename = "vellum-kvm-x86-64-1")]
    Kvm {
        /// Its virtual CPUs.
        vcpus: usize,
        /// Bytes of RAM.
        memory: u64,
    },
}

impl Identity {
    /// Of the software machine built as `config`.
    pub(crate) fn software(config: &MachineConfig, format: Format) -> Self {
        let MachineConfig { vcpus, memory, seed, word, .. } = *config;
        Self::Software { format, vcpus, memory, seed, word }
    }

    /// Of the native machine built as `config`.
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    pub(crate) fn kvm(config: &vellum_vmm::Config) -> Self {
        Self::Kvm { vcpus: config.vcpus, memory: config.memory }
    }

    /// For the wire.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        // A struct of numbers and a word always serializes; were it not so, the other side refuses
        // an empty description.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// From the wire. Nobody has vouched for the bytes.
    ///
    /// # Errors
    /// Why no such machine is built here.
    pub(crate) fn from_bytes(bytes: &[u8], layout: &Layout) -> Result<Self, Refusal> {
        let identity: Self = serde_json::from_slice(bytes)
            .map_err(|error| machine(&format!("its description cannot be read: {error}")))?;
        identity.check(layout).map(|()| identity)
    }

    /// A machine like it, without a guest yet.
    ///
    /// # Errors
    /// Why there can be none here.
    pub(crate) fn build(
        &self,
        layout: &Layout,
        show: &Arc<Show>,
    ) -> Result<Box<dyn Movable>, Refusal> {
        match *self {
            Self::Software { format, vcpus, memory, seed, word } => {
                let config = MachineConfig { seed, word, ..MachineConfig::new(memory, vcpus) };
                software::vacant(&config, format, show)
                    .map_err(|error| Refusal::new(RefusalKind::OutOfMemory, &error.to_string()))
            }
            Self::Kvm { vcpus, memory } => kvm::vacant(vcpus, memory, layout, show),
        }
    }

    fn check(&self, layout: &Layout) -> Result<(), Refusal> {
        let (Self::Software { vcpus, .. } | Self::Kvm { vcpus, .. }) = *self;
        if !(1..=MOST_VCPUS).contains(&vcpus) {
            return Err(machine(&format!("a machine here has 1 to {MOST_VCPUS} vCPUs")));
        }
        let Self::Software { memory, .. } = *self else { return Ok(()) };
        let ram = GfnRange::new(RAM_BASE, memory.div_ceil(PAGE_SIZE));
        match layout.regions() {
            [region] if Some(region.range) == ram => Ok(()),
            _ => Err(Refusal::new(RefusalKind::Layout, "its memory is not what it describes")),
        }
    }
}

fn machine(text: &str) -> Refusal {
    Refusal::new(RefusalKind::Machine, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vellum_memory::Region;
    use vellum_pte::{AddressSpace, Gfn, SlotId};

    fn layout(pages: u64) -> Layout {
        let range = GfnRange::new(RAM_BASE, pages).expect("in range");
        let region = Region { slot: SlotId(0), space: AddressSpace::NORMAL, range };
        Layout::new(vec![region]).expect("one region overlaps nothing")
    }

    fn identity(vcpus: usize) -> Identity {
        Identity::software(&MachineConfig::new(1 << 20, vcpus), Format::Npt)
    }

    /// What a stranger writes in place of what we would.
    fn forged(from: &str, to: &str) -> Vec<u8> {
        let honest = String::from_utf8(identity(2).to_bytes()).expect("JSON is text");
        let forged = honest.replacen(from, to, 1);
        assert_ne!(forged, honest, "{from} is in it");
        forged.into_bytes()
    }

    #[test]
    fn a_description_survives_the_wire() {
        let back = Identity::from_bytes(&identity(2).to_bytes(), &layout(256));
        assert_eq!(back, Ok(identity(2)));
    }

    #[test]
    fn a_description_that_lies_about_its_memory_is_refused() {
        assert!(Identity::from_bytes(&identity(2).to_bytes(), &layout(255)).is_err());
    }

    #[test]
    fn garbage_and_greed_are_refused() {
        assert!(Identity::from_bytes(b"\xff\x00", &layout(1)).is_err());
        assert!(Identity::from_bytes(b"{}", &layout(1)).is_err());
        for vcpus in [0, 65] {
            assert!(Identity::from_bytes(&identity(vcpus).to_bytes(), &layout(256)).is_err());
        }
    }

    /// A native machine as a stranger describes it, with `pages` of RAM in one place.
    fn native(vcpus: usize, memory: u64, first: u64, pages: u64) -> Result<(), Refusal> {
        let range = |first, pages| GfnRange::new(Gfn::new(first), pages).expect("in range");
        let region =
            |slot, range| Region { slot: SlotId(slot), space: AddressSpace::NORMAL, range };
        let regions = vec![region(0, range(0, 21)), region(1, range(first, pages))];
        let layout = Layout::new(regions).expect("they do not overlap");
        let bytes = Identity::Kvm { vcpus, memory }.to_bytes();
        let identity = Identity::from_bytes(&bytes, &layout)?;
        assert_eq!(identity, Identity::Kvm { vcpus, memory });
        identity.build(&layout, &Arc::new(Show::Nobody)).map(drop)
    }

    #[test]
    fn a_native_machine_that_lies_is_refused_before_there_is_one() {
        const FOUR_GIB: u64 = 1 << 20;
        for (vcpus, memory, first, pages) in [
            (0, 32 << 20, FOUR_GIB, 8192),
            (65, 32 << 20, FOUR_GIB, 8192),
            (2, 32 << 20, FOUR_GIB, 8191),
            (2, 32 << 20, FOUR_GIB + 1, 8192),
            (2, u64::MAX, FOUR_GIB, 8192),
        ] {
            let refused = native(vcpus, memory, first, pages).expect_err("it lies");
            let expected = if vcpus == 2 { RefusalKind::Layout } else { RefusalKind::Machine };
            // Where there are no native machines, that is the reason.
            let elsewhere = cfg!(not(all(target_os = "linux", target_arch = "x86_64")));
            assert!(refused.kind == expected || elsewhere, "{refused}");
        }
    }

    #[test]
    fn a_kind_or_a_field_that_nobody_knows_is_refused() {
        let refused = Identity::from_bytes(&forged("rv64-1", "rv64-2"), &layout(256));
        let text = refused.expect_err("it is of another version").to_string();
        assert!(text.contains("vellum-rv64-2") && text.contains("vellum-rv64-1"), "{text}");
        let refused = Identity::from_bytes(&forged("{", "{\"more\":1,"), &layout(256));
        assert!(refused.is_err());
    }
}
