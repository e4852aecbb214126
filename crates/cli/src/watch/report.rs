//! What a watch came to, for a program (`--json`) and for a person.

use super::range::{AddressRange, Grain};
use super::table::{cut, hex, render};
use super::tally::{Denied, Over, Seen, Store};
use crate::quantity::{show_count, show_duration};
use crate::report::{Width, wrapped};
use serde::Serialize;
use std::fmt::Write;
use std::time::Duration;
use vellum_pte::{PAGE_SIZE, SUB_PAGE_SIZE};

/// One line of JSON. Addresses and bytes are hexadecimal text; the bytes are in the order in which
/// they lie in memory.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Line<'a> {
    /// A store was made.
    Write {
        /// Which of them, from 1.
        n: u64,
        #[serde(flatten)]
        store: StoreFields,
    },
    /// A store was denied.
    Denied(DeniedFields<'a>),
    /// The watch is over.
    Summary(&'a Report),
    /// It could not be begun.
    Failed {
        /// Why.
        reason: &'a str,
    },
}

impl Line<'_> {
    /// Without an end of line.
    pub(crate) fn json(&self) -> String {
        // Numbers and text always serialize; say so if they ever do not.
        serde_json::to_string(self)
            .unwrap_or_else(|error| format!("{{\"event\":\"failed\",\"reason\":\"{error}\"}}"))
    }
}

/// A store, in JSON.
#[derive(Serialize)]
pub(crate) struct StoreFields {
    vcpu: u32,
    pc: String,
    gpa: String,
    bytes: String,
}

impl From<&Store> for StoreFields {
    fn from(store: &Store) -> Self {
        Self {
            vcpu: store.vcpu,
            pc: address(store.pc),
            gpa: address(store.gpa),
            bytes: hex(store.bytes()),
        }
    }
}

fn address(address: u64) -> String {
    format!("{address:#x}")
}

/// A denied store, in JSON.
#[derive(Serialize)]
pub(crate) struct DeniedFields<'a> {
    #[serde(flatten)]
    store: StoreFields,
    length: u8,
    word: String,
    instruction: Option<&'a str>,
    denied: String,
    sub_page: u64,
    map: String,
    memory: String,
}

/// A denied store, and what stands where it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Explained {
    /// The store, and why not.
    pub(crate) denied: Denied,
    /// The instruction's word.
    pub(crate) word: u32,
    /// How long it is, in bytes.
    pub(crate) length: u8,
    /// As a person reads it.
    pub(crate) instruction: Option<String>,
    /// What memory holds where the store would have gone.
    pub(crate) memory: Vec<u8>,
}

impl Explained {
    /// For a program.
    pub(crate) fn fields(&self) -> DeniedFields<'_> {
        DeniedFields {
            store: (&self.denied.store).into(),
            length: self.length,
            word: format!("{:#010x}", self.word),
            instruction: self.instruction.as_deref(),
            denied: address(self.denied.gpa),
            sub_page: self.sub_page(),
            map: self.denied.map.to_string(),
            memory: hex(&self.memory),
        }
    }

    fn sub_page(&self) -> u64 {
        self.denied.gpa % PAGE_SIZE / SUB_PAGE_SIZE
    }

    /// For a person: what happened, and what can be done.
    pub(crate) fn text(&self, width: Width) -> String {
        let Self { denied: Denied { store, gpa, map }, word, length, .. } = self;
        let page = Grain::Page.unit_of(*gpa);
        let instruction = self.instruction.as_deref().unwrap_or("no instruction that stores");
        let count = 32 - map.bits().count_ones();
        let lines = [
            ("vCPU", store.vcpu.to_string()),
            ("instruction", format!("{:#x}: {word:08x}  {instruction}", store.pc)),
            ("store", format!("{} to {:#x}", hex(store.bytes()), store.gpa)),
            ("memory there", format!("{}, as before", hex(&self.memory))),
            ("denied", format!("{gpa:#x}, in sub-page {} of page {page:#x}", self.sub_page())),
            ("map", format!("{map}: {count} of 32 sub-pages may not be written")),
        ];
        let mut text = "A store was denied, and the guest stands at it:\n".to_owned();
        for (name, value) in lines {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}", cut(&format!("  {name:<13} {value}"), width));
        }
        text.push_str("What a monitor can do now:\n");
        for way in ways(*length) {
            let _ = writeln!(text, "{}", wrapped(&format!("- {way}"), width));
        }
        text
    }
}

/// What a monitor can do about a denied store.
fn ways(length: u8) -> [String; 4] {
    [
        "open the map (Mmu::set_sub_pages) and enter the guest again: the same store succeeds"
            .to_owned(),
        format!(
            "let this one store through (GuestWriter::overruling_maps) and advance the pc by {length}"
        ),
        format!("drop it: advance the pc by {length}, as for a write to a ROM"),
        "inject a fault into the guest, or end it".to_owned(),
    ]
}

/// A range as it was asked for, and as it is watched.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Asked {
    /// As it was asked for.
    pub(crate) asked: AddressRange,
    /// Rounded to the grain.
    pub(crate) watched: AddressRange,
}

impl Asked {
    /// Whether it is watched as it was asked for.
    pub(crate) fn is_exact(&self) -> bool {
        self.asked == self.watched
    }
}

