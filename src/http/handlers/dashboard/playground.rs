//! The playground's page. What it sends goes to the API's own routes.

use super::{agents_of, frame};
use crate::{
    dashboard::{Frame, Place, playground},
    http::{
        call::{PageCall, Reply},
        endpoint::{Answer, Endpoint, Handler},
    },
    ids::ConfigId,
    model::Role,
};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new("PlaygroundPage", "GET", "/dashboard/playground", Handler::Page(Role::Viewer, newest)),
        Endpoint::new("PlaygroundAgentPage", "GET", "/dashboard/playground/{config_id}", Handler::Page(Role::Viewer, of_agent)),
    ]
}

const SCRIPTS: &[&str] = &["playground.js"];

/// The newest agent, or what to do without one.
fn newest(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let agents = agents_of(&call).await?;
        let frame = Frame { scripts: SCRIPTS, ..frame(&call, Place::Playground).await? };
        Ok(Reply::html(200, playground::page(&frame, agents.first(), &agents, &call.app.config.public_url)))
    })
}

fn of_agent(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let id: ConfigId = call.request.id("config_id", "config")?;
        let agent = call.store.config_get(id).await?;
        let agents = agents_of(&call).await?;
        let frame = Frame { scripts: SCRIPTS, ..frame(&call, Place::Playground).await? };
        Ok(Reply::html(200, playground::page(&frame, Some(&agent), &agents, &call.app.config.public_url)))
    })
}
