//! Which bytes are watched.

use crate::quantity::binary_shift;
use serde::{Serialize, Serializer};
use std::fmt;
use std::str::FromStr;
use vellum_pte::{GfnRange, Gpa, PAGE_SIZE, SUB_PAGE_SIZE, SubPageMap};

/// Addresses from `start` to before `end`; at least one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct AddressRange {
    start: u64,
    end: u64,
}

/// Why a text is no [`AddressRange`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum RangeError {
    /// It is not two numbers.
    #[error("write START..END or START+LENGTH: 0x80100000..0x80110000, 0x80100000+64K")]
    Unreadable,
    /// It has no byte.
    #[error("it is empty: the end has to be behind the start, and a length more than 0")]
    Empty,
    /// It ends past the last address.
    #[error("that is more than an address can name")]
    TooLarge,
}

impl AddressRange {
    /// Of `length` bytes.
    pub(crate) fn new(start: u64, length: u64) -> Result<Self, RangeError> {
        Self::between(start, start.checked_add(length).ok_or(RangeError::TooLarge)?)
    }

    /// The bytes of some pages.
    pub(crate) fn of_pages(pages: GfnRange) -> Self {
        Self { start: pages.first().gpa().get(), end: pages.end().gpa().get() }
    }

    fn between(start: u64, end: u64) -> Result<Self, RangeError> {
        if start < end { Ok(Self { start, end }) } else { Err(RangeError::Empty) }
    }

    /// The least that contains it and consists of whole units.
    pub(crate) fn rounded(self, grain: Grain) -> Self {
        let unit = grain.bytes();
        let end = self.end.checked_next_multiple_of(unit).unwrap_or(u64::MAX);
        Self { start: self.start / unit * unit, end }
    }

    /// How many bytes it has.
    pub(crate) const fn length(self) -> u64 {
        self.end - self.start
    }

    /// Whether `other` is part of it.
    pub(crate) const fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    fn intersection(self, other: Self) -> Option<Self> {
        Self::between(self.start.max(other.start), self.end.min(other.end)).ok()
    }
}

impl FromStr for AddressRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        if let Some((start, end)) = text.split_once("..") {
            return Self::between(number(start)?, number(end)?);
        }
        let (start, length) = text.split_once('+').ok_or(RangeError::Unreadable)?;
        match number(length)? {
            0 => Err(RangeError::Empty),
            length => Self::new(number(start)?, length),
        }
    }
}

/// `0x80100000`, `2147483648`, `64K`, `0x10K`.
fn number(text: &str) -> Result<u64, RangeError> {
    let text = text.trim();
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
    let (digits, unit) = digits.split_at(end);
    let shift = binary_shift(unit.trim()).ok_or(RangeError::Unreadable)?;
    if digits.is_empty() {
        return Err(RangeError::Unreadable);
    }
    let number = u64::from_str_radix(digits, radix).map_err(|_| RangeError::TooLarge)?;
    number.checked_mul(1 << shift).ok_or(RangeError::TooLarge)
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.start, self.end)
    }
}

impl Serialize for AddressRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What is watched as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, Serialize)]
pub(crate) enum Grain {
    /// 4 KiB: every store to these pages is emulated and heard of
    #[value(name = "page")]
    #[serde(rename = "page")]
    Page,
    /// 128 bytes: only stores to these parts of pages are caught
    #[value(name = "128")]
    #[serde(rename = "128")]
    SubPage,
}

impl Grain {
    /// How many bytes.
    pub(crate) const fn bytes(self) -> u64 {
        match self {
            Self::Page => PAGE_SIZE,
            Self::SubPage => SUB_PAGE_SIZE,
        }
    }

    /// What one is called.
    pub(crate) const fn unit(self) -> &'static str {
        match self {
            Self::Page => "page",
            Self::SubPage => "sub-page",
        }
    }

    /// Where the unit of an address begins.
    pub(crate) const fn unit_of(self, address: u64) -> u64 {
        address / self.bytes() * self.bytes()
    }
}

/// All that is watched: whole units, in ascending order, none twice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Watched {
    grain: Grain,
    parts: Vec<AddressRange>,
}

