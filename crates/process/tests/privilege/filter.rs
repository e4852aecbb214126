//! A filter of system calls (seccomp), as containers have one, to be a kernel that lacks something.
#![allow(unsafe_code)]

use rustix::io::Errno;
use rustix::ioctl::opcode;
use std::io;

/// How a call is refused.
#[derive(Clone, Copy)]
pub(crate) enum Said {
    /// As by a kernel that does not have it.
    NotImplemented,
    /// As by a container that does not allow it.
    NotPermitted,
}

/// A call that is refused.
#[derive(Clone, Copy)]
pub(crate) enum Refused {
    /// userfaultfd(2).
    Userfaultfd(Said),
    /// The same by `/dev/userfaultfd`, for those who may open it.
    DeviceOfUserfaultfd,
    /// The scan.
    PagemapScan(Said),
}

/// Refuses these calls of this thread from now on.
pub(crate) fn install(refused: &[Refused]) -> io::Result<()> {
    let mut program: Vec<_> = refused.iter().flat_map(|refused| refused.rule()).collect();
    program.push(answer(libc::SECCOMP_RET_ALLOW));
    let length = u16::try_from(program.len()).expect("a few");
    let program = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    // SAFETY: it takes numbers only.
    done(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: it reads a `sock_fprog`, and as many instructions as that says.
    done(unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) })
}

fn done(answer: i32) -> io::Result<()> {
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl Refused {
    fn rule(self) -> Vec<libc::sock_filter> {
        match self {
            Self::Userfaultfd(said) => vec![
                load(CALL),
                unless(number(libc::SYS_userfaultfd), 1),
                answer(libc::SECCOMP_RET_ERRNO | said.errno()),
            ],
            Self::DeviceOfUserfaultfd => ioctl(opcode::none(0xaa, 0), Errno::PERM),
            Self::PagemapScan(said) => {
                ioctl(opcode::read_write::<[u64; 12]>(b'f', 16), said.errno_of_ioctl())
            }
        }
    }
}

impl Said {
    fn errno_of_ioctl(self) -> Errno {
        match self {
            Self::NotImplemented => Errno::NOTTY,
            Self::NotPermitted => Errno::PERM,
        }
    }

    fn errno(self) -> u32 {
        code(match self {
            Self::NotImplemented => Errno::NOSYS,
            Self::NotPermitted => Errno::PERM,
        })
    }
}

fn ioctl(opcode: u32, errno: Errno) -> Vec<libc::sock_filter> {
    vec![
        load(CALL),
        unless(number(libc::SYS_ioctl), 3),
        load(SECOND_ARGUMENT),
        unless(opcode, 1),
        answer(libc::SECCOMP_RET_ERRNO | code(errno)),
    ]
}

/// Where `seccomp_data` has the call's number,
const CALL: u32 = 0;
/// and the low half of its second argument, on a little-endian machine.
const SECOND_ARGUMENT: u32 = 24;

fn load(from: u32) -> libc::sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, from)
}

/// Passes over the next `skip` instructions unless what was loaded is `value`.
fn unless(value: u32, skip: u8) -> libc::sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, skip, value)
}

fn answer(value: u32) -> libc::sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, 0, value)
}

fn instruction(code: u32, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: u16::try_from(code).expect("small"), jt: 0, jf, k }
}

fn number(call: libc::c_long) -> u32 {
    u32::try_from(call).expect("small")
}

fn code(errno: Errno) -> u32 {
    errno.raw_os_error().unsigned_abs()
}
