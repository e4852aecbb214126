//! A flattened device tree (Devicetree Specification 0.4, chapter 5), and the one of the machine that
//! the guest is given.

use super::layout::{GUEST_BYTES, GUEST_FIRST};
use std::ops::Range;

/// A node and what is below it.
pub(crate) struct Node {
    name: &'static str,
    properties: Vec<(&'static str, Vec<u8>)>,
    children: Vec<Node>,
}

impl Node {
    fn new(name: &'static str) -> Self {
        Self { name, properties: Vec::new(), children: Vec::new() }
    }

    fn property(mut self, name: &'static str, value: Vec<u8>) -> Self {
        self.properties.push((name, value));
        self
    }

    /// A property of 32-bit numbers; without any it is a flag.
    fn cells(self, name: &'static str, cells: &[u32]) -> Self {
        let value = cells.iter().flat_map(|cell| cell.to_be_bytes()).collect();
        self.property(name, value)
    }

    /// A property of 64-bit numbers.
    fn wide(self, name: &'static str, numbers: &[u64]) -> Self {
        let value = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
        self.property(name, value)
    }

    /// A property of texts, each ended by a zero.
    fn text(self, name: &'static str, texts: &[&str]) -> Self {
        let value = texts.iter().flat_map(|text| text.bytes().chain([0])).collect();
        self.property(name, value)
    }

