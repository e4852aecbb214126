use super::*;
use crate::args::{Cli, Command, Format};
use crate::destination::Place;
use crate::event::Ended;
use crate::guest::Proof;
use crate::identity::Identity;
use crate::machine::{Life, StateError};
use crate::migrate::Job;
use crate::report;
use crate::track::Choice;
use clap::Parser;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use vellum_machine::log::{BoardLog, Track};
use vellum_machine::machine::{Machine, MachineConfig, MachineState};
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

/// One whose guest ends just before it is paused.
struct Ends<M> {
    machine: M,
    end: fn(&M),
}

impl<M: Movable> Movable for Ends<M> {
    fn memory(&self) -> &GuestMemoryMmap {
        self.machine.memory()
    }

    fn resume(&self) {}

    fn pause(&self) {
        (self.end)(&self.machine);
        self.machine.pause();
    }

    fn ended(&self) -> Option<(Ended, String)> {
        self.machine.ended()
    }

    fn life(&self) -> Life {
        self.machine.life()
    }

    fn save(&self) -> Result<Vec<u8>, StateError> {
        self.machine.save()
    }

    fn restore(&self, state: &[u8]) -> Result<(), StateError> {
        self.machine.restore(state)
    }
}

/// Tries to move `machine` to `receiver`, a hundred times if need be.
fn tried<M: Movable, L: DirtySource>(
    machine: &M,
    log: L,
    identity: Identity,
    receiver: &Receiver,
) -> Ending {
    let show = Show::Nobody;
    let source = Source { log, identity, machine, show: &show };
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

/// What came of it at a destination that is there the whole time, and how the guest has ended there, if it
/// arrived.
fn with_destination(
    work: impl FnOnce(&Receiver) -> Ending,
) -> (Ending, Option<Option<(Ended, String)>>) {
    let address = "tcp:127.0.0.1:0".parse().expect("it is an address");
    let receiver = Receiver::bind(&address).expect("a free port");
    let over = Arc::new(AtomicBool::new(false));
    let limits = Limits { cancel: Cancel::from(Arc::clone(&over)), patience: PATIENCE };
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let mut place = Place { show: Arc::new(Show::Nobody) };
            let received = receiver.receive(&mut place, &limits, &mut |_| {}, &mut |_| {});
            received.ok().map(|received| received.guest.machine.ended())
        });
        let ending = work(&receiver);
        over.store(true, Ordering::Relaxed);
        (ending, waiting.join().expect("no panic"))
    })
}

#[test]
fn a_guest_that_fails_as_it_is_moved_is_not_tried_again_and_not_said_to_run() {
    let config = MachineConfig::new(1 << 20, 1);
    let machine = Machine::vacant(&config, Box::new(|_: &[u8]| ())).expect("a small machine");
    let machine = Failing { machine, pauses: AtomicU32::new(0) };
    let log = BoardLog::new(machine.machine.board(), Track::PerPage);
    let identity = Identity::software(&config, Format::Ept);
    let (ending, there) = with_destination(|receiver| tried(&machine, log, identity, receiver));
    assert_eq!(there, None, "no guest arrives");
    let Ending::Over { end, reason, .. } = ending else { panic!("the guest has ended") };
    assert!(end.contains("cannot go on") && reason.contains("state cannot be moved"), "{reason}");
    assert_eq!(machine.pauses.load(Ordering::Relaxed), 1, "it was tried again");
}

/// What the tool says of a guest that was handed over to somebody else's destination.
fn judged(ending: Ending) -> report::Report {
    let cli = Cli::try_parse_from(["vellum", "migrate"]).expect("no argument is needed");
    let Command::Migrate(args) = cli.command else { panic!("another command") };
    let job = Job {
        args: &args,
        show: Arc::new(Show::Nobody),
        interrupt: Interrupt::default(),
        proof: Proof::AnyCpu,
        choice: Choice { method: "any", why: "it does not matter" },
    };
    job.judge(ending, None)
}

/// A guest that ends while it is moved arrives as it ended, and the source says so.
fn assert_told_as_ended<M: Movable, L: DirtySource>(machine: &Ends<M>, log: L, identity: Identity) {
    let (ending, there) = with_destination(|receiver| tried(machine, log, identity, receiver));
    let said = (Ended::ShutDown, "the guest shut down".to_owned());
    assert_eq!(there, Some(Some(said)), "as it ended here");
    let report = judged(ending);
    assert!(!report.verified, "{}", report.reason);
    assert_eq!(report.ended, Some(Ended::ShutDown));
    let words = "but the guest shut down before it was handed over: it arrived as it ended";
    assert!(report.reason.contains("the same digest"), "{}", report.reason);
    assert!(report.reason.contains(words), "{}", report.reason);
    assert!(!report.reason.contains("runs the guest"), "{}", report.reason);
}

#[test]
fn a_guest_that_shuts_down_as_it_is_moved_is_not_said_to_run_there() {
    let config = MachineConfig::new(1 << 20, 1);
    let machine = Machine::vacant(&config, Box::new(|_: &[u8]| ())).expect("a small machine");
    // The fourth word of a state says how the guest ended.
    let end = |machine: &Machine<Ept>| {
        let mut state = machine.save().expect("it stands").to_bytes();
        state[3 * 8] = 1;
        let state = MachineState::from_bytes(&state).expect("a state");
        machine.restore(&state).expect("of this very machine");
    };
    let machine = Ends { machine, end };
    let log = BoardLog::new(machine.machine.board(), Track::PerPage);
    assert_told_as_ended(&machine, log, Identity::software(&config, Format::Ept));
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod on_kvm {
    use super::*;
    use std::time::{Duration, Instant};
    use vellum_kvm::{Way, open};
    use vellum_presence::{Need, given};
    use vellum_vmm::{Config, Machine, Program};

    /// Whoever takes so long hangs.
    const HANG: Duration = Duration::from_secs(60);

    #[test]
    fn a_guest_that_shuts_down_as_it_is_moved_is_not_said_to_run_there() {
        if given(Need::Kvm, open()).is_none() {
            return;
        }
        let config = Config { way: Way::ClearingGet, ..Config::new(8 << 20, 1) };
        // mov al, 0; out 0x13, al
        let program = Program::new(&[0xb0, 0, 0xe6, 0x13]).expect("a short program");
        let (machine, log) = Machine::new(&config, &program).expect("a machine");
        let end = |machine: &Machine| {
            machine.resume();
            let hung = Instant::now() + HANG;
            while machine.ended().is_none() {
                assert!(Instant::now() < hung, "it shuts down at once");
                std::thread::yield_now();
            }
        };
        assert_told_as_ended(&Ends { machine, end }, log, Identity::kvm(&config));
    }
}
