//! `pass-everything INTERFACE…`: lets veth interfaces take what XDP at the other end of the pair sends back. Run it in the
//! namespace of the interfaces (`ip netns exec`); it attaches and returns, and the program stays until the interface goes.

use std::process::ExitCode;

fn main() -> ExitCode {
    for interface in std::env::args().skip(1) {
        if let Err(e) = edge_kernel::pass_everything(&interface) {
            eprintln!("{e}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
