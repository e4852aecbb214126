//! Memory that is write-protected by `mprotect`, and a handler of `SIGSEGV` that notes which page is
//! written and lets it be.
#![allow(unsafe_code)]

use core::ffi::c_int;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::io;
use std::mem::MaybeUninit;

/// Bytes of a page.
const PAGE: usize = 4096;

/// What the handler knows: the one memory that is watched.
static WATCHED: AtomicPtr<Watched> = AtomicPtr::new(ptr::null_mut());
/// Whether somebody has it.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Some pages, and which of them were written since they were protected. There is one at a time in a
/// process, since signals have one handler.
pub struct Signalled(NonNull<Watched>);

struct Watched {
    base: NonNull<u8>,
    pages: usize,
    written: Box<[AtomicU64]>,
    before: libc::sigaction,
}

// SAFETY: W: the memory is reached by volatile stores only, and the rest is atomic or never changes.
unsafe impl Sync for Signalled {}

impl Signalled {
    /// So many pages of memory, all there, none protected.
    ///
    /// # Errors
    /// The kernel has no memory, or somebody in this process has another: `ResourceBusy`.
    pub fn new(pages: usize) -> io::Result<Self> {
        if TAKEN.swap(true, Ordering::Acquire) {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        Self::watch(pages).inspect_err(|_| TAKEN.store(false, Ordering::Release))
    }

    fn watch(pages: usize) -> io::Result<Self> {
        let before = handle(libc::SIGSEGV)?;
        let base = map(pages * PAGE).inspect_err(|_| restore(&before))?;
        let written = (0..pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let watched = Box::into_raw(Box::new(Watched { base, pages, written, before }));
        WATCHED.store(watched, Ordering::Release);
        // SAFETY: a box is somewhere.
        let this = Self(unsafe { NonNull::new_unchecked(watched) });
        (0..pages).for_each(|page| this.store(page, 0));
        Ok(this)
    }

    /// Write-protects all pages, and forgets which were written.
    ///
    /// # Errors
    /// The kernel's.
    pub fn protect(&self) -> io::Result<()> {
        let watched = self.watched();
        watched.written.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        watched.allow(0, watched.pages, libc::PROT_READ)
    }

    /// A store at the beginning of a page.
    ///
    /// # Panics
    /// There is no such page.
    pub fn store(&self, page: usize, value: u64) {
        let watched = self.watched();
        assert!(page < watched.pages, "page {page} of {}", watched.pages);
        // SAFETY: W: the page is in the mapping; where it is protected the handler lets it be written.
        unsafe { watched.at(page).cast::<u64>().write_volatile(value) };
    }

    /// What the beginning of a page holds.
    ///
    /// # Panics
    /// There is no such page.
    #[must_use]
    pub fn load(&self, page: usize) -> u64 {
        let watched = self.watched();
        assert!(page < watched.pages, "page {page} of {}", watched.pages);
        // SAFETY: W: the page is in the mapping.
        unsafe { watched.at(page).cast::<u64>().read_volatile() }
    }

    /// A bit for each page that was written since it was protected, 64 a word.
    pub fn written(&self) -> impl Iterator<Item = u64> + '_ {
        self.watched().written.iter().map(|word| word.load(Ordering::Relaxed))
    }

    fn watched(&self) -> &Watched {
        // SAFETY: W: it is freed when this value is dropped.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for Signalled {
    fn drop(&mut self) {
        let watched = self.watched();
        restore(&watched.before);
        WATCHED.store(ptr::null_mut(), Ordering::Release);
        // SAFETY: W: nobody has a reference into the mapping, which was made with this length.
        unsafe { libc::munmap(watched.base.as_ptr().cast(), watched.pages * PAGE) };
        // SAFETY: W: it came from a box, and the handler does not find it any more.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
        TAKEN.store(false, Ordering::Release);
    }
}

impl Watched {
    fn at(&self, page: usize) -> *mut u8 {
        self.base.as_ptr().wrapping_add(page * PAGE)
    }

    /// Which page an address is in.
    fn page_of(&self, address: usize) -> Option<usize> {
        let page = address.checked_sub(self.base.as_ptr() as usize)? / PAGE;
        (page < self.pages).then_some(page)
    }

    fn allow(&self, first: usize, pages: usize, protection: c_int) -> io::Result<()> {
        // SAFETY: W: the pages are in the mapping, which stays readable; only stores are refused, and
        // the handler is there for them.
        done(unsafe { libc::mprotect(self.at(first).cast(), pages * PAGE, protection) })
    }

    /// Notes a page, and lets it be written.
    fn refused(&self, page: usize) -> io::Result<()> {
        self.written[page / 64].fetch_or(1 << (page % 64), Ordering::Relaxed);
        self.allow(page, 1, libc::PROT_READ | libc::PROT_WRITE)
    }
}

/// A signal that is not about the watched memory, and a page that cannot be let be, end the process as
/// they would without us: the access is made again, and refused again.
extern "C" fn refused(signal: c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: K: the kernel gives a whole `siginfo_t` to a handler with SA_SIGINFO.
    let info = unsafe { &*info };
    // SAFETY: K: one of SIGSEGV has an address.
    let address = unsafe { info.si_addr() } as usize;
    // SAFETY: W: where there is one, it is there until after the handler is gone.
    let watched = unsafe { WATCHED.load(Ordering::Acquire).as_ref() };
    let page = watched.and_then(|watched| Some((watched, watched.page_of(address)?)));
    if page.is_some_and(|(watched, page)| watched.refused(page).is_ok()) {
        return;
    }
    // SAFETY: K: the default for a signal that has one.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// Memory of small pages: a huge page would be split by the first store.
fn map(bytes: usize) -> io::Result<NonNull<u8>> {
    let (protection, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: K: a new mapping at a place of the kernel's choice.
    let base = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: W: the whole of the mapping that was just made.
    unsafe { libc::madvise(base, bytes, libc::MADV_NOHUGEPAGE) };
    NonNull::new(base.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

/// Installs the handler, and gives back what was there.
fn handle(signal: c_int) -> io::Result<libc::sigaction> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    let mut before = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: zeros are a `sigaction`: the default, no flags, an empty mask.
    let action = unsafe { action.assume_init_mut() };
    action.sa_sigaction = refused as extern "C" fn(_, _, _) as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    // SAFETY: K: it reads a `sigaction`, and writes a whole one.
    done(unsafe { libc::sigaction(signal, action, before.as_mut_ptr()) })?;
    // SAFETY: it was written, since the call did not fail.
    Ok(unsafe { before.assume_init() })
}

/// Puts back who had the signal before.
fn restore(before: &libc::sigaction) {
    // SAFETY: K: it reads a `sigaction`, the one that was there before.
    unsafe { libc::sigaction(libc::SIGSEGV, before, ptr::null_mut()) };
}

fn done(answer: c_int) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
