//! `vellum watch`: runs a guest and says who writes where in a range of its memory.

mod ear;
mod instruction;
mod mechanism;
mod range;
mod report;
mod table;
mod tally;

pub(crate) use mechanism::WatchError;
pub(crate) use range::{AddressRange, Grain};
pub(crate) use report::Line;

use crate::args::{Format, Watch};
use crate::event::Ended;
use crate::failure::{End, Failure};
use crate::guest::Guest;
use crate::interrupt::Interrupt;
use crate::machine::console;
use crate::machine::software::ended;
use crate::report::{Width, columns, wrapped};
use crate::show::Show;
use console::Term;
use ear::Ear;
use mechanism::Mechanism;
use range::Watched;
use report::{Asked, Explained, Report};
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tally::{Denied, Over, Printing, Store, Tally};
use vellum_machine::RAM_BASE;
use vellum_machine::board::{Board, SubPageHardware};
use vellum_machine::denial::Verdict;
use vellum_machine::guests::RESERVED_PAGES;
use vellum_machine::machine::{Machine, MachineConfig};
use vellum_machine::vcpu::INSTRUCTION_BYTES;
use vellum_machine::walker::WalkedFormat;
use vellum_memory::guest::{Bytes, GuestAddress};
use vellum_mmu::Mmu;
use vellum_pte::{Ept, GfnRange, Npt, PAGE_SIZE, Stage2};

/// How often the guest and the person are looked at.
const TICK: Duration = Duration::from_millis(20);

/// How often the picture is drawn anew.
const DRAW_EVERY: Duration = Duration::from_millis(250);

/// The most rows for a reader that is no terminal: `--json` has everything.
const MOST_ROWS: usize = 32;

/// How much is watched of a built-in guest if nothing is asked for: all of them write there.
const USUAL: u64 = 64 << 10;

/// Everything but the machine.
struct Job<'a> {
    args: &'a Watch,
    show: Arc<Show>,
    interrupt: Interrupt,
    guest: Guest,
    ranges: Vec<Asked>,
}

/// A machine that is watched.
struct Scene<'m, F: WalkedFormat> {
    machine: &'m Machine<F>,
    tally: &'m Tally,
    mechanism: Mechanism,
    began: Instant,
}

/// Watches a guest and prints what it has written. How that ends the process.
pub(crate) fn run(args: &Watch) -> Result<End, Failure> {
    let show = Arc::new(if args.json { Show::Nobody } else { Show::watcher() });
    let ended = watch(args, &show);
    show.end();
    match ended {
        Err(failure) if args.json => {
            print(&(Line::Failed { reason: &failure.to_string() }.json() + "\n"));
            Ok(End::NotStarted)
        }
        other => other,
    }
}

/// A reader that has gone away is noticed where each write is printed.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn watch(args: &Watch, show: &Arc<Show>) -> Result<End, Failure> {
    let guest = Guest::load(&args.machine)?;
    let ranges = ranges(args, &guest)?;
    let interrupt = Interrupt::listen()?;
    let job = Job { args, show: Arc::clone(show), interrupt, guest, ranges };
    match args.machine.format() {
        Format::Ept => job.run::<Ept>(),
        Format::Npt => job.run::<Npt>(),
        Format::Stage2 => job.run::<Stage2>(),
    }
}

/// What is to be watched: in RAM, and in whole units.
fn ranges(args: &Watch, guest: &Guest) -> Result<Vec<Asked>, Failure> {
    let first = RAM_BASE.gpa().get();
    let asked = match (args.ranges.as_slice(), guest.is_built_in()) {
        ([], true) => AddressRange::new(first + RESERVED_PAGES * PAGE_SIZE, USUAL)
            .map(|range| vec![range])
            .unwrap_or_default(),
        ([], false) => return Err(Failure::NoRange { guest: args.machine.guest.clone() }),
        (asked, _) => asked.to_vec(),
    };
    let pages = args.machine.memory.bytes() / PAGE_SIZE;
    let ram = GfnRange::new(RAM_BASE, pages).map(AddressRange::of_pages);
    let ram = ram.ok_or(Failure::TooMuchMemory(args.machine.memory.bytes()))?;
    let checked = asked.into_iter().map(|asked| match asked.rounded(args.grain) {
        watched if ram.contains(watched) => Ok(Asked { asked, watched }),
        _ => Err(Failure::RangeOutsideRam { range: asked, ram, size: args.machine.memory }),
    });
    checked.collect()
}

