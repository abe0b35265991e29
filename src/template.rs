//! Prompt templates: `{identifier}` and nothing else. Pure: it knows neither where values come from nor what day it is.
//!
//! An identifier is `[A-Za-z_][A-Za-z0-9_]*`. `{{identifier}}` stands for a literal `{identifier}`; every other brace, those of JSON
//! included, is literal. A template is read once, from left to right, so a value is never expanded again.

use crate::{
    config::Limits,
    error::{Error, FieldError, Result},
    model::{Json, TemplateVars},
};
use std::borrow::Cow;

/// The variables that every prompt has; a custom one cannot take their names.
pub const BUILT_IN: [&str; 3] = ["tenant_name", "agent_name", "date"];

/// The values of [`BUILT_IN`].
#[derive(Debug, Clone, Copy)]
pub struct BuiltIns<'a> {
    /// The name of the tenant that owns the call.
    pub tenant_name: &'a str,
    /// The config's name.
    pub agent_name: &'a str,
    /// Today in the tenant's time zone, as `2026-11-24`.
    pub date: &'a str,
}

impl<'a> BuiltIns<'a> {
    fn value(&self, name: &str) -> Option<&'a str> {
        match name {
            "tenant_name" => Some(self.tenant_name),
            "agent_name" => Some(self.agent_name),
            "date" => Some(self.date),
            _ => None,
        }
    }
}

/// The variables that a template uses, built-ins included, each once, in the order of their first use.
pub fn variables(text: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for piece in Pieces(text) {
        if let Piece::Variable(name) = piece
            && !names.iter().any(|known| known == name)
        {
            names.push(name.to_owned());
        }
    }
    names
}

/// The template's parts, in order: for whoever shows them apart.
pub fn pieces(text: &str) -> impl Iterator<Item = Piece<'_>> {
    Pieces(text)
}

/// The template with its variables replaced by their values.
///
/// [`Error::TemplateVariableMissing`] names every variable without a value; a result above `bytes_max` bytes is [`Error::ValidationFailed`].
pub fn render(text: &str, built_ins: &BuiltIns<'_>, vars: &TemplateVars, bytes_max: usize) -> Result<String> {
    let mut rendered = String::with_capacity(text.len().min(bytes_max));
    let mut missing: Vec<String> = Vec::new();
    for piece in Pieces(text) {
        let part = match piece {
            Piece::Text(part) => Cow::Borrowed(part),
            Piece::Variable(name) => match built_ins.value(name).map(Cow::Borrowed).or_else(|| vars.get(name).map(value_text)) {
                Some(value) => value,
                None if missing.iter().any(|known| known == name) => continue,
                None => {
                    missing.push(name.to_owned());
                    continue;
                }
            },
        };
        if rendered.len() + part.len() > bytes_max {
            let message = format!("With these values the system prompt is longer than {bytes_max} bytes; send shorter ones.");
            return Err(Error::invalid("/template_vars", message));
        }
        rendered.push_str(&part);
    }
    if missing.is_empty() { Ok(rendered) } else { Err(Error::TemplateVariableMissing { names: missing }) }
}

/// Whether these are acceptable as `template_vars`: at most `template_vars_max` of them, names that are identifiers and no built-in's,
/// values that are strings, numbers or booleans of at most `template_var_bytes_max` bytes. Tells all that is wrong at once.
pub fn check_vars(vars: &TemplateVars, limits: &Limits) -> Result<()> {
    if vars.len() > limits.template_vars_max {
        let message = format!("There are {} variables; send at most {}.", vars.len(), limits.template_vars_max);
        return Err(Error::invalid("/template_vars", message));
    }
    let fault = |name: &str, value: &Json| {
        if !is_identifier(name) {
            Some("A variable's name is a letter or underscore, then letters, digits and underscores.".to_owned())
        } else if BUILT_IN.contains(&name) {
            Some(format!("{name} is built in and cannot be replaced; use another name."))
        } else if !matches!(value, Json::String(_) | Json::Number(_) | Json::Bool(_)) {
            Some("Expected a string, a number or a boolean.".to_owned())
        } else if value_text(value).len() > limits.template_var_bytes_max {
            Some(format!("The value is longer than {} bytes.", limits.template_var_bytes_max))
        } else {
            None
        }
    };
    let errors: Vec<FieldError> =
        vars.iter().filter_map(|(name, value)| fault(name, value).map(|message| FieldError { pointer: pointer(name), message })).collect();
    if errors.is_empty() { Ok(()) } else { Err(Error::ValidationFailed { errors }) }
}

fn pointer(name: &str) -> String {
    format!("/template_vars/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// A value as it stands in the prompt: a string without quotes, anything else as JSON writes it.
fn value_text(value: &Json) -> Cow<'_, str> {
    match value {
        Json::String(text) => Cow::Borrowed(text),
        other => Cow::Owned(other.to_string()),
    }
}

fn is_identifier(name: &str) -> bool {
    !name.is_empty() && identifier_len(name) == name.len()
}

/// The bytes of the identifier that a text begins with; 0 when it begins with none.
fn identifier_len(text: &str) -> usize {
    let bytes = text.as_bytes();
    match bytes.first() {
        Some(first) if first.is_ascii_alphabetic() || *first == b'_' => {
            bytes.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count()
        }
        _ => 0,
    }
}

/// A part of a template.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// As it stands.
    Text(&'a str),
    /// To be replaced by this variable's value.
    Variable(&'a str),
}

/// What is left of a template, piece by piece.
struct Pieces<'a>(&'a str);

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        let text = self.0;
        if text.is_empty() {
            return None;
        }
        let (piece, taken) = match braced(text) {
            Some(found) => found,
            None => {
                // A brace that opens nothing is text, and so is all up to the next brace.
                let end = text.as_bytes().iter().skip(1).position(|byte| *byte == b'{').map_or(text.len(), |at| at + 1);
                (Piece::Text(&text[..end]), end)
            }
        };
        self.0 = &text[taken..];
        Some(piece)
    }
}

