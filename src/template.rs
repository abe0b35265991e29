//! Prompt templates: `{identifier}` and nothing else. Pure.
