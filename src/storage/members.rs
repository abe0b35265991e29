//! Members of a tenant: who belongs, and what they may do. Nobody makes someone stronger than themselves, or touches someone who is; the
//! last owner stays one.

use super::{
    Principal, Storage, catalog,
    engine::{Param, Row, Tx},
    rows,
    select::Select,
    tenant::TenantTx,
    tenants,
    trail::{Actor, Deed, access_record},
};
use crate::{
    clock::Time,
    error::{Error, Result},
    ids::{TenantId, UserId},
    mail::{self, Letter},
    model::{Act, List, Member, MemberInput, Page, Role},
};

impl Storage {
    /// The tenant's members, by user id.
    pub async fn member_list(&self, who: &Principal, page: Page) -> Result<List<Member>> {
        let tenant = who.tenant_id.to_string();
        self.catalog_read(move |tx| {
            let cursor = |tx: &mut TenantTx<'_>, user: &str| {
                let sql = "SELECT user_id FROM memberships WHERE tenant_id = ?1 AND user_id = ?2";
                tx.first(sql, &[Param::Text(user)], |row| Ok(row.text(0)?.into()))
            };
            let mut tx = TenantTx::new(tx, &tenant);
            Select::new(MEMBER).page(&mut tx, &page, "m.user_id", cursor, member_take, |member| member.user_id.to_string())
        })
        .await
    }

    /// Adds the user of an address, or invites the address. Needs an admin's key. Whether the address has an account shows neither in the
    /// answer nor in the work; the letter is what differs. Someone who belongs already stays as they are.
    pub async fn member_add(&self, who: &Principal, input: MemberInput) -> Result<Option<Letter>> {
        let (email, role) = (mail::address(&input.email, "/email")?, input.role.unwrap_or(Role::Member));
        let (who, now, max) = (who.clone(), self.inner.clock.now(), self.inner.limits.members_per_tenant_max);
        self.catalog_write(move |tx| {
            allowed_up_to(tx, &who, now, role)?;
            members_counted(tx, who.tenant_id, max)?;
            let tenant = tenants::tenant_find(tx, who.tenant_id)?.name;
            // An account whose address is not proved counts as none: it joins once it is.
            let account = catalog::account_by_email(tx, &email)?.filter(|account| account.verified && !account.disabled);
            let (id, by) = (who.tenant_id.to_string(), Actor::from(&who));
            let (role_text, ms) = (Param::Text(role.name()), Param::Int(now.ms()));
            let Some(account) = account else {
                TenantTx::new(tx, &id).execute(
                    "INSERT INTO invitations (tenant_id, email, role, invited_by, created_at) VALUES (?1, ?2, ?3, ?4, ?5) \
                     ON CONFLICT (tenant_id, email) DO UPDATE SET role = excluded.role, invited_by = excluded.invited_by, \
                     created_at = excluded.created_at",
                    &[Param::Text(&email), role_text, Param::Text(&who.user_id.to_string()), ms],
                )?;
                access_record(tx, who.tenant_id, Deed::new(by, Act::MemberInvite, now).to(&email).with("role", role))?;
                return Ok(Some(Letter::Invited { to: email.clone(), tenant }));
            };
            let added = TenantTx::new(tx, &id).execute(
                "INSERT INTO memberships (tenant_id, user_id, role, created_at) VALUES (?1, ?2, ?3, ?4) \
                 ON CONFLICT (tenant_id, user_id) DO NOTHING",
                &[Param::Text(&account.id.to_string()), role_text, ms],
            )?;
            // Told also where they belong already: the work must not say who has an account.
            let deed = Deed::new(by, Act::MemberAdd, now).to(account.id).with("role", role).with("added", added > 0);
            access_record(tx, who.tenant_id, deed)?;
            Ok((added > 0).then(|| Letter::Joined { to: email.clone(), tenant }))
        })
        .await
    }

    /// Changes what a member may do, keys included, from the next request on. Needs an admin's key.
    pub async fn member_update(&self, who: &Principal, user: UserId, role: Role) -> Result<Member> {
        let (who, now) = (who.clone(), self.inner.clock.now());
        self.catalog_write(move |tx| {
            let old = member_find(tx, who.tenant_id, user)?;
            allowed_up_to(tx, &who, now, role.max(old.role))?;
            if role < Role::Owner {
                not_the_last_owner(tx, who.tenant_id, &old)?;
            }
            let tenant = who.tenant_id.to_string();
            let set = "UPDATE memberships SET role = ?3 WHERE tenant_id = ?1 AND user_id = ?2";
            TenantTx::new(tx, &tenant).execute(set, &[Param::Text(&user.to_string()), Param::Text(role.name())])?;
            invitations_withdraw(tx, who.tenant_id, user, role)?;
            if role != old.role {
                let deed = Deed::new(Actor::from(&who), Act::MemberUpdate, now).to(user).with("role", role).with("role_before", old.role);
                access_record(tx, who.tenant_id, deed)?;
            }
            member_find(tx, who.tenant_id, user)
        })
        .await
    }

    /// Takes a member out. Their keys are refused from the next request on, also should they come back. Needs an admin's key.
    pub async fn member_remove(&self, who: &Principal, user: UserId) -> Result<()> {
        let (who, now) = (who.clone(), self.inner.clock.now());
        self.catalog_write(move |tx| {
            let old = member_find(tx, who.tenant_id, user)?;
            allowed_up_to(tx, &who, now, old.role)?;
            not_the_last_owner(tx, who.tenant_id, &old)?;
            invitations_withdraw(tx, who.tenant_id, user, Role::Viewer)?;
            let deed = Deed::new(Actor::from(&who), Act::MemberRemove, now).to(user).with("role_before", old.role);
            access_record(tx, who.tenant_id, deed)?;
            let (tenant, user) = (who.tenant_id.to_string(), user.to_string());
            let mut tx = TenantTx::new(tx, &tenant);
            let end = "UPDATE api_keys SET revoked_at = COALESCE(revoked_at, ?3) WHERE tenant_id = ?1 AND user_id = ?2";
            tx.execute(end, &[Param::Text(&user), Param::Int(now.ms())])?;
            tx.execute("DELETE FROM memberships WHERE tenant_id = ?1 AND user_id = ?2", &[Param::Text(&user)])?;
            Ok(())
        })
        .await
    }
}

