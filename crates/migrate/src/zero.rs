//! Pages that hold nothing.

use vellum_memory::Gfn;
use vellum_memory::guest::{GuestAddress, GuestMemory, PAGE_BYTES};
use vm_memory::bitmap::BitmapSlice;
use vm_memory::guest_memory::GuestMemorySliceIterator;
use vm_memory::{GuestMemoryError, Permissions, VolatileMemory, VolatileSlice};

/// Bytes of the words that are looked at.
const WORD: usize = size_of::<u64>();

/// Whether every byte of the page `gfn` is zero, found where it lies: copying it first costs half
/// the speed. It stops at the first word that is not.
///
/// # Errors
/// The page is not in `memory`.
pub(crate) fn is_zero<M: GuestMemory>(memory: &M, gfn: Gfn) -> Result<bool, GuestMemoryError> {
    let address = GuestAddress(gfn.gpa().get());
    let slices = memory.get_slices(address, PAGE_BYTES, Permissions::Read)?;
    let mut slices = slices.stop_on_error()?;
    Ok(slices.all(|slice| slice_is_zero(&slice)))
}

/// A slice that ends within a word counts as not zero: nobody cuts memory like that, and sending
/// its bytes is right too.
fn slice_is_zero<B: BitmapSlice>(slice: &VolatileSlice<'_, B>) -> bool {
    let words = slice.len() / WORD;
    match slice.get_array_ref::<u64>(0, words) {
        Ok(array) if words * WORD == slice.len() => (0..words).all(|word| array.load(word) == 0),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vellum_memory::guest::{Bytes, GuestMemoryMmap};

    #[test]
    fn one_bit_anywhere_makes_a_page_not_zero() {
        // The second page lies in two pieces.
        let pieces = [(GuestAddress(0), PAGE_BYTES + 512), (GuestAddress(0x1200), 0xe00)];
        let memory: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&pieces).expect("two pages");
        for page in 0..2 {
            assert!(is_zero(&memory, Gfn::new(page)).expect("in memory"));
            for byte in 0..PAGE_BYTES as u64 {
                let address = GuestAddress(page * PAGE_BYTES as u64 + byte);
                memory.write_obj(1u8 << (byte % 8), address).expect("in memory");
                assert!(!is_zero(&memory, Gfn::new(page)).expect("in memory"), "byte {byte}");
                memory.write_obj(0u8, address).expect("in memory");
            }
        }
        assert!(is_zero(&memory, Gfn::new(2)).is_err(), "outside");
    }
}
