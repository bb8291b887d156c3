//! `weirctl wasm …`.

use hyper::Method;
use serde_json::Value;

use crate::arguments::{Format, WasmWhat};
use crate::documents::text;
use crate::output::{heads, print, structured, table};
use crate::server::{Server, segment};

pub async fn run(server: &Server, what: WasmWhat, format: Format) -> Result<(), String> {
    match what {
        WasmWhat::ReloadCode => {
            server.send(Method::POST, "/wasm/code", String::new()).await?;
            print("reload wasm code successfully");
        }
        WasmWhat::ListData { pipeline, filter } => {
            let data = server.get(&path(&pipeline, &filter)).await?;
            if format != Format::Default {
                structured(&data, format);
                return Ok(());
            }
            let mut rows = vec![heads(&["KEY", "VALUE"])];
            for (key, value) in data.as_object().into_iter().flatten() {
                rows.push(vec![key.clone(), value.as_str().map_or_else(|| Value::to_string(value), str::to_owned)]);
            }
            print(&table(&rows));
        }
        WasmWhat::ApplyData { pipeline, filter, file } => {
            server.send(Method::PUT, &path(&pipeline, &filter), text(&file)?).await?;
            print(&format!("apply data to {pipeline}/{filter} successfully"));
        }
        WasmWhat::DeleteData { pipeline, filter } => {
            server.send(Method::DELETE, &path(&pipeline, &filter), String::new()).await?;
            print(&format!("delete data of {pipeline}/{filter} successfully"));
        }
    }
    Ok(())
}

fn path(pipeline: &str, filter: &str) -> String {
    format!("/wasm/data/{}/{}", segment(pipeline), segment(filter))
}
