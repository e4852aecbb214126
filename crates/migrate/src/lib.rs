//! Live migration of a guest to another process: rounds, wire, hand-over.
//!
//! A guest that runs changes its memory while it is copied. So the source copies everything, asks
//! its [`DirtySource`](vellum_memory::DirtySource) what changed meanwhile, copies that, and again,
//! until so little is left that the guest can be paused for it. Then exactly one of the two
//! processes runs the guest on.
//!
//! - [`migrate`] is the source's side, over a [`SourceGuest`] that the caller brings. Every
//!   failure before the hand-over gives the guest back **running**, with the pages of the attempt
//!   dirty again ([`Kept`]). If the last acknowledgement is lost, nobody can know from here where
//!   the guest runs: it stays paused in an [`Unknown`] that can ask or be resumed.
//! - [`Receiver`] is the destination's side, over a [`Destination`]. It takes what comes from the
//!   socket as hostile: bounds first, then use.
//! - [`Address`] says where: `tcp:HOST:PORT` or `unix:PATH`.
//!
//! Between threads of one process it looks as it does between two, here for any guest and any place
//! for one:
//!
//! ```
//! use vellum_migrate::*;
//!
//! fn move_it<G: SourceGuest + Send, D: Destination + Send>(guest: G, mut there: D, address: &Address)
//! where
//!     D::Guest: Send,
//! {
//!     let receiver = Receiver::bind(address).expect("a free address");
//!     std::thread::scope(|scope| {
//!         let arrival = scope.spawn(|| {
//!             receiver.receive(&mut there, &Limits::default(), &mut |_| {}, &mut |_| {})
//!         });
//!         match migrate(guest, receiver.address(), &Options::default(), &mut |_| {}) {
//!             Outcome::Moved(moved) => println!("away after {:?}", moved.report.downtime),
//!             Outcome::Kept(kept) => println!("it runs on here: {}", kept.failure),
//!             Outcome::Unknown(unknown) => drop(unknown.ask(&Cancel::new())),
//!         }
//!         drop(arrival.join());
//!     });
//! }
//! ```
//!
//! The bytes on the wire are described in `docs/wire.md`. This crate names no backend: it runs over
//! anything that implements the contract of `vellum-memory`.
#![forbid(unsafe_code)]
// The numbers of tests are small and known.
#![cfg_attr(test, allow(clippy::cast_possible_truncation))]

mod address;
mod breaks;
mod cancel;
mod destination;
mod digest;
mod failure;
mod guest;
mod identity;
mod link;
mod progress;
mod report;
mod room;
mod source;
mod wire;
mod zero;

#[cfg(test)]
mod tests;

pub use address::{Address, ConnectError, ListenError, ParseAddressError};
pub use breaks::Break;
pub use cancel::Cancel;
pub use destination::{Answerer, Limits, Received, Receiver, Served};
pub use digest::{Difference, Digest};
pub use failure::{BoxError, Cause, Causes, Failure};
pub use guest::{Destination, Fresh, IncomingGuest, SourceGuest};
pub use identity::{InstanceId, MigrationId};
pub use progress::{Phase, Progress};
pub use report::{RegionDigest, Report, Round, Stop, Verdict};
pub use source::{Kept, Moved, Options, Outcome, Unknown, migrate};
pub use wire::{Answer, Kind, Refusal, RefusalKind, Text, VERSION, Verify, WireError};
