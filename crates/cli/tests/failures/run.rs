//! One run: a failure strikes, and both sides' words are held against the rules.

use super::chance::Chance;
use super::fault::{Fault, Side};
use super::phase::Phase;
use super::proxy::{Blow, News, Plan};
use super::scene::{Scene, Word, fits, is_impatience, is_in_time};
use crate::session::{Session, code, run};
use serde_json::Value;
use std::time::Duration;

/// How often a run is begun again whose failure found nothing to strike any more.
const TRIES: u64 = 20;

/// About as many messages as a migration has, both ways together.
const MESSAGES: usize = 30;

/// The longest wait from a message to a moment between it and another.
const BETWEEN: Duration = Duration::from_millis(4);

/// One run of one cell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    pub(crate) phase: Phase,
    pub(crate) fault: Fault,
    /// Decides everything that is left to chance.
    pub(crate) seed: u64,
    /// A deliberate bug of the source.
    pub(crate) broken: Option<&'static str>,
    pub(crate) runs: Runs,
}

/// What runs the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Runs {
    /// The machine in software.
    Software,
    /// `/dev/kvm`.
    Natively,
}

/// Where the guest was found.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Found {
    /// At the source, which gave it to a destination at the next attempt.
    Here,
    /// There as well; the destination's process had died of what befell it.
    Outlived,
    /// At the source, which did not know until it had asked the destination.
    Asked,
    /// At the source, which did not know until a person had said so.
    Told,
    /// At the destination.
    There,
    /// Nowhere: it went with a process that was killed or told to end while it held the guest.
    Gone,
}

/// What a run came to that broke a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Wrong {
    pub(crate) rule: Rule,
    /// What was seen.
    pub(crate) seen: String,
}

/// The rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rule {
    /// The guest finds every page as it left it.
    NoPageLost,
    /// Never two guests.
    NeverTwo,
    /// Never none, unless it went with a process that was ended.
    NeverNone,
    /// Nobody loses patience but with who is silent.
    Patience,
    /// All else: statuses, sockets, what is said and when.
    Manners,
}

impl Wrong {
    pub(crate) fn page_lost(what: &str, who: &Session) -> Self {
        Self::of(Rule::NoPageLost, what, who)
    }

    pub(crate) fn two(what: &str, who: &Session) -> Self {
        Self::of(Rule::NeverTwo, what, who)
    }

    pub(crate) fn nobody(what: &str, who: &Session) -> Self {
        Self::of(Rule::NeverNone, what, who)
    }

    pub(crate) fn other(what: &str, who: &Session) -> Self {
        Self::of(Rule::Manners, what, who)
    }

    /// With what the process said last.
    fn of(rule: Rule, what: &str, who: &Session) -> Self {
        let last: Vec<String> = who.seen().iter().rev().take(12).map(Value::to_string).collect();
        let last: Vec<String> = last.into_iter().rev().collect();
        Self { rule, seen: format!("{what}, after {}", last.join(" ")) }
    }
}

impl Job {
    /// Nothing else has this name while it runs.
    pub(crate) fn name(&self) -> String {
        let name = format!("{:?}-{:?}-{}-{:?}", self.phase, self.fault, self.seed, self.runs);
        name.replace(['(', ')'], "")
    }

    /// Runs take turns in what does not matter to the rules.
    pub(crate) fn tables(&self) -> [&'static str; 6] {
        let turn = |turn: u64, of: u64| usize::try_from(turn % of).unwrap_or_default();
        let page_size = ["4k", "2m"][turn(self.seed, 2)];
        if self.runs == Runs::Natively {
            let track = ["per-page", "manual", "ring"][turn(self.seed + self.phase as u64, 3)];
            return ["--machine", "kvm", "--track", track, "--page-size", page_size];
        }
        let format = ["ept", "npt", "stage2"][turn(self.seed, 3)];
        let track = ["per-page", "protect-all", "manual", "dbit", "ring"];
        let track = track[turn(self.seed + self.seed / 3 + self.phase as u64, 5)];
        ["--format", format, "--track", track, "--page-size", page_size]
    }

