//! Pages that hold nothing.

use vellum_memory::guest::{PAGE_BYTES, Page};

/// Bytes that are looked at together: a few vector registers' worth.
const STRIDE: usize = 128;

/// Whether every byte of `page` is zero. It stops at the first stride that is not, and compares
/// words within one, which the compiler turns into vectors.
pub(crate) fn is_zero(page: &Page) -> bool {
    page.chunks_exact(STRIDE).all(stride_is_zero)
}

fn stride_is_zero(stride: &[u8]) -> bool {
    stride.chunks_exact(16).fold(0, |all, word| all | word_of(word)) == 0
}

fn word_of(bytes: &[u8]) -> u128 {
    bytes.try_into().map_or(u128::MAX, u128::from_le_bytes)
}

const _: () = assert!(PAGE_BYTES.is_multiple_of(STRIDE) && STRIDE.is_multiple_of(16));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_anywhere_makes_a_page_not_zero() {
        let mut page = [0; PAGE_BYTES];
        assert!(is_zero(&page));
        for byte in 0..PAGE_BYTES {
            page[byte] = 1 << (byte % 8);
            assert!(!is_zero(&page), "byte {byte}");
            page[byte] = 0;
        }
    }
}
