//! `vellum receive`: waits for a guest, takes it over and runs it.

use crate::args::Receive;
use crate::destination::{Arrival, Place};
use crate::event::{Ended, Event};
use crate::failure::{End, Failure};
use crate::interrupt::Interrupt;
use crate::show::Show;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use vellum_migrate::{Address, Limits, Receiver};

/// How often the guest is looked at.
const TICK: Duration = Duration::from_millis(20);

/// Waits for one guest and runs it to its end.
pub(crate) fn run(args: &Receive) -> Result<End, Failure> {
    let interrupt = Interrupt::listen()?;
    let show = Arc::new(if args.events { Show::EventsOut } else { Show::person() });
    let receiver = Receiver::bind(&args.listen)?;
    if args.attached {
        end_with_standard_input(&args.listen);
    }
    show.say(&Event::Listening { address: receiver.address().to_string() });
    let end = serve(args, &interrupt, &show, &receiver);
    show.end();
    Ok(end)
}

/// The receiver stays: a source that lost our acknowledgement asks as long as the guest runs here.
fn serve(args: &Receive, interrupt: &Interrupt, show: &Arc<Show>, receiver: &Receiver) -> End {
    let limits = Limits { cancel: interrupt.cancel(), patience: args.patience };
    let mut place = Place { show: Arc::clone(show) };
    let refuse = |reason: String| show.say(&Event::Refused { reason });
    let received = receiver
        .receive(&mut place, &limits, &mut |_| {}, &mut |failure| refuse(failure.to_string()));
    match received {
        Ok(received) => {
            let (how, reason) = run_on(&received.guest, args.passes, interrupt, show);
            show.say(&Event::Progress(received.guest.life()));
            show.say(&Event::Ended { how, reason });
            if how == Ended::Failed { End::Failed } else { End::Done }
        }
        Err(failure) => {
            refuse(failure.to_string());
            End::Failed
        }
    }
}

/// Looks at the guest until it ends, or somebody ends it.
fn run_on(
    guest: &Arrival,
    passes: Option<u64>,
    interrupt: &Interrupt,
    show: &Show,
) -> (Ended, String) {
    loop {
        let life = guest.life();
        show.say(&Event::Progress(life.clone()));
        if let Some(ended) = guest.machine.ended() {
            return ended;
        }
        if passes.is_some_and(|least| life.passes.iter().all(|passes| *passes >= least)) {
            guest.machine.pause();
            return (Ended::Asked, "the guest has finished the passes asked for".to_owned());
        }
        if interrupt.stop_asked() {
            guest.machine.pause();
            return (Ended::Asked, "interrupted: the guest ends here".to_owned());
        }
        std::thread::sleep(TICK);
    }
}

/// Ends this process when its parent does, however that ends, and takes the socket along. The
/// folder was made for the socket alone.
fn end_with_standard_input(address: &Address) {
    let socket = match address {
        Address::Unix(path) => Some(path.clone()),
        Address::Tcp(_) => None,
    };
    std::thread::spawn(move || {
        // An error is an end too.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        remove(socket);
        std::process::exit(1);
    });
}

fn remove(socket: Option<PathBuf>) {
    if let Some(path) = socket {
        // Whatever is gone already need not be removed.
        let _ = std::fs::remove_file(&path);
        let _ = path.parent().map(Path::new).map(std::fs::remove_dir);
    }
}
