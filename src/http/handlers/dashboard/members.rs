//! Members of the tenant.

use super::{frame, pages_of, told};
use crate::{
    dashboard::{Place, members},
    error::{Error, FieldError, Result},
    http::{
        call::{Form, PageCall, Reply},
        endpoint::{Answer, Endpoint, Handler},
    },
    ids::UserId,
    model::{MemberInput, Order, Role},
};

pub(super) fn endpoints() -> Vec<Endpoint> {
    let form = |name, path, run| Endpoint::new(name, "POST", path, Handler::Page(Role::Admin, run));
    vec![
        Endpoint::new("MembersPage", "GET", "/dashboard/members", Handler::Page(Role::Viewer, list)),
        form("MemberAddPage", "/dashboard/members", add),
        form("MemberChange", "/dashboard/members/{user_id}", change),
        form("MemberTakeOut", "/dashboard/members/{user_id}/remove", remove),
    ]
}

async fn shown(call: &PageCall<'_>, status: u16, email: &str, errors: &[FieldError]) -> Result<Reply> {
    let list = call.app.storage.member_list(&call.who, call.request.page(Order::Desc)?).await?;
    let pages = pages_of(call.request, &list, "/dashboard/members");
    let frame = frame(call, Place::Members).await?;
    Ok(Reply::html(status, members::page(&frame, call.who.user_id(), &list, email, errors, &pages)))
}

fn role(form: &Form) -> Result<Role> {
    Role::from_name(form.text("role")).ok_or_else(|| Error::invalid("/role", "no role is called so"))
}

fn list(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move { shown(&call, 200, "", &[]).await })
}

fn add(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let form = call.request.form()?;
        let input = MemberInput { email: form.text("email").to_owned(), role: Some(role(&form)?) };
        match call.app.storage.member_add(&call.who, input).await {
            Ok(letter) => {
                if let Some(letter) = letter {
                    call.app.mailer.post(letter);
                }
                Ok(Reply::see_other("/dashboard/members?said=member-added"))
            }
            Err(error) => {
                let (errors, status) = told(error)?;
                shown(&call, status, form.text("email"), &errors).await
            }
        }
    })
}

fn change(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let user: UserId = call.request.id("user_id", "member")?;
        match call.app.storage.member_update(&call.who, user, role(&call.request.form()?)?).await {
            Ok(_) => Ok(Reply::see_other("/dashboard/members?said=member-changed")),
            Err(error) => {
                let (errors, status) = told(error)?;
                shown(&call, status, "", &errors).await
            }
        }
    })
}

fn remove(call: PageCall<'_>) -> Answer<'_> {
    Box::pin(async move {
        let user: UserId = call.request.id("user_id", "member")?;
        match call.app.storage.member_remove(&call.who, user).await {
            Ok(()) => Ok(Reply::see_other("/dashboard/members?said=member-removed")),
            Err(error) => {
                let (errors, status) = told(error)?;
                shown(&call, status, "", &errors).await
            }
        }
    })
}
