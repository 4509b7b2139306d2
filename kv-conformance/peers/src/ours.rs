//! The contenders of this project: callers of a `Kv`, for any store.

use kv_conformance_program::bench::callers::{Get, List, Notice, Set, Update};
use kv_core::Kv;

use crate::contest::Contender;
use crate::load::Load;

const NAME: &str = "kv";

pub(crate) fn get(kv: &Kv, load: &Load, callers: usize) -> Contender {
    let (kv, load) = (kv.clone(), load.clone());
    Contender::new(NAME, move |caller| Get::new(&kv, load.of(caller, callers)))
}

pub(crate) fn set(kv: &Kv, load: &Load, callers: usize) -> Contender {
    let (kv, load) = (kv.clone(), load.clone());
    Contender::new(NAME, move |caller| Set::new(&kv, load.of(caller, callers), &load.value))
}

pub(crate) fn update(kv: &Kv, load: &Load) -> Contender {
    let (kv, load) = (kv.clone(), load.clone());
    Contender::prepared(NAME, move |callers| {
        let (kv, load) = (kv.clone(), load.clone());
        async move {
            let indices = Update::indices(&kv, &load.keys).await?;
            Ok(move |caller| Update::new(&kv, load.of(caller, callers), &load.value, &indices))
        }
    })
}

pub(crate) fn list(kv: &Kv, load: &Load) -> Contender {
    let (kv, load) = (kv.clone(), load.clone());
    Contender::new(NAME, move |_| List::new(&kv, &load.keys))
}

/// This contender has one caller.
pub(crate) fn watch(kv: &Kv, load: &Load) -> Contender {
    let (kv, load) = (kv.clone(), load.clone());
    Contender::prepared(NAME, move |_| {
        let (kv, load) = (kv.clone(), load.clone());
        async move {
            let mut caller = Some(Notice::new(&kv, 0, &load.value).await?);
            Ok(move |_| caller.take().expect("one caller"))
        }
    })
}
