//! Whether two memories are the same, found out without the log and without the wire that brought
//! the pages: each side hashes its own bytes, a chunk at a time.

use crate::failure::Cause;
use crate::room;
use std::fmt;
use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use vellum_memory::guest::{Bytes, GuestAddress, GuestMemory};
use vellum_memory::{PAGE_SIZE, Region, SlotId};

/// Pages of a chunk: 2 MiB.
pub(crate) const CHUNK: u64 = 512;

/// Chunks of a group: 128 MiB.
const GROUP: u64 = 64;

/// Bytes that are read and hashed together: they stay in a core's cache.
const BITE: usize = 64 << 10;

/// More threads than this do not read memory any faster.
const MOST_THREADS: usize = 8;

/// The hash of a chunk, or of the hashes of a region's chunks.
pub(crate) type Hash = [u8; 32];

/// A region's content in 256 bits: the BLAKE3 hash of the BLAKE3 hashes of its chunks of 2 MiB.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

/// Where two memories differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the two sides hold different memory: slot {}, within the {pages} pages from page {first}",
    .slot.0
)]
pub struct Difference {
    /// The slot.
    pub slot: SlotId,
    /// The first page of the first chunk that differs, from the slot's beginning.
    pub first: u64,
    /// The pages of that chunk.
    pub pages: u64,
}

impl Digest {
    pub(crate) fn of(hashes: &[Hash]) -> Self {
        Self(*blake3::hash(hashes.as_flattened()).as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// The chunks of `region` in groups, first and count, that both sides hash before they exchange
/// what they found: the connection never falls silent for long.
pub(crate) fn groups(region: Region) -> impl Iterator<Item = (u64, u64)> {
    let chunks = region.range.pages().div_ceil(CHUNK);
    (0..chunks.div_ceil(GROUP)).map(move |group| {
        let first = group * GROUP;
        (first, GROUP.min(chunks - first))
    })
}

/// The chunk that two lists of hashes of `region` differ in first.
pub(crate) fn difference(region: Region, ours: &[Hash], theirs: &[Hash]) -> Option<Difference> {
    let chunk = ours.iter().zip(theirs).position(|(a, b)| a != b)? as u64;
    let first = chunk * CHUNK;
    let pages = CHUNK.min(region.range.pages() - first);
    Some(Difference { slot: region.slot, first, pages })
}

/// Hashes `count` chunks of `region` from chunk `first` on, with a few threads.
///
/// # Errors
/// Its memory could not be read.
pub(crate) fn hash_chunks<M: GuestMemory + Sync>(
    memory: &M,
    region: Region,
    first: u64,
    count: u64,
) -> Result<Vec<Hash>, Cause> {
    let next = AtomicU64::new(first);
    let end = first + count;
    let work = || claim_chunks(memory, region, &next, end);
    let mut found = thread::scope(|scope| {
        // With fewer threads than asked for it takes longer.
        let begin = |()| thread::Builder::new().spawn_scoped(scope, work);
        let spawn = |_| room::for_a_thread().and_then(begin).ok();
        let others: Vec<_> = (1..threads(count)).map_while(spawn).collect();
        let mine = work();
        others.into_iter().map(join).chain([mine]).collect::<Result<Vec<_>, _>>()
    })?
    .concat();
    found.sort_unstable_by_key(|&(chunk, _)| chunk);
    Ok(found.into_iter().map(|(_, hash)| hash).collect())
}

fn join<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn threads(chunks: u64) -> usize {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let useful = usize::try_from(chunks).unwrap_or(usize::MAX);
    cores.min(MOST_THREADS).min(useful).max(1)
}

/// One thread's share: it takes the next chunk until there is none.
fn claim_chunks<M: GuestMemory>(
    memory: &M,
    region: Region,
    next: &AtomicU64,
    end: u64,
) -> Result<Vec<(u64, Hash)>, Cause> {
    let mut bite = room::zeros(BITE)?;
    let mut found = Vec::new();
    loop {
        // Relaxed: the counter only deals out numbers; joining the thread publishes the hashes.
        let chunk = next.fetch_add(1, Ordering::Relaxed);
        if chunk >= end {
            return Ok(found);
        }
        found.push((chunk, hash_chunk(memory, region, chunk, &mut bite)?));
    }
}

fn hash_chunk<M: GuestMemory>(
    memory: &M,
    region: Region,
    chunk: u64,
    bite: &mut [u8],
) -> Result<Hash, Cause> {
    let first = chunk * CHUNK;
    let mut address = region.range.first().gpa().get() + first * PAGE_SIZE;
    let end = address + CHUNK.min(region.range.pages() - first) * PAGE_SIZE;
    let mut hasher = blake3::Hasher::new();
    while address < end {
        let length = bite.len().min(usize::try_from(end - address).unwrap_or(bite.len()));
        let bytes = &mut bite[..length];
        memory.read_slice(bytes, GuestAddress(address)).map_err(Cause::Memory)?;
        hasher.update(bytes);
        address += length as u64;
    }
    Ok(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests;
