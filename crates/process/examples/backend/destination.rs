//! The side where the back end arrives.

use crate::device::{Device, layout, shared_memory};
use crate::source::{Failure, IDENTITY, LISTENS};
use std::fmt;
use std::path::Path;
use vellum_memory::guest::GuestMemoryMmap;
use vellum_memory::{AddressSpace, Layout};
use vellum_migrate::{
    Address, Destination, Fresh, IncomingGuest, Limits, Receiver, Refusal, RefusalKind,
};

/// Takes one back end, lets it run on for a while, and has it look at its memory.
pub(crate) fn receive(socket: &Path) -> Result<(), Failure> {
    let receiver = Receiver::bind(&Address::Unix(socket.to_owned()))?;
    println!("{LISTENS}");
    let limits = Limits::default();
    let tell = &mut |failure: &vellum_migrate::Failure| eprintln!("{failure}");
    let received = receiver.receive(&mut Home, &limits, &mut |_| {}, tell)?;
    let device = received.guest.device.as_ref().ok_or("it was restored before it was resumed")?;
    device.wait_for(device.writes() + 1000);
    device.pause();
    let pages = device.check()?;
    println!(
        "There: the device runs on, with {} writes so far, and found each of its {pages} pages as it \
         had written it.",
        device.writes()
    );
    Ok(())
}

/// A place for one.
struct Home;

/// A back end that arrives.
struct Arriving {
    memory: GuestMemoryMmap,
    device: Option<Device>,
}

/// Its state is none.
#[derive(Debug)]
struct BadState(Failure);

impl fmt::Display for BadState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for BadState {}

impl Destination for Home {
    type Guest = Arriving;

    fn prepare(&mut self, identity: &[u8], theirs: &Layout) -> Result<Arriving, Refusal> {
        let refuse = |kind, text: &str| Refusal::new(kind, text);
        if identity != IDENTITY {
            return Err(refuse(RefusalKind::Machine, "it is another machine"));
        }
        match layout() {
            Ok(ours) if ours == *theirs => {}
            _ => return Err(refuse(RefusalKind::Layout, "its memory is another")),
        }
        let memory = shared_memory()
            .map_err(|error| refuse(RefusalKind::OutOfMemory, &error.to_string()))?;
        Ok(Arriving { memory, device: None })
    }
}

impl IncomingGuest for Arriving {
    type Memory = GuestMemoryMmap;
    type Error = BadState;

    fn memory(&self, _: AddressSpace) -> &GuestMemoryMmap {
        &self.memory
    }

    /// A file that was just made.
    fn fresh(&self) -> Fresh {
        Fresh::Zeros
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), BadState> {
        self.device = Some(Device::restored(&self.memory, state).map_err(BadState)?);
        Ok(())
    }

    fn resume(&mut self) {
        if let Some(device) = &self.device {
            device.resume();
        }
    }
}