    fn chance(&self) -> Chance {
        let salt =
            self.name().bytes().fold(0, |sum: u64, byte| sum * 31 % 1_000_003 + u64::from(byte));
        Chance::new(self.seed << 20 | salt)
    }

    fn plan(&self, chance: &mut Chance) -> Plan {
        let way = chance.pick(&self.fault.struck_ways(self.phase));
        let nth = match (self.phase, self.fault) {
            // Later it has what it needs for messages.
            (Phase::AnyMoment, _) | (Phase::First, Fault::OutOfMemory) => 0,
            _ => chance.below(8),
        };
        Plan { phase: self.phase, way, nth, blow: self.fault.blow(), chance: chance.clone() }
    }
}

/// Runs it, until the failure has really struck and the machine was not too busy for anybody's
/// patience.
pub(crate) fn one(job: &Job) -> Result<Found, Wrong> {
    let seen = format!("{:?} never came to pass in {TRIES} migrations", job.phase);
    let mut last = Wrong { rule: Rule::Manners, seen };
    for another in 0..TRIES {
        // Far from the seeds of other runs.
        let job = Job { seed: job.seed + another * 1_000_000, ..*job };
        match strike(&job) {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            Err(wrong) if wrong.rule == Rule::Patience => last = wrong,
            Err(wrong) => return Err(wrong),
        }
    }
    Err(last)
}

/// `None` if the migration was over before anything could strike.
fn strike(job: &Job) -> Result<Option<Found>, Wrong> {
    let mut chance = job.chance();
    let mut scene = Scene::start(job, job.plan(&mut chance));
    let struck = match job.phase {
        Phase::AnyMoment => at_any_moment(job, &mut scene, &mut chance),
        _ => at_its_phase(job, &mut scene, &mut chance),
    };
    let found = match struck {
        News::Struck => settle(job, &mut scene)?,
        _ => return undisturbed(job, &mut scene).map(|()| None),
    };
    Ok(Some(found))
}

/// Nothing struck: the guest moves as if nothing had been planned.
fn undisturbed(job: &Job, scene: &mut Scene) -> Result<(), Wrong> {
    scene.open();
    succeeds(job, scene)?;
    scene.destination.dismiss(0)
}

fn at_its_phase(job: &Job, scene: &mut Scene, chance: &mut Chance) -> News {
    let news = scene.proxy.await_strike();
    if news == News::Struck {
        befall(job, scene, chance);
        scene.proxy.release();
    }
    news
}

fn at_any_moment(job: &Job, scene: &mut Scene, chance: &mut Chance) -> News {
    scene.proxy.await_messages(chance.below(MESSAGES));
    std::thread::sleep(BETWEEN.mul_f64(chance.below(1000) as f64 / 1000.0));
    if job.fault.blow() != Blow::Hold {
        scene.proxy.arm();
        return scene.proxy.await_strike();
    }
    let news = scene.proxy.close();
    if news == News::Struck {
        befall(job, scene, chance);
    }
    news
}

/// What happens to a process.
fn befall(job: &Job, scene: &mut Scene, chance: &mut Chance) {
    match job.fault {
        Fault::Kill(side) => {
            let session = scene.process(side);
            session.kill();
            session.drain();
            session.end();
        }
        Fault::Stop(side) => scene.process(side).stop(),
        Fault::Interrupt(side) => scene.process(side).interrupt(),
        Fault::OutOfMemory => {
            // While it prepares, it may come to different lengths; later it wants little.
            let more = if job.phase == Phase::Greet { chance.below(40 << 20) as u64 } else { 0 };
            scene.destination.session.limit_memory(more);
        }
        _ => {}
    }
}