impl Job<'_> {
    fn run<F: WalkedFormat>(&self) -> Result<End, Failure> {
        let watched: Vec<_> = self.ranges.iter().map(|range| range.watched).collect();
        let watched = Watched::new(self.args.grain, &watched);
        let machine =
            Machine::<F>::new(&self.config()?, &self.guest.image, Box::new(console(&self.show)))
                .map_err(|error| self.args.machine.not_built(error))?;
        let printing = if self.args.json { Printing::Each } else { Printing::Sums };
        let tally = Arc::new(Tally::new(watched, self.args.writes, printing));
        let verdict = if self.args.deny { Verdict::Stop } else { Verdict::LetThrough };
        let ear = Arc::new(Ear::new(Arc::clone(&tally), verdict));
        let mmu = machine.board().mmu();
        let mechanism = Mechanism::choose(self.args, mmu.sub_page_form());
        let listener: Arc<Ear> = Arc::clone(&ear);
        let registered = Mmu::listen(mmu, listener).map_err(WatchError::from)?;
        mechanism.begin(machine.board(), tally.watched(), &ear)?;
        self.announce(tally.watched(), mechanism);
        let began = Instant::now();
        machine.resume();
        let end = self.follow(&Scene { machine: &machine, tally: &tally, mechanism, began });
        registered.unregister();
        Ok(end)
    }

    fn config(&self) -> Result<MachineConfig, Failure> {
        let sub_pages = match self.args.sub_pages {
            crate::args::SubPages::Hardware => SubPageHardware::Present,
            crate::args::SubPages::Emulated => SubPageHardware::Absent,
        };
        Ok(MachineConfig { sub_pages, ..self.args.machine.config()? })
    }

    fn announce(&self, watched: &Watched, mechanism: Mechanism) {
        let unit = self.args.grain.unit();
        for Asked { asked, watched } in self.ranges.iter().filter(|range| !range.is_exact()) {
            self.show.note(&format!("{asked} is rounded to whole {unit}s: {watched}"));
        }
        let parts: Vec<String> = watched.parts().iter().map(ToString::to_string).collect();
        let (parts, title) = (parts.join(", "), mechanism.title());
        let why = mechanism.why(self.args);
        self.show.note(&format!("watching {parts} by {title}: {why}"));
    }

    /// Looks on until it is over, and says what was seen.
    fn follow<F: WalkedFormat>(&self, scene: &Scene<'_, F>) -> End {
        let over = self.look_on(scene);
        scene.machine.pause();
        let ran = scene.began.elapsed();
        self.show.end();
        let report = self.report(scene, &over, ran);
        let board = scene.machine.board();
        let denied = scene.tally.denied().map(|denied| explain(board, denied));
        if self.args.json {
            print_json(&report, denied.as_ref());
        } else {
            print(&self.text(scene, &report, denied.as_ref()));
        }
        match over {
            Over::Denied => End::Denied,
            Over::Failed(_) => End::Failed,
            _ => End::Done,
        }
    }

    fn look_on<F: WalkedFormat>(&self, scene: &Scene<'_, F>) -> Over {
        let (mut printed, mut draw) = (0, scene.began);
        loop {
            let (stores, over) = scene.tally.wait(TICK);
            if print_stores(&stores, &mut printed).is_err() {
                scene.tally.close(Over::Unread);
            }
            if let Some(over) = over {
                return over;
            }
            if let Some(over) = self.end_of(scene) {
                scene.tally.close(over);
            }
            if Instant::now() >= draw {
                self.show.draw(|| self.picture(scene));
                draw = Instant::now() + DRAW_EVERY;
            }
        }
    }

    /// Why the watch is to end now, if it is.
    fn end_of<F: WalkedFormat>(&self, scene: &Scene<'_, F>) -> Option<Over> {
        if self.interrupt.stop_asked() {
            return Some(Over::Interrupted);
        }
        if self.args.span.is_some_and(|span| scene.began.elapsed() >= span) {
            return Some(Over::Time);
        }
        ended(scene.machine.status()).map(|(how, reason)| match how {
            Ended::ShutDown | Ended::Asked => Over::ShutDown,
            Ended::Failed => Over::Failed(reason),
        })
    }

    /// What a terminal shows while the guest runs.
    fn picture<F: WalkedFormat>(&self, scene: &Scene<'_, F>) -> String {
        let (rows, width) = Term::stderr().size();
        let width = Width::Columns(usize::from(width));
        let seen = scene.tally.see(fitting(rows));
        let time = crate::quantity::show_duration(scene.began.elapsed());
        let writes = crate::quantity::show_count(seen.writes);
        let title = format!("{writes} writes in {time}; Ctrl-C ends the watch");
        let board = scene.machine.board();
        let table = report::seen(&seen, self.args.grain, width, &|pc| disassembled(board, pc));
        wrapped(&title, width) + "\n" + table.trim_end()
    }

    /// What stays on the screen, or goes into a file.
    fn text<F: WalkedFormat>(
        &self,
        scene: &Scene<'_, F>,
        report: &Report,
        denied: Option<&Explained>,
    ) -> String {
        let width = columns();
        let seen = scene.tally.see(rows());
        let board = scene.machine.board();
        let mut text = report::seen(&seen, self.args.grain, width, &|pc| disassembled(board, pc));
        if let Some(denied) = denied {
            text += &denied.text(width);
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text + &wrapped(&report.sentence(), width) + "\n"
    }

    fn report<F: WalkedFormat>(&self, scene: &Scene<'_, F>, over: &Over, ran: Duration) -> Report {
        let seen = scene.tally.see(0);
        let machine = &self.args.machine;
        Report {
            ended: over.name(),
            reason: over.reason(),
            writes: seen.writes,
            beside: scene.tally.beside(),
            written: seen.units,
            watched: scene.tally.watched().units(),
            grain: self.args.grain,
            ranges: self.ranges.clone(),
            mechanism: scene.mechanism.name(),
            mechanism_reason: scene.mechanism.why(self.args),
            guest: machine.guest.clone(),
            format: machine.format().name(),
            memory: machine.memory.bytes(),
            vcpus: machine.vcpus,
            seed: machine.seed,
            ns: u64::try_from(ran.as_nanos()).unwrap_or(u64::MAX),
        }
    }
}

