//! The listener for what the gateway reports later. It knows HTTP and nothing else: what a form means is the gateway
//! edge's business, what it does to a row the store's. A caller gets 200 only when its fact is committed.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use tokio::net::TcpListener;
use tracing::{debug, error, info, warn};

use crate::config::{Callbacks, Secret};
use crate::daemon::meaning::Meaning;
use crate::engine::incoming::{Incoming, Taken};
use crate::gateway::callback::{self, CallbackError, Proof};

struct Listener {
    settings: Callbacks,
    meaning: Meaning,
    incoming: Incoming,
}

/// Runs until it is dropped.
pub(super) async fn serve(listener: TcpListener, settings: Callbacks, meaning: Meaning, incoming: Incoming) {
    info!(address = %settings.listen, "taking callbacks");
    let state = Arc::new(Listener { settings, meaning, incoming });
    let app = Router::new().fallback(take).with_state(state);
    if let Err(error) = axum::serve(listener, app).await {
        error!(%error, "the callback listener ended");
    }
}

async fn take(State(listener): State<Arc<Listener>>, request: Request<Body>) -> (StatusCode, &'static str) {
    if !same(request.uri().path(), &listener.settings.path) {
        return (StatusCode::NOT_FOUND, "not found\n");
    }
    if request.method() != Method::POST {
        return (StatusCode::METHOD_NOT_ALLOWED, "POST only\n");
    }
    let Ok(body) = to_bytes(request.into_body(), callback::MOST_BYTES).await else {
        return (StatusCode::PAYLOAD_TOO_LARGE, "too large, or broken off\n");
    };
    let proof = Proof {
        secrets: &listener.settings.secrets,
        old_inbound_signature: listener.settings.old_inbound_signature,
    };
    let callback = match callback::parse(&body, proof) {
        Ok(callback) => callback,
        Err(fault) => return refuse(&fault),
    };
    debug!(?callback, "callback");
    let Some(fact) = listener.meaning.of(callback) else { return (StatusCode::OK, "OK\n") };
    match listener.incoming.submit(fact).await {
        Taken::Committed => (StatusCode::OK, "OK\n"),
        Taken::Failed => (StatusCode::SERVICE_UNAVAILABLE, "not written, please send it again\n"),
    }
}

fn refuse(fault: &CallbackError) -> (StatusCode, &'static str) {
    match fault {
        // Messages from the gateway's web pages carry none: nothing of ours, and nothing wrong.
        CallbackError::EmptyReference => (StatusCode::OK, "OK\n"),
        CallbackError::WrongSignature => {
            warn!("a callback with a wrong signature: forged, or client_secret is not the account's");
            (StatusCode::FORBIDDEN, "wrong SMS-Verify\n")
        }
        CallbackError::NotUnderstood => {
            warn!("a callback that is neither a receipt, nor a message, nor a processing result");
            (StatusCode::UNPROCESSABLE_ENTITY, "not understood\n")
        }
        CallbackError::Malformed(what) => {
            warn!(what, "a malformed callback");
            (StatusCode::BAD_REQUEST, "malformed\n")
        }
    }
}

/// Takes as long for a wrong path as for the right one, so that the path cannot be guessed letter by letter.
fn same(path: &str, secret: &Secret) -> bool {
    let (path, secret) = (path.as_bytes(), secret.expose().as_bytes());
    path.len() == secret.len() && path.iter().zip(secret).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}
