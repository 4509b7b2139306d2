//! One life of the watch stream: from its opening until it fails or is not needed.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, poll_fn};
use kv_core::Error;
use kv_core::backend::backoff::Recovery;
use kv_core::backend::fate::Idempotence;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;
use tonic::Code;

use super::entry::{Command, History, Watch, Watches};
use super::reassembly::Unfit;
use crate::api::messages::{
    RangeRequest, WATCH, WatchCancelRequest, WatchCommand, WatchCreateRequest, WatchRequest, WatchResponse,
};
use crate::api::range::{revision, signed};
use crate::error::{Failed, excerpt, is_stale_token};
use crate::transport::client::Client;

/// Why the stream ended.
pub(super) enum End {
    /// No watch needs the stream.
    Idle,
    /// The backend was dropped.
    Gone,
    /// The server refuses this user.
    Denied(String),
    /// A failure that may pass.
    Failed(String),
}

/// One life of the watch stream: the numbers of the watches at the server.
///
/// No number is used twice. So if a watch is stopped and started again, an answer to its first life is not mistaken for
/// one to its second.
struct WatchStream {
    requests: UnboundedSender<WatchRequest>,
    /// The hub's number of each confirmed watch, by the server's.
    ids: HashMap<i64, u64>,
    /// The server's number of each confirmed watch, by the hub's.
    numbers: HashMap<u64, i64>,
    /// The watches that the server has not confirmed yet, with the numbers requested. It confirms them in order.
    unconfirmed: VecDeque<(u64, i64)>,
    /// The watches that are not requested yet, because the server has to confirm another one first.
    waiting: VecDeque<u64>,
    numbering: Numbering,
    next_number: i64,
    /// Reads of the cluster's revision, for watches whose server is at an older revision than they are.
    verifying: FuturesUnordered<BoxFuture<'static, Verified>>,
}

/// The cluster's revision, for a watch whose server was behind what the watch has delivered.
struct Verified {
    id: u64,
    /// The revision of the server.
    behind: i64,
    /// The revision of the cluster, by a linearizable read.
    present: Result<i64, Failed>,
}

/// Which side numbers the watches.
///
/// etcd uses the numbers in the requests, and confirms watches in the order of the requests. `etcd grpc-proxy` does
/// neither. Through it only one watch is requested at a time, and the number in the answer counts. Until the first
/// answer it is unknown which of the two the server is.
#[derive(PartialEq, Eq)]
enum Numbering {
    Unknown,
    Ours,
    Theirs,
}

/// Opens a stream with all watches that are not stopped, and serves them until it ends.
pub(super) async fn run(
    client: &Arc<Client>,
    watches: &mut Watches,
    commands: &mut UnboundedReceiver<Command>,
    recovery: &mut Recovery,
) -> End {
    let (requests, mut receiver) = unbounded_channel();
    let mut watching = WatchStream {
        requests,
        ids: HashMap::new(),
        numbers: HashMap::new(),
        unconfirmed: VecDeque::new(),
        waiting: VecDeque::new(),
        numbering: Numbering::Unknown,
        next_number: 1,
        verifying: FuturesUnordered::new(),
    };
    for (id, watch) in watches.iter().filter(|(_, watch)| !watch.stopped) {
        watching.create(*id, watch);
    }
    // etcd answers the opening together with the first watch, so the first request is sent before.
    let opening = client.stream(WATCH, poll_fn(move |cx| receiver.poll_recv(cx)));
    let (connection, mut answers) = match timeout(client.config.timeout, opening).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(failed)) => return cannot_open(client, failed).await,
        Err(_elapsed) => return End::Failed("no answer in time".to_owned()),
    };
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(command) => watching.obey(watches, command),
                None => return End::Gone,
            },
            Some(verified) = watching.verifying.next() => {
                if let Err(end) = watching.verified(watches, verified) {
                    return end;
                }
            }
            answer = answers.message() => match answer {
                Ok(Some(answer)) => {
                    recovery.worked();
                    if let Err(end) = watching.take(client, watches, answer).await {
                        return end;
                    }
                }
                Ok(None) => {
                    client.abandon(&connection);
                    return End::Failed("the server ended it".to_owned());
                }
                Err(status) => {
                    client.abandon(&connection);
                    return cannot_open(client, Failed::stream(&connection.address, status)).await;
                }
            },
        }
        if watching.is_idle(watches) {
            return End::Idle;
        }
    }
}