/// As many rows of the last table as a reader of standard output wants.
fn rows() -> usize {
    let terminal = Term::stdout();
    match terminal.size_checked() {
        Some((rows, _)) if terminal.is_term() => fitting(rows).min(MOST_ROWS),
        _ => MOST_ROWS,
    }
}

/// How many rows a terminal has room for: two lines of sentence, the head, what is left out, an empty
/// line, and the cursor's.
fn fitting(terminal: u16) -> usize {
    usize::from(terminal).saturating_sub(6).max(1)
}

/// A line of JSON for each.
fn print_stores(stores: &[Store], printed: &mut u64) -> std::io::Result<()> {
    if stores.is_empty() {
        return Ok(());
    }
    let mut text = String::new();
    for store in stores {
        *printed += 1;
        text += &(Line::Write { n: *printed, store: store.into() }.json() + "\n");
    }
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

fn print_json(report: &Report, denied: Option<&Explained>) {
    if let Some(denied) = denied {
        print(&(Line::Denied(denied.fields()).json() + "\n"));
    }
    print(&(Line::Summary(report).json() + "\n"));
}

/// Looks at the instruction and the memory of a store that was denied. The guest stands still.
fn explain<F: WalkedFormat>(board: &Board<F>, denied: Denied) -> Explained {
    let mut memory = vec![0; denied.store.bytes().len()];
    // A store that a map forbids is in RAM, and so is its instruction.
    let _ = board.memory().read_slice(&mut memory, GuestAddress(denied.store.gpa));
    let word = word(board, denied.store.pc).unwrap_or_default();
    let instruction = instruction::text(word);
    Explained { denied, word, length: INSTRUCTION_BYTES, instruction, memory }
}

fn word<F: WalkedFormat>(board: &Board<F>, pc: u64) -> Option<u32> {
    board.memory().read_obj(GuestAddress(pc)).ok().map(u32::from_le)
}

fn disassembled<F: WalkedFormat>(board: &Board<F>, pc: u64) -> Option<String> {
    word(board, pc).and_then(instruction::text)
}
