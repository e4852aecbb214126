//! The dirty log of `/dev/kvm` by bare ioctls: what somebody would write who needs one thing only.
#![allow(unsafe_code)]

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use kvm_bindings::{
    KVM_DIRTY_LOG_PAGE_OFFSET, kvm_clear_dirty_log, kvm_clear_dirty_log__bindgen_ty_1,
    kvm_dirty_log, kvm_dirty_log__bindgen_ty_1,
};
use number::{KVM_CLEAR_DIRTY_LOG, KVM_GET_DIRTY_LOG, KVM_RESET_DIRTY_RINGS};
use std::io;
use std::os::fd::AsRawFd;
use vellum_kvm::RingSize;
use vellum_memory::Region;
use vellum_vmm::{Descriptor, Machine};
use vmm_sys_util::ioctl::{ioctl, ioctl_with_mut_ref, ioctl_with_ref};

/// The calls' numbers.
mod number {
    use kvm_bindings::{KVMIO, kvm_clear_dirty_log, kvm_dirty_log};
    use vmm_sys_util::{ioctl_io_nr, ioctl_iow_nr, ioctl_iowr_nr};

    ioctl_iow_nr!(KVM_GET_DIRTY_LOG, KVMIO, 0x42, kvm_dirty_log);
    ioctl_iowr_nr!(KVM_CLEAR_DIRTY_LOG, KVMIO, 0xc0, kvm_clear_dirty_log);
    ioctl_io_nr!(KVM_RESET_DIRTY_RINGS, KVMIO, 0xc7);
}

/// A memslot's bitmap.
pub struct Bitmap {
    vm: Descriptor,
    slot: u32,
    pages: u32,
    words: Vec<u64>,
}

impl Bitmap {
    /// Of the memslot that is region `region` of the machine's layout, which has such a region.
    ///
    /// # Errors
    /// No other descriptor of the VM.
    pub fn new(machine: &Machine, region: usize) -> io::Result<Self> {
        let region = machine.layout().regions()[region];
        // A memslot has fewer pages than this type has numbers.
        let pages = u32::try_from(region.range.pages()).unwrap_or(u32::MAX);
        let words = vec![0; pages.div_ceil(64) as usize];
        let vm = machine.vm()?;
        Ok(Self { vm, slot: region.slot.0.into(), pages, words })
    }

    /// `KVM_GET_DIRTY_LOG`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn get(&mut self) -> io::Result<()> {
        let dirty_bitmap = self.words.as_mut_ptr().cast();
        let log = kvm_dirty_log {
            slot: self.slot,
            __bindgen_anon_1: kvm_dirty_log__bindgen_ty_1 { dirty_bitmap },
            ..Default::default()
        };
        // SAFETY: K: it reads a `kvm_dirty_log`. S: a machine's memslots stay as its layout says, so
        // it writes a bit for each page of the slot.
        done(unsafe { ioctl_with_ref(&self.vm, KVM_GET_DIRTY_LOG(), &log) })
    }

    /// `KVM_CLEAR_DIRTY_LOG` of all that the last get said.
    ///
    /// # Errors
    /// The kernel's.
    pub fn clear(&mut self) -> io::Result<()> {
        let dirty_bitmap = self.words.as_mut_ptr().cast();
        let mut log = kvm_clear_dirty_log {
            slot: self.slot,
            num_pages: self.pages,
            first_page: 0,
            __bindgen_anon_1: kvm_clear_dirty_log__bindgen_ty_1 { dirty_bitmap },
        };
        // SAFETY: K: it reads and writes a `kvm_clear_dirty_log`, and reads a bit for each page.
        done(unsafe { ioctl_with_mut_ref(&self.vm, KVM_CLEAR_DIRTY_LOG(), &mut log) })
    }

    /// What the last get said, 64 pages a word.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }
}

/// An entry of a ring, as `kvm_dirty_gfn` is.
#[repr(C)]
struct Entry {
    flags: AtomicU32,
    slot: AtomicU32,
    offset: AtomicU64,
}

const DIRTY: u32 = 1;
const HARVESTED: u32 = 2;

/// A vCPU's ring, and the pages that were found in it.
pub struct Ring {
    vm: Descriptor,
    entries: NonNull<[Entry]>,
    next: usize,
    /// By slot, 64 pages a word: two vCPUs, or one between two resets, may write one page.
    seen: Vec<Vec<u64>>,
    found: Vec<(u32, u64)>,
}