/// What the two sides make of it.
fn settle(job: &Job, scene: &mut Scene) -> Result<Found, Wrong> {
    match job.fault {
        Fault::Kill(Side::Source) => source_killed(scene),
        Fault::Interrupt(Side::Source) => source_interrupted(job, scene),
        Fault::Stop(Side::Source) => {
            // It notices while the source still stands.
            scene.destination.first_word();
            scene.source.go_on();
            source_lives(job, scene)
        }
        _ => source_lives(job, scene),
    }
}

/// The source is gone: the destination has the guest, or the source had it to the end.
fn source_killed(scene: &mut Scene) -> Result<Found, Wrong> {
    match (scene.destination.first_word(), scene.source.said("handed-over")) {
        (Word::Refused, false) => serves_the_next(scene).map(|()| Found::Gone),
        _ => stays_there(scene),
    }
}

/// The source was told to end: it ends, and says where the guest is.
fn source_interrupted(job: &Job, scene: &mut Scene) -> Result<Found, Wrong> {
    scene.open();
    let mut said = String::new();
    while let Some(event) = scene.source_says() {
        said = fitting(job, &event, &scene.source)?;
    }
    match (said.as_str(), scene.source.end().code()) {
        ("handed-over", Some(0)) => stays_there(scene),
        ("runs-on", Some(1)) => {
            must_be_refused(scene)?;
            serves_the_next(scene).map(|()| Found::Gone)
        }
        (_, status) => {
            Err(Wrong::other(&format!("the source ended with {status:?}"), &scene.source))
        }
    }
}

/// The source is there to say where the guest is.
fn source_lives(job: &Job, scene: &mut Scene) -> Result<Found, Wrong> {
    let said = says(job, scene)?;
    if job.fault == Fault::Stop(Side::Destination) {
        scene.destination.session.go_on();
    }
    match said.as_str() {
        "handed-over" => handed_over(job, scene),
        "runs-on" => {
            let died =
                !job.fault.ends_destination() && scene.destination.first_word() == Word::Died;
            stays_here(job, scene).map(|()| if died { Found::Outlived } else { Found::Here })
        }
        _ => unknown(job, scene),
    }
}

/// The source does not know. Where the destination lives it asks; else a person decides.
fn unknown(job: &Job, scene: &mut Scene) -> Result<Found, Wrong> {
    must_be_paused(&scene.source)?;
    if scene.destination.first_word() == Word::Died || job.fault == Fault::Kill(Side::Destination) {
        let pid = scene.source.pid().to_string();
        assert_eq!(code(&run(&["migrate", "--resume", &pid])), 0, "it waits for a person");
        scene.source.until("runs-on");
        return moves_on(job, scene).map(|()| Found::Told);
    }
    scene.open();
    match says(job, scene)?.as_str() {
        "handed-over" => handed_over(job, scene),
        _ => stays_here(job, scene).map(|()| Found::Asked),
    }
}

/// What the source says next of the guest.
fn says(job: &Job, scene: &mut Scene) -> Result<String, Wrong> {
    match scene.source_says() {
        Some(event) => fitting(job, &event, &scene.source),
        None => Err(Wrong::nobody("the source ended", &scene.source)),
    }
}

/// The event's name. A failure is named for what it is, and not before it has happened.
fn fitting(job: &Job, event: &Value, source: &Session) -> Result<String, Wrong> {
    let reason = event["reason"].as_str();
    if reason.is_some_and(differs) && !matches!(job.fault, Fault::Garble(_)) {
        return Err(Wrong::page_lost("the digests differ", source));
    }
    if reason.is_some_and(|reason| !fits(job.fault, reason)) {
        return Err(Wrong::of(Rule::Patience, "nobody was silent", source));
    }
    if reason.is_some_and(|reason| !is_in_time(job.phase, job.fault, reason)) {
        return Err(Wrong::other("that has not happened yet", source));
    }
    Ok(event["event"].as_str().unwrap_or_default().to_owned())
}

/// Whether the digests were found to differ.
fn differs(reason: &str) -> bool {
    reason.contains("different memory")
}

