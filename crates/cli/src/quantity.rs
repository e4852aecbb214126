//! Sizes, durations and counts as a person writes and reads them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use vellum_pte::PAGE_SIZE;

/// An amount of guest memory: whole pages, at least one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Size {
    bytes: u64,
}

/// Why a text is no [`Size`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum SizeError {
    /// It is not a number and a unit.
    #[error("write a number and a unit: 512M, 1G, 64K")]
    Unreadable,
    /// It is zero.
    #[error("a guest needs at least one page of 4 KiB")]
    Zero,
    /// It is not a multiple of the page size.
    #[error("{0} bytes are not a whole number of 4 KiB pages")]
    Torn(u64),
    /// It does not fit in 64 bits.
    #[error("that is more than an address can name")]
    TooLarge,
}

impl Size {
    /// In bytes.
    pub(crate) fn bytes(self) -> u64 {
        self.bytes
    }

    /// As [`FromStr`] reads it.
    pub(crate) fn flag(self) -> String {
        self.to_string().replace([' ', 'i', 'B'], "")
    }

    /// Of so many bytes.
    ///
    /// # Errors
    /// They are no whole number of pages, or none.
    pub(crate) fn of_bytes(bytes: u64) -> Result<Self, SizeError> {
        match bytes {
            0 => Err(SizeError::Zero),
            bytes if bytes % PAGE_SIZE != 0 => Err(SizeError::Torn(bytes)),
            bytes => Ok(Self { bytes }),
        }
    }
}

impl FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let (number, unit) = split(text);
        let number: u64 = number.parse().map_err(|_| SizeError::Unreadable)?;
        let shift = binary_shift(unit).ok_or(SizeError::Unreadable)?;
        Self::of_bytes(number.checked_mul(1 << shift).ok_or(SizeError::TooLarge)?)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        let whole = units.into_iter().find(|(shift, _)| self.bytes.is_multiple_of(1 << shift));
        match whole {
            Some((shift, unit)) => write!(f, "{} {unit}", self.bytes >> shift),
            None => write!(f, "{} bytes", self.bytes),
        }
    }
}

/// Units are powers of 1024 in every spelling: guests have no decimal memory.
pub(crate) fn binary_shift(unit: &str) -> Option<u32> {
    match unit.to_ascii_lowercase().as_str() {
        "" | "b" => Some(0),
        "k" | "kb" | "kib" => Some(10),
        "m" | "mb" | "mib" => Some(20),
        "g" | "gb" | "gib" => Some(30),
        "t" | "tb" | "tib" => Some(40),
        _ => None,
    }
}

/// A text is no duration.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("write a whole number and a unit: 100ms, 2s, 500us")]
pub(crate) struct DurationError;

/// Reads `100ms`, `2s`, `500us`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let (number, unit) = split(text);
    let number: u64 = number.parse().map_err(|_| DurationError)?;
    match unit {
        "s" => Ok(Duration::from_secs(number)),
        "ms" => Ok(Duration::from_millis(number)),
        "us" | "µs" => Ok(Duration::from_micros(number)),
        "ns" => Ok(Duration::from_nanos(number)),
        _ => Err(DurationError),
    }
}

/// The same, and a bare number is seconds.
pub(crate) fn parse_span(text: &str) -> Result<Duration, SpanError> {
    match text.trim().parse() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => parse_duration(text).map_err(|DurationError| SpanError),
    }
}

/// A text is no span of time.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("write seconds, or a whole number and a unit: 2, 2s, 500ms")]
pub(crate) struct SpanError;

