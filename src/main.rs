//! The binary; see `cli`.

fn main() -> std::process::ExitCode {
    nimblesite::cli::run()
}
