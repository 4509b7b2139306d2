//! One connection through a proxy: passed on, and hurt as ordered.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::orders::{Counts, Cut, Orders};
use crate::random::Random;

/// Accepts connections, and passes each on in a task that ends with this one.
pub(super) async fn accept(
    listener: TcpListener,
    server: String,
    orders: watch::Receiver<Orders>,
    counts: Arc<watch::Sender<Counts>>,
) {
    // Dropped with this task, and the connections with it.
    let mut connections = JoinSet::new();
    for number in 0.. {
        let client = loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((client, _)) => break client,
                    // Out of file descriptors, say: those that end give theirs back.
                    Err(_) => sleep(Duration::from_millis(10)).await,
                },
                Some(_) = connections.join_next() => {}
            }
        };
        // Commands to cut that come from now on are for this one, too.
        let commands = orders.borrow().cuts;
        let open = Open::new(&counts);
        connections.spawn(connection(client, server.clone(), orders.clone(), commands, open, number));
    }
}

/// Counts what is done to one connection, and that it is open.
struct Open(Arc<watch::Sender<Counts>>);

impl Open {
    fn new(counts: &Arc<watch::Sender<Counts>>) -> Self {
        counts.send_modify(|counts| {
            counts.connections += 1;
            counts.open += 1;
            counts.most_open = counts.most_open.max(counts.open);
        });
        Self(Arc::clone(counts))
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        self.0.send_modify(change);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.count(|counts| counts.open -= 1);
    }
}

/// Why a connection ends.
enum End {
    /// One of its ends wanted it so, or is gone.
    Itself,
    Cut(Cut),
    Truncated(Cut),
}

impl From<io::Error> for End {
    fn from(_error: io::Error) -> Self {
        Self::Itself
    }
}

async fn connection(
    mut client: TcpStream,
    server: String,
    orders: watch::Receiver<Orders>,
    commands: usize,
    open: Open,
    number: u64,
) {
    let Ok(mut server) = TcpStream::connect(server).await else {
        // What a client sees where nobody listens.
        let _ = client.set_zero_linger();
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let end = {
        let stalled_until = Mutex::new(Instant::now());
        let direction = |which| Direction {
            orders: orders.clone(),
            stalled_until: &stalled_until,
            open: &open,
            from_client: which == 0,
            stream: 3 * number + which,
            dice: None,
        };
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        let (mut asking, mut answering) = (direction(0), direction(1));
        tokio::select! {
            // First, so that a command is obeyed before more is passed on.
            biased;
            end = cut_from_outside(orders.clone(), commands, 3 * number + 2) => end,
            result = async {
                tokio::try_join!(asking.pass(from_client, to_server), answering.pass(from_server, to_client))
            } => result.map_or_else(|end| end, |_| End::Itself),
        }
    };
    let cut = match end {
        End::Itself => return,
        End::Cut(cut) | End::Truncated(cut) => cut,
    };
    for stream in [&mut client, &mut server] {
        let _ = match cut {
            Cut::Reset => stream.set_zero_linger(),
            Cut::Close => stream.shutdown().await,
        };
    }
    drop((client, server));
    open.count(|counts| match end {
        End::Truncated(_) => counts.truncations += 1,
        _ if cut == Cut::Reset => counts.resets += 1,
        _ => counts.closes += 1,
    });
}

/// Waits for a command to cut, or for the random moment at which a connection is old enough.
async fn cut_from_outside(mut orders: watch::Receiver<Orders>, commands: usize, stream: u64) -> End {
    let began = Instant::now();
    loop {
        let Orders { faults, cuts, cut, .. } = *orders.borrow_and_update();
        if let Some(cut) = cut.filter(|_| cuts > commands) {
            return End::Cut(cut);
        }
        let too_old = async {
            let Some(faults) = faults else { return std::future::pending::<Cut>().await };
            let mut dice = Random::new(faults.seed, stream);
            sleep_until(began + faults.age.mul_f64(fraction(&mut dice))).await;
            random_cut(&mut dice)
        };
        tokio::select! {
            cut = too_old => return End::Cut(cut),
            changed = orders.changed() => if changed.is_err() { std::future::pending::<()>().await },
        }
    }
}

fn random_cut(dice: &mut Random) -> Cut {
    if dice.below(3) == 0 { Cut::Close } else { Cut::Reset }
}

/// A number from 0 to 1.
fn fraction(dice: &mut Random) -> f64 {
    f64::from(dice.below(1 << 20)) / f64::from(1 << 20)
}

/// One direction of a connection.
struct Direction<'a> {
    orders: watch::Receiver<Orders>,
    /// Shared by both directions.
    stalled_until: &'a Mutex<Instant>,
    open: &'a Open,
    from_client: bool,
    stream: u64,
    /// The dice, with how many bytes are passed on before the next fault; none while there are no faults.
    dice: Option<(Random, usize)>,
}

impl Direction<'_> {
    /// Passes on what comes, and that it has ended; an error is why the whole connection ends.
    async fn pass(&mut self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> Result<(), End> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = from.read(&mut buffer).await?;
            self.wait_while_stalled().await;
            if length == 0 {
                return Ok(to.shutdown().await?);
            }
            if self.from_client && self.orders.borrow().refusing {
                return Err(End::Cut(Cut::Close));
            }
            match self.hurt(length).await {
                Ok(()) => to.write_all(&buffer[..length]).await?,
                Err((passed, end)) => {
                    to.write_all(&buffer[..passed]).await?;
                    return Err(end);
                }
            }
        }
    }

    async fn wait_while_stalled(&mut self) {
        loop {
            // Whoever gave the orders is gone, and the connection is about to be.
            if self.orders.wait_for(|orders| !orders.stalled).await.is_err() {
                std::future::pending::<Infallible>().await;
            }
            let until = *self.stalled_until.lock().unwrap_or_else(PoisonError::into_inner);
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }

    /// Lets happen what is due before these bytes are passed on; an error tells how many of them still are.
    async fn hurt(&mut self, length: usize) -> Result<(), (usize, End)> {
        let Some(faults) = self.orders.borrow().faults else {
            self.dice = None;
            return Ok(());
        };
        let bytes = |dice: &mut Random| dice.below(faults.bytes.max(1)) as usize;
        let (mut dice, left) = self.dice.take().unwrap_or_else(|| {
            let mut dice = Random::new(faults.seed, self.stream);
            let left = bytes(&mut dice);
            (dice, left)
        });
        if left >= length {
            self.dice = Some((dice, left - length));
            return Ok(());
        }
        let pause = faults.pause.mul_f64(fraction(&mut dice));
        match dice.below(10) {
            0..3 => return Err((0, End::Cut(random_cut(&mut dice)))),
            // Never all of them: some that were sent do not arrive.
            3..6 => return Err((left, End::Truncated(random_cut(&mut dice)))),
            6..8 => {
                self.open.count(|counts| counts.stalls += 1);
                *self.stalled_until.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now() + pause;
                self.wait_while_stalled().await;
            }
            _ => {
                self.open.count(|counts| counts.delays += 1);
                sleep(pause).await;
            }
        }
        let left = bytes(&mut dice);
        self.dice = Some((dice, left));
        Ok(())
    }
}
