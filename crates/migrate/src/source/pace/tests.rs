use super::*;

fn round(sent: u64, zero: u64, millis: u64) -> Round {
    Round { sent, zero, dirty: sent + zero, time: Duration::from_millis(millis), bytes: 0 }
}

#[test]
fn the_guest_is_paused_when_the_rest_fits() {
    let mut pace = Pace::default();
    pace.learn(&round(1000, 9000, 1000));
    assert_eq!(pace.stop(101, Duration::from_millis(100)), None);
    assert_eq!(pace.stop(100, Duration::from_millis(100)), Some(Stop::Fits));
    assert_eq!(pace.stop(0, Duration::ZERO), Some(Stop::Fits));
}

#[test]
fn three_rounds_without_progress_are_enough() {
    let mut pace = Pace::default();
    pace.learn(&round(1000, 0, 1000));
    let stops = [500, 460, 700, 500].map(|dirty| pace.stop(dirty, Duration::ZERO));
    assert_eq!(stops, [None, None, None, Some(Stop::NoProgress)]);
}

#[test]
fn progress_starts_the_count_anew() {
    let mut pace = Pace::default();
    pace.learn(&round(1000, 0, 1000));
    let dirty = [500, 500, 500, 400, 400, 400, 400];
    let stops = dirty.map(|dirty| pace.stop(dirty, Duration::ZERO));
    assert_eq!(stops[..6], [None; 6]);
    assert_eq!(stops[6], Some(Stop::NoProgress));
}

#[test]
fn thirty_rounds_are_enough() {
    let mut pace = Pace::default();
    let mut dirty = 1 << 40;
    for made in 1.. {
        pace.learn(&round(1000, 0, 1000));
        dirty = dirty * 8 / 10;
        match pace.stop(dirty, Duration::ZERO) {
            None => assert!(made < MOST_ROUNDS),
            Some(stop) => {
                assert_eq!((stop, made), (Stop::TooManyRounds, MOST_ROUNDS));
                break;
            }
        }
    }
}

#[test]
fn a_guest_of_zeros_has_a_rate_too() {
    let mut pace = Pace::default();
    pace.learn(&round(0, 10_000, 100));
    assert_eq!(pace.stop(1000, Duration::from_millis(10)), Some(Stop::Fits));
    assert_eq!(pace.stop(1001, Duration::from_millis(10)), None);
}
