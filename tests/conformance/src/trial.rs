//! How a backend is put before an oracle: it passes with few vCPUs and with many, or the oracle finds what is
//! wrong with it.

use crate::backend::{Backend, Plan};
use crate::oracle::{Length, Objection};

/// [`stopped`](crate::oracle::stopped) or [`running`](crate::oracle::running).
pub type Oracle<B> = fn(&B, Plan, Length) -> Result<(), Objection>;

/// How long an oracle looks.
pub const LENGTH: Length = Length { iterations: 8, stores: 3000 };
/// How many vCPUs a sound backend has, in turn.
pub const VCPUS: [usize; 2] = [1, 4];

/// With each number of [`VCPUS`], the oracle has nothing to say.
///
/// # Panics
/// It has. The same below.
pub fn passes<B: Backend>(oracle: Oracle<B>, backend: &B) {
    VCPUS.into_iter().for_each(|vcpus| passes_with(vcpus, oracle, backend));
}

/// With so many vCPUs the oracle has nothing to say.
pub fn passes_with<B: Backend>(vcpus: usize, oracle: Oracle<B>, backend: &B) {
    let verdict = oracle(backend, Plan::new(vcpus, 42), LENGTH);
    assert_eq!(verdict, Ok(()), "{} with {vcpus} vCPUs", backend.name());
}

/// How hard an oracle tries to find what is wrong.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// How many seeds it gets.
    pub tries: u64,
    /// With how many vCPUs.
    pub vcpus: usize,
    /// How long it looks, with each seed.
    pub length: Length,
}

impl Search {
    /// For what is wrong in each round.
    pub const USUAL: Self = Self { tries: 10, vcpus: 2, length: LENGTH };

    /// With one of the seeds, the oracle objects.
    ///
    /// # Panics
    /// It does not.
    pub fn finds<B: Backend>(self, oracle: Oracle<B>, backend: &B) {
        let Self { tries, vcpus, length } = self;
        let found = (0..tries).any(|seed| oracle(backend, Plan::new(vcpus, seed), length).is_err());
        assert!(found, "nobody objected to {} with {vcpus} vCPUs", backend.name());
    }
}
