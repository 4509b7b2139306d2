//! The whole of a program that links a backend by one line and names it nowhere else.

use kv_memory as _;

#[tokio::main(flavor = "current_thread")]
async fn main() -> kv_core::Result<()> {
    let kv = kv_core::connect("memory://").await?;
    kv.set("greeting", "hello").await?;
    println!("{} says {:?}", kv.backend_name(), kv.get("greeting").await?.data);
    Ok(())
}
