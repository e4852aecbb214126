//! Either process killed at random moments.