impl Watched {
    /// The units that `asked` touches.
    pub(crate) fn new(grain: Grain, asked: &[AddressRange]) -> Self {
        let mut rounded: Vec<_> = asked.iter().map(|range| range.rounded(grain)).collect();
        rounded.sort_unstable();
        let mut parts: Vec<AddressRange> = Vec::new();
        for range in rounded {
            match parts.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => parts.push(range),
            }
        }
        Self { grain, parts }
    }

    pub(crate) fn grain(&self) -> Grain {
        self.grain
    }

    pub(crate) fn parts(&self) -> &[AddressRange] {
        &self.parts
    }

    /// How many units.
    pub(crate) fn units(&self) -> u64 {
        self.parts.iter().map(|part| part.length() / self.grain.bytes()).sum()
    }

    /// The first watched byte that a write touches.
    pub(crate) fn first_in(&self, start: u64, length: u64) -> Option<u64> {
        let write = AddressRange::new(start, length).ok()?;
        let at = self.parts.partition_point(|part| part.end <= start);
        self.parts.get(at)?.intersection(write).map(|both| both.start)
    }

    /// Each page of which something is watched, once.
    pub(crate) fn pages(&self) -> impl Iterator<Item = Gpa> + '_ {
        let mut next = 0;
        self.parts.iter().flat_map(move |part| {
            let first = Grain::Page.unit_of(part.start).max(next);
            next = Grain::Page.unit_of(part.end - 1) + PAGE_SIZE;
            (first..next).step_by(PAGE_BYTES).map(Gpa::new)
        })
    }

    /// The map of a page: what is not watched may be written.
    pub(crate) fn map(&self, page: Gpa) -> SubPageMap {
        let sub_pages = (0..u32::BITS).filter(|index| {
            let at = page.get() + u64::from(*index) * SUB_PAGE_SIZE;
            self.first_in(at, SUB_PAGE_SIZE).is_none()
        });
        SubPageMap::new(sub_pages.fold(0, |bits, index| bits | 1 << index))
    }
}

/// A page, as steps of an iterator are counted.
const PAGE_BYTES: usize = 4096;
const _: () = assert!(PAGE_BYTES as u64 == PAGE_SIZE);

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> AddressRange {
        text.parse().expect(text)
    }

    #[test]
    fn ranges_are_read_in_every_spelling() {
        let same = AddressRange { start: 0x8010_0000, end: 0x8011_0000 };
        for text in [
            "0x80100000..0x80110000",
            "0x80100000+64K",
            "0x80100000+0x10000",
            "2148532224+65536",
            "0x80100K+64KiB",
            " 0X80100000 + 64k ",
        ] {
            let found = text.parse();
            let expected = if text.contains("100K") {
                AddressRange::new(0x80100 << 10, 64 << 10)
            } else {
                Ok(same)
            };
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn a_bad_range_says_what_is_wrong_with_it() {
        for text in ["", "here", "0x80000000", "0x..0x10", "1..", "+5", "-1..2", "1..2x"] {
            assert_eq!(text.parse::<AddressRange>(), Err(RangeError::Unreadable), "{text}");
        }
        for text in ["5..5", "6..5", "0x1000+0"] {
            assert_eq!(text.parse::<AddressRange>(), Err(RangeError::Empty), "{text}");
        }
        for text in ["0xffffffffffffffff+2", "0..99999999999999999999", "0..99999999999G"] {
            assert_eq!(text.parse::<AddressRange>(), Err(RangeError::TooLarge), "{text}");
        }
    }

    #[test]
    fn units_are_whole_and_counted_once() {
        let watched = Watched::new(Grain::SubPage, &[range("0x1010..0x1100"), range("0x10f0+1")]);
        assert_eq!(watched.parts(), [range("0x1000..0x1100")]);
        assert_eq!(watched.units(), 2);
        let watched = Watched::new(Grain::Page, &[range("0x5fff+2"), range("0x1000+1")]);
        assert_eq!(watched.parts(), [range("0x1000..0x2000"), range("0x5000..0x7000")]);
        assert_eq!(watched.units(), 3);
    }

    #[test]
    fn a_write_is_watched_from_its_first_watched_byte_on() {
        let watched = Watched::new(Grain::SubPage, &[range("0x1080+1"), range("0x2000+1")]);
        assert_eq!(watched.first_in(0x1078, 8), None, "the end is exclusive");
        assert_eq!(watched.first_in(0x1079, 8), Some(0x1080));
        assert_eq!(watched.first_in(0x10ff, 1), Some(0x10ff));
        assert_eq!(watched.first_in(0x1100, 8), None);
        assert_eq!(watched.first_in(0x1ffc, 8), Some(0x2000));
        assert_eq!(watched.first_in(0x2080, 1), None);
    }

    #[test]
    fn a_page_of_two_parts_is_one_page_and_its_map_has_both() {
        let watched = Watched::new(Grain::SubPage, &[range("0x1080+1"), range("0x1f80..0x2001")]);
        let pages: Vec<u64> = watched.pages().map(Gpa::get).collect();
        assert_eq!(pages, [0x1000, 0x2000]);
        let maps = watched.pages().map(|page| watched.map(page).bits());
        assert_eq!(maps.collect::<Vec<_>>(), [!(1 << 1 | 1 << 31), !1]);
    }

    #[test]
    fn at_the_grain_of_pages_nothing_of_a_page_may_be_written() {
        let watched = Watched::new(Grain::Page, &[range("0x1800..0x2800")]);
        let maps: Vec<u32> = watched.pages().map(|page| watched.map(page).bits()).collect();
        assert_eq!(maps, [0, 0]);
    }
}
