//! Who hears of writes, and when.

use crate::allocate::{OutOfMemory, try_reserve_one};
use crate::breaks::Break;
use crate::embedder::Embedder;
use crate::lock::SpinLock;
use crate::log::Origin;
use crate::mmu::Mmu;
use crate::sync::{AtomicUsize, Ordering, fence_after_rmw};
use alloc::sync::Arc;
use alloc::vec::Vec;
use vellum_pte::{AddressSpace, Format, GfnRange, Gpa, SlotId};

/// Hears of what [`GuestWriter`](crate::GuestWriter) writes and of memslots that go.
///
/// It is told of every such write, whatever is tracked, and filters for itself. Calls come from
/// whichever thread wrote, several at the same time, with no lock of the library held: from inside of
/// one, pages may be tracked and untracked, guest memory written (which calls again) and slots
/// changed. Who registers during a write hears of the next. A panic goes to whoever made the write,
/// which is in memory and logged by then. Listeners that came later are not told of that write.
pub trait WriteListener<F: Format, E: Embedder>: Send + Sync {
    /// Bytes are in guest memory now.
    fn write(&self, call: &Call<'_, F, E>, written: &Written<'_>);

    /// A memslot was removed, or moved away from there: its pages are tracked no more.
    fn region_removed(&self, call: &Call<'_, F, E>, removed: &RemovedRegion) {
        let _ = (call, removed);
    }
}

/// A write that was made.
#[derive(Clone, Copy, Debug)]
pub struct Written<'a> {
    /// The address space.
    pub space: AddressSpace,
    /// The first byte.
    pub gpa: Gpa,
    /// What is there now, if nobody has written again. It may cross pages.
    pub bytes: &'a [u8],
    /// On whose behalf.
    pub origin: Origin,
}

/// Where a memslot was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RemovedRegion {
    /// Its name.
    pub slot: SlotId,
    /// The address space.
    pub space: AddressSpace,
    /// Its pages.
    pub range: GfnRange,
}

/// One call to a listener, and what it may do from inside.
pub struct Call<'a, F: Format, E: Embedder> {
    mmu: &'a Mmu<F, E>,
    id: ListenerId,
}

impl<'a, F: Format, E: Embedder> Call<'a, F, E> {
    /// The VM.
    #[must_use]
    pub const fn mmu(&self) -> &'a Mmu<F, E> {
        self.mmu
    }

    /// Ends the registration of the listener that is being called. No call begins any more; this one
    /// goes on, others may be under way, and after the last of them the library lets go of the
    /// listener.
    pub fn unregister(&self) {
        self.mmu.listeners.leave(self.id, &self.mmu.embedder);
    }
}

/// One registration. Numbers grow and never come back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct ListenerId(u64);

/// Whether calls may begin.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Registered {
    Yes,
    No,
}

struct Entry<F: Format, E: Embedder> {
    id: ListenerId,
    /// `None` once the library lets go of it.
    listener: Option<Arc<dyn WriteListener<F, E>>>,
    /// Calls under way.
    calls: usize,
    registered: Registered,
}

impl<F: Format, E: Embedder> Entry<F, E> {
    const fn is_over(&self) -> bool {
        self.calls == 0 && matches!(self.registered, Registered::No)
    }
}

struct List<F: Format, E: Embedder> {
    entries: Vec<Entry<F, E>>,
    next: u64,
}

impl<F: Format, E: Embedder> List<F, E> {
    /// The listener, if its last call is over.
    fn take_if_over(&mut self, id: ListenerId) -> Option<Arc<dyn WriteListener<F, E>>> {
        let mut entries = self.entries.iter_mut();
        entries.find(|entry| entry.id == id && entry.is_over())?.listener.take()
    }
}

/// All listeners of a VM, in the order in which they came.
pub(crate) struct Listeners<F: Format, E: Embedder> {
    /// How many entries there are: a writer that finds none takes no lock.
    count: AtomicUsize,
    list: SpinLock<List<F, E>>,
}

impl<F: Format, E: Embedder> Listeners<F, E> {
    pub(crate) fn new() -> Self {
        let list = List { entries: Vec::new(), next: 1 };
        Self { count: AtomicUsize::new(0), list: SpinLock::new(list) }
    }

    pub(super) fn enter(
        &self,
        listener: Arc<dyn WriteListener<F, E>>,
        embedder: &E,
    ) -> Result<ListenerId, OutOfMemory> {
        let mut list = self.list.lock(embedder);
        try_reserve_one(&mut list.entries)?;
        let id = ListenerId(list.next);
        list.next += 1;
        let (listener, registered) = (Some(listener), Registered::Yes);
        list.entries.push(Entry { id, listener, calls: 0, registered });
        // A writer whose bytes our caller does not see from now on finds this.
        self.count.fetch_add(1, Ordering::AcqRel);
        fence_after_rmw();
        Ok(id)
    }

