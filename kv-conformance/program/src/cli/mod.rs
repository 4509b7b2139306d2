//! The program's commands, one file each.

use std::fmt::Display;
use std::process::ExitCode;
use std::time::Duration;

pub(crate) mod bench;
pub(crate) mod growth;
pub(crate) mod judge;
mod start;
pub(crate) mod suite;

/// Prints why a command failed.
fn fail(why: impl Display) -> ExitCode {
    eprintln!("{why}");
    ExitCode::FAILURE
}

/// Reads an argument that is a number of seconds.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
