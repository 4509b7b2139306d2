//! Logging in: tokens for a user name and a password.

use std::sync::Arc;

use kv_core::backend::Credentials;
use kv_core::backend::fate::Idempotence;
use tokio::sync::Mutex;
use tonic::metadata::AsciiMetadataValue;

use crate::api::messages::AuthenticateRequest;
use crate::error::Failed;
use crate::transport::connection::Connection;

/// The token that calls carry, fetched when the first call needs it and again when the server has forgotten it.
///
/// Simple tokens live some minutes from their last use, signed ones until they lapse or the users change:
/// <https://etcd.io/docs/latest/learning/design-auth-v3/>. Neither tells in advance, so the server's refusal does.
pub(crate) struct Auth {
    credentials: Credentials,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    known: Option<Known>,
    /// How many logins there have been, so that of many calls that were refused only the first forgets the token.
    generation: u64,
}

enum Known {
    Token(AsciiMetadataValue),
    /// The server has no users: it serves anybody.
    NotNeeded,
}

/// What a call carries, and which login it is from.
#[derive(Clone, Default)]
pub(crate) struct Token {
    /// None where the server wants none.
    pub(crate) value: Option<AsciiMetadataValue>,
    pub(crate) generation: u64,
}

impl Auth {
    pub(crate) fn new(credentials: Credentials) -> Self {
        Self { credentials, state: Mutex::default() }
    }

    /// The current token, or a new one.
    pub(crate) async fn token(&self, connection: &Connection) -> Result<Token, Failed> {
        let mut state = self.state.lock().await;
        if state.known.is_none() {
            state.known = Some(self.login(connection).await?);
            state.generation += 1;
        }
        let value = match &state.known {
            Some(Known::Token(value)) => Some(value.clone()),
            Some(Known::NotNeeded) | None => None,
        };
        Ok(Token { value, generation: state.generation })
    }

    /// Drops the token of one login, unless there is a newer one already.
    pub(crate) async fn forget(&self, generation: u64) {
        let mut state = self.state.lock().await;
        if state.generation == generation {
            state.known = None;
        }
    }

    /// Drops the token, whichever it is.
    pub(crate) async fn forget_any(&self) {
        self.state.lock().await.known = None;
    }

    async fn login(&self, connection: &Connection) -> Result<Known, Failed> {
        let Credentials { user, password } = self.credentials.clone();
        let failed = match connection.unary(Arc::new(AuthenticateRequest { name: user, password }), None).await {
            Ok(answer) => {
                let token = AsciiMetadataValue::try_from(answer.token);
                let mut token = token.map_err(|_| Failed::unexpected("the token is not one that can be sent back"))?;
                token.set_sensitive(true);
                return Ok(Known::Token(token));
            }
            Err(status) => Failed::at(&connection.address, Idempotence::Repeatable, status),
        };
        if failed.is_auth_not_enabled() { Ok(Known::NotNeeded) } else { Err(failed) }
    }
}