    /// From now on no call begins.
    pub(super) fn leave(&self, id: ListenerId, embedder: &E) {
        let mut list = self.list.lock(embedder);
        if let Some(entry) = list.entries.iter_mut().find(|entry| entry.id == id) {
            entry.registered = Registered::No;
        }
        let over = list.take_if_over(id);
        drop(list);
        self.let_go(id, over, embedder);
    }

    /// Waits until no call is under way and the library has let go of the listener.
    pub(super) fn wait(&self, id: ListenerId, mmu: &Mmu<F, E>) {
        let there = || self.list.lock(&mmu.embedder).entries.iter().any(|entry| entry.id == id);
        while !mmu.breaks.has(Break::LeaveUnderCall) && there() {
            mmu.embedder.relax();
        }
    }

    /// Tells everybody of a write that is in memory.
    #[inline]
    pub(crate) fn written(&self, mmu: &Mmu<F, E>, written: &Written<'_>) {
        self.tell(mmu, |listener, call| listener.write(call, written));
    }

    /// Tells everybody of a slot that is gone.
    pub(crate) fn removed(&self, mmu: &Mmu<F, E>, removed: &RemovedRegion) {
        self.tell(mmu, |listener, call| listener.region_removed(call, removed));
    }

    #[inline]
    fn tell(&self, mmu: &Mmu<F, E>, what: impl Fn(&dyn WriteListener<F, E>, &Call<'_, F, E>)) {
        // What was written comes before, for the processor too: see `enter`.
        crate::sync::fence(Ordering::SeqCst);
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        // Who comes from now on sees what was written. Else one that registers another in each call
        // would keep its writer here for ever.
        let end = ListenerId(self.list.lock(&mmu.embedder).next);
        let mut last = ListenerId(0);
        while let Some(under_way) = self.begin_between(last, end, mmu) {
            last = under_way.call.id;
            if let Some(listener) = &under_way.listener {
                what(&**listener, &under_way.call);
            }
        }
    }

    /// Begins a call to the next listener after `last` and before `end`. No lock is held during it.
    fn begin_between<'a>(
        &self,
        last: ListenerId,
        end: ListenerId,
        mmu: &'a Mmu<F, E>,
    ) -> Option<UnderWay<'a, F, E>> {
        let mut list = self.list.lock(&mmu.embedder);
        let later = |entry: &&mut Entry<F, E>| {
            entry.id > last && entry.id < end && entry.registered == Registered::Yes
        };
        let entry = list.entries.iter_mut().find(later)?;
        let listener = entry.listener.clone()?;
        entry.calls += 1;
        Some(UnderWay { listener: Some(listener), call: Call { mmu, id: entry.id } })
    }

    fn end(&self, id: ListenerId, embedder: &E) {
        let mut list = self.list.lock(embedder);
        if let Some(entry) = list.entries.iter_mut().find(|entry| entry.id == id) {
            entry.calls -= 1;
        }
        let over = list.take_if_over(id);
        drop(list);
        self.let_go(id, over, embedder);
    }

    /// Drops a listener whose last call is over, **and only then its entry**, which is what
    /// [`wait`](Self::wait) looks for. Without the lock: that runs the listener's own code.
    fn let_go(&self, id: ListenerId, over: Option<Arc<dyn WriteListener<F, E>>>, embedder: &E) {
        if over.is_some() {
            let _entry = LastOf { listeners: self, id, embedder };
            drop(over);
        }
    }
}

/// The entry of a listener that the library lets go of: goes when this is dropped, by a panic of the
/// listener's own code too.
struct LastOf<'a, F: Format, E: Embedder> {
    listeners: &'a Listeners<F, E>,
    id: ListenerId,
    embedder: &'a E,
}

impl<F: Format, E: Embedder> Drop for LastOf<'_, F, E> {
    fn drop(&mut self) {
        let Self { listeners, id, embedder } = *self;
        listeners.list.lock(embedder).entries.retain(|entry| entry.id != id);
        listeners.count.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A call under way: ends when it is dropped, by a panic too.
struct UnderWay<'a, F: Format, E: Embedder> {
    /// Always there, until this is dropped.
    listener: Option<Arc<dyn WriteListener<F, E>>>,
    call: Call<'a, F, E>,
}

impl<F: Format, E: Embedder> Drop for UnderWay<'_, F, E> {
    fn drop(&mut self) {
        let Call { mmu, id } = self.call;
        // Before the call counts as over: whoever waits for that finds the listener let go of.
        self.listener = None;
        mmu.listeners.end(id, &mmu.embedder);
    }
}
