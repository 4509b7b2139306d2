//! Measures how the cost of an operation grows with the number of keys, watches or waiters.

mod line;
mod subject;

use std::hash::{BuildHasher as _, RandomState};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use kv_conformance::Fixture as _;
use kv_core::{Kv, Result};

use super::start::start;
use super::{fail, seconds};
use line::Line;
use subject::Subject;

/// Prints how the cost of operations grows, as a table with an exponent for each: with 0 the cost stays the same, with
/// 1 it doubles with the size.
///
/// The keys are in a directory of their own, which is removed afterwards.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The stores, such as `etcd://127.0.0.1:2379` or `memory://`, measured one after the other.
    #[arg(value_name = "ADDRESS", required_unless_present = "start")]
    addresses: Vec<String>,
    /// Starts a server in Docker and measures it: `etcd` or `consul`, or with an image, as in `etcd=kv-etcd:3.4.23`.
    /// May be given more than once.
    #[arg(long, value_name = "STORE[=IMAGE]")]
    start: Vec<String>,
    /// Measures only the lines whose operations contain this text.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// How long each operation is repeated at each size, at least; the median counts.
    #[arg(long, value_name = "SECONDS", default_value = "0.5", value_parser = seconds)]
    duration: Duration,
}

/// Measures every store. A failed measurement is a dash in the table, with the reason on standard error.
pub(crate) async fn run(arguments: Arguments) -> ExitCode {
    println!("{}", Line::HEADER);
    for address in &arguments.addresses {
        match kv_core::connect(address).await {
            Ok(kv) => arguments.measure(&kv).await,
            Err(error) => return fail(format_args!("a store cannot be measured: {error}")),
        }
    }
    for store in &arguments.start {
        let server = match start(store, 1).await {
            Ok(server) => server,
            Err(error) => return fail(format_args!("{store} cannot be started: {error}")),
        };
        match server.connect().await {
            Ok(kv) => arguments.measure(&kv).await,
            Err(error) => return fail(format_args!("{store} cannot be measured: {error}")),
        }
    }
    ExitCode::SUCCESS
}

impl Arguments {
    async fn measure(&self, kv: &Kv) {
        for subject in Subject::ALL {
            let name = subject.operation();
            if self.filter.as_ref().is_some_and(|text| !name.contains(text.as_str())) {
                continue;
            }
            let mut line = Line::new(kv.backend_name(), name, subject.unit());
            for size in subject.sizes() {
                match self.at_size(kv, *subject, *size).await {
                    Ok(time) => line.add(*size, Some(time)),
                    Err(error) => {
                        eprintln!("{name} of {} at {size} {}: {error}", kv.backend_name(), subject.unit());
                        line.add(*size, None);
                    }
                }
            }
            println!("{line}");
        }
    }

    /// Makes one measurement, in a directory of its own that is removed afterwards.
    async fn at_size(&self, kv: &Kv, subject: Subject, size: u32) -> Result<Duration> {
        let directory = format!("kv-growth-{:016x}", RandomState::new().hash_one(size));
        let time = subject.measure(&kv.scoped(&directory)?, size, self.duration).await;
        kv.delete_tree(&directory).await?;
        time
    }
}
