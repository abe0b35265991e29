//! Container images of configs: pinned when a config is written, looked at again when one runs. An operator who takes an image from the list takes
//! it from every config that names it.

use super::yard::Yard;
use crate::{
    error::{Error, Result},
    model::ConfigBody,
    sandbox::{ImageRefused, Rung},
};

impl Yard {
    /// A config on its way in, with the digest of the image that it names: what stands there already, of a version that comes back, stays.
    ///
    /// [`Error::WorkspaceImageUnsupported`] without a container engine, [`Error::ValidationFailed`] for an image that is not to be had here,
    /// [`Error::SandboxUnavailable`] where the engine does not answer.
    pub async fn image_pinned(&self, body: ConfigBody) -> Result<ConfigBody> {
        let workspace_image_digest = match (&body.workspace_image, body.workspace_image_digest) {
            (None, _) => None,
            (Some(name), Some(digest)) if self.sandboxes.image_allowed(name) => Some(digest),
            (Some(name), _) => Some(self.sandboxes.image_pin(name).await.map_err(|refused| refusal(&refused))?),
        };
        Ok(ConfigBody { workspace_image_digest, ..body })
    }

    /// What keeps a config's sandbox apart from the machine.
    pub(super) async fn rung(&self, body: &ConfigBody) -> Rung {
        let probe = if body.workspace_image.is_some() { self.sandboxes.engine_probe().await } else { Some(self.sandboxes.probe().await) };
        probe.map_or(Rung::None, |probe| probe.rung)
    }

    /// What a config's sandbox runs in: the digest that was pinned, while its name is still allowed.
    pub(super) fn image_of(&self, body: &ConfigBody) -> Result<Option<String>> {
        let Some(name) = &body.workspace_image else { return Ok(None) };
        if !self.sandboxes.image_allowed(name) {
            return Err(Error::Conflict { detail: format!("The operator of this server does not allow the image {name} any more.") });
        }
        match &body.workspace_image_digest {
            Some(digest) => Ok(Some(digest.clone())),
            None => Err(Error::Conflict { detail: format!("The image {name} was pinned on another server: write workspace_image again.") }),
        }
    }
}

fn refusal(refused: &ImageRefused) -> Error {
    match refused {
        ImageRefused::NoEngine => Error::WorkspaceImageUnsupported,
        ImageRefused::NotListed { images } => {
            Error::invalid("/workspace_image", format!("This server does not run that image; it runs {}.", images.join(", ")))
        }
        ImageRefused::NotHere(why) => {
            tracing::warn!(why, "an image of sandbox.images is not to be had");
            Error::invalid("/workspace_image", "This server does not have that image yet: try again in a minute, or ask its operator.")
        }
        ImageRefused::Unavailable(why) => {
            tracing::error!(why, "the container engine does not answer");
            Error::SandboxUnavailable { detail: "The container engine of this server does not answer.".to_owned() }
        }
    }
}
