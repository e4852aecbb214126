//! Arithmetic on bit tables.

/// Whether no two of `fields` share a bit.
pub(crate) const fn disjoint(fields: &[u64]) -> bool {
    let mut seen = 0;
    let mut index = 0;
    while index < fields.len() {
        if seen & fields[index] != 0 {
            return false;
        }
        seen |= fields[index];
        index += 1;
    }
    true
}

/// `bit` if `condition`, else nothing.
pub(crate) const fn when(condition: bool, bit: u64) -> u64 {
    if condition { bit } else { 0 }
}
