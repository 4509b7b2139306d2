//! Unary calls.

use kv_core::backend::fate::Idempotence;
use prost::Message;

/// A unary call: the request names the method, the answer, and whether the call may be sent twice.
pub(crate) trait Call: Send + Sync + 'static {
    /// The gRPC method.
    const METHOD: &'static str;
    /// The message that is sent.
    type Message: Message + 'static;
    /// The message that comes back.
    type Answer: Message + Default + 'static;

    fn message(&self) -> &Self::Message;

    /// Whether it may be sent again although its fate is unknown ([clause W6](kv_core::contract::CLAUSES#W6)).
    fn idempotence(&self) -> Idempotence;
}

/// Implements [`Call`] for requests: `Request => Answer, "method", idempotence;`, where the last is a function of the
/// request.
macro_rules! calls {
    ($($request:ty => $answer:ty, $method:literal, $idempotence:expr;)*) => {
        $(impl Call for $request {
            const METHOD: &'static str = $method;
            type Message = Self;
            type Answer = $answer;

            fn message(&self) -> &Self {
                self
            }

            fn idempotence(&self) -> Idempotence {
                $idempotence(self)
            }
        })*
    };
}

pub(super) use calls;

pub(super) fn repeatable<T>(_request: &T) -> Idempotence {
    Idempotence::Repeatable
}

pub(super) fn once<T>(_request: &T) -> Idempotence {
    Idempotence::Once
}
