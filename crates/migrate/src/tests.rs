//! Whole migrations between threads, with a guest made for it.

mod failures;
mod hand_over;
mod hostile;
mod mock;
mod moves;
mod proxy;