impl WatchStream {
    /// Whether no watch on this stream has a consumer any more.
    fn is_idle(&self, watches: &Watches) -> bool {
        let mut coming = self.unconfirmed.iter().map(|(id, _)| id).chain(&self.waiting);
        self.numbers.is_empty() && self.verifying.is_empty() && !coming.any(|id| watches.contains_key(id))
    }

    fn create(&mut self, id: u64, watch: &Watch) {
        if self.numbering != Numbering::Ours && !self.unconfirmed.is_empty() {
            self.waiting.push_back(id);
            return;
        }
        let number = self.next_number;
        self.next_number += 1;
        self.unconfirmed.push_back((id, number));
        self.send(WatchCommand::Create(WatchCreateRequest {
            key: watch.range.key.clone(),
            range_end: watch.range.end.clone(),
            start_revision: watch.next,
            watch_id: number,
            fragment: true,
        }));
    }

    /// Handles the confirmation or the refusal of the oldest request; returns the hub's number of its watch.
    fn confirm(&mut self, watches: &Watches, answer: &WatchResponse) -> Option<u64> {
        let (id, number) = self.unconfirmed.pop_front()?;
        // The refusal of a watch may have no number.
        if !answer.canceled {
            self.numbering = if answer.watch_id == number { Numbering::Ours } else { Numbering::Theirs };
            if watches.contains_key(&id) {
                self.ids.insert(answer.watch_id, id);
                self.numbers.insert(id, answer.watch_id);
            } else {
                // The consumer closed it meanwhile.
                self.send(WatchCommand::Cancel(WatchCancelRequest { watch_id: answer.watch_id }));
            }
        }
        while self.numbering == Numbering::Ours || self.unconfirmed.is_empty() {
            let Some(next) = self.waiting.pop_front() else { break };
            if let Some(watch) = watches.get(&next) {
                self.create(next, watch);
            }
        }
        Some(id)
    }

    /// Cancels a watch at the server. One that is not confirmed yet is cancelled when it is.
    fn cancel(&mut self, id: u64) {
        if let Some(number) = self.numbers.remove(&id) {
            self.ids.remove(&number);
            self.send(WatchCommand::Cancel(WatchCancelRequest { watch_id: number }));
        }
    }

    /// Sends a request. If the stream has failed, reading its answers reports that.
    fn send(&self, command: WatchCommand) {
        let _ = self.requests.send(WatchRequest { command: Some(command) });
    }

    fn obey(&mut self, watches: &mut Watches, command: Command) {
        match command {
            Command::Open(id, watch) => {
                self.create(id, &watch);
                watches.insert(id, watch);
            }
            Command::Start(id) => {
                if let Some(watch) = watches.get_mut(&id) {
                    watch.stopped = false;
                    self.create(id, watch);
                }
            }
            Command::Close(id) => {
                watches.remove(&id);
                self.cancel(id);
            }
        }
    }

    async fn take(&mut self, client: &Arc<Client>, watches: &mut Watches, answer: WatchResponse) -> Result<(), End> {
        let confirmed = if answer.created { self.confirm(watches, &answer) } else { None };
        // Without a number, the watch was closed or stopped while the answer was in flight.
        let Some(id) = confirmed.or_else(|| self.ids.get(&answer.watch_id).copied()) else { return Ok(()) };
        let Some(watch) = watches.get_mut(&id) else { return Ok(()) };
        if answer.canceled {
            if let Some(number) = self.numbers.remove(&id) {
                self.ids.remove(&number);
            }
            return end_of_watch(client, watches, id, answer).await;
        }
        let header = answer.header.as_ref();
        match watch.history(header) {
            History::Same => {}
            History::Older => {
                self.verify(client, id, watch, header.map_or(0, |header| header.revision));
                return Ok(());
            }
            History::Replaced => {
                self.compacted(watches, id);
                return Ok(());
            }
        }
        if answer.created {
            watch.confirmed(header);
        }
        let joined = match watch.reassembly.join(answer.events, answer.fragment, watch.next) {
            Ok(joined) => joined,
            Err(Unfit::Disordered) => return Err(End::Failed("the server sent events out of order".to_owned())),
            Err(Unfit::TooLarge) => {
                self.cancel(id);
                if let Some(watch) = watches.remove(&id) {
                    watch.fail(Error::unexpected_answer("the events of one revision take more than 256 MiB"));
                }
                return Ok(());
            }
        };
        if let Some(batch) = joined {
            watch.deliver(batch);
            if watch.stopped {
                self.cancel(id);
                watch.stay_stopped();
                if !watch.stopped {
                    self.create(id, watch);
                }
            }
        }
        Ok(())
    }

