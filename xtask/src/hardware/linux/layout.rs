//! Where everything is in the memory of the machine and of its guest.

/// Where the guest sees its memory: where `virt` has it.
pub(crate) const GUEST_FIRST: u64 = 0x4000_0000;
/// How much it is.
pub(crate) const GUEST_BYTES: u64 = 128 << 20;
/// Where that is on the machine. Elsewhere: an address of the one taken for the other is noticed.
const HOST_FIRST: u64 = 0x5000_0000;
/// Where the kernel is in the guest's memory: at a multiple of 2 MiB.
const KERNEL: u64 = GUEST_FIRST + (2 << 20);
/// Where its device tree is: after the kernel, with the room that its image's header asks for.
const TREE: u64 = GUEST_FIRST + (96 << 20);
/// Where its first files are.
const FIRST_FILES: u64 = TREE + (2 << 20);

/// Where the hypervisor looks for what was put where: `hypervisors/el2-linux/src/handover.rs` has
/// the same numbers.
pub(crate) const HANDOVER: u64 = 0x4700_0000;
const MAGIC: u64 = 0x4c49_4e55_584f_4e56;

/// What is put into the guest's memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Piece {
    /// The kernel.
    Kernel,
    /// Its device tree.
    Tree,
    /// Its first files.
    FirstFiles,
}

impl Piece {
    /// Where the guest sees it.
    pub(crate) const fn guest_address(self) -> u64 {
        match self {
            Self::Kernel => KERNEL,
            Self::Tree => TREE,
            Self::FirstFiles => FIRST_FILES,
        }
    }

    /// Where it is on the machine.
    pub(crate) const fn host_address(self) -> u64 {
        self.guest_address() - GUEST_FIRST + HOST_FIRST
    }
}

/// How the hypervisor is to track the guest's writes: `hypervisors/el2-linux/src/way.rs` has the same
/// order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// Each harvested page is write-protected by itself.
    Pages,
    /// All of memory is write-protected at once.
    ProtectAll,
    /// The processor says which pages it stored to.
    DirtyBits,
    /// The same, and all of memory is write-protected at once.
    DirtyBitsAndProtectAll,
    /// Page by page, and every now and then not at all.
    HugeLeaves,
}

/// Whether it does so without a mistake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mistake {
    /// It does.
    None,
    /// It skips every shoot-down.
    ShootDownsSkipped,
}

/// What the hypervisor is told, beside what is where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Handover {
    /// How it is to track the guest's writes.
    pub(crate) way: Way,
    /// Whether without a mistake.
    pub(crate) mistake: Mistake,
    /// How many CPUs the guest has.
    pub(crate) cpus: u32,
    /// How many boots there were before this one: it counts on.
    pub(crate) before: u64,
}

impl Handover {
    /// As the hypervisor reads it.
    pub(crate) fn bytes(self) -> Vec<u8> {
        let words = [
            MAGIC,
            GUEST_FIRST,
            GUEST_BYTES,
            HOST_FIRST,
            Piece::Kernel.guest_address(),
            Piece::Tree.guest_address(),
            self.way as u64,
            self.mistake as u64,
            u64::from(self.cpus),
            self.before,
        ];
        words.into_iter().flat_map(u64::to_le_bytes).collect()
    }
}

const _: () = assert!(FIRST_FILES < GUEST_FIRST + GUEST_BYTES);
