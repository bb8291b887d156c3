//! `weirctl profile …`: the files are written by the machine that is asked, where it runs.

use hyper::Method;
use serde_json::json;

use crate::arguments::{Format, ProfileStart, ProfileWhat};
use crate::output::{print, structured};
use crate::server::Server;

pub async fn run(server: &Server, what: ProfileWhat, format: Format) -> Result<(), String> {
    match what {
        ProfileWhat::Info => {
            let format = if format == Format::Default { Format::Yaml } else { format };
            structured(&server.get("/profile").await?, format);
        }
        ProfileWhat::Start(what) => {
            let (of, path) = match what {
                ProfileStart::Cpu { path } => ("cpu", path),
                ProfileStart::Memory { path } => ("memory", path),
            };
            server.send(Method::POST, &format!("/profile/start/{of}"), json!({"path": path}).to_string()).await?;
            print(&format!("start {of} profile successfully"));
        }
        ProfileWhat::Stop => {
            server.send(Method::POST, "/profile/stop", String::new()).await?;
            print("stop profile successfully");
        }
    }
    Ok(())
}