    /// Ends a watch because the server does not have its history.
    fn compacted(&mut self, watches: &mut Watches, id: u64) {
        self.cancel(id);
        if let Some(watch) = watches.remove(&id) {
            watch.compacted(0);
        }
    }

    /// Reads the cluster's revision, because the server of the stream is behind what a watch has delivered: it may be a
    /// member that lags behind. The watch is cancelled at the server meanwhile.
    fn verify(&mut self, client: &Arc<Client>, id: u64, watch: &mut Watch, behind: i64) {
        self.cancel(id);
        watch.reassembly.clear();
        let (client, key) = (Arc::clone(client), watch.range.key.clone());
        self.verifying.push(Box::pin(async move {
            // A linearizable read waits until its member has caught up.
            let request = RangeRequest { key, keys_only: true, ..RangeRequest::default() };
            let answer = timeout(client.config.timeout, client.call(request)).await;
            let answer =
                answer.unwrap_or_else(|_elapsed| Err(Failed::unanswered("no answer in time", Idempotence::Repeatable)));
            let present = answer.and_then(|answer| revision(answer.header.as_ref())).map(signed);
            Verified { id, behind, present }
        }));
    }

    /// Opens the watch again if its server only lagged behind, or ends it if its history is gone.
    fn verified(&mut self, watches: &mut Watches, Verified { id, behind, present }: Verified) -> Result<(), End> {
        let present = present.map_err(|failed| End::Failed(Error::from(failed).to_string()))?;
        let Some(watch) = watches.get_mut(&id) else { return Ok(()) };
        if watch.is_behind(present) {
            self.compacted(watches, id);
        } else {
            watch.lags(behind);
            self.create(id, watch);
        }
        Ok(())
    }
}

async fn cannot_open(client: &Client, failed: Failed) -> End {
    if failed.is_stale_token() && client.has_credentials() {
        client.forget_token().await;
        return End::Failed("the token has lapsed".to_owned());
    }
    match Error::from(failed) {
        Error::PermissionDenied { context, .. } => End::Denied(context.reason),
        other => End::Failed(other.to_string()),
    }
}

/// Handles the end of one watch by the server. The others continue, unless a new token is needed.
async fn end_of_watch(client: &Client, watches: &mut Watches, id: u64, answer: WatchResponse) -> Result<(), End> {
    let reason = excerpt(&answer.cancel_reason);
    if answer.compact_revision != 0 {
        if let Some(watch) = watches.remove(&id) {
            watch.compacted(answer.compact_revision);
        }
        return Ok(());
    }
    let denied = reason.contains("permission denied") || is_stale_token(Code::InvalidArgument, &reason);
    if !denied {
        return Err(End::Failed(format!("the server ended a watch: {reason}")));
    }
    // A stream keeps the token with which it was opened. Older servers report a lapsed token as a lack of permission.
    let again = client.has_credentials() && watches.get(&id).is_some_and(|watch| !watch.refused);
    if again {
        if let Some(watch) = watches.get_mut(&id) {
            watch.refused = true;
        }
        client.forget_token().await;
        return Err(End::Failed("a watch was refused; trying with a new token".to_owned()));
    }
    if let Some(watch) = watches.remove(&id) {
        watch.fail(Error::permission_denied(format!("the server refused the watch: {reason}")));
    }
    Ok(())
}
