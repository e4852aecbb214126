use super::*;
use crate::args::Format;
use crate::destination::Place;
use crate::event::Ended;
use crate::identity::Identity;
use crate::machine::{Life, StateError};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use vellum_machine::log::{BoardLog, Track};
use vellum_machine::machine::{Machine, MachineConfig};
use vellum_memory::guest::GuestMemoryMmap;
use vellum_migrate::{Cancel, Limits, Receiver};
use vellum_pte::Ept;

const PATIENCE: Duration = Duration::from_secs(30);

/// One whose guest fails as it is paused, so that there is nothing to save.
struct Failing {
    machine: Machine<Ept>,
    pauses: AtomicU32,
}

impl Movable for Failing {
    fn memory(&self) -> &GuestMemoryMmap {
        Movable::memory(&self.machine)
    }

    fn resume(&self) {}

    fn pause(&self) {
        self.pauses.fetch_add(1, Ordering::Relaxed);
    }

    fn ended(&self) -> Option<(Ended, String)> {
        let failed = self.pauses.load(Ordering::Relaxed) > 0;
        failed.then(|| (Ended::Failed, "the guest cannot go on: it fell over".to_owned()))
    }

    fn life(&self) -> Life {
        Movable::life(&self.machine)
    }

    fn save(&self) -> Result<Vec<u8>, StateError> {
        Err(StateError::of(io::Error::other("it fell over")))
    }

    fn restore(&self, _: &[u8]) -> Result<(), StateError> {
        Ok(())
    }
}

/// Tries to move `machine` to `receiver`, a hundred times if need be.
fn tried(machine: &Failing, config: &MachineConfig, receiver: &Receiver) -> Ending {
    let show = Show::Nobody;
    let source = Source {
        log: BoardLog::new(machine.machine.board(), Track::PerPage),
        identity: Identity::software(config, Format::Ept),
        machine,
        show: &show,
    };
    let attempts = Attempts {
        to: receiver.address(),
        downtime: PATIENCE,
        patience: PATIENCE,
        count: 100,
        interrupt: &Interrupt::default(),
        show: &show,
        #[cfg(feature = "breaks")]
        broken: None,
    };
    attempts.run(source, None)
}

/// What came of it, at a destination that is there the whole time.
fn with_destination(work: impl FnOnce(&Receiver) -> Ending) -> Ending {
    let address = "tcp:127.0.0.1:0".parse().expect("it is an address");
    let receiver = Receiver::bind(&address).expect("a free port");
    let over = Arc::new(AtomicBool::new(false));
    let limits = Limits { cancel: Cancel::from(Arc::clone(&over)), patience: PATIENCE };
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let mut place = Place { show: Arc::new(Show::Nobody) };
            receiver.receive(&mut place, &limits, &mut |_| {}, &mut |_| {}).map(drop)
        });
        let ending = work(&receiver);
        over.store(true, Ordering::Relaxed);
        assert!(waiting.join().expect("no panic").is_err(), "no guest arrives");
        ending
    })
}

#[test]
fn a_guest_that_fails_as_it_is_moved_is_not_tried_again_and_not_said_to_run() {
    let config = MachineConfig::new(1 << 20, 1);
    let machine = Machine::vacant(&config, Box::new(|_: &[u8]| ())).expect("a small machine");
    let machine = Failing { machine, pauses: AtomicU32::new(0) };
    let ending = with_destination(|receiver| tried(&machine, &config, receiver));
    let Ending::Over { end, reason, .. } = ending else { panic!("the guest has ended") };
    assert!(end.contains("cannot go on") && reason.contains("state cannot be moved"), "{reason}");
    assert_eq!(machine.pauses.load(Ordering::Relaxed), 1, "it was tried again");
}
