//! A few things at a time, without allocating.

/// Up to `N` of them.
pub(crate) struct Batch<T, const N: usize> {
    items: [Option<T>; N],
    filled: usize,
}

impl<T, const N: usize> Batch<T, N> {
    pub(crate) fn new() -> Self {
        Self { items: [const { None }; N], filled: 0 }
    }

    pub(crate) const fn is_full(&self) -> bool {
        self.filled == N
    }

    /// Adds one; there is room.
    pub(crate) fn push(&mut self, item: T) {
        self.items[self.filled] = Some(item);
        self.filled += 1;
    }

    pub(crate) fn last(&self) -> Option<&T> {
        self.iter().last()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.items.iter().flatten()
    }

    pub(crate) fn take_all(self) -> impl Iterator<Item = T> {
        self.items.into_iter().flatten()
    }
}
