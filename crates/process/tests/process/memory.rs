//! Memory of each kind, written and read past the compiler.
#![allow(unsafe_code)]

use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, ftruncate, memfd_create};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::LazyLock;
use std::{fs, io, ptr};
use vellum_presence::{Need, given};

pub(crate) const PAGE: usize = 4096;
/// Of a huge page.
pub(crate) const HUGE: usize = 2 << 20;

/// What memory is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Private and anonymous.
    Private,
    /// A file in memory, mapped private: its content, until a page is written.
    PrivateFile,
    /// A file in memory, mapped shared.
    Shared,
    /// A file in memory, mapped shared, and in huge pages where the kernel gives some.
    SharedHugePages,
    /// Private, and in huge pages where the kernel gives some.
    HugePages,
    /// Private, of the pool of huge pages.
    HugeTlb,
    /// A file in memory of that pool, mapped shared.
    SharedHugeTlb,
}

impl Kind {
    /// Those that the kernel handles by pages of 4 KiB, though it may map many as a huge one.
    pub(crate) const OF_SMALL_PAGES: [Self; 5] =
        [Self::Private, Self::PrivateFile, Self::Shared, Self::HugePages, Self::SharedHugePages];

    /// Whether the machine gives what it is named for; and says so, where it may not.
    pub(crate) fn is_given(self) -> bool {
        static PRIVATE: LazyLock<Result<(), String>> = LazyLock::new(|| huge(Kind::HugePages));
        static SHARED: LazyLock<Result<(), String>> = LazyLock::new(|| huge(Kind::SharedHugePages));
        let found = |need, found: &LazyLock<_>| given(need, Result::clone(found)).is_some();
        match self {
            Self::HugePages => found(Need::TransparentHugePages, &PRIVATE),
            Self::SharedHugePages => found(Need::SharedHugePages, &SHARED),
            _ => true,
        }
    }
}

/// Whether memory of `kind` is in huge pages when it is written, by the kernel's account of it.
fn huge(kind: Kind) -> Result<(), String> {
    let memory = Memory::new(kind, (2 * HUGE / PAGE) as u64).map_err(|error| error.to_string())?;
    memory.write(0, 1);
    let account = fs::read_to_string("/proc/self/smaps").map_err(|error| error.to_string())?;
    let begins = format!("{:x}-", memory.base().addr());
    let ours = account.lines().skip_while(|line| !line.starts_with(&begins));
    let is_huge = |line: &str| {
        let mut words = line.split_whitespace();
        let of = words.next().is_some_and(|of| of == "AnonHugePages:" || of == "ShmemPmdMapped:");
        of && words.next() != Some("0")
    };
    let mut ours = ours.take_while(|line| !line.starts_with("VmFlags:"));
    let settings = "see /sys/kernel/mm/transparent_hugepage";
    ours.any(is_huge).then_some(()).ok_or(format!("no memory as {kind:?}: {settings}"))
}

/// A mapping.
pub(crate) struct Memory {
    whole: *mut u8,
    length: usize,
    base: *mut u8,
    pages: u64,
    file: Option<OwnedFd>,
}

