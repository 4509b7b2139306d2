//! Logging in: tokens for a user name and a password.

use std::sync::Arc;

use kv_core::backend::Credentials;
use kv_core::backend::fate::Idempotence;
use tokio::sync::Mutex;
use tonic::Status;
use tonic::metadata::AsciiMetadataValue;

use crate::api::messages::AuthenticateRequest;
use crate::error::{Failed, Unresponsive};
use crate::transport::connection::Connection;
use crate::transport::health::Health;

/// The token of calls. It is fetched when the first call needs it, and again after the server refused it.
///
/// Simple tokens live some minutes from their last use, signed ones until they lapse or the users change:
/// <https://etcd.io/docs/latest/learning/design-auth-v3/>. A client cannot know in advance when a token ends.
pub(crate) struct Auth {
    credentials: Credentials,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    known: Option<Known>,
    /// The number of logins so far. If many calls with one token are refused, only the first of them drops the token.
    generation: u64,
}

enum Known {
    Token(AsciiMetadataValue),
    /// The server has no users, so it needs no token.
    NotNeeded,
}

impl State {
    fn token(&self) -> Option<Token> {
        let known = self.known.as_ref()?;
        Some(Token { value: known.value(), generation: self.generation })
    }
}

impl Known {
    fn value(&self) -> Option<AsciiMetadataValue> {
        match self {
            Self::Token(value) => Some(value.clone()),
            Self::NotNeeded => None,
        }
    }
}

/// The token of one call, and the login that it is from.
#[derive(Clone, Default)]
pub(crate) struct Token {
    /// `None` if the server needs no token.
    pub(crate) value: Option<AsciiMetadataValue>,
    pub(crate) generation: u64,
}

impl Auth {
    pub(crate) fn new(credentials: Credentials) -> Self {
        Self { credentials, state: Mutex::default() }
    }

    /// The current token, or a new one.
    ///
    /// A login takes the server longer than other calls. It runs in a task, so that it continues when the caller gives
    /// up, and the next caller gets its token. It ends when the connection reaches the state `left_at`.
    pub(crate) async fn token(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        left_at: Health,
    ) -> Result<Token, Failed> {
        if let Some(token) = self.state.lock().await.token() {
            return Ok(token);
        }
        let (auth, connection) = (Arc::clone(self), Arc::clone(connection));
        let logging_in = tokio::spawn(async move { auth.new_token(&connection, left_at).await });
        let ended = |_| Err(Failed::unanswered("the runtime has ended", Idempotence::Repeatable));
        logging_in.await.unwrap_or_else(ended)
    }

    /// The current token, or a new one by a login that ends with this future.
    pub(crate) async fn new_token(&self, connection: &Connection, left_at: Health) -> Result<Token, Failed> {
        let mut state = self.state.lock().await;
        if let Some(token) = state.token() {
            return Ok(token);
        }
        let known = tokio::select! {
            biased;
            known = self.login(connection) => known?,
            () = connection.worsens_to(left_at) => {
                return Err(Failed::stream(&connection.address, Status::from_error(Unresponsive.into())));
            }
        };
        state.generation += 1;
        let token = Token { value: known.value(), generation: state.generation };
        state.known = Some(known);
        Ok(token)
    }

    /// Drops the token of one login, unless there is a newer one already.
    pub(crate) async fn forget(&self, generation: u64) {
        let mut state = self.state.lock().await;
        if state.generation == generation {
            state.known = None;
        }
    }

    /// Drops the current token.
    pub(crate) async fn forget_any(&self) {
        self.state.lock().await.known = None;
    }

    async fn login(&self, connection: &Connection) -> Result<Known, Failed> {
        let Credentials { user, password } = self.credentials.clone();
        let failed = match connection.unary(Arc::new(AuthenticateRequest { name: user, password }), None).await {
            Ok(answer) => {
                let token = AsciiMetadataValue::try_from(answer.token);
                let mut token =
                    token.map_err(|_| Failed::unexpected("the token has a character that no header may have"))?;
                token.set_sensitive(true);
                return Ok(Known::Token(token));
            }
            Err(status) => Failed::at(&connection.address, Idempotence::Repeatable, status),
        };
        if failed.is_auth_not_enabled() { Ok(Known::NotNeeded) } else { Err(failed) }
    }
}