/// A watch, from its first write to its end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Report {
    /// Why it is over: `writes`, `denied`, `time`, `interrupted`, `unread`, `shut-down` or `failed`.
    pub(crate) ended: &'static str,
    /// One sentence: the same for a person.
    pub(crate) reason: String,
    /// Stores to the range.
    pub(crate) writes: u64,
    /// Stores beside it that had to be emulated.
    pub(crate) beside: u64,
    /// Pages or sub-pages that were written.
    pub(crate) written: u64,
    /// Pages or sub-pages that were watched.
    pub(crate) watched: u64,
    /// What is watched as a whole.
    pub(crate) grain: Grain,
    /// The ranges.
    pub(crate) ranges: Vec<Asked>,
    /// How stores were caught.
    pub(crate) mechanism: &'static str,
    /// Why so.
    pub(crate) mechanism_reason: String,
    /// The guest.
    pub(crate) guest: String,
    /// The format of its second-stage entries.
    pub(crate) format: &'static str,
    /// Bytes of memory it has.
    pub(crate) memory: u64,
    /// Its virtual CPUs.
    pub(crate) vcpus: u32,
    /// What the guest's randomness was seeded with.
    pub(crate) seed: u64,
    /// How long the guest ran, in nanoseconds.
    pub(crate) ns: u64,
}

impl Report {
    /// One or two sentences.
    pub(crate) fn sentence(&self) -> String {
        let unit = self.grain.unit();
        let time = show_duration(Duration::from_nanos(self.ns));
        let beside = match self.beside {
            0 => String::new(),
            count => format!(" {} beside them had to be emulated too.", show_count(count)),
        };
        format!(
            "{} writes to {} of {} {unit}s in {time}.{beside} The watch ended: {}.",
            show_count(self.writes),
            show_count(self.written),
            show_count(self.watched),
            self.reason,
        )
    }
}

impl Over {
    /// In JSON.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Writes => "writes",
            Self::Denied => "denied",
            Self::Time => "time",
            Self::Interrupted => "interrupted",
            Self::Unread => "unread",
            Self::ShutDown => "shut-down",
            Self::Failed(_) => "failed",
        }
    }

    /// Why it is over, for a person.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Writes => "these are as many writes as asked for".to_owned(),
            Self::Denied => "a store was denied".to_owned(),
            Self::Time => "the time asked for is over".to_owned(),
            Self::Interrupted => "it was interrupted".to_owned(),
            Self::Unread => "nobody reads what it prints".to_owned(),
            Self::ShutDown => "the guest shut down".to_owned(),
            Self::Failed(reason) => reason.clone(),
        }
    }
}

/// The table of what was seen, and how many rows it has no room for.
pub(crate) fn seen(
    seen: &Seen,
    grain: Grain,
    width: Width,
    instruction: &dyn Fn(u64) -> Option<String>,
) -> String {
    if seen.hottest.is_empty() {
        return String::new();
    }
    let mut text = render(&seen.hottest, grain, width, instruction);
    let more = seen.units - seen.hottest.len() as u64;
    if more > 0 {
        let line = format!("and {} more {}s", show_count(more), grain.unit());
        text += &(cut(&line, width) + "\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use vellum_pte::SubPageMap;

    fn explained() -> Explained {
        let store = Store::new(2, 0x8000_0010, 0x8010_017c, &[1, 0, 0, 0, 0, 0, 0, 0]);
        let denied = Denied { store, gpa: 0x8010_0180, map: SubPageMap::new(!(1 << 3)) };
        let instruction = Some("sd s5,0(t0)".to_owned());
        Explained { denied, word: 0x0152_b023, length: 4, instruction, memory: vec![0; 8] }
    }

    #[test]
    fn a_denied_store_is_explained() {
        let text = explained().text(Width::Unlimited);
        for part in [
            "vCPU          2\n",
            "0x80000010: 0152b023  sd s5,0(t0)\n",
            "0100000000000000 to 0x8010017c\n",
            "0000000000000000, as before\n",
            "0x80100180, in sub-page 3 of page 0x80100000\n",
            "0xfffffff7: 1 of 32 sub-pages may not be written\n",
            "open the map",
            "pc by 4",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn a_denied_store_is_one_line_of_json() {
        let explained = explained();
        let line = Line::Denied(explained.fields()).json();
        let value: serde_json::Value = serde_json::from_str(&line).expect("it is JSON");
        assert_eq!(value["event"], "denied");
        assert_eq!((&value["sub_page"], &value["map"]), (&3.into(), &"0xfffffff7".into()));
        assert_eq!((&value["gpa"], &value["denied"]), (&"0x8010017c".into(), &"0x80100180".into()));
        assert_eq!((&value["word"], &value["length"]), (&"0x0152b023".into(), &4.into()));
    }

    #[test]
    fn a_write_is_one_line_of_json() {
        let store = Store::new(1, 0x8000_0004, 0x8010_0000, &[0xab, 0]);
        let line = Line::Write { n: 7, store: (&store).into() }.json();
        let expected = r#"{"event":"write","n":7,"vcpu":1,"pc":"0x80000004","gpa":"0x80100000","bytes":"ab00"}"#;
        assert_eq!(line, expected);
    }
}
