//! Listings of the children of a directory.

use std::collections::HashSet;

use futures_util::future::try_join_all;
use hyper::StatusCode;
use kv_core::Result;

use crate::api::lock::may_be_lock;
use crate::api::path;
use crate::api::state::Scope;
use crate::read;
use crate::shared::Shared;
use crate::transport::client::{Client, NAMES};

/// The most sub-directories that are listed one by one. If there are more, one request lists everything below all of
/// them.
const FEW: usize = 16;

/// Which names a listing contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// The names directly below, and each sub-directory once, with its `/`.
    Children,
    /// All names below.
    Everything,
}

/// Lists the children of `prefix`, which is empty or ends in `/`.
pub(crate) async fn keys(shared: &Shared, prefix: &str) -> Result<Vec<String>> {
    let client = &*shared.client()?;
    let known = path::queryable(prefix);
    let names = if known.len() == prefix.len() {
        names(client, prefix, Depth::Children).await?
    } else {
        // The listing of everything below `known` includes the directory.
        names(client, known, Depth::Everything).await?
    };
    let mut children: Vec<String> = names.iter().filter_map(|name| child(prefix, name)).map(str::to_owned).collect();
    // Consul lists in this order. The code below relies on it, so it is checked here.
    children.sort_unstable();
    children.dedup();
    if children.is_empty() {
        read::check_access(shared, prefix).await?;
    }
    let hidden = only_locks(client, prefix, &children).await?;
    children.retain(|child| !hidden.contains(child));
    Ok(children)
}

async fn names(client: &Client, prefix: &str, depth: Depth) -> Result<Vec<String>> {
    let separator = if depth == Depth::Children { "separator=/" } else { "" };
    let target = client.target(&path::kv(prefix), &["keys", separator, client.consistency()]);
    let answer = client.get(target, NAMES).await?;
    answer.index()?;
    if answer.status == StatusCode::NOT_FOUND { Ok(Vec::new()) } else { answer.json() }
}

/// The child of a directory to which a name belongs. A sub-directory ends in `/`. The directory's own entry is not one
/// of its children.
fn child<'a>(prefix: &str, name: &'a str) -> Option<&'a str> {
    let below = name.strip_prefix(prefix).filter(|below| !below.is_empty())?;
    let end = below.find('/').map_or(name.len(), |slash| prefix.len() + slash + 1);
    Some(&name[..end])
}

/// The children that are, or contain, nothing but entries of locks ([clause L10](kv_core::contract::CLAUSES#L10)).
///
/// A listing of names has no flags, and does not show what is in a sub-directory. So each step decides for some
/// children whether they contain data: by names directly below, by names anywhere below, and at last by flags.
async fn only_locks(client: &Client, prefix: &str, children: &[String]) -> Result<HashSet<String>> {
    let mut doubtful: HashSet<String> =
        children.iter().filter(|child| child.ends_with('/') || may_be_lock(child)).cloned().collect();
    let directories: Vec<_> = doubtful.iter().filter(|child| child.ends_with('/')).cloned().collect();
    let few = directories.iter().filter(|directory| path::is_queryable(directory));
    if directories.len() <= FEW {
        let inside = few.map(async |directory| {
            let names = names(client, directory, Depth::Children).await?;
            // A name that ends in `/` may be a sub-directory, unless it is the directory's own entry.
            let is_data = |name: &String| name == directory || !(name.ends_with('/') || may_be_lock(name));
            Ok::<_, kv_core::Error>(names.iter().any(is_data).then_some(directory))
        });
        for with_data in try_join_all(inside).await?.into_iter().flatten() {
            doubtful.remove(with_data);
        }
    }
    if doubtful.iter().any(|child| child.ends_with('/')) {
        for name in names(client, path::queryable(prefix), Depth::Everything).await? {
            if !may_be_lock(&name)
                && let Some(child) = child(prefix, &name)
            {
                doubtful.remove(child);
            }
        }
    }
    remove_foreign(client, prefix, &mut doubtful).await?;
    Ok(doubtful)
}

/// Removes the children that contain an entry with the name of a lock's entry but without its flags.
async fn remove_foreign(client: &Client, prefix: &str, doubtful: &mut HashSet<String>) -> Result<()> {
    let scopes = if doubtful.len() <= FEW { doubtful.iter().cloned().collect() } else { vec![prefix.to_owned()] };
    for scope in scopes {
        let listing = read::listing(client, Scope::Prefix(&scope)).await?;
        let state = &listing.state;
        for row in (0..state.len()).filter(|row| !state.is_lock(*row)) {
            if let Some(child) = child(prefix, state.key(row)) {
                doubtful.remove(child);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_one_level_below() {
        for (prefix, name, expected) in [
            ("", "a", Some("a")),
            ("", "a/b", Some("a/")),
            ("d/", "d/a/b/c", Some("d/a/")),
            ("d/", "d/.lock", Some("d/.lock")),
            ("d/", "d/", None),
            ("d/", "e/a", None),
        ] {
            assert_eq!(child(prefix, name), expected);
        }
    }
}
