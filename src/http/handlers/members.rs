//! Members of the key's tenant.

use super::auth::Accepted;
use crate::{
    http::{
        call::{Reply, TenantCall},
        endpoint::{Answer, Endpoint, Handler},
    },
    ids::UserId,
    model::{List, Member, MemberInput, MemberPatch, Order, Role},
};

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        Endpoint::new("MemberList", "GET", "/api/v1/members", Handler::Tenant(Role::Viewer, list))
            .about("Members", "The tenant's members")
            .paged()
            .answers::<List<Member>>(200),
        Endpoint::new("MemberAdd", "POST", "/api/v1/members", Handler::Tenant(Role::Admin, add))
            .about("Members", "Add someone by address")
            .describe(
                "The answer is the same whether or not the address has an account. Who has none gets an invitation by mail, and joins on \
                 registering. Admins add members up to admin, owners all.",
            )
            .body::<MemberInput>()
            .answers::<Accepted>(202)
            .errors(&["conflict"]),
        Endpoint::new("MemberUpdate", "PATCH", "/api/v1/members/{user_id}", Handler::Tenant(Role::Admin, update))
            .about("Members", "Change what a member may do")
            .describe("It bounds their keys from the next request on.")
            .body::<MemberPatch>()
            .answers::<Member>(200)
            .errors(&["last_owner"]),
        Endpoint::new("MemberRemove", "DELETE", "/api/v1/members/{user_id}", Handler::Tenant(Role::Admin, remove))
            .about("Members", "Take a member out")
            .describe("Their keys are refused from the next request on, and stay so.")
            .answers_raw(204, "")
            .errors(&["last_owner"]),
    ]
}

fn list(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let page = call.request.page(Order::Desc)?;
        Reply::ok(&call.app.storage.member_list(&call.who, page).await?)
    })
}

fn add(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let input: MemberInput = call.request.json()?;
        let letter = call.app.storage.member_add(&call.who, input).await?;
        if let Some(letter) = letter {
            call.app.mailer.post(letter);
        }
        Accepted::reply("They are a member now, or become one when they register this address. A mail tells them.")
    })
}

fn update(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let user: UserId = call.request.id("user_id", "member")?;
        let patch: MemberPatch = call.request.json()?;
        Reply::ok(&call.app.storage.member_update(&call.who, user, patch.role).await?)
    })
}

fn remove(call: TenantCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let user: UserId = call.request.id("user_id", "member")?;
        call.app.storage.member_remove(&call.who, user).await?;
        Ok(Reply::Nothing)
    })
}
