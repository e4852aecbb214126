//! What a test needs of its machine, and whether it had it.
//!
//! A test that needs `/dev/kvm` passes where there is none: it does nothing. So each such test says at
//! its gate whether it ran, and `cargo xtask test` reads what was said, lists what was not run, and
//! fails if the machine has what a test missed, or if a test that has a gate never came to it.
//!
//! ```
//! use vellum_presence::{Need, given};
//! # fn open() -> Result<(), std::io::Error> { Ok(()) }
//!
//! // At the beginning of a test, on its own thread:
//! let Some(kvm) = given(Need::Kvm, open()) else { return };
//! ```
//!
//! The reports go to the file that the variable [`REPORTS`] names, a line each. Without it a test that
//! is not run says so on standard error, past the harness.

mod report;

pub use report::{Outcome, Report, parse};

use std::collections::BTreeSet;
use std::fmt;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Names the file to which reports are appended.
pub const REPORTS: &str = "VELLUM_PRESENCE";

/// Something that a machine may lack.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Need {
    /// `/dev/kvm`, which can be opened and makes VMs.
    Kvm,
    /// A way of tracking that the kernel's KVM may lack, by its name, such as `ring-with-bitmap`.
    KvmWay(String),
    /// A userfaultfd that write-protects all memory of this process against its threads.
    Userfaultfd,
    /// One that may hold up the kernel's writes too, which is for the privileged.
    KernelFaults,
    /// `PAGEMAP_SCAN`, and the asynchronous write-protection that it reads: a log of this process's
    /// memory.
    PagemapScan,
    /// A mount namespace of its own, for whoever `unshare --map-root-user --mount` is.
    Namespaces,
    /// `io_uring`, which the system's setting or a filter may forbid.
    IoUring,
    /// A second process as another user, for who may become one.
    OtherUser,
    /// Huge pages of 2 MiB for private memory that asks for them.
    TransparentHugePages,
    /// The same for a file in memory that is mapped shared.
    SharedHugePages,
    /// So many bytes in the pool of 2 MiB pages that `MAP_HUGETLB` takes them from.
    HugePages(u64),
}

impl Need {
    const PLAIN: [Self; 9] = [
        Self::Kvm,
        Self::Userfaultfd,
        Self::KernelFaults,
        Self::PagemapScan,
        Self::Namespaces,
        Self::IoUring,
        Self::OtherUser,
        Self::TransparentHugePages,
        Self::SharedHugePages,
    ];
    const KVM_WAY: &'static str = "kvm-way ";
    const HUGE_PAGES: &'static str = "huge-pages ";
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kvm => f.write_str("kvm"),
            Self::KvmWay(way) => write!(f, "{}{way}", Self::KVM_WAY),
            Self::Userfaultfd => f.write_str("userfaultfd"),
            Self::KernelFaults => f.write_str("kernel-faults"),
            Self::PagemapScan => f.write_str("pagemap-scan"),
            Self::Namespaces => f.write_str("namespaces"),
            Self::IoUring => f.write_str("io-uring"),
            Self::OtherUser => f.write_str("other-user"),
            Self::TransparentHugePages => f.write_str("transparent-huge-pages"),
            Self::SharedHugePages => f.write_str("shared-huge-pages"),
            Self::HugePages(bytes) => write!(f, "{}{bytes}", Self::HUGE_PAGES),
        }
    }
}

/// This is no need that a test can have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownNeed(pub String);

impl fmt::Display for UnknownNeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no test can need `{}`", self.0)
    }
}

impl std::error::Error for UnknownNeed {}

impl std::str::FromStr for Need {
    type Err = UnknownNeed;

    fn from_str(text: &str) -> Result<Self, UnknownNeed> {
        let way = || text.strip_prefix(Self::KVM_WAY).map(|way| Self::KvmWay(way.to_owned()));
        let pool = || text.strip_prefix(Self::HUGE_PAGES)?.parse().ok().map(Self::HugePages);
        let found = Self::PLAIN
            .into_iter()
            .find(|need| need.to_string() == text)
            .or_else(way)
            .or_else(pool);
        found.ok_or_else(|| UnknownNeed(text.to_owned()))
    }
}

/// What the test needs, if the machine has it; and says which.
///
/// # Panics
/// As [`ran`].
pub fn given<T, E: fmt::Display>(need: Need, found: Result<T, E>) -> Option<T> {
    match found {
        Ok(found) => {
            ran(need);
            Some(found)
        }
        Err(reason) => {
            not_run(need, &reason);
            None
        }
    }
}

/// The machine has what this test needs, and the test goes on.
///
/// # Panics
/// Not on the test's own thread, whose name is the test's; or the report cannot be written.
pub fn ran(need: Need) {
    report(need, Outcome::Ran);
}

/// The machine has not, and the test, or the part of it that needs this, does nothing.
///
/// # Panics
/// As [`ran`].
pub fn not_run(need: Need, reason: &impl fmt::Display) {
    let reason = reason.to_string();
    say_once(format!("not run: {reason}"));
    report(need, Outcome::NotRun(reason));
}

fn report(need: Need, outcome: Outcome) {
    let Some(file) = std::env::var_os(REPORTS) else { return };
    let thread = std::thread::current();
    let test = thread.name().expect("a gate is passed on the test's own thread, which has a name");
    let report = Report {
        package: std::env::var("CARGO_PKG_NAME").unwrap_or_default(),
        binary: binary(),
        test: test.to_owned(),
        need,
        outcome,
    };
    append(Path::new(&file), &report.to_string());
}

/// The name of the test's program, without the hash that cargo appends.
fn binary() -> String {
    let path = std::env::current_exe().expect("a program has a path");
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    without_hash(&stem).to_owned()
}

fn without_hash(stem: &str) -> &str {
    match stem.rsplit_once('-') {
        Some((name, hash)) if hash.len() == 16 && hash.bytes().all(|c| c.is_ascii_hexdigit()) => {
            name
        }
        _ => stem,
    }
}

/// Appends a line in one write, so that the lines of several processes do not mix; each line once.
fn append(file: &Path, line: &str) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if !SAID.lock().unwrap_or_else(PoisonError::into_inner).insert(line.to_owned()) {
        return;
    }
    let opened = OpenOptions::new().append(true).create(true).open(file);
    let written = opened.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
    written.expect("the reports' file takes a line");
}

/// Past the harness, which keeps to itself what passing tests say.
fn say_once(line: String) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if SAID.lock().unwrap_or_else(PoisonError::into_inner).insert(line.clone()) {
        // Nobody may be there to hear it.
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}

#[cfg(test)]
mod tests;
