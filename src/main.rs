//! The binary; see `cli`.

/// For SQLite too: many small tenants, opened and closed on many threads, leave the usual allocator's arenas full of holes.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    nimblesite::cli::run()
}
