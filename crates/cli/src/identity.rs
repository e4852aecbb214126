//! What a destination must know to build the same machine.

use crate::args::Format;
use serde::{Deserialize, Serialize};
use vellum_machine::RAM_BASE;
use vellum_machine::machine::MachineConfig;
use vellum_memory::Layout;
use vellum_migrate::{Refusal, RefusalKind};
use vellum_pte::{GfnRange, PAGE_SIZE};

/// The kind of machine, and the number of its description's version.
const KIND: &str = "vellum-rv64-1";

/// The most vCPUs that a stranger may ask for.
const MOST_VCPUS: usize = 64;

/// A machine's description, as JSON on the wire.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    kind: String,
    /// How its second-stage entries are spelt.
    pub(crate) format: Format,
    vcpus: usize,
    memory: u64,
    seed: u64,
    word: u64,
}

impl Identity {
    /// Of the machine built as `config`.
    pub(crate) fn new(config: &MachineConfig, format: Format) -> Self {
        let MachineConfig { vcpus, memory, seed, word, .. } = *config;
        Self { kind: KIND.to_owned(), format, vcpus, memory, seed, word }
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

    /// How to build it.
    pub(crate) fn config(&self) -> MachineConfig {
        let Self { seed, word, .. } = *self;
        MachineConfig { seed, word, ..MachineConfig::new(self.memory, self.vcpus) }
    }

    fn check(&self, layout: &Layout) -> Result<(), Refusal> {
        if self.kind != KIND {
            return Err(machine(&format!("only machines of kind {KIND} are built here")));
        }
        if !(1..=MOST_VCPUS).contains(&self.vcpus) {
            return Err(machine(&format!("a machine here has 1 to {MOST_VCPUS} vCPUs")));
        }
        let ram = GfnRange::new(RAM_BASE, self.memory.div_ceil(PAGE_SIZE));
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
    use vellum_pte::{AddressSpace, SlotId};

    fn layout(pages: u64) -> Layout {
        let range = GfnRange::new(RAM_BASE, pages).expect("in range");
        let region = Region { slot: SlotId(0), space: AddressSpace::NORMAL, range };
        Layout::new(vec![region]).expect("one region overlaps nothing")
    }

    fn identity() -> Identity {
        Identity::new(&MachineConfig::new(1 << 20, 2), Format::Npt)
    }

    #[test]
    fn a_description_survives_the_wire() {
        let back = Identity::from_bytes(&identity().to_bytes(), &layout(256));
        assert_eq!(back.as_ref(), Ok(&identity()));
        assert_eq!(back.map(|identity| identity.config().vcpus), Ok(2));
    }

    #[test]
    fn a_description_that_lies_about_its_memory_is_refused() {
        assert!(Identity::from_bytes(&identity().to_bytes(), &layout(255)).is_err());
    }

    #[test]
    fn garbage_and_greed_are_refused() {
        assert!(Identity::from_bytes(b"\xff\x00", &layout(1)).is_err());
        assert!(Identity::from_bytes(b"{}", &layout(1)).is_err());
        let greedy = Identity { vcpus: 65, ..identity() };
        assert!(Identity::from_bytes(&greedy.to_bytes(), &layout(256)).is_err());
    }
}
