//! Transfers between accounts in transactions over several keys. The total must be the same in every listing.

use kv_core::{TxnBuilder, Value};
use tokio::task::JoinSet;

use crate::chaos::stage::{Stage, pace};
use crate::chaos::storm::Role;
use crate::chaos::tally::{Tally, tolerate};
use crate::judge::{Audit, Bank};
use crate::outcome::{Outcome, all_end};

const ACCOUNTS: u32 = 5;
const EACH: i64 = 100;
/// The first [`MOVERS`] clients transfer, and the others audit.
pub(crate) const CLIENTS: usize = 6;
const MOVERS: usize = 4;

pub(crate) async fn run(stage: Stage, tally: Tally) -> Outcome<Bank> {
    let kv = stage.connect(Role::Client, 0).await?;
    let open = |txn, number| TxnBuilder::set(txn, &account(number), EACH.to_string());
    (0..ACCOUNTS).fold(kv.txn(), open).commit().await?;
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let (stage, tally) = (stage.clone(), tally.clone());
        clients.spawn(async move {
            if number < MOVERS {
                transfer(stage, tally, number).await.map(|()| Vec::new())
            } else {
                audit(stage, tally, number).await
            }
        });
    }
    let audits = all_end(&mut clients).await?.concat();
    Ok(Bank { accounts: ACCOUNTS as usize, total: EACH * i64::from(ACCOUNTS), audits })
}

fn account(number: u32) -> String {
    format!("bank/{number}")
}

/// The balance of an account. Data that is no number makes the total wrong, so the judge sees it.
fn amount(value: &Value) -> i64 {
    String::from_utf8_lossy(&value.data).parse().unwrap_or(i64::from(i32::MIN))
}

async fn transfer(stage: Stage, tally: Tally, number: usize) -> Outcome {
    let kv = stage.connect(Role::Client, number).await?;
    let mut random = stage.random(100 + number as u64);
    let mut pace = pace(25);
    while !stage.is_over() {
        pace.tick().await;
        let from = random.below(ACCOUNTS);
        let to = (from + 1 + random.below(ACCOUNTS - 1)) % ACCOUNTS;
        let moved = i64::from(random.below(20));
        let transferring = async {
            let (from, to) = (account(from), account(to));
            let (a, b) = tokio::try_join!(kv.get(&from), kv.get(&to))?;
            let txn = kv.txn().check(&from, a.index).check(&to, b.index);
            let txn = txn.set(&from, (amount(&a) - moved).to_string());
            txn.set(&to, (amount(&b) + moved).to_string()).commit().await
        };
        if let Err(error) = tally.call(number, transferring).await {
            tolerate(error)?;
        }
    }
    tally.leave(number);
    Ok(())
}

async fn audit(stage: Stage, tally: Tally, number: usize) -> Outcome<Vec<Audit>> {
    let kv = stage.connect(Role::Client, number).await?;
    let mut audits = Vec::new();
    let mut pace = pace(25);
    while !stage.is_over() {
        pace.tick().await;
        match tally.call(number, kv.get_all("bank/")).await {
            Ok(listing) => audits.push(Audit {
                index: listing.index,
                accounts: listing.values.len(),
                total: listing.values.values().map(amount).sum(),
            }),
            Err(error) => tolerate(error)?,
        }
    }
    tally.leave(number);
    Ok(audits)
}
