//! What lists of things look like: a table in a card, the way to the pages around it, and what to do where there is nothing.

use super::parts::{empty, icon, pager};
use maud::{Markup, html};

/// A column's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    /// Over words.
    Words(&'static str),
    /// Over figures, which stand right.
    Figures(&'static str),
    /// Over buttons.
    Actions,
}

/// A table, which becomes a list of cards where it is narrow. `label` names it to those who cannot see.
pub(super) fn table(label: &str, heads: &[Head], rows: impl IntoIterator<Item = Markup>) -> Markup {
    html! {
        div.table-wrap tabindex="0" role="region" aria-label=(label) {
            table.table.stacked {
                thead {
                    tr {
                        @for head in heads {
                            @match head {
                                Head::Words(words) => { th { (words) } }
                                Head::Figures(words) => { th.num { (words) } }
                                Head::Actions => { th { span.sr-only { "Actions" } } }
                            }
                        }
                    }
                }
                tbody { @for row in rows { (row) } }
            }
        }
    }
}

/// The paths of the newer and the older page of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pages {
    /// Where the newer ones are.
    pub newer: Option<String>,
    /// Where the older ones are.
    pub older: Option<String>,
}

impl Pages {
    pub(super) fn draw(&self) -> Markup {
        pager(self.newer.as_deref(), self.older.as_deref())
    }
}

/// A page of a list that can be filtered.
pub(super) struct Listing<'a> {
    pub(super) label: &'a str,
    pub(super) heads: &'a [Head],
    pub(super) rows: Vec<Markup>,
    /// What stands there when there is nothing at all.
    pub(super) nothing: Markup,
    /// Where all of it is, if this is a part that was asked for.
    pub(super) all: Option<&'a str>,
    pub(super) pages: &'a Pages,
}

impl Listing<'_> {
    pub(super) fn draw(self) -> Markup {
        html! {
            @if !self.rows.is_empty() {
                section.card { (table(self.label, self.heads, self.rows)) }
            } @else if let Some(all) = self.all {
                (empty("filter", "Nothing fits", "Take a filter away, or widen it.", html! { a.button href=(all) { "Show all" } }))
            } @else {
                (self.nothing)
            }
            (self.pages.draw())
        }
    }
}

/// The form above a list. What is left empty filters nothing. `verb` is its button's icon and word.
pub(super) fn filters(action: &str, (symbol, word): (&str, &str), fields: Markup) -> Markup {
    html! {
        form.filters role="search" method="get" action=(action) {
            (fields)
            button.button { (icon(symbol)) (word) }
        }
    }
}

/// A choice among things that have names. `any` stands for all of them.
pub(super) fn choice(name: &str, label: &str, any: &str, chosen: &str, options: &[(String, String)]) -> Markup {
    let known = chosen.is_empty() || options.iter().any(|(value, _)| value == chosen);
    html! {
        div.field {
            label for=(name) { (label) }
            select id=(name) name=(name) {
                option value="" { (any) }
                @if !known { option value=(chosen) selected { "another one" } }
                @for (value, words) in options { option value=(value) selected[value == chosen] { (words) } }
            }
        }
    }
}
