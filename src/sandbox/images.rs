//! Container images: which a config may name, and what is kept of the name. The operator lists them; a digest is pinned when a config is made, so
//! that what a name means later changes nothing; and an image comes from a registry only where the operator said so.

use super::{
    Result, SandboxError, SandboxId, Sandboxes,
    native::wire::{Ask, EngineFacts, Told},
};
use crate::config::SandboxBackend;
use std::{
    fmt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How often is looked whether an image has come.
const PULL_LOOK: Duration = Duration::from_millis(250);

/// Why an image cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageRefused {
    /// This server has no container engine, or uses none.
    NoEngine,
    /// The operator does not allow it.
    NotListed {
        /// What is allowed.
        images: Vec<String>,
    },
    /// It is allowed and not on this machine. The text says why.
    NotHere(String),
    /// The engine does not answer as it should. The text is for the operator's log.
    Unavailable(String),
}

impl fmt::Display for ImageRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoEngine => f.write_str("this server has no container engine to run images with: see sandbox.images"),
            Self::NotListed { images } => write!(f, "the image is not one of sandbox.images: {}", images.join(", ")),
            Self::NotHere(why) | Self::Unavailable(why) => f.write_str(why),
        }
    }
}

/// Where an engine's socket usually is: the first that is there.
pub(super) fn socket_of_this_machine() -> PathBuf {
    let user = rustix::process::getuid().as_raw();
    let own = format!("/run/user/{user}/podman/podman.sock");
    let usual = [own.as_str(), "/run/podman/podman.sock", "/var/run/docker.sock"];
    usual.into_iter().map(Path::new).find(|path| path.exists()).unwrap_or(Path::new("/var/run/docker.sock")).to_owned()
}

impl Sandboxes {
    /// Whether the operator lets configs name this image now, whatever was pinned for it once.
    pub fn image_allowed(&self, name: &str) -> bool {
        self.settings().images.iter().any(|image| image == name)
    }

    /// Whether sandboxes with this image, or without one, are the container engine's.
    pub fn contained(&self, image: Option<&str>) -> bool {
        image.is_some() || self.settings().backend == SandboxBackend::Engine
    }

    /// Whether there is a workspace of this name.
    pub fn has_place(&self, id: &SandboxId) -> bool {
        self.place(id).exists()
    }

    /// Whether a workspace lies in a disk image, which no container engine can show to a container.
    pub fn seen_here_alone(&self, id: &SandboxId) -> bool {
        self.place(id).join("image").exists()
    }

    /// The digest of an image, to be kept and put into [`super::SandboxSpec::image`]. To be asked when a config is made, not when it runs.
    pub async fn image_pin(&self, name: &str) -> std::result::Result<String, ImageRefused> {
        let settings = self.settings();
        if settings.images.is_empty() || !self.engine_socket().exists() {
            return Err(ImageRefused::NoEngine);
        }
        if !self.image_allowed(name) {
            return Err(ImageRefused::NotListed { images: settings.images.clone() });
        }
        let until = Instant::now() + self.patience();
        loop {
            match self.image_find(name).await {
                Ok(Some(digest)) => return Ok(digest),
                Ok(None) if Instant::now() < until => tokio::time::sleep(PULL_LOOK).await,
                Ok(None) => return Err(ImageRefused::NotHere(format!("the image {name} is being pulled: try again in a minute"))),
                Err(SandboxError::Denied(why)) => return Err(ImageRefused::NotHere(why)),
                Err(error) => return Err(ImageRefused::Unavailable(error.to_string())),
            }
        }
    }

    async fn image_find(&self, name: &str) -> Result<Option<String>> {
        match self.keeper().ask(Ask::Image { name: name.to_owned(), pull: self.settings().engine_pull }, Vec::new()).await? {
            (Told::Image(digest), _) => Ok(digest),
            _ => Err(SandboxError::Internal("the engine's keeper answered something else".to_owned())),
        }
    }

    /// What a sandbox runs in: its own image, or the server's usual one, or none where it is no container.
    pub(super) async fn image_of(&self, image: Option<&str>) -> Result<Option<String>> {
        match (image, self.settings().backend) {
            (Some(image), _) => Ok(Some(image.to_owned())),
            (None, SandboxBackend::Native) => Ok(None),
            (None, SandboxBackend::Engine) => {
                let usual = self.settings().images.first().ok_or_else(|| {
                    SandboxError::Unavailable("sandbox.backend is \"engine\", and sandbox.images names no image to run".to_owned())
                })?;
                let pin = async || self.image_pin(usual).await.map_err(|refused| SandboxError::Unavailable(refused.to_string()));
                self.usual_image().get_or_try_init(pin).await.cloned().map(Some)
            }
        }
    }

    /// Whether sandboxes with this image, or without one, can be given a way out.
    pub async fn has_doors(&self, image: Option<&str>) -> bool {
        !self.contained(image) || self.engine_facts().await.is_ok_and(|facts| facts.doors)
    }

    /// What the engine is. It is met by this, and what an earlier life of the server left in it is removed.
    pub(super) async fn engine_facts(&self) -> Result<EngineFacts> {
        match self.keeper().ask(Ask::Engine, Vec::new()).await? {
            (Told::Engine(facts), _) => Ok(facts),
            _ => Err(SandboxError::Internal("the engine's keeper answered something else".to_owned())),
        }
    }
}
