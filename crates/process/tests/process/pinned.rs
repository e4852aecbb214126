//! Memory that the kernel has pinned, and writes to without a look at this process's page tables.
#![allow(unsafe_code)]

use crate::memory::{Kind, Memory, PAGE};
use crate::oracle::{Copy, next};
use crate::{PAGES, log_of};
use rustix::io_uring::{
    IORING_OFF_SQ_RING, IORING_OFF_SQES, IoringEnterFlags, IoringFeatureFlags, IoringOp,
    IoringRegisterOp, io_uring_enter, io_uring_params, io_uring_register, io_uring_setup,
    io_uring_sqe, iovec,
};
use rustix::mm::{MapFlags, ProtFlags, mmap};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use vellum_memory::DirtySource;
use vellum_presence::{Need, given};

/// A page that came whole.
const WHOLE: u32 = 4096;

/// An io_uring of one entry. Its rings stay mapped until the program ends.
struct Uring {
    fd: OwnedFd,
    ring: *mut u8,
    entry: *mut io_uring_sqe,
    parameters: io_uring_params,
}

impl Uring {
    fn new() -> io::Result<Self> {
        let mut parameters = io_uring_params::default();
        // SAFETY: it reads and writes its parameters.
        let fd = unsafe { io_uring_setup(1, &mut parameters) }?;
        assert!(parameters.features.contains(IoringFeatureFlags::SINGLE_MMAP), "Linux 5.4");
        let map = |from| {
            let (flags, access) = (MapFlags::SHARED, ProtFlags::READ | ProtFlags::WRITE);
            // SAFETY: a new mapping, where the kernel likes; a ring of one entry fits in a page.
            unsafe { mmap(ptr::null_mut(), PAGE, access, flags, &fd, from) }
        };
        let (ring, entry) = (map(IORING_OFF_SQ_RING)?.cast(), map(IORING_OFF_SQES)?.cast());
        Ok(Self { fd, ring, entry, parameters })
    }

    /// Pins `bytes`, as its buffer 0.
    fn pin(&self, bytes: &mut [u8]) -> io::Result<()> {
        let buffer = iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        // SAFETY: it reads one `iovec`, whose bytes stay mapped longer than this.
        let registered = unsafe {
            let buffer = (&raw const buffer).cast();
            io_uring_register(&self.fd, IoringRegisterOp::RegisterBuffers, buffer, 1)
        };
        Ok(registered.map(drop)?)
    }

    /// Reads a page's bytes from `file` into `bytes` and waits until they are there. How many came?
    fn read(&self, how: IoringOp, file: &OwnedFd, bytes: &mut [u8]) -> io::Result<u32> {
        let mut entry = io_uring_sqe { opcode: how, fd: file.as_raw_fd(), ..Default::default() };
        entry.addr_or_splice_off_in.addr = bytes.as_mut_ptr().cast::<std::ffi::c_void>().into();
        entry.len.len = u32::try_from(bytes.len()).expect("a page");
        entry.off_or_addr2.off = u64::MAX;
        // SAFETY: the only entry, which the kernel reads in the call below.
        unsafe { self.entry.write(entry) };
        let (sq, cq) = (self.parameters.sq_off, self.parameters.cq_off);
        self.word(sq.array).store(0, Ordering::Relaxed);
        self.word(sq.tail).fetch_add(1, Ordering::Release);
        // SAFETY: the entry names bytes that stay mapped.
        unsafe { io_uring_enter(&self.fd, 1, 1, IoringEnterFlags::GETEVENTS) }?;
        let at = self.word(cq.head).fetch_add(1, Ordering::AcqRel)
            & self.word(cq.ring_mask).load(Ordering::Relaxed);
        // The result is behind eight bytes of the caller's.
        Ok(self.word(cq.cqes + at * 16 + 8).load(Ordering::Acquire))
    }

    fn word(&self, offset: u32) -> &AtomicU32 {
        let at = self.ring.wrapping_add(usize::try_from(offset).expect("small"));
        // SAFETY: the kernel's offsets are those of words in the ring.
        unsafe { &*at.cast() }
    }
}

fn full_pipe() -> OwnedFd {
    let (from, into) = rustix::pipe::pipe().expect("a pipe");
    assert_eq!(rustix::io::write(&into, &[0x5a; PAGE]), Ok(PAGE));
    from
}

#[test]
fn an_asynchronous_read_is_logged_and_one_into_a_pinned_buffer_is_not() {
    for kind in [Kind::Private, Kind::Shared] {
        let memory = Memory::new(kind, PAGES).expect("memory");
        let Some(mut log) = log_of(&memory) else { return };
        let Some(uring) = given(Need::IoUring, Uring::new()) else { return };
        log.start().expect("the log starts");
        assert_eq!(
            uring.read(IoringOp::Read, &full_pipe(), memory.bytes(4, 1)).expect("read"),
            WHOLE
        );
        uring.pin(memory.bytes(5, 1)).expect("pinned");
        // Who pins pages to write to them is taken for a writer.
        assert_eq!(next(&mut log), BTreeSet::from([4, 5]), "{kind:?}");
        let copy = Copy::of(&memory);
        assert_eq!(
            uring.read(IoringOp::ReadFixed, &full_pipe(), memory.bytes(5, 1)).expect("read"),
            WHOLE
        );
        assert_eq!(copy.changed(&memory), BTreeSet::from([5]), "{kind:?}");
        // docs/process.md: who has pinned buffers marks them when a read is complete.
        assert_eq!(next(&mut log), BTreeSet::new(), "{kind:?}");
    }
}
