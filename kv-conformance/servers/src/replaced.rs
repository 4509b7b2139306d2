//! Replacing the history of a store: by that of an empty server, or by an older copy.

use std::sync::PoisonError;

use bytes::Bytes;
use futures_util::stream;
use testcontainers::bollard::body_stream;
use testcontainers::bollard::query_parameters::UploadToContainerOptionsBuilder;

use crate::cluster::Cluster;
use crate::consul;
use crate::error::{Doing, Error};
use crate::kind::Kind;

impl Cluster {
    /// Saves a copy of the store for [`replace_history`](Self::replace_history): a snapshot of Consul. etcd needs none.
    ///
    /// # Errors
    ///
    /// If the server does not return a snapshot.
    pub async fn save_history(&self) -> Result<(), Error> {
        if self.kind == Kind::Consul {
            let snapshot = consul::save(&self.http, self.admin.as_ref()).await?;
            *self.saved.lock().unwrap_or_else(PoisonError::into_inner) = Some(snapshot);
        }
        Ok(())
    }

    /// Replaces the store: a single etcd by an empty one at the same address, Consul's data by the copy that was
    /// saved.
    ///
    /// # Errors
    ///
    /// If there are several members of etcd, if there is no copy, or if the server does not serve within a minute.
    pub async fn replace_history(&self) -> Result<(), Error> {
        match self.kind {
            Kind::Etcd if self.members() > 1 => Err(Error::new("only a single etcd is replaced by an empty one")),
            Kind::Etcd => {
                self.kill(0).await?;
                let options = UploadToContainerOptionsBuilder::new().path("/data").build();
                let upload = body_stream(stream::iter([Bytes::from(emptied("member"))]));
                let uploading = self.run.engine.upload_to_container(self.container(0), Some(options), upload);
                uploading.await.doing("cannot empty a member")?;
                self.start_again(0).await
            }
            Kind::Consul => {
                let saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let snapshot = saved.ok_or_else(|| Error::new("no copy of the store was saved"))?;
                consul::restore(&self.http, snapshot, self.admin.as_ref()).await?;
                self.await_all().await
            }
        }
    }
}

/// An archive that turns a directory into an empty one.
///
/// The engine merges a directory of an archive into an existing one, but a file of an archive replaces a directory. So
/// a file replaces the directory first. This needs no program in the container, which may have no shell.
fn emptied(directory: &str) -> Vec<u8> {
    /// Two empty blocks end an archive.
    const END: [u8; 1024] = [0; 1024];
    [&entry(directory, b'0'), &entry(directory, b'5'), END.as_slice()].concat()
}

/// The header of an empty file (`0`) or directory (`5`) in the format of POSIX.
fn entry(name: &str, kind: u8) -> [u8; 512] {
    let mut header = [0; 512];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, b"0000700\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, b"00000000000\0");
    put(136, b"00000000000\0");
    // The checksum counts its own field as spaces.
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}