// SAFETY: M: the entries are atomics, in a mapping that only goes with this value.
unsafe impl Send for Ring {}

impl Ring {
    /// The ring of the vCPU `vcpu`, of this size. Whoever read it before has left nothing in it, and does
    /// not read it again.
    ///
    /// # Errors
    /// The kernel's, which refuses a ring that has fewer entries.
    pub fn new(machine: &Machine, vcpu: usize, size: RingSize) -> io::Result<Self> {
        let entries = size.entries() as usize;
        let (offset, protection) =
            (i64::from(KVM_DIRTY_LOG_PAGE_OFFSET) * 4096, libc::PROT_READ | libc::PROT_WRITE);
        let (bytes, vcpu) = (entries * size_of::<Entry>(), machine.vcpu(vcpu)?);
        // SAFETY: K: a new mapping at a place of the kernel's choice.
        let base = unsafe {
            let fd = vcpu.as_raw_fd();
            libc::mmap(ptr::null_mut(), bytes, protection, libc::MAP_SHARED, fd, offset)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let words = |region: &Region| vec![0; word_of(region.range.pages() + 63)];
        let vm = machine.vm()?;
        Ok(Self {
            vm,
            entries: NonNull::slice_from_raw_parts(base, entries),
            next: 0,
            seen: machine.layout().regions().iter().map(words).collect(),
            found: Vec::with_capacity(entries),
        })
    }

    /// Slot and offset of every page that the vCPU has written, each once. Their entries are marked
    /// for [`reset`](Self::reset).
    ///
    /// # Panics
    /// An entry names a page that there is not: somebody else writes the ring.
    pub fn harvest(&mut self) -> &[(u32, u64)] {
        let seen = &mut self.seen;
        let gone = self.found.drain(..);
        gone.for_each(|(slot, page)| seen[slot as usize][word_of(page)] = 0);
        self.seek();
        while let Some((slot, page)) = self.take() {
            let (word, bit) = (&mut self.seen[slot as usize][word_of(page)], 1 << (page % 64));
            if *word & bit == 0 {
                *word |= bit;
                self.found.push((slot, page));
            }
        }
        &self.found
    }

    /// `KVM_RESET_DIRTY_RINGS`: how many entries the kernel took back.
    ///
    /// # Errors
    /// The kernel's.
    pub fn reset(&self) -> io::Result<u32> {
        // SAFETY: K: it has no argument.
        let taken = unsafe { ioctl(&self.vm, KVM_RESET_DIRTY_RINGS()) };
        u32::try_from(taken).map_err(|_| io::Error::last_os_error())
    }

    /// The next entry, if the vCPU has written it.
    fn take(&mut self) -> Option<(u32, u64)> {
        let entry = self.entry(self.next);
        if !entry.is_dirty() {
            return None;
        }
        let named = (entry.slot.load(Ordering::Relaxed), entry.offset.load(Ordering::Relaxed));
        entry.flags.store(HARVESTED, Ordering::Release);
        self.next += 1;
        Some(named)
    }

    /// Where somebody has read the ring before, its entries go on anywhere: the first is one before which
    /// there is none.
    fn seek(&mut self) {
        if self.next == 0 {
            let (all, last) = (0..self.entries.len(), self.entries.len() - 1);
            let first =
                |at: &usize| self.entry(*at).is_dirty() && !self.entry(at + last).is_dirty();
            self.next = all.into_iter().find(first).unwrap_or(0);
        }
    }

    fn entry(&self, at: usize) -> &Entry {
        // SAFETY: M: the entries are there as long as this value.
        let entries = unsafe { self.entries.as_ref() };
        &entries[at & (entries.len() - 1)]
    }
}

impl Entry {
    fn is_dirty(&self) -> bool {
        self.flags.load(Ordering::Acquire) & DIRTY != 0
    }
}

fn word_of(page: u64) -> usize {
    usize::try_from(page / 64).unwrap_or(usize::MAX)
}

impl Drop for Ring {
    fn drop(&mut self) {
        let bytes = self.entries.len() * size_of::<Entry>();
        // SAFETY: M: it is this value's, and nobody has a reference into it.
        unsafe { libc::munmap(self.entries.as_ptr().cast(), bytes) };
    }
}

fn done(answer: i32) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