/// As [`parse_duration`] reads it; centuries are cut short.
pub(crate) fn exact_duration(duration: Duration) -> String {
    format!("{}ns", u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

/// Three digits and the unit that fits.
pub(crate) fn show_duration(duration: Duration) -> String {
    // Nanoseconds beyond 2^53 are months: their last digit is not shown.
    show_nanoseconds(duration.as_secs_f64() * 1e9)
}

/// The same, where parts of a nanosecond count.
pub(crate) fn show_nanoseconds(ns: f64) -> String {
    let units = [(1_000_000_000.0, "s"), (1_000_000.0, "ms"), (1_000.0, "µs")];
    let fitting = units.into_iter().find(|(size, _)| ns >= *size);
    let (size, unit) = fitting.unwrap_or((1.0, "ns"));
    three_digits(ns / size, unit)
}

fn three_digits(value: f64, unit: &str) -> String {
    let decimals = match value {
        value if value < 10.0 => 2,
        value if value < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {unit}")
}

/// `1234567` as `1,234,567`.
pub(crate) fn show_count(count: u64) -> String {
    let digits = count.to_string();
    let mut shown = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// Bytes a second, or a dash where the time was too short to tell.
pub(crate) fn show_rate(bytes: u64, time: Duration) -> String {
    if bytes == 0 || time.is_zero() {
        return "-".to_owned();
    }
    let rate = bytes as f64 / time.as_secs_f64();
    let units = [(1u64 << 30, "GiB/s"), (1 << 20, "MiB/s"), (1 << 10, "KiB/s"), (1, "B/s")];
    let (size, unit) =
        units.into_iter().find(|(size, _)| rate >= *size as f64).unwrap_or((1, "B/s"));
    three_digits(rate / size as f64, unit)
}

/// The digits in front, and what follows.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_every_usual_spelling() {
        for text in ["1G", "1GiB", "1g", "1024M", "1 GiB", "1048576K", "1073741824"] {
            assert_eq!(text.parse::<Size>().map(Size::bytes), Ok(1 << 30), "{text}");
        }
    }

    #[test]
    fn a_bad_size_says_what_is_wrong_with_it() {
        assert_eq!("much".parse::<Size>(), Err(SizeError::Unreadable));
        assert_eq!("1.5G".parse::<Size>(), Err(SizeError::Unreadable));
        assert_eq!("-1G".parse::<Size>(), Err(SizeError::Unreadable));
        assert_eq!("0".parse::<Size>(), Err(SizeError::Zero));
        assert_eq!("5000".parse::<Size>(), Err(SizeError::Torn(5000)));
        assert_eq!("99999999999G".parse::<Size>(), Err(SizeError::TooLarge));
    }

    #[test]
    fn a_size_is_shown_in_its_largest_whole_unit() {
        let shown = |text: &str| text.parse::<Size>().map(|size| size.to_string());
        assert_eq!(shown("1024M"), Ok("1 GiB".to_owned()));
        assert_eq!(shown("12K"), Ok("12 KiB".to_owned()));
    }

    #[test]
    fn a_duration_is_read_back_as_it_was() {
        for duration in [Duration::ZERO, Duration::from_nanos(7), Duration::from_secs(40)] {
            assert_eq!(parse_duration(&exact_duration(duration)), Ok(duration));
        }
    }

    #[test]
    fn a_duration_needs_its_unit() {
        assert_eq!(parse_duration("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(parse_duration("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(parse_duration("100"), Err(DurationError));
        assert_eq!(parse_duration("soon"), Err(DurationError));
    }

    #[test]
    fn durations_and_rates_have_three_digits() {
        assert_eq!(show_duration(Duration::from_nanos(17)), "17.0 ns");
        assert_eq!(show_duration(Duration::from_micros(1234)), "1.23 ms");
        assert_eq!(show_duration(Duration::from_secs(75)), "75.0 s");
        assert_eq!(show_rate(1 << 30, Duration::from_secs(2)), "512 MiB/s");
        assert_eq!(show_rate(0, Duration::from_secs(2)), "-");
    }

    #[test]
    fn counts_are_grouped() {
        assert_eq!(show_count(0), "0");
        assert_eq!(show_count(999), "999");
        assert_eq!(show_count(1_234_567), "1,234,567");
    }
}
