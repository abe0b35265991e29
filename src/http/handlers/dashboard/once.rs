//! Forms that make something make it once, however often they are sent: a page gives each a mark of its own, and the same form again leads to what
//! the first one made.

use crate::{
    app::App,
    error::{Error, Result},
    http::call::{Reply, Request},
    once::Begun,
    storage::Session,
};
use std::future::Future;

/// The hidden field with the mark.
const FIELD: &str = "once";

/// What came of a form.
pub(super) enum Made<T> {
    /// It was made by this request.
    Now(T),
    /// The same form made it before: where that leads.
    Before(String),
}

impl<T> Made<T> {
    /// Sends the browser to what was made; `to` says where that is.
    pub(super) fn led(self, to: impl FnOnce(&T) -> String) -> Reply {
        match self {
            Self::Now(made) => Reply::see_other(to(&made)),
            Self::Before(at) => Reply::see_other(at),
        }
    }
}

/// Makes it, unless the same form of the same session did. What is begun is finished whether or not the browser waits: one that sends a form
/// again lets go of the first answer. A form without a mark is no page's of ours, and made as often as it is sent.
pub(super) async fn once<T: Send + 'static>(
    app: &App,
    session: &Session,
    request: &Request,
    to: impl FnOnce(&T) -> String + Send + 'static,
    make: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<Made<T>> {
    if request.form()?.filled(FIELD).is_none() {
        return make.await.map(Made::Now);
    }
    let ticket = match app.once.begin(&(session.form_token(), &request.path, &request.body)).await {
        Begun::First(ticket) => ticket,
        Begun::Before(at) => return Ok(Made::Before(at)),
    };
    let making = tokio::spawn(async move {
        let made = make.await;
        if let Ok(made) = &made {
            ticket.done(to(made));
        }
        made
    });
    making.await.map_err(Error::internal)?.map(Made::Now)
}
