//! The table a person reads.

use super::range::Grain;
use super::tally::Row;
use crate::quantity::show_count;
use crate::report::Width;
use std::fmt::Write;

/// Cells of a line.
const COLUMNS: usize = 7;
type Cells = [String; COLUMNS];

/// Where the columns are that go first where the terminal is narrow: the instruction, and where in
/// the page.
const SPARE: [usize; 2] = [4, 5];

/// Those with numbers, which end at one line.
const NUMBERS: [usize; 2] = [1, 2];

/// What was written last by which instruction.
pub(crate) type Disassembler<'a> = dyn Fn(u64) -> Option<String> + 'a;

/// A line for each of `rows`, below a head. No line is longer than `width`.
pub(crate) fn render(
    rows: &[Row],
    grain: Grain,
    width: Width,
    instruction: &Disassembler<'_>,
) -> String {
    let head = [grain.unit(), "writes", "vCPU", "pc", "instruction", "at", "bytes"];
    let lines: Vec<Cells> = std::iter::once(head.map(str::to_owned))
        .chain(rows.iter().map(|row| cells(row, instruction)))
        .collect();
    let widths: [usize; COLUMNS] = std::array::from_fn(|column| {
        lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0)
    });
    let shown = fitting(widths, width);
    let lines = lines.iter().map(|line| cut(&text(line, widths, &shown), width) + "\n");
    lines.collect()
}

fn cells(row: &Row, instruction: &Disassembler<'_>) -> Cells {
    let last = row.last;
    // A store that began in the unit before is shown from there.
    let at = last.gpa.cast_signed().wrapping_sub(row.unit.cast_signed());
    let sign = if at < 0 { '-' } else { '+' };
    [
        format!("{:#x}", row.unit),
        show_count(row.writes),
        last.vcpu.to_string(),
        format!("{:#x}", last.pc),
        instruction(last.pc).unwrap_or_default(),
        format!("{sign}{:#x}", at.unsigned_abs()),
        hex(last.bytes()),
    ]
}

/// Bytes as they lie in memory.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The columns that `width` has room for.
fn fitting(widths: [usize; COLUMNS], width: Width) -> Vec<usize> {
    let mut shown: Vec<usize> = (0..COLUMNS).collect();
    for spare in SPARE {
        let columns: usize = shown.iter().map(|column| widths[*column] + 2).sum();
        if width.holds(columns - 2) {
            break;
        }
        shown.retain(|column| *column != spare);
    }
    shown
}

fn text(line: &Cells, widths: [usize; COLUMNS], shown: &[usize]) -> String {
    let cell = |column: &usize| match (widths[*column], NUMBERS.contains(column)) {
        (width, true) => format!("{:>width$}", line[*column]),
        (width, false) => format!("{:<width$}", line[*column]),
    };
    let cells: Vec<String> = shown.iter().map(cell).collect();
    cells.join("  ").trim_end().to_owned()
}

/// What of a line there is room for.
pub(crate) fn cut(line: &str, width: Width) -> String {
    match width {
        Width::Columns(columns) => line.chars().take(columns).collect(),
        Width::Unlimited => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tally::Store;
    use super::*;

    fn rows() -> [Row; 2] {
        let store = |vcpu, gpa| Store::new(vcpu, 0x8000_01a4, gpa, &[5, 0, 0, 0, 0, 0, 0, 0xff]);
        [
            Row { unit: 0x8010_0000, writes: 12_345, last: store(3, 0x8010_0008) },
            Row { unit: 0x8010_1000, writes: 7, last: store(0, 0x8010_0ffc) },
        ]
    }

    fn rendered(width: Width) -> String {
        render(&rows(), Grain::Page, width, &|_| Some("sd t4,0(a2)".to_owned()))
    }

    #[test]
    fn a_wide_table_has_everything_in_columns() {
        let expected = "\
page        writes  vCPU  pc          instruction  at    bytes
0x80100000  12,345     3  0x800001a4  sd t4,0(a2)  +0x8  05000000000000ff
0x80101000       7     0  0x800001a4  sd t4,0(a2)  -0x4  05000000000000ff
";
        assert_eq!(rendered(Width::Unlimited), expected);
    }

    #[test]
    fn a_narrow_table_leaves_columns_out_and_then_cuts() {
        let text = rendered(Width::Columns(64));
        assert!(!text.contains("instruction") && text.contains("+0x8"), "{text}");
        let text = rendered(Width::Columns(56));
        assert!(!text.contains("+0x8") && text.contains("05000000000000ff"), "{text}");
        let text = rendered(Width::Columns(20));
        assert!(text.lines().all(|line| line.chars().count() <= 20), "{text}");
        assert!(text.contains("12,345"), "{text}");
    }
}
