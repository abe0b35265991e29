//! The small language in which `params` says what a value may be, and the check against it. Pure.

use crate::{error::FieldError, model::Json};

/// What a value may be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rule {
    /// True or false.
    Bool,
    /// A number in this range, ends included.
    Num(f64, f64),
    /// A whole number in this range, ends included.
    Int(i64, i64),
    /// A string of 1 to this many bytes.
    Text(usize),
    /// One of these strings.
    Word(&'static [&'static str]),
    /// A list of strings.
    TextList { items_max: usize, bytes_max: usize },
    /// A string or a list of strings.
    TextOrList { items_max: usize, bytes_max: usize },
    /// An object of these fields and no others.
    Object(&'static [Field]),
    /// An object whose values are numbers in this range.
    Map(f64, f64),
    /// Any object: a schema, whose fields are the tenant's own.
    Free,
    /// Any of these.
    OneOf(&'static [Rule]),
}

/// A field of an object.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    pub name: &'static str,
    pub rule: Rule,
    pub required: bool,
}

/// Fields of a map; more is no sensible request.
const MAP_FIELDS_MAX: usize = 1_024;

impl Rule {
    pub(super) fn accepts(self, value: &Json) -> bool {
        let mut errors = Vec::new();
        self.check(value, "", &mut errors);
        errors.is_empty()
    }

    /// Adds what is wrong with `value`, which stands at `pointer`.
    pub(super) fn check(self, value: &Json, pointer: &str, errors: &mut Vec<FieldError>) {
        let fits = match self {
            Self::Bool => value.is_boolean(),
            Self::Num(min, max) => value.as_f64().is_some_and(|number| (min..=max).contains(&number)),
            Self::Int(min, max) => value.as_i64().is_some_and(|number| (min..=max).contains(&number)),
            Self::Text(bytes_max) => is_text(value, bytes_max),
            Self::Word(words) => value.as_str().is_some_and(|text| words.contains(&text)),
            Self::TextList { items_max, bytes_max } => is_list(value, items_max, bytes_max),
            Self::TextOrList { items_max, bytes_max } => is_text(value, bytes_max) || is_list(value, items_max, bytes_max),
            Self::Free => value.is_object(),
            Self::OneOf(rules) => return one_of(rules, value, pointer, errors, self),
            Self::Object(fields) if value.is_object() => return object(fields, value, pointer, errors),
            Self::Map(min, max) => match value.as_object() {
                Some(map) if map.len() <= MAP_FIELDS_MAX => {
                    return map.iter().for_each(|(name, value)| Self::Num(min, max).check(value, &below(pointer, name), errors));
                }
                _ => false,
            },
            Self::Object(_) => false,
        };
        if !fits {
            errors.push(FieldError { pointer: pointer.to_owned(), message: format!("must be {}", self.wording()) });
        }
    }

    fn wording(self) -> String {
        match self {
            Self::Bool => "true or false".into(),
            Self::Num(min, max) => format!("a number from {min} to {max}"),
            Self::Int(min, max) => format!("a whole number from {min} to {max}"),
            Self::Text(bytes_max) => format!("a string of 1 to {bytes_max} bytes"),
            Self::Word(words) => format!("one of {}", words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")),
            Self::TextList { items_max, bytes_max } => format!("a list of 1 to {items_max} strings of 1 to {bytes_max} bytes"),
            Self::TextOrList { items_max, bytes_max } => {
                format!("a string of 1 to {bytes_max} bytes, or a list of 1 to {items_max} of them")
            }
            Self::Object(_) | Self::Free => "an object".into(),
            Self::Map(min, max) => format!("an object of at most {MAP_FIELDS_MAX} fields that are numbers from {min} to {max}"),
            Self::OneOf(rules) => rules.iter().map(|rule| rule.wording()).collect::<Vec<_>>().join(", or "),
        }
    }
}

/// A value that is an object is told what is wrong inside it, when only one of the rules takes objects.
fn one_of(rules: &[Rule], value: &Json, pointer: &str, errors: &mut Vec<FieldError>, whole: Rule) {
    if rules.iter().any(|rule| rule.accepts(value)) {
        return;
    }
    match rules.iter().find(|rule| value.is_object() && matches!(rule, Rule::Object(_))) {
        Some(rule) => rule.check(value, pointer, errors),
        None => errors.push(FieldError { pointer: pointer.to_owned(), message: format!("must be {}", whole.wording()) }),
    }
}

fn object(fields: &[Field], value: &Json, pointer: &str, errors: &mut Vec<FieldError>) {
    for (name, value) in value.as_object().into_iter().flatten() {
        if let Some(field) = fields.iter().find(|field| field.name == name) {
            field.rule.check(value, &below(pointer, name), errors);
            continue;
        }
        let known: Vec<&str> = fields.iter().map(|field| field.name).collect();
        errors.push(FieldError { pointer: below(pointer, name), message: format!("is not a field here; known are: {}", known.join(", ")) });
    }
    for field in fields.iter().filter(|field| field.required && value.get(field.name).is_none()) {
        errors
            .push(FieldError { pointer: below(pointer, field.name), message: format!("is missing; it must be {}", field.rule.wording()) });
    }
}

fn is_text(value: &Json, bytes_max: usize) -> bool {
    value.as_str().is_some_and(|text| (1..=bytes_max).contains(&text.len()))
}

fn is_list(value: &Json, items_max: usize, bytes_max: usize) -> bool {
    value.as_array().is_some_and(|list| (1..=items_max).contains(&list.len()) && list.iter().all(|item| is_text(item, bytes_max)))
}

fn below(pointer: &str, name: &str) -> String {
    format!("{pointer}/{}", escape(name))
}

/// A field's name as a JSON pointer spells it (RFC 6901, 3).
pub(super) fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}