/// The variable or escape that a text begins with, and its bytes.
fn braced(text: &str) -> Option<(Piece<'_>, usize)> {
    let inside = text.strip_prefix('{')?;
    if let Some(inner) = inside.strip_prefix('{') {
        let len = identifier_len(inner);
        // `{{name}}` is the text `{name}`: the inner braces, without a copy.
        return (len > 0 && inner[len..].starts_with("}}")).then(|| (Piece::Text(&text[1..len + 3]), len + 4));
    }
    let len = identifier_len(inside);
    (len > 0 && inside[len..].starts_with('}')).then(|| (Piece::Variable(&inside[..len]), len + 2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const BUILT_INS: BuiltIns<'static> = BuiltIns { tenant_name: "Acme", agent_name: "Site Editor", date: "2026-11-24" };

    fn vars(value: Json) -> TemplateVars {
        serde_json::from_value(value).unwrap()
    }

    fn rendered(text: &str, value: Json) -> Result<String> {
        render(text, &BUILT_INS, &vars(value), 1_000)
    }

    #[test]
    fn variables_are_replaced_and_all_else_is_literal() {
        for (text, expected) in [
            ("You edit for {tenant_name}. Today is {date}.", "You edit for Acme. Today is 2026-11-24."),
            (r#"Answer {"ok": true, "who": "{agent_name}"}"#, r#"Answer {"ok": true, "who": "Site Editor"}"#),
            ("{{name}} is {name}", "{name} is Ada"),
            ("{ name } {1st} {} {na-me} {näme} { {", "{ name } {1st} {} {na-me} {näme} { {"),
            ("{{name} {name}} {{{name}}} {{ name }}", "{Ada Ada} {{name}} {{ name }}"),
            ("{n}{b}{_x1}", "1.50true7"),
            ("é{name}é{", "éAdaé{"),
        ] {
            assert_eq!(rendered(text, json!({"name": "Ada", "n": "1.50", "b": true, "_x1": 7})).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn missing_variables_are_all_named_once() {
        let error = rendered("{a} {date} {b} {a}", json!({})).unwrap_err();
        assert_eq!(error, Error::TemplateVariableMissing { names: vec!["a".into(), "b".into()] });
        assert_eq!(variables("{a} {date} {{c}} {b} {a}"), ["a", "date", "b"]);
    }

    #[test]
    fn a_prompt_that_grows_too_long_is_refused() {
        assert_eq!(render("{x}{x}", &BUILT_INS, &vars(json!({"x": "12345"})), 10).unwrap(), "1234512345");
        assert!(matches!(render("{x}{x}.", &BUILT_INS, &vars(json!({"x": "12345"})), 10), Err(Error::ValidationFailed { .. })));
    }

    #[test]
    fn every_bad_variable_is_named() {
        let limits = Limits { template_var_bytes_max: 5, ..Limits::default() };
        let given = vars(json!({"ok": 1.5, "date": "x", "a/b": 1, "list": [], "long": "123456", "none": null}));
        let Err(Error::ValidationFailed { errors }) = check_vars(&given, &limits) else { panic!("accepted") };
        let pointers: Vec<_> = errors.iter().map(|error| error.pointer.as_str()).collect();
        assert_eq!(
            pointers,
            ["/template_vars/a~1b", "/template_vars/date", "/template_vars/list", "/template_vars/long", "/template_vars/none"]
        );
        let many: TemplateVars = (0..65).map(|n| (format!("v{n}"), json!(n))).collect();
        assert!(check_vars(&many, &Limits::default()).is_err());
    }

    proptest! {
        #[test]
        fn text_without_variables_stays_as_it_is(text in "[^{]*|(\\{ |\\{\"|\\{\\}|[a-z}]|é)*") {
            prop_assert_eq!(render(&text, &BUILT_INS, &TemplateVars::new(), 10_000).unwrap(), text);
        }

        #[test]
        fn any_text_is_cut_without_loss(text in "[{}a_1 é]{0,40}") {
            let names = variables(&text);
            let values: TemplateVars = names.iter().map(|name| (name.clone(), json!(format!("{{{name}}}")))).collect();
            // With each variable standing for its own text, only escapes are changed.
            let same = render(&text, &BUILT_INS, &values, 10_000).unwrap();
            prop_assert_eq!(same.replace(['{', '}'], ""), text.replace(['{', '}'], ""));
        }

        #[test]
        fn a_value_is_never_expanded_again(value in "[{}a-c]{0,20}", before in "[a-z ]{0,5}") {
            let values = vars(json!({"x": value, "a": "A", "b": "B", "c": "C"}));
            let text = format!("{before}{{x}} {{{{x}}}}");
            prop_assert_eq!(render(&text, &BUILT_INS, &values, 10_000).unwrap(), format!("{before}{value} {{x}}"));
        }
    }
}
