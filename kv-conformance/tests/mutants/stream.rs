//! Event streams with a fault.

use std::collections::VecDeque;
use std::task::Poll;
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _, poll, stream};
use kv_core::backend::{Backend as _, EventStream};
use kv_core::{Error, Event, EventType, Result};
use kv_memory::MemoryBackend;
use tokio::sync::mpsc;

use crate::fault::Fault;

type Item = Result<Event>;

/// Puts a fault of streams into the events.
pub(crate) fn faulty(fault: Fault, events: EventStream) -> EventStream {
    match fault {
        Fault::EventTypeWrong => changed(events, |event| {
            if event.event_type == EventType::Update {
                event.event_type = EventType::Create;
            }
        }),
        Fault::EventIndexWrong => changed(events, |event| event.index += 1),
        Fault::DeletionWithData => changed(events, |event| {
            if event.event_type == EventType::Delete {
                event.data = "what it was".into();
            }
        }),
        Fault::EventMissing => events
            .enumerate()
            .filter_map(|(number, item)| std::future::ready((number % 5 != 3).then_some(item)))
            .boxed(),
        Fault::EventRepeated => events
            .enumerate()
            .flat_map(|(number, item)| {
                let again = item.as_ref().ok().filter(|_| number % 5 == 3).cloned().map(Ok);
                stream::iter(std::iter::once(item).chain(again))
            })
            .boxed(),
        Fault::WatchEndsSilently => events.take(5).boxed(),
        Fault::LargeCommitEndsWatch => ended_by_large_commits(events),
        Fault::CompactedSaysFirst => events
            .map(|item| match item {
                Err(Error::Compacted { oldest, .. }) => Err(Error::Compacted { after: 1, oldest }),
                item => item,
            })
            .boxed(),
        Fault::LossIsSilent => events
            .filter(|item| std::future::ready(!matches!(item, Err(Error::Compacted { .. }))))
            .chain(stream::pending())
            .boxed(),
        Fault::EventsSwapped | Fault::RecreationMerged | Fault::LastStateWithheld => in_pairs(fault, events),
        _ => events,
    }
}

fn changed(events: EventStream, change: impl Fn(&mut Event) + Send + 'static) -> EventStream {
    let apply = move |mut item: Item| {
        if let Ok(event) = &mut item {
            change(event);
        }
        item
    };
    events.map(apply).boxed()
}

/// A watch that ends when one index has more events than a small history holds.
fn ended_by_large_commits(events: EventStream) -> EventStream {
    const MOST: u32 = 10_000;
    let count = |(index, count): &mut (u64, u32), item: Item| {
        if let Ok(event) = &item {
            *count = if *index == event.index { *count + 1 } else { 1 };
            *index = event.index;
        }
        let after = *index;
        let too_many = *count > MOST;
        std::future::ready(Some(if too_many { Err(Error::Compacted { after, oldest: None }) } else { item }))
    };
    events.scan((0, 0), count).boxed()
}

/// Handles each event together with the next one, if that has arrived.
fn in_pairs(fault: Fault, events: EventStream) -> EventStream {
    let next = move |(mut events, mut ready): (EventStream, VecDeque<Item>)| async move {
        loop {
            if let Some(item) = ready.pop_front() {
                return Some((item, (events, ready)));
            }
            let first = events.next().await?;
            // Gives a writer time for one more write.
            tokio::time::sleep(Duration::from_millis(1)).await;
            let second = match poll!(events.next()) {
                Poll::Ready(second) => second,
                Poll::Pending => None,
            };
            match (first, second) {
                (Ok(first), Some(Ok(second))) if fault == Fault::EventsSwapped => {
                    ready.extend([Ok(second), Ok(first)]);
                }
                (Ok(first), Some(Ok(mut second)))
                    if fault == Fault::RecreationMerged
                        && first.event_type == EventType::Delete
                        && first.key == second.key =>
                {
                    second.event_type = EventType::Update;
                    ready.push_back(Ok(second));
                }
                // The second of two writes of a key is mistaken for a repetition of the first.
                (Ok(first), Some(Ok(second))) if fault == Fault::LastStateWithheld && first.key == second.key => {
                    ready.push_back(Ok(first));
                }
                (first, second) => {
                    ready.push_back(first);
                    ready.extend(second);
                }
            }
        }
    };
    stream::unfold((events, VecDeque::new()), next).boxed()
}

/// A watch that is opened only when it is first read.
pub(crate) fn starts_late(store: MemoryBackend, prefix: String, after: u64) -> EventStream {
    async move {
        match store.watch(&prefix, after).await {
            Ok(events) => events,
            Err(error) => stream::once(std::future::ready(Err(error))).boxed(),
        }
    }
    .into_stream()
    .flatten()
    .boxed()
}

/// A watch that reopens itself after every third event, from the state at that time.
pub(crate) fn reconnecting(store: MemoryBackend, prefix: String, events: EventStream) -> EventStream {
    let next = move |(mut events, read): (EventStream, u32)| {
        let (store, prefix) = (store.clone(), prefix.clone());
        async move {
            let item = events.next().await?;
            if read % 3 == 2 {
                events = store.watch(&prefix, 0).await.ok()?;
            }
            Some((item, (events, read + 1)))
        }
    };
    stream::unfold((events, 0), next).boxed()
}

/// A watch with a short queue, and the sender that shows when it is full.
pub(crate) fn queued(mut events: EventStream) -> (mpsc::WeakSender<Item>, EventStream) {
    let (sender, mut receiver) = mpsc::channel(16);
    let weak = sender.downgrade();
    tokio::spawn(async move {
        while let Some(item) = events.next().await {
            if sender.send(item).await.is_err() {
                return;
            }
        }
    });
    (weak, stream::poll_fn(move |cx| receiver.poll_recv(cx)).boxed())
}
