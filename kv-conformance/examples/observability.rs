//! Spans and events of the library, as log lines and as metrics.
//!
//! ```text
//! cargo run --example observability [ADDRESS]
//! ```
//!
//! The names are in the rustdoc of `kv_core::observability`. [`Meter`] is all that a metrics library needs, because it
//! uses the spans as they are. Stop the server while this runs to see the warning `reconnecting`.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kv_core::{Kv, Result, Value};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use kv_consul as _;
use kv_etcd as _;
use kv_memory as _;

/// Counts calls by operation and outcome, and warnings.
#[derive(Clone, Default)]
struct Meter(Arc<Mutex<Numbers>>);

#[derive(Default)]
struct Numbers {
    calls: BTreeMap<(String, String), (u32, Duration)>,
    warnings: u32,
}

/// A call in flight.
struct Call {
    began: Instant,
    operation: String,
    outcome: String,
}

impl Visit for Call {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "operation" => value.clone_into(&mut self.operation),
            "outcome" => value.clone_into(&mut self.outcome),
            _ => {}
        }
    }

    fn record_debug(&mut self, _field: &Field, _value: &dyn Debug) {}
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Meter {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id).filter(|span| span.name() == "kv") {
            // Without a recorded outcome, the caller gave the call up.
            let mut call = Call { began: Instant::now(), operation: String::new(), outcome: "given up".to_owned() };
            attributes.record(&mut call);
            span.extensions_mut().insert(call);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(call) = span.extensions_mut().get_mut::<Call>() {
            values.record(call);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        if let Some(call) = context.span(&id).and_then(|span| span.extensions_mut().remove::<Call>()) {
            let mut numbers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let (count, time) = numbers.calls.entry((call.operation, call.outcome)).or_default();
            (*count, *time) = (*count + 1, *time + call.began.elapsed());
        }
    }

    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        if *event.metadata().level() == Level::WARN && event.metadata().target() == "kv_core" {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).warnings += 1;
        }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let meter = Meter::default();
    let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_filter(LevelFilter::INFO);
    tracing_subscriber::registry().with(meter.clone()).with(lines).init();

    let address = std::env::args().nth(1).unwrap_or_else(|| "memory://".to_owned());
    let kv = kv_core::connect(&address).await?.scoped(&format!("observability-{}", std::process::id()))?;
    work(&kv).await?;
    kv.delete_tree("").await?;
    kv.close().await?;

    let numbers = meter.0.lock().unwrap_or_else(PoisonError::into_inner);
    for ((operation, outcome), (count, time)) in &numbers.calls {
        println!("{operation:14} {outcome:10} {count:3} in {time:?}");
    }
    println!("warnings: {}", numbers.warnings);
    Ok(())
}

async fn work(kv: &Kv) -> Result<()> {
    let index = kv.set("key", "1").await?;
    kv.update("key", Value::new("2", index)).await?;
    assert!(kv.update("key", Value::new("3", index)).await.is_err_and(|error| error.is_conflict()));
    assert!(kv.get("none").await.is_err_and(|error| error.is_key_not_found()));
    let member = kv.ephemeral_key("member", kv.limits().min_ttl.max(Duration::from_secs(10))).await?;
    // Another client removes it. A warning reports the loss, and the caller gets an error.
    kv.delete("member").await?;
    assert!(member.renew().await.is_err_and(|error| error.is_lost()));
    Ok(())
}