// SAFETY: its bytes are only accessed volatile or by the kernel.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// `pages` pages of zeros, none of them there yet, aligned to a huge page.
    pub(crate) fn new(kind: Kind, pages: u64) -> io::Result<Self> {
        let bytes = usize::try_from(pages).expect("few pages") * PAGE;
        let file = match kind {
            Kind::PrivateFile | Kind::Shared | Kind::SharedHugePages => {
                Some(file(bytes, MemfdFlags::empty())?)
            }
            Kind::SharedHugeTlb => Some(file(bytes, MemfdFlags::HUGETLB)?),
            Kind::Private | Kind::HugePages | Kind::HugeTlb => None,
        };
        let length = bytes + HUGE;
        // Room to align in, which is then mapped over.
        // SAFETY: a new mapping, where the kernel likes.
        let whole = unsafe {
            mmap_anonymous(ptr::null_mut(), length, ProtFlags::empty(), MapFlags::PRIVATE)
        }?
        .cast::<u8>();
        let base = whole.map_addr(|address| address.next_multiple_of(HUGE));
        map(kind, base, bytes, file.as_ref())?;
        let memory = Self { whole, length, base, pages, file };
        if matches!(kind, Kind::HugePages | Kind::SharedHugePages) {
            memory.advise(0, pages, Advice::LinuxHugepage)?;
        } else if kind == Kind::Private {
            memory.advise(0, pages, Advice::LinuxNoHugepage)?;
        }
        Ok(memory)
    }

    pub(crate) fn pages(&self) -> u64 {
        self.pages
    }

    pub(crate) fn base(&self) -> *mut u8 {
        self.base
    }

    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.file.as_ref().expect("of a file").as_fd()
    }

    /// Stores `value` somewhere in `page`.
    pub(crate) fn write(&self, page: u64, value: u64) {
        let word = usize::try_from(value % 512).expect("small");
        let at = self.at(page).cast::<u64>().wrapping_add(word);
        // SAFETY: `at` is in the mapping and aligned.
        unsafe { at.write_volatile(value) };
    }

    /// The first byte of `page`.
    pub(crate) fn peek(&self, page: u64) -> u8 {
        // SAFETY: `at` is in the mapping.
        unsafe { self.at(page).read_volatile() }
    }

    /// All of `page`.
    pub(crate) fn read(&self, page: u64) -> [u64; PAGE / 8] {
        let words = self.at(page).cast::<u64>();
        // SAFETY: the words of a page in the mapping.
        core::array::from_fn(|word| unsafe { words.wrapping_add(word).read_volatile() })
    }

    /// The bytes of `pages` from `first` on, for calls that have the kernel write them.
    #[allow(clippy::mut_from_ref)] // nobody holds two at once
    pub(crate) fn bytes(&self, first: u64, pages: u64) -> &mut [u8] {
        let length = usize::try_from(pages).expect("few") * PAGE;
        // SAFETY: in the mapping, and the caller lets only the kernel write there.
        unsafe { core::slice::from_raw_parts_mut(self.at(first), length) }
    }

    pub(crate) fn advise(&self, first: u64, pages: u64, advice: Advice) -> io::Result<()> {
        let length = usize::try_from(pages).expect("few") * PAGE;
        // SAFETY: the mapping's own bytes, which nobody has a reference to.
        Ok(unsafe { madvise(self.at(first).cast(), length, advice) }?)
    }

    /// Asks for huge pages at once.
    pub(crate) fn collapse(&self, first: u64, pages: u64) -> io::Result<()> {
        let length = usize::try_from(pages).expect("few") * PAGE;
        // SAFETY: the mapping's own bytes, whose content stays.
        match unsafe { libc::madvise(self.at(first).cast(), length, libc::MADV_COLLAPSE) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Maps this program over `page`, which no userfaultfd can have.
    pub(crate) fn cover(&self, page: u64) -> io::Result<()> {
        let (program, flags) = (fs::File::open("/proc/self/exe")?, MapFlags::PRIVATE);
        let at = self.at(page).cast();
        // SAFETY: over a mapping of ours, whose bytes nobody has a reference to.
        unsafe { mmap(at, PAGE, ProtFlags::READ, flags | MapFlags::FIXED, program, 0) }?;
        Ok(())
    }

    /// Takes pages out of the file, which then reads zeros there.
    pub(crate) fn punch(&self, first: u64, pages: u64) -> io::Result<()> {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(fallocate(self.file(), hole, first * PAGE as u64, pages * PAGE as u64)?)
    }

    /// The same bytes, mapped a second time.
    pub(crate) fn again(&self) -> io::Result<Self> {
        let file = self.file().try_clone_to_owned()?;
        let length = usize::try_from(self.pages).expect("few") * PAGE;
        let (read_write, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping, where the kernel likes.
        let whole = unsafe { mmap(ptr::null_mut(), length, read_write, flags, &file, 0) }?;
        let whole = whole.cast::<u8>();
        Ok(Self { whole, length, base: whole, pages: self.pages, file: Some(file) })
    }

    fn at(&self, page: u64) -> *mut u8 {
        assert!(page < self.pages, "page {page}");
        self.base.wrapping_add(usize::try_from(page).expect("few") * PAGE)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: what `new` mapped, which nobody uses any more.
        unsafe { munmap(self.whole.cast(), self.length) }.expect("it was mapped");
    }
}

fn file(bytes: usize, flags: MemfdFlags) -> io::Result<OwnedFd> {
    let file = memfd_create("memory", flags | MemfdFlags::CLOEXEC)?;
    ftruncate(&file, bytes as u64)?;
    Ok(file)
}

fn map(kind: Kind, base: *mut u8, bytes: usize, file: Option<&OwnedFd>) -> io::Result<()> {
    let read_write = ProtFlags::READ | ProtFlags::WRITE;
    let pool = if kind == Kind::HugeTlb { MapFlags::HUGETLB } else { MapFlags::empty() };
    let private = MapFlags::PRIVATE | MapFlags::FIXED | pool;
    let of_file = if kind == Kind::PrivateFile { MapFlags::PRIVATE } else { MapFlags::SHARED };
    let of_file = of_file | MapFlags::FIXED;
    match file {
        // SAFETY: over memory that was mapped to be mapped over.
        Some(file) => unsafe { mmap(base.cast(), bytes, read_write, of_file, file, 0) },
        // SAFETY: as above.
        None => unsafe { mmap_anonymous(base.cast(), bytes, read_write, private) },
    }?;
    Ok(())
}
