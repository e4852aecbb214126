//! What only this crate can try: a guest at another level, and states that are not whole.

mod features;
mod hostile;
mod moved;
mod natively;
#[path = "../tests/native/presence.rs"]
mod presence;
#[path = "../tests/native/waiting.rs"]
mod waiting;

use waiting::{until_ended, until_more, until_passes, wait};
