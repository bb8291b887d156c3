//! What an edge kept when its cluster lost its configuration.

use hyper::Method;

use crate::arguments::{Format, LastGoodWhat};
use crate::output::{print, structured};
use crate::server::{Server, value};

pub async fn run(server: &Server, what: Option<LastGoodWhat>, format: Format) -> Result<(), String> {
    let (verb, kept) = match what {
        None => {
            structured(&server.get("/last-good").await?, format);
            return Ok(());
        }
        Some(LastGoodWhat::Restore { kept }) => ("restore", kept),
        Some(LastGoodWhat::Discard { kept }) => ("discard", kept),
    };
    let path = format!("/last-good/{verb}?version={kept}");
    let answer = value(&server.send(Method::POST, &path, String::new()).await?)?;
    if format != Format::Default {
        structured(&answer, format);
        return Ok(());
    }
    let count = |what: &str| answer[what].as_array().map_or(0, Vec::len);
    let (created, replaced, removed) = (count("created"), count("replaced"), count("removed"));
    let now = answer["version"].as_u64().unwrap_or_default();
    print(&match verb {
        "restore" => format!(
            "{created} objects of version {kept} are back, {replaced} as they were in it, and {removed} that it did not have are gone; the \
             cluster is at version {now}. Custom data was not kept: create it again"
        ),
        _ => format!("the cluster's configuration, now version {now}, takes the place of version {kept}"),
    });
    Ok(())
}
