//! What the kernel counts of a VM and its vCPUs.
//!
//! A file of statistics begins with a header that says where names, descriptors and numbers are
//! (`Documentation/virt/kvm/api.rst`, 4.133). The kernel writes it; it is read as if somebody else had.

pub(crate) use crate::calls::statistics as of;
use kvm_ioctls::VmFd;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use vellum_memory::PAGE_SIZE;

/// More statistics than any kernel has.
const MOST: usize = 4096;
/// Bytes of the header, and of a descriptor before its name.
const HEADER: usize = 24;
const DESCRIPTOR: usize = 16;

/// What the kernel has counted since the machine was made: each statistic's first number, by the name that
/// the kernel gives it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Statistics {
    /// Of the whole VM.
    pub vm: BTreeMap<String, u64>,
    /// Of each vCPU.
    pub vcpus: Vec<BTreeMap<String, u64>>,
}

impl Statistics {
    /// Instructions that the kernel has emulated, of all vCPUs; none if it does not count them.
    #[must_use]
    pub fn emulated_instructions(&self) -> Option<u64> {
        self.sum("insn_emulation")
    }

    /// How often vCPUs left the guest, also where the kernel saw to it alone.
    #[must_use]
    pub fn exits(&self) -> Option<u64> {
        self.sum("exits")
    }

    /// The sum over all vCPUs of what the kernel calls `name`.
    #[must_use]
    pub fn sum(&self, name: &str) -> Option<u64> {
        let mut each = self.vcpus.iter().map(|vcpu| vcpu.get(name).copied());
        each.try_fold(0_u64, |sum, count| Some(sum.wrapping_add(count?)))
    }
}

/// Why there are no statistics.
#[derive(Debug, thiserror::Error)]
pub enum StatisticsError {
    /// The kernel has none to read.
    #[error("the kernel gives no statistics of a VM (KVM_CAP_BINARY_STATS_FD, Linux 5.14)")]
    Missing(#[source] io::Error),
    /// They could not be read.
    #[error("the kernel's statistics could not be read")]
    Read(#[from] io::Error),
    /// They say nothing that can be understood.
    #[error("the kernel's statistics have {what} of {found}, which cannot be")]
    Shape {
        /// Of what.
        what: &'static str,
        /// How many.
        found: u64,
    },
}

/// The open files.
pub(crate) struct Files {
    vm: io::Result<File>,
    vcpus: Vec<io::Result<File>>,
}

impl Files {
    /// Opened while no vCPU runs: the kernel would wait for one that does.
    pub(crate) fn of(vm: &VmFd, vcpus: impl Iterator<Item = io::Result<File>>) -> Self {
        Self { vm: of(vm), vcpus: vcpus.collect() }
    }

    pub(crate) fn read(&self) -> Result<Statistics, StatisticsError> {
        let vcpus = self.vcpus.iter().map(read).collect::<Result<_, _>>()?;
        Ok(Statistics { vm: read(&self.vm)?, vcpus })
    }
}

fn read(file: &io::Result<File>) -> Result<BTreeMap<String, u64>, StatisticsError> {
    match file {
        Ok(file) => parse(file),
        Err(error) => {
            let source = error.raw_os_error().map(io::Error::from_raw_os_error);
            Err(StatisticsError::Missing(source.unwrap_or_else(|| error.kind().into())))
        }
    }
}

/// Where things are in a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Header {
    name: usize,
    count: usize,
    descriptors: u64,
    data: u64,
}

impl Header {
    fn of(bytes: &[u8; HEADER]) -> Result<Self, StatisticsError> {
        let shape = |what, found: u32| StatisticsError::Shape { what, found: found.into() };
        let [_, name, count, _, descriptors, data] =
            [0, 4, 8, 12, 16, 20].map(|at| number(bytes, at));
        let small = |what, found: u32, most: usize| {
            let size = usize::try_from(found).ok().filter(|&size| size <= most);
            size.ok_or_else(|| shape(what, found))
        };
        let longest = usize::try_from(PAGE_SIZE).unwrap_or(usize::MAX);
        Ok(Self {
            name: small("names", name, longest)?,
            count: small("a number", count, MOST)?,
            descriptors: descriptors.into(),
            data: data.into(),
        })
    }
}

/// What is to be read from where any bytes may be.
pub(crate) trait At {
    /// Fills `bytes` from `offset` on.
    fn fill(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
}

impl At for File {
    fn fill(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(bytes, offset)
    }
}

fn parse(file: &impl At) -> Result<BTreeMap<String, u64>, StatisticsError> {
    let mut header = [0; HEADER];
    file.fill(&mut header, 0)?;
    let header = Header::of(&header)?;
    let size = DESCRIPTOR + header.name;
    let mut descriptors = vec![0; size * header.count];
    file.fill(&mut descriptors, header.descriptors)?;
    let counted = descriptors.chunks_exact(size).map(|descriptor| {
        let at = header.data + u64::from(number(descriptor, 8));
        let mut count = [0; 8];
        file.fill(&mut count, at)?;
        Ok((name(&descriptor[DESCRIPTOR..]), u64::from_le_bytes(count)))
    });
    counted.collect()
}

/// Up to its zero.
fn name(bytes: &[u8]) -> String {
    let name = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}

/// The number of 32 bits at a place, zero past the end.
fn number(bytes: &[u8], at: usize) -> u32 {
    let number = bytes.get(at..).and_then(|rest| rest.first_chunk());
    number.map_or(0, |number| u32::from_le_bytes(*number))
}

#[cfg(test)]
mod tests;
