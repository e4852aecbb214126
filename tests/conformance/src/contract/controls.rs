//! The scenes' negative controls: a scene that does not object to what it is there to find shows nothing.

use super::{
    DevicesLog, Others, a_devices_write_is_in, a_log_that_is_off_says_so,
    a_round_has_each_page_that_changed_and_no_other, a_set_over_another_layout_is_refused,
    a_start_begins_anew, a_store_before_the_protection_is_not_lost, on, rounds_that_fail,
    start_union, starts_anew, sulking_union, what_is_owed_comes_back_once,
};
use crate::backend::{Backend, Begins, Guest};
use crate::breaking::{Broken, BrokenSource, Wrong};
use std::panic::{AssertUnwindSafe, catch_unwind};
use vellum_memory::Sources;

type Scene<B> = fn(&Broken<B>);

/// What each scene has to find.
fn breaks<B: Backend>() -> [(Scene<B>, Wrong); 10] {
    [
        (a_log_that_is_off_says_so, Wrong::NeverRefuses),
        (a_set_over_another_layout_is_refused, Wrong::NeverRefuses),
        (a_set_over_another_layout_is_refused, Wrong::LosesWhatItRefuses),
        (a_round_has_each_page_that_changed_and_no_other, Wrong::DropsAPage),
        (a_round_has_each_page_that_changed_and_no_other, Wrong::NamesTwice),
        (a_store_before_the_protection_is_not_lost, Wrong::ProtectsTheUntaken),
        (what_is_owed_comes_back_once, Wrong::ForgetsTheOwed),
        (what_is_owed_comes_back_once, Wrong::OwesForever),
        (a_start_begins_anew, Wrong::KeepsAcrossAStart),
        (a_start_begins_anew, Wrong::FallsSilent(1)),
    ]
}

/// Each scene of [`all`](super::all) objects to a log that does what the scene says no log does; of a
/// union's, see [`a_union_without_the_devices_log_is_found`] too.
///
/// # Panics
/// A scene does not. The same below.
pub fn each_scene_finds_its_break<B: Backend + Copy>(sound: &B)
where
    for<'g> <B::Guest as Guest>::Source<'g>: Send,
{
    for (scene, wrong) in breaks::<B>() {
        // The first round of a log that begins all set has what was kept anyway.
        if (sound.begins(), wrong) != (Begins::AllSet, Wrong::KeepsAcrossAStart) {
            let backend = Broken { sound: *sound, wrong };
            objects(&backend.name(), || scene(&backend));
        }
    }
    objects(&sound.name(), || a_round_that_failed_is_forgotten(sound));
    if sound.begins() != Begins::AllSet {
        objects(&sound.name(), || a_union_keeps_what_it_had(sound));
    }
}

/// Nothing but the device's log has what the device writes: without it the scene objects. Only for
/// backends whose own log does not see the memory that devices write through.
pub fn a_union_without_the_devices_log_is_found<B: Backend>(sound: &B)
where
    for<'g> <B::Guest as Guest>::Source<'g>: Send,
{
    objects(&sound.name(), || a_devices_write_is_in(sound, DevicesLog::StaysAway));
}

fn a_round_that_failed_is_forgotten<B: Backend>(sound: &B)
where
    for<'g> <B::Guest as Guest>::Source<'g>: Send,
{
    on(sound, |stage, source, who| {
        let union = sulking_union(source);
        let mut union = BrokenSource::new(union, Wrong::LosesWhatFailed, stage.guest);
        start_union(sound, &mut union);
        rounds_that_fail(stage, &mut union, who);
    });
}

fn a_union_keeps_what_it_had<B: Backend>(sound: &B)
where
    for<'g> <B::Guest as Guest>::Source<'g>: Send,
{
    on(sound, |stage, source, who| {
        let mut union = Sources::new(source).expect("memory");
        let others = Others::of(stage, &mut union);
        let mut union = BrokenSource::new(union, Wrong::KeepsAcrossAStart, stage.guest);
        starts_anew(sound, stage, &others, &mut union, who);
    });
}

/// The scene panics with a message that begins with who is objected to: no other panic is an objection.
fn objects(who: &str, scene: impl FnOnce()) {
    let panic = catch_unwind(AssertUnwindSafe(scene)).expect_err(who);
    let said = panic.downcast_ref::<String>().expect("a panic that says something");
    assert!(said.contains(who), "not an objection to {who}: {said}");
}
