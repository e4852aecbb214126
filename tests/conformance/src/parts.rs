//! The pages of an access.

use vellum_pte::{Gpa, PAGE_SIZE};

/// What of an access lies in one page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// Its first byte.
    pub at: Gpa,
    /// How many it has.
    pub length: usize,
}

/// The parts of an access, in order.
pub fn parts(at: Gpa, length: usize) -> impl Iterator<Item = Part> {
    let end = at.get() + length as u64;
    let first = at.get() / PAGE_SIZE..end.div_ceil(PAGE_SIZE);
    first.filter(move |_| length > 0).map(move |page| {
        let (start, stop) = (at.get().max(page * PAGE_SIZE), end.min((page + 1) * PAGE_SIZE));
        let length = usize::try_from(stop - start).expect("in a page");
        Part { at: Gpa::new(start), length }
    })
}
