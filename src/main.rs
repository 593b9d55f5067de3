//! The `vmshare` command: everything it does is in the library.
fn main() -> std::process::ExitCode {
    vmshare::cli::main()
}
