//! One suite, every backend, held to naive oracles.
//!
//! | part | what |
//! |---|---|
//! | [`backend`] | what a backend offers to be held to the suite |
//! | [`oracle`] | the two oracles: [`oracle::stopped`] and [`oracle::running`] |
//! | [`trial`] | how a backend is put before them |
//! | [`port_guest`] | backend: native writers on the software machine's memory ports |
//! | [`crew`] | threads that follow a plan |
//! | `native_guest` | backend: the same stores made by vCPUs of the kernel's hypervisor |
//! | `thread_guest` | backend: the same stores made by threads of this process, tracked by userfaultfd |
//! | [`contract`] | scenes for every backend, call by call |
//! | [`breaking`] | backends that are wrong on purpose |
//! | [`abilities`] | what each backend's log can do; `docs/backends.md` is made of it |
//! | [`rv64_guest`] | backend: the same stores made by RV64 harts |
//! | [`restricted`] | tracked and restricted pages of either |
//! | [`model`] | what the library does, said naively |
//! | [`scene`] | a VM and its model: each operation done to both |
//! | [`script`] | a VM of [`hypervisor`], a list of operations, and what is objected to them |
//! | [`parts`] | the pages of an access |
//! | [`hypervisor`] | a hypervisor of our own: counts, takes snapshots, forgets on request |
//!
//! | test | what it holds the backends or the library to |
//! |---|---|
//! | `oracles` | both oracles, and that they find the planted bugs |
//! | `contract` | the scenes of [`contract`], on the software machine |
//! | `kvm`, `process` | oracles, scenes and controls on the kernel's hypervisor and on this process's memory |
//! | `abilities` | that `docs/backends.md` says what is so |
//! | `moving` | a native guest and its devices, migrated while all of them write |
//! | `random_operations` | the model, in whatever order |
//! | `out_of_memory` | the model, with each allocation failing in turn |
//! | `skipped_shoot_down`, `planted_bugs` | that each shoot-down is missed and each bug found |
//! | `protect_all` | what write-protect-all costs, by counters and raw frames |
//! | `huge_leaves` | that none is passed over, and that all come back, by the hundred |
//! | `many_slots`, `bookkeeping` | thousands of slots, and what is kept beside the tables |
//! | `tracking`, `listeners`, `sub_pages` | who hears of writes, what stays denied, and what others got wrong |
//! | `bad_input`, `half_way` | that a refused call changes nothing, wherever memory ends |
//! | `rings` | dirty rings and page-modification logs, law by law |
//! | `metadata` | what tracking and maps take, counted and resident |
//! | `devices` | rust-vmm's devices, in both logs |
//! | `known_mistakes`, `slots_under_running_vcpus` | what others got wrong |
//!
//! To hold another backend to the suite, implement [`backend::Backend`] and [`backend::Guest`], and give
//! it a test file as `tests/kvm.rs` is one. What it cannot do belongs into `docs/backends.md`.
//!
//! Nothing here looks at a clock: iterations and stores are counted.

pub mod abilities;
pub mod backend;
pub mod breaking;
pub mod contract;
pub mod crew;
pub mod hypervisor;
pub mod model;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
pub mod native_guest;
pub mod oracle;
pub mod parts;
pub mod port_guest;
pub mod restricted;
pub mod rv64_guest;
pub mod scene;
pub mod script;
#[cfg(target_os = "linux")]
pub mod thread_guest;
pub mod trial;
