//! What happens on either side, step by step: for the eye, or as lines of JSON.

use crate::machine::Life;
use serde::{Deserialize, Serialize};

/// One step of one side.
///
/// A side says [`Running`](Event::Running) *before* its guest runs and [`Paused`](Event::Paused)
/// *after* it has stopped, so that two sides that both claim to run are caught in any order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Event {
    /// The destination accepts a connection.
    Listening {
        /// Where; a port of 0 has become the real one.
        address: String,
    },
    /// A guest is about to run here.
    Running,
    /// A migration begins.
    Connected,
    /// How the guest's writes are tracked, and why so.
    Tracking {
        /// The way.
        method: String,
        /// One sentence.
        why: String,
    },
    /// A round is under way.
    Copying {
        /// Which, from 1.
        round: u32,
        /// Pages dealt with.
        done: u64,
        /// Pages to deal with.
        of: u64,
    },
    /// A round is over.
    Round {
        /// Which, from 1.
        round: u32,
        /// Pages found dirty.
        dirty: u64,
    },
    /// The guest has stopped here.
    Paused,
    /// The guest is being given over: from here on it may run there.
    HandingOver,
    /// The destination has the guest.
    HandedOver,
    /// The migration failed and the guest runs on here.
    RunsOn {
        /// Why it failed.
        reason: String,
    },
    /// Nobody knows who has the guest: it is paused here.
    Unknown {
        /// Why.
        reason: String,
    },
    /// What the guest has done here since it arrived.
    Progress(Life),
    /// The guest wrote to its console.
    Console {
        /// What.
        text: String,
    },
    /// The guest has ended here.
    Ended {
        /// How.
        how: Ended,
        /// Why.
        reason: String,
    },
    /// The guest did not arrive.
    Refused {
        /// Why.
        reason: String,
    },
}

/// How a guest ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ended {
    /// It shut itself down, content.
    ShutDown,
    /// It found something wrong, or could not go on.
    Failed,
    /// Somebody asked it to end.
    Asked,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Work;

    #[test]
    fn progress_names_what_was_counted() {
        let event = Event::Progress(Life { work: Work::Retired(vec![5, 6]), passes: vec![1, 2] });
        let text = serde_json::to_string(&event).expect("it is JSON");
        assert_eq!(text, r#"{"event":"progress","retired":[5,6],"passes":[1,2]}"#);
        assert_eq!(serde_json::from_str::<Event>(&text).ok(), Some(event));
    }

    #[test]
    fn an_event_is_one_line_and_reads_back() {
        let event = Event::Ended { how: Ended::Failed, reason: "two\nlines".to_owned() };
        let text = serde_json::to_string(&event).expect("it is JSON");
        assert_eq!(text.lines().count(), 1);
        assert_eq!(serde_json::from_str::<Event>(&text).ok(), Some(event));
    }
}
