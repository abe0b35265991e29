//! Members of a tenant: who belongs, and what they may do.

use super::{Principal, Storage};
use crate::{
    error::Result,
    ids::UserId,
    mail::Letter,
    model::{List, Member, MemberInput, Page, Role},
};

impl Storage {
    /// The tenant's members.
    pub async fn member_list(&self, _who: &Principal, _page: Page) -> Result<List<Member>> {
        todo!()
    }

    /// Adds the user of an address, or invites the address.
    pub async fn member_add(&self, _who: &Principal, _input: MemberInput) -> Result<Option<Letter>> {
        todo!()
    }

    /// Changes what a member may do. The last owner stays one.
    pub async fn member_update(&self, _who: &Principal, _user: UserId, _role: Role) -> Result<Member> {
        todo!()
    }

    /// Takes a member out; their keys are refused from the next request on.
    pub async fn member_remove(&self, _who: &Principal, _user: UserId) -> Result<()> {
        todo!()
    }
}
