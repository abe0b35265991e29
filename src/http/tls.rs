//! TLS: certificate and key from PEM files, read again when they change.

use crate::{
    config::Tls,
    error::{Error, Result},
};
use arc_swap::ArcSwap;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{path::Path, sync::Arc, time::Duration, time::SystemTime};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

/// The certificate in force.
pub(super) struct Certificate {
    files: Tls,
    config: ArcSwap<ServerConfig>,
}

impl Certificate {
    /// Reads the files for the first time.
    pub(super) fn load(files: &Tls) -> Result<Self> {
        Ok(Self { files: files.clone(), config: ArcSwap::from_pointee(read(files)?) })
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.load_full())
    }

    /// Looks for new files for ever. Files that cannot be used are told of and leave the old certificate in force.
    pub(super) async fn follow(&self, every: Duration) {
        let mut known = times(&self.files);
        loop {
            tokio::time::sleep(every).await;
            let now = times(&self.files);
            if now == known {
                continue;
            }
            known = now;
            match read(&self.files) {
                Ok(config) => {
                    self.config.store(Arc::new(config));
                    tracing::info!("the TLS certificate was read again");
                }
                Err(error) => tracing::error!(%error, "the new TLS certificate cannot be used; the old one stays"),
            }
        }
    }
}

fn times(files: &Tls) -> [Option<SystemTime>; 2] {
    let changed = |path: &Path| std::fs::metadata(path).and_then(|it| it.modified()).ok();
    [changed(&files.cert), changed(&files.key)]
}

fn read(files: &Tls) -> Result<ServerConfig> {
    let cannot = |path: &Path, error: &dyn std::fmt::Display| Error::internal(format!("cannot use {} for TLS: {error}", path.display()));
    let chain = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>)
        .map_err(|error| cannot(&files.cert, &error))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| cannot(&files.key, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(Error::internal)?;
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key).map_err(|error| cannot(&files.cert, &error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
