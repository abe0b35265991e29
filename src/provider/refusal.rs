//! Reads a vendor's clear no: status, headers and error body become a `Refusal`. Pure.