const MEMBER: &str = "SELECT m.user_id, u.email, m.role, m.created_at FROM memberships m JOIN users u ON u.id = m.user_id \
     WHERE m.tenant_id = ?1";

fn member_take(row: &dyn Row) -> Result<Member> {
    Ok(Member {
        user_id: rows::parsed(row, 0)?,
        email: row.text(1)?.to_owned(),
        role: catalog::role(row, 2)?,
        created_at: rows::time(row, 3)?,
    })
}

fn member_find(tx: &mut dyn Tx, tenant: TenantId, user: UserId) -> Result<Member> {
    let tenant = tenant.to_string();
    let found =
        TenantTx::new(tx, &tenant).first(&format!("{MEMBER} AND m.user_id = ?2"), &[Param::Text(&user.to_string())], member_take)?;
    found.ok_or_else(|| Error::not_found("member", user))
}

/// Admins deal with members up to admin, owners with all.
fn allowed_up_to(tx: &mut dyn Tx, who: &Principal, now: Time, role: Role) -> Result<()> {
    catalog::standing_at_least(tx, who, now, role.max(Role::Admin)).map(|_| ())
}

fn not_the_last_owner(tx: &mut dyn Tx, tenant: TenantId, member: &Member) -> Result<()> {
    let sql = "SELECT COUNT(*) FROM memberships WHERE tenant_id = ?1 AND role = 'owner'";
    if member.role == Role::Owner && catalog::count(tx, sql, &[Param::Text(&tenant.to_string())])? <= 1 {
        return Err(Error::LastOwner);
    }
    Ok(())
}

/// Takes back the invitations of someone who may no longer invite so: none outlives the authority it was made with.
fn invitations_withdraw(tx: &mut dyn Tx, tenant: TenantId, user: UserId, role: Role) -> Result<()> {
    let stronger = match role {
        Role::Owner => return Ok(()),
        Role::Admin => "AND role = 'owner'",
        Role::Member | Role::Viewer => "",
    };
    let sql = format!("DELETE FROM invitations WHERE tenant_id = ?1 AND invited_by = ?2 {stronger}");
    let tenant = tenant.to_string();
    TenantTx::new(tx, &tenant).execute(&sql, &[Param::Text(&user.to_string())])?;
    Ok(())
}

fn members_counted(tx: &mut dyn Tx, tenant: TenantId, max: usize) -> Result<()> {
    let sql = "SELECT (SELECT COUNT(*) FROM memberships WHERE tenant_id = ?1) + (SELECT COUNT(*) FROM invitations WHERE tenant_id = ?1)";
    if catalog::count(tx, sql, &[Param::Text(&tenant.to_string())])? < max {
        return Ok(());
    }
    Err(Error::Conflict { detail: format!("The tenant has {max} members and invitations, the most there may be. Remove one first.") })
}
