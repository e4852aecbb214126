//! A value a page, mostly absent.
//!
//! Whoever changes a value has `&mut`, and so keeps readers out: no atomics, and no chunk is freed
//! under anybody. Nothing is allocated until the first value; then a chunk for the pages around each
//! (M1).

use crate::allocate::{OutOfMemory, try_box};
use alloc::boxed::Box;
use core::ops::Range;

/// What an absent value is.
pub(crate) trait Value: Copy + PartialEq {
    /// It.
    const ABSENT: Self;
}

impl Value for u16 {
    const ABSENT: Self = 0;
}

impl Value for u32 {
    const ABSENT: Self = 0;
}

/// Branches of a node. Under loom there is little to hold.
const BRANCHES: usize = if cfg!(loom) { 2 } else { 64 };

/// Values side by side, and how many of them are not absent.
#[derive(Debug)]
struct Chunk<T, const N: usize> {
    values: [T; N],
    present: u16,
}

#[derive(Debug)]
enum Node<T, const N: usize> {
    Upper(Box<[Option<Self>; BRANCHES]>),
    Chunk(Box<Chunk<T, N>>),
}

/// A tree over all pages that a number can name: chunks of `N` values below as many levels of nodes
/// as the highest page in it needs.
#[derive(Debug)]
pub(crate) struct Sparse<T, const N: usize> {
    root: Option<Node<T, N>>,
    height: u32,
}

impl<T, const N: usize> Default for Sparse<T, N> {
    fn default() -> Self {
        Self { root: None, height: 0 }
    }
}

impl<T: Value, const N: usize> Sparse<T, N> {
    /// The value of a page.
    pub(crate) fn get(&self, page: u64) -> T {
        let chunk = self.root.as_ref().filter(|_| page < room::<N>(self.height));
        chunk
            .and_then(|root| root.chunk(page, self.height))
            .map_or(T::ABSENT, |chunk| chunk.values[place(page, N as u64)])
    }

    /// Makes room for a page's value: after that, [`put`](Self::put) does not fail for it.
    pub(crate) fn reserve(&mut self, page: u64) -> Result<(), OutOfMemory> {
        while page >= room::<N>(self.height) {
            self.grow()?;
        }
        let root = match &mut self.root {
            Some(root) => root,
            none => none.insert(Node::new(self.height)?),
        };
        root.chunk_mut(page, self.height).map(drop)
    }

    /// Gives a page a value.
    pub(crate) fn put(&mut self, page: u64, value: T) -> Result<(), OutOfMemory> {
        let before = self.get(page);
        if before == value {
            return Ok(());
        }
        self.reserve(page)?;
        let Some(root) = &mut self.root else { return Ok(()) };
        let chunk = root.chunk_mut(page, self.height)?;
        chunk.values[place(page, N as u64)] = value;
        chunk.present += u16::from(before == T::ABSENT);
        chunk.present -= u16::from(value == T::ABSENT);
        Ok(())
    }

    /// Whether any of these pages has a value.
    pub(crate) fn any(&self, pages: Range<u64>) -> bool {
        self.root.as_ref().is_some_and(|root| root.any(0, self.height, &pages))
    }

    /// Tells of each page that has a value.
    pub(crate) fn for_each(&self, visitor: &mut impl FnMut(u64, T)) {
        if let Some(root) = &self.root {
            root.for_each(0, self.height, visitor);
        }
    }

    /// One more level.
    fn grow(&mut self) -> Result<(), OutOfMemory> {
        if let Some(lower) = self.root.take() {
            let mut branches = [const { None }; BRANCHES];
            branches[0] = Some(lower);
            match try_box(branches) {
                Ok(branches) => self.root = Some(Node::Upper(branches)),
                Err((error, [lower, ..])) => {
                    self.root = lower;
                    return Err(error);
                }
            }
        }
        self.height += 1;
        Ok(())
    }
}

impl<T: Value, const N: usize> Node<T, N> {
    fn new(height: u32) -> Result<Self, OutOfMemory> {
        if height > 0 {
            let branches = try_box([const { None }; BRANCHES]);
            return branches.map(Self::Upper).map_err(|(error, _)| error);
        }
        let chunk = try_box(Chunk { values: [T::ABSENT; N], present: 0 });
        chunk.map(Self::Chunk).map_err(|(error, _)| error)
    }

    fn chunk(&self, page: u64, height: u32) -> Option<&Chunk<T, N>> {
        match self {
            Self::Chunk(chunk) => Some(chunk),
            Self::Upper(branches) => {
                branches[branch::<N>(page, height)].as_ref()?.chunk(page, height - 1)
            }
        }
    }

    fn chunk_mut(&mut self, page: u64, height: u32) -> Result<&mut Chunk<T, N>, OutOfMemory> {
        match self {
            Self::Chunk(chunk) => Ok(chunk),
            Self::Upper(branches) => {
                let lower = match &mut branches[branch::<N>(page, height)] {
                    Some(lower) => lower,
                    none => none.insert(Self::new(height - 1)?),
                };
                lower.chunk_mut(page, height - 1)
            }
        }
    }

    /// `first` is the first page below this node.
    fn any(&self, first: u64, height: u32, pages: &Range<u64>) -> bool {
        let end = first.saturating_add(room::<N>(height));
        let (from, to) = (first.max(pages.start), end.min(pages.end));
        if from >= to {
            return false;
        }
        match self {
            Self::Chunk(chunk) if to - from == N as u64 => chunk.present > 0,
            Self::Chunk(chunk) => {
                chunk.present > 0
                    && (from..to).any(|page| chunk.values[place(page, N as u64)] != T::ABSENT)
            }
            Self::Upper(branches) => lower::<T, N>(branches, first, height)
                .any(|(first, node)| node.any(first, height - 1, pages)),
        }
    }

    fn for_each(&self, first: u64, height: u32, visitor: &mut impl FnMut(u64, T)) {
        match self {
            Self::Chunk(chunk) => (first..)
                .zip(chunk.values)
                .filter(|(_, value)| *value != T::ABSENT)
                .for_each(|(page, value)| visitor(page, value)),
            Self::Upper(branches) => lower::<T, N>(branches, first, height)
                .for_each(|(first, node)| node.for_each(first, height - 1, visitor)),
        }
    }
}

/// The nodes below one whose first page is `first`, with theirs.
fn lower<T, const N: usize>(
    branches: &[Option<Node<T, N>>; BRANCHES],
    first: u64,
    height: u32,
) -> impl Iterator<Item = (u64, &Node<T, N>)> {
    let each = room::<N>(height - 1);
    let firsts = (0..).map(move |number| first + number * each);
    firsts.zip(branches).filter_map(|(first, node)| Some((first, node.as_ref()?)))
}

/// How many pages a node at `height` is for.
const fn room<const N: usize>(height: u32) -> u64 {
    (N as u64).saturating_mul((BRANCHES as u64).saturating_pow(height))
}

/// Which branch of a node at `height` is for a page.
fn branch<const N: usize>(page: u64, height: u32) -> usize {
    place(page / room::<N>(height - 1), BRANCHES as u64)
}

#[allow(clippy::cast_possible_truncation)]
const fn place(number: u64, of: u64) -> usize {
    (number % of) as usize
}

#[cfg(all(test, not(loom)))]
mod tests;
