//! Members: who belongs, what they may, and asking others in.

use super::{
    Frame, Heading, Html,
    list::{Head, Pages, table},
    parts::{Line, badge, faults, field, icon, time},
};
use crate::{
    error::FieldError,
    ids::UserId,
    model::{List, Member, Role},
};
use maud::{Markup, html};

const ROLES: [(Role, &str); 4] = [
    (Role::Viewer, "reads everything of the tenant"),
    (Role::Member, "also chats, and makes keys of their own"),
    (Role::Admin, "also writes agents, and manages keys and members"),
    (Role::Owner, "also renames, exports and deletes the tenant"),
];

const HEADS: [Head; 4] = [Head::Words("Address"), Head::Words("Role"), Head::Words("Since"), Head::Actions];

/// The page. `me` is who looks.
pub fn page(frame: &Frame, me: UserId, members: &List<Member>, email: &str, errors: &[FieldError], pages: &Pages) -> Html {
    let content = html! {
        section.card { (table("Members", &HEADS, members.data.iter().map(|member| row(frame, me, member)))) }
        (pages.draw())
        div.grid.even {
                @if frame.may(Role::Admin) {
                    section.card {
                        header.card-head { h2 { "Add someone" } p { "Who has no account yet gets an invitation by mail, and joins on registering." } }
                        div.card-body { (form(frame, email, errors)) }
                    }
                }
                section.card {
                    header.card-head { h2 { "Roles" } }
                    div.card-body { dl.terms { @for (role, words) in ROLES { div { dt { (badge("quiet", role.name())) } dd { (words) } } } } }
                }
        }
    };
    frame.page(
        &Heading::new("Members", "A role counts at every request: changing it changes what their keys and sessions may, at once."),
        content,
    )
}

fn roles(frame: &Frame, id: &str, chosen: Role) -> Markup {
    html! {
        select id=(id) name="role" {
            @for (role, _) in ROLES.into_iter().filter(|(role, _)| frame.may(*role)) {
                option value=(role.name()) selected[role == chosen] { (role.name()) }
            }
        }
    }
}

fn row(frame: &Frame, me: UserId, member: &Member) -> Markup {
    // Nobody changes someone stronger than themselves.
    let may = frame.may(Role::Admin) && frame.may(member.role);
    let select = format!("role-{}", member.user_id);
    html! {
        tr {
            td data-label="Address" { strong { (member.email) } @if member.user_id == me { " " (badge("info", "you")) } }
            td data-label="Role" { (badge("quiet", member.role.name())) }
            td data-label="Since" { (time(member.created_at, "short")) }
            td.row-actions {
                @if may {
                    form.row method="post" action={ "/dashboard/members/" (member.user_id) } {
                        (frame.token())
                        label.sr-only for=(select) { "Role of " (member.email) }
                        (roles(frame, &select, member.role))
                        button.button.small { "Change" }
                    }
                    form method="post" action={ "/dashboard/members/" (member.user_id) "/remove" } data-confirm={ "Take " (member.email) " out? Their keys and sessions are refused here from now on." } data-confirm-label="Take out" {
                        (frame.token())
                        button.button.small.danger { "Take out" }
                    }
                }
            }
        }
    }
}

fn form(frame: &Frame, email: &str, errors: &[FieldError]) -> Markup {
    let error = errors.iter().find(|error| error.pointer == "/email").map(|error| error.message.as_str());
    let others: Vec<FieldError> = errors.iter().filter(|error| error.pointer != "/email").cloned().collect();
    html! {
        form.form method="post" action="/dashboard/members" {
            (frame.token())
            (faults(&others))
            (Line { name: "email", label: "E-mail", kind: "email", value: email, error, ..Line::PLAIN }.draw())
            (field("new-role", "Role", "", None, roles(frame, "new-role", Role::Member)))
            div.form-foot { button.button.primary { (icon("plus")) "Add" } }
        }
    }
}