    fn with(mut self, child: Self) -> Self {
        self.children.push(child);
        self
    }
}

const MAGIC: u32 = 0xd00d_feed;
const VERSION: u32 = 17;
const COMPATIBLE_WITH: u32 = 16;
const HEADER_BYTES: usize = 40;
/// An empty list of reserved memory: one entry of zeros.
const RESERVED_BYTES: usize = 16;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const END: u32 = 9;

/// The tree below `root` as the kernel reads it.
pub(crate) fn flatten(root: &Node) -> Vec<u8> {
    let mut blocks = Blocks::default();
    blocks.node(root);
    blocks.number(END);
    let structure = HEADER_BYTES + RESERVED_BYTES;
    let strings = structure + blocks.structure.len();
    let total = strings + blocks.strings.len();
    let size = |bytes: usize| u32::try_from(bytes).expect("a tree of some kilobytes");
    let header = [
        MAGIC,
        size(total),
        size(structure),
        size(strings),
        size(HEADER_BYTES),
        VERSION,
        COMPATIBLE_WITH,
        0,
        size(blocks.strings.len()),
        size(blocks.structure.len()),
    ];
    let mut blob: Vec<u8> = header.into_iter().flat_map(u32::to_be_bytes).collect();
    blob.extend([0; RESERVED_BYTES]);
    blob.extend(blocks.structure);
    blob.extend(blocks.strings);
    blob
}

/// The two blocks of a flattened tree.
#[derive(Default)]
struct Blocks {
    structure: Vec<u8>,
    strings: Vec<u8>,
}

impl Blocks {
    fn number(&mut self, number: u32) {
        self.structure.extend(number.to_be_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.structure.extend(bytes);
        self.structure.resize(self.structure.len().next_multiple_of(4), 0);
    }

    fn node(&mut self, node: &Node) {
        self.number(BEGIN_NODE);
        self.bytes(&[node.name.as_bytes(), &[0]].concat());
        for (name, value) in &node.properties {
            let name = self.name(name);
            self.number(PROPERTY);
            self.number(u32::try_from(value.len()).expect("a short property"));
            self.number(name);
            self.bytes(value);
        }
        for child in &node.children {
            self.node(child);
        }
        self.number(END_NODE);
    }

    /// Where the text of a property's name begins.
    fn name(&mut self, name: &str) -> u32 {
        let first = u32::try_from(self.strings.len()).expect("a few names");
        self.strings.extend(name.bytes().chain([0]));
        first
    }
}

/// The names by which nodes refer to others.
const CLOCK: u32 = 1;
const GIC: u32 = 2;
/// Kinds of interrupts, and that they are levels (Linux, interrupt-controller/arm,gic-v3.yaml).
const SHARED: u32 = 0;
const PRIVATE: u32 = 1;
const HIGH: u32 = 4;

/// The guest's machine: QEMU's `virt` with so many CPUs, its interrupt controller, timer and serial line,
/// and nothing that writes memory by itself. The memory is what the hypervisor gives.
pub(crate) fn machine(command_line: &str, first_files: Range<u64>, cpus: u32) -> Node {
    Node::new("")
        .cells("#address-cells", &[2])
        .cells("#size-cells", &[2])
        .cells("interrupt-parent", &[GIC])
        .text("compatible", &["linux,dummy-virt"])
        .text("model", &["Vellum's second stage"])
        .with(chosen(command_line, &first_files))
        .with(memory())
        .with(processors(cpus))
        .with(power())
        .with(timer())
        .with(interrupt_controller())
        .with(clock())
        .with(serial_line())
}

fn chosen(command_line: &str, first_files: &Range<u64>) -> Node {
    Node::new("chosen")
        .text("bootargs", &[command_line])
        .text("stdout-path", &["/pl011@9000000"])
        .wide("linux,initrd-start", &[first_files.start])
        .wide("linux,initrd-end", &[first_files.end])
}

fn memory() -> Node {
    Node::new("memory@40000000")
        .text("device_type", &["memory"])
        .wide("reg", &[GUEST_FIRST, GUEST_BYTES])
}

fn processors(cpus: u32) -> Node {
    let all = Node::new("cpus").cells("#address-cells", &[1]).cells("#size-cells", &[0]);
    (0..cpus).fold(all, |all, number| all.with(processor(number)))
}

fn processor(number: u32) -> Node {
    Node::new(["cpu@0", "cpu@1"][number as usize])
        .text("device_type", &["cpu"])
        .text("compatible", &["arm,armv8"])
        .text("enable-method", &["psci"])
        .cells("reg", &[number])
}

/// Through the hypervisor, which answers for the firmware.
fn power() -> Node {
    Node::new("psci").text("compatible", &["arm,psci-1.0", "arm,psci-0.2"]).text("method", &["hvc"])
}

/// The four timers of each CPU: secure, of the kernel, virtual, of the hypervisor.
fn timer() -> Node {
    let interrupts = [13, 14, 11, 10].map(|number| [PRIVATE, number, HIGH]);
    Node::new("timer")
        .text("compatible", &["arm,armv8-timer"])
        .cells("interrupts", interrupts.as_flattened())
        .cells("always-on", &[])
}

fn interrupt_controller() -> Node {
    Node::new("intc@8000000")
        .text("compatible", &["arm,gic-v3"])
        .cells("#interrupt-cells", &[3])
        .cells("interrupt-controller", &[])
        .wide("reg", &[0x0800_0000, 0x1_0000, 0x080a_0000, 0x00f6_0000])
        .cells("phandle", &[GIC])
}

fn clock() -> Node {
    Node::new("apb-pclk")
        .text("compatible", &["fixed-clock"])
        .cells("#clock-cells", &[0])
        .cells("clock-frequency", &[24_000_000])
        .cells("phandle", &[CLOCK])
}

fn serial_line() -> Node {
    Node::new("pl011@9000000")
        .text("compatible", &["arm,pl011", "arm,primecell"])
        .wide("reg", &[0x0900_0000, 0x1000])
        .cells("interrupts", &[SHARED, 1, HIGH])
        .cells("clocks", &[CLOCK, CLOCK])
        .text("clock-names", &["uartclk", "apb_pclk"])
}

#[cfg(test)]
mod tests {
    use super::{Node, flatten};

    #[test]
    fn a_small_tree_is_spelt_as_the_specification_says() {
        let leaf = Node::new("a").cells("n", &[0x0102_0304]).text("t", &["xyz"]);
        let blob = flatten(&Node::new("").with(leaf));
        let words: Vec<u32> = blob[..96 + 16]
            .chunks_exact(4)
            .map(|word| u32::from_be_bytes(word.try_into().expect("four bytes")))
            .collect();
        let structure = [1, 0, 1, 0x6100_0000, 3, 4, 0, 0x0102_0304, 3, 4, 2, 0x7879_7a00, 2, 2, 9];
        let header = [0xd00d_feed, 120, 56, 116, 40, 17, 16, 0, 4, 60];
        assert_eq!(words[..10], header);
        assert_eq!(words[10..14], [0; 4], "no reserved memory");
        assert_eq!(words[14..28], structure[..14]);
        assert_eq!(blob[112..116], 9_u32.to_be_bytes());
        assert_eq!(&blob[116..], b"n\0t\0");
    }
}