/// The source says that the destination has the guest.
fn handed_over(job: &Job, scene: &mut Scene) -> Result<Found, Wrong> {
    must_end_well(scene)?;
    if !job.fault.ends_destination() || scene.destination.first_word() != Word::Running {
        return stays_there(scene);
    }
    must_be_paused(&scene.source)?;
    match job.fault {
        Fault::Interrupt(_) => scene.destination.must_end(0).map(|()| Found::Gone),
        _ => Ok(Found::Gone),
    }
}

/// The guest that arrived finds all of its memory right, and is ended there.
fn stays_there(scene: &mut Scene) -> Result<Found, Wrong> {
    must_be_paused(&scene.source)?;
    if scene.destination.first_word() != Word::Running {
        return Err(Wrong::nobody("it was given to nobody", &scene.destination.session));
    }
    scene.destination.verify()?;
    scene.destination.dismiss(0).map(|()| Found::There)
}

/// The guest runs on at the source alone, and succeeds in moving at the next attempt.
fn stays_here(job: &Job, scene: &mut Scene) -> Result<(), Wrong> {
    must_be_refused(scene)?;
    moves_on(job, scene)
}

/// The destination does not run the guest that the source has.
fn must_be_refused(scene: &mut Scene) -> Result<(), Wrong> {
    match scene.destination.first_word() {
        Word::Running => Err(Wrong::two("both run it", &scene.destination.session)),
        Word::Refused | Word::Died => Ok(()),
    }
}

/// The guest that stayed is given to the next destination, and finds its memory right there.
fn moves_on(job: &Job, scene: &mut Scene) -> Result<(), Wrong> {
    match job.fault {
        Fault::Kill(_) => scene.replace_destination(),
        Fault::Interrupt(_) => {
            scene.destination.must_end(1)?;
            scene.replace_destination();
        }
        Fault::OutOfMemory => {
            scene.destination.session.kill();
            scene.replace_destination();
        }
        // The one that failed takes it, or another does.
        _ if job.seed.is_multiple_of(2) => {}
        _ => {
            scene.destination.dismiss(1)?;
            scene.replace_destination();
        }
    }
    scene.open();
    succeeds(job, scene)?;
    scene.destination.dismiss(0)
}

/// The next attempt succeeds. Where silence is borne for a second only, a busy machine may take
/// more than one.
fn succeeds(job: &Job, scene: &mut Scene) -> Result<(), Wrong> {
    while let Some(event) = scene.source_says() {
        let reason = event["reason"].as_str().unwrap_or_default();
        match event["event"].as_str() {
            Some("handed-over") => {
                must_end_well(scene)?;
                must_be_paused(&scene.source)?;
                while scene.destination.next_word() == Word::Refused {}
                return scene.destination.verify();
            }
            _ if differs(reason) => {
                return Err(Wrong::page_lost("the next attempt loses pages", &scene.source));
            }
            _ if job.fault.is_silent() && is_impatience(reason) => {}
            _ => return Err(Wrong::other("the next attempt fails", &scene.source)),
        }
    }
    Err(Wrong::nobody("the source ended", &scene.source))
}

/// A destination that lost a source takes the next one's guest.
fn serves_the_next(scene: &mut Scene) -> Result<(), Wrong> {
    let mut next = scene.another_source();
    if scene.destination.next_word() != Word::Running {
        return Err(Wrong::other("the next guest is refused", &scene.destination.session));
    }
    scene.destination.verify()?;
    next.until("handed-over");
    scene.destination.dismiss(0)
}

/// The source does not run its guest.
fn must_be_paused(source: &Session) -> Result<(), Wrong> {
    if source.position("paused") > source.position("running") {
        Ok(())
    } else {
        Err(Wrong::two("the source runs it too", source))
    }
}

fn must_end_well(scene: &mut Scene) -> Result<(), Wrong> {
    scene.source.drain();
    let status = scene.source.end();
    if status.success() {
        Ok(())
    } else {
        Err(Wrong::other(&format!("the source ended with {status}"), &scene.source))
    }
}
